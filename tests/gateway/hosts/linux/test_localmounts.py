"""Volumes that mount something: the options as mount(2) takes them, and who keeps them mounted."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import APIError
from gateway.hosts.linux import localmounts, overlay
from gateway.hosts.linux.localmounts import LocalMounts, parse_options
from gateway.hosts.linux.volumes import LinuxVolumes
from gateway.zones.host import Volume


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", (0, 0, "")),
        ("bind", (0x1000, 0, "")),
        ("bind,ro", (0x1001, 0, "")),
        ("ro,rw", (0, 0, "")),
        ("size=10m,uid=1000,noexec", (8, 0, "size=10m,uid=1000")),
        ("rbind,rshared", (0x5000, 1 << 20 | 0x4000, "")),
        ("addr=192.0.2.1,rw,nfsvers=4", (0, 0, "addr=192.0.2.1,nfsvers=4")),
        ("defaults,,noatime", (0x400, 0, "")),
    ],
)
def test_options_are_flags_and_words_of_the_filesystem(
    text: str, parsed: tuple[int, int, str]
) -> None:
    assert parse_options(text) == parsed


@given(st.lists(st.from_regex(r"[a-z]{1,9}=[a-z0-9]{1,9}", fullmatch=True)))
def test_what_is_no_flag_is_left_as_it_is(words: list[str]) -> None:
    assert parse_options(",".join(["ro", *words])) == (1, 0, ",".join(words))


def test_a_name_in_addr_is_looked_up() -> None:
    assert localmounts._with_address("nfsvers=4,addr=localhost") in (
        "nfsvers=4,addr=127.0.0.1",
        "nfsvers=4,addr=::1",
    )
    assert localmounts._with_address("addr=192.0.2.7,soft") == "addr=192.0.2.7,soft"
    with pytest.raises(APIError, match="error resolving passed in network volume address"):
        localmounts._with_address("addr=nothing.invalid")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    return tmp_path / "there"


async def bound(volumes: LinuxVolumes, folder: Path, words: str = "bind") -> Volume:
    options = {"type": "none", "o": words, "device": str(folder)}
    return await volumes.create("bound", labels={}, options=options)


def is_mounted(volume: Volume) -> int:
    return [target for target, _ in overlay.mounts()].count(volume.mountpoint)


@pytest.mark.root
async def test_a_volume_is_mounted_once_and_until_the_last_user_goes(
    tmp_path: Path, folder: Path
) -> None:
    volume, mounts = await bound(LinuxVolumes(tmp_path), folder), LocalMounts()
    mounts.hold("one", [volume])
    mounts.hold("two", [volume])
    assert is_mounted(volume) == 1
    assert (Path(volume.mountpoint) / "file").exists()
    assert not mounts.release("one")
    assert mounts.release("two")
    assert is_mounted(volume) == 0
    assert not mounts.release("two")


@pytest.mark.root
async def test_a_read_only_bind_is_read_only(tmp_path: Path, folder: Path) -> None:
    volume, mounts = await bound(LinuxVolumes(tmp_path), folder, "bind,ro"), LocalMounts()
    mounts.hold("one", [volume])
    with pytest.raises(OSError, match="Read-only"):
        (Path(volume.mountpoint) / "new").touch()
    mounts.release("one")


@pytest.mark.root
async def test_a_mount_that_fails_says_so_as_dockerd_and_leaves_nothing(
    tmp_path: Path, folder: Path
) -> None:
    volumes, mounts = LinuxVolumes(tmp_path), LocalMounts()
    volume = await bound(volumes, folder)
    options = {"type": "cifs", "o": "password=secret,addr=127.0.0.1", "device": "/nope"}
    lost = await volumes.create("lost", labels={}, options=options)
    with pytest.raises(APIError, match=r"failed to mount local volume: mount /nope:") as caught:
        mounts.hold("one", [volume, lost])
    assert "secret" not in caught.value.message
    assert is_mounted(volume) == is_mounted(lost) == 0


@pytest.mark.root
async def test_after_a_restart_what_nobody_has_is_unmounted(tmp_path: Path, folder: Path) -> None:
    volumes = LinuxVolumes(tmp_path)
    volume = await bound(volumes, folder)
    LocalMounts().hold("zone", [volume])
    mounts = LocalMounts()
    mounts.adopt([volume], {"zone": [volume.mountpoint], "other": []})
    assert is_mounted(volume) == 1
    assert mounts.release("zone")
    assert is_mounted(volume) == 0
    LocalMounts().hold("zone", [volume])
    LocalMounts().adopt([volume], {"other": []})
    assert is_mounted(volume) == 0


@pytest.mark.root
async def test_removing_a_volume_leaves_alone_what_is_mounted_there(
    tmp_path: Path, folder: Path
) -> None:
    volumes = LinuxVolumes(tmp_path)
    volume = await bound(volumes, folder)
    for user in ("one", "two"):  # of two lives, so that it is there twice
        LocalMounts().hold(user, [volume])
        localmounts.mount(volume)
    await volumes.remove("bound")
    assert is_mounted(volume) == 0
    assert (folder / "file").exists()
    volume = await bound(volumes, folder)
    LocalMounts().hold("one", [volume])
    (tmp_path / "volumes/bound/volume.json").unlink()
    assert LinuxVolumes(tmp_path).list() == []
    assert (folder / "file").exists()
    assert not (tmp_path / "volumes/bound").exists()


@pytest.mark.root
async def test_a_volume_that_comes_anew_is_mounted_anew(tmp_path: Path, folder: Path) -> None:
    volumes, mounts = LinuxVolumes(tmp_path), LocalMounts()
    mounts.hold("old", [await bound(volumes, folder)])
    await volumes.remove("bound")
    volume = await bound(volumes, folder)
    mounts.hold("new", [volume])
    assert is_mounted(volume) == 1
    mounts.release("old")
    assert is_mounted(volume) == 1
    mounts.release("new")
    assert is_mounted(volume) == 0


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.root
async def test_who_comes_after_the_last_user_finds_a_tmpfs_empty(tmp_path: Path) -> None:
    volumes = LinuxVolumes(tmp_path)
    options = {"type": "tmpfs", "device": "tmpfs"}
    volume = await volumes.create("memory", labels={}, options=options)
    mounts, place = LocalMounts(), Path(volume.mountpoint)
    try:
        mounts.hold("one", [volume])
        (place / "file").touch()
        mounts.hold("two", [volume])
        mounts.leave("one")
        mounts.hold("three", [volume])
        assert names(place) == ["file"]
        mounts.leave("two")
        mounts.leave("three")
        mounts.hold("four", [volume])
        assert names(place) == []
        for user in ("one", "two", "three"):
            mounts.release(user)
        assert str(place) in dict(overlay.mounts())
    finally:
        mounts.release("four")
    assert str(place) not in dict(overlay.mounts())
