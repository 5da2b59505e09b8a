"""Tells when files in a folder grow or appear, by inotify: one descriptor for all followers of a loop."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_MODIFY = 0x2
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)

Callback = Callable[[], None]


class _Inotify:
    """One inotify descriptor; open while anybody follows (a user has only 128 of them)."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._callbacks: dict[int, list[tuple[bytes, Callback]]] = {}

    def add(self, folder: Path, prefix: bytes, callback: Callback) -> int:
        if self._descriptor < 0:
            self._descriptor = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        mask = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE
        # The same folder gives the same number: followers of one zone share it.
        watch = _checked(
            _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), mask), str(folder)
        )
        self._callbacks.setdefault(watch, []).append((prefix, callback))
        return watch

    def remove(self, watch: int, prefix: bytes, callback: Callback) -> None:
        callbacks = self._callbacks[watch]
        callbacks.remove((prefix, callback))
        if callbacks:
            return
        del self._callbacks[watch]
        _libc.inotify_rm_watch(self._descriptor, watch)  # fails if the folder is gone: fine
        if not self._callbacks:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        called: dict[Callback, None] = {}
        position = 0
        while position < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, position)
            name = data[position + _EVENT.size : position + _EVENT.size + length].rstrip(b"\0")
            position += _EVENT.size + length
            watches = self._callbacks if mask & _IN_Q_OVERFLOW else (watch,)
            for number in tuple(watches):
                for prefix, callback in self._callbacks.get(number, ()):
                    if mask & _IN_Q_OVERFLOW or name.startswith(prefix):
                        called[callback] = None
        for callback in called:
            callback()


_of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Inotify] = (
    weakref.WeakKeyDictionary()
)


@contextmanager
def watching(path: Path, callback: Callback) -> Iterator[None]:
    """Call back whenever a file that is named like `path` (or starts so) is written, made or moved in.

    OSError if the folder does not exist.
    """
    inotify = _of_loop.setdefault(asyncio.get_running_loop(), _Inotify())
    prefix = os.fsencode(path.name)
    watch = inotify.add(path.parent, prefix, callback)
    try:
        yield
    finally:
        inotify.remove(watch, prefix, callback)


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    return result
