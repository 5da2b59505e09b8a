"""The fake zfs says what the real one says, and ends as it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.globalzone import process
from tests.fakes.globalzone.process import FakeGZ

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGZ]:
    machine = process.start(tmp_path_factory.mktemp("gz"))
    yield machine
    machine.stop()


ZFS = Callable[..., str]


@pytest.fixture
def zfs(fake: FakeGZ) -> Iterator[ZFS]:
    """What it prints, or how it refuses: `code: words`."""

    def run(*arguments: str) -> str:
        done = fake.run("zfs", *arguments)
        return f"{done.returncode}: {done.stderr}".strip() if done.returncode else done.stdout

    yield run
    while names := run("list", "-H", "-o", "name").split()[1:]:
        for name in names:
            run("destroy", "-r", name)


@pytest.fixture
def image(fake: FakeGZ, zfs: ZFS) -> Path:
    """zones/image@final with a file, and its clone zones/zone; the clone's mountpoint."""
    assert zfs("create", "zones/image") == ""
    (fake.root / "zones/image/file").write_text("old")
    (fake.root / "zones/image/gone").write_text("gone")
    assert zfs("snapshot", "zones/image@final") == ""
    assert zfs("clone", "zones/image@final", "zones/zone") == ""
    return fake.root / "zones/zone"


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        ("create zones/image", "1: cannot create 'zones/image': dataset already exists"),
        ("create zones/a/b", "1: cannot create 'zones/a/b': parent does not exist"),
        ("create other/a", "1: cannot create 'other/a': no such pool 'other'"),
        ("create zones/a%b", "1: cannot create 'zones/a%b': invalid character '%' in name"),
        ("create -o x=y zones/a", "1: cannot create 'zones/a': invalid property 'x'"),
        ("create -o used=1 zones/a", "1: cannot create 'zones/a': 'used' is readonly"),
        (
            "snapshot zones/image@final",
            "1: cannot create snapshot 'zones/image@final': dataset already exists",
        ),
        ("clone zones/no@final zones/a", "1: cannot open 'zones/no@final': dataset does not exist"),
        ("rename zones/no zones/a", "1: cannot open 'zones/no': dataset does not exist"),
        ("rename zones/zone zones/image", "1: cannot rename 'zones/zone': dataset already exists"),
        ("destroy zones/no", "1: cannot open 'zones/no': dataset does not exist"),
        (
            "destroy zones/image",
            "1: cannot destroy 'zones/image': filesystem has children\n"
            "use '-r' to destroy the following datasets:\nzones/image@final",
        ),
        (
            "destroy -r zones/image",
            "1: cannot destroy 'zones/image': filesystem has dependent clones\n"
            "use '-R' to destroy the following datasets:\nzones/zone",
        ),
        (
            "destroy zones/image@final",
            "1: cannot destroy 'zones/image@final': snapshot has dependent clones\n"
            "use '-R' to destroy the following datasets:\nzones/zone",
        ),
        ("set x:y=1 zones/no", "1: cannot open 'zones/no': dataset does not exist"),
        ("list zones/no", "1: cannot open 'zones/no': dataset does not exist"),
        ("promote zones/image", "1: cannot promote 'zones/image': not a cloned filesystem"),
        ("frobnicate", "2: unrecognized command 'frobnicate'\nusage: zfs command args ..."),
        ("create", "2: missing filesystem argument\nusage:"),
    ],
)
def test_refusals(zfs: ZFS, image: Path, command: str, refusal: str) -> None:
    assert zfs(*command.split()) == refusal


def test_values_longer_than_a_path_are_refused(zfs: ZFS) -> None:
    assert "property value too long" in zfs("create", "-o", f"x:y={'z' * 1024}", "zones/a")
    assert zfs("create", "-o", f"x:y={'z' * 1023}", "zones/a") == ""


def test_user_properties_are_inherited_by_name_and_not_by_origin(zfs: ZFS, image: Path) -> None:
    zfs("set", "x:y=1", "zones/image")
    zfs("create", "zones/image/below")
    columns = ["-Hpo", "name,x:y,origin"]
    assert zfs("list", *columns, "zones/image/below") == "zones/image/below\t1\t-\n"
    assert zfs("list", *columns, "zones/image@final") == "zones/image@final\t1\t-\n"
    assert zfs("list", *columns, "zones/zone") == "zones/zone\t-\tzones/image@final\n"
    assert (
        zfs("get", "-H", "x:y", "zones/image/below").split("\t")[3]
        == "inherited from zones/image\n"
    )
    assert zfs("get", "-Hpr", "-s", "local", "-o", "name,property,value", "all", "zones") == (
        "zones/image\tx:y\t1\n"
    )
    zfs("inherit", "x:y", "zones/image")
    assert zfs("get", "-Hpo", "value", "x:y", "zones/image/below") == "-\n"


def test_depth_and_types_choose_what_is_listed(zfs: ZFS, image: Path) -> None:
    zfs("create", "-p", "zones/a/b/c")
    zfs("create", "-V", "1G", "zones/disk")
    names = zfs("list", "-H", "-o", "name", "-d", "1", "zones").split()
    assert names == ["zones", "zones/a", "zones/disk", "zones/image", "zones/zone"]
    assert zfs("list", "-H", "-o", "name", "-t", "snapshot").split() == ["zones/image@final"]
    assert zfs("list", "-H", "-o", "name", "-t", "volume").split() == ["zones/disk"]
    assert zfs("get", "-Hpo", "value", "volsize", "zones/disk") == f"{1 << 30}\n"
    assert zfs("list", "zones/a").split() == [
        *("NAME", "USED", "AVAILABLE", "REFERENCED", "MOUNTPOINT"),
        *("zones/a", "0", "1.00T", "0", str(image.parent / "a")),
    ]


def test_differences_are_told_with_escaped_names(zfs: ZFS, image: Path) -> None:
    (image / "file").write_text("newer")
    (image / "gone").unlink()
    (image / "a b\\\u20ac").mkdir()
    assert sorted(zfs("diff", "-FH", "zones/image@final", "zones/zone").splitlines()) == sorted(
        [
            f"M\t/\t{image}/",
            f"+\t/\t{image}/a\\040b\\134\\342\\202\\254",
            f"M\tF\t{image}/file",
            f"-\tF\t{image}/gone",
        ]
    )
    zfs("create", "zones/other")
    assert "Not an earlier snapshot" in zfs("diff", "zones/image@final", "zones/other")


def test_of_a_file_with_several_names_one_is_told(zfs: ZFS, image: Path) -> None:
    (image / "new").write_text("x")
    (image / "other").hardlink_to(image / "new")
    (image / "link").hardlink_to(image / "file")
    lines = zfs("diff", "-H", "zones/image@final", "zones/zone").splitlines()
    assert sorted(lines) == [f"+\t{image}/other", f"M\t{image}/", f"M\t{image}/file\t(+1)"]


def test_a_renamed_dataset_takes_its_snapshots_and_clones_along(zfs: ZFS, image: Path) -> None:
    assert zfs("rename", "zones/image", "zones/other") == ""
    assert zfs("get", "-Hpo", "value", "origin", "zones/zone") == "zones/other@final\n"
    assert (image / "file").read_text() == "old"
    assert not (image.parent / "image").exists()
    assert zfs("rename", "zones/zone", "zones/moved") == ""
    assert (image.parent / "moved/file").read_text() == "old"


def test_the_pool_is_there_again_after_a_power_failure(tmp_path: Path) -> None:
    first = process.start(tmp_path / "gz")
    try:
        for argv in (
            ["create", "zones/a"],
            ["snapshot", "zones/a@final"],
            ["clone", "zones/a@final", "zones/b"],
        ):
            assert first.run("zfs", *argv).returncode == 0
        (first.root / "zones/b/f").write_text("x")
        first.kill()
        first = process.start(tmp_path / "gz")
        assert (first.root / "zones/b/f").read_text() == "x"
        assert json.loads((first.root / ".pool/datasets.json").read_text())
    finally:
        first.stop()
