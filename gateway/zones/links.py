"""Legacy links (`--link` on the default network): what they say of each other, from the zones as they are.  Pure.

    name         /PARENT/ALIAS is one more name of the linked container
    /etc/hosts   ADDRESS <tab> ALIAS HOSTNAME NAME
    variables    ALIAS_NAME, ALIAS_PORT..., ALIAS_ENV_...: the linked container's ports and environment

A link outlives the container that it leads to, as in dockerd: its owner does not start any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.zones import members
from gateway.zones.host import Zone
from gateway.zones.metadata import Link

_UNTOLD = ("HOME", "PATH")


@dataclass(frozen=True, slots=True)
class Linked:
    """A link of one zone with the zone it leads to, None if there is none any more."""

    link: Link
    zone: Zone | None

    @property
    def name(self) -> str:
        """Of the linked container, as it is called now or was."""
        return self.zone.spec.alias if self.zone else self.link.name


def linked(zone: Zone, by_id: Callable[[str], Zone | None]) -> tuple[Linked, ...]:
    """The links of a zone."""
    return tuple(Linked(link, by_id(link.id)) for link in zone.metadata.runtime.links)


def refusal(zone: Zone, found: Iterable[Linked]) -> str:
    """Why a zone cannot start, in dockerd's words; "" if all that it links to run, and are on its network."""
    for one in found:
        if one.zone is None or not one.zone.is_running:
            path = f"/{zone.spec.alias}/{one.link.alias}"
            return f"Cannot link to a non running container: /{one.name} AS {path}"
        if not _address(zone, one.zone):
            return f"container {one.link.id} not attached to default bridge network"
    return ""


def hosts(zone: Zone, found: Iterable[Linked]) -> tuple[str, ...]:
    """Lines of /etc/hosts."""
    lines: list[str] = []
    for one in found:
        address = _address(zone, one.zone)
        if one.zone is not None and address:
            names = (one.link.alias, one.zone.spec.hostname or "", one.zone.spec.alias)
            lines.append(f"{address}\t{' '.join(dict.fromkeys(name for name in names if name))}")
    return tuple(lines)


def environment(zone: Zone, found: Iterable[Linked]) -> tuple[str, ...]:
    """NAME=VALUE of all links."""
    return tuple(
        entry
        for one in found
        if one.zone is not None and (address := _address(zone, one.zone))
        for entry in _variables(f"/{zone.spec.alias}/{one.link.alias}", address, one.zone)
    )


def _address(zone: Zone, other: Zone | None) -> str:
    """Of the other on a network of both."""
    networks = {nic.network_uuid for nic in zone.spec.nics}
    for nic in other.spec.nics if other else ():
        address = members.ipv4(nic)
        if address is not None and nic.network_uuid in networks:
            return str(address.ip)
    return ""


def _variables(path: str, address: str, other: Zone) -> Iterator[str]:
    prefix = path.rpartition("/")[2].replace("-", "_").upper()
    ports = sorted(_exposed(other), key=lambda port: (port[1] != "tcp", port[1], port[0]))
    if ports:
        number, protocol = ports[0]
        yield f"{prefix}_PORT={protocol}://{address}:{number}"
    for first, last, protocol in _ranges(ports):
        if last > first:  # since 28 two are a range, too
            start = f"{prefix}_PORT_{first}_{protocol.upper()}"
            yield f"{start}_START={protocol}://{address}:{first}"
            yield f"{start}_PORT_START={first}"
            yield f"{start}_END={protocol}://{address}:{last}"
            yield f"{start}_PORT_END={last}"
    for number, protocol in ports:
        one = f"{prefix}_PORT_{number}_{protocol.upper()}"
        yield f"{one}={protocol}://{address}:{number}"
        yield f"{one}_ADDR={address}"
        yield f"{one}_PORT={number}"
        yield f"{one}_PROTO={protocol}"
    yield f"{prefix}_NAME={path}"
    for entry in other.metadata.env:
        name, equals, _ = entry.partition("=")
        if equals and name not in _UNTOLD:
            yield f"{prefix}_ENV_{entry}"


def _exposed(zone: Zone) -> list[tuple[int, str]]:
    data = zone.metadata
    published = {(port.zone_port, port.protocol) for port in data.runtime.published_ports}
    free = {(port, "tcp") for port in data.tcp_unpublished_ports}
    free |= {(port, "udp") for port in data.udp_unpublished_ports}
    return [*published, *free]


def _ranges(ports: Sequence[tuple[int, str]]) -> Iterator[tuple[int, int, str]]:
    """First and last of numbers that follow each other, by protocol."""
    at = 0
    while at < len(ports):
        end = at
        while end + 1 < len(ports) and ports[end + 1] == (ports[end][0] + 1, ports[at][1]):
            end += 1
        yield ports[at][0], ports[end][0], ports[at][1]
        at = end + 1


def shown(zone: Zone, found: Iterable[Linked]) -> list[str] | None:
    """HostConfig.Links."""
    rows = [f"/{one.name}:/{zone.spec.alias}/{one.link.alias}" for one in found]
    return rows or None


def names(zones: Iterable[Zone]) -> Mapping[str, tuple[str, ...]]:
    """Docker id of a linked container -> its further names, `/parent/alias`."""
    found: dict[str, list[str]] = {}
    for zone in zones:
        for link in zone.metadata.runtime.links:
            found.setdefault(link.id, []).append(f"/{zone.spec.alias}/{link.alias}")
    return {docker_id: tuple(sorted(rows)) for docker_id, rows in found.items()}
