"""Attach by one `zlogin -I`: fan-out, input, terminals, starts and ends; real processes in the fake global zone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess  # noqa: TID251 - an admin's own zlogin
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import Conflict
from dockerapi.framing import StreamId
from gateway.hosts.smartos import attached
from gateway.hosts.smartos.dockerinit import hold_start, let_start
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.logtail import LogTail, joined, overlap, past
from gateway.hosts.smartos.stdio import ZoneStreams
from gateway.zones.host import AttachStreams, Zone
from tests.fakes.globalzone import process
from tests.fakes.globalzone.zoneadmd import KEEPS_LAST_WORDS, StdioLog
from tests.fakes.sshd import Sshd
from tests.gateway.hosts.smartos.streamslab import (
    DEADLINE_S,
    IMAGE,
    Lab,
    Reading,
    everything,
    far,
    far_gz,
    gz,
    lab,
    streams_of,
)

__all__ = ["far", "far_gz", "gz", "lab"]

root = pytest.mark.root
OUT, ERR = StreamId.STDOUT, StreamId.STDERR
ALL = AttachStreams(stdin=True)


async def started(
    lab: Lab, gz: GlobalZone, zone: Zone, streams: ZoneStreams, group: asyncio.TaskGroup
) -> None:
    """As the host starts a zone that somebody is attached to; told of its end as by vmadm's events."""
    await hold_start(gz, str(lab.zonepath(zone)), time.time_ns() // 1_000_000 + 60_000)
    connecting = group.create_task(streams.connect())
    await asyncio.to_thread(lab.vmadm, "start", zone.uuid)
    group.create_task(told_of_end(lab, zone, streams))
    await connecting


async def told_of_end(lab: Lab, zone: Zone, streams: ZoneStreams) -> None:
    await lab.until(zone, "stopped")
    streams.ended()


@pytest.fixture
async def gz_alone() -> AsyncIterator[LocalGlobalZone]:
    async with LocalGlobalZone() as zone:
        yield zone


async def made(lab: Lab, *argv: str, **more: object) -> Zone:
    return await asyncio.to_thread(lambda: lab.zone(*argv, **more))  # type: ignore[arg-type]


@root
async def test_nothing_of_a_short_command_is_lost(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await made(lab, "sh", "-c", "echo out; echo err >&2; seq 1 20000")
    async with streams_of(lab, gz, zone) as streams, asyncio.TaskGroup() as group:
        client = streams.attach(AttachStreams())
        await started(lab, gz, zone, streams, group)
        output = await everything(client)
    assert output[OUT] == b"out\n" + b"".join(b"%d\n" % n for n in range(1, 20001))
    assert output[ERR] == b"err\n"


@root
async def test_a_wait_that_the_metadata_agent_brings_back_is_ended(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes what dockerinit notes, with all that it had read before we were attached."""
    folder = tmp_path_factory.mktemp("gz")
    fake = await asyncio.to_thread(lambda: process.start(folder, agent_s="0.6"))
    own = Lab(fake)
    for name in ("PATH", "ZONEGATE_FAKE_GZ"):
        monkeypatch.setenv(name, fake.environment[name])
    try:
        await asyncio.to_thread(own.image, IMAGE)
        zone = await made(own, "echo", "hello")
        async with (
            LocalGlobalZone(own.root) as gz,
            streams_of(own, gz, zone) as streams,
            asyncio.TaskGroup() as group,
        ):
            client = streams.attach(AttachStreams())
            await started(own, gz, zone, streams, group)
            assert (await everything(client))[OUT] == b"hello\n"
    finally:
        await asyncio.to_thread(fake.stop)


@root
async def test_every_client_gets_everything(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await made(lab, "sh", "-c", "seq 1 5000; echo err >&2")
    async with streams_of(lab, gz, zone) as streams, asyncio.TaskGroup() as group:
        clients = [streams.attach(AttachStreams()) for _ in range(3)]
        half = streams.attach(AttachStreams(stdout=False))
        await started(lab, gz, zone, streams, group)
        tasks = [group.create_task(everything(client)) for client in (*clients, half)]
    outputs = [task.result() for task in tasks]
    assert outputs[0][OUT] == b"".join(b"%d\n" % n for n in range(1, 5001))
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[3] == {OUT: b"", ERR: b"err\n"}


@root
@pytest.mark.parametrize("size", [0, 5, 200_000])
async def test_the_end_of_input_reaches_the_process_and_its_answer_the_client(
    lab: Lab, gz: LocalGlobalZone, size: int
) -> None:
    zone = await made(lab, "sh", "-c", "cat; echo the end", open_stdin=True)
    data = os.urandom(size)
    async with streams_of(lab, gz, zone, stdin_once=True) as streams, asyncio.TaskGroup() as group:
        client = streams.attach(ALL)
        await started(lab, gz, zone, streams, group)
        await client.write(data)
        await client.close_input()
        output = await everything(client)
    assert output[OUT] == data + b"the end\n"


@root
async def test_a_zone_without_a_log_is_attached_to_all_the_same(
    lab: Lab, gz: LocalGlobalZone
) -> None:
    script = "echo out; while read line; do echo got $line; done; sleep 0.5; echo the end"
    zone = await made(lab, "sh", "-c", script, open_stdin=True, logdriver="none")
    async with (
        streams_of(lab, gz, zone, stdin_once=True, logged=False) as streams,
        asyncio.TaskGroup() as group,
    ):
        client = streams.attach(ALL)
        reading = Reading(client, group)
        await started(lab, gz, zone, streams, group)
        await client.write(b"one\n")
        await reading.until(b"got one\n")
        await client.close_input()  # ends the connection: what comes before the next one is lost
        await reading.end()
    assert reading.data.startswith(b"out\ngot one\n")
    assert not (lab.zonepath(zone) / "logs/stdio.log").exists()


@root
async def test_input_of_one_is_answered_to_all(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await made(lab, "sh", "-c", "while read line; do echo got $line; done", open_stdin=True)
    async with streams_of(lab, gz, zone) as streams, asyncio.TaskGroup() as group:
        one, two = streams.attach(ALL), streams.attach(ALL)
        await started(lab, gz, zone, streams, group)
        first, second = Reading(one, group), Reading(two, group)
        await one.write(b"~ one\n")
        await first.until(b"got ~ one\n")
        await second.until(b"got ~ one\n")
        await one.close_input()  # not stdin_once: leaves, and the process reads on
        await first.end()
        await two.write(b"two\n")
        await second.until(b"got two\n")
        assert streams.has_clients
        await two.close()
        assert not streams.has_clients
        assert json.loads(lab.vmadm("get", zone.uuid))["state"] == "running"
        await asyncio.to_thread(lab.vmadm, "stop", zone.uuid, "-F")


@root
async def test_a_later_client_gets_what_comes_from_then_on(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await lab.run(
        "sh", "-c", "echo past; while read line; do echo got $line; done", open_stdin=True
    )
    await log_has(lab, zone, b"past")
    async with streams_of(lab, gz, zone) as streams, asyncio.TaskGroup() as group:
        for text in (b"one", b"two"):  # the last one who leaves ends the connection
            client = streams.attach(ALL)
            await streams.connect()
            reading = Reading(client, group)
            await client.write(text + b"\n")
            await reading.until(b"got " + text)
            assert reading.data == b"got " + text + b"\n"
            await client.close()
        await asyncio.to_thread(lab.vmadm, "stop", zone.uuid, "-F")


async def log_has(lab: Lab, zone: Zone, text: bytes) -> None:
    path = lab.zonepath(zone) / "logs/stdio.log"
    async with asyncio.timeout(DEADLINE_S):
        while not path.exists() or text not in path.read_bytes():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)


@root
async def test_a_lost_connection_comes_back_without_a_gap(lab: Lab, gz: LocalGlobalZone) -> None:
    script = "while read line; do echo got $line; done"
    zone = await made(lab, "sh", "-c", script, open_stdin=True)
    async with streams_of(lab, gz, zone) as streams, asyncio.TaskGroup() as group:
        client = streams.attach(ALL)
        await started(lab, gz, zone, streams, group)
        reading = Reading(client, group)
        for number in range(5):
            await client.write(b"%d\n" % number)
            await reading.until(b"got %d\n" % number)
            (pid,) = processes(zone.uuid)
            os.kill(pid, 9)
            async with asyncio.timeout(DEADLINE_S):
                while processes(zone.uuid) in ([], [pid]):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.01)
            await streams.connect()
        assert reading.data == b"".join(b"got %d\n" % n for n in range(5))
        await client.close()
        await asyncio.to_thread(lab.vmadm, "stop", zone.uuid, "-F")


def processes(zone: str) -> list[int]:
    """Of `zlogin -I ZONE`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"-I" in words and zone.encode() in words:
            found.append(int(path.parent.name))
    return found


@root
async def test_a_zone_whose_streams_an_admin_has_is_a_conflict(
    lab: Lab, gz: LocalGlobalZone
) -> None:
    zone = await lab.run("sh", "-c", "while read line; do echo got $line; done", open_stdin=True)
    admin = subprocess.Popen(  # noqa: ASYNC220
        ["zlogin", "-I", zone.uuid], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert admin.stdin is not None
    assert admin.stdout is not None
    admin.stdin.write(b"mine\n")
    admin.stdin.flush()
    assert await asyncio.to_thread(admin.stdout.readline) == b"got mine\n"
    try:
        async with streams_of(lab, gz, zone) as streams:
            client = streams.attach(ALL)
            with pytest.raises(Conflict, match=r"process \d+ of the global zone has its standard"):
                await streams.connect()
            assert await everything(client) == {OUT: b"", ERR: b""}
            assert not streams.has_clients
    finally:
        admin.kill()
        admin.wait()
        admin.stdin.close()
        admin.stdout.close()
        await asyncio.to_thread(lab.vmadm, "stop", zone.uuid, "-F")


@root
async def test_a_terminal_is_raw_and_has_the_clients_size(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await made(lab, "sh", tty=True, open_stdin=True)
    async with (
        streams_of(lab, gz, zone, size=(40, 100)) as streams,
        asyncio.TaskGroup() as group,
    ):
        client = streams.attach(ALL)
        assert client.tty
        await started(lab, gz, zone, streams, group)
        reading = Reading(client, group)
        await reading.until(b"# ")
        await client.write(b"until stty size | grep '40 100'; do :; done\n")
        await reading.until(b"40 100\r\n")
        assert reading.data.count(b"stty size") == 1  # the echo is the zone's, and only that
        await client.resize(24, 77)
        await client.write(b"until stty size | grep '24 77'; do :; done\n")
        await reading.until(b"24 77\r\n")
        await client.write(b"exit\n")
        await reading.end()


@root
@pytest.mark.parametrize("tty", [True, False])
async def test_what_a_client_wrote_just_before_it_left_arrives(
    lab: Lab, gz: LocalGlobalZone, tty: bool
) -> None:
    zone = await made(lab, "sh", tty=tty, open_stdin=True)
    async with streams_of(lab, gz, zone) as streams, asyncio.TaskGroup() as group:
        client = streams.attach(ALL)
        await started(lab, gz, zone, streams, group)
        await client.write(b"exit 0\n")
        await client.close()
        await lab.until(zone, "stopped")
        streams.ended()


@root
async def test_clients_of_a_run_are_let_go_with_it_though_the_next_is_to_come(
    lab: Lab, gz: LocalGlobalZone
) -> None:
    zone = await made(lab, "sh", "-c", "echo run >> /runs; cat /runs")
    async with streams_of(lab, gz, zone) as streams, asyncio.TaskGroup() as group:
        for expected in (b"run\n", b"run\nrun\n"):
            client = streams.attach(AttachStreams())
            reading = Reading(client, group)
            streams.begin()
            connecting = group.create_task(streams.connect())
            await asyncio.to_thread(lab.vmadm, "start", zone.uuid)
            await lab.until(zone, "stopped")
            streams.ended()
            await connecting
            assert await reading.end() == expected


@root
async def test_last_words_that_zoneadmd_only_logs_are_not_lost(
    lab: Lab, gz: LocalGlobalZone
) -> None:
    zone = await made(lab, "sh", "-c", "seq 1 3000; echo last >&2; echo words")
    flag = lab.fake.root / "var/run/zones" / KEEPS_LAST_WORDS
    flag.parent.mkdir(parents=True, exist_ok=True)
    flag.touch()
    try:
        async with streams_of(lab, gz, zone) as streams, asyncio.TaskGroup() as group:
            client = streams.attach(AttachStreams())
            await started(lab, gz, zone, streams, group)
            output = await everything(client)
    finally:
        flag.unlink()
    assert output[OUT] == b"".join(b"%d\n" % n for n in range(1, 3001)) + b"words\n"
    assert output[ERR] == b"last\n"


@root
async def test_a_start_that_fails_ends_the_streams(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await made(lab, "nothing-of-this-name")
    async with streams_of(lab, gz, zone) as streams, asyncio.TaskGroup() as group:
        client = streams.attach(AttachStreams())
        await started(lab, gz, zone, streams, group)
        assert await everything(client) == {OUT: b"", ERR: b""}


@root
async def test_a_client_that_is_far_behind_is_let_go_and_others_are_not(
    lab: Lab, gz: LocalGlobalZone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached, "BEHIND_LIMIT", 2_000_000)
    zone = await made(lab, "sh", "-c", "yes | head -c 5000000")
    async with streams_of(lab, gz, zone) as streams, asyncio.TaskGroup() as group:
        slow, quick = streams.attach(AttachStreams()), streams.attach(AttachStreams())
        reading = Reading(quick, group)
        await started(lab, gz, zone, streams, group)
        assert await reading.end() == b"y\n" * 2_500_000
        got = (await everything(slow))[OUT]
        assert got == b"y\n" * (len(got) // 2)
        assert 2_000_000 <= len(got) < 5_000_000


# -- by SSH ---------------------------------------------------------------------------------------


@root
async def test_nothing_of_a_short_command_is_lost_on_another_machine(
    lab: Lab, far_gz: GlobalZone
) -> None:
    zone = await made(lab, "sh", "-c", "cat; echo err >&2; seq 1 3000", open_stdin=True)
    async with (
        streams_of(lab, far_gz, zone, stdin_once=True) as streams,
        asyncio.TaskGroup() as group,
    ):
        client = streams.attach(ALL)
        await started(lab, far_gz, zone, streams, group)
        await client.write(b"input\n")
        await client.close_input()
        output = await everything(client)
    assert output[OUT] == b"input\n" + b"".join(b"%d\n" % n for n in range(1, 3001))
    assert output[ERR] == b"err\n"


@root
async def test_a_terminal_of_another_machine_has_the_clients_size(
    lab: Lab, far_gz: GlobalZone
) -> None:
    zone = await made(lab, "sh", tty=True, open_stdin=True)
    async with (
        streams_of(lab, far_gz, zone, size=(40, 100)) as streams,
        asyncio.TaskGroup() as group,
    ):
        client = streams.attach(ALL)
        await started(lab, far_gz, zone, streams, group)
        reading = Reading(client, group)
        await reading.until(b"# ")
        await client.resize(24, 77)
        await client.write(b"until stty size | grep '24 77'; do :; done\n")
        await reading.until(b"24 77\r\n")
        await client.write(b"exit\n")
        await reading.end()


@root
async def test_an_attach_outlives_a_lost_connection_to_the_machine(
    lab: Lab, far: Sshd, far_gz: GlobalZone
) -> None:
    script = "while read line; do echo got $line; (sleep 0.2; echo later $line) & done"
    zone = await made(lab, "sh", "-c", script, open_stdin=True)
    async with streams_of(lab, far_gz, zone) as streams, asyncio.TaskGroup() as group:
        client = streams.attach(ALL)
        await started(lab, far_gz, zone, streams, group)
        reading = Reading(client, group)
        expected = b""
        for number in range(3):
            await client.write(b"%d\n" % number)
            await reading.until(b"got %d\n" % number)
            await asyncio.to_thread(far.drop)
            await reading.until(b"later %d\n" % number)
            expected += b"got %d\nlater %d\n" % (number, number)
            await reconnected(lab, zone, streams)
        assert reading.data == expected
        await client.close()
        await asyncio.to_thread(lab.vmadm, "stop", zone.uuid, "-F")


async def reconnected(lab: Lab, zone: Zone, streams: ZoneStreams) -> None:
    """A new zlogin has the streams, and clients may write."""
    async with asyncio.timeout(DEADLINE_S):
        while len(processes(zone.uuid)) != 1:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    await streams.connect()


# -- parts ----------------------------------------------------------------------------------------


@root
async def test_an_attach_that_waits_is_noted_for_dockerinit(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await made(lab, "true")
    path = lab.zonepath(zone) / "config/metadata.json"
    before = json.loads(path.read_text())
    await hold_start(gz, str(lab.zonepath(zone)), 12345)
    held = json.loads(path.read_text())
    assert held["internal_metadata"].pop("docker:wait_for_attach") == "12345"
    assert held == before
    await let_start(gz, str(lab.zonepath(zone)))
    assert json.loads(path.read_text()) == before


@given(st.binary(max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_what_was_logged_and_what_came_live_join_without_loss(
    data: bytes, logged: int, live: int
) -> None:
    logged, live = min(logged, len(data)), min(live, len(data))
    live = min(live, logged)  # zoneadmd logs first: nothing lies between the two
    past, now = [(OUT, data[:logged])], [(OUT, data[live:])]
    chunks, beyond = joined(past, now)
    text = b"".join(chunk for _, chunk in chunks)
    # Where the text repeats itself more than one overlap is possible; the longest is taken.
    assert text.startswith(data[:logged])
    assert data[live:].endswith(text[logged:])
    assert beyond[OUT] == text[logged:]


@given(st.binary(max_size=8), st.binary(max_size=2000), st.binary(max_size=2000))
def test_the_longest_overlap_is_found(common: bytes, before: bytes, after: bytes) -> None:
    past, now = before + common * 3, common * 3 + after
    sizes = [n for n in range(min(len(past), len(now)) + 1) if past.endswith(now[:n])]
    assert overlap(past, now) == sizes[-1]


def test_an_overlap_of_megabytes_is_found_at_once() -> None:
    data = b"y\n" * 500_000
    assert overlap(data, data) == len(data)
    assert overlap(data + b"x", data) == 0


@pytest.mark.parametrize("cuts", [[], [5], [700, 1500], [1]])
async def test_the_log_fills_in_what_was_not_had(
    gz_alone: LocalGlobalZone, tmp_path: Path, cuts: list[int]
) -> None:
    writer = StdioLog(tmp_path / "logs/stdio.log", "new", 0)
    writer.open()
    writer.write("stdout", b"of an earlier run\n")
    tail = LogTail(gz_alone, str(tmp_path))
    await tail.start()
    data = b"".join(b"%d\n" % n for n in range(1000))
    for start in range(0, len(data), 100):
        writer.write("stdout", data[start : start + 100])
    got = b""
    for cut in cuts:  # live, then from the log, and so on
        live = data[len(got) : len(got) + cut]
        tail.had(OUT, live)
        got += live
        for _, text in await tail.missing():
            got += text
    for _, text in await tail.missing():
        got += text
    assert got == data
    assert await tail.missing() == []


async def test_what_zoneadmd_dropped_is_no_reason_to_repeat_the_rest(
    gz_alone: LocalGlobalZone, tmp_path: Path
) -> None:
    writer = StdioLog(tmp_path / "logs/stdio.log", "new", 0)
    writer.open()
    tail = LogTail(gz_alone, str(tmp_path))
    await tail.start()
    data = b"".join(b"%d\n" % n for n in range(5000))
    for start in range(0, len(data), 1000):
        writer.write("stdout", data[start : start + 1000])
    tail.had(OUT, data[:3000])
    tail.had(OUT, data[8000:9000])  # 3000 to 8000 went by
    text = b"".join([text for _, text in await tail.missing()])
    assert text == data[9000:]


@pytest.mark.parametrize("max_size", [0, 1 << 20])
async def test_a_clients_past_ends_where_its_live_output_begins(
    gz_alone: LocalGlobalZone, tmp_path: Path, max_size: int
) -> None:
    """Wherever that is: in what the log had before, behind what was had live, behind a rotation."""
    writer = StdioLog(tmp_path / "logs/stdio.log", "new", max_size)
    writer.open()
    writer.write("stdout", b"of an earlier run\n")
    tail = LogTail(gz_alone, str(tmp_path))
    await tail.start()
    lines = b"".join(b"%d\n" % n for n in range(200_000))
    whole = {OUT: b"of an earlier run\n", ERR: b""}
    size = len(lines) // 3
    for part in range(3):
        data = lines[part * size : (part + 1) * size]
        for start in range(0, len(data), 1000):
            writer.write("stdout", data[start : start + 1000])
        writer.write("stderr", b"between\n")
        if part == 1:  # what the log alone has
            for stream, text in await tail.missing():
                whole[stream] += text
        else:
            tail.had(OUT, data[:12345])
            tail.had(ERR, b"between\n")
            whole[OUT] += data[:12345]
            whole[ERR] += b"between\n"
        seen = {OUT: b"", ERR: b""}
        async for stream, text in past(gz_alone, str(tmp_path), tail.passed()):
            seen[stream] += text
        assert seen == whole
        while missing := await tail.missing():
            for stream, text in missing:
                whole[stream] += text
    assert whole[OUT] == b"of an earlier run\n" + lines[: 3 * size]
    files = await asyncio.to_thread(lambda: list((tmp_path / "logs").iterdir()))
    assert len(files) == (2 if max_size else 1)
