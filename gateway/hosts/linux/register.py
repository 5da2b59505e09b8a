"""Which zones of ours there are, in memory and in zone.json; their names; what is told of changes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from dockerapi.errors import NameInUse, NoSuchContainer
from gateway.hosts.linux import records
from gateway.hosts.linux.boot import Parts
from gateway.hosts.linux.resident import Resident
from gateway.zones.host import Zone, ZoneChange, ZoneEvent
from gateway.zones.spec import ZoneUUID


class Register:
    """The zones of one instance.  `group` outlives every call and is the host's."""

    def __init__(self, parts: Parts, group: asyncio.TaskGroup) -> None:
        self._parts = parts
        self._group = group
        self._events: deque[ZoneEvent] = deque()
        self._wake = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self.zones: dict[ZoneUUID, Resident] = {}
        self.aliases: dict[str, ZoneUUID] = {}
        self.closing = False
        """No restart by policy any more."""

    def list(self) -> Sequence[Zone]:
        """Oldest first."""
        return [resident.zone for resident in self.zones.values()]

    def resident(self, uuid: ZoneUUID) -> Resident:
        """NoSuchContainer for one that is none of ours."""
        try:
            return self.zones[uuid]
        except KeyError:
            raise NoSuchContainer(uuid) from None

    def find(self, ref: str) -> ZoneUUID:
        """By name, or the beginning of a container's id; NoSuchContainer."""
        if ref in self.aliases:
            return self.aliases[ref]
        for uuid, resident in self.zones.items():
            if ref and resident.zone.metadata.id.startswith(ref):
                return uuid
        raise NoSuchContainer(ref)

    def reserve(self, alias: str, uuid: ZoneUUID) -> None:
        """NameInUse if another zone has it."""
        holder = self.aliases.get(alias)
        if holder is not None:
            known = self.zones.get(holder)
            raise NameInUse(alias, known.zone.metadata.id if known else holder)
        self.aliases[alias] = uuid

    def free(self, alias: str, uuid: ZoneUUID) -> None:
        """The name is nobody's again, if it was this zone's."""
        if self.aliases.get(alias) == uuid:
            del self.aliases[alias]

    async def events(self) -> AsyncIterator[ZoneEvent]:
        """Every change from the opening of the host on; for one consumer."""
        while True:
            while self._events:
                yield self._events.popleft()
            self._wake.clear()
            await self._wake.wait()

    def emit(self, change: ZoneChange, zone: Zone) -> None:
        """To the engine."""
        self._events.append(ZoneEvent(change, zone, time.time_ns()))
        self._wake.set()

    def change(self, resident: Resident, change: ZoneChange | None, **values: Any) -> Zone:
        """A new value of the zone: told first, then written."""
        zone = replace(resident.zone, **values)
        resident.record = resident.record.with_zone(zone)
        self._parts.names.tell(zone)
        if change is not None:
            self.emit(change, zone)
        if not resident.deleted:
            records.write(self._parts.folders.zone(zone.uuid), resident.record)
        return zone

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that nobody waits for but `settled`."""
        task = self._group.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def settled(self) -> None:
        """Everything that stopped or was deleted is cleared away."""
        while self._background:
            await asyncio.wait(self._background)
