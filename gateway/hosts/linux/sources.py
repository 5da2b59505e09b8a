"""What a zone's filesystems are bound from: folders, volumes, parts of volumes, images.

    fill      at create: volumes that are empty get what the image has there
    hold      at start: everything is there and mounted; target -> path, where that is another than the spec's
    settle    once the runtime has bound it: what was mounted for that alone goes
    release   after the end: volumes that mount something are unmounted with their last user
    open      hold, and at its end settle and release: for docker cp

    RUN/mounts/USER/N     an image, or a part of a volume, until it is bound; swept at the next start

A part of a volume is opened beneath the volume and bound by its descriptor: no link leads out, whoever changes it.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dockerapi.errors import APIError, InvalidParameter, NotFound
from gateway.hosts.linux import overlay
from gateway.hosts.linux.localmounts import LocalMounts
from gateway.hosts.linux.rooted import open_beneath, open_in_root
from gateway.hosts.linux.store import RootStore
from gateway.hosts.linux.volumes import LinuxVolumes, copy_up
from gateway.hosts.volumes import mounts_something
from gateway.zones.host import Volume, Zone
from gateway.zones.spec import Filesystem, is_uuid
from imgsources.oci import ImageUUID

log = logging.getLogger(__name__)

_MS_BIND_REC = 0x1000 | 0x4000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class _Source:
    """One filesystem, its words taken apart.  `image`: the dataset of an image mount."""

    filesystem: Filesystem
    words: tuple[str, ...]
    subpath: str = ""
    image: ImageUUID | None = None

    @property
    def is_temporary(self) -> bool:
        """Whether it must be mounted somewhere before it can be bound."""
        return bool(self.subpath or self.image)


class Sources:
    """Of all zones of one host.  Everything but `adopt` blocks: call it in a thread."""

    def __init__(self, zones: Path, run: Path, volumes: LinuxVolumes, datasets: RootStore) -> None:
        self._zones = zones
        self._folder = run / "mounts"
        self._volumes = volumes
        self._datasets = datasets
        self._local = LocalMounts()

    def own(self, zone: Zone) -> dict[str, str]:
        """Target -> folder of the volumes that die with the zone."""
        # Quoted, for /a/b and /a-b are two volumes.
        return {
            filesystem.target: str(
                self._zones / zone.uuid / "volumes" / quote(filesystem.target, safe="")
            )
            for filesystem in zone.spec.filesystems
            if is_own_volume(filesystem)
        }

    def fill(self, zone: Zone) -> None:
        """Copy what the image has into volumes that are empty; APIError in dockerd's words."""
        wanted = [source for source in _sources(zone) if "volume" in source.words]
        if not wanted or not is_uuid(zone.spec.image_uuid or ""):
            return
        user = f"create-{zone.uuid}"
        try:
            with self._view(ImageUUID(zone.spec.image_uuid or ""), user) as root:
                # What mounts something is mounted only for what the image has, as dockerd does.
                wanted = [s for s in wanted if _has_folder(root, s.filesystem.target)]
                self._mount_volumes(user, wanted, "failed to populate volume: ")
                for source in wanted:
                    self._fill(source, root)
        finally:
            self._local.release(user)

    def _fill(self, source: _Source, root: Path) -> None:
        folder, target = Path(source.filesystem.source), source.filesystem.target
        # Two creations may find it empty at once.
        with self._local.locked(str(folder)):
            self._copy(source, root, target, folder)

    def _copy(self, source: _Source, root: Path, target: str, folder: Path) -> None:
        if not source.subpath:
            copy_up(root, target, folder)
            return
        try:
            descriptor = _beneath(folder, source.subpath)
        except (NotFound, InvalidParameter):
            return  # told at the start
        try:
            copy_up(root, target, Path(f"/proc/self/fd/{descriptor}"))
        except NotADirectoryError:
            return
        finally:
            os.close(descriptor)

    def hold(self, zone: Zone, root: Path) -> dict[str, str]:
        """See that all are there; target -> path of those that are bound from elsewhere than the spec says.

        InvalidParameter, NotFound, APIError in dockerd's words; nothing is left mounted then.
        """
        user = str(zone.uuid)
        found = self.own(zone)
        sources = [s for s in _sources(zone) if s.filesystem.target not in found]
        for target, folder in found.items():
            Path(folder).mkdir(parents=True, exist_ok=True)
            copy_up(root, target, Path(folder))
        try:
            self._mount_volumes(user, sources)
            for number, source in enumerate(sources):
                if source.is_temporary:
                    found[source.filesystem.target] = self._opened(user, number, source)
                elif not {"volume", "nocopy"} & set(source.words):
                    _make_source(source)
                _check_propagation(source.filesystem.source, source.words)
        except BaseException:
            self.settle(user)
            self.release(user)
            raise
        return found

    def _mount_volumes(self, user: str, sources: Sequence[_Source], doing: str = "") -> None:
        mounting = self._mounting(sources)
        try:
            self._local.hold(user, mounting)
        except APIError as error:
            raise APIError(
                f"{doing}error while mounting volume '{mounting[0].mountpoint}': {error.message}"
            ) from error

    def _mounting(self, sources: Sequence[_Source]) -> list[Volume]:
        """Volumes of theirs that mount something."""
        found = (self._volumes.mounting(source.filesystem.source) for source in sources)
        return [volume for volume in found if volume is not None]

    def _opened(self, user: str, number: int, source: _Source) -> str:
        """Mount an image, or bind a part of it or of a volume, where the runtime finds it."""
        place = self._folder / user / str(number)
        base = Path(source.filesystem.source)
        if source.image is not None:
            base = place.with_name(f"{number}-image") if source.subpath else place
            base.mkdir(parents=True)
            self._datasets.show(source.image, base)
        if not source.subpath:
            return str(place)
        descriptor = _beneath(base, source.subpath)
        try:
            _bind_descriptor(descriptor, place)
        finally:
            os.close(descriptor)
        return str(place)

    @contextmanager
    def _view(self, image: ImageUUID, user: str) -> Iterator[Path]:
        """An image's root, to be read inside the block."""
        if folder := self._datasets.tree(image):
            yield folder
            return
        where = self._folder / user / "view"
        where.mkdir(parents=True)
        try:
            self._datasets.show(image, where)
            yield where
        finally:
            self.settle(user)

    def settle(self, user: str) -> bool:
        """Take away what was mounted for the runtime to bind; whether there was something."""
        folder = self._folder / user
        if not folder.exists():
            return False
        # Never emptied: what is still mounted there must not be touched.
        for path in sorted(folder.iterdir()):
            while overlay.unmount(path):
                pass
            with suppress(OSError):
                path.unlink() if path.is_file() or path.is_symlink() else path.rmdir()
        with suppress(OSError):
            folder.rmdir()
        return True

    def leave(self, user: str) -> None:
        """A zone has ended: what it alone has is mounted anew for the next one.  Does not block."""
        self._local.leave(user)

    def release(self, user: str) -> bool:
        """A zone, or a copy, is over; whether something was unmounted."""
        return self._local.release(user)

    @contextmanager
    def open(self, zone: Zone) -> Iterator[dict[str, str]]:
        """Target -> path for all filesystems of a zone that need more than the spec says, inside the block."""
        needed = [s for s in _sources(zone) if s.is_temporary]
        if not needed and not self._mounting(_sources(zone)):
            yield self.own(zone)
            return
        user = f"copy-{secrets.token_hex(8)}"
        try:
            found = self.own(zone)
            self._mount_volumes(user, _sources(zone))
            for number, source in enumerate(needed):
                found[source.filesystem.target] = self._opened(user, number, source)
            yield found
        finally:
            self.settle(user)
            self.release(user)

    def adopt(self, zones: Sequence[Zone]) -> None:
        """After a restart: `zones` run, and have what they have; nobody else has anything."""
        users: Mapping[str, list[str]] = {
            str(zone.uuid): [filesystem.source for filesystem in zone.spec.filesystems]
            for zone in zones
        }
        self._local.adopt([v for v in self._volumes.list() if mounts_something(v)], users)
        self._folder.mkdir(parents=True, exist_ok=True)
        for user in self._folder.iterdir():
            self.settle(user.name)


def is_own_volume(filesystem: Filesystem) -> bool:
    """Whether the source asks for a volume that dies with the zone."""
    return filesystem.source == "create-volume" or is_uuid(filesystem.source)


def check_bind(source: str) -> None:
    """InvalidParameter if a bind's source is missing."""
    if not os.path.lexists(source):
        raise InvalidParameter(
            f'invalid mount config for type "bind": bind source path does not exist: {source}'
        )


def _sources(zone: Zone) -> list[_Source]:
    options = zone.metadata.runtime.mount_options
    found = []
    for filesystem in zone.spec.filesystems:
        words = tuple(options.get(filesystem.target, ()))
        subpath = next((word[8:] for word in words if word.startswith("subpath=")), "")
        # The spec names the image's dataset by its folder.
        image = ImageUUID(Path(filesystem.source).name) if "image" in words else None
        found.append(_Source(filesystem, words, subpath, image))
    return found


def _make_source(source: _Source) -> None:
    path = source.filesystem.source
    if "create" not in source.words:
        check_bind(path)
    elif not os.path.lexists(path):
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise APIError(
                f"error while creating mount source path '{path}': mkdir {error.filename}: {reason}"
            ) from error


def _has_folder(root: Path, target: str) -> bool:
    """Whether the image has it; APIError where it has a file: no volume is mounted there."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = open_in_root(top, target, os.O_PATH)
    except OSError:
        return False  # it is made, or missed, at the start
    finally:
        os.close(top)
    try:
        if not stat.S_ISDIR(os.fstat(found).st_mode):
            raise APIError(f"source {target} is not directory")
        return True
    finally:
        os.close(found)


def _check_propagation(source: str, words: Sequence[str]) -> None:
    """InvalidParameter if mounts could not be passed on as asked, in dockerd's words."""
    shared = {"shared", "rshared"} & set(words)
    if not shared and not {"slave", "rslave"} & set(words):
        return
    place, peers = overlay.mount_of(source)
    if not peers & ({"shared"} if shared else {"shared", "master"}):
        kind = "shared" if shared else "shared or slave"
        raise InvalidParameter(f"path {source} is mounted on {place} but it is not a {kind} mount")


def _beneath(base: Path, subpath: str) -> int:
    """A descriptor of `subpath` in `base`; NotFound, InvalidParameter in dockerd's words."""
    folder = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_beneath(folder, subpath, os.O_PATH)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise InvalidParameter(
                f"path concatenation escapes the base directory, base: {base}, subpath: {subpath}"
            ) from error
        path = f"{base}/{subpath}"
        reason = (error.strerror or "").lower()
        raise NotFound(f"cannot access path {path}: lstat {path}: {reason}") from error
    finally:
        os.close(folder)


def _bind_descriptor(descriptor: int, place: Path) -> None:
    source = f"/proc/self/fd/{descriptor}"
    place.parent.mkdir(parents=True, exist_ok=True)
    make: Callable[[], None] = place.mkdir if Path(source).is_dir() else place.touch
    make()
    if _libc.mount(source.encode(), os.fsencode(place), None, ctypes.c_ulong(_MS_BIND_REC), None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(place))
