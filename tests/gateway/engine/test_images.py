"""Images: names taken away, images deleted, lists filtered, in dockerd's words."""

from __future__ import annotations

import pytest

from dockerapi.errors import Conflict, InvalidParameter, NoSuchImage
from dockerapi.filters import Filters
from gateway.engine.image_shapes import glob, until_ns
from gateway.engine.progress import bar, message
from imgsources.transfers import PullEvent
from tests.gateway.engine.conftest import Bench


async def tags(bench: Bench, **filters: list[str]) -> list[list[str]]:
    """RepoTags of the list."""
    rows = await bench.gateway.images.list(
        all=False, digests=False, shared_size=False, filters=Filters(filters)
    )
    return sorted(row["RepoTags"] for row in rows)


async def remove(bench: Bench, name: str, *, force: bool = False) -> list[str]:
    """`key value` of each record."""
    records = await bench.gateway.images.remove(name, force=force, noprune=False)
    return [f"{key} {value}" for record in records for key, value in record.items()]


async def test_the_last_name_takes_the_image_and_its_datasets_along(bench: Bench) -> None:
    image = bench.catalog.get("busybox")
    await bench.gateway.images.tag("busybox", repo="other", tag="1")
    assert await remove(bench, "busybox") == ["Untagged busybox:latest"]
    gone = await remove(bench, "other:1")
    assert gone[:2] == ["Untagged other:1", f"Deleted {image.id}"]
    assert bench.host.datasets.present == set()
    told = await bench.told()
    assert told == ["image tag", "image untag", "image untag", "image delete"]


async def test_an_image_in_use_keeps_its_name_unless_forced(bench: Bench) -> None:
    docker_id = await bench.create()
    with pytest.raises(Conflict) as caught:
        await remove(bench, "busybox")
    assert caught.value.message == (
        'conflict: unable to remove repository reference "busybox" (must force) - container '
        f"{docker_id[:12]} is using its referenced image {bench.catalog.get('busybox').id[7:19]}"
    )
    assert "Untagged busybox:latest" in await remove(bench, "busybox", force=True)


async def test_an_image_of_a_running_container_cannot_be_deleted(bench: Bench) -> None:
    await bench.started()
    image = bench.catalog.get("busybox")
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image is being used by running"):
        await remove(bench, image.id, force=True)
    assert await remove(bench, "busybox", force=True) == ["Untagged busybox:latest"]
    assert bench.catalog.get(image.id).references == ()


async def test_an_id_with_two_names_must_be_forced(bench: Bench) -> None:
    image = bench.catalog.get("busybox")
    await bench.gateway.images.tag("busybox", repo="other", tag="")
    with pytest.raises(Conflict, match=r"\(must be forced\) - image is referenced in multiple"):
        await remove(bench, image.id[7:19])
    gone = await remove(bench, image.id[7:19], force=True)
    assert {"Untagged busybox:latest", "Untagged other:latest"} < set(gone)


async def test_names_that_cannot_be(bench: Bench) -> None:
    with pytest.raises(InvalidParameter, match="image name cannot be blank"):
        await remove(bench, " ")
    with pytest.raises(NoSuchImage, match="No such image: nope:latest"):
        await remove(bench, "nope")
    with pytest.raises(InvalidParameter, match="refusing to create an ambiguous tag"):
        await bench.gateway.images.tag("busybox", repo="sha256", tag="x")
    with pytest.raises(InvalidParameter, match="invalid tag format"):
        await bench.gateway.images.tag("busybox", repo="x", tag="a b")
    with pytest.raises(InvalidParameter, match="must be lowercase"):
        await bench.gateway.images.tag("busybox", repo="Xy", tag="a")


async def test_filters_of_the_list(bench: Bench) -> None:
    bench.image("localhost:5000/team/app:1", layers=("a", "b"), Labels={"k": "v"})
    both = [["busybox:latest"], ["localhost:5000/team/app:1"]]
    cases: list[tuple[dict[str, list[str]], list[list[str]]]] = [
        ({}, both),
        ({"reference": ["busy*"]}, both[:1]),
        ({"reference": ["*/team/*:1"]}, both[1:]),
        ({"reference": ["docker.io/library/busybox"]}, both[:1]),
        ({"label": ["k=v"]}, both[1:]),
        ({"dangling": ["true"]}, []),
        ({"dangling": ["false"]}, both),
        ({"until": ["1h"]}, both),
        ({"since": ["busybox"]}, []),
    ]
    for filters, expected in cases:
        assert await tags(bench, **filters) == expected, filters
    for wrong in ({"foo": ["x"]}, {"dangling": ["zz"]}, {"until": ["zz"]}):
        with pytest.raises(InvalidParameter, match="invalid filter"):
            await tags(bench, **wrong)


async def test_shared_layers_are_counted_when_asked(bench: Bench) -> None:
    bench.image("app", layers=("a", "b"))
    rows = await bench.gateway.images.list(
        all=False, digests=False, shared_size=True, filters=Filters()
    )
    assert {row["SharedSize"] for row in rows} == {100}


async def test_inspect_and_history(bench: Bench) -> None:
    image = bench.image("app", layers=("a", "b"))
    shown = await bench.gateway.images.inspect("app")
    assert shown["Id"] == image.id
    assert shown["RootFS"]["Layers"] == list(image.config.diff_ids)
    assert shown["Config"]["Cmd"] == ["sh"]
    rows = await bench.gateway.images.history("app")
    assert [(row["Id"], row["CreatedBy"], row["Size"]) for row in rows] == [
        (image.id, "ADD b", 100),
        ("<missing>", "ADD a", 100),
    ]


async def test_a_platform_that_is_none_is_refused(bench: Bench) -> None:
    for text in ("foo", "linux/a/b/c", "lin ux"):
        with pytest.raises(InvalidParameter):
            await bench.gateway.images.pull("busybox", tag="latest", platform=text, auth=None)


def test_progress_is_drawn_as_dockerd_does() -> None:
    event = PullEvent("Downloading", id="abc", current=500, total=1000)
    assert message(event) == {
        "status": "Downloading",
        "progressDetail": {"current": 500, "total": 1000},
        "progress": "[" + "=" * 25 + ">" + " " * 25 + "]     500B/1kB",
        "id": "abc",
    }
    assert message(PullEvent("Pulling from library/x", id="latest")) == {
        "status": "Pulling from library/x",
        "id": "latest",
    }
    assert bar(0, 0) == ""


def test_globs_stop_at_slashes() -> None:
    assert glob("a*").fullmatch("abc")
    assert not glob("a*").fullmatch("a/b")
    assert glob("[ab]?").fullmatch("bx")
    with pytest.raises(InvalidParameter):
        glob("[a")


def test_moments_before_now() -> None:
    assert until_ns("1m30s", 100 * 10**9) == 10 * 10**9
    assert until_ns("5", 0) == 5 * 10**9
    assert until_ns("1970-01-01T00:00:07Z", 0) == 7 * 10**9
