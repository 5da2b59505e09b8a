"""What the stores of this host have in common: a folder a dataset, a folder a zone's root, and how they come and go.

    ROOT/datasets/<uuid>/layer      the dataset's files: this layer alone (overlay), or all up to it (snapshots)
    ROOT/datasets/<uuid>/meta.json  origin, digest, diff_id, size; the dataset exists once it has this name
    ROOT/datasets/.partial-*        being made
    ROOT/zones/<zone>/{rootfs,origin}   origin: a symlink whose text is the dataset's uuid, made last
    ROOT/trash/*                    on its way to be removed, by one background thread

Everything is renamed into place and renamed away, so that a killed gateway leaves whole things or
leftovers that the next opening sweeps.  All is in memory after that; lookups touch no disk.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dockerapi.errors import Conflict, NotFound
from gateway.hosts import trees
from gateway.hosts.command import Spawner, default_spawner
from gateway.hosts.datasets import named, refuse_existing, refuse_origin
from gateway.hosts.finishing import finish
from gateway.hosts.linux.spreading import spread_below
from gateway.hosts.linux.unpacking import LayerWriter, Report
from imgsources.datasets import LayerInfo, LayerTree
from imgsources.oci import ImageUUID

log = logging.getLogger(__name__)

_PARTIAL = ".partial-"
_LEAVING_S = 10.0
"""How long the end of a zone may keep the removal of its image waiting."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """`opaque`: the layer hides everything below it, which overlay does not do for a root by itself."""

    origin: ImageUUID | None
    size: int
    """Sum of the file sizes of this layer."""
    opaque: bool


class LayerFolders(ABC):
    """A DatasetStore in folders, and the zone roots cloned from them: everything but what a layer and a root are made of."""

    layers_are_independent = False
    writes = "merged"
    """How untar.py writes a layer."""

    def __init__(self, root: Path, spawner: Spawner | None = None) -> None:
        self._root = root
        self._spawner = spawner
        self._datasets: dict[ImageUUID, Dataset] = {}
        self._clones: dict[str, ImageUUID | None] = {}
        self._leaving: dict[str, asyncio.Event] = {}
        self._origins_in_use: list[ImageUUID | None] = []
        # Emptying a root of 25,000 files takes a second: nobody waits for it.
        self._broom = ThreadPoolExecutor(1, thread_name_prefix="trash")
        self._mounter = ThreadPoolExecutor(2, thread_name_prefix="mount")
        self._feeders = ThreadPoolExecutor(4, thread_name_prefix="layer")

    def close(self) -> None:
        """Wait for the trash to be gone.  Mounts stay: zones run on."""
        for pool in (self._feeders, self._mounter, self._broom):
            pool.shutdown()

    # --- what a layer and a root are made of

    @abstractmethod
    async def _begin(self, building: Path, uuid: ImageUUID, origin: ImageUUID | None) -> None:
        """Make `building/layer`, in which the layer's tar is then written."""

    @abstractmethod
    async def _settle(
        self, building: Path, uuid: ImageUUID, origin: ImageUUID | None, report: Report
    ) -> None:
        """What is to be done once the tar is written."""

    @abstractmethod
    async def _make_root(self, folder: Path, uuid: ImageUUID | None, size: int) -> None:
        """Make `folder` with `rootfs` in it, and whatever else belongs to a zone's root."""

    async def _take_apart(self, folder: Path) -> None:  # noqa: B027 - most have nothing
        """Before the folder of a dataset or a root is thrown away: what of it is no file goes."""

    def _remove(self, folder: Path) -> None:
        """What was thrown away goes for good.  In the broom's thread; OSError."""
        trees.remove(str(folder))

    # --- datasets

    async def exists(self, uuid: ImageUUID) -> bool:
        """Whether the dataset is there, whole."""
        return uuid in self._datasets

    async def list(self) -> frozenset[ImageUUID]:
        """Every whole dataset."""
        return frozenset(self._datasets)

    async def used_bytes(self, uuid: ImageUUID) -> int:
        """Sum of the file sizes of this layer alone.  NotFound."""
        return named(self._datasets, uuid).size

    def image_folder(self, uuid: ImageUUID) -> Path:
        """The folder of a dataset.  NotFound."""
        named(self._datasets, uuid)
        return self._root / "datasets" / uuid

    def extend(
        self, uuid: ImageUUID, *, origin: ImageUUID | None, layer: LayerInfo
    ) -> AbstractAsyncContextManager[LayerTree]:
        """A dataset on top of `origin`, which must exist at once, or when the block ends if layers are independent."""
        return self._extend(uuid, origin, layer)

    @asynccontextmanager
    async def _extend(
        self, uuid: ImageUUID, origin: ImageUUID | None, layer: LayerInfo
    ) -> AsyncIterator[LayerTree]:
        refuse_existing(self._datasets, uuid)
        if origin is not None and not self.layers_are_independent:
            named(self._datasets, origin)
        building = self._root / "datasets" / f"{_PARTIAL}{uuid}-{secrets.token_hex(4)}"
        spawner = self._spawner or default_spawner()
        tree = LayerWriter(building / "layer", self.writes, spawner, self._feeders)
        try:
            building.mkdir(mode=0o755)
            await self._begin(building, uuid, origin)
            yield tree
            if origin is not None:
                named(self._datasets, origin)
            with self._kept(origin):
                dataset = Dataset(origin, tree.report.size, tree.report.opaque)
                await self._settle(building, uuid, origin, tree.report)
                refuse_existing(self._datasets, uuid)
                meta = _encode(dataset, layer)
                await finish(self._mounter, lambda: self._commit(building, uuid, meta))
                self._datasets[uuid] = dataset
        finally:
            if building.exists():
                await self._take_apart(building)
                await self._put_away(building)

    def _commit(self, building: Path, uuid: ImageUUID, meta: bytes) -> None:
        # Not synced, for the layer's files are not either: what a power failure spoils is fetched again.
        (building / "meta.json").write_bytes(meta)
        try:
            building.rename(self._root / "datasets" / uuid)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise Conflict(f"dataset {uuid} already exists") from error
            raise

    @contextmanager
    def _kept(self, origin: ImageUUID | None) -> Iterator[None]:
        """Nobody destroys it inside the block."""
        self._origins_in_use.append(origin)
        try:
            yield
        finally:
            self._origins_in_use.remove(origin)

    async def destroy(self, uuid: ImageUUID) -> None:
        """Remove a dataset.  NotFound; Conflict while a zone or another dataset stands on it.  Zones that leave are waited for."""
        named(self._datasets, uuid)
        await self._left(uuid)
        refuse_origin(self._datasets, uuid, self._origins_in_use)
        zones = [zone for zone, origin in self._clones.items() if origin == uuid]
        if zones:
            raise Conflict(f"dataset {uuid} is in use by zone {zones[0]}")
        # From here on nobody clones it.
        dataset, folder = self._datasets.pop(uuid), self._root / "datasets" / uuid
        try:
            await self._take_apart(folder)
        except BaseException:
            self._datasets[uuid] = dataset
            raise
        # Somebody took it away by hand: the image can be removed, and pulled again.
        with suppress(FileNotFoundError):
            await self._put_away(folder)

    # --- roots of zones

    def zones(self) -> frozenset[str]:
        """Every zone that has a root here; the host discards those it does not know."""
        return frozenset(self._clones)

    def folder(self, zone: str) -> Path:
        """Holds `rootfs` of a zone, and what the store has beside it."""
        return self._root / "zones" / zone

    def origin(self, zone: str) -> ImageUUID | None:
        """What a zone's root was cloned from.  NotFound."""
        try:
            return self._clones[zone]
        except KeyError:
            raise NotFound(f"zone {zone} has no root") from None

    async def clone(self, uuid: ImageUUID | None, zone: str, *, size: int = 0) -> Path:
        """A root of its own for a zone, empty if `uuid` is None; its folder.  Not mounted yet.

        NotFound: no such dataset.  Conflict: the zone has a root.
        """
        if zone in self._clones:
            raise Conflict(f"zone {zone} already has a root")
        if uuid is not None:
            named(self._datasets, uuid)
        # From here on nobody may destroy the dataset.
        self._clones[zone] = uuid
        folder = self.folder(zone)
        try:
            await self._make_root(folder, uuid, size)
        except BaseException:
            del self._clones[zone]
            if folder.exists():
                await self._take_apart(folder)
                await self._put_away(folder)
            raise
        return folder / "rootfs"

    def leave(self, zone: str) -> None:
        """Its zone is deleted: `discard` follows soon."""
        if zone in self._clones:
            self._leaving[zone] = asyncio.Event()

    async def _left(self, uuid: ImageUUID) -> None:
        """The image of a container that was just removed goes with all it has."""
        going = [event for zone, event in self._leaving.items() if self._clones.get(zone) == uuid]
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVING_S):
                for event in going:
                    await event.wait()

    async def discard(self, zone: str) -> None:
        """A zone's root is gone when this returns; mount and files go in the background.  None is fine."""
        # Unmounting an overlay syncs its disk (20 ms after a pull): nobody waits for that.
        folder = self.folder(zone)
        try:
            if folder.exists():
                await self._take_apart(folder)
            with suppress(FileNotFoundError):
                await self._put_away(folder)
            self._clones.pop(zone, None)
        finally:
            if event := self._leaving.pop(zone, None):
                event.set()

    # --- inside

    async def _put_away(self, folder: Path) -> None:
        # btrfs keeps a rename waiting while it commits.
        await finish(self._mounter, lambda: self._throw_away(folder))

    def _throw_away(self, folder: Path) -> None:
        trash = self._root / "trash" / secrets.token_hex(8)
        folder.rename(trash)
        self._broom.submit(self._sweep, trash)

    def _sweep(self, trash: Path) -> None:
        try:
            self._remove(trash)
        except OSError as error:
            log.warning("cannot remove %s: %s", trash, error)

    def _load(self) -> None:
        """What is below the root, leftovers thrown away.  Blocking."""
        for name in ("datasets", "zones", "trash", "empty"):
            (self._root / name).mkdir(mode=0o711, parents=True, exist_ok=True)
        spread_below(self._root / "datasets")
        # Programs of an image that are setuid root are not for the machine's users (CVE-2021-41091).
        self._root.chmod(0o700)
        for trash in (self._root / "trash").iterdir():
            self._broom.submit(self._sweep, trash)
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
            self._datasets[ImageUUID(folder.name)] = Dataset(
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


def mark_whole(folder: Path, uuid: ImageUUID | None) -> None:
    """Last of a zone's root: a folder without it is a leftover of a killed gateway."""
    (folder / "origin").symlink_to(uuid or "none")


def _encode(dataset: Dataset, layer: LayerInfo) -> bytes:
    document = {
        "origin": dataset.origin,
        "digest": layer.digest,
        "diff_id": layer.diff_id,
        "size": layer.size,
        "used_bytes": dataset.size,
        "opaque": dataset.opaque,
    }
    return json.dumps(document).encode()
