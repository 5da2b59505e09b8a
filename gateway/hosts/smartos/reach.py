"""How zones are reached while they run: rules that let somebody in, and published ports; `connect` to `disconnect`.

this machine is the global zone                    straight to the zone
it has an interface on the zone's network          straight to the zone
else                                               by the SSH connection, tcp only

A port that is published at one address lets in nobody but this relay: the address that this machine sends from
where it goes straight, else those of the global zone, where the SSH connection comes out.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from dockerapi.errors import APIError, CommandFailed
from gateway.hosts.networks import address_of, of_nic
from gateway.hosts.ports import check
from gateway.hosts.smartos.firewall import (
    Firewall,
    Rule,
    is_everywhere,
    network_rules,
    network_tags,
    port_rules,
)
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.published import PublishedPorts, Way
from gateway.zones.host import Network, Zone
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneState, ZoneUUID

log = logging.getLogger(__name__)

_VMADM_TIMEOUT_S = 120.0
_UP = (ZoneState.RUNNING, ZoneState.PAUSED, ZoneState.RESTARTING)


@dataclass(frozen=True, slots=True)
class _Reached:
    """Where published ports lead to: the nic, the subnet that it is on, and how this process gets there."""

    nic: Nic
    subnet: IPv4Network
    way: Way


def needed_rules(
    instance: str,
    zone: Zone,
    ports: Sequence[PublishedPort],
    relays: Iterable[IPv4Address] = (),
) -> tuple[Rule, ...]:
    """Those of its networks, shared by all members, and those of its ports; none if its firewall is off."""
    if not zone.spec.firewall_enabled:
        return ()
    networks = [nic.network_uuid for nic in zone.spec.nics if nic.network_uuid]
    shared = [rule for uuid in networks for rule in network_rules(instance, uuid)]
    return (*shared, *port_rules(instance, zone.uuid, ports, relays))


class Reach:
    """Rules and ports of one instance's zones.

    `closed_off`: even the global zone is not on that network.  `own`: the global zone's addresses as they are now.
    """

    def __init__(
        self,
        gz: GlobalZone,
        instance: str,
        firewall: Firewall,
        published: PublishedPorts,
        closed_off: Callable[[Network], bool],
        own: Callable[[], Awaitable[Sequence[IPv4Interface]]],
    ) -> None:
        self._gz = gz
        self._instance = instance
        self._firewall = firewall
        self._published = published
        self._closed_off = closed_off
        self._own = own

    async def connect(self, zone: Zone, networks: Sequence[Network]) -> tuple[PublishedPort, ...]:
        """See `SmartOSNetworks.connect`."""
        asked = zone.metadata.runtime.published_ports
        check(asked)
        reached = self._reached(zone, networks) if asked else None
        try:
            taken: tuple[PublishedPort, ...] = ()
            if reached is not None:
                taken = await self._published.publish(
                    zone.uuid, reached.nic, asked, reached.way, zone.spec.alias or zone.uuid
                )
            if zone.spec.firewall_enabled:
                await self._join(zone)
                relays = await self._relays(reached, taken)
                await self._firewall.ensure(needed_rules(self._instance, zone, taken, relays))
        except BaseException:
            await self.disconnect(zone.uuid)
            raise
        return taken

    async def _join(self, zone: Zone) -> None:
        """It carries the tags that its networks' rules go by."""
        wanted = network_tags(zone.spec.nics)
        missing = {key: value for key, value in wanted.items() if key not in zone.spec.tags}
        if missing:
            await self._gz.run(
                ["vmadm", "update", zone.uuid],
                timeout_s=_VMADM_TIMEOUT_S,
                stdin=json.dumps({"set_tags": missing}).encode(),
            )

    async def disconnect(self, uuid: ZoneUUID) -> None:
        """See `SmartOSNetworks.disconnect`."""
        self._published.withdraw(uuid)
        await self._firewall.remove_of(uuid)

    def ports_of(self, zones: Sequence[Zone]) -> dict[ZoneUUID, tuple[PublishedPort, ...]]:
        """What is served now."""
        return {zone.uuid: self._published.of(zone.uuid) for zone in zones if zone.state in _UP}

    async def adopt(
        self, zones: Sequence[Zone], networks: Sequence[Network], stubs: Sequence[str]
    ) -> dict[ZoneUUID, tuple[PublishedPort, ...]]:
        """Ports of running zones, then rules of everything; `stubs`: network_uuids whose rules are to stay.

        CommandFailed of fwadm or ipadm, when the ports are served already.
        """
        for zone in zones:
            if zone.state in _UP:
                await self._take_over(zone, networks)
        self._published.settle()
        taken = self.ports_of(zones)
        needed: list[Rule] = []
        for zone in zones:
            if zone.uuid in taken:
                needed += await self._needed(zone, networks, taken[zone.uuid])
        # Of a network with stopped zones only, so that they need not come back at each start.
        idle = {nic.network_uuid for zone in zones for nic in zone.spec.nics if nic.network_uuid}
        kept = [rule for uuid in {*idle, *stubs} for rule in network_rules(self._instance, uuid)]
        await self._firewall.retain([*needed, *kept])
        await self._firewall.ensure(needed)
        return taken

    async def _needed(
        self, zone: Zone, networks: Sequence[Network], ports: Sequence[PublishedPort]
    ) -> tuple[Rule, ...]:
        """Of a zone that runs; what is impossible is logged."""
        relays: Sequence[IPv4Address] = ()
        if zone.spec.firewall_enabled:
            try:
                relays = await self._relays(self._reached(zone, networks), ports)
            except CommandFailed:
                raise
            except APIError as error:
                log.error("ports of running zone %s: %s", zone.uuid, error.message)  # noqa: TRY400
        return needed_rules(self._instance, zone, ports, relays)

    async def _take_over(self, zone: Zone, networks: Sequence[Network]) -> None:
        asked = zone.metadata.runtime.published_ports
        reached = self._reached(zone, networks) if asked else None
        if reached is not None:
            await self._published.take_over(
                zone.uuid, reached.nic, asked, reached.way, zone.spec.alias or zone.uuid
            )

    async def _relays(
        self, reached: _Reached | None, ports: Sequence[PublishedPort]
    ) -> tuple[IPv4Address, ...]:
        """Where connections to ports published at one address come from; nothing is asked where there are none.

        CommandFailed; APIError where no address is known: nobody could be let in.
        """
        if reached is None or all(is_everywhere(port) for port in ports):
            return ()
        source = None if reached.way.connect else source_to(reached.way.to)
        own = [] if self._is_elsewhere(reached) else await self._own()
        found = relays(reached.subnet, source, own)
        if not found:
            raise APIError(
                f"published ports cannot be relayed to {reached.way.to}: the global zone has no IPv4 address"
            )
        return found

    def _is_elsewhere(self, reached: _Reached) -> bool:
        """Not even the connection's end is in the global zone."""
        return reached.way.connect is None and not self._gz.is_local

    def _reached(self, zone: Zone, networks: Sequence[Network]) -> _Reached | None:
        """The nic that published ports lead to: the primary one, else the first that can be reached at all."""
        for nic in sorted(zone.spec.nics, key=lambda nic: not nic.primary):
            network, address = of_nic(networks, nic), address_of(nic)
            if network and address and not self._closed_off(network):
                # A default network without a subnet: the admin took it out of the settings.
                subnet = IPv4Network(network.subnet or address)
                return _Reached(nic, subnet, self._way(address, network.name, subnet))
        return None

    def _way(self, address: IPv4Address, name: str, subnet: IPv4Network) -> Way:
        straight = self._gz.is_local or (
            # An etherstub's subnet may by chance be one of this machine's too: that is another network.
            name == "bridge" and on_link(address, subnet)
        )
        return Way(address, None if straight else self._gz.connect)

    def close(self) -> None:
        """Let go of sockets; rules stay."""
        self._published.close()


def relays(
    subnet: IPv4Network, source: IPv4Address | None, own: Iterable[IPv4Interface]
) -> tuple[IPv4Address, ...]:
    """Who is let in for the gateway's proxy: `source`, what this machine sends from, and of the global zone's `own`
    addresses those on the zone's subnet.  A global zone that is elsewhere comes by a router: from any of its own.
    """
    every = {one.ip for one in own if not one.ip.is_loopback}
    near = {address for address in every if address in subnet}
    if source is not None:
        near.add(source)
    return tuple(sorted(near or every))


def on_link(address: IPv4Address, subnet: IPv4Network) -> bool:
    """Whether this machine has an interface on a zone's network: it would send from an address of the subnet."""
    source = source_to(address)
    return source is not None and source in subnet


def source_to(address: IPv4Address) -> IPv4Address | None:
    """What this machine would send from; None without a way there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))
        except OSError:
            return None
        return IPv4Address(probe.getsockname()[0])
