"""The records of zoneadmd's logs -> text as `docker logs` shows it.  No I/O.

    {"log":"msg\\n","stream":"stdout","time":"2014-10-24T20:12:11.101973000Z"}                         until 2018
    { "time": "...Z", "v": 0, "hostname": "gz", "name": "zoneadmd","pid": 7, "level": 30,
      "msg":"msg\\n", "stream":"stdout" }                                                  one line, since 2018
    { ..., "msg":"open-rotate", "stream":"logfile" }                                     of the log itself: skipped

A record is what one read(2) of zoneadmd's gave (up to 1 KiB), not a line of text, and may end within a
character.  The console of a full zone has the same records with the stream `console`.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dockerapi.framing import StreamId, frame, frame_each_line
from gateway.zones.host import LogQuery

Block = tuple[StreamId, bytes]

_BLOCK = 64 << 10
_STREAMS = {
    "stdout": StreamId.STDOUT,
    "stderr": StreamId.STDERR,
    "console": StreamId.STDOUT,
}
_OF_THE_LOG = ("logfile", "zoneadmd")
_LAST_SECOND = 253402300799


@dataclass(frozen=True, slots=True)
class Record:
    """A piece of output.  `time_ns` since the epoch: when zoneadmd read it."""

    time_ns: int
    stream: StreamId
    text: bytes


def parse(line: bytes) -> Record | None:
    """One line of the log; None for what is no output.

    What is no record (a full disk cuts them) is shown rather than lost: as text of stdout at time 0.
    """
    try:
        fields = json.loads(line.decode("latin-1"), strict=False)
        stream = fields["stream"]
        if stream in _OF_THE_LOG:
            return None
        message = fields["msg"] if "msg" in fields else fields["log"]
        text = _bytes(message)
        return Record(_time_ns(fields["time"]), _STREAMS.get(stream, StreamId.STDOUT), text)
    except (ValueError, KeyError, TypeError, IndexError):
        return Record(0, StreamId.STDOUT, line + b"\n") if line.strip() else None


def parse_all(log: bytes) -> list[Record]:
    """Records of whole lines."""
    return [record for line in log.split(b"\n") if line and (record := parse(line)) is not None]


def _bytes(message: str) -> bytes:
    """What was written, of its JSON string read as latin-1.

    zoneadmd escapes every byte above 0x7e as \\u00XX: each character is one byte of the output, whatever
    its encoding.  Larger ones come from a writer that knew characters.
    """
    try:
        return message.encode("latin-1")
    except UnicodeEncodeError:
        return b"".join(
            c.encode("latin-1" if c < "\u0100" else "utf-8", "surrogatepass") for c in message
        )


def _time_ns(text: str) -> int:
    """The old writer prints the nanoseconds without leading zeros: .5123000 is 5 ms, not half a second."""
    second, _, fraction = text.rstrip("Z").partition(".")
    return _second(second) * 10**9 + int(fraction or 0)


@functools.lru_cache(maxsize=256)
def _second(text: str) -> int:
    return int(datetime.datetime.fromisoformat(f"{text}+00:00").timestamp())


@functools.lru_cache(maxsize=64)
def stamp(time_ns: int) -> bytes:
    """2026-11-22T13:38:45.123456789Z."""
    seconds, rest = divmod(max(time_ns, 0), 10**9)
    moment = datetime.datetime.fromtimestamp(min(seconds, _LAST_SECOND), datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z".encode()


class Renderer:
    """Makes blocks of text of records, given in order; remembers which lines are begun.

    A line belongs to the time at which it began.
    """

    def __init__(self, query: LogQuery, *, tty: bool = False) -> None:
        self._since = query.since_ns
        self._until = query.until_ns
        self._chosen = {StreamId.STDOUT: query.stdout, StreamId.STDERR: query.stderr}
        self._timestamps = query.timestamps
        self._prefix = query.prefix.encode("utf-8", "surrogateescape")
        self._tty = tty
        self._begun = {StreamId.STDOUT: False, StreamId.STDERR: False}
        self._shown = {StreamId.STDOUT: False, StreamId.STDERR: False}
        self._frames = query.frames
        # A frame is a line: what is begun waits for its end, unless somebody looks on.
        self._holds = query.frames and not query.follow
        self._held = {StreamId.STDOUT: b"", StreamId.STDERR: b""}
        self.finished = False
        """A record later than `until_ns` was seen: no later one is wanted."""

    def render(self, records: Iterable[Record]) -> list[Block]:
        """Text in the order of the records, joined while the stream stays the same."""
        blocks: list[tuple[StreamId, list[bytes], int]] = []
        for record in records:
            if self._until is not None and record.time_ns > self._until:
                self.finished = True
                break
            stream = StreamId.STDOUT if self._tty else record.stream
            text = self._text(record, stream)
            if not text:
                continue
            if blocks and blocks[-1][0] is stream and blocks[-1][2] < _BLOCK:
                _, parts, size = blocks.pop()
                parts.append(text)
                blocks.append((stream, parts, size + len(text)))
            else:
                blocks.append((stream, [text], len(text)))
        joined = (self._ready(stream, b"".join(parts)) for stream, parts, _ in blocks)
        return [block for block in joined if block[1]]

    def rest(self) -> list[Block]:
        """What was held back of lines that are not ended."""
        return [(stream, frame(stream, text)) for stream, text in self._held.items() if text]

    def _ready(self, stream: StreamId, text: bytes) -> Block:
        """A block as it was asked for."""
        if not self._frames:
            return stream, text
        if self._holds:
            text = self._held[stream] + text
            end = text.rfind(b"\n") + 1
            text, self._held[stream] = text[:end], text[end:]
        return stream, frame_each_line(stream, text)

    def _text(self, record: Record, stream: StreamId) -> bytes:
        head = self._head(record.time_ns)
        text: list[bytes] = []
        for piece in _lines(record.text):
            if not self._begun[stream]:
                self._shown[stream] = self._since is None or record.time_ns >= self._since
                if self._shown[stream]:
                    text.append(head)
            self._begun[stream] = not piece.endswith(b"\n")
            if self._shown[stream]:
                text.append(piece)
        return b"".join(text) if self._chosen[stream] else b""

    def _head(self, time_ns: int) -> bytes:
        return (stamp(time_ns) + b" " if self._timestamps else b"") + self._prefix


def _lines(text: bytes) -> list[bytes]:
    """Cut after each newline, and only there (a carriage return ends no line)."""
    *whole, rest = text.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


@dataclass(slots=True)
class _Line:
    pieces: list[int]
    known: bool
    """Whether its beginning was seen."""


def last_lines(records: Sequence[Record], count: int, *, whole: bool) -> list[Record] | None:
    """The records of the last `count` lines, cut at their borders; lines are ordered by their ends.

    An open line is one.  `whole`: the records begin where the log does.  None if the beginning of one of the
    lines lies before `records`.
    """
    if count <= 0:
        return []
    pieces: list[Record] = []
    ended: list[_Line] = []
    open_lines: dict[StreamId, _Line] = {}
    seen: set[StreamId] = set()
    for record in records:
        for text in _lines(record.text):
            line = open_lines.pop(record.stream, None)
            if line is None:
                line = _Line([], whole or record.stream in seen)
            line.pieces.append(len(pieces))
            pieces.append(Record(record.time_ns, record.stream, text))
            seen.add(record.stream)
            if text.endswith(b"\n"):
                ended.append(line)
            else:
                open_lines[record.stream] = line
    lines = [*ended, *sorted(open_lines.values(), key=lambda line: line.pieces[0])]
    wanted = lines[-count:]
    if not whole and (len(lines) < count or not all(line.known for line in wanted)):
        return None
    return [pieces[index] for index in sorted(i for line in wanted for i in line.pieces)]
