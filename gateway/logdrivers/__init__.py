"""Log drivers that send a container's output elsewhere: syslog, gelf, fluentd, journald.

    Source           the container, as lines are signed with it
    Message          one line, or a piece of a long one
    wire.py          connections; words for those that cannot be made
    syslog.py gelf.py fluentd.py journald.py     what one message is in bytes, and whom it goes to

`open_sink` makes the connection once, so that a start can fail for it.  Following a container's log, what is kept
for a slow far end and what was sent already: gateway/engine/log_forwarding.py.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dockerapi.framing import StreamId

JOURNAL = Path("/run/systemd/journal/socket")


@dataclass(frozen=True, slots=True)
class Source:
    """A container: what drivers say of it.  `created_ns` since the epoch; `attributes` as the log options choose."""

    driver: str
    options: dict[str, str]
    container_id: str
    name: str
    image_id: str
    image_name: str
    command: str
    created_ns: int
    hostname: str
    tag: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """Of a line that is too long for one message: which it is, and whether it is the last."""

    id: str
    ordinal: int
    is_last: bool


@dataclass(frozen=True, slots=True)
class Message:
    """A line of output without its newline.  `time_ns` since the epoch."""

    stream: StreamId
    time_ns: int
    text: bytes
    piece: Piece | None = None


class Sink(Protocol):
    """The far end.  OSError where it is away: nothing of the messages may have arrived, or some."""

    async def send(self, messages: Sequence[Message]) -> None:
        """In order; returns when the system, or the far end where it says so, has them."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


async def open_sink(source: Source) -> Sink:
    """Connected.  APIError in dockerd's words where that is not possible."""
    # Nobody pays for the others' imports.
    module = importlib.import_module(f"gateway.logdrivers.{source.driver}")
    sink: Sink = await module.open_sink(source)
    return sink


def _can_import(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


_NEEDS: dict[str, Callable[[], bool]] = {
    "fluentd": lambda: _can_import("msgpack"),
    "gelf": lambda: True,
    "journald": JOURNAL.exists,
    "syslog": lambda: True,
}


def available() -> tuple[str, ...]:
    """Names of the drivers that work on this machine, sorted."""
    return tuple(name for name, is_there in _NEEDS.items() if is_there())
