"""Which zones of ours there are, in memory and in zone.json; their names; what is told of changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from dockerapi.errors import NoSuchContainer
from gateway.hosts.linux import records
from gateway.hosts.linux.boot import Parts
from gateway.hosts.linux.resident import Resident
from gateway.hosts.roll import Roll
from gateway.zones.host import Zone, ZoneChange
from gateway.zones.spec import ZoneUUID

log = logging.getLogger(__name__)


class Register(Roll[Resident]):
    """The zones of one instance.  `group` outlives every call and is the host's."""

    def __init__(self, parts: Parts, group: asyncio.TaskGroup) -> None:
        super().__init__()
        self._parts = parts
        self._group = group
        self._background: set[asyncio.Task[None]] = set()
        self.closing = False
        """No restart by policy any more."""

    def find(self, ref: str) -> ZoneUUID:
        """By name, or the beginning of a container's id; NoSuchContainer."""
        if ref in self.aliases:
            return self.aliases[ref]
        for uuid, resident in self.zones.items():
            if ref and resident.zone.metadata.id.startswith(ref):
                return uuid
        raise NoSuchContainer(ref)

    def change(self, resident: Resident, change: ZoneChange | None, **values: Any) -> Zone:
        """A new value of the zone: told first, then written.  OSError where the disk is full."""
        zone = self._replaced(resident, change, values)
        if not resident.deleted:
            records.write(self._parts.folders.zone(zone.uuid), resident.record)
        return zone

    def happened(self, resident: Resident, change: ZoneChange | None, **values: Any) -> Zone:
        """As `change`, of what is so whether it can be written or not: a zone that filled the disk has ended all the same.

        The file follows with the next change; after a restart the end is found as that of any zone which ended meanwhile.
        """
        try:
            return self.change(resident, change, **values)
        except OSError as error:
            log.error("zone %s: its record cannot be written: %s", resident.zone.uuid, error)  # noqa: TRY400
            return resident.zone

    def _replaced(
        self, resident: Resident, change: ZoneChange | None, values: dict[str, Any]
    ) -> Zone:
        zone = replace(resident.zone, **values)
        resident.record = resident.record.with_zone(zone)
        self._parts.names.tell(zone)
        if change is not None:
            self.emit(change, zone)
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
