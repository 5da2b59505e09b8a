"""Datasets of image layers on zfs, known to imgadm: what vmadm clones zones from.

    lock /var/run/img.UUID.import.lock
      spool the tar, settle the layer (layers.py)             nothing there yet
      zfs clone POOL/ORIGIN@final POOL/UUID-partial           or `create`, with our properties
      what the layer hides goes (whiteouts.py), chroot-gtar
      zfs snapshot POOL/UUID-partial@final
      entry in imgadm's database, then zfs rename to POOL/UUID   from here on it is there, for imgadm too

Killed in between, a `-partial` with our property is left, which the next `open` destroys with its entry.
Which images there are is in memory: `zfs list` runs at `open` and at `refresh`, never for a request.
Properties are zonegate:instance.NAME (that instance wants it), zonegate:digest, diff_id, size, bytes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from dockerapi.errors import APIError, Conflict, InvalidParameter, NotFound
from gateway.hosts.smartos import imgadm, layers, whiteouts
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.zfs import ZFS
from gateway.hosts.tarstream import BadArchive
from imgsources.datasets import LayerInfo, LayerTree, Readable
from imgsources.oci import ImageUUID

log = logging.getLogger(__name__)

T = TypeVar("T")

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PARTIAL = "-partial"
_APPLY_TIMEOUT_S = 3600.0
_LOCK_TIMEOUT_S = 600.0
_ROUNDS = 45
"""Questions about the tree below: each follows one more level of links."""


@dataclass(frozen=True, slots=True)
class _Dataset:
    """`bytes` None: not of our making, to be asked for.  `is_shared`: another instance made it."""

    origin: ImageUUID | None = None
    bytes: int | None = None
    is_ours: bool = False
    is_shared: bool = False
    is_layer: bool = False


class ZFSDatasets:
    """A DatasetStore and PlatformImages over zfs and imgadm.  Make it by `open`."""

    layers_are_independent = False

    def __init__(
        self, gz: GlobalZone, *, zpool: str, root: str, instance: str, spool: Path, mountpoint: str
    ) -> None:
        self._gz = gz
        self._zfs = ZFS(gz)
        self._zpool = zpool
        self._root = root
        self._instance = instance
        self._spool = spool
        self._mountpoint = mountpoint
        self._datasets: dict[ImageUUID, _Dataset] = {}
        self._origins_in_use: list[ImageUUID] = []

    @classmethod
    async def open(
        cls, gz: GlobalZone, *, zpool: str, root: str, instance: str, spool: Path | None = None
    ) -> ZFSDatasets:
        """What is in the pool; halves that an earlier life left are swept.

        `root`: below it imgadm's files are ("/").  `spool`: folder of this machine for layers on their way.
        """
        far_spool = Path(root) / "var/tmp"
        spool = spool or (far_spool if gz.is_local else Path(tempfile.gettempdir()))
        mountpoint = await ZFS(gz).get(zpool, "mountpoint")
        store = cls(
            gz, zpool=zpool, root=root, instance=instance, spool=spool, mountpoint=mountpoint
        )
        await store._sweep()
        await store.refresh()
        return store

    # --- datasets

    async def exists(self, uuid: ImageUUID) -> bool:
        """Whether the dataset is there, whole.  One that another instance made is wanted by us, too, from now on."""
        found = self._datasets.get(uuid)
        if found is not None and found.is_shared and not found.is_ours:
            try:
                await self._zfs.set(self._name(uuid), {self._claim: "yes"})
            except NotFound:
                del self._datasets[uuid]
                return False
            self._datasets[uuid] = replace(found, is_ours=True)
        return found is not None

    async def list(self) -> frozenset[ImageUUID]:
        """Every whole dataset of an image, those of imgadm's making too."""
        return frozenset(self._datasets)

    async def used_bytes(self, uuid: ImageUUID) -> int:
        """Sum of the file sizes of this layer; what zfs says it takes, for images that imgadm imported."""
        found = self._get(uuid)
        if found.bytes is None:
            found = replace(found, bytes=int(await self._zfs.get(self._name(uuid), "used")))
            self._datasets[uuid] = found
        return found.bytes or 0

    def root(self, uuid: ImageUUID) -> str:
        """The folder of the global zone that holds an image's tree.  NotFound."""
        self._get(uuid)
        return f"{self._mountpoint}/{uuid}/root"

    async def refresh(self) -> None:
        """Look what is there: after somebody else may have imported or deleted images."""
        known = await imgadm.known(self._gz, self._root, self._zpool)
        columns = ("origin", self._claim, "zonegate:digest", "zonegate:bytes")
        found: dict[ImageUUID, _Dataset] = {}
        for name, origin, claim, digest, size in await self._zfs.list(
            self._zpool, columns, depth=1
        ):
            uuid = ImageUUID(name.removeprefix(f"{self._zpool}/"))
            # A zone's dataset looks just like an image's: imgadm's database tells them apart.
            if uuid not in known or not _UUID.fullmatch(uuid):
                continue
            found[uuid] = _Dataset(
                origin=_origin(origin),
                bytes=int(size) if size.isdigit() else None,
                is_ours=claim != "-",
                is_shared=digest != "-",
                is_layer=digest != "-",
            )
        self._datasets = found

    def extend(
        self, uuid: ImageUUID, *, origin: ImageUUID | None, layer: LayerInfo
    ) -> AbstractAsyncContextManager[LayerTree]:
        """A dataset on top of `origin`, which must be there.  Unavailable while imgadm makes the same one."""
        return self._extend(uuid, origin, layer)

    @asynccontextmanager
    async def _extend(
        self, uuid: ImageUUID, origin: ImageUUID | None, layer: LayerInfo
    ) -> AsyncIterator[LayerTree]:
        self._refuse_existing(uuid)
        lock = imgadm.import_lock(
            self._gz, self._root, uuid, self._lock_owner, timeout_s=_LOCK_TIMEOUT_S
        )
        async with lock as had_to_wait:
            if had_to_wait:
                await self.refresh()
            if uuid in self._datasets:  # somebody else has made it meanwhile
                await self.exists(uuid)
                yield _Drain()
                return
            tree = _ZFSTree(self, uuid, origin, layer)
            if origin is not None:
                self._origins_in_use.append(origin)
            try:
                yield tree
                if origin is not None:
                    self._get(origin)
                await tree.commit()
            except BaseException:
                await tree.discard()
                raise
            finally:
                if origin is not None:
                    self._origins_in_use.remove(origin)

    async def destroy(self, uuid: ImageUUID) -> None:
        """Remove a dataset.  NotFound; Conflict while a zone or another dataset stands on it, or if it is not ours."""
        found = self._get(uuid)
        if not found.is_ours:
            raise Conflict(f"image {uuid} was imported by somebody else: it is left to imgadm")
        if children := [name for name, other in self._datasets.items() if other.origin == uuid]:
            raise Conflict(f"dataset {uuid} is the origin of dataset {children[0]}")
        if uuid in self._origins_in_use:
            raise Conflict(f"dataset {uuid} is the origin of a dataset that is being made")
        try:
            if await self._others_want(uuid):
                await self._zfs.inherit(self._name(uuid), self._claim)
                self._datasets[uuid] = replace(found, is_ours=False)
                return
            if found.is_layer:
                await self._zfs.destroy(self._name(uuid))
                await self._gz.remove(imgadm.entry_path(self._root, self._zpool, uuid))
            else:
                await imgadm.delete_image(self._gz, uuid, zpool=self._zpool)
        except NotFound:  # an administrator was faster
            await self._gz.remove(imgadm.entry_path(self._root, self._zpool, uuid))
        del self._datasets[uuid]

    # --- images of image servers

    async def import_image(
        self,
        uuid: ImageUUID,
        *,
        source: str,
        progress: Callable[[str], None] | None = None,
    ) -> Mapping[str, Any]:
        """Have imgadm import it from the IMGAPI server `source`; its manifest.  One that is there is fine.

        NotFound, Unavailable.  Nothing is left of an import that failed or was cancelled.
        """
        if uuid in self._datasets:
            return await imgadm.get_image(self._gz, uuid)
        lock = imgadm.lock_path(self._root, uuid)
        is_locked = await self._gz.status(lock) is not None
        try:
            manifest = await imgadm.import_image(
                self._gz, uuid, source=source, zpool=self._zpool, progress=progress
            )
        except BaseException:
            if not is_locked:  # else it is another program's
                await self._quietly(self._zfs.destroy(self._name(uuid) + _PARTIAL))
                await self._quietly(self._gz.remove(lock))
            raise
        await self._zfs.set(self._name(uuid), {self._claim: "yes", "zonegate:source": source})
        await self.refresh()
        return manifest

    # --- inside

    @property
    def _claim(self) -> str:
        return f"zonegate:instance.{self._instance}"

    @property
    def _lock_owner(self) -> str:
        return f"zonegate {self._instance}"

    @property
    def _spool_start(self) -> str:
        return f"zonegate-{self._instance}-"

    @property
    def _far_spool(self) -> str:
        # /tmp of a global zone is memory.
        return f"{self._root.rstrip('/')}/var/tmp"  # noqa: S108 - names in it are random

    def _name(self, uuid: str) -> str:
        return f"{self._zpool}/{uuid}"

    def _get(self, uuid: ImageUUID) -> _Dataset:
        try:
            return self._datasets[uuid]
        except KeyError:
            raise NotFound(f"no such dataset: {uuid}") from None

    def _refuse_existing(self, uuid: ImageUUID) -> None:
        if uuid in self._datasets:
            raise Conflict(f"dataset {uuid} already exists")

    async def _others_want(self, uuid: ImageUUID) -> bool:
        properties = await self._zfs.own_properties(self._name(uuid))
        wanted = [key for key in properties if key.startswith("zonegate:instance.")]
        return any(key != self._claim for key in wanted)

    async def _quietly(self, work: Any) -> None:
        """Clean-up that may find nothing, or no machine: the next `open` does the rest."""
        try:
            await work
        except NotFound:
            pass
        except APIError as error:
            log.warning("not cleaned up until the next start: %s", error)

    async def _sweep(self) -> None:
        """What a killed gateway left: halves of datasets, locks, layers on their way, entries of nothing."""
        await imgadm.break_locks(self._gz, self._root, self._lock_owner)
        datasets = set()
        for name, claim in await self._zfs.list(self._zpool, (self._claim,), depth=1):
            uuid = name.removeprefix(f"{self._zpool}/")
            datasets.add(uuid.removesuffix(_PARTIAL) if claim == "-" else uuid)
            if claim != "-" and uuid.endswith(_PARTIAL):
                log.info("dataset %s was left half made and is destroyed", name)
                await self._quietly(self._zfs.destroy(name))
        for uuid in await imgadm.known(self._gz, self._root, self._zpool) - datasets:
            await self._quietly(self._drop_entry(uuid))
        await self._remove_spools()

    async def _drop_entry(self, uuid: str) -> None:
        """An entry without a dataset, of the kind that we write."""
        manifest = await imgadm.read_entry(self._gz, self._root, self._zpool, uuid)
        is_busy = await self._gz.status(imgadm.lock_path(self._root, uuid)) is not None
        if manifest.get("name") == "docker-layer" and not is_busy:
            await self._gz.remove(imgadm.entry_path(self._root, self._zpool, uuid))

    async def _remove_spools(self) -> None:
        folder = self._far_spool
        for name in await self._gz.names(folder):
            if name.startswith(self._spool_start):
                await self._gz.remove(f"{folder}/{name}")
        for path in self._spool.glob(f"{self._spool_start}*"):
            path.unlink(missing_ok=True)


class _Drain:
    """The tree of a dataset that somebody else has made while we waited."""

    async def apply(self, tar: Readable) -> None:
        """Read it, for its digest's sake."""
        await _in_thread(lambda stop: _drained(_Stoppable(tar, stop)))


class _ZFSTree:
    """A dataset that is being made, under the name UUID-partial."""

    def __init__(
        self, store: ZFSDatasets, uuid: ImageUUID, origin: ImageUUID | None, layer: LayerInfo
    ) -> None:
        self._store = store
        self._gz = store._gz
        self._zfs = store._zfs
        self._uuid = uuid
        self._origin = origin
        self._layer = layer
        self._partial = store._name(uuid) + _PARTIAL
        self._folder = f"{store._mountpoint}/{uuid}{_PARTIAL}"
        self._is_begun = self._is_made = self._is_renamed = False
        self._token = secrets.token_hex(8)
        """Tells what we have made from what was there: a rename may have been done though we were told nothing."""
        self._said_bytes = 0
        self.bytes = 0

    async def apply(self, tar: Readable) -> None:
        """Spool, settle, make the dataset, clear the way, extract.  InvalidParameter names a refused entry."""
        spools: list[Path] = []
        try:
            layer = await self._read(tar, spools)
            plan = await self._settled(layer)
            if plan.changes_tar:
                await self._rewritten(plan, spools)
            self.bytes += layer.bytes
            await self._make()
            if plan.removals:
                await whiteouts.clear(self._gz, f"{self._folder}/root", plan.removals)
            if len(layer.records) > len(plan.dropped):
                await self._extract(spools[-1])
        except BadArchive as error:
            raise InvalidParameter(f"failed to register layer: {error}") from error
        except OSError as error:
            raise APIError(f"failed to register layer: {error.strerror or error}") from error
        finally:
            for path in spools:
                path.unlink(missing_ok=True)

    async def commit(self) -> None:
        """From here on it is an image."""
        await self._make()
        name, store = self._store._name(self._uuid), self._store
        if self.bytes != self._said_bytes:
            await self._zfs.set(self._partial, {"zonegate:bytes": str(self.bytes)})
        await self._zfs.snapshot(f"{self._partial}@final")
        if await self._gz.status(imgadm.entry_path(store._root, store._zpool, self._uuid)):
            await store.refresh()
            if self._uuid in store._datasets:  # imgadm has imported it since we last looked
                await self._zfs.destroy(self._partial)
                return
        await imgadm.write_entry(
            self._gz,
            store._root,
            imgadm.layer_manifest(self._uuid, self._origin, self._layer),
            zpool=store._zpool,
            source=imgadm.source_of(self._layer),
        )
        self._is_renamed = True
        try:
            await self._zfs.rename(self._partial, name)
        except Conflict:
            # Made by us and forgotten by imgadm's database: it has an entry again.
            if (await self._zfs.own_properties(name)).get("zonegate:digest") != self._layer.digest:
                raise
            await self._zfs.destroy(self._partial)
            await self._zfs.set(name, {store._claim: "yes"})
        store._datasets[self._uuid] = _Dataset(
            self._origin, self.bytes, is_ours=True, is_shared=True, is_layer=True
        )

    async def discard(self) -> None:
        """Nothing is left."""
        if not self._is_begun:
            return
        store = self._store
        await store._quietly(self._zfs.destroy(self._partial))
        if self._is_renamed:
            await store._quietly(self._destroy_if_ours(store._name(self._uuid)))
        await store._quietly(
            self._gz.remove(imgadm.entry_path(store._root, store._zpool, self._uuid))
        )

    # --- steps

    async def _destroy_if_ours(self, name: str) -> None:
        if (await self._zfs.own_properties(name)).get("zonegate:token") == self._token:
            await self._zfs.destroy(name)

    async def _read(self, tar: Readable, spools: list[Path]) -> layers.Layer:
        path = self._new_spool(spools)

        def work(stop: threading.Event) -> layers.Layer:
            read = _Stoppable(tar, stop).read
            with path.open("xb", buffering=1 << 20) as out:
                free = os.fstatvfs(out.fileno())
                return layers.read_layer(read, out, free.f_bavail * free.f_frsize)

        return await _in_thread(work)

    async def _settled(self, layer: layers.Layer) -> layers.Plan:
        below = self._below()
        lower: dict[bytes, bytes] | None = None if below is None else {}
        for _ in range(_ROUNDS):
            plan = await asyncio.to_thread(layers.settle, layer, lower)
            if not plan.unknown or lower is None or below is None:
                return plan
            lower |= await whiteouts.look(self._gz, below, plan.unknown)
        raise BadArchive(f"links of the lower layers: {os.strerror(errno.ELOOP)}")

    def _below(self) -> str | None:
        """The tree that this layer comes on top of."""
        if self._is_made:
            return f"{self._folder}/root"
        return None if self._origin is None else self._store.root(self._origin)

    async def _rewritten(self, plan: layers.Plan, spools: list[Path]) -> None:
        source, target = spools[-1], self._new_spool(spools)

        def work(_: threading.Event) -> None:
            with source.open("rb") as read, target.open("xb", buffering=1 << 20) as out:
                layers.rewrite(read.read, out, plan)

        await _in_thread(work)

    async def _make(self) -> None:
        """The dataset with an empty root, or its origin's; once."""
        if self._is_made:
            return
        self._is_begun = True
        try:
            await self._clone_or_create()
        except Conflict:
            # What a killed imgadm left: we hold its lock.
            await self._zfs.destroy(self._partial)
            await self._clone_or_create()
        self._is_made = True

    async def _clone_or_create(self) -> None:
        layer, self._said_bytes = self._layer, self.bytes
        properties = {
            self._store._claim: "yes",
            "zonegate:digest": layer.digest,
            "zonegate:diff_id": layer.diff_id,
            "zonegate:size": str(layer.size),
            "zonegate:bytes": str(self.bytes),
            "zonegate:token": self._token,
        }
        if self._origin is not None:
            self._store._get(self._origin)
            origin = self._store._name(self._origin)
            await self._zfs.clone(f"{origin}@final", self._partial, properties)
        else:
            await self._zfs.create(self._partial, properties)
            await self._gz.make_folder(f"{self._folder}/root")

    async def _extract(self, spool: Path) -> None:
        path = str(spool)
        if not self._gz.is_local:
            path = f"{self._store._far_spool}/{spool.name}"
            await self._gz.upload(spool, path)
        try:
            await self._gz.run(
                ["chroot-gtar", self._folder, "root", path, "none"], timeout_s=_APPLY_TIMEOUT_S
            )
        except APIError as error:
            raise _gtar_failure(error) from error
        finally:
            if not self._gz.is_local:
                await self._store._quietly(self._gz.remove(path))

    def _new_spool(self, spools: list[Path]) -> Path:
        store = self._store
        name = f"{store._spool_start}{self._uuid}-{secrets.token_hex(4)}.tar"
        spools.append(store._spool / name)
        return spools[-1]


class _Stopped(Exception):
    """Nobody waits for the thread any more."""


class _Stoppable:
    """A stream that ends a thread's work when it is not wanted any more."""

    def __init__(self, stream: Readable, stop: threading.Event) -> None:
        self._stream = stream
        self._stop = stop

    def read(self, size: int, /) -> bytes:
        """Of the stream."""
        if self._stop.is_set():
            raise _Stopped
        return self._stream.read(size)


def _drained(stream: Readable) -> None:
    while stream.read(1 << 20):
        pass


async def _in_thread(work: Callable[[threading.Event], T]) -> T:
    """The result of blocking work; a cancelled caller stops it, and waits until it has ended."""
    stop = threading.Event()
    future = asyncio.get_running_loop().run_in_executor(None, work, stop)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen, and of no interest any more
        raise


def _origin(name: str) -> ImageUUID | None:
    if name == "-":
        return None
    return ImageUUID(name.rpartition("/")[2].partition("@")[0])


def _gtar_failure(error: APIError) -> APIError:
    """tar goes on after what it cannot do, and its last line says nothing: the first one does."""
    text = error.detail or error.message
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(os.strerror(errno.ENOSPC) in line for line in lines):
        return APIError("failed to register layer: no space left on device", detail=text)
    return APIError(f"failed to register layer: {lines[0] if lines else error}", detail=text)
