"""Datasets of image layers as subvolumes of btrfs, each a snapshot of its origin, and the roots of zones as snapshots of them.

    ROOT/datasets/<uuid>/layer      a subvolume: this layer and all below it
    ROOT/zones/<zone>/rootfs        a subvolume, with a limit if the zone was given one

The rest is as layerfolders.py has it.  Nothing is mounted: a subvolume is there as long as its disk is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dockerapi.errors import APIError
from gateway.hosts.command import Spawner
from gateway.hosts.finishing import finish
from gateway.hosts.linux import btrfs, overlay, snapdiff
from gateway.hosts.linux.copier import OURS
from gateway.hosts.linux.layerfolders import LayerFolders, mark_whole
from gateway.hosts.linux.unpacking import Report
from imgsources.oci import ImageUUID


class BtrfsFolders:
    """SizedFolders as subvolumes."""

    async def make(self, folder: Path, size: int) -> None:
        """A subvolume with a limit."""
        await asyncio.to_thread(_make_sized, folder, size)

    async def remove(self, folder: Path) -> None:
        """Of any kind."""
        if await asyncio.to_thread(btrfs.is_subvolume, folder):
            await asyncio.to_thread(btrfs.destroy, folder)


class BtrfsDatasets(LayerFolders):
    """A RootStore of subvolumes.  Make it by `open`."""

    driver = "btrfs"

    def __init__(self, root: Path, spawner: Spawner | None = None, *, least_size: int = 0) -> None:
        super().__init__(root, spawner)
        self.sized_folders = BtrfsFolders()
        self._least_size = least_size
        # The first limit may wait for the whole disk to be counted: whoever needs none does not.
        self._counter = ThreadPoolExecutor(1, thread_name_prefix="quota")

    def close(self) -> None:
        """Wait for the trash to be gone.  Blocking."""
        self._counter.shutdown()
        super().close()

    @classmethod
    async def open(
        cls, root: Path, spawner: Spawner | None = None, *, least_size: int = 0
    ) -> BtrfsDatasets:
        """What is below `root`, leftovers swept.  `least_size`: bytes, no root gets a lower limit (btrfs.min_space)."""
        return await asyncio.to_thread(cls._opened, root, spawner, least_size)

    @classmethod
    def _opened(cls, root: Path, spawner: Spawner | None, least_size: int) -> BtrfsDatasets:
        store = cls(root.resolve(), spawner, least_size=least_size)
        store._load()
        return store

    async def status(self) -> Sequence[tuple[str, str]]:
        """As dockerd 28, which has nothing to say of it either."""
        return (("Btrfs", ""),)

    def check_size(self, size: int) -> None:
        """Not below btrfs.min_space."""
        if size and size < self._least_size:
            raise _too_small(self._least_size)

    # --- layers

    async def _begin(self, building: Path, uuid: ImageUUID, origin: ImageUUID | None) -> None:
        below, layer = self._layer(origin), building / "layer"
        await finish(self._mounter, lambda: _clone(below, layer))

    async def _settle(
        self, building: Path, uuid: ImageUUID, origin: ImageUUID | None, report: Report
    ) -> None:
        """Nothing: who looks at it does so by a read-only mount, and making it read-only would be another commit of the disk."""

    def _layer(self, uuid: ImageUUID | None) -> Path | None:
        return self.image_folder(uuid) / "layer" if uuid is not None else None

    def tree(self, uuid: ImageUUID) -> Path | None:
        """Every layer is one."""
        return self._layer(uuid)

    def show(self, uuid: ImageUUID, where: Path) -> None:
        """A bind of the subvolume."""
        overlay.bind_read_only(self.image_folder(uuid) / "layer", where)

    # --- roots of zones

    async def _make_root(self, folder: Path, uuid: ImageUUID | None, size: int) -> None:
        self.check_size(size)
        layer, root = self._layer(uuid), folder / "rootfs"

        def make() -> None:
            folder.mkdir(mode=0o711)
            _clone(layer, root)
            if not size:
                mark_whole(folder, uuid)

        await finish(self._mounter, make)
        if size:
            await finish(self._counter, lambda: self._limit(layer, root, size))
            await finish(self._mounter, lambda: mark_whole(folder, uuid))

    def _limit(self, layer: Path | None, root: Path, size: int) -> None:
        btrfs.enable_quotas(self._root)
        # What the image has counts, as with dockerd: below it nothing could be written at all.
        taken = btrfs.referenced(layer) if layer is not None else 0
        if size <= taken:
            raise _too_small(taken)
        btrfs.limit(root, size)

    async def mount(self, zone: str) -> Path:
        """It is there."""
        self.origin(zone)
        return self.folder(zone) / "rootfs"

    async def unmount(self, zone: str) -> None:
        """It stays."""

    async def root_size(self, zone: str) -> int:
        """Bytes of files that are not as the image has them.  NotFound."""
        layer = self._layer(self.origin(zone)) or self._root / "empty"
        root = self.folder(zone) / "rootfs"
        return await asyncio.to_thread(snapdiff.size_between, layer, root, OURS)

    async def reach(self, zone: str, *, compare: bool, is_mounted: bool) -> dict[str, Any]:
        """The root is always there; to compare, what it was cloned from."""
        layer = self._layer(self.origin(zone)) or self._root / "empty"
        plan: dict[str, Any] = {"root": str(self.folder(zone) / "rootfs"), "overlay": None}
        return plan | {"before": str(layer)} if compare else plan

    def _remove(self, folder: Path) -> None:
        for name in ("rootfs", "layer"):
            if btrfs.is_subvolume(folder / name):
                btrfs.destroy(folder / name)
        super()._remove(folder)


def _clone(layer: Path | None, path: Path) -> None:
    """APIError in dockerd's words."""
    try:
        if layer is None:
            btrfs.create(path)
        else:
            btrfs.snapshot(layer, path)
    except OSError as error:
        kind = "snapshot" if layer is not None else "subvolume"
        reason = os.strerror(error.errno or 0).lower()
        raise APIError(f"Failed to create btrfs {kind}: {reason}", detail=str(path)) from error


def _make_sized(folder: Path, size: int) -> None:
    btrfs.enable_quotas(folder.parent)
    btrfs.create(folder)
    try:
        btrfs.limit(folder, size)
    except BaseException:
        btrfs.destroy(folder)
        raise


def _too_small(least: int) -> APIError:
    return APIError(f"btrfs: storage size cannot be less than {_human(least)}")


def _human(size: int) -> str:
    """Four digits and a unit of thousands, as docker/go-units HumanSize."""
    value, units = float(size), ("B", "kB", "MB", "GB", "TB", "PB")
    number = 0
    while value >= 1000 and number < len(units) - 1:
        value, number = value / 1000, number + 1
    return f"{value:.4g}{units[number]}"
