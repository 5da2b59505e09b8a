"""Programs are started, waited for, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dockerapi.errors import CommandFailed
from gateway.hosts import command
from gateway.hosts.command import Spawner, run


@pytest.fixture(autouse=True, params=["pidfds", "no pidfds"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything once as on Linux, and once as on a platform without pidfds."""
    if request.param == "no pidfds":
        monkeypatch.delattr(os, "pidfd_open")
        monkeypatch.delattr(signal, "pidfd_send_signal")


async def test_output_of_a_program_that_succeeds_is_returned() -> None:
    assert await run(["/bin/cat"], stdin=b"x" * 300_000, timeout_s=10) == b"x" * 300_000


async def test_a_failing_program_is_reported_with_its_last_line() -> None:
    with pytest.raises(CommandFailed, match="sh: second") as caught:
        await run(["/bin/sh", "-c", "echo first >&2; echo second >&2; exit 3"], timeout_s=10)
    assert caught.value.exit_status == 3


async def test_a_program_that_is_not_there_is_reported() -> None:
    with pytest.raises(CommandFailed, match="No such file"):
        await run(["/bin/there-is-no-such-program"], timeout_s=10)


async def test_a_program_that_takes_too_long_is_killed() -> None:
    with pytest.raises(CommandFailed, match=r"no end within 0\.2 s"):
        await run(["/bin/sleep", "600"], timeout_s=0.2)


async def test_a_program_that_ignores_its_input_does_no_harm() -> None:
    assert await run(["/bin/true"], stdin=b"y" * 1_000_000, timeout_s=10) == b""


async def test_descriptors_arrive_under_the_numbers_asked_for_and_no_others(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    spawner = Spawner()
    with (tmp_path / "ours").open("w") as ours:
        child = await spawner.spawn(
            ["/bin/sh", "-c", "readlink /proc/self/fd/* >&5; echo end >&5"], fds={5: write_end}
        )
        os.close(write_end)
        assert await child.wait() == 0
        with os.fdopen(read_end) as file:
            text = file.read()
        assert text.endswith("end\n")
        assert ours.name not in text
    spawner.close()


async def test_a_signal_shows_as_a_negative_status() -> None:
    spawner = Spawner()
    child = await spawner.spawn(["/bin/sleep", "600"])
    child.kill(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await child.wait() == -signal.SIGTERM
    child.kill()
    spawner.close()


def _children() -> set[int]:
    tasks = Path("/proc/self/task").iterdir()
    found: set[int] = set()
    for task in tasks:
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


async def test_a_spawn_that_is_cancelled_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before, begun, gate = _children(), threading.Event(), threading.Event()
    real = command._posix_spawn

    def slow(*given: Any) -> int:
        begun.set()
        gate.wait(10)
        return real(*given)

    monkeypatch.setattr(command, "_posix_spawn", slow)
    spawner = Spawner()
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(spawner.spawn(["/bin/sleep", "600"]))
        await asyncio.to_thread(begun.wait, 10)
        starting.cancel()
        await asyncio.sleep(0)
        gate.set()
    assert starting.cancelled()
    async with asyncio.timeout(10):
        while _children() - before:  # noqa: ASYNC110 - the kernel tells of it by no event
            await asyncio.sleep(0.01)
    spawner.close()


async def test_many_children_are_told_apart() -> None:
    spawner = Spawner()
    children = [await spawner.spawn(["/bin/sh", "-c", f"exit {code}"]) for code in range(50)]
    async with asyncio.timeout(10):
        assert [await child.wait() for child in children] == list(range(50))
    assert all(child.ended for child in children)
    spawner.close()


async def test_a_child_has_several_who_wait_and_one_may_leave() -> None:
    spawner = Spawner()
    child = await spawner.spawn(["/bin/sleep", "600"])
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        stays = group.create_task(child.wait())
        leaves = group.create_task(child.wait())
        await asyncio.sleep(0)
        leaves.cancel()
        child.kill()
    assert stays.result() == -signal.SIGKILL
    spawner.close()


def test_a_loop_may_end_before_its_children() -> None:
    spawner = Spawner()
    child = asyncio.run(spawner.spawn(["/bin/sleep", "600"]))
    os.kill(child.pid, signal.SIGKILL)
    for thread in threading.enumerate():
        if thread.name == f"child-{child.pid}":
            thread.join(10)
    assert os.waitpid(child.pid, 0)[1] == signal.SIGKILL
    spawner.close()
