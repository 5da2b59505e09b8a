"""The mark that tells ext4 that what is made in a folder does not belong together."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest

from gateway.hosts.linux.spreading import spread_below

_GET_FLAGS, _TOP = 0x80086601, 0x20000


def flags(folder: Path) -> int:
    fd = os.open(folder, os.O_RDONLY)
    try:
        return int(struct.unpack("l", fcntl.ioctl(fd, _GET_FLAGS, bytes(8)))[0])
    except OSError:
        pytest.skip("this file system has no such marks")
    finally:
        os.close(fd)


def test_a_folder_is_marked_once_and_keeps_its_other_marks(tmp_path: Path) -> None:
    before = flags(tmp_path)
    spread_below(tmp_path)
    spread_below(tmp_path)
    assert flags(tmp_path) == before | _TOP
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert flags(tmp_path / "a" / "b") == flags(tmp_path / "a")


def test_a_file_system_without_marks_is_fine() -> None:
    spread_below(Path("/proc/self"))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spread_below(tmp_path / "none")
