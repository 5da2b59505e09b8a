"""Directories of a layer that no entry described, set right by what the layers below say.

A layer is unpacked on its own.  Where its archive has `tmp/x` but no `tmp/`, a directory had to be made
up; overlay would show its attributes instead of those of the lower /tmp, and `lib/x` would hide a lower
symlink lib -> usr/lib with all that is behind it.  An archive applied to the whole tree would have kept
the one and followed the other: so do we, once the origin is there.  Blocking.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gateway.hosts import trees
from gateway.hosts.linux import overlay
from gateway.hosts.untar import Root, has_openat2

log = logging.getLogger(__name__)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ITSELF = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = "trusted.overlay.opaque"
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def settle(building: Path, paths: Sequence[bytes], lowers: Sequence[Path]) -> None:
    """Mend `building/layer` before it is committed on top of `lowers` (top first).

    `paths` are relative, parents first, b"" for the root.  `building` is used for a passing mount.
    """
    if not paths or not lowers:
        return
    layer = building / "layer"
    if list(paths) == [b""]:  # nearly every layer of `docker build`
        _copy_between(str(layer), str(lowers[0]))
        return
    if not has_openat2():
        log.warning("this kernel has no openat2: directories missing in the layer get mode 0755")
        return
    merged, empty = building / "merged", building / "empty"
    merged.mkdir()
    empty.mkdir()
    # The kernel refuses a single lower directory.
    overlay.mount(merged, lowers=[*lowers, empty], upper=None, work=None)
    try:
        with _Pair(layer, merged) as pair:
            pair.settle(paths)
    finally:
        overlay.unmount(merged)
        merged.rmdir()
        empty.rmdir()


class _Pair:
    """A layer and the tree below it."""

    def __init__(self, layer: Path, merged: Path) -> None:
        self._layer = Root(str(layer))
        self._merged = Root(str(merged))
        self._mount_point = os.fsencode(merged)
        self._moved: list[tuple[bytes, bytes]] = []

    def __enter__(self) -> _Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self._layer.close()
        self._merged.close()

    def settle(self, paths: Sequence[bytes]) -> None:
        for given in paths:
            path = self._translated(given)
            kind = self._kind_below(path)
            if kind == stat.S_IFDIR:
                self._copy_attributes(path)
            elif kind == stat.S_IFLNK:
                self._follow(path)

    def _translated(self, path: bytes) -> bytes:
        """Where a path is now, after what has been moved."""
        for old, new in self._moved:
            if path.startswith(old + b"/"):
                path = (new + path[len(old) :]).lstrip(b"/")
        return path

    def _kind_below(self, path: bytes) -> int:
        """The file type in the lower layers; 0 if there is nothing."""
        try:
            fd = self._merged.open(path, _ITSELF)
        except OSError as error:
            if error.errno in _ABSENT:
                return 0
            raise
        try:
            return stat.S_IFMT(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    def _copy_attributes(self, path: bytes) -> None:
        try:
            target = self._layer.open(path, _DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _ABSENT:
                return  # a later entry of the layer replaced it
            raise
        source = self._merged.open(path, _DIRECTORY | os.O_NOFOLLOW)
        try:
            _copy(source, target)
        finally:
            os.close(source)
            os.close(target)

    def _follow(self, path: bytes) -> None:
        """Move what the layer has in directory `path` to where the lower symlink of that name leads."""
        destination = self._destination(path)
        if destination is None or destination == path:
            return
        try:
            source = self._layer.open(path, _DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _ABSENT:
                return
            raise
        try:
            target = self._made(destination)
            if target is not None:
                self._move(path, source, target)
                self._moved.append((path, destination))
        finally:
            os.close(source)

    def _move(self, path: bytes, source: int, target: int) -> None:
        """All of `source`, which is at `path`, into `target`.

        It loses its name first: a link may lead to a directory above itself, and what is in there may
        then have the name that stood here.
        """
        above, _, name = path.rpartition(b"/")
        parent = self._layer.open(above)
        nameless = b".zonegate-moved-" + secrets.token_hex(8).encode()
        try:
            os.rename(name, nameless, src_dir_fd=parent, dst_dir_fd=parent)
            _merge(source, target)
            with suppress(OSError):
                os.setxattr(target, _OPAQUE, os.getxattr(source, _OPAQUE))
            os.rmdir(nameless, dir_fd=parent)
        finally:
            os.close(parent)
            os.close(target)

    def _destination(self, path: bytes) -> bytes | None:
        """The directory that a lower symlink leads to, from the root; None if it leads to none."""
        try:
            fd = self._merged.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise
        try:
            found = os.fsencode(Path(f"/proc/self/fd/{fd}").readlink())
        finally:
            os.close(fd)
        return found.removeprefix(self._mount_point).strip(b"/")

    def _made(self, path: bytes) -> int | None:
        """The layer's directory `path`, made with its parents as they are below; None if it is none."""
        parts = path.split(b"/") if path else []
        for count in range(1, len(parts) + 1):
            prefix = b"/".join(parts[:count])
            try:
                parent = self._layer.open(b"/".join(parts[: count - 1]))
            except OSError:
                return None
            try:
                os.mkdir(parts[count - 1], dir_fd=parent)
            except FileExistsError:
                continue
            finally:
                os.close(parent)
            self._copy_attributes(prefix)
        try:
            return self._layer.open(path, _DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return None  # the layer itself has put something else there


def _copy_between(layer: str, lower: str) -> None:
    source, target = os.open(lower, _DIRECTORY), os.open(layer, _DIRECTORY)
    try:
        _copy(source, target)
    finally:
        os.close(source)
        os.close(target)


def _copy(source: int, target: int) -> None:
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source):
        if not name.startswith("trusted.overlay."):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _merge(source: int, target: int) -> None:
    """Move everything from one directory to another; what has the same name is replaced, directories join."""
    with os.scandir(source) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        try:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR):
                raise
            _replace(name, source, target)


def _replace(name: str, source: int, target: int) -> None:
    kinds = [
        stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
        for fd in (source, target)
    ]
    if not all(kinds):
        trees.remove(name, dir_fd=target)
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        return
    below = [os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd) for fd in (source, target)]
    try:
        _merge(*below)
    finally:
        for fd in below:
            os.close(fd)
    os.rmdir(name, dir_fd=source)
