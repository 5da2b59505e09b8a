"""What conmon's attach socket sends, as chunks for `gateway.hosts.inlet`."""

from __future__ import annotations

import socket
from functools import cache

from dockerapi.framing import StreamId
from gateway.hosts.inlet import Chunk, Receive

_BLOCK = 1 << 17
PACKET = 8192
"""Bytes of output in one of conmon's packets, at most."""
CONMON_STREAMS = {2: StreamId.STDOUT, 3: StreamId.STDERR}


@cache
def _scratch() -> tuple[bytearray, memoryview]:
    """One for all: what is received is copied out before anything else can run."""
    return bytearray(1), memoryview(bytearray(_BLOCK + PACKET))


def packets(sock: socket.socket) -> Receive:
    """Of conmon's SOCK_SEQPACKET: one byte stream (2 stdout, 3 stderr), then up to 8192 bytes.

    Packets of one stream that are there are joined up to 128 KiB.
    """
    head, body = _scratch()

    def receive() -> tuple[list[Chunk], bool]:
        chunks: list[Chunk] = []
        stream, filled, ended = 0, 0, False
        while filled < _BLOCK:
            try:
                size = sock.recvmsg_into([head, body[filled:]])[0]
            except BlockingIOError:
                break
            except OSError:
                size = 0  # conmon was killed
            if size == 0:
                ended = True
                break
            if head[0] != stream and filled:
                chunks.append((CONMON_STREAMS[stream], bytes(body[:filled])))
                body[: size - 1] = body[filled : filled + size - 1]
                filled = 0
            stream = head[0]
            filled += size - 1
        if filled:
            chunks.append((CONMON_STREAMS[stream], bytes(body[:filled])))
        return chunks, ended

    return receive
