"""Output of a process from one or several descriptors, at the pace of the one who reads; and its input.

    pull     `next` reads when it is asked: back-pressure reaches the process
    rest     the process is dead: everything still under way is read into memory, reader or not
    discard  the reader has gone: read and forget, so that the process goes on

What a chunk of a descriptor means is the `Receive` function's to know.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import fcntl
import os
from collections.abc import Callable, Mapping

from dockerapi.framing import StreamId

Chunk = tuple[StreamId, bytes]
Receive = Callable[[], tuple[list[Chunk], bool]]
"""What is there now without waiting, and whether that was the end."""

_BLOCK = 1 << 17


class _Mode(enum.Enum):
    PULL = enum.auto()
    REST = enum.auto()
    DISCARD = enum.auto()


class Inlet:
    """Chunks of several descriptors.  Each is closed by `release` when it has ended."""

    def __init__(self, sources: Mapping[int, Receive], release: Callable[[int], None]) -> None:
        self._sources = dict(sources)
        self._release = release
        self._mode = _Mode.PULL
        self._kept: list[Chunk] = []
        self._event = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether every descriptor has ended."""
        return not self._sources

    async def next(self) -> list[Chunk]:
        """At least one chunk; none at the end.  For one caller at a time."""
        while True:
            if self._kept:
                kept, self._kept = self._kept, []
                return kept
            if not self._sources or self._mode is _Mode.DISCARD:
                return []
            if self._mode is _Mode.REST:
                self._event.clear()
                await self._event.wait()
            elif not self._receive_all():
                await self._wait()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._event.clear()
        for descriptor in self._sources:
            loop.add_reader(descriptor, self._event.set)
        try:
            await self._event.wait()
        finally:
            if self._mode is _Mode.PULL:
                for descriptor in self._sources:
                    loop.remove_reader(descriptor)

    def _receive_all(self) -> bool:
        """Read every descriptor once; whether there was anything, the end included."""
        found = False
        for descriptor in tuple(self._sources):
            found |= self._receive(descriptor)
        return found

    def _receive(self, descriptor: int) -> bool:
        chunks, ended = self._sources[descriptor]()
        self._kept += chunks
        if ended:
            self._end(descriptor)
        return bool(chunks) or ended

    def _end(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        del self._sources[descriptor]
        self._release(descriptor)

    def _on_readable(self, descriptor: int) -> None:
        self._receive(descriptor)
        if self._mode is _Mode.DISCARD:
            self._kept.clear()
        self._event.set()

    def _go_on(self, mode: _Mode) -> None:
        self._mode = mode
        loop = asyncio.get_running_loop()
        for descriptor in tuple(self._sources):
            loop.add_reader(descriptor, self._on_readable, descriptor)
        self._event.set()

    def take_rest(self) -> None:
        """From now on read ahead without bound: only for a process that is dead."""
        if self._mode is _Mode.PULL:
            self._go_on(_Mode.REST)

    def discard(self) -> None:
        """Nobody wants the output any more, and the process shall not notice."""
        self._kept.clear()
        self._go_on(_Mode.DISCARD)

    def close(self) -> None:
        """End every descriptor now.  What was read before can still be had by `next`."""
        for descriptor in tuple(self._sources):
            self._end(descriptor)
        self._event.set()


def pipe(descriptor: int, stream: StreamId) -> Receive:
    """Of a pipe's read end or a terminal's master; the descriptor becomes non-blocking."""
    os.set_blocking(descriptor, False)

    def receive() -> tuple[list[Chunk], bool]:
        try:
            data = os.read(descriptor, _BLOCK)
        except BlockingIOError:
            return [], False
        except OSError as error:
            if error.errno == errno.EIO:  # how a terminal says that its other side is closed
                return [], True
            raise
        return ([(stream, data)], False) if data else ([], True)

    return receive


def widen(descriptor: int) -> None:
    """A larger pipe buffer where the kernel knows such and grants it: fewer wake-ups per megabyte."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _BLOCK)
    except (AttributeError, OSError):
        return  # not Linux, or over the user's limit of pipe pages: the default does


class Outlet:
    """Input of a process: writes at the pace of the one who reads.  The descriptor stays its owner's."""

    def __init__(self, descriptor: int, packet: int = _BLOCK) -> None:
        self._descriptor = descriptor
        self._packet = packet
        self._closed = False
        self._event = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """All of it; what nobody will read any more is dropped."""
        view = memoryview(data)
        while view and not self._closed:
            try:
                view = view[os.write(self._descriptor, view[: self._packet]) :]
            except BlockingIOError:
                await self._room()
            except OSError:
                return  # the reader has gone; the exit of its process is told elsewhere

    async def _room(self) -> None:
        loop = asyncio.get_running_loop()
        self._event.clear()
        loop.add_writer(self._descriptor, self._event.set)
        try:
            await self._event.wait()
        finally:
            if not self._closed:
                loop.remove_writer(self._descriptor)

    def close(self) -> None:
        """To be called before the descriptor is closed: a closed one never wakes its writer."""
        if not self._closed:
            self._closed = True
            asyncio.get_running_loop().remove_writer(self._descriptor)
            self._event.set()
