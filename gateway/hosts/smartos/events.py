"""`vmadm events -j -r`: one program for the host's life, whose lines say how every VM of the machine changes.

    ready    all VM objects: the truth at this moment; comes first, and again after every gap
    create, modify    one VM object, whole
    delete   its uuid

The program may end and the connection may be lost: it is started again, later each time, and its ready
event closes the gap.  What follows from a change is decided by who reads.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from dockerapi.errors import APIError, CommandFailed
from dockerapi.framing import StreamId
from gateway.hosts.smartos import vmadm
from gateway.hosts.smartos.globalzone import GlobalZone, Program
from gateway.hosts.smartos.vmadm import VM

log = logging.getLogger(__name__)

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.2, 15.0
_STEADY_S = 30.0
"""A program that ran so long had no fault of its own: the next one is started at once."""
_READY_S = 60.0
_LONGEST_LINE = 256 << 20
_ERRORS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class VMEvent:
    """One line.  `vm` of create and modify (None where the platform left it out), `vms` of ready."""

    kind: Literal["ready", "create", "modify", "delete"]
    time_ns: int
    uuid: str = ""
    vm: VM | None = None
    vms: tuple[VM, ...] | None = field(default=None)


def parse(line: bytes) -> VMEvent | None:
    """An event out of a line; None for what is none.

    vminfod serialises the VMs of its ready event twice (an array as JSON text), and passes them as an
    object by uuid to those who asked for them parsed: both are taken.  Where the line has none, they are
    None, and must be looked up.
    """
    try:
        values = json.loads(line)
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    moment = vmadm.time_ns(values.get("date") or values.get("ts")) or time.time_ns()
    match values.get("type"):
        case "ready":
            return VMEvent("ready", moment, vms=_vms(values.get("vms")))
        case "create" | "modify" | "delete" as kind:
            uuid = values.get("uuid") or values.get("zonename")
            vm = values.get("vm")
            if not uuid:
                return None
            return VMEvent(kind, moment, str(uuid), vm if isinstance(vm, dict) else None)
    return None


def _vms(value: Any) -> tuple[VM, ...] | None:
    if isinstance(value, str):
        value = json.loads(value)
    if isinstance(value, dict):
        value = list(value.values())
    return tuple(value) if isinstance(value, list) else None


class Events:
    """The events of one machine, for one reader.  `lost` is set while there is a gap."""

    def __init__(self, gz: GlobalZone) -> None:
        self._gz = gz
        self._delay_s = 0.0
        self.lost = ""
        """Why nothing is heard from the machine, "" while something is."""

    async def follow(self) -> AsyncGenerator[VMEvent, None]:
        """Events without end.  The first one of every program is `ready`, with `vms`.

        CommandFailed or Unavailable only before the very first: there is no such machine.
        """
        heard = False
        while True:
            began = time.monotonic()
            try:
                async with aclosing(self._once()) as events:
                    async for event in events:
                        self.lost, heard = "", True
                        yield event
                raise CommandFailed("vmadm", 0, "vmadm events has ended")
            except (APIError, OSError, TimeoutError) as error:
                if not heard:
                    raise
                self.lost = str(error) or type(error).__name__
            log.warning("no events from %s: %s", self._gz.name, self.lost)
            await self._pause(time.monotonic() - began)

    async def _pause(self, ran_s: float) -> None:
        if ran_s > _STEADY_S:
            self._delay_s = 0.0
        self._delay_s = min(max(self._delay_s * 2, _FIRST_DELAY_S), _LONGEST_DELAY_S)
        await asyncio.sleep(self._delay_s)

    async def _once(self) -> AsyncGenerator[VMEvent, None]:
        """Of one program."""
        program = await self._gz.spawn(("vmadm", "events", "-j", "-r"))
        said = bytearray()
        try:
            lines = _lines(program, said)
            async with asyncio.timeout(_READY_S):
                first = await self._ready(lines, said, program)
            yield first
            async for line in lines:
                event = parse(line)
                if event is None:
                    log.warning("a line of vmadm events is no event: %.200r", line)
                elif event.kind == "ready":
                    yield await self._complete(event)
                else:
                    yield event
        finally:
            await program.close()

    async def _ready(
        self, lines: AsyncIterator[bytes], said: bytearray, program: Program
    ) -> VMEvent:
        async for line in lines:
            event = parse(line)
            if event is not None and event.kind == "ready":
                return await self._complete(event)
        status = await program.wait()
        raise CommandFailed("vmadm", status, said.decode(errors="replace"))

    async def _complete(self, ready: VMEvent) -> VMEvent:
        """With the VMs.  Events that come meanwhile wait in the pipe, and are told after."""
        if ready.vms is not None:
            return ready
        return VMEvent("ready", ready.time_ns, vms=tuple(await vmadm.lookup(self._gz)))


async def _lines(program: Program, said: bytearray) -> AsyncIterator[bytes]:
    """Lines of its standard output; the beginning of what it says on the other goes into `said`."""
    parts: list[bytes] = []
    size = 0
    async for stream, data in program.output():
        if stream is StreamId.STDERR:
            said += data[: _ERRORS_KEPT - len(said)]
            continue
        # A ready event has one line of megabytes: what has come of it is looked at once only.
        *whole, rest = data.split(b"\n")
        if whole:
            yield b"".join([*parts, whole[0]])
            for line in whole[1:]:
                yield line
            parts, size = [], 0
        parts.append(rest)
        size += len(rest)
        if size > _LONGEST_LINE:
            raise CommandFailed("vmadm", 0, "vmadm events: a line without end")
