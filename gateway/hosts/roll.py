"""The zones of one instance by UUID and by name, and what happened to them in its order: what the registers of both hosts have alike."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Generic, Protocol, TypeVar

from dockerapi.errors import NameInUse, NoSuchContainer
from gateway.zones.host import Zone, ZoneChange, ZoneEvent
from gateway.zones.spec import ZoneUUID


class Known(Protocol):
    """What a host keeps of a zone."""

    @property
    def zone(self) -> Zone:
        """As it is now."""
        ...


ResidentT = TypeVar("ResidentT", bound=Known)


class Roll(Generic[ResidentT]):
    """In memory alone; `zones` and `aliases` are filled by who knows the platform."""

    def __init__(self) -> None:
        self.zones: dict[ZoneUUID, ResidentT] = {}
        self.aliases: dict[str, ZoneUUID] = {}
        self._told: deque[ZoneEvent] = deque()
        self._wake = asyncio.Event()

    def list(self) -> Sequence[Zone]:
        """Oldest first."""
        return [resident.zone for resident in self.zones.values()]

    def resident(self, uuid: ZoneUUID) -> ResidentT:
        """NoSuchContainer for one that is none of ours, whoever else has it."""
        try:
            return self.zones[uuid]
        except KeyError:
            raise NoSuchContainer(uuid) from None

    def reserve(self, alias: str, uuid: ZoneUUID) -> None:
        """NameInUse if another zone has it.  (vmadm does not care who has an alias; docker does.)"""
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
            while self._told:
                yield self._told.popleft()
            self._wake.clear()
            await self._wake.wait()

    def emit(self, change: ZoneChange, zone: Zone) -> None:
        """To the engine."""
        self._told.append(ZoneEvent(change, zone, time.time_ns()))
        self._wake.set()
