"""Bytes of Docker's streams: multiplexed frames, JSON progress lines.  No I/O here.

    frame    +--------+--------+--------+--------+-----------------------+---------
             | stream |   0    |   0    |   0    | payload size, u32 BE  | payload
             +--------+--------+--------+--------+-----------------------+---------
    stream   0 stdin, 1 stdout, 2 stderr, 3 error of the daemon

A TTY stream has no frames: it is the terminal's bytes.
"""

from __future__ import annotations

import enum
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

HEADER_SIZE = 8
_HEADERS = tuple(bytes((stream, 0, 0, 0)) for stream in range(4))

try:
    import orjson
except ImportError:  # the extra "speed" is not installed
    orjson = None  # type: ignore[assignment]

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
RAW = "application/vnd.docker.raw-stream"


class StreamId(enum.IntEnum):
    """First byte of a frame."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    SYSTEM = 3


class Stdio(Protocol):
    """The standard streams of one process, as attach and exec see them.

    `output` ends when the process has ended and everything it wrote was delivered, or after `close`.
    With `tty` every chunk is `StreamId.STDOUT` and sent unframed.
    """

    @property
    def tty(self) -> bool:
        """Whether the process runs on a terminal."""
        ...

    def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        """Chunks in the order they were read; to be iterated once."""
        ...

    async def write(self, data: bytes) -> None:
        """Send to stdin; returns when the host took it (back-pressure)."""
        ...

    async def close_input(self) -> None:
        """The client has no more input.  The process sees EOF if its stdin is opened once only."""
        ...

    async def resize(self, height: int, width: int) -> None:
        """New terminal size in characters; nothing happens without a TTY."""
        ...

    async def close(self) -> None:
        """Leave the process alone and end `output`.  May be called twice."""
        ...


def dumps(value: Any) -> bytes:
    """JSON as all answers have it: compact, UTF-8.  The same bytes with and without orjson."""
    if orjson is not None:
        try:
            return orjson.dumps(value)
        except TypeError:
            pass  # integers beyond 64 bits, lone surrogates
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "replace")


def frame_header(stream: StreamId, size: int) -> bytes:
    """The eight bytes before a payload of `size` bytes."""
    return _HEADERS[stream] + size.to_bytes(4, "big")


def frame(stream: StreamId, payload: bytes) -> bytes:
    """One multiplexed frame."""
    return b"%b%b%b" % (_HEADERS[stream], len(payload).to_bytes(4, "big"), payload)


class _Headers(dict[int, bytes]):
    """Headers by the size of the payload; made when first asked for."""

    def __init__(self, stream: StreamId) -> None:
        super().__init__()
        self._stream = stream

    def __missing__(self, size: int) -> bytes:
        header = frame_header(self._stream, size)
        if size < _KEPT_SIZES:
            self[size] = header
        return header


_KEPT_SIZES = 4096
_SIZED = {stream: _Headers(stream) for stream in StreamId}


def frame_all(stream: StreamId, payloads: Sequence[bytes]) -> bytes:
    """A frame for each; all of it runs in C, since a log has millions of them."""
    sizes = list(map(len, payloads))
    if sizes and sizes.count(sizes[0]) == len(sizes):  # records of one size are common, and quicker
        header = _SIZED[stream][sizes[0]]
        return header + header.join(payloads)
    headers = map(_SIZED[stream].__getitem__, sizes)
    return b"".join(chain.from_iterable(zip(headers, payloads, strict=True)))


def frame_each_line(stream: StreamId, text: bytes) -> bytes:
    """Frames of one line each, as dockerd sends a log: SDKs take a frame for a line."""
    *lines, rest = text.split(b"\n")
    framed = frame_all(stream, [line + b"\n" for line in lines])
    return framed + frame(stream, rest) if rest else framed


class FrameParser:
    """Takes bytes cut anywhere, gives whole frames: the client's side of the format."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[StreamId, bytes]]:
        """Frames completed by `data`.  ValueError on an unknown stream number."""
        self._pending += data
        while len(self._pending) >= HEADER_SIZE:
            size = int.from_bytes(self._pending[4:HEADER_SIZE], "big")
            if len(self._pending) < HEADER_SIZE + size:
                return
            stream = StreamId(self._pending[0])
            payload = bytes(self._pending[HEADER_SIZE : HEADER_SIZE + size])
            del self._pending[: HEADER_SIZE + size]
            yield stream, payload

    @property
    def incomplete(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._pending)


def json_line(message: Mapping[str, Any]) -> bytes:
    """One progress object; dockerd ends them with CR LF."""
    return dumps(message) + b"\r\n"


def error_line(message: str, code: int | None = None) -> bytes:
    """The last object of a progress stream that failed after its headers were sent."""
    detail: dict[str, Any] = {"message": message}
    if code is not None:
        detail = {"code": code, **detail}
    return json_line({"errorDetail": detail, "error": message})


def error_body(message: str) -> bytes:
    """The body of every error answer."""
    return dumps({"message": message}) + b"\n"
