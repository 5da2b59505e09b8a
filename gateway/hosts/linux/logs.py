"""`docker logs` from conmon's files: all of it, the tail, a span of time, and on as it grows.

    ctr.log.2  ctr.log.1  ctr.log      older -> newer; rotation renames, conmon opens a new ctr.log
       |__________|__________|
                 _Files              blocks of whole lines, forward and backward
                    |
             k8sfile.Renderer        text blocks by stream

Reads that may wait for a disk, and rendering that takes long, run in threads; what a follower wakes up for is
done at once.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.hosts.linux.growth import watching
from gateway.hosts.linux.k8sfile import Block, Renderer, completed, offset_of_last, unfinished
from gateway.zones.host import LogQuery

_FORWARD = 128 << 10  # of log; more leaves the processor's cache, and is slower
_STEPS = 4
_BACKWARD = 256 << 10
_AT_ONCE = 32 << 10
_LINE_SEARCH = 256 << 10
_LONGEST_LINE = 64 << 20


class Ending(Protocol):
    """Set when nothing more will be written; an asyncio.Event is one."""

    def is_set(self) -> bool: ...
    async def wait(self) -> object: ...


async def read_logs(
    path: Path, query: LogQuery, *, ended: Ending | None = None, tty: bool = False
) -> AsyncIterator[Block]:
    """Blocks of text in the order they were written; none if there is no log yet.

    With `query.follow` goes on until `ended` is set and the file is read to its end, or `until_ns` passes;
    `ended` None = it has ended.  With `tty` all text is of stdout.
    """
    renderer = Renderer(query, tty=tty)
    with ExitStack() as stack:
        changed = asyncio.Event()
        following = query.follow and ended is not None and path.parent.is_dir()
        if following:
            # Watch before reading, so that no write falls between the two.
            stack.enter_context(watching(path, changed.set))
        files = _Files(path)
        stack.callback(files.close)
        first = await asyncio.to_thread(_begin, files, query.tail)
        for block in renderer.render(first):
            yield block
        stop_at = None if following else files.end()
        is_over = not following
        while not renderer.finished:
            pending = files.pending()
            if pending > _AT_ONCE and not (renderer.is_plain and files.is_at_hand()):
                blocks, any_read = await asyncio.to_thread(_steps, files, renderer, stop_at)
            else:
                # A fifth of a millisecond; the way to a thread and back costs as much.
                blocks, any_read = _step(files, renderer, stop_at)
                if pending > _AT_ONCE:
                    await asyncio.sleep(0)
            for block in blocks:
                yield block
            if any_read:
                continue
            if is_over or ended is None:
                break
            # What is written before the end is seen is read in the round after it.
            is_over = await _wait(changed, ended, query.until_ns)
            changed.clear()
        if not renderer.finished:
            for block in renderer.render(files.torn()):
                yield block


def _begin(files: _Files, tail: int | None) -> bytes:
    with files.lock:
        return files.begin(tail)


_Step = tuple[list[Block], bool]
Lines = tuple[bytearray, int]
"""Whole lines of a log: a buffer, and how much of it they are."""
_NOTHING: Lines = (bytearray(), 0)


def _step(files: _Files, renderer: Renderer, stop_at: _Position | None) -> _Step:
    with files.lock:
        log, size = files.read(stop_at)
    return renderer.render(log, size), size > 0


def _steps(files: _Files, renderer: Renderer, stop_at: _Position | None) -> _Step:
    """Some in one go, in a thread."""
    blocks, any_read = _step(files, renderer, stop_at)
    for _ in range(_STEPS - 1):
        if not any_read or renderer.finished:
            break
        more, any_read = _step(files, renderer, stop_at)
        blocks += more
    return blocks, any_read


async def _wait(changed: asyncio.Event, ended: Ending, until_ns: int | None) -> bool:
    """Until the log may have grown; True if it will not grow any more (or nobody wants it)."""
    if ended.is_set():
        return True
    timeout_s = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
    if timeout_s is not None and timeout_s <= 0:
        return True
    try:
        async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
            end = group.create_task(_ending(ended, changed))
            await changed.wait()
            over = end.done()
            end.cancel()
    except TimeoutError:
        return True
    return over


async def _ending(ended: Ending, changed: asyncio.Event) -> None:
    await ended.wait()
    changed.set()


@dataclass(frozen=True, slots=True, order=True)
class _Position:
    """A place in the log: which file (0 = the oldest that was open at first), which byte."""

    file: int
    offset: int


class _Files:
    """The files of one log as one row of whole lines.  Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.Lock()
        self._path = path
        self._descriptors: list[int] = _open_all(path)
        self._at = _Position(0, 0)
        self._rest = b""
        # The same memory for every large read: getting it anew from the kernel costs more than the reading.
        self._buffer = bytearray()
        self._closed = False

    def close(self) -> None:
        """No file stays open.  Waits for a thread whose awaiting task was cancelled."""
        with self.lock:
            self._closed = True
            for descriptor in self._descriptors:
                os.close(descriptor)
            self._descriptors = []

    def begin(self, tail: int | None) -> bytes:
        """Go to where the last `tail` lines begin.

        Returns log lines that belong to them but lie before that place: pieces of a line of one stream
        that lines of the other came between.
        """
        if tail is None or not self._descriptors:
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
                self._at = _Position(position.file, position.offset + start)
                wanted = 0
                break
            wanted -= count
        if wanted > 0:
            self._at = _Position(0, 0)
            return b""
        pieces = self._unfinished(self._at)
        return b"".join(piece + b"\n" for piece in pieces)

    def _open_lines(self) -> int:
        """Lines that were begun and not ended at the end of the log: they count as lines."""
        pieces = self._unfinished(self.end())
        return len({piece[36:42] for piece in pieces})

    def end(self) -> _Position:
        """After the last whole line of now."""
        if not self._descriptors:
            return _Position(0, 0)
        last = self._descriptors[-1]
        size = os.fstat(last).st_size
        start = max(0, size - _BACKWARD)
        found = os.pread(last, size - start, start).rfind(b"\n")
        return _Position(len(self._descriptors) - 1, start + found + 1)

    def pending(self) -> int:
        """Bytes of the current file that were not read."""
        if not self._descriptors:
            return 0
        return os.fstat(self._descriptors[self._at.file]).st_size - self._at.offset

    def is_at_hand(self) -> bool:
        """Whether what comes next is in memory, so that reading it does not wait for a disk."""
        if not self._descriptors:
            return True
        descriptor, start = self._descriptors[self._at.file], self._at.offset
        probe = [bytearray(1)]
        try:
            for place in (start, start + _FORWARD - 1):
                os.preadv(descriptor, probe, place, os.RWF_NOWAIT)
        except OSError:  # it would wait; or this kind of file cannot tell
            return False
        return True

    def read(self, stop_at: _Position | None) -> Lines:
        """The next whole lines, up to `stop_at`; none at the end of what there is.  Good until the next read."""
        if not self._descriptors and not self._closed:
            self._descriptors = _open_all(self._path)
        while self._descriptors:
            limit = _FORWARD
            if stop_at is not None and self._at.file == stop_at.file:
                limit = min(limit, stop_at.offset - self._at.offset)
            lines = self._read_here(limit)
            if lines[1]:
                return lines
            if stop_at is not None and self._at.file >= stop_at.file:
                return _NOTHING
            if not self._go_on():
                return _NOTHING
        return _NOTHING

    def _read_here(self, limit: int) -> Lines:
        descriptor = self._descriptors[self._at.file]
        if os.fstat(descriptor).st_size < self._at.offset:
            self._at = _Position(
                self._at.file, 0
            )  # it was emptied (docker's own `truncate -s 0` trick)
        wanted = min(max(limit, 0), os.fstat(descriptor).st_size - self._at.offset)
        if wanted > _AT_ONCE and not self._buffer:
            self._buffer = bytearray(_FORWARD)
        data = self._buffer if wanted > _AT_ONCE else bytearray(wanted)
        size = os.preadv(descriptor, [memoryview(data)[:wanted]], self._at.offset)
        end = data.rfind(b"\n", 0, size) + 1
        self._rest = bytes(data[end:size])
        self._at = _Position(self._at.file, self._at.offset + end)
        return data, end

    def torn(self) -> bytes:
        """A last line that its writer did not finish, as a line."""
        return self._rest + b"\n" if self._rest else b""

    def _go_on(self) -> bool:
        """Turn to the next newer file if there is one."""
        if self._at.file + 1 < len(self._descriptors):
            self._at = _Position(self._at.file + 1, 0)
            return True
        newer = _newer(self._path, self._descriptors[-1])
        if newer is None:
            return False
        # The rotated file may have got lines between our last read and its renaming: conmon writes to
        # it until it has made the new one.
        if self.pending() > len(self._rest):
            os.close(newer)
            return True
        self._descriptors.append(newer)
        self._at = _Position(len(self._descriptors) - 1, 0)
        return True

    def _backward(self, end: _Position) -> Iterator[tuple[_Position, bytes]]:
        """Blocks of whole lines before `end`, the last first, each with where it begins."""
        for file in range(end.file, -1, -1):
            descriptor = self._descriptors[file]
            place = end.offset if file == end.file else os.fstat(descriptor).st_size
            carried = b""
            while place > 0:
                start = max(0, place - _BACKWARD)
                data = os.pread(descriptor, place - start, start) + carried
                cut = data.find(b"\n") + 1 if start else 0
                carried, data, place = data[:cut], data[cut:], start
                if data:
                    yield _Position(file, start + cut), data

    def _unfinished(self, end: _Position) -> list[bytes]:
        blocks = (log for _, log in self._backward(end))
        return unfinished(blocks, search=_LINE_SEARCH, longest=_LONGEST_LINE)


def _open_all(path: Path) -> list[int]:
    """Descriptors of the rotated files and the current one, oldest first."""
    while True:
        names = _newest_first(path)
        current = _open(next(names))
        descriptors = [] if current is None else [current]
        for name in names:
            older = _open(name)
            if older is None:
                break
            descriptors.append(older)
        # A rotation meanwhile would show one file twice, or leave one out.
        again = _open(path)
        same = (again is None) == (current is None) and (
            again is None or current is None or _inode(again) == _inode(current)
        )
        if again is not None:
            os.close(again)
        if same:
            return descriptors[::-1]
        for descriptor in descriptors:
            os.close(descriptor)


def _newer(path: Path, descriptor: int) -> int | None:
    """The file that came after this one, opened; None if this is the newest."""
    following: int | None = None
    for name in _newest_first(path):
        candidate = _open(name)
        if candidate is None:
            if name == path:
                return None  # between the renaming and conmon's new file
            break
        if _inode(candidate) == _inode(descriptor):
            os.close(candidate)
            return following
        if following is not None:
            os.close(following)
        following = candidate
    # Ours was thrown away as too old: the oldest that is left comes next.
    return following


def _newest_first(path: Path) -> Iterator[Path]:
    """Names that files of one log may have.  A follower nearly always needs the first only."""
    yield path
    for number in range(1, 1000):
        yield path.with_name(f"{path.name}.{number}")


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _inode(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
