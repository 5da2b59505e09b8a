"""One run of one program: its arguments, its streams, its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any


async def _go_on() -> None:
    """No fault is on order."""


@dataclass(slots=True)
class Call:
    """`fds` are the program's own 0, 1, 2; they are closed when `main` has returned.

    `signals` gets SIGWINCH and SIGUSR1 as the program got them.  When the program is killed, the task that
    runs `main` is cancelled.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    fds: tuple[int, int, int]
    signals: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    midway: Callable[[], Awaitable[None]] = _go_on
    """To be awaited where a program is half done: a fault on order strikes there."""

    @property
    def arguments(self) -> list[str]:
        """Without the program's name."""
        return self.argv[1:]

    async def read_stdin(self) -> bytes:
        """All of it."""
        blocks = []
        while block := await asyncio.to_thread(os.read, self.fds[0], 1 << 16):
            blocks.append(block)
        return b"".join(blocks)

    async def out(self, text: str | bytes) -> None:
        """To standard output, with back-pressure."""
        await _write(self.fds[1], text)

    async def err(self, text: str | bytes) -> None:
        """To standard error."""
        await _write(self.fds[2], text)


async def _write(descriptor: int, text: str | bytes) -> None:
    data = memoryview(text.encode() if isinstance(text, str) else text)
    while data:
        data = data[await asyncio.to_thread(os.write, descriptor, data) :]


class Failed(Exception):
    """A program ends with `code`, and this text on standard error."""

    def __init__(self, text: str, code: int = 1, **more: Any) -> None:
        super().__init__(text)
        self.code = code
        self.more = more
