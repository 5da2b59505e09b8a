"""An image server (IMGAPI) beside the tests, with one image of each kind."""

from __future__ import annotations

import asyncio
import gzip
import threading
from concurrent.futures import Future

from compat.images import busybox_layer
from tests.fakes.imgapi import FakeImageServer

DISTRIBUTION, PLATFORM, DISK = "debian-7", "base-64-lts", "debian-12"
"""Names of an lx-dataset, a zone-dataset and a zvol, each of version 1."""


class ImageServer:
    """Serves from a thread of its own until `stop`."""

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self._ready: Future[FakeImageServer] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._server = self._ready.result(20)

    @property
    def url(self) -> str:
        """As the settings name it."""
        return self._server.url

    @property
    def authority(self) -> str:
        """HOST:PORT, the first part of its images' names."""
        return self._server.authority

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        file = gzip.compress(busybox_layer(), compresslevel=1)
        async with FakeImageServer.serve() as server:
            server.add(
                DISTRIBUTION, "1", type="lx-dataset", file=file, tags={"kernel_version": "3.16.0"}
            )
            server.add(PLATFORM, "1", type="zone-dataset", file=file)
            server.add(DISK, "1", type="zvol", file=file, image_size=10)
            server.add("theirs", "1", type="zone-dataset", file=file)
            self._ready.set_result(server)
            await self._over.wait()

    def uuid(self, name: str) -> str:
        """Of the image with this name."""
        return next(key for key, row in self._server.images.items() if row["name"] == name)

    def stop(self) -> None:
        """Gone when this returns."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)
