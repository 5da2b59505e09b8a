"""Execs: created, started once, told of, gone with their container."""

from __future__ import annotations

import asyncio

import pytest

from dockerapi.errors import Conflict, InvalidParameter, NoSuchContainer, NoSuchExec
from dockerapi.framing import StreamId
from dockerapi.models.execs import ExecCreate, ExecStart
from tests.gateway.engine.conftest import Bench

ATTACHED = {"AttachStdout": True, "AttachStderr": True}


async def created(bench: Bench, ref: str, *cmd: str, **body: object) -> str:
    """Its id."""
    model = ExecCreate.model_validate({"Cmd": list(cmd), **ATTACHED, **body})
    return str((await bench.gateway.execs.create(ref, model))["Id"])


async def test_an_exec_ends_when_its_exit_code_is_known(bench: Bench) -> None:
    await bench.started("web")
    exec_id = await created(bench, "web", "true", "x")
    assert (await bench.gateway.execs.inspect(exec_id))["ExitCode"] is None
    stdio = await bench.gateway.execs.start(exec_id, ExecStart())
    assert stdio is not None
    assert (await bench.inspect("web"))["ExecIDs"] == [exec_id]
    # The process is started when its output is asked for, and not before.
    assert bench.host.zones.processes == []

    async def end_it() -> None:
        await bench.host.zones.process_started.wait()
        running = bench.host.zones.processes[0]
        running.stdio.chunks.put_nowait((StreamId.STDOUT, b"out"))
        running.end(3)

    async with asyncio.TaskGroup() as group:
        group.create_task(end_it())
        assert [chunk async for chunk in stdio.output()] == [(StreamId.STDOUT, b"out")]
    shown = await bench.gateway.execs.inspect(exec_id)
    assert (shown["ExitCode"], shown["Running"]) == (3, False)
    assert shown["ProcessConfig"]["arguments"] == ["x"]
    assert shown["CanRemove"] is False
    assert (await bench.inspect("web"))["ExecIDs"] is None
    told = await bench.told()
    assert told[-3:] == [
        "container exec_create: true x",
        "container exec_start: true x",
        "container exec_die",
    ]


async def test_a_command_that_is_missing_is_told_in_the_stream(bench: Bench) -> None:
    await bench.started("web")
    exec_id = await created(bench, "web", "nosuch")
    stdio = await bench.gateway.execs.start(exec_id, ExecStart())
    assert stdio is not None
    [(stream, text)] = [chunk async for chunk in stdio.output()]
    assert stream is StreamId.STDOUT
    assert text.endswith(b"executable file not found in $PATH\r\n")
    assert (await bench.gateway.execs.inspect(exec_id))["ExitCode"] == 127


async def test_detached_it_is_a_status(bench: Bench) -> None:
    await bench.started("web")
    exec_id = await created(bench, "web", "nosuch")
    with pytest.raises(InvalidParameter, match="executable file not found"):
        await bench.gateway.execs.start(exec_id, ExecStart(detach=True))


async def test_an_exec_starts_once(bench: Bench) -> None:
    await bench.started("web")
    exec_id = await created(bench, "web", "true")
    assert await bench.gateway.execs.start(exec_id, ExecStart(detach=True)) is None
    bench.host.zones.processes[0].end(0)
    with pytest.raises(Conflict, match=f"exec command {exec_id} "):
        await bench.gateway.execs.start(exec_id, ExecStart(detach=True))
    stdio = await bench.gateway.execs.start(exec_id, ExecStart())
    assert stdio is not None
    [(_, text)] = [chunk async for chunk in stdio.output()]
    assert exec_id.encode() in text


async def test_an_exec_needs_a_command_and_a_running_container(bench: Bench) -> None:
    docker_id = await bench.create("web")
    with pytest.raises(InvalidParameter, match="No exec command specified"):
        await bench.gateway.execs.create("web", ExecCreate())
    with pytest.raises(Conflict, match=f"container {docker_id} is not running"):
        await created(bench, "web", "true")
    with pytest.raises(NoSuchContainer):
        await created(bench, "nope", "true")
    await bench.gateway.containers.start("web")
    await bench.gateway.containers.pause("web")
    with pytest.raises(Conflict, match="is paused, unpause the container before exec"):
        await created(bench, "web", "true")


async def test_an_exec_is_gone_with_its_container(bench: Bench) -> None:
    await bench.started("web")
    exec_id = await created(bench, "web", "true")
    await bench.gateway.containers.remove("web", force=True, volumes=False, link=False)
    with pytest.raises(NoSuchExec, match=f"No such exec instance: {exec_id}"):
        await bench.gateway.execs.inspect(exec_id)


async def test_an_ended_exec_is_forgotten_after_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.started("web")
    ended, waiting = [await created(bench, "web", "true") for _ in range(2)]
    await bench.gateway.execs.start(ended, ExecStart(detach=True))
    bench.host.zones.processes[0].end(4)
    await bench.told()
    running = await created(bench, "web", "true")
    await bench.gateway.execs.start(running, ExecStart(detach=True))
    assert (await bench.gateway.execs.inspect(ended))["ExitCode"] == 4
    monkeypatch.setattr("gateway.engine.execs._KEPT_S", 0.0)
    await created(bench, "web", "true")
    with pytest.raises(NoSuchExec):
        await bench.gateway.execs.inspect(ended)
    assert (await bench.gateway.execs.inspect(waiting))["ExitCode"] is None
    assert (await bench.gateway.execs.inspect(running))["Running"]


async def test_resizing_an_exec(bench: Bench) -> None:
    await bench.started("web")
    exec_id = await created(bench, "web", "sh", Tty=True)
    stdio = await bench.gateway.execs.start(exec_id, ExecStart(tty=True))
    assert stdio is not None

    async def resize_it() -> None:
        await bench.gateway.execs.resize(exec_id, 30, 99)
        assert bench.host.zones.processes[0].stdio.size == (30, 99)
        bench.host.zones.processes[0].end(0)

    # The CLI resizes as soon as it has its stream, before the process is there.
    async with asyncio.TaskGroup() as group:
        group.create_task(resize_it())
        async for _ in stdio.output():
            pass
    with pytest.raises(NoSuchExec):
        await bench.gateway.execs.resize("zz", 1, 1)


async def test_an_exec_shows_whose_it_is(bench: Bench) -> None:
    await bench.started("web", User="7:8")
    for asked, shown in (("", "7:8"), ("9", "9")):
        body = ExecCreate.model_validate({"Cmd": ["true"], "User": asked})
        made = await bench.gateway.execs.create("web", body)
        config = (await bench.gateway.execs.inspect(made["Id"]))["ProcessConfig"]
        assert config["user"] == shown
