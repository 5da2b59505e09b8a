# ruff: noqa: ASYNC240 - a test has its loop for itself
"""Datasets of layers on zfs: as imgadm would have made them, few commands, and no halves whatever happens."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dockerapi.errors import APIError, Conflict, InvalidParameter, NotFound, Unavailable
from gateway.hosts.smartos import datasets, imgadm
from gateway.hosts.smartos.datasets import ZFSDatasets
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.ssh import SSHGlobalZone
from gateway.settings import SmartOSSettings
from imgsources.datasets import LayerInfo, PlatformImages
from imgsources.oci import ImageUUID, chain_uuids, sha256
from tests.contract.test_dataset_store import in_global_zone
from tests.fakes import sshd
from tests.fakes.globalzone import process
from tests.fakes.globalzone.process import FakeGZ
from tests.fakes.imgapi import FakeImageServer
from tests.gateway.hosts.test_untar import archive, entry

pytestmark = pytest.mark.root

DIGESTS = [sha256(str(number).encode()) for number in range(4)]
UUIDS = chain_uuids(DIGESTS)
BASE = archive(entry("etc/"), entry("etc/a", b"12345"), entry("etc/b", b"678"))


def info(number: int, **more: Any) -> LayerInfo:
    return LayerInfo(DIGESTS[number], sha256(b"tar"), 5, **more)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGZ]:
    fake = process.start(tmp_path_factory.mktemp("gz"))
    yield fake
    fake.stop()


@pytest.fixture
async def gz(shared: FakeGZ) -> AsyncIterator[LocalGlobalZone]:
    """Of a machine with nothing on it; nothing of ours may stay but datasets."""
    async with in_global_zone(shared) as zone:
        yield zone
        shared.clear_faults()
        assert rest_of(shared) == []
        while left := names(shared):  # a dataset goes after those on top of it
            for name in left:
                shared.run("zfs", "destroy", "-r", name)
        for path in (shared.root / "var/imgadm/images").iterdir():
            path.unlink()


@pytest.fixture
async def store(shared: FakeGZ, gz: LocalGlobalZone) -> ZFSDatasets:
    return await opened(shared, gz)


async def opened(fake: FakeGZ, gz: Any, instance: str = "test", **more: Any) -> ZFSDatasets:
    return await ZFSDatasets.open(gz, zpool="zones", root=str(fake.root), instance=instance, **more)


def names(fake: FakeGZ) -> list[str]:
    """Every dataset but the pool."""
    return fake.run("zfs", "list", "-H", "-o", "name").stdout.split()[1:]


def rest_of(fake: FakeGZ) -> list[str]:
    """What no import may leave."""
    left = [name for name in names(fake) if name.endswith("-partial")]
    left += [path.name for path in (fake.root / "var/run").glob("img.*")]
    left += [path.name for path in (fake.root / "var/tmp").iterdir() if path.is_file()]
    entries = [path.stem[6:] for path in (fake.root / "var/imgadm/images").iterdir()]
    return left + [uuid for uuid in entries if f"zones/{uuid}" not in names(fake)]


async def add(store: ZFSDatasets, number: int, tar: bytes = BASE, **more: Any) -> ImageUUID:
    """Dataset number n, on top of the one before."""
    origin = UUIDS[number - 1] if number else None
    async with store.extend(UUIDS[number], origin=origin, layer=info(number, **more)) as tree:
        await tree.apply(io.BytesIO(tar))
    return UUIDS[number]


# --- as imgadm has them


async def test_imgadm_and_vmadm_know_the_datasets(shared: FakeGZ, store: ZFSDatasets) -> None:
    await add(
        store,
        0,
        repository="busybox",
        created="2024-05-01T10:20:30.123456789Z",
        architecture="amd64",
    )
    await add(
        store, 1, tags=("docker.io/library/busybox:1.36",), config={"Cmd": ["sh"], "User": "x"}
    )
    listed = json.loads(shared.run("imgadm", "list", "-j").stdout)
    assert {row["manifest"]["uuid"] for row in listed} == set(UUIDS[:2])
    top = json.loads(shared.run("imgadm", "get", UUIDS[1]).stdout)
    assert top["manifest"] == imgadm.layer_manifest(
        UUIDS[1], UUIDS[0], info(1, tags=("busybox:1.36",), config={"Cmd": ["sh"]})
    )
    assert (top["zpool"], top["source"], top["cloneCount"]) == ("zones", "https://docker.io", 0)
    base = json.loads(shared.run("imgadm", "get", UUIDS[0]).stdout)
    assert base["manifest"]["published_at"] == "2024-05-01T10:20:30.123Z"
    assert base["cloneCount"] == 1
    payload = {"brand": "lx", "docker": True, "kernel_version": "4.10", "image_uuid": UUIDS[1]}
    done = shared.run("vmadm", "create", stdin=json.dumps(payload | {"autoboot": False}))
    assert done.returncode == 0, done.stderr
    with pytest.raises(Conflict, match="dependent clones"):
        await store.destroy(UUIDS[1])
    assert await store.exists(UUIDS[1])
    shared.run("vmadm", "delete", done.stderr.split()[-1])
    await store.destroy(UUIDS[1])
    assert not (shared.root / f"var/imgadm/images/zones-{UUIDS[1]}.json").exists()


async def test_a_layer_takes_few_commands(shared: FakeGZ, gz: LocalGlobalZone) -> None:
    said = Counting(gz)
    store = await opened(shared, said)
    said.commands.clear()
    await add(store, 0)
    await add(store, 1, archive(entry("etc/"), entry("etc/.wh.a"), entry("etc/c", b"1")))
    zfs = [argv[1] for argv in said.commands if argv[0] == "zfs"]
    assert zfs == ["create", "snapshot", "rename", "clone", "snapshot", "rename"]
    said.commands.clear()
    assert await store.list() == set(UUIDS[:2])
    assert await store.exists(UUIDS[0])
    assert await store.used_bytes(UUIDS[0]) == 8
    assert said.commands == []


class Counting:
    """A global zone, and which programs ran in it."""

    def __init__(self, gz: LocalGlobalZone) -> None:
        self._gz = gz
        self.commands: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gz, name)

    async def run(self, argv: list[str], **more: Any) -> bytes:
        self.commands.append(argv)
        return await self._gz.run(argv, **more)


async def test_opaque_folders_and_whiteouts_are_right(shared: FakeGZ, store: ZFSDatasets) -> None:
    await add(store, 0)
    await add(
        store,
        1,
        archive(entry("etc/"), entry("etc/c", b"1"), entry("etc/.wh..wh..opq"), entry("etc/.wh.c")),
    )
    root = Path(store.root(UUIDS[1]))
    assert [path.name for path in (root / "etc").iterdir()] == ["c"]
    assert [path.name for path in sorted((Path(store.root(UUIDS[0])) / "etc").iterdir())] == [
        "a",
        "b",
    ]


# --- what is not ours


async def test_images_of_others_are_seen_and_never_destroyed(
    shared: FakeGZ, store: ZFSDatasets
) -> None:
    _foreign(shared, UUIDS[0])
    assert not await store.exists(UUIDS[0])
    await store.refresh()
    assert await store.list() == {UUIDS[0]}
    assert await store.used_bytes(UUIDS[0]) > 0
    await add(store, 1, archive(entry("x", b"1")))
    await store.destroy(UUIDS[1])
    with pytest.raises(Conflict, match="left to imgadm"):
        await store.destroy(UUIDS[0])
    assert json.loads(shared.run("imgadm", "list", "-j").stdout)


def _foreign(fake: FakeGZ, uuid: str) -> None:
    assert fake.run("zfs", "create", f"zones/{uuid}").returncode == 0
    (fake.root / "zones" / uuid / "root").mkdir()
    (fake.root / "zones" / uuid / "root/file").write_text("theirs")
    assert fake.run("zfs", "snapshot", f"zones/{uuid}@final").returncode == 0
    manifest = {
        "uuid": uuid,
        "v": 2,
        "name": "x",
        "version": "1",
        "type": "zone-dataset",
        "os": "smartos",
    }
    path = fake.root / f"var/imgadm/images/zones-{uuid}.json"
    path.write_text(json.dumps({"manifest": manifest, "zpool": "zones", "source": "https://x"}))


async def test_entries_of_another_pool_are_left_alone(shared: FakeGZ, gz: LocalGlobalZone) -> None:
    layer = imgadm.layer_manifest(UUIDS[0], None, info(0))
    folder = shared.root / "var/imgadm/images"
    for pool in ("zones-2", "other", "zones"):
        (folder / f"{pool}-{UUIDS[0]}.json").write_bytes(imgadm.entry(layer, zpool=pool))
    store = await opened(shared, gz)
    assert await store.list() == frozenset()
    left = sorted(path.name for path in folder.iterdir())
    assert left == [f"other-{UUIDS[0]}.json", f"zones-2-{UUIDS[0]}.json"]
    for name in left:
        (folder / name).unlink()


async def test_zones_are_no_images(shared: FakeGZ, store: ZFSDatasets) -> None:
    await add(store, 0)
    shared.run("zfs", "clone", f"zones/{UUIDS[0]}@final", f"zones/{UUIDS[3]}")
    await store.refresh()
    assert await store.list() == {UUIDS[0]}


async def test_instances_on_one_machine_share_images(shared: FakeGZ, gz: LocalGlobalZone) -> None:
    first, second = await opened(shared, gz, "first"), await opened(shared, gz, "second")
    await add(first, 0)
    assert not await second.exists(UUIDS[0])
    await second.refresh()
    assert await second.exists(UUIDS[0])
    await first.destroy(UUIDS[0])
    with pytest.raises(Conflict):
        await first.destroy(UUIDS[0])
    assert await second.used_bytes(UUIDS[0]) == 8
    await second.destroy(UUIDS[0])
    assert names(shared) == []


async def test_an_image_that_an_administrator_deleted_can_be_destroyed_and_made_again(
    shared: FakeGZ, store: ZFSDatasets
) -> None:
    await add(store, 0)
    shared.run("imgadm", "delete", UUIDS[0])
    await store.destroy(UUIDS[0])
    await add(store, 0)
    shared.run("imgadm", "delete", UUIDS[0])
    with pytest.raises(NotFound):
        await add(store, 1)
    await store.refresh()
    assert await store.list() == frozenset()


async def test_a_dataset_that_the_database_has_forgotten_is_an_image_again(
    shared: FakeGZ, store: ZFSDatasets
) -> None:
    await add(store, 0)
    (shared.root / f"var/imgadm/images/zones-{UUIDS[0]}.json").unlink()
    await store.refresh()
    await add(store, 0)
    assert shared.run("imgadm", "get", UUIDS[0]).returncode == 0


async def test_a_dataset_that_is_in_the_way_is_left_alone(
    shared: FakeGZ, store: ZFSDatasets
) -> None:
    _foreign(shared, UUIDS[0])
    (shared.root / f"var/imgadm/images/zones-{UUIDS[0]}.json").unlink()
    with pytest.raises(Conflict, match="already exists"):
        await add(store, 0)
    assert names(shared) == [f"zones/{UUIDS[0]}"]
    assert (shared.root / "zones" / UUIDS[0] / "root/file").read_text() == "theirs"


# --- the lock


async def test_an_import_by_somebody_else_is_waited_for(
    shared: FakeGZ, gz: LocalGlobalZone
) -> None:
    said = Counting(gz)
    store = await opened(shared, said)
    lock = Path(imgadm.lock_path(str(shared.root), UUIDS[0]))
    lock.touch()
    async with asyncio.TaskGroup() as group:
        adding = group.create_task(add(store, 0))
        await until(lambda: sum("zonegate-lock" in argv for argv in said.commands) == 2)
        _foreign(shared, UUIDS[0])
        lock.unlink()
        await adding
    assert (Path(store.root(UUIDS[0])) / "file").read_text() == "theirs"


async def test_an_import_since_the_last_look_is_taken(shared: FakeGZ, store: ZFSDatasets) -> None:
    _foreign(shared, UUIDS[0])
    await add(store, 0)
    assert (Path(store.root(UUIDS[0])) / "file").read_text() == "theirs"
    with pytest.raises(Conflict, match="left to imgadm"):
        await store.destroy(UUIDS[0])


async def test_a_lock_that_stays_is_named(
    shared: FakeGZ, store: ZFSDatasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "_LOCK_TIMEOUT_S", 0.2)
    lock = Path(imgadm.lock_path(str(shared.root), UUIDS[0]))
    lock.touch()
    with pytest.raises(Unavailable, match=f"{lock} has been there"):
        await add(store, 0)
    assert names(shared) == []
    lock.unlink()


async def test_the_same_dataset_cannot_be_made_twice_at_once(
    shared: FakeGZ, store: ZFSDatasets
) -> None:
    async with store.extend(UUIDS[0], origin=None, layer=info(0)) as tree:
        with pytest.raises(Conflict, match="is being made"):
            await add(store, 0)
        await tree.apply(io.BytesIO(BASE))
    assert await store.list() == {UUIDS[0]}


async def test_a_lock_that_we_could_not_remove_is_ours_again(
    shared: FakeGZ, store: ZFSDatasets
) -> None:
    Path(imgadm.lock_path(str(shared.root), UUIDS[0])).write_text("zonegate test\n")
    await add(store, 0)


async def test_the_lock_of_a_dead_process_is_broken(shared: FakeGZ, store: ZFSDatasets) -> None:
    Path(imgadm.lock_path(str(shared.root), UUIDS[0])).write_text("4194304\n")
    await add(store, 0)


# --- faults


@pytest.mark.parametrize(
    ("program", "match"),
    [
        ("zfs", "create"),
        ("zfs", "snapshot"),
        ("zfs", "rename"),
        ("chroot-gtar", ""),
    ],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_program_that_fails_leaves_nothing(
    shared: FakeGZ, store: ZFSDatasets, program: str, match: str, after: bool
) -> None:
    shared.fault(program, match, stderr="cannot do it: I/O error", times=1, after=after)
    with pytest.raises(APIError, match="cannot do it: I/O error"):
        await add(store, 0)
    assert names(shared) == []
    assert await store.list() == frozenset()
    await add(store, 0)


@pytest.mark.parametrize(
    ("program", "match"), [("zfs", "create"), ("zfs", "rename"), ("chroot-gtar", "")]
)
async def test_a_pull_that_is_cancelled_leaves_nothing(
    shared: FakeGZ, store: ZFSDatasets, program: str, match: str
) -> None:
    shared.fault(program, match, hang=True, times=1)
    async with asyncio.TaskGroup() as group:
        adding = group.create_task(add(store, 0))
        await until(lambda: has_struck(shared, 0))
        adding.cancel()
    assert names(shared) == []
    await add(store, 0)


def has_struck(fake: FakeGZ, number: int) -> bool:
    """Whether that fault is under way; the file may just be written."""
    try:
        orders = json.loads((fake.root / "faults.json").read_text())
    except ValueError:
        return False
    return bool(orders[number]["times"] == 0)


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - it is another process that makes it true
            await asyncio.sleep(0.01)


async def test_a_full_pool_is_said_so(tmp_path: Path) -> None:
    fake = process.start(tmp_path / "gz", free="1000000")
    try:
        async with in_global_zone(fake) as gz:
            store = await opened(fake, gz)
            with pytest.raises(APIError, match="no space left on device"):
                await add(store, 0, archive(entry("big", os.urandom(2_000_000))))
            assert names(fake) == []
            with pytest.raises(APIError, match="no space left on device"):
                await add(store, 0)
            assert rest_of(fake) == []
    finally:
        fake.stop()


async def test_a_busy_dataset_is_tried_again(shared: FakeGZ, store: ZFSDatasets) -> None:
    await add(store, 0)
    busy = f"cannot unmount '/zones/{UUIDS[0]}': Device busy"
    shared.fault("zfs", "destroy", stderr=busy, times=2)
    await store.destroy(UUIDS[0])
    assert names(shared) == []


async def test_what_a_killed_imgadm_left_is_cleared(shared: FakeGZ, store: ZFSDatasets) -> None:
    shared.run("zfs", "create", f"zones/{UUIDS[0]}-partial")
    await add(store, 0)


async def test_a_half_of_somebody_else_is_left_alone(shared: FakeGZ, gz: LocalGlobalZone) -> None:
    shared.run("zfs", "create", f"zones/{UUIDS[0]}-partial")
    await opened(shared, gz)
    assert names(shared) == [f"zones/{UUIDS[0]}-partial"]
    shared.run("zfs", "destroy", f"zones/{UUIDS[0]}-partial")


KILLED = """
import asyncio, io, sys
from gateway.hosts.smartos.datasets import ZFSDatasets
from gateway.hosts.smartos.local import LocalGlobalZone
from tests.gateway.hosts.smartos.test_datasets import add
async def main():
    gz = LocalGlobalZone(sys.argv[1])
    store = await ZFSDatasets.open(gz, zpool="zones", root=sys.argv[1], instance="test")
    await add(store, 0)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("program", "match"),
    [("zfs", "create"), ("chroot-gtar", ""), ("zfs", "snapshot"), ("zfs", "rename")],
)
async def test_nothing_is_left_of_a_gateway_that_was_killed(
    shared: FakeGZ, gz: LocalGlobalZone, program: str, match: str
) -> None:
    shared.fault(program, match, hang=True, times=1)
    environment = shared.environment | {"PYTHONPATH": os.pathsep.join(["", *sys.path])}
    child = await gz.spawn([sys.executable, "-c", KILLED, str(shared.root)], env=environment)
    try:
        await until(lambda: has_struck(shared, 0))
    finally:
        await child.kill(signal.SIGKILL.name)
        await child.close()
    store = await opened(shared, gz)
    assert names(shared) == []
    assert rest_of(shared) == []
    await add(store, 0)


# --- over SSH


async def test_layers_go_over_ssh(shared: FakeGZ, gz: LocalGlobalZone, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    async with ssh_zone(shared, tmp_path) as (far, _):
        store = await opened(shared, far, spool=spool)
        await add(store, 0)
        await add(store, 1, archive(entry("etc/"), entry("etc/.wh.a"), entry("etc/c", b"1")))
        with pytest.raises(InvalidParameter, match="leads out"):
            await add(store, 2, archive(entry("../x", b"1")))
        assert sorted(path.name for path in Path(store.root(UUIDS[1]), "etc").iterdir()) == [
            "b",
            "c",
        ]
        assert list(spool.iterdir()) == []
        for number in (1, 0):
            await store.destroy(UUIDS[number])


async def test_a_lost_connection_leaves_nothing_that_the_next_pull_trips_over(
    shared: FakeGZ, gz: LocalGlobalZone, tmp_path: Path
) -> None:
    async with ssh_zone(shared, tmp_path) as (far, server):
        store = await opened(shared, far, spool=tmp_path)
        shared.fault("chroot-gtar", hang=True, times=1)
        async with asyncio.TaskGroup() as group:
            adding = group.create_task(_refused(store))
            await until(lambda: has_struck(shared, 0))
            server.drop()
            assert await adding
        await add(store, 0)
        assert await store.used_bytes(UUIDS[0]) == 8
    await opened(shared, gz)


async def _refused(store: ZFSDatasets) -> bool:
    try:
        await add(store, 0)
    except APIError:
        return True
    return False


@asynccontextmanager
async def ssh_zone(fake: FakeGZ, folder: Path) -> AsyncIterator[tuple[SSHGlobalZone, sshd.Sshd]]:
    """The same machine, seen from elsewhere; and what leads there."""
    server = sshd.start(
        folder / "sshd", {key: fake.environment[key] for key in ("PATH", "ZONEGATE_FAKE_GZ")}
    )
    settings = {
        "host": server.url,
        "identity_file": server.identity_file,
        "known_hosts": server.known_hosts,
    }
    try:
        async with await SSHGlobalZone.open(SmartOSSettings.model_validate(settings)) as far:
            yield far, server
    finally:
        server.stop()


# --- image servers


async def test_images_of_a_server_are_imported_by_imgadm(
    shared: FakeGZ, store: ZFSDatasets
) -> None:
    assert isinstance(store, PlatformImages)
    async with FakeImageServer.serve() as server:
        wanted = server.add("base-64-lts", "15.4.0", file=archive(entry("etc/motd", b"hello")))
        uuid = ImageUUID(wanted["uuid"])
        lines: list[str] = []
        manifest = await store.import_image(uuid, source=server.url, progress=lines.append)
        assert manifest == wanted
        assert lines[0] == f'Importing {uuid} (base-64-lts@15.4.0) from "{server.url}"'
        assert lines[-1] == f"Imported image {uuid}"
        assert (Path(store.root(uuid)) / "etc/motd").read_bytes() == b"hello"
        asked = len(server.log)
        assert await store.import_image(uuid, source=server.url) == wanted
        assert len(server.log) == asked
        again = await opened(shared, Counting(store._gz))
        await again.destroy(uuid)
        assert names(shared) == []
        with pytest.raises(NotFound):
            await store.import_image(ImageUUID(UUIDS[0]), source=server.url)


async def test_an_import_that_is_cancelled_leaves_nothing(
    shared: FakeGZ, store: ZFSDatasets
) -> None:
    async with FakeImageServer.serve() as server:
        uuid = ImageUUID(server.add("x", "1", file=archive(entry("f", b"1")))["uuid"])
        shared.fault(
            "imgadm", "import", stderr="imgadm import: error (InternalError): no luck", times=1
        )
        with pytest.raises(APIError, match="imgadm: no luck"):
            await store.import_image(uuid, source=server.url)
        shared.fault("imgadm", "import", hang=True, times=1)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(store.import_image(uuid, source=server.url))
            await until(lambda: has_struck(shared, 1))
            task.cancel()
        assert names(shared) == []
        assert not await store.exists(uuid)
        await store.import_image(uuid, source=server.url)


async def test_origins_that_came_along_go_with_their_image(
    shared: FakeGZ, store: ZFSDatasets
) -> None:
    async with FakeImageServer.serve() as server:
        theirs = server.add("theirs", "1", file=archive(entry("f", b"1")))
        argv = ("imgadm", "import", "-S", server.url, theirs["uuid"])
        done = await asyncio.to_thread(shared.run, *argv)  # the server is ours
        assert done.returncode == 0, done.stderr
        await store.refresh()
        ours = server.add("ours", "1", origin=theirs["uuid"], file=archive(entry("g", b"1")))
        top = server.add("top", "1", origin=ours["uuid"], file=archive(entry("h", b"1")))
        await store.import_image(top["uuid"], source=server.url)
        with pytest.raises(Conflict, match="is the origin of"):
            await store.destroy(ours["uuid"])
        for image in (top, ours):
            await store.destroy(image["uuid"])
        with pytest.raises(Conflict, match="left to imgadm"):
            await store.destroy(theirs["uuid"])


async def test_a_zvol_is_an_image_too(shared: FakeGZ, store: ZFSDatasets) -> None:
    async with FakeImageServer.serve() as server:
        wanted = server.add("debian", "12", type="zvol", image_size=10240)
        uuid = ImageUUID(wanted["uuid"])
        await store.import_image(uuid, source=server.url)
        assert shared.run(
            "zfs", "get", "-Hpo", "value", "type,volsize", f"zones/{uuid}"
        ).stdout.split() == [
            "volume",
            str(10240 << 20),
        ]
        await store.destroy(uuid)
