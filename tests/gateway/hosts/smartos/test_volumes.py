# ruff: noqa: ASYNC240 - a test has its loop for itself
"""Volumes as datasets."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import APIError, InvalidParameter, NotFound, NotSupported
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.volumes import ZFSVolumes, properties, volume_of
from gateway.zones.host import Volume
from tests.contract.test_dataset_store import REAL_ZPOOL, in_global_zone
from tests.fakes.globalzone.process import FakeGZ
from tests.gateway.hosts.smartos.test_datasets import has_struck, until

pytestmark = pytest.mark.root

DATASET = "zones/zonegate/test/volumes/data"
TEXTS = st.dictionaries(st.text(max_size=20), st.text(max_size=400), max_size=8)


@pytest.fixture
async def gz(fake: FakeGZ) -> AsyncIterator[LocalGlobalZone]:
    async with in_global_zone(fake) as zone:
        yield zone
    fake.clear_faults()
    fake.run("zfs", "destroy", "-r", "zones/zonegate")


@pytest.fixture
async def volumes(gz: LocalGlobalZone) -> ZFSVolumes:
    return await opened(gz)


async def opened(gz: LocalGlobalZone, instance: str = "test") -> ZFSVolumes:
    return await ZFSVolumes.open(gz, zpool="zones", instance=instance)


@given(labels=TEXTS, options=TEXTS, owner=st.from_regex(r"[0-9a-f-]{0,36}", fullmatch=True))
def test_a_volume_is_read_again_from_its_properties(
    labels: dict[str, str], options: dict[str, str], owner: str
) -> None:
    volume = Volume("x", "/zones/x", 17, labels, options, owner)
    found = properties(volume)
    assert volume_of("x", "/zones/x", found) == volume
    # As illumos and `zfs list -H` take them.
    assert all(len(value.encode()) < 1024 and value.isprintable() for value in found.values())


async def test_volumes_outlive_the_gateway(
    fake: FakeGZ, gz: LocalGlobalZone, volumes: ZFSVolumes
) -> None:
    labels = {"a": "\t\n\u20ac" * 300, "b": ""}
    made = await volumes.create("data.1_x-y", labels=labels, options={"size": "10g"}, owner="zone")
    anonymous = await volumes.create("", labels={}, options={})
    assert Path(made.mountpoint).is_dir()
    assert len(anonymous.name) == 64
    assert volumes.list() == [made, anonymous]
    again = await opened(gz)
    assert again.list() == [made, anonymous]
    await again.keep(made.name)
    assert again.get(made.name).owner == ""
    assert (await opened(gz)).get(made.name).owner == ""
    dataset = f"zones/zonegate/test/volumes/{made.name}"
    assert fake.run("zfs", "get", "-Hpo", "value", "quota", dataset).stdout.strip() == str(10 << 30)


async def test_instances_have_volumes_of_their_own(
    gz: LocalGlobalZone, volumes: ZFSVolumes
) -> None:
    await volumes.create("data", labels={"of": "test"}, options={})
    other = await opened(gz, "other")
    assert other.list() == []
    await other.create("data", labels={"of": "other"}, options={})
    assert volumes.get("data").labels == {"of": "test"}


async def test_a_known_name_gives_the_volume_there_is(volumes: ZFSVolumes) -> None:
    made = await volumes.create("data", labels={"a": "1"}, options={})
    assert await volumes.create("data", labels={}, options={}) == made


async def test_a_removed_volume_is_gone(
    fake: FakeGZ, gz: LocalGlobalZone, volumes: ZFSVolumes
) -> None:
    made = await volumes.create("data", labels={}, options={})
    fake.fault("zfs", "destroy", stderr="cannot unmount '/x': Device busy", times=2)
    await volumes.remove("data")
    assert not Path(made.mountpoint).exists()
    with pytest.raises(NotFound, match="get data: no such volume"):
        volumes.get("data")
    with pytest.raises(NotFound):
        await volumes.remove("data")
    assert (await opened(gz)).list() == []


async def test_a_volume_that_cannot_be_made_is_not_there(
    fake: FakeGZ, gz: LocalGlobalZone, volumes: ZFSVolumes
) -> None:
    fake.fault("zfs", "create", stderr="cannot create 'x': out of space", times=1)
    with pytest.raises(APIError, match="no space left on device"):
        await volumes.create("data", labels={}, options={})
    assert volumes.list() == (await opened(gz)).list() == []


async def test_datasets_of_others_below_ours_are_left_alone(
    fake: FakeGZ, gz: LocalGlobalZone, volumes: ZFSVolumes
) -> None:
    fake.run("zfs", "create", "zones/zonegate/test/volumes/mine")
    assert (await opened(gz)).list() == []


@pytest.mark.parametrize(
    ("name", "options", "kind", "words"),
    [
        ("x", {}, InvalidParameter, "volume name is too short"),
        ("a b", {}, InvalidParameter, "includes invalid characters"),
        ("a" * 230, {}, InvalidParameter, "too long for a dataset"),
        ("data", {"nosuch": "1"}, InvalidParameter, 'invalid option: "nosuch"'),
        ("data", {"size": "much"}, InvalidParameter, "invalid size: 'much'"),
        ("data", {"type": "nfs"}, InvalidParameter, 'missing required option: "device"'),
        ("data", {"type": "nfs", "device": "x", "o": "y"}, NotSupported, "option o=y"),
    ],
)
async def test_what_is_no_volume_is_refused(
    volumes: ZFSVolumes, name: str, options: dict[str, str], kind: type[APIError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await volumes.create(name, labels={}, options=options)


@pytest.mark.skipif(
    not os.environ.get(REAL_ZPOOL), reason=f"{REAL_ZPOOL} names no pool of a real zfs"
)
async def test_volumes_on_a_real_zfs(root: Path) -> None:
    zpool = os.environ[REAL_ZPOOL]
    async with LocalGlobalZone() as gz:
        store = await ZFSVolumes.open(gz, zpool=zpool, instance="test")
        labels = {"a": "\t\n\u20ac%=," * 300, "b": ""}
        made = await store.create("data", labels=labels, options={"size": "10m"}, owner="zone")
        await store.copy_up(str(root), "/data", made)
        assert (Path(made.mountpoint) / "f").read_text() == "content"
        again = await ZFSVolumes.open(gz, zpool=zpool, instance="test")
        assert again.list() == [made]
        await again.keep("data")
        await again.remove("data")
        assert (await ZFSVolumes.open(gz, zpool=zpool, instance="test")).list() == []


# --- filling it from the image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of an image; what is beside it must not be read."""
    folder = tmp_path / "root"
    (folder / "data/sub").mkdir(parents=True)
    (folder / "data/f").write_text("content")
    (folder / "data/f").chmod(0o640)
    (folder / "data/link").symlink_to("/etc/passwd")
    (folder / "data").chmod(0o1777)
    (folder / "var").mkdir()
    (folder / "var/data").symlink_to("/data")
    (folder / "out").symlink_to("../outside")
    (folder / "host").symlink_to(str(tmp_path / "outside"))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    return folder


@pytest.mark.parametrize("target", ["/data", "/data/", "var/data", "/var/../var/data/./"])
async def test_a_new_volume_gets_what_the_image_has_there(
    volumes: ZFSVolumes, root: Path, target: str
) -> None:
    volume = await volumes.create("data", labels={}, options={})
    await volumes.copy_up(str(root), target, volume)
    there = Path(volume.mountpoint)
    assert sorted(path.name for path in there.iterdir()) == ["f", "link", "sub"]
    assert (there / "f").stat().st_mode & 0o7777 == 0o640
    assert (there / "link").readlink() == Path("/etc/passwd")
    assert there.stat().st_mode & 0o7777 == 0o1777


@pytest.mark.parametrize("target", ["/nowhere", "/data/f", "/out", "/host", "/data/link"])
async def test_nothing_outside_of_the_root_is_copied(
    volumes: ZFSVolumes, root: Path, target: str
) -> None:
    volume = await volumes.create("data", labels={}, options={})
    await volumes.copy_up(str(root), target, volume)
    assert list(Path(volume.mountpoint).iterdir()) == []


async def test_a_volume_with_something_in_it_stays_as_it_is(
    volumes: ZFSVolumes, root: Path
) -> None:
    volume = await volumes.create("data", labels={}, options={})
    (Path(volume.mountpoint) / ".mine").touch()
    await volumes.copy_up(str(root), "/data", volume)
    assert [path.name for path in Path(volume.mountpoint).iterdir()] == [".mine"]


KILLED = """
import asyncio
import sys
from gateway.hosts.smartos.local import LocalGlobalZone
from tests.gateway.hosts.smartos.test_volumes import opened
async def main():
    volumes = await opened(LocalGlobalZone(sys.argv[1]))
    await volumes.create("data", labels={"a": "b"}, options={"size": "1g"}, owner="zone")
    await volumes.keep("data")
    await volumes.remove("data")
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("command", "after", "owner"),
    [
        ("create", False, None),
        ("create", True, "zone"),
        ("inherit", False, "zone"),
        ("inherit", True, ""),
        ("destroy", False, ""),
        ("destroy", True, None),
    ],
)
async def test_a_gateway_that_was_killed_leaves_all_of_a_volume_or_nothing(
    fake: FakeGZ, gz: LocalGlobalZone, command: str, after: bool, owner: str | None
) -> None:
    await opened(gz)
    fake.fault("zfs", command, hang=True, times=1, after=after)
    environment = fake.environment | {"PYTHONPATH": os.pathsep.join(["", *sys.path])}
    child = await gz.spawn([sys.executable, "-c", KILLED, str(fake.root)], env=environment)
    try:
        await until(lambda: has_struck(fake, 0) and (not after or _acted(fake, command, owner)))
    finally:
        await child.kill()
        await child.close()
    found = [volume for volume in (await opened(gz)).list() if volume.name == "data"]
    assert [volume.owner for volume in found] == ([] if owner is None else [owner])
    assert all((volume.labels, volume.options) == ({"a": "b"}, {"size": "1g"}) for volume in found)


def _acted(fake: FakeGZ, command: str, owner: str | None) -> bool:
    """What the program that hangs then does before."""
    there = fake.run("zfs", "get", "-Hp", "-o", "value", "zonegate:owner", DATASET)
    if command == "destroy":
        return there.returncode != 0
    return there.stdout.strip() == (owner or "-")
