"""`docker cp`, `diff`, `export` of zones.

cp       a script inside the zone, run by zlogin: its links are its own affair (filescript.py); a stopped
         zone is readied by `zoneadm mount` for as long as that takes, and held
diff     zfs diff between the image's snapshot and the zone's dataset, completed by the names of both (treediff.py)
export   the platform's gtar over the zone's root, from the global zone: it follows no link
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import lzma
import posixpath
import re
import shlex
import stat
import tarfile
import tempfile
import zlib
from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dockerapi.errors import APIError, InvalidParameter, NotFound, NotSupported
from dockerapi.framing import StreamId
from gateway.hosts.smartos.filescript import PACK, SCRIPT
from gateway.hosts.smartos.globalzone import GlobalZone, Program
from gateway.hosts.smartos.treediff import LIST, completed, joined, parse_diff, parse_trees
from gateway.hosts.smartos.users import file_owner
from gateway.hosts.smartos.zlogin import command_argv, native, su_seen
from gateway.hosts.smartos.zones import SmartOSZones
from gateway.zones import brands
from gateway.zones.host import ChangeKind, PathChange, PathStatus, Zone
from gateway.zones.spec import ZoneUUID

_TIMEOUT_S = 120.0
_BLOCK = 1 << 16
_STDERR_LIMIT = 4096
_SCRATCH_ROOT = "/a"
_PLAIN = r"--transform=s,^\./,,rSh"
"""Names without the `./` that keeps dashes at their beginning from being options."""
# What vmadm, zoneadmd and dockerinit put into every zone.
_OURS = frozenset(
    [
        "/.dockerenv",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/mtab",
        "/etc/resolv.conf",
        "/var/log/sdc-dockerinit.log",
        "/var/svc",
        "/var/svc/provision_success",
        "/var/svc/provisioning",
    ]
)
# What makes GNU tar end with 1: the archive is whole, and holds what the file was at that moment.
_CHANGED_MEANWHILE = re.compile(r".*: (file changed as we read it|File removed before we read it)")


class SmartOSFiles:
    """Satisfies gateway.zones.host.ZoneFiles.  `spool`: a folder of this machine for uploads."""

    def __init__(
        self, gz: GlobalZone, zones: SmartOSZones, *, zpool: str, spool: Path, root: str = "/"
    ) -> None:
        self._gz = gz
        self._zones = zones
        self._zpool = zpool
        self._spool = spool
        self._root = root

    async def status(self, uuid: ZoneUUID, path: str) -> PathStatus:
        """What the header of a tar says of it: one made inside the zone."""
        async with self._inside(uuid) as inside, inside.run("status", path) as script:
            answer = await script.answer(path)
            return _status(path, answer, await _header(script))

    async def read(
        self, uuid: ZoneUUID, path: str
    ) -> tuple[PathStatus, AsyncGenerator[bytes, None]]:
        """A stopped zone is held until all is read."""
        status = await self.status(uuid, path)
        return status, self._read(uuid, path, status.name)

    async def _read(self, uuid: ZoneUUID, path: str, name: str) -> AsyncGenerator[bytes, None]:
        async with (
            self._inside(uuid) as inside,
            inside.run("read", path, f"--transform={_renamed(name)}", "-P") as script,
        ):
            await script.answer(path)
            async for block in script.rest():
                yield block
            await script.succeeded()

    async def write(
        self,
        uuid: ZoneUUID,
        path: str,
        tar: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None:
        """The archive is read whole before anything is written."""
        zone = self._zones.get(uuid)
        owner = None
        if copy_uid_gid and zone.metadata.user:
            owner = await file_owner(self._gz, self._zones.zonepath(uuid), zone.metadata.user)
        with tempfile.TemporaryFile(dir=self._spool) as spool:
            entries = await _spooled(tar, self._spool, spool, owner)
            async with self._inside(uuid) as inside:
                await self._make_way(inside, zone, path, entries, keep=no_overwrite_dir_non_dir)
                if not entries:
                    return
                async with inside.run("write", path, stdin=True) as script:
                    await script.answer(path)
                    while block := await asyncio.to_thread(spool.read, _BLOCK):
                        await script.program.write(block)
                    await script.program.close_input()
                    await script.succeeded()

    async def _make_way(
        self, inside: _Inside, zone: Zone, path: str, entries: Sequence[_Entry], *, keep: bool
    ) -> None:
        """Whatever stands where an entry of another kind goes: refused if `keep`, else removed."""
        names = b"".join(entry.name.encode(errors="surrogateescape") + b"\0" for entry in entries)
        async with inside.run("look", path, stdin=True) as script:
            try:
                answer = await script.answer(path)
            except _NotAFolder as error:
                raise InvalidParameter("extraction point is not a directory") from error
            _refuse_read_only(zone, answer.real)
            await script.program.write(names)
            await script.program.close_input()
            kinds = [(await script.word()).decode() for _ in entries]
        in_the_way = []
        for entry, kind in zip(entries, kinds, strict=True):
            if kind == "l" and inside.is_scratch:
                raise NotSupported(
                    f"{entry.name} lies behind a link: it can be copied when the container runs"
                )
            if kind == "-" or (kind == "d") is entry.is_folder:
                continue
            if keep and (kind == "d" or entry.is_folder):
                word, other = ("directory", "non-directory") if kind == "d" else ("non-directory", "directory")  # fmt: skip
                raise APIError(
                    f'cannot overwrite {word} "{posixpath.normpath(entry.name)}" with {other} "{answer.real or "/"}"'
                )
            in_the_way.append(entry)
        if in_the_way:
            names = b"".join(e.name.encode(errors="surrogateescape") + b"\0" for e in in_the_way)
            async with inside.run("clear", path, stdin=True) as script:
                await script.answer(path)
                await script.program.write(names)
                await script.program.close_input()
                await script.succeeded()

    @contextlib.asynccontextmanager
    async def _inside(self, uuid: ZoneUUID) -> AsyncGenerator[_Inside, None]:
        """A way into the zone.  A running one may stop meanwhile; a stopped one is held and readied."""
        zone = self._zones.get(uuid)
        if zone.spec.brand in brands.MACHINES:
            raise NotSupported(f"a {zone.spec.brand} zone is a machine: its files are on its disks")
        if zone.is_running:
            su = await su_seen(self._gz, self._zones.zonepath(uuid), self._root)
            yield _Inside(self._gz, zone, su=su, is_scratch=False)
            return
        async with self._zones.held(uuid) as held:
            if held.is_running:  # somebody was quicker
                su = await su_seen(self._gz, self._zones.zonepath(uuid), self._root)
                yield _Inside(self._gz, held, su=su, is_scratch=False)
                return
            async with self._zones.with_volumes(held):
                await self._gz.run(("zoneadm", "-u", uuid, "mount"), timeout_s=_TIMEOUT_S)
                try:
                    yield _Inside(self._gz, held, su=False, is_scratch=True)
                finally:
                    await self._gz.run(("zoneadm", "-u", uuid, "unmount"), timeout_s=_TIMEOUT_S)

    # --- the whole of it

    async def changes(self, uuid: ZoneUUID) -> Sequence[PathChange]:
        """A renamed file is one that went and one that came."""
        found = await self._differences(uuid)
        ours = _of_the_host(found)
        gone = {path for path, kind in found.items() if kind is ChangeKind.DELETED}
        return [
            PathChange(path, kind)
            for path, kind in sorted(found.items())
            # Of a folder that went zfs tells everything that was in it, docker the folder.
            if path not in ours and not (path in gone and posixpath.dirname(path) in gone)
        ]

    def _top(self, uuid: ZoneUUID) -> str:
        return f"{self._zones.zonepath(uuid)}/root"

    async def _differences(self, uuid: ZoneUUID) -> dict[str, ChangeKind]:
        zone = self._zones.get(uuid)
        if not zone.spec.image_uuid:
            raise NotSupported(f"a {zone.spec.brand} zone is a machine: its files are on its disks")
        snapshot = f"{self._zpool}/{zone.spec.image_uuid}@final"
        argv = ("zfs", "diff", "-H", snapshot, f"{self._zpool}/{uuid}")
        top = self._top(uuid)
        found = joined(parse_diff(await self._gz.run(argv, timeout_s=_TIMEOUT_S), top))
        if _of_the_host(found) >= found.keys():
            return found
        # tar goes down by open folders and follows no link, whatever a running zone does meanwhile.
        image = f"{posixpath.dirname(self._zones.zonepath(uuid))}/{zone.spec.image_uuid}/root"
        output = await self._gz.run(
            ("bash", "-c", LIST, "zonegate-list", image, top), timeout_s=_TIMEOUT_S
        )
        mounts = [filesystem.target for filesystem in zone.spec.filesystems]
        before, after = await asyncio.to_thread(parse_trees, output)
        return await asyncio.to_thread(completed, found, before, after, mounts)

    async def export(self, uuid: ZoneUUID) -> AsyncGenerator[bytes, None]:
        """The root without what is mounted in it."""
        top = self._top(uuid)
        names = await self._gz.names(top)
        return self._archive(
            [
                "gtar",
                "cf",
                "-",
                "--numeric-owner",
                "--one-file-system",
                "-C",
                top,
                "--",
                *sorted(names),
            ]
        )

    async def layer(self, uuid: ZoneUUID) -> AsyncGenerator[bytes, None]:
        """Whiteouts first, then what came or changed."""
        changes = await self.changes(uuid)
        kept = [change.path for change in changes if change.kind is not ChangeKind.DELETED]
        gone = [change.path for change in changes if change.kind is ChangeKind.DELETED]
        return self._layer(uuid, _whiteouts(gone, end=not kept), kept)

    async def _layer(
        self, uuid: ZoneUUID, whiteouts: bytes, kept: Sequence[str]
    ) -> AsyncGenerator[bytes, None]:
        """The files of a zone that runs are read inside it: it may put links in the place of folders meanwhile."""
        yield whiteouts
        if not kept:
            return
        names = b"".join(
            f"./{path.lstrip('/')}".encode(errors="surrogateescape") + b"\0" for path in kept
        )
        if not self._zones.get(uuid).is_running:
            async with self._zones.held(uuid) as held:
                if not held.is_running:
                    argv = ["bash", "-c", PACK, "zonegate-pack", self._top(uuid), "gtar", _PLAIN]
                    async with contextlib.aclosing(self._archive(argv, names)) as blocks:
                        async for block in blocks:
                            yield block
                    return
        async with (
            self._inside(uuid) as inside,
            inside.run("pack", "/", _PLAIN, stdin=True) as script,
            contextlib.aclosing(_fed(script, names)) as blocks,
        ):
            async for block in blocks:
                yield block

    async def _archive(
        self, argv: Sequence[str], names: bytes = b""
    ) -> AsyncGenerator[bytes, None]:
        program = await self._gz.spawn(argv, stdin=bool(names))
        try:
            async with contextlib.aclosing(_fed(_Script(program), names)) as blocks:
                async for block in blocks:
                    yield block
        finally:
            await program.close()


async def _fed(script: _Script, names: bytes) -> AsyncGenerator[bytes, None]:
    """What a tar writes of the files whose names it was given; they must be read whole before anything is written."""
    for start in range(0, len(names), _BLOCK):
        await script.program.write(names[start : start + _BLOCK])
    if names:
        await script.program.close_input()
    async for block in script.rest():
        yield block
    await script.succeeded()


@dataclass(frozen=True, slots=True)
class _Entry:
    """Of an upload: its name without `./` and slashes at its ends."""

    name: str
    is_folder: bool


@dataclass(frozen=True, slots=True)
class _Answer:
    """`real`: the path found, without links but its own; `target`: where that link leads."""

    real: str
    target: str


class _NotAFolder(APIError):
    """A path that ends in a slash is none."""


class _Inside:
    """A way to run the script in one zone."""

    def __init__(self, gz: GlobalZone, zone: Zone, *, su: bool, is_scratch: bool) -> None:
        self._gz = gz
        self._zone = zone
        self._su = su
        self.is_scratch = is_scratch

    @contextlib.asynccontextmanager
    async def run(
        self, operation: str, path: str, *more: str, stdin: bool = False
    ) -> AsyncGenerator[_Script, None]:
        """The script, ended when the block is left."""
        program = await self._gz.spawn(self._argv(operation, path, more), stdin=stdin)
        try:
            yield _Script(program)
        finally:
            await program.close()

    def _argv(self, operation: str, path: str, more: Sequence[str]) -> list[str]:
        follow = "1" if path.endswith(("/", "/.")) or path == "." else "0"
        brand = self._zone.spec.brand
        bin_ = "/usr/bin" if self.is_scratch else native(brand, "/usr/bin")
        root = _SCRATCH_ROOT if self.is_scratch else ""
        words = [
            f"{bin_}/bash",
            "-c",
            SCRIPT,
            "zonegate",
            root,
            bin_,
            operation,
            path,
            follow,
            *more,
        ]
        if self.is_scratch:
            # -S: sh -c of all words joined, whatever they hold.
            return ["zlogin", "-Q", "-S", self._zone.uuid, shlex.join(words)]
        return command_argv(self._zone.uuid, words, tty=False, su=self._su)


class _Script:
    """A program under way whose output begins with words."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._chunks = program.output()
        self._buffer = bytearray()
        self._said = bytearray()

    async def _more(self) -> bool:
        async for stream, data in self._chunks:
            if stream is StreamId.STDOUT:
                self._buffer += data
                return True
            self._said += data
            del self._said[:-_STDERR_LIMIT]
        return False

    async def word(self) -> bytes:
        """Up to the next NUL."""
        while b"\0" not in self._buffer:
            if not await self._more():
                raise await self._failure()
        word, _, rest = bytes(self._buffer).partition(b"\0")
        self._buffer[:] = rest
        return word

    async def answer(self, path: str) -> _Answer:
        """NotFound and the like if the path is not to be had."""
        match word := await self.word():
            case b"ok":
                real = (await self.word()).decode(errors="surrogateescape")
                return _Answer(real, (await self.word()).decode(errors="surrogateescape"))
            case b"missing":
                raise NotFound(f"Could not find the file {path}")
            case b"notdir":
                raise _NotAFolder(f"lstat {path}: not a directory")
            case b"loop":
                raise APIError(f"lstat {path}: too many levels of symbolic links")
        raise APIError(f"unexpected answer of the zone: {word!r}")

    async def rest(self) -> AsyncIterator[bytes]:
        """What comes after the words."""
        while True:
            if self._buffer:
                block = bytes(self._buffer)
                self._buffer.clear()
                yield block
            if not await self._more():
                return

    async def succeeded(self) -> None:
        """Wait for its end; what it said is raised if that was none."""
        while await self._more():
            self._buffer.clear()
        code = await self.program.wait()
        if code != 0 and not (code == 1 and self._only_changed()):
            raise await self._failure()

    def _only_changed(self) -> bool:
        """Whether all that its tar said is that files changed while they were read."""
        lines = self._said.decode(errors="replace").splitlines()
        return bool(lines) and all(_CHANGED_MEANWHILE.fullmatch(line) for line in lines)

    async def _failure(self) -> APIError:
        code = await self.program.wait()
        lines = self._said.decode(errors="replace").strip().splitlines()
        return APIError(lines[-1] if lines else f"copying failed: exit status {code}")


async def _header(script: _Script) -> tarfile.TarInfo:
    data = b"".join([block async for block in script.rest()])
    try:
        with tarfile.open(fileobj=io.BytesIO(data), errorlevel=0) as tar:
            member = tar.next()
    except tarfile.TarError as error:
        raise APIError(f"the zone's tar cannot be read: {error}") from error
    if member is None:
        raise APIError("the zone's tar is empty")
    return member


_TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


def _status(path: str, answer: _Answer, member: tarfile.TarInfo) -> PathStatus:
    name = "." if path.endswith("/.") else posixpath.basename(path.rstrip("/")) or "/"
    return PathStatus(
        name=name,
        size=len(member.linkname) if member.issym() else member.size,
        mode=member.mode & 0o7777 | _TYPES.get(member.type, stat.S_IFREG),
        mtime_ns=int(float(member.mtime) * 1_000_000_000),
        link_target=(answer.target or "/") if member.issym() and answer.target else "",
    )


def _renamed(name: str) -> str:
    """GNU tar's expression that puts `name` in the place of the archive's `.`; links keep their targets."""
    if name == ".":
        return "s,^,,"
    if name == "/":
        return r"s,^\.\(/\|$\),/,rSH"
    quoted = re.sub(r"([\\&,])", r"\\\1", name)
    return rf"s,^\.\(/\|$\),{quoted}\1,rSh"


def _refuse_read_only(zone: Zone, real: str) -> None:
    place = real or "/"
    for filesystem in zone.spec.filesystems:
        inside = place == filesystem.target or place.startswith(filesystem.target.rstrip("/") + "/")
        if inside and "ro" in filesystem.options:
            raise InvalidParameter("mounted volume is marked read-only")


async def _spooled(
    blocks: AsyncIterator[bytes], folder: Path, spool: IO[bytes], owner: tuple[int, int] | None
) -> list[_Entry]:
    """An upload, inflated, as a plain tar from the beginning of `spool`, a file of `folder`; what it holds."""
    with tempfile.TemporaryFile(dir=folder) as raw:
        async for block in blocks:
            await asyncio.to_thread(raw.write, block)
        return await asyncio.to_thread(_checked, raw, spool, owner)


def _checked(raw: IO[bytes], spool: IO[bytes], owner: tuple[int, int] | None) -> list[_Entry]:
    raw.seek(0)
    entries: list[_Entry] = []
    if not raw.read(1):
        return entries
    raw.seek(0)
    try:
        with (
            tarfile.open(fileobj=raw, mode="r:*") as source,
            tarfile.open(fileobj=spool, mode="w:", format=tarfile.GNU_FORMAT) as target,
        ):
            for member in source:
                name = posixpath.normpath(member.name.lstrip("/"))
                if name == ".." or name.startswith("../"):
                    raise APIError(f'"{member.name}" is outside of the directory')
                if name == ".":
                    continue
                member.name = name
                if owner is not None:
                    member.uid, member.gid = owner
                if member.isreg():
                    member.type = tarfile.REGTYPE  # one with holes is read, and written, without
                entries.append(_Entry(name, member.isdir()))
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise APIError(f"Error processing tar file: {error}") from error
    spool.seek(0)
    return entries


def _of_the_host(found: Mapping[str, ChangeKind]) -> set[str]:
    """What only the host touched: its own files, and folders of which nothing else changed."""
    ours = {path for path in found if path in _OURS}
    inside: dict[str, list[str]] = defaultdict(list)
    for path in found:
        inside[posixpath.dirname(path)].append(path)
    for path in sorted(found, key=lambda path: path.count("/"), reverse=True):
        if inside[path] and all(name in ours for name in inside[path]):
            ours.add(path)
    return ours


def _whiteouts(paths: Iterable[str], *, end: bool) -> bytes:
    """Entries of a tar, with the tar's end only if nothing follows."""
    blocks = []
    for path in paths:
        folder, _, name = path.lstrip("/").rpartition("/")
        info = tarfile.TarInfo(posixpath.join(folder, f".wh.{name}"))
        blocks.append(info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape"))
    return b"".join(blocks) + (bytes(2 * tarfile.BLOCKSIZE) if end else b"")
