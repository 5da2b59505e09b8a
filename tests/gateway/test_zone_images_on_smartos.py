"""Every kind of zone through docker's operations, on the SmartOS host over the platform's programs."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dockerapi.engine import AttachQuery
from dockerapi.errors import Conflict, NotSupported
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate
from dockerapi.models.execs import ExecCreate, ExecStart
from gateway.engine import Gateway
from gateway.hosts.smartos.host import SmartOSHost
from imgsources.catalog import Catalog
from imgsources.imgapi import ImageServers
from imgsources.puller import Puller
from imgsources.registry import RegistryClient
from tests.contract.conftest import busybox_tar
from tests.fakes.globalzone import process
from tests.fakes.imgapi import FakeImageServer, Manifest

pytestmark = pytest.mark.root

FILE = gzip.compress(busybox_tar(), compresslevel=1)
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def global_zone() -> Iterator[process.FakeGZ]:
    folder = Path(tempfile.mkdtemp(prefix="zg-", dir="/tmp"))
    fake = process.start(folder)
    yield fake
    fake.stop()
    shutil.rmtree(folder)


class _Over(Exception):
    pass


@dataclass
class Place:
    """A gateway in a global zone, with an image server."""

    gateway: Gateway
    server: FakeImageServer
    machine: process.FakeGZ

    async def image(self, name: str, type: str, **more: Any) -> str:
        """Pulled; its name."""
        self.server.add(name, "1", type=type, file=FILE, **more)
        full = f"{self.server.authority}/{name}"
        messages = await self.gateway.images.pull(full, tag="1", platform="", auth=None)
        lines = [line["status"] async for line in messages]
        assert lines[-1] == f"Status: Downloaded newer image for {full}:1"
        return f"{full}:1"

    async def started(self, image: str, **body: Any) -> str:
        """A running container's id."""
        model = ContainerCreate.model_validate({"Image": image, **body})
        answer = await self.gateway.containers.create(model, name=None, platform=None)
        await self.gateway.containers.start(answer["Id"])
        return str(answer["Id"])

    async def inspect(self, docker_id: str) -> JSONObject:
        return await self.gateway.containers.inspect(docker_id, size=False)

    async def remove(self, docker_id: str) -> None:
        await self.gateway.containers.remove(docker_id, force=True, volumes=True, link=False)

    async def exec(self, docker_id: str, *argv: str) -> bytes:
        """Its output."""
        body = ExecCreate.model_validate({"Cmd": list(argv), "AttachStdout": True})
        made = await self.gateway.execs.create(docker_id, body)
        stdio = await self.gateway.execs.start(made["Id"], ExecStart.model_validate({}))
        assert stdio is not None
        return b"".join([data async for _, data in stdio.output()])

    def datasets(self) -> set[str]:
        """Images that imgadm lists."""
        lines = self.machine.run("imgadm", "list").stdout.splitlines()[1:]
        return {line.split()[0] for line in lines}


@asynccontextmanager
async def opened(machine: process.FakeGZ, folder: Path) -> AsyncIterator[Place]:
    settings = machine.settings(data_root=folder / "data", exec_root=folder / "run")
    settings.data_root.mkdir(parents=True)

    async def end() -> None:
        raise _Over

    try:
        async with (
            FakeImageServer.serve() as server,
            aiohttp.ClientSession(auto_decompress=False) as session,
            asyncio.TaskGroup() as group,
        ):
            host = await SmartOSHost.open(settings, group)
            try:
                catalog = Catalog(folder / "images")
                gateway = Gateway(
                    host,
                    catalog,
                    Puller(host.datasets, catalog, folder / "downloads", group=group),
                    settings=settings,
                    registry=lambda _: RegistryClient(session),
                    group=group,
                    servers=ImageServers(session, (server.url,)),
                )
                group.create_task(gateway.run())
                async with asyncio.timeout(DEADLINE_S):
                    yield Place(gateway, server, machine)
            finally:
                await host.close()
                group.create_task(end())
    except* _Over:
        pass


@pytest.fixture
def in_global_zone(global_zone: process.FakeGZ, monkeypatch: pytest.MonkeyPatch) -> process.FakeGZ:
    """Its programs are found by this process."""
    for name in ("PATH", "ZONEGATE_FAKE_GZ"):
        monkeypatch.setenv(name, global_zone.environment[name])
    return global_zone


async def test_a_distribution_boots_as_a_full_zone(
    in_global_zone: process.FakeGZ, short_dir: Path
) -> None:
    async with opened(in_global_zone, short_dir) as place:
        image = await place.image("debian-7", "lx-dataset", tags={"kernel_version": "3.16.0"})
        docker_id = await place.started(image, Hostname="debianz01", Env=["role=db"])
        shown = await place.inspect(docker_id)
        assert (shown["State"]["Status"], shown["Zone"]["kernel_version"]) == ("running", "3.16.0")
        assert shown["Zone"]["customer_metadata"] == {"role": "db"}
        assert await place.exec(docker_id, "hostname") == b"debianz01\n"
        with pytest.raises(NotSupported, match="no standard streams"):
            await place.gateway.containers.attach(docker_id, AttachQuery(stdout=True, stream=True))
        await place.gateway.containers.stop(docker_id, signal=None, timeout_s=None)
        assert (await place.inspect(docker_id))["State"]["Status"] == "exited"
        with pytest.raises(Conflict):
            await place.gateway.images.remove(image, force=False, noprune=False)
        await place.remove(docker_id)


async def test_a_smartos_image_boots_as_a_full_zone_or_runs_one_command(
    in_global_zone: process.FakeGZ, short_dir: Path
) -> None:
    async with opened(in_global_zone, short_dir) as place:
        image = await place.image("base-64-lts", "zone-dataset")
        full = await place.started(image)
        assert (await place.inspect(full))["Zone"]["brand"] == "joyent"
        one = await place.started(
            image,
            Cmd=["sh", "-c", "exit 7"],
            Labels={"com.zonegate.brand": "joyent-minimal"},
        )
        ended = await place.gateway.containers.wait(one, "not-running")
        assert (await ended)["StatusCode"] == 7
        for docker_id in (full, one):
            await place.remove(docker_id)


async def test_a_disk_boots_as_a_machine_that_nobody_enters(
    in_global_zone: process.FakeGZ, short_dir: Path
) -> None:
    async with opened(in_global_zone, short_dir) as place:
        image = await place.image("debian-12", "zvol", image_size=10)
        host = {"Memory": 2**30, "StorageOpt": {"size": "20m"}}
        docker_id = await place.started(image, HostConfig=host)
        shown = await place.inspect(docker_id)
        assert (shown["Zone"]["brand"], shown["Zone"]["ram"]) == ("bhyve", 1024)
        assert shown["State"]["Status"] == "running"
        for what in (
            place.exec(docker_id, "ls"),
            place.gateway.files.stat(docker_id, "/etc"),
            place.gateway.usage.top(docker_id, ""),
        ):
            with pytest.raises(NotSupported):
                await what
        await place.remove(docker_id)


async def test_an_image_that_an_admin_imported_stays_when_docker_removes_it(
    in_global_zone: process.FakeGZ, short_dir: Path
) -> None:
    async with opened(in_global_zone, short_dir) as place:
        theirs: Manifest = place.server.add("theirs", "1", file=FILE)
        done = await asyncio.to_thread(
            in_global_zone.run, "imgadm", "import", "-S", place.server.url, theirs["uuid"]
        )
        assert done.returncode == 0, done.stderr
    async with opened(in_global_zone, short_dir / "second") as place:
        place.server.add("theirs", "1", file=FILE)
        ours = place.server.add("ours", "1", file=FILE)
        for uuid in (theirs["uuid"], ours["uuid"]):
            stream = await place.gateway.images.pull(uuid, tag="latest", platform="", auth=None)
            async for _ in stream:
                pass
            await place.gateway.images.remove(uuid, force=False, noprune=False)
        left = await asyncio.to_thread(place.datasets)
        assert theirs["uuid"] in left
        assert ours["uuid"] not in left
