"""Attach with `logs`: what was written before, by the log, then what comes, each byte once.

    log      |.a.|.b.|.c.|.d.|        conmon notes the time, logs a piece, sends it to its clients
    live         |.b.|.c.|.d.|
    until            ^                the replay shows what the log has up to here: a and b

The kernel notes when a piece was sent.  What was sent up to `until` was logged before it, and is in the replay.
Of pieces sent later only the first may be older than `until`: for that one the log is asked.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable

from dockerapi.framing import StreamId
from gateway.hosts.inlet import Chunk, Receive
from gateway.hosts.linux.inlet import CONMON_STREAMS, PACKET, packets
from gateway.zones.host import AttachStreams, LogQuery

Logs = Callable[[LogQuery], AsyncIterator[Chunk]]

_SO_TIMESTAMPNS = 35
_STAMP = struct.Struct("qq")
_ANCILLARY = socket.CMSG_SPACE(_STAMP.size)
_AT_ONCE = 64


def note_times(sock: socket.socket) -> None:
    """Have the kernel note when packets are sent: to be asked before the socket is connected."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


class Replay:
    """What one client has had of a zone's output by the log.

    `is_up` false: nothing is written now, so that whatever comes live is new.
    """

    def __init__(self, logs: Logs, streams: AttachStreams, *, is_up: bool) -> None:
        self._logs = logs
        self._streams = streams
        self._until: int | None = None
        self._joined = not is_up
        self._shown = dict.fromkeys(StreamId, 0)
        self._sent: deque[int | None] = deque()

    def ends_at(self, until_ns: int) -> None:
        """Live output since a moment before this is on its way."""
        self._until = until_ns

    async def past(self) -> AsyncIterator[Chunk]:
        """The log, up to `ends_at`."""
        async for stream, text in self._read(self._streams.stdout, self._streams.stderr):
            self._shown[stream] += len(text)
            yield stream, text

    def _read(self, stdout: bool, stderr: bool) -> AsyncIterator[Chunk]:
        return self._logs(LogQuery(stdout=stdout, stderr=stderr, until_ns=self._until))

    def receive(self, sock: socket.socket) -> Receive:
        """Live pieces, each one a chunk while it is not known where they begin to be new."""
        head, body = bytearray(1), bytearray(PACKET)
        joined = packets(sock)

        def receive() -> tuple[list[Chunk], bool]:
            if self._joined:
                return joined()
            chunks: list[Chunk] = []
            for _ in range(_AT_ONCE):
                try:
                    size, ancillary, _, _ = sock.recvmsg_into([head, body], _ANCILLARY)
                except BlockingIOError:
                    break
                except OSError:
                    size, ancillary = 0, []  # conmon was killed
                if size == 0:
                    return chunks, True
                self._sent.append(_sent_ns(ancillary))
                chunks.append((CONMON_STREAMS[head[0]], bytes(body[: size - 1])))
            return chunks, False

        return receive

    async def new(self, chunk: Chunk) -> bytes:
        """What of the next live piece the past did not show."""
        stream, data = chunk
        if self._joined:
            return data
        sent, until = self._sent.popleft(), self._until
        if sent is not None and until is not None and sent <= until:
            return b""
        self._joined = True
        # Without a time of the kernel's some of it may come twice, and nothing is lost.
        if sent is None or until is None or await self._is_logged(until + 1, sent):
            return data
        # conmon was at it when the log was read.
        stdout, stderr = stream is StreamId.STDOUT, stream is StreamId.STDERR
        logged = [len(text) async for _, text in self._read(stdout, stderr)]
        missing = sum(logged) - self._shown[stream]
        return data[len(data) - missing :] if missing > 0 else b""

    async def _is_logged(self, since_ns: int, until_ns: int) -> bool:
        async for _ in self._logs(LogQuery(since_ns=since_ns, until_ns=until_ns)):
            return True
        return False


def _sent_ns(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(data) >= _STAMP.size:
            seconds, nanoseconds = _STAMP.unpack_from(data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return None
