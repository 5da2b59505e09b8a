"""`docker cp`, `diff`, `export` and what `commit` needs, inside a zone's root: a program of its own, one process a call.

    copier PLAN  < tar        the first line of its output is the result as JSON, what follows a tar

It leaves the machine's mount namespace, mounts the zone's root there (or takes the one that is mounted), its
volumes and binds on top, and makes that its root: every path is looked up as the zone would, no link leads
out, and all mounts go with the process.  PLAN is JSON:

    op        status | read | write | changes | export | layer
    root      where the zone's root is mounted, or can be
    overlay   null if it is mounted, else {lowers, upper, work}; a reader leaves the upper directory alone once
              the mount points of the volumes are there, for the zone may be started meanwhile
    mounts    [{source, target, readonly}] in order
    readonly  the root is the zone's read-only
    path, no_overwrite_dir_non_dir, user (of --archive, "" = the archive's numbers)

What went wrong is {"error": kind, "message"}, kind one of not_found, invalid, forbidden, server.
"""

from __future__ import annotations

import bz2
import ctypes
import errno
import gzip
import json
import lzma
import os
import posixpath
import shutil
import stat
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gateway.hosts.linux import overlay
from gateway.hosts.linux.rooted import make_folders, open_in_root
from gateway.hosts.linux.users import identify

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_BLOCK = 1 << 20
# A running zone may put a fifo, or a link, where a file was a moment ago.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CAPABILITY = "security.capability"
_OPAQUE = "trusted.overlay.opaque"
# What the host itself puts into every root, as dockerd's init layer does.
_OURS = frozenset(
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
_START = """\
import sys
sys.path.insert(0, sys.argv[1])
from gateway.hosts.linux.copier import main
sys.exit(main(sys.argv[2]))
"""


class _Refused(Exception):
    """`kind` and the message of the result."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def command(plan: dict[str, Any]) -> list[str]:
    """The command line of the program."""
    packages = __file__.removesuffix("/gateway/hosts/linux/copier.py")
    return [sys.executable, "-I", "-S", "-c", _START, packages, json.dumps(plan)]


def main(plan_text: str) -> int:
    """Do what the plan says; 0 also for a refusal that was written down."""
    plan = json.loads(plan_text)
    out = sys.stdout.buffer
    try:
        if plan["op"] in ("changes", "layer"):
            _compare(plan, out)
        else:
            _enter(plan)
            _OPERATIONS[plan["op"]](plan, out)
    except _Refused as error:
        _tell(out, {"error": error.kind, "message": str(error)})
    except OSError as error:
        if error.errno == errno.EPIPE or _told:
            return 1  # nobody reads any more; or what is out already is broken off, not ended
        _tell(out, {"error": "server", "message": f"{error.strerror}: {error.filename or ''}"})
    return 0


_told: list[bool] = []


def _tell(out: BinaryIO, result: dict[str, Any]) -> None:
    out.write(json.dumps(result).encode() + b"\n")
    out.flush()
    _told.append(True)


# --- the way in


def _enter(plan: dict[str, Any]) -> None:
    _own_namespace()
    if plan["overlay"] is not None:
        _mount_overlay(plan["root"], **plan["overlay"])
        if plan["op"] != "write":
            _make_mount_points(plan)
            overlay.unmount(Path(plan["root"]))
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

    No module of Python's, and no library of the name service: tarfile would ask for the names of owners, and
    what answers that is named by /etc/nsswitch.conf (CVE-2019-14271 was this, in dockerd).
    """
    sys.path[:] = []
    sys.meta_path[:] = []
    tarfile.pwd = tarfile.grp = None  # type: ignore[attr-defined]


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
    overlay.mount(
        Path(root),
        lowers=[Path(lower) for lower in lowers],
        upper=Path(upper) if upper else None,
        work=Path(work) if work else None,
    )


def _reading(*, lowers: list[str], upper: str, work: str) -> dict[str, Any]:
    return {"lowers": [upper, *lowers], "upper": None, "work": None}


def _make_mount_points(plan: dict[str, Any]) -> None:
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


def _bind(root: int, mount: dict[str, Any]) -> None:
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
        raise _Refused("not_found", f"Could not find the file {path}") from error
    except NotADirectoryError as error:
        raise _Refused("server", f"lstat {path}: not a directory") from error
    except OSError as error:
        raise _Refused(
            "server", f"lstat {path}: {os.strerror(error.errno or 0).lower()}"
        ) from error


def _described(path: str, found: os.stat_result) -> dict[str, Any]:
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


def _status(plan: dict[str, Any], out: BinaryIO) -> None:
    path = _absolute(plan["path"])
    _tell(out, _described(path, _lstat(path)))


def _read(plan: dict[str, Any], out: BinaryIO) -> None:
    path = _absolute(plan["path"])
    described = _described(path, _lstat(path))
    _tell(out, described)
    _write_tar(out, path, described["name"])


def _export(_plan: dict[str, Any], out: BinaryIO) -> None:
    _tell(out, {})
    _write_tar(out, "/", "")


def _open_tar(out: BinaryIO) -> tarfile.TarFile:
    tar = tarfile.open(  # noqa: SIM115  # whoever asked closes it
        fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BLOCK
    )
    tar.copybufsize = _BLOCK  # type: ignore[attr-defined]
    return tar


def _write_tar(out: BinaryIO, top: str, name: str) -> None:
    """`top` and what is below it, under `name`; "" leaves the top itself out."""
    with _open_tar(out) as tar:
        if name:
            _add(tar, top, name)
        if stat.S_ISDIR(os.lstat(top).st_mode):
            for path in _below(top.rstrip("/") or "/"):
                inside = path.removeprefix(top.rstrip("/").removesuffix("/.")).lstrip("/")
                _add(tar, path, posixpath.join(name, inside) if name else inside)


def _below(folder: str) -> Iterator[str]:
    """Everything below a folder, a folder before its content, by name."""
    base = folder.removesuffix("/.")
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return  # removed meanwhile
    for name in names:
        path = f"{base}/{name}" if base != "/" else f"/{name}"
        yield path
        try:
            is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
        except FileNotFoundError:
            continue
        if is_folder:
            yield from _below(path)


def _add(tar: tarfile.TarFile, path: str, name: str) -> None:
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # has no place in a tar
        info = tar.gettarinfo(path, name)
    except FileNotFoundError:
        return  # removed meanwhile
    if name.startswith("/"):
        # gettarinfo takes leading slashes away; an archive of / has them, as dockerd's.
        info.name = name
        info.linkname = f"/{info.linkname}" if info.islnk() else info.linkname
    info.uname = info.gname = ""
    info.mtime = int(info.mtime)
    if info.isreg():
        _add_capability(info, path)
        try:
            with os.fdopen(os.open(path, _FILE), "rb") as file:
                tar.addfile(info, _Exactly(file, info.size))  # type: ignore[arg-type]
        except FileNotFoundError:
            return
    else:
        tar.addfile(info)


def _add_capability(info: tarfile.TarInfo, path: str) -> None:
    try:
        value = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
    except OSError:
        return
    text = value.decode("utf-8", "surrogateescape")
    info.pax_headers = {f"SCHILY.xattr.{_CAPABILITY}": text}


class _Exactly:
    """A file that may shrink or grow while it is read: the tar gets the size that its header says."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        wanted = min(size, self._left)
        data = self._file.read(wanted)
        self._left -= wanted
        return data + bytes(wanted - len(data))


# --- writing


def _write(plan: dict[str, Any], out: BinaryIO) -> None:
    path = _absolute(plan["path"])
    folder = posixpath.realpath(path)
    if not stat.S_ISDIR(_lstat(folder if os.path.lexists(folder) else path).st_mode):
        raise _Refused("invalid", "extraction point is not a directory")
    _refuse_read_only(plan, folder)
    owner = _owner(plan["user"]) if plan["user"] is not None else None
    try:
        with tarfile.open(fileobj=_inflated(), mode="r|", bufsize=_BLOCK) as tar:
            tar.copybufsize = _BLOCK  # type: ignore[attr-defined]
            _extract(tar, folder, owner, keep_kind=plan["no_overwrite_dir_non_dir"])
    except (tarfile.ReadError, zlib.error, lzma.LZMAError, EOFError) as error:
        if "empty file" not in str(error):
            raise _Refused("server", f"Error processing tar file: {error}") from error
    while sys.stdin.buffer.read(_BLOCK):
        pass  # what the archive has after its end
    _tell(out, {})


def _inflated() -> Any:
    """Standard input without its compression; of several members one after the other, too."""
    start = sys.stdin.buffer.peek(6)  # type: ignore[union-attr]
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=sys.stdin.buffer)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(sys.stdin.buffer)
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(sys.stdin.buffer)
    return sys.stdin.buffer


def _refuse_read_only(plan: dict[str, Any], folder: str) -> None:
    """By the mount that holds the folder, the last one counts."""
    holder: dict[str, Any] | None = None
    for mount in plan["mounts"]:
        target = posixpath.realpath(mount["target"])
        inside = folder == target or folder.startswith(target.rstrip("/") + "/")
        if inside and (holder is None or len(target) >= len(posixpath.realpath(holder["target"]))):
            holder = mount
    if holder is None and plan["readonly"]:
        raise _Refused("forbidden", "container rootfs is marked read-only")
    if holder is not None and holder["readonly"]:
        raise _Refused("forbidden", "mounted volume is marked read-only")


def _owner(user: str) -> tuple[int, int]:
    identity = identify(user, (), _small_file("/etc/passwd"), _small_file("/etc/group"))
    return identity.uid, identity.gid


def _small_file(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(4 << 20) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


def _extract(
    tar: tarfile.TarFile, folder: str, owner: tuple[int, int] | None, *, keep_kind: bool
) -> None:
    folders: list[tuple[str, tarfile.TarInfo]] = []
    for info in tar:
        path = _target(folder, info.name)
        if info.islnk():
            info.linkname = _target(folder, info.linkname).lstrip("/")
        if owner is not None:
            info.uid, info.gid = owner
        if not _make_way(path, info, keep_kind=keep_kind):
            continue  # the folder itself keeps what it is
        info.name = path.lstrip("/")
        tar.extract(
            info, "/", set_attrs=not info.isdir(), numeric_owner=True, filter="fully_trusted"
        )
        _restore_attributes(path, info)
        if info.isdir():
            folders.append((path, info))
    # Last, or writing into them would change their times again.
    for path, info in reversed(folders):
        os.chown(path, info.uid, info.gid)
        Path(path).chmod(info.mode & 0o7777)
        os.utime(path, (info.mtime, info.mtime))


def _target(folder: str, name: str) -> str:
    """Where an entry goes; its folder resolved, itself not."""
    path = posixpath.normpath(posixpath.join(folder, name.lstrip("/")))
    if path != folder and not path.startswith(folder.rstrip("/") + "/"):
        raise _Refused("server", f'"{name}" is outside of "{folder}"')
    return path


def _make_way(path: str, info: tarfile.TarInfo, *, keep_kind: bool) -> bool:
    """Remove what an entry replaces; False if there is nothing to do for it."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return True
    is_folder = stat.S_ISDIR(there.st_mode)
    if keep_kind and is_folder and not info.isdir():
        raise _Refused("invalid", f'cannot overwrite directory "{path}" with non-directory "/"')
    if keep_kind and not is_folder and info.isdir():
        raise _Refused("invalid", f'cannot overwrite non-directory "{path}" with directory "/"')
    if is_folder and info.isdir():
        return posixpath.normpath(info.name) != "."
    if is_folder:
        shutil.rmtree(path)
    else:
        Path(path).unlink()
    return True


def _restore_attributes(path: str, info: tarfile.TarInfo) -> None:
    for key, value in info.pax_headers.items():
        if key.startswith("SCHILY.xattr.") and not key.endswith((".selinux", _OPAQUE)):
            data = value.encode("utf-8", "surrogateescape")
            os.setxattr(path, key.removeprefix("SCHILY.xattr."), data, follow_symlinks=False)


# --- comparing: what the zone's own directory has, against the image below it


def _compare(plan: dict[str, Any], out: BinaryIO) -> None:
    """The image is mounted without the zone's directory, and looked at inside a root of its own."""
    _own_namespace()
    upper = os.open(plan["upper"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    _mount_overlay(plan["root"], lowers=plan["lowers"], upper=None, work=None)
    below = os.open(plan["root"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(upper)
    found = list(_differences(below, "."))
    if plan["op"] == "changes":
        rows = [[path, kind] for path, kind, _ in found]
        _tell(out, {"changes": rows})
        return
    _tell(out, {})
    with _open_tar(out) as tar:
        for path, kind, source in found:
            name = path.lstrip("/")
            if kind == _DELETED:
                folder, _, base = name.rpartition("/")
                tar.addfile(tarfile.TarInfo(posixpath.join(folder, f".wh.{base}")))
            else:
                _add(tar, source, name)


_MODIFIED, _ADDED, _DELETED = 0, 1, 2


def _differences(below: int, folder: str) -> Iterator[tuple[str, int, str]]:
    """(path in the zone, kind, path in the zone's directory), a folder before what is in it."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        source = posixpath.join(folder, entry.name)
        path = "/" + posixpath.normpath(source)
        found = entry.stat(follow_symlinks=False)
        before = _in_image(below, path)
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            if before is not None and path not in _OURS:
                yield path, _DELETED, source
            continue
        inner = []
        if stat.S_ISDIR(found.st_mode):
            inner = list(_differences(below, source))
            # A folder in the place of a file or a link is opaque as well, and hides nothing.
            is_over = before is not None and stat.S_ISDIR(before.st_mode)
            if is_over and _is_opaque(source):
                inner += _hidden(below, source, path)
        if path not in _OURS and not (path == "/etc" and before is None and not inner):
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


_OPERATIONS = {"status": _status, "read": _read, "write": _write, "export": _export}
