"""Zones on their networks while they run: nics plugged in, ports led to them; joined, left, found again.

What there is of networks is `Layout`; one nic is plugs.py's, ports are publishing.py's, the namespaces' names netns.py's.
All of it in the one worker thread of network.py.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from dockerapi.errors import APIError, Forbidden, NotFound
from gateway.hosts.ipam import LeaseBook
from gateway.hosts.linux import netlink
from gateway.hosts.linux.netns import NamespaceFolder, NamespacePool
from gateway.hosts.linux.plugs import Plug, Plugs, routes
from gateway.hosts.linux.publishing import Destination, PublishedPorts
from gateway.hosts.linux.rules import Rules
from gateway.hosts.linux.usernetworks import Way
from gateway.hosts.networks import of_nic, uuid_of
from gateway.hosts.ports import check
from gateway.zones.host import Network
from gateway.zones.members import ipv4, ipv6
from gateway.zones.metadata import Endpoint, PublishedPort
from gateway.zones.spec import Nic, ZoneUUID

log = logging.getLogger(__name__)

_POOL_SIZE = 3


@dataclass(frozen=True, slots=True)
class Attachment:
    """A zone's network side while it runs: its namespace, and its ports as they were taken."""

    netns_path: str
    ports: tuple[PublishedPort, ...]


@dataclass(slots=True)
class Layout:
    """What there is, as others see it.  They are in other threads: each of both is replaced as a whole."""

    networks: tuple[Network, ...] = ()
    ways: Mapping[str, Way] = field(default_factory=dict)
    """By network_uuid."""

    def way_of(self, nic: Nic) -> Way | None:
        """How the nic gets onto its network; by network_uuid, else by nic_tag."""
        if way := self.ways.get(nic.network_uuid or ""):
            return way
        network = of_nic(self.networks, nic)
        return self.ways.get(uuid_of(network.id)) if network else None


class Wiring:
    """Of one instance.  `route`, `rules`, `book` and `layout` stay the caller's."""

    def __init__(
        self, mark: str, *, route: netlink.RouteSocket, rules: Rules, book: LeaseBook,
        folder: NamespaceFolder, layout: Layout,
    ) -> None:  # fmt: skip
        """`mark` is on interfaces of ours."""
        self._mark = mark
        self._route = route
        self._rules = rules
        self._book = book
        self._folder = folder
        self._layout = layout
        self._pool = NamespacePool(_POOL_SIZE)
        self._plugs = Plugs(route, rules, mark)
        self._live: dict[ZoneUUID, tuple[Nic, ...]] = {}
        """Nics of zones that have their namespace."""
        self.published = PublishedPorts(rules)

    def is_used(self, network_uuid: str) -> bool:
        """Whether a zone that runs is on it."""
        return any(nic.network_uuid == network_uuid for nics in self._live.values() for nic in nics)

    def connect(
        self, uuid: ZoneUUID, nics: tuple[Nic, ...], ports: tuple[PublishedPort, ...], endpoint: str,
        endpoints: Mapping[str, Endpoint],
    ) -> Attachment:  # fmt: skip
        """A namespace with these nics and ports; all or nothing."""
        check(ports)
        self.disconnect(uuid)
        plugs = [self._plug(nic, endpoints) for nic in nics]
        for nic in nics:
            self._check_free(uuid, nic)
        carrier = _carrier(plugs)
        namespace = self._pool.take()
        try:
            self._plugs.plug(uuid, plugs, namespace)
            routes(namespace, carrier, fresh=True)
            self._folder.add(uuid, namespace)
        except OSError as error:
            self._plugs.forget(uuid)
            raise APIError(str(error.strerror)) from error
        except BaseException:
            self._plugs.forget(uuid)
            raise
        finally:
            # Without a name this ends the namespace, and its veths with it.
            namespace.close()
        self._live[uuid] = nics
        try:
            taken = self._publish(uuid, carrier, ports, endpoint)
        except BaseException:
            self.disconnect(uuid)
            raise
        return Attachment(str(self._folder.path(uuid)), taken)

    def _publish(
        self, uuid: ZoneUUID, carrier: Plug | None, ports: Sequence[PublishedPort], endpoint: str
    ) -> tuple[PublishedPort, ...]:
        if carrier is None or not carrier.way.publishes:
            return ()
        bound = [_bound(port, carrier.way.options.binding) for port in ports]
        return self.published.publish(uuid, _destination(carrier), bound, endpoint)

    def _plug(self, nic: Nic, endpoints: Mapping[str, Endpoint]) -> Plug:
        way = self._layout.way_of(nic)
        if way is None:
            raise NotFound(f"network {nic.network_uuid or nic.nic_tag} not found")
        return Plug(nic, way, endpoints.get(nic.network_uuid or "", Endpoint()))

    def _check_free(self, uuid: ZoneUUID, nic: Nic) -> None:
        """Of an address that several may have been promised, one at a time may be in use."""
        way = self._layout.way_of(nic)
        for address in (ipv4(nic), ipv6(nic)):
            if address is None or way is None:
                continue
            owners = self._book.owners(way.network.id, address.ip)
            if any(owner != uuid and owner in self._live for owner in owners):
                raise Forbidden("Address already in use")

    def rejoin(
        self, uuid: ZoneUUID, nics: tuple[Nic, ...], ports: tuple[PublishedPort, ...], endpoint: str,
        endpoints: Mapping[str, Endpoint],
    ) -> tuple[tuple[PublishedPort, ...], bool]:  # fmt: skip
        """These nics instead of those it has; the ports as they are taken now, and whether that changed anything."""
        before = self._live[uuid]
        plugs = [self._plug(nic, endpoints) for nic in nics]
        there = {(nic.network_uuid, nic.interface) for nic in before}
        fresh = [p for p in plugs if (p.nic.network_uuid, p.nic.interface) not in there]
        stay = {(nic.network_uuid, nic.interface) for nic in nics}
        for plug in fresh:
            self._check_free(uuid, plug.nic)
        namespace = self._folder.open(uuid)
        try:
            self._plugs.plug(uuid, fresh, namespace)
            try:
                routes(namespace, _carrier(plugs))
                result = self._carry(uuid, _carrier(plugs), ports, endpoint)
            except BaseException:
                self._plugs.unplug(uuid, [plug.nic for plug in fresh], namespace)
                routes(namespace, _carrier([self._plug(nic, {}) for nic in before]))
                raise
            gone = [nic for nic in before if (nic.network_uuid, nic.interface) not in stay]
            self._plugs.unplug(uuid, gone, namespace)
        except OSError as error:
            raise APIError(str(error.strerror)) from error
        finally:
            namespace.close()
        self._live[uuid] = nics
        return result

    def _carry(
        self, uuid: ZoneUUID, carrier: Plug | None, ports: Sequence[PublishedPort], endpoint: str
    ) -> tuple[tuple[PublishedPort, ...], bool]:
        """The zone's ports lead to its nic that leads out now; as they are taken, and whether that changed."""
        taken = self.published.ports(uuid)
        if carrier is None or not carrier.way.publishes:
            self.published.withdraw(uuid)
            return (), bool(taken)
        if not taken:
            now = self._publish(uuid, carrier, ports, endpoint)
            return now, bool(now)
        to = _destination(carrier)
        if self.published.leads_to(uuid, to):
            return taken, False
        if self.published.can_move(uuid, to):
            self.published.move(uuid, to)
            return taken, True
        self.published.withdraw(uuid)
        return self._publish(uuid, carrier, ports, endpoint), True

    def disconnect(self, uuid: ZoneUUID) -> None:
        """Ports are free and the namespace has no name any more; none is fine."""
        self._live.pop(uuid, None)
        try:
            self.published.withdraw(uuid)
            self._plugs.forget(uuid)
        finally:
            self._folder.remove(uuid)

    def adopt(
        self,
        live: dict[ZoneUUID, tuple[Sequence[Nic], Sequence[PublishedPort]]],
        endpoints: Mapping[ZoneUUID, Mapping[str, Endpoint]],
    ) -> None:
        """Of an earlier process: what these zones have is theirs, all else of ours goes."""
        links = self._route.links()
        names = {link.alias: link.name for link in links if link.alias.startswith(self._mark)}
        for uuid, (nics, ports) in live.items():
            if not self._folder.path(uuid).exists():
                log.error("zone %s runs without its network namespace file", uuid)
            asked = endpoints.get(uuid, {})
            plugs = [
                Plug(nic, way, asked.get(nic.network_uuid or "", Endpoint()))
                for nic in nics
                if (way := self._layout.way_of(nic))
            ]
            self._live[uuid] = tuple(nics)
            self._mend(uuid, plugs, names)
            self._plugs.take_over(uuid, plugs, names)
            if ports and (carrier := _carrier(plugs)):
                self.published.take_over(uuid, _destination(carrier), ports)
        self._rules.make()
        for name in self._folder.names():
            if name not in live:
                self._folder.remove(name)
        kept = {
            f"{self._mark} {uuid} {n.network_uuid}" for uuid, (ns, _) in live.items() for n in ns
        }
        self._remove_links(links, keep=kept)
        self._book.forget_unlearned()

    def _mend(self, uuid: ZoneUUID, plugs: Sequence[Plug], names: Mapping[str, str]) -> None:
        """A kill in the middle of leaving a network: the zone has not got the nic that its record says."""
        lacking = [
            plug
            for plug in plugs
            if plug.way.is_bridge and f"{self._mark} {uuid} {plug.nic.network_uuid}" not in names
        ]
        if not lacking:
            return
        try:
            namespace = self._folder.open(uuid)
            try:
                self._plugs.plug(uuid, lacking, namespace)
                routes(namespace, _carrier(plugs))
            finally:
                namespace.close()
        except (APIError, OSError) as error:
            log.warning("zone %s lacks a network until its next start: %s", uuid, error)

    def _remove_links(self, links: Sequence[netlink.Link], keep: Set[str]) -> None:
        """Of zones that do not run any more or never had it on record, and of networks that are gone."""
        known = {
            f"{self._mark} network {way.network.id}" for way in self._layout.ways.values()
        } | keep
        for link in links:
            if not link.alias.startswith(f"{self._mark} ") or link.alias in known:
                continue
            try:
                self._route.execute(netlink.delete_link(link.index))
            except netlink.NetlinkError as error:
                if error.errno != errno.ENODEV:
                    raise

    def remove_all(self, keep: Set[str] = frozenset()) -> None:
        """No zone is left: nor are names of namespaces, and ends of nics."""
        self._folder.close()
        self._remove_links(self._route.links(), keep)

    def close(self) -> None:
        """Namespaces that were not used go.  Not in the worker thread."""
        self._pool.close()


def _carrier(plugs: Sequence[Plug]) -> Plug | None:
    """The nic that all else is reached by: the primary one, if it leads out."""
    for plug in plugs:
        six = plug.way.network.ipv6
        by_ipv6 = bool(six and six.gateway and ipv6(plug.nic))
        leads_out = bool(plug.nic.gateway) or by_ipv6 or plug.way.options.on_link
        if plug.nic.primary and leads_out and not plug.way.network.internal:
            return plug
    return None


def _destination(carrier: Plug) -> Destination:
    four, six = ipv4(carrier.nic), ipv6(carrier.nic)
    options = carrier.way.options
    return Destination(
        carrier.nic,
        four.ip if four else None,
        six.ip if six else None,
        options.versions("routed"),
        options.trusted,
    )


def _bound(port: PublishedPort, binding: str) -> PublishedPort:
    """At the network's own address for published ports, where the client named none."""
    if port.host_ip or not binding:
        return port
    return port.model_copy(update={"host_ip": binding})
