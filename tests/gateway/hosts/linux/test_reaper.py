"""Which dead children are taken in."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gateway.hosts.command import Spawner
from gateway.hosts.linux import reaper


@pytest.fixture
def crun(tmp_path: Path) -> str:
    """A program of the runtime's name that ends at once."""
    return shutil.copy(shutil.which("true") or "/bin/true", str(tmp_path / "crun"))


def _dead(program: str) -> int:
    pid = os.posix_spawn(program, [program], {})  # noqa: TID251 - one that command.py knows nothing of
    _until_dead(pid)
    return pid


def _until_dead(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _wait(pid: int) -> tuple[int, int]:
    return os.waitpid(pid, 0)


async def test_a_half_of_the_runtime_that_nobody_waits_for_is_reaped(crun: str) -> None:
    pid = _dead(crun)
    await reaper.reap_strays()
    with pytest.raises(ChildProcessError):
        _wait(pid)


async def test_a_dead_child_of_another_name_is_left_to_whoever_started_it() -> None:
    pid = _dead(shutil.which("true") or "/bin/true")
    await reaper.reap_strays()
    assert _wait(pid) == (pid, 0)


async def test_a_runtime_that_is_waited_for_keeps_its_exit_code(crun: str) -> None:
    child = await Spawner().spawn([crun])
    _until_dead(child.pid)
    reaper._reap()  # before the loop has turned: nobody has taken it yet
    assert await child.wait() == 0
