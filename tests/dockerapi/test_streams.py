"""Taken connections and followed streams, byte by byte over a real socket."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from engine_in_memory import Echo
from wire_client import read_chunk, read_head

from dockerapi import streams
from dockerapi.framing import FrameParser, StreamId

ATTACH = (
    b"POST /v1.51/containers/c1/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\n"
)
UPGRADE = b"Connection: Upgrade\r\nUpgrade: tcp\r\n"
START = b"POST /exec/e1/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(autouse=True)
async def deadline():
    async with asyncio.timeout(20):
        yield


def frames(data: bytes) -> list[tuple[StreamId, bytes]]:
    parser = FrameParser()
    found = list(parser.feed(data))
    assert parser.incomplete == 0
    return found


def joined(data: bytes) -> bytes:
    return b"".join(payload for _, payload in frames(data))


async def test_attach_upgrades_and_echoes(world):
    echo = world.engine.containers.streams["c1"] = Echo()
    reader, writer = await world.connect()
    writer.write(ATTACH + UPGRADE + b"\r\n")
    assert (await reader.readline()) == b"HTTP/1.1 101 UPGRADED\r\n"
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Content-Type: application/vnd.docker.multiplexed-stream\r\n" in head
    assert b"Connection: Upgrade\r\nUpgrade: tcp\r\n" in head
    writer.write(b"hello")
    assert await reader.readexactly(13) == b"\x01\0\0\0\0\0\0\x05hello"
    writer.write_eof()
    assert await reader.read() == b""
    assert echo.closed.is_set()


async def test_bytes_right_behind_the_request_are_input(world):
    world.engine.containers.streams["c1"] = Echo()
    reader, writer = await world.connect()
    writer.write(ATTACH + UPGRADE + b"\r\nearly")
    writer.write_eof()
    status, _ = await read_head(reader)
    assert status == 101
    assert joined(await reader.read()) == b"early"


@pytest.mark.parametrize("cut", range(0, 260, 7))
async def test_the_request_may_be_cut_anywhere(world, cut):
    world.engine.execs.streams["e1"] = Echo()
    body = b'{"Detach":false}'
    data = START + UPGRADE + b"Content-Length: %d\r\n\r\n%bearly bytes" % (len(body), body)
    reader, writer = await world.connect()
    writer.write(data[:cut])
    await asyncio.sleep(0.001)
    writer.write(data[cut:])
    writer.write_eof()
    assert (await read_head(reader))[0] == 101
    assert joined(await reader.read()) == b"early bytes"


async def test_a_chunked_start_body_does_not_leak_into_stdin(world):
    echo = world.engine.execs.streams["e1"] = Echo()
    reader, writer = await world.connect()
    for byte in START + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\ninput":
        writer.write(bytes((byte,)))
        await asyncio.sleep(0)
    writer.write_eof()
    assert (await read_head(reader))[0] == 101
    await reader.read()
    assert bytes(echo.received) == b"input"


async def test_output_goes_on_after_the_clients_eof(world):
    echo = world.engine.containers.streams["c1"] = Echo(hold=True)
    reader, writer = await world.connect()
    writer.write(ATTACH + UPGRADE + b"\r\n")
    await read_head(reader)
    writer.write_eof()
    await echo.input_ended.wait()
    await echo.feed(StreamId.STDERR, b"late")
    await echo.end()
    assert frames(await reader.read()) == [(StreamId.STDERR, b"late")]


async def test_the_end_of_output_ends_the_connection_with_input_open(world):
    echo = world.engine.containers.streams["c1"] = Echo()
    reader, writer = await world.connect()
    writer.write(ATTACH + UPGRADE + b"\r\n")
    await read_head(reader)
    await echo.feed(StreamId.STDOUT, b"bye")
    await echo.end()
    assert joined(await reader.read()) == b"bye"


async def test_without_upgrade_the_form_is_200_and_raw(world):
    world.engine.containers.streams["c1"] = Echo()
    reader, writer = await world.connect()
    writer.write(ATTACH + b"\r\nhi")
    writer.write_eof()
    status, headers = await read_head(reader)
    assert status == 200
    assert headers["content-type"] == "application/vnd.docker.raw-stream"
    assert "transfer-encoding" not in headers
    assert joined(await reader.read()) == b"hi"


async def test_a_terminal_is_raw_and_unframed(world):
    world.engine.containers.streams["c1"] = Echo(tty=True)
    reader, writer = await world.connect()
    writer.write(ATTACH + UPGRADE + b"\r\nhi")
    writer.write_eof()
    _, headers = await read_head(reader)
    assert headers["content-type"] == "application/vnd.docker.raw-stream"
    assert await reader.read() == b"hi"


async def test_before_1_42_frames_travel_as_raw_stream(world):
    world.engine.containers.streams["c1"] = Echo()
    reader, writer = await world.connect()
    writer.write(ATTACH.replace(b"1.51", b"1.41") + UPGRADE + b"\r\nhi")
    writer.write_eof()
    _, headers = await read_head(reader)
    assert headers["content-type"] == "application/vnd.docker.raw-stream"
    assert joined(await reader.read()) == b"hi"


async def test_execs_framing_follows_the_start_body(world):
    world.engine.execs.streams["e1"] = Echo(tty=True)
    reader, writer = await world.connect()
    writer.write(START + UPGRADE + b"Content-Length: 13\r\n\r\n" + b'{"Tty":false}' + b"x")
    writer.write_eof()
    await read_head(reader)
    assert frames(await reader.read()) == [(StreamId.STDOUT, b"x")]


async def test_attach_to_nothing_is_plain_text(world):
    reader, writer = await world.connect()
    writer.write(ATTACH + UPGRADE + b"\r\n")
    assert await reader.read() == (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
        b"No such container: c1\r\n"
    )


async def test_exec_start_of_nothing_is_json_and_the_connection_goes_on(world):
    reader, writer = await world.connect()
    request = START + UPGRADE + b"Content-Length: 2\r\n\r\n{}"
    writer.write(request + b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
    status, headers = await read_head(reader)
    assert status == 404
    assert headers["server"] == "Docker/28.5.2 (linux)"
    body = await reader.readexactly(int(headers["content-length"]))
    assert body == b'{"message":"No such exec instance: e1"}\n'
    assert (await read_head(reader))[0] == 200


async def test_a_detached_exec_answers_and_keeps_the_connection(world):
    world.engine.execs.streams["e1"] = None
    reader, writer = await world.connect()
    for _ in range(2):
        writer.write(START + b"Content-Length: 15\r\n\r\n" + b'{"Detach":true}')
        status, headers = await read_head(reader)
        assert (status, headers["content-length"]) == (200, "0")


async def test_a_gone_client_closes_the_stream(world):
    echo = world.engine.containers.streams["c1"] = Echo()
    reader, writer = await world.connect()
    writer.write(ATTACH + UPGRADE + b"\r\n")
    await read_head(reader)
    writer.transport.abort()
    await echo.closed.wait()


@pytest.mark.parametrize("nest", [True, False], ids=["by an event", "by looking"])
async def test_a_client_gone_after_its_eof_is_noticed_though_nothing_is_written(
    world, monkeypatch, nest
):
    monkeypatch.setattr(streams, "EPOLLS_NEST", nest)
    monkeypatch.setattr(streams, "HANGUP_LOOK_S", 0.01)
    echo = world.engine.containers.streams["c1"] = Echo(hold=True)
    reader, writer = await world.connect()
    writer.write(ATTACH + UPGRADE + b"\r\n")
    await read_head(reader)
    writer.write_eof()
    await echo.input_ended.wait()
    writer.transport.abort()
    await echo.closed.wait()


async def test_a_slow_reader_holds_the_process_back_and_loses_nothing(world):
    echo = world.engine.containers.streams["c1"] = Echo()
    reader, writer = await world.connect()
    writer.transport.pause_reading()
    writer.write(ATTACH + UPGRADE + b"\r\n")
    sent = 0
    block = bytes(range(256)) * 256
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            while sent < 1000:
                await echo.feed(StreamId.STDOUT, block)
                sent += 1
    assert sent < 200
    writer.transport.resume_reading()
    await read_head(reader)

    async def finish() -> None:
        for _ in range(sent, 300):
            await echo.feed(StreamId.STDOUT, block)
        await echo.end()

    async with asyncio.TaskGroup() as group:
        group.create_task(finish())
        data = await reader.read()
    assert joined(data) == block * 300


async def test_a_slow_process_holds_the_client_back_and_loses_nothing(world):
    world.engine.containers.streams["c1"] = Echo()
    reader, writer = await world.connect()
    writer.write(ATTACH + UPGRADE + b"\r\n")
    await read_head(reader)
    block = bytes(range(256)) * 4096

    async def send() -> None:
        for _ in range(16):
            writer.write(block)
            await writer.drain()
        writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        data = await reader.read()
    assert joined(data) == block * 16


async def test_wait_sends_its_head_before_the_end(world):
    reader, writer = await world.connect()
    writer.write(b"POST /containers/c1/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\n\r\n")
    status, _ = await read_head(reader)
    assert status == 200
    world.engine.containers.exits.set_result({"StatusCode": 3})
    assert await read_chunk(reader) == b'{"StatusCode":3}\n'


async def test_wait_ends_when_the_client_leaves(world):
    reader, writer = await world.connect()
    writer.write(b"POST /containers/c1/wait HTTP/1.1\r\nHost: x\r\n\r\n")
    await read_head(reader)
    await world.engine.containers.waiting.wait()
    writer.transport.abort()
    await world.engine.containers.wait_cancelled.wait()


async def test_an_unknown_condition_is_refused(world):
    answer = await world.ask("POST", "/containers/c1/wait?condition=zz")
    assert (answer.status, answer.message) == (400, 'invalid condition: "zz"')


async def test_events_come_one_line_each_and_stop_with_the_client(world):
    reader, writer = await world.connect()
    writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    await read_head(reader)
    assert await read_chunk(reader) == b'{"Type":"container","Action":"start"}\n'
    world.engine.system.queue.put_nowait(b'{"n":2}')
    assert await read_chunk(reader) == b'{"n":2}\n'
    writer.transport.abort()
    await world.engine.system.events_closed.wait()


async def test_events_refuse_a_backward_span(world):
    answer = await world.ask("GET", "/events?since=20&until=10")
    assert answer.status == 400
    assert answer.message == "`since` time (20) cannot be after `until` time (10)"


async def test_logs_are_framed_and_joined(world):
    lines = [(StreamId.STDOUT if n % 2 else StreamId.STDERR, b"line %d\n" % n) for n in range(5000)]
    world.engine.containers.log_blocks = lines
    answer = await world.ask("GET", "/containers/c1/logs?stdout=1&stderr=1&tail=xx")
    assert answer.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    assert frames(answer.body) == lines


async def test_followed_logs_stop_with_the_client(world):
    reader, writer = await world.connect()
    writer.write(b"GET /containers/c1/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    await read_head(reader)
    writer.write_eof()
    await world.engine.containers.logs_closed.wait()


async def test_logs_need_a_stream(world):
    answer = await world.ask("GET", "/containers/c1/logs")
    assert answer.message == "Bad parameters: you must choose at least one stream"


async def test_shutdown_ends_whatever_is_open(world):
    echo = world.engine.containers.streams["c1"] = Echo(hold=True)
    requests = {
        "attach": ATTACH + UPGRADE + b"\r\n",
        "wait": b"POST /containers/c1/wait HTTP/1.1\r\nHost: x\r\n\r\n",
        "events": b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n",
        "logs": b"GET /containers/c1/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n",
    }
    readers = {}
    for name, request in requests.items():
        readers[name], writer = await world.connect()
        writer.write(request)
        await read_head(readers[name])
    loop = asyncio.get_running_loop()
    began = loop.time()
    await world.server.shutdown(5)
    ends = {name: await reader.read() for name, reader in readers.items()}
    assert loop.time() - began < 4
    assert ends["logs"] == b"0\r\n\r\n"
    assert ends["events"].endswith(b"0\r\n\r\n")
    assert ends["attach"] == b""
    assert echo.closed.is_set()
