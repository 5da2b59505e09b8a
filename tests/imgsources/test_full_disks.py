"""A disk that is full, read-only, or would be full: each says so, nothing is left, and the next pull goes on."""

from __future__ import annotations

import asyncio
import ctypes
import gzip
import io
import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import aiohttp
import pytest

from dockerapi.errors import APIError
from gateway.hosts.linux import overlay
from gateway.hosts.linux.datasets import OverlayDatasets
from imgsources.archives import open_archive
from imgsources.catalog import Catalog
from imgsources.puller import Puller
from imgsources.references import Reference
from imgsources.registry import RegistryClient
from tests.fakes.registry import FakeRegistry, image_config, layer_tar

pytestmark = pytest.mark.root
NOISE = Random(1).randbytes(9 << 20)
SMALL = layer_tar({"small": b"1"})


@dataclass
class Place:
    root: Path
    registry: FakeRegistry
    store: OverlayDatasets
    catalog: Catalog
    puller: Puller
    session: aiohttp.ClientSession

    async def pull(self, name: str) -> None:
        reference = Reference.parse(f"{self.registry.host}/{name}:v")
        async with asyncio.timeout(20):
            async for _ in await self.puller.pull(
                reference, RegistryClient(self.session), platform=None
            ):
                pass

    async def refusal(self, name: str) -> str:
        with pytest.raises(APIError) as caught:
            await self.pull(name)
        return caught.value.message.lower()

    async def is_empty(self) -> bool:
        kept = [path for name in ("layers", "downloads") for path in (self.root / name).glob("*")]
        partial = [*(self.root / "overlay/datasets").glob(".partial*")]
        return not (await self.store.list() or self.catalog.images() or kept or partial)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Of 16 MB."""
    root = tmp_path / "disk"
    root.mkdir()
    overlay.mount_memory(root, 16 << 20)
    yield root
    while overlay.unmount(root):
        pass


def set_read_only(root: Path, *, on: bool) -> None:
    """mount -o remount"""
    ms_rdonly, ms_remount = 1, 32
    flags = ms_remount | (ms_rdonly if on else 0)
    done = ctypes.CDLL(None, use_errno=True).mount(b"none", bytes(root), None, flags, b"")
    assert done == 0, os.strerror(ctypes.get_errno())


@pytest.fixture
async def place(disk: Path) -> AsyncIterator[Place]:
    store = await OverlayDatasets.open(disk / "overlay")
    catalog = Catalog(disk / "images")
    try:
        async with (
            FakeRegistry.serve() as registry,
            aiohttp.ClientSession(auto_decompress=False) as session,
            asyncio.TaskGroup() as group,
        ):
            puller = Puller(store, catalog, disk / "downloads", group=group)
            registry.add_image("me/small", "v", [SMALL])
            yield Place(disk, registry, store, catalog, puller, session)
    finally:
        store.close()
        overlay.unmount(disk / "overlay")


async def test_a_blob_that_the_disk_has_no_room_for(place: Place) -> None:
    place.registry.add_image("me/a", "v", [layer_tar({"a": NOISE + NOISE})])
    assert "no space left on device" in await place.refusal("me/a")
    assert await place.is_empty()
    await place.pull("me/small")


async def test_a_layer_that_the_disk_has_no_room_for(place: Place) -> None:
    place.registry.add_image("me/a", "v", [layer_tar({"a": NOISE})])
    assert "space" in await place.refusal("me/a")
    assert await place.is_empty()
    await place.pull("me/small")


async def test_a_layer_that_inflates_without_end(place: Place) -> None:
    place.registry.add_image("me/bomb", "v", [SMALL + bytes(64 << 20)])
    assert "inflates to more than" in await place.refusal("me/bomb")
    assert await place.is_empty()


async def test_an_archive_that_inflates_without_end(place: Place) -> None:
    path = place.root / "archive"
    path.write_bytes(gzip.compress(saved(SMALL) + bytes(64 << 20), 1))
    with pytest.raises(APIError, match=r"inflates to more than .* no space left on device"):
        async with open_archive(path):
            pass


def saved(layer: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in (("config", image_config([layer])), ("layer", layer)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


async def test_a_disk_that_became_read_only(place: Place) -> None:
    set_read_only(place.root, on=True)
    words = await place.refusal("me/small")
    set_read_only(place.root, on=False)
    assert "read-only file system" in words
    assert await place.is_empty()
    await place.pull("me/small")
    set_read_only(place.root, on=True)
    await place.pull("me/small")  # it is there: nothing has to be written
    set_read_only(place.root, on=False)
