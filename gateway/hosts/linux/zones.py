"""The zones of this machine: `ZoneHost` over conmon, the OCI runtime and overlay roots.

    created/stopped --start--> running --exit file--> stopped | restarting --timer--> running
    kept in zone.json at every change; `adopt` finds it all again after the gateway was killed

An exit is told first (clients wait for it) and cleared away afterwards; a start or delete that follows
waits for that.  How one zone comes up and goes: boot.py; its streams: stdio.py; policy: restarter.py.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal as signal_numbers
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dockerapi.errors import (
    APIError,
    Conflict,
    NameInUse,
    NoSuchContainer,
    NotModified,
    NotRunning,
    NotSupported,
)
from dockerapi.framing import StreamId
from gateway.hosts.linux import boot, conmon, records, relimit, rotation, signals, survivors
from gateway.hosts.linux.accepted import accepted
from gateway.hosts.linux.boot import Parts
from gateway.hosts.linux.checks import check
from gateway.hosts.linux.execs import Exec, Execs
from gateway.hosts.linux.logs import read_logs
from gateway.hosts.linux.process import exec_process
from gateway.hosts.linux.reaper import reap_when_ended
from gateway.hosts.linux.records import Record
from gateway.hosts.linux.resident import Resident
from gateway.hosts.linux.stdio import AttachStdio
from gateway.hosts.linux.survivors import lives, read_all, read_exit, sweep, throw_away, write_new
from gateway.hosts.linux.users import resolve
from gateway.zones.host import AttachStreams, LogQuery, Process, Zone, ZoneChange, ZoneEvent
from gateway.zones.metadata import decode
from gateway.zones.spec import ZoneSpec, ZoneState, ZoneUUID, is_uuid
from imgsources.oci import ImageUUID

log = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 10.0
_KILL_TIMEOUT_S = 30.0


class LinuxZones:
    """Satisfies gateway.zones.host.ZoneHost.  `group` outlives every call and is the host's."""

    def __init__(self, parts: Parts, execs: Execs, group: asyncio.TaskGroup) -> None:
        self._parts = parts
        self._execs = execs
        self._group = group
        self._zones: dict[ZoneUUID, Resident] = {}
        self._aliases: dict[str, ZoneUUID] = {}
        self._events: deque[ZoneEvent] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._background: set[asyncio.Task[None]] = set()

    # -- what is known ---------------------------------------------------------------------------

    def list(self) -> Sequence[Zone]:
        """Oldest first."""
        return [resident.zone for resident in self._zones.values()]

    def get(self, uuid: ZoneUUID) -> Zone:
        """From memory."""
        return self._resident(uuid).zone

    def _resident(self, uuid: ZoneUUID) -> Resident:
        try:
            return self._zones[uuid]
        except KeyError:
            raise NoSuchContainer(uuid) from None

    @asynccontextmanager
    async def held(self, uuid: ZoneUUID) -> AsyncIterator[Zone]:
        """Nobody starts, stops or deletes it inside the block."""
        resident = self._resident(uuid)
        async with resident.lock:
            await resident.cleared.wait()
            yield self._resident(uuid).zone

    async def events(self) -> AsyncIterator[ZoneEvent]:
        """Every change from the opening of the host on; for one consumer."""
        while True:
            while self._events:
                yield self._events.popleft()
            self._wake.clear()
            await self._wake.wait()

    def _emit(self, change: ZoneChange, zone: Zone) -> None:
        self._events.append(ZoneEvent(change, zone, time.time_ns()))
        self._wake.set()

    def _change(self, resident: Resident, change: ZoneChange | None, **values: Any) -> Zone:
        """A new value of the zone: told first, then written."""
        zone = replace(resident.zone, **values)
        resident.record = resident.record.with_zone(zone)
        if change is not None:
            self._emit(change, zone)
        if not resident.deleted:
            records.write(self._parts.folders.zone(zone.uuid), resident.record)
        return zone

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that nobody waits for but `settled`."""
        task = self._group.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- opening and closing ---------------------------------------------------------------------

    async def adopt(self) -> None:
        """Take over the zones of an earlier life; remove what it left half done."""
        found = await asyncio.to_thread(read_all, self._parts.folders.data / "zones")
        for record in sorted(found, key=lambda record: record.zone.created_ns):
            zone = record.zone
            self._zones[zone.uuid] = Resident(record)
            self._aliases[zone.spec.alias] = zone.uuid
            self._parts.networks.learn(zone.uuid, zone.spec.nics)
        up = [resident for resident in self._zones.values() if resident.is_up]
        live = [resident for resident in up if lives(resident.record)]
        await self._parts.networks.adopt(
            {
                r.zone.uuid: (r.zone.spec.nics, r.zone.ports)
                for r in live
                if not r.zone.metadata.runtime.network
            }
        )
        for resident in live:
            zone = resident.zone
            ended = functools.partial(self._conmon_ended, resident)
            resident.watch(zone.pid, resident.record.conmon_pid, ended)
            await survivors.finish_start(self._parts, zone.uuid)
        for resident in up:
            if resident not in live:
                self._settle_dead(resident)
        await self._sweep()

    def _settle_dead(self, resident: Resident) -> None:
        """It ended while nobody looked, or its conmon did."""
        zone = resident.zone
        path = self._parts.runtime.exits / zone.uuid
        code = read_exit(path)
        finished_ns = path.stat().st_mtime_ns if code is not None else time.time_ns()
        if code is None and records.process_start(zone.pid) == resident.record.pid_start != 0:
            os.kill(zone.pid, signal_numbers.SIGKILL)
        resident.stopped.clear()
        self._ended(resident, 137 if code is None else code, finished_ns)

    async def _sweep(self) -> None:
        """Folders of zones that are not ours any more, and remains of runs that ended with the gateway."""
        for zone in self._parts.datasets.zones() - {str(uuid) for uuid in self._zones}:
            await self._parts.datasets.discard(zone)
        up = {str(resident.zone.uuid) for resident in self._zones.values() if resident.is_up}
        known = {str(uuid) for uuid in self._zones}
        remains = await asyncio.to_thread(sweep, self._parts, known, up)
        for name in remains - known:  # a probe, or a zone whose deletion was cut off
            await boot.clear_cgroup(
                self._parts, self._parts.cgroups.path(name, default_parent=self._parts.name)
            )
        for name in remains & known:
            resident = self._zones[ZoneUUID(name)]
            if resident.cleared.is_set():
                await boot.clear(self._parts, resident.zone)

    def look_for_exits(self) -> None:
        """Exit files that came before the folder was watched."""
        for path in self._parts.runtime.exits.iterdir():
            self.exit_appeared(path.name)

    async def run(self) -> None:
        """Start what dockerd starts at its own start, then look after logs that are to be rotated."""
        async with asyncio.TaskGroup() as group:
            for resident in tuple(self._zones.values()):
                if resident.starts_with_host:
                    group.create_task(self._boot(resident))
        while True:
            await asyncio.sleep(rotation.INTERVAL_S)
            for resident in self._zones.values():
                if resident.is_up:
                    uuid = resident.zone.uuid
                    bundle = self._parts.folders.bundle(uuid)
                    resident.rotate_log(self._parts.folders.log(uuid), bundle.reopen_log)

    async def _boot(self, resident: Resident) -> None:
        try:
            async with resident.lock:
                if not resident.is_up and not resident.deleted:
                    await self._start(resident)
        except APIError as error:
            log.warning("zone %s does not start: %s", resident.zone.uuid, error.message)
            self._emit(ZoneChange.UPDATED, resident.zone)

    def close(self) -> None:
        """No restart by policy any more, no look at processes; attached clients are let go."""
        self._closing = True
        for resident in self._zones.values():
            resident.cancel_restart()
            resident.unwatch()
            resident.end_logs()

    async def settled(self) -> None:
        """Everything that stopped or was deleted is cleared away."""
        while self._background:
            await asyncio.wait(self._background)

    # -- create, rename, delete ------------------------------------------------------------------

    async def create(self, spec: ZoneSpec) -> Zone:
        """Files only; the root is mounted at the start."""
        metadata = decode(spec.internal_metadata)
        uuid = ZoneUUID(spec.uuid)
        zone = Zone(spec, metadata, ZoneState.STOPPED, created_ns=time.time_ns())
        check(zone)
        if uuid in self._zones:
            raise Conflict(f"zone {uuid} exists")
        self._reserve(spec.alias, uuid)
        resident = Resident(Record.of(zone))
        folder = self._parts.folders.zone(uuid)
        try:
            self._parts.networks.learn(uuid, spec.nics)
            await self._parts.datasets.clone(ImageUUID(spec.image_uuid), uuid)
            write_new(folder, resident.record)
        except BaseException:
            del self._aliases[spec.alias]
            self._discard_later(uuid)
            raise
        self._zones[uuid] = resident
        self._emit(ZoneChange.CREATED, zone)
        return zone

    def _reserve(self, alias: str, uuid: ZoneUUID) -> None:
        holder = self._aliases.get(alias)
        if holder is not None:
            known = self._zones.get(holder)
            raise NameInUse(alias, known.zone.metadata.id if known else holder)
        self._aliases[alias] = uuid

    async def rename(self, uuid: ZoneUUID, alias: str) -> Zone:
        """The old name is free at once."""
        resident = self._resident(uuid)
        spec = resident.zone.spec
        self._reserve(alias, uuid)
        if self._aliases.get(spec.alias) == uuid:
            del self._aliases[spec.alias]
        return self._change(
            resident, ZoneChange.UPDATED, spec=spec.model_copy(update={"alias": alias})
        )

    async def update(self, uuid: ZoneUUID, spec: ZoneSpec) -> Zone:
        """Limits into the cgroup of a zone that runs; everything into its record."""
        resident, data = self._resident(uuid), decode(spec.internal_metadata)
        async with resident.lock:
            if resident.is_up:
                path, limits = boot.cgroup(self._parts, resident.zone), data.runtime.resources
                await asyncio.to_thread(relimit.apply, self._parts.cgroups, path, limits)
            resident.take_policy(data.restart_policy)
            return self._change(resident, ZoneChange.UPDATED, spec=spec, metadata=data)

    async def delete(self, uuid: ZoneUUID) -> None:
        """Gone for every caller on return; files, mounts and addresses follow."""
        resident = self._resident(uuid)
        if resident.deleted:
            raise Conflict(
                f"removal of container {resident.zone.metadata.id} is already in progress"
            )
        resident.deleted = True
        try:
            resident.cancel_restart()
            await self._end(resident)
        except BaseException:
            resident.deleted = False
            raise
        del self._zones[uuid]
        if self._aliases.get(resident.zone.spec.alias) == uuid:
            del self._aliases[resident.zone.spec.alias]
        resident.end_logs()
        resident.abandon_attaches()
        (self._parts.folders.zone(uuid) / records.FILE).unlink(missing_ok=True)
        self._emit(ZoneChange.DELETED, resident.zone)
        self._later(self._remove(resident))

    async def _end(self, resident: Resident) -> None:
        """SIGKILL and wait until it has stopped; a start under way is waited for."""
        while resident.is_up or resident.lock.locked():
            if resident.is_up:
                await self._send(resident, signal_numbers.SIGKILL)
                async with asyncio.timeout(_KILL_TIMEOUT_S):
                    await resident.stopped.wait()
            async with resident.lock:
                pass

    async def _remove(self, resident: Resident) -> None:
        uuid = resident.zone.uuid
        await resident.cleared.wait()
        self._parts.networks.release(uuid)
        await self._discard(uuid)

    def _discard_later(self, uuid: ZoneUUID) -> None:
        self._parts.networks.release(uuid)
        self._later(self._discard(uuid))

    async def _discard(self, uuid: ZoneUUID) -> None:
        """Root, log, own volumes: out of the way at once, off the disk in a thread."""
        try:
            await self._parts.datasets.discard(uuid)
            await asyncio.to_thread(throw_away, self._parts, uuid)
        except (OSError, APIError):
            log.exception("zone %s: files are left", uuid)

    # -- start -----------------------------------------------------------------------------------

    async def start(self, uuid: ZoneUUID) -> Zone:
        """Running, or already ended."""
        resident = self._resident(uuid)
        async with resident.lock:
            self._check_startable(resident)
            resident.cancel_restart()
            resident.reset_restarts()
            return await self._start(resident, restart_count=0)

    def _check_startable(self, resident: Resident) -> None:
        if resident.deleted:
            raise Conflict(
                f"container is marked for removal and cannot be started: {resident.zone.metadata.id}"
            )
        if resident.zone.state is ZoneState.PAUSED:
            raise Conflict("cannot start a paused container, try unpause instead")
        if resident.is_up:
            raise NotModified(f"zone {resident.zone.uuid} runs")

    async def _start(self, resident: Resident, **values: Any) -> Zone:
        """Under the zone's lock.  After a failure nothing is left but `error`."""
        await resident.cleared.wait()
        resident.starting = True
        try:
            prepared = await boot.prepare(self._parts, resident.zone, self._peer)
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
        self._emit(ZoneChange.STARTED, resident.zone)
        if resident.early_exit is not None:
            code, resident.early_exit = resident.early_exit, None
            self._ended(resident, code, time.time_ns())
        return resident.zone

    def _peer(self, value: str) -> Zone:
        uuid = ZoneUUID(value.removeprefix("zone:"))
        zone = self._resident(uuid).zone
        if not zone.is_running:
            raise Conflict(f"cannot join network of a non running container: {zone.metadata.id}")
        return zone

    async def _connect_attaches(self, resident: Resident) -> None:
        """Everybody who waits for this start, before it happens: nothing of the output is lost."""
        bundle = self._parts.folders.bundle(resident.zone.uuid)
        while waiting := resident.waiting_attaches():  # who comes meanwhile is taken along
            socks = [bundle.connect() for _ in waiting]
            for stdio, sock in zip(waiting, socks, strict=True):
                stdio.connect(sock)
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
        self._change(
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
        resident.watch(prepared.pid, prepared.conmon_pid, lambda: self._conmon_ended(resident))

    async def _failed(self, resident: Resident, error: BaseException) -> None:
        shown = boot.failure(error) if isinstance(error, Exception) else APIError("cancelled")
        resident.unwatch()
        resident.early_exit = None
        pid = resident.zone.pid
        if pid and records.process_start(pid) == resident.record.pid_start:
            with suppress(ProcessLookupError):
                os.kill(pid, signal_numbers.SIGKILL)
        resident.abandon_attaches()
        self._change(
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
        resident = self._zones.get(ZoneUUID(name))
        if resident is None or not (resident.is_up or resident.starting):
            (self._parts.runtime.exits / name).unlink(missing_ok=True)  # of a start that failed
            return
        code = read_exit(self._parts.runtime.exits / name)
        if code is None:
            return
        if resident.starting:
            resident.early_exit = code
        else:
            self._ended(resident, code, time.time_ns())

    def _conmon_ended(self, resident: Resident) -> None:
        """conmon is gone: with an exit file as it should be, or killed."""
        if not resident.is_up:
            return
        # conmon writes its code twice: here in case the common folder could not take it.
        bundle = self._parts.folders.bundle(resident.zone.uuid)
        code = read_exit(self._parts.runtime.exits / resident.zone.uuid)
        if code is None:
            code = read_exit(bundle.path / "persist" / "exit")
        if code is None:
            log.error("zone %s: conmon ended without an exit code", resident.zone.uuid)
            with suppress(ProcessLookupError):
                os.kill(resident.zone.pid, signal_numbers.SIGKILL)
            code = 137
        if resident.starting:
            resident.early_exit = code
        else:
            self._ended(resident, code, time.time_ns())

    def _ended(self, resident: Resident, code: int, finished_ns: int) -> None:
        """The zone has stopped: tell it, decide on a restart, clear away."""
        zone = resident.zone
        resident.unwatch()
        reap_when_ended(resident.record.conmon_pid)
        oom = self._parts.folders.bundle(zone.uuid).oomed
        if oom:
            self._emit(ZoneChange.OOM, zone)
        again = not resident.deleted and resident.wants_restart(code) and not self._closing
        resident.cleared.clear()
        self._change(
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
        resident.stopped.set()
        log.info("zone %s stopped: exit status %d", zone.uuid, code)
        if again:
            ran_s = (finished_ns - zone.started_ns) / 1e9
            resident.schedule(ran_s, lambda: self._later(self._start_again(resident)))
        else:
            resident.end_logs()
        self._later(self._clear(resident))

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
            if resident.zone.state is not ZoneState.RESTARTING or resident.deleted or self._closing:
                return
            try:
                await self._start(resident)
            except APIError as error:
                # dockerd gives up here as well: only exits are retried.
                log.warning("zone %s does not start again: %s", resident.zone.uuid, error.message)
                resident.end_logs()
                self._emit(ZoneChange.UPDATED, resident.zone)

    # -- signals ---------------------------------------------------------------------------------

    async def stop(self, uuid: ZoneUUID, *, signal: str | None, timeout_s: float | None) -> Zone:
        """Signal, wait, SIGKILL."""
        resident = self._resident(uuid)
        number = self._stop_number(resident, signal)
        async with resident.lock:
            publishes = bool(resident.zone.ports)
            if not await self._stop(resident, number, timeout_s):
                raise NotModified(f"zone {uuid} does not run")
            if publishes:
                # Whoever stops it may want its ports at once.
                await resident.cleared.wait()
            return resident.zone

    async def restart(self, uuid: ZoneUUID, *, signal: str | None, timeout_s: float | None) -> Zone:
        """Under one lock, so that nobody sees it stopped and takes it away."""
        resident = self._resident(uuid)
        number = self._stop_number(resident, signal)
        async with resident.lock:
            await self._stop(resident, number, timeout_s)
            resident.reset_restarts()
            return await self._start(resident, restart_count=0)

    def _stop_number(self, resident: Resident, name: str | None) -> int:
        return signals.number(name or resident.zone.metadata.runtime.stop_signal or "SIGTERM")

    async def _stop(self, resident: Resident, number: int, timeout_s: float | None) -> bool:
        """Whether there was something to stop; under the lock."""
        if resident.zone.state is ZoneState.RESTARTING:
            resident.cancel_restart()
            resident.end_logs()
            self._change(
                resident, ZoneChange.UPDATED, state=ZoneState.STOPPED, manually_stopped=True
            )
            return True
        if not resident.is_up:
            return False
        self._stopped_by_hand(resident)
        if timeout_s is None:
            grace = resident.zone.metadata.runtime.stop_timeout_s
            timeout_s = _STOP_TIMEOUT_S if grace is None else grace
        if timeout_s != 0:
            await self._send(resident, number)
            try:
                async with asyncio.timeout(None if timeout_s < 0 else timeout_s):
                    await resident.stopped.wait()
            except TimeoutError:
                log.info("zone %s does not end by signal %d: killed", resident.zone.uuid, number)
        if resident.is_up:
            await self._send(resident, signal_numbers.SIGKILL)
            async with asyncio.timeout(_KILL_TIMEOUT_S):
                await resident.stopped.wait()
        return True

    def _stopped_by_hand(self, resident: Resident) -> None:
        resident.no_restart = True
        self._change(resident, None, manually_stopped=True)

    async def kill(self, uuid: ZoneUUID, signal: str) -> None:
        """Without the lock: a stop that waits must not keep a kill waiting."""
        resident = self._resident(uuid)
        number = signals.number(signal)
        if not resident.is_up:
            raise NotRunning(resident.zone.metadata.id)
        if number in (9, self._stop_number(resident, None)):
            self._stopped_by_hand(resident)
        await self._send(resident, number)

    async def _send(self, resident: Resident, number: int) -> None:
        """A frozen process takes no signal, not even SIGKILL, until it is thawed."""
        resident.send(number)
        if resident.zone.state is ZoneState.PAUSED and (
            number in (signal_numbers.SIGKILL, self._stop_number(resident, None))
        ):
            await self._parts.cgroups.thaw(boot.cgroup(self._parts, resident.zone))
            if resident.zone.state is ZoneState.PAUSED:
                self._change(resident, ZoneChange.UNPAUSED, state=ZoneState.RUNNING)

    async def pause(self, uuid: ZoneUUID) -> Zone:
        """Freeze the cgroup."""
        resident = self._resident(uuid)
        async with resident.lock:
            if not resident.is_up:
                raise NotRunning(resident.zone.metadata.id)
            if resident.zone.state is ZoneState.PAUSED:
                raise Conflict(f"container {resident.zone.metadata.id} is already paused")
            await self._parts.cgroups.freeze(boot.cgroup(self._parts, resident.zone))
            return self._change(resident, ZoneChange.PAUSED, state=ZoneState.PAUSED)

    async def unpause(self, uuid: ZoneUUID) -> Zone:
        """Thaw the cgroup."""
        resident = self._resident(uuid)
        async with resident.lock:
            if resident.zone.state is not ZoneState.PAUSED:
                raise Conflict(f"Container {resident.zone.metadata.id} is not paused")
            await self._parts.cgroups.thaw(boot.cgroup(self._parts, resident.zone))
            return self._change(resident, ZoneChange.UNPAUSED, state=ZoneState.RUNNING)

    # -- streams ---------------------------------------------------------------------------------

    async def attach(self, uuid: ZoneUUID, streams: AttachStreams) -> AttachStdio:
        """Live if it runs, else from the next start on."""
        resident = self._resident(uuid)
        metadata = resident.zone.metadata

        async def resize(height: int, width: int) -> None:
            if resident.is_up:
                self._parts.folders.bundle(uuid).resize(height, width)

        stdio = AttachStdio(
            streams,
            tty=metadata.tty,
            open_stdin=metadata.open_stdin,
            stdin_once=metadata.runtime.stdin_once,
            resize=resize,
        )
        resident.add_attach(stdio)
        if resident.is_up:
            try:
                sock = self._parts.folders.bundle(uuid).connect()
            except OSError:
                stdio.abandon()  # it is just ending
            else:
                stdio.connect(sock)
                await accepted([sock])
        return stdio

    async def resize(self, uuid: ZoneUUID, height: int, width: int) -> None:
        """By conmon's control fifo."""
        resident = self._resident(uuid)
        if not resident.is_up:
            raise NotRunning(resident.zone.metadata.id)
        self._parts.folders.bundle(uuid).resize(height, width)

    def expect_exec(self, uuid: ZoneUUID) -> None:
        """The start is one request later: a moment in which the kernel's lock can become warm."""
        self._resident(uuid)
        self._parts.warmth.announce()

    async def exec(self, uuid: ZoneUUID, process: Process) -> Exec:
        """As the user that the zone's own files name now."""
        resident = self._resident(uuid)
        zone = resident.zone
        if zone.state is ZoneState.PAUSED:
            raise Conflict(
                f"Container {zone.metadata.id} is paused, unpause the container before exec"
            )
        if not resident.is_up:
            raise NotRunning(zone.metadata.id)
        root = Path(f"/proc/{zone.pid}/root")
        # --group-add belongs to the zone's own user.
        groups = () if process.user else zone.metadata.runtime.groups
        identity = resolve(root, process.user or zone.metadata.user, groups)
        document = exec_process(zone.spec, zone.metadata, process, identity, self._parts.machine)
        with self._parts.warmth.kept():
            return await self._execs.start(uuid, process, document)

    async def root_size(self, uuid: ZoneUUID) -> int:
        """Bytes of the overlay's upper folder."""
        self._resident(uuid)
        return await self._parts.datasets.root_size(uuid)

    def logs(self, uuid: ZoneUUID, query: LogQuery) -> AsyncIterator[tuple[StreamId, bytes]]:
        """From conmon's file, rotated ones included."""
        resident = self._resident(uuid)
        if resident.zone.metadata.log_driver == "none":
            raise NotSupported("configured logging driver does not support reading")
        path = self._parts.folders.log(uuid)
        return read_logs(path, query, ended=resident.log_ended, tty=resident.zone.metadata.tty)
