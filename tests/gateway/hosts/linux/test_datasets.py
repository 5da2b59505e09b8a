"""Overlay datasets and the roots of zones, on real mounts."""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dockerapi.errors import Conflict, NotFound
from gateway.hosts.command import default_spawner
from gateway.hosts.linux import overlay
from gateway.hosts.linux.datasets import OverlayDatasets
from imgsources.datasets import LayerInfo
from imgsources.oci import Digest, ImageUUID, image_uuid
from tests.fakes.registry import FileContent, layer_tar

pytestmark = pytest.mark.root

INFO = LayerInfo(Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64), 5)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[OverlayDatasets]:
    opened = await OverlayDatasets.open(tmp_path / "s")
    yield opened
    for zone in opened.zones():
        await opened.discard(zone)
    opened.close()
    overlay.unmount(tmp_path / "s")
    assert [target for target, _ in overlay.mounts() if target.startswith(str(tmp_path))] == []


async def test_layers_are_not_for_the_machines_other_users(
    store: OverlayDatasets, tmp_path: Path
) -> None:
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o700


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def folder(name: str, mode: int = 0o755, uid: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid = tarfile.DIRTYPE, mode, uid
    return info


async def image(store: OverlayDatasets, *layers: dict[str, FileContent]) -> ImageUUID:
    """Datasets of these layers, base first; the top one's name."""
    origin = None
    name = None
    for number in range(len(layers)):
        name = image_uuid([Digest(f"sha256:{n:064x}") for n in range(number + 1)])
        async with store.extend(name, origin=origin, layer=INFO) as tree:
            await tree.apply(io.BytesIO(layer_tar(layers[number])))
        origin = name
    assert name is not None
    return name


async def mounted(store: OverlayDatasets, zone: str, *layers: dict[str, FileContent]) -> Path:
    await store.clone(await image(store, *layers) if layers else None, zone)
    return await store.mount(zone)


async def test_a_zone_sees_all_layers_and_writes_to_its_own(store: OverlayDatasets) -> None:
    root = await mounted(store, "z", {"a": b"1", "b": b"1"}, {"b": b"2"})
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"1", b"2")
    (root / "c").write_bytes(b"123")
    assert (store.folder("z") / "upper" / "c").read_bytes() == b"123"
    assert await store.root_size("z") == 3
    (root / "etc").mkdir()
    (root / "etc/mtab").symlink_to("/proc/mounts")
    assert await store.root_size("z") == 3, "every root is given that link"


async def test_whiteouts_and_opaque_directories_hide_what_is_below(store: OverlayDatasets) -> None:
    root = await mounted(
        store,
        "z",
        {"gone": b"1", "op/old": b"1", "k/old": b"1", "stays": b"1"},
        {
            ".wh.gone": b"",
            "op/": b"",
            "op/.wh..wh..opq": b"",
            "op/new": b"2",
            ".wh.k": b"",
            "k/": b"",
        },
    )
    assert names(root) == ["k", "op", "stays"]
    assert names(root / "op") == ["new"]
    assert names(root / "k") == []


async def test_an_opaque_root_hides_every_lower_layer(store: OverlayDatasets) -> None:
    root = await mounted(store, "z", {"a": b"1"}, {".wh..wh..opq": b"", "b": b"2"}, {"c": b"3"})
    assert names(root) == ["b", "c"]


async def test_directories_that_a_layer_leaves_out_keep_their_attributes(
    store: OverlayDatasets,
) -> None:
    root = await mounted(
        store,
        "z",
        {"./": folder("./", 0o711, 7), "tmp": folder("tmp", 0o1777, 3)},
        {"tmp/x": b"1"},
        {"tmp/y": b"1"},
    )
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert (root / "tmp").stat().st_uid == 3
    assert (stat.S_IMODE(root.stat().st_mode), root.stat().st_uid) == (0o711, 7)
    assert names(root / "tmp") == ["x", "y"]


async def test_files_below_a_symlink_of_a_lower_layer_go_where_it_leads(
    store: OverlayDatasets,
) -> None:
    root = await mounted(
        store,
        "z",
        {"usr/lib/a": b"1", "lib": "usr/lib", "run": folder("run", 0o711), "var/run": "/run"},
        {"lib/b": b"2", "lib/sub/c": b"3", "var/run/d": b"4"},
    )
    assert (root / "lib").is_symlink()
    assert names(root / "usr/lib") == ["a", "b", "sub"]
    assert (root / "usr/lib/sub/c").read_bytes() == b"3"
    assert (root / "run/d").read_bytes() == b"4"
    assert stat.S_IMODE((root / "run").stat().st_mode) == 0o711


async def test_a_lower_link_may_lead_to_a_folder_above_itself(store: OverlayDatasets) -> None:
    root = await mounted(store, "z", {"a": "/", "b/x": b"1"}, {"a/a": b"2", "a/b/y": b"3"})
    assert (root / "a").read_bytes() == b"2"
    assert names(root / "b") == ["x", "y"]
    assert names(root) == ["a", "b"]


async def test_a_zone_without_an_image_has_an_empty_root(store: OverlayDatasets) -> None:
    root = await mounted(store, "z")
    assert names(root) == []
    (root / "f").write_bytes(b"1")


async def test_image_devices_work_in_the_root(store: OverlayDatasets) -> None:
    null = tarfile.TarInfo("null")
    null.type, null.devmajor, null.devminor = tarfile.CHRTYPE, 1, 3
    root = await mounted(store, "z", {"null": null})
    (root / "null").write_bytes(b"swallowed")
    assert (root / "null").read_bytes() == b""


async def test_mounting_twice_and_unmounting_twice_are_fine(store: OverlayDatasets) -> None:
    root = await mounted(store, "z", {"a": b"1"})
    await store.mount("z")
    await store.unmount("z")
    assert names(root) == []
    await store.unmount("z")


async def test_a_dataset_under_a_zone_cannot_be_destroyed(store: OverlayDatasets) -> None:
    await mounted(store, "z", {"a": b"1"})
    top = store.origin("z")
    assert top is not None
    with pytest.raises(Conflict, match="in use by zone z"):
        await store.destroy(top)
    await store.discard("z")
    await store.destroy(top)


async def test_a_dataset_whose_folder_was_taken_away_can_be_destroyed_and_made_again(
    store: OverlayDatasets, tmp_path: Path
) -> None:
    name = await image(store, {"a": b"1"})
    shutil.rmtree(tmp_path / "s" / "datasets" / name)
    await store.destroy(name)
    assert not await store.exists(name)
    assert await image(store, {"a": b"1"}) == name


async def test_a_discarded_zone_is_gone_at_once(store: OverlayDatasets) -> None:
    await mounted(store, "z", {"a": b"1"})
    await store.discard("z")
    assert not store.folder("z").exists()
    assert store.zones() == frozenset()
    await store.discard("z")
    with pytest.raises(NotFound):
        await store.mount("z")


async def test_a_zone_is_cloned_once(store: OverlayDatasets) -> None:
    await mounted(store, "z")
    with pytest.raises(Conflict):
        await store.clone(None, "z")
    with pytest.raises(NotFound):
        await store.clone(image_uuid([Digest("none")]), "y")
    assert store.zones() == {"z"}


async def tower(store: OverlayDatasets) -> ImageUUID:
    """An image of as many layers as dockerd allows, most of them empty."""
    origin = await image(store, {"base": b"1"})
    for number in range(126):
        name = image_uuid([Digest(f"sha256:{number:064x}"), Digest("tower")])
        async with store.extend(name, origin=origin, layer=INFO) as tree:
            if number == 125:
                await tree.apply(io.BytesIO(layer_tar({"top": b"1"})))
        origin = name
    return origin


async def test_roots_of_127_layers_can_be_mounted(store: OverlayDatasets) -> None:
    await store.clone(await tower(store), "z")
    assert names(await store.mount("z")) == ["base", "top"]


async def test_kernels_without_single_lower_directories_mount_them_too(
    store: OverlayDatasets, tmp_path: Path
) -> None:
    top = await tower(store)
    for name in ("old", "up", "work"):
        (tmp_path / name).mkdir()
    options = [("upperdir", str(tmp_path / "up")), ("workdir", str(tmp_path / "work"))]
    overlay.mount_by_options(tmp_path / "old", store.lowers(top), options)
    try:
        assert names(tmp_path / "old") == ["base", "top"]
    finally:
        overlay.unmount(tmp_path / "old")
    assert names(tmp_path) == ["old", "s", "up", "work"]


async def test_the_store_is_a_shared_mount(store: OverlayDatasets, tmp_path: Path) -> None:
    assert dict(overlay.mounts())[str(tmp_path / "s")] is True


async def test_a_mount_is_seen_in_another_mount_namespace(store: OverlayDatasets) -> None:
    await store.clone(await image(store, {"a": b"1"}), "z")
    ready, tell = os.pipe()
    go, start = os.pipe()
    seen, answer = os.pipe()
    code = (
        "import ctypes, os, sys; ctypes.CDLL(None).unshare(0x20000); os.write(3, b'r');"
        " os.read(4, 1); os.write(5, ' '.join(os.listdir(sys.argv[1])).encode())"
    )
    argv = [sys.executable, "-c", code, str(store.folder("z") / "rootfs")]
    child = await default_spawner().spawn(argv, fds={3: tell, 4: go, 5: answer})
    assert os.read(ready, 1) == b"r"
    await store.mount("z")
    os.write(start, b"g")
    await child.wait()
    os.close(answer)
    assert os.read(seen, 100) == b"a"
    for descriptor in (ready, tell, go, start, seen):
        os.close(descriptor)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where a test opens stores itself."""
    yield tmp_path / "s"
    overlay.unmount(tmp_path / "s")


async def test_leftovers_of_a_killed_process_are_swept_at_opening(place: Path) -> None:
    root = place
    for name in ("datasets/.partial-x-1/layer/d", "trash/t/d", "zones/half/upper", "datasets/bad"):
        (root / name).mkdir(parents=True)
        (root / name / "f").write_text("x")
    store = await OverlayDatasets.open(root)
    assert (await store.list(), store.zones()) == (frozenset(), frozenset())
    store.close()
    assert [str(p) for p in root.rglob("*") if p.name == "f"] == []


async def test_zones_are_known_again_after_a_restart(place: Path) -> None:
    store = await OverlayDatasets.open(place)
    root = await mounted(store, "z", {"a": b"1"})
    top = store.origin("z")
    (root / "own").write_text("kept")
    store.close()
    again = await OverlayDatasets.open(place)
    assert (again.zones(), again.origin("z")) == ({"z"}, top)
    assert (await again.mount("z") / "own").read_text() == "kept"
    await again.discard("z")
    again.close()
