"""Tar entries as GNU tar writes them: `Entry` -> bytes.  No I/O.

A layer reaches the platform's tar only in this one dialect, whatever it came in: what that program reads is
what we have checked, with no second opinion on which of two headers counts.  GNU's long names are raw bytes;
names in pax headers would be taken for UTF-8, and turned into what the locale of the far side allows.

Left out: names of owners (they would be looked up on the far side) and extended attributes (lx zones have none).
"""

from __future__ import annotations

from gateway.hosts.tarstream import BLOCK, Entry

END = bytes(2 * BLOCK)
"""After the last entry."""

_NAME_LIMIT = 100
_MAGIC = b"ustar  \0"
_SPARSE = ord("S")
_EXTENTS_IN_HEADER = 4
_EXTENTS_IN_BLOCK = 21


def header(entry: Entry, *, name: bytes | None = None, link: bytes | None = None) -> bytes:
    """All blocks before the data of an entry; `name` and `link` take the place of its own.

    A directory's name must end in a slash.  The data that follow are as in the archive it came from: of a
    sparse file the extents alone.
    """
    name = entry.name if name is None else name
    link = entry.link if link is None else link
    blocks = b""
    seconds, fraction = divmod(entry.mtime_ns, 1_000_000_000)
    if fraction:
        record = _record(
            b"mtime", b"%d.%09d" % (seconds, fraction) if seconds >= 0 else b"%d" % seconds
        )
        blocks += _extension(b"x", record)
    if len(link) > _NAME_LIMIT:
        blocks += _extension(b"K", link + b"\0")
    if len(name) > _NAME_LIMIT:
        blocks += _extension(b"L", name + b"\0")
    kind = entry.kind if entry.extents is None else _SPARSE
    block = _block(name, link, entry, kind, seconds)
    more = b""
    if entry.extents is not None:
        more = _write_extents(block, entry.extents, entry.real_size)
    return blocks + _sealed(block) + more


def padding(size: int) -> bytes:
    """After `size` bytes of data."""
    return bytes(-size % BLOCK)


def _block(name: bytes, link: bytes, entry: Entry, kind: int, seconds: int) -> bytearray:
    block = bytearray(BLOCK)
    block[0 : min(len(name), _NAME_LIMIT)] = name[:_NAME_LIMIT]
    block[100:108] = _number(entry.mode, 8)
    block[108:116] = _number(entry.uid, 8)
    block[116:124] = _number(entry.gid, 8)
    block[124:136] = _number(entry.size, 12)
    block[136:148] = _number(seconds, 12)
    block[156] = kind
    block[157 : 157 + min(len(link), _NAME_LIMIT)] = link[:_NAME_LIMIT]
    block[257:265] = _MAGIC
    if entry.kind in b"34":
        block[329:337] = _number(entry.major, 8)
        block[337:345] = _number(entry.minor, 8)
    return block


def _sealed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _number(value: int, width: int) -> bytes:
    """Octal where it fits, else base-256."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    marked = value % (1 << 8 * width) | 1 << (8 * width - 1)
    return marked.to_bytes(width, "big")


def _extension(kind: bytes, data: bytes) -> bytes:
    block = bytearray(BLOCK)
    name = b"././@LongLink" if kind in b"KL" else b"././@PaxHeader"
    block[0 : len(name)] = name
    block[100:108] = block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = _number(len(data), 12)
    block[136:148] = _number(0, 12)
    block[156:157] = kind
    block[257:265] = _MAGIC
    return _sealed(block) + data + padding(len(data))


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, the length counting itself."""
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest)
    while size != len(rest) + len(b"%d" % size):
        size = len(rest) + len(b"%d" % size)
    return b"%d" % size + rest


def _write_extents(block: bytearray, extents: list[tuple[int, int]], real_size: int) -> bytes:
    """GNU's own sparse format: four extents in the header, 21 in each further block, which are returned."""
    if not extents or sum(extents[-1]) < real_size:
        extents = [*extents, (real_size, 0)]  # as GNU tar ends a map: a hole at the end is kept
    cells = [_number(offset, 12) + _number(length, 12) for offset, length in extents]
    block[386 : 386 + 24 * len(cells[:_EXTENTS_IN_HEADER])] = b"".join(cells[:_EXTENTS_IN_HEADER])
    block[483:495] = _number(real_size, 12)
    rest = cells[_EXTENTS_IN_HEADER:]
    block[482] = bool(rest)
    blocks = b""
    while rest:
        now, rest = rest[:_EXTENTS_IN_BLOCK], rest[_EXTENTS_IN_BLOCK:]
        blocks += (b"".join(now).ljust(504, b"\0") + bytes([bool(rest)])).ljust(BLOCK, b"\0")
    return blocks
