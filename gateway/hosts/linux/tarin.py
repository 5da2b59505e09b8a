"""A tar extracted into a folder of a zone, by a process whose root is the zone's: what `docker cp` writes.

What is there already is replaced, a folder by a folder keeps what it has.  Owners and times are the archive's, or
everything is one user's.  Modes and times of folders are set last, for writing into them would change them.  Standard
library only and little of it: a process imports this at every copy (copier.py).
"""
# ruff: noqa: PTH101, PTH102, PTH103, PTH120, PTH211 - pathlib takes longer to import than most copies take

from __future__ import annotations

import errno
import os
import posixpath
import stat

from gateway.hosts import trees
from gateway.hosts.tarstream import BadArchive, Entry, Tar

TYPE_CHECKING = False  # typing itself would double the time to start
if TYPE_CHECKING:
    from collections.abc import Callable

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = b"trusted.overlay.opaque"
_REGULAR, _HARD, _SYMBOLIC, _CHARACTER, _BLOCKS, _FOLDER, _FIFO = b"0123456"
_SPECIAL = {_CHARACTER: stat.S_IFCHR, _BLOCKS: stat.S_IFBLK, _FIFO: stat.S_IFIFO}
# What a file system that has no attributes of a kind, or an unprivileged process, says.
_NO_XATTR = (errno.ENOTSUP, errno.EPERM)


class Refused(Exception):
    """An entry that must not be written; `kind` as copier.py has them."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def extract(
    read: Callable[[int], bytes], folder: str, owner: tuple[int, int] | None, *, keep_kind: bool
) -> None:
    """All entries of the archive that `read` gives.

    `keep_kind`: no folder is replaced by a file nor a file by a folder.  Refused, BadArchive, OSError.
    """
    os.umask(0)
    extraction = _Extraction(folder, owner, keep_kind=keep_kind)
    tar = Tar(read)
    for entry in tar:
        extraction.take(entry, tar)
    extraction.finish()


class _Extraction:
    def __init__(self, folder: str, owner: tuple[int, int] | None, *, keep_kind: bool) -> None:
        self._folder = folder
        self._inside = folder.rstrip("/") + "/"
        self._owner = owner
        self._keep_kind = keep_kind
        self._folders: dict[str, Entry] = {}

    def take(self, entry: Entry, tar: Tar) -> None:
        """Write one entry."""
        path = self._target(entry.name)
        if self._owner is not None:
            entry.uid, entry.gid = self._owner
        if entry.kind == _REGULAR:
            self._file(path, entry, tar)
        elif entry.kind == _FOLDER:
            self._directory(path, entry)
        else:
            self._node(path, entry)

    def finish(self) -> None:
        """Folders, the innermost first."""
        for path, entry in reversed(self._folders.items()):
            os.chown(path, entry.uid, entry.gid)
            os.chmod(path, entry.mode)
            os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))

    def _target(self, name: bytes) -> str:
        """Where an entry goes; its folder resolved, itself not."""
        text = os.fsdecode(name)
        path = self._inside + text.lstrip("/")
        if "/." in path or "//" in path or path.endswith("/"):
            path = posixpath.normpath(path)
        if path != self._folder and not path.startswith(self._inside):
            raise Refused("server", f'"{text}" is outside of "{self._folder}"')
        return path

    def _named(self, path: str) -> str:
        """As the archive has it."""
        return posixpath.relpath(path, self._folder)

    def _make_way(self, path: str, *, for_folder: bool) -> bool:
        """Remove what an entry replaces, make the folders it lies in; False if it is a folder that stays."""
        try:
            there = os.lstat(path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o777 & ~0o22, exist_ok=True)
            return True
        is_folder = stat.S_ISDIR(there.st_mode)
        if self._keep_kind and is_folder and not for_folder:
            raise Refused(
                "server",
                f'cannot overwrite directory "{self._named(path)}" with non-directory "{self._folder}"',
            )
        if self._keep_kind and not is_folder and for_folder:
            raise Refused(
                "server",
                f'cannot overwrite non-directory "{self._named(path)}" with directory "{self._folder}"',
            )
        if is_folder and for_folder:
            return False
        trees.remove(path)
        return True

    def _directory(self, path: str, entry: Entry) -> None:
        # The folder that the archive is extracted into keeps what it is.
        if self._make_way(path, for_folder=True):
            os.mkdir(path, 0o700)
        if path != self._folder:
            self._folders[path] = entry
            self._restore_attributes(path, entry)

    def _file(self, path: str, entry: Entry, tar: Tar) -> None:
        try:
            descriptor = os.open(path, _NEW_FILE, entry.mode & 0o777)
        except (FileExistsError, FileNotFoundError):
            self._make_way(path, for_folder=False)
            descriptor = os.open(path, _NEW_FILE, entry.mode & 0o777)
        try:
            if entry.extents is not None:
                self._sparse(descriptor, entry, tar)
            elif entry.size:
                data = tar.whole()
                for chunk in (data,) if data is not None else tar.chunks():
                    _write_all(descriptor, chunk)
            if entry.uid or entry.gid or os.fstat(descriptor).st_gid:
                os.fchown(descriptor, entry.uid, entry.gid)
            if entry.mode & 0o7000:  # which the change of the owner took away
                os.fchmod(descriptor, entry.mode)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)
        self._restore_attributes(path, entry)

    def _sparse(self, descriptor: int, entry: Entry, tar: Tar) -> None:
        extents = iter(entry.extents or ())
        offset = left = 0
        for chunk in tar.chunks():
            at = 0
            while at < len(chunk):
                while not left:
                    offset, left = next(extents)
                size = os.pwrite(descriptor, chunk[at : at + left], offset)
                at, offset, left = at + size, offset + size, left - size
        os.ftruncate(descriptor, entry.real_size)

    def _node(self, path: str, entry: Entry) -> None:
        self._make_way(path, for_folder=False)
        if entry.kind == _HARD:
            os.link(self._target(entry.link), path, follow_symlinks=False)
            return
        if entry.kind == _SYMBOLIC:
            os.symlink(os.fsdecode(entry.link), path)
        elif entry.kind in _SPECIAL:
            device = os.makedev(entry.major, entry.minor)
            os.mknod(path, _SPECIAL[entry.kind] | entry.mode & 0o777, device)
        else:
            raise BadArchive(f"{entry.name!r}: unhandled tar header type {entry.kind}")
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        if entry.kind != _SYMBOLIC:
            os.chmod(path, entry.mode)
        self._restore_attributes(path, entry)
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)

    def _restore_attributes(self, path: str, entry: Entry) -> None:
        for name, value in entry.xattrs.items():
            if name == _OPAQUE or name.endswith(b".selinux"):
                continue
            try:
                os.setxattr(path, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_XATTR:
                    raise


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
