"""The fake registry of the unit tests, for servers and clients that are processes of their own."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from tests.fakes.registry import FakeRegistry


class RegistryThread:
    """A fake registry on a loop of its own."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._ready = threading.Event()
        self._end: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self.registry: FakeRegistry
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self._end, self._loop = asyncio.Event(), asyncio.get_running_loop()
        async with FakeRegistry.serve(**self._options) as self.registry:
            self._ready.set()
            await self._end.wait()

    def __enter__(self) -> FakeRegistry:
        self._thread.start()
        assert self._ready.wait(10)
        return self.registry

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
