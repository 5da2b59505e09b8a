"""What attach adds to the host's streams: whether there is anything to attach to, and the keys that detach.

Keys: `a`, `ctrl-a` ... joined by commas; ctrl-p,ctrl-q where the client names none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from dockerapi.engine import AttachQuery
from dockerapi.errors import InvalidParameter
from dockerapi.framing import Stdio, StreamId
from gateway.zones.metadata import DockerMetadata

DEFAULT_KEYS = b"\x10\x11"
_CONTROL = {chr(ord("a") + n): n + 1 for n in range(26)}
_CONTROL |= {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def detach_keys(text: str | None) -> bytes:
    """The bytes to look for.  InvalidParameter for what is no key."""
    if not text:
        return DEFAULT_KEYS
    keys = bytearray()
    for word in text.split(","):
        if len(word) == 1 and word.isascii():
            keys += word.encode()
        elif word.startswith("ctrl-") and word[5:].lower() in _CONTROL:
            keys.append(_CONTROL[word[5:].lower()])
        elif word == "DEL":
            keys.append(127)
        else:
            raise InvalidParameter(f"Invalid detach keys ({text}) provided")
    return bytes(keys)


def has_part(metadata: DockerMetadata, query: AttachQuery) -> bool:
    """Whether such an attach takes any stream.  One of none waits for the end only where stdin is opened once."""
    takes_input = query.stdin and metadata.open_stdin
    waits = metadata.runtime.stdin_once and not metadata.tty
    return query.stdout or query.stderr or takes_input or waits


class KeyScanner:
    """Finds a sequence of keys in input cut anywhere.

    A beginning of the sequence is held back until it is decided whether the rest follows.
    """

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the sequence was typed; what follows it is dropped."""
        text = self._held + data
        place = text.find(self._keys)
        if place >= 0:
            self._held = b""
            return text[:place], True
        for size in range(min(len(self._keys) - 1, len(text)), 0, -1):
            if text.endswith(self._keys[:size]):
                self._held = text[-size:]
                return text[:-size], False
        self._held = b""
        return text, False

    def rest(self) -> bytes:
        """What is held back, when the input has ended."""
        held, self._held = self._held, b""
        return held


class Attached:
    """Streams with keys that end them."""

    def __init__(
        self,
        inner: Stdio,
        *,
        keys: bytes = b"",
        detached: Callable[[], None] = lambda: None,
    ) -> None:
        self._inner = inner
        self._scanner = KeyScanner(keys) if keys else None
        self._detached = detached

    @property
    def tty(self) -> bool:
        """Of the process."""
        return self._inner.tty

    def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        """Passed on."""
        return self._inner.output()

    async def write(self, data: bytes) -> None:
        """To stdin, unless it is the keys: then the streams end and the process runs on."""
        if self._scanner is None:
            await self._inner.write(data)
            return
        rest, is_detach = self._scanner.feed(data)
        if rest:
            await self._inner.write(rest)
        if is_detach:
            self._detached()
            await self._inner.close()

    async def close_input(self) -> None:
        """What was held back goes first."""
        if self._scanner is not None and (held := self._scanner.rest()):
            await self._inner.write(held)
        await self._inner.close_input()

    async def resize(self, height: int, width: int) -> None:
        """Passed on."""
        await self._inner.resize(height, width)

    async def close(self) -> None:
        """Passed on."""
        await self._inner.close()


class Replay:
    """Streams that are only a past: attach with `logs` and without `stream`."""

    def __init__(self, past: AsyncIterator[tuple[StreamId, bytes]], *, tty: bool) -> None:
        self._past = past
        self.tty = tty

    def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        """The past."""
        return self._past

    async def write(self, data: bytes) -> None:
        """There is nobody to read it."""

    async def close_input(self) -> None:
        """Nothing to close."""

    async def resize(self, height: int, width: int) -> None:
        """No terminal."""

    async def close(self) -> None:
        """Nothing is open."""


async def nothing() -> AsyncIterator[tuple[StreamId, bytes]]:
    """No past, no present."""
    chunks: tuple[tuple[StreamId, bytes], ...] = ()
    for chunk in chunks:
        yield chunk


def told(stream: StreamId, text: str, *, tty: bool) -> Replay:
    """Streams of nothing but a message."""
    return Replay(text_stream(stream, text), tty=tty)


def text_stream(stream: StreamId, text: str) -> AsyncIterator[tuple[StreamId, bytes]]:
    """One message as a stream: an error told in-band."""

    async def chunks() -> AsyncIterator[tuple[StreamId, bytes]]:
        yield stream, text.encode()

    return chunks()
