"""Rotation of logs: sizes and counts as each driver has them, and compressed files that are read all the same."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockerapi.errors import InvalidParameter
from dockerapi.framing import StreamId
from gateway.hosts.linux.logs import read_logs
from gateway.hosts.linux.rotation import Rotation, pack
from gateway.zones.host import LogQuery

HEAD = b"2026-09-21T14:13:20.%09d+00:00 stdout F "


def entry(number: int) -> bytes:
    return HEAD % number + b"%d\n" % number


async def text(blocks: AsyncIterator[tuple[StreamId, bytes]]) -> bytes:
    return b"".join([data async for _, data in blocks])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rotated(log: Path, rotation: Rotation, numbers: range, *, packs: bool = True) -> None:
    """Write a file, turn to the next one, and compress the last."""
    log.write_bytes(b"".join(map(entry, numbers)))
    rotation.rotate(log, lambda: log.write_bytes(b""))
    if packs:
        pack(log)


@pytest.mark.parametrize(
    ("driver", "options", "expected"),
    [
        ("json-file", {}, None),
        ("json-file", {"max-size": "-1"}, None),
        ("json-file", {"max-size": "1k"}, Rotation(1024, 1)),
        ("json-file", {"max-size": "1k", "max-file": "3", "compress": "true"}, Rotation(1024, 3, compress=True)),
        ("local", {}, Rotation(20 << 20, 5, compress=True)),
        ("local", {"compress": "false", "max-size": "1m"}, Rotation(1 << 20, 5)),
        ("syslog", {}, Rotation(20 << 20, 5, compress=True)),
        ("gelf", {"cache-max-size": "1m", "cache-max-file": "1"}, Rotation(1 << 20, 1)),
        ("none", {"max-size": "1k"}, None),
    ],
)  # fmt: skip
def test_each_driver_has_its_own_defaults(
    driver: str, options: dict[str, str], expected: Rotation | None
) -> None:
    assert Rotation.parse(driver, options) == expected


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="invalid size: 'zz'"):
        Rotation.parse("json-file", {"max-size": "zz"})


async def test_compressed_files_are_read_in_their_place(tmp_path: Path) -> None:
    log, rotation = tmp_path / "ctr.log", Rotation(1, 4, compress=True)
    for number in range(5):
        rotated(log, rotation, range(number * 10, number * 10 + 10))
    log.write_bytes(entry(50))
    assert names(tmp_path) == [
        "ctr.log", "ctr.log.1.gz", "ctr.log.2.gz", "ctr.log.3.gz",
    ]  # fmt: skip
    numbers = [b"%d" % number for number in range(20, 51)]
    assert (await text(read_logs(log, LogQuery()))).split() == numbers
    assert (await text(read_logs(log, LogQuery(tail=12)))).split() == numbers[-12:]
    assert (await text(read_logs(log, LogQuery(frames=True)))).count(b"\n") == 31


async def test_a_follower_goes_over_files_that_were_compressed_behind_it(tmp_path: Path) -> None:
    log, rotation = tmp_path / "ctr.log", Rotation(1, 5, compress=True)
    rotated(log, rotation, range(10))
    ended = asyncio.Event()
    blocks = read_logs(log, LogQuery(follow=True), ended=ended)
    async with asyncio.timeout(20):
        seen = await anext(blocks)
        for number in range(1, 4):
            rotated(log, rotation, range(number * 10, number * 10 + 10))
        ended.set()
        rest = await text(blocks)
    assert (seen[1] + rest).split() == [b"%d" % number for number in range(40)]


def test_a_file_that_is_there_plain_and_compressed_is_kept_once(tmp_path: Path) -> None:
    """A kill came between the two."""
    log, rotation = tmp_path / "ctr.log", Rotation(1, 3, compress=True)
    rotated(log, rotation, range(3), packs=False)
    with gzip.open(tmp_path / "ctr.log.1.gz", "wb") as file:
        file.write(b"".join(map(entry, range(3))))
    rotated(log, rotation, range(3, 6))
    found = asyncio.run(text(read_logs(log, LogQuery())))
    assert found.split() == [b"%d" % number for number in range(6)]
