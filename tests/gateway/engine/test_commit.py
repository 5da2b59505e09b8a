"""Commit: names, events, pauses, refusals, and what becomes of images that others stand on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dockerapi.engine import CommitQuery
from dockerapi.errors import Conflict, InvalidParameter, NoSuchContainer, NoSuchImage, NotSupported
from dockerapi.filters import Filters
from dockerapi.models.containers import ContainerCreate
from gateway.zones.host import Zone, ZoneUUID
from gateway.zones.spec import ZoneState
from imgsources.oci import sha256
from tests.gateway.engine.conftest import Bench


async def commit(bench: Bench, ref: str, **query: Any) -> str:
    answer = await bench.gateway.commits.commit(ref, CommitQuery(**query), ContainerCreate())
    return str(answer["Id"])


async def changed(bench: Bench, ref: str, tar: bytes, **query: Any) -> str:
    bench.host.files.tar = tar
    return await commit(bench, ref, **query)


async def listed(bench: Bench, **how: Any) -> set[str]:
    given = {"all": False, "digests": False, "shared_size": False, "filters": Filters()} | how
    return {row["Id"] for row in await bench.gateway.images.list(**given)}


async def removed(
    bench: Bench, name: str, *, force: bool = False, noprune: bool = False
) -> list[str]:
    rows = await bench.gateway.images.remove(name, force=force, noprune=noprune)
    return [next(iter(row)) for row in rows]


def spooled(tmp_path: Path) -> list[Path]:
    return [
        path for path in tmp_path.rglob("*") if "commit-" in path.name or ".partial" in path.name
    ]


async def test_an_image_stands_on_the_containers_own(bench: Bench, tmp_path: Path) -> None:
    await bench.create("web", Env=["A=1"], Labels={"l": "1"})
    made = await commit(bench, "web", repo="mine", author="me", comment="why")
    image = bench.catalog.get("mine:latest")
    base = bench.catalog.get("busybox")
    assert (image.id, image.parent) == (made, base.id)
    assert image.config.diff_ids == (*base.config.diff_ids, sha256(b"tar of changes"))
    assert image.layers[-1].digest == sha256(b"tar of changes")
    assert image.uuids[:-1] == base.uuids
    assert set(image.uuids) <= bench.host.datasets.present
    shown = await bench.gateway.images.inspect("mine")
    assert (shown["Parent"], shown["Author"], shown["Comment"]) == (base.id, "me", "why")
    assert shown["Config"]["Labels"] == {"l": "1"}
    assert shown["ContainerConfig"]["Env"] == ["A=1"]
    history = await bench.gateway.images.history("mine")
    assert [row["Id"] for row in history] == [image.id, base.id]
    assert history[0]["Tags"] == ["mine:latest"]
    assert spooled(tmp_path) == []


async def test_a_container_can_be_made_of_it(bench: Bench) -> None:
    await bench.create("web", Env=["A=1"], Cmd=["run"])
    await commit(bench, "web", repo="mine", changes=("ENV B=2",))
    await bench.create("child", Image="mine")
    shown = await bench.inspect("child")
    assert shown["Config"]["Env"] == ["A=1", "B=2"]
    assert shown["Config"]["Cmd"] == ["run"]
    assert shown["Zone"]["image_uuid"] == bench.catalog.get("mine").uuid


async def test_it_is_told_as_events(bench: Bench) -> None:
    await bench.started("web")
    await commit(bench, "web", repo="mine", tag="v1")
    assert (await bench.told())[-5:] == [
        "container pause",
        "container unpause",
        "image create",
        "image tag",
        "container commit",
    ]


async def test_only_what_runs_is_paused_and_only_if_asked_for(bench: Bench) -> None:
    await bench.create("made")
    await commit(bench, "made")
    await bench.started("web")
    await commit(bench, "web", pause=False)
    assert "container pause" not in await bench.told()
    await bench.gateway.containers.pause("web")
    await commit(bench, "web")
    assert (await bench.inspect("web"))["State"]["Status"] == "paused"
    assert "container unpause" not in await bench.told()


async def test_it_runs_on_though_its_changes_cannot_be_read(bench: Bench) -> None:
    docker_id = await bench.started("web")

    async def fails(uuid: ZoneUUID) -> None:
        assert bench.host.zones.get(uuid).state is ZoneState.PAUSED
        raise InvalidParameter("no")

    bench.host.files.layer = fails
    with pytest.raises(InvalidParameter):
        await commit(bench, "web", repo="mine")
    assert bench.host.zones.get(bench.uuid(docker_id)).state is ZoneState.RUNNING


async def test_without_a_freezer_it_is_committed_as_it_runs(bench: Bench) -> None:
    await bench.started("web")

    async def cannot(uuid: ZoneUUID) -> Zone:
        raise NotSupported("no freezer")

    bench.host.zones.pause = cannot
    await commit(bench, "web", repo="mine")
    assert bench.catalog.get("mine").parent


async def test_a_layer_that_fails_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    await bench.create("web")
    before = set(bench.host.datasets.present)
    with pytest.raises(InvalidParameter, match="broken layer"):
        await changed(bench, "web", b"broken", repo="mine")
    assert bench.host.datasets.present == before
    assert len(bench.catalog.images()) == 1
    assert spooled(tmp_path) == []


async def test_nothing_changed_is_no_layer(bench: Bench) -> None:
    await bench.create("web")
    await changed(bench, "web", bytes(10240), repo="mine")
    image, base = bench.catalog.get("mine"), bench.catalog.get("busybox")
    assert image.uuids == base.uuids
    assert json.loads(image.config.raw)["history"][-1]["empty_layer"] is True
    assert image.id != base.id


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"repo": "UPPER"}, "repository name .library/UPPER. must be lowercase"),
        ({"repo": "a", "tag": "b@c"}, "invalid tag format"),
        ({"repo": "a@sha256:" + "1" * 64}, "cannot import digest reference"),
        ({"repo": "sha256"}, "refusing to create an ambiguous tag"),
        ({"changes": ("RUN x",)}, "RUN is not a valid change command"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_done(
    bench: Bench, query: dict[str, Any], words: str
) -> None:
    await bench.started("web")
    with pytest.raises(InvalidParameter, match=words):
        await commit(bench, "web", **query)
    assert "container pause" not in await bench.told()
    assert len(bench.catalog.images()) == 1


async def test_containers_that_are_not_there_or_have_no_image_are_refused(bench: Bench) -> None:
    with pytest.raises(NoSuchContainer):
        await commit(bench, "nobody")
    bench.image("lost", layers=("x",))
    await bench.create("web", Image="lost")
    await bench.gateway.images.remove("lost", force=True, noprune=False)
    with pytest.raises(NoSuchImage):
        await commit(bench, "web")


async def test_a_container_on_its_way_out_is_refused(bench: Bench) -> None:
    docker_id = await bench.create("web")

    async def deleting(uuid: ZoneUUID) -> None:
        with pytest.raises(Conflict, match=f"You cannot commit container {docker_id} which is"):
            await commit(bench, "web")

    bench.host.zones.delete = deleting
    await bench.gateway.containers.remove("web", force=False, volumes=False, link=False)


async def test_parents_without_a_name_stay_for_their_children_and_go_with_them(
    bench: Bench,
) -> None:
    await bench.create("web")
    parent = await changed(bench, "web", b"one", repo="parent")
    await bench.create("next", Image="parent")
    child = await changed(bench, "next", b"two", repo="child")
    await bench.gateway.containers.remove("next", force=True, volumes=False, link=False)
    for force in (False, True):
        with pytest.raises(
            Conflict, match=r"cannot be forced.* - image has dependent child images"
        ):
            await removed(bench, parent, force=force)
    assert await removed(bench, "parent") == ["Untagged"]
    assert parent not in await listed(bench)
    assert parent in await listed(bench, all=True)
    assert parent not in await listed(bench, all=True, filters=Filters({"dangling": ["true"]}))
    shown = await bench.gateway.images.history("child")
    assert [row["Id"] for row in shown] == [child, parent, bench.catalog.get("busybox").id]
    # image, its layer, the parent that nobody needs any more, its layer
    assert await removed(bench, "child") == ["Untagged", "Deleted", "Deleted", "Deleted", "Deleted"]
    assert await listed(bench, all=True) == {bench.catalog.get("busybox").id}
    assert bench.host.datasets.present == set(bench.catalog.get("busybox").uuids)


async def test_parents_stay_if_they_are_not_to_be_pruned_or_are_used(bench: Bench) -> None:
    await bench.create("web")
    parent = await changed(bench, "web", b"one")
    await bench.create("next", Image=parent)
    child = await changed(bench, "next", b"two")
    await removed(bench, child)
    assert bench.catalog.get(parent)
    child = await changed(bench, "next", b"two")
    await bench.gateway.containers.remove("next", force=True, volumes=False, link=False)
    await removed(bench, child, noprune=True)
    assert bench.catalog.get(parent)
    assert await removed(bench, parent) == ["Deleted", "Deleted"]


async def test_a_pause_that_a_killed_gateway_left_is_ended(bench: Bench, tmp_path: Path) -> None:
    ours, theirs = await bench.started("ours"), await bench.started("theirs")
    for name in ("ours", "theirs"):
        await bench.gateway.containers.pause(name)
    for uuid in (bench.uuid(ours), "00000000-0000-0000-0000-000000000000"):
        (tmp_path / "tmp" / f"paused-{uuid}").touch()
    await bench.gateway.commits.recover()
    assert bench.host.zones.get(bench.uuid(ours)).state is ZoneState.RUNNING
    assert bench.host.zones.get(bench.uuid(theirs)).state is ZoneState.PAUSED
    assert list((tmp_path / "tmp").iterdir()) == []
