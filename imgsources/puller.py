"""Pull and load: from an image's source to its datasets and its record in the catalog.

    pull/load ---interest---> _Layer (one a chain UUID) ---> _Download (one a blob digest) ---> source
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
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dockerapi.errors import Conflict, NotFound, NotSupported, Unavailable
from imgsources.archives import Archive
from imgsources.catalog import Catalog, Image
from imgsources.datasets import DatasetStore, LayerInfo, PlatformImages
from imgsources.layers import BlobTar, fetch, partial_path
from imgsources.oci import Descriptor, Digest, ImageUUID, Platform
from imgsources.references import Reference
from imgsources.sources import ImageSource, LocalBlobs, RemoteImage

_PROGRESS_INTERVAL_S = 0.1
_STALE_PARTIAL_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class PullEvent:
    """One line of a pull, in dockerd's words; `id` is a layer's short digest, `current` and `total` bytes."""

    status: str
    id: str = ""
    current: int | None = None
    total: int | None = None


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
        max_download_attempts: int = 5,
    ) -> None:
        self._attempts = max_download_attempts
        self._platform = store if isinstance(store, PlatformImages) else None
        self._store = store
        self._catalog = catalog
        self._downloads = downloads
        self._group = group
        self._download_slots = asyncio.Semaphore(max_concurrent_downloads)
        self._apply_slots = asyncio.Semaphore(max_concurrent_applies)
        self._layers: dict[ImageUUID, _Layer] = {}
        self._blobs: dict[Digest, _Download] = {}
        # Datasets that a running pull counts on.  Looking and destroying exclude each other, or a pull
        # could see a dataset that is gone a moment later.
        self._in_use: Counter[ImageUUID] = Counter()
        self._gate = asyncio.Lock()

    async def pull(
        self, reference: Reference, source: ImageSource, *, platform: Platform | None
    ) -> AsyncGenerator[PullEvent, None]:
        """Resolve, then give the events of the pull as they come.

        Errors of resolving are raised here, all later ones by the iterator.  Closing the iterator ends
        this client's interest.
        """
        reference = reference.with_default_tag()
        return self._pull(reference, source, await source.resolve(reference, platform))

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

    async def load(self, archive: Archive) -> AsyncGenerator[LoadEvent, None]:
        """Every image of an archive, in its order; errors are raised by the iterator."""
        return self._load(archive)

    async def add(
        self,
        remote: RemoteImage,
        source: ImageSource | LocalBlobs,
        references: Sequence[Reference],
    ) -> Image:
        """One image with these tags; the layers that are not there are read from `source`."""
        async with self._interest(remote, source, references) as (kept, events):
            async for _ in events:
                pass
            return await self._record(kept, references)

    async def collect(self) -> None:
        """Destroy the datasets that no image and no running pull needs, and old leftovers of downloads.

        What a zone still stands on stays until the next time.
        """
        await self._destroy_unneeded(await self._store.list())
        kept = {partial_path(self._downloads, digest) for digest in self._blobs}
        await asyncio.to_thread(_remove_stale, self._downloads, kept, time.time())

    async def _pull(
        self, reference: Reference | None, source: ImageSource | None, remote: RemoteImage
    ) -> AsyncGenerator[PullEvent, None]:
        by_digest = reference is not None and reference.digest is not None
        if reference is not None:
            # dockerd names a digest with the whole reference, a tag alone.
            label = reference.full if by_digest else reference.tag or ""
            yield PullEvent(f"Pulling from {reference.path}", id=label)
        before = self._holder(reference)
        tags = () if by_digest or reference is None else (reference,)
        async with self._interest(remote, source, tags) as (kept, events):
            async for event in events:
                yield event
            image = await self._record(kept, tags)
        if remote.digest is not None:
            yield PullEvent(f"Digest: {remote.digest}")
        # dockerd's words: what counts is whether the name means another image now.
        word = "Image is up to date" if before == image.id else "Downloaded newer image"
        yield PullEvent(f"Status: {word} for {reference or image.uuid}")

    async def _load(self, archive: Archive) -> AsyncGenerator[LoadEvent, None]:
        for remote in archive.images:
            references = archive.references(remote)
            yield LoadEvent(await self.add(remote, archive, references), references)

    @asynccontextmanager
    async def _interest(
        self,
        remote: RemoteImage,
        source: ImageSource | LocalBlobs | None,
        tags: Sequence[Reference],
    ) -> AsyncIterator[tuple[RemoteImage, AsyncIterator[PullEvent]]]:
        """Have every dataset of an image by the end of the events; the block records the image.

        If it does not, what nobody else needs is gone afterwards.  Gives the image with the layers that
        it has here: one that is known, perhaps compressed in another way, keeps its own.
        """
        known = await self._known(remote)
        if known is not None:
            remote = replace(remote, manifest=replace(remote.manifest, layers=known.layers))
        uuids = remote.uuids
        self._in_use.update(uuids)
        watch = _Watch()
        wanted: list[_Layer] = []
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
            if not is_recorded:
                await self._settle_in_group(uuids, ending)

    async def _record(self, remote: RemoteImage, references: Sequence[Reference]) -> Image:
        """Put an image into the catalog; its datasets are there."""
        size = 0
        for uuid in remote.uuids:
            size += await self._store.used_bytes(uuid)
        return await asyncio.to_thread(
            self._catalog.put, remote, references=references, size=size, now_ns=time.time_ns()
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
        source: ImageSource | LocalBlobs | None,
        tags: Sequence[Reference],
        present: frozenset[ImageUUID],
        watch: _Watch,
    ) -> list[_Layer]:
        """Take part in the making of every layer that is not there, or begin it."""
        wanted: list[_Layer] = []
        started: list[_Layer] = []
        layers = remote.manifest.layers
        uuids = remote.uuids
        previous: ImageUUID | None = None
        for number, (uuid, descriptor) in enumerate(zip(uuids, layers, strict=True)):
            origin, previous = previous, uuid
            if uuid in present:
                watch.put(PullEvent("Already exists", id=_short(descriptor.digest)))
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
                layer = _Layer(uuid, origin, below, info, server=remote.server, after=layer)
                if isinstance(source, LocalBlobs):
                    layer.path = source.blob_path(descriptor)
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
        self, remote: RemoteImage, source: ImageSource, descriptor: Descriptor, layer: _Layer
    ) -> _Download:
        blob = self._blobs.get(descriptor.digest)
        if blob is None or blob.is_over:
            blob = _Download(remote, source, descriptor, after=blob)
            self._blobs[descriptor.digest] = blob
        blob.users.add(layer)
        return blob

    # --- the work

    async def _run_layer(self, layer: _Layer) -> None:
        """Make one dataset; how it ended goes to those who wait for it, never to the group."""
        is_applied = False
        try:
            if layer.after is not None:
                await _ended(layer.after.task)
            is_there = await self._store.exists(layer.uuid)
            if not is_there and layer.path is not None:
                await self._make(layer, layer.path)
            elif not is_there and layer.blob is None:
                await self._import(layer)
            elif not is_there and layer.blob is not None:
                path = await self._downloaded(layer, layer.blob)
                is_applied = True
                await self._make(layer, path)
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

    async def _import(self, layer: _Layer) -> None:
        """The platform's tool does it all; of what it says on the way, clients are told the step."""

        def told(line: str) -> None:
            if line.startswith("Downloaded image"):
                layer.publish("Download complete")
                layer.publish("Extracting")

        if self._platform is None:
            raise NotSupported(f"image {layer.uuid} is a dataset of SmartOS: this host has none")
        if self._download_slots.locked():
            layer.publish("Waiting")
        async with self._download_slots:
            layer.publish("Downloading")
            await self._platform.import_image(layer.uuid, source=layer.server, progress=told)

    async def _make(self, layer: _Layer, path: Path) -> None:
        """Apply in any order where the store can, commit in the chain's: no dataset before its origin."""
        below = layer.below
        if below is not None and not self._store.layers_are_independent:
            await asyncio.shield(below.done)
        extending = self._store.extend(layer.uuid, origin=layer.origin, layer=layer.info)
        async with extending as tree:
            async with self._apply_slots:
                layer.publish("Extracting", 0)
                tar = BlobTar(path, layer.info.diff_id, _in_loop(layer, "Extracting"))
                try:
                    await tree.apply(tar)
                finally:
                    tar.close()
            if below is not None:
                await asyncio.shield(below.done)

    async def _downloaded(self, layer: _Layer, blob: _Download) -> Path:
        """The blob's file; the first layer that wants it starts the transfer."""
        if blob.task is None:
            blob.task = self._group.create_task(self._run_download(blob))
        await asyncio.shield(blob.done)
        return partial_path(self._downloads, blob.descriptor.digest)

    async def _run_download(self, blob: _Download) -> None:
        try:
            if blob.after is not None:
                await _ended(blob.after.task)
            if self._download_slots.locked():
                blob.publish("Waiting")
            async with self._download_slots:
                await fetch(
                    blob.source,
                    blob.image,
                    blob.descriptor,
                    self._downloads,
                    progress=lambda size: blob.publish("Downloading", size),
                    attempts=self._attempts,
                )
            blob.publish("Verifying Checksum")
            blob.publish("Download complete")
            blob.done.set_result(None)
        except asyncio.CancelledError:
            blob.done.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed on
            blob.done.set_exception(error)

    async def _release(self, layer: _Layer, blob: _Download, *, keep: bool) -> None:
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

    def _forget(self, blob: _Download) -> None:
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
            await _ended(task)
        await self._destroy_unneeded(uuids)

    async def _destroy_unneeded(self, uuids: Iterable[ImageUUID]) -> None:
        left = set(uuids)
        async with self._gate:
            # A dataset goes after those on top of it, so there may be as many rounds as layers.
            while gone := [uuid for uuid in left if await self._destroy(uuid)]:
                left.difference_update(gone)

    async def _destroy(self, uuid: ImageUUID) -> bool:
        if self._in_use[uuid] > 0 or self._catalog.dataset_users(uuid):
            return False
        try:
            await self._store.destroy(uuid)
        except (Conflict, NotFound):
            return False
        return True


class _Watch:
    """What one client has not seen yet.  Progress that it was too slow for is left out."""

    def __init__(self) -> None:
        self._pending: list[PullEvent] = []
        self._last: dict[str, int] = {}
        self._news = asyncio.Event()

    def put(self, event: PullEvent) -> None:
        """An event for the client; takes the place of an unseen one of the same layer and status."""
        at = self._last.get(event.id)
        if at is not None and self._pending[at].status == event.status:
            self._pending[at] = event
        else:
            self._last[event.id] = len(self._pending)
            self._pending.append(event)
        self._news.set()

    def wake(self) -> None:
        """Some layer has ended."""
        self._news.set()

    async def events(self, layers: Sequence[_Layer]) -> AsyncIterator[PullEvent]:
        """Events until all layers are done; raises what the first one failed of."""
        while True:
            pending, self._pending = self._pending, []
            self._last.clear()
            for event in pending:
                yield event
            ended = [layer.done for layer in layers if layer.done.done()]
            for done in ended:
                # A layer that waited for a failed one was given the same error.
                if done.cancelled():
                    raise Unavailable("the pull was cancelled: the daemon is shutting down")
                done.result()
            if len(ended) == len(layers) and not self._pending:
                return
            await self._news.wait()
            self._news.clear()


class _Layer:
    """A dataset that is being made, and who wants to know."""

    def __init__(
        self,
        uuid: ImageUUID,
        origin: ImageUUID | None,
        below: _Layer | None,
        info: LayerInfo,
        *,
        server: str = "",
        after: _Layer | None,
    ) -> None:
        self.uuid = uuid
        self.origin = origin
        self.below = below
        """The making of the origin, if it is not there yet."""
        self.info = info
        self.after = after
        """An earlier try that is being cancelled: it must be gone first."""
        self.blob: _Download | None = None
        self.path: Path | None = None
        """A file that is there already.  Neither: the platform imports the dataset from `server`."""
        self.server = server
        self.task: asyncio.Task[None] | None = None
        self.is_ending = False
        self.done: asyncio.Future[None] = _future()
        self._watches: set[_Watch] = set()
        self._last = PullEvent("Pulling fs layer", id=_short(info.digest))
        self._published_s = 0.0

    def join(self, watch: _Watch) -> None:
        """Somebody wants this layer; he is told how far it is."""
        self._watches.add(watch)
        watch.put(PullEvent("Pulling fs layer", id=_short(self.info.digest)))
        watch.put(self._last)
        self.done.add_done_callback(lambda _: watch.wake())

    def leave(self, watch: _Watch) -> asyncio.Task[None] | None:
        """Somebody wants it no more.  The last one cancels it; the task that is ending then."""
        self._watches.discard(watch)
        if self._watches or self.done.done() or self.task is None:
            return None
        self.is_ending = True
        self.task.cancel()
        return self.task

    def publish(self, status: str, current: int | None = None) -> None:
        """Tell everybody; progress not more often than ten times a second."""
        total = self.info.size if current is not None else None
        now_s = time.monotonic()
        is_soon = now_s - self._published_s < _PROGRESS_INTERVAL_S
        if status == self._last.status and current != total and is_soon:
            return
        self._published_s = now_s
        self._last = PullEvent(status, _short(self.info.digest), current, total)
        for watch in self._watches:
            watch.put(self._last)


class _Download:
    """A blob that is being fetched, for one layer or several."""

    def __init__(
        self,
        image: RemoteImage,
        source: ImageSource,
        descriptor: Descriptor,
        *,
        after: _Download | None,
    ) -> None:
        self.image = image
        self.source = source
        self.descriptor = descriptor
        self.after = after
        self.users: set[_Layer] = set()
        self.task: asyncio.Task[None] | None = None
        self.is_ending = False
        self.is_used_up = False
        """Some layer was made of it, or found it to be wrong: it is not worth keeping."""
        self.done: asyncio.Future[None] = _future()

    @property
    def is_over(self) -> bool:
        """Given up, or failed: who comes now needs another try."""
        if self.is_ending or self.done.cancelled():
            return True
        return self.done.done() and self.done.exception() is not None

    def publish(self, status: str, current: int | None = None) -> None:
        """Tell every layer that waits for it."""
        for layer in self.users:
            layer.publish(status, current)


def _future() -> asyncio.Future[None]:
    """One whose exception nobody has to ask for."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


async def _ended(task: asyncio.Task[None] | None) -> None:
    """Wait for a task, however it ends."""
    if task is not None and not task.done():
        await asyncio.wait([task])


def _in_loop(layer: _Layer, status: str) -> Callable[[int], None]:
    """Progress from a thread, thinned out before it costs the loop anything."""
    loop = asyncio.get_running_loop()
    last_s = 0.0

    def progress(size: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= _PROGRESS_INTERVAL_S or size == layer.info.size:
            last_s = now_s
            loop.call_soon_threadsafe(layer.publish, status, size)

    return progress


def _repository(remote: RemoteImage, tags: Sequence[Reference]) -> str:
    reference = remote.reference or next(iter(tags), None)
    return "" if reference is None else reference.familiar_name


def _short(digest: Digest) -> str:
    return digest.removeprefix("sha256:")[:12]


def _remove_stale(downloads: Path, kept: set[Path], now_s: float) -> None:
    """Files that nobody came back for."""
    for path in downloads.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if path not in kept and now_s - path.stat().st_mtime > _STALE_PARTIAL_S:
                path.unlink()
