"""A tree of files as a tar, in large blocks: what `docker cp`, `export` and `commit` read.

Headers are ustar, with pax records before them for what does not fit: long or non-ASCII names, large numbers,
capabilities.  Content of large files goes from the file to the pipe within the kernel.  Standard library only and
little of it: a process imports this at every copy (copier.py).
"""
# ruff: noqa: PTH115 - pathlib takes longer to import than most copies take

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False  # typing itself would double the time to start
if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 512
_FLUSH = 1 << 18
_SPLICED = 1 << 17
"""Files from this size on are not copied through this process."""
# A running zone may put a fifo, or a link, where a file was a moment ago.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CAPABILITY = "security.capability"
_REGULAR, _HARD, _SYMBOLIC, _CHARACTER, _BLOCKS, _FOLDER, _FIFO = b"0123456"
_KINDS = {
    stat.S_IFREG: _REGULAR,
    stat.S_IFLNK: _SYMBOLIC,
    stat.S_IFCHR: _CHARACTER,
    stat.S_IFBLK: _BLOCKS,
    stat.S_IFDIR: _FOLDER,
    stat.S_IFIFO: _FIFO,
}
_TAIL = b"ustar\00000" + bytes(64)
_MAGIC_SUM = sum(b"ustar00") + 8 * 32  # with the checksum's own field as blanks
_NO_DEVICE = b"0000000\x000000000\0"
_NO_DEVICE_SUM = sum(_NO_DEVICE)
_ZEROS = bytes(_FLUSH)
_PADDING = [bytes(-size % _BLOCK) for size in range(_BLOCK)]


class TarWriter:
    """Writes entries to a descriptor; `close` ends the archive."""

    def __init__(self, out: int) -> None:
        self._out = out
        self._parts: list[bytes] = []
        self._size = 0
        self._links: dict[tuple[int, int], bytes] = {}

    def tree(self, top: str, name: bytes) -> None:
        """`top` and what is below it, under `name`; b"" leaves the top itself out."""
        found = os.lstat(top)
        if name:
            self.add(top, name, found)
        if stat.S_ISDIR(found.st_mode):
            self._below(top if top.endswith("/") else top + "/", name)

    def _below(self, folder: str, name: bytes) -> None:
        """By name, a folder before its content.  `folder` ends in a slash."""
        prefix = name if not name or name.endswith(b"/") else name + b"/"
        for entry in _sorted(folder):
            path = folder + entry.name
            inside = prefix + os.fsencode(entry.name)
            try:
                found = entry.stat(follow_symlinks=False)
                self.add(path, inside, found)
                if stat.S_ISDIR(found.st_mode):
                    self._below(path + "/", inside)
            except FileNotFoundError:
                continue  # removed meanwhile

    def add(self, path: str, name: bytes, found: os.stat_result) -> None:
        """One entry.  FileNotFoundError before anything of it is written."""
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return  # a socket has no place in a tar
        if kind == _REGULAR:
            if found.st_nlink > 1:
                first = self._links.setdefault((found.st_dev, found.st_ino), name)
                if first != name:
                    self._header(name, found, _HARD, link=first)
                    return
            self._file(path, name, found)
        elif kind == _FOLDER:
            self._header(name if name.endswith(b"/") else name + b"/", found, kind)
        elif kind == _SYMBOLIC:
            self._header(name, found, kind, link=os.fsencode(os.readlink(path)))
        else:
            self._header(name, found, kind)

    def removed(self, name: bytes) -> None:
        """A whiteout: an empty file of root's."""
        self._put(_plain_header(name, b"", _REGULAR, 0o644, 0, 0, 0, 0, _NO_DEVICE))

    def _file(self, path: str, name: bytes, found: os.stat_result) -> None:
        try:
            descriptor = os.open(path, _FILE)
        except FileNotFoundError:
            return
        try:
            size = found.st_size
            self._header(name, found, _REGULAR, size=size, records=_capability(descriptor))
            if size >= _SPLICED:
                self._large(descriptor, size)
            elif size:
                data = os.read(descriptor, size)
                if len(data) < size:
                    # It was cut meanwhile: the tar gets the size that its header says.
                    data += _rest(descriptor, size - len(data))
                self._put(data)
            if padding := -size % _BLOCK:
                self._put(_PADDING[_BLOCK - padding])
        finally:
            os.close(descriptor)

    def _large(self, descriptor: int, size: int) -> None:
        self.flush()
        left = size
        while left and (moved := _spliced(descriptor, self._out, left)):
            left -= moved
        while left:
            data = os.read(descriptor, min(left, _FLUSH)) or _ZEROS[: min(left, _FLUSH)]
            left -= len(data)
            _write_all(self._out, data)

    def _header(
        self,
        name: bytes,
        found: os.stat_result,
        kind: int,
        *,
        link: bytes = b"",
        size: int = 0,
        records: bytes = b"",
    ) -> None:
        device = _NO_DEVICE
        if kind in (_CHARACTER, _BLOCKS):
            device = b"%07o\0%07o\0" % (os.major(found.st_rdev), os.minor(found.st_rdev))
        # The third way to tell the time would be a float's.
        seconds = found.st_mtime_ns // 1_000_000_000
        uid, gid = found.st_uid, found.st_gid
        prefix = b""
        if len(name) > 100 or not name.isascii():
            name, prefix, more = _long_name(name)
            records += more
        if len(link) > 100 or not link.isascii():
            records += record(b"linkpath", link)
            link = link[:100].decode("ascii", "replace").encode("ascii", "replace")
        if uid > 0o7777777 or gid > 0o7777777:
            records += record(b"uid", b"%d" % uid) + record(b"gid", b"%d" % gid)
            uid, gid = min(uid, 0o7777777), min(gid, 0o7777777)
        if size > 0o77777777777:
            records += record(b"size", b"%d" % size)
            size = 0
        if not 0 <= seconds <= 0o77777777777:
            records += record(b"mtime", b"%d" % seconds)
            seconds = 0
        if records:
            self._put(
                _plain_header(
                    b"././@PaxHeader", b"", ord("x"), 0o644, 0, 0, len(records), 0, _NO_DEVICE
                )
            )
            self._put(records + bytes(-len(records) % _BLOCK))
        mode = found.st_mode & 0o7777
        header = _plain_header(name, link, kind, mode, uid, gid, size, seconds, device, prefix)
        self._put(header)

    def _put(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Everything so far is written."""
        if self._parts:
            _write_all(self._out, b"".join(self._parts))
            self._parts.clear()
            self._size = 0

    def close(self) -> None:
        """The end mark."""
        self._put(bytes(2 * _BLOCK))
        self.flush()


def _sorted(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return iter(sorted(entries, key=_name))
    except (FileNotFoundError, NotADirectoryError):
        return iter(())  # removed meanwhile


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _plain_header(
    name: bytes,
    link: bytes,
    kind: int,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    seconds: int,
    device: bytes,
    prefix: bytes = b"",
) -> bytes:
    """512 bytes.  The checksum by its parts: most of a header is always the same."""
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, seconds)
    total = sum(name) + sum(numbers) + sum(link) + kind + _MAGIC_SUM + sum(prefix)
    total += _NO_DEVICE_SUM if device is _NO_DEVICE else sum(device)
    return b"%b%b%06o\0 %c%b%b%b%b" % (
        name.ljust(100, b"\0"),
        numbers,
        total,
        kind,
        link.ljust(100, b"\0"),
        _TAIL,
        device,
        prefix.ljust(167, b"\0"),
    )


def _long_name(name: bytes) -> tuple[bytes, bytes, bytes]:
    """Name, prefix and pax records of a name that a header cannot hold as it is."""
    if name.isascii():
        cut = name.rfind(b"/", 0, min(len(name) - 1, 156))
        if cut > 0 and 0 < len(name) - cut - 1 <= 100:
            return name[cut + 1 :], name[:cut], b""
    short = name[:100].decode("ascii", "replace").encode("ascii", "replace")
    return short, b"", record(b"path", name)


def record(key: bytes, value: bytes) -> bytes:
    """A pax record: its length counts itself."""
    size = len(key) + len(value) + 3
    length = size + len(str(size))
    if len(str(length)) > len(str(size)):
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


def _capability(descriptor: int) -> bytes:
    try:
        value = os.getxattr(descriptor, _CAPABILITY)
    except OSError:
        return b""
    return record(b"SCHILY.xattr." + _CAPABILITY.encode(), value)


def _rest(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := os.read(descriptor, size - len(data))):
        data += more
    return data.ljust(size, b"\0")


def _spliced(descriptor: int, out: int, size: int) -> int:
    """Bytes that went within the kernel; 0 at the end of the file, or where that is not to be had."""
    try:
        return os.splice(descriptor, out, min(size, 1 << 20))
    except BrokenPipeError:
        raise
    except OSError:
        return 0


def _write_all(out: int, data: bytes) -> None:
    size = os.write(out, data)
    if size < len(data):
        view = memoryview(data)
        while size < len(data):
            size += os.write(out, view[size:])
