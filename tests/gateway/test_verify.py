"""`zonegate images verify` over a data root that a pull filled: what is whole, and each thing that can be missing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from gateway.hosts.linux import overlay
from gateway.hosts.linux.btrfsdatasets import BtrfsDatasets
from gateway.hosts.linux.datasets import OverlayDatasets
from gateway.settings import Settings
from gateway.verify import verify
from imgsources.catalog import Catalog
from imgsources.datasets import DatasetStore
from imgsources.puller import Puller
from imgsources.references import Reference
from imgsources.registry import RegistryClient
from tests.fakes import loopdisk
from tests.fakes.registry import FakeRegistry, layer_tar

pytestmark = pytest.mark.root


async def pull(store: DatasetStore, root: Path) -> None:
    """One image of two layers."""
    layers = [
        layer_tar({"etc/": b"", "etc/a": b"1", "etc/b": b"2", "x/": b"", "x/y": b"3"}),
        layer_tar({"etc/": b"", "etc/a": b"new", "etc/.wh.b": b"", "x": b"file"}),
    ]
    async with (
        FakeRegistry.serve() as registry,
        aiohttp.ClientSession(auto_decompress=False) as session,
        asyncio.TaskGroup() as group,
    ):
        registry.add_image("me/a", "v", layers)
        puller = Puller(store, Catalog(root / "images"), root / "downloads", group=group)
        reference = Reference.parse(f"{registry.host}/me/a:v")
        async for _ in await puller.pull(reference, RegistryClient(session), platform=None):
            pass


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Path]:
    """A data root with one image; nothing runs on it."""
    store = await OverlayDatasets.open(tmp_path / "overlay")
    try:
        await pull(store, tmp_path)
        yield tmp_path
    finally:
        store.close()
        overlay.unmount(tmp_path / "overlay")


@pytest.mark.skipif(not loopdisk.has_btrfs(), reason="no btrfs in this kernel")
async def test_snapshots_are_compared_too(tmp_path: Path) -> None:
    with loopdisk.btrfs(tmp_path) as root:
        (root / "btrfs").mkdir()
        store = await BtrfsDatasets.open(root / "btrfs")
        await pull(store, root)
        assert await faults(root) == []
        first(root, "btrfs/datasets/*/layer/x/y").unlink()
        (found,) = await faults(root)
        assert found.endswith("x/y: missing")
        store.close()


async def faults(root: Path) -> list[str]:
    images, layers, lines = await verify(Settings(data_root=root))
    assert (images, layers) == (1, 2)
    return lines


async def test_what_was_pulled_is_whole(root: Path) -> None:
    assert await faults(root) == []


def first(root: Path, pattern: str) -> Path:
    return min(root.glob(pattern))


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda root: changed(first(root, "layers/*")), "its bytes hash to"),
        (lambda root: first(root, "layers/*").unlink(), "its blob is not kept"),
        (lambda root: changed(first(root, "overlay/datasets/*/layer/etc/a")), "etc/a: other bytes"),
        (lambda root: first(root, "overlay/datasets/*/layer/etc/a").unlink(), "etc/a: missing"),
        (lambda root: shutil.rmtree(first(root, "overlay/datasets/*")), "missing"),
        (lambda root: (root / "layers/rubbish").touch(), "no blob has such a name"),
        (lambda root: (root / "images/references.json").write_text("{"), "is damaged"),
    ],
    ids=["blob", "no blob", "file", "no file", "dataset", "rubbish", "names"],
)
async def test_what_is_wrong_is_named(
    root: Path, harm: Callable[[Path], object], words: str
) -> None:
    harm(root)
    found = await faults(root)
    assert found
    assert all(words in line for line in found), found


async def test_a_config_that_is_not_its_name_is_told(root: Path) -> None:
    changed(first(root, "images/configs/*"))
    _, _, found = await verify(Settings(data_root=root))
    assert any("config" in line for line in found)
