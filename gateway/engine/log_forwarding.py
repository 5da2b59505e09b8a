"""Containers whose log driver sends their output elsewhere: each one's log is followed, and what it says is sent.

    start of a container -> connection (a start fails without it) -> host's log, followed
       -> log_lines.py: messages -> Backlog -> gateway/logdrivers -> the far end

The host's log is what the far end gets and what `docker logs` shows; it is kept on disk as the driver `local`
would keep it.  So a far end that is slow or away costs no memory, holds no container up, and nothing is lost but
what rotation throws away meanwhile.  In mode `non-blocking` what does not fit into `max-buffer-size` is dropped.

The place up to which a log was sent is a file in `forwarding/`: a gateway that was killed goes on there, and may
send the messages of its last moment twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dockerapi.errors import APIError, NotFound, NotModified
from gateway.engine.log_lines import Lines, Place
from gateway.logdrivers import Message, Sink, Source, open_sink
from gateway.translate import from_zone, log_details, log_options
from gateway.zones.host import LogQuery, Zone, ZoneHost
from gateway.zones.spec import ZoneState, ZoneUUID

log = logging.getLogger(__name__)

_DRAIN_S = 10.0
"""So long a removal waits for the far end, as dockerd does."""
_MEMORY = 1 << 20
_BATCH = 64 << 10
_SAVE_EVERY_S = 0.5
_AGAIN_S = 0.5
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 10.0
_FAILED = "failed to create task for container: failed to initialize logging driver: "


class Forwarding:
    """The followers of all containers.  `group` outlives every call; `hostname` is the machine's."""

    def __init__(
        self, zones: ZoneHost, folder: Path, group: asyncio.TaskGroup, hostname: str
    ) -> None:
        self._zones = zones
        self._places = _Places(folder)
        self._group = group
        self._hostname = hostname
        self._ready: dict[ZoneUUID, Sink] = {}
        """Connections made before a start."""
        self._followers: dict[ZoneUUID, asyncio.Task[None]] = {}

    async def before_start(self, zone: Zone) -> None:
        """Connect.  APIError in dockerd's words: then the container shall not start."""
        if not _is_forwarded(zone) or zone.uuid in self._followers or zone.uuid in self._ready:
            return
        try:
            self._ready[zone.uuid] = await open_sink(self._source(zone))
        except APIError as error:
            raise type(error)(f"{_FAILED}{error.message}") from error
        except OSError as error:
            raise APIError(f"{_FAILED}{error.strerror or error}") from error

    def note(self, zone: Zone) -> None:
        """Follow it from now on if it runs, or has written what was not sent."""
        if not _is_forwarded(zone) or zone.uuid in self._followers:
            return
        if _goes_on(zone) or zone.finished_ns > self._places.load(zone.metadata.id).finished_ns:
            task = self._group.create_task(self._follow(zone))
            self._followers[zone.uuid] = task
        elif zone.error and (sink := self._ready.pop(zone.uuid, None)) is not None:
            self._group.create_task(sink.close())

    async def before_delete(self, zone: Zone) -> None:
        """Its last words are sent before its log goes; for some seconds at most."""
        if not _is_forwarded(zone):
            return
        if zone.is_running:
            with contextlib.suppress(NotModified, NotFound):
                zone = await self._zones.stop(zone.uuid, signal=None, timeout_s=0)
        self.note(zone)
        task = self._followers.get(zone.uuid)
        if task is None:
            return
        done, _ = await asyncio.wait([task], timeout=_DRAIN_S)
        if not done:
            log.warning(
                "container %s is removed before all of its output was sent", zone.metadata.id
            )
            task.cancel()
            await asyncio.wait([task])

    def forget(self, zone: Zone) -> None:
        """It is gone."""
        if _is_forwarded(zone):
            self._places.remove(zone.metadata.id)

    def sweep(self, zones: Sequence[Zone]) -> None:
        """At the start of the gateway: places of containers that are gone, and followers of those that are there."""
        self._places.keep({zone.metadata.id for zone in zones})
        for zone in zones:
            self.note(zone)

    def _source(self, zone: Zone) -> Source:
        data = zone.metadata
        return Source(
            driver=data.log_driver,
            options=dict(data.log_config),
            container_id=data.id,
            name=f"/{zone.spec.alias}",
            image_id=data.image_id,
            image_name=str(from_zone.config(zone).get("Image", "")),
            command=log_details.command(zone),
            created_ns=zone.created_ns,
            hostname=self._hostname,
            tag=log_details.tag(zone, "{{.ID}}"),
            attributes=log_details.attributes(zone),
        )

    async def _follow(self, zone: Zone) -> None:
        docker_id = zone.metadata.id
        follower = _Follower(self._source(zone), self._places, self._ready.pop(zone.uuid, None))
        try:
            await follower.run(self._zones, zone.uuid)
        except* NotFound:
            log.debug("container %s went while its output was sent", docker_id)
        except* Exception:
            # Whatever it is, it must not end the gateway.
            log.exception("the output of %s is not sent any more", docker_id)
        finally:
            del self._followers[zone.uuid]
            await follower.close()
        with contextlib.suppress(NotFound):
            if _goes_on(self._zones.get(zone.uuid)):
                # It runs again already; or its machine is out of reach, which may last.
                await asyncio.sleep(_AGAIN_S)
            self.note(self._zones.get(zone.uuid))


def _is_forwarded(zone: Zone) -> bool:
    return zone.metadata.log_driver in log_options.FORWARDING_DRIVERS


def _goes_on(zone: Zone) -> bool:
    return zone.is_running or zone.state is ZoneState.RESTARTING


@dataclass(frozen=True, slots=True)
class _Mark:
    """Everything before it is sent: the place is here."""

    place: Place


class Backlog:
    """Messages on their way.  `limit` None: whoever puts waits for room; else what does not fit is dropped."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._items: deque[Message | _Mark] = deque()
        self._size = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self.dropped = 0

    async def put(self, messages: Sequence[Message], place: Place) -> None:
        """In order; `place` is where they end."""
        for message in messages:
            if (
                self._limit is not None
                and self._size + len(message.text) > self._limit
                and self._size
            ):
                self.dropped += 1
                continue
            self._items.append(message)
            self._size += len(message.text)
        self._items.append(_Mark(place))
        self._filled.set()
        while self._limit is None and self._size > _MEMORY:
            self._room.clear()
            await self._room.wait()

    def end(self) -> None:
        """Nothing more is put."""
        self._ended = True
        self._filled.set()

    async def take(self) -> tuple[list[Message], Place | None]:
        """Some messages, and the place after them if it is known; nothing at all at the end."""
        while not self._items:
            if self._ended:
                return [], None
            self._filled.clear()
            await self._filled.wait()
        messages: list[Message] = []
        place = None
        size = 0
        while self._items and size < _BATCH:
            item = self._items.popleft()
            if isinstance(item, _Mark):
                place = item.place
                continue
            messages.append(item)
            size += len(item.text) + 64
        self._size -= sum(len(message.text) for message in messages)
        self._room.set()
        return messages, place


class _Follower:
    """One container's log on its way.  `sink` None: it is still to be connected."""

    def __init__(self, source: Source, places: _Places, sink: Sink | None) -> None:
        self._source = source
        self._places = places
        self._sink = sink
        self._saved_at = 0.0
        self._place = places.load(source.container_id)
        self._backlog = Backlog(log_options.buffer_size(source.options))

    async def run(self, zones: ZoneHost, uuid: ZoneUUID) -> None:
        """Until the container has stopped, and everything was sent."""
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send())
            await self._read(zones, uuid)
            await sending
        zone = zones.get(uuid)
        if not _goes_on(zone):
            self._place = replace(self._place, finished_ns=zone.finished_ns)

    async def _read(self, zones: ZoneHost, uuid: ZoneUUID) -> None:
        lines = Lines(self._place)
        query = LogQuery(follow=True, timestamps=True, since_ns=self._place.since_ns or None)
        async for stream, text in zones.logs(uuid, query):
            await self._backlog.put(lines.feed(stream, text), lines.place)
            await asyncio.sleep(0)  # a flood is not to keep the others waiting
        zone = zones.get(uuid)
        if not _goes_on(zone):  # the gateway may be stopping, and not the container
            await self._backlog.put(lines.end(zone.finished_ns), lines.place)
        self._backlog.end()

    async def _send(self) -> None:
        while True:
            messages, place = await self._backlog.take()
            if not messages and place is None:
                return
            if messages:
                await self._deliver(messages)
            if place is not None:
                self._place = place
            if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
                self._save()

    async def _deliver(self, messages: Sequence[Message]) -> None:
        """However long it takes."""
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                if self._sink is None:
                    self._sink = await open_sink(self._source)
                await self._sink.send(messages)
            except (OSError, APIError) as error:
                if delay_s == _FIRST_DELAY_S:
                    words = getattr(error, "message", str(error))
                    log.warning("output of %s waits: %s", self._source.container_id, words)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _LONGEST_DELAY_S)
            else:
                return

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        self._places.save(self._source.container_id, self._place)

    async def close(self) -> None:
        """The place is kept, the connection let go."""
        self._save()
        if self._backlog.dropped:
            log.warning(
                "%d lines of %s were dropped", self._backlog.dropped, self._source.container_id
            )
        if self._sink is not None:
            await self._sink.close()


class _Places:
    """One small file a container."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, docker_id: str) -> Place:
        """The beginning where none is kept."""
        try:
            return Place(**json.loads((self._folder / docker_id).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return Place()

    def save(self, docker_id: str, place: Place) -> None:
        """Whole or not at all."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._folder / f".{docker_id}"
        try:
            new.write_text(json.dumps(asdict(place)))
            new.replace(self._folder / docker_id)
        except OSError as error:
            log.warning("the place in the log of %s is not kept: %s", docker_id, error)

    def remove(self, docker_id: str) -> None:
        """None is fine."""
        (self._folder / docker_id).unlink(missing_ok=True)

    def keep(self, docker_ids: set[str]) -> None:
        """Remove all others."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name not in docker_ids:
                    path.unlink(missing_ok=True)
