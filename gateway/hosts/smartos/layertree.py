"""One layer on its way to a dataset: spooled, settled, cleared for, extracted, committed.

What is done to the tree is decided in layers.py; which datasets there are is the store's to know (datasets.py).
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dockerapi.errors import APIError, Conflict, InvalidParameter
from gateway.hosts.finishing import finish
from gateway.hosts.smartos import imgadm, layers, whiteouts
from gateway.hosts.smartos.imageplace import PARTIAL, ImagePlace
from gateway.hosts.tarstream import BadArchive
from imgsources.datasets import LayerInfo, Readable
from imgsources.oci import ImageUUID

T = TypeVar("T")

_APPLY_TIMEOUT_S = 3600.0
_ROUNDS = 45
"""Questions about the tree below: each follows one more level of links."""


class Drain:
    """The tree of a dataset that somebody else has made while we waited."""

    async def apply(self, tar: Readable) -> None:
        """Read it, for its digest's sake."""
        await _in_thread(lambda stop: _drained(_Stoppable(tar, stop)))


class LayerOnItsWay:
    """A dataset that is being made, under the name UUID-partial."""

    def __init__(
        self, place: ImagePlace, uuid: ImageUUID, origin: ImageUUID | None, layer: LayerInfo
    ) -> None:
        self._place = place
        self._gz = place.gz
        self._zfs = place.zfs
        self._uuid = uuid
        self._origin = origin
        self._layer = layer
        self._partial = place.dataset(uuid) + PARTIAL
        self._folder = f"{place.mountpoint}/{uuid}{PARTIAL}"
        self._is_begun = self._is_made = self._may_be_renamed = False
        self._token = secrets.token_hex(8)
        """Tells what we have made from what was there: a rename may have been done though we were told nothing."""
        self._said_bytes = 0
        self.bytes = 0

    async def apply(self, tar: Readable) -> None:
        """Spool, settle, make the dataset, clear the way, extract.  InvalidParameter names a refused entry."""
        spools: list[Path] = []
        try:
            layer = await self._read(tar, spools)
            plan = await self._settled(layer)
            if plan.changes_tar:
                await self._rewritten(plan, spools)
            self.bytes += layer.bytes
            await self._make()
            if plan.removals:
                await whiteouts.clear(self._gz, f"{self._folder}/root", plan.removals)
            if len(layer.records) > len(plan.dropped):
                await self._extract(spools[-1])
        except BadArchive as error:
            raise InvalidParameter(f"failed to register layer: {error}") from error
        except OSError as error:
            raise APIError(f"failed to register layer: {error.strerror or error}") from error
        finally:
            for path in spools:
                path.unlink(missing_ok=True)

    async def commit(self) -> None:
        """From here on it is an image.  Conflict if there is a dataset of that name that is not this layer."""
        await self._make()
        place, name = self._place, self._place.dataset(self._uuid)
        if self.bytes != self._said_bytes:
            await self._zfs.set(self._partial, {"zonegate:bytes": str(self.bytes)})
        await self._zfs.snapshot(f"{self._partial}@final")
        await imgadm.write_entry(
            self._gz,
            place.root,
            imgadm.layer_manifest(self._uuid, self._origin, self._layer),
            zpool=place.zpool,
            source=imgadm.source_of(self._layer),
        )
        self._may_be_renamed = True
        try:
            await self._zfs.rename(self._partial, name)
        except Conflict:
            # Made by us and forgotten by imgadm's database: it has an entry again.
            if (await self._zfs.own_properties(name)).get("zonegate:digest") != self._layer.digest:
                raise
            await self._zfs.destroy(self._partial)
            await self._zfs.set(name, {place.claim: "yes"})

    async def discard(self, *, keep_entry: bool = False) -> None:
        """Nothing is left; of what cannot be reached now, nothing after the next start."""
        if not self._is_begun:
            return
        place = self._place
        await place.quietly(self._zfs.destroy(self._partial))
        if self._may_be_renamed:
            await place.quietly(self._destroy_if_ours(place.dataset(self._uuid)))
        if not keep_entry:
            await place.quietly(self._gz.remove(place.entry(self._uuid)))

    # --- steps

    async def _destroy_if_ours(self, name: str) -> None:
        if (await self._zfs.own_properties(name)).get("zonegate:token") == self._token:
            await self._zfs.destroy(name)

    async def _read(self, tar: Readable, spools: list[Path]) -> layers.Layer:
        path = self._new_spool(spools)

        def work(stop: threading.Event) -> layers.Layer:
            read = _Stoppable(tar, stop).read
            with path.open("xb", buffering=1 << 20) as out:
                free = os.fstatvfs(out.fileno())
                return layers.read_layer(read, out, free.f_bavail * free.f_frsize)

        return await _in_thread(work)

    async def _settled(self, layer: layers.Layer) -> layers.Plan:
        below = self._below()
        lower: dict[bytes, bytes] | None = None if below is None else {}
        for _ in range(_ROUNDS):
            plan = await asyncio.to_thread(layers.settle, layer, lower)
            if not plan.unknown or lower is None or below is None:
                return plan
            lower |= await whiteouts.look(self._gz, below, plan.unknown)
        raise BadArchive(f"links of the lower layers: {os.strerror(errno.ELOOP)}")

    def _below(self) -> str | None:
        """The tree that this layer comes on top of."""
        if self._is_made:
            return f"{self._folder}/root"
        return None if self._origin is None else f"{self._place.mountpoint}/{self._origin}/root"

    async def _rewritten(self, plan: layers.Plan, spools: list[Path]) -> None:
        source, target = spools[-1], self._new_spool(spools)

        def work(_: threading.Event) -> None:
            with source.open("rb") as read, target.open("xb", buffering=1 << 20) as out:
                layers.rewrite(read.read, out, plan)

        await _in_thread(work)

    async def _make(self) -> None:
        """The dataset with an empty root, or its origin's; once."""
        if self._is_made:
            return
        self._is_begun = True
        try:
            await self._clone_or_create()
        except Conflict:
            # What a killed imgadm left: we hold its lock.
            await self._zfs.destroy(self._partial)
            await self._clone_or_create()
        self._is_made = True

    async def _clone_or_create(self) -> None:
        layer, self._said_bytes = self._layer, self.bytes
        properties = {
            self._place.claim: "yes",
            "zonegate:digest": layer.digest,
            "zonegate:diff_id": layer.diff_id,
            "zonegate:size": str(layer.size),
            "zonegate:bytes": str(self.bytes),
            "zonegate:token": self._token,
        }
        if self._origin is not None:
            origin = self._place.dataset(self._origin)
            await self._zfs.clone(f"{origin}@final", self._partial, properties)
        else:
            await self._zfs.create(self._partial, properties)
            await self._gz.make_folder(f"{self._folder}/root")

    async def _extract(self, spool: Path) -> None:
        path = str(spool)
        if not self._gz.is_local:
            path = f"{self._place.far_spool}/{spool.name}"
            await self._gz.upload(spool, path)
        try:
            await self._gz.run(
                ["chroot-gtar", self._folder, "root", path, "none"], timeout_s=_APPLY_TIMEOUT_S
            )
        except APIError as error:
            raise _gtar_failure(error) from error
        finally:
            if not self._gz.is_local:
                await self._place.quietly(self._gz.remove(path))

    def _new_spool(self, spools: list[Path]) -> Path:
        name = f"{self._place.spool_start}{self._uuid}-{secrets.token_hex(4)}.tar"
        spools.append(self._place.spool / name)
        return spools[-1]


class _Stopped(Exception):
    """Nobody waits for the thread any more."""


class _Stoppable:
    """A stream that ends a thread's work when it is not wanted any more."""

    def __init__(self, stream: Readable, stop: threading.Event) -> None:
        self._stream = stream
        self._stop = stop

    def read(self, size: int, /) -> bytes:
        """Of the stream."""
        if self._stop.is_set():
            raise _Stopped
        return self._stream.read(size)


def _drained(stream: Readable) -> None:
    while stream.read(1 << 20):
        pass


async def _in_thread(work: Callable[[threading.Event], T]) -> T:
    """The result of blocking work; a cancelled caller stops it, and waits until it has ended."""
    stop = threading.Event()
    return await finish(None, lambda: work(stop), on_cancel=stop.set)


def _gtar_failure(error: APIError) -> APIError:
    """tar goes on after what it cannot do, and its last line says nothing: the first one does."""
    text = error.detail or error.message
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(os.strerror(errno.ENOSPC) in line for line in lines):
        return APIError("failed to register layer: no space left on device", detail=text)
    return APIError(f"failed to register layer: {lines[0] if lines else error}", detail=text)
