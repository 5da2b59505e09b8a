"""`docker logs` from zoneadmd's files: all of it, the tail, a span of time, and on as it grows.

    logs/stdio.log.20260101T000000Z  logs/stdio.log.20260102T000000Z  logs/stdio.log     older -> newer

A rotation renames the current file and begins a new one.  Files are read in ranges through the global zone's
interface, and followed by looking at their size: SFTP has no other way.  What records mean: stdiolog.py.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from dockerapi.errors import NotFound
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.stdiolog import Block, Record, Renderer, last_lines, parse_all
from gateway.zones.host import LogQuery

STDIO_LOG = "stdio.log"
"""Standard output and error of a docker zone."""
CONSOLE_LOG = "console.log"
"""The console of a full zone, written by platforms of 2018 and later."""

_BLOCK = 256 << 10
_POLL_S = 0.15
_LOOKS = 8
_ROTATED = re.compile(r"\.\d{8}T\d{6}Z$")


class Ending(Protocol):
    """Set when nothing more will be written; an asyncio.Event is one."""

    def is_set(self) -> bool: ...
    async def wait(self) -> object: ...


async def read_logs(
    gz: GlobalZone,
    zonepath: str,
    query: LogQuery,
    *,
    ended: Ending | None = None,
    tty: bool = False,
    name: str = STDIO_LOG,
) -> AsyncIterator[Block]:
    """Blocks of text in the order they were written; none if there is no log yet.

    With `query.follow` goes on until `ended` is set and the log is read to its end, or `until_ns` passes;
    `ended` None = it has ended.  With `tty` all text is of stdout.  Unavailable when the machine is lost.
    """
    following = query.follow and ended is not None
    renderer = Renderer(query, tty=tty)
    log = LogFiles(gz, f"{zonepath}/logs", name)
    await log.open()
    first, budget = await _begin(log, query.tail)
    for block in renderer.render(first):
        yield block
    is_over = not following
    while not renderer.finished:
        data = await log.read(None if following else budget)
        budget -= len(data)
        for block in renderer.render(parse_all(data)):
            yield block
        if data and (following or budget > 0):
            continue
        if is_over or ended is None:
            break
        # What is written before the end is seen is read in the round after it.
        log.is_over = is_over = await _wait(ended, query.until_ns)
    if not renderer.finished:
        for block in renderer.render(parse_all(log.torn)):
            yield block
    for block in renderer.rest():
        yield block


async def _begin(log: LogFiles, tail: int | None) -> tuple[list[Record], int]:
    """Records of the last `tail` lines, with the log placed after them; and how much there is after that."""
    budget = sum(file.size for file in log.files)
    if tail is None:
        return [], budget
    if tail <= 0:
        await log.go_to_end()
        return [], 0
    blocks: deque[bytes] = deque()
    ends, wanted = 0, tail
    async for block, whole in log.backward():
        blocks.appendleft(block)
        ends += block.count(b"\\n")  # at least as many as lines end
        if ends < wanted and not whole:
            continue
        wanted = 2 * ends  # whether or not these are enough, do not ask at each block
        records = await asyncio.to_thread(_last_lines, b"".join(blocks), tail, whole=whole)
        if records is not None:
            await log.go_to_end()
            return records, 0
    return [], budget


def _last_lines(log: bytes, tail: int, *, whole: bool) -> list[Record] | None:
    return last_lines(parse_all(log), tail, whole=whole)


async def _wait(ended: Ending, until_ns: int | None) -> bool:
    """Until the log may have grown; True if it will not grow any more (or nobody wants it)."""
    if ended.is_set() or (until_ns is not None and time.time_ns() > until_ns):
        return True
    try:
        async with asyncio.timeout(_POLL_S):
            await ended.wait()
    except TimeoutError:
        return False
    return True


@dataclass(slots=True)
class LogFile:
    """`inode` 0 where the machine does not tell; `size` as it was when last looked at."""

    name: str
    inode: int
    size: int


class LogFiles:
    """The files of one log as one row of whole lines, read from a place on."""

    def __init__(self, gz: GlobalZone, folder: str, name: str) -> None:
        self._gz = gz
        self._folder = folder
        self._name = name
        self.files: list[LogFile] = []
        """Oldest first; the last is the current one."""
        self._at = 0
        self._offset = 0
        self._rest = b""
        self._looks = 0
        self.is_over = False
        """Nothing more will be written: the next read is the last, and must miss nothing."""

    async def open(self) -> None:
        """See what there is; the place is the beginning of the oldest."""
        self.files = []
        try:
            names = await self._rotated()
        except NotFound:
            return
        for name in [*names, self._name]:
            status = await self._gz.status(f"{self._folder}/{name}")
            if status is not None:
                self.files.append(LogFile(name, status.inode, status.size))

    async def _rotated(self) -> list[str]:
        """Names of rotated files, oldest first."""
        names = await self._gz.names(self._folder)
        own = len(self._name)
        return sorted(n for n in names if n.startswith(self._name) and _ROTATED.fullmatch(n[own:]))

    @property
    def torn(self) -> bytes:
        """A last line that its writer did not finish."""
        return self._rest

    async def go_to_end(self) -> None:
        """The place is the end of what `files` says there is."""
        if self.files:
            self._at = len(self.files) - 1
            self._offset = self.files[-1].size
        self._rest = b""

    @property
    def place(self) -> tuple[int, int]:
        """Inode and offset of the next byte to read; (0, 0) before anything is there."""
        return (self.files[self._at].inode, self._offset) if self.files else (0, 0)

    @property
    def passed(self) -> int:
        """Bytes of whole lines before the place, in all files that there are."""
        before = sum(file.size for file in self.files[: self._at])
        return before + self._offset - len(self._rest)

    async def backward(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Whole lines from the end of the log to its beginning; True with the last block."""
        for index in range(len(self.files) - 1, -1, -1):
            file, place, carried = self.files[index], self.files[index].size, b""
            while place > 0:
                start = max(0, place - _BLOCK)
                data = await self._read(file.name, start, place - start) + carried
                cut = data.find(b"\n") + 1 if start else 0
                carried, data, place = data[:cut], data[cut:], start
                yield data, index == 0 and place == 0
        if not any(file.size for file in self.files):
            yield b"", True

    async def _read(self, name: str, offset: int, size: int) -> bytes:
        try:
            return await self._gz.read(f"{self._folder}/{name}", offset=offset, size=size)
        except NotFound:
            return b""  # thrown away by zlog-keep-rotated, or between renaming and the new file

    async def read(self, limit: int | None = None) -> bytes:
        """The next whole lines, some 256 KiB; at most `limit` bytes of files; empty at the end of now."""
        while True:
            if not self.files:
                await self.open()
                if not self.files:
                    return b""
            size = _BLOCK if limit is None else min(_BLOCK, limit)
            is_current = self._at == len(self.files) - 1
            if is_current and not await self._has_more():
                return b""
            file = self.files[self._at]
            got = await self._read(file.name, self._offset, size)
            self._offset += len(got)
            data = self._rest + got
            end = data.rfind(b"\n") + 1
            self._rest = data[end:]
            if end:
                return data[:end]
            if got:
                continue
            if self._at == len(self.files) - 1:
                return b""
            self._at, self._offset = self._at + 1, 0
            if self._rest:  # its writer was cut off
                torn, self._rest = self._rest + b"\n", b""
                return torn

    async def _has_more(self) -> bool:
        """Whether the current file has grown; a rotation since the last look is taken in first."""
        file = self.files[self._at]
        status = await self._gz.status(f"{self._folder}/{self._name}")
        if status is None:
            return False  # between the renaming and zoneadmd's new file
        moved = status.inode != file.inode or status.size < self._offset
        # Without inodes a new file that is as long as the old one was looks like the old one.
        self._looks += 1
        is_due = status.size != file.size or self.is_over or self._looks % _LOOKS == 0
        if not moved and status.inode == 0 and is_due:
            known = {f.name for f in self.files}
            moved = any(name not in known for name in await self._rotated())
        if moved:
            await self._take_rotation(file)
            return True
        file.size = status.size
        return status.size > self._offset

    async def _take_rotation(self, ours: LogFile) -> None:
        """Find the file that we were reading under its new name, and what came after it."""
        known = {file.name for file in self.files}
        offset = self._offset
        await self.open()
        for index, file in enumerate(self.files):
            is_ours = file.inode == ours.inode if ours.inode else file.name not in known
            if is_ours and file.name != self._name:
                self._at, self._offset = index, offset
                return
        # It was thrown away as too old, or emptied in place: what is there now comes next.
        self._at, self._offset, self._rest = len(self.files) - 1, 0, b""
