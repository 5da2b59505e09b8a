"""Volumes made and removed; prunes of volumes, containers and images: what goes, what stays, what is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dockerapi.errors import Conflict, InvalidParameter, NotFound
from dockerapi.filters import Filters
from dockerapi.models.volumes import VolumeCreate
from gateway.zones.host import Zone, ZoneUUID
from gateway.zones.spec import ZoneSpec
from tests.gateway.engine.conftest import Bench

ANONYMOUS = {"com.docker.volume.anonymous": ""}


async def volume(bench: Bench, name: str, **body: Any) -> dict[str, Any]:
    return await bench.gateway.volumes.create(VolumeCreate.model_validate({"Name": name, **body}))


def filters(**values: str) -> Filters:
    return Filters({key.replace("_not", "!"): [value] for key, value in values.items()})


async def test_a_volume_is_made_once(bench: Bench) -> None:
    made = await volume(bench, "data", Labels={"a": "1"})
    assert (made["Name"], made["Labels"], made["Driver"]) == ("data", {"a": "1"}, "local")
    assert await volume(bench, "data", Labels={"a": "2"}) == made
    assert (await bench.told()).count("volume create") == 1
    with pytest.raises(NotFound, match=r'create x: .* plugin nope: plugin "nope" not found'):
        await volume(bench, "x", Driver="nope")


async def test_an_anonymous_volume_that_somebody_names_is_kept(bench: Bench) -> None:
    await bench.host.volumes.create("f" * 64, labels=ANONYMOUS, options={}, owner="gone")
    await volume(bench, "f" * 64)
    await bench.gateway.volumes.sweep()
    assert bench.host.volumes.get("f" * 64).owner == ""


async def test_a_volume_is_removed_unless_a_container_has_it(bench: Bench) -> None:
    await volume(bench, "data")
    docker_id = await bench.create("web", HostConfig={"Binds": ["data:/x"]})
    for force in (False, True):
        with pytest.raises(Conflict, match=rf"remove data: volume is in use - \[{docker_id}\]"):
            await bench.gateway.volumes.remove("data", force=force)
    await bench.gateway.containers.remove("web", force=False, volumes=False, link=False)
    await bench.gateway.volumes.remove("data", force=False)
    assert (await bench.told())[-1] == "volume destroy"
    with pytest.raises(NotFound, match="get data: no such volume"):
        await bench.gateway.volumes.remove("data", force=False)
    await bench.gateway.volumes.remove("data", force=True)


async def test_a_volume_of_a_container_in_the_making_stays(bench: Bench) -> None:
    await volume(bench, "data")
    create = bench.host.zones.create

    async def slowly(spec: ZoneSpec) -> Zone:
        with pytest.raises(Conflict, match="volume is in use"):
            await bench.gateway.volumes.remove("data", force=False)
        pruned = await bench.gateway.volumes.prune(filters(all="true"))
        assert pruned["VolumesDeleted"] == []
        return await create(spec)

    bench.host.zones.create = slowly
    await bench.create("web", HostConfig={"Binds": ["data:/x"]}, Volumes={"/anonymous": {}})
    assert len((await bench.gateway.volumes.list(Filters()))["Volumes"]) == 2


async def test_a_volume_that_outlived_both_its_containers_is_pruned(bench: Bench) -> None:
    # The first, which it was made for, went with its volumes while the second had this one.
    await bench.host.volumes.create("f" * 64, labels=ANONYMOUS, options={}, owner="gone")
    await bench.create("web", HostConfig={"Binds": [f"{'f' * 64}:/x"]})
    assert (await bench.gateway.volumes.prune(filters()))["VolumesDeleted"] == []
    await bench.gateway.containers.remove("web", force=False, volumes=True, link=False)
    assert (await bench.gateway.volumes.prune(filters()))["VolumesDeleted"] == ["f" * 64]


async def test_volumes_are_pruned(bench: Bench) -> None:
    for name, labels in (("named", {}), ("anon", ANONYMOUS), ("kept", ANONYMOUS | {"k": "v"})):
        await volume(bench, name, Labels=labels)
    await volume(bench, "used", Labels=ANONYMOUS)
    await bench.create("web", HostConfig={"Binds": ["used:/x"]})
    prune = bench.gateway.volumes.prune
    assert await prune(filters(label_not="k")) == {"VolumesDeleted": ["anon"], "SpaceReclaimed": 7}
    assert (await bench.told())[-1] == "volume prune"
    assert (await prune(filters(label="k=v")))["VolumesDeleted"] == ["kept"]
    assert (await prune(filters()))["VolumesDeleted"] == []
    assert (await prune(filters(all="1")))["VolumesDeleted"] == ["named"]
    with pytest.raises(InvalidParameter, match="invalid filter 'until'"):
        await prune(filters(until="1h"))


async def test_containers_are_pruned(bench: Bench) -> None:
    ended = await bench.started("ended", Labels={"k": "v"})
    bench.host.zones.exit(bench.uuid(ended), 0)
    made = await bench.create("made")
    await bench.started("runs", Labels={"k": "v"})
    await bench.started("paused")
    await bench.gateway.containers.pause("paused")
    prune = bench.gateway.containers.prune
    assert (await prune(filters(until="1h")))["ContainersDeleted"] is None
    assert (await prune(filters(label="k")))["ContainersDeleted"] == [ended]
    assert (await prune(filters()))["ContainersDeleted"] == [made]
    assert (await bench.told())[-2:] == ["container destroy", "container prune"]
    assert await bench.inspect("runs")
    assert await bench.inspect("paused")


async def test_one_prune_of_a_kind_at_a_time(bench: Bench) -> None:
    await bench.create("web")
    under_way, over = asyncio.Event(), asyncio.Event()

    async def slowly(uuid: ZoneUUID) -> int:
        under_way.set()
        await over.wait()
        return 5

    bench.host.zones.root_size = slowly
    first = bench.group.create_task(bench.gateway.containers.prune(Filters()))
    await under_way.wait()
    with pytest.raises(Conflict, match="a prune operation is already running"):
        await bench.gateway.containers.prune(Filters())
    over.set()
    assert (await first)["SpaceReclaimed"] == 5


async def test_images_are_pruned(bench: Bench) -> None:
    unnamed = bench.image(layers=("a", "u"))
    used = bench.image("used:1", "used:2", layers=("a", "b"))
    await bench.create("web", Image="used:1")
    bench.image("named", layers=("a", "c"), Labels={"k": "v"})
    prune = bench.gateway.images.prune
    pruned = await prune(Filters())
    assert pruned["ImagesDeleted"][0] == {"Deleted": unnamed.id}
    assert pruned["SpaceReclaimed"] == 100
    assert await prune(Filters()) == {"ImagesDeleted": None, "SpaceReclaimed": 0}
    pruned = await prune(filters(dangling="false", label="k"))
    assert pruned["ImagesDeleted"][0] == {"Untagged": "named:latest"}
    pruned = await prune(filters(dangling="false"))
    # One name of two goes of an image that a container uses, the last one stays.
    gone = [row["Untagged"] for row in pruned["ImagesDeleted"] if "Untagged" in row]
    assert sorted(gone) == ["busybox:latest", "used:1"]
    assert [str(ref) for ref in bench.catalog.get(used.id).references] == ["used:2"]
    assert (await bench.told())[-1] == "image prune"
