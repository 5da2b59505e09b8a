# ruff: noqa: ASYNC240 - a test has its loop for itself
"""The layer writer: its trees are GNU tar's, whiteouts are overlay's, and nothing leaves the root."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dockerapi.errors import CommandFailed
from gateway.hosts import trees, untar
from gateway.hosts.command import run
from gateway.hosts.tarstream import BadArchive, Tar

pytestmark = pytest.mark.root

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, data: bytes = b"", **fields: Any) -> Entry:
    """A tar member; a trailing slash makes a directory."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o755 if name.endswith("/") else 0o644
    info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
    info.mtime = 1_700_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def symlink(name: str, target: str) -> Entry:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Entry:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def archive(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


async def extract(root: Path, tar: bytes, mode: str, *options: str) -> dict[str, Any]:
    """Run the program; its report.  CommandFailed with its line if it refuses."""
    argv = untar.command(str(root), mode, *options)
    report: dict[str, Any] = json.loads(await run(argv, timeout_s=30, stdin=tar))
    return report


def write(root: Path, tar: bytes, *, overlay: bool = True) -> untar.Writer:
    """The writer in this process."""
    place = untar.Root(str(root))
    writer = untar.Writer(place, overlay=overlay)
    before = os.umask(0)
    try:
        writer.write(Tar(io.BytesIO(tar).read))
    finally:
        os.umask(before)
        place.close()
    return writer


def snapshot(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything that can be seen of a tree, by path."""
    seen: dict[bytes, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in [b".", *folders, *files]:
            path = folder + b"/" + name
            found = os.lstat(path)
            mode = found.st_mode
            content = b""
            if stat.S_ISREG(mode):
                content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).digest()
            elif stat.S_ISLNK(mode):
                content = os.fsencode(Path(os.fsdecode(path)).readlink())
            names = os.listxattr(path, follow_symlinks=False)
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in names}
            size = 0 if stat.S_ISDIR(mode) else found.st_size
            seen[os.path.relpath(path, os.fsencode(root))] = (
                mode,
                found.st_uid,
                found.st_gid,
                found.st_mtime_ns,
                found.st_rdev,
                size,
                0 if stat.S_ISDIR(mode) else found.st_nlink,
                content,
                tuple(sorted(xattrs.items())),
            )
    return seen


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with something beside it that must not change."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("untouched")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def _nothing_escapes(tmp_path: Path, root: Path) -> Iterator[None]:
    before = snapshot(tmp_path / "outside")
    yield
    assert snapshot(tmp_path / "outside") == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "gnu") == [
        "outside",
        "root",
    ]


# --- the same tree as GNU tar's

NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda name: name not in (".", "..") and not name.startswith(".wh."))


@st.composite
def layers(draw: st.DrawFn) -> bytes:
    """Archives that GNU tar takes: every name once, parents first."""
    folders = [""]
    files: list[str] = []
    entries = []
    for number in range(draw(st.integers(0, 12))):
        kinds = "fdslpc" if files else "fdspc"
        kind = draw(st.sampled_from(kinds))
        name = draw(st.sampled_from(folders)) + f"{number}{draw(NAMES)}"
        name += "x" * draw(st.sampled_from([0, 0, 90, 130]))
        if len(os.fsencode(name.rpartition("/")[2])) > 250:
            name = name.rpartition("/")[0] + f"/{number}" if "/" in name else str(number)
        info, data = entry(name + ("/" if kind == "d" else ""))
        info.mode = draw(st.integers(0, 0o7777))
        info.uid, info.gid = draw(st.integers(0, 2**32 - 2)), draw(st.integers(0, 70000))
        seconds, fraction = draw(st.integers(0, 2**33)), draw(st.integers(0, 10**9 - 1))
        info.pax_headers = {"mtime": f"{seconds}.{fraction:09d}"}
        match kind:
            case "f":
                data = draw(st.binary(max_size=2000))
                info.size = len(data)
                if draw(st.booleans()):
                    info.pax_headers["SCHILY.xattr.user.key"] = draw(st.text("abc= \n", min_size=1))
                files.append(name)
            case "d":
                folders.append(name + "/")
            case "s":
                info.type, info.linkname = (
                    tarfile.SYMTYPE,
                    draw(NAMES) + "y" * draw(st.sampled_from([0, 120])),
                )
            case "l":
                info, data = hard_link(name, draw(st.sampled_from(files)))
            case "p":
                info.type = tarfile.FIFOTYPE
            case "c":
                info.type = tarfile.CHRTYPE
                info.devmajor, info.devminor = draw(st.integers(1, 200)), draw(st.integers(0, 200))
        entries.append((info, data))
    return archive(*entries)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tar=layers())
async def test_trees_are_those_of_gnu_tar(tmp_path: Path, tar: bytes) -> None:
    ours, gnu = tmp_path / "root", tmp_path / "gnu"
    for folder in (ours, gnu):
        if folder.exists():
            trees.remove(str(folder))
        folder.mkdir()
    write(ours, tar)
    # C.UTF-8: else GNU tar cannot turn pax names back into bytes
    gnu_tar = ["/bin/tar", "-xpf", "-", "-C", str(gnu), "--numeric-owner", "--same-owner"]
    await run(
        [*gnu_tar, "--xattrs", "--xattrs-include=*", "--delay-directory-restore"],
        timeout_s=30,
        stdin=tar,
        env={"LC_ALL": "C.UTF-8"},
    )
    expected, found = snapshot(gnu), snapshot(ours)
    expected.pop(b"."), found.pop(b".")
    assert found == expected


@pytest.mark.parametrize(
    "form",
    [
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
    ids=["old", "0.0", "0.1", "1.0"],
)
async def test_sparse_files_keep_their_holes(root: Path, form: list[str]) -> None:
    made = root.parent / "gnu"
    made.mkdir()
    with (made / "sparse").open("wb") as file:
        for number in range(60):
            file.seek(number * 300_000)
            file.write(b"data %d" % number)
        file.truncate(40_000_000)
    (made / "after").write_bytes(b"next")
    tar = await run(
        ["/bin/tar", "-C", str(made), "--sparse", *form, "-cf", "-", "sparse", "after"],
        timeout_s=30,
    )
    await extract(root, tar, "overlay")
    assert (root / "sparse").read_bytes() == (made / "sparse").read_bytes()
    assert (root / "after").read_bytes() == b"next"
    assert (root / "sparse").stat().st_blocks * 512 < 2_000_000


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
async def test_long_names_and_large_numbers_are_kept(root: Path, form: int) -> None:
    name = "d" * 80 + "/" + "f" * 80
    big = 2_000_000_000 if form != tarfile.USTAR_FORMAT else 2_000_000
    await extract(root, archive(entry(name, b"x", uid=big), form=form), "overlay")
    assert (root / name).stat().st_uid == big


async def test_setuid_and_capabilities_survive_the_change_of_owner(root: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    info, data = entry("ping", b"x", mode=0o4755, uid=5)
    info.pax_headers = {"SCHILY.xattr.security.capability": capability.decode("latin-1")}
    await extract(root, archive((info, data)), "overlay")
    assert (root / "ping").stat().st_mode & 0o7777 == 0o4755
    assert os.getxattr(root / "ping", "security.capability") == capability


async def test_attributes_that_overlay_would_obey_are_dropped(root: Path) -> None:
    info, _ = entry("d/")
    info.pax_headers = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.user.kept": "1",
    }
    await extract(root, archive((info, b"")), "overlay")
    assert os.listxattr(root / "d") == ["user.kept"]


async def test_the_root_entry_sets_the_attributes_of_the_root(root: Path) -> None:
    report = await extract(root, archive(entry("./", mode=0o1777, uid=3), entry("./a")), "overlay")
    assert (root.stat().st_mode & 0o7777, root.stat().st_uid) == (0o1777, 3)
    assert report["implied"] == []


async def test_the_report_counts_and_names_implied_directories(root: Path) -> None:
    tar = archive(entry("a/b/c", b"12345"), entry("a/"))
    report = await extract(root, tar, "overlay")
    assert (report["entries"], report["bytes"], report["opaque"]) == (2, 5, False)
    assert [bytes.fromhex(path) for path in report["implied"]] == [b"a/b", b""]


async def test_a_directory_time_is_not_disturbed_by_what_comes_after(root: Path) -> None:
    tar = archive(entry("d/", mtime=1000), entry("d/e/", mtime=2000), entry("d/e/f", b"x"))
    await extract(root, tar, "overlay")
    assert ((root / "d").stat().st_mtime, (root / "d/e").stat().st_mtime) == (1000, 2000)


async def test_an_empty_stream_is_an_empty_layer(root: Path) -> None:
    assert (await extract(root, b"", "overlay"))["entries"] == 0


async def test_what_follows_the_end_mark_is_read_to_the_end(root: Path) -> None:
    # ... or the pipe would break and the digest of the stream be of a part of it.
    tar = archive(entry("a", b"x")) + bytes(3_000_000)
    assert (await extract(root, tar, "overlay"))["entries"] == 1


# --- whiteouts


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


async def test_a_whiteout_becomes_a_device_0_0(root: Path) -> None:
    await extract(root, archive(entry("d/"), entry("d/.wh.gone")), "overlay")
    assert is_whiteout(root / "d/gone")


async def test_an_opaque_directory_is_marked(root: Path) -> None:
    tar = archive(entry("d/"), entry("d/.wh..wh..opq"), entry("d/new", b"x"))
    report = await extract(root, tar, "overlay")
    assert is_opaque(root / "d")
    assert not report["opaque"]


async def test_an_opaque_root_is_reported(root: Path) -> None:
    assert (await extract(root, archive(entry(".wh..wh..opq")), "overlay"))["opaque"]


@pytest.mark.parametrize(
    "entries",
    [
        (entry(".wh.k"), entry("k/"), entry("k/new", b"n")),
        (entry(".wh.k"), entry("k/new", b"n")),
        (entry("k/"), entry("k/new", b"n"), entry(".wh.k")),
        (entry("k", b"file"), entry("k/"), entry("k/new", b"n")),
    ],
    ids=["whiteout first", "directory implied", "whiteout last", "file between"],
)
async def test_a_directory_that_replaces_one_below_is_opaque(
    root: Path, entries: tuple[Entry, ...]
) -> None:
    await extract(root, archive(*entries), "overlay")
    assert is_opaque(root / "k")
    assert (root / "k/new").read_bytes() == b"n"


async def test_a_whiteout_spares_what_its_own_layer_wrote(root: Path) -> None:
    await extract(root, archive(entry("f", b"new"), entry(".wh.f")), "overlay")
    assert (root / "f").read_bytes() == b"new"


async def test_bookkeeping_of_aufs_is_skipped(root: Path) -> None:
    tar = archive(entry(".wh..wh.aufs"), entry(".wh..wh.plnk/"), entry(".wh..wh.plnk/1.2", b"x"))
    await extract(root, tar, "overlay")
    assert list(root.iterdir()) == []


async def test_merged_whiteouts_remove_lower_content_only(root: Path) -> None:
    for name in ("low/x", "low/sub/y", "op/a", "op/keep/b", "other"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("lower")
    tar = archive(
        entry("low/sub/new", b"n"),
        entry("op/keep/c", b"n"),
        entry("mine", b"n"),
        entry(".wh.low"),
        entry("op/.wh..wh..opq"),
        entry(".wh.mine"),
        entry(".wh.other"),
        entry(".wh.never-there"),
        entry("nowhere/.wh.x"),
    )
    await extract(root, tar, "merged")
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == ["low/sub/new", "mine", "op/keep/c"]


# --- archives that mean harm.  `None`: taken, and the check sees what became of it.


def raw(name: bytes, *, size: bytes = b"%011o" % 0, kind: bytes = b"0", data: bytes = b"") -> bytes:
    """A header as bytes, with a right checksum: tarfile writes no wrong ones."""
    header = bytearray(512)
    header[0 : len(name)] = name
    header[100:108], header[108:116], header[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    header[124 : 124 + len(size)] = size
    header[136:148], header[156:157], header[257:265] = b"00000000000\0", kind, b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % 512)


def pax(**records: str) -> Entry:
    info, data = entry("plain", b"x")
    info.pax_headers = records
    return info, data


def content(name: str, expected: bytes) -> Callable[[Path], None]:
    def check(root: Path) -> None:
        assert (root / name).read_bytes() == expected

    return check


def absent(name: str) -> Callable[[Path], None]:
    def check(root: Path) -> None:
        assert not os.path.lexists(root / name)

    return check


END = bytes(1024)
OUT = "../outside"
HOSTILE: dict[str, tuple[bytes, str | None, Callable[[Path], None] | None]] = {
    "absolute path": (archive(entry("/etc/x", b"x")), None, content("etc/x", b"x")),
    "dot dot": (archive(entry("../outside/x", b"x")), "leads out", None),
    "dot dot in the middle": (archive(entry("a/../../outside/x")), "leads out", None),
    "dot dot at the end": (archive(entry("a/..")), "leads out", None),
    "through a relative symlink": (
        archive(symlink("l", OUT), entry("l/x", b"x")),
        "not a directory inside",
        None,
    ),
    "through an absolute symlink": (
        archive(symlink("l", "/nowhere/at/all"), entry("l/x", b"x")),
        "not a directory inside",
        None,
    ),
    "through /proc": (
        archive(symlink("l", "/proc/self/cwd"), entry("l/x", b"x")),
        "not a directory inside",
        None,
    ),
    "symlink loop": (archive(symlink("l", "l"), entry("l/x", b"x")), "symbolic links", None),
    "hard link to what the layer took away": (
        archive(entry(".wh.gone"), hard_link("h", "gone")),
        "not in this layer",
        None,
    ),
    "hard link out": (archive(hard_link("h", "../outside/secret")), "leads out", None),
    "hard link to an absolute path": (archive(hard_link("h", "/etc/passwd")), "not in this", None),
    "hard link through a symlink": (
        archive(symlink("l", OUT), hard_link("h", "l/secret")),
        "not in this layer",
        None,
    ),
    "hard link to a symlink, then written through": (
        archive(symlink("l", f"{OUT}/secret"), hard_link("h", "l"), entry("h", b"x")),
        None,
        content("h", b"x"),
    ),
    "hard link to a directory": (archive(entry("d/"), hard_link("h", "d")), "directory", None),
    "hard link to itself": (
        archive(entry("f", b"x"), hard_link("f", "f")),
        None,
        content("f", b"x"),
    ),
    "symlink, then a file of that name": (
        archive(symlink("l", f"{OUT}/secret"), entry("l", b"x")),
        None,
        content("l", b"x"),
    ),
    "symlink, then a directory of that name": (
        archive(symlink("l", OUT), entry("l/", mode=0o777), entry("l/x", b"x")),
        None,
        content("l/x", b"x"),
    ),
    "duplicates of changing type": (
        archive(
            entry("d", b"f"),
            entry("d/"),
            entry("d/c", b"x"),
            symlink("d", OUT),
            entry("d", b"f"),
            entry("d/"),
            entry("d/last", b"l"),
        ),
        None,
        content("d/last", b"l"),
    ),
    "directory with content replaced by a symlink out": (
        archive(entry("d/"), entry("d/a", b"x"), symlink("d", OUT), entry("d/x", b"x")),
        "not a directory inside",
        None,
    ),
    "parent is a file": (archive(entry("f", b"x"), entry("f/x", b"x")), "not a directory", None),
    "whiteout of dot dot": (archive(entry("d/.wh...")), "must name", None),
    "whiteout of dot": (archive(entry("d/.wh..")), "must name", None),
    "whiteout of nothing": (archive(entry("d/.wh.")), "must name", None),
    "whiteout with dot dot": (archive(entry("../outside/.wh.secret")), "leads out", None),
    "whiteout through a symlink": (
        archive(symlink("l", OUT), entry("l/.wh.secret")),
        "not a directory inside",
        None,
    ),
    "opaque through a symlink": (
        archive(symlink("l", OUT), entry("l/.wh..wh..opq")),
        "not a directory inside",
        None,
    ),
    "newlines and control characters": (
        archive(entry("a\n\x1b[31m", b"x")),
        None,
        content("a\n\x1b[31m", b"x"),
    ),
    "invalid UTF-8": (
        raw(b"\xff\xfe") + END,
        None,
        content(os.fsdecode(b"\xff\xfe"), b""),
    ),
    "pax path out": (archive(pax(path="../outside/x")), "leads out", None),
    "pax path with NUL": (
        raw(b"x", kind=b"x", size=b"%011o" % 12, data=b"12 path=a\0b\n") + raw(b"plain") + END,
        "NUL",
        None,
    ),
    "pax link out": (
        archive(entry("h", type=tarfile.LNKTYPE, linkname="x", pax_headers={"linkpath": OUT})),
        "leads out",
        None,
    ),
    "8 TB sparse file": (
        archive(pax(**{"GNU.sparse.map": "0,1", "GNU.sparse.size": str(8 << 40)})),
        "too large",
        None,
    ),
    "sparse map beyond the file": (
        archive(pax(**{"GNU.sparse.map": "5,1", "GNU.sparse.size": "2"})),
        "sparse map",
        None,
    ),
    "negative size": (raw(b"x", size=b"-0000001000") + END, "malformed", None),
    "negative base-256 size": (raw(b"x", size=b"\xff" * 12) + END, "malformed", None),
    "size with underscores": (raw(b"x", size=b"0_0_0_0_0_1") + END, "malformed", None),
    "8 GB long name": (raw(b"x", size=b"77777777777", kind=b"L"), "too large", None),
    "many extension headers": (
        raw(b"x", size=b"%011o" % 900_000, kind=b"L", data=b"a" * 900_000) * 3,
        "too large",
        None,
    ),
    "malformed pax records": (
        raw(b"x", kind=b"x", size=b"%011o" % 8, data=b"99 a=bc\n") + raw(b"y") + END,
        "malformed",
        None,
    ),
    "file larger than the disk": (
        raw(b"x", size=b"\x80" + b"\x00" * 4 + b"\x7f" * 7),
        "space",
        None,
    ),
    "component longer than 255": (archive(entry("x" * 300)), "name too long", None),
    "very deep path": (archive(entry("d/" * 600 + "x")), "deeper than", None),
    "unknown type": (raw(b"x", kind=b"V") + END, "not supported", None),
    "wrong checksum": (b"x" + raw(b"x")[1:].replace(b"ustar", b"Ustar") + END, "checksum", None),
    "not a tar": (b"PK\x03\x04" * 200, "malformed", None),
    "cut short in a file": (archive(entry("x", b"y" * 5000))[:3000], "unexpected EOF", None),
    "cut short in a header": (archive(entry("x", b"y"))[:300], "unexpected EOF", None),
    "symlink as root": (archive(symlink(".", OUT)), "only a directory", None),
    "plnk with whiteout": (archive(entry(".wh..wh.plnk/.wh.x")), None, absent(".wh..wh.plnk")),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("mode", ["overlay", "merged", "overlay chroot"])
async def test_hostile_archives_stay_inside(root: Path, case: str, mode: str) -> None:
    tar, refusal, check = HOSTILE[case]
    if refusal is None:
        await extract(root, tar, *mode.split())
    elif (
        mode == "merged"
        and "through a symlink" in case
        and ("whiteout" in case or "opaque" in case)
    ):
        await extract(root, tar, mode)  # there is nothing inside to be removed
    else:
        with pytest.raises(CommandFailed, match=f"(?i){refusal}") as caught:
            await extract(root, tar, *mode.split())
        assert "\n" not in caught.value.stderr.strip()
    if check is not None:
        check(root)


@pytest.mark.parametrize("mode", ["overlay", "overlay chroot"])
async def test_links_of_a_merged_usr_lead_to_the_right_place(root: Path, mode: str) -> None:
    tar = archive(
        entry("usr/lib/"),
        symlink("lib", "usr/lib"),
        entry("lib/x", b"1"),
        entry("run/"),
        entry("var/"),
        symlink("var/run", "/run"),
        entry("var/run/y", b"2"),
        hard_link("var/run/z", "lib/x"),
    )
    await extract(root, tar, *mode.split())
    assert (root / "usr/lib/x").read_bytes() == b"1"
    assert (root / "run/y").read_bytes() == b"2"
    assert (root / "run/z").stat().st_ino == (root / "usr/lib/x").stat().st_ino


async def test_device_nodes_are_made(root: Path) -> None:
    null = entry("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    await extract(root, archive(null), "overlay")
    assert (root / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE((root / "null").stat().st_mode) == 0o666


@given(noise=st.binary(max_size=3000), cut=st.integers(0, 4000))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_archives_are_refused_or_read_never_crash(
    root: Path, noise: bytes, cut: int
) -> None:
    whole = archive(entry("a", b"x" * 700), entry("b/"), *[symlink("c", "d" * 150)])
    damaged = whole[: cut % len(whole)] + noise + whole[cut % len(whole) + len(noise) :]
    with contextlib.suppress(BadArchive):
        for _ in Tar(io.BytesIO(damaged).read):
            pass


@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_a_stream_reads_the_same_in_pieces_of_any_size(sizes: list[int]) -> None:
    tar = archive(entry("a", b"x" * 700), symlink("c" * 120, "d" * 150), entry("e", b"y" * 3))
    pieces = iter(sizes * (len(tar) // sum(sizes) + 1))
    stream = io.BytesIO(tar)
    reader = Tar(lambda _: stream.read(next(pieces, 512)))
    seen = [(found.name, b"".join(reader.chunks())) for found in reader]
    assert seen == [(b"a", b"x" * 700), (b"c" * 120, b""), (b"e", b"y" * 3)]


def test_trees_of_any_depth_can_be_removed(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT, dir_fd=fd))
    os.close(fd)
    trees.remove(str(root / "d"))
    assert list(root.iterdir()) == []


def test_removing_a_tree_does_not_follow_links(root: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "l").symlink_to("../../outside")
    trees.remove(str(root / "d"))
    assert list(root.iterdir()) == []
