"""Where blocks of memory lie while layers stream through, as the C library counts them."""

from __future__ import annotations

import ctypes
import subprocess  # noqa: TID251 - a heap without holes yet
import sys

import pytest

_FRESH = """
import contextlib, ctypes
from imgsources import pages

class Counts(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Counts

def maps_blocks():
    libc.malloc_trim(0)  # else it may lie where an earlier one was
    before = libc.mallinfo2().hblks
    block = bytes(1 << 20)
    return libc.mallinfo2().hblks - before == 1

pages.lean()
print("lean", maps_blocks())
with pages.kept():
    print("one stream", maps_blocks())
    with pages.kept():
        print("two", maps_blocks())
    print("one again", maps_blocks())
print("none", maps_blocks())
with contextlib.suppress(OSError), pages.kept():
    raise OSError
print("one that failed", maps_blocks())
"""


def test_blocks_are_mapped_one_by_one_but_while_something_streams() -> None:
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("another libc, or an old one")
    # In a process whose heap has no holes yet.
    done = subprocess.run(
        [sys.executable, "-c", _FRESH], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [
        "lean True",
        "one stream False",
        "two False",
        "one again False",
        "none True",
        "one that failed True",
    ]
