"""One layer's tar from standard input into a directory; nothing outside of it is ever touched.

A program of its own, run by `gateway.hosts.*.datasets` as `command` says, one process a layer:

    untar ROOT overlay|merged [chroot]  < tar

    overlay  ROOT holds this layer alone; a whiteout is a character device 0:0, an opaque directory has
             trusted.overlay.opaque=y
    merged   ROOT holds the lower layers too; a whiteout removes what they put there

Ends with 0 and one JSON line {entries, bytes, opaque, implied}; with 1 and a line on standard error that
names the refused entry; with 2 and a line if the machine is at fault (disk full).  What was written by
then is the caller's to throw away: any refusal spoils the whole layer.

Paths are looked up by openat2(RESOLVE_IN_ROOT), so that a symlink made by an earlier entry leads to where
it leads inside the container.  Kernels before 5.6 have no openat2: there the process changes its root.
Measured: 32 us of own time an entry; starting takes longer than most layers of a Dockerfile, hence few
imports.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import stat
import sys

from gateway.hosts import trees
from gateway.hosts.tarstream import BadArchive, Entry, Tar

TYPE_CHECKING = False  # typing itself would double the time to start
if TYPE_CHECKING:
    from collections.abc import Callable

ENTRY_LIMIT = 4_000_000
DEPTH_LIMIT = 512
_CACHED_DIRECTORIES = 200
_OPENAT2 = 437
_IN_ROOT_NO_MAGICLINKS = 0x10 | 0x02
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = "trusted.overlay.opaque"
# What an overlay mount would obey: a layer could redirect a directory to anywhere in the lower ones.
_DROPPED_XATTRS = (b"trusted.overlay.", b"user.overlay.")

# The packages are entered without running their __init__, which would import half the gateway, and
# site-packages (-S) are not looked at.
_START = """\
import sys
for name in ("gateway", "gateway.hosts"):
    package = sys.modules[name] = type(sys)(name)
    package.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
from gateway.hosts.untar import main
sys.exit(main(sys.argv[2:]))
"""


def command(root: str, mode: str, *options: str) -> list[str]:
    """The command line of the program; `mode` is overlay or merged, the only option chroot."""
    packages = __file__.removesuffix("/gateway/hosts/untar.py")
    return [sys.executable, "-I", "-S", "-c", _START, packages, root, mode, *options]


def has_openat2() -> bool:
    """Whether the kernel can confine a lookup (5.6 on)."""
    try:
        Root("/").close()
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return False
        raise
    return True


class Root:
    """A directory, and lookups that cannot leave it.

    OSError(ENOSYS) where the kernel cannot confine them.  With `chroot` the whole process is confined
    instead: only for a process that does nothing else.
    """

    def __init__(self, path: str, *, chroot: bool = False) -> None:
        self.fd = os.open(path, _DIRECTORY)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._chroot = chroot
        if chroot:
            # From here on an import would be looked up inside the image.
            sys.path[:] = []
            sys.meta_path[:] = []
            os.fchdir(self.fd)
            os.chroot(".")
            return
        try:
            os.close(self.open(b""))
        except OSError:
            self.close()
            raise

    def open(self, path: bytes, flags: int = _DIRECTORY) -> int:
        """A descriptor of the directory `path` (relative, normalised; "" is the root)."""
        if self._chroot:
            return os.open(b"/" + path, flags)
        how = (ctypes.c_uint64 * 3)(flags, 0, _IN_ROOT_NO_MAGICLINKS)
        while True:
            fd: int = self._libc.syscall(
                ctypes.c_long(_OPENAT2),
                ctypes.c_int(self.fd),
                ctypes.c_char_p(path or b"."),
                ctypes.byref(how),
                ctypes.c_size_t(24),
            )
            if fd >= 0:
                return fd
            number = ctypes.get_errno()
            if number != errno.EAGAIN:  # a rename went on meanwhile
                raise OSError(number, os.strerror(number), path)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self.fd)


class Writer:
    """Writes entries below a root.  One object a layer."""

    def __init__(self, root: Root, *, overlay: bool) -> None:
        self._root = root
        self._overlay = overlay
        self._directories: dict[bytes, int] = {}
        self._inodes: dict[int, int] = {}
        """Merged mode: inode of each open directory."""
        self._written: set[tuple[int, bytes]] = set()
        """Merged mode: (inode of the directory, name) of what this layer wrote; whiteouts spare it."""
        self._mtimes: dict[bytes, int] = {}
        self._stale = False
        free = os.fstatvfs(root.fd)
        self._free = free.f_bavail * free.f_frsize
        self.entries = 0
        self.bytes = 0
        self.opaque = False
        """The root itself is opaque: nothing of the lower layers is left."""
        self.implied: dict[bytes, None] = {}
        """Directories that no entry describes ("": the root); lower layers may know their owner and mode."""

    def write(self, tar: Tar) -> None:
        """All of the archive.  BadArchive, or OSError of the machine's own (ENOSPC, EIO ...)."""
        for entry in tar:
            self.entries += 1
            if self._stale or len(self._directories) > _CACHED_DIRECTORIES:
                self._forget_directories()
            try:
                self._entry(tar, entry)
            except OSError as error:
                if error.errno in (
                    errno.ENOSPC,
                    errno.EDQUOT,
                    errno.EIO,
                    errno.EROFS,
                    errno.EMFILE,
                ):
                    raise
                raise BadArchive(f"{entry.name!r}: {error.strerror}") from error
            except OverflowError as error:
                raise BadArchive(f"{entry.name!r}: a number is out of range") from error
        if b"" not in self._mtimes:
            self.implied[b""] = None
        self._set_directory_times()

    def _entry(self, tar: Tar, entry: Entry) -> None:
        parts = path_parts(entry.name, entry.name)
        if self.entries > ENTRY_LIMIT:
            raise BadArchive(f"{entry.name!r}: more than {ENTRY_LIMIT} entries")
        if not parts:
            self._root_itself(entry)
            return
        name = parts.pop()
        if b".wh." in entry.name:
            if any(part.startswith(b".wh..wh.") for part in parts):
                return  # below .wh..wh.plnk and the like: bookkeeping of aufs
            if name.startswith(b".wh."):
                self._whiteout(b"/".join(parts), name, entry)
                return
        parent = b"/".join(parts)
        fd = self._directories.get(parent)
        if fd is None:
            fd = self._open_parent(parent, entry)
        if entry.kind == 0x30:
            self._file(tar, entry, fd, name)
        elif entry.kind == 0x35:
            self._directory(entry, fd, name, parent + b"/" + name if parent else name)
        else:
            self._special(entry, fd, name)
        if not self._overlay:
            self._written.add((self._inodes[fd], name))

    # --- the kinds of entries

    def _special(self, entry: Entry, fd: int, name: bytes) -> None:
        kind = entry.kind
        if kind == 0x32:
            self._make(fd, name, lambda: os.symlink(entry.link, name, dir_fd=fd))
            self._attributes(entry, fd, name)
            self.bytes += len(entry.link)  # a link's size is its text's length; dockerd counts it
        elif kind == 0x31:
            self._hard_link(entry, fd, name)
        elif kind in b"346":
            self._device(entry, fd, name)
        else:
            raise BadArchive(f"{entry.name!r}: entries of type {chr(kind)!r} are not supported")

    def _file(self, tar: Tar, entry: Entry, directory: int, name: bytes) -> None:
        mode = entry.mode
        self.bytes += entry.size
        if self.bytes > self._free:
            raise OSError(errno.ENOSPC, "the layer needs more space than is free")
        try:
            fd = os.open(name, _NEW_FILE, mode & 0o777, dir_fd=directory)
        except FileExistsError:
            self._remove(directory, name)
            fd = os.open(name, _NEW_FILE, mode & 0o777, dir_fd=directory)
        try:
            if entry.extents is not None:
                _write_sparse(fd, tar, entry)
            elif entry.size:
                data = tar.whole()
                if data is None or os.write(fd, data) != entry.size:
                    _write_all(fd, tar, data)
            os.fchown(fd, entry.uid, entry.gid)
            if mode & 0o7000:  # chown clears setuid
                os.fchmod(fd, mode)
            if entry.xattrs:  # after chown and write: both drop security.capability
                _set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _directory(self, entry: Entry, directory: int, name: bytes, path: bytes) -> None:
        made = self._make_directory(directory, name)
        os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        # By name, which follows symlinks: it was just seen to be a directory, and nobody else is here.
        os.chmod(name, entry.mode, dir_fd=directory)
        if entry.xattrs:
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                _set_xattrs(fd, entry)
            finally:
                os.close(fd)
        if not made:
            self._mtimes.pop(path, None)  # to be set in the order of the last entries
            self.implied.pop(path, None)
        self._mtimes[path] = entry.mtime_ns

    def _device(self, entry: Entry, directory: int, name: bytes) -> None:
        kind = {0x33: stat.S_IFCHR, 0x34: stat.S_IFBLK, 0x36: stat.S_IFIFO}[entry.kind]
        device = 0 if entry.kind == 0x36 else os.makedev(entry.major, entry.minor)
        mode = kind | entry.mode
        self._make(directory, name, lambda: os.mknod(name, mode, device, dir_fd=directory))
        self._attributes(entry, directory, name)

    def _hard_link(self, entry: Entry, directory: int, name: bytes) -> None:
        parts = path_parts(entry.link, entry.name)
        if not parts:
            raise BadArchive(f"{entry.name!r}: hard link to the root")
        target = parts.pop()
        missing = f"{entry.name!r}: hard link to {entry.link!r}, which is not in this layer"
        try:
            source = self._lookup(b"/".join(parts))
            found = os.stat(target, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                raise BadArchive(f"{entry.name!r}: hard link to the directory {entry.link!r}")
            if self._overlay and stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                raise BadArchive(missing)  # a whiteout: the link would be one itself
            if _is(directory, name, found):
                return
            self._make(
                directory,
                name,
                lambda: os.link(
                    target, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False
                ),
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BadArchive(missing) from error

    def _root_itself(self, entry: Entry) -> None:
        if entry.kind != 0x35:
            raise BadArchive(f"{entry.name!r}: only a directory can be the root")
        fd = self._root.fd
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        _set_xattrs(fd, entry)
        self._mtimes[b""] = entry.mtime_ns

    def _attributes(self, entry: Entry, directory: int, name: bytes) -> None:
        """Owner, mode, xattrs and time of what cannot be opened: symlinks, devices, fifos."""
        os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        if entry.kind != 0x32 and entry.mode & 0o7000:
            os.chmod(name, entry.mode, dir_fd=directory)
        if entry.xattrs:
            os.fchdir(directory)  # there is no setxattrat before Linux 6.13
            _set_xattrs(b"./" + name, entry)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)

    # --- whiteouts

    def _whiteout(self, parent: bytes, marker: bytes, entry: Entry) -> None:
        name = marker[4:]
        if name.startswith(b".wh.") and name != b".wh..opq":
            return
        if name in (b"", b".", b".."):
            raise BadArchive(f"{entry.name!r}: a whiteout must name an entry")
        if self._overlay:
            fd = self._directories.get(parent)
            self._overlay_whiteout(self._open_parent(parent, entry) if fd is None else fd, name)
            self.opaque |= name == b".wh..opq" and not parent
            return
        try:
            fd = self._lookup(parent)
        except (FileNotFoundError, NotADirectoryError):
            return  # nothing there to be hidden
        if name == b".wh..opq":
            self._remove_lower_below(fd)
        else:
            self._remove_lower(fd, name)
        self._stale = True

    def _overlay_whiteout(self, directory: int, name: bytes) -> None:
        if name == b".wh..opq":
            os.setxattr(directory, _OPAQUE, b"y")
            return
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)
            return
        # A whiteout hides lower layers only: what this layer has put there stays, but alone.
        if stat.S_ISDIR(found.st_mode):
            self._make_opaque(directory, name)

    def _make_opaque(self, directory: int, name: bytes) -> None:
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            os.setxattr(fd, _OPAQUE, b"y")
        finally:
            os.close(fd)

    def _remove_lower(self, directory: int, name: bytes) -> None:
        """Remove `name` but for what this layer wrote."""
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        ours = (os.fstat(directory).st_ino, name) in self._written
        if not stat.S_ISDIR(found.st_mode):
            if not ours:
                os.unlink(name, dir_fd=directory)
            return
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            self._remove_lower_below(fd)
            empty = not _names(fd)
        finally:
            os.close(fd)
        if empty and not ours:
            os.rmdir(name, dir_fd=directory)

    def _remove_lower_below(self, directory: int) -> None:
        for name in _names(directory):
            self._remove_lower(directory, name)

    # --- directories and replacement

    def _make(self, directory: int, name: bytes, make: Callable[[], None]) -> None:
        try:
            make()
        except FileExistsError:
            self._remove(directory, name)
            make()

    def _remove(self, directory: int, name: bytes) -> None:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        trees.remove(name, dir_fd=directory)
        # A lookup that worked can only change if a directory or a symlink goes away.  This entry may
        # still use what is open.
        if stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode):
            self._stale = True

    def _make_directory(self, directory: int, name: bytes) -> bool:
        """Whether it had to be made.  Replaces anything but a directory."""
        try:
            os.mkdir(name, 0o755, dir_fd=directory)
        except FileExistsError:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                return False
            self._remove(directory, name)
            os.mkdir(name, 0o755, dir_fd=directory)
            if self._overlay:
                # It was a whiteout, or hid the lower directory as a file would: without this mark
                # the content of the lower one would show through the new one.
                self._make_opaque(directory, name)
        return True

    def _lookup(self, path: bytes) -> int:
        """The open directory `path`; FileNotFoundError, NotADirectoryError."""
        fd = self._directories.get(path)
        if fd is not None:
            return fd
        fd = self._root.open(path)
        self._directories[path] = fd
        if not self._overlay:
            self._inodes[fd] = os.fstat(fd).st_ino
        return fd

    def _open_parent(self, path: bytes, entry: Entry) -> int:
        """The directory an entry goes to, made with its parents where no entry made it."""
        try:
            return self._lookup(path)
        except FileNotFoundError:
            pass
        except NotADirectoryError as error:
            if not self._overlay:
                raise BadArchive(f"{entry.name!r}: {path!r} is not a directory") from error
        above, _, name = path.rpartition(b"/")
        fd = self._open_parent(above, entry)
        if self._is_replaceable(fd, name):
            self._make_directory(fd, name)
        else:
            raise BadArchive(f"{entry.name!r}: {path!r} is not a directory inside the root")
        self.implied[path] = None
        if not self._overlay:
            self._written.add((self._inodes[fd], name))
        return self._lookup(path)

    def _is_replaceable(self, directory: int, name: bytes) -> bool:
        """Nothing is there, or a whiteout of this layer."""
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return self._overlay and stat.S_ISCHR(found.st_mode) and found.st_rdev == 0

    def _forget_directories(self) -> None:
        for fd in self._directories.values():
            os.close(fd)
        self._directories.clear()
        self._inodes.clear()
        self._stale = False

    def _set_directory_times(self) -> None:
        """Last, since every entry made in a directory changes its time."""
        self._forget_directories()
        for path, mtime_ns in reversed(self._mtimes.items()):
            try:
                fd = self._root.open(path, _DIRECTORY | os.O_NOFOLLOW)
            except OSError:
                continue  # a later entry replaced it
            try:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)


def path_parts(path: bytes, name: bytes) -> list[bytes]:
    """Components of a path of the entry `name`; BadArchive for what no layer may name."""
    parts = [part for part in path.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise BadArchive(f"{name!r}: {path!r} leads out of the root")
    if b"\0" in path:
        raise BadArchive(f"{name!r}: a path cannot contain NUL")
    if len(parts) > DEPTH_LIMIT:
        raise BadArchive(f"{name[:80]!r}...: deeper than {DEPTH_LIMIT} directories")
    return parts


def _names(directory: int) -> list[bytes]:
    with os.scandir(directory) as entries:
        return [os.fsencode(entry.name) for entry in entries]


def _is(directory: int, name: bytes, other: os.stat_result) -> bool:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (other.st_dev, other.st_ino)


def _write_all(fd: int, tar: Tar, data: memoryview | None) -> None:
    if data is not None:  # a short write: begin again
        os.lseek(fd, 0, os.SEEK_SET)
        _write_chunk(fd, data)
        return
    for chunk in tar.chunks():
        _write_chunk(fd, chunk)


def _write_chunk(fd: int, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[os.write(fd, chunk) :]


def _write_sparse(fd: int, tar: Tar, entry: Entry) -> None:
    extents = iter(entry.extents or ())
    left = 0
    for chunk in tar.chunks():
        rest = chunk
        while rest:
            while not left:
                offset, left = next(extents)
                os.lseek(fd, offset, os.SEEK_SET)
            _write_chunk(fd, rest[:left])
            taken = min(left, len(rest))
            rest, left = rest[taken:], left - taken
    os.ftruncate(fd, entry.real_size)


def _set_xattrs(where: int | bytes, entry: Entry) -> None:
    for key, value in entry.xattrs.items():
        if key.startswith(_DROPPED_XATTRS):
            continue
        try:
            os.setxattr(where, key, value, follow_symlinks=isinstance(where, int))
        except OSError as error:
            # As dockerd: not every file system, nor every kind of file, takes every attribute.
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise


def _read_input(size: int) -> bytes:
    return os.read(0, size)


def main(arguments: list[str]) -> int:
    """Run the program; its exit status."""
    root, mode, *options = arguments
    os.umask(0)
    gc.disable()  # nothing here refers to itself
    try:
        chroot = "chroot" in options or not has_openat2()
        writer = Writer(Root(root, chroot=chroot), overlay=mode == "overlay")
        writer.write(Tar(_read_input))
    except BadArchive as error:
        os.write(2, f"{error}\n".encode())
        return 1
    except OSError as error:
        os.write(2, f"{error.strerror}\n".encode())
        return 2
    # Every process that imports json takes 4 ms more: these few values need no escaping.
    implied = ", ".join(f'"{path.hex()}"' for path in writer.implied)
    opaque = "true" if writer.opaque else "false"
    report = f'{{"entries": {writer.entries}, "bytes": {writer.bytes}, "opaque": {opaque}, "implied": [{implied}]}}\n'
    os.write(1, report.encode())
    return 0
