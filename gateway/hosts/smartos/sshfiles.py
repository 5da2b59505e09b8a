"""Files on the far side of an SSH connection, by SFTP on channels that are opened when they are first used.

Every act here can be done twice, so a connection that turns out to be lost is tried once more on a new one.
Needs asyncssh.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path, PurePosixPath
from typing import TypeVar

import asyncssh

from dockerapi.errors import APIError, Conflict, Forbidden, NotFound, Unavailable
from gateway.hosts.smartos.globalzone import FileStatus
from gateway.hosts.smartos.local import worded
from gateway.hosts.smartos.sshlink import Link, Links

_BLOCK = 4 << 20
_REMOVE_TIMEOUT_S = 5.0
_REGULAR_TIMEOUT_S = 20.0
_LOST = (
    asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection,
    asyncssh.DisconnectError,
    ConnectionError,
)

_Result = TypeVar("_Result")


class Files:
    """See the file methods of `globalzone.GlobalZone`.  `rename`: how where SFTP cannot replace a file."""

    def __init__(self, links: Links, rename: Callable[[str, str], Awaitable[None]]) -> None:
        self._links = links
        self._rename = rename
        self._opened: dict[bool, tuple[Link, asyncssh.SFTPClient]] = {}
        """True: of files whose opening may block."""
        self._lock = asyncio.Lock()

    async def _client(self, *, wary: bool) -> asyncssh.SFTPClient:
        async with self._lock:
            opened = self._opened.get(wary)
            if opened is None or opened[0].lost:
                opened = self._opened[wary] = await self._links.channel(self._open)
            return opened[1]

    async def _open(self, link: Link) -> tuple[Link, asyncssh.SFTPClient]:
        link.others += 1
        try:
            return link, await link.connection.start_sftp_client()
        except BaseException:
            link.others -= 1
            raise

    async def _do(
        self,
        path: str,
        act: Callable[[asyncssh.SFTPClient], Awaitable[_Result]],
        *,
        wary: bool = False,
    ) -> _Result:
        try:
            try:
                return await act(await self._client(wary=wary))
            except _LOST:
                self._opened.pop(wary, None)
                return await act(await self._client(wary=wary))
        except _LOST as error:
            raise Unavailable(f"lost the connection to {self._links.name} at {path}") from error
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
            raise NotFound(f"{path}: No such file or directory") from error
        except asyncssh.SFTPPermissionDenied as error:
            raise Forbidden(f"{path}: Permission denied") from error
        except asyncssh.SFTPError as error:
            raise APIError(f"{path}: {error.reason}") from error

    async def read(self, path: str, offset: int, size: int, *, regular_only: bool = False) -> bytes:
        """Bytes of a file.  NotFound.

        SFTP opens whatever there is: `regular_only` looks before, at what was opened, and after, so a link that
        comes and goes meanwhile can still be followed.  A fifo that comes meanwhile blocks the far side's program
        until somebody writes to it: such files have a channel of their own, which is given up for a new one after
        `_REGULAR_TIMEOUT_S`; Unavailable is raised then.
        """

        async def act(client: asyncssh.SFTPClient) -> bytes:
            if regular_only:
                _check_regular(await client.lstat(path), path)
            file = await client.open(path, "rb")
            try:
                found = await file.stat()
                if regular_only:
                    _check_regular(found, path)
                    _check_regular(await client.lstat(path), path)
                rest = max(0, (found.size or 0) - offset)
                return await file.read(rest if size < 0 else size, offset)
            finally:
                await file.close()

        if not regular_only:
            return await self._do(path, act)
        try:
            async with asyncio.timeout(_REGULAR_TIMEOUT_S):
                return await self._do(path, act, wary=True)
        except TimeoutError as error:
            if stuck := self._opened.pop(True, None):
                stuck[1].exit()
            raise Unavailable(f"{path}: cannot be read") from error

    async def write(self, path: str, data: bytes, mode: int) -> None:
        """Written aside, then renamed."""
        aside = f"{path}.{secrets.token_hex(4)}"

        async def act(client: asyncssh.SFTPClient) -> None:
            async with _removed_on_failure(client, aside):
                attributes = asyncssh.SFTPAttrs(permissions=mode)
                async with client.open(aside, "wb", attributes) as file:
                    await file.chmod(mode)  # what the server's umask took away
                    await file.write(data)
                    with contextlib.suppress(asyncssh.SFTPOpUnsupported):
                        await file.fsync()
                try:
                    await client.posix_rename(aside, path)
                except asyncssh.SFTPOpUnsupported:
                    await self._rename(aside, path)

        await self._do(path, act)

    async def upload(self, source: Path, path: str) -> None:
        """A copy, whole or not there; Conflict if `path` is."""
        if await self.status(path) is not None:
            raise Conflict(f"{path}: File exists")

        async def act(client: asyncssh.SFTPClient) -> None:
            original.seek(0)
            async with _removed_on_failure(client, path):
                attributes = asyncssh.SFTPAttrs(permissions=0o600)
                async with client.open(path, "wb", attributes) as file:
                    while block := await asyncio.to_thread(original.read, _BLOCK):
                        await file.write(block)

        with worded(str(source)):
            original = source.open("rb")
        with original:
            await self._do(path, act)

    async def status(self, path: str) -> FileStatus | None:
        """lstat, as much of it as SFTP knows: whole seconds, no inode.  None if there is nothing."""

        async def act(client: asyncssh.SFTPClient) -> FileStatus:
            found = await client.lstat(path)
            mode = found.permissions or 0
            link = str(await client.readlink(path)) if stat.S_ISLNK(mode) else ""
            seconds = int(found.mtime or 0)
            return FileStatus(
                found.size or 0, mode, seconds * 1_000_000_000 + (found.mtime_ns or 0), 0, link
            )

        try:
            return await self._do(path, act)
        except NotFound:
            return None

    async def names(self, folder: str) -> list[str]:
        """What a folder holds; NotFound."""

        async def act(client: asyncssh.SFTPClient) -> list[str]:
            return [str(name) for name in await client.listdir(folder) if name not in (".", "..")]

        return await self._do(folder, act)

    async def make_folder(self, path: str) -> None:
        """With its parents."""
        missing = []
        for folder in (PurePosixPath(path), *PurePosixPath(path).parents):
            found = await self.status(str(folder))
            if found is not None:
                if not stat.S_ISDIR(found.mode) and not stat.S_ISLNK(found.mode):
                    raise Conflict(f"{folder}: File exists")
                break
            missing.append(str(folder))

        async def act(client: asyncssh.SFTPClient) -> None:
            for folder in reversed(missing):
                with contextlib.suppress(asyncssh.SFTPFailure):  # somebody else has just made it
                    await client.mkdir(folder, asyncssh.SFTPAttrs(permissions=0o755))

        await self._do(path, act)

    async def remove(self, path: str) -> None:
        """A file; none is fine."""

        async def act(client: asyncssh.SFTPClient) -> None:
            await client.remove(path)

        with contextlib.suppress(NotFound):
            await self._do(path, act)


def _check_regular(found: asyncssh.SFTPAttrs, path: str) -> None:
    if not stat.S_ISREG(found.permissions or 0):
        raise NotFound(f"{path}: no regular file")


@contextlib.asynccontextmanager
async def _removed_on_failure(client: asyncssh.SFTPClient, path: str) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(asyncssh.Error, TimeoutError):
            async with asyncio.timeout(_REMOVE_TIMEOUT_S):
                await client.remove(path)
        raise
