"""Names of zones on user networks: a name server in the global zone where one can be, else lines in /etc/hosts.

    network with an address of this machine's   its gateway, port 53: `resolvers` of every zone there
    else (over SSH; networks closed off)        docker:linkHosts of its zones, which vmadm writes into /etc/hosts

What the client named as resolvers is kept beside (`RESOLVERS_KEY`): the name server asks them, and inspect shows them.
Lines are right when a zone starts; its neighbours' follow within moments of a change.  Legacy links (`--link` on the
default network) are lines and variables too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from dockerapi.errors import APIError
from gateway.hosts.names import Entry, NameBook, entry_of, is_named
from gateway.hosts.networks import of_nic
from gateway.hosts.smartos import vmadm
from gateway.hosts.smartos.addresses import static
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.vmadm import ENV_KEY, HOSTS_KEY, RESOLVERS_KEY
from gateway.zones import links, members
from gateway.zones.host import Network, Zone
from gateway.zones.members import ipv6
from gateway.zones.spec import Nic, ZoneSpec, ZoneUUID

if TYPE_CHECKING:
    from gateway.hosts.dns import NameServer, Served

log = logging.getLogger(__name__)

_DOMAIN = "local"
"""What vmadm makes of no domain, and puts into `search`."""
_PORT = 53
_BACKLOG = 32


class Naming:
    """Of one instance's zones.  `networks` and `zones` are asked when needed; `group` outlives this.

    `address_of` gives this machine's address on a network, "" where it has none.
    """

    def __init__(
        self,
        gz: GlobalZone,
        group: asyncio.TaskGroup,
        *,
        networks: Callable[[], Sequence[Network]],
        zones: Callable[[], Iterable[Zone]],
        address_of: Callable[[Network], str],
    ) -> None:
        self._gz = gz
        self._group = group
        self._networks = networks
        self._zones = zones
        self._address_of = address_of
        self._book = NameBook()
        self._server: NameServer | None = None
        self._served: dict[str, Served] = {}
        """By network id."""
        self._written: dict[ZoneUUID, dict[str, str]] = {}
        """What a zone's metadata is known to say of its neighbours."""
        self._stale: set[ZoneUUID] = set()
        self._writing: asyncio.Task[None] | None = None

    # -- name servers ------------------------------------------------------------------------------

    def serve(self) -> None:
        """Name servers answer on the networks that there are, and on no others.

        Where one cannot be the log says so, and zones have lines instead.
        """
        self._serve({one.id: one for one in self._networks() if self._address_of(one)})

    def _serve(self, wanted: Mapping[str, Network]) -> None:
        for network_id in self._served.keys() - wanted.keys():
            self._served.pop(network_id).close()
        for network_id in wanted.keys() - self._served.keys():
            self._open(wanted[network_id])

    def _open(self, network: Network) -> None:
        address = self._address_of(network)
        try:
            udp, tcp = _sockets(address)
        except OSError as error:
            log.warning("no name server at %s of %s: %s", address, network.name, error.strerror)
            return
        if self._server is None:
            # Not before somebody needs it: dnspython takes some MB.
            from gateway.hosts.dns import NameServer  # noqa: PLC0415
            from gateway.hosts.upstream import Upstream  # noqa: PLC0415

            self._server = NameServer(self._book, Upstream(), self._group)

        def asker(client: str) -> ZoneUUID | None:
            return self._book.owner(network.id, ip_address(client))

        self._served[network.id] = self._server.serve(udp, tcp, asker)

    def close(self) -> None:
        """Nobody is answered any more."""
        self._serve({})
        if self._writing is not None:
            self._writing.cancel()

    # -- what a zone's payload says ------------------------------------------------------------------

    def resolvers(self, nics: Iterable[Nic]) -> tuple[str, ...]:
        """The name server of a zone with these nics, () where none answers there.  One: it knows all its networks."""
        for nic in nics:
            network = of_nic(self._networks(), nic)
            if network is not None and network.id in self._served:
                return (self._address_of(network),)
        return ()

    def dressed(self, spec: ZoneSpec) -> ZoneSpec:
        """As vmadm is to have it: with our name server for the client's."""
        ours = self.resolvers(spec.nics)
        if not ours:
            return spec
        kept = json.dumps(list(spec.resolvers or ()))
        metadata = {**spec.internal_metadata, RESOLVERS_KEY: kept}
        return spec.model_copy(update={"resolvers": ours, "internal_metadata": metadata})

    # -- changes -------------------------------------------------------------------------------------

    def tell(self, zone: Zone) -> None:
        """A zone has changed: its neighbours may call it otherwise."""
        before = self._book.entry(zone.uuid)
        entry = entry_of(zone, self._networks()) if zone.spec.nics else None
        if entry is not None:
            # What the zone searches in is put behind every name.
            entry = replace(entry, domain=zone.spec.dns_domain or _DOMAIN)
            self._book.put(zone.uuid, entry)
        else:
            self._book.drop(zone.uuid)
        if entry != before:
            self._mark({*_networks_of(before), *_networks_of(entry)}, but=zone.uuid)

    def forget(self, uuid: ZoneUUID) -> None:
        """The zone is gone."""
        before = self._book.entry(uuid)
        self._book.drop(uuid)
        self._written.pop(uuid, None)
        self._mark(set(_networks_of(before)), but=uuid)

    def _mark(self, networks: set[str], but: ZoneUUID) -> None:
        """Zones there that have lines get new ones."""
        for zone in self._zones():
            if zone.uuid != but and zone.is_running and self._has_lines(zone):
                entry = self._book.entry(zone.uuid)
                if networks & set(_networks_of(entry)):
                    self._stale.add(zone.uuid)
        if self._stale and self._writing is None:
            self._writing = self._group.create_task(self._write())

    def _has_lines(self, zone: Zone) -> bool:
        """Whether its names are in /etc/hosts: it is on user networks, and no name server answers on any."""
        if self.resolvers(zone.spec.nics):
            return False
        joined = (of_nic(self._networks(), nic) for nic in zone.spec.nics)
        return any(network is not None and is_named(network) for network in joined)

    async def _write(self) -> None:
        try:
            while self._stale:
                zones = {zone.uuid: zone for zone in self._zones()}
                zone = zones.get(self._stale.pop())
                if zone is not None and zone.is_running:
                    await self._settle(zone)
        finally:
            self._writing = None

    async def _settle(self, zone: Zone) -> None:
        try:
            await self.prepare(zone)
        except (APIError, OSError) as error:
            log.warning("zone %s: names of its neighbours: %s", zone.uuid, error)
        except Exception:
            log.exception("zone %s: names of its neighbours", zone.uuid)

    async def prepare(self, zone: Zone, *, starting: bool = False) -> None:
        """Its lines and variables are right, for the start that follows, or while it runs.

        APIError, in dockerd's words, if it is to start and one that it links to does not run.
        """
        found = links.linked(zone, self._by_id) if zone.metadata.runtime.links else ()
        if starting and (why := links.refusal(zone, found)):
            raise APIError(why)
        wanted = _wanted(links.hosts(zone, found), links.environment(zone, found))
        lines = self._lines(zone) if self._has_lines(zone) else _own_lines(zone)
        wanted[HOSTS_KEY] = wanted.get(HOSTS_KEY, "") + lines
        wanted = {key: text for key, text in wanted.items() if text}
        known = self._written.get(zone.uuid)
        if known is None and not wanted and not found and not self._has_lines(zone):
            return
        if wanted == known:
            return
        missing = [key for key in (HOSTS_KEY, ENV_KEY) if key not in wanted]
        changes: dict[str, Any] = {"set_internal_metadata": wanted} if wanted else {}
        if missing:
            changes["remove_internal_metadata"] = missing
        await vmadm.update(self._gz, zone.uuid, changes)
        self._written[zone.uuid] = wanted

    def _by_id(self, docker_id: str) -> Zone | None:
        return next((zone for zone in self._zones() if zone.metadata.id == docker_id), None)

    def _lines(self, zone: Zone) -> str:
        """Of itself and all others that run on its networks: address, then every name."""
        rows: dict[str, None] = {}
        for nic in zone.spec.nics:
            network = of_nic(self._networks(), nic)
            if network is None or not is_named(network):
                continue
            endpoint = members.endpoint_on(zone, network)
            own = members.dns_names(zone, endpoint.aliases)
            for address in static(nic):
                # vmadm has a line for the hostname, of IPv4.
                names = own if address.version == 6 else [n for n in own if n != zone.spec.hostname]
                rows[f"{address.ip}\t{' '.join(names)}\n"] = None
            aliases = endpoint.links
            for member in members.members(network, self._zones()):
                if member.zone.uuid != zone.uuid:
                    names = (*member.names, *_called(aliases, member.names))
                    for address in member.addresses:
                        rows[f"{address.ip}\t{' '.join(dict.fromkeys(names))}\n"] = None
        return "".join(rows)


def _networks_of(entry: Entry | None) -> set[str]:
    return {place.network for place in entry.places} if entry else set()


def _wanted(lines: Iterable[str], variables: Iterable[str]) -> dict[str, str]:
    """By key of internal_metadata."""
    env = list(variables)
    hosts = "".join(f"{line}\n" for line in lines)
    return {HOSTS_KEY: hosts, **({ENV_KEY: json.dumps(env)} if env else {})}


def _own_lines(zone: Zone) -> str:
    """Of its IPv6 addresses: vmadm writes those of IPv4 alone."""
    name = zone.spec.hostname or zone.uuid
    found = (ipv6(nic) for nic in zone.spec.nics)
    return "".join(f"{address.ip}\t{name}\n" for address in found if address)


def _called(asked: Iterable[str], names: Iterable[str]) -> Iterator[str]:
    """What links `CONTAINER:ALIAS` call somebody with these names."""
    for text in asked:
        name, _, alias = text.partition(":")
        if name in names:
            yield alias or name


def _sockets(address: str) -> tuple[socket.socket, socket.socket]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for sock in (udp, tcp):
            sock.setblocking(False)
            sock.bind((address, _PORT))
        tcp.listen(_BACKLOG)
    except BaseException:
        udp.close()
        tcp.close()
        raise
    return udp, tcp
