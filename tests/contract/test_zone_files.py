"""What every ZoneFiles and ZoneGauges must do, against real zones that run, have run, and never ran."""

from __future__ import annotations

import gzip
import io
import lzma
import stat
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockerapi.errors import APIError, InvalidParameter, NotFound, NotRunning
from gateway.hosts.command import run
from gateway.zones.host import ChangeKind, Zone, ZoneChange
from gateway.zones.spec import Filesystem
from tests.contract.conftest import Bench, exists

WORK = "mkdir -p /made/sub; echo hello >/made/file; ln -s /made/file /made/link; ln -s /made /way"
OUT = "ln -s / /out; ln -s ../../../../../.. /up"


async def gathered(blocks: AsyncIterator[bytes]) -> bytes:
    return b"".join([block async for block in blocks])


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return sorted(tar.getnames())


def archive(**files: bytes) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size, info.uid, info.gid = len(content), 7, 8
            tar.addfile(info, io.BytesIO(content))
    return output.getvalue()


async def holes() -> bytes:
    """A file with a hole, as GNU tar archives it."""
    script = "cd $(mktemp -d) && truncate -s 1M holes && printf end >>holes && tar cSf - --format=gnu holes; rm -r $PWD"
    return await run(["/bin/sh", "-c", script], timeout_s=30)


async def sent(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


async def write(bench: Bench, zone: Zone, path: str, data: bytes, **how: bool) -> None:
    flags = {"no_overwrite_dir_non_dir": False, "copy_uid_gid": False} | how
    await bench.host.files.write(zone.uuid, path, sent(data), **flags)


async def read(bench: Bench, zone: Zone, path: str) -> bytes:
    _, blocks = await bench.host.files.read(zone.uuid, path)
    return await gathered(blocks)


async def ended(bench: Bench, script: str, **values: object) -> Zone:
    """A zone that has run a script."""
    zone = await bench.start("sh", "-c", script, **values)
    await bench.seen(ZoneChange.STOPPED, zone)
    return bench.zones.get(zone.uuid)


async def running(bench: Bench, script: str, **values: object) -> Zone:
    """A zone that has run a script and waits."""
    zone = await bench.start("sh", "-c", f"{script}; mkfifo /over 2>/dev/null; sleep 600", **values)
    await bench.exec(zone, "sh", "-c", "while ! ls /over; do :; done")
    return zone


@pytest.mark.parametrize("state", [running, ended])
async def test_a_path_is_described_and_read_in_either_state(bench: Bench, state: object) -> None:
    zone = await state(bench, WORK)  # type: ignore[operator]
    files = bench.host.files
    status = await files.status(zone.uuid, "/made/file")
    assert (status.name, status.size, stat.S_ISREG(status.mode)) == ("file", 6, True)
    link = await files.status(zone.uuid, "/made/link")
    assert stat.S_ISLNK(link.mode)
    assert link.link_target == "/made/file"
    assert (await files.status(zone.uuid, "/way/")).name == "way"
    assert names(await read(bench, zone, "/way/file")) == ["file"]
    assert names(await read(bench, zone, "/made")) == ["made", "made/file", "made/link", "made/sub"]
    assert names(await read(bench, zone, "/made/.")) == [".", "./file", "./link", "./sub"]


async def test_what_is_not_there_is_told(bench: Bench) -> None:
    zone = await bench.create("true")
    with pytest.raises(NotFound):
        await bench.host.files.status(zone.uuid, "/nope")
    with pytest.raises(NotFound):
        await bench.host.files.read(zone.uuid, "/nope/at/all")
    with pytest.raises(APIError, match="not a directory"):
        await bench.host.files.status(zone.uuid, "/etc/passwd/")
    with pytest.raises(InvalidParameter, match="not a directory"):
        await write(bench, zone, "/etc/passwd", archive(x=b""))


async def test_links_do_not_lead_out_of_the_zone(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the machine's")
    zone = await ended(bench, OUT)
    for way in ("/out", "/up", "/../..", "/out/up/out"):
        with pytest.raises(NotFound):
            await bench.host.files.read(zone.uuid, f"{way}{tmp_path}/secret")
        with pytest.raises(NotFound):
            await write(bench, zone, f"{way}{tmp_path}", archive(planted=b"x"))
    await write(bench, zone, "/out", archive(planted=b"x"))
    assert names(await read(bench, zone, "/planted")) == ["planted"]
    assert not exists("/planted")
    assert not exists(f"{tmp_path}/planted")


async def test_a_tar_lands_in_a_zone_that_never_ran_and_is_there_when_it_runs(bench: Bench) -> None:
    zone = await bench.create("cat", "/tmp/a/b", "/tmp/c")
    await write(bench, zone, "/tmp", archive(a__b=b"one\n"))
    packed = archive(c=b"two\n")
    await write(bench, zone, "/tmp", gzip.compress(packed[:700]) + gzip.compress(packed[700:]))
    await write(bench, zone, "/tmp", b"")
    await bench.zones.start(zone.uuid)
    await bench.seen(ZoneChange.STOPPED, zone)
    assert await bench.logs(zone) == b"one\ntwo\n"


async def test_a_running_zone_sees_what_is_written_into_it(bench: Bench) -> None:
    zone = await running(bench, WORK)
    await write(bench, zone, "/made/sub", archive(new=b"fresh\n"))
    assert (await bench.exec(zone, "cat", "/made/sub/new"))[1] == b"fresh\n"
    _, out, _ = await bench.exec(zone, "stat", "-c", "%u:%g", "/made/sub/new")
    assert out == b"7:8\n"


async def test_archives_come_compressed_and_with_holes(bench: Bench) -> None:
    zone = await bench.create("true")
    await write(bench, zone, "/", gzip.compress(archive(one=b"1")))
    twice = archive(two=b"2" * 2000)
    # Two members one after another are one file; Linux refuses it.
    parts = (twice[:700], twice[700:]) if bench.is_smartos else (twice,)
    await write(bench, zone, "/", b"".join(map(gzip.compress, parts)))
    await write(bench, zone, "/", lzma.compress(archive(three=b"3")))
    for path, content in (("/one", b"1"), ("/two", b"2" * 2000), ("/three", b"3")):
        with tarfile.open(fileobj=io.BytesIO(await read(bench, zone, path))) as tar:
            file = tar.extractfile(path[1:])
            assert file is not None
            assert file.read() == content
    with pytest.raises(APIError):
        await write(bench, zone, "/", gzip.compress(twice)[:-20])
    await write(bench, zone, "/", await holes())
    with tarfile.open(fileobj=io.BytesIO(await read(bench, zone, "/holes"))) as tar:
        file = tar.extractfile("holes")
        assert file is not None
        assert file.read() == bytes(1 << 20) + b"end"


async def test_files_can_get_the_zones_own_user(bench: Bench) -> None:
    zone = await bench.create("stat", "-c", "%u:%g", "/tmp/x", user="web")
    await write(bench, zone, "/tmp", archive(x=b""), copy_uid_gid=True)
    await bench.zones.start(zone.uuid)
    await bench.seen(ZoneChange.STOPPED, zone)
    assert await bench.logs(zone) == b"33:34\n"


async def test_a_file_takes_a_folders_place_only_if_it_may(bench: Bench) -> None:
    zone = await ended(bench, WORK)
    with pytest.raises(APIError, match="cannot overwrite directory"):
        await write(bench, zone, "/made", archive(sub=b"x"), no_overwrite_dir_non_dir=True)
    folder = tarfile.TarInfo("file")
    folder.type = tarfile.DIRTYPE
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        tar.addfile(folder)
    with pytest.raises(APIError, match="cannot overwrite non-directory"):
        await write(bench, zone, "/made", output.getvalue(), no_overwrite_dir_non_dir=True)
    await write(bench, zone, "/made", archive(sub=b"x"))
    assert stat.S_ISREG((await bench.host.files.status(zone.uuid, "/made/sub")).mode)


async def test_volumes_and_binds_are_part_of_the_zone(bench: Bench, tmp_path: Path) -> None:
    binds = [
        Filesystem(source=str(tmp_path), target="/data", options=("rw",)),
        Filesystem(source=str(tmp_path), target="/fixed", options=("ro",)),
    ]
    zone = await bench.create("true", filesystems=binds)
    await write(bench, zone, "/data", archive(x=b"x"))
    assert (tmp_path / "x").read_bytes() == b"x"
    assert names(await read(bench, zone, "/fixed/x")) == ["x"]
    with pytest.raises(InvalidParameter, match="mounted volume is marked read-only"):
        await write(bench, zone, "/fixed", archive(y=b""))
    with pytest.raises(APIError):
        await write(bench, zone, "/", archive(fixed__y=b""))
    assert not exists(f"{tmp_path}/y")


async def test_nothing_is_written_into_a_read_only_root(bench: Bench) -> None:
    if bench.is_smartos:
        pytest.skip("a zone's root cannot be read-only")
    zone = await bench.create("true", runtime={"readonly_rootfs": True})
    with pytest.raises(InvalidParameter, match="container rootfs is marked read-only"):
        await write(bench, zone, "/tmp", archive(x=b""))


async def test_changes_are_what_the_zone_did_and_not_the_host(bench: Bench) -> None:
    fresh = await bench.create("true")
    assert await bench.host.files.changes(fresh.uuid) == []
    zone = await ended(bench, "rm /data/kept; echo x >>/etc/group; mkdir /new; echo y >/new/y")
    found = {change.path: change.kind for change in await bench.host.files.changes(zone.uuid)}
    assert found == {
        "/data": ChangeKind.MODIFIED,
        "/data/kept": ChangeKind.DELETED,
        "/etc": ChangeKind.MODIFIED,
        "/etc/group": ChangeKind.MODIFIED,
        "/new": ChangeKind.ADDED,
        "/new/y": ChangeKind.ADDED,
    }


async def test_the_changes_as_a_layer_have_whiteouts(bench: Bench) -> None:
    zone = await ended(bench, "rm /data/kept; mkdir /new; echo y >/new/y")
    layer = await gathered(await bench.host.files.layer(zone.uuid))
    assert names(layer) == ["data", "data/.wh.kept", "new", "new/y"]


@pytest.mark.parametrize("state", [running, ended])
async def test_all_names_of_a_file_are_told(bench: Bench, state: object) -> None:
    script = "echo x >/one; ln /one /two; mkdir /sub; ln /one /sub/three"
    moved = "ln /etc/group /group; rm /etc/group; rm /data/kept; ln /etc/passwd /data/kept"
    zone = await state(bench, f"{script}; {moved}")  # type: ignore[operator]
    found = {change.path: change.kind for change in await bench.host.files.changes(zone.uuid)}
    found.pop("/over", None)
    assert found == {
        "/data": ChangeKind.MODIFIED,
        "/data/kept": ChangeKind.MODIFIED,
        "/etc": ChangeKind.MODIFIED,
        "/etc/group": ChangeKind.DELETED,
        "/etc/passwd": ChangeKind.MODIFIED,
        "/group": ChangeKind.ADDED,
        "/one": ChangeKind.ADDED,
        "/sub": ChangeKind.ADDED,
        "/sub/three": ChangeKind.ADDED,
        "/two": ChangeKind.ADDED,
    }
    layer = set(names(await gathered(await bench.host.files.layer(zone.uuid))))
    kept = {path[1:] for path in found} - {"etc/group"}
    assert layer - {"over"} == kept | {"etc/.wh.group"}


async def test_what_lies_below_a_mount_is_not_gone(bench: Bench, tmp_path: Path) -> None:
    bind = Filesystem(source=str(tmp_path), target="/data", options=("rw",))
    zone = await running(bench, "echo x >/one; ln /one /two; echo y >/data/y", filesystems=(bind,))
    found = {change.path: change.kind for change in await bench.host.files.changes(zone.uuid)}
    assert found.pop("/over") is ChangeKind.ADDED
    assert found == {"/one": ChangeKind.ADDED, "/two": ChangeKind.ADDED}


async def test_links_of_a_running_zone_are_its_own_affair(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the machine's")
    script = f"mkdir -p /was{tmp_path}; echo mine >/was{tmp_path}/secret; touch /gone"
    zone = await running(bench, script)
    blocks = await bench.host.files.layer(zone.uuid)
    await bench.exec(zone, "sh", "-c", "rm /gone; mv /was /is; ln -s / /was")
    assert b"the machine's" not in await gathered(blocks)


async def test_a_layer_of_many_files_comes_whole(bench: Bench) -> None:
    script = "mkdir /many; cd /many; i=0; while [ $i -lt 3000 ]; do echo >$(printf %0240d $i); i=$((i+1)); done"
    zone = await ended(bench, script)
    assert len(names(await gathered(await bench.host.files.layer(zone.uuid)))) == 3001


async def test_names_of_any_bytes_are_told_and_kept(bench: Bench) -> None:
    zone = await ended(bench, "mkdir '/a b'; echo x >'/a b/1\\2\t3'; echo y >/gr\u00fcn")
    expected = ["/a b", "/a b/1\\2\t3", "/gr\u00fcn"]
    assert [change.path for change in await bench.host.files.changes(zone.uuid)] == expected
    layer = await gathered(await bench.host.files.layer(zone.uuid))
    assert names(layer) == [path[1:] for path in expected]


async def test_an_export_is_the_whole_root_without_volumes(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    bind = Filesystem(source=str(tmp_path), target="/data", options=("rw",))
    zone = await ended(bench, "echo x >/x", filesystems=[bind])
    exported = await gathered(await bench.host.files.export(zone.uuid))
    found = names(exported)
    assert {"x", "bin/busybox", "etc/passwd", "data", "data/kept"} <= set(found)
    assert "data/mine" not in found
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        # Users of the machine have no business in there.
        assert {(member.uname, member.gname) for member in tar} == {("", "")}


async def test_a_reader_that_leaves_early_keeps_nothing_busy(bench: Bench) -> None:
    zone = await running(bench, "dd if=/dev/zero of=/big bs=1000000 count=20 2>/dev/null")
    _, blocks = await bench.host.files.read(zone.uuid, "/big")
    await anext(blocks)
    await blocks.aclose()
    await bench.zones.delete(zone.uuid)


async def test_a_running_zone_is_measured_and_a_stopped_one_is_not(bench: Bench) -> None:
    zone = await running(bench, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done", network=True)
    sample = await bench.host.gauges.sample(zone.uuid)
    assert sample is not None
    assert 0 < sample.cpu_total_ns < sample.machine_cpu_ns
    assert sample.memory_usage
    assert sample.networks is not None
    assert list(sample.networks) == ["eth0"]
    await bench.zones.stop(zone.uuid, signal="SIGKILL", timeout_s=1)
    assert await bench.host.gauges.sample(zone.uuid) is None


async def test_processes_are_the_zones_own(bench: Bench) -> None:
    zone = await running(bench, "sleep 601 & :")
    table = await bench.host.gauges.processes(zone.uuid, "")
    assert "PID" in table.titles
    commands = [row[-1] for row in table.rows]
    assert any("sleep 601" in command for command in commands)
    # zsched is the kernel's own process in every zone of SmartOS.
    assert all(any(word in command for word in ("sleep", "sh", "zsched")) for command in commands)
    for ps_args in ("-ef", "-efl", "-A", "-e -o pid,args", "-eo pid,args"):
        found = await bench.host.gauges.processes(zone.uuid, ps_args)
        assert all(any(word in row[-1] for word in ("sleep", "sh", "zsched")) for row in found.rows)
    await bench.zones.stop(zone.uuid, signal="SIGKILL", timeout_s=1)
    with pytest.raises(NotRunning):
        await bench.host.gauges.processes(zone.uuid, "")
