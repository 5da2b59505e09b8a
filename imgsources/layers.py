"""One layer: fetched, verified, decompressed, verified again.

    source --open_blob--> DOWNLOADS/sha256-<hex>.partial --BlobTar--> LayerTree.apply
              size, digest                                  diff_id at the end

A transfer that breaks off goes on where it stopped, also after the process was killed: what is in the
file is hashed again first.  Which layers, in what order and for whom is `imgsources.puller`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from dockerapi.errors import APIError, DataLoss, DigestMismatch
from imgsources.compression import HEAD_BYTES, FilePart, GzipFile, compression, inflating
from imgsources.oci import Descriptor, Digest
from imgsources.retries import Retries
from imgsources.sources import ImageSource, RemoteImage, TransferBroken

log = logging.getLogger(__name__)

_RETRIES = Retries()
_BLOCK = 1 << 20
_PROGRESS_COUNTS = 1 << 18
"""Bytes that a try must bring to count as no failure."""

Progress = Callable[[int], None]


def partial_path(downloads: Path, digest: Digest) -> Path:
    """Where a blob is kept until it has been applied."""
    return downloads / f"{digest.replace(':', '-')}.partial"


async def fetch(
    source: ImageSource,
    image: RemoteImage,
    descriptor: Descriptor,
    downloads: Path,
    *,
    progress: Progress,
    tell: Callable[[str], None] = lambda _: None,
    retries: Retries = _RETRIES,
    stall_s: float = 60.0,
) -> Path:
    """A blob as a verified file in `downloads`; the caller removes it.

    Gone on with from where it stopped: at once if there was progress, else as `retries` says, and `tell` is
    told of it; `stall_s` without a byte is a broken connection.  `progress` gets the bytes there are.
    DigestMismatch, DataLoss, TransferBroken, and whatever the source says.  Cancelled or broken off,
    the file stays for the next time.
    """
    path = partial_path(downloads, descriptor.digest)
    blob = await _open_blob(path, descriptor)
    try:
        resumed = blob.size > 0
        transfer = partial(_transfer, blob, source, image, progress, stall_s)
        await _fill(blob, transfer, tell, retries)
        if not blob.is_right() and resumed:
            # What an earlier process left was no good: once more, from nothing.
            blob.restart()
            transfer = partial(_transfer, blob, source, image, progress, stall_s)
        await _fill(blob, transfer, tell, retries)
        if not blob.is_right():
            actual = blob.digest()
            blob.discard()
            raise DigestMismatch(descriptor.digest, actual)
    finally:
        blob.close()
    return path


async def _open_blob(path: Path, descriptor: Descriptor) -> _Blob:
    """Also closed if nobody waits for it any more, before the caller looks what is left."""
    opening = asyncio.get_running_loop().run_in_executor(None, _Blob, path, descriptor)
    try:
        return await asyncio.shield(opening)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise APIError(f"open {path}: {words}") from error
    except asyncio.CancelledError:
        (await opening).close()
        raise


async def _fill(
    blob: _Blob,
    transfer: Callable[[], Awaitable[None]],
    tell: Callable[[str], None],
    retries: Retries,
) -> None:
    failures = 0
    while blob.missing:
        before = blob.size
        try:
            await _attempt(blob, transfer)
        except (TransferBroken, TimeoutError, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
                # The disk is full, or read-only: what is there of the blob would only keep it so.
                blob.discard()
                words = (error.strerror or str(error)).lower()
                raise APIError(f"write {blob.path}: {words}") from error
            if blob.size - before >= _PROGRESS_COUNTS:
                failures = 0
                continue
            failures += 1
            log.info("blob %s: try %d: %s", blob.descriptor.digest, failures, error)
            if not await retries.pause(failures, tell):
                if isinstance(error, TransferBroken):
                    raise
                raise TransferBroken(f"download of {blob.descriptor.digest} stalled") from error


async def _attempt(blob: _Blob, transfer: Callable[[], Awaitable[None]]) -> None:
    """A transfer; where not a byte came of it, a second one at once, as dockerd does."""
    before = blob.size
    try:
        await transfer()
    except TransferBroken:
        if blob.size > before:
            raise
        await transfer()


async def _transfer(
    blob: _Blob, source: ImageSource, image: RemoteImage, progress: Progress, stall_s: float
) -> None:
    """One connection's worth of bytes.  Too few of them are TransferBroken."""
    pending: list[bytes] = []
    gathered = 0
    progress(blob.size)
    try:
        async with asyncio.timeout(stall_s) as stall:
            blocks = source.open_blob(image, blob.descriptor, offset=blob.size)
            async with blocks as stream:
                async for block in stream:
                    stall.reschedule(asyncio.get_running_loop().time() + stall_s)
                    pending.append(block)
                    gathered += len(block)
                    if gathered >= _BLOCK:
                        await _append(blob, pending)
                        pending, gathered = [], 0
                        progress(blob.size)
    finally:
        # Also what came before it broke off.
        await _append(blob, pending)
        progress(blob.size)
    if blob.missing:
        raise TransferBroken("unexpected EOF")


async def _append(blob: _Blob, blocks: list[bytes]) -> None:
    """Hash and write in a thread; a cancelled caller waits, for the file must not be closed under it."""
    if not blocks:
        return
    work = asyncio.get_running_loop().run_in_executor(None, blob.append, blocks)
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


class _Blob:
    """A file that is being filled, and the hash of what is in it.  Blocking."""

    def __init__(self, path: Path, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        self._hash = hashlib.sha256()
        self.size = 0
        self._load()

    @property
    def missing(self) -> int:
        """Bytes still to come."""
        return self.descriptor.size - self.size

    def append(self, blocks: list[bytes]) -> None:
        """DataLoss if there are more bytes than the descriptor says."""
        for block in blocks:
            if len(block) > self.missing:
                self.discard()
                raise DataLoss(
                    f"blob {self.descriptor.digest} is larger than the {self.descriptor.size} bytes "
                    "that its descriptor says"
                )
            view = memoryview(block)
            while view:
                view = view[self._file.write(view) :]
            self._hash.update(block)
            self.size += len(block)

    def digest(self) -> Digest:
        """Of what is there."""
        return Digest(f"sha256:{self._hash.hexdigest()}")

    def is_right(self) -> bool:
        """Whether all of it is there and is what it should be."""
        return not self.missing and self.digest() == self.descriptor.digest

    def restart(self) -> None:
        """Begin from nothing."""
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0

    def discard(self) -> None:
        """Of no use to anybody."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """The file stays."""
        self._file.close()

    def _load(self) -> None:
        self._file.seek(0)
        while self.missing >= 0 and (block := self._file.read(_BLOCK)):
            self._hash.update(block)
            self.size += len(block)
        if self.size > self.descriptor.size:
            self.restart()


class BlobTar:
    """A blob as the tar inside of it: a `Readable` for LayerTree.apply.

    At the end of the stream the tar must hash to `diff_id`, else DigestMismatch.  `progress` gets the
    compressed bytes read so far, in the reading thread.  What is read is also written to `copy`.
    More than `limit` bytes of tar are refused: a few megabytes can inflate to what fills every disk.
    """

    def __init__(
        self,
        blob: Path | FilePart,
        diff_id: Digest,
        progress: Progress,
        *,
        copy: GzipFile | None = None,
        limit: int | None = None,
    ) -> None:
        self._file = FilePart.whole(blob) if isinstance(blob, Path) else blob
        self._diff_id = diff_id
        self._progress = progress
        self._copy = copy
        self._limit = limit
        self._hash = hashlib.sha256()
        self._inflate: Callable[[int], bytes] | None = None
        self.compression = compression(self._file.head(HEAD_BYTES))
        self.size = 0
        """Bytes of the tar read so far."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes of the tar.  DataLoss, DigestMismatch, NotSupported, APIError."""
        if self._inflate is None:
            self._inflate = inflating(self._file, self.compression)
        block = self._inflate(size)
        if block:
            self.size += len(block)
            if self._limit is not None and self.size > self._limit:
                raise APIError(
                    f"the layer inflates to more than the {self._limit} bytes that are free: "
                    "no space left on device"
                )
            self._hash.update(block)
            if self._copy is not None:
                self._copy.write(block)
            self._progress(self._file.tell())
            return block
        actual = Digest(f"sha256:{self._hash.hexdigest()}")
        if actual != self._diff_id:
            raise DigestMismatch(self._diff_id, actual)
        return b""

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
