"""Compressed streams as layers and archives come in, told by their first bytes; and gzip as layers are kept.

    1f 8b gzip    28 b5 2f fd zstd (after frames to be skipped)    fd 37 zXZ xz    BZh bzip2    else none

Media types are not to be relied on.  Members that follow each other are read as one; zeros between and
after them are padding.  What is damaged is DataLoss, with the kind before it.
"""

from __future__ import annotations

import bz2
import errno
import hashlib
import importlib
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from dockerapi.errors import DataLoss, NotSupported

_INPUT_BLOCK = 1 << 18
# Memory that a zstd frame may ask for; zstd itself refuses more unless told otherwise.
_ZSTD_WINDOW = 1 << 27
_GZIP_LEVEL = 1

HEAD_BYTES = 262
"""What `compression` must see of a stream."""


class ByteSource(Protocol):
    """A file, or a part of one."""

    def read(self, size: int, /) -> bytes: ...


class FilePart:
    """Some bytes of a file, as a file of their own; it owns `descriptor`.  Blocking.

    `archive`: the name of the file, where it is a file that was sent for its parts' sake.
    """

    def __init__(
        self, descriptor: int, offset: int, size: int, *, archive: Path | None = None
    ) -> None:
        self._descriptor = descriptor
        self.offset = self._offset = offset
        self.archive = archive
        self._size = size
        self._at = 0

    @classmethod
    def whole(cls, path: Path) -> FilePart:
        """All of a file.  OSError."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return cls(descriptor, 0, os.fstat(descriptor).st_size)

    def head(self, size: int) -> bytes:
        """Its first bytes, whatever was read before."""
        return os.pread(self._descriptor, min(size, self._size), self._offset)

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        wanted = min(size, self._size - self._at)
        block = os.pread(self._descriptor, wanted, self._offset + self._at)
        self._at += len(block)
        return block

    def tell(self) -> int:
        """Bytes read so far."""
        return self._at

    def copy_to(self, path: Path) -> None:
        """All of it as a file; the kernel copies where it can.  OSError."""
        with path.open("wb", buffering=0) as out:
            at = 0
            while at < self._size:
                start = self._offset + at
                try:
                    done = os.copy_file_range(
                        self._descriptor, out.fileno(), self._size - at, start
                    )
                except (OSError, AttributeError):
                    done = out.write(
                        os.pread(self._descriptor, _INPUT_BLOCK, start)[: self._size - at]
                    )
                if not done:
                    raise OSError(errno.EIO, "the file has become shorter")
                at += done

    def rewind(self) -> None:
        """Read from the beginning again."""
        self._at = 0

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


def compression(head: bytes) -> str:
    """gzip, zstd, xz, bzip2; "" for a tar as it is, even if its first name begins with BZh."""
    if head[:HEAD_BYTES].endswith(b"ustar"):
        return ""
    magic = head[:6]
    if magic.startswith(b"\x1f\x8b"):
        return "gzip"
    if magic.startswith(b"BZh"):
        return "bzip2"
    if magic == b"\xfd7zXZ\x00":
        return "xz"
    # A zstd stream may begin with a frame to be skipped (zstd:chunked, seekable formats).
    is_skippable = magic[1:4] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5
    return "zstd" if magic.startswith(b"\x28\xb5\x2f\xfd") or is_skippable else ""


def inflating(file: ByteSource, kind: str) -> Callable[[int], bytes]:
    """How to read what is in a stream of this kind: up to so many bytes, b"" at the end."""
    match kind:
        case "gzip":
            return _Members(file, _gzip_decompressor(), kind, (zlib.error, *_isal_errors())).read
        case "bzip2":
            return _Members(file, bz2.BZ2Decompressor, kind, (OSError, ValueError)).read
        case "xz":
            return _Members(file, lzma.LZMADecompressor, kind, (lzma.LZMAError,)).read
        case "zstd":
            return _zstd(file)
    return file.read


class GzipFile:
    """A file that what is written becomes gzip in: the same bytes for the same input, whenever it is made."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._deflate = _gzip_compressor()
        self._hash = hashlib.sha256()

    def write(self, block: bytes) -> None:
        """Some more of what is to be kept.  OSError."""
        self._put(self._deflate.compress(block))

    def finish(self) -> str:
        """All was written; `sha256:..` of the file."""
        self._put(self._deflate.flush())
        self._file.close()
        return f"sha256:{self._hash.hexdigest()}"

    def close(self) -> None:
        """Let go of the file, as far as it is."""
        self._file.close()

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]


def _gzip_compressor() -> Any:
    """isal at 470 MB/s of a core, zlib at 80."""
    try:
        isal: Any = importlib.import_module("isal.isal_zlib")
    except ImportError:
        return zlib.compressobj(_GZIP_LEVEL, wbits=31)
    return isal.compressobj(level=_GZIP_LEVEL, wbits=31)


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
        file: ByteSource,
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


def _zstd(file: ByteSource) -> Callable[[int], bytes]:
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
