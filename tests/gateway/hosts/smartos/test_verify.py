"""`zonegate images verify` over zfs: what a pull made is there; what an administrator took away is named."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from gateway.hosts.smartos.datasets import ZFSDatasets
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.verify import verify
from imgsources.catalog import Catalog
from imgsources.puller import Puller
from imgsources.references import Reference
from imgsources.registry import RegistryClient
from tests.fakes.globalzone.process import FakeGZ
from tests.fakes.registry import FakeRegistry, layer_tar

pytestmark = pytest.mark.root


async def test_datasets_are_looked_for_in_the_pool(
    fake: FakeGZ, gz: LocalGlobalZone, tmp_path: Path
) -> None:
    settings = fake.settings(data_root=tmp_path, exec_root=tmp_path / "run")
    root = settings.smartos.root
    store = await ZFSDatasets.open(gz, zpool="zones", root=root, instance="v")
    async with (
        FakeRegistry.serve() as registry,
        aiohttp.ClientSession(auto_decompress=False) as session,
        asyncio.TaskGroup() as group,
    ):
        layers = [layer_tar({"etc/": b"", "etc/a": b"1"}), layer_tar({"etc/b": b"2"})]
        registry.add_image("me/a", "v", layers)
        puller = Puller(store, Catalog(tmp_path / "images"), tmp_path / "downloads", group=group)
        reference = Reference.parse(f"{registry.host}/me/a:v")
        async for _ in await puller.pull(reference, RegistryClient(session), platform=None):
            pass
    assert await verify(settings) == (1, 2, [])
    top = Catalog(tmp_path / "images").images()[0].uuids[-1]
    assert fake.run("zfs", "destroy", "-r", f"zones/{top}").returncode == 0
    assert await verify(settings) == (1, 2, [f"dataset zones/{top}: missing"])
