"""The zfd devices of a zone: they are there from its boot on, its program opens them later.

What is written to them before that waits, and a terminal's size that is set before that holds when it begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from dockerapi.framing import Stdio, StreamId


class Zfd:
    """Satisfies Stdio: `connect` gives it the program's streams, `close` ends it without any."""

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._program: Stdio | None = None
        self._decided = asyncio.Event()
        self.size: tuple[int, int] | None = None
        """Height, width as last set."""

    @property
    def tty(self) -> bool:
        """Whether it is a terminal."""
        return self._tty

    def connect(self, program: Stdio) -> None:
        """The program is about to run with these streams."""
        self._program = program
        self._decided.set()

    async def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        """Until the program has ended, or `close` while there is none."""
        await self._decided.wait()
        if self._program is not None:
            async for chunk in self._program.output():
                yield chunk

    async def write(self, data: bytes) -> None:
        """To the program, once it is there."""
        await self._decided.wait()
        if self._program is not None:
            await self._program.write(data)

    async def close_input(self) -> None:
        """Its input ends, once it is there."""
        await self._decided.wait()
        if self._program is not None:
            await self._program.close_input()

    async def resize(self, height: int, width: int) -> None:
        """Of the terminal."""
        self.size = (height, width)
        if self._program is not None:
            await self._program.resize(height, width)

    async def close(self) -> None:
        """There will be no program; nothing happens to one that is there."""
        self._decided.set()
