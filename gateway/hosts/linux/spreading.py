"""Directories whose entries have nothing to do with each other, told to a file system that asks where to put them.

ext4 puts what is made in a directory near it.  Layers are written at the same time, and are made soon after others
were removed: near each other they wait for the same bitmaps, and where there is no journal every new file is looked
for behind all that went in the last minutes, which took more than half of a pull's CPU time (30,000 files after as
many were removed: 6 s of 9).
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
_TOP_OF_HIERARCHY = 0x00020000
"""chattr +T: "the subdirectories under this directory are not related" (Orlov's allocator)."""


def spread_below(folder: Path) -> None:
    """What is made in `folder` from now on goes to parts of the disk of its own, where the file system can.  OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # xfs, btrfs, tmpfs and others have no such mark, and place things in their own way.
        with suppress(OSError):
            (flags,) = struct.unpack("l", fcntl.ioctl(fd, _GET_FLAGS, struct.pack("l", 0)))
            fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", flags | _TOP_OF_HIERARCHY))
    finally:
        os.close(fd)
