"""Sockets that the API is served on: unix with group and mode, tcp, and descriptors of systemd.

unix:///run/zonegate.sock     mode 0660, group docker (root's, with a warning, where the machine has none)
tcp://127.0.0.1:2375          without TLS only on the loopback; anywhere with it
fd://                         every socket that was passed by socket activation
"""

from __future__ import annotations

import grp
import ipaddress
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from dockerapi.errors import InvalidParameter

log = logging.getLogger(__name__)

DEFAULT_GROUP = "docker"
"""Of unix sockets; where a machine lacks it, root's is taken.  One that was asked for must be there."""
_BACKLOG = 1024
_FIRST_PASSED_FD = 3
_HIGHEST_PORT = 65535


def open_listeners(
    hosts: Sequence[str], *, group: str, with_tls: bool, environment: Mapping[str, str]
) -> list[socket.socket]:
    """Bound, listening, non-blocking sockets, in the order of `hosts`.

    InvalidParameter for an address that cannot be served; what was opened before it is closed again.
    """
    opened: list[socket.socket] = []
    try:
        for host in hosts:
            opened += _open(host, group=group, with_tls=with_tls, environment=environment)
    except BaseException:
        _take_back(hosts, opened)
        raise
    for listener in opened:
        listener.setblocking(False)
    return opened


def _take_back(hosts: Sequence[str], opened: Sequence[socket.socket]) -> None:
    """Close, and remove the files of unix sockets that we bound; those of systemd stay."""
    for listener in opened:
        where = "" if is_tcp(listener) else listener.getsockname()
        listener.close()
        if f"unix://{where}" in hosts:
            Path(where).unlink(missing_ok=True)


def _open(
    host: str, *, group: str, with_tls: bool, environment: Mapping[str, str]
) -> list[socket.socket]:
    scheme, separator, rest = host.partition("://")
    match scheme if separator else "":
        case "unix":
            return [_unix(Path(rest), group)]
        case "tcp":
            return _tcp(rest, with_tls=with_tls)
        case "fd":
            return _passed(environment)
        case _:
            raise InvalidParameter(
                f"invalid bind address ({host}): unix:///path, tcp://address:port or fd://"
            )


def is_tcp(listener: socket.socket) -> bool:
    """Whether TLS and header time-outs apply."""
    return listener.family in (socket.AF_INET, socket.AF_INET6)


def _unix(path: Path, group: str) -> socket.socket:
    if not path.is_absolute():
        raise InvalidParameter(f"invalid bind address: unix://{path} is not an absolute path")
    gid = _group_id(group)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidParameter(f"cannot make {path.parent}: {error.strerror}") from error
    if path.is_socket():
        if _answers(path):
            raise InvalidParameter(f"{path} is in use by another process")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    # Bound under a closed umask: there is no moment at which others could connect.
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        # "AF_UNIX path too long" has no number.
        raise InvalidParameter(f"cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(previous)
    os.chown(path, 0, gid)
    path.chmod(0o660)
    listener.listen(_BACKLOG)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _group_id(group: str) -> int:
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        if group != DEFAULT_GROUP:
            raise InvalidParameter(f"group {group} not found") from error
        log.warning("group %s not found: the socket belongs to group root", group)
        return 0


def _tcp(address: str, *, with_tls: bool) -> list[socket.socket]:
    name, _, port = address.rstrip("/").rpartition(":")
    name = name.strip("[]") or "127.0.0.1"
    if not port.isdecimal() or int(port) > _HIGHEST_PORT:
        raise InvalidParameter(f"invalid bind address: tcp://{address} has no port")
    try:
        found = socket.getaddrinfo(
            name, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise InvalidParameter(f"invalid bind address tcp://{address}: {error}") from error
    listeners: list[socket.socket] = []
    for family, kind, protocol, _, sockaddr in dict.fromkeys(found):
        if not with_tls and not ipaddress.ip_address(sockaddr[0]).is_loopback:
            for listener in listeners:
                listener.close()
            raise InvalidParameter(
                f"tcp://{address} without TLS would give root to everyone who can reach it: "
                "use --tlsverify, or an address of the loopback"
            )
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind(sockaddr)
        except OSError as error:
            listener.close()
            raise InvalidParameter(f"cannot listen on tcp://{address}: {error.strerror}") from error
        listener.listen(_BACKLOG)
        listeners.append(listener)
    return listeners


def _passed(environment: Mapping[str, str]) -> list[socket.socket]:
    text = environment.get("LISTEN_FDS", "")
    count = int(text) if text.isdecimal() else 0
    if environment.get("LISTEN_PID") != str(os.getpid()) or count < 1:
        raise InvalidParameter("no sockets found via socket activation: start zonegate by systemd")
    listeners = []
    for descriptor in range(_FIRST_PASSED_FD, _FIRST_PASSED_FD + count):
        os.set_inheritable(descriptor, False)
        listeners.append(socket.socket(fileno=descriptor))
    return listeners
