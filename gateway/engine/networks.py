"""What `docker network` does: networks, and which containers are on them.

A network is the host's; who is on it stands in the zones' specs, so joining and leaving one are changes of a spec.
What a change of a container's state means for its networks is lifecycle.py's to tell.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from weakref import WeakValueDictionary

from dockerapi.errors import (
    APIError,
    Conflict,
    Forbidden,
    InvalidParameter,
    NoSuchContainer,
    NotFound,
)
from dockerapi.filters import Filters
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import EndpointSettings
from dockerapi.models.networks import NetworkConnect, NetworkCreate, NetworkDisconnect
from gateway.engine.events import Bus
from gateway.engine.pruning import OneAtATime, PruneTests
from gateway.engine.roster import Roster
from gateway.translate import endpoints, from_zone, networking
from gateway.translate.networking import stable_id
from gateway.translate.networks import PREDEFINED, member_row, plan, shown
from gateway.zones.host import Host, Network, Zone
from gateway.zones.members import Member, dns_names, endpoint_on, network_uuid, nic_on
from gateway.zones.spec import Nic

_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_NO_START = "failed to set up container networking: "


class Networks:
    """The host's networks with the containers on them.  `interface`: of a zone's first nic."""

    def __init__(self, host: Host, roster: Roster, bus: Bus, *, interface: str = "eth0") -> None:
        self._host = host
        self._networks = host.networks
        self._roster = roster
        self._bus = bus
        self._interface = interface
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._pruning = OneAtATime()

    # -- networks --------------------------------------------------------------------------------

    async def list(self, filters: Filters) -> Sequence[JSONObject]:
        """Without the containers, as dockerd's list."""
        filters.accept(*_FILTERS)
        dangling = _checked(filters)
        return [
            shown(network)
            for network in self._networks.list()
            if _matches(network, filters)
            and (dangling is None or dangling is not self._is_used(network))
        ]

    def _is_used(self, network: Network) -> bool:
        return network.name in PREDEFINED or any(True for _ in self._members(network))

    async def inspect(self, ref: str) -> JSONObject:
        """With the containers that run on it."""
        network = self._networks.get(ref)
        members = {
            member.zone.metadata.id: member_row(member, network)
            for member in self._members(network)
        }
        return shown(network) | {"Containers": members}

    def _members(self, network: Network) -> Sequence[Member]:
        """Who runs on it; asked for by its leases, so that others cost nothing."""
        if network.driver in ("host", "null"):
            return [
                Member(zone, _NO_NIC, endpoint_on(zone, network), dns_names(zone, ()))
                for zone in self._roster.all()
                if zone.is_running and network.name in from_zone.networks_joined(zone)
            ]
        found = []
        for uuid in self._networks.leased(network.id):
            with suppress(NotFound):
                zone = self._host.zones.get(uuid)
                nic = nic_on(zone, network) if zone.is_running else None
                if nic is not None:
                    endpoint = endpoint_on(zone, network)
                    found.append(Member(zone, nic, endpoint, dns_names(zone, endpoint.aliases)))
        return sorted(found, key=lambda member: member.zone.created_ns)

    async def create(self, body: NetworkCreate) -> JSONObject:
        """{Id, Warning}."""
        made = await self._networks.create(plan(body, self._configuration(body)))
        self._tell(made, "create")
        return {"Id": made.id, "Warning": self._networks.note(made)}

    def _configuration(self, body: NetworkCreate) -> Network | None:
        if body.config_from and body.config_from.network:
            with suppress(NotFound):
                return self._networks.get(body.config_from.network)
        return None

    async def remove(self, ref: str) -> None:
        """Forbidden while a container runs on it; one that is stopped will not find it again, as in dockerd."""
        network = self._networks.get(ref)
        if network.name in PREDEFINED:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        if any(
            other.plan and other.plan.config_from == network.name for other in self._networks.list()
        ):
            raise Forbidden(
                f'error while removing network: configuration network "{network.name}" is in use'
            )
        if members := self._members(network):
            rows = (
                f'name:"{m.zone.spec.alias}" id:"{stable_id(m.zone.metadata.id, network.id)[:12]}"'
                for m in members
            )
            raise Forbidden(
                f"error while removing network: network {network.name} has active endpoints"
                f" ({', '.join(rows)})"
            )
        await self._networks.remove(network.id)
        self._tell(network, "destroy")

    async def prune(self, filters: Filters) -> JSONObject:
        """{NetworksDeleted}: those that clients made and no container runs on."""
        filters.accept("label", "label!", "until")
        tests = PruneTests(filters, time.time_ns())
        deleted: list[str] = []
        with self._pruning.prune():
            for network in tuple(self._networks.list()):
                is_configuration = bool(network.plan and network.plan.config_only)
                if network.name in PREDEFINED or is_configuration or self._members(network):
                    continue
                if tests.hold(network.labels, network.created_ns):
                    # Somebody joined it or was quicker; a host may need it for containers that are stopped.
                    with suppress(NotFound, Forbidden, Conflict):
                        await self.remove(network.id)
                        deleted.append(network.name)
            self._bus.emit("network", "prune", "", {"reclaimed": "0"})
        return {"NetworksDeleted": deleted or None}

    def _tell(self, network: Network, action: str, **more: str) -> None:
        attributes = {**more, "name": network.name, "type": network.driver}
        self._bus.emit("network", action, network.id, attributes)

    # -- containers on them ----------------------------------------------------------------------

    async def connect(self, ref: str, body: NetworkConnect) -> None:
        """At once if it runs and the host can; else from its next start on."""
        zone = self._roster.find(body.container)
        settings = body.endpoint_config or EndpointSettings()
        networking.refuse_unbuilt(settings, self._host.facts.platform)
        async with self._changing(zone) as zone:
            network = self._connectable(zone, ref)
            asked = from_zone.networks_joined(zone)
            if network is None:
                # Not known yet: it is looked for at the start.
                await self._change(zone, asked | {ref: endpoints.asked_of(settings)}, ())
                return
            networking.check_mac(settings)
            _check_joins(zone, network, self._host.networks.list())
            if network.name in asked:
                if zone.is_running:
                    raise Forbidden(
                        f"endpoint with name {zone.spec.alias} already exists in network {network.name}"
                    )
                return
            networking.check_endpoint(network.name, settings, network)
            row = endpoints.asked_of(settings)
            await self._join(zone, network, asked | {network.name: row}, settings)
        if zone.is_running:
            self._tell(network, "connect", container=zone.metadata.id)

    def _connectable(self, zone: Zone, ref: str) -> Network | None:
        """None: there is none yet, which a container that does not run need not mind."""
        try:
            return self._networks.get(ref)
        except NotFound:
            if zone.is_running:
                raise
            return None

    async def _join(
        self,
        zone: Zone,
        network: Network,
        asked: dict[str, JSONObject],
        settings: EndpointSettings,
    ) -> None:
        nic = None
        try:
            nic = self._lease(zone, network, settings)
        except Forbidden:
            # Another has the address, and may be gone at the start.
            if zone.is_running:
                raise
        try:
            await self._change(zone, asked, (nic,) if nic else ())
        except BaseException:
            self._networks.release(zone.uuid, network.id)
            raise

    def _lease(self, zone: Zone, network: Network, settings: EndpointSettings) -> Nic | None:
        if _has_no_nics(network):
            return None
        (request,) = networking.requests({network.name: settings})
        return self._networks.lease(zone.uuid, request)

    async def _change(self, zone: Zone, asked: dict[str, JSONObject], more: Sequence[Nic]) -> Zone:
        """The zone's networks are these, with the nics that it has there and `more`."""
        networks = {}
        for name in asked:
            with suppress(NotFound):
                networks[name] = self._networks.get(name)
        uuids = {network_uuid(network.id) for network in networks.values()}
        nics = [nic for nic in zone.spec.nics if nic.network_uuid in uuids]
        spec = endpoints.changed(zone, asked, [*nics, *more], networks, first=self._interface)
        return await self._host.zones.update(zone.uuid, spec)

    async def disconnect(self, ref: str, body: NetworkDisconnect) -> None:
        """APIError (500, as in dockerd) if it is not connected."""
        try:
            zone = self._roster.find(body.container)
        except NoSuchContainer:
            if not body.force:
                raise
            self._networks.get(ref)
            raise NotFound(f"endpoint {body.container} not found") from None
        async with self._changing(zone) as zone:
            asked = dict(from_zone.networks_joined(zone))
            network, name = self._known(ref, asked, may_lack=not zone.is_running or body.force)
            if network is not None and network.driver == "host" and zone.is_running:
                raise InvalidParameter(
                    "cannot disconnect container from host network - container must be created in"
                    " host network mode"
                )
            if asked.pop(name, None) is None:
                the = "" if zone.is_running else "the "
                raise APIError(
                    f"container {zone.metadata.id} is not connected to {the}network {name}"
                )
            await self._change(zone, asked, ())
            if network is not None:
                self._networks.release(zone.uuid, network.id)
        if network is not None:
            self._tell(network, "disconnect", container=zone.metadata.id)

    def _known(
        self, ref: str, asked: dict[str, JSONObject], *, may_lack: bool
    ) -> tuple[Network | None, str]:
        try:
            network = self._networks.get(ref)
        except NotFound:
            if not may_lack:
                raise
            gone = (name for name, row in asked.items() if row.get("NetworkID") == ref)
            return None, next(gone, ref)
        return network, network.name

    async def ready(self, zone: Zone) -> Zone:
        """Before a start: the zone with a nic on each of its networks; NotFound where one is missing.

        Of a network that came after the container the nic is leased now.
        """
        if networking.target(from_zone.network_mode(zone)):
            return zone
        async with self._changing(zone) as zone:
            asked = from_zone.networks_joined(zone)
            lacking = [row for name in asked if (row := self._lacking(zone, name)) is not None]
            nics: list[Nic] = []
            try:
                for network, settings in lacking:
                    networking.check_endpoint(network.name, settings, network)
                    if nic := self._lease(zone, network, settings):
                        nics.append(nic)
                stale = any(name != self._name(name) for name in asked)
                return await self._change(zone, asked, nics) if nics or stale else zone
            except BaseException as error:
                for network, _ in lacking:
                    self._networks.release(zone.uuid, network.id)
                if isinstance(error, APIError):
                    error.message = _NO_START + error.message
                raise

    def _name(self, ref: str) -> str:
        try:
            return self._networks.get(ref).name
        except NotFound:
            return ref

    def _lacking(self, zone: Zone, name: str) -> tuple[Network, EndpointSettings] | None:
        """A network on which the zone has no nic yet."""
        row = from_zone.networks_joined(zone)[name]
        # Once started a container knows its network by id: another one of the same name is not its own.
        ref = row.get("NetworkID") if zone.started_ns and name not in PREDEFINED else None
        try:
            network = self._networks.get(ref or name)
        except NotFound as error:
            # With --bridge none its containers have their loopback, as in dockerd.
            if name == "bridge":
                return None
            raise NotFound(f"{_NO_START}{error.message}") from error
        if _has_no_nics(network) or nic_on(zone, network) is not None:
            return None
        return network, endpoints.settings_of(row)

    @asynccontextmanager
    async def _changing(self, zone: Zone) -> AsyncIterator[Zone]:
        """One change of a zone's networks at a time; the zone as it is then."""
        # The dictionary lets go of it when nobody holds it or waits for it.
        lock = self._locks.get(zone.uuid) or asyncio.Lock()
        self._locks[zone.uuid] = lock
        async with lock:
            yield self._host.zones.get(zone.uuid)


def _has_no_nics(network: Network) -> bool:
    """Whoever is on it has none there.  Of one that is a configuration alone the host says that nobody can be."""
    return network.driver == "host" or (network.driver == "null" and network.plan is None)


_NO_NIC = Nic(nic_tag="none")


def _check_joins(zone: Zone, network: Network, networks: Sequence[Network]) -> None:
    """Networks that cannot be had together, in dockerd's words."""
    joined = from_zone.networks_joined(zone)
    if networking.target(from_zone.network_mode(zone)):
        raise InvalidParameter(
            "container sharing network namespace with another container or host cannot be connected"
            " to any other network"
        )
    if network.driver == "host" and "host" not in joined:
        raise InvalidParameter(
            "cannot connect container to host network - container must be created in host network mode"
        )
    others = [one for one in networks if one.name in joined and one.id != network.id]
    if any(one.driver == "host" for one in others):
        raise InvalidParameter(
            "container sharing network namespace with another container or host cannot be connected"
            " to any other network"
        )
    if others and any(one.driver == "null" and _has_no_nics(one) for one in (network, *others)):
        raise InvalidParameter(
            "container cannot be connected to multiple networks with one of the networks in private"
            " (none) mode"
        )


def _checked(filters: Filters) -> bool | None:
    """What `dangling` is to be."""
    for value in filters.get("type"):
        if value not in ("custom", "builtin"):
            raise APIError(f"invalid filter: 'type'='{value}'")
    if len(filters.get("dangling")) > 1:
        raise InvalidParameter('got more than one value for filter key "dangling"')
    try:
        return filters.boolean("dangling")
    except InvalidParameter as error:
        words = """must be "true" (or "1"), or "false" (or "0")"""
        raise InvalidParameter(f"invalid value for filter 'dangling', {words}") from error


def _matches(network: Network, filters: Filters) -> bool:
    kind = "builtin" if network.name in PREDEFINED else "custom"
    tests = (
        ("name", lambda v: _fits(v, network.name)),
        ("id", lambda v: _fits(v, network.id)),
        ("driver", lambda v: v == network.driver),
        ("scope", lambda v: v == "local"),
        ("type", lambda v: v == kind),
    )
    return filters.match_labels(network.labels) and all(
        any(test(value) for value in filters.get(key)) for key, test in tests if key in filters
    )


def _fits(pattern: str, text: str) -> bool:
    """As dockerd's filters match: a regular expression anywhere in the text."""
    try:
        return pattern == text or re.search(pattern, text) is not None
    except re.error:
        return False
