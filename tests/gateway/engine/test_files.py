"""Copying, changes and export: the words, the events and Go's bits."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dockerapi.errors import NoSuchContainer, NotFound
from gateway.engine.files import go_mode
from gateway.zones.host import ChangeKind, PathChange
from tests.gateway.engine.conftest import Bench


async def blocks(*data: bytes) -> AsyncIterator[bytes]:
    for block in data:
        yield block


async def test_a_path_is_described_as_clients_read_it(bench: Bench) -> None:
    await bench.started("web")
    assert await bench.gateway.files.stat("web", "/there") == {
        "name": "there",
        "size": 5,
        "mode": 0o755 | 1 << 23,
        "mtime": "1970-01-01T00:00:01.000000001Z",
        "linkTarget": "",
    }


@pytest.mark.parametrize(
    ("mode", "bits"),
    [
        (0o100644, 0o644),
        (0o040755, 0o755 | 1 << 31),
        (0o120777, 0o777 | 1 << 27),
        (0o020666, 0o666 | 1 << 26 | 1 << 21),
        (0o060660, 0o660 | 1 << 26),
        (0o010644, 0o644 | 1 << 25),
        (0o140755, 0o755 | 1 << 24),
        (0o041777, 0o777 | 1 << 31 | 1 << 20),
        (0o102755, 0o755 | 1 << 22),
    ],
)
def test_modes_are_told_in_go_s_bits(mode: int, bits: int) -> None:
    assert go_mode(mode) == bits


async def test_a_missing_path_is_told_with_the_name_that_was_asked_for(bench: Bench) -> None:
    await bench.started("web")
    with pytest.raises(NotFound, match="Could not find the file /x in container web"):
        await bench.gateway.files.stat("web", "/x")
    with pytest.raises(NoSuchContainer):
        await bench.gateway.files.stat("nobody", "/x")


async def test_copies_are_told_as_events(bench: Bench) -> None:
    await bench.started("web")
    files = bench.gateway.files
    archive = await files.read("web", "/there")
    assert [block async for block in archive.blocks] == [b"tar of /there"]
    await files.write(
        "web", "/there", blocks(b"a", b"b"), no_overwrite_dir_non_dir=False, copy_uid_gid=False
    )
    assert bench.host.files.written == [("/there", b"ab")]
    assert [block async for block in await files.export("web")] == [b"tar of all"]
    assert (await bench.told())[-3:] == [
        "container archive-path",
        "container extract-to-dir",
        "container export",
    ]


async def test_no_changes_are_null(bench: Bench) -> None:
    await bench.started("web")
    assert await bench.gateway.files.changes("web") is None
    bench.host.files.changed = [PathChange("/x", ChangeKind.DELETED)]
    assert await bench.gateway.files.changes("web") == [{"Path": "/x", "Kind": 2}]
