"""`docker logs` from files as zoneadmd leaves them: tail, span, follow, rotation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockerapi.framing import StreamId
from gateway.hosts.smartos import logs
from gateway.hosts.smartos.globalzone import FileStatus
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.logs import CONSOLE_LOG, LogFiles, read_logs
from gateway.zones.host import LogQuery
from tests.fakes.globalzone.zoneadmd import StdioLog

OUT, ERR = StreamId.STDOUT, StreamId.STDERR
DEADLINE_S = 20.0


class WithoutInodes(LocalGlobalZone):
    """As SFTP shows files."""

    async def status(self, path: str) -> FileStatus | None:
        found = await super().status(path)
        return found and FileStatus(found.size, found.mode, found.mtime_ns, 0, found.link)


@pytest.fixture(params=[LocalGlobalZone, WithoutInodes], ids=["inodes", "no inodes"])
async def gz(request: pytest.FixtureRequest) -> AsyncIterator[LocalGlobalZone]:
    async with request.param() as zone:
        yield zone


@pytest.fixture(params=["old", "new"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> StdioLog:
    made = StdioLog(tmp_path / "logs/stdio.log", request.param, 0)
    made.open()
    return made


async def text(
    gz: LocalGlobalZone, zonepath: Path, query: LogQuery | None = None, **more: object
) -> bytes:
    """All of it, both streams in one."""
    found = b""
    async with asyncio.timeout(DEADLINE_S):
        async for _, data in read_logs(gz, str(zonepath), query or LogQuery(), **more):  # type: ignore[arg-type]
            found += data
    return found


def rotate(log: StdioLog, stamp: str) -> None:
    """As zoneadmd does, at a time of our own."""
    log._path.rename(log._path.with_name(f"{log._path.name}.{stamp}"))
    log.close("close-rotate")
    log.open("open-rotate")


async def test_a_log_that_is_not_there_is_empty(gz: LocalGlobalZone, tmp_path: Path) -> None:
    assert await text(gz, tmp_path) == b""
    assert await text(gz, tmp_path, LogQuery(tail=5)) == b""


async def test_all_of_it_comes_in_order_and_by_stream(
    gz: LocalGlobalZone, log: StdioLog, tmp_path: Path
) -> None:
    log.write("stdout", "größe\n".encode()[:3])
    log.write("stdout", "größe\n".encode()[3:])
    log.write("stderr", b"error\n")
    log.write("stdout", b"no newline")
    blocks = [block async for block in read_logs(gz, str(tmp_path), LogQuery())]
    assert blocks == [(OUT, "größe\n".encode()), (ERR, b"error\n"), (OUT, b"no newline")]
    assert await text(gz, tmp_path, LogQuery(stdout=False)) == b"error\n"


async def test_rotated_files_come_first(gz: LocalGlobalZone, log: StdioLog, tmp_path: Path) -> None:
    for number, stamp in enumerate(["20260101T000000Z", "20260102T000000Z", "20260102T000001Z"]):
        log.write("stdout", b"%d\nbegun" % number)
        rotate(log, stamp)
        log.write("stdout", b" and ended\n")
    (tmp_path / "logs/stdio.log.gz").write_bytes(b"not ours")
    expected = b"".join(b"%d\nbegun and ended\n" % n for n in range(3))
    assert await text(gz, tmp_path) == expected
    lines = expected.splitlines(keepends=True)
    for count in range(8):
        wanted = b"".join(lines[-count:]) if count else b""
        assert await text(gz, tmp_path, LogQuery(tail=count)) == wanted


async def test_a_tail_counts_lines_and_not_records(
    gz: LocalGlobalZone, log: StdioLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_BLOCK", 1000)
    everything = b""
    for number in range(300):
        log.write("stdout", b"line %d: a\n%db\n" % (number, number))
        log.write("stdout", b"half ")
        log.write("stdout", b"and half\n")
        everything += b"line %d: a\n%db\nhalf and half\n" % (number, number)
    lines = everything.splitlines(keepends=True)
    for count in (1, 2, 3, 7, 50, 899, 900, 2000):
        assert await text(gz, tmp_path, LogQuery(tail=count)) == b"".join(lines[-count:])


async def test_a_follower_sees_what_is_written_until_the_end(
    gz: LocalGlobalZone, log: StdioLog, tmp_path: Path
) -> None:
    log.write("stdout", b"one\ntwo\n")
    ended = asyncio.Event()
    seen = b""
    async with asyncio.timeout(DEADLINE_S):
        async for _, data in read_logs(
            gz, str(tmp_path), LogQuery(follow=True, tail=1), ended=ended
        ):
            seen += data
            if seen == b"two\n":
                log.write("stdout", b"three")
            elif seen == b"two\nthree":
                log.write("stdout", b" and more\n")
                log.write("stdout", b"last\n")
                ended.set()
    assert seen == b"two\nthree and more\nlast\n"


async def test_a_follower_loses_nothing_over_rotations(
    gz: LocalGlobalZone, log: StdioLog, tmp_path: Path
) -> None:
    ended = asyncio.Event()
    seen, number = b"", 0
    log.write("stdout", b"0\n")
    async with asyncio.timeout(DEADLINE_S):
        async for _, data in read_logs(gz, str(tmp_path), LogQuery(follow=True), ended=ended):
            seen += data
            if not seen.endswith(b"%d\n" % number):
                continue
            if number >= 12:
                ended.set()
                continue
            for step in range(3):  # sometimes several rotations between two looks
                number += 1
                log.write("stdout", b"%d\n" % number)
                if (number + step) % 4:
                    rotate(log, f"20260101T0000{number:02d}Z")
    assert seen == b"".join(b"%d\n" % n for n in range(number + 1))


async def test_a_follower_of_nothing_yet_sees_the_first_line(
    gz: LocalGlobalZone, tmp_path: Path
) -> None:
    ended = asyncio.Event()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        task = group.create_task(text(gz, tmp_path, LogQuery(follow=True), ended=ended))
        await asyncio.sleep(0)
        log = StdioLog(tmp_path / "logs/stdio.log", "new", 0)
        log.open()
        log.write("stdout", b"first\n")
        ended.set()
    assert task.result() == b"first\n"


async def test_a_follower_stops_at_the_time_it_was_told(
    gz: LocalGlobalZone, log: StdioLog, tmp_path: Path
) -> None:
    log.write("stdout", b"early\n")
    query = LogQuery(follow=True, until_ns=1)
    assert await text(gz, tmp_path, query, ended=asyncio.Event()) == b""


async def test_what_grows_while_it_is_read_is_not_read_for_ever(
    gz: LocalGlobalZone, log: StdioLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_BLOCK", 4000)
    for number in range(100):
        log.write("stdout", b"%d\n" % number)
    seen = 0
    async with asyncio.timeout(DEADLINE_S):
        async for _, data in read_logs(gz, str(tmp_path), LogQuery()):
            seen += data.count(b"\n")
            for _ in range(100):
                log.write("stdout", b"more\n")
    assert 100 <= seen < 200


async def test_a_log_that_was_emptied_is_read_anew(
    gz: LocalGlobalZone, log: StdioLog, tmp_path: Path
) -> None:
    ended = asyncio.Event()
    log.write("stdout", b"a rather long first line\n")
    seen = b""
    async with asyncio.timeout(DEADLINE_S):
        async for _, data in read_logs(gz, str(tmp_path), LogQuery(follow=True), ended=ended):
            seen += data
            if seen.endswith(b"first line\n"):
                log._path.write_bytes(b"")
                log.write("stdout", b"new\n")
            else:
                ended.set()
    assert seen == b"a rather long first line\nnew\n"


async def test_a_torn_record_is_shown_and_the_next_file_goes_on(
    gz: LocalGlobalZone, log: StdioLog, tmp_path: Path
) -> None:
    log.write("stdout", b"one\n")
    with log._path.open("ab") as file:
        file.write(b'{"torn')
    rotate(log, "20260101T000000Z")
    log.write("stdout", b"two\n")
    shown = await text(gz, tmp_path)
    assert shown.startswith(b"one\n")
    assert b'{"torn' in shown
    assert shown.endswith(b"two\n")


async def test_a_full_zones_log_is_its_console(gz: LocalGlobalZone, tmp_path: Path) -> None:
    console = StdioLog(tmp_path / "logs" / CONSOLE_LOG, "new", 0)
    console.open()
    console.write("console", b"SunOS\r\nlogin: ")
    assert await text(gz, tmp_path, name=CONSOLE_LOG, tty=True) == b"SunOS\r\nlogin: "
    assert await text(gz, tmp_path) == b""


async def test_names_of_rotated_files_are_told_apart(gz: LocalGlobalZone, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for name in ("stdio.log", "stdio.log.20260101T000000Z", "stdio.log.1", "stdio.log.2026"):
        (tmp_path / "logs" / name).write_bytes(b"")
    files = LogFiles(gz, f"{tmp_path}/logs", "stdio.log")
    await files.open()
    assert [file.name for file in files.files] == ["stdio.log.20260101T000000Z", "stdio.log"]
