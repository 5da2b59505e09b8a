"""Which ports of the machine are published, and the sockets that keep others from taking them.

Linux's DNAT takes a port's packets before any socket sees them, but reserves nothing: without a held socket
another program could bind a published port and never hear anything.  The rules themselves are nft.py's,
what serves a socket that no rule answers for is proxy.py's.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from dockerapi.errors import APIError, InvalidParameter, NotSupported
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneUUID

_ANY = "0.0.0.0"  # noqa: S104 - docker publishes on all addresses unless told otherwise
_ANY6 = "::"
_BACKLOG = 128
Address = IPv4Address | IPv6Address
# Of a system that does not tell: tcp_smallest_anon_port of illumos, and what it has above.
_ANONYMOUS = range(32768, 65536)
# No IPv6 in this kernel, or not on this machine.
_NO_FAMILY = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


@dataclass(frozen=True, slots=True)
class Held:
    """A port that is ours: `port` as taken, and the socket that says so to the machine (None after a clash at adoption)."""

    port: PublishedPort
    socket: socket.socket | None

    @property
    def is_ipv6(self) -> bool:
        """An address of the machine in IPv6."""
        return ":" in self.port.host_ip


class PortAllocated(APIError):
    """One of our own zones has the port, at this address."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(f"Bind for {address}:{port} failed: port is already allocated")


class AllAllocated(PortAllocated):
    """Our own zones have all ports of a range."""

    def __init__(self) -> None:
        APIError.__init__(self, "all ports are allocated")


class PortTaken(APIError):
    """Another program has the port, or the address is none of the machine's."""

    def __init__(
        self, port: PublishedPort, to: Address, error: OSError, asked: PublishedPort | None = None
    ) -> None:
        """`port` that was tried; `asked` may be a range."""
        reason = os.strerror(error.errno or 0).lower()
        which, number = "", str(port.host_port)
        if asked is not None and asked.host_port_end > asked.host_port:
            which, number = f" {number}", f"{asked.host_port}-{asked.host_port_end}"
        super().__init__(
            f"failed to bind host port{which} for {_display(port.host_ip)}:{number}"
            f":{_display(str(to))}:{port.zone_port}/{port.protocol}: {reason}"
        )


def _display(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def check(ports: Sequence[PublishedPort]) -> None:
    """NotSupported or InvalidParameter for what cannot be published here."""
    for port in ports:
        if port.protocol == "sctp":
            raise NotSupported("publishing sctp ports is not supported by zonegate: use tcp or udp")
        if not port.host_ip:
            continue
        try:
            ip_address(port.host_ip)
        except ValueError as error:
            raise InvalidParameter(f"invalid host IP address: {port.host_ip}") from error


def ephemeral_range() -> range:
    """Ports that the kernel would choose itself: no service is configured there."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except FileNotFoundError:
        return _ANONYMOUS
    return range(int(first), int(last) + 1)


def cannot_publish(error: APIError, endpoint: str, uuid: ZoneUUID, nic: Nic) -> APIError:
    """What dockerd says at start when a port cannot be had; `endpoint` is the container's name."""
    digest = hashlib.sha256(f"{uuid}/{nic.interface}".encode()).hexdigest()
    return APIError(
        f"driver failed programming external connectivity on endpoint {endpoint}"
        f" ({digest}): {error.message}"
    )


class HeldPorts:
    """All published ports of an instance.  For one thread at a time."""

    def __init__(self) -> None:
        self._addresses: dict[tuple[str, int], set[str]] = {}
        self._ephemeral = 0

    def take(
        self,
        request: PublishedPort,
        to: Address,
        versions: Sequence[int] = (4, 6),
        to6: Address | None = None,
    ) -> tuple[Held, ...]:
        """Take one port: the one asked for, the first free of a range, or any.

        Without an address it is the same number in these versions of IP, in IPv6 if the machine has it: two are held.
        `to` is the zone's address, for words, `to6` the one that IPv6 leads to, if another.  PortAllocated if one of ours has it, PortTaken if another program has.
        """
        last: APIError | None = None
        for number in self._candidates(request):
            try:
                return self._take_number(request, number, to, versions, to6 or to)
            except (PortAllocated, PortTaken) as error:
                last = error
                if (
                    isinstance(error.__cause__, OSError)
                    and error.__cause__.errno != errno.EADDRINUSE
                ):
                    raise
        if isinstance(last, PortAllocated) and request.host_port_end > request.host_port:
            raise AllAllocated
        raise last or PortAllocated(request.host_ip or _ANY, request.host_port)

    def _take_number(
        self,
        request: PublishedPort,
        number: int,
        to: Address,
        versions: Sequence[int],
        to6: Address,
    ) -> tuple[Held, ...]:
        if request.host_ip or len(versions) == 1:
            address = request.host_ip or (_ANY if 4 in versions else _ANY6)
            return (self._hold(request, address, number, to6 if ":" in address else to),)
        first = self._hold(request, _ANY, number, to)
        try:
            return (first, self._hold(request, _ANY6, number, to6))
        except PortTaken as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_FAMILY:
                return (first,)
            self.free(first)
            raise
        except BaseException:
            self.free(first)
            raise

    def _candidates(self, request: PublishedPort) -> Iterator[int]:
        if request.host_port:
            yield from range(request.host_port, max(request.host_port, request.host_port_end) + 1)
            return
        choices = ephemeral_range()
        for _ in choices:
            self._ephemeral += 1
            yield choices[(self._ephemeral - 1) % len(choices)]

    def _hold(self, request: PublishedPort, address: str, number: int, to: Address) -> Held:
        port = _at(request, address, number)
        if (holder := self._holder(port)) is not None:
            raise PortAllocated(holder, number)
        try:
            held = _bind(port)
        except OSError as error:
            raise PortTaken(port, to, error, request) from error
        self._addresses.setdefault((port.protocol, port.host_port), set()).add(port.host_ip)
        return Held(port, held)

    def _holder(self, port: PublishedPort) -> str | None:
        """At which address one of ours has it already."""
        every = _ANY6 if ":" in port.host_ip else _ANY
        for address in self._addresses.get((port.protocol, port.host_port), ()):
            if (":" in address) != (":" in port.host_ip):
                continue
            if port.host_ip == every or address in (port.host_ip, every):
                return address
        return None

    def retake(self, port: PublishedPort, to: Address) -> Held:
        """After a restart: the zone has it, whatever another program did meanwhile (then without a socket)."""
        port = _at(port, port.host_ip or _ANY, port.host_port)
        try:
            return self._hold(port, port.host_ip, port.host_port, to)
        except PortTaken:
            self._addresses.setdefault((port.protocol, port.host_port), set()).add(port.host_ip)
            return Held(port, None)

    def free(self, held: Held) -> None:
        """Give it back."""
        if held.socket is not None:
            held.socket.close()
        key = (held.port.protocol, held.port.host_port)
        addresses = self._addresses.get(key, set())
        addresses.discard(held.port.host_ip)
        if not addresses:
            self._addresses.pop(key, None)


def unbound(request: PublishedPort, version: int) -> Held:
    """It is reached at the zone's own address: no port of the machine is taken."""
    return Held(_at(request, _ANY if version == 4 else _ANY6, 0), None)


def _at(request: PublishedPort, address: str, number: int) -> PublishedPort:
    return request.model_copy(update={"host_ip": address, "host_port": number, "host_port_end": 0})


def _bind(port: PublishedPort) -> socket.socket:
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    held = socket.socket(socket.AF_INET6 if ":" in port.host_ip else socket.AF_INET, kind)
    try:
        if held.family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            # Else a port whose last connection ended less than a minute ago counts as taken.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((port.host_ip, port.host_port))
        if kind == socket.SOCK_STREAM:
            # Bound alone it would not keep away a program that sets SO_REUSEADDR as well.
            held.listen(_BACKLOG)
    except BaseException:
        held.close()
        raise
    return held
