"""How many transfers go on at once, first come first served; the number may change while they do."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """`async with` takes one, and waits while none is free."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def are_taken(self) -> bool:
        """Whether the next one has to wait."""
        return self._taken >= self._size or bool(self._waiting)

    def resize(self, size: int) -> None:
        """From now on; who has a slot keeps it."""
        self._size = size
        self._wake()

    async def __aenter__(self) -> None:
        if not self.are_taken:
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free()  # it had come at the same moment
            raise

    async def __aexit__(self, *_: object) -> None:
        self._free()

    def _free(self) -> None:
        self._taken -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._taken < self._size:
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)
