"""What `docker system df` shows: how much images, containers and volumes take of the disk."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from dockerapi.engine import ListQuery
from dockerapi.errors import APIError
from dockerapi.filters import Filters
from dockerapi.models.base import JSONObject
from gateway.engine.roster import Roster
from gateway.translate import from_zone
from gateway.zones.host import VolumeHost
from imgsources.catalog import Catalog
from imgsources.datasets import DatasetStore

log = logging.getLogger(__name__)

ListContainers = Callable[[ListQuery], Awaitable[bytes]]
ImageRows = Callable[[], Awaitable[Sequence[JSONObject]]]
VolumeList = Callable[[Filters], Awaitable[JSONObject]]


class DiskUsage:
    """The rows of the lists, with sizes and with how many use each."""

    def __init__(
        self,
        catalog: Catalog,
        datasets: DatasetStore,
        volumes: VolumeHost,
        roster: Roster,
        *,
        containers: ListContainers,
        image_rows: ImageRows,
        volume_list: VolumeList,
    ) -> None:
        self._catalog = catalog
        self._datasets = datasets
        self._volumes = volumes
        self._roster = roster
        self._containers = containers
        self._image_rows = image_rows
        self._volume_list = volume_list

    async def of(self, kinds: frozenset[str]) -> JSONObject:
        """`kinds` among container, image, volume, build-cache; what was not asked for is None."""
        asks = kinds.__contains__
        return {
            "LayersSize": await self._layers() if asks("image") else 0,
            "Images": await self._image_rows() if asks("image") else None,
            "Containers": await self._rows() if asks("container") else None,
            "Volumes": await self._named() if asks("volume") else None,
            # A build's steps are images here, and counted as such.
            "BuildCache": [] if asks("build-cache") else None,
        }

    async def _layers(self) -> int:
        """Bytes of all layers, each once."""
        known = {uuid for image in self._catalog.images() for uuid in image.uuids}
        return sum([await self._datasets.used_bytes(uuid) for uuid in known])

    async def _rows(self) -> list[JSONObject]:
        rows: list[JSONObject] = json.loads(await self._containers(ListQuery(all=True, size=True)))
        return rows

    async def _named(self) -> list[JSONObject]:
        users = Counter(
            name
            for zone in self._roster.all()
            for name in {point.name for point in from_zone.mount_points(zone)}
        )
        rows: list[JSONObject] = (await self._volume_list(Filters()))["Volumes"]
        return [
            row | {"UsageData": {"RefCount": users[row["Name"]], "Size": await self._size(row)}}
            for row in rows
            if not row["Options"]  # what is mounted there lies elsewhere: dockerd leaves it out
        ]

    async def _size(self, row: JSONObject) -> int:
        """-1 where nobody can tell, as dockerd has it."""
        try:
            return await self._volumes.used_bytes(row["Name"])
        except (APIError, OSError) as error:
            log.warning("the size of volume %s is not known: %s", row["Name"], error)
            return -1
