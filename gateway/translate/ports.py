"""Ports: `80/tcp`, `8000-8010/udp`, what is published where, and how list and inspect show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from dockerapi.errors import InvalidParameter, NotSupported
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import PortBinding
from gateway.zones.metadata import PublishedPort

Protocol = Literal["tcp", "udp", "sctp"]


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A port of the container; its text is the key that clients use."""

    number: int
    protocol: Protocol = "tcp"

    def __str__(self) -> str:
        return f"{self.number}/{self.protocol}"


def parse_range(text: str) -> tuple[int, int]:
    """`80` or `80-90`; ValueError for anything else."""
    first, dash, last = text.partition("-")
    start = _number(first)
    end = _number(last) if dash else start
    if end < start:
        raise ValueError(text)
    return start, end


def _number(text: str) -> int:
    # int() would take signs, blanks and underscores too.
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise ValueError(text)
    return int(text)


def parse_port(text: str) -> Iterator[Port]:
    """Every port of `80`, `80/tcp`, `8000-8010/udp`."""
    numbers, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidParameter(f"invalid proto: {protocol}")
    try:
        start, end = parse_range(numbers)
    except ValueError as error:
        raise InvalidParameter(f'invalid port specification: "{numbers}"') from error
    for number in range(start, end + 1):
        yield Port(number, cast(Protocol, protocol))


def published(
    bindings: Mapping[str, Sequence[PortBinding] | None], exposed: Iterable[str], *, all_ports: bool
) -> tuple[PublishedPort, ...]:
    """What the host must publish; `all_ports` adds every exposed port that is not bound."""
    wanted: list[PublishedPort] = []
    bound: set[Port] = set()
    for key, places in bindings.items():
        if "-" in key:  # the CLI takes ranges apart; the API has none here
            raise InvalidParameter(f'invalid port specification: "{key.partition("/")[0]}"')
        for port in parse_port(key):
            bound.add(port)
            # No list at all means "any port", as with -P.
            wanted += [_publish(port, place) for place in places or [PortBinding()]]
    if all_ports:
        for key in exposed:
            for port in parse_port(key):
                if port not in bound:
                    wanted.append(_publish(port, PortBinding()))
    return tuple(wanted)


def _publish(port: Port, place: PortBinding) -> PublishedPort:
    if port.protocol == "sctp":
        raise NotSupported("publishing sctp ports is not supported by zonegate yet")
    start = end = 0
    if place.host_port:
        try:
            start, end = parse_range(place.host_port)
        except ValueError as error:
            raise InvalidParameter(f'invalid port specification: "{place.host_port}"') from error
    return PublishedPort(
        protocol=port.protocol,
        zone_port=port.number,
        host_ip=place.host_ip,
        host_port=start,
        host_port_end=end if end > start else 0,
    )


def port_map(exposed: Iterable[str], taken: Sequence[PublishedPort]) -> JSONObject:
    """NetworkSettings.Ports of a running container: null for what is only exposed."""
    ports: dict[str, list[JSONObject] | None] = dict.fromkeys(exposed)
    for port in taken:
        key = f"{port.zone_port}/{port.protocol}"
        places = ports.get(key) or []
        places += [
            # Without a number: it is reached at the container's own address, no port of the host is taken.
            {"HostIp": address, "HostPort": str(port.host_port or "")}
            for address in _addresses(port)
        ]
        ports[key] = places
    return dict(sorted(ports.items()))


def port_rows(exposed: Iterable[str], taken: Sequence[PublishedPort]) -> list[JSONObject]:
    """Ports of a row of the list."""
    rows: list[JSONObject] = []
    seen: set[str] = set()
    for port in taken:
        seen.add(f"{port.zone_port}/{port.protocol}")
        rows += [
            {
                "IP": address,
                "PrivatePort": port.zone_port,
                **({"PublicPort": port.host_port} if port.host_port else {}),
                "Type": port.protocol,
            }
            for address in _addresses(port)
        ]
    for key in exposed:
        if key not in seen:
            number, _, protocol = key.partition("/")
            rows.append({"PrivatePort": int(number), "Type": protocol})
    return rows


def _addresses(port: PublishedPort) -> tuple[str, ...]:
    # Without an address a port is taken in both families, and dockerd shows both.
    return (port.host_ip,) if port.host_ip else ("0.0.0.0", "::")  # noqa: S104 (shown, not bound)


def binding_keys(bindings: Mapping[str, Any]) -> list[str]:
    """Normalised keys of PortBindings."""
    return [str(port) for key in bindings for port in parse_port(key)]
