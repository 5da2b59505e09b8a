"""Who is who: containers by full id, name and unique id prefix; names reserved while one is made.

The zones are the host's; this only keeps the ways to find them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from dockerapi.errors import InvalidParameter, NameInUse, NoSuchContainer, NotFound
from gateway.translate.facts import zone_uuid
from gateway.zones import links
from gateway.zones.host import Zone, ZoneHost
from gateway.zones.spec import ZoneUUID


class Roster:
    """Lookup over the host's zones."""

    def __init__(self, zones: ZoneHost) -> None:
        self._zones = zones
        self._names: dict[str, str] = {}
        self._ids: dict[str, ZoneUUID] = {}
        self._held: Counter[str] = Counter()
        self._linking: dict[ZoneUUID, None] = {}
        """Zones that were made with legacy links; they may have lost them since."""
        for zone in zones.list():
            self.add(zone)

    def add(self, zone: Zone) -> None:
        """A zone is there from now on."""
        self._ids[zone.metadata.id] = zone.uuid
        self._names[zone.spec.alias] = zone.metadata.id
        if zone.metadata.runtime.links:
            self._linking[zone.uuid] = None

    def drop(self, zone: Zone) -> bool:
        """It is gone, its name free; False if it was gone before."""
        if self._names.get(zone.spec.alias) == zone.metadata.id:
            del self._names[zone.spec.alias]
        self._linking.pop(zone.uuid, None)
        return self._ids.pop(zone.metadata.id, None) is not None

    def knows(self, docker_id: str) -> bool:
        """Whether a container of this full id is there."""
        return docker_id in self._ids

    def is_taken(self, name: str) -> bool:
        """Whether a container has or gets this name."""
        return name in self._names

    @contextlib.contextmanager
    def reserve(self, name: str, docker_id: str) -> Iterator[None]:
        """Hold a name; it stays taken if the block ends well.  NameInUse."""
        holder = self._names.setdefault(name, docker_id)
        if holder != docker_id:
            raise NameInUse(name, holder)
        try:
            yield
        except BaseException:
            if self._names.get(name) == docker_id:
                del self._names[name]
            raise

    @property
    def making(self) -> set[str]:
        """UUIDs of zones whose name is reserved and which are not there yet."""
        return {zone_uuid(one) for one in self._names.values() if one not in self._ids}

    @property
    def held(self) -> set[str]:
        """Names of volumes that a container is being made with, which no zone shows yet."""
        return set(self._held)

    @contextlib.contextmanager
    def holding(self, volumes: Sequence[str]) -> Iterator[None]:
        """Inside, these volumes are in use."""
        self._held.update(volumes)
        try:
            yield
        finally:
            self._held -= Counter(volumes)

    def free(self, name: str, docker_id: str) -> None:
        """Give up a name that `docker_id` had."""
        if self._names.get(name) == docker_id:
            del self._names[name]

    def all(self) -> Sequence[Zone]:
        """Every zone, oldest first."""
        return self._zones.list()

    def find(self, ref: str) -> Zone:
        """By full id, then name, then unique prefix of an id; NoSuchContainer."""
        uuid = self._uuid(ref)
        try:
            return self._zones.get(uuid)
        except NotFound as error:
            raise NoSuchContainer(ref) from error

    def get(self, docker_id: str) -> Zone:
        """By full id only."""
        if docker_id not in self._ids:
            raise NoSuchContainer(docker_id)
        return self._zones.get(ZoneUUID(zone_uuid(docker_id)))

    def _linked(self, ref: str, name: str) -> ZoneUUID:
        """PARENT/ALIAS, as a legacy link names the container that it leads to."""
        owner, _, alias = name.partition("/")
        docker_id = self._names.get(owner, "")
        parent = self._zones.get(self._ids[docker_id]) if docker_id in self._ids else None
        for link in parent.metadata.runtime.links if parent else ():
            if link.alias == alias and link.id in self._ids:
                return self._ids[link.id]
        raise NoSuchContainer(ref)

    def names(self) -> Mapping[str, tuple[str, ...]]:
        """Further names of linked containers, by id."""
        # Few have any: to ask all took 4 of 7 ms of a list of a thousand.
        return links.names(self._owners_of_links())

    def _owners_of_links(self) -> Iterator[Zone]:
        for uuid in self._linking:
            with contextlib.suppress(NotFound):  # it goes just now
                yield self._zones.get(uuid)

    def linked(self, zone: Zone) -> tuple[links.Linked, ...]:
        """Where the legacy links of a zone lead."""
        return links.linked(zone, self._known)

    def _known(self, docker_id: str) -> Zone | None:
        uuid = self._ids.get(docker_id)
        return self._zones.get(uuid) if uuid else None

    def _uuid(self, ref: str) -> ZoneUUID:
        name = ref.removeprefix("/")
        if not ref:
            raise InvalidParameter('invalid name or ID supplied: ""')
        if not name:
            raise NoSuchContainer(ref)
        if name in self._ids:
            return self._ids[name]
        if (docker_id := self._names.get(name)) in self._ids:
            return self._ids[docker_id]
        if "/" in name:
            return self._linked(ref, name)
        found = [uuid for known, uuid in self._ids.items() if known.startswith(name)]
        if len(found) > 1:
            raise InvalidParameter(f"multiple IDs found with provided prefix: {ref}")
        if not found:
            raise NoSuchContainer(ref)
        return found[0]
