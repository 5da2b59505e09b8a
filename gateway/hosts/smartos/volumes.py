"""Volumes of the driver `local` on zfs: a dataset for each, which zones get as a lofs mount.

    POOL/zonegate/INSTANCE/volumes/NAME      zonegate:created_ns, labels, options, owner

Made with all its properties at once, so there are no halves.  A property holds less than labels may be long:
labels, labels.1, labels.2 ... are one text.  The listing is in memory; `zfs` runs for changes alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from weakref import WeakValueDictionary

from dockerapi.errors import APIError, InvalidParameter, NotFound
from gateway.hosts.smartos import whiteouts
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.localmounts import mounting
from gateway.hosts.volumes import LocalVolumes, check_options, size_of
from gateway.hosts.zfs import NAME_LIMIT, VALUE_LIMIT, ZFS
from gateway.zones.host import Volume

log = logging.getLogger(__name__)

_COPY_TIMEOUT_S = 3600.0
_TEXTS = ("labels", "options")


class ZFSVolumes(LocalVolumes):
    """Satisfies VolumeHost.  Make it by `open`; the dataset POOL/zonegate/INSTANCE is ours alone."""

    def __init__(self, gz: GlobalZone, parent: str, mountpoint: str) -> None:
        super().__init__()
        self._gz = gz
        self._zfs = ZFS(gz)
        self._parent = parent
        self._mountpoint = mountpoint
        self._filling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @classmethod
    async def open(cls, gz: GlobalZone, *, zpool: str, instance: str) -> ZFSVolumes:
        """Every volume of this instance."""
        parent = f"{zpool}/zonegate/{instance}/volumes"
        zfs = ZFS(gz)
        try:
            mountpoint = await zfs.get(parent, "mountpoint")
        except NotFound:
            await zfs.create(parent, {}, parents=True)
            mountpoint = await zfs.get(parent, "mountpoint")
        store = cls(gz, parent, mountpoint)
        await store._load()
        return store

    def _check(self, name: str, options: dict[str, str]) -> None:
        if len(self._dataset(name)) > NAME_LIMIT:
            raise InvalidParameter(f"create {name}: volume name is too long for a dataset of zfs")
        _quota(options)

    def _place(self, name: str) -> str:
        return f"{self._mountpoint}/{name}"

    async def _make(self, volume: Volume) -> None:
        """The option `size` becomes the dataset's quota."""
        wanted = properties(volume) | _quota(volume.options)
        await self._zfs.create(self._dataset(volume.name), wanted)

    async def _disown(self, volume: Volume) -> None:
        await self._zfs.inherit(self._dataset(volume.name), "zonegate:owner")

    async def _unmake(self, volume: Volume) -> None:
        """What a zone that is going down still holds is tried again for some seconds."""
        try:
            await self._zfs.destroy(self._dataset(volume.name))
        except NotFound:
            log.warning("volume %s was destroyed by somebody else", volume.name)

    async def used_bytes(self, name: str) -> int:
        """What it takes of the pool; NotFound."""
        self.get(name)
        return int(await self._zfs.get(self._dataset(name), "used"))

    async def copy_up(self, root: str, target: str, volume: Volume) -> None:
        """Fill an empty volume with what `root` has at `target`, as docker does at its first use.

        `root` is the folder of a zone's root (or of its image's, `ZFSDatasets.root`), `target` a path in it,
        resolved there: no link leads out.  To be called before the zone has the volume: once it is mounted
        over `target`, that shows itself.  Nothing happens if the volume is not empty, or if `target` is no
        directory.  Owners, modes and times are kept; hard links become files of their own.
        """
        found = await whiteouts.find_directory(self._gz, root, target)
        if found is None:
            return
        argv = ["bash", "-c", _COPY, "zonegate-copy", f"{root}/{found}", volume.mountpoint]
        # Two creations may find it empty at once.
        async with self._filling.setdefault(volume.name, asyncio.Lock()):
            await self._gz.run(argv, timeout_s=_COPY_TIMEOUT_S)

    def _dataset(self, name: str) -> str:
        return f"{self._parent}/{name}"

    async def _load(self) -> None:
        rows = await self._zfs.list(self._parent, ("mountpoint",), depth=1)
        own = await self._zfs.own_properties_below(self._parent) if rows else {}
        found = []
        for dataset, mountpoint in rows:
            name = dataset.removeprefix(f"{self._parent}/")
            try:
                found.append(volume_of(name, mountpoint, own.get(dataset, {})))
            except APIError as error:
                log.warning("dataset %s is left alone: %s", dataset, error)
        found.sort(key=lambda volume: volume.created_ns)
        self._volumes = {volume.name: volume for volume in found}


# cp of every platform: -R with -P takes links, devices and pipes for what they are.
_COPY = r"""
[[ -z $(ls -A "$2") ]] || exit 0
cd -P "$1" && cp -R -P -p ./. "$2"
"""


def properties(volume: Volume) -> dict[str, str]:
    """What a volume is, as properties of its dataset."""
    found = {"zonegate:created_ns": str(volume.created_ns)}
    if volume.owner:
        found["zonegate:owner"] = volume.owner
    for key in _TEXTS:
        text = json.dumps(getattr(volume, key))
        for number, at in enumerate(range(0, len(text), VALUE_LIMIT)):
            suffix = f".{number}" if number else ""
            found[f"zonegate:{key}{suffix}"] = text[at : at + VALUE_LIMIT]
    return found


def volume_of(name: str, mountpoint: str, found: Mapping[str, str]) -> Volume:
    """The volume that `properties` were made of; APIError if they are not a volume's."""
    try:
        return Volume(
            name=name,
            mountpoint=mountpoint,
            created_ns=int(found["zonegate:created_ns"]),
            owner=found.get("zonegate:owner", ""),
            labels=json.loads(_joined(found, "labels")),
            options=json.loads(_joined(found, "options")),
        )
    except (KeyError, ValueError) as error:
        raise APIError(f"its properties are not those of a volume: {error}") from error


def _joined(found: Mapping[str, str], key: str) -> str:
    text, number = found[f"zonegate:{key}"], 1
    while part := found.get(f"zonegate:{key}.{number}"):
        text, number = text + part, number + 1
    return text


def _quota(options: dict[str, str]) -> dict[str, str]:
    """The quota that the options ask for; InvalidParameter and NotSupported for the rest of them."""
    check_options(options)
    if not options:
        return {}
    size = size_of(options)
    if mounting(options) is not None:
        if size:
            raise InvalidParameter("quota size requested but no quota support")
        return {}
    return {"quota": str(size)} if size else {}
