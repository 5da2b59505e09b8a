"""The SmartOS host, opened: reaches the global zone, puts its parts together, finds its zones again.

    global zone (local.py | ssh.py) -> facts -> datasets, volumes, networks -> register -> zones

What each part does stands in its own file; this one only knows the order in which they must come up.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import replace

from gateway.hosts.smartos import facts, leftovers
from gateway.hosts.smartos.datasets import ZFSDatasets
from gateway.hosts.smartos.files import SmartOSFiles
from gateway.hosts.smartos.gauges import SmartOSGauges
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.localmounts import LocalMounts
from gateway.hosts.smartos.naming import Naming
from gateway.hosts.smartos.network import SmartOSNetworks
from gateway.hosts.smartos.notes import Notes
from gateway.hosts.smartos.register import Register
from gateway.hosts.smartos.ssh import SSHGlobalZone
from gateway.hosts.smartos.volumes import ZFSVolumes
from gateway.hosts.smartos.zones import SmartOSZones
from gateway.settings import Settings
from gateway.zones.host import HostFacts
from imgsources.oci import ImageUUID

log = logging.getLogger(__name__)


class SmartOSHost:
    """Satisfies gateway.zones.host.Host.  Make it by `open`."""

    def __init__(
        self,
        gz: GlobalZone,
        facts: HostFacts,
        *,
        zones: SmartOSZones,
        datasets: ZFSDatasets,
        volumes: ZFSVolumes,
        networks: SmartOSNetworks,
        files: SmartOSFiles,
    ) -> None:
        self._gz = gz
        self._facts = facts
        self._zones = zones
        self._datasets = datasets
        self._volumes = volumes
        self._networks = networks
        self._files = files
        self._gauges = SmartOSGauges(gz, zones, ncpu=facts.ncpu)

    @classmethod
    async def open(cls, settings: Settings, group: asyncio.TaskGroup) -> SmartOSHost:
        """Zones that run are found again, what is half made is on its way out.

        APIError where there is no such machine, with the reason.
        """
        gz = await _global_zone(settings)
        try:
            return await cls._open(gz, settings, group)
        except BaseException:
            await gz.close()
            raise

    @classmethod
    async def _open(
        cls, gz: GlobalZone, settings: Settings, group: asyncio.TaskGroup
    ) -> SmartOSHost:
        known = await facts.ask(gz, settings)
        zpool = settings.smartos.zpool
        spool = settings.data_root / "tmp"
        spool.mkdir(parents=True, exist_ok=True)
        datasets = await ZFSDatasets.open(
            gz, zpool=zpool, root=settings.smartos.root, instance=settings.name, spool=spool
        )
        volumes = await ZFSVolumes.open(gz, zpool=zpool, instance=settings.name)
        root = settings.smartos.root
        async with AsyncExitStack() as opened:
            networks = await SmartOSNetworks.open(gz, settings)
            opened.push_async_callback(networks.close)
            notes = await asyncio.to_thread(Notes, settings.data_root / "zones")
            register = Register(gz, name=settings.name, notes=notes, group=group, root=root)
            register.foreign = lambda vm: networks.addresses.learn_foreign(
                vm["uuid"], vm.get("nics") or ()
            )
            register.foreign_gone = networks.addresses.forget_foreign
            naming = Naming(
                gz,
                group,
                networks=networks.list,
                zones=register.list,
                address_of=networks.own_address,
            )
            opened.callback(naming.close)
            networks.changed = naming.serve
            networks.addresses.runs = register.runs
            networks.half_made_go = register.until_swept
            naming.serve()
            zones = SmartOSZones(
                gz,
                register,
                naming=naming,
                datasets=datasets,
                networks=networks,
                volumes=volumes,
                mounts=LocalMounts(gz, volumes, instance=settings.name, root=root),
                group=group,
                zpool=zpool,
                root=root,
            )
            opened.push_async_callback(zones.close)
            await zones.open()
            await leftovers.end(gz, {str(zone.uuid) for zone in zones.list()})
            register.looks_around = lambda: leftovers.end_hung(
                gz, lambda: {str(zone.uuid) for zone in register.list()}
            )
            register.look_around()
            opened.pop_all()
        return cls(
            gz,
            known,
            zones=zones,
            datasets=datasets,
            volumes=volumes,
            networks=networks,
            files=SmartOSFiles(gz, zones, zpool=zpool, spool=spool, root=root),
        )

    @property
    def zones(self) -> SmartOSZones:
        """Of this instance."""
        return self._zones

    @property
    def datasets(self) -> ZFSDatasets:
        """Layers of images, and images of the platform."""
        return self._datasets

    @property
    def networks(self) -> SmartOSNetworks:
        """The default network, user networks, leases."""
        return self._networks

    @property
    def volumes(self) -> ZFSVolumes:
        """Named and anonymous volumes."""
        return self._volumes

    def image_folder(self, uuid: ImageUUID) -> str:
        """The tree in the image's dataset, which is never changed."""
        return self._datasets.root(uuid)

    @property
    def facts(self) -> HostFacts:
        """As found at the opening, and what does not work: networks, or the whole machine out of reach."""
        warnings = (*self._facts.warnings, *self._networks.warnings(), *self._zones.warnings())
        return replace(self._facts, warnings=warnings)

    @property
    def files(self) -> SmartOSFiles:
        """Of the zones."""
        return self._files

    @property
    def gauges(self) -> SmartOSGauges:
        """Of the zones."""
        return self._gauges

    async def run(self) -> None:
        """Everything is driven by vmadm's events, which are followed from the opening on."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Let go; zones run on, and vmadmd looks after their policies."""
        await self._zones.close()
        await self._networks.close()
        await self._gz.close()


async def _global_zone(settings: Settings) -> GlobalZone:
    if settings.smartos.host:
        return await SSHGlobalZone.open(settings.smartos)
    return LocalGlobalZone(root=settings.smartos.root)
