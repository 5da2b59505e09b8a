"""Ports of zones on the machine's addresses: taken, led to the zone, given back.

    ports.py holds the sockets, rules.py leads IPv4 packets, proxy.py relays what comes by IPv6

Rules and sockets are the worker thread's, proxies the event loop's; each method says whose it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from typing import Literal, cast

from dockerapi.errors import CommandFailed
from gateway.hosts.linux import conntrack, nft
from gateway.hosts.linux.rules import Rules
from gateway.hosts.ports import Held, HeldPorts, PortAllocated, PortTaken, cannot_publish
from gateway.hosts.proxy import TCPProxy, UDPProxy
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneUUID

log = logging.getLogger(__name__)

_Pair = tuple[Held, IPv4Address]
"""A port, and the zone's address it leads to."""


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
        self, uuid: ZoneUUID, nic: Nic, ports: Sequence[PublishedPort], endpoint: str
    ) -> tuple[PublishedPort, ...]:
        """Take all ports, as they were taken, or none.  APIError in dockerd's words with the name `endpoint`."""
        to = IPv4Address(nic.ip or "")
        held: list[_Pair] = []
        try:
            for port in ports:
                held.extend((one, to) for one in self._ports.take(port, to))
            if redirects := tuple(_redirects(held)):
                self._rules.add_redirects(redirects)
        except BaseException as error:
            self._free(held)
            if isinstance(error, PortAllocated | PortTaken):
                raise cannot_publish(error, endpoint, uuid, nic) from error
            raise
        if held:
            self._held[uuid] = tuple(held)
            _forget_flows(held)
        return tuple(one.port for one, _ in held)

    def take_over(self, uuid: ZoneUUID, nic: Nic, ports: Iterable[PublishedPort]) -> None:
        """Of a zone that lives since before this process, with ports as taken; rules come by `Rules.make`."""
        to = IPv4Address(nic.ip or "")
        held: list[_Pair] = []
        for port in ports:
            try:
                one = self._ports.retake(port, to)
            except PortAllocated as error:
                log.error("port of zone %s is another zone's as well: %s", uuid, error.message)  # noqa: TRY400
                continue
            if one.socket is None:
                log.warning("port %d of zone %s is bound by another program", port.host_port, uuid)
            held.append((one, to))
        self._held[uuid] = tuple(held)
        self._rules.know_redirects(_redirects(held))

    def leads_to(self, uuid: ZoneUUID, nic: Nic) -> bool:
        """Whether all of a zone's ports lead to this nic."""
        return all(str(to) == nic.ip for _, to in self._held.get(uuid, ()))

    def move(self, uuid: ZoneUUID, nic: Nic) -> None:
        """A zone's ports lead to another of its nics; they stay its own meanwhile.  Then `serve` anew."""
        before = self._held.get(uuid, ())
        after = tuple((one, IPv4Address(nic.ip or "")) for one, _ in before)
        self._rules.remove_redirects(tuple(_redirects(before)))
        self._held[uuid] = after
        if redirects := tuple(_redirects(after)):
            self._rules.add_redirects(redirects)
        _forget_flows(after)

    def withdraw(self, uuid: ZoneUUID) -> None:
        """Give back a zone's ports; none is fine."""
        held = self._held.pop(uuid, ())
        try:
            if redirects := tuple(_redirects(held)):
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
                proxy = kind(to, held.port.zone_port)
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


def _redirects(held: Iterable[_Pair]) -> Iterator[nft.Redirect]:
    for one, to in held:
        if not one.is_ipv6:
            address = IPv4Address(one.port.host_ip)
            yield nft.Redirect(
                protocol=cast(Literal["tcp", "udp"], one.port.protocol),
                address=None if address.is_unspecified else address,
                port=one.port.host_port,
                to=to,
                to_port=one.port.zone_port,
            )
