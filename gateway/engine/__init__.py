"""What each docker operation does, by noun.  `Gateway` satisfies dockerapi.engine's `Engine`.

The host's zones are the only record of containers: what is kept here (names, seen times, execs, events)
is memory that a restart makes anew.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from dockerapi.errors import NotFound
from dockerapi.filters import Filters
from dockerapi.models.system import AuthConfig
from gateway.engine.commit import Commits
from gateway.engine.containers import Containers, places
from gateway.engine.disk import DiskUsage
from gateway.engine.distribution import Distribution
from gateway.engine.events import Bus
from gateway.engine.execs import Execs
from gateway.engine.files import Files
from gateway.engine.health import Checks
from gateway.engine.images import Images
from gateway.engine.lifecycle import Lifecycle
from gateway.engine.log_forwarding import Forwarding
from gateway.engine.networks import Networks
from gateway.engine.roster import Roster
from gateway.engine.supervisor import Supervisor
from gateway.engine.system import System
from gateway.engine.usage import Usage
from gateway.engine.volumes import Volumes
from gateway.settings import Settings
from gateway.translate import smartos
from gateway.translate.facts import Surroundings
from gateway.zones.host import Host, Zone, ZoneChange
from imgsources.catalog import Catalog
from imgsources.imgapi import ImageServers
from imgsources.puller import Puller
from imgsources.registry import RegistryClient

if TYPE_CHECKING:
    from gateway.engine.builds import Builds

log = logging.getLogger(__name__)


class Gateway:
    """The engine over one host.  `group` owns what runs in the background and must outlive it."""

    def __init__(
        self,
        host: Host,
        catalog: Catalog,
        puller: Puller,
        *,
        settings: Settings,
        registry: Callable[[AuthConfig | None], RegistryClient],
        group: asyncio.TaskGroup,
        servers: ImageServers | None = None,
    ) -> None:
        self._host, self._catalog, self._puller, self._group = host, catalog, puller, group
        self._spool = _spool(settings.data_root)
        hostname = socket.gethostname()
        self._bus = Bus()
        self._roster = Roster(host.zones)
        self._lifecycle = Lifecycle(host, self._bus, exited=self._exited, changed=self._changed)
        self.execs = Execs(host.zones, self._roster, self._lifecycle, group)
        self._checks = Checks(host.zones, self.execs, self._lifecycle, group)
        self.files = Files(host.files, self._roster, self._lifecycle)
        self.usage = Usage(host.gauges, self._roster, self._lifecycle)
        self._forwarding = Forwarding(
            host.zones, settings.data_root / "forwarding", group, hostname
        )
        host.zones.before_start(self._forwarding.before_start)
        interface = _own_interface(host, settings) or "eth0"
        self.networks = Networks(host, self._roster, self._bus, interface=interface)
        self.volumes = Volumes(host.volumes, self._roster, self._bus)
        self.containers = self._containers(settings, hostname)
        self._supervisor = Supervisor(group, self.containers.discard)
        self.commits = self._commits()
        self.images = self._images(registry, servers)
        self.image_files = self.images.files
        self.distribution = Distribution(
            catalog,
            puller.blobs,
            registry,
            group=group,
            emit=self.images.emit,
            max_concurrent_uploads=settings.max_concurrent_uploads,
        )
        self.system = System(
            host,
            catalog,
            roster=self._roster,
            bus=self._bus,
            settings=settings,
            registry=registry,
            disk=self._disk_usage(),
            identity=_identity(settings.data_root),
            hostname=hostname,
        )

    def _containers(self, settings: Settings, hostname: str) -> Containers:
        host = self._host
        return Containers(
            host,
            self._catalog,
            roster=self._roster,
            lifecycle=self._lifecycle,
            bus=self._bus,
            networks=self.networks,
            execs=self.execs,
            checks=self._checks,
            forwarding=self._forwarding,
            places=places(settings.data_root, settings.exec_root, host, settings.smartos.zpool),
            surroundings=surroundings(host, settings, hostname),
        )

    def _commits(self) -> Commits:
        return Commits(
            self._host,
            self._catalog,
            self._puller,
            roster=self._roster,
            lifecycle=self._lifecycle,
            bus=self._bus,
            spool=self._spool,
            is_removing=self.containers.is_removing,
        )

    def _images(
        self,
        registry: Callable[[AuthConfig | None], RegistryClient],
        servers: ImageServers | None,
    ) -> Images:
        return Images(
            self._catalog,
            self._puller,
            datasets=self._host.datasets,
            registry=registry,
            roster=self._roster,
            bus=self._bus,
            spool=self._spool,
            storage_driver=self._host.facts.storage_driver,
            servers=servers,
        )

    def _disk_usage(self) -> DiskUsage:
        rows = partial(
            self.images.list, all=False, digests=False, shared_size=True, filters=Filters()
        )
        return DiskUsage(
            self._catalog,
            self._host.datasets,
            self._host.volumes,
            self._roster,
            containers=self.containers.list,
            image_rows=rows,
            volume_list=self.volumes.list,
        )

    @cached_property
    def builds(self) -> Builds:
        """What only builds need is loaded with the first one: a gateway that builds nothing is the smaller for it."""
        from gateway.engine.builds import Builds  # noqa: PLC0415
        from gateway.engine.buildworkshop import Workshop  # noqa: PLC0415

        workshop = Workshop(
            self._host,
            self._catalog,
            self._puller,
            self.containers,
            self.images,
            self._roster,
            self._spool,
            self._group,
        )
        return Builds(workshop, self._catalog, self._bus)

    def reload(self, settings: Settings) -> None:
        """Take from other settings what can change while we run, and tell of it."""
        self._puller.limit(
            concurrent_downloads=settings.max_concurrent_downloads,
            download_attempts=settings.max_download_attempts,
        )
        self.distribution.uploads.resize(settings.max_concurrent_uploads)
        self.system.reload(settings)

    async def run(self) -> None:
        """Follow the host's changes until cancelled."""
        changes = self._host.zones.events()
        self._supervisor.sweep(self._host.zones.list())
        for zone in self._host.zones.list():
            self._checks.note(zone)
        self._forwarding.sweep(self._host.zones.list())
        await self.volumes.sweep()
        await self.commits.recover()
        async for event in changes:
            match event.change:
                case ZoneChange.CREATED:
                    pass
                case ZoneChange.DELETED:
                    self.containers.vanished(event.zone)
                    if self.images.is_gone_from_under(event.zone):
                        self._group.create_task(self._puller.collect())
                case ZoneChange.KILLED:
                    self._lifecycle.emit(event.zone, "kill", signal="9")
                case ZoneChange.OOM:
                    self._lifecycle.oom(event.zone)
                case _:
                    self._lifecycle.note(event.zone)

    def _exited(self, zone: Zone) -> None:
        self._supervisor.exited(zone)

    def _changed(self, zone: Zone) -> None:
        self._checks.note(zone)
        self._forwarding.note(zone)


def surroundings(host: Host, settings: Settings, hostname: str) -> Surroundings:
    """What the machine adds to every create body."""
    facts = host.facts
    try:
        gateway = host.networks.get("bridge").gateway
    except NotFound:
        gateway = ""
    return Surroundings(
        instance=settings.name,
        hostname=hostname,
        ncpu=facts.ncpu,
        memory_nodes=facts.memory_nodes,
        cgroup_version=facts.cgroup_version,
        runtimes=facts.runtimes,
        default_runtime=facts.default_runtime,
        dns=settings.dns or facts.resolvers,
        host_gateway=gateway,
        limits=facts.limits,
        rlimits=facts.rlimits,
        oom_score_adj=facts.oom_score_adj,
        zone_defaults=smartos.zone_defaults(settings),
        platform=facts.platform,
        storage_driver=facts.storage_driver,
        interface=_own_interface(host, settings),
    )


def _own_interface(host: Host, settings: Settings) -> str:
    """The name of first nics that was set; "" = the brand's."""
    return settings.smartos.interface if host.facts.platform == "smartos" else ""


def _spool(data_root: Path) -> Path:
    """The folder of uploads and of layers of commits, without what a killed process left there."""
    folder = data_root / "tmp"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for leftover in (
        path for kind in ("load", "commit", "build") for path in folder.glob(f"{kind}-*")
    ):
        leftover.unlink(missing_ok=True)
    return folder


def _identity(data_root: Path) -> str:
    """ID of /info: made once per data root."""
    path = data_root / "engine-id"
    if not path.exists():
        path.write_text(str(uuid.uuid4()))
    return path.read_text().strip()
