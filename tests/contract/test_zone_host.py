"""What every ZoneHost must do, sentence by sentence of gateway/zones/host.py, against real zones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dockerapi.errors import (
    Conflict,
    Forbidden,
    InvalidParameter,
    NameInUse,
    NotFound,
    NotModified,
    NotRunning,
    NotSupported,
    StartFailure,
)
from dockerapi.framing import StreamId
from gateway.zones.host import (
    AttachStreams,
    LogQuery,
    NetworkPlan,
    NetworkRequest,
    Process,
    ZoneChange,
)
from gateway.zones.metadata import Resources, encode
from gateway.zones.spec import Filesystem, Nic, ZoneState, ZoneUUID
from tests.contract.conftest import DEADLINE_S, Bench, collect, exists, exit_code, zone_spec

UNKNOWN = ZoneUUID("00000000-0000-0000-0000-00000000dead")
SLEEP = ("sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done")


# -- create ----------------------------------------------------------------------------------------


async def test_a_created_zone_is_stopped_and_listed(bench: Bench) -> None:
    zone = await bench.create("true", alias="web")
    assert zone.state is ZoneState.STOPPED
    assert zone.started_ns == 0
    assert bench.zones.list() == [zone]
    assert bench.zones.get(zone.uuid) is zone
    await bench.seen(ZoneChange.CREATED, zone)


async def test_zones_are_listed_oldest_first(bench: Bench) -> None:
    zones = [await bench.create("true") for _ in range(3)]
    assert [zone.uuid for zone in bench.zones.list()] == [zone.uuid for zone in zones]


async def test_a_taken_alias_names_its_holder(bench: Bench) -> None:
    zone = await bench.create("true", alias="web")
    with pytest.raises(NameInUse, match=zone.metadata.id):
        await bench.create("true", alias="web")
    assert len(bench.zones.list()) == 1


async def test_an_unknown_dataset_leaves_nothing_behind(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await bench.create("true", alias="web", image="11111111-0000-0000-0000-000000000000")
    assert not bench.zones.list()
    await bench.create("true", alias="web")


async def test_a_bind_without_source_is_refused_at_creation(bench: Bench) -> None:
    with pytest.raises(
        InvalidParameter,
        match='invalid mount config for type "bind": bind source path does not exist: /no/such',
    ):
        await bench.create("true", filesystems=[Filesystem(source="/no/such", target="/x")])


async def test_unknown_zones_are_said_to_be_so(bench: Bench) -> None:
    zones = bench.zones
    with pytest.raises(NotFound):
        zones.get(UNKNOWN)
    for call in (
        zones.start(UNKNOWN),
        zones.stop(UNKNOWN, signal=None, timeout_s=None),
        zones.restart(UNKNOWN, signal=None, timeout_s=None),
        zones.kill(UNKNOWN, "SIGKILL"),
        zones.pause(UNKNOWN),
        zones.unpause(UNKNOWN),
        zones.delete(UNKNOWN),
        zones.rename(UNKNOWN, "x"),
        zones.attach(UNKNOWN, AttachStreams()),
        zones.exec(UNKNOWN, Process(("true",))),
        zones.resize(UNKNOWN, 1, 1),
    ):
        with pytest.raises(NotFound):
            await call


# -- start and exit --------------------------------------------------------------------------------


async def test_output_and_exit_code_arrive(bench: Bench) -> None:
    code, out, err = await bench.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (code, out, err) == (3, b"out\n", b"err\n")


async def test_changes_come_in_order(bench: Bench) -> None:
    zone = await bench.start("true")
    stopped = await bench.seen(ZoneChange.STOPPED, zone)
    await bench.zones.delete(zone.uuid)
    await bench.seen(ZoneChange.DELETED, zone)
    assert bench.changes(zone) == [
        ZoneChange.CREATED,
        ZoneChange.STARTED,
        ZoneChange.STOPPED,
        ZoneChange.DELETED,
    ]
    assert stopped.zone.finished_ns > stopped.zone.started_ns > stopped.zone.created_ns
    assert stopped.zone.pid == 0


async def test_a_running_zone_has_a_process_and_a_root(bench: Bench) -> None:
    zone = await bench.start(*SLEEP)
    assert zone.state is ZoneState.RUNNING
    assert exists(f"/proc/{zone.pid}")
    assert exists(f"{zone.root}/bin/busybox")
    with pytest.raises(NotModified):
        await bench.zones.start(zone.uuid)


async def test_a_zone_starts_again_with_its_files(bench: Bench) -> None:
    zone = await bench.create("sh", "-c", "cat /tmp/count; echo x >> /tmp/count; touch /ended")
    for number in range(3):
        stdio = await bench.zones.attach(zone.uuid, AttachStreams())
        await bench.zones.start(zone.uuid)
        out, _ = await collect(stdio)
        assert out == b"x\n" * number
        await bench.seen(ZoneChange.STOPPED, zone, times=number + 1)


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH'),
        ("/no/such", 127, 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("/etc", 126, 'exec: "/etc": is a directory: permission denied'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
async def test_a_command_that_cannot_be_started_leaves_its_reason(
    bench: Bench, argv: str, code: int, text: str
) -> None:
    zone = await bench.create(argv)
    with pytest.raises(StartFailure) as caught:
        await bench.zones.start(zone.uuid)
    assert caught.value.message.endswith(text)
    assert caught.value.exit_code == code
    zone = bench.zones.get(zone.uuid)
    assert (zone.state, zone.error, zone.start_exit_code) == (
        ZoneState.STOPPED,
        caught.value.message,
        code,
    )
    assert zone.root == ""


async def test_an_attached_client_of_a_failed_start_sees_the_end(bench: Bench) -> None:
    zone = await bench.create("nosuch")
    stdio = await bench.zones.attach(zone.uuid, AttachStreams())
    with pytest.raises(StartFailure):
        await bench.zones.start(zone.uuid)
    assert await collect(stdio) == (b"", b"")


async def test_an_unknown_user_cannot_start(bench: Bench) -> None:
    zone = await bench.create("true", user="nobody")
    with pytest.raises(InvalidParameter, match="unable to find user nobody: no matching entries"):
        await bench.zones.start(zone.uuid)


async def test_the_spec_reaches_the_process(bench: Bench) -> None:
    code, out, _ = await bench.run(
        "sh", "-c", "id -u; id -g; id -G; pwd; echo $A; hostname; cat /proc/self/oom_score_adj",
        user="web", workdir="/srv/deep", env=("A=1 2",), runtime={"groups": ("50",), "oom_score_adj": 300},
    )  # fmt: skip
    lines = out.decode().splitlines()
    assert code == 0
    assert lines[:2] == ["33", "34"]
    assert set(lines[2].split()) == {"34", "50"}
    assert lines[3:5] == ["/srv/deep", "1 2"]
    assert lines[6] == ("0" if bench.is_smartos else "300")


@pytest.mark.linux_only("an end for want of memory looks like any SIGKILL")
async def test_memory_beyond_the_limit_is_an_oom(bench: Bench) -> None:
    zone = await bench.start(
        "sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1",
        runtime={"resources": {"memory": 16 << 20, "memory_swap": 16 << 20}},
    )  # fmt: skip
    event = await bench.seen(ZoneChange.STOPPED, zone)
    assert event.zone.oom_killed
    assert exit_code(event.zone) == 137
    assert ZoneChange.OOM in bench.changes(zone)


@pytest.mark.linux_only("an end for want of memory looks like any SIGKILL")
async def test_a_process_killed_for_want_of_memory_is_told_while_its_zone_goes_on(
    bench: Bench,
) -> None:
    zone = await bench.start(
        "sh", "-c", "for i in 1 2; do dd if=/dev/zero of=/dev/null bs=200M count=1; done; sleep 100",
        runtime={"resources": {"memory": 16 << 20, "memory_swap": 16 << 20}},
    )  # fmt: skip
    event = await bench.seen(ZoneChange.OOM, zone, times=2)
    assert event.zone.is_running
    assert bench.zones.get(zone.uuid).oom_killed
    again = await bench.zones.restart(zone.uuid, signal="SIGKILL", timeout_s=5)
    assert not again.oom_killed


async def test_a_stop_in_vain_goes_on_with_a_kill_that_is_told(bench: Bench) -> None:
    zone = await bench.start("sleep", "100")
    await bench.zones.stop(zone.uuid, signal="SIGUSR1", timeout_s=0.05)
    await bench.seen(ZoneChange.STOPPED, zone)
    changes = bench.changes(zone)
    assert changes.index(ZoneChange.KILLED) < changes.index(ZoneChange.STOPPED)


async def test_a_kill_ends_what_waits_for_its_restart(bench: Bench) -> None:
    zone = await bench.start("false", restart_policy="always")
    await bench.seen(ZoneChange.STOPPED, zone, times=3)
    await bench.zones.kill(zone.uuid, "SIGKILL")
    ended = bench.zones.get(zone.uuid)
    assert (ended.state, ended.exit_status) == (ZoneState.STOPPED, 1)


async def test_twenty_zones_at_once_are_kept_apart(bench: Bench) -> None:
    async def one(number: int) -> tuple[int, bytes, bytes]:
        return await bench.run("sh", "-c", f"echo {number}; exit {number}", network=True)

    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(one(number)) for number in range(20)]
    assert [run.result() for run in runs] == [(n, b"%d\n" % n, b"") for n in range(20)]


async def test_what_goes_wrong_in_clearing_away_ends_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    disconnect = type(bench.host.networks).disconnect

    async def then_fail(self: object, uuid: ZoneUUID) -> None:
        await disconnect(self, uuid)  # type: ignore[arg-type]
        raise OSError("no such luck")

    monkeypatch.setattr(type(bench.host.networks), "disconnect", then_fail)
    zone = await bench.start("true", network=True)
    await bench.seen(ZoneChange.STOPPED, zone)
    monkeypatch.undo()
    assert (await bench.run("echo", "still here"))[1] == b"still here\n"
    await bench.zones.start(zone.uuid)
    await bench.seen(ZoneChange.STOPPED, zone, times=2)


# -- stop, kill, restart ---------------------------------------------------------------------------


async def _up(bench: Bench, *argv: str, **values: object) -> ZoneUUID:
    """A running zone that has said so."""
    zone = await bench.create(*(argv or SLEEP), **values)
    stdio = await bench.zones.attach(zone.uuid, AttachStreams())
    await bench.zones.start(zone.uuid)
    async with asyncio.timeout(DEADLINE_S):
        async for _, data in stdio.output():
            assert data.strip() == b"up"
            break
    await stdio.close()
    return zone.uuid


async def test_stop_lets_the_process_end_itself(bench: Bench) -> None:
    uuid = await _up(bench)
    zone = await bench.zones.stop(uuid, signal=None, timeout_s=DEADLINE_S)
    assert (zone.state, zone.exit_status, zone.manually_stopped) == (ZoneState.STOPPED, 7, True)
    with pytest.raises(NotModified):
        await bench.zones.stop(uuid, signal=None, timeout_s=0)


async def test_stop_kills_who_does_not_listen(bench: Bench) -> None:
    uuid = await _up(bench, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    zone = await bench.zones.stop(uuid, signal=None, timeout_s=0.2)
    assert exit_code(zone) == 137


async def test_stop_uses_the_zones_own_signal(bench: Bench) -> None:
    uuid = await _up(
        bench, "sh", "-c", "trap 'exit 9' USR1; echo up; while :; do sleep 0.05; done",
        runtime={"stop_signal": "SIGUSR1"},
    )  # fmt: skip
    zone = await bench.zones.stop(uuid, signal=None, timeout_s=-1)
    assert zone.exit_status == 9


async def test_kill_sends_one_signal_and_returns(bench: Bench) -> None:
    uuid = await _up(
        bench, "sh", "-c", "trap 'echo got' USR1; echo up; while :; do sleep 0.05; done"
    )
    stdio = await bench.zones.attach(uuid, AttachStreams())
    await bench.zones.kill(uuid, "USR1")
    async with asyncio.timeout(DEADLINE_S):
        async for _, data in stdio.output():
            assert data == b"got\n"
            break
    assert bench.zones.get(uuid).state is ZoneState.RUNNING
    with pytest.raises(InvalidParameter, match="SIG42"):
        await bench.zones.kill(uuid, "SIG42")
    await bench.zones.kill(uuid, "SIGKILL")
    event = await bench.seen(ZoneChange.STOPPED, bench.zones.get(uuid))
    assert exit_code(event.zone) == 137
    with pytest.raises(NotRunning):
        await bench.zones.kill(uuid, "SIGKILL")


async def test_restart_is_a_stop_and_a_start(bench: Bench) -> None:
    uuid = await _up(bench)
    before = bench.zones.get(uuid)
    zone = await bench.zones.restart(uuid, signal=None, timeout_s=DEADLINE_S)
    assert zone.state is ZoneState.RUNNING
    assert zone.started_ns > before.started_ns
    assert zone.pid != before.pid
    await bench.seen(ZoneChange.STARTED, zone, times=2)


# -- pause -----------------------------------------------------------------------------------------


@pytest.mark.linux_only("no freezer: pause is refused")
async def test_a_paused_zone_stands_still(bench: Bench) -> None:
    uuid = await _up(bench)
    zone = await bench.zones.pause(uuid)
    assert zone.state is ZoneState.PAUSED
    assert zone.is_running
    for call in (
        bench.zones.pause(uuid),
        bench.zones.start(uuid),
        bench.zones.exec(uuid, Process(("true",))),
    ):
        with pytest.raises(Conflict):
            await call
    zone = await bench.zones.unpause(uuid)
    assert zone.state is ZoneState.RUNNING
    with pytest.raises(Conflict):
        await bench.zones.unpause(uuid)
    assert await bench.exec(zone, "echo", "alive") == (0, b"alive\n", b"")


@pytest.mark.linux_only("no freezer: pause is refused")
async def test_a_paused_zone_can_be_killed_stopped_and_deleted(bench: Bench) -> None:
    killed, stopped, deleted = [await _up(bench) for _ in range(3)]
    for uuid in (killed, stopped, deleted):
        await bench.zones.pause(uuid)
    await bench.zones.kill(killed, "SIGKILL")
    await bench.seen(ZoneChange.STOPPED, bench.zones.get(killed))
    assert (await bench.zones.stop(stopped, signal=None, timeout_s=DEADLINE_S)).exit_status == 7
    await bench.zones.delete(deleted)
    assert deleted not in [zone.uuid for zone in bench.zones.list()]


# -- delete, rename --------------------------------------------------------------------------------


async def test_a_running_zone_can_be_deleted(bench: Bench) -> None:
    uuid = await _up(bench, network=True)
    zone = bench.zones.get(uuid)
    await bench.zones.delete(uuid)
    with pytest.raises(NotFound):
        bench.zones.get(uuid)
    assert not exists(f"/proc/{zone.pid}")
    event = await bench.seen(ZoneChange.DELETED, zone)
    assert exit_code(event.zone) == 137


async def test_an_alias_is_free_after_rename_and_delete(bench: Bench) -> None:
    zone = await bench.create("true", alias="one")
    renamed = await bench.zones.rename(zone.uuid, "two")
    assert renamed.spec.alias == "two"
    other = await bench.create("true", alias="one")
    with pytest.raises(NameInUse):
        await bench.zones.rename(other.uuid, "two")
    await bench.zones.delete(zone.uuid)
    await bench.zones.rename(other.uuid, "two")


# -- attach ----------------------------------------------------------------------------------------


async def test_every_attached_client_gets_everything(bench: Bench) -> None:
    zone = await bench.create("sh", "-c", "seq 1 20000; echo end >&2")
    clients = [await bench.zones.attach(zone.uuid, AttachStreams()) for _ in range(3)]
    await bench.zones.start(zone.uuid)
    expected = b"".join(b"%d\n" % n for n in range(1, 20001))
    async with asyncio.TaskGroup() as group:
        outputs = [group.create_task(collect(client)) for client in clients]
    assert all(output.result() == (expected, b"end\n") for output in outputs)


async def test_a_client_that_asks_for_the_log_gets_each_byte_once(bench: Bench) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; [ $((i%100)) != 0 ] || sleep 0.01; done"
    zone = await bench.create("sh", "-c", script)
    outputs = []
    async with asyncio.TaskGroup() as group:
        first = await bench.zones.attach(zone.uuid, AttachStreams(logs=True))
        outputs.append(group.create_task(collect(first)))
        await bench.zones.start(zone.uuid)
        for _ in range(5):  # while it writes
            client = await bench.zones.attach(zone.uuid, AttachStreams(logs=True))
            outputs.append(group.create_task(collect(client)))
    expected = b"".join(b"%d\n" % n for n in range(1, 3001))
    assert [output.result() for output in outputs] == [(expected, b"")] * 6


async def test_a_client_that_stands_still_gets_everything_in_the_end(bench: Bench) -> None:
    zone = await bench.create("sh", "-c", "yes | head -c 3000000; exit 5")
    slow = await bench.zones.attach(zone.uuid, AttachStreams())
    await bench.zones.start(zone.uuid)
    total, first = 0, True
    async with asyncio.timeout(DEADLINE_S):
        async for _, data in slow.output():
            total += len(data)
            if first:
                assert bench.zones.get(zone.uuid).is_running
                first = False
    assert total == 3000000
    assert (await bench.seen(ZoneChange.STOPPED, zone)).zone.exit_status == 5


async def test_a_client_that_never_reads_does_not_keep_a_zone_from_being_killed(
    bench: Bench,
) -> None:
    zone = await bench.create("yes")
    await bench.zones.attach(zone.uuid, AttachStreams())
    await bench.zones.start(zone.uuid)
    await bench.zones.delete(zone.uuid)


async def test_a_client_takes_the_streams_it_asked_for(bench: Bench) -> None:
    zone = await bench.create("sh", "-c", "echo out; echo err >&2")
    stdio = await bench.zones.attach(zone.uuid, AttachStreams(stdout=False))
    await bench.zones.start(zone.uuid)
    assert await collect(stdio) == (b"", b"err\n")


async def test_stdin_that_is_opened_once_ends_with_its_client(bench: Bench) -> None:
    zone = await bench.create(
        "sh", "-c", "cat; exit 4", open_stdin=True, runtime={"stdin_once": True}
    )
    stdio = await bench.zones.attach(zone.uuid, AttachStreams(stdin=True))
    await bench.zones.start(zone.uuid)
    data = bytes(range(256)) * 4096

    async def send() -> None:
        await stdio.write(data)
        await stdio.close_input()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        output = group.create_task(collect(stdio))
    assert output.result() == (data, b"")
    assert (await bench.seen(ZoneChange.STOPPED, zone)).zone.exit_status == 4


async def test_stdin_that_stays_open_is_there_for_the_next_client(bench: Bench) -> None:
    zone = await bench.start("sh", "-c", "while read x; do echo got $x; done", open_stdin=True)
    for word in (b"one", b"two"):
        stdio = await bench.zones.attach(zone.uuid, AttachStreams(stdin=True))
        await stdio.write(word + b"\n")
        async with asyncio.timeout(DEADLINE_S):
            async for _, data in stdio.output():
                assert data == b"got " + word + b"\n"
                break
        await stdio.close_input()
        assert await collect(stdio) == (b"", b"")
    assert bench.zones.get(zone.uuid).is_running


async def test_a_watching_client_that_leaves_does_not_end_stdin(bench: Bench) -> None:
    zone = await bench.create("cat", open_stdin=True, runtime={"stdin_once": True})
    owner = await bench.zones.attach(zone.uuid, AttachStreams(stdin=True))
    await bench.zones.start(zone.uuid)
    watcher = await bench.zones.attach(zone.uuid, AttachStreams())
    await watcher.close()
    await owner.write(b"still here\n")
    await owner.close_input()
    assert await collect(owner) == (b"still here\n", b"")


async def test_a_terminal_has_a_size_and_one_stream(bench: Bench) -> None:
    # busybox's stty complains of a terminal that has no size yet.
    wait = "until stty size 2>&1 | grep -q '{}'; do sleep 0.01; done; "
    zone = await bench.create(
        "sh", "-c", wait.format("33 77") + "echo wide >&2; " + wait.format("40 100") + "echo end",
        tty=True, open_stdin=True,
    )  # fmt: skip
    stdio = await bench.zones.attach(zone.uuid, AttachStreams(stdin=True))
    assert stdio.tty
    await bench.zones.start(zone.uuid)
    await bench.zones.resize(zone.uuid, 33, 77)
    seen = b""
    async with asyncio.timeout(DEADLINE_S):
        async for stream, data in stdio.output():
            assert stream is StreamId.STDOUT
            seen += data
            if seen == b"wide\r\n":
                await stdio.resize(40, 100)
    assert seen == b"wide\r\nend\r\n"


async def test_resize_needs_a_running_zone(bench: Bench) -> None:
    zone = await bench.create("true", tty=True)
    with pytest.raises(NotRunning):
        await bench.zones.resize(zone.uuid, 10, 10)


# -- exec ------------------------------------------------------------------------------------------


async def test_exec_gives_streams_and_exit_code(bench: Bench) -> None:
    zone = await bench.start(*SLEEP)
    assert await bench.exec(zone, "sh", "-c", "echo out; echo err >&2; exit 6") == (
        6,
        b"out\n",
        b"err\n",
    )
    assert (await bench.exec(zone, "sh", "-c", "kill -9 $$"))[0] == 137
    assert (await bench.exec(zone, "sh", "-c", "exit 255"))[0] == 255


async def test_exec_takes_user_workdir_and_environment(bench: Bench) -> None:
    zone = await bench.start(*SLEEP, env=("A=zone", "B=zone"))
    _, out, _ = await bench.exec(
        zone, "sh", "-c", "id -u; pwd; echo $A $B", user="web", workdir="/etc", env=("B=exec",)
    )
    assert out == b"33\n/etc\nzone exec\n"


async def test_exec_passes_input_and_its_end(bench: Bench) -> None:
    zone = await bench.start(*SLEEP)
    process = await bench.zones.exec(zone.uuid, Process(("cat",), attach_stdin=True))
    assert process.stdio is not None
    # zlogin does not say it.
    assert process.pid > 0 or bench.is_smartos
    stdio, data = process.stdio, b"0123456789abcdef" * 131072

    async def send() -> None:
        await stdio.write(data)
        await stdio.close_input()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        output = group.create_task(collect(stdio))
    assert output.result() == (data, b"")
    assert await process.wait() == 0
    assert process.pid == 0


async def test_exec_on_a_terminal(bench: Bench) -> None:
    zone = await bench.start(*SLEEP)
    process = await bench.zones.exec(
        zone.uuid,
        Process(
            (
                "sh",
                "-c",
                "until stty size 2>&1 | grep '33 77'; do sleep 0.01; done; read x; "
                "until stty size | grep '40 100'; do sleep 0.01; done",
            ),
            tty=True,
            attach_stdin=True,
            console_size=(33, 77),
        ),
    )
    stdio = process.stdio
    assert stdio is not None
    assert stdio.tty
    seen = b""
    async with asyncio.timeout(DEADLINE_S):
        async for _, data in stdio.output():
            seen += data
            if seen == b"33 77\r\n":
                await stdio.resize(40, 100)
                await stdio.write(b"\n")
    assert seen.endswith(b"40 100\r\n")
    assert await process.wait() == 0


async def test_a_detached_exec_has_no_streams_but_an_exit_code(bench: Bench) -> None:
    zone = await bench.start(*SLEEP)
    process = await bench.zones.exec(
        zone.uuid,
        Process(
            ("sh", "-c", "yes | head -c 1000000; exit 3"), attach_stdout=False, attach_stderr=False
        ),
    )
    assert process.stdio is None
    async with asyncio.timeout(DEADLINE_S):
        assert await process.wait() == 3


async def test_a_client_that_leaves_an_exec_does_not_end_it(bench: Bench) -> None:
    zone = await bench.start(*SLEEP)
    process = await bench.zones.exec(
        zone.uuid, Process(("sh", "-c", "yes | head -c 1000000; exit 3"))
    )
    assert process.stdio is not None
    await process.stdio.close()
    async with asyncio.timeout(DEADLINE_S):
        assert await process.wait() == 3


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH'),
        ("/etc", 126, 'exec: "/etc": is a directory: permission denied'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
async def test_an_exec_that_cannot_be_started_says_why(
    bench: Bench, argv: str, code: int, text: str, tty: bool
) -> None:
    zone = await bench.start(*SLEEP)
    with pytest.raises(StartFailure) as caught:
        await bench.zones.exec(zone.uuid, Process((argv,), tty=tty))
    assert caught.value.message == (
        f"OCI runtime exec failed: exec failed: unable to start container process: {text}"
    )
    assert caught.value.exit_code == code


async def test_exec_needs_a_running_zone(bench: Bench) -> None:
    zone = await bench.create("true")
    with pytest.raises(NotRunning, match=f"container {zone.metadata.id} is not running"):
        await bench.zones.exec(zone.uuid, Process(("true",)))


async def test_an_exec_ends_with_its_zone(bench: Bench) -> None:
    zone = await bench.start(*SLEEP)
    process = await bench.zones.exec(zone.uuid, Process(("sleep", "1000")))
    await bench.zones.kill(zone.uuid, "SIGKILL")
    async with asyncio.timeout(DEADLINE_S):
        assert await process.wait() == 137


# -- logs ------------------------------------------------------------------------------------------


async def test_logs_keep_what_was_written(bench: Bench) -> None:
    zone = await bench.start("sh", "-c", "echo one; echo two >&2; printf three")
    await bench.seen(ZoneChange.STOPPED, zone)
    assert await bench.logs(zone, stderr=False) == b"one\nthree"
    assert await bench.logs(zone, stdout=False) == b"two\n"


async def test_followed_logs_end_with_the_zone(bench: Bench) -> None:
    zone = await bench.start("sh", "-c", "echo one; sleep 0.2; echo two", env=("X=1",))
    assert await bench.logs(zone, follow=True) == b"one\ntwo\n"


async def test_a_zone_without_log_says_so(bench: Bench) -> None:
    zone = await bench.create("sh", "-c", "echo shown", log_driver="none")
    stdio = await bench.zones.attach(zone.uuid, AttachStreams())
    await bench.zones.start(zone.uuid)
    assert await collect(stdio) == (b"shown\n", b"")
    with pytest.raises(NotSupported, match="configured logging driver does not support reading"):
        bench.zones.logs(zone.uuid, LogQuery())


async def test_a_log_is_rotated_and_read_as_one(bench: Bench) -> None:
    # One line in each half second is enough to be seen growing over the limit several times.
    zone = await bench.start(
        "sh", "-c", "for i in $(seq 20); do echo $i; seq 100 > /dev/null; sleep 0.1; done",
        log_config={"max-size": "200", "max-file": "9"},
    )  # fmt: skip
    await bench.seen(ZoneChange.STOPPED, zone)
    assert await bench.logs(zone) == b"".join(b"%d\n" % n for n in range(1, 21))


@pytest.mark.linux_only("zoneadmd rotates at 1 MiB at least, and keeps what it is told to")
async def test_a_log_keeps_as_many_files_as_asked(bench: Bench) -> None:
    zone = await bench.start(
        "sh", "-c", "for i in $(seq 30); do echo $i; sleep 0.1; done",
        log_config={"max-size": "200", "max-file": "2"},
    )  # fmt: skip
    await bench.seen(ZoneChange.STOPPED, zone)
    numbers = [int(line) for line in (await bench.logs(zone)).split()]
    assert numbers == list(range(numbers[0], 31))
    assert 1 < numbers[0] < 31


# -- restart policy --------------------------------------------------------------------------------


async def test_a_failing_zone_is_restarted_as_often_as_asked(bench: Bench) -> None:
    zone = await bench.start("sh", "-c", "exit 3", restart_policy="on-failure:2")
    last = await bench.seen(ZoneChange.STOPPED, zone, times=3)
    assert (last.zone.state, last.zone.restart_count) == (ZoneState.STOPPED, 2)
    stops = [event.zone.state for event in bench.events if event.change is ZoneChange.STOPPED]
    assert stops == [ZoneState.RESTARTING, ZoneState.RESTARTING, ZoneState.STOPPED]
    assert await bench.logs(zone) == b""


async def test_success_is_no_reason_to_restart_on_failure(bench: Bench) -> None:
    zone = await bench.start("true", restart_policy="on-failure")
    event = await bench.seen(ZoneChange.STOPPED, zone)
    assert event.zone.state is ZoneState.STOPPED


async def test_stop_ends_the_policy(bench: Bench) -> None:
    uuid = await _up(bench, restart_policy="always")
    zone = await bench.zones.stop(uuid, signal=None, timeout_s=DEADLINE_S)
    assert (zone.state, zone.manually_stopped) == (ZoneState.STOPPED, True)
    again = await bench.zones.start(uuid)
    assert again.restart_count == 0


async def test_stop_ends_a_pending_restart(bench: Bench) -> None:
    zone = await bench.start("false", restart_policy="always")
    while (await bench.seen(ZoneChange.STOPPED, zone)).zone.state is not ZoneState.RESTARTING:
        pass
    stopped = await bench.zones.stop(zone.uuid, signal=None, timeout_s=DEADLINE_S)
    assert stopped.state is ZoneState.STOPPED


async def test_another_signal_than_the_stop_signal_does_not_end_the_policy(bench: Bench) -> None:
    uuid = await _up(
        bench, "sh", "-c", "trap 'exit 3' INT; echo up; while :; do sleep 0.05; done",
        restart_policy="always", runtime={"stop_signal": "SIGTERM"},
    )  # fmt: skip
    await bench.zones.kill(uuid, "SIGINT")
    await bench.seen(ZoneChange.STARTED, bench.zones.get(uuid), times=2)
    await bench.zones.kill(uuid, "SIGKILL")
    last = await bench.seen(ZoneChange.STOPPED, bench.zones.get(uuid), times=2)
    assert last.zone.state is ZoneState.STOPPED


# -- filesystems, network --------------------------------------------------------------------------


async def test_a_bind_shows_the_hosts_folder(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("host\n")
    code, out, _ = await bench.run(
        "sh", "-c", "cat /mnt/there; echo zone > /mnt/here",
        filesystems=[Filesystem(source=str(tmp_path), target="/mnt")],
    )  # fmt: skip
    assert (code, out) == (0, b"host\n")
    assert (tmp_path / "here").read_text() == "zone\n"


async def test_a_missing_bind_source_is_made_where_asked_for(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "made" / "here"
    code, _, _ = await bench.run(
        "touch", "/mnt/x",
        filesystems=[Filesystem(source=str(source), target="/mnt")],
        runtime={"mount_options": {"/mnt": ("create",)}},
    )  # fmt: skip
    assert code == 0
    assert (source / "x").exists()


async def test_a_volume_of_the_zone_begins_with_the_images_content(bench: Bench) -> None:
    code, out, _ = await bench.run(
        "sh", "-c", "cat /data/kept; stat -c %u:%a /data/kept",
        filesystems=[Filesystem(source="11111111-2222-3333-4444-555555555555", target="/data")],
    )  # fmt: skip
    assert (code, out) == (0, b"from the image\n33:640\n")


async def test_zones_of_one_network_reach_each_other(bench: Bench) -> None:
    server = await bench.start(
        "sh", "-c", "while :; do echo hello | nc -l -p 80; done", network=True
    )
    address = server.spec.nics[0].ip
    code, out, _ = await bench.run(
        "sh", "-c", f"for i in $(seq 50); do nc -w 2 {address} 80 </dev/null && exit; sleep 0.05; done",
        network=True,
    )  # fmt: skip
    assert (code, out) == (0, b"hello\n")


async def test_a_zone_joins_and_leaves_a_network(bench: Bench) -> None:
    networks = bench.host.networks
    made = await networks.create(NetworkPlan("joined"))
    zone = await bench.start(*SLEEP, network=True)
    nic = networks.lease(zone.uuid, NetworkRequest("joined"))
    nic = nic.model_copy(update={"interface": "eth1", "primary": None})

    async def with_nics(*nics: Nic) -> bytes:
        changed = await bench.zones.update(zone.uuid, zone.spec.model_copy(update={"nics": nics}))
        assert [one.ip for one in changed.spec.nics] == [one.ip for one in nics]
        if bench.is_smartos:
            await bench.zones.restart(zone.uuid, signal="SIGKILL", timeout_s=1)
        return (await bench.exec(zone, "ip", "addr"))[1]

    assert f"inet {nic.ip}/".encode() in await with_nics(*zone.spec.nics, nic)
    assert networks.leased(made.id) == (zone.uuid,)
    with pytest.raises(Forbidden, match="has active endpoints"):
        await networks.remove("joined")
    shown = await with_nics(*zone.spec.nics)
    assert f"inet {nic.ip}/".encode() not in shown
    assert f"inet {zone.spec.nics[0].ip}/".encode() in shown
    networks.release(zone.uuid, made.id)
    await networks.remove("joined")
    with pytest.raises(NotFound, match="network joined not found"):
        networks.get("joined")


@pytest.mark.linux_only("a zone has no namespaces to join")
async def test_a_zone_can_share_anothers_namespaces(bench: Bench) -> None:
    first = await bench.start(*SLEEP, network=True)
    address = first.spec.nics[0].ip or ""
    code, out, _ = await bench.run(
        "sh", "-c", "ip addr show eth0; ps",
        runtime={"network": f"zone:{first.uuid}", "pid": f"zone:{first.uuid}"},
    )  # fmt: skip
    assert code == 0
    assert f"inet {address}/".encode() in out
    assert b"trap" in out


@pytest.mark.linux_only("a zone has no namespaces to join")
async def test_shared_memory_is_shared_with_who_may_join(bench: Bench) -> None:
    owner = await bench.start(*SLEEP, runtime={"ipc": "shareable", "shm_size": 1 << 20})
    joins = {"ipc": f"zone:{owner.uuid}"}
    assert (await bench.run("sh", "-c", "echo said > /dev/shm/file", runtime=joins))[0] == 0
    assert (await bench.exec(owner, "cat", "/dev/shm/file"))[1] == b"said\n"
    assert b"size=1024k" in (await bench.exec(owner, "grep", "/dev/shm", "/proc/mounts"))[1]
    private = await bench.start(*SLEEP)
    with pytest.raises(InvalidParameter, match=r"non-shareable IPC \(hint: use IpcMode:shareable"):
        await bench.start("true", runtime={"ipc": f"zone:{private.uuid}"})


@pytest.mark.linux_only("a zone has no namespaces to join")
async def test_a_zone_may_use_the_hosts_network_or_none(bench: Bench) -> None:
    code, out, _ = await bench.run("ip", "link", runtime={"network": "host"})
    assert code == 0
    own, _, _ = await bench.run("sh", "-c", "ip link | grep -c mtu")
    assert own == 0
    assert out.count(b"mtu") > 1
    _, out, _ = await bench.run("sh", "-c", "ip link | grep -c mtu")
    assert out == b"1\n"


@pytest.mark.linux_only("dockerinit takes no further groups")
async def test_groups_of_the_zone_are_every_users(bench: Bench) -> None:
    zone = await bench.start(*SLEEP, runtime={"groups": ("77",)})
    assert b"77" in (await bench.exec(zone, "id", "-G"))[1]
    assert b"77" in (await bench.exec(zone, "id", "-G", user="web"))[1]


async def test_an_exec_stream_names_its_source(bench: Bench) -> None:
    zone = await bench.start(*SLEEP)
    process = await bench.zones.exec(zone.uuid, Process(("sh", "-c", "echo err >&2")))
    assert process.stdio is not None
    chunks = [chunk async for chunk in process.stdio.output()]
    assert chunks == [(StreamId.STDERR, b"err\n")]


def test_specs_of_the_suite_are_payloads() -> None:
    assert zone_spec("true").payload()["brand"] == "lx"


# -- update ----------------------------------------------------------------------------------------


async def test_a_running_zone_takes_other_limits_at_once(bench: Bench) -> None:
    zone = await bench.start(*SLEEP)
    resources = Resources(memory=64 << 20, memory_swap=300 << 20, pids=40)
    data = zone.metadata.model_copy(
        update={"runtime": zone.metadata.runtime.model_copy(update={"resources": resources})}
    )
    limits = {"max_physical_memory": 64, "max_locked_memory": 64, "max_swap": 300, "max_lwps": 40}
    spec = zone.spec.model_copy(update={**limits, "internal_metadata": encode(data)})
    changed = await bench.zones.update(zone.uuid, spec)
    assert changed.spec.max_physical_memory == 64
    assert bench.zones.get(zone.uuid).metadata.runtime.resources.pids == 40
    await bench.seen(ZoneChange.UPDATED, zone)
    sample = await bench.host.gauges.sample(zone.uuid)
    assert sample is not None
    assert sample.memory_limit == 64 << 20


async def test_another_restart_policy_holds_from_the_next_exit_on(bench: Bench) -> None:
    zone = await bench.start("sh", "-c", "trap 'exit 7' HUP; echo up; while :; do sleep 0.05; done")
    await bench.exec(zone, "true")
    data = zone.metadata.model_copy(update={"restart_policy": "on-failure:1"})
    spec = zone.spec.model_copy(update={"internal_metadata": encode(data)})
    await bench.zones.update(zone.uuid, spec)
    # By itself: a signal by hand would end the policy.
    await bench.exec(zone, "kill", "-HUP", "1")
    await bench.seen(ZoneChange.STARTED, zone, times=2)
