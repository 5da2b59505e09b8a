"""The zones of one SmartOS machine: `ZoneHost` over vmadm, zlogin and vmadmd.

    created/stopped --vmadm start--> running --exit--> stopped | restarting --vmadmd--> running
    a call acts by vmadm, then waits until the change is *seen*: events alone change what is known

Zones without our tag are never shown, changed or deleted.  What is known: register.py; what events mean:
observed.py.  Restart policies are vmadmd's; streams, execs and logs have files of their own.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Protocol

from dockerapi.errors import (
    APIError,
    CommandFailed,
    Conflict,
    Forbidden,
    InvalidParameter,
    NoSuchContainer,
    NotFound,
    NotModified,
    NotRunning,
    NotSupported,
)
from dockerapi.framing import Stdio, StreamId
from gateway.hosts.smartos import execs, leftovers, observed, plumbing, vmadm, whiteouts
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.localmounts import LocalMounts, cannot_populate
from gateway.hosts.smartos.logs import CONSOLE_LOG, STDIO_LOG, read_logs
from gateway.hosts.smartos.naming import Naming
from gateway.hosts.smartos.register import Register
from gateway.hosts.smartos.resident import Resident
from gateway.hosts.smartos.runs import NEVER_RAN, Networks, Runs
from gateway.hosts.smartos.stdio import ZoneStreams
from gateway.hosts.smartos.vmadm import VM
from gateway.zones import brands
from gateway.zones.host import (
    AttachStreams,
    LogQuery,
    Process,
    Volume,
    Zone,
    ZoneChange,
    ZoneEvent,
    ZoneProcess,
)
from gateway.zones.metadata import Runtime, decode
from gateway.zones.spec import ZoneSpec, ZoneState, ZoneUUID, is_uuid
from imgsources.oci import ImageUUID

log = logging.getLogger(__name__)

_SEEN_TIMEOUT_S = 15.0
"""So long after vmadm is done its event may come; then the VM is asked for."""
_ZFS_TIMEOUT_S = 60.0
_DELETE_TRIES, _DELETE_DELAY_S = 5, 0.5
_CONFLICT = "Conflict detected with another"
"""vmadm's words for addresses that another VM has."""
_UNMAKE_DELAYS_S = (0.5, 5.0, 50.0)


class Datasets(Protocol):
    """What zones ask of the images."""

    async def exists(self, uuid: ImageUUID) -> bool: ...
    async def refresh(self) -> None: ...


class Volumes(Protocol):
    """What zones ask of the volumes."""

    def list(self) -> Sequence[Volume]: ...
    async def copy_up(self, root: str, target: str, volume: Volume) -> None: ...


class SmartOSZones:
    """Satisfies gateway.zones.host.ZoneHost.  `group` outlives every call and is the host's."""

    def __init__(
        self,
        gz: GlobalZone,
        register: Register,
        *,
        datasets: Datasets,
        networks: Networks,
        naming: Naming,
        volumes: Volumes,
        mounts: LocalMounts,
        group: asyncio.TaskGroup,
        zpool: str = "zones",
        root: str = "/",
    ) -> None:
        self._gz = gz
        self._register = register
        self._datasets = datasets
        self._networks = networks
        self._volumes = volumes
        self._mounts = mounts
        self._zpool = zpool
        self._root = root
        self._group = group
        self._naming = naming
        self._runs = Runs(gz, register, networks, naming, mounts, root)
        register.published = naming.tell
        register.dropped = naming.forget
        register.half_made = lambda uuid: register.later(self._unmake(uuid))

    # -- what is known -----------------------------------------------------------------------------

    def list(self) -> Sequence[Zone]:
        """Oldest first."""
        return self._register.list()

    def get(self, uuid: ZoneUUID) -> Zone:
        """From memory."""
        return self._register.resident(uuid).zone

    def events(self) -> AsyncIterator[ZoneEvent]:
        """Every change from the opening of the host on; for one consumer."""
        return self._register.events()

    async def open(self) -> None:
        """All zones of this instance are known, those that run have their networks."""
        await self._register.open()
        for zone in self._register.list():
            self._naming.tell(zone)
        await self._runs.adopt()
        await self._runs.adopt_mounts()

    def warnings(self) -> tuple[str, ...]:
        """What keeps this view of the machine from being the newest."""
        lost = self._register.lost
        return (f"WARNING: no events from {self._gz.name}: {lost}",) if lost else ()

    def zonepath(self, uuid: ZoneUUID) -> str:
        """Its folder in the global zone; `root` in there is the zone's."""
        return self._register.resident(uuid).zonepath

    @asynccontextmanager
    async def held(self, uuid: ZoneUUID) -> AsyncIterator[Zone]:
        """Nobody starts, stops or deletes it here inside the block."""
        resident = self._register.resident(uuid)
        async with resident.lock:
            yield self._register.resident(uuid).zone

    async def close(self) -> None:
        """Nothing is followed any more; attached clients are let go, zones run on."""
        residents = tuple(self._register.zones.values())
        self._naming.close()
        await self._register.close()
        for resident in residents:
            resident.log_ended.set()
            if resident.streams is not None:
                await resident.streams.close()

    # -- create, rename, delete --------------------------------------------------------------------

    async def create(self, spec: ZoneSpec) -> Zone:
        """By vmadm, which makes all of it or nothing; what a kill leaves is found by its note."""
        uuid, register = ZoneUUID(spec.uuid), self._register
        _check_joins(decode(spec.internal_metadata).runtime)
        if register.is_taken(uuid):
            raise Conflict(f"zone {uuid} exists")
        if spec.image_uuid and not await self._datasets.exists(ImageUUID(spec.image_uuid)):
            raise NotFound(f"no such dataset: {spec.image_uuid}")
        register.reserve(spec.alias, uuid)
        register.creating.add(uuid)
        try:
            await self._check_sources(spec)
            spec = self._with_volumes(await self._with_subpaths(spec))
            self._networks.learn(uuid, spec.nics)
            # Rules of its networks apply by these: they save a vmadm at the first start.
            tags = {**spec.tags, **self._networks.tags(spec.nics)}
            spec = self._dressed(spec.model_copy(update={"tags": tags}))
            await asyncio.to_thread(register.notes.creating, uuid)
            # zoneadm may look for them when it installs a zone, as it does when it boots one.
            async with self._mounts.held(mounted_sources(spec, self._mounts.folder)):
                await self._make(spec)
                vm = await register.made(uuid, timeout_s=_SEEN_TIMEOUT_S)
                await self._fill_volumes(spec, vm)
            resident = register.add(observed.first(vm, observed.Note()), vm)
        except BaseException as error:
            self._networks.release(uuid)
            register.abandon(uuid, spec.alias)
            if isinstance(error, ValueError):
                raise APIError(f"vmadm made another zone than was asked for: {error}") from error
            raise
        return resident.zone

    async def _make(self, spec: ZoneSpec) -> None:
        try:
            try:
                await vmadm.create(self._gz, spec)
            except APIError as error:
                if _CONFLICT not in error.message or not self._register.is_sweeping:
                    raise
                # A zone that a kill left half made has its address until it is gone, and no lease of it.
                await self._register.until_swept()
                await vmadm.create(self._gz, spec)
        except NotFound:
            # An administrator may have deleted the image: then we should not offer it any more.
            await self._datasets.refresh()
            raise

    async def _check_sources(self, spec: ZoneSpec) -> None:
        """Binds are folders and files of the global zone: vmadm does not look whether they are there."""
        options = decode(spec.internal_metadata).runtime.mount_options
        for entry in spec.filesystems:
            if is_uuid(entry.source) or entry.source == "create-volume":
                continue
            if await self._gz.status(entry.source) is not None:
                continue
            if "create" not in options.get(entry.target, ()):
                raise InvalidParameter(
                    'invalid mount config for type "bind": bind source path does not exist: '
                    f"{entry.source}"
                )
            await self._gz.make_folder(entry.source)

    async def _with_subpaths(self, spec: ZoneSpec) -> ZoneSpec:
        """A part of an image is mounted by its own path, on which no link may stand: it would be the machine's."""
        options = decode(spec.internal_metadata).runtime.mount_options
        found = []
        for entry in spec.filesystems:
            words = options.get(entry.target, ())
            subpath = next((word[8:] for word in words if word.startswith("subpath=")), "")
            if subpath:
                if await whiteouts.find_directory(self._gz, entry.source, subpath) != subpath:
                    raise NotFound(
                        f"cannot access path {entry.source}/{subpath}: no such directory without links"
                    )
                entry = entry.model_copy(update={"source": f"{entry.source}/{subpath}"})  # noqa: PLW2901
            found.append(entry)
        return spec.model_copy(update={"filesystems": tuple(found)})

    def _with_volumes(self, spec: ZoneSpec) -> ZoneSpec:
        """Volumes with options are to be had where they are mounted."""
        volumes = {volume.mountpoint: volume for volume in self._volumes.list() if volume.options}
        found = []
        for entry in spec.filesystems:
            volume = volumes.get(entry.source)
            changes: dict[str, object] = {}
            if volume is not None:
                changes["source"] = self._mounts.source(volume)
                if self._mounts.is_read_only(volume) and "ro" not in entry.options:
                    changes["options"] = (*entry.options, "ro")
            found.append(entry.model_copy(update=changes))
        return spec.model_copy(update={"filesystems": tuple(found)})

    @asynccontextmanager
    async def with_volumes(self, zone: Zone) -> AsyncIterator[None]:
        """What its volumes mount is there inside the block."""
        async with self._mounts.held({entry.source for entry in zone.spec.filesystems}):
            yield

    async def _fill_volumes(self, spec: ZoneSpec, vm: VM) -> None:
        """Named volumes that are new get the image's content; the zone's own ones are filled by vmadm."""
        options = decode(spec.internal_metadata).runtime.mount_options
        volumes = {self._mounts.source(volume): volume for volume in self._volumes.list()}
        for entry in spec.filesystems:
            volume, words = volumes.get(entry.source), options.get(entry.target, ())
            if volume is None or "nocopy" in words:
                continue
            if volume.options and "volume" not in words:
                continue  # a bind of the folder that some volume has for its device
            root = f"{vmadm.zonepath(vm)}/root"
            if await self._gz.status(entry.source) is None:
                # Told of at the start, unless there is something to fill it with.
                if await whiteouts.find_directory(self._gz, root, entry.target) is not None:
                    raise cannot_populate(volume)
                continue
            await self._volumes.copy_up(
                root, entry.target, replace(volume, mountpoint=entry.source)
            )

    async def _unmake(self, uuid: ZoneUUID) -> None:
        """What is left of a creation.  What does not go within a minute is tried again by the next life."""
        try:
            if await self._taken_away(uuid):
                self._register.forget(uuid)
        finally:
            self._register.went(uuid)

    async def _taken_away(self, uuid: ZoneUUID) -> bool:
        for delay_s in (*_UNMAKE_DELAYS_S, None):
            try:
                await self._take_away(uuid)
            except (APIError, OSError) as error:
                log.warning("zone %s, half made, does not go: %s", uuid, error)
                if delay_s is not None:
                    await asyncio.sleep(delay_s)
            else:
                return True
        return False

    async def _take_away(self, uuid: ZoneUUID) -> None:
        # One that was cut off from us may be at work on it still.
        await leftovers.until_made(self._gz)
        try:
            vm = await vmadm.get(self._gz, uuid)
        except NoSuchContainer:
            return
        if not self._register.owns(vm):
            log.error("zone %s is not ours, and left alone", uuid)
            return
        log.warning("zone %s was not made to its end: taken away", uuid)
        await self._destroy(uuid)

    async def _destroy(self, uuid: ZoneUUID) -> None:
        """`vmadm delete`, again while something keeps the dataset busy."""
        for attempt in range(1, _DELETE_TRIES + 1):
            try:
                await vmadm.delete(self._gz, uuid)
            except NoSuchContainer:
                return
            except CommandFailed as failed:
                if "busy" not in failed.stderr.lower() or attempt == _DELETE_TRIES:
                    raise
                log.info("zone %s: %s", uuid, failed.message)
                await asyncio.sleep(_DELETE_DELAY_S * attempt)
            else:
                return

    async def not_started(self, uuid: ZoneUUID, error: APIError) -> Zone:
        """Kept, unless somebody else has started it meanwhile."""
        register = self._register
        resident = register.resident(uuid)
        if not resident.is_up and not resident.starting:
            told = replace(resident.latest, error=error.message, start_exit_code=NEVER_RAN)
            register.change(resident, None, told)
        return resident.zone

    async def rename(self, uuid: ZoneUUID, alias: str) -> Zone:
        """The old name is free at once."""
        register = self._register
        resident = register.resident(uuid)
        old = resident.zone.spec.alias
        register.reserve(alias, uuid)
        try:
            await vmadm.update(self._gz, uuid, {"alias": alias})
        except BaseException:
            register.free(alias, uuid)
            raise
        register.free(old, uuid)
        spec = resident.latest.spec.model_copy(update={"alias": alias})
        if spec != resident.latest.spec:
            register.change(resident, ZoneChange.UPDATED, replace(resident.latest, spec=spec))
        return resident.zone

    async def update(self, uuid: ZoneUUID, spec: ZoneSpec) -> Zone:
        """By vmadm, which changes limits of a zone that runs at once; vmadmd reads the policy at the next exit."""
        resident = self._register.resident(uuid)
        # Before the lock: two that take from each other would wait for each other.
        for rival, networks in self._networks.rivals(uuid, spec.nics).items():
            await self._unplug(rival, networks)
        async with resident.lock:
            await self._change(resident, spec)
            if resident.is_up:
                await self._naming.prepare(resident.latest)
            return resident.zone

    async def _change(self, resident: Resident, spec: ZoneSpec) -> None:
        """Under its lock."""
        data, before = decode(spec.internal_metadata), resident.latest.spec
        spec = self._with_nics(before, spec)
        changes = vmadm.changes(self._dressed(before), self._dressed(spec))
        if resident.is_up:
            # vmadmd restarts nothing without it; vmadm start sets it where there is a policy by then.
            changes["autoboot"] = bool(data.restart_policy)
        if changes:
            await vmadm.update(self._gz, resident.zone.uuid, changes)
        if resident.is_up and spec.nics != before.nics:
            log.warning(
                "container %s runs on with the networks that it has, until its next start",
                spec.alias,
            )
        zone = replace(resident.latest, spec=spec, metadata=data)
        self._register.change(resident, ZoneChange.UPDATED, zone)

    async def _unplug(self, uuid: ZoneUUID, networks: Container[str]) -> None:
        """A zone that does not run gives up its addresses on these networks (network_uuids), until its next start."""
        resident = self._register.resident(uuid)
        async with resident.lock:
            if self._register.runs(uuid):
                raise Forbidden("Address already in use")
            spec = resident.latest.spec
            nics = tuple(nic for nic in spec.nics if nic.network_uuid not in networks)
            await self._change(resident, spec.model_copy(update={"nics": nics}))
            self._networks.give_up(uuid, networks)

    def _dressed(self, spec: ZoneSpec) -> ZoneSpec:
        """As vmadm is to have it."""
        return plumbing.dressed(self._naming.dressed(spec))

    def _with_nics(self, before: ZoneSpec, after: ZoneSpec) -> ZoneSpec:
        """`after` with a MAC for each new nic, by which vmadm knows them, and the tags of its networks."""
        if after.nics == before.nics:
            return after
        nics = tuple(
            nic if nic.mac else nic.model_copy(update={"mac": _new_mac()}) for nic in after.nics
        )
        gone = self._networks.tags(before.nics).keys()
        tags = {key: value for key, value in after.tags.items() if key not in gone}
        tags |= self._networks.tags(nics)
        return after.model_copy(update={"nics": nics, "tags": tags})

    async def delete(self, uuid: ZoneUUID) -> None:
        """Gone for every caller on return, with its datasets, volumes of its own, rules and addresses."""
        resident = self._register.resident(uuid)
        if resident.deleted:
            raise Conflict(
                f"removal of container {resident.zone.metadata.id} is already in progress"
            )
        resident.deleted = True
        try:
            # A stop that waits must not keep it waiting, and a start under way is waited for.
            await self._end(resident)
            async with resident.lock:
                await self._end(resident)
                await self._destroy(uuid)
        except BaseException:
            resident.deleted = False
            raise
        self._register.remove(resident)
        await self._runs.let_go(resident)

    async def _end(self, resident: Resident) -> None:
        """SIGKILL, as dockerd removes by force: vmadm's own delete would first ask politely."""
        if not resident.is_up:
            return
        if resident.kind is brands.Kind.CONTAINER:
            with suppress(NotRunning):
                await self._runs.kill(resident, "SIGKILL")
        else:
            await vmadm.halt(self._gz, resident.zone.uuid)
        await self._runs.until_down(resident)

    # -- start, stop, kill -------------------------------------------------------------------------

    def before_start(self, call: Callable[[Zone], Awaitable[None]]) -> None:
        """Before vmadm is called; vmadmd's own restarts wait for nothing."""
        self._runs.before_start = call

    async def start(self, uuid: ZoneUUID) -> Zone:
        """Running, or already ended."""
        resident = self._register.resident(uuid)
        async with resident.lock:
            if resident.deleted:
                raise Conflict(
                    "container is marked for removal and cannot be started: "
                    f"{resident.zone.metadata.id}"
                )
            if resident.is_up:
                raise NotModified(f"zone {uuid} runs")
            return await self._runs.start(resident)

    async def stop(self, uuid: ZoneUUID, *, signal: str | None, timeout_s: float | None) -> Zone:
        """Signal, wait, SIGKILL."""
        resident = self._register.resident(uuid)
        name = _stop_signal(resident, signal)
        async with resident.lock:
            if not await self._runs.stop(resident, name, timeout_s):
                raise NotModified(f"zone {uuid} does not run")
            return resident.zone

    async def restart(self, uuid: ZoneUUID, *, signal: str | None, timeout_s: float | None) -> Zone:
        """Stopped and started under one lock: `vmadm reboot` cannot be told how long to wait."""
        resident = self._register.resident(uuid)
        name = _stop_signal(resident, signal)
        async with resident.lock:
            await self._runs.stop(resident, name, timeout_s)
            return await self._runs.start(resident)

    async def kill(self, uuid: ZoneUUID, signal: str) -> None:
        """Without the lock: a stop that waits must not keep a kill waiting."""
        resident = self._register.resident(uuid)
        name = vmadm.signal_name(signal)
        if resident.kind is brands.Kind.MACHINE:
            raise NotSupported(f"{_words(resident)} takes no signals: stop it")
        await resident.until(lambda: not resident.starting, timeout_s=None)
        if resident.latest.state is ZoneState.RESTARTING:
            async with resident.lock:
                await self._runs.stop(resident, name, 0)
            return
        if not resident.zone.is_running:
            raise NotRunning(resident.zone.metadata.id)
        try:
            if resident.kind is brands.Kind.FULL and name == "SIGKILL":
                # Its init would be started again.
                await vmadm.halt(self._gz, uuid)
            elif _ends_policy(resident, name):
                await self._runs.kill(resident, name)
            else:
                await vmadm.kill(self._gz, uuid, name)
        except NotRunning as error:
            raise NotRunning(resident.zone.metadata.id) from error

    async def pause(self, uuid: ZoneUUID) -> Zone:
        """There is no freezer: a zone's processes could be stopped one by one, and new ones would run."""
        if not self._register.resident(uuid).zone.is_running:
            raise NotRunning(self.get(uuid).metadata.id)
        raise NotSupported("pause is not supported on SmartOS: vmadm cannot freeze a zone")

    async def unpause(self, uuid: ZoneUUID) -> Zone:
        """Nothing is ever paused."""
        raise Conflict(f"Container {self.get(uuid).metadata.id} is not paused")

    # -- streams -------------------------------------------------------------------------------------

    async def attach(self, uuid: ZoneUUID, streams: AttachStreams) -> Stdio:
        """Live if it runs, else from the next start on."""
        resident = self._register.resident(uuid)
        if resident.kind is not brands.Kind.CONTAINER:
            raise NotSupported(
                f"{_words(resident)} has no standard streams to attach to: read its console with logs, or exec"
            )
        shared = self._streams(resident)
        stdio = shared.attach(streams, is_up=resident.is_up or resident.starting)
        if resident.is_up and not resident.starting:
            await shared.connect()
        return stdio

    def _streams(self, resident: Resident) -> ZoneStreams:
        if resident.streams is None:
            metadata = resident.zone.metadata
            resident.streams = ZoneStreams(
                self._gz,
                resident.zone.uuid,
                resident.zonepath,
                tty=metadata.tty,
                group=self._group,
                open_stdin=metadata.open_stdin,
                stdin_once=metadata.runtime.stdin_once,
                logged=metadata.log_driver != "none",
                root=self._root,
                size=metadata.runtime.console_size,
            )
        return resident.streams

    async def resize(self, uuid: ZoneUUID, height: int, width: int) -> None:
        """Of the terminal that the one client holds."""
        resident = self._register.resident(uuid)
        if not resident.zone.is_running:
            raise NotRunning(resident.zone.metadata.id)
        streams = self._streams(resident)
        await streams.resize(height, width)

    def expect_exec(self, uuid: ZoneUUID, user: str) -> None:
        """Nothing to be done ahead; a user is looked up at the start."""
        self._register.resident(uuid)

    async def exec(self, uuid: ZoneUUID, process: Process) -> ZoneProcess:
        """By zlogin."""
        resident = self._register.resident(uuid)
        if not resident.zone.is_running:
            raise NotRunning(resident.zone.metadata.id)
        brands.check_processes(resident.zone.spec.brand, "exec")
        return await execs.exec(
            self._gz, resident.zone, process, group=self._group, root=self._root
        )

    async def root_size(self, uuid: ZoneUUID) -> int:
        """What the zone's clone holds of its own; snapshots and volumes below it are not counted."""
        self._register.resident(uuid)
        output = await self._gz.run(
            ("zfs", "get", "-Hp", "-o", "value", "usedbydataset", f"{self._zpool}/{uuid}"),
            timeout_s=_ZFS_TIMEOUT_S,
        )
        return int(output.strip() or 0)

    def logs(self, uuid: ZoneUUID, query: LogQuery) -> AsyncIterator[tuple[StreamId, bytes]]:
        """From zoneadmd's file; of a full zone its console."""
        resident = self._register.resident(uuid)
        metadata = resident.zone.metadata
        if resident.kind is not brands.Kind.CONTAINER:
            name, tty = CONSOLE_LOG, True
        elif metadata.log_driver == "none":
            raise NotSupported("configured logging driver does not support reading")
        else:
            name, tty = STDIO_LOG, metadata.tty
        return read_logs(
            self._gz, resident.zonepath, query, ended=resident.log_ended, tty=tty, name=name
        )


def mounted_sources(spec: ZoneSpec, folder: str) -> frozenset[str]:
    """Of its filesystems those that the global zone mounts."""
    sources = (entry.source for entry in spec.filesystems)
    return frozenset(source for source in sources if source.startswith(f"{folder}/"))


def _check_joins(runtime: Runtime) -> None:
    """A zone is one namespace of everything.  The translation says so first, in the client's words."""
    for kind in ("network", "pid", "ipc", "uts"):
        value: str = getattr(runtime, kind)
        if value == "host" or value.startswith("zone:"):
            raise NotSupported(
                f"sharing the {kind} namespace is not supported on SmartOS: a zone has its own"
            )


def _ends_policy(resident: Resident, signal: str) -> bool:
    """Whether a signal by hand keeps the policy from acting at the next exit; dockerd's rules."""
    metadata = resident.zone.metadata
    return (
        signal in ("SIGKILL", _stop_signal(resident, None))
        # dockerd asks for the container's own stop signal, and looks no further where it has none.
        or not metadata.runtime.stop_signal
        or metadata.restart_policy == "unless-stopped"
    )


def _stop_signal(resident: Resident, name: str | None) -> str:
    """Its own one may be a signal that illumos lacks: its creation was told that SIGTERM stops it then."""
    if name:
        return vmadm.signal_name(name)
    try:
        return vmadm.signal_name(resident.zone.metadata.runtime.stop_signal or "SIGTERM")
    except InvalidParameter:
        return "SIGTERM"


def _new_mac() -> str:
    """Locally administered, by chance: of the platform's own ones vmadm would choose as well."""
    return ":".join(f"{byte:02x}" for byte in (0x02, *secrets.token_bytes(5)))


def _words(resident: Resident) -> str:
    return f"a {resident.kind.value} of brand {resident.zone.spec.brand}"
