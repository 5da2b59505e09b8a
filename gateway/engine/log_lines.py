"""A followed log as messages for a driver: lines cut and timed, and the place up to which they are sent.  No I/O.

A line is a message.  One of more than 16 KiB is several, as dockerd cuts it.  What a program has begun and not
ended with a newline waits for its end.

The place is a time and a number: so many messages of that time or later were sent.  It is found again in the log by
time, whatever host keeps it.
"""

from __future__ import annotations

import datetime
import functools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from dockerapi.framing import StreamId
from gateway.logdrivers import Message, Piece

PIECE = 16 << 10
_HEAD = 31  # 2026-11-22T13:38:45.123456789Z and a blank
_MOST_HELD = 10_000


@dataclass(frozen=True, slots=True)
class Place:
    """`skip` messages of `since_ns` or later are sent.  `finished_ns`: of the run that is sent to its end."""

    since_ns: int = 0
    skip: int = 0
    finished_ns: int = 0


class _Line:
    """What was begun of one stream."""

    __slots__ = ("id", "ordinal", "rest", "time_ns")

    def __init__(self) -> None:
        self.time_ns: int | None = None
        self.rest = b""
        self.ordinal = 0
        self.id = ""


class Lines:
    """Makes messages of blocks of text whose lines have their time before them."""

    def __init__(self, place: Place) -> None:
        self._lines = {StreamId.STDOUT: _Line(), StreamId.STDERR: _Line()}
        self._place = place
        self._skip = place.skip
        self._times: list[int] = []
        """Of messages that would come again if the log were read from the place on."""
        self._latest = 0

    @property
    def place(self) -> Place:
        """After all messages so far."""
        return self._place

    def feed(self, stream: StreamId, text: bytes) -> list[Message]:
        """Messages that `text` completes, but those that were sent before."""
        found = list(self._messages(stream, self._lines[stream], text))
        return self._noted(found)

    def end(self, finished_ns: int = 0) -> list[Message]:
        """What was begun: nothing more will come of the run that ended then."""
        found = []
        for stream, line in self._lines.items():
            if line.time_ns is not None:
                found.append(self._message(stream, line, line.rest, is_last=True))
            self._lines[stream] = _Line()
        sent = self._noted(found)
        if self._latest:
            # What the log joins to it later is another run's.
            since_ns = max(self._latest + 1, finished_ns)
            self._place = Place(since_ns, 0, self._place.finished_ns)
            self._times = []
        return sent

    def _noted(self, found: list[Message]) -> list[Message]:
        self._times += [message.time_ns for message in found]
        self._latest = max([self._latest, *(message.time_ns for message in found)])
        begun = [line.time_ns for line in self._lines.values() if line.time_ns is not None]
        if self._times:
            base = min([*begun, self._times[-1]])
            self._times = [time for time in self._times if time >= base]
            if len(self._times) > _MOST_HELD:
                # A prompt that never ends holds the place back: let its beginning go.
                base = self._times[-1]
                self._times = [base]
            self._place = Place(base, len(self._times), self._place.finished_ns)
        skipped, self._skip = found[: self._skip], max(0, self._skip - len(found))
        return found[len(skipped) :]

    def _messages(self, stream: StreamId, line: _Line, text: bytes) -> Iterator[Message]:
        *whole, rest = text.split(b"\n")
        for piece in whole:
            yield from self._take(stream, line, piece)
            yield self._message(stream, line, line.rest, is_last=True)
            line.time_ns, line.rest, line.ordinal, line.id = None, b"", 0, ""
        if rest:
            yield from self._take(stream, line, rest)

    def _take(self, stream: StreamId, line: _Line, text: bytes) -> Iterator[Message]:
        if line.time_ns is None:
            line.time_ns, text = time_ns(text[: _HEAD - 1]), text[_HEAD:]
        line.rest += text
        while len(line.rest) > PIECE:
            line.id = line.id or secrets.token_hex(32)
            piece, line.rest = line.rest[:PIECE], line.rest[PIECE:]
            yield self._message(stream, line, piece, is_last=False)

    def _message(self, stream: StreamId, line: _Line, text: bytes, *, is_last: bool) -> Message:
        piece = None
        if line.id:
            line.ordinal += 1
            piece = Piece(line.id, line.ordinal, is_last)
        return Message(stream, line.time_ns or 0, text, piece)


def time_ns(stamp: bytes) -> int:
    """Of `2026-11-22T13:38:45.123456789Z`; 0 for anything else."""
    try:
        return _second(stamp[:19]) * 10**9 + int(stamp[20:29])
    except ValueError:
        return 0


@functools.lru_cache(maxsize=64)
def _second(text: bytes) -> int:
    return int(
        datetime.datetime.fromisoformat(f"{text.decode('ascii', 'replace')}+00:00").timestamp()
    )
