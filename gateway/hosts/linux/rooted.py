"""Paths inside a zone's root, resolved as the zone would: no link of the image leads to the host's files.

openat2(RESOLVE_IN_ROOT) does it in the kernel (5.6), so nothing can be swapped between check and use.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

_SYS_OPENAT2 = 437  # the same number on every architecture
_NO_MAGIC = 0x02
_RESOLVE_BENEATH = 0x08
_RESOLVE_IN_ROOT = 0x10
_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = [  # type: ignore[mutable-override]
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


def open_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
    """A descriptor of `path` with the folder `root` as `/`; OSError as open(2)."""
    return _open(root, path, _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _NO_MAGIC))


def open_beneath(folder: int, path: str, flags: int) -> int:
    """A descriptor of a relative `path` below `folder`; OSError as open(2), EXDEV where a link or `..` leads out."""
    return _open(folder, path, _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _NO_MAGIC))


def _open(root: int, path: str, how: _OpenHow) -> int:
    while True:
        descriptor: int = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(root),
            os.fsencode(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if descriptor >= 0:
            return descriptor
        error = ctypes.get_errno()
        # EAGAIN: a rename somewhere crossed the resolution of `..`; the kernel asks to try again.
        if error not in (errno.EAGAIN, errno.EINTR):
            raise OSError(error, os.strerror(error), path)


def read_in_root(root: Path, path: str, limit: int) -> bytes | None:
    """Content of a regular file, cut at `limit` bytes; None if there is no such file.

    Anything but a regular file counts as missing: a fifo would block us for ever.
    """
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = open_in_root(folder, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit)


def make_link(root: Path, folder: str, name: str, target: str) -> None:
    """A symbolic link where nothing of this name is; OSError (NotADirectoryError) for the folder's part."""
    make_folders(root, folder)
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = open_in_root(top, folder, os.O_PATH | os.O_DIRECTORY)
    finally:
        os.close(top)
    try:
        with suppress(FileExistsError):
            os.symlink(target, name, dir_fd=place)
    finally:
        os.close(place)


def make_folders(root: Path, path: str, mode: int = 0o755) -> None:
    """mkdir -p inside the root; OSError (NotADirectoryError) where a part is a file."""
    current = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    folder = current
    try:
        done = ""
        for part in [part for part in path.split("/") if part not in ("", ".")]:
            done = f"{done}/{part}"
            try:
                following = open_in_root(folder, done, os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                with suppress(FileExistsError):
                    os.mkdir(part, mode, dir_fd=current)
                following = open_in_root(folder, done, os.O_PATH | os.O_DIRECTORY)
            if current != folder:
                os.close(current)
            current = following
    finally:
        if current != folder:
            os.close(current)
        os.close(folder)
