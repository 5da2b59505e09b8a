"""What attached clients missed of a zone's output, by its log: and how that joins what they had live."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from dockerapi.framing import StreamId
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.logs import STDIO_LOG, LogFiles
from gateway.hosts.smartos.stdiolog import parse_all

Chunk = tuple[StreamId, bytes]

_END = 512
"""Bytes by which the place of what was had is found again in the log."""
_WINDOW = 1 << 20


@dataclass(frozen=True, slots=True)
class Passed:
    """Where a client's live output begins: behind so many bytes of the log's files, and behind so much text after these."""

    log: int
    text: dict[StreamId, int]


async def past(gz: GlobalZone, zonepath: str, passed: Passed | None) -> AsyncIterator[Chunk]:
    """What the log has up to there; None = all that it has now."""
    files = LogFiles(gz, f"{zonepath}/logs", STDIO_LOG)
    await files.open()
    left = passed.log if passed else sum(file.size for file in files.files)
    behind = dict(passed.text) if passed else {}
    while left > 0 or any(behind.values()):
        data = await files.read()
        if not data:
            return
        for record in parse_all(data[:left]):
            yield record.stream, record.text
        for record in parse_all(data[left:]):
            taken = min(behind.get(record.stream, 0), len(record.text))
            if taken:
                behind[record.stream] -= taken
                yield record.stream, record.text[:taken]
        left = max(0, left - len(data))


class _Known:
    """What was had of one stream since the place: how much, and how it ends."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._size = 0
        self._end = b""
        self._skipped = b""
        self._is_lost = False

    @property
    def size(self) -> int:
        """Bytes since the place."""
        return self._size

    def add(self, data: bytes) -> None:
        """Further bytes were had."""
        self._size += len(data)
        self._end = (self._end + data[-_END:])[-_END:]

    def unknown(self, text: bytes) -> bytes:
        """What of the next logged bytes was not had."""
        known = min(self._size, len(text))
        self._size -= known
        self._skipped = (self._skipped + text[:known])[-_END:]
        text = text[known:]
        if text and not self._is_lost:
            # If they differ zoneadmd has dropped something that we were too slow for.
            self._is_lost = not self._skipped.endswith(self._end)
        if text and self._is_lost:
            text = self._after_end(text)
        if text:
            self._forget()
        return text

    def _after_end(self, text: bytes) -> bytes:
        """What follows the last bytes that were had; nothing while they have not been found."""
        whole = self._skipped + text
        place = whole.rfind(self._end)
        self._skipped = whole[-_END:]
        return b"" if place < 0 else whole[place + len(self._end) :]


class LogTail:
    """Output of one run of a zone by its log, from a place on, less what was had otherwise."""

    def __init__(self, gz: GlobalZone, zonepath: str) -> None:
        self._files = LogFiles(gz, f"{zonepath}/logs", STDIO_LOG)
        self._known = {StreamId.STDOUT: _Known(), StreamId.STDERR: _Known()}

    async def start(self) -> None:
        """The place is the end of what there is now."""
        await self._files.open()
        await self._files.go_to_end()
        self._known = {StreamId.STDOUT: _Known(), StreamId.STDERR: _Known()}

    def passed(self) -> Passed:
        """How much of the log, and of what comes behind that, was had."""
        return Passed(self._files.passed, {s: known.size for s, known in self._known.items()})

    def had(self, stream: StreamId, data: bytes) -> None:
        """Further bytes of a stream are known."""
        self._known[stream].add(data)

    async def missing(self) -> list[Chunk]:
        """What was logged and not had, some 256 KiB of log at a time; the place moves behind it.  None at the end."""
        while data := await self._files.read():
            chunks = [
                (record.stream, text)
                for record in parse_all(data)
                if (text := self._known[record.stream].unknown(record.text))
            ]
            if chunks:
                return chunks
        return []


def joined(logged: list[Chunk], live: list[Chunk]) -> tuple[list[Chunk], dict[StreamId, bytes]]:
    """What was read from the log and then live, each byte once; and per stream what of it is not in the log's part.

    The end of the log's part may be the beginning of the live one: zoneadmd logs first, then passes on.
    """
    chunks = list(logged)
    beyond: dict[StreamId, bytes] = {}
    known: dict[StreamId, int] = {}
    for stream in (StreamId.STDOUT, StreamId.STDERR):
        past = b"".join(data for s, data in logged if s is stream)
        now = b"".join(data for s, data in live if s is stream)
        known[stream] = overlap(past, now)
        beyond[stream] = now[known[stream] :]
    for stream, data in live:
        size = min(known[stream], len(data))
        known[stream] -= size
        if size < len(data):
            chunks.append((stream, data[size:]))
    return chunks, beyond


def overlap(past: bytes, now: bytes) -> int:
    """Length of the longest beginning of `now` that is the end of `past`, within the last megabyte."""
    past = past[-_WINDOW:]
    beginning, end = now[:_END], past[-_END:]
    place = past.find(beginning, max(0, len(past) - len(now)))
    while beginning and place >= 0:
        size = len(past) - place
        # Text that repeats itself has very many places: look at its end before at all of it.
        if now.startswith(end[-size:], max(0, size - len(end))) and now.startswith(past[place:]):
            return size
        place = past.find(beginning, place + 1)
    shorter = range(min(len(beginning), len(past)), 0, -1)
    return next((size for size in shorter if past.endswith(beginning[:size])), 0)
