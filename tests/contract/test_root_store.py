"""What every RootStore of the Linux host must do with the roots of zones: overlay, btrfs, and zfs where there is one."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from dockerapi.errors import APIError, Conflict, NotFound
from gateway.hosts.command import default_spawner
from gateway.hosts.linux import copier, overlay
from gateway.hosts.linux.store import RootStore
from imgsources.oci import ImageUUID
from tests.contract.test_dataset_store import INFO, STORES, disk, place_of, uuid
from tests.fakes.registry import FileContent, layer_tar

__all__ = ["disk"]
pytestmark = pytest.mark.root
ROOTS = [name for name in STORES if name in ("overlay", "btrfs", "real zfs on linux")]


@pytest.fixture(params=ROOTS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RootStore]:
    async with STORES[request.param](place_of(request.param, request, tmp_path)) as opened:
        roots = cast("RootStore", opened)
        yield roots
        for zone in roots.zones():
            await roots.discard(zone)


async def image(store: RootStore, *layers: dict[str, FileContent]) -> ImageUUID:
    """Datasets of these layers, base first; the top one's name."""
    names: list[str] = []
    for number, files in enumerate(layers):
        origin = uuid(*names) if names else None
        names.append(str(number))
        async with store.extend(uuid(*names), origin=origin, layer=INFO) as tree:
            await tree.apply(io.BytesIO(layer_tar(files)))
    return uuid(*names)


async def mounted(store: RootStore, zone: str, *layers: dict[str, FileContent]) -> Path:
    await store.clone(await image(store, *layers) if layers else None, zone)
    return await store.mount(zone)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


async def changes(store: RootStore, zone: str) -> list[tuple[str, int]]:
    """What copier.py tells of a root, in a process as the host has it."""
    plan: dict[str, Any] = await store.reach(zone, compare=True, is_mounted=True)
    read, write = os.pipe()
    child = await default_spawner().spawn(
        copier.command(plan | {"op": "changes", "path": "", "mounts": [], "readonly": False}),
        fds={1: write},
    )
    os.close(write)
    with os.fdopen(read, "rb") as output:
        text = await asyncio.to_thread(output.read)
    assert await child.wait() == 0
    return [(path, kind) for path, kind in copier.unpacked(text.strip())["changes"]]


async def test_a_root_has_all_layers_and_what_they_hide_is_hidden(store: RootStore) -> None:
    root = await mounted(
        store,
        "z",
        {"a": b"1", "b": b"1", "gone": b"1", "op/old": b"1", "usr/lib/x": b"1", "lib": "usr/lib"},
        {"b": b"2", ".wh.gone": b"", "op/": b"", "op/.wh..wh..opq": b"", "op/new": b"2", "lib/y": b"2"},
    )  # fmt: skip
    assert names(root) == ["a", "b", "lib", "op", "usr"]
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"1", b"2")
    assert names(root / "op") == ["new"]
    assert names(root / "usr/lib") == ["x", "y"]


async def test_what_a_zone_writes_is_its_own(store: RootStore) -> None:
    first = await mounted(store, "one", {"f": b"1"})
    await store.clone(store_origin := uuid("0"), "two")
    second = await store.mount("two")
    (first / "f").write_bytes(b"changed")
    (first / "new").write_bytes(b"123")
    assert names(second) == ["f"]
    assert (second / "f").read_bytes() == b"1"
    assert await store.root_size("one") == 10
    assert await store.root_size("two") == 0
    assert await store.exists(store_origin)


async def test_changes_are_told_as_docker_diff_shows_them(store: RootStore) -> None:
    root = await mounted(
        store,
        "z",
        {"etc/": b"", "etc/keep": b"1", "etc/old": b"1", "d/e/f": b"1", "mode": b"1", "was/x": b"1"},
    )  # fmt: skip
    (root / "etc/old").unlink()
    (root / "d/e/f").write_bytes(b"22")
    (root / "mode").chmod(0o600)
    (root / "was/x").unlink()
    (root / "was").rmdir()
    (root / "was").write_bytes(b"a file now")
    (root / "new/deep").mkdir(parents=True)
    (root / "link").symlink_to("/etc/shadow")
    assert await changes(store, "z") == [
        ("/d", 0),
        ("/d/e", 0),
        ("/d/e/f", 0),
        ("/etc", 0),
        ("/etc/old", 2),
        ("/link", 1),
        ("/mode", 0),
        ("/new", 1),
        ("/new/deep", 1),
        ("/was", 0),
    ]


async def test_a_root_without_an_image_is_empty(store: RootStore) -> None:
    root = await mounted(store, "z")
    assert names(root) == []
    (root / "f").write_bytes(b"1")
    assert await changes(store, "z") == [("/f", 1)]
    assert await store.root_size("z") == 1


async def test_a_root_outlives_the_run_of_its_zone(store: RootStore) -> None:
    root = await mounted(store, "z", {"f": b"1"})
    (root / "mine").write_bytes(b"1")
    assert await store.mount("z") == root
    await store.unmount("z")
    await store.unmount("z")
    assert names(await store.mount("z")) == ["f", "mine"]


async def test_a_dataset_goes_after_the_zones_that_stand_on_it(store: RootStore) -> None:
    name = await image(store, {"f": b"1"})
    await store.clone(name, "z")
    with pytest.raises(Conflict):
        await store.destroy(name)
    with pytest.raises(Conflict):
        await store.clone(name, "z")
    store.leave("z")
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(store.destroy(name))
        group.create_task(store.discard("z"))
    assert (store.zones(), await store.list()) == (frozenset(), frozenset())
    with pytest.raises(NotFound):
        await store.root_size("z")


async def test_an_image_can_be_looked_at_and_not_written_to(
    store: RootStore, tmp_path: Path
) -> None:
    name = await image(store, {"f": b"1"}, {"g": b"2"})
    where = tmp_path / "view"
    where.mkdir()
    await asyncio.to_thread(store.show, name, where)
    try:
        assert names(where) == ["f", "g"]
        with pytest.raises(OSError, match="Read-only file system"):
            (where / "h").write_bytes(b"1")
    finally:
        overlay.unmount(where)
    assert store.image_folder(name).name == name


async def test_no_other_user_of_the_machine_reaches_a_root(store: RootStore) -> None:
    root = await mounted(store, "z", {"f": b"1"})
    assert any(stat.S_IMODE(above.stat().st_mode) == 0o700 for above in root.parents)


async def test_a_root_with_a_size_takes_no_more_than_that(store: RootStore) -> None:
    name = await image(store, {"f": b"1"})
    if store.sized_folders is None:
        with pytest.raises(APIError, match="--storage-opt is supported only for overlay over xfs"):
            store.check_size(1 << 20)
        with pytest.raises(APIError, match="pquota"):
            await store.clone(name, "z", size=1 << 20)
        assert store.zones() == frozenset()
        return
    await store.clone(name, "z", size=4 << 20)
    root = await store.mount("z")
    assert fill(root / "big", 16) in (errno.EDQUOT, errno.ENOSPC)
    await store.discard("z")


async def test_a_folder_with_a_size_takes_no_more_than_that(
    store: RootStore, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folders = store.sized_folders
    if folders is None:
        return
    node = request.node.callspec.params["store"]
    above = place_of("btrfs", request, tmp_path / "v") if node == "btrfs" else tmp_path / "v"
    above.mkdir(exist_ok=True)
    await folders.make(above / "_data", 4 << 20)
    assert fill(above / "_data/big", 16) in (errno.EDQUOT, errno.ENOSPC)
    overlay.unmount(above / "_data")
    await folders.remove(above / "_data")
    await folders.remove(above / "_data")
    assert not (above / "_data").is_dir()


def fill(path: Path, mebibytes: int) -> int:
    """The error that writing so much runs into, 0 if there is none.  Nothing that compresses."""
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(mebibytes):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno or -1
    return 0
