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


class Log:
    """dockerinit's, in a folder that is there."""

    def __init__(self, zonepath: Path) -> None:
        self.path = zonepath / "root/var/log/sdc-dockerinit.log"
        self.path.parent.mkdir(parents=True)

    def says(self, text: bytes) -> None:
        self.path.write_bytes(text)

    def becomes_a_fifo(self) -> None:
        os.mkfifo(self.path)

    def becomes_a_link_to(self, text: bytes) -> None:
        outside = self.path.parent / "outside"
        outside.write_bytes(text)
        self.path.unlink()
        self.path.symlink_to(outside)

    @property
    def is_there(self) -> bool:
        return self.path.exists()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


async def test_a_start_is_made_when_the_command_is_found(
    gz: LocalGlobalZone, tmp_path: Path, log: Log
) -> None:
    zonepath = str(tmp_path)
    assert not await starting.executes(gz, zonepath)
    log.says(EARLY)
    assert not await starting.executes(gz, zonepath)
    log.says(EARLY + LATE)
    assert await starting.executes(gz, zonepath)
    await starting.forget_log(gz, zonepath)
    assert not log.is_there


async def test_a_fifo_or_a_link_in_its_place_is_not_read(
    gz: LocalGlobalZone, tmp_path: Path, log: Log
) -> None:
    log.becomes_a_fifo()
    assert not await starting.executes(gz, str(tmp_path))
    log.becomes_a_link_to(LATE)
    assert not await starting.executes(gz, str(tmp_path))


async def test_a_file_where_its_folder_should_be_is_no_error(
    gz: LocalGlobalZone, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/var").write_bytes(b"")
    await starting.forget_log(gz, str(tmp_path))


async def test_folders_of_the_image_that_are_links_lead_to_no_log_of_another_zone(
    gz: LocalGlobalZone, tmp_path: Path
) -> None:
    other = Log(tmp_path / "other")
    other.says(LATE)
    (tmp_path / "zone/root/var").mkdir(parents=True)
    (tmp_path / "zone/root/var/log").symlink_to(other.path.parent)
    await starting.forget_log(gz, str(tmp_path / "zone"))
    assert other.is_there
    assert not await starting.executes(gz, str(tmp_path / "zone"))
