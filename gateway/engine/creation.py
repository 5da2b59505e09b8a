"""How a container comes to be: plan, volumes, leases, zone; all of it or nothing.

The thinking is translate's; here is the order in which things are made, and how they are unmade.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dockerapi.errors import APIError, Forbidden, InvalidParameter, NoSuchContainer, NotFound
from dockerapi.models.containers import ContainerCreate
from gateway.engine.events import Bus
from gateway.engine.roster import Roster
from gateway.engine.volumes import check_driver
from gateway.translate import from_zone, links, networking
from gateway.translate.facts import Identity, ImageFacts, Surroundings
from gateway.translate.mounts import ANONYMOUS_LABEL, MountPoint, inherit, inherited
from gateway.translate.to_zone import NO_IMAGE, Plan, mount_points, plan, zone_spec
from gateway.zones.host import Host, Network, Volume, Zone
from gateway.zones.metadata import Link
from gateway.zones.spec import Nic, ZoneUUID
from imgsources.catalog import Catalog

log = logging.getLogger(__name__)

_ANY_IMAGE = ImageFacts("", NO_IMAGE, {"Cmd": ["any"]})
"""Of an image that is not here, for what does not depend on it."""


class Creation:
    """Makes containers on one host."""

    def __init__(self, host: Host, catalog: Catalog, roster: Roster, bus: Bus) -> None:
        self._host = host
        self._catalog = catalog
        self._roster = roster
        self._bus = bus

    async def check(self, body: ContainerCreate, identity: Identity, around: Surroundings) -> None:
        """What is wrong with a body whatever its image is; InvalidParameter, NotSupported."""
        found = plan(body, _ANY_IMAGE, identity, around)
        if around.platform == "linux":
            await asyncio.to_thread(_check_sources, mount_points(found, ()))

    async def create(
        self, body: ContainerCreate, image: ImageFacts, identity: Identity, around: Surroundings
    ) -> tuple[Zone, tuple[str, ...]]:
        """The zone and the warnings.  The name must be reserved."""
        body = self._with_ids(body)
        found = plan(body, image, identity, self._as_seen(body, around))
        found = replace(found, links=self._linked(body))
        joined = {kind: self._joined_zone(kind, ref) for kind, ref in found.joins.items()}
        points = self._with_images(mount_points(found, self._inherited(body)))
        if around.platform == "linux" and any(point.must_exist for point in points):
            # Elsewhere the files are another machine's: its host looks for them.
            await asyncio.to_thread(_check_sources, points)
        made: list[Volume] = []
        uuid = ZoneUUID(identity.uuid)
        try:
            with self._roster.holding([point.name for point in points if point.name]):
                points = await self._with_volumes(points, uuid, made)
                nics, networks = self._lease(uuid, found)
                spec = zone_spec(found, nics=nics, points=points, joined=joined, networks=networks)
                zone = await self._host.zones.create(spec)
        except BaseException:
            self._host.networks.release(uuid)
            await self._remove_volumes(made)
            raise
        return zone, found.warnings

    def _as_seen(self, body: ContainerCreate, around: Surroundings) -> Surroundings:
        """Who joins another's network goes by the other's name."""
        owner = networking.target(networking.network_mode(body.host_config))
        if not owner:
            return around
        try:
            return replace(around, hostname=self._roster.find(owner).spec.hostname or "")
        except NoSuchContainer:
            return around  # missed at the start, as dockerd does

    def _with_ids(self, body: ContainerCreate) -> ContainerCreate:
        """`container:NAME` with the id in its place: it means the same container once that has another name."""
        host, found = body.host_config, dict[str, str]()
        for field in ("network_mode", "pid_mode", "ipc_mode"):
            if ref := networking.target(getattr(host, field)):
                with suppress(NoSuchContainer):
                    found[field] = f"container:{self._roster.find(ref).metadata.id}"
        return body.model_copy(update={"host_config": host.model_copy(update=found)})

    def _joined_zone(self, kind: str, ref: str) -> str:
        """UUID; for a network, which may be made later, the name that it will have."""
        if kind != "network":
            return self._joined(ref).uuid
        try:
            return self._roster.find(ref).uuid
        except NoSuchContainer:
            return ref

    def _linked(self, body: ContainerCreate) -> tuple[Link, ...]:
        """By id, so that they follow a rename."""
        found: list[Link] = []
        for name, alias in links.legacy(body.host_config):
            try:
                zone = self._roster.find(name)
            except NoSuchContainer as error:
                raise InvalidParameter(
                    f"could not get container for {name}: {error.message}"
                ) from error
            found.append(Link(id=zone.metadata.id, name=zone.spec.alias, alias=alias))
        return tuple(found)

    def _joined(self, ref: str) -> Zone:
        try:
            return self._roster.find(ref)
        except NoSuchContainer as error:
            # At create 404 means the image to clients: the CLI would pull it, and try again.
            raise InvalidParameter(error.message) from error

    def _inherited(self, body: ContainerCreate) -> list[MountPoint]:
        points: list[MountPoint] = []
        for entry in body.host_config.volumes_from or []:
            ref, writable = inherit(entry)
            points += inherited(from_zone.mount_points(self._joined(ref)), writable=writable)
        return points

    def _with_images(self, points: Sequence[MountPoint]) -> tuple[MountPoint, ...]:
        """Every image that is mounted is there and its folder is known; NoSuchImage."""
        return tuple(self._with_image(p) if p.type == "image" else p for p in points)

    def _with_image(self, point: MountPoint) -> MountPoint:
        if point.source:
            return point  # another container's
        image = self._catalog.get(point.name)
        if not image.uuid or image.type != "docker":
            raise InvalidParameter(f"image {point.name} has no layers that could be mounted")
        folder = self._host.image_folder(image.uuid)
        return replace(point, source=folder, image=image.id)

    async def _with_volumes(
        self, points: Sequence[MountPoint], owner: str, made: list[Volume]
    ) -> tuple[MountPoint, ...]:
        """Every volume exists and its folder is known; those that were new are put into `made`."""
        ready: list[MountPoint] = []
        for point in points:
            if point.type != "volume" or point.source:
                ready.append(point)
                continue
            name = point.name or secrets.token_hex(32)
            check_driver(name, point.driver)
            known = {volume.name for volume in self._host.volumes.list()}
            labels = dict(point.labels) | ({ANONYMOUS_LABEL: ""} if point.anonymous else {})
            volume = await self._host.volumes.create(
                name,
                labels=labels,
                options=dict(point.options),
                owner=owner if point.anonymous else "",
            )
            if name not in known:
                made.append(volume)
                self._bus.emit("volume", "create", name, {"driver": "local"})
            ready.append(replace(point, name=name, source=volume.mountpoint))
        return tuple(ready)

    async def _remove_volumes(self, made: Sequence[Volume]) -> None:
        for volume in made:
            try:
                await self._host.volumes.remove(volume.name)
            except APIError as error:
                log.warning("volume %s is left behind: %s", volume.name, error)

    def _lease(self, uuid: ZoneUUID, found: Plan) -> tuple[tuple[Nic, ...], dict[str, Network]]:
        """Addresses on every network that is there; and these networks by what the client called them.  What lacks an
        address here fails at start, as in dockerd."""
        nics: list[Nic] = []
        networks: dict[str, Network] = {}
        for name, settings in networking.endpoints(found.body).items():
            networking.refuse_unbuilt(settings, found.around.platform)
            with suppress(NotFound):
                networks[name] = self._host.networks.get(name)
            networking.check_created(name, settings, networks.get(name))
        # The network mode may name by its id what an endpoint names by its name: that is one network.
        wanted = {
            networks[request.network].id: request
            for request in found.requests
            if request.network in networks
        }
        for request in wanted.values():
            # Another container may have the address now, and be gone at the start.
            with suppress(Forbidden):
                nics.append(self._host.networks.lease(uuid, request))
        return tuple(nics), networks


def _check_sources(points: Sequence[MountPoint]) -> None:
    for point in points:
        if point.must_exist and not Path(point.source).exists():
            raise InvalidParameter(
                f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
            )
