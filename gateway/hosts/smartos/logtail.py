"""What attached clients missed of a zone's output, by its log: and how that joins what they had live."""

from __future__ import annotations

from dockerapi.framing import StreamId
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.logs import STDIO_LOG, LogFiles
from gateway.hosts.smartos.stdiolog import parse_all

Chunk = tuple[StreamId, bytes]


class LogTail:
    """Output of one run of a zone by its log, from a place on, less what was had otherwise."""

    def __init__(self, gz: GlobalZone, zonepath: str) -> None:
        self._files = LogFiles(gz, f"{zonepath}/logs", STDIO_LOG)
        self._had = {StreamId.STDOUT: 0, StreamId.STDERR: 0}

    async def start(self) -> None:
        """The place is the end of what there is now."""
        await self._files.open()
        await self._files.go_to_end()
        self._had = {StreamId.STDOUT: 0, StreamId.STDERR: 0}

    def had(self, stream: StreamId, size: int) -> None:
        """So many further bytes of a stream are known."""
        self._had[stream] += size

    async def missing(self) -> list[Chunk]:
        """What was logged and not had, some 256 KiB of log at a time; the place moves behind it.  None at the end."""
        while data := await self._files.read():
            chunks: list[Chunk] = []
            for record in parse_all(data):
                known = min(self._had[record.stream], len(record.text))
                self._had[record.stream] -= known
                if known < len(record.text):
                    chunks.append((record.stream, record.text[known:]))
            if chunks:
                return chunks
        return []


def joined(logged: list[Chunk], live: list[Chunk]) -> tuple[list[Chunk], dict[StreamId, int]]:
    """What was read from the log and then live, each byte once; and per stream how much is not in the log part.

    The end of the log's part may be the beginning of the live one: zoneadmd logs first, then passes on.
    """
    chunks = list(logged)
    beyond: dict[StreamId, int] = {}
    overlap: dict[StreamId, int] = {}
    for stream in (StreamId.STDOUT, StreamId.STDERR):
        past = b"".join(data for s, data in logged if s is stream)
        now = b"".join(data for s, data in live if s is stream)
        overlap[stream] = _overlap(past, now)
        beyond[stream] = len(now) - overlap[stream]
    for stream, data in live:
        known = min(overlap[stream], len(data))
        overlap[stream] -= known
        if known < len(data):
            chunks.append((stream, data[known:]))
    return chunks, beyond


def _overlap(past: bytes, now: bytes) -> int:
    """Length of the longest beginning of `now` that is the end of `past`."""
    for size in range(min(len(past), len(now)), 0, -1):
        if past.endswith(now[:size]):
            return size
    return 0
