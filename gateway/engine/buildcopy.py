"""COPY and ADD: which files of a tree are meant, where in the container they go, and the tar that brings them there.

sources -> files and directories of a `Tree` -> hash for the history and the cache -> entries below the destination
"""

from __future__ import annotations

import hashlib
import posixpath
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from dockerapi.errors import APIError, InvalidParameter, NotFound
from gateway.engine.buildcontext import Entry, Missing, Tree, digest, has_wildcards
from gateway.zones.host import ZoneFiles
from gateway.zones.spec import ZoneUUID


@dataclass(frozen=True, slots=True)
class Source:
    """A file or directory of a tree: its key, and the name that it keeps in a directory.

    `unpacked`: ADD of an archive; the tree is then the archive's own, and all of it is meant.
    """

    tree: Tree
    key: str
    name: str
    is_folder: bool
    unpacked: bool = False

    def entries(self, target: str) -> list[Entry]:
        """What is written, `target` being what it becomes, or, for a directory, where its content goes."""
        if not self.is_folder:
            return [self.tree.entry(self.key, target)]
        return [
            self.tree.entry(key, posixpath.join(target, path), keeps_owner=self.unpacked)
            for path, key in self.tree.below(self.key)
        ]

    def told(self) -> str:
        """`file:HASH` or `dir:HASH`.  Blocking: everything is read."""
        kind = "dir" if self.is_folder and not self.unpacked else "file"
        return f"{kind}:{digest(self.entries(''))}"


def find(tree: Tree, pattern: str, *, is_context: bool) -> list[Source]:
    """What one source means.  InvalidParameter in dockerd's words."""
    cleaned = posixpath.normpath(pattern.lstrip("/") or ".")
    if is_context and (cleaned == ".." or cleaned.startswith("../")):
        raise InvalidParameter(f"forbidden path outside the build context: {pattern} ()")
    names = tree.matches(cleaned) if has_wildcards(pattern) else [cleaned]
    found: list[Source] = []
    for name in names:
        try:
            key = tree.resolve(name)
        except Missing as error:
            if has_wildcards(pattern):
                continue  # a link that leads nowhere
            where = "build context or excluded by .dockerignore" if is_context else "the image"
            raise InvalidParameter(
                f"file not found in {where}: stat {pattern.lstrip('/')}: file does not exist"
            ) from error
        found.append(Source(tree, key, posixpath.basename(name), tree.is_folder(key)))
    return found


def told(sources: Sequence[Source]) -> str:
    """How the history names them.  Blocking: everything is read."""
    each = [source.told() for source in sources]
    if len(each) == 1:
        return each[0]
    return f"multi:{hashlib.sha256(','.join(each).encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads: the deepest directory that is there, and the names from it on that are not.

    `is_file`: the last name is there, and no directory.
    """

    folder: str
    missing: tuple[str, ...]
    is_file: bool = False


async def place(files: ZoneFiles, uuid: ZoneUUID, path: str) -> Place:
    """Of an absolute path in a container; links are followed as in the container.  InvalidParameter."""
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts), 0, -1):
        above = "/" + "/".join(parts[:depth])
        match await _kind(files, uuid, above):
            case "folder":
                return Place(above, tuple(parts[depth:]))
            case "file" if depth == len(parts):
                return Place("/" + "/".join(parts[:-1]), (parts[-1],), is_file=True)
            case "file":
                raise InvalidParameter(f"failed to copy files: {above}: not a directory")
    return Place("/", tuple(parts))


async def _kind(files: ZoneFiles, uuid: ZoneUUID, path: str) -> str:
    try:
        await files.status(uuid, f"{path}/.")
    except NotFound:
        pass
    except APIError:  # "not a directory", on the way or at the end
        pass
    else:
        return "folder"
    try:
        found = await files.status(uuid, path)
    except APIError:
        return ""
    return "" if stat.S_ISDIR(found.mode) else "file"


def laid_out(sources: Sequence[Source], target: str, at: Place) -> list[Entry]:
    """The entries below `at.folder`, directories that lack first.

    `target` as written: with a slash at its end, or if a directory is there already, files go into it.
    """
    into = target.endswith(("/", "/.")) or target == "." or not at.missing
    root = posixpath.join("", *at.missing) if at.missing else ""
    is_folder = into or any(source.is_folder or source.unpacked for source in sources)
    folders = at.missing if is_folder and not at.is_file else at.missing[:-1]
    entries = [Entry("/".join(folders[: depth + 1]), None) for depth in range(len(folders))]
    for source in sources:
        where = root if source.is_folder or not into else posixpath.join(root, source.name)
        entries += source.entries(where)
    return entries
