"""What a pull is made of: layers and downloads that several clients may share, and what each has not seen yet.

Who begins and ends them is `imgsources.puller`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dockerapi.errors import Unavailable
from imgsources.compression import FilePart
from imgsources.datasets import LayerInfo
from imgsources.oci import Descriptor, Digest, ImageUUID
from imgsources.sources import ImageSource, RemoteImage

_PROGRESS_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class PullEvent:
    """One line of a pull, in dockerd's words; `id` is a layer's short digest, `current` and `total` bytes."""

    status: str
    id: str = ""
    current: int | None = None
    total: int | None = None


class Watch:
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

    async def events(self, layers: Sequence[Layer]) -> AsyncIterator[PullEvent]:
        """Events until all layers are done; raises what the first one failed of."""
        while True:
            pending, self._pending = self._pending, []
            self._last.clear()
            for event in pending:
                yield event
            over = [layer.done for layer in layers if layer.done.done()]
            for done in over:
                # A layer that waited for a failed one was given the same error.
                if done.cancelled():
                    raise Unavailable("the pull was cancelled: the daemon is shutting down")
                done.result()
            if len(over) == len(layers) and not self._pending:
                return
            await self._news.wait()
            self._news.clear()


class Layer:
    """A dataset that is being made, and who wants to know."""

    def __init__(
        self,
        uuid: ImageUUID,
        origin: ImageUUID | None,
        below: Layer | None,
        info: LayerInfo,
        *,
        server: str = "",
        after: Layer | None,
    ) -> None:
        self.uuid = uuid
        self.origin = origin
        self.below = below
        """The making of the origin, if it is not there yet."""
        self.info = info
        self.after = after
        """An earlier try that is being cancelled: it must be gone first."""
        self.blob: Download | None = None
        self.part: Callable[[], FilePart] | None = None
        self.path: Path | None = None
        """Opens what is in a file already; `path` if it is all of that file.  Neither blob nor part: the platform imports the dataset from `server`."""
        self.server = server
        self.task: asyncio.Task[None] | None = None
        self.is_ending = False
        self.done: asyncio.Future[None] = _future()
        self._watches: set[Watch] = set()
        self._last = PullEvent("Pulling fs layer", id=short(info.digest))
        self._published_s = 0.0

    def join(self, watch: Watch) -> None:
        """Somebody wants this layer; he is told how far it is."""
        self._watches.add(watch)
        watch.put(PullEvent("Pulling fs layer", id=short(self.info.digest)))
        watch.put(self._last)
        self.done.add_done_callback(lambda _: watch.wake())

    def leave(self, watch: Watch) -> asyncio.Task[None] | None:
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
        self._last = PullEvent(status, short(self.info.digest), current, total)
        for watch in self._watches:
            watch.put(self._last)


class Download:
    """A blob that is being fetched, for one layer or several."""

    def __init__(
        self,
        image: RemoteImage,
        source: ImageSource,
        descriptor: Descriptor,
        *,
        after: Download | None,
    ) -> None:
        self.image = image
        self.source = source
        self.descriptor = descriptor
        self.after = after
        self.users: set[Layer] = set()
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


async def ended(task: asyncio.Task[None] | None) -> None:
    """Wait for a task, however it ends."""
    if task is not None and not task.done():
        await asyncio.wait([task])


def in_loop(layer: Layer, status: str) -> Callable[[int], None]:
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


def short(digest: Digest) -> str:
    """As clients see it: twelve digits."""
    return digest.removeprefix("sha256:")[:12]
