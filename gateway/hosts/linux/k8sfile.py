"""The log format of conmon's k8s-file driver -> text as `docker logs` shows it.  No I/O.

    2026-11-22T13:38:45.123456789+00:00 stdout F a whole line
    |<------------- 35 ------------->| |<-6->| |
    0                                 36      43 45: text

F ends a line, P does not: a write without newline is a P at once, a long line is cut into P pieces
of 8 KiB and an empty F.  The streams' pieces interleave.  Every field before the text has a fixed
width, so whole blocks are cut by slices; the time has conmon's local offset.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import operator
import re
from collections.abc import Iterable

from dockerapi.framing import HEADER_SIZE, StreamId, frame, frame_all, frame_each_line
from gateway.zones.host import LogQuery

Block = tuple[StreamId, bytes]

_KEY = operator.itemgetter(slice(36, 44))
# The texts of whole lines of one stream, as nearly all are: one call for a block of them.
_WHOLE = {
    StreamId.STDOUT: re.compile(rb"(?s:.{36})stdout F (.*\n)"),
    StreamId.STDERR: re.compile(rb"(?s:.{36})stderr F (.*\n)"),
}
_KINDS = (b" stdout F ", b" stderr F ", b" stdout P ", b" stderr P ")
_LINES = re.compile(rb".*\n")
_TEXT = 45
_SAMPLE = 4096
_NEWLINE = ord("\n")
_OFFSET = slice(29, 35)
_UTC = b"+00:00"
_STREAMS = {
    b"stdout F": (StreamId.STDOUT, True),
    b"stdout P": (StreamId.STDOUT, False),
    b"stderr F": (StreamId.STDERR, True),
    b"stderr P": (StreamId.STDERR, False),
}


class Renderer:
    """Makes blocks of text of log lines, given in order; remembers which lines are begun."""

    def __init__(self, query: LogQuery, *, tty: bool = False) -> None:
        self._since = query.since_ns
        self._until = query.until_ns
        self._chosen = {StreamId.STDOUT: query.stdout, StreamId.STDERR: query.stderr}
        self._timestamps = query.timestamps
        self._prefix = query.prefix.encode("utf-8", "surrogateescape")
        self._tty = tty
        self._begun = {StreamId.STDOUT: False, StreamId.STDERR: False}
        self._frames = query.frames
        # A frame is a line: what is begun waits for its end, unless somebody looks on.
        self._holds = query.frames and not query.follow
        self._held = {StreamId.STDOUT: b"", StreamId.STDERR: b""}
        self.is_plain = self._since is None and self._until is None
        self._stamps_alone = self.is_plain and self._timestamps and not self._prefix
        self.is_plain &= not (self._timestamps or self._prefix)
        """Text is wanted as it is: rendering is quick."""
        self.finished = False
        """A line later than `until_ns` was seen: no later one is wanted."""

    def render(self, log: bytes | bytearray, size: int | None = None) -> list[Block]:
        """`log` is whole lines, each with its newline; `size` of it, the rest is left alone."""
        size = len(log) if size is None else size
        for quickly in (self._render_plain, self._render_stamped):
            if (blocks := quickly(log, size)) is not None:
                return blocks
        lines = self._within_bounds(bytes(log[:size]).split(b"\n")[:-1])
        blocks = []
        for key, run in itertools.groupby(lines, _KEY):
            # What is no line of the format (a disk that was full) is shown rather than lost.
            stream, full = _STREAMS.get(key, (StreamId.STDOUT, True))
            stream = StreamId.STDOUT if self._tty else stream
            if not self._chosen[stream]:
                continue
            text = self._run(list(run), stream, full=full, known=key in _STREAMS)
            if blocks and blocks[-1][0] == stream:
                blocks[-1] = (stream, blocks[-1][1] + text)
            else:
                blocks.append((stream, text))
        return [block for stream, text in blocks if (block := self._ready(stream, text))[1]]

    def rest(self) -> list[Block]:
        """What was held back of lines that are not ended."""
        return [
            (stream, frame(stream, text))
            for stream, text in self._held.items()
            if text and self._chosen[stream]
        ]

    def _ready(self, stream: StreamId, text: bytes) -> Block:
        """A block as it was asked for."""
        if not self._frames:
            return stream, text
        if self._holds:
            text = self._held[stream] + text
            end = text.rfind(b"\n") + 1
            text, self._held[stream] = text[:end], text[end:]
        return stream, frame_each_line(stream, text)

    def _render_plain(self, log: bytes | bytearray, size: int) -> list[Block] | None:
        """Where all lines are of one stream, and wanted as they are; None where that is not so."""
        stream, _ = _STREAMS.get(bytes(log[36:44]), (None, True))
        if stream is None or not self.is_plain:
            return None
        shown = StreamId.STDOUT if self._tty else stream
        before = begun = self._held[shown]
        lines: list[bytes] = []
        start = heads = pieces = 0
        for piece in [*_pieces(log, size, stream), size]:
            found = _WHOLE[stream].findall(log, start, piece)
            heads += len(found)
            if found and begun:
                found[0], begun = begun + found[0], b""
            lines += found
            if piece < size:
                start = log.find(b"\n", piece) + 1
                begun += log[piece + _TEXT : start - 1]
                pieces += 1
        text = frame_all(stream, lines) if self._frames else b"".join(lines)
        total = len(text) - HEADER_SIZE * len(lines) * self._frames + len(begun) - len(before)
        # Nothing was left out: a line of another kind would be missing here.
        if total + _TEXT * heads + (_TEXT + 1) * pieces != size:
            return None
        self._begun[shown] = start == size
        if begun and not self._holds:
            text += frame(shown, begun) if self._frames else begun
            begun = b""
        self._held[shown] = begun
        return [(shown, text)] if text and self._chosen[shown] else []

    def _render_stamped(self, log: bytes | bytearray, size: int) -> list[Block] | None:
        """Where all lines are whole ones of one stream in UTC, wanted with their times; None where that is not so."""
        stream, full = _STREAMS.get(bytes(log[36:44]), (None, True))
        shown = StreamId.STDOUT if self._tty else stream
        if stream is None or shown is None or not self._stamps_alone or self._begun[shown]:
            return None
        # What a follower wakes up for may be pieces of one line and nothing else.
        if not full:
            return None
        kind = bytes(log[35:_TEXT])
        head = _UTC + kind
        # No line is of another kind, and no text has a head in it: then there is one in each line.
        if any(log.find(other, 0, size) >= 0 for other in _KINDS if other != kind):
            return None
        if log.count(head, 0, size) != log.count(b"\n", 0, size):
            return None
        text = bytes(log[:size]).replace(head, b"Z ")
        if not self._chosen[shown]:
            return []
        return [(shown, frame_all(shown, _LINES.findall(text)) if self._frames else text)]

    def _run(self, lines: list[bytes], stream: StreamId, *, full: bool, known: bool) -> bytes:
        """Text of lines of one stream that are all F or all P."""
        begun, self._begun[stream] = self._begun[stream], not full
        texts = [line[_TEXT:] for line in lines] if known else lines
        if known and (self._timestamps or self._prefix):
            heads = self._heads(lines if full else lines[:1])
            if begun:
                heads[0] = b""
            texts[: len(heads)] = map(operator.add, heads, texts)
        return b"\n".join(texts) + b"\n" if full else b"".join(texts)

    def _heads(self, lines: list[bytes]) -> list[bytes]:
        if not self._timestamps:
            return [self._prefix] * len(lines)
        end = b"Z " + self._prefix
        if all(line[_OFFSET] == _UTC for line in lines):
            return [line[:29] + end for line in lines]
        return [utc_stamp(time_ns(line)) + end for line in lines]

    def _within_bounds(self, lines: list[bytes]) -> list[bytes]:
        if self._since is not None and lines and not _at_or_after(lines[0], self._since):
            if not _at_or_after(lines[-1], self._since):
                return []
            since = self._since
            lines = [line for line in lines if _at_or_after(line, since)]
        if self._until is not None and lines and _at_or_after(lines[-1], self._until + 1):
            late = self._until + 1
            lines = list(itertools.takewhile(lambda line: not _at_or_after(line, late), lines))
            self.finished = True
        return lines


def _pieces(log: bytes | bytearray, size: int, stream: StreamId) -> list[int]:
    """Where the P lines of a stream begin.

    By the letter alone where it is rare: searching for one byte is ten times as fast.
    """
    key = b" stdout P " if stream is StreamId.STDOUT else b" stderr P "
    is_rare = log.count(b"P", 0, _SAMPLE) <= _SAMPLE // 256
    needle, place = (b"P", 43) if is_rare else (key, 35)
    found = []
    at = log.find(needle, place, size)
    while at >= 0:
        start = at - place
        if log.startswith(key, start + 35) and (not start or log[start - 1] == _NEWLINE):
            found.append(start)
        at = log.find(needle, at + 1, size)
    return found


def _at_or_after(line: bytes, bound_ns: int) -> bool:
    if line[_OFFSET] == _UTC:
        return line[:29] >= utc_stamp(bound_ns)
    return time_ns(line) >= bound_ns


@functools.lru_cache(maxsize=64)
def utc_stamp(ns: int) -> bytes:
    """2026-11-22T13:38:45.123456789, without the Z."""
    seconds, rest = divmod(min(max(ns, 0), 253402300799 * 10**9), 10**9)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}".encode()


def time_ns(line: bytes) -> int:
    """When the line was written; 0 if it is no line of the format."""
    try:
        return _minute(line[:16], line[_OFFSET]) + int(line[17:19]) * 10**9 + int(line[20:29])
    except ValueError:
        return 0


@functools.lru_cache(maxsize=256)
def _minute(minute: bytes, offset: bytes) -> int:
    moment = datetime.datetime.fromisoformat((minute + b":00" + offset).decode())
    return int(moment.timestamp()) * 10**9


def completed(log: bytes) -> int:
    """How many lines end in `log` (whole log lines)."""
    if b" stdout P " not in log and b" stderr P " not in log:
        return log.count(b"\n")
    return sum(_is_full(line) for line in log.split(b"\n")[:-1])


def offset_of_last(log: bytes, count: int) -> int:
    """Where the log line begins that is the `count`-th from the end to end a line of text."""
    end = len(log)
    for line in reversed(log.split(b"\n")[:-1]):
        end -= len(line) + 1
        if _is_full(line):
            count -= 1
            if count == 0:
                return end
    return 0


def unfinished(blocks_backward: Iterable[bytes], *, search: int, longest: int) -> list[bytes]:
    """The P pieces at the end of the log whose line has not ended, in order.

    Takes blocks of log lines from the last to the first, as many as it needs to see the last F of each
    stream: up to `longest` bytes for a line whose pieces are seen, up to `search` for a stream of which
    nothing is (most logs have one stream only).
    """
    kept: list[bytes] = []
    open_streams = {b"stdout", b"stderr"}
    begun: set[bytes] = set()
    seen = 0
    for log in blocks_backward:
        for line in [_any_line(log)] if _is_plain(log) else reversed(log.split(b"\n")[:-1]):
            stream = line[36:42]
            if stream not in open_streams:
                continue
            if _is_full(line):
                open_streams.discard(stream)
            else:
                begun.add(stream)
                kept.append(line)
        seen += len(log)
        if not open_streams or seen > (longest if begun & open_streams else search):
            break
    return kept[::-1]


def _is_plain(log: bytes) -> bool:
    """All lines are whole ones of one stream, surely; most logs are so, and need no look at each line."""
    if b" stdout P " in log or b" stderr P " in log:
        return False
    return b" stdout F " not in log or b" stderr F " not in log


def _any_line(log: bytes) -> bytes:
    return log[: log.find(b"\n")]


def _is_full(line: bytes) -> bool:
    return line[43:44] != b"P"
