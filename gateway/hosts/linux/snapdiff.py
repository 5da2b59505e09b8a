"""What differs between a folder and the snapshot that it was cloned from, by walking both: for btrfs and zfs.

A clone keeps the inode numbers of what it shares: a file with the number and the time of change that it had
is the same.  Of folders only mode and owner count, as dockerd has it on these stores, and what changed inside.
Standard library only and little of it: copier.py imports this.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False  # typing itself would double the time to start
if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

MODIFIED, ADDED, DELETED = 0, 1, 2
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Change = tuple[str, int, "os.stat_result | None"]


def differences(
    before: int | None, now: int, ours: Container[str], folder: str = ""
) -> Iterator[Change]:
    """(path from the root, kind, its status), a folder before what is in it, by name.

    `before` and `now` are open folders, None = there was none; no link is followed.  Paths in `ours` are left out:
    what the host itself puts there.
    """
    old = _listed(before) if before is not None else {}
    new = _listed(now)
    for name in sorted(old.keys() | new.keys()):
        path = f"{folder}/{name}"
        was, found = old.get(name), new.get(name)
        if found is None:
            if path not in ours:
                yield path, DELETED, None
            continue
        inner = _inside(before, now, name, was, found, ours, path)
        is_our_folder = path == "/etc" and was is None and not inner
        if path not in ours and not is_our_folder:
            if was is None:
                yield path, ADDED, found
            elif inner or not _is_same(was, found):
                yield path, MODIFIED, found
        yield from inner


def size(before: int | None, now: int, ours: Container[str]) -> int:
    """Bytes of the files and links that are new or changed, each inode once."""
    total = 0
    seen: set[int] = set()
    for _, _, found in differences(before, now, ours):
        if found is None or not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            continue
        if found.st_nlink == 1 or found.st_ino not in seen:
            seen.add(found.st_ino)
            total += found.st_size
    return total


def size_between(before: Path, now: Path, ours: Container[str]) -> int:
    """The same by path.  Blocking."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    old = os.open(before, flags)
    try:
        new = os.open(now, flags)
        try:
            return size(old, new, ours)
        finally:
            os.close(new)
    finally:
        os.close(old)


def _listed(folder: int) -> dict[str, os.stat_result]:
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found[entry.name] = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed meanwhile
    return found


def _inside(
    before: int | None,
    now: int,
    name: str,
    was: os.stat_result | None,
    found: os.stat_result,
    ours: Container[str],
    path: str,
) -> list[Change]:
    if not stat.S_ISDIR(found.st_mode):
        return []
    below = old = None
    try:
        below = os.open(name, _FOLDER, dir_fd=now)
        if before is not None and was is not None and stat.S_ISDIR(was.st_mode):
            old = os.open(name, _FOLDER, dir_fd=before)
        return list(differences(old, below, ours, path))
    except (FileNotFoundError, NotADirectoryError):
        return []  # removed, or replaced, meanwhile
    finally:
        for fd in (below, old):
            if fd is not None:
                os.close(fd)


def _is_same(was: os.stat_result, found: os.stat_result) -> bool:
    if (was.st_mode, was.st_uid, was.st_gid) != (found.st_mode, found.st_uid, found.st_gid):
        return False
    return stat.S_ISDIR(found.st_mode) or _state(was) == _state(found)


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    # Any change moves the time of change, if not within the tick of the clock in which it was made.
    return found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size
