"""What `docker volume` does, over the host's volumes of the driver `local`."""

from __future__ import annotations

import logging
import re
import time

from dockerapi.errors import APIError, Conflict, InvalidParameter, NotFound
from dockerapi.filters import Filters
from dockerapi.models.base import JSONObject
from dockerapi.models.volumes import VolumeCreate
from gateway.engine.events import Bus
from gateway.engine.pruning import OneAtATime, PruneTests
from gateway.engine.roster import Roster
from gateway.translate import from_zone
from gateway.translate.mounts import ANONYMOUS_LABEL, MountPoint
from gateway.translate.status import go_time
from gateway.zones.host import Volume, VolumeHost, Zone

log = logging.getLogger(__name__)

_LOCAL = {"driver": "local"}
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


class Volumes:
    """The host's volumes."""

    def __init__(self, volumes: VolumeHost, roster: Roster, bus: Bus) -> None:
        self._volumes = volumes
        self._roster = roster
        self._bus = bus
        self._pruning = OneAtATime()

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

    async def create(self, body: VolumeCreate) -> JSONObject:
        """The volume; one that is there already stays as it is."""
        check_driver(body.name, body.driver)
        known = {volume.name for volume in self._volumes.list()}
        volume = await self._volumes.create(
            body.name, labels=body.labels or {}, options=body.driver_opts or {}
        )
        if volume.owner:
            # A container's anonymous volume, which somebody now means to keep.
            await self._volumes.keep(volume.name)
        if volume.name not in known:
            self._bus.emit("volume", "create", volume.name, _LOCAL)
        return _shown(volume)

    async def remove(self, name: str, *, force: bool) -> None:
        """Conflict while a container has it; NotFound unless `force`."""
        try:
            self._volumes.get(name)
        except NotFound:
            if force:
                return
            raise
        self._check_unused(name)
        await self._volumes.remove(name)
        self._bus.emit("volume", "destroy", name, _LOCAL)

    def _check_unused(self, name: str) -> None:
        users = [
            zone.metadata.id
            for zone in self._roster.all()
            if any(point.name == name for point in _of_volumes(zone))
        ]
        if users or name in self._roster.held:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")

    async def prune(self, filters: Filters) -> JSONObject:
        """{VolumesDeleted, SpaceReclaimed}: anonymous ones that no container has; with the filter `all` named ones too."""
        filters.accept("all", "label", "label!")
        takes_named = _takes_named(filters)
        tests = PruneTests(filters, time.time_ns())
        deleted: list[str] = []
        reclaimed = 0
        with self._pruning.prune():
            for volume in self._volumes.list():
                # What is only mounted here is not ours to empty: dockerd leaves it, too.
                is_meant = not volume.options and (takes_named or ANONYMOUS_LABEL in volume.labels)
                if not is_meant or not tests.hold(volume.labels, volume.created_ns):
                    continue
                # Looked at anew each time: removing takes a while.
                if volume.name in self._used() or self._is_in_the_making(volume):
                    continue
                try:
                    size = await self._volumes.used_bytes(volume.name)
                    await self._volumes.remove(volume.name)
                except (APIError, OSError) as error:
                    log.warning("volume %s is not pruned: %s", volume.name, error)
                    continue
                self._bus.emit("volume", "destroy", volume.name, {"driver": "local"})
                reclaimed += size
                deleted.append(volume.name)
            self._bus.emit("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return {"VolumesDeleted": deleted, "SpaceReclaimed": reclaimed}

    def _is_in_the_making(self, volume: Volume) -> bool:
        """Made for a container that is not there yet.  One that is gone has left it to another, which is gone, too."""
        return volume.owner in self._roster.making

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
        """Names that a container has, or that one is being made with."""
        found = {point.name for zone in self._roster.all() for point in _of_volumes(zone)}
        return found | self._roster.held


def _takes_named(filters: Filters) -> bool:
    """The filter `all` of a prune, which is read as flags of a command line are, and not as filters."""
    values = filters.get("all")
    if len(values) > 1:
        raise InvalidParameter(
            f"invalid filter 'all=[{' '.join(values)}]': only one value is expected"
        )
    if values and values[0] not in (*_TRUE, *_FALSE):
        raise InvalidParameter(
            f"invalid filter 'all': strconv.ParseBool: parsing \"{values[0]}\": invalid syntax"
        )
    return bool(values) and values[0] in _TRUE


def _of_volumes(zone: Zone) -> list[MountPoint]:
    return [point for point in from_zone.mount_points(zone) if point.type == "volume"]


def check_driver(name: str, driver: str) -> None:
    """NotFound for any but `local`: there are no plugins."""
    if driver not in ("", "local"):
        raise NotFound(
            f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found'
        )


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


def _fits(wanted: str, name: str) -> bool:
    """Go's filters take a regular expression, or the name itself."""
    try:
        return wanted == name or re.search(wanted, name) is not None
    except re.error:
        return False


def _matches(volume: Volume, filters: Filters) -> bool:
    if "driver" in filters and "local" not in filters.get("driver"):
        return False
    names = filters.get("name")
    if names and not any(_fits(name, volume.name) for name in names):
        return False
    return filters.match_labels(volume.labels)
