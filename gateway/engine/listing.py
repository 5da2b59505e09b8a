"""The container list: which containers a query means, and their rows kept serialised.

A row is written once per value of its zone; only its Status depends on the time and is put in between.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dockerapi.engine import ListQuery
from dockerapi.errors import APIError, InvalidParameter, NoSuchContainer
from dockerapi.filters import Filters
from dockerapi.models.base import JSONObject
from gateway.translate import from_zone
from gateway.translate.health import Health
from gateway.translate.ports import parse_range
from gateway.translate.status import exit_code, status, status_text
from gateway.zones.host import Network, Zone
from gateway.zones.spec import ZoneUUID

_FILTERS = [
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
]
_STATUSES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
_HEALTH = ("starting", "healthy", "unhealthy", "none")


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a filter may have to ask: a container by reference, an image's ids by reference."""

    container: Callable[[str], Zone]
    image_ids: Callable[[str], frozenset[str]]
    networks: Mapping[str, Network]
    health: Callable[[Zone], Health | None]


def select(zones: Sequence[Zone], query: ListQuery, lookup: Lookup) -> list[Zone]:
    """Newest first.  InvalidParameter for filters that are none."""
    filters = query.filters or Filters()
    filters.accept(*_FILTERS)
    tests = _tests(filters, lookup)
    if not (query.all or query.limit > 0 or filters.get("status")):
        tests.append(lambda zone: status(zone) in ("running", "paused", "restarting"))
    ordered = sorted(zones, key=lambda zone: zone.created_ns, reverse=True)
    found = [zone for zone in ordered if all(test(zone) for test in tests)]
    return found[: query.limit] if query.limit > 0 else found


Test = Callable[[Zone], bool]


def _tests(filters: Filters, lookup: Lookup) -> list[Test]:
    makers: dict[str, Callable[[tuple[str, ...]], Test]] = {
        "id": lambda values: lambda zone: any(zone.metadata.id.startswith(v) for v in values),
        "name": _names,
        "status": _statuses,
        "exited": _exited,
        "health": lambda values: _healths(values, lookup),
        "ancestor": lambda values: _ancestors(values, lookup),
        "network": lambda values: _networks(values, lookup),
        "volume": _volumes,
        "publish": lambda values: _ports("publish", values, _published),
        "expose": lambda values: _ports("expose", values, _exposed),
        "before": lambda values: _older(values, lookup),
        "since": lambda values: _newer(values, lookup),
        "isolation": lambda values: lambda _: True,  # of Windows; dockerd passes it over
        "is-task": lambda values: lambda _: not filters.boolean("is-task"),
    }
    tests: list[Test] = []
    for key in filters:
        if key == "label":
            tests.append(lambda zone: filters.match_labels(from_zone.labels(zone)))
        elif values := filters.get(key):
            tests.append(makers[key](values))
    return tests


def _names(values: tuple[str, ...]) -> Test:
    patterns: list[re.Pattern[str]] = []
    for value in values:
        # As dockerd: what is no pattern is still a name.
        with contextlib.suppress(re.error):
            patterns.append(re.compile(value))

    def test(zone: Zone) -> bool:
        name = zone.spec.alias
        return name in values or any(p.search(name) or p.search(f"/{name}") for p in patterns)

    return test


def _statuses(values: tuple[str, ...]) -> Test:
    for value in values:
        if value not in _STATUSES:
            raise InvalidParameter(
                f"invalid filter 'status={value}': invalid value for state ({value}): must be one of "
                "created, running, paused, restarting, removing, exited, dead"
            )
    return lambda zone: status(zone) in values


def _exited(values: tuple[str, ...]) -> Test:
    for value in values:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            raise InvalidParameter(
                f"invalid filter 'exited={value}': strconv.Atoi: parsing \"{value}\": invalid syntax"
            )
    codes = {int(value) for value in values}
    # As dockerd: a container that never ran has not exited, with whatever code.
    return lambda zone: status(zone) == "exited" and exit_code(zone) in codes


def _healths(values: tuple[str, ...], lookup: Lookup) -> Test:
    for value in values:
        if value not in _HEALTH:
            raise InvalidParameter(
                f"invalid filter 'health={value}': invalid value for health ({value}): must be one of "
                "none, starting, healthy, unhealthy"
            )

    def test(zone: Zone) -> bool:
        health = lookup.health(zone)
        return (health.status if health else "none") in values

    return test


def _ancestors(values: tuple[str, ...], lookup: Lookup) -> Test:
    ids = frozenset[str]().union(*(lookup.image_ids(value) for value in values))
    return lambda zone: zone.metadata.image_id in ids


def _networks(values: tuple[str, ...], lookup: Lookup) -> Test:
    def test(zone: Zone) -> bool:
        joined = [*from_zone.networks_joined(zone)] or [from_zone.network_mode(zone)]
        # Before its first start a container has the name of a network alone.
        known = lookup.networks if zone.started_ns else {}
        ids = [known[name].id for name in joined if name in known]
        return any(v in joined or any(i.startswith(v) for i in ids) for v in values)

    return test


def _volumes(values: tuple[str, ...]) -> Test:
    def test(zone: Zone) -> bool:
        known = {
            text
            for point in from_zone.mount_points(zone)
            for text in (point.name, point.source, point.destination)
        }
        return any(value in known for value in values)

    return test


def _published(zone: Zone) -> set[str]:
    return {f"{port.host_port}/{port.protocol}" for port in zone.ports}


def _exposed(zone: Zone) -> set[str]:
    """As dockerd: only while it runs."""
    return set(from_zone.config(zone).get("ExposedPorts", ())) if zone.is_running else set()


def _ports(key: str, values: tuple[str, ...], known: Callable[[Zone], set[str]]) -> Test:
    wanted: set[str] = set()
    for value in values:
        if ":" in value:
            raise APIError(f"filter for '{key}' should not contain ':': {value}")
        numbers, _, protocol = value.partition("/")
        try:
            start, end = parse_range(numbers)
        except ValueError as error:
            # Of digits alone every fault that is left is the size, or the order of a pair.
            fault = "value out of range" if numbers.isdecimal() else "invalid syntax"
            raise APIError(
                f"error while looking up for {key} {value}: strconv.ParseUint: "
                f"parsing {json.dumps(numbers)}: {fault}"
            ) from error
        wanted |= {f"{port}/{protocol.lower() or 'tcp'}" for port in range(start, end + 1)}
    return lambda zone: bool(known(zone) & wanted)


def _anchor(value: str, lookup: Lookup) -> int:
    """When the container of this id or name was made; the beginning of an id is none, as for dockerd."""
    zone = lookup.container(value)
    if value.removeprefix("/") not in (zone.metadata.id, zone.spec.alias):
        raise NoSuchContainer(value)
    return zone.created_ns


def _older(values: tuple[str, ...], lookup: Lookup) -> Test:
    moment = min(_anchor(value, lookup) for value in values)
    return lambda zone: zone.created_ns < moment


def _newer(values: tuple[str, ...], lookup: Lookup) -> Test:
    moment = max(_anchor(value, lookup) for value in values)
    return lambda zone: zone.created_ns > moment


@dataclass(frozen=True, slots=True)
class _Row:
    zone: Zone
    image: str
    names: tuple[str, ...]
    head: bytes
    tail: bytes


class Rows:
    """Serialised rows by zone."""

    def __init__(self) -> None:
        self._rows: dict[ZoneUUID, _Row] = {}

    def array(
        self,
        zones: Sequence[Zone],
        *,
        image_name: Callable[[Zone], str],
        networks: Mapping[str, Network],
        health: Callable[[Zone], Health | None],
        names: Mapping[str, tuple[str, ...]],
        now_ns: int,
    ) -> bytes:
        """The JSON array; `names`: further ones, by id.  Rows of zones that are not in memory any more are forgotten by `forget`."""
        parts: list[bytes] = []
        for zone in zones:
            row = self._rows.get(zone.uuid)
            image = image_name(zone)
            further = names.get(zone.metadata.id, ())
            if row is None or row.zone is not zone or (row.image, row.names) != (image, further):
                row = self._rows[zone.uuid] = _written(zone, image, networks, further)
            text = status_text(zone, now_ns, health(zone) if zone.is_running else None).encode()
            parts.append(b"%b%b%b" % (row.head, text, row.tail))
        return b"[" + b",".join(parts) + b"]\n"

    def forget(self, uuid: ZoneUUID) -> None:
        """The container is gone."""
        self._rows.pop(uuid, None)


def _written(
    zone: Zone, image: str, networks: Mapping[str, Network], names: tuple[str, ...]
) -> _Row:
    row = from_zone.row(zone, image=image, networks=networks, status_text="")
    row["Names"] = sorted([*names, *row["Names"]])
    del row["Status"]
    return _Row(zone, image, names, dumps(row)[:-1] + b',"Status":"', b'"}')


def with_size(array: bytes, sizes: Sequence[Mapping[str, int]]) -> bytes:
    """The rows with SizeRw and SizeRootFs, in the same order; what is 0 is left out."""
    rows: list[JSONObject] = json.loads(array)
    return (
        dumps(
            [
                {**row, **{k: v for k, v in size.items() if v}}
                for row, size in zip(rows, sizes, strict=True)
            ]
        )
        + b"\n"
    )


def dumps(value: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
