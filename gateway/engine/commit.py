"""What `docker commit` does: a container's changes become a layer, its Config an image's.

    held still: changes -> file, hashed     then: dataset, catalog record and tag, events

The container runs on as soon as its changes are in the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from dockerapi.engine import CommitQuery
from dockerapi.errors import APIError, Conflict, NotFound, NotSupported
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate
from gateway.engine.events import Bus
from gateway.engine.imagefiles import tagged
from gateway.engine.lifecycle import Lifecycle
from gateway.engine.roster import Roster
from gateway.engine.system import VERSION
from gateway.translate import commit, from_zone
from gateway.translate.status import go_time
from gateway.zones.host import Host, Zone
from gateway.zones.spec import ZoneState, ZoneUUID
from imgsources.catalog import Catalog, Image
from imgsources.commits import Commit, LayerFile, write_layer
from imgsources.puller import Puller
from imgsources.references import Reference

log = logging.getLogger(__name__)

_PAUSED = "paused-"


class Commits:
    """Makes images of one host's containers.  `is_removing` tells of a container that is on its way out."""

    def __init__(
        self,
        host: Host,
        catalog: Catalog,
        puller: Puller,
        *,
        roster: Roster,
        lifecycle: Lifecycle,
        bus: Bus,
        spool: Path,
        is_removing: Callable[[str], bool],
    ) -> None:
        self._host = host
        self._catalog = catalog
        self._puller = puller
        self._roster = roster
        self._lifecycle = lifecycle
        self._bus = bus
        self._spool = spool
        self._is_removing = is_removing

    async def commit(self, ref: str, query: CommitQuery, body: ContainerCreate) -> JSONObject:
        """{Id} of the new image."""
        reference = tagged(query.repo, query.tag)
        zone = self._roster.find(ref)
        docker_id = zone.metadata.id
        if self._is_removing(docker_id):
            raise Conflict(f"You cannot commit container {docker_id} which is being removed")
        parent = self._parent(zone)
        own = from_zone.config(zone)
        # What is wrong with the changes is told before the container is stopped for them.
        config = commit.image_config(commit.requested(body), own, query.changes)
        made = commit.Committed(
            container_id=docker_id,
            config=own,
            created=go_time(time.time_ns()),
            version=VERSION,
            author=query.author,
            comment=query.comment,
        )
        with tempfile.NamedTemporaryFile(dir=self._spool, prefix="commit-") as file:
            async with self._held_still(zone, pause=query.pause):
                layer = await self._layer(zone, Path(file.name))
            kept = None if layer.is_empty else layer
            below = json.loads(parent.config.raw)
            blob = commit.config_blob(below, made, config, kept.digest if kept else None)
            made_of = Commit(parent, blob, kept)
            tags = () if reference is None else (reference,)
            image = await self._puller.add(made_of.image, made_of, tags)
        self._tell(zone, image, reference, query.comment)
        return {"Id": image.id}

    def _parent(self, zone: Zone) -> Image:
        """NoSuchImage if it was removed by force."""
        parent = self._catalog.get(zone.metadata.image_id)
        if parent.imgapi:
            raise NotSupported(
                f"container {zone.metadata.id} is made of a SmartOS image of type {parent.type}: "
                "only containers of docker images can be committed"
            )
        return parent

    async def _layer(self, zone: Zone, path: Path) -> LayerFile:
        blocks = await self._host.files.layer(zone.uuid)
        async with contextlib.aclosing(blocks):
            return await write_layer(blocks, path)

    @contextlib.asynccontextmanager
    async def _held_still(self, zone: Zone, *, pause: bool) -> AsyncIterator[None]:
        """Paused if it runs and the host can; whoever paused it before keeps it so."""
        is_ours = pause and await self._paused(zone)
        try:
            yield
        finally:
            if is_ours:
                await self._resume(zone)

    async def _paused(self, zone: Zone) -> bool:
        if zone.state is not ZoneState.RUNNING:
            return False
        marker = self._marker(zone)
        await asyncio.to_thread(marker.touch)
        try:
            paused = await self._host.zones.pause(zone.uuid)
        except APIError as error:
            marker.unlink(missing_ok=True)
            # No freezer, or it has just ended: dockerd commits all the same.
            log.info("container %s is committed as it runs: %s", zone.metadata.id, error)
            return False
        self._lifecycle.note(paused)
        self._lifecycle.emit(paused, "pause")
        return True

    async def _resume(self, zone: Zone) -> None:
        try:
            resumed = await self._host.zones.unpause(zone.uuid)
        except APIError as error:
            # Somebody else did, or it was killed meanwhile.
            log.warning("container %s after its commit: %s", zone.metadata.id, error)
            return
        finally:
            self._marker(zone).unlink(missing_ok=True)
        self._lifecycle.note(resumed)
        self._lifecycle.emit(resumed, "unpause")

    def _marker(self, zone: Zone) -> Path:
        """There while the container is paused for us: a pause outlives a gateway that is killed."""
        return self._spool / f"{_PAUSED}{zone.uuid}"

    async def recover(self) -> None:
        """Let those run on that an earlier gateway was killed over."""
        for marker in await asyncio.to_thread(lambda: list(self._spool.glob(f"{_PAUSED}*"))):
            uuid = ZoneUUID(marker.name.removeprefix(_PAUSED))
            try:
                zone = self._host.zones.get(uuid)
            except NotFound:
                marker.unlink(missing_ok=True)
                continue
            if zone.state is ZoneState.PAUSED:
                await self._resume(zone)
            else:
                marker.unlink(missing_ok=True)

    def _tell(self, zone: Zone, image: Image, reference: Reference | None, comment: str) -> None:
        name = "" if reference is None else str(reference)
        labels = image.config.config.get("Labels") or {}
        self._bus.emit("image", "create", image.id, {**labels, "name": image.id})
        if reference is not None:
            self._bus.emit("image", "tag", image.id, {**labels, "name": name})
        self._lifecycle.emit(zone, "commit", comment=comment, imageID=image.id, imageRef=name)
