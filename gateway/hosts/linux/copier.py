"""`docker cp`, `diff`, `export` and what `commit` needs, inside a zone's root: a program of its own, one process a call.

    copier PLAN  < tar        the first line of its output is the result, what follows a tar

It leaves the machine's mount namespace, mounts the zone's root there (or takes the one that is mounted), its
volumes and binds on top, and makes that its root: every path is looked up as the zone would, no link leads
out, and all mounts go with the process.  PLAN and result are values as `packed` has them; PLAN:

    op        status | read | write | changes | export | layer
    root      where the zone's root is mounted, or can be
    overlay   null if it is mounted, else {lowers, upper, work}; a reader leaves the upper directory alone once
              the mount points of the volumes are there, for the zone may be started meanwhile
    upper, lowers   to compare: the zone's own directory and those below it
    before    to compare instead: the folder that the root is a snapshot of
    mounts    [{source, target, readonly}] in order
    tmpfs     [{target, readonly}] of mounts that are not there: what is copied lies in the root below them
    readonly  the root is the zone's read-only
    path, no_overwrite_dir_non_dir, user (of --archive, "" = the archive's numbers)

What went wrong is {"error": kind, "message"}, kind one of not_found, invalid, forbidden, server.
"""

from __future__ import annotations

import ctypes
import errno
import marshal
import os
import posixpath
import stat
import sys
from contextlib import suppress
from pathlib import Path

from gateway.hosts.linux.rooted import make_folders, open_in_root
from gateway.hosts.linux.tarin import Refused, extract
from gateway.hosts.linux.tarout import TarWriter
from gateway.hosts.tarstream import BadArchive

TYPE_CHECKING = False  # typing itself would double the time to start
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Plan = dict[str, Any]

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_BLOCK = 1 << 20
_OPAQUE = "trusted.overlay.opaque"
_OUT = 1
# What the host itself puts into every root, as dockerd's init layer does.
OURS = frozenset(
    [
        "/.dockerenv",
        "/dev",
        "/dev/console",
        "/dev/pts",
        "/dev/shm",  # noqa: S108
        "/etc/hostname",
        "/etc/hosts",
        "/etc/mtab",
        "/etc/resolv.conf",
        "/proc",
        "/sys",
    ]
)
# As untar.py does it: half the gateway stays unimported.
_START = """\
import sys
for name in ("gateway", "gateway.hosts", "gateway.hosts.linux"):
    package = sys.modules[name] = type(sys)(name)
    package.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
sys.path.insert(0, sys.argv[1])
from gateway.hosts.linux.copier import main
sys.exit(main(sys.argv[2]))
"""


def packed(value: Any) -> str:
    """A plan or a result on one line.  Both ends are the same interpreter; json would cost as much as a copy."""
    return marshal.dumps(value).hex()


def unpacked(text: str | bytes) -> Plan:
    """What `packed` made."""
    line = text if isinstance(text, str) else text.decode("ascii")
    value: Plan = marshal.loads(bytes.fromhex(line))  # noqa: S302 - of our own process
    return value


def command(plan: Plan) -> list[str]:
    """The command line of the program."""
    packages = __file__.removesuffix("/gateway/hosts/linux/copier.py")
    return [sys.executable, "-I", "-S", "-c", _START, packages, packed(plan)]


def main(plan_text: str) -> int:
    """Do what the plan says; 0 also for a refusal that was written down."""
    plan = unpacked(plan_text)
    try:
        if plan["op"] in ("changes", "layer"):
            _compare(plan)
        elif plan["op"] == "write":
            _write(plan)
        else:
            _enter(plan)
            _OPERATIONS[plan["op"]](plan)
    except Refused as error:
        _tell({"error": error.kind, "message": str(error)})
    except OSError as error:
        if error.errno == errno.EPIPE or _told:
            return 1  # nobody reads any more; or what is out already is broken off, not ended
        _tell({"error": "server", "message": f"{error.strerror}: {error.filename or ''}"})
    return 0


_told: list[bool] = []


def _tell(result: Plan) -> None:
    line = memoryview(packed(result).encode() + b"\n")
    while line:
        line = line[os.write(_OUT, line) :]
    _told.append(True)


# --- the way in


def _enter(plan: Plan) -> None:
    _own_namespace()
    if plan["overlay"] is not None:
        _mount_overlay(plan["root"], **plan["overlay"])
        if plan["op"] != "write":
            _make_mount_points(plan)
            _unmount(plan["root"])
            _mount_overlay(plan["root"], **_reading(**plan["overlay"]))
    _make_mount_points(plan)
    root = os.open(plan["root"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for mount in plan["mounts"]:
        _bind(root, mount)
    _seal()
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")


def _seal() -> None:
    """From here on nothing may be loaded: it would come out of the image, and run as the machine's root.

    No module of Python's; and no library of the name service, which is why names of owners are not asked for: what
    answers that is named by /etc/nsswitch.conf (CVE-2019-14271 was this, in dockerd).
    """
    sys.path[:] = []
    sys.meta_path[:] = []


def _own_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "cannot leave the mount namespace")
    _mount("none", "/", _MS_REC | _MS_PRIVATE)


def _mount(source: str, target: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), source)


def _mount_overlay(root: str, *, lowers: list[str], upper: str | None, work: str | None) -> None:
    # The root of a zone that runs is mounted already.
    from gateway.hosts.linux import overlay  # noqa: PLC0415

    overlay.mount(
        Path(root),
        lowers=[Path(lower) for lower in lowers],
        upper=Path(upper) if upper else None,
        work=Path(work) if work else None,
    )


def _unmount(root: str) -> None:
    from gateway.hosts.linux import overlay  # noqa: PLC0415

    overlay.unmount(Path(root))


def _reading(*, lowers: list[str], upper: str, work: str) -> Plan:
    return {"lowers": [upper, *lowers], "upper": None, "work": None}


def _make_mount_points(plan: Plan) -> None:
    """Where the zone has none yet; a source that has gone from the machine needs none."""
    folder = Path(plan["root"])
    root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for mount in plan["mounts"]:
        source, target = Path(mount["source"]), mount["target"]
        try:
            os.close(open_in_root(root, target, os.O_PATH))
        except FileNotFoundError:
            if source.is_dir():
                make_folders(folder, target)
            elif source.exists():
                make_folders(folder, posixpath.dirname(target))
                os.close(open_in_root(root, target, os.O_WRONLY | os.O_CREAT, 0o755))
    os.close(root)


def _bind(root: int, mount: Plan) -> None:
    """A volume or bind, as the zone sees it; one that has gone from the machine is not there."""
    if not Path(mount["source"]).exists():
        return
    place = open_in_root(root, mount["target"], os.O_PATH)
    try:
        _mount(mount["source"], f"/proc/self/fd/{place}", _MS_BIND | _MS_REC)
    finally:
        os.close(place)
    if mount["readonly"]:
        # An archive extracted above it must not write into it either.
        place = open_in_root(root, mount["target"], os.O_PATH)
        try:
            _mount("none", f"/proc/self/fd/{place}", _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
        finally:
            os.close(place)


# --- reading


def _absolute(path: str) -> str:
    """From the root, a final `/` or `/.` kept: it says that a link there is followed."""
    clean = posixpath.normpath(f"/{path}").replace("//", "/")
    if path.endswith(("/.", "/")) or path == ".":
        clean = clean.rstrip("/") + ("/." if path.endswith(".") else "/")
    return clean


def _lstat(path: str) -> os.stat_result:
    try:
        return os.lstat(path)
    except FileNotFoundError as error:
        raise Refused("not_found", f"Could not find the file {path}") from error
    except NotADirectoryError as error:
        raise Refused("server", f"lstat {path}: not a directory") from error
    except OSError as error:
        raise Refused("server", f"lstat {path}: {os.strerror(error.errno or 0).lower()}") from error


def _described(path: str, found: os.stat_result) -> Plan:
    # As Go's filepath.Base names it: /a/. is ".".
    name = "." if path.endswith("/.") else posixpath.basename(path.rstrip("/")) or "/"
    is_link = stat.S_ISLNK(found.st_mode)
    return {
        "name": name,
        "size": found.st_size,
        "mode": found.st_mode,
        "mtime_ns": found.st_mtime_ns,
        "link_target": posixpath.realpath(path) if is_link else "",
    }


def _status(plan: Plan) -> None:
    path = _absolute(plan["path"])
    _tell(_described(path, _lstat(path)))


def _read(plan: Plan) -> None:
    path = _absolute(plan["path"])
    described = _described(path, _lstat(path))
    _tell(described)
    _write_tar(path, described["name"])


def _export(_plan: Plan) -> None:
    _tell({})
    _write_tar("/", "")


def _write_tar(top: str, name: str) -> None:
    """`top` and what is below it, under `name`; "" leaves the top itself out."""
    tar = TarWriter(_OUT)
    tar.tree(top, os.fsencode(name))
    tar.close()


# --- writing


def _write(plan: Plan) -> None:
    read, identify = _prepared(plan)
    _enter(plan)
    path = _absolute(plan["path"])
    folder = posixpath.realpath(path)
    if not stat.S_ISDIR(_lstat(folder if os.path.lexists(folder) else path).st_mode):
        raise Refused("invalid", "extraction point is not a directory")
    _refuse_read_only(plan, folder)
    owner = identify(plan["user"]) if plan["user"] is not None else None
    try:
        extract(read, folder, owner, keep_kind=plan["no_overwrite_dir_non_dir"])
    except tuple(_BROKEN) as error:
        raise Refused("server", f"Error processing tar file: {error}") from error
    while os.read(0, _BLOCK):
        pass  # what the archive has after its end
    _tell({})


def _prepared(plan: Plan) -> tuple[Callable[[int], bytes], Callable[[str], tuple[int, int]]]:
    """How the archive is read, and users are found: what that needs is imported before the root is another one."""
    if plan["user"] is None:
        return _inflated(), lambda _: (0, 0)
    from dockerapi.errors import InvalidParameter  # noqa: PLC0415
    from gateway.hosts.linux.users import identify, in_copying  # noqa: PLC0415

    def owner(user: str) -> tuple[int, int]:
        try:
            found = identify(user, (), _small_file("/etc/passwd"), _small_file("/etc/group"))
        except InvalidParameter as error:
            raise Refused("invalid", in_copying(error.message)) from error
        return found.uid, found.gid

    return _inflated(), owner


def _inflated() -> Callable[[int], bytes]:
    """Reads standard input without its compression; of several members one after the other, too."""
    start = os.read(0, _BLOCK)
    while len(start) < 6 and (more := os.read(0, _BLOCK)):
        start += more
    file: Any = _Input(start)
    if start.startswith(b"\x1f\x8b"):
        import gzip  # noqa: PLC0415
        import zlib  # noqa: PLC0415

        _BROKEN.extend((zlib.error, gzip.BadGzipFile))
        file = gzip.GzipFile(fileobj=file)
    elif start.startswith(b"BZh"):
        import bz2  # noqa: PLC0415

        _BROKEN.append(OSError)
        file = bz2.BZ2File(file)
    elif start.startswith(b"\xfd7zXZ\0"):
        import lzma  # noqa: PLC0415

        _BROKEN.append(lzma.LZMAError)
        file = lzma.LZMAFile(file)  # noqa: SIM115 - as long as the process
    return file.read  # type: ignore[no-any-return]


class _Input:
    """Standard input, of which something was read already."""

    def __init__(self, start: bytes) -> None:
        self._start = start

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, b"" at the end."""
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
            return data
        return os.read(0, size)


_BROKEN: list[type[Exception]] = [BadArchive, EOFError]
"""What is raised for an archive that is none; and what the inflating module raises."""


def _refuse_read_only(plan: Plan, folder: str) -> None:
    """By the mount that holds the folder, the last one counts."""
    holder: dict[str, Any] | None = None
    for mount in (*plan["mounts"], *plan["tmpfs"]):
        target = posixpath.realpath(mount["target"])
        inside = folder == target or folder.startswith(target.rstrip("/") + "/")
        if inside and (holder is None or len(target) >= len(posixpath.realpath(holder["target"]))):
            holder = mount
    if holder is None and plan["readonly"]:
        raise Refused("invalid", "container rootfs is marked read-only")
    if holder is not None and holder["readonly"]:
        raise Refused("invalid", "mounted volume is marked read-only")


def _small_file(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(4 << 20) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


# --- comparing: what the zone's own directory has, against the image below it


def _compare(plan: Plan) -> None:
    """The image is mounted without the zone's directory, and looked at inside a root of its own."""
    if "before" in plan:
        _report(plan, _since_snapshot(plan))
        return
    _own_namespace()
    upper = os.open(plan["upper"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    _mount_overlay(plan["root"], lowers=plan["lowers"], upper=None, work=None)
    below = os.open(plan["root"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(upper)
    _report(plan, list(_differences(below, ".")))


def _report(plan: Plan, found: list[tuple[str, int, str]]) -> None:
    """As rows, or as a layer's tar."""
    if plan["op"] == "changes":
        rows = [[path, kind] for path, kind, _ in found]
        _tell({"changes": rows})
        return
    _tell({})
    tar = TarWriter(_OUT)
    for path, kind, source in found:
        name = path.lstrip("/")
        if kind == _DELETED:
            folder, _, base = name.rpartition("/")
            tar.removed(os.fsencode(posixpath.join(folder, f".wh.{base}")))
        else:
            with suppress(FileNotFoundError):  # removed meanwhile
                tar.add(source, os.fsencode(name), os.lstat(source))
    tar.close()


_MODIFIED, _ADDED, _DELETED = 0, 1, 2


def _since_snapshot(plan: Plan) -> list[tuple[str, int, str]]:
    """The whole root against the one that it was cloned from; the zone may run, so this process's root is the zone's."""
    from gateway.hosts.linux.snapdiff import differences  # noqa: PLC0415

    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    before, now = os.open(plan["before"], flags), os.open(plan["root"], flags)
    _seal()
    os.fchdir(now)
    os.chroot(".")
    return [(path, kind, f".{path}") for path, kind, _ in differences(before, now, OURS)]


def _differences(below: int, folder: str) -> Iterator[tuple[str, int, str]]:
    """(path in the zone, kind, path in the zone's directory), a folder before what is in it."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        source = posixpath.join(folder, entry.name)
        path = "/" + posixpath.normpath(source)
        found = entry.stat(follow_symlinks=False)
        before = _in_image(below, path)
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            if before is not None and path not in OURS:
                yield path, _DELETED, source
            continue
        inner = []
        if stat.S_ISDIR(found.st_mode):
            inner = list(_differences(below, source))
            # A folder in the place of a file or a link is opaque as well, and hides nothing.
            is_over = before is not None and stat.S_ISDIR(before.st_mode)
            if is_over and _is_opaque(source):
                inner += _hidden(below, source, path)
        if path not in OURS and not (path == "/etc" and before is None and not inner):
            if before is None:
                yield path, _ADDED, source
            elif inner or not _is_same_folder(path, before, found):
                yield path, _MODIFIED, source
        yield from sorted(inner)


def _in_image(below: int, path: str) -> os.stat_result | None:
    """What the image has there; a folder's links are not followed, for this layer would not have been written below one."""
    try:
        parent = open_in_root(below, posixpath.dirname(path), os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        return os.stat(posixpath.basename(path), dir_fd=parent, follow_symlinks=False)
    except OSError:
        return None
    finally:
        os.close(parent)


def _is_opaque(source: str) -> bool:
    try:
        return os.getxattr(source, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


def _hidden(below: int, source: str, path: str) -> Iterator[tuple[str, int, str]]:
    """What an opaque folder took from sight."""
    kept = {entry.name for entry in os.scandir(source)}
    place = open_in_root(below, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in sorted({entry.name for entry in os.scandir(place)} - kept):
            yield f"{path}/{name}", _DELETED, posixpath.join(source, name)
    finally:
        os.close(place)


def _is_same_folder(path: str, before: os.stat_result, now: os.stat_result) -> bool:
    """Copied up for the sake of what is in it, and otherwise as it was."""
    if not (stat.S_ISDIR(before.st_mode) and stat.S_ISDIR(now.st_mode)):
        return False
    same = (before.st_mode, before.st_uid, before.st_gid) == (now.st_mode, now.st_uid, now.st_gid)
    # What we put into /etc changed its time.
    return same and (path == "/etc" or before.st_mtime_ns == now.st_mtime_ns)


_OPERATIONS: dict[str, Callable[[Plan], None]] = {
    "status": _status,
    "read": _read,
    "export": _export,
}
