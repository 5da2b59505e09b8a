"""`docker cp`, `diff`, `export` on this machine: the plan for copier.py, its process and its streams."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

from dockerapi.errors import APIError, Forbidden, InvalidParameter, NotFound
from dockerapi.framing import StreamId
from gateway.hosts.command import Child, default_spawner
from gateway.hosts.inlet import Inlet, Outlet, pipe
from gateway.hosts.linux import copier
from gateway.hosts.linux.boot import Parts
from gateway.hosts.linux.zones import LinuxZones
from gateway.zones.host import ChangeKind, PathChange, PathStatus, Zone
from gateway.zones.spec import ZoneUUID

_ERRORS = {"not_found": NotFound, "invalid": InvalidParameter, "forbidden": Forbidden}
Plan = dict[str, Any]
_NOWHERE: Mapping[str, str] = {}


class LinuxFiles:
    """Satisfies gateway.zones.host.ZoneFiles."""

    def __init__(self, zones: LinuxZones, parts: Parts) -> None:
        self._zones = zones
        self._parts = parts

    async def status(self, uuid: ZoneUUID, path: str) -> PathStatus:
        """The last component is not followed, unless `path` ends in a slash."""
        async with (
            self._held(uuid) as (zone, sources),
            _running(await self._plan(zone, "status", path, sources)) as work,
        ):
            return _status(await work.result())

    async def read(
        self, uuid: ZoneUUID, path: str
    ) -> tuple[PathStatus, AsyncGenerator[bytes, None]]:
        """The zone may start and stop while its files are read."""
        result, blocks = await self._stream(uuid, "read", path)
        return _status(result), blocks

    async def export(self, uuid: ZoneUUID) -> AsyncGenerator[bytes, None]:
        """The root without volumes."""
        return (await self._stream(uuid, "export", ""))[1]

    async def layer(self, uuid: ZoneUUID) -> AsyncGenerator[bytes, None]:
        """What the zone's own directory of the overlay holds."""
        return (await self._stream(uuid, "layer", ""))[1]

    async def changes(self, uuid: ZoneUUID) -> Sequence[PathChange]:
        """The zone's own directory of the overlay against the image's."""
        async with (
            self._zones.held(uuid) as zone,
            _running(await self._plan(zone, "changes", "")) as work,
        ):
            found = (await work.result())["changes"]
        return [PathChange(path, ChangeKind(kind)) for path, kind in found]

    async def write(
        self,
        uuid: ZoneUUID,
        path: str,
        tar: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None:
        """The zone is held until all is written: nobody starts it on half of an archive."""
        async with self._held(uuid) as (zone, sources):
            plan = await self._plan(zone, "write", path, sources) | {
                "no_overwrite_dir_non_dir": no_overwrite_dir_non_dir,
                "user": (zone.metadata.user or None) if copy_uid_gid else None,
            }
            async with _running(plan, with_input=True) as work:
                await work.feed(tar)
                await work.result()

    async def _stream(
        self, uuid: ZoneUUID, operation: str, path: str
    ) -> tuple[Plan, AsyncGenerator[bytes, None]]:
        """The result, and the tar after it.  Once the result is there the process has its mounts."""
        async with self._held(uuid) as (zone, sources):
            context = _running(await self._plan(zone, operation, path, sources))
            work = await context.__aenter__()
            try:
                result = await work.result()
            except BaseException:
                await context.__aexit__(None, None, None)
                raise
        return result, _blocks(context, work)

    @asynccontextmanager
    async def _held(self, uuid: ZoneUUID) -> AsyncGenerator[tuple[Zone, Mapping[str, str]], None]:
        """The zone, and where those of its filesystems are that must be mounted first."""
        async with self._zones.held(uuid) as zone:
            if not zone.spec.filesystems:
                yield zone, {}
                return
            opened = self._parts.sources.open(zone)
            sources = await asyncio.to_thread(opened.__enter__)
            try:
                yield zone, sources
            finally:
                await asyncio.to_thread(opened.__exit__, None, None, None)

    async def _plan(
        self, zone: Zone, operation: str, path: str, sources: Mapping[str, str] = _NOWHERE
    ) -> Plan:
        root = await self._parts.datasets.reach(
            zone.uuid, compare=operation in ("changes", "layer"), is_mounted=zone.is_running
        )
        return root | {
            "op": operation,
            "path": path,
            "readonly": zone.metadata.runtime.readonly_rootfs,
            "mounts": [] if operation == "export" else _mounts(zone, sources),
            "tmpfs": [
                {"target": tmpfs.target, "readonly": "ro" in tmpfs.options}
                for tmpfs in zone.metadata.runtime.tmpfs
                if tmpfs.is_mount
            ],
        }


def _mounts(zone: Zone, sources: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "source": sources.get(filesystem.target, filesystem.source),
            "target": filesystem.target,
            "readonly": "ro" in filesystem.options,
        }
        for filesystem in zone.spec.filesystems
    ]


def _status(result: Plan) -> PathStatus:
    return PathStatus(
        name=result["name"],
        size=result["size"],
        mode=result["mode"],
        mtime_ns=result["mtime_ns"],
        link_target=result["link_target"],
    )


async def _blocks(
    context: AbstractAsyncContextManager[_Work], work: _Work
) -> AsyncGenerator[bytes, None]:
    try:
        async for block in work.output():
            yield block
        if await work.child.wait() != 0:
            raise APIError("copying ended early")
    finally:
        await context.__aexit__(None, None, None)


class _Work:
    """A copier under way."""

    def __init__(self, child: Child, output: int, tar: int) -> None:
        self.child = child
        # Not by the loop's pipe transports: see hosts/command.py.
        self._inlet = Inlet({output: pipe(output, StreamId.STDOUT)}, os.close)
        self._begun = b""
        self._tar = tar

    async def result(self) -> Plan:
        """Its first line; what it refused is raised."""
        line = await self._line()
        if not line:
            status = await self.child.wait()
            raise APIError(f"copying failed: the process ended with status {status}")
        result = copier.unpacked(line)
        if "error" in result:
            raise _ERRORS.get(result["error"], APIError)(result["message"])
        return result

    async def _line(self) -> bytes:
        parts = [self._begun]
        while b"\n" not in parts[-1] and (chunks := await self._inlet.next()):
            parts.append(b"".join(data for _, data in chunks))
        line, _, self._begun = b"".join(parts).partition(b"\n")
        return line

    async def output(self) -> AsyncGenerator[bytes, None]:
        """What comes after the result."""
        if self._begun:
            yield self._begun
        while chunks := await self._inlet.next():
            for _, data in chunks:
                yield data

    async def feed(self, blocks: AsyncIterator[bytes]) -> None:
        """All of an upload; what it does not want any more is read and dropped."""
        descriptor, self._tar = self._tar, -1
        os.set_blocking(descriptor, False)
        outlet = Outlet(descriptor)
        try:
            async for block in blocks:
                await outlet.write(block)
        finally:
            outlet.close()
            os.close(descriptor)

    def close(self) -> None:
        """Let go of its streams."""
        self._inlet.close()
        if self._tar >= 0:
            os.close(self._tar)
            self._tar = -1


@asynccontextmanager
async def _running(plan: Plan, *, with_input: bool = False) -> AsyncGenerator[_Work, None]:
    """A copier, gone when the block is left."""
    tar_read, tar_write = os.pipe2(os.O_CLOEXEC) if with_input else (-1, -1)
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    for descriptor in (out_write, *([tar_write] if with_input else [])):
        with suppress(OSError):  # more than the default needs no privilege up to pipe-max-size
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 1 << 20)
    try:
        child = await default_spawner().spawn(copier.command(plan), fds={0: tar_read, 1: out_write})
    except BaseException:
        for descriptor in (tar_write, out_read):
            if descriptor >= 0:
                os.close(descriptor)
        raise
    finally:
        for descriptor in (tar_read, out_write):
            if descriptor >= 0:
                os.close(descriptor)
    work = _Work(child, out_read, tar_write)
    try:
        yield work
    finally:
        work.close()
        child.kill()
        await child.wait()
