"""A zone's networks in its spec: what the client asked for each, the nics in order, which of them leads out.

    join      of a zone that is being made
    changed   of one that is there: it has joined or left networks

Asked-for settings stand in the metadata as inspect shows them (`NetworkingConfig`), by name of the network, and once
more in `Runtime.endpoints` as hosts read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dockerapi.models.base import JSONObject
from dockerapi.models.containers import EndpointSettings
from gateway.translate.networking import IFNAME
from gateway.zones import metadata as zone_metadata
from gateway.zones.host import Network, Zone
from gateway.zones.members import ipv6, network_uuid
from gateway.zones.metadata import Endpoint
from gateway.zones.spec import Nic, ZoneSpec

_PREFIX = "com.docker.network.container_iface_prefix"


@dataclass(frozen=True, slots=True)
class Joined:
    """`asked`: by name of the network, as in the metadata; `endpoints` by network_uuid."""

    asked: dict[str, JSONObject]
    endpoints: dict[str, Endpoint]
    nics: tuple[Nic, ...]


def join(
    asked: Mapping[str, JSONObject],
    nics: Sequence[Nic],
    networks: Mapping[str, Network],
    *,
    first: str = "eth0",
    kept: Sequence[Nic] = (),
) -> Joined:
    """`asked` and `networks` by whatever the client named the network; one that is not there yet has no nic.

    `first`: name of the first interface; nics of `kept` have theirs already.
    """
    by_name = {
        network.name if (network := networks.get(ref)) else ref: row for ref, row in asked.items()
    }
    known = {network.name: network for network in networks.values()}
    rows = {
        name: row | {"NetworkID": known[name].id} if name in known else row
        for name, row in by_name.items()
    }
    endpoints = {
        network_uuid(known[name].id): _endpoint(row) for name, row in rows.items() if name in known
    }
    by_uuid = {nic.network_uuid: nic for nic in nics}
    order = [network_uuid(known[name].id) for name in rows if name in known]
    ordered = [by_uuid[uuid] for uuid in order if uuid in by_uuid]
    of = {network_uuid(network.id): network for network in known.values()}
    named = tuple(_named(ordered, endpoints, of, first, {nic.network_uuid for nic in kept}))
    return Joined(rows, endpoints, _with_primary(named, endpoints, of))


def _named(
    nics: Sequence[Nic],
    endpoints: Mapping[str, Endpoint],
    networks: Mapping[str, Network],
    first: str,
    kept: set[str | None],
) -> Iterator[Nic]:
    taken = {nic.interface for nic in nics if nic.network_uuid in kept}
    taken |= {name for e in endpoints.values() if (name := e.options.get(IFNAME))}
    for nic in nics:
        uuid = nic.network_uuid or ""
        if uuid in kept:
            yield nic
            continue
        name = endpoints[uuid].options.get(IFNAME) or _free(
            networks[uuid].options.get(_PREFIX) or first, taken
        )
        taken.add(name)
        yield nic.model_copy(update={"interface": name})


def _free(first: str, taken: set[str]) -> str:
    prefix = first.rstrip("0123456789")
    number = int(first[len(prefix) :] or 0)
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"


def _with_primary(
    nics: Sequence[Nic], endpoints: Mapping[str, Endpoint], networks: Mapping[str, Network]
) -> tuple[Nic, ...]:
    """One nic leads out: highest GwPriority, then both versions of IP, then the first network by name, as in dockerd."""

    def rank(nic: Nic) -> tuple[bool, int, bool, str]:
        uuid = nic.network_uuid or ""
        stays_inside = networks[uuid].internal
        return stays_inside, -endpoints[uuid].gateway_priority, not ipv6(nic), networks[uuid].name

    chosen = min(nics, key=rank, default=None)
    return tuple(
        nic.model_copy(update={"primary": True if nic is chosen else None}) for nic in nics
    )


def _endpoint(row: JSONObject) -> Endpoint:
    ipam = row.get("IPAMConfig") or {}
    static = [4] if ipam.get("IPv4Address") else []
    static += [6] if ipam.get("IPv6Address") else []
    return Endpoint(
        aliases=tuple(row.get("Aliases") or ()),
        links=tuple(row.get("Links") or ()),
        static=tuple(static),
        gateway_priority=row.get("GwPriority") or 0,
        options=dict(row.get("DriverOpts") or {}),
        link_local=tuple(ipam.get("LinkLocalIPs") or ()),
    )


def changed(
    zone: Zone,
    asked: Mapping[str, JSONObject],
    nics: Sequence[Nic],
    networks: Mapping[str, Network],
    *,
    first: str = "eth0",
) -> ZoneSpec:
    """The zone's spec with these networks instead of its own; nics that it has stay as they are."""
    there = {nic.network_uuid for nic in nics} & {nic.network_uuid for nic in zone.spec.nics}
    kept = [nic for nic in zone.spec.nics if nic.network_uuid in there]
    found = join(asked, nics, networks, first=first, kept=kept)
    data = zone.metadata
    data = data.model_copy(
        update={
            "runtime": data.runtime.model_copy(update={"endpoints": found.endpoints}),
            "create": {**data.create, "NetworkingConfig": found.asked},
        }
    )
    others = {
        key: value
        for key, value in zone.spec.internal_metadata.items()
        if not key.startswith(("docker:", "zonegate:"))
    }
    return zone.spec.model_copy(
        update={"nics": found.nics, "internal_metadata": others | zone_metadata.encode(data)}
    )


def asked_of(settings: EndpointSettings) -> JSONObject:
    """As the metadata keeps it."""
    return {
        "IPAMConfig": settings.ipam_config,
        "Links": settings.links,
        "Aliases": settings.aliases,
        "MacAddress": settings.mac_address,
        "DriverOpts": settings.driver_opts,
        "GwPriority": settings.gw_priority,
    }


def settings_of(row: JSONObject) -> EndpointSettings:
    """Inverse of `asked_of`."""
    return EndpointSettings.model_validate(row)
