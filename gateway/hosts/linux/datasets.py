"""Datasets of image layers as overlay directories, and the roots of zones on top of them.

    ROOT/datasets/<uuid>/layer      what one layer adds, whiteouts in overlay's form
    ROOT/zones/<zone>/{upper,work,rootfs,origin}

The rest is as layerfolders.py has it.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dockerapi.errors import APIError, InvalidParameter
from gateway.hosts import trees
from gateway.hosts.command import Spawner
from gateway.hosts.datasets import named
from gateway.hosts.finishing import finish
from gateway.hosts.linux import overlay
from gateway.hosts.linux.implied import settle
from gateway.hosts.linux.layerfolders import LayerFolders, mark_whole
from gateway.hosts.linux.unpacking import Report
from imgsources.oci import ImageUUID

_LAYER_LIMIT = 499  # the kernel's own limit is 500 lower directories


class OverlayDatasets(LayerFolders):
    """A RootStore of overlay layers.  Make it by `open`."""

    driver = "overlay2"
    sized_folders = None
    layers_are_independent = True
    writes = "overlay"

    @classmethod
    async def open(cls, root: Path, spawner: Spawner | None = None) -> OverlayDatasets:
        """What is below `root`, leftovers swept; `root` becomes a shared mount."""
        return await asyncio.to_thread(cls._opened, root, spawner)

    @classmethod
    def _opened(cls, root: Path, spawner: Spawner | None) -> OverlayDatasets:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = cls(root.resolve(), spawner)
        overlay.make_shared(store._root)
        store._load()
        return store

    async def status(self) -> Sequence[tuple[str, str]]:
        """In dockerd's words, which calls every ext the same."""
        kind = await asyncio.to_thread(overlay.kind_of, self._root.parent)
        return (
            ("Backing Filesystem", "extfs" if kind.startswith("ext") else kind),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        )

    def check_size(self, size: int) -> None:
        """Quotas by project, which an overlay would need, are not built."""
        if size:
            raise APIError(
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
            )

    # --- layers

    def lowers(self, uuid: ImageUUID) -> tuple[Path, ...]:
        """Layer directories of a dataset and its origins, top first.  NotFound."""
        paths = []
        name: ImageUUID | None = uuid
        while name is not None:
            dataset = named(self._datasets, name)
            paths.append(self._root / "datasets" / name / "layer")
            name = None if dataset.opaque else dataset.origin
        return tuple(paths)

    @property
    def empty(self) -> Path:
        """An empty directory: below a root that has no image."""
        return self._root / "empty"

    async def _begin(self, building: Path, uuid: ImageUUID, origin: ImageUUID | None) -> None:
        (building / "layer").mkdir(mode=0o755)

    async def _settle(
        self, building: Path, uuid: ImageUUID, origin: ImageUUID | None, report: Report
    ) -> None:
        lowers = self.lowers(origin) if origin is not None else ()
        await finish(self._mounter, lambda: settle(building, report.implied, lowers))

    def tree(self, uuid: ImageUUID) -> Path | None:
        """Of an image of one layer."""
        lowers = self.lowers(uuid)
        return lowers[0] if len(lowers) == 1 else None

    def show(self, uuid: ImageUUID, where: Path) -> None:
        """An overlay without an upper directory."""
        lowers = [*self.lowers(uuid)]
        if len(lowers) == 1:
            # It needs two lower ones.
            lowers.append(self.empty)
        overlay.mount(where, lowers=lowers, upper=None, work=None)

    # --- roots of zones

    async def _make_root(self, folder: Path, uuid: ImageUUID | None, size: int) -> None:
        self.check_size(size)
        lowers = self.lowers(uuid) if uuid is not None else ()
        if len(lowers) > _LAYER_LIMIT:
            raise InvalidParameter(f"max depth exceeded: {len(lowers)} layers")
        top = lowers[0] if lowers else None
        await finish(self._mounter, lambda: _make_clone(folder, uuid, top))

    async def mount(self, zone: str) -> Path:
        """Mount a zone's root (once); its mount point.  NotFound, APIError with the kernel's words."""
        origin = self.origin(zone)
        lowers = self.lowers(origin) if origin is not None else (self.empty,)
        folder = self.folder(zone)
        try:
            await finish(self._mounter, lambda: _mount_zone(folder, lowers))
        except OSError as error:
            raise APIError(
                f"cannot mount the root of zone {zone}: {error.strerror}",
                detail=f"lowers {lowers}",
            ) from error
        return folder / "rootfs"

    async def unmount(self, zone: str) -> None:
        """Unmount a zone's root; none mounted is fine."""
        target = self.folder(zone) / "rootfs"
        await finish(self._mounter, lambda: overlay.unmount(target))

    async def root_size(self, zone: str) -> int:
        """Bytes of the files in the upper directory (SizeRw).  NotFound."""
        self.origin(zone)
        return await asyncio.to_thread(_written, self.folder(zone) / "upper")

    async def reach(self, zone: str, *, compare: bool, is_mounted: bool) -> dict[str, Any]:
        """To compare, the upper directory and what is below it; else the mount, or what to mount."""
        folder, origin = self.folder(zone), self.origin(zone)
        # An overlay without an upper directory needs two lower ones.
        lowers = [str(path) for path in self.lowers(origin)] if origin else []
        lowers.append(str(self.empty))
        plan: dict[str, Any] = {"root": str(folder / "rootfs"), "overlay": None}
        if compare and origin is None:
            return plan | {"root": str(folder / "upper"), "before": str(self.empty)}
        if compare:
            return plan | {"upper": str(folder / "upper"), "lowers": lowers}
        if not is_mounted:
            writable = {"upper": str(folder / "upper"), "work": str(folder / "work")}
            plan["overlay"] = {"lowers": lowers, **writable}
        return plan

    def _remove(self, folder: Path) -> None:
        for name in ("rootfs", "merged"):
            overlay.unmount(folder / name)
        super()._remove(folder)


def _make_clone(folder: Path, uuid: ImageUUID | None, top: Path | None) -> None:
    folder.mkdir(mode=0o711)
    for name in ("upper", "work", "rootfs"):
        (folder / name).mkdir(mode=0o755)
    if top is not None:
        # The root that a zone sees has the attributes of the upper directory.
        found = top.stat()
        os.chown(folder / "upper", found.st_uid, found.st_gid)
        (folder / "upper").chmod(stat.S_IMODE(found.st_mode))
    mark_whole(folder, uuid)


def _mount_zone(folder: Path, lowers: tuple[Path, ...]) -> None:
    target = folder / "rootfs"
    if target.stat().st_dev != folder.stat().st_dev:
        return  # it is mounted
    overlay.mount(target, lowers=lowers, upper=folder / "upper", work=folder / "work")


def _written(upper: Path) -> int:
    """Without the link to the mounts that every root is given and that its zone did not write."""
    size, link = trees.size(str(upper)), upper / "etc/mtab"
    with suppress(OSError):
        size -= len(link.readlink().as_posix()) if link.is_symlink() else 0
    return max(size, 0)
