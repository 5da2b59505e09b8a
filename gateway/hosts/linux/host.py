"""The Linux host, opened: probes the machine, puts its parts together, finds its zones again.

    data_root   overlay/ zones/ volumes/ networks/ trash/       outlives a reboot
    exec_root   bundles/ runtime/ exits/ execs/ netns/ sealed/  does not

What each part does stands in its own file; this one only knows the order in which they must come up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import shutil
from pathlib import Path

from gateway.hosts.command import Spawner
from gateway.hosts.linux import overlay, probes
from gateway.hosts.linux.boot import Folders, Parts
from gateway.hosts.linux.cgroups import Cgroups
from gateway.hosts.linux.execs import Execs
from gateway.hosts.linux.files import LinuxFiles
from gateway.hosts.linux.gauges import LinuxGauges
from gateway.hosts.linux.machine import Machine, detect, memory_nodes
from gateway.hosts.linux.nameservers import NameServers
from gateway.hosts.linux.network import LinuxNetworks
from gateway.hosts.linux.reaper import become_subreaper
from gateway.hosts.linux.sources import Sources
from gateway.hosts.linux.store import RootStore
from gateway.hosts.linux.storechoice import open_store
from gateway.hosts.linux.volumes import LinuxVolumes
from gateway.hosts.linux.warmth import Warmth
from gateway.hosts.linux.watch import FolderWatch
from gateway.hosts.linux.zones import LinuxZones
from gateway.settings import Settings
from gateway.zones.host import HostFacts
from imgsources.oci import ImageUUID

log = logging.getLogger(__name__)

_MOUNTED_STORES = ("overlay", "zfs")
"""Folders of stores that are shared mounts while there are zones."""


class LinuxHost:
    """Satisfies gateway.zones.host.Host.  Make it by `open`."""

    def __init__(
        self,
        *,
        parts: Parts,
        zones: LinuxZones,
        execs: Execs,
        watch: FolderWatch,
        volumes: LinuxVolumes,
        facts: HostFacts,
    ) -> None:
        self._parts = parts
        self._zones = zones
        self._execs = execs
        self._watch = watch
        self._volumes = volumes
        self._facts = facts

    @classmethod
    async def open(
        cls,
        settings: Settings,
        group: asyncio.TaskGroup,
        *,
        datasets: RootStore | None = None,
    ) -> LinuxHost:
        """Zones that run are found again, what is half made is gone, restart policies are under way.

        `datasets`: another store for the zones' roots than overlays below data_root; closed with the host.
        APIError where the machine cannot run zones, with the reason.
        """
        become_subreaper()
        folders = Folders(settings.data_root, settings.exec_root)
        cgroups = Cgroups.detect()
        _make_folders(folders, *(folders.run / name for name in ("runtime", "exits", "shm")))
        # Shared mounts must be there before the spawner's thread copies the mount namespace.
        networks = await asyncio.to_thread(
            LinuxNetworks.open,
            name=settings.name,
            bridge=settings.bridge_name,
            bip=settings.bip,
            pools=settings.default_address_pools,
            state=folders.data / "networks",
            exec_root=folders.run,
        )
        try:
            return await cls._open(settings, group, folders, cgroups, networks, datasets)
        except BaseException:
            empty = not any((folders.data / "zones").iterdir())
            await _let_go(settings.name, folders, cgroups, networks, empty=empty)
            raise

    @classmethod
    async def _open(
        cls,
        settings: Settings,
        group: asyncio.TaskGroup,
        folders: Folders,
        cgroups: Cgroups,
        networks: LinuxNetworks,
        datasets: RootStore | None,
    ) -> LinuxHost:
        runtime_state, exits = folders.run / "runtime", folders.run / "exits"
        datasets = datasets or await open_store(settings)
        volumes = await asyncio.to_thread(LinuxVolumes, folders.data, datasets.sized_folders)
        sources = Sources(folders.data / "zones", folders.run, volumes, datasets)
        spawner = Spawner(probes.leave_mount_namespace)
        found = await probes.find_runtime(
            spawner,
            cgroups,
            parent=settings.name,
            state=runtime_state,
            exits=exits,
            scratch=folders.run / "bundles",
        )
        limits = cgroups.limits()
        machine = detect(
            runtime="crun" if found.runtime.name == "crun" else "runc",
            cgroup_layout=cgroups.layout,
            bpf_annotation=found.bpf,
            swap_limit=limits["SwapLimit"],
            blkio_weight=limits["BlkioWeight"],
        )
        parts = Parts(
            name=settings.name,
            folders=folders,
            spawner=spawner,
            runtime=found.runtime,
            machine=machine,
            cgroups=cgroups,
            datasets=datasets,
            networks=networks,
            names=NameServers(networks.list, group),
            warmth=Warmth(cgroups),
            sources=sources,
        )
        watch = FolderWatch()
        execs = Execs(spawner, found.runtime, folders.run / "execs", watch, group)
        zones = LinuxZones(parts, execs, group, watch)
        await zones.adopt()
        watch.add(exits, zones.exit_appeared)
        zones.look_for_exits()
        facts = await _facts(settings, parts, found)
        return cls(parts=parts, zones=zones, execs=execs, watch=watch, volumes=volumes, facts=facts)

    @property
    def zones(self) -> LinuxZones:
        """Of this instance."""
        return self._zones

    @property
    def datasets(self) -> RootStore:
        """Layers of images."""
        return self._parts.datasets

    @property
    def networks(self) -> LinuxNetworks:
        """The default network and leases."""
        return self._parts.networks

    @property
    def volumes(self) -> LinuxVolumes:
        """Named and anonymous volumes."""
        return self._volumes

    @property
    def files(self) -> LinuxFiles:
        """Of the zones."""
        return LinuxFiles(self._zones, self._parts)

    @property
    def gauges(self) -> LinuxGauges:
        """Of the zones."""
        return LinuxGauges(self._zones, self._parts)

    def image_folder(self, uuid: ImageUUID) -> str:
        """Sources mounts the layers of the dataset that this folder is named after."""
        return str(self._parts.datasets.image_folder(uuid))

    @property
    def facts(self) -> HostFacts:
        """As found at the opening; the network's warnings are looked up anew."""
        return self._facts

    async def run(self) -> None:
        """Restart policies of before the opening, then nothing: all else is driven by events."""
        await self._zones.run()

    async def close(self) -> None:
        """Zones run on.  With none left, mounts and rules of ours go too."""
        self._zones.close()
        await self._zones.settled()
        self._parts.names.shut()
        self._watch.close()
        self._execs.close()
        self._parts.spawner.close()
        self._parts.runtime.close()
        self._parts.warmth.close()
        await asyncio.to_thread(self._parts.datasets.close)
        parts, empty = self._parts, not self._zones.list()
        await _let_go(parts.name, parts.folders, parts.cgroups, parts.networks, empty=empty)


async def _let_go(
    name: str, folders: Folders, cgroups: Cgroups, networks: LinuxNetworks, *, empty: bool
) -> None:
    """Of the kernel's side.  With no zone left, mounts, rules, bridge and cgroup of ours go too."""
    if empty:
        await cgroups.remove(cgroups.path("", default_parent=name), timeout_s=0.1)
    await networks.close(remove=empty)
    if empty:
        for name in _MOUNTED_STORES:
            overlay.unmount(folders.data / name)


def _make_folders(folders: Folders, *others: Path) -> None:
    for folder in (folders.data / "zones", folders.trash, folders.run / "bundles", *others):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in folders.trash.iterdir():
        shutil.rmtree(path, ignore_errors=True)


async def _facts(settings: Settings, parts: Parts, found: probes.Found) -> HostFacts:
    release = platform.freedesktop_os_release()
    runtime = found.runtime
    uname = os.uname()
    return HostFacts(
        storage_driver=parts.datasets.driver,
        cgroup_driver=parts.cgroups.driver,
        cgroup_version=parts.cgroups.version,
        runtimes=(runtime.name,),
        default_runtime=runtime.name,
        kernel_version=uname.release,
        operating_system=release.get("PRETTY_NAME", "Linux"),
        os_version=release.get("VERSION_ID", ""),
        architecture=uname.machine,
        ncpu=len(os.sched_getaffinity(0)),
        memory_nodes=memory_nodes(),
        mem_total=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        root_dir=str(settings.data_root),
        security_options=_security_options(parts.machine),
        log_drivers=("json-file", "local", "none"),
        limits=parts.cgroups.limits(),
        rlimits=dict(parts.machine.rlimits),
        oom_score_adj=parts.machine.oom_score_adj,
        warnings=(*found.warnings, *parts.networks.warnings()),
        components=(
            (runtime.name, await probes.version(runtime.program)),
            ("conmon", await probes.version(runtime.conmon)),
        ),
        status=tuple(await parts.datasets.status()),
    )


def _security_options(machine: Machine) -> tuple[str, ...]:
    options = ["name=seccomp,profile=builtin"] if machine.seccomp else []
    if machine.apparmor:
        options.insert(0, "name=apparmor")
    return tuple(options)
