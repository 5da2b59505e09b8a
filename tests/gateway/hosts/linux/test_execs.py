"""What is special to exec by the runtime: orphans that hold streams, zombies, files."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockerapi.errors import StartFailure
from gateway.hosts.inlet import Inlet, Outlet
from gateway.zones.host import Process
from tests.contract.conftest import DEADLINE_S, Bench, collect, kept, linux_settings, opened

pytestmark = pytest.mark.root


@pytest.fixture
async def bench(short_dir: Path) -> AsyncIterator[Bench]:
    async with kept(opened(linux_settings(short_dir))) as bench:
        yield bench


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_nothing_is_left_in_the_execs_folder(bench: Bench, short_dir: Path) -> None:
    zone = await bench.start("sleep", "1000")
    assert (await bench.exec(zone, "true"))[0] == 0
    with pytest.raises(StartFailure):
        await bench.zones.exec(zone.uuid, Process(("nosuch",), tty=True))
    assert not await asyncio.to_thread(_files, short_dir / "run" / "execs")


async def test_an_orphan_that_keeps_the_streams_is_not_waited_for(bench: Bench) -> None:
    zone = await bench.start("sleep", "1000")
    loop = asyncio.get_running_loop()
    began = loop.time()
    code, out, _ = await bench.exec(zone, "sh", "-c", "sleep 100 & echo gone")
    assert (code, out) == (0, b"gone\n")
    assert loop.time() - began < 10


async def test_a_failed_exec_does_not_hold_up_the_zones_end(bench: Bench) -> None:
    zone = await bench.start("sleep", "1000")
    with pytest.raises(StartFailure):
        await bench.zones.exec(zone.uuid, Process(("nosuch",)))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await bench.zones.delete(zone.uuid)
    assert loop.time() - began < 1


@pytest.fixture
async def runc_bench(
    short_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """A host whose crun does not work."""
    if shutil.which("runc") is None:
        pytest.skip("no runc")
    broken = tmp_path / "crun"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with kept(opened(linux_settings(short_dir))) as bench:
        assert bench.host.facts.default_runtime == "runc"
        yield bench


async def test_with_runc_a_terminal_and_its_exit_code_are_had_too(runc_bench: Bench) -> None:
    bench = runc_bench
    zone = await bench.start("sleep", "1000")

    async def one(number: int) -> tuple[int, bytes, bytes]:
        script = f"test -t 0 && echo {number}; exit {number}"
        return await bench.exec(zone, "sh", "-c", script, tty=True)

    with pytest.raises(StartFailure):
        await bench.zones.exec(zone.uuid, Process(("nosuch",), tty=True))
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(one(number)) for number in range(8)]
        with pytest.raises(StartFailure):  # strays are looked for while others run
            await bench.zones.exec(zone.uuid, Process(("nosuch",)))
    for number, run in enumerate(runs):
        assert run.result()[:2] == (number, b"%d\r\n" % number)


async def test_many_execs_at_once_are_kept_apart(bench: Bench) -> None:
    zone = await bench.start("sleep", "1000")

    async def one(number: int) -> tuple[int, bytes, bytes]:
        return await bench.exec(
            zone, "sh", "-c", f"echo {number}; exit {number}", tty=number % 2 == 1
        )

    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(one(number)) for number in range(20)]
    for number, run in enumerate(runs):
        code, out, _ = run.result()
        assert (code, out.split()) == (number, [b"%d" % number])


async def test_a_privileged_exec_has_every_capability(bench: Bench) -> None:
    zone = await bench.start("sleep", "1000")
    _, plain, _ = await bench.exec(zone, "grep", "CapEff", "/proc/self/status")
    _, all_of_them, _ = await bench.exec(
        zone, "grep", "CapEff", "/proc/self/status", privileged=True
    )
    assert int(plain.split()[1], 16) < int(all_of_them.split()[1], 16)


async def test_an_input_that_is_closed_lets_its_writer_go() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    outlet = Outlet(write)

    async def close() -> None:
        outlet.close()

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        group.create_task(outlet.write(b"x" * 1000000))
        group.create_task(close())
    os.close(read)
    os.close(write)


async def test_an_inlet_without_sources_has_ended() -> None:
    inlet = Inlet({}, lambda _: None)
    assert inlet.ended
    assert await inlet.next() == []


async def test_streams_of_a_terminal_are_one(bench: Bench) -> None:
    zone = await bench.start("sleep", "1000")
    process = await bench.zones.exec(zone.uuid, Process(("sh", "-c", "echo err >&2"), tty=True))
    assert process.stdio is not None
    assert await collect(process.stdio) == (b"err\r\n", b"")
