"""One layer: fetched, verified, decompressed, verified again.

    source --open_blob--> DOWNLOADS/sha256-<hex>.partial --BlobTar--> LayerTree.apply
              size, digest                     magic: gzip zstd bzip2 xz none; diff_id at the end

A transfer that breaks off goes on where it stopped, also after the process was killed: what is in the
file is hashed again first.  Which layers, in what order and for whom is `imgsources.puller`'s.
"""

from __future__ import annotations

import asyncio
import bz2
import hashlib
import importlib
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from dockerapi.errors import APIError, DataLoss, DigestMismatch, NotSupported
from imgsources.oci import Descriptor, Digest
from imgsources.sources import ImageSource, RemoteImage, TransferBroken

_BLOCK = 1 << 20
_INPUT_BLOCK = 1 << 18
_PROGRESS_COUNTS = 1 << 20
"""Bytes that a try must bring to count as no failure."""
# Memory that a zstd frame may ask for; zstd itself refuses more unless told otherwise.
_ZSTD_WINDOW = 1 << 27

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
    attempts: int = 5,
    stall_s: float = 60.0,
    pause_s: float = 0.2,
) -> Path:
    """A blob as a verified file in `downloads`; the caller removes it.

    Tried again from where it stopped, at most `attempts` times in a row without 1 MiB of new bytes;
    `stall_s` without a byte is a broken connection.  `progress` gets the bytes there are.
    DigestMismatch, DataLoss, TransferBroken, and whatever the source says.  Cancelled or broken off,
    the file stays for the next time.
    """
    path = partial_path(downloads, descriptor.digest)
    blob = await _open_blob(path, descriptor)
    try:
        resumed = blob.size > 0
        await _fill(blob, source, image, progress, attempts, stall_s, pause_s)
        if not blob.is_right() and resumed:
            # What an earlier process left was no good: once more, from nothing.
            blob.restart()
            await _fill(blob, source, image, progress, attempts, stall_s, pause_s)
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
    except asyncio.CancelledError:
        (await opening).close()
        raise


async def _fill(
    blob: _Blob,
    source: ImageSource,
    image: RemoteImage,
    progress: Progress,
    attempts: int,
    stall_s: float,
    pause_s: float,
) -> None:
    failures = 0
    while blob.missing:
        before = blob.size
        progress(blob.size)
        try:
            await _transfer(blob, source, image, progress, stall_s)
        except (TransferBroken, TimeoutError, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
                raise APIError(
                    f"write {blob.path}: {error.strerror}"
                ) from error  # the disk is full
            if blob.size - before >= _PROGRESS_COUNTS:
                failures = 0
            failures += 1
            if failures >= attempts:
                if isinstance(error, TransferBroken):
                    raise
                raise TransferBroken(f"download of {blob.descriptor.digest} stalled") from error
            await asyncio.sleep(min(pause_s * 2 ** (failures - 1), 5.0))


async def _transfer(
    blob: _Blob, source: ImageSource, image: RemoteImage, progress: Progress, stall_s: float
) -> None:
    """One connection's worth of bytes.  Too few of them are TransferBroken."""
    pending: list[bytes] = []
    gathered = 0
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
    """A fetched blob as the tar inside of it: a `Readable` for LayerTree.apply.

    At the end of the stream the tar must hash to `diff_id`, else DigestMismatch.  `progress` gets the
    compressed bytes read so far, in the reading thread.
    """

    def __init__(self, path: Path, diff_id: Digest, progress: Progress) -> None:
        self._file = path.open("rb", buffering=0)
        self._diff_id = diff_id
        self._progress = progress
        self._hash = hashlib.sha256()
        self._inflate: Callable[[int], bytes] | None = None

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes of the tar.  DataLoss, DigestMismatch, NotSupported."""
        if self._inflate is None:
            self._inflate = _opened(self._file)
        block = self._inflate(size)
        if block:
            self._hash.update(block)
            self._progress(self._file.tell())
            return block
        actual = Digest(f"sha256:{self._hash.hexdigest()}")
        if actual != self._diff_id:
            raise DigestMismatch(self._diff_id, actual)
        return b""

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class _Decompressor(Protocol):
    """What bz2 and lzma have, and isal for gzip."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """zlib in the shape of the others, where isal is not installed."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


def _opened(file: IO[bytes]) -> Callable[[int], bytes]:
    """How to read the tar in this file, told by its first bytes: media types are not to be relied on."""
    head = os.pread(file.fileno(), 262, 0)
    if head.endswith(b"ustar"):
        return file.read  # even if its first name begins with BZh
    magic = head[:6]
    if magic.startswith(b"\x1f\x8b"):
        return _Members(file, _gzip_decompressor(), "gzip", (zlib.error, *_isal_errors())).read
    if magic.startswith(b"BZh"):
        return _Members(file, bz2.BZ2Decompressor, "bzip2", (OSError, ValueError)).read
    if magic == b"\xfd7zXZ\x00":
        return _Members(file, lzma.LZMADecompressor, "xz", (lzma.LZMAError,)).read
    # A zstd stream may begin with a frame to be skipped (zstd:chunked, seekable formats).
    if magic.startswith(b"\x28\xb5\x2f\xfd") or (
        magic[1:4] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5
    ):
        return _zstd(file)
    return file.read


def _gzip_decompressor() -> Callable[[], _Decompressor]:
    """isal inflates three times as fast as zlib."""
    try:
        isal: Any = importlib.import_module("isal.igzip_lib")
    except ImportError:
        return _Gzip
    return lambda: isal.IgzipDecompressor(flag=isal.DECOMP_GZIP)


def _isal_errors() -> tuple[type[Exception], ...]:
    try:
        isal: Any = importlib.import_module("isal.isal_zlib")
    except ImportError:
        return ()
    return (isal.error,)


class _Members:
    """A file of one or more compressed members, one after the other, with padding of zeros at the end."""

    def __init__(
        self,
        file: IO[bytes],
        make: Callable[[], _Decompressor],
        kind: str,
        errors: tuple[type[Exception], ...],
    ) -> None:
        self._file = file
        self._make = make
        self._kind = kind
        self._errors = errors
        self._member = make()
        self._ahead = b""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end.  DataLoss if it is damaged or cut short."""
        while True:
            if self._member.eof and not self._next_member():
                return b""
            data = self._ahead
            self._ahead = b""
            if not data and self._member.needs_input:
                data = self._file.read(_INPUT_BLOCK)
                if not data:
                    raise DataLoss(f"{self._kind}: unexpected EOF")
            try:
                block = self._member.decompress(data, size)
            except self._errors as error:
                raise DataLoss(f"{self._kind}: {error}") from error
            if block:
                return block

    def _next_member(self) -> bool:
        rest = self._member.unused_data.lstrip(b"\0")
        while not rest:
            block = self._file.read(_INPUT_BLOCK)
            if not block:
                return False
            rest = block.lstrip(b"\0")
        self._member = self._make()
        self._ahead = rest
        return True


def _zstd(file: IO[bytes]) -> Callable[[int], bytes]:
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ImportError as error:
        raise NotSupported(
            "the layer is compressed with zstd, which needs the package zstandard"
        ) from error
    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(
        file, read_size=_INPUT_BLOCK, read_across_frames=True
    )

    def read(size: int) -> bytes:
        try:
            return bytes(reader.read(size))
        except zstandard.ZstdError as error:
            raise DataLoss(f"zstd: {error}") from error

    return read
