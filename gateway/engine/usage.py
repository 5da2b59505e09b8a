"""What `docker top` and `stats` show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from dockerapi.errors import NoSuchContainer
from dockerapi.models.base import JSONObject
from gateway.engine.lifecycle import Lifecycle
from gateway.engine.roster import Roster
from gateway.translate.usage import stats
from gateway.zones.host import ZoneGauges

_INTERVAL_S = 1.0


class Usage:
    """What the host's containers use."""

    def __init__(self, gauges: ZoneGauges, roster: Roster, lifecycle: Lifecycle) -> None:
        self._gauges = gauges
        self._roster = roster
        self._lifecycle = lifecycle

    async def top(self, ref: str, ps_args: str) -> JSONObject:
        """{Titles, Processes}."""
        zone = self._roster.find(ref)
        table = await self._gauges.processes(zone.uuid, ps_args)
        self._lifecycle.emit(zone, "top")
        return {"Titles": list(table.titles), "Processes": [list(row) for row in table.rows]}

    async def stats(
        self, ref: str, *, stream: bool, one_shot: bool
    ) -> AsyncGenerator[JSONObject, None]:
        """One object a second until the container is removed; without `stream` one.

        Two samples a second apart make the first object of each, unless `one_shot`: precpu is what tools
        compute percentages from.  A container that does not run is told of at once, all zero.
        """
        return self._stats(
            self._roster.find(ref).metadata.id, stream=stream, two=not (stream or one_shot)
        )

    async def _stats(
        self, docker_id: str, *, stream: bool, two: bool
    ) -> AsyncGenerator[JSONObject, None]:
        loop = asyncio.get_running_loop()
        due = loop.time()
        before = await self._gauges.sample(self._roster.get(docker_id).uuid) if two else None
        waits = before is not None
        while True:
            if waits:
                due += _INTERVAL_S
                await asyncio.sleep(max(0.0, due - loop.time()))
            waits = True
            try:
                zone = self._roster.get(docker_id)
                sample = await self._gauges.sample(zone.uuid)
            except NoSuchContainer:
                return
            yield stats(zone, sample, before)
            if not stream:
                return
            before = sample
