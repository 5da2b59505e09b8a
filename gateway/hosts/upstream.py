"""Name servers of the world, asked for what ours does not know: those of /etc/resolv.conf, or a container's --dns.

One server after the other, some seconds each, as dockerd does.  Messages pass as they are; what comes back is
looked at only as far as it takes to know that it answers this question.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

_TIMEOUT_S = 4.0
_MAX_SERVERS = 3
_MAX_PENDING = 1024
_PORT = 53
_HEAD = 12
_SERVFAIL, _REFUSED = 2, 5


class Upstream:
    """`resolv_conf` is read again when it changes; `port` is 53 but for tests."""

    def __init__(self, resolv_conf: Path = Path("/etc/resolv.conf"), *, port: int = _PORT) -> None:
        self._path = resolv_conf
        self._port = port
        self._read_ns = -1
        self._servers: tuple[str, ...] = ()
        self._pending = 0

    def servers(self) -> tuple[str, ...]:
        """Of the machine, loopback ones as well: this process is where they answer."""
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns != self._read_ns:
                self._servers = parse(self._path.read_text(errors="replace"))
                self._read_ns = changed_ns
        except OSError:
            self._servers = ()
        return self._servers

    async def ask(self, wire: bytes, resolvers: Sequence[str] = (), *, tcp: bool) -> bytes | None:
        """The first answer that is one; None if nobody gives one, or too many wait for theirs already."""
        if self._pending >= _MAX_PENDING:
            return None
        self._pending += 1
        last: bytes | None = None
        try:
            for server in (tuple(resolvers) or self.servers())[:_MAX_SERVERS]:
                found = await self._try(wire, server, tcp=tcp)
                if found is None:
                    continue
                last = found
                if found[3] & 0xF not in (_SERVFAIL, _REFUSED):
                    break
        finally:
            self._pending -= 1
        return last

    async def _try(self, wire: bytes, server: str, *, tcp: bool) -> bytes | None:
        act = _by_tcp if tcp else _by_udp
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await act(wire, server, self._port)
        except (OSError, EOFError, TimeoutError) as error:
            log.debug("name server %s: %s", server, str(error) or "no answer")
            return None


def parse(text: str) -> tuple[str, ...]:
    """Addresses of the `nameserver` lines."""
    rows = [line.split() for line in text.splitlines()]
    found: list[str] = []
    for row in rows:
        if len(row) > 1 and row[0] == "nameserver":
            with suppress(ValueError):
                ipaddress.ip_address(row[1])
                found.append(row[1])
    return tuple(found)


def _family(server: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in server else socket.AF_INET


def answers(wire: bytes, query: bytes) -> bool:
    """Whether `wire` is a response to this query: its id, and the same question."""
    if len(wire) < _HEAD or wire[:2] != query[:2] or not wire[2] & 0x80:
        return False
    if wire[4:6] == b"\0\0":  # an error may come without the question
        return wire[3] & 0xF != 0
    end = _question_end(query)
    return wire[_HEAD:end].lower() == query[_HEAD:end].lower()


def _question_end(query: bytes) -> int:
    at = _HEAD
    while at < len(query) and query[at]:
        at += query[at] + 1
    return at + 5


async def _by_udp(wire: bytes, server: str, port: int) -> bytes:
    """From a port of its own for each query, so that nobody can guess where an answer is waited for."""
    loop = asyncio.get_running_loop()
    with socket.socket(_family(server), socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((server, port))
        await loop.sock_sendall(sock, wire)
        while True:
            found = await loop.sock_recv(sock, 65535)
            if answers(found, wire):
                return found


async def _by_tcp(wire: bytes, server: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(server, port)
    try:
        writer.write(len(wire).to_bytes(2) + wire)
        length = int.from_bytes(await reader.readexactly(2))
        found = await reader.readexactly(length)
    finally:
        writer.close()
    if not answers(found, wire):
        raise EOFError("another answer than to the question")
    return found
