"""Overlay and shared mounts by system call: starting mount(8) would cost more than all else of a zone's root.

Kernels from 6.8 on take lower directories one by one (fsopen, fsconfig `lowerdir+`).  Before, all of them
stand in one page of options: there they are given as short symlinks in the current folder of a thread.
Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

_SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 429, 430, 431, 432
_SET_STRING, _CREATE = 1, 6
_MOVE_EMPTY_PATH = 4
_AT_FDCWD = -100
_CLONE_FS = 0x200
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 1 << 20
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MNT_DETACH = 2

# What a zone writes must be plain files in its upper directory: image commits read it.
_PLAIN = (("index", "off"), ("metacopy", "off"), ("redirect_dir", "off"))

_libc = ctypes.CDLL(None, use_errno=True)


def mount(target: Path, *, lowers: Sequence[Path], upper: Path | None, work: Path | None) -> None:
    """Mount an overlay; `lowers` top first.  Read-only without `upper`.  OSError says what the kernel said."""
    writable = [("upperdir", str(upper)), ("workdir", str(work))] if upper and work else []
    try:
        _mount_by_parts(target, lowers, [*writable, *_PLAIN])
    except OSError as error:
        # ENOSYS: no fsopen; EINVAL: an overlay that knows no lowerdir+, or not one of the options.
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        mount_by_options(target, lowers, writable)


def unmount(target: Path) -> bool:
    """Detach; whether something was mounted there."""
    if _libc.umount2(os.fsencode(target), _MNT_DETACH) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOENT):
        return False
    raise OSError(number, os.strerror(number), str(target))


def mount_memory(folder: Path, size: int) -> None:
    """A tmpfs for what several zones share as /dev/shm; `size` in bytes."""
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount("shm", str(folder), f"mode=1777,size={size}", flags, "tmpfs")


def bind_read_only(source: Path, target: Path) -> None:
    """A folder at another place, too; nothing is left of it if that fails."""
    _mount(str(source), str(target), None, _MS_BIND)
    try:
        # A bind takes its flags only when it is mounted once more.
        _mount(None, str(target), None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
    except OSError:
        unmount(target)
        raise


def kind_of(path: Path) -> str:
    """Of the file system that holds `path`, as the kernel names it."""
    best, kind = "", ""
    resolved = str(path.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4]
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


def make_shared(folder: Path) -> None:
    """Make a folder a shared mount, so that mounts made below it are seen by other mount namespaces."""
    where = str(folder.resolve())
    found = dict(mounts())
    if where not in found:
        _mount(where, where, None, _MS_BIND)
    if not found.get(where):
        _mount(None, where, None, _MS_SHARED | _MS_REC)


def mounts() -> list[tuple[str, bool]]:
    """Every mount point of this process's namespace, and whether it is shared."""
    return [(target, "shared" in peers) for target, peers in _mount_peers()]


def mount_of(path: str) -> tuple[str, frozenset[str]]:
    """The mount point that `path` (which exists) is on, and what it takes part in: shared, master."""
    real = os.path.realpath(path)
    found = ("/", frozenset[str]())
    for target, peers in _mount_peers():
        inside = real == target or real.startswith(target.rstrip("/") + "/")
        if inside and len(target) >= len(found[0]):  # of two at one place the later is on top
            found = (target, peers)
    return found


def _mount_peers() -> Iterator[tuple[str, frozenset[str]]]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        target = fields[4].encode().decode("unicode_escape") if "\\" in fields[4] else fields[4]
        optional = fields[6 : fields.index("-")]
        yield target, frozenset(field.partition(":")[0] for field in optional)


def _mount_by_parts(
    target: Path, lowers: Sequence[Path], options: Sequence[tuple[str, str]]
) -> None:
    context = _syscall(_SYS_FSOPEN, b"overlay", 1)
    try:
        _configure(context, "source", "overlay")
        for lower in lowers:
            _configure(context, "lowerdir+", str(lower))
        for key, value in options:
            _configure(context, key, value)
        _syscall(_SYS_FSCONFIG, context, _CREATE, None, None, 0)
        made = _syscall(_SYS_FSMOUNT, context, 1, 0)
    finally:
        os.close(context)
    try:
        _syscall(_SYS_MOVE_MOUNT, made, b"", _AT_FDCWD, os.fsencode(target), _MOVE_EMPTY_PATH)
    finally:
        os.close(made)


def mount_by_options(
    target: Path, lowers: Sequence[Path], options: Sequence[tuple[str, str]]
) -> None:
    """As `mount`, for kernels without fsconfig(`lowerdir+`)."""
    failures: list[OSError] = []

    def run() -> None:
        try:
            _mount_from_folder_of_links(target, lowers, options)
        except OSError as error:
            failures.append(error)

    # A thread of its own: its current folder is lost with it.
    thread = threading.Thread(target=run, name="mount")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _mount_from_folder_of_links(
    target: Path, lowers: Sequence[Path], options: Sequence[tuple[str, str]]
) -> None:
    if _libc.unshare(_CLONE_FS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    with tempfile.TemporaryDirectory(prefix=".links-", dir=target.parent) as folder:
        os.chdir(folder)
        for number, lower in enumerate(lowers):
            Path(str(number)).symlink_to(lower.absolute())
        lowerdir = ":".join(map(str, range(len(lowers))))
        words = [f"lowerdir={lowerdir}", *(f"{key}={value}" for key, value in options)]
        plain = [f"{key}={value}" for key, value in _PLAIN]
        try:
            _mount("overlay", str(target), ",".join(words + plain), 0, "overlay")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _mount("overlay", str(target), ",".join(words), 0, "overlay")


def _configure(context: int, key: str, value: str) -> None:
    _syscall(_SYS_FSCONFIG, context, _SET_STRING, key.encode(), os.fsencode(value), 0)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    typed = [
        ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_char_p(argument)
        for argument in arguments
    ]
    result: int = _libc.syscall(ctypes.c_long(number), *typed)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"overlay mount: {os.strerror(error)}")
    return result


def _mount(
    source: str | None, target: str, data: str | None, flags: int, kind: str | None = None
) -> None:
    result = _libc.mount(
        ctypes.c_char_p(os.fsencode(source) if source else None),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_char_p(kind.encode() if kind else None),
        ctypes.c_ulong(flags),
        ctypes.c_char_p(os.fsencode(data) if data else None),
    )
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount on {target}: {os.strerror(error)}")
