"""How zones are reached while they run: rules that let somebody in, and published ports; `connect` to `disconnect`.

this machine is the global zone                    straight to the zone
it has an interface on the zone's network          straight to the zone
else                                               by the SSH connection, tcp only
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network

from gateway.hosts.networks import address_of, of_nic
from gateway.hosts.ports import check
from gateway.hosts.smartos.firewall import (
    Firewall,
    Rule,
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


def needed_rules(instance: str, zone: Zone, ports: Sequence[PublishedPort]) -> tuple[Rule, ...]:
    """Those of its networks, shared by all members, and those of its ports; none if its firewall is off."""
    if not zone.spec.firewall_enabled:
        return ()
    networks = [nic.network_uuid for nic in zone.spec.nics if nic.network_uuid]
    shared = [rule for uuid in networks for rule in network_rules(instance, uuid)]
    return (*shared, *port_rules(instance, zone.uuid, ports))


class Reach:
    """Rules and ports of one instance's zones.  `closed_off`: even the global zone is not on that network."""

    def __init__(
        self,
        gz: GlobalZone,
        instance: str,
        firewall: Firewall,
        published: PublishedPorts,
        closed_off: Callable[[Network], bool],
    ) -> None:
        self._gz = gz
        self._instance = instance
        self._firewall = firewall
        self._published = published
        self._closed_off = closed_off

    async def connect(self, zone: Zone, networks: Sequence[Network]) -> tuple[PublishedPort, ...]:
        """See `SmartOSNetworks.connect`."""
        asked = zone.metadata.runtime.published_ports
        check(asked)
        reached = self._reached(zone, networks) if asked else None
        try:
            taken: tuple[PublishedPort, ...] = ()
            if reached is not None:
                taken = await self._published.publish(
                    zone.uuid, reached[0], asked, reached[1], zone.spec.alias or zone.uuid
                )
            if zone.spec.firewall_enabled:
                await self._join(zone)
                await self._firewall.ensure(needed_rules(self._instance, zone, taken))
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
        ports = self._published.of(uuid)
        self._published.withdraw(uuid)
        await self._firewall.remove(port_rules(self._instance, uuid, ports))

    def ports_of(self, zones: Sequence[Zone]) -> dict[ZoneUUID, tuple[PublishedPort, ...]]:
        """What is served now."""
        return {zone.uuid: self._published.of(zone.uuid) for zone in zones if zone.state in _UP}

    async def adopt(
        self, zones: Sequence[Zone], networks: Sequence[Network], stubs: Sequence[str]
    ) -> dict[ZoneUUID, tuple[PublishedPort, ...]]:
        """Ports of running zones, then rules of everything; `stubs`: network_uuids whose rules are to stay.

        CommandFailed of fwadm, when the ports are served already.
        """
        for zone in zones:
            if zone.state in _UP:
                await self._take_over(zone, networks)
        self._published.settle()
        taken = self.ports_of(zones)
        needed = [
            rule
            for zone in zones
            if zone.uuid in taken
            for rule in needed_rules(self._instance, zone, taken[zone.uuid])
        ]
        # Of a network with stopped zones only, so that they need not come back at each start.
        idle = {nic.network_uuid for zone in zones for nic in zone.spec.nics if nic.network_uuid}
        kept = [rule for uuid in {*idle, *stubs} for rule in network_rules(self._instance, uuid)]
        await self._firewall.retain([*needed, *kept])
        await self._firewall.ensure(needed)
        return taken

    async def _take_over(self, zone: Zone, networks: Sequence[Network]) -> None:
        asked = zone.metadata.runtime.published_ports
        reached = self._reached(zone, networks) if asked else None
        if reached is not None:
            await self._published.take_over(
                zone.uuid, reached[0], asked, reached[1], zone.spec.alias or zone.uuid
            )

    def _reached(self, zone: Zone, networks: Sequence[Network]) -> tuple[Nic, Way] | None:
        """The nic that published ports lead to: the primary one, else the first that can be reached at all."""
        for nic in sorted(zone.spec.nics, key=lambda nic: not nic.primary):
            network, address = of_nic(networks, nic), address_of(nic)
            if network and address and not self._closed_off(network):
                return nic, self._way(address, network)
        return None

    def _way(self, address: IPv4Address, network: Network) -> Way:
        straight = self._gz.is_local or (
            # An etherstub's subnet may by chance be one of this machine's too: that is another network.
            network.name == "bridge" and on_link(address, IPv4Network(network.subnet))
        )
        return Way(address, None if straight else self._gz.connect)

    def close(self) -> None:
        """Let go of sockets; rules stay."""
        self._published.close()


def on_link(address: IPv4Address, subnet: IPv4Network) -> bool:
    """Whether this machine has an interface on a zone's network: it would send from an address of the subnet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))
        except OSError:
            return False
        return IPv4Address(probe.getsockname()[0]) in subnet
