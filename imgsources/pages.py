"""Pages of memory that layers stream through: kept while they do, and the machine's again when they are through.

Blocks of a layer are mapped one by one, so that a pull leaves nothing behind in an idle process.  But a page that is
mapped anew for each block costs more than inflating it (a fifth of a pull's CPU time): `kept` puts blocks on the heap,
where pages are used again, until the last stream has ended.  Who trims the heap afterwards is the process's affair.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_STREAMING = (16 << 20, 4 << 20)
"""Free bytes at the end of the heap that stay with us, and from which size on blocks are mapped."""
_LEAN = (256 << 10, 128 << 10)

_lock = threading.Lock()
_streams = 0


def lean() -> None:
    """Keep next to nothing: memory is the machine's as soon as it is free."""
    _set(*_LEAN)


@contextmanager
def kept() -> Iterator[None]:
    """While a stream of large blocks goes on; any number at a time."""
    global _streams  # noqa: PLW0603 - so is the heap
    with _lock:
        _streams += 1
        if _streams == 1:
            _set(*_STREAMING)
    try:
        yield
    finally:
        with _lock:
            _streams -= 1
            if not _streams:
                lean()


def _set(trim: int, mapped: int) -> None:
    mallopt = _mallopt()
    mallopt(_TRIM_THRESHOLD, trim)
    mallopt(_MMAP_THRESHOLD, mapped)


@functools.cache
def _mallopt() -> Callable[[int, int], object]:
    """glibc's; another libc's knows other numbers, or there is none."""
    libc = ctypes.CDLL(None)
    if sys.platform != "linux" or not hasattr(libc, "gnu_get_libc_version"):
        return lambda *_: None
    mallopt: Callable[[int, int], object] = libc.mallopt
    return mallopt
