"""Datasets of image layers as file systems of zfs, each a clone of its origin, and the roots of zones as clones of them.

    FS/<uuid>, FS/<uuid>@final      a layer and all below it; mounted while it is made, and read-only when somebody looks
    FS/<zone>                       a zone's root, with a quota if the zone was given one; mounted while it runs
    FS/volumes/NAME                 a volume with a size
    ROOT/mounts/<uuid or zone>      where they are mounted
    ROOT/{datasets,zones}/<name>/dataset    a symlink whose text is FS/<name>, made once that is there

The rest is as layerfolders.py has it.  Datasets of ours (zonegate:root is ROOT) that no folder names are what a killed
gateway left: the next opening destroys them.  zfs(8) is the only way to zfs that every Linux has: one process to clone,
one to destroy, none to unmount.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dockerapi.errors import APIError, Conflict, InvalidParameter, NotFound
from gateway.hosts import command
from gateway.hosts.command import Spawner
from gateway.hosts.datasets import named
from gateway.hosts.finishing import finish
from gateway.hosts.linux import overlay, snapdiff
from gateway.hosts.linux.copier import OURS
from gateway.hosts.linux.layerfolders import LayerFolders, mark_whole
from gateway.hosts.linux.unpacking import Report
from gateway.hosts.zfs import NAME_LIMIT, ZFS
from imgsources.oci import ImageUUID

log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0
_OWNER = "zonegate:root"


class Programs:
    """zfs(8) and zpool(8) of this machine."""

    async def run(self, argv: Sequence[str], *, timeout_s: float) -> bytes:
        """APIError in dockerd's words where there is no such program."""
        program = shutil.which(argv[0])
        if program is None:
            raise APIError(
                "error initializing graphdriver: driver not supported: zfs",
                detail=f"no program {argv[0]}",
            )
        return await command.run([program, *argv[1:]], timeout_s=timeout_s)


class ZFSFolders:
    """SizedFolders as datasets below `parent`, named as the folder above is; the folder itself is a link to the mount.

    For below `root` mounts come and go in every namespace of ours: elsewhere another one would keep a dataset busy.
    """

    def __init__(self, zfs: ZFS, parent: str, root: Path) -> None:
        self._zfs = zfs
        self._parent = parent
        self._root = root

    async def make(self, folder: Path, size: int) -> None:
        """Its quota is the size."""
        name = f"{self._parent}/{folder.parent.name}"
        if len(name) > NAME_LIMIT:
            raise InvalidParameter(
                f"create {folder.parent.name}: volume name is too long for a dataset of zfs"
            )
        # The parent of a dataset that is mounted elsewhere must not be mounted over anything.
        with suppress(Conflict):
            await self._zfs.create(self._parent, {"mountpoint": "none", "canmount": "off"})
        place = self._place(folder)
        properties = {"mountpoint": str(place), "quota": str(size), _OWNER: str(self._root)}
        await self._zfs.create(name, properties)
        await asyncio.to_thread(folder.symlink_to, place)

    def _place(self, folder: Path) -> Path:
        return self._root / "mounts/volumes" / folder.parent.name

    async def remove(self, folder: Path) -> None:
        """None is fine."""
        with suppress(NotFound):
            await self._zfs.destroy(f"{self._parent}/{folder.parent.name}")
        with suppress(OSError):
            await asyncio.to_thread(self._place(folder).rmdir)


class ZFSDatasets(LayerFolders):
    """A RootStore of clones below the dataset `parent`.  Make it by `open`."""

    driver = "zfs"

    def __init__(self, root: Path, parent: str, spawner: Spawner | None = None) -> None:
        super().__init__(root, spawner)
        self._machine = Programs()
        self._zfs = ZFS(self._machine)
        self._parent = parent
        self._loop = asyncio.get_running_loop()
        self.sized_folders = ZFSFolders(self._zfs, f"{parent}/volumes", root)

    @classmethod
    async def open(cls, root: Path, parent: str, spawner: Spawner | None = None) -> ZFSDatasets:
        """What is below `root`, leftovers swept; `root` becomes a shared mount.

        `parent` "": the dataset that `root` is on.  APIError if there is none.
        """
        root = await asyncio.to_thread(root.resolve)
        if not parent:
            listed = await Programs().run(
                ["zfs", "list", "-H", "-o", "name", str(root)], timeout_s=_TIMEOUT_S
            )
            parent = listed.decode().strip()
        store = cls(root, parent, spawner)
        await asyncio.to_thread(store._prepare)
        await store._sweep_datasets()
        return store

    def _prepare(self) -> None:
        # Mounts below it are to be seen in the namespace that zones are started from.
        overlay.make_shared(self._root)
        self._load()
        (self._root / "mounts").mkdir(mode=0o711, exist_ok=True)

    async def status(self) -> Sequence[tuple[str, str]]:
        """In dockerd's words."""
        keys = ("used", "available", "quota", "compression")
        used, available, quota, compression = [
            await self._zfs.get(self._parent, key) for key in keys
        ]
        pool = self._parent.partition("/")[0]
        health = await self._machine.run(
            ["zpool", "list", "-H", "-o", "health", pool], timeout_s=_TIMEOUT_S
        )
        return (
            ("Zpool", pool),
            ("Zpool Health", health.decode().strip()),
            ("Parent Dataset", self._parent),
            ("Space Used By Parent", used),
            ("Space Available", available),
            ("Parent Quota", quota if quota not in ("0", "none") else "no"),
            ("Compression", compression),
        )

    def check_size(self, size: int) -> None:
        """Any will do: what the image has does not count."""

    # --- layers

    async def _begin(self, building: Path, uuid: ImageUUID, origin: ImageUUID | None) -> None:
        await self._make(building, uuid, origin, {"canmount": "noauto"})
        await self._zfs.mount(self._dataset(uuid))
        (building / "layer").symlink_to(self._place(uuid))

    async def _settle(
        self, building: Path, uuid: ImageUUID, origin: ImageUUID | None, report: Report
    ) -> None:
        await self._zfs.snapshot(f"{self._dataset(uuid)}@final")
        await self._unmount(uuid)

    def tree(self, uuid: ImageUUID) -> Path | None:
        """Every layer is one; it is mounted for that, and stays so.  In a thread that is not the loop's."""
        named(self._datasets, uuid)
        asyncio.run_coroutine_threadsafe(self._see(uuid), self._loop).result()
        return self._place(uuid)

    def show(self, uuid: ImageUUID, where: Path) -> None:
        """A bind of the layer's mount."""
        self.tree(uuid)
        overlay.bind_read_only(self._place(uuid), where)

    async def _see(self, uuid: ImageUUID) -> None:
        if not await asyncio.to_thread(_is_mounted, self._place(uuid)):
            await self._zfs.mount(self._dataset(uuid), "ro")

    # --- roots of zones

    async def _make_root(self, folder: Path, uuid: ImageUUID | None, size: int) -> None:
        await asyncio.to_thread(folder.mkdir, mode=0o711)
        await self._make(folder, folder.name, uuid, {"quota": str(size)} if size else {})
        (folder / "rootfs").symlink_to(self._place(folder.name))
        mark_whole(folder, uuid)

    async def mount(self, zone: str) -> Path:
        """A fresh clone is mounted already.  NotFound, APIError with zfs's words."""
        self.origin(zone)
        if not await asyncio.to_thread(_is_mounted, self._place(zone)):
            await self._zfs.mount(self._dataset(zone))
        return self._place(zone)

    async def unmount(self, zone: str) -> None:
        """None mounted is fine."""
        await self._unmount(zone)

    async def root_size(self, zone: str) -> int:
        """Bytes of files that are not as the image has them.  NotFound."""
        plan = await self.reach(zone, compare=True, is_mounted=False)
        return await asyncio.to_thread(
            snapdiff.size_between, Path(plan["before"]), Path(plan["root"]), OURS
        )

    async def reach(self, zone: str, *, compare: bool, is_mounted: bool) -> dict[str, Any]:
        """The root is mounted for that; to compare, what it was cloned from, too."""
        plan: dict[str, Any] = {"root": str(await self.mount(zone)), "overlay": None}
        if not compare:
            return plan
        origin = self.origin(zone)
        if origin is None:
            return plan | {"before": str(self._root / "empty")}
        await self._see(origin)
        return plan | {"before": str(self._place(origin))}

    # --- inside

    def _dataset(self, name: str) -> str:
        return f"{self._parent}/{name}"

    def _place(self, name: str) -> Path:
        return self._root / "mounts" / name

    async def _make(
        self, folder: Path, name: str, origin: ImageUUID | None, properties: dict[str, str]
    ) -> None:
        wanted = {"mountpoint": str(self._place(name)), _OWNER: str(self._root)} | properties
        dataset = self._dataset(name)
        try:
            if origin is None:
                await self._zfs.create(dataset, wanted)
            else:
                await self._zfs.clone(f"{self._dataset(origin)}@final", dataset, wanted)
        except Conflict:
            raise  # it is somebody else's
        except BaseException:
            # A program that was killed may have made it all the same.
            with suppress(APIError):
                await self._zfs.destroy(dataset)
            raise
        (folder / "dataset").symlink_to(dataset)

    async def _unmount(self, name: str) -> None:
        place = self._place(name)
        await finish(self._mounter, lambda: overlay.unmount(place))

    async def _take_apart(self, folder: Path) -> None:
        try:
            dataset = os.readlink(folder / "dataset")  # noqa: PTH115 - its text is no path
        except OSError:
            return
        name = dataset.rpartition("/")[2]
        await self._unmount(name)
        with suppress(NotFound):
            await self._zfs.destroy(dataset)
        with suppress(OSError):
            self._place(name).rmdir()

    async def _sweep_datasets(self) -> None:
        """Datasets of ours that no folder names go; folders whose dataset has gone, too; sized volumes are mounted."""
        columns = (_OWNER, "mounted")
        try:
            rows = await self._zfs.list(self._parent, columns, depth=2)
        except NotFound as error:
            raise APIError(f"error initializing graphdriver: {error.message}: zfs") from error
        ours = {
            name.removeprefix(f"{self._parent}/"): mounted == "yes"
            for name, owner, mounted in rows
            if owner == str(self._root)
        }
        volumes = self._root.parent / "volumes"
        for name in [name for name in ours if name.startswith("volumes/")]:
            is_mounted, volume = ours.pop(name), name.removeprefix("volumes/")
            if not (volumes / volume / "volume.json").exists():
                await self._destroy_leftovers([name])
            elif not is_mounted:
                await self._zfs.mount(self._dataset(name))
        for uuid in [uuid for uuid in self._datasets if uuid not in ours]:
            log.warning("dataset %s has gone, and its image with it", uuid)
            self._throw_away(self._root / "datasets" / uuid)
            del self._datasets[uuid]
        await self._destroy_leftovers(
            [name for name in ours if name not in self._datasets and name not in self._clones]
        )

    async def _destroy_leftovers(self, names: Sequence[str]) -> None:
        """Clones first: in rounds, until there are none or none goes."""
        left, reason = list(names), ""
        while left:
            again = []
            for name in left:
                if not name.startswith("volumes/"):
                    await self._unmount(name)
                try:
                    await self._zfs.destroy(self._dataset(name))
                    log.info("dataset %s was left half made and is destroyed", name)
                except NotFound:
                    continue
                except APIError as error:
                    again.append(name)
                    reason = error.message
            if len(again) == len(left):
                log.warning("datasets %s are left: %s", ", ".join(again), reason)
                return
            left = again


def _is_mounted(place: Path) -> bool:
    """For a folder that something else than a bind is mounted on."""
    try:
        return place.stat().st_dev != place.parent.stat().st_dev
    except OSError:
        return False
