"""zfs(8): the few commands of it that hosts need, and what its refusals mean."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol

from dockerapi.errors import APIError, CommandFailed, Conflict, NotFound

VALUE_LIMIT = 1000
"""Bytes of a user property's value: illumos refuses 1024 and more."""

NAME_LIMIT = 255

_TIMEOUT_S = 120.0
_BUSY_TRIES = 20
_BUSY_PAUSE_S = 0.25
_BUSY = ("is busy", "device busy")


class Machine(Protocol):
    """Where zfs is run."""

    def run(self, argv: Sequence[str], *, timeout_s: float) -> Awaitable[bytes]:
        """Its standard output; CommandFailed."""
        ...


class ZFS:
    """Commands on one machine.  NotFound, Conflict, and APIError with zfs's words for the rest."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def create(
        self, name: str, properties: Mapping[str, str], *, parents: bool = False
    ) -> None:
        """A file system.  Conflict if it is there."""
        await self._run("create", *(["-p"] if parents else []), *_options(properties), name)

    async def clone(self, snapshot: str, name: str, properties: Mapping[str, str]) -> None:
        """NotFound if there is no such snapshot, Conflict if there is such a dataset."""
        await self._run("clone", *_options(properties), snapshot, name)

    async def snapshot(self, name: str) -> None:
        """`dataset@snapshot`."""
        await self._run("snapshot", name)

    async def mount(self, name: str, options: str = "") -> None:
        """Where its property says, with options of mount(8); one that is mounted is fine, one that just goes is waited for."""
        try:
            await self._patiently("mount", *(["-o", options] if options else []), name)
        except CommandFailed as error:
            if "already mounted" not in error.stderr:
                raise

    async def rename(self, old: str, new: str) -> None:
        """With its snapshots; tried again while somebody looks at it."""
        await self._patiently("rename", old, new)

    async def set(self, name: str, properties: Mapping[str, str]) -> None:
        """Properties of a dataset, all at once."""
        await self._run("set", *(f"{key}={value}" for key, value in properties.items()), name)

    async def inherit(self, name: str, key: str) -> None:
        """Take a property away."""
        await self._run("inherit", key, name)

    async def destroy(self, name: str) -> None:
        """With its snapshots; tried again while somebody looks at it.  NotFound, Conflict while clones stand on it."""
        await self._patiently("destroy", "-r", name)

    async def list(
        self, name: str, columns: Sequence[str], *, depth: int
    ) -> Sequence[tuple[str, ...]]:
        """Rows of (name, columns ...) of the file systems and volumes below `name`, itself not among them."""
        fields = ",".join(("name", *columns))
        output = await self._run(
            "list", "-H", "-d", str(depth), "-t", "filesystem,volume", "-o", fields, name
        )
        rows = [tuple(line.split("\t")) for line in output.splitlines()]
        return [row for row in rows if row[0] != name]

    async def get(self, name: str, key: str) -> str:
        """One property; "-" if it is not set."""
        return (await self._run("get", "-Hpo", "value", key, name)).rstrip("\n")

    async def own_properties(self, name: str) -> Mapping[str, str]:
        """Those set on the dataset itself."""
        output = await self._run("get", "-Hp", "-s", "local", "-o", "property,value", "all", name)
        return dict(line.partition("\t")[::2] for line in output.splitlines())

    async def own_properties_below(self, name: str) -> Mapping[str, Mapping[str, str]]:
        """Those set on each dataset below (and on) `name` itself, by its name."""
        columns = "name,property,value"
        output = await self._run("get", "-Hpr", "-s", "local", "-o", columns, "all", name)
        found: dict[str, dict[str, str]] = {}
        for line in output.splitlines():
            dataset, key, value = line.split("\t", 2)
            found.setdefault(dataset, {})[key] = value
        return found

    async def _patiently(self, *arguments: str) -> None:
        """What has to unmount: a process that only looks into a dataset keeps it busy."""
        for tries_left in reversed(range(_BUSY_TRIES)):
            try:
                await self._run(*arguments)
            except CommandFailed as error:
                is_busy = any(word in error.stderr.lower() for word in _BUSY)
                if not is_busy or not tries_left:
                    raise
                await asyncio.sleep(_BUSY_PAUSE_S)
            else:
                return

    async def _run(self, *arguments: str) -> str:
        try:
            output = await self._machine.run(["zfs", *arguments], timeout_s=_TIMEOUT_S)
        except CommandFailed as error:
            raise _meaning(error) from error
        return output.decode(errors="surrogateescape")


def _options(properties: Mapping[str, str]) -> list[str]:
    return [word for key, value in properties.items() for word in ("-o", f"{key}={value}")]


def _meaning(error: CommandFailed) -> APIError:
    """zfs's words as one of our errors; itself where it has no kind."""
    lines = error.stderr.strip().splitlines()
    first = lines[0] if lines else error.message
    if "does not exist" in first:
        return NotFound(first, detail=error.stderr)
    if "already exists" in first or "dependent clones" in first or "has children" in first:
        return Conflict(first, detail=error.stderr)
    if "out of space" in first or "quota" in first:
        return APIError(f"no space left on device: {first}", detail=error.stderr)
    return error
