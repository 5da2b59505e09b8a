"""Images of image servers through docker: pull, list, run, remove, search; and what the Linux host says of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from dockerapi.errors import APIError, InvalidParameter, NoSuchImage, NotFound, NotSupported
from dockerapi.filters import Filters
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate
from dockerapi.models.execs import ExecCreate
from gateway.engine import Gateway
from gateway.settings import Settings
from imgsources import registry as registry_module
from imgsources.catalog import Catalog
from imgsources.imgapi import ImageServers
from imgsources.oci import ImageUUID
from imgsources.puller import Puller
from imgsources.registry import RegistryClient
from tests.fakes.imgapi import FakeImageServer
from tests.gateway.engine.host_double import FACTS, Datasets, HostDouble


class ZoneDatasets(Datasets):
    """With a tool that imports; `failing` is what it says instead, `slow` holds it back."""

    def __init__(self) -> None:
        super().__init__()
        self.imported: list[tuple[str, str]] = []
        self.failing: APIError | None = None
        self.slow: asyncio.Event | None = None

    async def import_image(
        self, uuid: ImageUUID, *, source: str, progress: Callable[[str], None] | None = None
    ) -> Mapping[str, Any]:
        self.imported.append((uuid, source))
        if self.slow is not None:
            await self.slow.wait()
        if self.failing is not None:
            raise self.failing
        if progress is not None:
            for line in (f"Importing {uuid}", f"Downloaded image {uuid} (1.0 MiB)"):
                progress(line)
        self.present.add(uuid)
        return {"uuid": uuid}


class ZoneHostDouble(HostDouble):
    """SmartOS in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.datasets: ZoneDatasets = ZoneDatasets()
        self.facts = replace(FACTS, platform="smartos", resolvers=("10.0.0.53",))


@dataclass
class Place:
    """A gateway over a host in memory, an image server, and an index beside it."""

    gateway: Gateway
    host: Any
    catalog: Catalog
    server: FakeImageServer
    index: list[JSONObject]

    async def pull(self, name: str, tag: str = "latest", platform: str = "") -> list[str]:
        """Its statuses."""
        lines = await self.gateway.images.pull(name, tag=tag, platform=platform, auth=None)
        return [line["status"] async for line in lines]

    async def search(self, term: str, limit: int = 0, **filters: list[str]) -> list[str]:
        """Names found."""
        rows = await self.gateway.images.search(
            term, limit=limit, filters=Filters(filters), auth=None
        )
        return [row["name"] for row in rows]

    async def create(self, image: str, **body: Any) -> JSONObject:
        """The answer of create."""
        model = ContainerCreate.model_validate({"Image": image, **body})
        return await self.gateway.containers.create(model, name=None, platform=None)


@pytest.fixture(params=["smartos"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    host = ZoneHostDouble() if request.param == "smartos" else HostDouble()
    catalog = Catalog(tmp_path / "images")
    found: list[JSONObject] = []

    async def index(_: web.Request) -> web.Response:
        return web.json_response({"num_results": len(found), "results": found})

    app = web.Application()
    app.router.add_get("/v1/search", index)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setattr(registry_module, "INDEX", url)
    try:
        async with (
            FakeImageServer.serve() as server,
            aiohttp.ClientSession(auto_decompress=False) as session,
            asyncio.TaskGroup() as group,
        ):
            gateway = Gateway(
                host,
                catalog,
                Puller(host.datasets, catalog, tmp_path / "downloads", group=group),
                settings=Settings(
                    data_root=tmp_path, exec_root=tmp_path / "run", backend=request.param
                ),
                registry=lambda _: RegistryClient(session),
                group=group,
                servers=ImageServers(session, (server.url,)),
            )
            running = group.create_task(gateway.run())
            yield Place(gateway, host, catalog, server, found)
            running.cancel()
    finally:
        await runner.cleanup()


async def test_an_image_is_pulled_by_name_and_version(place: Place) -> None:
    made = place.server.add("base-64-lts", "15.4.0")
    name = f"{place.server.authority}/base-64-lts"
    assert await place.pull(name, "15.4.0") == [
        "Pulling from base-64-lts",
        "Pulling fs layer",
        "Downloading",
        "Download complete",
        "Extracting",
        "Pull complete",
        f"Status: Downloaded newer image for {name}:15.4.0",
    ]
    assert place.host.datasets.imported == [(made["uuid"], place.server.url)]
    assert (await place.pull(name, "15.4.0"))[-1].startswith("Status: Image is up to date")
    assert len(place.host.datasets.imported) == 1
    (row,) = await place.gateway.images.list(
        all=False, digests=False, shared_size=False, filters=Filters()
    )
    assert (row["RepoTags"], row["RepoDigests"]) == ([f"{name}:15.4.0"], [])


async def test_an_image_is_pulled_and_run_by_uuid(place: Place) -> None:
    made = place.server.add("base-64-lts", "15.4.0")
    with pytest.raises(NoSuchImage):
        await place.create(made["uuid"])
    name = f"{place.server.authority}/base-64-lts:15.4.0"
    assert (await place.pull(made["uuid"]))[-1] == f"Status: Downloaded newer image for {name}"
    answer = await place.create(made["uuid"])
    shown = await place.gateway.containers.inspect(answer["Id"], size=False)
    assert (shown["Zone"]["brand"], shown["Zone"]["image_uuid"]) == ("joyent", made["uuid"])
    assert shown["Zone"]["resolvers"] == ["10.0.0.53"]
    assert (shown["Id"][:32], answer["Warnings"]) == (shown["Zone"]["uuid"].replace("-", ""), [])
    assert (shown["Path"], shown["Args"], shown["Platform"]) == ("", [], "smartos")
    assert (shown["LogPath"], shown["HostsPath"]) == ("", "")  # until its first start
    image = await place.gateway.images.inspect(made["uuid"])
    assert (image["Os"], image["Architecture"], image["RepoTags"]) == ("smartos", "amd64", [name])
    (line,) = await place.gateway.images.history(made["uuid"])
    assert (line["CreatedBy"], line["Size"]) == (f"imgadm import {made['uuid']}", 100)


async def test_every_version_is_pulled_with_all_tags(place: Place) -> None:
    for version in ("1", "2"):
        place.server.add("base", version)
    name = f"{place.server.authority}/base"
    statuses = await place.pull(name, "")
    assert statuses[-1] == f"Status: Downloaded newer image for {name}"
    assert [str(ref) for image in place.catalog.images() for ref in image.references] == [
        f"{name}:1",
        f"{name}:2",
    ]


async def test_what_the_image_says_makes_the_zone(place: Place) -> None:
    place.server.add("debian", "1", type="lx-dataset", tags={"kernel_version": "3.16.0"})
    place.server.add("machine", "1", type="zvol", image_size=10240)
    shown = {}
    for name in ("debian", "machine"):
        full = f"{place.server.authority}/{name}"
        await place.pull(full)
        answer = await place.create(full)
        shown[name] = (await place.gateway.containers.inspect(answer["Id"], size=False))["Zone"]
    assert shown["debian"]["kernel_version"] == "3.16.0"
    assert (shown["machine"]["brand"], shown["machine"]["ram"]) == ("bhyve", 1024)
    assert shown["machine"]["disks"][0]["image_size"] == 10240
    with pytest.raises(NotSupported, match="run commands in it with docker exec"):
        await place.create(f"{place.server.authority}/debian", Cmd=["ls"])


async def test_nothing_is_run_in_a_machine_from_outside(place: Place) -> None:
    made = place.server.add("machine", "1", type="zvol", image_size=10240)
    await place.pull(made["uuid"])
    docker_id = (await place.create(made["uuid"]))["Id"]
    await place.gateway.containers.start(docker_id)
    body = ExecCreate.model_validate({"Cmd": ["ls"]})
    with pytest.raises(NotSupported, match="exec is not possible in a zone of brand bhyve"):
        await place.gateway.execs.create(docker_id, body)


async def test_an_image_goes_with_its_dataset_by_name_or_uuid(place: Place) -> None:
    for version in ("1", "2"):
        made = place.server.add("base", version)
        await place.pull(f"{place.server.authority}/base", version)
        name = made["uuid"] if version == "1" else f"{place.server.authority}/base:2"
        records = await place.gateway.images.remove(name, force=False, noprune=False)
        assert {"Untagged": f"{place.server.authority}/base:{version}"} in records
        assert (place.host.datasets.present, place.catalog.images()) == (set(), ())


async def test_the_catalog_knows_it_again_after_a_restart(place: Place, tmp_path: Path) -> None:
    made = place.server.add("base", "1")
    await place.pull(made["uuid"])
    again = Catalog(tmp_path / "images").get(made["uuid"])
    assert again == place.catalog.get(made["uuid"])
    assert (again.type, again.imgapi) == ("zone-dataset", made)


async def test_a_failed_import_leaves_nothing(place: Place) -> None:
    place.server.add("base", "1")
    place.host.datasets.failing = APIError("imgadm import: no space left on device")
    with pytest.raises(APIError, match="no space left"):
        await place.pull(f"{place.server.authority}/base")
    assert place.catalog.images() == ()
    place.host.datasets.failing = None
    await place.pull(f"{place.server.authority}/base")


async def test_two_pulls_import_once_and_the_last_one_that_goes_stops_it(place: Place) -> None:
    made = place.server.add("base", "1")
    place.host.datasets.slow = asyncio.Event()
    images = place.gateway.images
    streams = [
        await images.pull(made["uuid"], tag="latest", platform="", auth=None) for _ in range(2)
    ]
    for stream in streams:
        while (await anext(stream))["status"] != "Downloading":
            pass
    assert len(place.host.datasets.imported) == 1
    await streams[0].aclose()
    place.host.datasets.slow.set()
    rest = [line["status"] async for line in streams[1]]
    assert rest[-1].startswith("Status: Downloaded newer image")
    assert (len(place.host.datasets.imported), len(place.catalog.images())) == (1, 1)


async def test_what_is_not_there_is_said_before_the_stream(place: Place) -> None:
    with pytest.raises(NotFound, match="manifest unknown"):
        await place.pull(f"{place.server.authority}/nothing")
    with pytest.raises(NotFound, match="no image server has it"):
        await place.pull("96bcddda-beb7-11e5-af20-a3fb54c8ae29")


async def test_a_search_finds_what_the_image_servers_have_then_the_hubs(place: Place) -> None:
    place.server.add("base-64", "1")
    place.index += [
        {"name": "base", "star_count": 7, "is_official": True, "is_automated": True},
        {"name": "me/base", "star_count": 1, "is_official": False},
    ]
    own = f"{place.server.authority}/base-64"
    assert await place.search("base") == [own, "base", "me/base"]
    assert await place.search("base", 2) == [own, "base"]
    assert await place.search(f"{place.server.authority}/base") == [own]
    assert await place.search("base", stars=["2", "1"]) == ["base"]
    assert await place.search("base", **{"is-official": ["true"]}) == ["base"]
    assert await place.search("base", **{"is-official": ["false"]}) == [own, "me/base"]
    assert await place.search("base", **{"is-automated": ["true"]}) == []
    place.server.status = 503
    assert await place.search("base") == ["base", "me/base"]


async def test_a_search_without_the_hub_finds_what_there_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.server.add("base-64", "1")
    monkeypatch.setattr(registry_module, "INDEX", "http://127.0.0.1:1")
    assert await place.search("base") == [f"{place.server.authority}/base-64"]
    with pytest.raises(APIError, match="connection refused"):
        await place.search("nothing")


@pytest.mark.parametrize(
    ("term", "limit", "filters", "words"),
    [
        ("base", 101, {}, r"limit 101 is outside the range of \[1, 100\]"),
        ("https://a/b", 0, {}, r"repository name \(https://a/b\) should not have a scheme"),
        ("base", 0, {"stars": ["x"]}, "invalid filter 'stars=x'"),
        ("base", 0, {"x": ["y"]}, "invalid filter 'x'"),
        ("base", 0, {"is-official": ["x"]}, "invalid filter 'is-official="),
    ],
)
async def test_a_search_that_cannot_be_meant_is_refused(
    place: Place, term: str, limit: int, filters: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(InvalidParameter, match=words):
        await place.search(term, limit, **filters)


@pytest.mark.parametrize("place", ["linux"], indirect=True)
async def test_the_linux_host_says_that_such_images_are_not_for_it(place: Place) -> None:
    made = place.server.add("base", "1")
    for name in (made["uuid"], f"{place.server.authority}/base"):
        with pytest.raises(NotSupported, match="is an image for SmartOS zones"):
            await place.pull(name)
    place.index.append({"name": "base", "star_count": 7})
    assert await place.search("base") == ["base"]


async def test_a_registry_is_searched_where_the_term_names_it(place: Place) -> None:
    place.index.append({"name": "team/tool", "star_count": 0})
    host = registry_module.INDEX.removeprefix("http://")
    assert await place.search(f"{host}/tool") == ["team/tool"]
