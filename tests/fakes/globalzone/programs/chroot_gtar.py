"""chroot-gtar DIR SUB FILE none|gzip|bzip2|xz: open FILE, change root to DIR, extract into SUB as GNU tar does.

The part that changes its root is a process of its own (this file, run as a script).  As GNU tar it goes on
after an entry that fails and ends with 2; a link that is absolute or has `..` is made last, a file with
nothing in it holds its place till then; a folder that is not empty gives way to nothing else.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import tarfile
from pathlib import Path
from typing import IO, Any

_NO_LIMIT = -1
_BLOCK = 1 << 16


class _Extraction:
    """The current folder is the one to extract into."""

    def __init__(self, free: int) -> None:
        self.status = 0
        self.written = 0
        self._free = free
        self._folders: dict[str, tarfile.TarInfo] = {}
        self._places: dict[tuple[int, int], tuple[tarfile.TarInfo, list[str]]] = {}

    def run(self, archive: tarfile.TarFile) -> None:
        for member in archive:
            try:
                self._member(archive, member)
            except OSError as error:
                words = "write" if error.errno == errno.ENOSPC else _word(member)
                self._complain(f"{member.name}: Cannot {words}: {error.strerror}")
        self._make_delayed_links()
        for name, member in reversed(self._folders.items()):
            if Path(name).is_dir() and not Path(name).is_symlink():
                _attributes(name, member)

    def _complain(self, text: str) -> None:
        self.status = 2
        sys.stderr.write(f"gtar: {text}\n")

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = member.name.lstrip("/") or "."
        if ".." in name.split("/"):
            self._complain(f"{name}: Member name contains '..'")
            return
        if above := name.rpartition("/")[0]:
            Path(above).mkdir(parents=True, exist_ok=True)
        if member.isdir():
            self._folder(name, member)
        elif member.issym():
            self._symlink(name, member)
        elif member.islnk():
            self._hard_link(name, member)
        elif member.isfile():
            self._file(archive, name, member)
        elif member.isdev():
            kinds = {tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK}
            kind = kinds.get(member.type, stat.S_IFIFO)
            device = os.makedev(member.devmajor, member.devminor) if kind != stat.S_IFIFO else 0
            _instead(name, lambda: os.mknod(name, kind | member.mode, device))
            _attributes(name, member)
        else:
            self._complain(f"{name}: Unknown file type {member.type!r}")

    def _folder(self, name: str, member: tarfile.TarInfo) -> None:
        if not (Path(name).is_dir() and not Path(name).is_symlink()):
            _instead(name, lambda: Path(name).mkdir(mode=0o700))
        self._folders.pop(name, None)
        self._folders[name] = member

    def _file(self, archive: tarfile.TarFile, name: str, member: tarfile.TarInfo) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        descriptor = _instead(name, lambda: os.open(name, flags, 0o600))
        with os.fdopen(descriptor, "wb") as out:
            source = archive.extractfile(member)
            assert source is not None
            while block := source.read(_BLOCK):
                self._take(len(block) if block.strip(b"\0") else 0)
                if block.strip(b"\0"):
                    out.write(block)
                else:
                    out.seek(len(block), os.SEEK_CUR)
            out.truncate(member.size)
        _attributes(name, member)

    def _take(self, size: int) -> None:
        self.written += size
        if self._free != _NO_LIMIT and self.written > self._free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _symlink(self, name: str, member: tarfile.TarInfo) -> None:
        if member.linkname.startswith("/") or ".." in member.linkname.split("/"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            descriptor = _instead(name, lambda: os.open(name, flags, 0))
            found = os.fstat(descriptor)
            os.close(descriptor)
            self._places[found.st_dev, found.st_ino] = (member, [name])
            return
        _instead(name, lambda: Path(name).symlink_to(member.linkname))
        _attributes(name, member)

    def _hard_link(self, name: str, member: tarfile.TarInfo) -> None:
        target = member.linkname.lstrip("/")
        found = os.lstat(target)
        try:
            here = os.lstat(name)
        except FileNotFoundError:
            here = None
        if here is not None and (here.st_dev, here.st_ino) == (found.st_dev, found.st_ino):
            return
        _instead(name, lambda: os.link(target, name, follow_symlinks=False))
        if place := self._places.get((found.st_dev, found.st_ino)):
            place[1].append(name)

    def _make_delayed_links(self) -> None:
        for key, (member, names) in self._places.items():
            first = ""
            for name in names:
                try:
                    found = os.lstat(name)
                except OSError:
                    continue
                if (found.st_dev, found.st_ino) != key:
                    continue  # something else came in its place
                Path(name).unlink()
                if first:
                    os.link(first, name, follow_symlinks=False)
                    continue
                first = name
                Path(name).symlink_to(member.linkname)
                _attributes(name, member)


def _word(member: tarfile.TarInfo) -> str:
    if member.isdir():
        return "mkdir"
    if member.issym():
        return f"create symlink to '{member.linkname}'"
    if member.islnk():
        return f"hard link to '{member.linkname}'"
    return "mknod" if member.isdev() else "open"


def _instead(name: str, make: Any) -> Any:
    """Make it; what is there already is removed first, unless it is a folder with something in it."""
    try:
        return make()
    except FileExistsError:
        try:
            is_folder = stat.S_ISDIR(os.lstat(name).st_mode)
            Path(name).rmdir() if is_folder else Path(name).unlink()
        except OSError as error:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        return make()


def _attributes(name: str, member: tarfile.TarInfo) -> None:
    os.lchown(name, member.uid, member.gid)
    if not member.issym():
        Path(name).chmod(member.mode)
    seconds, _, fraction = str(member.pax_headers.get("mtime", int(member.mtime))).partition(".")
    nanoseconds = int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))
    os.utime(name, ns=(nanoseconds, nanoseconds), follow_symlinks=False)


def _open(path: str, compression: str) -> tarfile.TarFile:
    mode: Any = {"none": "r:", "gzip": "r:gz", "bzip2": "r:bz2", "xz": "r:xz"}[compression]
    file: IO[bytes] = Path(path).open("rb")  # noqa: SIM115 - it is read after this returns
    if not os.fstat(file.fileno()).st_size:
        return tarfile.open(fileobj=_empty(), mode="r:")
    return tarfile.open(fileobj=file, mode=mode, encoding="utf-8", errors="surrogateescape")


def _empty() -> IO[bytes]:
    import io  # noqa: PLC0415

    return io.BytesIO(bytes(10240))


def _child(folder: str, sub: str, path: str, compression: str, free: int) -> int:
    extraction = _Extraction(free)
    try:
        archive = _open(path, compression)
        "".encode("idna")  # codecs are imported while they can be found
        os.umask(0o022)  # of folders that no entry describes; all else gets its own mode
        os.chroot(folder)
        os.chdir("/" + sub)
    except tarfile.TarError as error:
        sys.stderr.write(f"gtar: This does not look like a tar archive: {error}\n")
        extraction.status = 2
    except OSError as error:
        sys.stderr.write(f"chroot-gtar: {error.filename}: {error.strerror}\n")
        return 1
    else:
        try:
            extraction.run(archive)
        except tarfile.TarError as error:
            sys.stderr.write(f"gtar: {error}\n")
            extraction.status = 2
    if extraction.status:
        sys.stderr.write("gtar: Exiting with failure status due to previous errors\n")
    sys.stdout.write(str(extraction.written))
    return extraction.status


if __name__ == "__main__":
    sys.exit(_child(*sys.argv[1:5], int(sys.argv[5])))


async def main(gz: Any, call: Any) -> int:
    """One run; its exit code."""
    from tests.fakes.globalzone.call import Failed  # noqa: PLC0415 - the script above runs without our packages

    if len(call.arguments) != 4 or call.arguments[3] not in ("none", "gzip", "bzip2", "xz"):
        raise Failed("Usage: chroot-gtar <chroot-dir> <extract-dir> <tarball> <compression>", 2)
    await extract(gz, *call.arguments)
    return 0


async def extract(gz: Any, folder: str, sub: str, path: str, compression: str) -> None:
    """As the program does it; Failed with tar's words."""
    from dockerapi.errors import CommandFailed  # noqa: PLC0415
    from gateway.hosts.command import run  # noqa: PLC0415
    from tests.fakes.globalzone.call import Failed  # noqa: PLC0415

    free = _NO_LIMIT if gz.pool.free is None else gz.pool.free
    argv = [sys.executable, "-I", "-S", __file__, folder, sub, path, compression, str(free)]
    try:
        written = await run(argv, timeout_s=600, env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"})
    except CommandFailed as error:
        if "No space left" in error.stderr:
            gz.pool.free = 0
        raise Failed(error.stderr.rstrip("\n"), error.exit_status) from error
    gz.pool.take(int(written))
