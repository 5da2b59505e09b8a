"""What `docker network` shows.  Making and joining them is not built yet."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence

from dockerapi.errors import InvalidParameter
from dockerapi.filters import Filters
from dockerapi.models.base import JSONObject
from gateway.engine.events import Bus
from gateway.engine.pruning import PruneTests
from gateway.engine.roster import Roster
from gateway.translate import from_zone
from gateway.translate.facts import dashed
from gateway.translate.networking import stable_id
from gateway.translate.status import go_time
from gateway.zones.host import Network, NetworkHost, Zone

_BUILTIN = ("bridge", "host", "none")
_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")


class Networks:
    """The host's networks with the containers on them."""

    def __init__(self, networks: NetworkHost, roster: Roster, bus: Bus) -> None:
        self._networks = networks
        self._roster = roster
        self._bus = bus

    async def list(self, filters: Filters) -> Sequence[JSONObject]:
        """Without the containers, as dockerd's list."""
        filters.accept(*_FILTERS)
        _check(filters)
        return [
            _shown(network)
            for network in self._networks.list()
            if _matches(network, filters, in_use=bool(self._members(network)))
        ]

    async def inspect(self, ref: str) -> JSONObject:
        """With the containers that run on it."""
        network = self._networks.get(ref)
        members = {zone.metadata.id: _member(zone, network) for zone in self._members(network)}
        return _shown(network) | {"Containers": members}

    async def prune(self, filters: Filters) -> JSONObject:
        """{NetworksDeleted}: none, because only those that clients made may go, and they cannot make any yet."""
        filters.accept("label", "label!", "until")
        PruneTests(filters, time.time_ns())
        self._bus.emit("network", "prune", "", {"reclaimed": "0"})
        return {"NetworksDeleted": None}

    def _members(self, network: Network) -> Sequence[Zone]:
        return [
            zone
            for zone in self._roster.all()
            if zone.is_running
            and network.name in (from_zone.networks_joined(zone) or [from_zone.network_mode(zone)])
        ]


def _shown(network: Network) -> JSONObject:
    config = {"Subnet": network.subnet, "Gateway": network.gateway}
    pools = [{key: value for key, value in config.items() if value}] if network.subnet else []
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": go_time(network.created_ns),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": pools},
        "Internal": network.internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": dict(network.options),
        "Labels": dict(network.labels),
    }


def _member(zone: Zone, network: Network) -> JSONObject:
    uuid = dashed(network.id[:32])
    nic = next((nic for nic in zone.spec.nics if nic.network_uuid == uuid), None)
    address = ""
    if nic is not None and nic.ip:
        prefix = ipaddress.IPv4Network(f"0.0.0.0/{nic.netmask or '255.255.255.255'}").prefixlen
        address = f"{nic.ip}/{prefix}"
    return {
        "Name": zone.spec.alias,
        "EndpointID": stable_id(zone.metadata.id, network.id),
        "MacAddress": (nic and nic.mac) or "",
        "IPv4Address": address,
        "IPv6Address": "",
    }


def _check(filters: Filters) -> None:
    for value in filters.get("type"):
        if value not in ("custom", "builtin"):
            raise InvalidParameter(f"invalid filter: 'type'='{value}'")
    filters.boolean("dangling")


def _matches(network: Network, filters: Filters, *, in_use: bool) -> bool:
    kind = "builtin" if network.name in _BUILTIN else "custom"
    dangling = filters.boolean("dangling")
    tests = (
        ("name", lambda v: v in network.name),
        ("id", network.id.startswith),
        ("driver", lambda v: v == network.driver),
        ("scope", lambda v: v == "local"),
        ("type", lambda v: v == kind),
    )
    if dangling is not None and dangling is (in_use or kind == "builtin"):
        return False
    return filters.match_labels(network.labels) and all(
        any(test(value) for value in filters.get(key)) for key, test in tests if key in filters
    )
