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

import logging
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dockerapi.errors import Conflict, NotFound
from gateway.hosts.datasets import named, refuse_existing, refuse_origin
from gateway.hosts.smartos import imgadm
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.imageplace import CLAIM, PARTIAL, ImagePlace
from gateway.hosts.smartos.layertree import Drain, LayerOnItsWay
from gateway.hosts.zfs import ZFS
from imgsources.datasets import LayerInfo, LayerTree
from imgsources.oci import ImageUUID

log = logging.getLogger(__name__)

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOCK_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class _Dataset:
    """`bytes` None: not of our making, to be asked for.  `is_ours`: this instance wants it; `is_layer`: zonegate made it."""

    origin: ImageUUID | None = None
    bytes: int | None = None
    is_ours: bool = False
    is_layer: bool = False


class ZFSDatasets:
    """A DatasetStore and PlatformImages over zfs and imgadm.  Make it by `open`."""

    layers_are_independent = False

    def __init__(self, place: ImagePlace) -> None:
        self._place = place
        self._gz = place.gz
        self._zfs = place.zfs
        self._datasets: dict[ImageUUID, _Dataset] = {}
        self._origins_in_use: list[ImageUUID] = []
        self._locked: set[str] = set()

    @classmethod
    async def open(
        cls, gz: GlobalZone, *, zpool: str, root: str, instance: str, spool: Path | None = None
    ) -> ZFSDatasets:
        """What is in the pool; halves that an earlier life left are swept.

        `root`: below it imgadm's files are ("/").  `spool`: folder of this machine for layers on their way,
        if the global zone is another one.
        """
        mountpoint = await ZFS(gz).get(zpool, "mountpoint")
        spool = spool or Path(tempfile.gettempdir())
        place = ImagePlace(gz, zpool, root, mountpoint, instance, spool)
        if gz.is_local:
            place = replace(place, spool=Path(place.far_spool))
        store = cls(place)
        await store._sweep()
        await store.refresh()
        return store

    # --- datasets

    async def exists(self, uuid: ImageUUID) -> bool:
        """Whether the dataset is there, whole.  One that another instance made is wanted by us, too, from now on."""
        found = self._datasets.get(uuid)
        if found is not None and found.is_layer and not found.is_ours:
            try:
                await self._zfs.set(self._place.dataset(uuid), {self._place.claim: "yes"})
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
        found = named(self._datasets, uuid)
        if found.bytes is None:
            found = replace(
                found, bytes=int(await self._zfs.get(self._place.dataset(uuid), "used"))
            )
            self._datasets[uuid] = found
        return found.bytes or 0

    def root(self, uuid: ImageUUID) -> str:
        """The folder of the global zone that holds an image's tree.  NotFound."""
        named(self._datasets, uuid)
        return f"{self._place.mountpoint}/{uuid}/root"

    async def refresh(self) -> None:
        """Look what is there: after somebody else may have imported or deleted images."""
        place, before = self._place, set(self._datasets)
        known = await imgadm.known(self._gz, place.root, place.zpool)
        columns = ("origin", place.claim, "zonegate:digest", "zonegate:bytes")
        found: dict[ImageUUID, _Dataset] = {}
        for name, origin, claim, digest, size in await self._zfs.list(
            place.zpool, columns, depth=1
        ):
            uuid = ImageUUID(name.removeprefix(f"{place.zpool}/"))
            # A zone's dataset looks just like an image's: imgadm's database tells them apart.
            if uuid not in known or not _UUID.fullmatch(uuid):
                continue
            found[uuid] = _Dataset(
                origin=_origin(origin),
                bytes=int(size) if size.isdigit() else None,
                is_ours=claim != "-",
                is_layer=digest != "-",
            )
        # What was made or destroyed here while we looked is newer than what we saw.
        now = self._datasets
        found |= {uuid: now[uuid] for uuid in now if uuid not in before}
        self._datasets = {uuid: found[uuid] for uuid in found if uuid in now or uuid not in before}

    def extend(
        self, uuid: ImageUUID, *, origin: ImageUUID | None, layer: LayerInfo
    ) -> AbstractAsyncContextManager[LayerTree]:
        """A dataset on top of `origin`, which must be there (NotFound).

        Unavailable while imgadm makes the same one.
        """
        return self._extend(uuid, origin, layer)

    @asynccontextmanager
    async def _extend(
        self, uuid: ImageUUID, origin: ImageUUID | None, layer: LayerInfo
    ) -> AsyncIterator[LayerTree]:
        place = self._place
        refuse_existing(self._datasets, uuid)
        if origin is not None:
            named(self._datasets, origin)
        lock = imgadm.import_lock(
            self._gz,
            place.root,
            uuid,
            place.lock_owner,
            held=self._locked,
            timeout_s=_LOCK_TIMEOUT_S,
        )
        async with lock as had_to_wait:
            if had_to_wait:
                await self.refresh()
            if uuid in self._datasets:  # somebody else has made it meanwhile
                await self.exists(uuid)
                yield Drain()
                return
            tree = LayerOnItsWay(place, uuid, origin, layer)
            origins = [origin] if origin is not None else []
            self._origins_in_use += origins
            try:
                yield tree
                if await self._came_meanwhile(uuid):
                    await tree.discard(keep_entry=True)
                    return
                await tree.commit()
            except BaseException:
                await tree.discard()
                raise
            finally:
                for one in origins:
                    self._origins_in_use.remove(one)
            self._datasets[uuid] = _Dataset(origin, tree.bytes, is_ours=True, is_layer=True)

    async def _came_meanwhile(self, uuid: ImageUUID) -> bool:
        """Whether imgadm has imported it since we last looked: it has an entry then."""
        if await self._gz.status(self._place.entry(uuid)) is None:
            return False
        await self.refresh()
        return uuid in self._datasets

    async def destroy(self, uuid: ImageUUID) -> None:
        """Remove a dataset.  NotFound; Conflict while a zone or another dataset stands on it, or if it is not ours."""
        place, found = self._place, named(self._datasets, uuid)
        if not found.is_ours:
            raise Conflict(f"image {uuid} was imported by somebody else: it is left to imgadm")
        refuse_origin(self._datasets, uuid, self._origins_in_use)
        try:
            if await self._others_want(uuid):
                await self._zfs.inherit(place.dataset(uuid), place.claim)
                self._datasets[uuid] = replace(found, is_ours=False)
                return
            if found.is_layer:
                await self._zfs.destroy(place.dataset(uuid))
                await self._gz.remove(place.entry(uuid))
            else:
                await imgadm.delete_image(self._gz, uuid, zpool=place.zpool)
        except NotFound:  # an administrator was faster
            await self._gz.remove(place.entry(uuid))
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
        place = self._place
        if uuid not in self._datasets:
            # An administrator may have been faster: then it stays the administrator's.
            await self.refresh()
        before = set(self._datasets)
        if uuid in before:
            return await imgadm.get_image(self._gz, uuid)
        is_locked = await self._gz.status(place.lock(uuid)) is not None
        try:
            manifest = await imgadm.import_image(
                self._gz, uuid, source=source, zpool=place.zpool, progress=progress
            )
        except BaseException:
            if not is_locked:  # else it is another program's
                await self._forget_import(uuid)
            raise
        await self.refresh()
        # imgadm brings origins along, which go with it.
        new: ImageUUID | None = uuid
        while new is not None and new not in before:
            await self._zfs.set(place.dataset(new), {place.claim: "yes", "zonegate:source": source})
            found = named(self._datasets, new)
            self._datasets[new] = replace(found, is_ours=True)
            new = found.origin
        return manifest

    async def _forget_import(self, uuid: str) -> None:
        """What an imgadm leaves that was killed."""
        place = self._place
        await place.quietly(self._zfs.destroy(place.dataset(uuid) + PARTIAL))
        download = f"{place.far_spool}/.imgadm-downloads/{uuid}.file"
        await place.quietly(self._gz.remove(download))
        await place.quietly(self._gz.remove(place.lock(uuid)))

    # --- inside

    async def _others_want(self, uuid: ImageUUID) -> bool:
        properties = await self._zfs.own_properties(self._place.dataset(uuid))
        return any(key.startswith(CLAIM) and key != self._place.claim for key in properties)

    async def _sweep(self) -> None:
        """What a killed gateway left: halves of datasets, locks, layers on their way, entries of nothing."""
        place = self._place
        await imgadm.break_locks(self._gz, place.root, place.lock_owner)
        datasets = set()
        for name, claim in await self._zfs.list(place.zpool, (place.claim,), depth=1):
            datasets.add(name.removeprefix(f"{place.zpool}/"))
            if claim != "-" and name.endswith(PARTIAL):
                log.info("dataset %s was left half made and is destroyed", name)
                await place.quietly(self._zfs.destroy(name))
        for uuid in await imgadm.known(self._gz, place.root, place.zpool) - datasets:
            await place.quietly(self._drop_entry(uuid))
        await self._remove_spools()

    async def _drop_entry(self, uuid: str) -> None:
        """An entry without a dataset, of the kind that we write."""
        place = self._place
        manifest = await imgadm.read_entry(self._gz, place.root, place.zpool, uuid)
        is_busy = await self._gz.status(place.lock(uuid)) is not None
        if manifest.get("name") == "docker-layer" and not is_busy:
            await self._gz.remove(place.entry(uuid))

    async def _remove_spools(self) -> None:
        place = self._place
        for name in await self._gz.names(place.far_spool):
            if name.startswith(place.spool_start):
                await self._gz.remove(f"{place.far_spool}/{name}")
        for path in place.spool.glob(f"{place.spool_start}*"):
            path.unlink(missing_ok=True)


def _origin(name: str) -> ImageUUID | None:
    if name == "-":
        return None
    return ImageUUID(name.rpartition("/")[2].partition("@")[0])
