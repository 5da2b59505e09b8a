"""`vmadm events` as lines of a program that may end at any moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import CommandFailed
from dockerapi.framing import StreamId
from gateway.hosts.smartos import events
from gateway.hosts.smartos.events import Events, VMEvent, parse

UUID = "00000000-0000-4000-8000-000000000001"
VM = {"uuid": UUID, "state": "running"}
DATE = "2026-01-01T00:00:00.000Z"


def _line(**values: Any) -> bytes:
    return json.dumps({"date": DATE} | values).encode() + b"\n"


READY = _line(type="ready", vms={UUID: VM})
MODIFY = _line(type="modify", zonename=UUID, uuid=UUID, vm=VM, changes=[])


@pytest.mark.parametrize("vms", [[VM], {UUID: VM}, json.dumps([VM])])
def test_a_ready_event_has_all_vms_in_whichever_shape(vms: object) -> None:
    event = parse(_line(type="ready", vms=vms))
    assert event is not None
    assert (event.kind, event.vms) == ("ready", (VM,))


def test_a_change_has_its_vm_and_its_time() -> None:
    event = parse(MODIFY)
    assert event == VMEvent("modify", 1767225600_000_000_000, UUID, VM)
    gone = parse(_line(type="delete", zonename=UUID))
    assert gone is not None
    assert (gone.kind, gone.uuid, gone.vm) == ("delete", UUID, None)


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"1", _line(type="other"), _line(type="modify")]
)
def test_what_is_no_event_is_none(line: bytes) -> None:
    assert parse(line) is None


class _Program:
    """One that says these chunks and ends, or (`stays`) goes on in silence."""

    def __init__(self, chunks: Sequence[tuple[StreamId, bytes]], *, stays: bool = False) -> None:
        self._chunks = chunks
        self._stays = stays
        self.closed = False

    async def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        for chunk in self._chunks:
            yield chunk
        if self._stays:
            await asyncio.Event().wait()

    async def wait(self) -> int:
        return 1

    async def close(self) -> None:
        self.closed = True


class _Machine:
    """A global zone that has nothing but programs to come."""

    name = "there"

    def __init__(
        self, *programs: _Program | Exception, vms: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._programs = list(programs)
        self._vms = vms
        self.asked: list[tuple[str, ...]] = []

    async def spawn(self, argv: Sequence[str]) -> _Program:
        self.asked.append(tuple(argv))
        program = self._programs.pop(0)
        if isinstance(program, Exception):
            raise program
        return program

    async def run(self, argv: Sequence[str], **_: object) -> bytes:
        self.asked.append(tuple(argv))
        return json.dumps(self._vms).encode()


def _says(*lines: bytes) -> list[tuple[StreamId, bytes]]:
    return [(StreamId.STDOUT, line) for line in lines]


async def _first(machine: _Machine, count: int) -> list[VMEvent]:
    found: list[VMEvent] = []
    async with asyncio.timeout(10), aclosing(Events(machine).follow()) as following:  # type: ignore[arg-type]
        async for event in following:
            found.append(event)
            if len(found) == count:
                break
    return found


@given(st.lists(st.integers(1, 40), max_size=30))
def test_lines_may_come_cut_anywhere(cuts: list[int]) -> None:
    data = READY + MODIFY + MODIFY
    chunks, rest = [], data
    for cut in cuts:
        chunks.append(rest[:cut])
        rest = rest[cut:]
    machine = _Machine(_Program(_says(*chunks, rest), stays=True))
    kinds = [event.kind for event in asyncio.run(_first(machine, 3))]
    assert kinds == ["ready", "modify", "modify"]


async def test_a_ready_event_without_vms_costs_one_lookup() -> None:
    machine = _Machine(_Program(_says(_line(type="ready"), MODIFY), stays=True), vms=[VM])
    ready, modify = await _first(machine, 2)
    assert (ready.vms, modify.kind) == ((VM,), "modify")
    assert machine.asked == [("vmadm", "events", "-j", "-r"), ("vmadm", "lookup", "-j")]


async def test_another_program_closes_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_FIRST_DELAY_S", 0.0)
    first = _Program(_says(READY, MODIFY))
    machine = _Machine(
        first, OSError("no route"), _Program(_says()), _Program(_says(READY), stays=True)
    )
    kinds = [event.kind for event in await _first(machine, 3)]
    assert kinds == ["ready", "modify", "ready"]
    assert first.closed
    assert len(machine.asked) == 4


async def test_no_machine_at_all_is_said_at_once() -> None:
    words = [(StreamId.STDERR, b"vmadm: cannot reach vminfod\n")]
    with pytest.raises(CommandFailed, match="cannot reach vminfod"):
        await _first(_Machine(_Program(words)), 1)
