"""One client that is attached to a zone: what waits for it, what it may write, how it leaves.

The connection to the zone, which all of its clients share, is stdio.py's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from dockerapi.framing import StreamId
from gateway.hosts.smartos.logtail import Chunk, Passed
from gateway.zones.host import AttachStreams

BEHIND_LIMIT = 32 << 20
"""Bytes that a client may be behind before it is let go: the zone would not wait for it, and others must not."""


class Shared(Protocol):
    """What a client asks of the streams that it shares; `stdio.ZoneStreams`."""

    tty: bool
    open_stdin: bool
    passes_eof: bool

    async def write(self, data: bytes) -> None: ...
    async def end_input(self) -> None: ...
    async def resize(self, height: int, width: int) -> None: ...
    async def left(self, client: AttachStdio) -> None: ...
    def past(self, passed: Passed | None) -> AsyncIterator[Chunk]: ...


class AttachStdio:
    """One client of a zone's streams; see `dockerapi.framing.Stdio`."""

    def __init__(self, zone: Shared, streams: AttachStreams) -> None:
        self._zone = zone
        self._streams = streams
        self._chunks: deque[Chunk] = deque()
        self._size = 0
        self._arrived = asyncio.Event()
        self._left_room = asyncio.Event()
        self._over = False
        self._closed = False
        self._input_ended = False
        self._passed: Passed | None = None
        self._begun = asyncio.Event()

    @property
    def tty(self) -> bool:
        """Whether the process runs on a terminal."""
        return self._zone.tty

    @property
    def takes_input(self) -> bool:
        """Whether what it writes reaches the process."""
        return self._streams.stdin and self._zone.open_stdin

    def begins(self, passed: Passed | None) -> None:
        """Where live output begins for it; None: with the next run, behind all of the log."""
        self._passed = passed
        self._begun.set()

    def _wants(self, stream: StreamId) -> bool:
        return self._streams.stdout if stream is StreamId.STDOUT else self._streams.stderr

    def give(self, stream: StreamId, data: bytes) -> bool:
        """A piece of output; False if this client is too far behind to be given more."""
        if not self._wants(stream):
            return True
        if self._size > BEHIND_LIMIT:
            self.end()
            return False
        self._chunks.append((stream, data))
        self._size += len(data)
        self._arrived.set()
        return True

    async def taken(self, limit: int) -> None:
        """Returns when at most `limit` bytes wait for this client."""
        while self._size > limit and not self._closed and not self._over:
            self._left_room.clear()
            await self._left_room.wait()

    def end(self) -> None:
        """No more output will come; what is queued is still delivered."""
        self._over = True
        self._begun.set()
        self._arrived.set()
        self._left_room.set()

    async def output(self) -> AsyncIterator[Chunk]:
        """Chunks until the process has ended, or `close`."""
        try:
            if self._streams.logs:
                await self._begun.wait()
                async for stream, data in self._zone.past(self._passed):
                    if self._closed:
                        return
                    if self._wants(stream):
                        yield stream, data
            while not self._closed:
                if self._chunks:
                    chunk = self._chunks.popleft()
                    self._size -= len(chunk[1])
                    self._left_room.set()
                    yield chunk
                elif self._over:
                    return
                else:
                    self._arrived.clear()
                    await self._arrived.wait()
        finally:
            await self.close()

    async def write(self, data: bytes) -> None:
        """To stdin; waits for the zone's start, dropped once it has stopped."""
        if self.takes_input and not self._input_ended and not self._closed:
            await self._zone.write(data)

    async def close_input(self) -> None:
        """The client's end of input: EOF for the process, or the end of this attach."""
        if not self.takes_input or self._input_ended:
            return
        self._input_ended = True
        if self._zone.passes_eof:
            await self._zone.end_input()
        else:
            await self.close()

    async def resize(self, height: int, width: int) -> None:
        """Of the zone's terminal."""
        await self._zone.resize(height, width)

    async def close(self) -> None:
        """Leave; the process runs on."""
        if self._closed:
            return
        self._closed = True
        self._begun.set()
        self._chunks.clear()
        self._arrived.set()
        self._left_room.set()
        await self._zone.left(self)
