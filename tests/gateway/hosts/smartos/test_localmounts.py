# ruff: noqa: ASYNC240 - a test has its loop for itself
"""What volumes with options mount in the global zone, for whom, and for how long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockerapi.errors import APIError, NotSupported
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.localmounts import LocalMounts, Mounting, mounting
from gateway.zones.host import Volume
from tests.contract.test_dataset_store import in_global_zone
from tests.fakes.globalzone.process import FakeGZ

SHARE = {"type": "nfs", "device": ":/share", "o": "addr=192.0.2.7"}


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, None),
        ({"size": "1m"}, None),
        ({"type": "none", "o": "bind", "device": "/d"}, Mounting("lofs", "/d")),
        ({"type": "none", "o": "ro,rbind", "device": "/d"}, Mounting("lofs", "/d", ("ro",))),
        (
            {"type": "tmpfs", "device": "tmpfs"},
            Mounting("tmpfs", "swap", (), "0:0:1777"),
        ),
        (
            {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7,mode=700,nodev"},
            Mounting("tmpfs", "swap", ("size=1m", "nodevices"), "7:0:700"),
        ),
        (
            {"type": "nfs", "device": ":/d", "o": "addr=fd00::1,nfsvers=4.2,nolock,soft,lock"},
            Mounting("nfs", "[fd00::1]:/d", ("vers=4", "llock", "soft", "retry=0")),
        ),
        ({"type": "nfs4", "device": "host:/d"}, Mounting("nfs", "host:/d", ("vers=4", "retry=0"))),
    ],
)
def test_options_are_those_of_illumos(options: dict[str, str], found: Mounting | None) -> None:
    assert mounting(options) == found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "ext4", "device": "/dev/x"}, "of type ext4"),
        ({"type": "none", "o": "bind,noexec", "device": "/d"}, "o=noexec"),
        ({"type": "tmpfs", "device": "tmpfs", "o": "uid=root"}, "o=uid=root"),
        ({"type": "nfs", "device": ":/d", "o": "addr=h,mountport=3"}, "o=mountport=3"),
    ],
)
def test_what_the_global_zone_cannot_mount_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(NotSupported, match=words):
        mounting(options)


class Listed:
    """Volumes as they are."""

    def __init__(self, *volumes: Volume) -> None:
        self._volumes = volumes

    def list(self) -> tuple[Volume, ...]:
        """All of them."""
        return self._volumes


@pytest.fixture
async def gz(fake: FakeGZ) -> AsyncIterator[LocalGlobalZone]:
    (fake.root / "net/192.0.2.7/share").mkdir(parents=True, exist_ok=True)
    (fake.root / "net/192.0.2.7/share/file").write_text("shared")
    async with in_global_zone(fake) as zone:
        yield zone
    fake.clear_faults()


def made(gz: LocalGlobalZone, fake: FakeGZ, **volumes: dict[str, str]) -> LocalMounts:
    found = (Volume(name, f"/zones/v/{name}", 1, {}, given) for name, given in volumes.items())
    return LocalMounts(gz, Listed(*found), instance="test", root=str(fake.root))


def mounted(fake: FakeGZ) -> list[str]:
    table = fake.root / "etc/mnttab"
    return table.read_text().splitlines() if table.exists() else []


@pytest.mark.root
async def test_a_share_is_mounted_for_its_users_and_no_longer(
    gz: LocalGlobalZone, fake: FakeGZ
) -> None:
    mounts = made(gz, fake, data=SHARE)
    place = f"{mounts.folder}/data"
    await mounts.hold("one", {place})
    await mounts.hold("two", {place, "/elsewhere"})
    assert Path(place, "file").read_text() == "shared"
    assert len(mounted(fake)) == 1
    await mounts.release("one")
    await mounts.release("two", unless=lambda: True)
    assert len(mounted(fake)) == 1
    await mounts.release("two")
    assert mounted(fake) == []
    assert not Path(place).exists()


@pytest.mark.root
async def test_a_restart_finds_what_is_mounted(gz: LocalGlobalZone, fake: FakeGZ) -> None:
    before = made(gz, fake, kept=SHARE, lost={"type": "tmpfs", "device": "tmpfs"})
    places = [f"{before.folder}/{name}" for name in ("kept", "lost")]
    await before.hold("zone", places)
    mounts = made(gz, fake, kept=SHARE)
    assert await mounts.adopt({"zone": places[:1]}) == ["lost"]
    await mounts.drop("lost")
    await mounts.drop("kept")
    assert [line.split("\t")[1] for line in mounted(fake)] == places[:1]
    await mounts.release("zone")
    assert mounted(fake) == []


@pytest.mark.root
@pytest.mark.parametrize("order", ["data", "more"])
async def test_what_cannot_be_mounted_leaves_nothing(
    gz: LocalGlobalZone, fake: FakeGZ, order: str
) -> None:
    away = SHARE | {"o": "addr=192.0.2.8"}
    volumes = {"data": SHARE, "more": SHARE} | {order: away}
    mounts = made(gz, fake, **volumes)
    places = {f"{mounts.folder}/{name}" for name in volumes}
    with pytest.raises(APIError, match=r"failed to mount local volume: nfs mount: 192.0.2.8: "):
        await mounts.hold("zone", places)
    assert mounted(fake) == []
    assert not any(Path(place).exists() for place in places)


@pytest.mark.root
async def test_a_mount_that_is_held_goes_when_it_is_let_go(
    gz: LocalGlobalZone, fake: FakeGZ
) -> None:
    mounts = made(gz, fake, data=SHARE)
    await mounts.hold("zone", {f"{mounts.folder}/data"})
    fake.fault("umount", stderr="umount: busy", code=1, times=1)
    await mounts.release("zone")
    assert mounted(fake) == []


@pytest.mark.root
async def test_a_device_that_is_not_there_is_told_of(gz: LocalGlobalZone, fake: FakeGZ) -> None:
    mounts = made(gz, fake, data={"type": "none", "o": "bind", "device": "/nope"})
    with pytest.raises(APIError, match="mount /nope: no such file or directory"):
        await mounts.hold("zone", {"/nope"})
