"""Datasets of image layers as overlay directories, and the roots of zones on top of them.

    ROOT/datasets/<uuid>/layer      what one layer adds, whiteouts in overlay's form
    ROOT/datasets/<uuid>/meta.json  origin, digest, diff_id, size; the dataset exists once it has this name
    ROOT/datasets/.partial-*        being made
    ROOT/zones/<zone>/{upper,work,rootfs,origin}    origin: a symlink whose text is the dataset's uuid
    ROOT/trash/*                    on its way to be removed, by one background thread

Everything is renamed into place and renamed away, so that a killed gateway leaves whole things or
leftovers that the next `open` sweeps.  All is in memory after that; lookups touch no disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dockerapi.errors import APIError, Conflict, InvalidParameter, NotFound
from gateway.hosts import trees, untar
from gateway.hosts.command import Child, Spawner, default_spawner
from gateway.hosts.linux import overlay
from gateway.hosts.linux.implied import settle
from imgsources.datasets import LayerInfo, LayerTree, Readable
from imgsources.oci import ImageUUID

log = logging.getLogger(__name__)

_BLOCK = 1 << 20
_PARTIAL = ".partial-"
_LAYER_LIMIT = 499  # the kernel's own limit is 500 lower directories

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Dataset:
    """`opaque`: the layer hides everything below it, which overlay does not do for a root by itself."""

    origin: ImageUUID | None
    size: int
    """Sum of the file sizes of this layer."""
    opaque: bool


@dataclass(slots=True)
class _Report:
    """What the writer said of one layer."""

    size: int = 0
    opaque: bool = False
    implied: list[bytes] = field(default_factory=list)


class OverlayDatasets:
    """A DatasetStore of overlay layers, and the zone roots cloned from them.  Make it by `open`."""

    layers_are_independent = True

    def __init__(self, root: Path, spawner: Spawner | None = None) -> None:
        self._root = root
        self._spawner = spawner
        self._datasets: dict[ImageUUID, _Dataset] = {}
        self._clones: dict[str, ImageUUID | None] = {}
        # Emptying a root of 25,000 files takes a second: nobody waits for it.
        self._broom = ThreadPoolExecutor(1, thread_name_prefix="trash")
        self._mounter = ThreadPoolExecutor(2, thread_name_prefix="mount")
        self._feeders = ThreadPoolExecutor(4, thread_name_prefix="layer")

    @classmethod
    async def open(cls, root: Path, spawner: Spawner | None = None) -> OverlayDatasets:
        """What is below `root`, leftovers swept; `root` becomes a shared mount."""
        return await asyncio.to_thread(cls._opened, root, spawner)

    @classmethod
    def _opened(cls, root: Path, spawner: Spawner | None) -> OverlayDatasets:
        store = cls(root.resolve(), spawner)
        store._load()
        return store

    def close(self) -> None:
        """Wait for the trash to be gone.  Mounts stay: zones run on."""
        for pool in (self._feeders, self._mounter, self._broom):
            pool.shutdown()

    # --- datasets

    async def exists(self, uuid: ImageUUID) -> bool:
        """Whether the dataset is there, whole."""
        return uuid in self._datasets

    async def list(self) -> frozenset[ImageUUID]:
        """Every whole dataset."""
        return frozenset(self._datasets)

    async def used_bytes(self, uuid: ImageUUID) -> int:
        """Sum of the file sizes of this layer alone.  NotFound."""
        return self._get(uuid).size

    def extend(
        self, uuid: ImageUUID, *, origin: ImageUUID | None, layer: LayerInfo
    ) -> AbstractAsyncContextManager[LayerTree]:
        """A dataset on top of `origin`, which must exist only when the block ends (NotFound then)."""
        return self._extend(uuid, origin, layer)

    @asynccontextmanager
    async def _extend(
        self, uuid: ImageUUID, origin: ImageUUID | None, layer: LayerInfo
    ) -> AsyncIterator[LayerTree]:
        self._refuse_existing(uuid)
        building = self._root / "datasets" / f"{_PARTIAL}{uuid}-{secrets.token_hex(4)}"
        tree = _OverlayTree(building / "layer", self._spawner or default_spawner(), self._feeders)
        try:
            (building / "layer").mkdir(parents=True, mode=0o755)
            yield tree
            if origin is not None:
                self._get(origin)
            lowers = self.lowers(origin) if origin is not None else ()
            dataset = _Dataset(origin, tree.report.size, tree.report.opaque)
            await _finish(self._mounter, lambda: settle(building, tree.report.implied, lowers))
            meta = _encode(dataset, layer)
            # Not synced, for the layer's files are not either: what a power failure spoils is fetched again.
            await _finish(self._mounter, lambda: (building / "meta.json").write_bytes(meta))
            if origin is not None:
                self._get(origin)
            self._refuse_existing(uuid)
            building.rename(self._root / "datasets" / uuid)
            self._datasets[uuid] = dataset
        finally:
            if building.exists():
                self._throw_away(building)

    async def destroy(self, uuid: ImageUUID) -> None:
        """Remove a dataset.  NotFound; Conflict while a zone or another dataset stands on it."""
        self._get(uuid)
        children = [name for name, dataset in self._datasets.items() if dataset.origin == uuid]
        if children:
            raise Conflict(f"dataset {uuid} is the origin of dataset {children[0]}")
        zones = [zone for zone, origin in self._clones.items() if origin == uuid]
        if zones:
            raise Conflict(f"dataset {uuid} is in use by zone {zones[0]}")
        self._throw_away(self._root / "datasets" / uuid)
        del self._datasets[uuid]

    def lowers(self, uuid: ImageUUID) -> tuple[Path, ...]:
        """Layer directories of a dataset and its origins, top first.  NotFound."""
        paths = []
        name: ImageUUID | None = uuid
        while name is not None:
            dataset = self._get(name)
            paths.append(self._root / "datasets" / name / "layer")
            name = None if dataset.opaque else dataset.origin
        return tuple(paths)

    # --- roots of zones

    def zones(self) -> frozenset[str]:
        """Every zone that has a root here; the host discards those it does not know."""
        return frozenset(self._clones)

    @property
    def empty(self) -> Path:
        """An empty directory: below a root that has no image."""
        return self._root / "empty"

    def folder(self, zone: str) -> Path:
        """Holds `upper`, `work` and `rootfs` of a zone."""
        return self._root / "zones" / zone

    def origin(self, zone: str) -> ImageUUID | None:
        """What a zone's root was cloned from.  NotFound."""
        try:
            return self._clones[zone]
        except KeyError:
            raise NotFound(f"zone {zone} has no root") from None

    async def clone(self, uuid: ImageUUID | None, zone: str) -> Path:
        """A root of its own for a zone, empty if `uuid` is None; its mount point.  Not mounted yet.

        NotFound: no such dataset.  Conflict: the zone has a root.
        """
        if zone in self._clones:
            raise Conflict(f"zone {zone} already has a root")
        lowers = self.lowers(uuid) if uuid is not None else ()
        if len(lowers) > _LAYER_LIMIT:
            raise InvalidParameter(f"max depth exceeded: {len(lowers)} layers")
        # From here on nobody may destroy the dataset.
        self._clones[zone] = uuid
        folder = self.folder(zone)
        try:
            top = lowers[0] if lowers else None
            await _finish(self._mounter, lambda: _make_clone(folder, uuid, top))
        except BaseException:
            del self._clones[zone]
            if folder.exists():
                self._throw_away(folder)
            raise
        return folder / "rootfs"

    async def mount(self, zone: str) -> Path:
        """Mount a zone's root (once); its mount point.  NotFound, APIError with the kernel's words."""
        origin = self.origin(zone)
        lowers = self.lowers(origin) if origin is not None else (self.empty,)
        folder = self.folder(zone)
        try:
            await _finish(self._mounter, lambda: _mount_zone(folder, lowers))
        except OSError as error:
            raise APIError(
                f"cannot mount the root of zone {zone}: {error.strerror}",
                detail=f"lowers {lowers}",
            ) from error
        return folder / "rootfs"

    async def unmount(self, zone: str) -> None:
        """Unmount a zone's root; none mounted is fine."""
        target = self.folder(zone) / "rootfs"
        await _finish(self._mounter, lambda: overlay.unmount(target))

    async def discard(self, zone: str) -> None:
        """A zone's root is gone when this returns; mount and files go in the background.  None is fine."""
        # Unmounting an overlay syncs its disk (20 ms after a pull): nobody waits for that.
        folder = self.folder(zone)
        with suppress(FileNotFoundError):
            self._throw_away(folder)
        self._clones.pop(zone, None)

    async def root_size(self, zone: str) -> int:
        """Bytes of the files that a zone wrote or changed (SizeRw).  NotFound."""
        self.origin(zone)
        return await asyncio.to_thread(_written, self.folder(zone) / "upper")

    # --- inside

    def _get(self, uuid: ImageUUID) -> _Dataset:
        try:
            return self._datasets[uuid]
        except KeyError:
            raise NotFound(f"no such dataset: {uuid}") from None

    def _refuse_existing(self, uuid: ImageUUID) -> None:
        if uuid in self._datasets:
            raise Conflict(f"dataset {uuid} already exists")

    def _throw_away(self, folder: Path) -> None:
        trash = self._root / "trash" / secrets.token_hex(8)
        folder.rename(trash)
        self._broom.submit(_remove, trash)

    def _load(self) -> None:
        for name in ("datasets", "zones", "trash", "empty"):
            (self._root / name).mkdir(mode=0o711, parents=True, exist_ok=True)
        # Programs of an image that are setuid root are not for the machine's users (CVE-2021-41091).
        self._root.chmod(0o700)
        overlay.make_shared(self._root)
        for trash in (self._root / "trash").iterdir():
            self._broom.submit(_remove, trash)
        for folder in (self._root / "datasets").iterdir():
            self._load_dataset(folder)
        for folder in (self._root / "zones").iterdir():
            self._load_zone(folder)

    def _load_dataset(self, folder: Path) -> None:
        if folder.name.startswith(_PARTIAL):
            self._throw_away(folder)
            return
        try:
            meta = json.loads((folder / "meta.json").read_bytes())
            self._datasets[ImageUUID(folder.name)] = _Dataset(
                meta["origin"], int(meta["used_bytes"]), bool(meta["opaque"])
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            # A machine that lost power: better fetched again than half there.
            log.warning("dataset %s is unreadable and is removed: %s", folder.name, error)
            self._throw_away(folder)

    def _load_zone(self, folder: Path) -> None:
        try:
            text = str((folder / "origin").readlink())
        except OSError:
            self._throw_away(folder)
            return
        self._clones[folder.name] = ImageUUID(text) if text != "none" else None


class _OverlayTree:
    """The layer directory of a dataset that is being made."""

    def __init__(self, folder: Path, spawner: Spawner, feeders: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._spawner = spawner
        self._feeders = feeders
        self.report = _Report()

    async def apply(self, tar: Readable) -> None:
        """Write one uncompressed layer tar by a process of its own."""
        tar_read, tar_write = os.pipe2(os.O_CLOEXEC)
        with suppress(OSError):  # more than the default needs no privilege up to pipe-max-size
            fcntl.fcntl(tar_write, fcntl.F_SETPIPE_SZ, _BLOCK)
        answer = os.memfd_create("untar")
        try:
            child = await self._start(tar_read, tar_write, answer)
            await self._feed(child, tar, tar_write)
            status = await child.wait()
            text = os.pread(answer, _BLOCK * 64, 0)
        finally:
            os.close(answer)
        if status == 1:
            raise InvalidParameter(f"failed to register layer: {_last_line(text)}")
        if status != 0:
            raise APIError(f"failed to register layer: {_last_line(text) or f'status {status}'}")
        self._add(text)

    async def _start(self, tar_read: int, tar_write: int, answer: int) -> Child:
        argv = untar.command(str(self._folder), "overlay")
        try:
            return await self._spawner.spawn(argv, fds={0: tar_read, 1: answer, 2: answer})
        except BaseException:
            os.close(tar_write)
            raise
        finally:
            os.close(tar_read)

    async def _feed(self, child: Child, tar: Readable, tar_write: int) -> None:
        """Pump the tar into the writer from a thread; however this ends, the thread has ended too."""
        try:
            await _finish(self._feeders, lambda: _pump(tar, tar_write), on_cancel=child.kill)
        except BaseException:
            child.kill()
            await child.wait()
            raise

    def _add(self, text: bytes) -> None:
        report = json.loads(text)
        self.report.size += report["bytes"]
        self.report.opaque |= report["opaque"]
        self.report.implied += [bytes.fromhex(path) for path in report["implied"]]


def _pump(tar: Readable, pipe: int) -> None:
    try:
        while block := tar.read(_BLOCK):
            view = memoryview(block)
            while view:
                view = view[os.write(pipe, view) :]
    except BrokenPipeError:
        return  # the writer refused the layer, or was killed; its status tells
    finally:
        os.close(pipe)


async def _finish(
    pool: ThreadPoolExecutor,
    work: Callable[[], T],
    *,
    on_cancel: Callable[[], None] | None = None,
) -> T:
    """The result of blocking work; a cancelled caller waits for the work to end all the same."""
    future = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen, and of no interest any more
        raise


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _encode(dataset: _Dataset, layer: LayerInfo) -> bytes:
    document = {
        "origin": dataset.origin,
        "digest": layer.digest,
        "diff_id": layer.diff_id,
        "size": layer.size,
        "used_bytes": dataset.size,
        "opaque": dataset.opaque,
    }
    return json.dumps(document).encode()


def _remove(path: Path) -> None:
    try:
        for name in ("rootfs", "merged"):
            overlay.unmount(path / name)
        trees.remove(str(path))
    except OSError as error:
        log.warning("cannot remove %s: %s", path, error)


def _make_clone(folder: Path, uuid: ImageUUID | None, top: Path | None) -> None:
    folder.mkdir(mode=0o711)
    for name in ("upper", "work", "rootfs"):
        (folder / name).mkdir(mode=0o755)
    if top is not None:
        # The root that a zone sees has the attributes of the upper directory.
        found = top.stat()
        os.chown(folder / "upper", found.st_uid, found.st_gid)
        (folder / "upper").chmod(stat.S_IMODE(found.st_mode))
    # Last: a folder without it is a leftover of a killed gateway.
    (folder / "origin").symlink_to(uuid or "none")


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
