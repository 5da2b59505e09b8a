"""What dockerinit's log says of a start, whatever the image left in its place."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.hosts.smartos import starting
from gateway.hosts.smartos.local import LocalGlobalZone

EARLY = b"2026-01-01T00:00:00.000Z INFO setting up networking\n"
LATE = b"2026-01-01T00:00:01.000Z SWITCHING TO /dev/zfd/*\n"


@pytest.fixture
async def gz() -> AsyncIterator[LocalGlobalZone]:
    gz = LocalGlobalZone()
    yield gz
    await gz.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """dockerinit's, in a folder that is there."""
    path = Path(starting.init_log(str(tmp_path)))
    path.parent.mkdir(parents=True)
    return path


async def test_a_start_is_made_when_the_command_is_found(
    gz: LocalGlobalZone, tmp_path: Path, log: Path
) -> None:
    assert not await starting.executes(gz, str(tmp_path))
    log.write_bytes(EARLY)
    assert not await starting.executes(gz, str(tmp_path))
    log.write_bytes(EARLY + LATE)
    assert await starting.executes(gz, str(tmp_path))
    await starting.forget_log(gz, str(tmp_path))
    assert not log.exists()


async def test_a_fifo_or_a_link_in_its_place_is_not_read(
    gz: LocalGlobalZone, tmp_path: Path, log: Path
) -> None:
    os.mkfifo(log)
    assert not await starting.executes(gz, str(tmp_path))
    log.unlink()
    (tmp_path / "outside").write_bytes(LATE)
    log.symlink_to(tmp_path / "outside")
    assert not await starting.executes(gz, str(tmp_path))


async def test_a_file_where_its_folder_should_be_is_no_error(
    gz: LocalGlobalZone, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/var").write_bytes(b"")
    await starting.forget_log(gz, str(tmp_path))
