"""Attach with `logs`: pieces of a socket that plays conmon's, and a log that has them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from dockerapi.framing import StreamId
from gateway.hosts.inlet import Inlet
from gateway.hosts.linux.replay import Replay, note_times
from gateway.zones.host import AttachStreams, LogQuery

OUT, ERR = StreamId.STDOUT, StreamId.STDERR


@dataclass
class Conmon:
    """Logs a piece at a time, then sends it."""

    sock: socket.socket
    log: list[tuple[int, StreamId, bytes]] = field(default_factory=list)

    def write(self, stream: StreamId, data: bytes) -> None:
        self.note(stream, data)
        self.send(stream, data)

    def note(self, stream: StreamId, data: bytes) -> None:
        self.log.append((time.time_ns(), stream, data))

    def send(self, stream: StreamId, data: bytes) -> None:
        self.sock.send(bytes((2 if stream is OUT else 3,)) + data)

    async def read(self, query: LogQuery) -> AsyncIterator[tuple[StreamId, bytes]]:
        for noted, stream, data in self.log:
            late = query.until_ns is not None and noted > query.until_ns
            if late or noted < (query.since_ns or 0):
                continue
            if query.stdout if stream is OUT else query.stderr:
                yield stream, data


@pytest.fixture
def pair() -> tuple[Conmon, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    note_times(ours)
    ours.setblocking(False)
    return Conmon(theirs), ours


async def shown(
    replay: Replay, ours: socket.socket, conmon: Conmon
) -> list[tuple[StreamId, bytes]]:
    """The past, then what is live, as a client would have it."""
    chunks = [chunk async for chunk in replay.past()]
    inlet = Inlet({ours.fileno(): replay.receive(ours)}, lambda _: ours.close())
    conmon.sock.close()
    async with asyncio.timeout(10):
        while live := await inlet.next():
            chunks += [(chunk[0], await replay.new(chunk)) for chunk in live]
    return chunks


async def test_what_was_sent_before_the_replay_ends_comes_once(
    pair: tuple[Conmon, socket.socket],
) -> None:
    conmon, ours = pair
    conmon.note(OUT, b"before the client ")
    replay = Replay(conmon.read, AttachStreams(logs=True), is_up=True)
    conmon.write(OUT, b"while it attached ")
    conmon.write(ERR, b"an error ")
    replay.ends_at(time.time_ns())
    conmon.write(OUT, b"after it ")
    conmon.write(OUT, b"and later")
    chunks = await shown(replay, ours, conmon)
    assert b"".join(data for stream, data in chunks if stream is OUT) == (
        b"before the client while it attached after it and later"
    )
    assert b"".join(data for stream, data in chunks if stream is ERR) == b"an error "


async def test_a_piece_that_was_logged_before_and_sent_after_comes_once(
    pair: tuple[Conmon, socket.socket],
) -> None:
    conmon, ours = pair
    replay = Replay(conmon.read, AttachStreams(logs=True), is_up=True)
    conmon.note(OUT, b"slow ")
    replay.ends_at(time.time_ns())
    conmon.send(OUT, b"slow ")
    conmon.write(OUT, b"next")
    chunks = await shown(replay, ours, conmon)
    assert b"".join(data for _, data in chunks) == b"slow next"


@pytest.mark.parametrize("seen", [0, 3])
async def test_of_a_piece_that_was_being_logged_comes_what_the_replay_had_not(
    pair: tuple[Conmon, socket.socket], seen: int
) -> None:
    conmon, ours = pair
    replay = Replay(conmon.read, AttachStreams(logs=True), is_up=True)
    noted = time.time_ns()
    replay.ends_at(time.time_ns())
    if seen:
        conmon.log.append((noted, OUT, b"abcdef"[:seen]))
    past = [chunk async for chunk in replay.past()]
    conmon.log.append((noted, OUT, b"abcdef"[seen:]))
    conmon.send(OUT, b"abcdef")
    conmon.write(OUT, b"ghi")
    live = [await replay.new(chunk) for chunk in replay.receive(ours)()[0]]
    assert b"".join(data for _, data in past) + b"".join(live) == b"abcdefghi"
    conmon.sock.close()
    ours.close()


async def test_of_a_zone_that_is_down_whatever_comes_is_new(
    pair: tuple[Conmon, socket.socket],
) -> None:
    conmon, ours = pair
    conmon.note(OUT, b"the run before ")
    replay = Replay(conmon.read, AttachStreams(logs=True), is_up=False)
    replay.ends_at(time.time_ns())
    past = [chunk async for chunk in replay.past()]
    conmon.write(OUT, b"this run")
    live = [await replay.new(chunk) for chunk in replay.receive(ours)()[0]]
    assert b"".join(data for _, data in past) + b"".join(live) == b"the run before this run"
    conmon.sock.close()
    ours.close()
