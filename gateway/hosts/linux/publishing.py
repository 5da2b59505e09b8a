"""Ports of zones on the machine's addresses: taken, led to the zone, given back.

    ports.py holds the sockets, rules.py leads packets, proxy.py relays what comes by IPv6 for a zone that has none, or from ::1

Rules and sockets are the worker thread's, proxies the event loop's; each method says whose it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, cast

from dockerapi.errors import CommandFailed
from gateway.hosts.linux import conntrack, nft
from gateway.hosts.linux.rules import Rules, Way
from gateway.hosts.ports import Held, HeldPorts, PortAllocated, PortTaken, cannot_publish, unbound
from gateway.hosts.proxy import TCPProxy, UDPProxy
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneUUID

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a zone's ports lead: its nic with an address of one version of IP or both.

    `routed`: versions in which it is reached at its own address, and no port of the machine is taken.
    `trusted`: interfaces from which its own address is open as well.
    """

    nic: Nic
    four: IPv4Address | None
    six: IPv6Address | None
    routed: frozenset[int] = frozenset()
    trusted: tuple[str, ...] = ()

    @property
    def any(self) -> IPv4Address | IPv6Address:
        """For words."""
        return self.four or self.six or IPv4Address(0)

    def to(self, version: int) -> IPv4Address | IPv6Address | None:
        """Its own address there."""
        return self.four if version == 4 else self.six

    @property
    def versions(self) -> tuple[int, ...]:
        """In which it can be reached by ports of the machine: IPv6 also by the proxy, IPv4 not."""
        found = (4, 6) if self.four else (6,)
        return tuple(v for v in found if v not in self.routed or self.to(v) is None)


_Pair = tuple[Held, Destination]
"""A port, and where it leads."""


class PublishedPorts:
    """Published ports of one instance."""

    def __init__(self, rules: Rules) -> None:
        """`rules` stays the caller's."""
        self._rules = rules
        self._ports = HeldPorts()
        self._held: dict[ZoneUUID, tuple[_Pair, ...]] = {}
        self._proxies: dict[ZoneUUID, list[TCPProxy | UDPProxy]] = {}

    # In the worker thread.

    def ports(self, uuid: ZoneUUID) -> tuple[PublishedPort, ...]:
        """As they were taken."""
        return tuple(one.port for one, _ in self._held.get(uuid, ()))

    def publish(
        self, uuid: ZoneUUID, to: Destination, ports: Sequence[PublishedPort], endpoint: str
    ) -> tuple[PublishedPort, ...]:
        """Take all ports, as they were taken, or none.  APIError in dockerd's words with the name `endpoint`."""
        held: list[_Pair] = []
        try:
            for port in ports:
                held.extend((one, to) for one in self._take(port, to))
            if redirects := tuple(_ways(held)):
                self._rules.add_redirects(redirects)
        except BaseException as error:
            self._free(held)
            if isinstance(error, PortAllocated | PortTaken):
                raise cannot_publish(error, endpoint, uuid, to.nic) from error
            raise
        if held:
            self._held[uuid] = tuple(held)
            _forget_flows(held)
        return tuple(one.port for one, _ in held)

    def _take(self, port: PublishedPort, to: Destination) -> Iterator[Held]:
        asked = (ip_address(port.host_ip).version,) if port.host_ip else (4, 6)
        bound = [version for version in asked if version in to.versions]
        if bound:
            yield from self._ports.take(port, to.any, bound, to.six)
        for version in asked:
            if version in to.routed and to.to(version) is not None:
                yield unbound(port, version)

    def take_over(self, uuid: ZoneUUID, to: Destination, ports: Iterable[PublishedPort]) -> None:
        """Of a zone that lives since before this process, with ports as taken; rules come by `Rules.make`."""
        held: list[_Pair] = []
        for port in ports:
            if not port.host_port:
                held.append((unbound(port, ip_address(port.host_ip).version), to))
                continue
            try:
                one = self._ports.retake(port, to.any)
            except PortAllocated as error:
                log.error("port of zone %s is another zone's as well: %s", uuid, error.message)  # noqa: TRY400
                continue
            if one.socket is None:
                log.warning("port %d of zone %s is bound by another program", port.host_port, uuid)
            held.append((one, to))
        self._held[uuid] = tuple(held)
        self._rules.know_redirects(_ways(held))

    def leads_to(self, uuid: ZoneUUID, to: Destination) -> bool:
        """Whether all of a zone's ports lead there."""
        return all(one == to for _, one in self._held.get(uuid, ()))

    def can_move(self, uuid: ZoneUUID, to: Destination) -> bool:
        """Whether a zone's ports, as they are taken, are what it would have there."""
        taken = {ip_address(one.port.host_ip).version for one, _ in self._held.get(uuid, ())}
        return not to.routed and taken <= set(to.versions)

    def move(self, uuid: ZoneUUID, to: Destination) -> None:
        """A zone's ports lead elsewhere; they stay its own meanwhile.  Then `serve` anew."""
        before = self._held.get(uuid, ())
        after = tuple((one, to) for one, _ in before)
        self._rules.remove_redirects(tuple(_ways(before)))
        self._held[uuid] = after
        if redirects := tuple(_ways(after)):
            self._rules.add_redirects(redirects)
        _forget_flows(after)

    def withdraw(self, uuid: ZoneUUID) -> None:
        """Give back a zone's ports; none is fine."""
        held = self._held.pop(uuid, ())
        try:
            if redirects := tuple(_ways(held)):
                self._rules.remove_redirects(redirects)
        except CommandFailed as error:
            # The port is free all the same.
            log.warning("ports of zone %s could not be unpublished: %s", uuid, error.message)
        finally:
            self._free(held)
        _forget_flows(held)

    def let_go(self) -> None:
        """Close all sockets; rules stay."""
        for held in self._held.values():
            self._free(held)
        self._held.clear()

    def _free(self, held: Iterable[_Pair]) -> None:
        for one, _ in held:
            self._ports.free(one)

    # On the event loop.

    async def serve(self, uuid: ZoneUUID) -> None:
        """Relay in this process what no rule can lead to the zone; after `publish` or `take_over`."""
        for held, to in self._held.get(uuid, ()):
            if held.is_ipv6 and held.socket is not None:
                kind = TCPProxy if held.port.protocol == "tcp" else UDPProxy
                proxy = kind(to.six or to.any, held.port.zone_port)
                self._proxies.setdefault(uuid, []).append(proxy)
                await proxy.start(held.socket)

    def stop_serving(self, uuid: ZoneUUID | None = None) -> None:
        """End the relays of a zone, or of all; before `withdraw`."""
        for one in tuple(self._proxies) if uuid is None else (uuid,):
            for proxy in self._proxies.pop(one, ()):
                proxy.close()


def _forget_flows(held: Iterable[_Pair]) -> None:
    """A UDP flow keeps the way it once took; TCP connections end by themselves."""
    ports = {one.port.host_port for one, _ in held if one.port.protocol == "udp"}
    if ports:
        conntrack.forget_udp(ports)


def _ways(held: Iterable[_Pair]) -> Iterator[Way]:
    for one, destination in held:
        address = ip_address(one.port.host_ip)
        to = destination.to(address.version)
        if to is None:
            continue
        protocol = cast(Literal["tcp", "udp"], one.port.protocol)
        if not one.port.host_port:
            yield nft.Opening(protocol, to, one.port.zone_port)
            continue
        for interface in destination.trusted:
            yield nft.Opening(protocol, to, one.port.zone_port, interface)
        at = None if address.is_unspecified else address
        yield nft.Redirect(protocol, at, one.port.host_port, to, one.port.zone_port)
