"""What `docker cp`, `diff` and `export` do: the host knows the files, this the words and the events."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

from dockerapi.engine import Archive
from dockerapi.errors import NoSuchContainer, NotFound
from dockerapi.models.base import JSONObject
from gateway.engine.lifecycle import Lifecycle
from gateway.engine.roster import Roster
from gateway.translate.status import go_time
from gateway.zones.host import PathStatus, ZoneFiles

# os.FileMode of Go keeps the type in its own high bits, clients decode those.
_GO_TYPES = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


class Files:
    """The files of the host's containers."""

    def __init__(self, files: ZoneFiles, roster: Roster, lifecycle: Lifecycle) -> None:
        self._files = files
        self._roster = roster
        self._lifecycle = lifecycle

    async def stat(self, ref: str, path: str) -> JSONObject:
        """{name, size, mode, mtime, linkTarget}."""
        zone = self._roster.find(ref)
        with _named(ref, path):
            return stat_object(await self._files.status(zone.uuid, path))

    async def read(self, ref: str, path: str) -> Archive:
        """A tar of the path, and its stat."""
        zone = self._roster.find(ref)
        with _named(ref, path):
            status, blocks = await self._files.read(zone.uuid, path)
        self._lifecycle.emit(zone, "archive-path")
        return Archive(stat_object(status), blocks)

    async def write(
        self,
        ref: str,
        path: str,
        tar: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None:
        """Extract into a directory of the container."""
        zone = self._roster.find(ref)
        with _named(ref, path):
            await self._files.write(
                zone.uuid,
                path,
                tar,
                no_overwrite_dir_non_dir=no_overwrite_dir_non_dir,
                copy_uid_gid=copy_uid_gid,
            )
        self._lifecycle.emit(zone, "extract-to-dir")

    async def changes(self, ref: str) -> Sequence[JSONObject] | None:
        """[{Path, Kind}]; None where nothing changed, which dockerd writes as null."""
        found = await self._files.changes(self._roster.find(ref).uuid)
        return [{"Path": change.path, "Kind": int(change.kind)} for change in found] or None

    async def export(self, ref: str) -> AsyncGenerator[bytes, None]:
        """A tar of the root."""
        zone = self._roster.find(ref)
        blocks = await self._files.export(zone.uuid)
        self._lifecycle.emit(zone, "export")
        return blocks


@contextlib.contextmanager
def _named(ref: str, path: str) -> Iterator[None]:
    """A missing path is told of with the container as it was asked for."""
    try:
        yield
    except NoSuchContainer:
        raise
    except NotFound as error:
        raise NotFound(f"Could not find the file {path} in container {ref}") from error


def stat_object(status: PathStatus) -> JSONObject:
    """As in X-Docker-Container-Path-Stat."""
    return {
        "name": status.name,
        "size": status.size,
        "mode": go_mode(status.mode),
        "mtime": go_time(status.mtime_ns),
        "linkTarget": status.link_target,
    }


def go_mode(mode: int) -> int:
    """st_mode as Go's os.FileMode."""
    bits = sum(go for bit, go in _GO_BITS.items() if mode & bit)
    return mode & 0o777 | bits | _GO_TYPES.get(stat.S_IFMT(mode), 0)
