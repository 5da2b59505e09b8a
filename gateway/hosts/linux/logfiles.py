"""The files of one log of conmon's as one row of whole lines, forward and backward.

    ctr.log.2.gz  ctr.log.1  ctr.log      older -> newer; rotation renames, conmon opens a new ctr.log

Compressed ones (rotation.py) are unpacked when they are come to.  A follower keeps files open, so that nothing is lost
to it by a rotation or a removal.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.hosts.linux.k8sfile import completed, offset_of_last, unfinished
from gateway.hosts.linux.rotation import PACKED

AT_ONCE = 32 << 10
"""Bytes that are read and shown without a thread."""
_FORWARD = 128 << 10  # more leaves the processor's cache, and is slower
_BACKWARD = 256 << 10
_LINE_SEARCH = 256 << 10
_LONGEST_LINE = 64 << 20
_HEAD = 64  # a time, and some text
_SECTOR = 4096
_GZIP = 16 + zlib.MAX_WBITS

Lines = tuple[bytearray, int]
"""Whole lines of a log: a buffer, and how much of it they are."""
NOTHING: Lines = (bytearray(), 0)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the log: which file (0 = the oldest that was open at first), which byte."""

    file: int
    offset: int


class LogFiles:
    """The files of one log as one row of whole lines.  Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.Lock()
        self._path = path
        self._files: list[_File] = []
        self._at = Position(0, 0)
        self._rest = b""
        # The same memory for every large read: getting it anew from the kernel costs more than the reading.
        self._buffer = bytearray()
        self._closed = False

    def close(self) -> None:
        """No file stays open.  Waits for a thread whose awaiting task was cancelled."""
        with self.lock:
            self._closed = True
            for file in self._files:
                file.close()
            self._files = []

    def begin(self, tail: int | None) -> bytes:
        """Open what there is, and go to where the last `tail` lines begin.

        Returns log lines that belong to them but lie before that place: pieces of a line of one stream
        that lines of the other came between.
        """
        if self._closed:
            return b""
        self._files = _open_all(self._path)
        if not self._files:
            return b""
        if tail is None:
            self._files[0].descriptor  # noqa: B018 - unpacked here and not in the loop
            return b""
        if tail <= 0:
            self._at = self.end()
            return b""
        wanted = tail - self._open_lines()
        self._at = self.end()
        for position, log in self._backward(self._at):
            if wanted <= 0:
                break
            count = completed(log)
            if count >= wanted:
                start = offset_of_last(log, wanted)
                self._at = Position(position.file, position.offset + start)
                wanted = 0
                break
            wanted -= count
        if wanted > 0:
            self._at = Position(0, 0)
            return b""
        pieces = self._unfinished(self._at)
        return b"".join(piece + b"\n" for piece in pieces)

    def _open_lines(self) -> int:
        """Lines that were begun and not ended at the end of the log: they count as lines."""
        pieces = self._unfinished(self.end())
        return len({piece[36:42] for piece in pieces})

    def end(self) -> Position:
        """After the last whole line of now."""
        if not self._files:
            return Position(0, 0)
        last = self._files[-1].descriptor
        size = os.fstat(last).st_size
        start = max(0, size - _BACKWARD)
        found = os.pread(last, size - start, start).rfind(b"\n")
        return Position(len(self._files) - 1, start + found + 1)

    def pending(self) -> int:
        """Bytes of the current file that were not read; many where the next is still to be unpacked."""
        if not self._files:
            return 0
        following = self._files[self._at.file + 1 : self._at.file + 2]
        if following and following[0].is_packed:
            return _FORWARD
        return os.fstat(self._files[self._at.file].descriptor).st_size - self._at.offset

    def is_at_hand(self) -> bool:
        """Whether what comes next is in memory, so that reading it does not wait for a disk."""
        if not self._files:
            return True
        if any(file.is_packed for file in self._files[self._at.file : self._at.file + 2]):
            return False
        descriptor, start = self._files[self._at.file].descriptor, self._at.offset
        probe = [bytearray(1)]
        try:
            for place in (start, start + _FORWARD - 1):
                os.preadv(descriptor, probe, place, os.RWF_NOWAIT)
        except OSError:  # it would wait; or this kind of file cannot tell
            return False
        return True

    def read(self, stop_at: Position | None) -> Lines:
        """The next whole lines, up to `stop_at`; none at the end of what there is.  Good until the next read."""
        if not self._files and not self._closed:
            self._files = _open_all(self._path)
        while self._files:
            limit = _FORWARD
            if stop_at is not None and self._at.file == stop_at.file:
                limit = min(limit, stop_at.offset - self._at.offset)
            lines = self._read_here(limit)
            if lines[1]:
                return lines
            if stop_at is not None and self._at.file >= stop_at.file:
                return NOTHING
            if not self._go_on():
                return NOTHING
        return NOTHING

    def _read_here(self, limit: int) -> Lines:
        descriptor = self._files[self._at.file].descriptor
        if os.fstat(descriptor).st_size < self._at.offset:
            self._at = Position(
                self._at.file, 0
            )  # it was emptied (docker's own `truncate -s 0` trick)
        wanted = min(max(limit, 0), os.fstat(descriptor).st_size - self._at.offset)
        if wanted > AT_ONCE and not self._buffer:
            self._buffer = bytearray(_FORWARD)
        data = self._buffer if wanted > AT_ONCE else bytearray(wanted)
        size = os.preadv(descriptor, [memoryview(data)[:wanted]], self._at.offset)
        end = data.rfind(b"\n", 0, size) + 1
        self._rest = bytes(data[end:size])
        self._at = Position(self._at.file, self._at.offset + end)
        return data, end

    def torn(self) -> bytes:
        """A last line that its writer did not finish, as a line."""
        return self._rest + b"\n" if self._rest else b""

    def _go_on(self) -> bool:
        """Turn to the next newer file if there is one."""
        if self._at.file + 1 < len(self._files):
            self._at = Position(self._at.file + 1, 0)
            return True
        newer = _newer(self._path, self._files[-1])
        if newer is None:
            return False
        # The rotated file may have got lines between our last read and its renaming: conmon writes to
        # it until it has made the new one.
        if self.pending() > len(self._rest):
            newer.close()
            return True
        self._files.append(newer)
        self._at = Position(len(self._files) - 1, 0)
        return True

    def _backward(self, end: Position) -> Iterator[tuple[Position, bytes]]:
        """Blocks of whole lines before `end`, the last first, each with where it begins."""
        for file in range(end.file, -1, -1):
            descriptor = self._files[file].descriptor
            place = end.offset if file == end.file else os.fstat(descriptor).st_size
            carried = b""
            while place > 0:
                start = max(0, place - _BACKWARD)
                data = os.pread(descriptor, place - start, start) + carried
                cut = data.find(b"\n") + 1 if start else 0
                carried, data, place = data[:cut], data[cut:], start
                if data:
                    yield Position(file, start + cut), data

    def _unfinished(self, end: Position) -> list[bytes]:
        blocks = (log for _, log in self._backward(end))
        return unfinished(blocks, search=_LINE_SEARCH, longest=_LONGEST_LINE)


def _open_all(path: Path) -> list[_File]:
    """The rotated files and the current one, oldest first."""
    while True:
        files = [file for name in _newest_first(path) if (file := _open(name))]
        # A rotation meanwhile would show one file twice, or leave one out.
        again = _open_plain(path)
        newest = files[0] if files and not files[0].is_rotated else None
        same = newest.is_same(again) if newest and again else newest is again
        if again is not None:
            again.close()
        if same:
            return files[::-1]
        for file in files:
            file.close()


def _newer(path: Path, ours: _File) -> _File | None:
    """The file that came after this one, opened; None if this is the newest."""
    following: _File | None = None
    for name in _newest_first(path):
        candidate = _open(name)
        if candidate is None:
            if name == path:
                return None  # between the renaming and conmon's new file
            break
        if candidate.is_same(ours):
            candidate.close()
            return following
        if following is not None:
            following.close()
        following = candidate
    # Ours was thrown away as too old: the oldest that is left comes next.
    return following


def _newest_first(path: Path) -> Iterator[Path]:
    """Names that files of one log have, without the ending of compressed ones; the last is not there any more.

    A follower nearly always needs the first only.
    """
    yield path
    for number in range(1, 1000):
        name = path.with_name(f"{path.name}.{number}")
        yield name
        if not name.exists() and not name.with_name(name.name + PACKED).exists():
            return


class _File:
    """One file of a log, open."""

    def __init__(self, path: Path, descriptor: int, *, is_packed: bool) -> None:
        self._folder = path.parent
        self._descriptor = descriptor
        self.is_rotated = path.suffix[1:].isdigit()
        self.is_packed = is_packed
        self._was_packed = is_packed

    def is_same(self, other: _File) -> bool:
        """Whether they are one file of the log, be one of them compressed.

        The inode of an open file is nobody else's; that of a compressed one may be another's by now, but no two
        files of a log begin at the same nanosecond.
        """
        if not (self._was_packed or other._was_packed):
            return self._inode == other._inode
        return self._head == other._head != b""

    @property
    def _inode(self) -> int:
        return os.fstat(self._descriptor).st_ino

    @property
    def _head(self) -> bytes:
        start = os.pread(self._descriptor, _SECTOR, 0)
        if self.is_packed:
            start = zlib.decompressobj(_GZIP).decompress(start, _HEAD)
        return start[:_HEAD]

    @property
    def descriptor(self) -> int:
        """Of the plain text; a compressed file is unpacked first, into one that has no name."""
        if self.is_packed:
            packed = self._descriptor
            self._descriptor = _unpacked(packed, self._folder)
            os.close(packed)
            self.is_packed = False
        return self._descriptor

    def close(self) -> None:
        """Not to be used any more."""
        os.close(self._descriptor)


def _open(path: Path) -> _File | None:
    """The file, or its compressed form."""
    if file := _open_plain(path):
        return file
    try:
        packed = os.open(path.with_name(path.name + PACKED), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return _open_plain(path)  # the one had not come when the other had gone
    return _File(path, packed, is_packed=True)


def _open_plain(path: Path) -> _File | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    return _File(path, descriptor, is_packed=False)


def _unpacked(packed: int, folder: Path) -> int:
    """Beside the log, where there is room for it; elsewhere if that is being removed."""
    with tempfile.TemporaryFile(dir=folder if folder.exists() else None) as plain:
        with os.fdopen(os.dup(packed), "rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
            file.seek(0)
            shutil.copyfileobj(unpacked, plain, 1 << 18)
        return os.dup(plain.fileno())
