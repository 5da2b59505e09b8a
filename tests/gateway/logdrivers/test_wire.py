"""Connections of log drivers, against real sockets."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dockerapi.errors import APIError
from dockerapi.framing import StreamId
from gateway.logdrivers import Message, Source, open_sink
from gateway.logdrivers.wire import Stream
from gateway.translate.log_options import Address

SOURCE = Source("syslog", {}, "ab" * 32, "/web", "sha256:00", "bb", "true", 0, "box", "web")
MESSAGES = [Message(StreamId.STDOUT, 1_790_000_000 * 10**9, b"one")]


async def test_a_broken_connection_is_made_anew() -> None:
    got = asyncio.Queue[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await got.put(await reader.readline())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(20):
        stream = Stream(Address("tcp", *server.sockets[0].getsockname()))
        await stream.dial()
        await stream.send(b"one\n")
        assert await got.get() == b"one\n"
        # What is written before its end is seen may be lost: until then it is sent again.
        while got.empty():
            with suppress(OSError):
                await stream.send(b"two\n")
            await asyncio.sleep(0)
        assert await got.get() == b"two\n"
        await stream.close()


async def test_nobody_there_is_told_in_gos_words() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        source = replace(SOURCE, options={"syslog-address": f"tcp://127.0.0.1:{port}"})
        with pytest.raises(APIError) as caught:
            await open_sink(source)
    assert caught.value.message == f"dial tcp 127.0.0.1:{port}: connect: connection refused"


async def test_syslog_goes_to_a_unix_socket_of_datagrams(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(20)
        sink = await open_sink(replace(SOURCE, options={"syslog-address": f"unixgram://{path}"}))
        await sink.send(MESSAGES)
        await sink.close()
        assert server.recv(4096).endswith(b": one\n")


async def test_fluentd_waits_for_the_acknowledgement() -> None:
    msgpack = pytest.importorskip("msgpack")
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        unpacker = msgpack.Unpacker(raw=False)
        while data := await reader.read(4096):
            unpacker.feed(data)
            for message in unpacker:
                seen.append(message[2]["log"])
                writer.write(msgpack.packb({"ack": message[3]["chunk"]}))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(20):
        port = server.sockets[0].getsockname()[1]
        options = {"fluentd-address": f"127.0.0.1:{port}", "fluentd-request-ack": "true"}
        sink = await open_sink(replace(SOURCE, driver="fluentd", options=options))
        await sink.send(MESSAGES * 3)
        assert seen == ["one"] * 3
        await sink.close()
