"""Subvolumes of btrfs and their quota groups, by ioctl: starting btrfs(8) would cost more than the snapshot of a root.

Structures and numbers are those of linux/btrfs.h and btrfs_tree.h.  Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SNAP_DESTROY = 0x5000940F
_TREE_SEARCH = 0xD0009411
_INO_LOOKUP = 0xD0009412
_SNAP_CREATE_V2 = 0x50009417
_SUBVOL_CREATE_V2 = 0x50009418
_QUOTA_CTL = 0xC0109428
_QGROUP_CREATE, _QGROUP_LIMIT = 0x4010942A, 0x8030942B
_QUOTA_RESCAN, _QUOTA_RESCAN_WAIT = 0x4040942C, 0x942E
_SNAP_DESTROY_V2 = 0x5000943F

_BY_ID = 16
_QUOTA_ENABLE = 1
_MAX_REFERENCED = 1
_ROOT_TREE, _QUOTA_TREE = 1, 8
_ROOT_REF, _QGROUP_STATUS, _QGROUP_INFO = 156, 240, 242
_INCONSISTENT = 4
_TOP_INODE = 256
"""Inode of the root of every subvolume."""
_ARGS = 4096
_KEY = struct.Struct("=7Q4I4Q")
_ITEM = struct.Struct("=3Q2I")
_MOST = 2**64 - 1
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_subvolume(path: Path) -> bool:
    """Whether it is the root of a subvolume; for a folder on btrfs."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_ino == _TOP_INODE


def create(path: Path) -> None:
    """An empty subvolume of root's, mode 0755.  OSError."""
    with _opened(path.parent) as parent:
        _ioctl(parent, _SUBVOL_CREATE_V2, _named_args(path.name))
    path.chmod(0o755)


def snapshot(source: Path, path: Path) -> None:
    """A writable snapshot of a subvolume.  OSError."""
    with _opened(source) as fd, _opened(path.parent) as parent:
        _ioctl(parent, _SNAP_CREATE_V2, _named_args(path.name, fd))


def destroy(path: Path) -> None:
    """A subvolume with those that its users made in it; what it takes is freed by the kernel, later.  OSError."""
    with _opened(path) as fd:
        number = _number(fd)
    with _opened(path.parent) as parent:
        for inner in _below(parent, number):
            _ioctl(parent, _SNAP_DESTROY_V2, _numbered_args(inner))
            _forget_group(parent, inner)
        _ioctl(parent, _SNAP_DESTROY, struct.pack("=q4088s", 0, os.fsencode(path.name)))
        _forget_group(parent, number)


# --- quotas


def enable_quotas(folder: Path) -> None:
    """The file system counts what each subvolume refers to; right when this returns, which may take minutes the first time."""
    with _opened(folder) as fd:
        flags = _quota_flags(fd)
        if flags is None:
            fcntl.ioctl(fd, _QUOTA_CTL, bytearray(struct.pack("=QQ", _QUOTA_ENABLE, 0)), True)
        elif flags & _INCONSISTENT:
            # Dropping a large subvolume leaves the counting to a scan: limits would not hold until then.
            with suppress(OSError):  # EINPROGRESS: somebody has just begun one
                fcntl.ioctl(fd, _QUOTA_RESCAN, bytes(64))
        else:
            return
        fcntl.ioctl(fd, _QUOTA_RESCAN_WAIT)


def limit(path: Path, size: int) -> None:
    """A subvolume may refer to `size` bytes, those that it shares with others among them.  Quotas are enabled.  OSError."""
    with _opened(path) as fd:
        fcntl.ioctl(fd, _QGROUP_LIMIT, struct.pack("=6Q", 0, _MAX_REFERENCED, size, 0, 0, 0))


def referenced(path: Path) -> int:
    """Bytes that a subvolume refers to, as of the last commit of the disk; 0 if that is not known."""
    with _opened(path) as fd:
        number = _number(fd)
        for _, _, data in _search(fd, _QUOTA_TREE, 0, _QGROUP_INFO, number):
            return int(struct.unpack_from("=2Q", data)[1])
    return 0


def _quota_flags(fd: int) -> int | None:
    """None: quotas are off."""
    try:
        for _, _, data in _search(fd, _QUOTA_TREE, 0, _QGROUP_STATUS, 0):
            return int(struct.unpack_from("=3Q", data)[2])
    except FileNotFoundError:
        pass
    return None


def _forget_group(fd: int, number: int) -> None:
    """Kernels before 6.12 leave it; while what it counted is being freed it is busy, and stays."""
    with suppress(OSError):
        fcntl.ioctl(fd, _QGROUP_CREATE, struct.pack("=QQ", 0, number))


# --- inside


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


def _named_args(name: str, fd: int = 0) -> bytes:
    encoded = os.fsencode(name)
    if len(encoded) > 255:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
    return struct.pack("=q6Q4040s", fd, 0, 0, 0, 0, 0, 0, encoded)


def _numbered_args(number: int) -> bytes:
    return struct.pack("=q6QQ4032x", 0, 0, _BY_ID, 0, 0, 0, 0, number)


def _ioctl(fd: int, number: int, args: bytes) -> None:
    """Python hands no more than 1024 bytes on that cannot be changed."""
    fcntl.ioctl(fd, number, bytearray(args), True)


def _lookup_args() -> bytearray:
    return bytearray(struct.pack("=QQ4080x", 0, _TOP_INODE))


def _number(fd: int) -> int:
    """Of the subvolume that an open folder is in."""
    args = _lookup_args()
    fcntl.ioctl(fd, _INO_LOOKUP, args, True)
    return int(struct.unpack_from("=Q", args)[0])


def _below(fd: int, number: int) -> list[int]:
    """Subvolumes inside a subvolume, the innermost first."""
    found = []
    for inner, _, _ in _search(fd, _ROOT_TREE, number, _ROOT_REF, None):
        found += [*_below(fd, inner), inner]
    return found


def _search(
    fd: int, tree: int, object_id: int, kind: int, offset: int | None
) -> Iterator[tuple[int, int, bytes]]:
    """(offset of the key, transaction, data) of the items of one object and kind."""
    first, last = (0, _MOST) if offset is None else (offset, offset)
    while True:
        args = bytearray(_ARGS)
        _KEY.pack_into(
            args, 0, tree, object_id, object_id, first, last, 0, _MOST,
            kind, kind, 64, 0, 0, 0, 0, 0,
        )  # fmt: skip
        fcntl.ioctl(fd, _TREE_SEARCH, args, True)
        count = _KEY.unpack_from(args)[9]
        at = _KEY.size
        for _ in range(count):
            transaction, _, first, _, length = _ITEM.unpack_from(args, at)
            at += _ITEM.size
            yield first, transaction, bytes(args[at : at + length])
            at += length
        if not count or first >= last:
            return
        first += 1
