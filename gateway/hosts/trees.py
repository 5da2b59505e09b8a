"""Removing file trees of any depth by descriptor, without following a link or leaving the tree.

shutil.rmtree recurses: a container can make a tree that is deeper than Python's stack or the number of
open files, and its root must be removable all the same.  Standard library only.
"""

from __future__ import annotations

import os
import stat

_DEPTH = 64
"""Directories below this are moved up before they are emptied, so that descriptors stay few."""


def remove(name: bytes | str, *, dir_fd: int | None = None) -> None:
    """Remove what `name` is, a tree or anything else.  FileNotFoundError if there is nothing.

    `name` should be one component of `dir_fd`.  Blocking; call it in a thread.
    """
    try:
        os.unlink(name, dir_fd=dir_fd)
    except (IsADirectoryError, PermissionError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            raise
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
        try:
            clear(fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=dir_fd)


def clear(directory: int) -> None:
    """Empty an open directory."""
    moved = 0
    # Each level: its descriptor, its name in the level above, the directories still to be emptied.
    levels = [(directory, "", _unlink_files(directory))]
    try:
        while levels:
            fd, name, children = levels[-1]
            if children:
                child = children.pop()
                if len(levels) > _DEPTH:
                    target = _free_name(directory, moved)
                    moved += 1
                    os.rename(child, target, src_dir_fd=fd, dst_dir_fd=directory)
                    levels[0][2].append(target)
                    continue
                below = os.open(child, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                levels.append((below, child, []))
                levels[-1][2].extend(_unlink_files(below))
                continue
            levels.pop()
            if levels:
                os.close(fd)
                os.rmdir(name, dir_fd=levels[-1][0])
    finally:
        for fd, _, _ in levels[1:]:
            os.close(fd)


def _unlink_files(fd: int) -> list[str]:
    """Unlink what is no directory; the names of those that are."""
    directories = []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=fd)
    return directories


def _free_name(directory: int, number: int) -> str:
    while True:
        name = f".moved-{number}"
        try:
            os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return name
        number += 1_000_003


def size(directory: str) -> int:
    """Sum of the sizes of all files and symbolic links below, as dockerd counts them: each inode once.

    What vanishes meanwhile is left out.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    for _, _, files, fd in os.fwalk(directory, follow_symlinks=False):
        for name in files:
            try:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
                continue
            if found.st_nlink > 1:
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            total += found.st_size
    return total
