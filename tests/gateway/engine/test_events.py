"""The bus: replay, following, filters."""

from __future__ import annotations

import json
import time

import pytest

from dockerapi.engine import EventsQuery
from dockerapi.errors import InvalidParameter
from dockerapi.filters import Filters
from gateway.engine.events import KEPT, Bus, Event, matches


def container(action: str, **attributes: str) -> Event:
    """An event of a container."""
    return Event(
        "container", action, "abcd", {"name": "web", "image": "busybox:1", **attributes}, 1
    )


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"type": ["container"]}, True),
        ({"type": ["image"]}, False),
        ({"event": ["die", "start"]}, True),
        ({"event": ["exec_create"]}, False),
        ({"container": ["web"]}, True),
        ({"container": ["ab"]}, True),
        ({"container": ["x"]}, False),
        ({"image": ["busybox"]}, True),
        ({"image": ["busybox:1"]}, True),
        ({"image": ["busybox:2"]}, False),
        ({"label": ["exitCode"]}, True),
        ({"label": ["exitCode=1"]}, False),
        ({"network": ["web"]}, True),  # beginnings of names, whatever has them
        ({"network": ["x"]}, False),
        ({"scope": ["local"]}, True),
        ({"foo": ["x"]}, True),
    ],
)
def test_filters(filters: dict[str, list[str]], expected: bool) -> None:
    assert matches(container("die", exitCode="0"), Filters(filters)) is expected


def test_an_exec_is_found_by_the_first_word_of_its_action() -> None:
    assert matches(container("exec_create: ls -l"), Filters({"event": ["exec_create"]}))


def test_a_line_has_the_fields_of_old() -> None:
    line = json.loads(container("die").line())
    assert (line["status"], line["id"], line["from"]) == ("die", "abcd", "busybox:1")
    assert line["Actor"]["ID"] == "abcd"
    assert "status" not in json.loads(Event("network", "connect", "n", {}, 1).line())


async def test_past_events_come_first_and_the_stream_ends_at_until() -> None:
    bus = Bus()
    for number in range(3):
        bus.emit("container", f"a{number}", "x", {}, time_ns=number)
    query = EventsQuery(since_ns=1, until_ns=time.time_ns())
    assert [json.loads(line)["Action"] async for line in bus.stream(query)] == ["a1", "a2"]


async def test_a_stream_without_since_begins_when_it_is_asked_for() -> None:
    bus = Bus()
    bus.emit("container", "before", "x", {})
    stream = bus.stream(EventsQuery())
    bus.emit("container", "after", "x", {})
    async for line in stream:
        assert json.loads(line)["Action"] == "after"
        break


async def test_the_ring_keeps_the_last_ones() -> None:
    bus = Bus()
    for number in range(KEPT + 5):
        bus.emit("container", str(number), "x", {}, time_ns=number)
    query = EventsQuery(since_ns=0, until_ns=time.time_ns())
    lines = [json.loads(line)["Action"] async for line in bus.stream(query)]
    assert (len(lines), lines[0]) == (KEPT, "5")


async def test_since_after_until_is_refused() -> None:
    with pytest.raises(InvalidParameter, match=r"`since` time .* cannot be after `until` time"):
        Bus().stream(EventsQuery(since_ns=2, until_ns=1))
