"""Runs of zones: from a start to an exit, by hand or by the restart policy.

    start   prepared (boot.py) -> attaches connected -> known as running -> let go by the runtime
    exit    conmon's exit file, or conmon's own end -> told -> restart decided -> cleared away
    stop    signal, wait, SIGKILL

An exit is told first (clients wait for it) and cleared away afterwards; a start or delete that follows
waits for that.  The caller holds the zone's lock for `start` and `stop`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal as signal_numbers
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dockerapi.errors import APIError
from gateway.hosts.linux import boot, conmon, records, signals
from gateway.hosts.linux.accepted import accepted
from gateway.hosts.linux.boot import Parts
from gateway.hosts.linux.reaper import reap_when_ended
from gateway.hosts.linux.register import Register
from gateway.hosts.linux.resident import Resident
from gateway.hosts.linux.survivors import read_exit
from gateway.hosts.linux.watch import FolderWatch
from gateway.zones.host import Zone, ZoneChange
from gateway.zones.spec import ZoneState, ZoneUUID, is_uuid

log = logging.getLogger(__name__)

KILL_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0


class Runs:
    """Starts and ends zones of the register."""

    def __init__(self, parts: Parts, register: Register, watch: FolderWatch) -> None:
        self._parts = parts
        self._register = register
        self.before_start: Callable[[Zone], Awaitable[None]] | None = None
        self._watch = watch

    # -- start -----------------------------------------------------------------------------------

    async def start(self, resident: Resident, **values: Any) -> Zone:
        """Under the zone's lock.  After a failure nothing is left but `error`."""
        await resident.cleared.wait()
        resident.starting = True
        try:
            if self.before_start is not None:
                await self.before_start(resident.zone)
            prepared = await boot.prepare(self._parts, resident.zone, self.peer)
            await self._connect_attaches(resident)
            self._enter_running(resident, prepared, values)
            await conmon.start(self._parts.spawner, self._parts.runtime, resident.zone.uuid)
        except BaseException as error:
            await self._failed(resident, error)
            if isinstance(error, Exception):
                raise boot.failure(error) from error
            raise
        finally:
            resident.starting = False
        self._register.emit(ZoneChange.STARTED, resident.zone)
        if resident.early_exit is not None:
            code, resident.early_exit = resident.early_exit, None
            self.ended(resident, code, time.time_ns())
        return resident.zone

    def peer(self, value: str) -> Zone:
        ref = value.removeprefix("zone:")
        # What was not there at create is looked for by the name that was given.
        uuid = ZoneUUID(ref) if is_uuid(ref) else self._register.find(ref)
        return self._register.resident(uuid).zone

    async def _connect_attaches(self, resident: Resident) -> None:
        """Everybody who waits for this start, before it happens: nothing of the output is lost."""
        bundle = self._parts.folders.bundle(resident.zone.uuid)
        while waiting := resident.waiting_attaches():  # who comes meanwhile is taken along
            socks = []
            for stdio in waiting:
                socks.append(await conmon.client(bundle))
                stdio.connect(socks[-1])
            await accepted(socks)

    def _enter_running(
        self, resident: Resident, prepared: boot.Prepared, values: dict[str, Any]
    ) -> None:
        """Known as running before it runs: whoever kills us now finds it again, and no exit is missed."""
        resident.record = replace(
            resident.record,
            conmon_pid=prepared.conmon_pid,
            conmon_start=records.process_start(prepared.conmon_pid),
            pid_start=records.process_start(prepared.pid),
        )
        self._register.change(
            resident,
            None,
            state=ZoneState.RUNNING,
            started_ns=time.time_ns(),
            pid=prepared.pid,
            exit_status=0,
            error="",
            start_exit_code=0,
            oom_killed=False,
            manually_stopped=False,
            ports=prepared.ports,
            root=prepared.root,
            **values,
        )
        self.follow(resident)

    def follow(self, resident: Resident) -> None:
        """Whatever is to be heard of a run: its end, conmon's end, processes killed for want of memory."""
        ended = functools.partial(self.conmon_ended, resident)
        resident.watch(resident.zone.pid, resident.record.conmon_pid, ended)
        folder = self._parts.folders.bundle(resident.zone.uuid).persist
        try:
            self._watch.add(folder, functools.partial(self._touched, resident), touched=True)
        except OSError as error:  # the user's inotify watches are used up: it is known when it ends
            log.warning("zone %s: out of memory is told at its end: %s", resident.zone.uuid, error)

    def _touched(self, resident: Resident, name: str) -> None:
        """A file of conmon's.  Folders of earlier runs are removed, so this is of the run that is."""
        if name == conmon.OOM and resident.is_up:
            self._register.happened(resident, ZoneChange.OOM, oom_killed=True)

    async def _failed(self, resident: Resident, error: BaseException) -> None:
        shown = boot.failure(error) if isinstance(error, Exception) else APIError("cancelled")
        resident.unwatch()
        resident.early_exit = None
        pid = resident.zone.pid
        if pid and records.process_start(pid) == resident.record.pid_start:
            with suppress(ProcessLookupError):
                os.kill(pid, signal_numbers.SIGKILL)
        resident.abandon_attaches()
        self._register.happened(
            resident,
            None,
            state=ZoneState.STOPPED,
            pid=0,
            ports=(),
            root="",
            error=shown.message,
            start_exit_code=boot.exit_code(shown),
        )
        resident.stopped.set()
        await boot.clear(self._parts, resident.zone)

    # -- exit ------------------------------------------------------------------------------------

    def exit_appeared(self, name: str) -> None:
        """A file in the exits folder was finished."""
        if not is_uuid(name):
            return  # conmon writes ID.XXXXXX and renames it: that one must be left alone
        resident = self._register.zones.get(ZoneUUID(name))
        if resident is None or not (resident.is_up or resident.starting):
            (self._parts.runtime.exits / name).unlink(missing_ok=True)  # of a start that failed
            return
        code = read_exit(self._parts.runtime.exits / name)
        if code is None:
            return
        if resident.starting:
            resident.early_exit = code
        else:
            self.ended(resident, code, time.time_ns())

    def conmon_ended(self, resident: Resident) -> None:
        """conmon is gone: with an exit file as it should be, or killed."""
        if not resident.is_up:
            return
        # conmon writes its code twice: here in case the common folder could not take it.
        bundle = self._parts.folders.bundle(resident.zone.uuid)
        code = read_exit(self._parts.runtime.exits / resident.zone.uuid)
        if code is None:
            code = read_exit(bundle.persist / "exit")
        if code is None:
            log.error("zone %s: conmon ended without an exit code", resident.zone.uuid)
            with suppress(ProcessLookupError):
                os.kill(resident.zone.pid, signal_numbers.SIGKILL)
            code = 137
        if resident.starting:
            resident.early_exit = code
        else:
            self.ended(resident, code, time.time_ns())

    def ended(self, resident: Resident, code: int, finished_ns: int) -> None:
        """The zone has stopped: tell it, decide on a restart, clear away."""
        zone = resident.zone
        resident.unwatch()
        reap_when_ended(resident.record.conmon_pid)
        oom = self._parts.folders.bundle(zone.uuid).oomed
        again = not resident.deleted and resident.wants_restart(code) and not self._register.closing
        resident.cleared.clear()
        self._register.happened(
            resident,
            ZoneChange.STOPPED,
            state=ZoneState.RESTARTING if again else ZoneState.STOPPED,
            pid=0,
            exit_status=code,
            finished_ns=finished_ns,
            oom_killed=oom,
            ports=(),
            root="",
            restart_count=zone.restart_count + again,
        )
        resident.forget_attaches()
        self._parts.sources.leave(zone.uuid)
        resident.stopped.set()
        log.info("zone %s stopped: exit status %d", zone.uuid, code)
        if again:
            ran_s = (finished_ns - zone.started_ns) / 1e9
            resident.schedule(ran_s, lambda: self._register.later(self._start_again(resident)))
        else:
            resident.end_logs()
        self._register.later(self._clear(resident))

    async def _clear(self, resident: Resident) -> None:
        uuid = resident.zone.uuid
        try:
            await boot.clear(self._parts, resident.zone)
            (self._parts.runtime.exits / uuid).unlink(missing_ok=True)
        except Exception:
            # Whatever it is, it must not end the gateway.
            log.exception("zone %s: clearing away failed", uuid)
        finally:
            resident.cleared.set()

    async def _start_again(self, resident: Resident) -> None:
        """The policy's restart, unless somebody was quicker."""
        async with resident.lock:
            if (
                resident.zone.state is not ZoneState.RESTARTING
                or resident.deleted
                or self._register.closing
            ):
                return
            try:
                await self.start(resident)
            except APIError as error:
                # dockerd gives up here as well: only exits are retried.
                log.warning("zone %s does not start again: %s", resident.zone.uuid, error.message)
                resident.end_logs()
                self._register.emit(ZoneChange.UPDATED, resident.zone)

    # -- signals ---------------------------------------------------------------------------------

    async def stop(self, resident: Resident, number: int, timeout_s: float | None) -> bool:
        """Whether there was something to stop; under the lock."""
        if resident.zone.state is ZoneState.RESTARTING:
            resident.cancel_restart()
            resident.end_logs()
            self._register.happened(
                resident, ZoneChange.UPDATED, state=ZoneState.STOPPED, manually_stopped=True
            )
            return True
        if not resident.is_up:
            return False
        self.stopped_by_hand(resident)
        if timeout_s is None:
            grace = resident.zone.metadata.runtime.stop_timeout_s
            timeout_s = _STOP_TIMEOUT_S if grace is None else grace
        if timeout_s != 0:
            await self.send(resident, number)
            try:
                async with asyncio.timeout(None if timeout_s < 0 else timeout_s):
                    await resident.stopped.wait()
            except TimeoutError:
                log.info("zone %s does not end by signal %d: killed", resident.zone.uuid, number)
        if resident.is_up:
            self._register.emit(ZoneChange.KILLED, resident.zone)
            await self.send(resident, signal_numbers.SIGKILL)
            async with asyncio.timeout(KILL_TIMEOUT_S):
                await resident.stopped.wait()
        return True

    def ends_policy(self, resident: Resident, number: int) -> bool:
        """Whether a signal by hand keeps the policy from acting at the next exit."""
        metadata = resident.zone.metadata
        return (
            number in (signal_numbers.SIGKILL, stop_number(resident, None))
            # dockerd asks for the container's own stop signal, and looks no further where it has none.
            or not metadata.runtime.stop_signal
            or metadata.restart_policy == "unless-stopped"
        )

    def stopped_by_hand(self, resident: Resident) -> None:
        """Told to end: the policy does not start it again."""
        resident.no_restart = True
        self._register.happened(resident, None, manually_stopped=True)

    async def send(self, resident: Resident, number: int) -> None:
        """A frozen process takes no signal, not even SIGKILL, until it is thawed."""
        resident.send(number)
        if resident.zone.state is ZoneState.PAUSED and (
            number in (signal_numbers.SIGKILL, stop_number(resident, None))
        ):
            await self._parts.cgroups.thaw(boot.cgroup(self._parts, resident.zone))
            if resident.zone.state is ZoneState.PAUSED:
                self._register.happened(resident, ZoneChange.UNPAUSED, state=ZoneState.RUNNING)


def stop_number(resident: Resident, name: str | None) -> int:
    """The signal of this name, or else the zone's own stop signal."""
    return signals.number(name or resident.zone.metadata.runtime.stop_signal or "SIGTERM")
