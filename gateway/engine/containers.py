"""What `docker container` does: find the zone, refuse what its state does not allow, act, tell of it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import PurePath

from dockerapi.engine import AttachQuery, ListQuery, LogsQuery, LogStream
from dockerapi.errors import (
    APIError,
    Conflict,
    InvalidParameter,
    NameInUse,
    NoSuchContainer,
    NoSuchImage,
    NotFound,
    NotModified,
    NotRunning,
    NotSupported,
)
from dockerapi.filters import Filters
from dockerapi.framing import Stdio, StreamId
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate, ContainerUpdate
from gateway.engine import attach as attaching
from gateway.engine import listing, names
from gateway.engine.creation import Creation
from gateway.engine.events import Bus
from gateway.engine.execs import Execs
from gateway.engine.health import Checks
from gateway.engine.lifecycle import Lifecycle
from gateway.engine.log_forwarding import Forwarding
from gateway.engine.networks import Networks
from gateway.engine.pruning import OneAtATime, PruneTests
from gateway.engine.roster import Roster
from gateway.translate import from_zone, log_details, log_options
from gateway.translate import update as changing
from gateway.translate.facts import Identity, ImageFacts, Surroundings
from gateway.translate.signals import sent_signal, signal_name, signal_number
from gateway.translate.status import status
from gateway.zones import links
from gateway.zones.host import AttachStreams, Host, LogQuery, Network, Zone
from gateway.zones.metadata import encode
from gateway.zones.spec import ZoneState
from imgsources.catalog import Catalog, Image
from imgsources.oci import Platform, default_platform, fits, normalize, parse_platform, runnable

log = logging.getLogger(__name__)

_KILL_WAIT_S = 10


class Containers:
    """The containers of one host."""

    def __init__(
        self,
        host: Host,
        catalog: Catalog,
        *,
        roster: Roster,
        lifecycle: Lifecycle,
        bus: Bus,
        networks: Networks,
        execs: Execs,
        checks: Checks,
        forwarding: Forwarding,
        places: from_zone.Places,
        surroundings: Surroundings,
    ) -> None:
        self._host = host
        self._zones = host.zones
        self._catalog = catalog
        self._roster = roster
        self._lifecycle = lifecycle
        self._bus = bus
        self._networks_of = networks
        self._execs = execs
        self._checks = checks
        self._forwarding = forwarding
        self._places = places
        self._around = surroundings
        self._creation = Creation(host, catalog, roster, bus)
        self._rows = listing.Rows()
        self._shown_images: tuple[int, dict[tuple[str, str], str]] = (-1, {})
        self._removing: set[str] = set()
        self._pruning = OneAtATime()

    async def create(
        self, body: ContainerCreate, *, name: str | None, platform: str | None
    ) -> JSONObject:
        """{Id, Warnings}; everything that was made is gone if it fails."""
        if not body.model_fields_set - {"host_config", "networking_config"}:
            raise InvalidParameter("config cannot be empty in order to create a container")
        chosen = names.checked(name) if name else names.generate(self._roster.is_taken)
        identity = Identity(secrets.token_hex(32), chosen)
        try:
            image = self._image(body.image, platform)
        except NotFound:
            # As dockerd: a client pulls the image only for a container that can be.
            await self._creation.check(body, identity, self._around)
            raise
        facts = ImageFacts(
            image.id,
            image.uuid or "",
            image.config.config,
            image.config.platform.os,
            type=image.type,
            manifest=image.imgapi,
        )
        with self._roster.reserve(chosen, identity.docker_id):
            zone, warnings = await self._creation.create(body, facts, identity, self._around)
            self._lifecycle.known(zone)
            self._roster.add(zone)
        self._lifecycle.emit(zone, "create")
        # An image server's image is its platform's own.
        is_own = bool(platform) or image.type != "docker"
        told = [] if is_own else foreign_warnings(image.config.platform)
        return {"Id": identity.docker_id, "Warnings": [*warnings, *told]}

    def _image(self, name: str, platform: str | None) -> Image:
        if not name:
            raise InvalidParameter("no image specified: a container needs one")
        wanted = parse_platform(platform) if platform else None
        image = self._catalog.get(name)
        if wanted and not fits(wanted, image.config.platform):
            raise NotFound(
                f"image with reference {name} was found but its platform ({image.config.platform}) "
                f"does not match the specified platform ({platform})"
            )
        return image

    async def list(self, query: ListQuery) -> bytes:
        """The JSON array from kept rows."""
        zones, array = self._listed(query)
        if query.size:
            array = listing.with_size(array, [await self._size(zone) for zone in zones])
        return array

    def listed(self, query: ListQuery) -> bytes:
        """The same at once, without sizes."""
        return self._listed(query)[1]

    def _listed(self, query: ListQuery) -> tuple[Sequence[Zone], bytes]:
        networks = self._networks()
        lookup = listing.Lookup(self._roster.find, self._image_ids, networks, self._checks.of)
        zones = listing.select(self._roster.all(), query, lookup)
        array = self._rows.array(
            zones,
            image_name=self._image_names(),
            networks=networks,
            health=self._checks.of,
            names=self._roster.names(),
            now_ns=time.time_ns(),
        )
        return zones, array

    def _image_names(self) -> Callable[[Zone], str]:
        """What a row shows of its image; kept until the images change, for to look one up takes 10 us."""
        revision = self._catalog.revision
        if self._shown_images[0] != revision:
            self._shown_images = (revision, {})
        shown = self._shown_images[1]

        def image_name(zone: Zone) -> str:
            key = (zone.metadata.image_name, zone.metadata.image_id)
            if key not in shown:
                shown[key] = self._shown_image(*key)
            return shown[key]

        return image_name

    def _shown_image(self, name: str, image_id: str) -> str:
        """The name as long as it means this image, else the id."""
        try:
            return name if self._catalog.get(name).id == image_id else image_id
        except (NoSuchImage, InvalidParameter):
            return image_id

    def _image_ids(self, ref: str) -> frozenset[str]:
        """An image and everything made on top of it here; an unknown one has none."""
        try:
            left = [self._catalog.get(ref).id]
        except (NoSuchImage, InvalidParameter):
            return frozenset()
        found: set[str] = set()
        while left:
            image_id = left.pop()
            if image_id not in found:
                found.add(image_id)
                left += self._catalog.children(image_id)
        return frozenset(found)

    def _networks(self) -> dict[str, Network]:
        return {network.name: network for network in self._host.networks.list()}

    async def _size(self, zone: Zone) -> dict[str, int]:
        changed = await self._zones.root_size(zone.uuid)
        try:
            below = self._catalog.get(zone.metadata.image_id).size
        except NoSuchImage:
            below = 0
        return {"SizeRw": changed, "SizeRootFs": below + changed}

    def _find(self, ref: str) -> Zone:
        """The zone, and what has become of it told before anything is done to it."""
        zone = self._roster.find(ref)
        self._lifecycle.note(zone)
        return zone

    async def inspect(self, ref: str, *, size: bool) -> JSONObject:
        """The newest shape."""
        zone = self._find(ref)
        shown = from_zone.inspect(
            zone,
            networks=self._networks(),
            places=self._places,
            exec_ids=self._execs.of(zone.metadata.id),
            health=self._checks.of(zone),
            links=links.shown(zone, self._roster.linked(zone)),
        )
        return shown | await self._size(zone) if size else shown

    async def start(self, ref: str) -> None:
        """NotModified if it runs; what goes wrong stays in State.Error."""
        zone = self._find(ref)
        if zone.state is ZoneState.PAUSED:
            raise Conflict("cannot start a paused container, try unpause instead")
        if zone.metadata.id in self._removing:
            raise Conflict("container is marked for removal and cannot be started")
        if _is_up(zone):
            raise NotModified("")
        try:
            await self._check_networks(zone)
        except APIError as error:
            await self._zones.not_started(zone.uuid, error)
            await self._not_started(zone)
            raise
        try:
            started = await self._zones.start(zone.uuid)
        except NotModified:
            raise
        except APIError:
            await self._not_started(zone)
            raise
        self._lifecycle.note(started)

    async def _not_started(self, zone: Zone) -> None:
        """What is left of a failed start is State.Error, and with --rm nothing."""
        self._lifecycle.note(self._zones.get(zone.uuid))
        if from_zone.auto_remove(zone):
            await self.discard(zone)

    async def _check_networks(self, zone: Zone) -> None:
        """Each of its networks is there, and it has a nic on it."""
        await self._networks_of.ready(zone)

    async def stop(self, ref: str, *, signal: str | None, timeout_s: int | None) -> None:
        """NotModified if it does not run."""
        zone = self._find(ref)
        if not _is_up(zone):
            raise NotModified("")
        name = _asked_signal(signal, f"cannot stop container: {ref}")
        if zone.is_running:
            self._tell_kill(zone, name or _stop_signal(zone))
        self._lifecycle.stopping(zone)
        well = False
        try:
            zone = await self._zones.stop(zone.uuid, signal=name, timeout_s=timeout_s)
            self._lifecycle.note(zone)
            well = True
        finally:
            self._lifecycle.stopped(zone, well=well)

    async def restart(self, ref: str, *, signal: str | None, timeout_s: int | None) -> None:
        """Also of a container that does not run.  --rm survives it."""
        zone = self._find(ref)
        name = _asked_signal(signal, f"Cannot restart container {ref}")
        await self._check_networks(zone)
        if zone.is_running:
            self._tell_kill(zone, name or _stop_signal(zone))
        self._lifecycle.hold(zone, restarting=True)
        try:
            started = await self._zones.restart(zone.uuid, signal=name, timeout_s=timeout_s)
            if zone.state is ZoneState.RESTARTING:
                self._lifecycle.emit(zone, "stop")
            self._lifecycle.note(started)
        except APIError:
            await self._not_started(zone)
            raise
        finally:
            self._lifecycle.hold(zone, restarting=False)
        self._lifecycle.emit(started, "restart")
        if started.state is ZoneState.STOPPED and from_zone.auto_remove(started):
            await self.discard(started)

    async def kill(self, ref: str, *, signal: str) -> None:
        """KILL returns when the container is down, any other signal at once."""
        try:
            name = sent_signal(signal or "SIGKILL")
        except InvalidParameter as error:
            raise InvalidParameter(f"cannot kill container: {ref}: {error.message}") from error
        try:
            zone = self._find(ref)
        except NotFound as error:
            raise NotFound(f"cannot kill container: {ref}: {error.message}") from error
        if not _is_up(zone):
            raise Conflict(
                f"cannot kill container: {ref}: container {zone.metadata.id} is not running"
            )
        over = self._lifecycle.wait(zone, "not-running")
        try:
            if zone.is_running:
                self._tell_kill(zone, name)
            await self._zones.kill(zone.uuid, name)
            if name == "SIGKILL":
                async with asyncio.timeout(_KILL_WAIT_S):
                    await over
        except TimeoutError:
            log.warning("container %s did not end within %s s of SIGKILL", ref, _KILL_WAIT_S)
        finally:
            over.cancel()

    def _tell_kill(self, zone: Zone, name: str) -> None:
        self._lifecycle.emit(zone, "kill", signal=str(signal_number(name)))

    async def pause(self, ref: str) -> None:
        """Conflict unless it runs unpaused."""
        zone = self._find(ref)
        if zone.state is ZoneState.RESTARTING:
            raise Conflict(
                f"Container {zone.metadata.id} is restarting, wait until the container is running"
            )
        if not zone.is_running:
            raise NotRunning(zone.metadata.id)
        if zone.state is ZoneState.PAUSED:
            raise Conflict(f"Container {zone.metadata.id} is already paused")
        self._lifecycle.note(await self._zones.pause(zone.uuid))
        self._lifecycle.emit(zone, "pause")

    async def unpause(self, ref: str) -> None:
        """Refused with 500, as dockerd does, unless it is paused."""
        zone = self._find(ref)
        if zone.state is not ZoneState.PAUSED:
            raise APIError(f"Container {zone.metadata.id} is not paused")
        self._lifecycle.note(await self._zones.unpause(zone.uuid))
        self._lifecycle.emit(zone, "unpause")

    async def update(self, ref: str, body: ContainerUpdate) -> JSONObject:
        """{Warnings}."""
        changing.check(body, self._around)
        zone = self._roster.find(ref)
        spec, warnings = changing.updated(zone, body, self._around)
        self._lifecycle.emit(await self._zones.update(zone.uuid, spec), "update")
        return {"Warnings": list(warnings)}

    async def rename(self, ref: str, name: str) -> None:
        """The old name is free at once."""
        zone = self._find(ref)
        if not name:
            raise InvalidParameter("Neither old nor new names may be empty")
        new, old = self._new_name(name), zone.spec.alias
        if new == old:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        try:
            with self._roster.reserve(new, zone.metadata.id):
                renamed = await self._zones.rename(zone.uuid, new)
        except NameInUse as error:
            raise Conflict(f"Error when allocating new name: {error.message}") from error
        self._roster.free(old, zone.metadata.id)
        self._lifecycle.note(renamed)
        self._lifecycle.emit(renamed, "rename", oldName=f"/{old}")

    def _new_name(self, name: str) -> str:
        try:
            return names.checked(f"/{name.removeprefix('/')}")
        except InvalidParameter as error:
            raise InvalidParameter(f"Error when allocating new name: {error.message}") from error

    async def remove(self, ref: str, *, force: bool, volumes: bool, link: bool) -> None:
        """Anonymous volumes go with it where `volumes`."""
        zone = self._find(ref)
        if link:
            await self._unlink(ref)
            return
        if _is_up(zone) and not force:
            what = "and must be unpaused first" if zone.state is ZoneState.PAUSED else ""
            state = status(zone)
            raise Conflict(
                f'cannot remove container "{zone.spec.alias}": container is {state}'
                + (f" {what}" if what else ": stop the container before removing or force remove")
            )
        if zone.metadata.id in self._removing:
            raise Conflict(f"removal of container {ref} is already in progress")
        if not volumes:
            await self._keep_anonymous(zone)
        await self._delete(zone, volumes=volumes)

    async def _unlink(self, ref: str) -> None:
        """The link PARENT/ALIAS goes, both containers stay."""
        name, slash, alias = ref.removeprefix("/").partition("/")
        if not slash:
            raise APIError("Conflict, cannot remove the default link name of the container")
        owner = self._find(name)
        data = owner.metadata
        kept = tuple(link for link in data.runtime.links if link.alias != alias)
        runtime = data.runtime.model_copy(update={"links": kept})
        changed = encode(data.model_copy(update={"runtime": runtime}))
        metadata = owner.spec.internal_metadata | changed
        await self._zones.update(
            owner.uuid, owner.spec.model_copy(update={"internal_metadata": metadata})
        )

    async def prune(self, filters: Filters) -> JSONObject:
        """{ContainersDeleted, SpaceReclaimed}: all that do not run; their volumes stay."""
        filters.accept("label", "label!", "until")
        tests = PruneTests(filters, time.time_ns())
        deleted: list[str] = []
        reclaimed = 0
        with self._pruning.prune():
            for zone in self._roster.all():
                if not tests.hold(from_zone.labels(zone), zone.created_ns):
                    continue
                try:
                    size = await self._pruned(zone)
                except (NotFound, Conflict):
                    continue  # started, or removed by somebody else meanwhile
                if size is not None:
                    deleted.append(zone.metadata.id)
                    reclaimed += size
            self._bus.emit("container", "prune", "", {"reclaimed": str(reclaimed)})
        return {"ContainersDeleted": deleted or None, "SpaceReclaimed": reclaimed}

    async def _pruned(self, zone: Zone) -> int | None:
        """Bytes of what has been removed; None if it runs."""
        if _is_up(self._zones.get(zone.uuid)):
            return None
        size = await self._zones.root_size(zone.uuid)
        await self.remove(zone.metadata.id, force=False, volumes=False, link=False)
        return size

    async def discard(self, zone: Zone) -> None:
        """Remove for --rm: with its anonymous volumes; nothing happens if somebody else removes it."""
        known = self._roster.knows(zone.metadata.id)
        if known and zone.metadata.id not in self._removing:
            await self._delete(zone, volumes=True)

    async def _delete(self, zone: Zone, *, volumes: bool) -> None:
        self._removing.add(zone.metadata.id)
        try:
            if zone.is_running:
                self._tell_kill(zone, "SIGKILL")
            await self._forwarding.before_delete(zone)
            await self._zones.delete(zone.uuid)
            self._lifecycle.killed(zone)
            if volumes:
                # Before the container is told of as gone: who waits for that finds none of them.
                await self._remove_anonymous(zone)
        except NotFound as error:
            raise NoSuchContainer(zone.metadata.id) from error
        finally:
            self._removing.discard(zone.metadata.id)
            if not self._is_kept(zone):
                self.forget(zone)

    def is_removing(self, docker_id: str) -> bool:
        """Whether its removal is under way."""
        return docker_id in self._removing

    def _is_kept(self, zone: Zone) -> bool:
        """Whether the host has it still: its removal failed."""
        try:
            self._zones.get(zone.uuid)
        except NotFound:
            return False
        return True

    def vanished(self, zone: Zone) -> None:
        """The host tells that the zone is gone; a removal under way says so itself, when it is done."""
        if zone.metadata.id not in self._removing:
            self.forget(zone)

    def forget(self, zone: Zone) -> None:
        """The zone is gone, its leases with it: name, execs, rows; then everybody is told."""
        if not self._roster.drop(zone):
            return
        self._execs.forget(zone.metadata.id)
        self._checks.forget(zone)
        self._forwarding.forget(zone)
        self._rows.forget(zone.uuid)
        self._lifecycle.gone(zone)

    async def _keep_anonymous(self, zone: Zone) -> None:
        """Else the next start of the gateway would take what the client left for what it never knew of."""
        for point in from_zone.mount_points(zone):
            if point.anonymous:
                with suppress(NotFound):
                    await self._host.volumes.keep(point.name)

    async def _remove_anonymous(self, zone: Zone) -> None:
        names = [point.name for point in from_zone.mount_points(zone) if point.anonymous]
        if not names:
            return  # as of most: the others need not be looked through
        others = [other for other in self._roster.all() if other.uuid != zone.uuid]
        used = {p.name for other in others for p in from_zone.mount_points(other)}
        for name in names:
            if name not in used:
                try:
                    await self._host.volumes.remove(name)
                    self._bus.emit("volume", "destroy", name, {"driver": "local"})
                except NotFound:
                    continue

    async def resize(self, ref: str, height: int, width: int) -> None:
        """Conflict unless it runs."""
        zone = self._find(ref)
        if not zone.is_running:
            raise NotRunning(zone.metadata.id)
        await self._zones.resize(zone.uuid, height, width)
        self._lifecycle.emit(zone, "resize", height=str(height), width=str(width))

    async def wait(self, ref: str, condition: str) -> Awaitable[JSONObject]:
        """Registered when this returns."""
        return self._lifecycle.wait(self._find(ref), condition)

    async def attach(self, ref: str, query: AttachQuery) -> Stdio:
        """Also before start: nothing is lost."""
        zone = self._find(ref)
        keys = attaching.detach_keys(query.detach_keys)
        if zone.state is ZoneState.PAUSED:
            raise Conflict(f"container {ref} is paused, unpause the container before attach")
        if zone.state is ZoneState.RESTARTING:
            raise Conflict(f"container {ref} is restarting, wait until the container is running")
        tty = zone.metadata.tty
        if query.logs:
            try:
                _check_readable(zone)
            except NotSupported as error:
                # dockerd has answered by then: it tells it in the stream.
                return attaching.told(
                    StreamId.STDOUT, f"Error attaching: {error.message}\n", tty=tty
                )
        live = None
        if query.stream and attaching.has_part(zone.metadata, query):
            streams = AttachStreams(query.stdin, query.stdout, query.stderr, query.logs)
            live = await self._zones.attach(zone.uuid, streams)
        self._lifecycle.emit(zone, "attach")
        if live is None:
            past = self._past(zone, query) if query.logs else attaching.nothing()
            return attaching.Replay(past, tty=tty)
        return attaching.Attached(
            live,
            keys=keys if tty and query.stdin else b"",
            detached=lambda: self._lifecycle.emit(zone, "detach"),
        )

    def _past(self, zone: Zone, query: AttachQuery) -> AsyncIterator[tuple[StreamId, bytes]]:
        """What was written up to now."""
        return self._zones.logs(zone.uuid, LogQuery(stdout=query.stdout, stderr=query.stderr))

    async def logs(self, ref: str, query: LogsQuery) -> LogStream:
        """NotSupported where the driver keeps nothing."""
        if not (query.stdout or query.stderr):
            raise InvalidParameter("Bad parameters: you must choose at least one stream")
        zone = self._find(ref)
        _check_readable(zone)
        wanted = LogQuery(
            stdout=query.stdout,
            stderr=query.stderr,
            since_ns=query.since_ns,
            until_ns=query.until_ns,
            tail=query.tail,
            follow=query.follow,
            timestamps=query.timestamps,
            prefix=log_details.prefix(zone) if query.details else "",
            frames=not zone.metadata.tty,
        )
        blocks = self._zones.logs(zone.uuid, wanted)
        return LogStream(zone.metadata.tty, blocks, framed=wanted.frames)


def foreign_warnings(found: Platform) -> list[str]:
    """What a client that named no platform is told of an image that is not made for this machine."""
    own = default_platform()
    if normalize(found) in runnable(own):
        return []
    return [
        f"The requested image's platform ({found}) does not match the detected host platform ({own}) "
        "and no specific platform was requested"
    ]


def _is_up(zone: Zone) -> bool:
    """Running as dockerd counts it: waiting for its restart too."""
    return zone.is_running or zone.state is ZoneState.RESTARTING


def _asked_signal(signal: str | None, fault: str) -> str | None:
    """APIError for what is no signal, as dockerd has it: a client's fault only where it asks for a kill."""
    try:
        return signal_name(signal) if signal else None
    except InvalidParameter as error:
        raise APIError(f"{fault}: {error.message}") from error


def _stop_signal(zone: Zone) -> str:
    return signal_name(zone.metadata.runtime.stop_signal or "SIGTERM")


def _check_readable(zone: Zone) -> None:
    if not log_options.is_readable(zone.metadata.log_driver, zone.metadata.log_config):
        raise NotSupported("configured logging driver does not support reading")


def places(data_root: PurePath, exec_root: PurePath, host: Host, zpool: str) -> from_zone.Places:
    """What inspect needs of a host."""
    pool = PurePath("/", zpool) if host.facts.platform == "smartos" else None
    return from_zone.Places(data_root, exec_root, host.facts.storage_driver, pool)
