"""What is particular to the global zone that this process runs in."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from dockerapi.errors import CommandFailed
from gateway.hosts.smartos.local import LocalGlobalZone, platform_path
from tests.contract.test_global_zone import DEADLINE_S, all_output, gone, read_until


def _descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


async def test_it_is_here() -> None:
    async with LocalGlobalZone() as gz:
        assert gz.is_local
        assert gz.name == "local"


def test_programs_below_the_root_come_before_the_platforms() -> None:
    assert platform_path("/") == platform_path("")[: len(platform_path("/"))]
    folders = platform_path("/tmp/gz/")
    assert folders[0] == "/tmp/gz/usr/bin"
    assert folders.index("/tmp/gz/usr/img/sbin") < folders.index("/usr/bin")


async def test_a_program_below_the_root_is_found(tmp_path: Path) -> None:
    program = tmp_path / "usr/img/sbin/chroot-thing"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho found $*\n")
    program.chmod(0o755)
    async with LocalGlobalZone(str(tmp_path)) as gz:
        assert await gz.run(["chroot-thing", "it"], timeout_s=DEADLINE_S) == b"found it\n"


async def test_a_program_that_cannot_be_run_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("#!/no/such/interpreter\n")
    (tmp_path / "broken").chmod(0o755)
    async with LocalGlobalZone() as gz:
        before = _descriptors()
        with pytest.raises(CommandFailed, match="No such file") as caught:
            await gz.spawn([str(tmp_path / "broken")])
        assert caught.value.exit_status == 127
        assert _descriptors() == before
        # On a terminal it is known only after the session was made.
        program = await gz.spawn([str(tmp_path / "broken")], terminal=(24, 80))
        assert b"broken: No such file" in await read_until(program, b"\n")
        assert await program.wait() == 127
        await program.close()


async def test_programs_leave_no_descriptor_open() -> None:
    async with LocalGlobalZone() as gz:
        await gz.run(["true"], timeout_s=DEADLINE_S)
        before = _descriptors()
        for terminal in (None, (24, 80)):
            program = await gz.spawn(["cat"], stdin=True, terminal=terminal)
            await program.write(b"x\n")
            await read_until(program, b"x")
            await program.close()
        assert _descriptors() == before


async def test_signals_are_not_ignored_on_a_terminal() -> None:
    async with LocalGlobalZone() as gz:
        shown = ["sh", "-c", "grep SigIgn /proc/self/status"]
        program = await gz.spawn(shown, terminal=(24, 80))
        text = await read_until(program, b"\n")
        await program.close()
        ignored = int(text.split()[1], 16)
        assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


async def test_everything_works_without_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.pidfd_open
    monkeypatch.delattr(os, "pidfd_open")
    async with LocalGlobalZone() as gz:
        program = await gz.spawn(["sh", "-c", "echo $$; exec sleep 600"], terminal=(24, 80))
        pid = int(await read_until(program, b"\n"))
        await program.resize(30, 100)
        await program.close()
        program = await gz.spawn(["sh", "-c", "cat; exit 3"], stdin=True)
        await program.write(b"in")
        await program.close_input()
        assert b"in" in (await all_output(program)).values()
        assert await program.wait() == 3
        await program.close()
    monkeypatch.setattr(os, "pidfd_open", opened, raising=False)
    await gone(pid)


async def test_only_so_many_programs_are_waited_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.hosts.smartos.local.PROGRAMS_AT_ONCE", 2)
    script = f"mkdir {tmp_path}/$$ && ls {tmp_path} | wc -l; sleep 0.01; rmdir {tmp_path}/$$"
    async with LocalGlobalZone() as gz, asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(gz.run(["sh", "-c", script], timeout_s=DEADLINE_S)) for _ in range(12)
        ]
    assert max(int(task.result()) for task in tasks) <= 2
