"""The zones of this machine: `ZoneHost` over conmon, the OCI runtime and overlay roots.

    created/stopped --start--> running --exit file--> stopped | restarting --timer--> running
    kept in zone.json at every change; `adopt` finds it all again after the gateway was killed

What is known of them: register.py; from start to exit: runs.py; how one comes up and goes: boot.py;
streams: stdio.py; policy: restarter.py.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal as signal_numbers
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from dockerapi.errors import (
    APIError,
    Conflict,
    InvalidParameter,
    NotModified,
    NotRunning,
    NotSupported,
)
from dockerapi.framing import StreamId
from gateway.hosts.linux import boot, conmon, records, relimit, rotation, signals, survivors
from gateway.hosts.linux.accepted import accepted
from gateway.hosts.linux.boot import Parts
from gateway.hosts.linux.checks import check, root_size
from gateway.hosts.linux.execs import Exec, Execs
from gateway.hosts.linux.joining import rejoin
from gateway.hosts.linux.linking import unlink, with_links
from gateway.hosts.linux.logs import read_logs
from gateway.hosts.linux.process import exec_process
from gateway.hosts.linux.records import Record
from gateway.hosts.linux.register import Register
from gateway.hosts.linux.replay import Replay, note_times
from gateway.hosts.linux.resident import Resident
from gateway.hosts.linux.runs import KILL_TIMEOUT_S, Runs, stop_number
from gateway.hosts.linux.stdio import AttachStdio
from gateway.hosts.linux.survivors import lives, read_all, read_exit, sweep, throw_away, write_new
from gateway.hosts.linux.users import resolve
from gateway.hosts.linux.watch import FolderWatch
from gateway.zones.host import AttachStreams, LogQuery, Process, Zone, ZoneChange, ZoneEvent
from gateway.zones.metadata import Resources, decode
from gateway.zones.spec import ZoneSpec, ZoneState, ZoneUUID
from imgsources.oci import ImageUUID

log = logging.getLogger(__name__)


class LinuxZones:
    """Satisfies gateway.zones.host.ZoneHost.  `group` outlives every call and is the host's."""

    def __init__(
        self, parts: Parts, execs: Execs, group: asyncio.TaskGroup, watch: FolderWatch
    ) -> None:
        self._parts = parts
        self._execs = execs
        self._register = Register(parts, group)
        self._runs = Runs(parts, self._register, watch)

    # -- what is known ---------------------------------------------------------------------------

    def list(self) -> Sequence[Zone]:
        """Oldest first."""
        return self._register.list()

    def get(self, uuid: ZoneUUID) -> Zone:
        """From memory."""
        return self._register.resident(uuid).zone

    @asynccontextmanager
    async def held(self, uuid: ZoneUUID) -> AsyncIterator[Zone]:
        """Nobody starts, stops or deletes it inside the block."""
        resident = self._register.resident(uuid)
        async with resident.lock:
            await resident.cleared.wait()
            yield self._register.resident(uuid).zone

    def events(self) -> AsyncIterator[ZoneEvent]:
        """Every change from the opening of the host on; for one consumer."""
        return self._register.events()

    # -- opening and closing ---------------------------------------------------------------------

    async def adopt(self) -> None:
        """Take over the zones of an earlier life; remove what it left half done."""
        found = await asyncio.to_thread(read_all, self._parts.folders.data / "zones")
        for record in sorted(found, key=lambda record: record.zone.created_ns):
            zone = record.zone
            self._register.zones[zone.uuid] = Resident(record)
            self._register.aliases[zone.spec.alias] = zone.uuid
            self._parts.networks.learn(zone.uuid, zone.spec.nics)
        up = [resident for resident in self._register.zones.values() if resident.is_up]
        live = [resident for resident in up if lives(resident.record)]
        await self._parts.networks.adopt(
            {
                r.zone.uuid: (r.zone.spec.nics, r.zone.ports)
                for r in live
                if not r.zone.metadata.runtime.network
            },
            {r.zone.uuid: r.zone.metadata.runtime.endpoints for r in live},
        )
        for resident in live:
            zone = resident.zone
            await self._parts.names.resume(zone, self._parts.networks.netns_path(zone.uuid))
            self._runs.follow(resident)
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
        self._runs.ended(resident, 137 if code is None else code, finished_ns)

    async def _sweep(self) -> None:
        """Folders of zones that are not ours any more, and remains of runs that ended with the gateway."""
        for zone in self._parts.datasets.zones() - {str(uuid) for uuid in self._register.zones}:
            await self._parts.datasets.discard(zone)
        up = {
            str(resident.zone.uuid) for resident in self._register.zones.values() if resident.is_up
        }
        known = {str(uuid) for uuid in self._register.zones}
        remains = await asyncio.to_thread(sweep, self._parts, known, up)
        running = [zone for zone in self._register.list() if str(zone.uuid) in up]
        await asyncio.to_thread(self._parts.sources.adopt, running)
        for name in remains - known:  # a probe, or a zone whose deletion was cut off
            await boot.clear_cgroup(
                self._parts, self._parts.cgroups.path(name, default_parent=self._parts.name)
            )
        for name in remains & known:
            resident = self._register.zones[ZoneUUID(name)]
            if resident.cleared.is_set():
                await boot.clear(self._parts, resident.zone)

    def exit_appeared(self, name: str) -> None:
        """A file in the exits folder was finished."""
        self._runs.exit_appeared(name)

    def look_for_exits(self) -> None:
        """Exit files that came before the folder was watched."""
        for path in self._parts.runtime.exits.iterdir():
            self._runs.exit_appeared(path.name)

    async def run(self) -> None:
        """Start what dockerd starts at its own start, then look after logs that are to be rotated."""
        async with asyncio.TaskGroup() as group:
            for resident in tuple(self._register.zones.values()):
                if resident.starts_with_host:
                    group.create_task(self._boot(resident))
        rotated: set[Path] = set()
        while True:
            await asyncio.sleep(rotation.INTERVAL_S)
            # Not before conmon writes to another one.
            for path in [path for path in rotated if path.exists() or not path.parent.exists()]:
                rotated.discard(path)
                await asyncio.to_thread(rotation.pack, path)
            for resident in self._register.zones.values():
                # Most logs are never rotated: hundreds of zones must not cost the loop milliseconds each time.
                if resident.rotation is not None and resident.is_up:
                    uuid = resident.zone.uuid
                    bundle = self._parts.folders.bundle(uuid)
                    path = self._parts.folders.log(uuid)
                    if resident.rotate_log(path, bundle.reopen_log):
                        rotated.add(path)

    async def _boot(self, resident: Resident) -> None:
        try:
            async with resident.lock:
                if not resident.is_up and not resident.deleted:
                    await self._runs.start(resident, restart_count=0)
        except APIError as error:
            log.warning("zone %s does not start: %s", resident.zone.uuid, error.message)
            self._register.emit(ZoneChange.UPDATED, resident.zone)

    def close(self) -> None:
        """No restart by policy any more, no look at processes; attached clients are let go."""
        self._register.closing = True
        for resident in self._register.zones.values():
            resident.cancel_restart()
            resident.unwatch()
            resident.end_logs()

    async def settled(self) -> None:
        """Everything that stopped or was deleted is cleared away."""
        await self._register.settled()

    # -- create, rename, delete ------------------------------------------------------------------

    async def create(self, spec: ZoneSpec) -> Zone:
        """Files only; the root is mounted at the start."""
        metadata = decode(spec.internal_metadata)
        uuid = ZoneUUID(spec.uuid)
        zone = Zone(spec, metadata, ZoneState.STOPPED, created_ns=time.time_ns())
        check(zone)
        size = root_size(zone)
        self._parts.datasets.check_size(size)
        if uuid in self._register.zones:
            raise Conflict(f"zone {uuid} exists")
        self._register.reserve(spec.alias, uuid)
        resident = Resident(Record.of(zone))
        folder = self._parts.folders.zone(uuid)
        try:
            self._parts.networks.learn(uuid, spec.nics)
            await self._parts.datasets.clone(ImageUUID(spec.image_uuid), uuid, size=size)
            if spec.filesystems:
                await asyncio.to_thread(self._parts.sources.fill, zone)
            write_new(folder, resident.record)
        except BaseException:
            del self._register.aliases[spec.alias]
            self._discard_later(uuid)
            raise
        self._register.zones[uuid] = resident
        self._register.emit(ZoneChange.CREATED, zone)
        return zone

    async def rename(self, uuid: ZoneUUID, alias: str) -> Zone:
        """The old name is free at once."""
        resident = self._register.resident(uuid)
        spec = resident.zone.spec
        self._register.reserve(alias, uuid)
        self._register.free(spec.alias, uuid)
        return self._register.change(
            resident, ZoneChange.UPDATED, spec=spec.model_copy(update={"alias": alias})
        )

    async def not_started(self, uuid: ZoneUUID, error: APIError) -> Zone:
        """Kept, unless somebody else has started it meanwhile."""
        resident = self._register.resident(uuid)
        async with resident.lock:
            if resident.is_up:
                return resident.zone
            code = boot.exit_code(error)
            return self._register.happened(
                resident, None, error=error.message, start_exit_code=code
            )

    async def update(self, uuid: ZoneUUID, spec: ZoneSpec) -> Zone:
        """Limits into the cgroup of a zone that runs, nics into its namespace; everything into its record."""
        resident, data = self._register.resident(uuid), decode(spec.internal_metadata)
        async with resident.lock:
            ports = resident.zone.ports
            if resident.is_up and not data.runtime.network:
                ports = await rejoin(self._parts, resident.zone, spec, data)
            if (
                resident.is_up
                and data.runtime.resources != resident.zone.metadata.runtime.resources
            ):
                await self._relimit(resident.zone, data.runtime.resources)
            if resident.is_up:
                hosts = self._parts.folders.zone(uuid) / "etc" / "hosts"
                unlink(hosts, resident.zone, self._runs.peer, data.runtime.links)
            resident.take_policy(data.restart_policy)
            ports = ports if resident.is_up else ()
            return self._register.change(
                resident, ZoneChange.UPDATED, spec=spec, metadata=data, ports=ports
            )

    async def _relimit(self, zone: Zone, limits: Resources) -> None:
        path = boot.cgroup(self._parts, zone)
        try:
            await asyncio.to_thread(relimit.apply, self._parts.cgroups, path, limits)
        except APIError as error:
            what = f"Cannot update container {zone.metadata.id}: {error.message}"
            raise APIError(what) from error

    async def delete(self, uuid: ZoneUUID) -> None:
        """Gone for every caller on return; files, mounts and addresses follow."""
        resident = self._register.resident(uuid)
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
        del self._register.zones[uuid]
        self._parts.datasets.leave(uuid)
        self._register.free(resident.zone.spec.alias, uuid)
        resident.end_logs()
        resident.abandon_attaches()
        (self._parts.folders.zone(uuid) / records.FILE).unlink(missing_ok=True)
        self._register.emit(ZoneChange.DELETED, resident.zone)
        self._register.later(self._remove(resident))

    async def _end(self, resident: Resident) -> None:
        """SIGKILL and wait until it has stopped; a start under way is waited for."""
        while resident.is_up or resident.lock.locked():
            if resident.is_up:
                await self._runs.send(resident, signal_numbers.SIGKILL)
                async with asyncio.timeout(KILL_TIMEOUT_S):
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
        self._register.later(self._discard(uuid))

    async def _discard(self, uuid: ZoneUUID) -> None:
        """Root, log, own volumes: out of the way at once, off the disk in a thread."""
        try:
            await self._parts.datasets.discard(uuid)
            await asyncio.to_thread(throw_away, self._parts, uuid)
        except (OSError, APIError):
            log.exception("zone %s: files are left", uuid)

    # -- start -----------------------------------------------------------------------------------

    def before_start(self, call: Callable[[Zone], Awaitable[None]]) -> None:
        """Before anything is made for it."""
        self._runs.before_start = call

    async def start(self, uuid: ZoneUUID) -> Zone:
        """Running, or already ended."""
        resident = self._register.resident(uuid)
        async with resident.lock:
            self._check_startable(resident)
            resident.cancel_restart()
            resident.reset_restarts()
            return await self._runs.start(resident, restart_count=0)

    def _check_startable(self, resident: Resident) -> None:
        if resident.deleted:
            raise Conflict(
                f"container is marked for removal and cannot be started: {resident.zone.metadata.id}"
            )
        if resident.zone.state is ZoneState.PAUSED:
            raise Conflict("cannot start a paused container, try unpause instead")
        if resident.is_up:
            raise NotModified(f"zone {resident.zone.uuid} runs")

    # -- signals ---------------------------------------------------------------------------------

    async def stop(self, uuid: ZoneUUID, *, signal: str | None, timeout_s: float | None) -> Zone:
        """Signal, wait, SIGKILL."""
        resident = self._register.resident(uuid)
        number = stop_number(resident, signal)
        async with resident.lock:
            publishes = bool(resident.zone.ports)
            if not await self._runs.stop(resident, number, timeout_s):
                raise NotModified(f"zone {uuid} does not run")
            if publishes:
                # Whoever stops it may want its ports at once.
                await resident.cleared.wait()
            return resident.zone

    async def restart(self, uuid: ZoneUUID, *, signal: str | None, timeout_s: float | None) -> Zone:
        """Under one lock, so that nobody sees it stopped and takes it away."""
        resident = self._register.resident(uuid)
        number = stop_number(resident, signal)
        async with resident.lock:
            await self._runs.stop(resident, number, timeout_s)
            resident.reset_restarts()
            return await self._runs.start(resident, restart_count=0)

    async def kill(self, uuid: ZoneUUID, signal: str) -> None:
        """Without the lock: a stop that waits must not keep a kill waiting."""
        resident = self._register.resident(uuid)
        number = signals.number(signal)
        if resident.zone.state is ZoneState.RESTARTING:
            await self._runs.stop(resident, number, 0)
            return
        if not resident.is_up:
            raise NotRunning(resident.zone.metadata.id)
        if self._runs.ends_policy(resident, number):
            self._runs.stopped_by_hand(resident)
        await self._runs.send(resident, number)

    async def pause(self, uuid: ZoneUUID) -> Zone:
        """Freeze the cgroup."""
        resident = self._register.resident(uuid)
        async with resident.lock:
            if not resident.is_up:
                raise NotRunning(resident.zone.metadata.id)
            if resident.zone.state is ZoneState.PAUSED:
                raise Conflict(f"Container {resident.zone.metadata.id} is already paused")
            await self._parts.cgroups.freeze(boot.cgroup(self._parts, resident.zone))
            return self._register.change(resident, ZoneChange.PAUSED, state=ZoneState.PAUSED)

    async def unpause(self, uuid: ZoneUUID) -> Zone:
        """Thaw the cgroup."""
        resident = self._register.resident(uuid)
        async with resident.lock:
            if resident.zone.state is not ZoneState.PAUSED:
                raise Conflict(f"Container {resident.zone.metadata.id} is not paused")
            await self._parts.cgroups.thaw(boot.cgroup(self._parts, resident.zone))
            return self._register.change(resident, ZoneChange.UNPAUSED, state=ZoneState.RUNNING)

    # -- streams ---------------------------------------------------------------------------------

    async def attach(self, uuid: ZoneUUID, streams: AttachStreams) -> AttachStdio:
        """Live if it runs, else from the next start on."""
        resident = self._register.resident(uuid)
        metadata = resident.zone.metadata
        replay = None
        if streams.logs:
            replay = Replay(functools.partial(self.logs, uuid), streams, is_up=resident.is_up)

        async def resize(height: int, width: int) -> None:
            if resident.is_up:
                self._parts.folders.bundle(uuid).resize(height, width)

        stdio = AttachStdio(
            streams,
            tty=metadata.tty,
            open_stdin=metadata.open_stdin,
            stdin_once=metadata.runtime.stdin_once,
            resize=resize,
            replay=replay,
        )
        if resident.is_up:
            try:
                bundle = self._parts.folders.bundle(uuid)
                sock = await conmon.client(bundle, note_times if replay else None)
            except OSError:
                stdio.abandon()  # it is just ending
            else:
                stdio.connect(sock)
                resident.add_attach(stdio)
                await accepted([sock])
        else:
            resident.add_attach(stdio)
        if replay is not None:
            replay.ends_at(time.time_ns())
        return stdio

    async def resize(self, uuid: ZoneUUID, height: int, width: int) -> None:
        """By conmon's control fifo."""
        resident = self._register.resident(uuid)
        if not resident.is_up:
            raise NotRunning(resident.zone.metadata.id)
        self._parts.folders.bundle(uuid).resize(height, width)

    def expect_exec(self, uuid: ZoneUUID, user: str) -> None:
        """The start is one request later: a moment in which the kernel's lock can become warm."""
        zone = self._register.resident(uuid).zone
        if user:
            try:
                resolve(Path(f"/proc/{zone.pid}/root"), user)
            except (FileNotFoundError, ProcessLookupError) as error:
                raise NotRunning(zone.metadata.id) from error
        self._parts.warmth.announce()

    async def exec(self, uuid: ZoneUUID, process: Process) -> Exec:
        """As the user that the zone's own files name now."""
        resident = self._register.resident(uuid)
        zone = resident.zone
        if zone.state is ZoneState.PAUSED:
            raise Conflict(
                f"Container {zone.metadata.id} is paused, unpause the container before exec"
            )
        if not resident.is_up:
            raise NotRunning(zone.metadata.id)
        root = Path(f"/proc/{zone.pid}/root")
        try:
            identity = resolve(
                root, process.user or zone.metadata.user, zone.metadata.runtime.groups
            )
        except InvalidParameter as error:  # it was there when the exec was announced
            raise APIError(error.message) from error
        except (FileNotFoundError, ProcessLookupError) as error:  # ended: conmon will say so
            raise NotRunning(zone.metadata.id) from error
        metadata = with_links(zone, self._runs.peer, must_run=False).metadata
        document = exec_process(zone.spec, metadata, process, identity, self._parts.machine)
        with self._parts.warmth.kept():
            return await self._execs.start(uuid, process, document)

    async def root_size(self, uuid: ZoneUUID) -> int:
        """Bytes of the overlay's upper folder."""
        self._register.resident(uuid)
        return await self._parts.datasets.root_size(uuid)

    def logs(self, uuid: ZoneUUID, query: LogQuery) -> AsyncIterator[tuple[StreamId, bytes]]:
        """From conmon's file, rotated ones included."""
        resident = self._register.resident(uuid)
        if resident.zone.metadata.log_driver == "none":
            raise NotSupported("configured logging driver does not support reading")
        path = self._parts.folders.log(uuid)
        return read_logs(path, query, ended=resident.log_ended, tty=resident.zone.metadata.tty)
