"""What `docker volume` shows.  Containers make volumes; the command does not yet."""

from __future__ import annotations

import logging

from dockerapi.errors import APIError
from dockerapi.filters import Filters
from dockerapi.models.base import JSONObject
from gateway.engine.roster import Roster
from gateway.translate import from_zone
from gateway.translate.status import go_time
from gateway.zones.host import Volume, VolumeHost

log = logging.getLogger(__name__)


class Volumes:
    """The host's volumes."""

    def __init__(self, volumes: VolumeHost, roster: Roster) -> None:
        self._volumes = volumes
        self._roster = roster

    async def list(self, filters: Filters) -> JSONObject:
        """{Volumes, Warnings}."""
        filters.accept("dangling", "driver", "label", "name")
        dangling = filters.boolean("dangling")
        used = self._used()
        found = [
            _shown(volume)
            for volume in self._volumes.list()
            if _matches(volume, filters)
            and (dangling is None or dangling is (volume.name not in used))
        ]
        return {"Volumes": found, "Warnings": None}

    async def inspect(self, name: str) -> JSONObject:
        """NotFound(`get X: no such volume`)."""
        return _shown(self._volumes.get(name))

    async def sweep(self) -> None:
        """Remove anonymous volumes whose container is not there: its creation or removal was cut off."""
        used = self._used()
        zones = {zone.uuid for zone in self._roster.all()}
        # All found before the first await: a creation that begins meanwhile makes its volumes first.
        lost = [
            volume.name
            for volume in self._volumes.list()
            if volume.owner and volume.owner not in zones and volume.name not in used
        ]
        for name in lost:
            try:
                await self._volumes.remove(name)
            except (APIError, OSError) as error:
                log.warning("volume %s is left behind: %s", name, error)

    def _used(self) -> set[str]:
        return {point.name for zone in self._roster.all() for point in from_zone.mount_points(zone)}


def _shown(volume: Volume) -> JSONObject:
    return {
        "CreatedAt": go_time(volume.created_ns // 1_000_000_000 * 1_000_000_000),
        "Driver": "local",
        "Labels": dict(volume.labels) or None,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": dict(volume.options) or None,
        "Scope": "local",
    }


def _matches(volume: Volume, filters: Filters) -> bool:
    if "driver" in filters and "local" not in filters.get("driver"):
        return False
    names = filters.get("name")
    if names and not any(name in volume.name for name in names):
        return False
    return filters.match_labels(volume.labels)
