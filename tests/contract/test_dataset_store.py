"""What every DatasetStore must do.  Add a store to `STORES` to have it judged."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest

from dockerapi.errors import Conflict, DigestMismatch, InvalidParameter, NotFound
from gateway.hosts.linux import overlay
from gateway.hosts.linux.btrfsdatasets import BtrfsDatasets
from gateway.hosts.linux.datasets import OverlayDatasets
from gateway.hosts.linux.zfsdatasets import ZFSDatasets as ZFSOnLinux
from gateway.hosts.smartos.datasets import ZFSDatasets
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.zfs import ZFS
from imgsources.datasets import DatasetStore, LayerInfo
from imgsources.oci import Digest, ImageUUID, image_uuid
from tests.fakes import loopdisk
from tests.fakes.globalzone import process
from tests.fakes.globalzone.programs import chroot_gtar
from tests.fakes.registry import layer_tar

pytestmark = pytest.mark.root

REAL_ZPOOL = "ZONEGATE_TEST_ZPOOL"
INFO = LayerInfo(Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64), 5)


@asynccontextmanager
async def overlay_store(folder: Path) -> AsyncIterator[DatasetStore]:
    store = await OverlayDatasets.open(folder)
    try:
        yield store
    finally:
        store.close()
        overlay.unmount(folder)


@asynccontextmanager
async def btrfs_store(folder: Path) -> AsyncIterator[DatasetStore]:
    store = await BtrfsDatasets.open(folder)
    try:
        yield store
    finally:
        store.close()
        made = [path for path in loopdisk.subvolumes(folder) if "/trash/" in path]
        assert not made, "what was thrown away is still there"


@asynccontextmanager
async def zfs_store(folder: Path) -> AsyncIterator[DatasetStore]:
    """The store of the SmartOS host in a fake global zone, which is there again when it is opened again."""
    fake = await asyncio.to_thread(process.start, folder)
    try:
        async with in_global_zone(fake) as gz:
            yield await ZFSDatasets.open(gz, zpool="zones", root=str(folder), instance="test")
            assert not list((folder / "var/tmp").glob("zonegate-*"))
            assert not list((folder / "var/run").glob("img.*"))
    finally:
        await asyncio.to_thread(fake.stop)


@asynccontextmanager
async def in_global_zone(fake: process.FakeGZ) -> AsyncIterator[LocalGlobalZone]:
    """What a gateway sees that runs there."""
    with pytest.MonkeyPatch.context() as patch:
        for key in ("PATH", "ZONEGATE_FAKE_GZ"):
            patch.setenv(key, fake.environment[key])
        async with LocalGlobalZone(str(fake.root)) as gz:
            yield gz


GTAR = f"""#!/bin/sh
exec {sys.executable} -I -S {chroot_gtar.__file__} "$@" -1
"""
# zfs-fuse cannot rename what is mounted, and takes a moment to let go of it.
ZFS_FUSE = """#!/bin/sh
PATH=$REAL_PATH
[ "$1" = rename ] || exec zfs "$@"
zfs umount "$2"
for n in 1 2 3 4 5 6 7 8 9 10; do
  zfs rename "$2" "$3" 2>/dev/null && exec zfs mount "$3"
  sleep 0.1
done
exec zfs rename "$2" "$3"
"""


@asynccontextmanager
async def real_zfs_store(folder: Path) -> AsyncIterator[DatasetStore]:
    """The same on a real zfs (zfs-fuse serves): everything in the pool ZONEGATE_TEST_ZPOOL goes, at every test."""
    zpool = os.environ[REAL_ZPOOL]
    programs = folder / "bin"
    is_new = not await asyncio.to_thread(folder.exists)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REAL_PATH", os.environ["PATH"])
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        async with LocalGlobalZone(str(folder)) as gz:
            if is_new:
                for path in (programs, folder / "var/run", folder / "var/tmp"):
                    path.mkdir(parents=True)
                for name, script in (("chroot-gtar", GTAR), ("zfs", ZFS_FUSE)):
                    (programs / name).write_text(script)
                    (programs / name).chmod(0o755)
                await empty(gz, zpool)
            yield await ZFSDatasets.open(gz, zpool=zpool, root=str(folder), instance="test")


@asynccontextmanager
async def zfs_on_linux(folder: Path) -> AsyncIterator[DatasetStore]:
    """That of the Linux host, on the same pool; what it made is gone with its folder."""
    parent = f"{os.environ[REAL_ZPOOL]}/linux"
    async with LocalGlobalZone(str(folder.parent)) as gz:
        if not await asyncio.to_thread(folder.exists):
            with suppress(NotFound):
                await ZFS(gz).destroy(parent)
            await ZFS(gz).create(parent, {"mountpoint": "none"})
            await asyncio.to_thread(folder.mkdir)
        store = await ZFSOnLinux.open(folder, parent)
        try:
            yield store
        finally:
            await asyncio.to_thread(store.close)
            overlay.unmount(folder)
            names = {name for (name,) in await ZFS(gz).list(parent, (), depth=1)}
            assert names - {f"{parent}/volumes"} == {
                f"{parent}/{name}" for name in await store.list()
            }


async def empty(gz: LocalGlobalZone, zpool: str) -> None:
    """Clones first: destroyed in rounds."""
    zfs = ZFS(gz)
    while names := [name for (name,) in await zfs.list(zpool, (), depth=1)]:
        for name in names:
            with suppress(Conflict):
                await zfs.destroy(name)


Opener = Callable[[Path], AbstractAsyncContextManager[DatasetStore]]
STORES: dict[str, Opener] = {"overlay": overlay_store, "zfs": zfs_store}
if loopdisk.has_btrfs():
    STORES["btrfs"] = btrfs_store
if os.environ.get(REAL_ZPOOL):
    STORES["real zfs"] = real_zfs_store
    STORES["real zfs on linux"] = zfs_on_linux


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all tests: each has a folder of its own there."""
    with loopdisk.btrfs(tmp_path_factory.mktemp("disk")) as place:
        yield place


def place_of(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a store is to be made."""
    if name != "btrfs":
        return tmp_path / "store"
    folder = Path(request.getfixturevalue("disk"), tmp_path.name)
    folder.mkdir()
    return folder


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DatasetStore]:
    async with STORES[request.param](place_of(request.param, request, tmp_path)) as opened:
        yield opened


def uuid(*names: str) -> ImageUUID:
    digests = [Digest("sha256:" + hashlib.sha256(name.encode()).hexdigest()) for name in names]
    return image_uuid(digests)


async def add(store: DatasetStore, *names: str, tar: bytes | None = None) -> ImageUUID:
    """The last of a chain of names becomes a dataset."""
    origin = uuid(*names[:-1]) if len(names) > 1 else None
    tar = layer_tar({names[-1]: b"12345"}) if tar is None else tar
    async with store.extend(uuid(*names), origin=origin, layer=INFO) as tree:
        await tree.apply(io.BytesIO(tar))
    return uuid(*names)


async def test_a_dataset_is_there_when_the_block_has_ended(store: DatasetStore) -> None:
    async with store.extend(uuid("a"), origin=None, layer=INFO) as tree:
        await tree.apply(io.BytesIO(layer_tar({"f": b"12345", "g": b"678"})))
        assert not await store.exists(uuid("a"))
    assert await store.exists(uuid("a"))
    assert await store.list() == {uuid("a")}
    assert await store.used_bytes(uuid("a")) == 8


async def test_a_failed_block_leaves_nothing(store: DatasetStore) -> None:
    async def fail() -> None:
        async with store.extend(uuid("a"), origin=None, layer=INFO) as tree:
            await tree.apply(io.BytesIO(layer_tar({"f": b"1"})))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await store.list() == frozenset()
    await add(store, "a")


async def test_a_refused_entry_is_named(store: DatasetStore) -> None:
    with pytest.raises(InvalidParameter, match=r"'\.\./x\\n': .*leads out"):
        await add(store, "a", tar=layer_tar({"../x\n": b"1"}))
    assert await store.list() == frozenset()


async def test_an_error_of_the_stream_is_raised_and_leaves_nothing(store: DatasetStore) -> None:
    class Spoiled:
        def __init__(self) -> None:
            self._blocks = [layer_tar({"f": b"1"})]

        def read(self, _size: int, /) -> bytes:
            if self._blocks:
                return self._blocks.pop()
            raise DigestMismatch("right", "wrong")

    extending = store.extend(uuid("a"), origin=None, layer=INFO)
    with pytest.raises(DigestMismatch):
        async with extending as tree:
            await tree.apply(Spoiled())
    assert await store.list() == frozenset()


async def test_the_stream_is_read_to_its_very_end(store: DatasetStore) -> None:
    stream = io.BytesIO(layer_tar({"f": b"1"}) + bytes(2_000_000))
    async with store.extend(uuid("a"), origin=None, layer=INFO) as tree:
        await tree.apply(stream)
    assert not stream.read()


async def test_a_cancelled_apply_leaves_nothing(store: DatasetStore) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Endless:
        def read(self, _size: int, /) -> bytes:
            loop.call_soon_threadsafe(started.set)
            return bytes(1 << 20)

    async def apply() -> None:
        async with store.extend(uuid("a"), origin=None, layer=INFO) as tree:
            await tree.apply(Endless())

    async with asyncio.TaskGroup() as group:
        task = group.create_task(apply())
        async with asyncio.timeout(10):
            await started.wait()
        task.cancel()
    assert await store.list() == frozenset()


async def test_a_dataset_cannot_exist_without_its_origin(store: DatasetStore) -> None:
    with pytest.raises(NotFound):
        await add(store, "nobody", "b")
    assert await store.list() == frozenset()


async def test_the_same_dataset_cannot_be_made_twice(store: DatasetStore) -> None:
    await add(store, "a")
    with pytest.raises(Conflict):
        await add(store, "a")
    assert await store.used_bytes(uuid("a")) == 5


async def test_an_origin_cannot_be_destroyed_before_what_is_on_it(store: DatasetStore) -> None:
    await add(store, "a")
    await add(store, "a", "b")
    with pytest.raises(Conflict):
        await store.destroy(uuid("a"))
    await store.destroy(uuid("a", "b"))
    await store.destroy(uuid("a"))
    assert await store.list() == frozenset()


async def test_an_unknown_dataset_is_not_found(store: DatasetStore) -> None:
    with pytest.raises(NotFound):
        await store.destroy(uuid("a"))
    with pytest.raises(NotFound):
        await store.used_bytes(uuid("a"))
    assert not await store.exists(uuid("a"))


async def test_an_empty_layer_is_a_dataset(store: DatasetStore) -> None:
    await add(store, "a", tar=b"")
    assert await store.used_bytes(uuid("a")) == 0


@pytest.mark.parametrize("name", STORES)
async def test_datasets_outlive_the_store_that_made_them(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = place_of(name, request, tmp_path)
    async with STORES[name](place) as store:
        await add(store, "a")
        await add(store, "a", "b")
    async with STORES[name](place) as store:
        assert await store.list() == {uuid("a"), uuid("a", "b")}
        assert await store.used_bytes(uuid("a")) == 5
        with pytest.raises(Conflict):
            await store.destroy(uuid("a"))
