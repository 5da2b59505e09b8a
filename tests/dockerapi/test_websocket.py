"""Attach over a websocket, with a client library and byte by byte."""

from __future__ import annotations

import asyncio
import base64

import pytest
from engine_in_memory import Echo
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed
from wire_client import read_answer, read_head

from dockerapi.framing import StreamId
from dockerapi.websocket import MESSAGE_LIMIT

KEY = base64.b64encode(bytes(16)).decode()
HANDSHAKE = {
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


@pytest.fixture(autouse=True)
async def deadline():
    async with asyncio.timeout(20):
        yield


def attached(
    world, query="stream=1&stdin=1&stdout=1&stderr=1", version="v1.51", **options
) -> ClientConnection:
    uri = f"ws://docker/{version}/containers/c1/attach/ws?{query}"
    return unix_connect(world.path, uri, compression=None, proxy=None, **options)


async def test_messages_go_in_and_output_comes_as_binary_messages(world):
    echo = world.engine.containers.streams["c1"] = Echo()
    async with attached(world) as client:
        await client.send("text")
        assert await client.recv() == b"text"
        await client.send(b"\x00\xff")
        assert await client.recv() == b"\x00\xff"
    await echo.closed.wait()


async def test_both_streams_come_without_frames_and_the_end_is_a_close(world):
    echo = world.engine.containers.streams["c1"] = Echo(hold=True)
    async with attached(world) as client:
        await echo.feed(StreamId.STDOUT, b"out")
        assert await client.recv() == b"out"
        await echo.feed(StreamId.STDERR, b"err")
        assert await client.recv() == b"err"
        await echo.end()
        with pytest.raises(ConnectionClosed) as ended:
            await client.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1000


async def test_a_close_message_ends_the_input_and_the_attach(world):
    echo = world.engine.containers.streams["c1"] = Echo(hold=True)
    async with attached(world):
        pass
    await echo.input_ended.wait()
    await echo.closed.wait()


async def test_a_client_that_vanishes_is_noticed(world):
    echo = world.engine.containers.streams["c1"] = Echo(hold=True)
    client = await attached(world)
    client.transport.abort()
    await echo.closed.wait()


async def test_the_servers_end_is_a_close(world):
    echo = world.engine.containers.streams["c1"] = Echo(hold=True)
    async with attached(world) as client:
        await world.server.shutdown(5)
        with pytest.raises(ConnectionClosed):
            await client.recv()
    assert echo.closed.is_set()


async def test_before_1_28_messages_are_text(world):
    world.engine.containers.streams["c1"] = Echo()
    async with attached(world, version="v1.27") as client:
        await client.send("old")
        assert await client.recv() == "old"


async def test_before_1_42_the_query_names_no_streams(world):
    world.engine.containers.streams["c1"] = Echo()
    async with attached(world, "stream=1", version="v1.41") as client:
        await client.send("in")
        assert await client.recv() == b"in"
    query = world.engine.containers.calls[-1][2]
    assert (query.stdin, query.stdout, query.stderr) == (True, True, True)


async def test_what_is_sent_without_stdin_goes_nowhere(world):
    echo = world.engine.containers.streams["c1"] = Echo(hold=True)
    async with attached(world, "stream=1&stdout=1") as client:
        await client.send(b"unwanted")
        await client.ping()
        await echo.feed(StreamId.STDOUT, b"out")
        assert await client.recv() == b"out"
    assert bytes(echo.received) == b""


async def test_the_one_protocol_that_is_offered_is_taken(world):
    world.engine.containers.streams["c1"] = Echo()
    async with attached(world, subprotocols=["raw"]) as client:
        assert client.subprotocol == "raw"


async def test_a_large_output_comes_whole(world):
    echo = world.engine.containers.streams["c1"] = Echo(hold=True)
    text = bytes(range(256)) * 4096
    async with attached(world, max_size=None) as client, asyncio.TaskGroup() as group:

        async def feed() -> None:
            for _ in range(16):
                await echo.feed(StreamId.STDOUT, text)
            await echo.end()

        group.create_task(feed())
        received = bytearray()
        async for message in client:
            received += message
    assert bytes(received) == text * 16


async def test_a_message_beyond_the_limit_ends_the_connection(world):
    echo = world.engine.containers.streams["c1"] = Echo(hold=True)

    async def sent(client: ClientConnection) -> None:
        await client.send(bytes(MESSAGE_LIMIT + 1))
        await client.recv()

    async with attached(world) as client:
        with pytest.raises(ConnectionClosed) as ended:  # while it is sent, or after
            await sent(client)
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1009
    await echo.closed.wait()


async def test_a_message_right_behind_the_request_is_not_lost(world):
    world.engine.containers.streams["c1"] = Echo()
    lines = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
    target = "/v1.51/containers/c1/attach/ws?stream=1&stdin=1&stdout=1"
    masked = bytes((0x82, 0x85)) + bytes(4) + b"early"
    reader, writer = await world.connect()
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode() + masked)
    status, headers = await read_head(reader)
    assert status == 101
    assert headers["server"] == "Docker/28.5.2 (linux)"
    assert await reader.readexactly(7) == b"\x82\x05early"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Upgrade": "tcp"}, "not websocket protocol"),
        ({"Connection": "close"}, "not websocket protocol"),
        ({"Sec-WebSocket-Key": ""}, "mismatch challenge/response"),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, "mismatch challenge/response"),
        ({"Sec-WebSocket-Version": "12"}, "missing or bad WebSocket Version"),
    ],
)
async def test_what_is_no_handshake_is_refused_and_the_attach_let_go(world, change, words):
    echo = world.engine.containers.streams["c1"] = Echo(hold=True)
    answer = await world.ask("GET", "/containers/c1/attach/ws?stream=1", **(HANDSHAKE | change))
    assert (answer.status, answer.message) == (400, words)
    await echo.closed.wait()


async def test_an_unknown_container_is_a_json_error_and_the_connection_goes_on(world):
    lines = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
    reader, writer = await world.connect()
    writer.write(f"GET /containers/none/attach/ws HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
    answer = await read_answer(reader)
    assert (answer.status, answer.message) == (404, "No such container: none")
    writer.write(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await read_answer(reader)).body == b"OK"
