"""Files that appear in watched folders, by inotify: exit codes from conmon, pid files from the runtime."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

_IN_CLOSE_WRITE = 0x8
_IN_CLOSE_NOWRITE = 0x10
_IN_MOVED_TO = 0x80
_IN_IGNORED = 0x8000
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class FolderWatch:
    """Calls back with the name of each file that was finished in a folder.

    A callback may come twice for one file, and for one that is gone again.
    """

    def __init__(self) -> None:
        self._descriptor: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._descriptor < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._callbacks: dict[int, Callable[[str], None]] = {}
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def add(self, folder: Path, callback: Callable[[str], None], *, touched: bool = False) -> None:
        """Watch `folder`, which must exist, until it is removed, or `close`.

        `touched`: for files that nobody writes to, each time that one was opened and closed.
        """
        mask = _IN_CLOSE_NOWRITE if touched else _IN_CLOSE_WRITE | _IN_MOVED_TO
        watch: int = _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), mask)
        if watch < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(folder))
        self._callbacks[watch] = callback

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        position = 0
        while position < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size
            name = data[position : position + length].rstrip(b"\0")
            position += length
            if mask & _IN_IGNORED:
                self._callbacks.pop(watch, None)
            elif callback := self._callbacks.get(watch):
                callback(os.fsdecode(name))

    def close(self) -> None:
        """No callback after this."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
