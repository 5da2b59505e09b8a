"""What `docker image` does, over the catalog and the puller."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path

from dockerapi.errors import (
    APIError,
    Conflict,
    InvalidParameter,
    NoSuchImage,
    NotFound,
    NotSupported,
)
from dockerapi.filters import Filters
from dockerapi.models.base import JSONObject
from dockerapi.models.system import AuthConfig
from gateway.engine import deletion, image_shapes
from gateway.engine.events import Bus
from gateway.engine.imagefiles import ImageFiles, check_platform
from gateway.engine.progress import message
from gateway.engine.pruning import OneAtATime, PruneTests
from gateway.engine.roster import Roster
from gateway.translate import from_zone
from gateway.zones.host import Zone
from imgsources.catalog import Catalog, Image
from imgsources.datasets import DatasetStore
from imgsources.imgapi import ImageServers, is_uuid
from imgsources.oci import Digest, Platform, chain_ids, parse_digest, parse_platform
from imgsources.puller import Puller
from imgsources.references import Reference
from imgsources.registry import RegistryClient
from imgsources.sources import RemoteImage

log = logging.getLogger(__name__)

Records = list[JSONObject]
Ids = list[str]

_SEARCH_LIMIT, _MAX_SEARCH_LIMIT = 25, 100
_FILTERS = ("before", "dangling", "label", "label!", "reference", "since", "until")


class Images:
    """The images of one host."""

    def __init__(
        self,
        catalog: Catalog,
        puller: Puller,
        *,
        datasets: DatasetStore,
        registry: Callable[[AuthConfig | None], RegistryClient],
        roster: Roster,
        bus: Bus,
        spool: Path,
        storage_driver: str,
        servers: ImageServers | None = None,
    ) -> None:
        self._catalog = catalog
        self._puller = puller
        self._datasets = datasets
        self._registry = registry
        self._roster = roster
        self._bus = bus
        self._storage_driver = storage_driver
        self._pruning = OneAtATime()
        self.files = ImageFiles(catalog, puller, spool=spool, emit=self.emit)
        self._servers = servers

    async def pull(
        self, name: str, *, tag: str, platform: str, auth: AuthConfig | None
    ) -> AsyncIterator[JSONObject]:
        """Progress messages; what cannot be resolved is an error at once."""
        reference = _pulled(name, tag)
        if is_uuid(reference.familiar_name):
            name = reference.familiar_name  # newer CLIs send docker.io/library/UUID
        wanted = parse_platform(platform) if platform else None
        if self._servers is not None and (is_uuid(name) or self._servers.serve(reference)):
            return await self._pull_zone(name, reference, self._servers, wanted)
        source = self._registry(auth)
        if reference.tag is None and reference.digest is None:
            tags = [reference.with_tag(tag) for tag in await source.list_tags(reference)]
            return self._all_of(reference, self._pull(tags, source, wanted))
        return self._pull([reference], source, wanted)

    async def _pull_zone(
        self,
        name: str,
        reference: Reference,
        servers: ImageServers,
        platform: Platform | None,
    ) -> AsyncIterator[JSONObject]:
        """An image server's, by UUID, by version, or every version."""
        if not self._puller.can_import:
            raise NotSupported(
                f"{name} is an image for SmartOS zones: this host runs images of registries only"
            )
        if is_uuid(name):
            return self._import(None, await servers.resolve_uuid(name, platform))
        if reference.tag is not None or reference.digest is not None:
            return self._import(reference, await servers.resolve(reference, platform))
        tags = [reference.with_tag(tag) for tag in await servers.list_tags(reference)]
        return self._all_of(reference, self._import_each(tags, servers, platform))

    async def _import_each(
        self, references: Sequence[Reference], servers: ImageServers, platform: Platform | None
    ) -> AsyncGenerator[JSONObject, None]:
        for reference in references:
            remote = await servers.resolve(reference, platform)
            async with contextlib.aclosing(self._import(reference, remote)) as lines:
                async for line in lines:
                    yield line

    async def _import(
        self, reference: Reference | None, remote: RemoteImage
    ) -> AsyncGenerator[JSONObject, None]:
        async with contextlib.aclosing(self._puller.import_image(reference, remote)) as events:
            async for event in events:
                yield message(event)
        image = self._catalog.get(remote.config.digest)
        name = reference or remote.reference
        self.emit(image, "pull", str(name or image.uuid), name.familiar_name if name else image.id)

    async def _all_of(
        self, repository: Reference, pulls: AsyncGenerator[JSONObject, None]
    ) -> AsyncIterator[JSONObject]:
        """All tags, with one status for all of them, as dockerd tells it."""
        word = "Image is up to date"
        async with contextlib.aclosing(pulls) as lines:
            async for line in lines:
                status = str(line.get("status", ""))
                if not status.startswith("Status: "):
                    yield line
                elif "newer image" in status:
                    word = "Downloaded newer image"
        yield {"status": f"Status: {word} for {repository}"}

    async def _pull(
        self, references: Sequence[Reference], source: RegistryClient, platform: Platform | None
    ) -> AsyncGenerator[JSONObject, None]:
        for reference in references:
            events = await self._puller.pull(reference, source, platform=platform)
            async with contextlib.aclosing(events):
                async for event in events:
                    yield message(event)
            image = self._catalog.get(str(reference))
            self.emit(image, "pull", str(reference), reference.familiar_name)
            try:
                check_platform(image, str(reference), platform)
            except NotFound as error:
                yield {"status": f"WARNING: {error.message}"}

    async def list(
        self, *, all: bool, digests: bool, shared_size: bool, filters: Filters
    ) -> Sequence[JSONObject]:
        """Newest first.  An image without a name that another was committed on top of shows with `all`."""
        filters.accept(*_FILTERS)
        images = self._catalog.images()
        rows: Records = []
        tests = image_shapes.ImageTests(filters, self._catalog.get, time.time_ns())
        shared = await self._shared(images) if shared_size else {}
        users = Counter(zone.metadata.image_id for zone in self._roster.all())
        for image in images:
            is_between = not image.references and bool(self._catalog.children(image.id))
            if not tests.holds(image) or (is_between and (not all or filters.boolean("dangling"))):
                continue
            tags, repo_digests = tests.names(image)
            if "reference" in filters and not tags and not repo_digests:
                continue
            rows.append(
                image_shapes.row(
                    image,
                    tags,
                    repo_digests,
                    shared_size=shared.get(image.id, -1),
                    containers=users[image.id],
                )
            )
        return sorted(rows, key=lambda row: int(row["Created"]), reverse=True)

    async def _shared(self, images: Sequence[Image]) -> dict[str, int]:
        """Bytes of the layers that another image has too."""
        counts = Counter(uuid for image in images for uuid in image.uuids)
        sizes = {uuid: await self._datasets.used_bytes(uuid) for uuid, n in counts.items() if n > 1}
        return {image.id: sum(sizes.get(u, 0) for u in image.uuids) for image in images}

    async def inspect(self, name: str) -> JSONObject:
        """NoSuchImage."""
        return image_shapes.inspect(self._catalog.get(name), self._storage_driver)

    async def history(self, name: str) -> Sequence[JSONObject]:
        """Newest entry first; layers with their unpacked sizes."""
        image = self._catalog.get(name)
        sizes = [await self._datasets.used_bytes(uuid) for uuid in image.uuids]
        return image_shapes.history(image, sizes, self._catalog.ancestors(image))

    async def search(
        self, term: str, *, limit: int, filters: Filters, auth: AuthConfig | None
    ) -> Sequence[JSONObject]:
        """The Hub's, or the registry's that the term names; with image servers theirs before the Hub's."""
        filters.accept("is-automated", "is-official", "stars")
        official, stars = filters.boolean("is-official"), _stars(filters)
        # dockerd: nothing is automated any more, and filtering for it gives nothing.
        if filters.boolean("is-automated"):
            return []
        if "://" in term:
            raise InvalidParameter(
                f"invalid repository name: repository name ({term}) should not have a scheme"
            )
        wanted = limit or _SEARCH_LIMIT
        if wanted > _MAX_SEARCH_LIMIT:
            raise InvalidParameter(
                f"limit {limit} is outside the range of [1, {_MAX_SEARCH_LIMIT}]"
            )
        rows = await self._search(term, wanted, auth)
        return [
            row | {"is_automated": False}
            for row in rows[:wanted]
            if official in (None, bool(row.get("is_official")))
            and int(row.get("star_count") or 0) >= stars
        ]

    async def _search(self, term: str, limit: int, auth: AuthConfig | None) -> Records:
        registry, servers = self._registry(auth), self._servers
        if servers is None or not self._puller.can_import:
            return await registry.search(term, limit)
        if servers.names(term):
            return await servers.search(term, limit)
        try:
            own = await servers.search(term, limit)
        except APIError as error:
            log.warning("searching the image servers: %s", error)
            return await registry.search(term, limit)
        try:
            return own + await registry.search(term, limit)
        except APIError as error:
            # A machine that reaches the image servers alone still finds what it can run.
            log.warning("searching the registry: %s", error)
            if not own:
                raise
            return own

    async def tag(self, name: str, *, repo: str, tag: str) -> None:
        """One more name; whoever had it loses it."""
        image = self._catalog.get(name)
        reference = Reference.parse(repo)
        if tag:
            if not re.fullmatch(r"[\w][\w.-]{0,127}", tag, re.ASCII):
                raise InvalidParameter("invalid tag format")
            reference = reference.with_tag(tag)
        reference = reference.with_default_tag()
        await asyncio.to_thread(self._catalog.tag, image.id, reference, now_ns=time.time_ns())
        self.emit(image, "tag", image.id, str(reference))

    async def remove(self, name: str, *, force: bool, noprune: bool) -> Sequence[JSONObject]:
        """What was untagged and deleted; with it go parents without a name that nothing needs, unless `noprune`."""
        if not name.strip():
            raise InvalidParameter("image name cannot be blank")
        image = self._catalog.get(name)
        records: Records = []
        running, stopped = self._users(image)
        has_children = bool(self._catalog.children(image.id))
        if not deletion.is_id_prefix(image, name) and name != image.uuid:
            deletion.check_untag(image, name, running + stopped, force=force)
            await self._untag(image, Reference.parse(name), records)
            image = self._catalog.get(image.id)
            # The name is gone; the image stays where other names or containers hold it.
            if has_children or deletion.names(image) or running or (stopped and not force):
                return records
        else:
            deletion.check_delete(
                image,
                _short(running),
                _short(stopped),
                force=force,
                ignores_names=deletion.is_single(image),
                has_children=has_children,
            )
        above = () if noprune else self._catalog.ancestors(image)
        await self._delete(image, records)
        await self._prune(above, records)
        return records

    async def _prune(self, ancestors: Sequence[Image], records: Records) -> None:
        """Parents of a removed image, until one that has a name, a container or another child."""
        for image in ancestors:
            is_needed = deletion.names(image) or any(self._users(image))
            if is_needed or self._catalog.children(image.id):
                return
            await self._delete(image, records)

    async def prune(self, filters: Filters) -> JSONObject:
        """{ImagesDeleted, SpaceReclaimed}: those without a tag; with dangling=false all that no container uses."""
        filters.accept("dangling", "label", "label!", "until")
        with_names = filters.boolean("dangling") is False
        tests = PruneTests(filters, time.time_ns())
        records: Records = []
        reclaimed = 0
        with self._pruning.prune():
            for image in self._catalog.images():
                labels = image.config.config.get("Labels")
                if tests.hold(labels, image_shapes.created_ns(image)):
                    sizes = await self._layer_sizes(image)
                    gone = await self._pruned(image, with_names=with_names)
                    records += gone
                    reclaimed += sum(sizes.get(str(row.get("Deleted")), 0) for row in gone)
            self._bus.emit("image", "prune", "", {"reclaimed": str(reclaimed)})
        return {"ImagesDeleted": records or None, "SpaceReclaimed": reclaimed}

    async def _pruned(self, image: Image, *, with_names: bool) -> Records:
        """What went of an image; nothing if it has to stay."""
        try:
            image = self._catalog.get(image.id)
        except NoSuchImage:
            return []  # it went with a child
        has_children = bool(self._catalog.children(image.id))
        names = [str(name) for name in deletion.names(image)]
        if (image.references and not with_names) or (has_children and not names):
            return []
        gone: Records = []
        for name in names or [image.id]:
            try:
                gone += await self.remove(name, force=False, noprune=False)
            except (Conflict, NoSuchImage):
                continue  # in use, or gone with the name before it
        return gone

    async def _layer_sizes(self, image: Image) -> dict[str, int]:
        """Bytes by chain id: the image's own layers and thereby its parents'."""
        chain = chain_ids(image.config.diff_ids)
        return {
            chain_id: await self._datasets.used_bytes(uuid)
            for chain_id, uuid in zip(chain, image.uuids, strict=False)
        }

    def _users(self, image: Image) -> tuple[Ids, Ids]:
        """Ids of the containers made of it, or with it mounted: running, and not."""
        zones = [zone for zone in self._roster.all() if _uses(zone, image.id)]
        running = [zone.metadata.id for zone in zones if zone.is_running]
        return running, [z.metadata.id for z in zones if not z.is_running]

    async def _untag(self, image: Image, reference: Reference, records: Records) -> None:
        gone = await asyncio.to_thread(self._catalog.untag, reference)
        records.extend({"Untagged": text} for text in gone)
        if gone:  # a digest that goes with the last tag is not told of
            self.emit(image, "untag", image.id, image.id)

    async def _delete(self, image: Image, records: Records) -> None:
        while names := deletion.names(image):
            await self._untag(image, names[0], records)
            image = self._catalog.get(image.id)
        await asyncio.to_thread(self._catalog.remove, image.id)
        self.emit(image, "delete", image.id, image.id)
        records.append({"Deleted": image.id})
        records += [{"Deleted": chain} for chain in self._unneeded(image)]
        await self._puller.collect()

    def _unneeded(self, image: Image) -> Ids:
        """Chain ids of the layers that go with a removed image, topmost first."""
        running, stopped = self._users(image)
        if running or stopped:
            return []
        kept = {
            chain for other in self._catalog.images() for chain in chain_ids(other.config.diff_ids)
        }
        return [c for c in reversed(chain_ids(image.config.diff_ids)) if c not in kept]

    def is_gone_from_under(self, zone: Zone) -> bool:
        """Whether an image that a zone stood on was removed by force while it did: its layers wait for the zone's end."""
        images = [zone.metadata.image_id, *(p.image for p in from_zone.mount_points(zone))]
        return any(image and not self._catalog.config(Digest(image)) for image in images)

    def emit(self, image: Image, action: str, actor: str, name: str) -> None:
        """Tell of an event."""
        labels = image.config.config.get("Labels") or {}
        self._bus.emit("image", action, actor, {**labels, "name": name})


def _uses(zone: Zone, image_id: str) -> bool:
    if zone.metadata.image_id == image_id:
        return True
    return any(point.image == image_id for point in from_zone.mount_points(zone))


def _short(ids: Sequence[str]) -> list[str]:
    return [text[:12] for text in ids]


def _stars(filters: Filters) -> int:
    try:
        return max((int(text) for text in filters.get("stars")), default=0)
    except ValueError as error:
        raise InvalidParameter(f"invalid filter 'stars={filters.get('stars')[0]}'") from error


def _pulled(name: str, tag: str) -> Reference:
    """`tag` may be a digest; without any tag all of them are meant."""
    reference = Reference.parse(name)
    if reference.digest is not None or not tag:
        return reference
    if ":" in tag:
        try:
            return reference.with_digest(parse_digest(tag))
        except ValueError as error:
            raise InvalidParameter("invalid reference format") from error
    return reference.with_tag(tag)
