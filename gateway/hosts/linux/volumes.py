"""Volumes of the driver `local`: folders that outlive zones, and filling them from the image.

ROOT/volumes/NAME/_data         what zones see; with the option `size` a folder that the store limits
ROOT/volumes/NAME/volume.json   labels, options, time of creation; there = the volume exists
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dockerapi.errors import InvalidParameter
from gateway.hosts import trees
from gateway.hosts.linux import overlay
from gateway.hosts.linux.rooted import open_in_root
from gateway.hosts.linux.store import SizedFolders
from gateway.hosts.volumes import LocalVolumes, check_options, mounts_something, size_of
from gateway.zones.host import Volume

_DATA = "_data"
_RECORD = "volume.json"
_COPY_STEP = 1 << 30


class LinuxVolumes(LocalVolumes):
    """Satisfies VolumeHost.  Loaded once; the folder is ours alone.  `sized` None: no volume can be limited."""

    def __init__(self, root: Path, sized: SizedFolders | None = None) -> None:
        self._sized = sized
        self._folder = root / "volumes"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)  # what zones write is not for the machine's users
        super().__init__(_load(self._folder))

    def mounting(self, folder: str) -> Volume | None:
        """The volume of this folder, if it is one that mounts something while it is used."""
        volume = self._volumes.get(Path(folder).parent.name)
        if volume is None or volume.mountpoint != folder or not mounts_something(volume):
            return None
        return volume

    def _check(self, name: str, options: dict[str, str]) -> None:
        check_options(options)
        size = size_of(options)
        if size and (self._sized is None or options.get("device")):
            raise InvalidParameter("quota size requested but no quota support")

    def _place(self, name: str) -> str:
        return str(self._folder / name / _DATA)

    async def _make(self, volume: Volume) -> None:
        folder = self._folder / volume.name
        try:
            await asyncio.to_thread(folder.mkdir)
            await asyncio.to_thread(folder.chmod, 0o701)
            await self._make_data(folder / _DATA, size_of(volume.options))
            await asyncio.to_thread(_record, folder, volume)
        except BaseException:
            await self._remove(folder, volume)
            raise

    async def _make_data(self, data: Path, size: int) -> None:
        if size and self._sized is not None:
            await self._sized.make(data, size)
        else:
            await asyncio.to_thread(data.mkdir)
        await asyncio.to_thread(data.chmod, 0o755)

    async def _disown(self, volume: Volume) -> None:
        await asyncio.to_thread(_record, self._folder / volume.name, volume)

    async def _unmake(self, volume: Volume) -> None:
        folder = self._folder / volume.name
        await asyncio.to_thread((folder / _RECORD).unlink, missing_ok=True)
        await self._remove(folder, volume)  # from here on it does not exist

    async def _remove(self, folder: Path, volume: Volume) -> None:
        """What is mounted in there is somebody else's: it goes first, or nothing does."""
        await asyncio.to_thread(_unmount, folder / _DATA)
        if self._sized is not None and size_of(volume.options):
            await self._sized.remove(folder / _DATA)
        with suppress(FileNotFoundError):
            await asyncio.to_thread(trees.remove, str(folder))

    async def used_bytes(self, name: str) -> int:
        """Sizes of its files, those with several names once; NotFound."""
        return await asyncio.to_thread(_used, Path(self.get(name).mountpoint))

    async def copy_up(self, rootfs: Path, target: str, volume: Volume) -> None:
        """Fill an empty volume with what the image has at `target`."""
        await asyncio.to_thread(copy_up, rootfs, target, Path(volume.mountpoint))


def _load(folder: Path) -> list[Volume]:
    volumes: list[Volume] = []
    for entry in folder.iterdir():
        try:
            body = json.loads((entry / _RECORD).read_text())
        except FileNotFoundError:
            # Half made, or half deleted, when we were killed.
            with suppress(OSError):
                _unmount(entry / _DATA)
                trees.remove(str(entry))
            continue
        volumes.append(Volume(name=entry.name, mountpoint=str(entry / _DATA), **body))
    return sorted(volumes, key=lambda volume: volume.created_ns)


def _record(folder: Path, volume: Volume) -> None:
    record = folder / f"{_RECORD}.new"
    body = {
        "created_ns": volume.created_ns,
        "labels": volume.labels,
        "options": volume.options,
        "owner": volume.owner,
    }
    record.write_text(json.dumps(body))
    record.rename(folder / _RECORD)


def _unmount(folder: Path) -> None:
    while overlay.unmount(folder):
        pass


def _used(folder: Path) -> int:
    """What cannot be read, or changes meanwhile, is left out."""
    total = 0
    seen: set[tuple[int, int]] = set()
    left = [str(folder)]
    while left:
        try:
            entries = list(os.scandir(left.pop()))
        except OSError:
            continue
        for entry in entries:
            with suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    left.append(entry.path)
                elif (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    total += found.st_size
    return total


# --- filling a volume from the image -----------------------------------------------------------------


def copy_up(rootfs: Path, target: str, folder: Path) -> None:
    """Copy what the root has at `target` into `folder` if that is empty; blocks, so call it in a thread.

    `target` is resolved inside the root.  Owner, mode, times, links, devices and extended attributes are
    kept; the folder itself takes those of `target`.  A target that is missing or no folder copies nothing.
    """
    if any(folder.iterdir()):
        return
    with _folder_in_root(rootfs, target) as source:
        if source is None:
            return
        destination = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _copy_folder(source, destination, {})
        except BaseException:
            trees.clear(destination)  # or the next one would take the half for all of it
            raise
        finally:
            os.close(destination)


@contextmanager
def _folder_in_root(rootfs: Path, target: str) -> Iterator[int | None]:
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    descriptor = -1
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            descriptor = open_in_root(root, target, os.O_RDONLY | os.O_DIRECTORY)
        yield descriptor if descriptor >= 0 else None
    finally:
        os.close(root)
        if descriptor >= 0:
            os.close(descriptor)


def _copy_folder(source: int, destination: int, links: dict[tuple[int, int], str]) -> None:
    """Content and attributes of an open folder; `links` are files seen with several names."""
    with os.scandir(source) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        _copy_entry(source, destination, name, links)
    _copy_attributes(source, destination, os.fstat(source))


def _copy_entry(
    source: int, destination: int, name: str, links: dict[tuple[int, int], str]
) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        key = (status.st_dev, status.st_ino)
        if first := links.get(key):
            os.link(first, name, dst_dir_fd=destination, follow_symlinks=False)
            return
        links[key] = f"{_path(destination)}/{name}"
    if stat.S_ISDIR(status.st_mode):
        os.mkdir(name, 0o700, dir_fd=destination)
        with _opened(source, name) as below, _opened(destination, name) as copy:
            _copy_folder(below, copy, links)
    elif stat.S_ISREG(status.st_mode):
        _copy_file(source, destination, name, status)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=destination)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=destination, follow_symlinks=False)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=destination, follow_symlinks=False)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=destination)
        path = f"{_path(destination)}/{name}"
        os.chown(path, status.st_uid, status.st_gid)
        Path(path).chmod(stat.S_IMODE(status.st_mode))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextmanager
def _opened(folder: int, name: str) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copy_file(source: int, destination: int, name: str, status: os.stat_result) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writing = os.open(name, flags, 0o600, dir_fd=destination)
        try:
            while os.sendfile(writing, reading, None, _COPY_STEP):
                pass
            _copy_attributes(reading, writing, status)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_attributes(source: int, destination: int, status: os.stat_result) -> None:
    # The owner first: chown takes setuid bits and file capabilities away.
    os.fchown(destination, status.st_uid, status.st_gid)
    os.fchmod(destination, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if name.startswith("trusted.overlay."):
            continue  # of the layer's making, not of the image
        try:
            os.setxattr(destination, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENODATA):
                raise
    os.utime(destination, ns=(status.st_atime_ns, status.st_mtime_ns))


def _path(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())
