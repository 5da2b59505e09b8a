"""What happens when a container is over: --rm.  Restarts are the host's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from dockerapi.errors import APIError
from gateway.translate import from_zone
from gateway.zones.host import Zone
from gateway.zones.spec import ZoneState

log = logging.getLogger(__name__)


class Supervisor:
    """Removes --rm containers once they have ended, each exactly once.

    `remove` takes a container with its anonymous volumes away and may find it gone.
    """

    def __init__(self, group: asyncio.TaskGroup, remove: Callable[[Zone], Awaitable[None]]) -> None:
        self._group = group
        self._remove = remove

    def exited(self, zone: Zone) -> None:
        """The zone has stopped, and nothing will start it again."""
        if from_zone.auto_remove(zone):
            self._group.create_task(self._clean(zone))

    def sweep(self, zones: Sequence[Zone]) -> None:
        """After a start of the gateway: --rm containers that ended while it was away."""
        for zone in zones:
            if zone.state is ZoneState.STOPPED and (zone.started_ns or zone.error):
                self.exited(zone)

    async def _clean(self, zone: Zone) -> None:
        try:
            await self._remove(zone)
        except (APIError, OSError) as error:
            # TimeoutError among them: a container that cannot be killed must not end the gateway.
            log.warning("container %s (--rm) could not be removed: %s", zone.metadata.id, error)
