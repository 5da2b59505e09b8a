"""The files that COPY and ADD take: a tar in the spool, found by path, told by a hash, written under other names.

Nothing is unpacked on the gateway's machine: links of a context lead nowhere but into the context.
"""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
import re
import tarfile
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dockerapi.errors import InvalidParameter
from imgsources.archives import open_plain

_BLOCK = 1 << 20
_LINKS = 40
_ARCHIVES = (b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00")


class Missing(Exception):
    """No such path in the tree; its text is the path."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file to be written: `source` is its header in `tree`, None for a directory that no entry described.

    `keeps_owner`: of an archive that is unpacked; everything else gets the owner of the copy.
    """

    name: str
    source: tarfile.TarInfo | None = None
    tree: Tree | None = None
    keeps_owner: bool = False

    def regular(self) -> tarfile.TarInfo | None:
        """Where its bytes are; None if it is no regular file."""
        if self.source is None or self.tree is None:
            return None
        return self.tree.regular(self.source)

    def data(self) -> Iterator[bytes]:
        """Its bytes.  Blocking."""
        return iter(()) if self.tree is None else self.tree.data(self.regular())


class Tree:
    """A tar's files by path from its root, without leading slash; "" is the root.  Blocking, but for `blocks`."""

    def __init__(self, path: Path) -> None:
        """InvalidParameter if it is no tar; compressed ones are inflated beside it."""
        self._file: IO[bytes] = open_plain(path)
        self._file.seek(0)
        self._tar: tarfile.TarFile
        self._entries: dict[str, tarfile.TarInfo] = {}
        self._children: dict[str, set[str]] = {"": set()}
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> None:
        try:
            self._tar = tarfile.open(fileobj=self._file, mode="r:")  # noqa: SIM115 - read until `close`
            for member in self._tar:
                self._add(member)
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise InvalidParameter(f"Error processing tar file: {error}") from error

    def _add(self, member: tarfile.TarInfo) -> None:
        name = _clean(member.name)
        if name:
            self._entries[name] = member
            if member.isdir():
                self._children.setdefault(name, set())
        while name:
            above = posixpath.dirname(name)
            self._children.setdefault(above, set()).add(posixpath.basename(name))
            name = above

    def forget(self, names: Iterable[str]) -> None:
        """Files at the root that are no part of the context."""
        for name in names:
            self._entries.pop(_clean(name), None)
            above = self._children.get(posixpath.dirname(_clean(name)), set())
            above.discard(posixpath.basename(name))

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    # -- finding

    def resolve(self, path: str) -> str:
        """The key that a path leads to, links followed inside the tree.  Missing."""
        pending = [part for part in path.split("/") if part not in ("", ".")]
        found, links = "", 0
        while pending:
            part = pending.pop(0)
            if part == "..":
                found = posixpath.dirname(found)
                continue
            found = posixpath.join(found, part)
            entry = self._entries.get(found)
            if entry is not None and entry.issym():
                links += 1
                if links > _LINKS:
                    raise Missing(path)
                rest = [step for step in entry.linkname.split("/") if step not in ("", ".")]
                pending = rest + pending
                found = "" if entry.linkname.startswith("/") else posixpath.dirname(found)
            elif entry is None and found not in self._children:
                raise Missing(path)
        return found

    def is_folder(self, key: str) -> bool:
        """Of a key that `resolve` gave."""
        return key in self._children

    def matches(self, pattern: str) -> list[str]:
        """The paths that a pattern of Go's filepath.Match means, sorted."""
        wanted = posixpath.normpath(pattern).lstrip("/")
        expression = _pattern(wanted)
        names = set(self._entries) | set(self._children)
        return sorted(name for name in names if name and expression.fullmatch(name))

    def text(self, path: str) -> str | None:
        """Of a small file; None if there is none."""
        try:
            entry = self._entries.get(self.resolve(path))
        except Missing:
            return None
        if entry is None or entry.isdir():
            return None
        data = b"".join(self.data(self.regular(entry) or entry))
        return data.decode("utf-8-sig", "replace")

    # -- what is copied

    def below(self, key: str) -> Iterator[tuple[str, str]]:
        """Everything under a directory as (path from it, key), parents first."""
        pending = [("", name) for name in sorted(self._children.get(key, ()), reverse=True)]
        while pending:
            above, name = pending.pop()
            path = posixpath.join(above, name)
            full = posixpath.join(key, path)
            yield path, full
            below = sorted(self._children.get(full, ()), reverse=True)
            pending += [(path, child) for child in below]

    def entry(self, key: str, name: str, *, keeps_owner: bool = False) -> Entry:
        """What is at a key, to be written under a name."""
        return Entry(name, self._entries.get(key), self, keeps_owner)

    def is_archive(self, key: str) -> bool:
        """Whether ADD unpacks it: a tar, plain or compressed, by its first bytes as dockerd looks at it."""
        source = self._entries.get(key)
        regular = self.regular(source) if source is not None else None
        if regular is None:
            return False
        head = next(self.data(regular, tarfile.BLOCKSIZE), b"")
        if head.startswith(_ARCHIVES):
            return True
        try:
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return False
        return True

    async def file_blocks(self, key: str) -> AsyncGenerator[bytes, None]:
        """The bytes of a file."""
        blocks = self.data(self.regular(self._entries[key]))
        while block := await asyncio.to_thread(next, blocks, b""):
            yield block

    def regular(self, source: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Where the bytes are: of a hard link, in the entry that it names."""
        for _ in range(_LINKS):
            if source.isreg():
                return source
            if not source.islnk():
                return None
            named = self._entries.get(_clean(source.linkname))
            if named is None:
                return None
            source = named
        return None

    def data(self, source: tarfile.TarInfo | None, limit: int | None = None) -> Iterator[bytes]:
        if source is None:
            return
        reader = self._tar.extractfile(source)
        while reader is not None and (block := reader.read(min(limit or _BLOCK, _BLOCK))):
            yield block
            if limit is not None:
                return


def digest(entries: Iterable[Entry]) -> str:
    """Hex over names, kinds, modes and contents: not over times and owners, which a checkout changes.  Blocking."""
    state = hashlib.sha256()
    for entry in entries:
        source, regular = entry.source, entry.regular()
        kind, mode, target = "d", 0o755, ""
        if regular is not None:
            kind, mode = "f", regular.mode
        elif source is not None:
            kind = "d" if source.isdir() else source.type.decode("ascii", "replace")
            mode, target = source.mode, source.linkname
        line = f"{entry.name}\0{kind}\0{mode:o}\0{target}\0"
        state.update(line.encode("utf-8", "surrogateescape"))
        for block in entry.data():
            state.update(block)
    return state.hexdigest()


async def archive(entries: Sequence[Entry], owner: tuple[int, int]) -> AsyncGenerator[bytes, None]:
    """A tar of these."""
    for entry in entries:
        regular = entry.regular()
        yield _header(entry, regular, owner)
        blocks = entry.data()
        while block := await asyncio.to_thread(next, blocks, b""):
            yield block
        if regular is not None and regular.size % tarfile.BLOCKSIZE:
            yield bytes(tarfile.BLOCKSIZE - regular.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def single_file(path: Path, name: str, *, mode: int = 0o644, mtime_s: int = 0) -> None:
    """Make a file the only one of a tar that takes its place.  Blocking."""
    made = tarfile.TarInfo(name)
    made.mode, made.mtime, made.size = mode, mtime_s, path.stat().st_size
    with path.open("rb") as content:
        path.unlink()
        with tarfile.open(path, "w") as tar:
            tar.addfile(made, content)


def _clean(name: str) -> str:
    """From the tree's root on; `..` cannot lead above it."""
    return posixpath.normpath("/" + name).lstrip("/")


def _header(entry: Entry, regular: tarfile.TarInfo | None, owner: tuple[int, int]) -> bytes:
    source = entry.source
    made = tarfile.TarInfo(entry.name)
    made.uid, made.gid = owner
    if source is not None and entry.keeps_owner:
        made.uid, made.gid = source.uid, source.gid
    if source is None:
        made.type, made.mode, made.mtime = tarfile.DIRTYPE, 0o755, int(time.time())
    else:
        made.mode, made.mtime = source.mode & 0o7777, source.mtime
        made.type, made.linkname = source.type, source.linkname
        made.devmajor, made.devminor = source.devmajor, source.devminor
        made.pax_headers = {
            key: value
            for key, value in source.pax_headers.items()
            if key.startswith("SCHILY.xattr.")
        }
        if regular is not None:
            made.type, made.linkname, made.size = tarfile.REGTYPE, "", regular.size
            made.mode = regular.mode & 0o7777
    return made.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _pattern(glob: str) -> re.Pattern[str]:
    """Go's filepath.Match: `*` and `?` stop at a slash, `[a-z]` and `[^a-z]` are sets, a backslash quotes."""
    found, place = "", 0
    while place < len(glob):
        character = glob[place]
        place += 1
        match character:
            case "*":
                found += "[^/]*"
            case "?":
                found += "[^/]"
            case "[":
                end = glob.find("]", place + 1)
                if end < 0:
                    raise InvalidParameter("syntax error in pattern")
                inside = glob[place:end].replace("\\", "\\\\")
                found += f"[{inside}]"
                place = end + 1
            case "\\":
                found += re.escape(glob[place : place + 1])
                place += 1
            case _:
                found += re.escape(character)
    return re.compile(found, re.DOTALL)


def has_wildcards(path: str) -> bool:
    """Whether a source is a pattern."""
    return any(character in path for character in "*?[")
