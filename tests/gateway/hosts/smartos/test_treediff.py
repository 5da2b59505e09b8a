"""What `zfs diff` prints, and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.hosts.command import CommandFailed, run
from gateway.hosts.smartos.treediff import LIST, Tree, completed, joined, parse_diff, parse_trees
from gateway.zones.host import ChangeKind

ROOT = "/zones/z/root"


@pytest.mark.parametrize(
    "path",
    [
        rb"a\040b\134c\011\303\274",  # illumos
        rb"a\0040b\0134c\0011\0303\0274",  # OpenZFS
    ],
)
def test_names_are_escaped_in_one_of_two_ways(path: bytes) -> None:
    found = parse_diff(b"+\t/zones/z/root/" + path + b"\n", ROOT)
    assert found == [("/a b\\c\t\u00fc", ChangeKind.ADDED)]


def test_a_digit_after_a_blank_is_none_of_it() -> None:
    assert parse_diff(rb"+	/zones/z/root/a\0401", ROOT) == [("/a 1", ChangeKind.ADDED)]


def test_other_datasets_and_link_counts_are_passed_over() -> None:
    output = (
        b"M\t/zones/z/config/x\nM\t/zones/z/root/one\t(+1)\nR\t/zones/z/root/a\t/zones/z/root/b\n"
    )
    assert parse_diff(output, ROOT) == [
        ("/one", ChangeKind.MODIFIED),
        ("/a", ChangeKind.DELETED),
        ("/b", ChangeKind.ADDED),
    ]


@pytest.mark.parametrize("order", [b"-+", b"+-"])
def test_a_file_in_anothers_place_is_modified_in_either_order(order: bytes) -> None:
    output = b"".join(b"%c\t/zones/z/root/conf\n" % kind for kind in order)
    assert joined(parse_diff(output, ROOT)) == {"/conf": ChangeKind.MODIFIED}


ADDED, DELETED, MODIFIED = ChangeKind.ADDED, ChangeKind.DELETED, ChangeKind.MODIFIED


def tree(*files: str, mounts: tuple[str, ...] = ()) -> Tree:
    """Files by their names, with blanks between; a name that ends in / is a folder."""
    made = Tree(mounts=set(mounts))
    for file in files:
        names = {name.rstrip("/") for name in file.split()}
        made.entries |= dict.fromkeys(names, b"d" if file.endswith("/") else b"-")
        if len(names) > 1:
            made.files |= dict.fromkeys(names, names)
    return made


@pytest.mark.parametrize(
    ("rows", "before", "after", "expected"),
    [
        # A new file with two names; one whose only told name is gone again.
        ({"/b": ADDED}, [], ["/a /b"], {"/a": ADDED, "/b": ADDED}),
        ({"/d": ADDED}, [], ["/d/", "/d/x"], {"/d": ADDED, "/d/x": ADDED}),
        # Another name for the image's file: M /a (+1).
        ({"/a": MODIFIED}, ["/a"], ["/a /b"], {"/a": MODIFIED, "/b": ADDED}),
        # One of two names went: M /a (-1), or the name that came last is told, or one that came with it.
        ({"/a": MODIFIED}, ["/a /b"], ["/a"], {"/a": MODIFIED, "/b": DELETED}),
        ({"/c": MODIFIED}, ["/a /b"], ["/c"], {"/a": DELETED, "/b": DELETED, "/c": ADDED}),
        (
            {"/b": DELETED, "/c": ADDED},
            ["/a /b"],
            ["/b /c"],
            {"/a": DELETED, "/b": MODIFIED, "/c": ADDED},
        ),
        # zfs cannot tell where a file is whose last name went: to it the file is gone.
        ({"/b": DELETED}, ["/a /b"], ["/a"], {"/a": MODIFIED, "/b": DELETED}),
        # Both went.
        ({"/b": DELETED}, ["/a /b"], [], {"/a": DELETED, "/b": DELETED}),
        # What is in a file with two names changed, far away from the one that is told.
        (
            {"/a": MODIFIED},
            ["/d/", "/a /d/b"],
            ["/d/", "/a /d/b"],
            {"/a": MODIFIED, "/d/b": MODIFIED},
        ),
        # A name of one file in the place of another.
        (
            {"/a": MODIFIED, "/b": DELETED},
            ["/a", "/b"],
            ["/a /b"],
            {"/a": MODIFIED, "/b": MODIFIED},
        ),
        ({"/b": ADDED, "/a": MODIFIED}, ["/a /b"], ["/a", "/b"], {"/a": MODIFIED, "/b": MODIFIED}),
        # A folder with all that is in it was renamed.
        (
            {"/d": DELETED, "/e": ADDED},
            ["/d/", "/d/x"],
            ["/e/", "/e/x"],
            {"/d": DELETED, "/d/x": DELETED, "/e": ADDED, "/e/x": ADDED},
        ),
        # Of a socket tar says nothing.  What came into a folder that zfs did not see change came later.
        ({"/s": ADDED}, [], ["/d/", "/d/later"], {"/s": ADDED, "/d": ADDED, "/d/later": ADDED}),
        ({"/s": ADDED}, ["/d/"], ["/d/", "/d/later"], {"/s": ADDED}),
    ],
)
def test_names_that_zfs_leaves_out_are_found(
    rows: dict[str, ChangeKind],
    before: list[str],
    after: list[str],
    expected: dict[str, ChangeKind],
) -> None:
    assert completed(rows, tree(*before), tree(*after)) == expected


def test_below_a_mount_only_zfs_knows() -> None:
    before = tree("/v/", "/v/a /v/b", "/w/", "/w/a /w/b")
    after = tree("/v/", "/w/", mounts=("/w",))
    rows = {"/v": MODIFIED, "/v/a": MODIFIED, "/w": MODIFIED}
    assert completed(rows, before, after, ["/v"]) == rows


def test_a_file_that_is_another_is_modified_though_zfs_only_saw_its_folder_move() -> None:
    before, after = tree("/d/", "/d/x"), tree("/d/", "/d/x")
    after.entries["/d/x"] = b"- other"
    assert completed({"/d": MODIFIED}, before, after) == {"/d": MODIFIED, "/d/x": MODIFIED}


async def test_trees_are_listed_with_names_of_any_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    (two / "proc").mkdir(parents=True)
    (two / "proc/x").touch()
    (two / "d").mkdir()
    name = 'a "\\\n\t\x01 link to "b\udcff\u00fc'
    (two / name).write_text("x" * 5000)
    (two / "d/other").hardlink_to(two / name)
    (two / "symlink").symlink_to(' link to "x"')
    argv = ["/bin/bash", "-c", LIST.replace("gtar", "/bin/tar"), "list", str(one), str(two)]
    before, after = parse_trees(await run(argv, timeout_s=10))
    assert before.entries == {}
    assert after.entries.keys() == {"/d", f"/{name}", "/d/other", "/symlink"}
    assert after.files == {key: {"/d/other", f"/{name}"} for key in ["/d/other", f"/{name}"]}
    assert after.entries["/d/other"] == after.entries[f"/{name}"]


async def test_a_tree_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    argv = ["/bin/bash", "-c", LIST.replace("gtar", "/bin/tar"), "list", str(tmp_path / "none")]
    with pytest.raises(CommandFailed, match="none"):
        await run(argv, timeout_s=10)
