"""What this host asks of a store: datasets of images, and the roots of zones cloned from them, by protocol.

Overlays: datasets.py; snapshots of btrfs: btrfsdatasets.py; clones of zfs: zfsdatasets.py.  Which of them: storechoice.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from imgsources.datasets import DatasetStore
from imgsources.oci import ImageUUID


class SizedFolders(Protocol):
    """Folders that hold no more than a number of bytes, for volumes.  A program that writes more gets EDQUOT or ENOSPC."""

    async def make(self, folder: Path, size: int) -> None:
        """All of it or nothing; the folder above is there.  APIError, OSError."""
        ...

    async def remove(self, folder: Path) -> None:
        """With everything in it; none is fine."""
        ...


class RootStore(DatasetStore, Protocol):
    """A DatasetStore whose datasets zones can be cloned from.  A zone is told by its uuid."""

    @property
    def driver(self) -> str:
        """dockerd's name for it: overlay2, btrfs, zfs."""
        ...

    @property
    def sized_folders(self) -> SizedFolders | None:
        """None: this store limits nothing."""
        ...

    async def status(self) -> Sequence[tuple[str, str]]:
        """What `docker info` says of the driver, as dockerd does."""
        ...

    def check_size(self, size: int) -> None:
        """APIError in dockerd's words if no root can be limited to that many bytes."""
        ...

    def zones(self) -> frozenset[str]:
        """Every zone that has a root here; the host discards those it does not know."""
        ...

    async def clone(self, uuid: ImageUUID | None, zone: str, *, size: int = 0) -> Path:
        """A root of its own for a zone, empty if `uuid` is None; where it is, or will be mounted.

        `size`: bytes that it may take, 0 = as many as there are.  NotFound: no such dataset.  Conflict: the zone has a root.
        """
        ...

    async def mount(self, zone: str) -> Path:
        """Have a zone's root there; its folder.  Once more is fine.  NotFound, APIError with the kernel's words."""
        ...

    async def unmount(self, zone: str) -> None:
        """The zone does not run any more; not mounted is fine."""
        ...

    def leave(self, zone: str) -> None:
        """Its zone is deleted: `discard` follows soon, and whoever destroys its dataset waits for that."""
        ...

    async def discard(self, zone: str) -> None:
        """A zone's root is gone when this returns, its files go in the background.  None is fine."""
        ...

    async def root_size(self, zone: str) -> int:
        """Bytes of the files that a zone wrote or changed (SizeRw).  NotFound."""
        ...

    async def reach(self, zone: str, *, compare: bool, is_mounted: bool) -> dict[str, Any]:
        """What copier.py's plan says of a zone's root: where it is, and how a copy comes to it.

        `compare`: with its image, for `changes` and `layer`; `is_mounted`: the zone runs.
        """
        ...

    def image_folder(self, uuid: ImageUUID) -> Path:
        """A folder that is named after the dataset.  NotFound."""
        ...

    def tree(self, uuid: ImageUUID) -> Path | None:
        """The folder of an image's whole tree, None if there is none without `show`.  NotFound."""
        ...

    def show(self, uuid: ImageUUID, where: Path) -> None:
        """Mount an image's whole tree on an empty folder, read-only.  Blocking.  NotFound, OSError."""
        ...

    def close(self) -> None:
        """Wait for what goes on in the background.  Zones run on.  Blocking."""
        ...
