"""Tar archives as a stream of entries: ustar, pax and GNU headers, read by hand.

    archive = { extension header* , header, data padded to 512 } , zero block
    extension: x/g pax records for the next entry/all entries, L/K GNU long name/long link target

Only bytes here: nothing is written, names are not judged (`gateway.hosts.untar` does both).  Standard
library only and little of it, since a worker process imports this at every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from zlib import adler32

BLOCK = 512
EXTENSION_LIMIT = 1 << 20
"""Bytes of one extension header: an 8 GB "long name" would be a way to fill our memory."""
SPARSE_LIMIT = 1 << 40
"""Apparent size of a sparse file."""

_ZEROS = bytes(BLOCK)
_READ_SIZE = 1 << 20
_EMPTY: dict[bytes, bytes] = {}
# As Go's archive/tar: these have no data, whatever their size field says.
_WITHOUT_DATA = frozenset(b"123456")
_REGULAR = frozenset(b"\x00078S")


class BadArchive(Exception):
    """The archive is malformed, or an entry of it is refused; one line that names the entry."""


class Entry:
    """One member.  `kind` is the type flag: 0 file, 1 hard link, 2 symlink, 3/4 device, 5 directory, 6 fifo.

    `size` counts the bytes that follow in the archive; a sparse file has `extents` (offset, length) of
    them and `real_size`.  `mtime_ns` is since the epoch.
    """

    __slots__ = (
        "extents",
        "gid",
        "kind",
        "link",
        "major",
        "minor",
        "mode",
        "mtime_ns",
        "name",
        "real_size",
        "size",
        "uid",
        "xattrs",
    )

    def __init__(self, header: bytes, kind: int, size: int) -> None:
        self.kind = kind
        self.size = size
        self.name = _text(header[0:100])
        self.link = _text(header[157:257]) if kind in b"12" else b""
        self.mode = _number(header[100:108]) & 0o7777
        self.uid = _number(header[108:116])
        self.gid = _number(header[116:124])
        self.mtime_ns = _number(header[136:148], signed=True) * 1_000_000_000
        self.major = self.minor = 0
        if kind in b"34":
            self.major, self.minor = _number(header[329:337]), _number(header[337:345])
        # GNU's magic is "ustar  \0": there the prefix field holds other things.
        if header[345] and header[257:263] == b"ustar\0":
            self.name = _text(header[345:500]) + b"/" + self.name
        self.xattrs = _EMPTY
        self.extents: list[tuple[int, int]] | None = None
        self.real_size = size


class Tar:
    """Entries of the archive that `read` gives, one after the other."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._buffer = b""
        self._view = memoryview(b"")
        self._at = 0
        self._left = 0
        """Bytes of the current entry's data that nobody has taken yet."""
        self._padding = 0
        self._globals: list[tuple[bytes, bytes]] = []
        self._globals_size = 0

    def __iter__(self) -> Iterator[Entry]:
        """Every entry; what is left of the data of one is skipped before the next."""
        while (entry := self._next()) is not None:
            yield entry
        while self._read(_READ_SIZE):
            pass  # whoever hashes the stream must see all of it

    def chunks(self) -> Iterator[memoryview]:
        """The data of the current entry."""
        while self._left:
            if self._at == len(self._buffer):
                self._fill()
            end = min(len(self._buffer), self._at + self._left)
            view = self._view[self._at : end]
            self._left -= end - self._at
            self._at = end
            yield view

    def whole(self) -> memoryview | None:
        """The data of the current entry where it is at hand in one piece: most files are small."""
        end = self._at + self._left
        if end > len(self._buffer):
            return None
        view = self._view[self._at : end]
        self._left, self._at = 0, end
        return view

    def _next(self) -> Entry | None:
        extension = _Extension(list(self._globals))
        while (header := self._header()) is not None:
            kind = header[156]
            size = _number(header[124:136])
            if kind not in b"xgXLK":
                return self._entry(header, kind, size, extension)
            self._extend(extension, kind, size)
        if extension.size:
            raise BadArchive("archive ends after an extension header")
        return None

    def _extend(self, extension: _Extension, kind: int, size: int) -> None:
        """Read one extension header into what is known of the entry after it."""
        extension.size += 0 if kind == ord("g") else size
        if max(size, extension.size) > EXTENSION_LIMIT:
            raise BadArchive(f"extension header {chr(kind)!r} of {size} bytes is too large")
        data = self._take(size)
        self._skip(-size % BLOCK)
        if kind == ord("L"):
            extension.name = _text(data)
        elif kind == ord("K"):
            extension.link = _text(data)
        else:
            if kind == ord("g"):
                self._add_globals(data)
            extension.records += _records(data)

    def _entry(self, header: bytes, kind: int, size: int, extension: _Extension) -> Entry:
        entry = Entry(header, kind, size)
        if extension.name is not None:
            entry.name = extension.name
        if extension.link is not None:
            entry.link = extension.link
        sparse = _apply(entry, extension.records) if extension.records else None
        if kind in _REGULAR:
            # Archivers before POSIX told directories by their names alone.
            entry.kind = ord("5") if entry.name.endswith(b"/") and kind in b"\x000" else ord("0")
        if entry.kind in _WITHOUT_DATA:
            entry.size = 0
        self._left, self._padding = entry.size, -entry.size % BLOCK
        if kind == ord("S"):
            self._old_sparse(entry, header)
        elif sparse:
            self._pax_sparse(entry, sparse)
        return entry

    def _header(self) -> bytes | None:
        """The next header block; None at the end mark or where the archive ends between entries."""
        if self._left or self._padding:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
        header = self._take(BLOCK, may_end=True)
        if not header or header == _ZEROS:
            return None
        total = _sum(header) - sum(header[148:156]) + 256
        claimed = _number(header[148:156])
        if total != claimed and _signed_sum(header) != claimed:
            raise BadArchive(
                f"{_text(header[:100])!r}: header checksum is wrong, not a tar archive"
            )
        return header

    def _add_globals(self, data: bytes) -> None:
        self._globals_size += len(data)
        if self._globals_size > EXTENSION_LIMIT:
            raise BadArchive("global pax headers are too large")
        self._globals += _records(data)

    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        """GNU's own sparse format: four extents in the header, 21 in each further block."""
        numbers = [header[at : at + 24] for at in range(386, 482, 24)]
        more = header[482]
        while more:
            block = self._take(BLOCK)
            numbers += [block[at : at + 24] for at in range(0, 504, 24)]
            more = block[504]
            if len(numbers) > EXTENSION_LIMIT // 24:
                raise BadArchive(f"{entry.name!r}: sparse map is too large")
        extents = [(_number(pair[:12]), _number(pair[12:])) for pair in numbers if pair[0]]
        _set_extents(entry, extents, _number(header[483:495]))

    def _pax_sparse(self, entry: Entry, sparse: dict[bytes, list[bytes]]) -> None:
        """pax formats 0.0 and 0.1 (map in the records) and 1.0 (map at the head of the data)."""
        if sparse.get(b"major", [b"0"])[-1] == b"1":
            numbers = self._sparse_map(entry)
        elif b"map" in sparse:
            numbers = [_decimal(text) for text in sparse[b"map"][-1].split(b",") if text]
        else:
            offsets, lengths = sparse.get(b"offset", []), sparse.get(b"numbytes", [])
            if len(offsets) != len(lengths):
                raise BadArchive(f"{entry.name!r}: sparse map is malformed")
            numbers = [
                _decimal(text) for pair in zip(offsets, lengths, strict=True) for text in pair
            ]
        size = sparse.get(b"realsize", sparse.get(b"size", []))
        if len(numbers) % 2 or not size:
            raise BadArchive(f"{entry.name!r}: sparse map is malformed")
        extents = list(zip(numbers[::2], numbers[1::2], strict=True))
        _set_extents(entry, extents, _decimal(size[-1]))

    def _sparse_map(self, entry: Entry) -> list[int]:
        text = b""
        wanted = 1
        while text.count(b"\n") < wanted:
            if len(text) > EXTENSION_LIMIT or self._left < BLOCK:
                raise BadArchive(f"{entry.name!r}: sparse map is malformed")
            text += self._take(BLOCK)
            self._left -= BLOCK
            wanted = 1 + 2 * _decimal(text.split(b"\n", 1)[0])
        entry.size = self._left
        return [_decimal(line) for line in text.split(b"\n")[1:wanted]]

    def _take(self, count: int, *, may_end: bool = False) -> bytes:
        end = self._at + count
        if end <= len(self._buffer):
            data = self._buffer[self._at : end]
            self._at = end
            return data
        parts: list[bytes] = []
        while count:
            if self._at == len(self._buffer) and not self._fill(may_end=may_end and not parts):
                return b""
            part = self._buffer[self._at : self._at + count]
            self._at += len(part)
            count -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _skip(self, count: int) -> None:
        while self._at + count > len(self._buffer):
            count -= len(self._buffer) - self._at
            self._at = len(self._buffer)
            if not self._fill(may_end=count < BLOCK):
                return  # only padding is missing at the very end, as some writers leave it
        self._at += count

    def _fill(self, *, may_end: bool = False) -> bool:
        self._buffer = self._read(_READ_SIZE)
        self._view = memoryview(self._buffer)
        self._at = 0
        if not self._buffer and not may_end:
            raise BadArchive("archive is cut short: unexpected EOF")
        return bool(self._buffer)


class _Extension:
    """What extension headers say of the entry after them."""

    __slots__ = ("link", "name", "records", "size")

    def __init__(self, records: list[tuple[bytes, bytes]]) -> None:
        self.records = records
        self.name: bytes | None = None
        self.link: bytes | None = None
        self.size = 0


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes, *, signed: bool = False) -> int:
    """Octal, or base-256 where the top bit is set.  int() alone would take `_`, `+` and `-`."""
    digits = field.strip(b" \0")
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass
    else:
        if not digits:
            return 0
        if field[0] & 0x80:
            value = int.from_bytes(field, "big")
            value -= (1 << 8 * len(field)) if field[0] & 0x40 else 1 << (8 * len(field) - 1)
            if signed or 0 <= value < 1 << 63:
                return value
    raise BadArchive(f"number {field!r} in a header is malformed")


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise BadArchive(f"number {text[:40]!r} in a pax header is malformed")
    return int(text)


def _sum(header: bytes) -> int:
    """Of all bytes: a half of Adler's checksum as long as it is below 65521, ten times as fast as sum()."""
    first, second = adler32(header[:256]), adler32(header[256:])
    return (first & 0xFFFF) + (second & 0xFFFF) - 2


def _signed_sum(header: bytes) -> int:
    """Some old archivers summed signed characters."""
    plain = header[:148] + b" " * 8 + header[156:]
    return sum(byte - 256 if byte > 127 else byte for byte in plain)


def _records(data: bytes) -> list[tuple[bytes, bytes]]:
    """pax records `LENGTH KEY=VALUE\\n`, in order: sparse format 0.0 repeats its keys."""
    records = []
    at = 0
    while at < len(data):
        length, blank, _ = data[at : at + 20].partition(b" ")
        end = at + (_decimal(length) if blank else 0)
        key, equals, value = data[at + len(length) + 1 : end - 1].partition(b"=")
        if end <= at + len(length) + 1 or end > len(data) or data[end - 1] != 10 or not equals:
            raise BadArchive("pax header is malformed")
        records.append((key, value))
        at = end
    return records


def _apply(entry: Entry, records: list[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    """Let pax records override the header; the sparse ones are returned, by the word after the dot."""
    sparse: dict[bytes, list[bytes]] = {}
    xattrs: dict[bytes, bytes] = {}
    for key, value in records:
        if key == b"path":
            entry.name = value
        elif key == b"linkpath":
            entry.link = value
        elif key in (b"size", b"uid", b"gid"):
            setattr(entry, key.decode(), _decimal(value))
        elif key == b"mtime":
            entry.mtime_ns = _nanoseconds(value)
        elif key.startswith(b"SCHILY.xattr."):
            xattrs[key[13:]] = value
        elif key.startswith(b"GNU.sparse."):
            sparse.setdefault(key[11:], []).append(value)
    if xattrs:
        entry.xattrs = xattrs
    if b"name" in sparse:
        entry.name = sparse[b"name"][-1]
    return sparse


def _nanoseconds(text: bytes) -> int:
    whole, _, fraction = text.partition(b".")
    negative = whole.startswith(b"-")
    nanoseconds = _decimal(whole.lstrip(b"-") or b"0") * 1_000_000_000
    if fraction:
        nanoseconds += _decimal(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if negative else nanoseconds


def _set_extents(entry: Entry, extents: list[tuple[int, int]], real_size: int) -> None:
    if real_size > SPARSE_LIMIT:
        raise BadArchive(f"{entry.name!r}: sparse file of {real_size} bytes is too large")
    end = 0
    for offset, length in extents:
        if offset < end or offset + length > real_size:
            raise BadArchive(f"{entry.name!r}: sparse map is malformed")
        end = offset + length
    if sum(length for _, length in extents) != entry.size:
        raise BadArchive(f"{entry.name!r}: sparse map does not match its data")
    entry.extents = extents
    entry.real_size = real_size
