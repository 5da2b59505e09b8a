"""One bus for what happens: a ring of the last events, and streams that follow it.

A stream keeps its place in the ring rather than a queue of its own: whoever reads too slowly loses
the oldest, and nobody holds up an emitter.

The ring holds events as the JSON they are sent as, many in one block of memory.  As objects the last 1000
of them kept 24 MB after a thousand containers had come and gone: names and ids that were made with a
container each held a megabyte of the allocator's.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from dockerapi.engine import EventsQuery
from dockerapi.errors import InvalidParameter
from dockerapi.filters import Filters
from dockerapi.framing import dumps
from dockerapi.models.base import JSONObject

KEPT = 1000
_PACK = 50
_ACTORS = (
    "container",
    "daemon",
    "plugin",
    "volume",
    "network",
    "node",
    "service",
    "secret",
    "config",
)
_OPEN_ENDED = {"health_status", "exec_create", "exec_start"}
"""Actions that go on behind a colon: where one of them is asked for, dockerd compares beginnings."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    type: str
    action: str
    actor_id: str
    attributes: Mapping[str, str]
    time_ns: int

    def line(self) -> bytes:
        """Its JSON, with the fields of old (status, id, from) where dockerd still sends them."""
        message: JSONObject = {}
        if self.type in ("container", "image"):
            message |= {"status": self.action, "id": self.actor_id}
        if self.type == "container" and "image" in self.attributes:
            message["from"] = self.attributes["image"]
        message |= {
            "Type": self.type,
            "Action": self.action,
            "Actor": {"ID": self.actor_id, "Attributes": dict(sorted(self.attributes.items()))},
            "scope": "local",
            "time": self.time_ns // 1_000_000_000,
            "timeNano": self.time_ns,
        }
        return dumps(message)

    @classmethod
    def parse(cls, line: bytes) -> Event:
        """The event of a `line()`."""
        message = json.loads(line)
        actor = message["Actor"]
        return cls(
            message["Type"],
            message["Action"],
            actor["ID"],
            actor["Attributes"],
            message["timeNano"],
        )


class Bus:
    """Emits and replays."""

    def __init__(self) -> None:
        self._recent: list[bytes] = []
        self._packed: deque[bytes] = deque(maxlen=KEPT // _PACK)
        """Lines before the recent ones, _PACK in each."""
        self._next = 0
        self._followers: set[asyncio.Future[None]] = set()

    @property
    def listeners(self) -> int:
        """Streams that wait for the next event."""
        return len(self._followers)

    def emit(
        self,
        type_: str,
        action: str,
        actor_id: str,
        attributes: Mapping[str, str],
        *,
        time_ns: int | None = None,
    ) -> None:
        """Record one; it does not matter whether anybody listens."""
        when = time.time_ns() if time_ns is None else time_ns
        self._recent.append(Event(type_, action, actor_id, attributes, when).line())
        if len(self._recent) == _PACK:
            self._packed.append(b"\n".join(self._recent))
            self._recent = []
        self._next += 1
        for follower in self._followers:
            if not follower.done():
                follower.set_result(None)
        self._followers.clear()

    def stream(self, query: EventsQuery) -> AsyncIterator[bytes]:
        """Past events since `since_ns`, then new ones until `until_ns`; the place is taken now."""
        since, until = query.since_ns, query.until_ns
        if since is not None and until is not None and since > until:
            raise InvalidParameter(
                f"`since` time ({_unix(since)}) cannot be after `until` time ({_unix(until)})"
            )
        start = self._next if since is None and not _is_past(until) else 0
        return self._stream(start, since or 0, until, query.filters or Filters())

    async def _stream(
        self, position: int, since: int, until: int | None, filters: Filters
    ) -> AsyncIterator[bytes]:
        while True:
            lines = self._from(position)
            position = self._next
            for line in lines:
                event = Event.parse(line)
                if until is not None and event.time_ns > until:
                    return
                if event.time_ns >= since and matches(event, filters):
                    yield line
            if position < self._next:
                continue
            if not await self._more(until):
                return

    def _from(self, position: int) -> Sequence[bytes]:
        wanted = min(self._next - position, KEPT)
        lines = self._recent
        if wanted > len(lines):
            lines = [line for block in self._packed for line in block.split(b"\n")] + lines
        return lines[-wanted:] if wanted else ()

    async def _more(self, until: int | None) -> bool:
        """Wait for an event; False when `until` has come.  May be true without one."""
        left = None if until is None else (until - time.time_ns()) / 1_000_000_000
        if left is not None and left <= 0:
            return False
        follower: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._followers.add(follower)
        try:
            async with asyncio.timeout(left):
                await follower
        except TimeoutError:
            # The loop's clock is another one, and of milliseconds: it may come too early.
            return not _is_past(until)
        finally:
            self._followers.discard(follower)
        return True


def _is_past(moment: int | None) -> bool:
    return moment is not None and moment <= time.time_ns()


def _unix(moment: int) -> str:
    return f"{moment // 1_000_000_000}.{moment % 1_000_000_000:09d}"


def matches(event: Event, filters: Filters) -> bool:
    """As moby's event filter: values of one key are alternatives, keys all hold, keys it does not know mean nothing."""
    checks: dict[str, Callable[[tuple[str, ...]], bool]] = {
        "type": lambda values: event.type in values,
        "scope": lambda values: "local" in values,
        "event": lambda values: _is_action(event.action, values),
        "image": lambda values: _matches_image(event, values),
        **dict.fromkeys(_ACTORS, lambda values: _is_actor(event, values)),
    }
    for key in filters:
        values = filters.get(key)
        if key == "label":
            if not filters.match_labels(event.attributes):
                return False
        elif key in checks and not checks[key](values):
            return False
    return True


def _is_action(action: str, values: Sequence[str]) -> bool:
    return action.startswith(tuple(values)) if _OPEN_ENDED & {*values} else action in values


def _is_actor(event: Event, values: Sequence[str]) -> bool:
    """By id or name, whole or from the start; of whatever type it is."""
    name = event.attributes.get("name", "")
    return event.actor_id.startswith(tuple(values)) or name.startswith(tuple(values))


def _matches_image(event: Event, values: Sequence[str]) -> bool:
    name = event.attributes.get("name" if event.type == "image" else "image", "")
    known = {event.actor_id, name, _without_tag(event.actor_id), _without_tag(name)}
    return any(value in known for value in values)


def _without_tag(name: str) -> str:
    head, colon, tail = name.rpartition(":")
    return head if colon and "/" not in tail else name
