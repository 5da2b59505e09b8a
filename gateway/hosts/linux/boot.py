"""One zone from its spec to a process that waits to be started, and everything away again.

    prepare   network || root  ->  volumes, user, workdir, config.json  ->  conmon create
    clear     whatever of these is there is taken away; safe after any failure, and at a second time

What a zone's state is, and when to do this: zones.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dockerapi.errors import (
    APIError,
    Conflict,
    InvalidParameter,
    NotFound,
    NotSupported,
    StartFailure,
)
from gateway.hosts.command import Spawner
from gateway.hosts.linux import conmon, etcfiles, overlay, relimit
from gateway.hosts.linux.bundle import oci_config
from gateway.hosts.linux.cgroups import Cgroups
from gateway.hosts.linux.conmon import Bundle, Runtime
from gateway.hosts.linux.devices import disks
from gateway.hosts.linux.devices import find as find_devices
from gateway.hosts.linux.linking import with_links
from gateway.hosts.linux.machine import Machine, Place
from gateway.hosts.linux.nameservers import NameServers
from gateway.hosts.linux.network import LinuxNetworks
from gateway.hosts.linux.process import few_files, uses_init
from gateway.hosts.linux.rooted import make_folders, make_link
from gateway.hosts.linux.sources import Sources
from gateway.hosts.linux.store import RootStore
from gateway.hosts.linux.users import resolve
from gateway.hosts.linux.warmth import Warmth
from gateway.hosts.networks import for_start
from gateway.zones.host import Zone
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Filesystem, ZoneUUID

log = logging.getLogger(__name__)
T = TypeVar("T")
_MOUNT_FLAGS = {
    os.ST_RDONLY: "ro",
    os.ST_NOSUID: "nosuid",
    os.ST_NODEV: "nodev",
    os.ST_NOEXEC: "noexec",
}
_INITS = (
    "/usr/libexec/docker/docker-init",
    "/usr/bin/docker-init",
    "/usr/bin/tini-static",
    "/usr/bin/tini",
    "/usr/bin/catatonit",
)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the host keeps what.  `data` outlives a reboot, `run` (exec_root) does not."""

    data: Path
    run: Path

    def zone(self, uuid: ZoneUUID) -> Path:
        """zone.json, ctr.log, etc/, volumes/ of one zone."""
        return self.data / "zones" / uuid

    def log(self, uuid: ZoneUUID) -> Path:
        """What the zone's first process wrote."""
        return self.zone(uuid) / "ctr.log"

    def bundle(self, uuid: ZoneUUID) -> Bundle:
        """Of a running zone."""
        return Bundle(self.run / "bundles" / uuid)

    def shm(self, uuid: ZoneUUID) -> Path:
        """The shared memory of a running zone that lets others join its IPC namespace."""
        return self.run / "shm" / uuid

    @property
    def trash(self) -> Path:
        """What is on its way out."""
        return self.data / "trash"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a zone is made with."""

    name: str
    folders: Folders
    spawner: Spawner
    runtime: Runtime
    machine: Machine
    cgroups: Cgroups
    datasets: RootStore
    networks: LinuxNetworks
    names: NameServers
    warmth: Warmth
    sources: Sources


@dataclass(frozen=True, slots=True)
class Prepared:
    """A first process that waits at its fifo."""

    pid: int
    conmon_pid: int
    root: str
    ports: tuple[PublishedPort, ...]


Peer = Callable[[str], Zone]
"""The zone whose namespace is joined, by "zone:UUID" or "zone:NAME"; NotFound if there is none."""

_JOIN_IPC = "failed to join IPC namespace: "


async def prepare(parts: Parts, zone: Zone, peer: Peer) -> Prepared:
    """Everything of a start but the start.  After an error call `clear`."""
    with parts.warmth.kept():
        return await _prepare(parts, zone, peer)


async def _prepare(parts: Parts, zone: Zone, peer: Peer) -> Prepared:
    uuid, runtime = zone.uuid, zone.metadata.runtime
    joined = {
        kind: _joined(kind, value, peer)
        for kind in ("network", "pid", "ipc", "uts")
        if (value := getattr(runtime, kind)).startswith("zone:")
    }

    if refused := relimit.refused_shares(parts.cgroups, runtime.resources):
        raise conmon.start_failure(
            "", f"error setting cgroup config for procHooks process: {refused}"
        )

    async def network() -> tuple[str, tuple[PublishedPort, ...]]:
        if runtime.network:
            return "", ()
        with for_start():
            made = await parts.networks.connect(
                uuid,
                zone.spec.nics,
                runtime.published_ports,
                endpoint=zone.spec.alias,
                endpoints=runtime.endpoints,
            )
        if parts.names.needs(zone):
            await parts.names.open(uuid, made.netns_path)
        return made.netns_path, made.ports

    async with asyncio.TaskGroup() as group:
        connected = group.create_task(_outcome(network()))
        mounted = group.create_task(_outcome(parts.datasets.mount(uuid)))
    root = mounted.result()()
    netns, ports = connected.result()()
    zone = with_links(zone, peer)
    await asyncio.to_thread(_make_bundle, parts, zone, Path(root), netns, joined)
    if zone.spec.filesystems or runtime.ipc:
        await parts.spawner.renew()  # a source may have been mounted since we started
    bundle = parts.folders.bundle(uuid)
    pid = await conmon.create(parts.spawner, parts.runtime, bundle, uuid, _streams(parts, zone))
    if limit := few_files(runtime, parts.machine):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    if zone.spec.filesystems:
        await asyncio.to_thread(parts.sources.settle, uuid)
    return Prepared(pid, bundle.conmon_pid(), str(root), ports)


def _joined(kind: str, value: str, peer: Peer) -> Zone:
    """Whose namespace is joined; refused in dockerd's words, and with its statuses, if it is gone or does not run."""
    try:
        zone = peer(value)
    except NotFound as error:
        match kind:
            case "network":
                raise APIError(
                    f"joining network namespace of container: {error.message}"
                ) from error
            case "ipc":
                raise InvalidParameter(f"{_JOIN_IPC}{error.message}") from error
            case _:
                raise APIError(
                    f"failed to join {kind.upper()} namespace: {error.message}"
                ) from error
    if zone.is_running:
        return zone
    stopped = f"container {zone.metadata.id} is not running"
    match kind:
        case "network":
            word = "exited" if zone.finished_ns else "created"
            raise Conflict(
                "cannot join network namespace of a non running container: "
                f"container {zone.spec.alias} is {word}"
            )
        case "ipc":
            raise Conflict(f"{_JOIN_IPC}{stopped}")
        case _:
            raise APIError(f"failed to join {kind.upper()} namespace: {stopped}")


async def _outcome(awaitable: Awaitable[T]) -> Callable[[], T]:
    """Run to its end whatever happens to its neighbours: a half-cancelled worker thread cannot be undone."""
    try:
        value = await awaitable
    except Exception as error:  # noqa: BLE001  # raised again by whoever asks for the result
        caught = error

        def fail() -> T:
            raise caught

        return fail
    return lambda: value


def _streams(parts: Parts, zone: Zone) -> conmon.Streams:
    metadata = zone.metadata
    return conmon.Streams(
        terminal=metadata.tty,
        open_stdin=metadata.open_stdin,
        stdin_once=metadata.runtime.stdin_once,
        log=None if metadata.log_driver == "none" else parts.folders.log(zone.uuid),
        program=metadata.argv[0] if metadata.argv else "",
    )


def _make_bundle(
    parts: Parts, zone: Zone, root: Path, netns: str, joined: Mapping[str, Zone]
) -> None:
    metadata, spec = zone.metadata, zone.spec
    bundle = parts.folders.bundle(zone.uuid)
    shutil.rmtree(bundle.path, ignore_errors=True)
    (bundle.path / "persist").mkdir(parents=True)
    (parts.runtime.exits / zone.uuid).unlink(missing_ok=True)
    _mark(root)
    _make_workdir(root, metadata.workdir)
    sources = parts.sources.hold(zone, root)
    network_peer = joined.get("network")
    place = Place(
        rootfs=str(root),
        cgroups_path=cgroup(parts, zone),
        etc=str(_etc(parts, zone, network_peer)),
        netns=f"/proc/{network_peer.pid}/ns/net" if network_peer else netns,
        pidns=_namespace(joined.get("pid"), "pid"),
        ipcns=_namespace(joined.get("ipc"), "ipc"),
        utsns=_namespace(joined.get("uts"), "uts"),
        shm=_shm(parts, zone, joined.get("ipc")),
        init=_init() if uses_init(metadata.runtime) else "",
        volumes=sources,
        files=_files(spec.filesystems, sources),
        flags=_flags(spec.filesystems, sources),
        devices=find_devices(metadata.runtime),
        disks=disks(metadata.runtime.resources),
    )
    if network_peer is not None:
        # Who joins another's network goes by its name, also where it was not there at create.
        spec = spec.model_copy(update={"hostname": network_peer.spec.hostname})
    identity = resolve(root, metadata.user, metadata.runtime.groups)
    config = oci_config(spec, metadata, place, identity, parts.machine)
    bundle.config.write_text(json.dumps(config))
    parts.cgroups.prepare(place.cgroups_path)


def _files(filesystems: Sequence[Filesystem], sources: Mapping[str, str]) -> frozenset[str]:
    """Sources that are no folders."""
    found = (sources.get(f.target, f.source) for f in filesystems)
    return frozenset(source for source in found if not Path(source).is_dir())


def _flags(
    filesystems: Sequence[Filesystem], sources: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """`Place.flags`: crun's bind would lose them (1.8), and what lies on a read-only mount could be written."""
    found = {}
    for filesystem in filesystems:
        source = sources.get(filesystem.target, filesystem.source)
        with suppress(OSError):  # what is missing is told of by the runtime
            flags = os.statvfs(source).f_flag
            found[source] = tuple(word for flag, word in _MOUNT_FLAGS.items() if flags & flag)
    return found


def cgroup(parts: Parts, zone: Zone) -> str:
    """`linux.cgroupsPath` of a zone."""
    parent = zone.metadata.runtime.cgroup_parent
    return parts.cgroups.path(zone.uuid, parent, default_parent=parts.name)


def _namespace(zone: Zone | None, kind: str) -> str:
    return f"/proc/{zone.pid}/ns/{kind}" if zone else ""


def _shm(parts: Parts, zone: Zone, peer: Zone | None) -> str:
    """`Place.shm`; InvalidParameter, in dockerd's words, if the peer shares its memory with nobody."""
    runtime = zone.metadata.runtime
    if runtime.ipc == "shareable":
        folder = parts.folders.shm(zone.uuid)
        folder.mkdir(parents=True, exist_ok=True)
        overlay.mount_memory(folder, runtime.shm_size)
        return str(folder)
    if peer is None:
        return ""
    if peer.metadata.runtime.ipc == "host":
        return "/dev/shm"  # noqa: S108
    kind, _, owner = peer.metadata.runtime.ipc.partition(":")
    folder = parts.folders.shm(ZoneUUID(owner) if kind == "zone" else peer.uuid)
    if not folder.is_mount():
        raise InvalidParameter(
            f"{_JOIN_IPC}container {peer.metadata.id}: non-shareable IPC "
            "(hint: use IpcMode:shareable for the donor container)"
        )
    return str(folder)


def clear_shm(folder: Path) -> None:
    """What was shared as /dev/shm goes when the last zone that has it ends."""
    overlay.unmount(folder)
    with suppress(FileNotFoundError):
        folder.rmdir()


def _mark(root: Path) -> None:
    """The empty file by which programs know that they run under docker, and what old ones read for mounts."""
    with suppress(FileExistsError):  # whatever the image has there is left alone, links unfollowed
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(root / ".dockerenv", flags, 0o755))
    with suppress(OSError):  # an image may have no folder there
        make_link(root, "/etc", "mtab", "/proc/mounts")


def _make_workdir(root: Path, workdir: str) -> None:
    try:
        make_folders(root, workdir or "/")
    except NotADirectoryError as error:
        raise InvalidParameter(f"Cannot mkdir: {workdir} is not a directory") from error


def _init() -> str:
    for path in _INITS:
        if os.access(path, os.X_OK):
            return path
    raise NotSupported("--init needs an init program on the host: install tini")


def _etc(parts: Parts, zone: Zone, peer: Zone | None) -> Path:
    """The folder of hosts, hostname, resolv.conf; that of the zone whose network is shared."""
    if peer is not None:
        return parts.folders.zone(peer.uuid) / "etc"
    folder = parts.folders.zone(zone.uuid) / "etc"
    folder.mkdir(exist_ok=True)
    etcfiles.write(folder, zone.spec, zone.metadata, has_names=parts.names.needs(zone))
    return folder


def failure(error: Exception) -> APIError:
    """What a client is told of a failed start."""
    if isinstance(error, APIError):
        return error
    return APIError(f"cannot start the zone: {error}")


def exit_code(error: APIError) -> int:
    """Of a zone whose start failed so."""
    return error.exit_code if isinstance(error, StartFailure) else 128


async def clear(parts: Parts, zone: Zone) -> None:
    """Take away what a running zone had: processes, cgroup, runtime state, network, mount, bundle.

    What goes wrong with one of them keeps none of the others; the first error is raised at the end.
    """
    parts.names.close(zone.uuid)
    async with asyncio.TaskGroup() as group:
        emptied = group.create_task(_outcome(clear_cgroup(parts, cgroup(parts, zone))))
        disconnected = group.create_task(_outcome(parts.networks.disconnect(zone.uuid)))
    unmounted = await _outcome(parts.datasets.unmount(zone.uuid))
    if await asyncio.to_thread(_clear_files, parts, zone.uuid):
        await parts.spawner.renew()  # or its own copy of the mounts would keep them alive
    for result in (emptied.result(), disconnected.result(), unmounted):
        result()


async def clear_cgroup(parts: Parts, path: str) -> None:
    """Kill what is in a cgroup, and remove it; none is fine."""
    # Without a pid namespace of its own a zone's processes outlive the first one.
    await parts.cgroups.thaw(path)
    parts.cgroups.kill(path)
    if not await parts.cgroups.remove(path):
        log.warning("cgroup %s is still in use", path)


def _clear_files(parts: Parts, uuid: ZoneUUID) -> bool:
    """Whether a volume was unmounted."""
    clear_shm(parts.folders.shm(uuid))
    shutil.rmtree(parts.runtime.state / uuid, ignore_errors=True)
    shutil.rmtree(parts.folders.bundle(uuid).path, ignore_errors=True)
    parts.sources.settle(uuid)
    return parts.sources.release(uuid)
