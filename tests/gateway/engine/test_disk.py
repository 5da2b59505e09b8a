"""What `docker system df` shows of images, containers and volumes; and what of the environment `info` shows."""

from __future__ import annotations

import pytest

from dockerapi.engine import ListQuery
from dockerapi.errors import NotFound
from tests.gateway.engine.conftest import Bench

KINDS = frozenset(("container", "image", "volume", "build-cache"))


async def test_each_thing_is_shown_with_those_that_use_it(bench: Bench) -> None:
    await bench.create("one", HostConfig={"Binds": ["data:/a", "data:/b"]})
    await bench.create("two", HostConfig={"Binds": ["data:/a"]})
    bench.image("unused", layers=("a", "b"))
    found = await bench.gateway.system.disk_usage(KINDS)
    users = {image["RepoTags"][0]: image["Containers"] for image in found["Images"]}
    assert users == {"busybox:latest": 2, "unused:latest": 0}
    (volume,) = found["Volumes"]
    assert volume["UsageData"]["RefCount"] == 2
    assert volume["UsageData"]["Size"] >= 0
    assert {row["Names"][0] for row in found["Containers"]} == {"/one", "/two"}
    assert all("SizeRootFs" in row for row in found["Containers"])
    assert found["BuildCache"] == []


async def test_a_layer_of_several_images_counts_once(bench: Bench) -> None:
    before = (await bench.gateway.system.disk_usage(KINDS))["LayersSize"]
    bench.image("unused", layers=("a", "b"))
    after = (await bench.gateway.system.disk_usage(KINDS))["LayersSize"]
    layers = {uuid for image in bench.catalog.images() for uuid in image.uuids}
    each = {uuid: await bench.host.datasets.used_bytes(uuid) for uuid in layers}
    assert after == sum(each.values()) >= before


async def test_what_is_not_asked_for_is_not_looked_at(bench: Bench) -> None:
    found = await bench.gateway.system.disk_usage(frozenset(("volume",)))
    assert found == {
        "LayersSize": 0,
        "Images": None,
        "Containers": None,
        "Volumes": [],
        "BuildCache": None,
    }


async def test_a_volume_that_goes_meanwhile_has_no_size(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.create("one", HostConfig={"Binds": ["data:/a"]})

    async def gone(name: str) -> int:
        raise NotFound(f"get {name}: no such volume")

    monkeypatch.setattr(bench.host.volumes, "used_bytes", gone)
    found = await bench.gateway.system.disk_usage(KINDS)
    assert found["Volumes"][0]["UsageData"]["Size"] == -1


async def test_credentials_of_a_proxy_are_not_shown(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@proxy:3128/")
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    info = await bench.gateway.system.info()
    assert info["HttpProxy"] == "http://xxxxx:xxxxx@proxy:3128/"
    assert info["HttpsProxy"] == "http://proxy:3128"


async def test_a_list_at_once_is_the_list(bench: Bench) -> None:
    await bench.started("one")
    await bench.create("two")
    query = ListQuery(all=True)
    assert bench.gateway.containers.listed(query) == await bench.gateway.containers.list(query)


async def test_a_row_shows_the_image_by_its_id_once_the_name_is_anothers(bench: Bench) -> None:
    await bench.create("one")
    query = ListQuery(all=True)
    old = bench.catalog.get("busybox")
    assert b'"Image":"busybox"' in bench.gateway.containers.listed(query)
    bench.image("busybox", layers=("c",))
    assert f'"Image":"{old.id}"'.encode() in bench.gateway.containers.listed(query)
