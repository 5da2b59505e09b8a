"""Where blocks of memory lie while layers stream through, as the C library counts them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from imgsources import pages

BLOCK = 1 << 20
FIELDS = [
    "arena",
    "ordblks",
    "smblks",
    "hblks",
    "hblkhd",
    "usmblks",
    "fsmblks",
    "uordblks",
    "fordblks",
    "keepcost",
]


class _Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


@pytest.fixture(autouse=True)
def _lean() -> Iterator[None]:
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("another libc, or an old one")
    pages.lean()
    yield
    pages.lean()


def mapped() -> int:
    """Blocks that are mapped on their own."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Counts
    return int(mallinfo().hblks)


def maps_blocks() -> bool:
    ctypes.CDLL(None).malloc_trim(0)  # else it may lie where an earlier one was
    before = mapped()
    block = bytes(BLOCK)
    return mapped() - before == 1 and len(block) == BLOCK


def test_blocks_are_mapped_but_while_something_streams() -> None:
    assert maps_blocks()
    with pages.kept():
        assert not maps_blocks()
        with pages.kept():
            assert not maps_blocks()
        assert not maps_blocks(), "the other stream goes on"
    assert maps_blocks()


def test_a_stream_that_fails_ends_as_well() -> None:
    with pytest.raises(OSError, match="disk"), pages.kept():
        raise OSError("disk")
    assert maps_blocks()
