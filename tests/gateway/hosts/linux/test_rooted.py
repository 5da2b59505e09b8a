import os

import pytest

from gateway.hosts.linux.rooted import make_folders, make_link, read_in_root


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "root"
    (path / "real").mkdir(parents=True)
    return path


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208  # iterdir would open one more


def test_missing_folders_are_made_below_what_is_there(root):
    (root / "link").symlink_to("/real")
    before = descriptors()
    make_folders(root, "/link/./a//b/")
    make_folders(root, "link/a/b/c")
    make_folders(root, "/")
    assert (root / "real/a/b/c").is_dir()
    assert descriptors() == before


def test_dots_do_not_lead_out_of_the_root(root, tmp_path):
    make_folders(root, "../../made")
    assert (root / "made").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_a_link_out_of_the_root_ends_inside(root, tmp_path):
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(FileNotFoundError):
        make_folders(root, "/link/a")
    assert not list((tmp_path / "outside").iterdir())


def test_a_file_on_the_way_is_said(root):
    (root / "file").touch()
    before = descriptors()
    with pytest.raises(NotADirectoryError):
        make_folders(root, "/file/a")
    assert descriptors() == before


def test_only_regular_files_are_read_and_no_more_than_asked_for(root):
    (root / "file").write_text("content")
    assert read_in_root(root, "/file", 4) == b"cont"
    assert read_in_root(root, "/real", 4) is None
    assert read_in_root(root, "/none", 4) is None


def test_a_link_is_made_inside_and_replaces_nothing(root, tmp_path):
    (tmp_path / "outside").mkdir()
    (root / "etc").symlink_to("/real")
    make_link(root, "/etc", "mtab", "/proc/mounts")
    assert (root / "real/mtab").readlink().as_posix() == "/proc/mounts"
    make_link(root, "/etc", "mtab", "/other")
    assert (root / "real/mtab").readlink().as_posix() == "/proc/mounts"
    (root / "out").symlink_to(tmp_path / "outside")
    with pytest.raises(FileNotFoundError):
        make_link(root, "/out", "mtab", "/proc/mounts")
    assert not list((tmp_path / "outside").iterdir())
