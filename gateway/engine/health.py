"""Health checks: when probes of containers run, and what is told of them.

A container with a check has one task while it runs, which sleeps from probe to probe; without any there is
nothing.  What a result means is translate/health.py.  Health lives in memory: it begins anew with the gateway.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field

from dockerapi.errors import APIError, NotFound
from dockerapi.models.execs import ExecCreate
from gateway.engine.execs import Execs
from gateway.engine.lifecycle import Lifecycle
from gateway.translate import from_zone, health
from gateway.translate.health import Check, Health, Result
from gateway.zones.host import Zone, ZoneHost, ZoneProcess
from gateway.zones.spec import ZoneState, ZoneUUID

log = logging.getLogger(__name__)

_SECOND = 1_000_000_000
_DEATH_S = 10.0
"""So long the next probe waits for the end of one that was killed."""


@dataclass(slots=True)
class _Watched:
    """A container with a check; `stop` ends its monitor, None = nobody probes it."""

    check: Check
    started_ns: int = 0
    health: Health = field(default_factory=Health)
    stop: asyncio.Event | None = None

    def end(self) -> None:
        """No probe after this; one under way is killed, and its result means nothing."""
        if self.stop is not None:
            self.stop.set()
            self.stop = None
            self.health = self.health.unwatched()


class Checks:
    """Health of all containers."""

    def __init__(
        self, zones: ZoneHost, execs: Execs, lifecycle: Lifecycle, group: asyncio.TaskGroup
    ) -> None:
        self._zones = zones
        self._execs = execs
        self._lifecycle = lifecycle
        self._group = group
        self._watched: dict[ZoneUUID, _Watched] = {}

    def of(self, zone: Zone) -> Health | None:
        """None: it has no check, or has never run."""
        if watched := self._watched.get(zone.uuid):
            return watched.health
        if zone.started_ns and health.check_of(from_zone.config(zone)):
            return Health().unwatched()  # it ended before this gateway began
        return None

    def note(self, zone: Zone) -> None:
        """Something may have happened to it; the host knows what is true now."""
        check = health.check_of(from_zone.config(zone))
        if check is None:
            return
        try:
            zone = self._zones.get(zone.uuid)
        except NotFound:
            self.forget(zone)
            return
        watched = self._watched.get(zone.uuid)
        if zone.state is not ZoneState.RUNNING:
            if watched:
                watched.end()
            return
        if watched is None:
            watched = self._watched[zone.uuid] = _Watched(check)
        if watched.started_ns != zone.started_ns:
            watched.end()
            watched.started_ns, watched.health = zone.started_ns, watched.health.restarted()
        if watched.stop is None:
            watched.stop = asyncio.Event()
            self._group.create_task(self._monitor(zone, watched, watched.stop))

    def forget(self, zone: Zone) -> None:
        """It is no more."""
        if watched := self._watched.pop(zone.uuid, None):
            watched.end()

    async def _monitor(self, zone: Zone, watched: _Watched, stop: asyncio.Event) -> None:
        try:
            while not await _within(stop, _wait_s(zone, watched)):
                result = await self._probe(zone, watched.check, stop)
                if not stop.is_set():
                    self._take(zone, watched, result)
        except Exception:
            # Whatever it is, it must not end the gateway.
            log.exception("container %s is not checked any more", zone.metadata.id)

    def _take(self, zone: Zone, watched: _Watched, result: Result) -> None:
        was = watched.health.status
        watched.health = watched.health.after(result, watched.check, zone.started_ns)
        if watched.health.status != was:
            action = f"health_status: {watched.health.status}"
            self._lifecycle.emit(self._zones.get(zone.uuid), action)

    async def _probe(self, zone: Zone, check: Check, stop: asyncio.Event) -> Result:
        """An exec like any other, with its events."""
        start_ns = time.time_ns()
        body = ExecCreate(cmd=list(check.argv), attach_stdout=True, attach_stderr=True)
        try:
            created = await self._execs.create(zone.metadata.id, body)
            exec_id = str(created["Id"])
            process = await self._execs.run(exec_id)
            code, text = await self._ended(exec_id, process, check, stop)
        except (APIError, OSError) as error:
            if not stop.is_set():
                log.warning("health check of container %s: %s", zone.metadata.id, error)
            code, text = -1, str(error)
        return Result(start_ns, time.time_ns(), code, text)

    async def _ended(
        self, exec_id: str, process: ZoneProcess, check: Check, stop: asyncio.Event
    ) -> tuple[int, str]:
        """Exit code and output; killed when its time is over, or `stop` is set."""
        kept = bytearray()
        killer = self._group.create_task(_kill_when(stop, process))
        try:
            async with asyncio.timeout(check.timeout_ns / _SECOND):
                await _collect(process, kept)
                code = await self._execs.ended(exec_id)
        except TimeoutError:
            await _kill(process)
            with suppress(TimeoutError):  # dying ones must not pile up
                async with asyncio.timeout(_DEATH_S):
                    await self._execs.ended(exec_id)
            return -1, health.exceeded(check.timeout_ns, health.output_text(bytes(kept)))
        except asyncio.CancelledError:
            await _kill(process)
            raise
        finally:
            killer.cancel()
        return code, health.output_text(bytes(kept))


def _wait_s(zone: Zone, watched: _Watched) -> float:
    up_ns = time.time_ns() - zone.started_ns
    return watched.check.wait_ns(watched.health.status, up_ns) / _SECOND


async def _within(event: asyncio.Event, timeout_s: float) -> bool:
    """Whether it is set before the time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


async def _collect(process: ZoneProcess, kept: bytearray) -> None:
    """What it writes, as far as it is kept; the rest is read all the same, or it would wait for us."""
    if process.stdio is None:
        return
    async for _, data in process.stdio.output():
        # One more than the limit tells that there was more.
        kept += data[: max(0, health.OUTPUT_LIMIT + 1 - len(kept))]


async def _kill_when(stop: asyncio.Event, process: ZoneProcess) -> None:
    await stop.wait()
    await _kill(process)


async def _kill(process: ZoneProcess) -> None:
    try:
        await process.kill()
    except (APIError, OSError) as error:
        log.warning("a health check cannot be ended: %s", error)
    if process.stdio is not None:
        await process.stdio.close()
