# ruff: noqa: ASYNC240 - a test has its loop for itself
"""Layers for the platform's tar: trees are those of the Linux host, and nothing leaves the root."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dockerapi.errors import InvalidParameter
from gateway.hosts import trees
from gateway.hosts.command import run
from gateway.hosts.linux import overlay
from gateway.hosts.linux.datasets import OverlayDatasets
from gateway.hosts.smartos import layers, whiteouts
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.tarstream import BadArchive, Tar
from imgsources.datasets import LayerInfo
from imgsources.oci import Digest, ImageUUID
from tests.fakes.globalzone.programs import chroot_gtar
from tests.gateway.hosts.test_untar import (
    HOSTILE,
    archive,
    entry,
    hard_link,
    snapshot,
    symlink,
    write,
)
from tests.gateway.hosts.test_untar import layers as any_layer

pytestmark = pytest.mark.root

FREE = 1 << 30


async def apply(folder: Path, tar: bytes, *, on_top: bool = False) -> layers.Plan:
    """As the store does it, into folder/root."""
    spool = folder.parent / "spool.tar"
    with spool.open("wb") as out:
        layer = layers.read_layer(io.BytesIO(tar).read, out, FREE)
    async with LocalGlobalZone() as gz:
        lower: dict[bytes, bytes] | None = {} if on_top else None
        while (plan := layers.settle(layer, lower)).unknown:
            assert lower is not None
            lower |= await whiteouts.look(gz, f"{folder}/root", plan.unknown)
        if plan.changes_tar:
            again = io.BytesIO()
            layers.rewrite(io.BytesIO(spool.read_bytes()).read, again, plan)
            spool.write_bytes(again.getvalue())
        await whiteouts.clear(gz, f"{folder}/root", plan.removals)
    await run(
        [
            sys.executable,
            "-I",
            "-S",
            chroot_gtar.__file__,
            str(folder),
            "root",
            str(spool),
            "none",
            "-1",
        ],
        timeout_s=30,
        env={"LC_ALL": "C.UTF-8"},
    )
    spool.unlink()
    return plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a dataset with an empty root, and something beside it that must not change."""
    (tmp_path / "partial/root").mkdir(parents=True)
    (tmp_path / "partial/outside").mkdir()
    (tmp_path / "partial/outside/secret").write_text("untouched")
    (tmp_path / "outside").mkdir()
    return tmp_path / "partial"


# --- hostile archives, the same as untar's

AS_OVERLAY = ("whiteout through a symlink", "opaque through a symlink")


@pytest.mark.parametrize("on_top", [False, True], ids=["base", "on top"])
@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_archives_stay_inside(folder: Path, case: str, on_top: bool) -> None:
    tar, refusal, check = HOSTILE[case]
    before = snapshot(folder / "outside")
    if refusal is None or case in AS_OVERLAY:  # there is nothing inside to be removed
        await apply(folder, tar, on_top=on_top)
    elif refusal == "space":
        with pytest.raises(OSError, match="space"):
            await apply(folder, tar, on_top=on_top)
    else:
        with pytest.raises(BadArchive, match=f"(?i){refusal}") as caught:
            await apply(folder, tar, on_top=on_top)
        assert "\n" not in str(caught.value)
        assert list((folder / "root").iterdir()) == []
    if check is not None:
        check(folder / "root")
    assert snapshot(folder / "outside") == before
    assert sorted(path.name for path in folder.iterdir()) == ["outside", "root"]


async def test_links_of_lower_layers_do_not_lead_out(folder: Path) -> None:
    # chroot-gtar is confined to the dataset, whose other folders become a zone's config and logs.
    (folder / "config").mkdir()
    await apply(folder, archive(symlink("l", "../config"), symlink("m", "/config")))
    await apply(folder, archive(entry("l/metadata.json", b"x"), entry("m/x", b"x")), on_top=True)
    assert list((folder / "config").iterdir()) == []
    assert (folder / "root/l/metadata.json").read_bytes() == b"x"
    assert (folder / "root/m/x").read_bytes() == b"x"


async def test_links_of_a_merged_usr_lead_to_the_right_place(folder: Path) -> None:
    base = archive(
        entry("usr/lib/"), symlink("lib", "usr/lib"), entry("run/"), symlink("var/run", "/run")
    )
    await apply(folder, base)
    tar = archive(entry("lib/x", b"1"), entry("var/run/y", b"2"), hard_link("var/run/z", "lib/x"))
    plan = await apply(folder, tar, on_top=True)
    root = folder / "root"
    assert plan.names == {0: b"usr/lib/x", 1: b"run/y", 2: b"run/z"}
    assert (root / "lib").is_symlink()
    assert (root / "usr/lib/x").read_bytes() == b"1"
    assert (root / "run/y").read_bytes() == b"2"
    assert (root / "run/z").stat().st_ino == (root / "usr/lib/x").stat().st_ino


# --- whiteouts


async def test_whiteouts_hide_lower_layers_only(folder: Path) -> None:
    await apply(
        folder,
        archive(*(entry(n, b"lower") for n in ("low/x", "op/a", "op/keep/b", "mine", "k/old"))),
    )
    tar = archive(
        entry("op/"),
        entry("op/keep/c", b"n"),
        entry("mine", b"n"),
        entry("k/"),
        entry("k/new", b"n"),
        entry(".wh.low"),
        entry("op/.wh..wh..opq"),
        entry(".wh.mine"),
        entry(".wh.k"),
        entry(".wh.never-there"),
        entry("nowhere/.wh.x"),
    )
    await apply(folder, tar, on_top=True)
    root = folder / "root"
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == ["k/new", "mine", "op/keep/c"]
    assert (root / "mine").read_bytes() == b"n"


async def test_a_layer_without_whiteouts_asks_for_nothing_and_is_not_written_twice(
    folder: Path,
) -> None:
    tar = archive(
        entry("usr/"), entry("usr/bin/"), entry("usr/bin/x", b"1"), symlink("usr/l", "/x")
    )
    layer = layers.read_layer(io.BytesIO(tar).read, io.BytesIO(), FREE)
    plan = layers.settle(layer, {})
    assert not plan.unknown
    assert not plan.changes_tar


async def test_what_changes_its_kind_gives_way(folder: Path) -> None:
    base = archive(entry("d/x/y", b"1"), symlink("l", "d"), entry("f", b"1"), entry("same/x", b"1"))
    await apply(folder, base)
    tar = archive(
        entry("d", b"file"), entry("l/"), entry("l/new", b"1"), entry("f/"), entry("same/")
    )
    await apply(folder, tar, on_top=True)
    root = folder / "root"
    assert (root / "d").read_bytes() == b"file"
    assert (root / "l/new").read_bytes() == b"1"
    assert not (root / "l").is_symlink()
    assert (root / "f").is_dir()
    assert (root / "same/x").read_bytes() == b"1"


async def test_names_of_any_bytes_are_removed(folder: Path) -> None:
    names = [
        "-rf",
        "a b",
        "new\nline",
        "*",
        "~",
        "'q'",
        "tab\t",
        os.fsdecode(b"\xff"),
        "$(id)",
        "\\",
    ]
    await apply(
        folder, archive(*(entry(f"d/{name}", b"1") for name in names), entry("d/kept", b"1"))
    )
    await apply(folder, archive(*(entry(f"d/.wh.{name}") for name in names)), on_top=True)
    assert [path.name for path in (folder / "root/d").iterdir()] == ["kept"]


async def test_thousands_of_whiteouts_are_done_in_batches(folder: Path) -> None:
    names = [f"d{n % 7}/{n}-" + "x" * 150 for n in range(9000)]
    for name in names:
        path = folder / "root" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    layer = layers.Layer(
        whiteouts=[(os.fsencode(n.split("/")[0]), os.fsencode(n.split("/")[1])) for n in names]
    )
    async with LocalGlobalZone() as gz:
        facts = {b"d%d" % n: b"d" for n in range(7)}
        await whiteouts.clear(gz, f"{folder}/root", layers.settle(layer, facts).removals)
    assert [list(path.iterdir()) for path in (folder / "root").iterdir()] == [[]] * 7


async def test_an_opaque_root_empties_it(folder: Path) -> None:
    await apply(folder, archive(entry("a/b", b"1"), entry(".hidden", b"1"), entry("...", b"1")))
    await apply(folder, archive(entry(".wh..wh..opq"), entry("a/c", b"1")), on_top=True)
    root = folder / "root"
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == ["a", "a/c"]


async def test_a_look_says_what_is_there_and_follows_nothing(folder: Path) -> None:
    root = folder / "root"
    (root / "d").mkdir()
    (root / "d/f").touch()
    (root / "l").symlink_to("d")
    (root / "odd\n").symlink_to("to\n\n")
    asked = [b"d", b"d/f", b"l", b"l/f", b"odd\n", b"none", b"d/none", b"f/f"]
    async with LocalGlobalZone() as gz:
        found = await whiteouts.look(gz, str(root), asked)
        there = await whiteouts.find_directory(gz, str(root), "/l/../l/.")
        nowhere = await whiteouts.find_directory(gz, str(root), "/d/f")
    assert found == {
        b"d": b"d",
        b"d/f": b"f",
        b"l": b"ld",
        b"l/f": b"-",
        b"odd\n": b"lto\n\n",
        b"none": b"-",
        b"d/none": b"-",
        b"f/f": b"-",
    }
    assert (there, nowhere) == ("d", None)


# --- GNU's dialect


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tar=any_layer())
def test_a_spool_says_what_the_archive_said(tar: bytes) -> None:
    spool = io.BytesIO()
    layers.read_layer(io.BytesIO(tar).read, spool, FREE)
    assert _said(spool.getvalue()) == _said(tar)


def _said(tar: bytes) -> list[tuple[object, ...]]:
    archive = Tar(io.BytesIO(tar).read)
    return [
        (
            e.name.rstrip(b"/"),
            e.kind,
            e.link,
            e.mode,
            e.uid,
            e.gid,
            e.mtime_ns,
            e.major,
            e.minor,
            data,
        )
        for e in archive
        for data in [b"".join(archive.chunks())]
    ]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tar=any_layer())
async def test_gnu_tar_makes_the_tree_of_a_spool_that_our_writer_makes(
    tmp_path: Path, tar: bytes
) -> None:
    ours, gnu = tmp_path / "ours", tmp_path / "gnu"
    spool = io.BytesIO()
    layers.read_layer(io.BytesIO(tar).read, spool, FREE)
    for folder in (ours, gnu):
        folder.mkdir()
    try:
        write(ours, tar)
        # As the platform's: no locale, no extended attributes.  (A folder's time is not delayed there: it is
        # that of its last entry where an archive comes back to it.)
        argv = [
            "/bin/tar",
            "-xpf",
            "-",
            "-C",
            str(gnu),
            "--same-owner",
            "--delay-directory-restore",
        ]
        await run(argv, timeout_s=30, stdin=spool.getvalue(), env={"LC_ALL": "C"})
        assert without_xattrs(snapshot(gnu)) == without_xattrs(snapshot(ours))
    finally:
        for folder in (ours, gnu):
            trees.remove(str(folder))


def without_xattrs(found: dict[bytes, tuple[object, ...]]) -> dict[bytes, tuple[object, ...]]:
    return {path: row[:-1] for path, row in found.items() if path != b"."}


@pytest.mark.parametrize("count", [1, 4, 5, 60])
async def test_gnu_tar_reads_sparse_files_of_a_spool(tmp_path: Path, count: int) -> None:
    made, root = tmp_path / "made", tmp_path / "root"
    made.mkdir()
    root.mkdir()
    with (made / "sparse").open("wb") as file:
        for number in range(count):
            file.seek(number * 300_000)
            file.write(b"data %d" % number)
        file.truncate(40_000_000)
    (made / "after").write_bytes(b"next")
    names = ["sparse", "after"]
    tar = await run(
        ["/bin/tar", "-C", str(made), "--sparse", "--format=posix", "-cf", "-", *names],
        timeout_s=30,
    )
    spool = io.BytesIO()
    layers.read_layer(io.BytesIO(tar).read, spool, FREE)
    await run(["/bin/tar", "-C", str(root), "-xf", "-"], timeout_s=30, stdin=spool.getvalue())
    for name in names:
        assert (root / name).read_bytes() == (made / name).read_bytes()
    assert (root / "sparse").stat().st_blocks * 512 < 2_000_000


async def test_gnu_tar_reads_names_of_any_bytes_and_large_numbers(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff" * 120 + b"/" + b"\xfe" * 120)
    tar = archive(
        entry(name, b"x", uid=2_000_000_000, mtime=1 << 33), entry("old", b"x", mtime=-1000)
    )
    spool = io.BytesIO()
    layers.read_layer(io.BytesIO(tar).read, spool, FREE)
    argv = ["/bin/tar", "-C", str(tmp_path), "-xpf", "-", "--same-owner"]
    await run(argv, timeout_s=30, stdin=spool.getvalue(), env={"LC_ALL": "C"})
    found = (tmp_path / name).stat()
    assert (found.st_uid, found.st_mtime) == (2_000_000_000, 1 << 33)
    assert (tmp_path / "old").stat().st_mtime == -1000


def test_a_header_of_what_no_number_holds_is_refused() -> None:
    info, _ = entry("x")
    info.pax_headers = {"uid": "9999999999999999999"}
    tar = io.BytesIO(archive((info, b"")))
    with pytest.raises(BadArchive, match="out of range"):
        layers.read_layer(tar.read, io.BytesIO(), FREE)


# --- the same tree as on the Linux host

UUIDS = [ImageUUID(f"00000000-0000-0000-0000-00000000000{n}") for n in range(2)]
INFO = LayerInfo(Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64), 5)
PART = st.sampled_from(["a", "b", "c"])
PATH = st.lists(PART, min_size=1, max_size=3).map("/".join)
TARGET = st.sampled_from(
    ["a", "b", "/c", "../a", "../../b", "b/c", "/a/b", "nowhere", "/", "c/../b"]
)


Wanted = tuple[str, str, str]
"""Kind, path, target."""


def some(*kinds: str) -> st.SearchStrategy[list[Wanted]]:
    return st.lists(st.tuples(st.sampled_from(kinds), PATH, TARGET), max_size=7)


def is_telling(wanted: Wanted, root: Path, top: list[Wanted]) -> bool:
    """Whether the Linux host, where a layer is unpacked alone, does what a tar on the whole tree would.

    Not so with what goes through a link of this layer or one that leads nowhere, what a whiteout hides and an
    entry implies again, whiteouts of nothing (overlayfs shows a name behind which there is nothing).
    """
    kind, path, target = wanted
    place = root / path
    gone = [hidden for what, hidden, _ in top if what == "whiteout"]
    is_below = any(other.startswith(f"{path}/") for _, other, _ in top)
    if any(above.is_symlink() and not above.exists() for above in place.parents):
        return False
    links = [Path(os.path.realpath(path)) for path in root.rglob("*") if path.is_symlink()]
    if kind != "folder" and any(place in (link, *link.parents) for link in links):
        return False
    if kind == "whiteout":
        return os.path.lexists(place) and _is_plain(place.parent) and not is_below
    if kind == "opaque":
        is_gone = any(path.startswith(one) for one in gone)
        return place.is_dir() and _is_plain(place) and not is_below and not is_gone
    if kind == "hard link" and target.strip("/.") in gone:
        return False
    return kind == "folder" or not is_below


def _is_plain(path: Path) -> bool:
    return os.path.realpath(path) == str(path)


def made(wanted: list[Wanted]) -> bytes:
    members = []
    for number, (kind, path, target) in enumerate(wanted):
        above, slash, name = path.rpartition("/")
        match kind:
            case "file":
                members.append(entry(path, b"%d" % number, mode=0o640))
            case "folder":
                members.append(entry(path + "/", mode=0o700 + number))
            case "symlink":
                members.append(symlink(path, target))
            case "hard link":
                members.append(hard_link(path, target.strip("/.")))
            case "whiteout":
                members.append(entry(f"{above}{slash}.wh.{name}"))
            case "opaque":
                members.append(entry(f"{path}/.wh..wh..opq"))
    return archive(*members)


Seen = dict[bytes, tuple[object, ...]]
REFUSED = "refused"


async def on_linux(folder: Path, tars: list[bytes]) -> Seen | str | None:
    """What is seen, or the refusal."""
    store = await OverlayDatasets.open(folder)
    try:
        origin = None
        for uuid, tar in zip(UUIDS, tars, strict=True):
            async with store.extend(uuid, origin=origin, layer=INFO) as tree:
                await tree.apply(io.BytesIO(tar))
            origin = uuid
        await store.clone(origin, "zone")
        try:
            return seen(await store.mount("zone"))
        finally:
            await store.unmount("zone")
    except InvalidParameter:
        return REFUSED
    except FileNotFoundError:
        return None  # what a link to a folder above itself makes of implied.py
    finally:
        store.close()
        overlay.unmount(folder)
        trees.remove(str(folder))


async def on_smartos(folder: Path, tar: bytes) -> Seen | str:
    """The same, of a layer on top of what is there."""
    try:
        await apply(folder, tar, on_top=True)
    except BadArchive:
        return REFUSED
    return seen(folder / "root")


def seen(root: Path) -> Seen:
    """What a container sees; a folder's time is its file system's affair, unless an entry says it."""
    found = snapshot(root)
    return {
        path: (mode, uid, gid, content) if not stat.S_ISDIR(mode) else (mode, uid, gid)  # type: ignore[arg-type]
        for path, (mode, uid, gid, _, _, _, _, content, _) in found.items()
    }


async def both(
    folder: Path, base: list[Wanted], top: list[Wanted]
) -> tuple[Seen | str, Seen | str | None]:
    """What comes of two layers on SmartOS and on Linux."""
    (folder / "zfs/root").mkdir(parents=True)
    try:
        here = await on_smartos(folder / "zfs", made(base))
        if isinstance(here, str):
            return here, await on_linux(folder / "overlay", [made(base), made([])])
        top = [one for one in top if is_telling(one, folder / "zfs/root", top)]
        here = await on_smartos(folder / "zfs", made(top))
        return here, await on_linux(folder / "overlay", [made(base), made(top)])
    finally:
        trees.remove(str(folder / "zfs"))


# The same examples every time: `is_telling` does not know every way in which a layer unpacked alone and then
# laid over the others differs from one unpacked onto them.
@settings(
    max_examples=40,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    base=some("file", "folder", "symlink"),
    top=some("file", "folder", "symlink", "hard link", "whiteout", "opaque"),
)
async def test_layers_give_the_tree_that_they_give_on_linux(
    tmp_path: Path, base: list[Wanted], top: list[Wanted]
) -> None:
    here, linux = await both(tmp_path, base, top)
    assert linux is None or here == linux
