import os
import stat
from pathlib import Path

import pytest

from dockerapi.errors import InvalidParameter, NotFound
from gateway.hosts.linux.volumes import LinuxVolumes, copy_up
from gateway.hosts.volumes import ANONYMOUS_LABEL


async def test_a_volume_outlives_the_gateway(tmp_path):
    made = await LinuxVolumes(tmp_path).create("data", labels={"a": "b"}, options={})
    assert made.mountpoint == str(tmp_path / "volumes/data/_data")
    assert LinuxVolumes(tmp_path).get("data") == made


async def test_an_owner_is_remembered_until_the_volume_is_kept(tmp_path):
    volumes = LinuxVolumes(tmp_path)
    await volumes.create("data", labels={}, options={}, owner="zone")
    assert LinuxVolumes(tmp_path).get("data").owner == "zone"
    await volumes.keep("data")
    assert volumes.get("data") == LinuxVolumes(tmp_path).get("data")
    assert volumes.get("data").owner == ""


async def test_volumes_are_not_for_the_machines_other_users(tmp_path):
    (tmp_path / "volumes").mkdir(mode=0o755)
    LinuxVolumes(tmp_path)
    assert stat.S_IMODE((tmp_path / "volumes").stat().st_mode) == 0o700


async def test_creating_a_volume_twice_gives_the_first(tmp_path):
    volumes = LinuxVolumes(tmp_path)
    first = await volumes.create("data", labels={"a": "1"}, options={})
    assert await volumes.create("data", labels={"a": "2"}, options={}) is first
    assert volumes.list() == [first]


async def test_a_volume_without_a_name_is_anonymous(tmp_path):
    volume = await LinuxVolumes(tmp_path).create("", labels={}, options={})
    assert len(volume.name) == 64
    assert volume.labels == {ANONYMOUS_LABEL: ""}


async def test_a_removed_volume_is_gone_with_its_content(tmp_path):
    volumes = LinuxVolumes(tmp_path)
    volume = await volumes.create("data", labels={}, options={})
    (Path(volume.mountpoint) / "file").touch()
    await volumes.remove("data")
    assert not list((tmp_path / "volumes").iterdir())
    with pytest.raises(NotFound, match="get data: no such volume"):
        volumes.get("data")
    with pytest.raises(NotFound):
        await volumes.remove("data")


async def test_a_half_made_volume_is_swept_away_at_start(tmp_path):
    (tmp_path / "volumes/half/_data").mkdir(parents=True)
    assert LinuxVolumes(tmp_path).list() == []
    assert not list((tmp_path / "volumes").iterdir())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x", "volume name is too short, names should be at least two alphanumeric characters"),
        ("a/b", '"a/b" includes invalid characters for a local volume name'),
        ("-ab", "includes invalid characters"),
        ("..", "includes invalid characters"),
        ("ab\n", "includes invalid characters"),
    ],
)
async def test_bad_names_are_refused_in_dockerds_words(tmp_path, name, text):
    with pytest.raises(InvalidParameter) as caught:
        await LinuxVolumes(tmp_path).create(name, labels={}, options={})
    assert text in caught.value.message
    assert not list((tmp_path / "volumes").iterdir())


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"x": "1"}, InvalidParameter, 'invalid option: "x"'),
        ({"type": "tmpfs"}, InvalidParameter, 'missing required option: "device"'),
        ({"device": "tmpfs"}, InvalidParameter, 'missing required option: "type"'),
        ({"o": "bind"}, InvalidParameter, 'missing required option: "device"'),
        ({"size": "1g"}, InvalidParameter, "quota size requested but no quota support"),
    ],
)
async def test_options_are_checked_and_none_is_ignored(tmp_path, options, error, text):
    with pytest.raises(error, match=text):
        await LinuxVolumes(tmp_path).create("data", labels={}, options=options)


@pytest.fixture
def rootfs(tmp_path):
    root = tmp_path / "root"
    (root / "srv/sub").mkdir(parents=True)
    return root


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "volume"
    path.mkdir()
    return path


@pytest.mark.root
def test_copy_up_keeps_owner_mode_times_links_devices_and_attributes(rootfs, folder):
    source = rootfs / "srv"
    (source / "file").write_bytes(b"x" * 100_000)
    os.chown(source / "file", 12, 34)
    (source / "file").chmod(0o4751)
    os.setxattr(source / "file", "user.note", b"kept")
    os.utime(source / "file", ns=(10**18, 10**18 + 5))
    (source / "hard").hardlink_to(source / "file")
    (source / "sub/soft").symlink_to("/etc/passwd")
    os.chown(source / "sub/soft", 5, 6, follow_symlinks=False)
    os.mkfifo(source / "fifo")
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    source.chmod(0o1777)
    os.chown(source, 7, 8)

    copy_up(rootfs, "/srv", folder)

    status = (folder / "file").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12, 34, 0o4751)
    assert status.st_mtime_ns == 10**18 + 5
    assert os.getxattr(folder / "file", "user.note") == b"kept"
    assert (folder / "hard").samefile(folder / "file")
    assert (folder / "file").read_bytes() == b"x" * 100_000
    assert (folder / "sub/soft").readlink() == Path("/etc/passwd")
    assert (folder / "sub/soft").lstat().st_gid == 6
    assert stat.S_ISFIFO((folder / "fifo").stat().st_mode)
    assert (folder / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert (folder.stat().st_uid, folder.stat().st_gid) == (7, 8)


def test_copy_up_leaves_a_volume_alone_that_has_something(rootfs, folder):
    (rootfs / "srv/file").touch()
    (folder / "mine").touch()
    copy_up(rootfs, "/srv", folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_copy_up_of_a_missing_target_or_a_file_copies_nothing(rootfs, folder):
    (rootfs / "file").touch()
    for target in ("/none", "/none/deeper", "/file"):
        copy_up(rootfs, target, folder)
    assert not list(folder.iterdir())


def test_copy_up_does_not_follow_a_link_out_of_the_root(rootfs, folder, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").touch()
    (rootfs / "link").symlink_to("../../../../../.." + str(tmp_path / "secret"))
    copy_up(rootfs, "/link", folder)
    assert not list(folder.iterdir())
    (rootfs / "inner").symlink_to("/srv")
    (rootfs / "srv/file").touch()
    copy_up(rootfs, "/inner", folder)
    assert (folder / "file").exists()


async def test_what_a_volume_takes_is_counted_and_any_tree_in_it_goes(tmp_path: Path) -> None:
    volumes = LinuxVolumes(tmp_path)
    volume = await volumes.create("data", labels={}, options={})
    folder = Path(volume.mountpoint)
    (folder / "file").write_bytes(b"12345")
    (folder / "again").hardlink_to(folder / "file")
    (folder / "link").symlink_to("/etc/passwd")
    assert await volumes.used_bytes("data") == 5 + len("/etc/passwd")
    # Deeper than Python's stack and than any path.
    place = os.open(folder, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=place)
        below = os.open("deep", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    assert await volumes.used_bytes("data") >= 5
    await volumes.remove("data")
    assert not folder.parent.exists()
    with pytest.raises(NotFound):
        await volumes.used_bytes("data")
