"""gateway.hosts.linux.sealed: a copy that runs, cannot be written to, and follows upgrades."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.hosts.command import run
from gateway.hosts.linux.sealed import SealedProgram


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    shutil.copy("/bin/cat", path)
    return path


@pytest.fixture
def sealed(tmp_path: Path, program: Path) -> Iterator[SealedProgram]:
    copy = SealedProgram(str(program), tmp_path / "sealed")
    yield copy
    copy.close()


def output(path: str, *arguments: str) -> str:
    return asyncio.run(run([path, *arguments], timeout_s=10)).decode()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_copy_runs_under_the_name_of_the_program(sealed: SealedProgram) -> None:
    assert Path(sealed.path()).name == "program"
    assert output(sealed.path(), "/proc/self/comm") == "program\n"


def test_nobody_can_write_to_the_copy(sealed: SealedProgram) -> None:
    with pytest.raises(PermissionError), Path(sealed.path()).open("r+b") as file:
        file.write(b"#!/bin/evil")


def test_an_upgrade_of_the_program_is_noticed(sealed: SealedProgram, program: Path) -> None:
    assert output(sealed.path(), "/dev/null") == ""
    newer = program.with_name("newer")
    shutil.copy("/bin/echo", newer)
    newer.rename(program)
    assert output(sealed.path(), "new") == "new\n"


def test_what_was_about_to_run_the_old_copy_still_can(sealed: SealedProgram, program: Path) -> None:
    old = str(Path(sealed.path()).readlink())
    shutil.copy("/bin/echo", program.with_name("newer"))
    program.with_name("newer").rename(program)
    sealed.path()
    assert output(old, "/dev/null") == ""


def test_closing_leaves_nothing(tmp_path: Path, program: Path) -> None:
    before = descriptors()
    copy = SealedProgram(str(program), tmp_path / "sealed")
    copy.path()
    copy.close()
    assert descriptors() == before
    assert not (tmp_path / "sealed").exists()


def test_a_link_of_an_earlier_life_is_replaced(tmp_path: Path, program: Path) -> None:
    folder = tmp_path / "sealed"
    folder.mkdir()
    (folder / "program").symlink_to("/proc/1/fd/77")
    (folder / "program.new").symlink_to("/proc/1/fd/78")
    copy = SealedProgram(str(program), folder)
    assert output(copy.path(), "/proc/self/comm") == "program\n"
    copy.close()
