"""Subvolumes by ioctl, and a store on them that was killed: on a disk in a file."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockerapi.errors import APIError
from gateway.hosts.linux import btrfs
from gateway.hosts.linux.btrfsdatasets import BtrfsDatasets
from imgsources.datasets import LayerInfo
from imgsources.oci import Digest, ImageUUID, image_uuid
from tests.fakes import loopdisk
from tests.fakes.registry import layer_tar

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not loopdisk.has_btrfs(), reason="no btrfs in this kernel"),
]
INFO = LayerInfo(Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64), 5)
NAME = image_uuid([INFO.diff_id])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with loopdisk.btrfs(tmp_path) as place:
        yield place


async def image(store: BtrfsDatasets, size: int = 5) -> ImageUUID:
    async with store.extend(NAME, origin=None, layer=INFO) as tree:
        await tree.apply(io.BytesIO(layer_tar({"f": os.urandom(size)})))
    return NAME


def test_a_subvolume_goes_with_those_that_its_users_made_in_it(disk: Path) -> None:
    btrfs.create(disk / "a")
    (disk / "a/folder").mkdir()
    for name in ("a/folder/b", "a/folder/b/c", "a/d"):
        btrfs.create(disk / name)
        (disk / name / "f").write_bytes(b"1")
    btrfs.create(disk / "beside")
    assert btrfs.is_subvolume(disk / "a/d")
    assert not btrfs.is_subvolume(disk / "a/folder")
    btrfs.destroy(disk / "a")
    assert loopdisk.subvolumes(disk) == ["beside"]
    assert not btrfs.is_subvolume(disk / "a")


def test_a_snapshot_is_written_to_by_itself(disk: Path) -> None:
    btrfs.create(disk / "a")
    (disk / "a/f").write_bytes(b"1")
    btrfs.snapshot(disk / "a", disk / "b")
    (disk / "b/f").write_bytes(b"2")
    assert (disk / "a/f").read_bytes() == b"1"


def test_what_a_subvolume_refers_to_is_counted_and_limited(disk: Path) -> None:
    btrfs.create(disk / "a")
    (disk / "a/f").write_bytes(os.urandom(3 << 20))
    btrfs.enable_quotas(disk)
    btrfs.enable_quotas(disk)
    btrfs.snapshot(disk / "a", disk / "b")  # which has the disk write all that is before it
    assert 3 << 20 <= btrfs.referenced(disk / "a") < 4 << 20
    btrfs.limit(disk / "b", 5 << 20)
    with pytest.raises(OSError, match="quota") as caught:
        (disk / "b/g").write_bytes(os.urandom(3 << 20))
    assert caught.value.errno == errno.EDQUOT
    (disk / "a/g").write_bytes(os.urandom(3 << 20))


def test_a_name_that_is_too_long_is_refused(disk: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        btrfs.create(disk / ("x" * 256))


async def test_what_a_killed_gateway_left_is_swept_at_opening(disk: Path) -> None:
    store = await BtrfsDatasets.open(disk)
    name = await image(store)
    await store.clone(name, "kept")
    store.close()
    layer = disk / "datasets" / name / "layer"
    for folder, inside in (
        ("datasets/.partial-x", "layer"),
        ("zones/half", "rootfs"),
        ("trash/old", "rootfs"),
    ):
        (disk / folder).mkdir()
        btrfs.snapshot(layer, disk / folder / inside)
    btrfs.create(disk / "zones/half/rootfs/nested")
    again = await BtrfsDatasets.open(disk)
    again.close()
    assert (await again.list(), again.zones()) == ({name}, {"kept"})
    assert loopdisk.subvolumes(disk) == [f"datasets/{name}/layer", "zones/kept/rootfs"]
    assert [*(disk / "trash").iterdir()] == []


async def test_a_size_that_the_image_alone_needs_is_refused(disk: Path) -> None:
    store = await BtrfsDatasets.open(disk, least_size=1 << 20)
    name = await image(store, 2 << 20)
    for size, least in ((1000, "1.049MB"), (1 << 20, "2.1")):
        with pytest.raises(APIError, match=rf"btrfs: storage size cannot be less than {least}"):
            await store.clone(name, "z", size=size)
    assert store.zones() == frozenset()
    store.close()
    assert loopdisk.subvolumes(disk) == [f"datasets/{name}/layer"]


async def test_a_full_disk_spoils_a_layer_and_leaves_nothing(disk: Path) -> None:
    store = await BtrfsDatasets.open(disk)
    free = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - (24 << 20))))
    os.sync()
    with pytest.raises(APIError, match=r"needs more space than is free|No space left"):
        await image(store, 40 << 20)
    (disk / "ballast").unlink()
    store.close()
    assert loopdisk.subvolumes(disk) == []
    assert [*(disk / "datasets").iterdir()] == []
