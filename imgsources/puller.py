"""Pull and load: from an image's source to its datasets and its record in the catalog.

    pull/load ---interest---> Layer (one a chain UUID) ---> Download (one a blob digest) ---> source
                               extend, apply, commit          fetched once, kept until all are applied

A layer or a blob that several pulls want is worked on once, and all of them see its progress; it is
cancelled when the last of them has lost interest.  Work runs in the server's task group, never in a
client's: a client's stream is a view of it.

    Pulling fs layer -> Waiting -> Downloading* -> Verifying Checksum -> Download complete
                     -> Extracting* -> Pull complete            or at once: Already exists

Decompression and digests are `imgsources.layers`', files the store's.  An image server's image is one layer that
the platform's own tool fetches: no blob, no Extracting.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dockerapi.errors import APIError, Conflict, InvalidParameter, NotFound, NotSupported
from imgsources.archives import Archive
from imgsources.blobs import LayerBlobs, free_bytes
from imgsources.blobs import remove as remove_blobs
from imgsources.catalog import Catalog, Image
from imgsources.compression import HEAD_BYTES, FilePart, GzipFile, compression
from imgsources.datasets import DatasetStore, LayerInfo, LayerTree, PlatformImages
from imgsources.layers import BlobTar, fetch, partial_path
from imgsources.oci import Descriptor, Digest, ImageUUID, Platform
from imgsources.pages import kept as pages_kept
from imgsources.references import Reference
from imgsources.retries import Retries
from imgsources.slots import Slots
from imgsources.sources import EmbeddedBlobs, ImageSource, LocalBlobs, RemoteImage
from imgsources.transfers import Download, Layer, PullEvent, Watch, ended, in_loop, short

log = logging.getLogger(__name__)

_NOT_KEPT = ("bzip2", "xz")
"""No registry takes layers in these."""
_POOL_TAR_LIMIT = 256 << 30
_RETRIES = Retries()
_STALE_PARTIAL_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class LoadEvent:
    """One image of an archive is there, under these tags."""

    image: Image
    references: tuple[Reference, ...]


class Puller:
    """Makes datasets of images.  `group` owns the work and must outlive every pull."""

    def __init__(
        self,
        store: DatasetStore,
        catalog: Catalog,
        downloads: Path,
        *,
        group: asyncio.TaskGroup,
        max_concurrent_downloads: int = 3,
        max_concurrent_applies: int = 2,
        retries: Retries = _RETRIES,
        blobs: LayerBlobs | None = None,
    ) -> None:
        self.blobs = blobs or LayerBlobs(downloads.parent / "layers")
        """The blobs of the layers that are datasets here."""
        self._packing: asyncio.Task[None] | None = None
        self._retries = retries
        self._platform = store if isinstance(store, PlatformImages) else None
        self._store = store
        self._catalog = catalog
        self._downloads = downloads
        self._group = group
        self._download_slots = Slots(max_concurrent_downloads)
        self._apply_slots = asyncio.Semaphore(max_concurrent_applies)
        self._layers: dict[ImageUUID, Layer] = {}
        self._blobs: dict[Digest, Download] = {}
        # Datasets that a running pull counts on.  Looking and destroying exclude each other, or a pull
        # could see a dataset that is gone a moment later.
        self._in_use: Counter[ImageUUID] = Counter()
        self._blobs_in_use: Counter[Digest] = Counter()
        self._gate = asyncio.Lock()

    def limit(self, *, concurrent_downloads: int, download_attempts: int) -> None:
        """Other numbers from now on; what goes on goes on."""
        self._download_slots.resize(concurrent_downloads)
        self._retries = replace(self._retries, attempts=download_attempts)

    async def pull(
        self, reference: Reference, source: ImageSource, *, platform: Platform | None
    ) -> AsyncGenerator[PullEvent, None]:
        """Resolve, then give the events of the pull as they come.

        Errors of resolving are raised here, all later ones by the iterator.  Closing the iterator ends
        this client's interest.
        """
        reference = reference.with_default_tag()
        is_found = False

        def found() -> None:
            nonlocal is_found
            is_found = True

        try:
            remote = await source.resolve(reference, platform, found=found)
        except APIError as error:
            if not is_found:
                raise
            return self._lost(reference, error)
        return self._pull(reference, source, remote)

    async def _lost(self, reference: Reference, error: APIError) -> AsyncGenerator[PullEvent, None]:
        """A pull that ends as soon as it has begun: the name leads somewhere, but to no image for us."""
        yield _begun(reference)
        raise error

    @property
    def can_import(self) -> bool:
        """Whether the platform has images of its own, which image servers serve."""
        return self._platform is not None

    def import_image(
        self, reference: Reference | None, remote: RemoteImage
    ) -> AsyncGenerator[PullEvent, None]:
        """The events of importing an image server's image, that gets the name asked for; None = its own."""
        name = reference or remote.reference
        return self._pull(name.with_default_tag() if name else None, None, remote)

    async def load(self, archive: Archive) -> AsyncGenerator[LoadEvent | PullEvent, None]:
        """Every image of an archive, in its order, and what its layers go through; errors are raised by the iterator."""
        return self._load(archive)

    async def add(
        self,
        remote: RemoteImage,
        source: ImageSource | LocalBlobs | EmbeddedBlobs,
        references: Sequence[Reference],
    ) -> Image:
        """One image with these tags; the layers that are not there are read from `source`."""
        async with self._interest(remote, source, references) as (kept, events):
            async for _ in events:
                pass
            return await self._record(kept, references, is_tagged=True)

    async def collect(self) -> None:
        """Destroy the datasets that no image and no running pull needs, and old leftovers of downloads.

        What a zone still stands on stays until the next time.
        """
        await self._destroy_unneeded(await self._store.list())
        if self.blobs.unpacked():  # a kill came in between
            self._pack_later()
        kept = {partial_path(self._downloads, digest) for digest in self._blobs}
        await asyncio.to_thread(_remove_stale, self._downloads, kept, time.time())

    async def _pull(
        self, reference: Reference | None, source: ImageSource | None, remote: RemoteImage
    ) -> AsyncGenerator[PullEvent, None]:
        by_digest = reference is not None and reference.digest is not None
        if reference is not None:
            yield _begun(reference)
        before = self._holder(reference)
        tags = () if by_digest or reference is None else (reference,)
        async with self._interest(remote, source, tags) as (kept, events):
            async for event in events:
                yield event
            if source is not None and not kept.imgapi:
                async for event in self._missing_blobs(kept, source):
                    yield event
            image = await self._record(kept, tags)
        if remote.digest is not None:
            yield PullEvent(f"Digest: {remote.digest}")
        # dockerd's words: what counts is whether the name means another image now.
        word = "Image is up to date" if before == image.id else "Downloaded newer image"
        yield PullEvent(f"Status: {word} for {reference or image.uuid}")

    async def _missing_blobs(
        self, remote: RemoteImage, source: ImageSource
    ) -> AsyncGenerator[PullEvent, None]:
        """Fetch the blobs of layers whose datasets somebody else has made: without them there is no push and no save."""
        for descriptor, diff_id in zip(remote.manifest.layers, remote.config.diff_ids, strict=True):
            if self.blobs.find(descriptor.digest) is not None:
                continue
            yield PullEvent("Downloading", id=short(descriptor.digest))
            try:
                path = await fetch(
                    source,
                    remote,
                    descriptor,
                    self._downloads,
                    progress=lambda _: None,
                    retries=replace(self._retries, attempts=1),
                )
                await asyncio.to_thread(_adopt, self.blobs, path, descriptor.digest, diff_id)
            except APIError as error:
                # The image is here and runs; it may have come from another registry, in other blobs.
                log.info("blob of layer %s: %s", descriptor.digest, error)
                continue
            yield PullEvent("Download complete", id=short(descriptor.digest))

    async def _load(self, archive: Archive) -> AsyncGenerator[LoadEvent | PullEvent, None]:
        for remote in archive.images:
            references = archive.references(remote)
            async with self._interest(remote, archive, references) as (kept, events):
                async for event in events:
                    yield event
                image = await self._record(kept, references)
            yield LoadEvent(image, references)

    @asynccontextmanager
    async def _interest(
        self,
        remote: RemoteImage,
        source: ImageSource | LocalBlobs | EmbeddedBlobs | None,
        tags: Sequence[Reference],
    ) -> AsyncIterator[tuple[RemoteImage, AsyncIterator[PullEvent]]]:
        """Have every dataset of an image by the end of the events; the block records the image.

        If it does not, what nobody else needs is gone afterwards.  Gives the image with the layers that
        it has here: one that is known, perhaps compressed in another way, keeps its own.
        """
        known = await self._known(remote)
        if known is None:
            self._check_diff_ids(remote)
        else:
            remote = replace(remote, manifest=replace(remote.manifest, layers=known.layers))
        uuids = remote.uuids
        digests = [layer.digest for layer in remote.manifest.layers]
        self._in_use.update(uuids)
        self._blobs_in_use.update(digests)
        watch = Watch()
        wanted: list[Layer] = []
        is_recorded = False
        try:
            present = await self._present(uuids)
            if known is None or len(present) < len(uuids):
                wanted = self._join(remote, source, tags, present, watch)
            yield remote, watch.events(wanted)
            is_recorded = True
        finally:
            ending = [task for layer in wanted if (task := layer.leave(watch))]
            self._in_use.subtract(uuids)
            self._blobs_in_use.subtract(digests)
            if not is_recorded:
                await self._settle_in_group(uuids, ending)

    def _check_diff_ids(self, remote: RemoteImage) -> None:
        """InvalidParameter where a config says of a layer that is here, or on its way, that it is another tar.

        Layers are shared by the digests of their blobs, and only who unpacks one sees what is in it.
        """
        if remote.imgapi:
            return
        known = {
            uuid: diff_id
            for image in self._catalog.images()
            if not image.imgapi
            for uuid, diff_id in zip(image.uuids, image.config.diff_ids, strict=False)
        }
        known |= {uuid: layer.info.diff_id for uuid, layer in self._layers.items()}
        for uuid, diff_id in zip(remote.uuids, remote.config.diff_ids, strict=True):
            if known.get(uuid, diff_id) != diff_id:
                raise InvalidParameter("layers from manifest don't match image configuration")

    async def _record(
        self, remote: RemoteImage, references: Sequence[Reference], *, is_tagged: bool = False
    ) -> Image:
        """Put an image into the catalog; its datasets are there."""
        size = 0
        for uuid in remote.uuids:
            size += await self._store.used_bytes(uuid)
        return await asyncio.to_thread(
            self._catalog.put,
            remote,
            references=references,
            size=size,
            now_ns=time.time_ns(),
            is_tagged=is_tagged,
        )

    async def _known(self, remote: RemoteImage) -> Image | None:
        """The image if the catalog has it and all its datasets are there."""
        images = self._catalog.images()
        image = next((image for image in images if image.id == remote.config.digest), None)
        if image is None:
            return None
        self._in_use.update(image.uuids)
        try:
            return image if len(await self._present(image.uuids)) == len(image.uuids) else None
        finally:
            self._in_use.subtract(image.uuids)

    def _holder(self, reference: Reference | None) -> Digest | None:
        if reference is None:
            return None
        try:
            return self._catalog.get(str(reference)).id
        except NotFound:
            return None

    async def _present(self, uuids: Sequence[ImageUUID]) -> frozenset[ImageUUID]:
        async with self._gate:
            return frozenset([uuid for uuid in uuids if await self._store.exists(uuid)])

    def _join(
        self,
        remote: RemoteImage,
        source: ImageSource | LocalBlobs | EmbeddedBlobs | None,
        tags: Sequence[Reference],
        present: frozenset[ImageUUID],
        watch: Watch,
    ) -> list[Layer]:
        """Take part in the making of every layer that is not there, or begin it."""
        wanted: list[Layer] = []
        started: list[Layer] = []
        layers = remote.manifest.layers
        uuids = remote.uuids
        previous: ImageUUID | None = None
        for number, (uuid, descriptor) in enumerate(zip(uuids, layers, strict=True)):
            origin, previous = previous, uuid
            if uuid in present:
                watch.put(PullEvent("Already exists", id=short(descriptor.digest)))
                continue
            layer = self._layers.get(uuid)
            if layer is None or layer.is_ending:
                info = LayerInfo(
                    digest=descriptor.digest,
                    diff_id=remote.config.diff_ids[number],
                    size=descriptor.size,
                    tags=tuple(map(str, tags)) if number == len(layers) - 1 else (),
                    config=remote.config.config,
                    repository=_repository(remote, tags),
                    created=remote.config.created,
                    architecture=remote.config.platform.architecture,
                    description=remote.config.comment,
                )
                below = None if origin is None or origin in present else self._layers[origin]
                layer = Layer(uuid, origin, below, info, server=remote.server, after=layer)
                if isinstance(source, LocalBlobs):
                    layer.path = source.blob_path(descriptor)
                    layer.part = partial(FilePart.whole, layer.path)
                elif isinstance(source, EmbeddedBlobs):
                    layer.part = partial(source.blob_part, descriptor)
                elif source is not None:
                    layer.blob = self._blob(remote, source, descriptor, layer)
                self._layers[uuid] = layer
                started.append(layer)
            layer.join(watch)
            wanted.append(layer)
        if self._store.layers_are_independent:
            # The largest decides how long all of it takes: it should not be the last to begin.
            started.sort(key=lambda layer: -layer.info.size)
        for layer in started:
            layer.task = self._group.create_task(self._run_layer(layer))
        return wanted

    def _blob(
        self, remote: RemoteImage, source: ImageSource, descriptor: Descriptor, layer: Layer
    ) -> Download:
        blob = self._blobs.get(descriptor.digest)
        if blob is None or blob.is_over:
            blob = Download(remote, source, descriptor, after=blob)
            self._blobs[descriptor.digest] = blob
        blob.users.add(layer)
        return blob

    # --- the work

    async def _run_layer(self, layer: Layer) -> None:
        """Make one dataset; how it ended goes to those who wait for it, never to the group."""
        is_applied = False
        try:
            if layer.after is not None:
                await ended(layer.after.task)
            is_there = await self._store.exists(layer.uuid)
            if not is_there and layer.part is not None:
                await self._make(layer, layer.part, layer.path)
            elif not is_there and layer.blob is None:
                await self._import(layer)
            elif not is_there and layer.blob is not None:
                path = await self._downloaded(layer, layer.blob)
                is_applied = True
                await self._make(layer, partial(FilePart.whole, path), path)
            layer.publish("Pull complete")
            layer.done.set_result(None)
        except asyncio.CancelledError:
            layer.done.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed on
            layer.done.set_exception(error)
        finally:
            if self._layers.get(layer.uuid) is layer:
                del self._layers[layer.uuid]
            keep = not is_applied or layer.done.cancelled()
            if layer.blob is not None:
                await self._release(layer, layer.blob, keep=keep)

    async def _import(self, layer: Layer) -> None:
        """The platform's tool does it all; of what it says on the way, clients are told the step."""

        def told(line: str) -> None:
            if line.startswith("Downloaded image"):
                layer.publish("Download complete")
                layer.publish("Extracting")

        if self._platform is None:
            raise NotSupported(f"image {layer.uuid} is a dataset of SmartOS: this host has none")
        if self._download_slots.are_taken:
            layer.publish("Waiting")
        async with self._download_slots:
            layer.publish("Downloading")
            await self._platform.import_image(layer.uuid, source=layer.server, progress=told)

    async def _make(
        self, layer: Layer, opened: Callable[[], FilePart], fetched: Path | None
    ) -> None:
        """Apply in any order where the store can, commit in the chain's: no dataset before its origin.

        `fetched`: the file that is the blob and nothing else.
        """
        below = layer.below
        if below is not None and not self._store.layers_are_independent:
            await asyncio.shield(below.done)
        extending = self._store.extend(layer.uuid, origin=layer.origin, layer=layer.info)
        async with extending as tree:
            async with self._apply_slots:
                layer.publish("Extracting", 0)
                try:
                    with pages_kept():
                        await self._apply(layer, tree, opened, fetched)
                except OSError as error:
                    words = (error.strerror or str(error)).lower()
                    raise APIError(f"failed to register layer: {words}") from error
            if below is not None:
                await asyncio.shield(below.done)

    async def _apply(
        self,
        layer: Layer,
        tree: LayerTree,
        opened: Callable[[], FilePart],
        fetched: Path | None,
    ) -> None:
        """Write the layer, and keep its blob: as it is, or as gzip made on the way."""
        info, blobs, new = layer.info, self.blobs, self.blobs.new()
        part = opened()
        copy: GzipFile | None = None
        try:
            is_kept = blobs.find(info.digest) is not None
            kind = compression(part.head(HEAD_BYTES))
            stays = not kind and part.archive is not None
            if not is_kept and kind in _NOT_KEPT:
                copy = GzipFile(new)
            elif not is_kept and not stays:
                await asyncio.to_thread(_keep, part, fetched, new)
            tar = BlobTar(
                part,
                info.diff_id,
                in_loop(layer, "Extracting"),
                copy=copy,
                limit=self._tar_limit(new.parent),
            )
            await tree.apply(tar)
            if not is_kept and stays and part.archive is not None:
                # What is loaded lies where it is kept: nothing is copied.
                blobs.adopt_part(part.archive, part.offset, info.digest, tar.size)
            elif not is_kept:
                gzip = Digest(await asyncio.to_thread(copy.finish)) if copy else None
                blobs.adopt(new, info.digest, tar.size, gzip=gzip, is_tar=not kind)
            if not is_kept and not kind:
                self._pack_later()
        finally:
            part.close()
            if copy is not None:
                copy.close()
            new.unlink(missing_ok=True)

    def _tar_limit(self, folder: Path) -> int:
        """Bytes that a layer may inflate to: what is free, for the datasets are on the same disk.

        Clones are not, they are in a pool, perhaps of another machine: there no sensible layer is larger than this.
        """
        free = free_bytes(folder)
        return free if self._store.layers_are_independent else max(free, _POOL_TAR_LIMIT)

    def _pack_later(self) -> None:
        """Plain tars become gzip when nobody waits for layers any more."""
        if self._packing is None or self._packing.done():
            with contextlib.suppress(RuntimeError):  # the server goes down: the next one does it
                self._packing = self._group.create_task(self._pack())

    async def _pack(self) -> None:
        while digests := await asyncio.to_thread(self.blobs.unpacked):
            while self._layers:
                await asyncio.wait([layer.done for layer in self._layers.values()])
                await asyncio.sleep(0)
            is_over = threading.Event()
            try:
                await asyncio.to_thread(_pack_gently, self.blobs, digests[0], is_over)
            except OSError as error:
                log.warning("layer %s stays a plain tar: %s", digests[0], error)
                return
            finally:
                is_over.set()

    async def _downloaded(self, layer: Layer, blob: Download) -> Path:
        """The blob's file; the first layer that wants it starts the transfer."""
        if blob.task is None:
            blob.task = self._group.create_task(self._run_download(blob))
        await asyncio.shield(blob.done)
        return partial_path(self._downloads, blob.descriptor.digest)

    async def _run_download(self, blob: Download) -> None:
        try:
            if blob.after is not None:
                await ended(blob.after.task)
            if self._download_slots.are_taken:
                blob.publish("Waiting")
            async with self._download_slots:
                with pages_kept():
                    await fetch(
                        blob.source,
                        blob.image,
                        blob.descriptor,
                        self._downloads,
                        progress=lambda size: blob.publish("Downloading", size),
                        tell=blob.publish,
                        retries=self._retries,
                    )
            blob.publish("Verifying Checksum")
            blob.publish("Download complete")
            blob.done.set_result(None)
        except asyncio.CancelledError:
            blob.done.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed on
            blob.done.set_exception(error)

    async def _release(self, layer: Layer, blob: Download, *, keep: bool) -> None:
        """A layer needs its blob no more.  The file goes with the last user, unless it may be resumed."""
        blob.users.discard(layer)
        blob.is_used_up |= not keep
        if blob.users:
            return
        blob.is_ending = True
        if blob.task is not None and not blob.task.done():
            blob.task.cancel()
        if blob.is_used_up:
            partial_path(self._downloads, blob.descriptor.digest).unlink(missing_ok=True)
        if blob.task is None or blob.task.done():
            self._forget(blob)
        else:
            blob.task.add_done_callback(lambda _: self._forget(blob))

    def _forget(self, blob: Download) -> None:
        if self._blobs.get(blob.descriptor.digest) is blob:
            del self._blobs[blob.descriptor.digest]

    # --- what nobody needs

    async def _settle_in_group(
        self, uuids: Sequence[ImageUUID], ending: Sequence[asyncio.Task[None]]
    ) -> None:
        """In the group, so that a client that has gone cannot stop the clean-up half way."""
        settling = self._settle(uuids, ending)
        try:
            task = self._group.create_task(settling)
        except RuntimeError:  # the server goes down and takes no more work
            settling.close()
            await self._settle(uuids, ending)
        else:
            await asyncio.shield(task)

    async def _settle(
        self, uuids: Sequence[ImageUUID], ending: Sequence[asyncio.Task[None]]
    ) -> None:
        """After a pull that did not end well: its work stops, and its datasets go."""
        for task in ending:
            await ended(task)
        await self._destroy_unneeded(uuids)

    async def _destroy_unneeded(self, uuids: Iterable[ImageUUID]) -> None:
        left = set(uuids)
        async with self._gate:
            # A dataset goes after those on top of it, so there may be as many rounds as layers.
            while gone := [uuid for uuid in left if await self._destroy(uuid)]:
                left.difference_update(gone)
            self._drop_blobs()

    def _drop_blobs(self) -> None:
        """Blobs that neither an image nor a running pull needs.  Large files take their time to go."""
        images = self._catalog.images()
        kept = {layer.digest for image in images for layer in image.layers}
        kept |= {digest for digest, users in self._blobs_in_use.items() if users > 0}
        if not (gone := self.blobs.drop(kept)):
            return
        removing = asyncio.to_thread(remove_blobs, gone)
        try:
            self._group.create_task(removing)
        except (
            RuntimeError
        ):  # the server goes down and takes no more work: the next one removes them
            removing.close()

    async def _destroy(self, uuid: ImageUUID) -> bool:
        if self._in_use[uuid] > 0 or self._catalog.dataset_users(uuid):
            return False
        try:
            await self._store.destroy(uuid)
        except (Conflict, NotFound):
            return False
        return True


def _begun(reference: Reference) -> PullEvent:
    # dockerd names a digest with the whole reference, a tag alone.
    label = reference.full if reference.digest is not None else reference.tag or ""
    return PullEvent(f"Pulling from {reference.path}", id=label)


def _adopt(blobs: LayerBlobs, path: Path, digest: Digest, diff_id: Digest) -> None:
    """A fetched file as the blob of a layer that is a dataset already."""
    tar = BlobTar(path, diff_id, lambda _: None)
    try:
        while tar.read(1 << 20):
            pass
        if tar.compression not in _NOT_KEPT:
            blobs.adopt(path, digest, tar.size, is_tar=not tar.compression)
    finally:
        tar.close()
        path.unlink(missing_ok=True)


def _keep(part: FilePart, fetched: Path | None, new: Path) -> None:
    """The bytes of a blob under a name of their own: a second name for the file that is nothing else, or a copy."""
    if fetched is not None:
        try:
            os.link(fetched, new)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            return
    part.copy_to(new)


def _pack_gently(blobs: LayerBlobs, digest: Digest, is_over: threading.Event) -> None:
    """In a thread of its own, which gives way to everybody."""
    with ThreadPoolExecutor(1, initializer=_give_way) as pool:
        pool.submit(blobs.pack, digest, is_over.is_set).result()


def _give_way() -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _repository(remote: RemoteImage, tags: Sequence[Reference]) -> str:
    reference = remote.reference or next(iter(tags), None)
    return "" if reference is None else reference.familiar_name


def _remove_stale(downloads: Path, kept: set[Path], now_s: float) -> None:
    """Files that nobody came back for."""
    for path in downloads.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if path not in kept and now_s - path.stat().st_mtime > _STALE_PARTIAL_S:
                path.unlink()
