"""Binds, volumes, tmpfs: what the body asks for, what wins at one target, and how inspect shows it.

    --volumes-from  <  -v src:dst[:mode]  and  --mount  (twice the same target is an error)
    tmpfs and all of these  >  anonymous volumes of the body and the image

A volume's folder is not known here: `MountPoint.source` is "" until the engine has made the volume.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dockerapi.errors import InvalidParameter, NotSupported
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate, Mount
from gateway.zones.metadata import Tmpfs
from gateway.zones.spec import Filesystem

_PROPAGATION = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})
_MODE_WORDS = (
    frozenset({"rw", "ro"}),
    frozenset({"z", "Z"}),
    frozenset({"nocopy"}),
    _PROPAGATION,
    frozenset({"consistent", "cached", "delegated", "default"}),
)
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
ANONYMOUS_LABEL = "com.docker.volume.anonymous"


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One mount of a container.  `words` go to the host: volume, nocopy, create, propagation.

    A volume without `name` is anonymous: the engine names and makes it.
    """

    type: str
    destination: str
    source: str = ""
    name: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    words: tuple[str, ...] = ()
    anonymous: bool = False
    must_exist: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    def shown(self) -> JSONObject:
        """An entry of inspect's Mounts."""
        entry: JSONObject = {"Type": self.type}
        if self.name:
            entry["Name"] = self.name
        entry |= {"Source": self.source, "Destination": self.destination}
        if self.type == "volume":
            entry["Driver"] = "local"
        return entry | {"Mode": self.mode, "RW": self.rw, "Propagation": self.propagation}

    def kept(self) -> JSONObject:
        """For `zonegate:create`; `MountPoint.read` is the inverse."""
        return asdict(self) | {"words": list(self.words), "labels": dict(self.labels)}

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> MountPoint:
        """What `kept` wrote."""
        return cls(**{**data, "words": tuple(data["words"])})


def mount_points(
    body: ContainerCreate, image_volumes: Iterable[str], inherited: Sequence[MountPoint]
) -> tuple[MountPoint, ...]:
    """All mounts but tmpfs of --tmpfs; InvalidParameter in dockerd's words."""
    host = body.host_config
    points = {point.destination: point for point in inherited}
    asked: dict[str, MountPoint] = {}
    temporary = {_destination(target) for target in host.tmpfs or {}}
    explicit = [parse_bind(raw) for raw in host.binds or []]
    explicit += [from_mount(mount) for mount in host.mounts or []]
    for point in explicit:
        if point.destination in asked or point.destination in temporary:
            raise InvalidParameter(f"Duplicate mount point: {point.destination}")
        asked[point.destination] = point
    points |= asked
    for raw in (*(body.volumes or {}), *image_volumes):
        target = _destination(raw)
        if target not in points and target not in temporary:
            points[target] = _volume(target, "", words=("volume",))
    return tuple(points.values())


def parse_bind(raw: str) -> MountPoint:
    """`src:dst[:mode]`, or `dst` alone for an anonymous volume."""
    fault = f"invalid volume specification: '{raw}'"
    parts = raw.split(":")
    if not 1 <= len(parts) <= 3 or (not parts[-1] and len(parts) < 3):
        raise InvalidParameter(fault)
    if len(parts) == 1:
        destination = _destination(parts[0], f'{fault}: invalid mount config for type "volume"')
        return _volume(destination, "", words=("volume",))
    source, target = parts[0], parts[1]
    mode = parts[2] if len(parts) == 3 else ""
    if len(parts) == 2 and valid_mode(target):
        raise InvalidParameter(fault)
    if not valid_mode(mode):
        raise InvalidParameter(f"invalid mode: {mode}")
    if not source:
        raise InvalidParameter(fault)
    kind = "bind" if source.startswith("/") else "volume"
    config = f'{fault}: invalid mount config for type "{kind}"'
    destination = _destination(target, config)
    words = set(mode.split(","))
    if kind == "bind" and "nocopy" in words:
        raise InvalidParameter(f"{config}: field VolumeOptions must not be specified")
    if kind == "volume" and words & _PROPAGATION:
        raise InvalidParameter(f"{config}: field BindOptions must not be specified")
    writable = "ro" not in words
    if kind == "bind":
        propagation = next(iter(words & _PROPAGATION), "rprivate")
        return MountPoint(
            "bind",
            destination,
            source=posixpath.normpath(source),
            mode=mode,
            rw=writable,
            propagation=propagation,
            words=("create", propagation),
        )
    check_volume_name(source)
    wanted = ("nocopy",) if "nocopy" in words else ("volume",)
    return _volume(destination, source, mode=mode or "z", rw=writable, words=wanted)


def valid_mode(mode: str) -> bool:
    """Whether `mode` is made of the third part's words, each kind once."""
    if not mode:
        return True
    kinds: list[int] = []
    for word in mode.split(","):
        kind = next((n for n, known in enumerate(_MODE_WORDS) if word in known), None)
        if kind is None or kind in kinds:
            return False
        kinds.append(kind)
    return True


def check_volume_name(name: str) -> None:
    """InvalidParameter in dockerd's words."""
    if len(name) == 1:
        raise InvalidParameter(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not _VOLUME_NAME.fullmatch(name):
        raise InvalidParameter(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, '
            "use absolute path"
        )


def _volume(
    destination: str,
    name: str,
    *,
    mode: str = "",
    rw: bool = True,
    words: tuple[str, ...] = (),
    labels: Mapping[str, str] | None = None,
) -> MountPoint:
    return MountPoint(
        "volume",
        destination,
        name=name,
        mode=mode,
        rw=rw,
        words=words,
        anonymous=not name,
        labels=labels or {},
    )


def _destination(target: str, prefix: str = "") -> str:
    before = f"{prefix}: " if prefix else ""
    if not target.startswith("/"):
        raise InvalidParameter(
            f"{before}invalid mount path: '{target}' mount path must be absolute"
        )
    cleaned = posixpath.normpath(target).replace("//", "/")
    if cleaned == "/":
        raise InvalidParameter(f"{before}invalid specification: destination can't be '/'")
    return cleaned


def from_mount(mount: Mount) -> MountPoint:
    """One entry of HostConfig.Mounts."""
    fault = f'invalid mount config for type "{mount.type}"'
    if mount.type in ("image", "npipe", "cluster"):
        raise NotSupported(f"mounts of type {mount.type} are not supported by zonegate yet")
    if mount.type not in ("bind", "volume", "tmpfs"):
        raise InvalidParameter(f"{fault}: mount type unknown")
    if not mount.target:
        raise InvalidParameter(f"{fault}: field Target must not be empty")
    destination = _destination(mount.target, fault)
    _check_options(mount, fault)
    match mount.type:
        case "bind":
            return _bind_mount(mount, destination, fault)
        case "tmpfs":
            if mount.source:
                raise InvalidParameter(f"{fault}: field Source must not be specified")
            return MountPoint("tmpfs", destination, rw=not mount.read_only)
        case _:
            return _volume_mount(mount, destination)


def _check_options(mount: Mount, fault: str) -> None:
    options = {
        "bind": ("BindOptions", mount.bind_options),
        "volume": ("VolumeOptions", mount.volume_options),
        "tmpfs": ("TmpfsOptions", mount.tmpfs_options),
        "image": ("ImageOptions", mount.image_options),
    }
    for kind, (name, given) in options.items():
        if given is not None and kind != mount.type:
            raise InvalidParameter(f"{fault}: field {name} must not be specified")


def _bind_mount(mount: Mount, destination: str, fault: str) -> MountPoint:
    if not mount.source:
        raise InvalidParameter(f"{fault}: field Source must not be empty")
    if not mount.source.startswith("/"):
        raise InvalidParameter(
            f"{fault}: invalid mount path: '{mount.source}' mount path must be absolute"
        )
    options = mount.bind_options
    propagation = (options and options.propagation) or "rprivate"
    if propagation not in _PROPAGATION:
        raise InvalidParameter(f"{fault}: invalid propagation mode: {propagation}")
    words = [propagation]
    if options:
        words += ["nonrecursive"] if options.non_recursive else []
        words += ["create"] if options.create_mountpoint else []
        if options.read_only_non_recursive or options.read_only_force_recursive:
            raise NotSupported("recursive read-only mounts are not supported by zonegate yet")
    return MountPoint(
        "bind",
        destination,
        source=posixpath.normpath(mount.source),
        rw=not mount.read_only,
        propagation=propagation,
        words=tuple(words),
        must_exist="create" not in words,
    )


def _volume_mount(mount: Mount, destination: str) -> MountPoint:
    options = mount.volume_options
    if mount.source:
        check_volume_name(mount.source)
    if options and options.subpath:
        raise NotSupported("VolumeOptions.Subpath is not supported by zonegate yet")
    driver = options and options.driver_config
    if driver and (driver.name not in ("", "local") or driver.options):
        raise NotSupported("volume drivers and driver options are not supported by zonegate yet")
    return _volume(
        destination,
        mount.source,
        mode="z",
        rw=not mount.read_only,
        words=("nocopy",) if options and options.no_copy else ("volume",),
        labels=options.labels if options else None,
    )


def tmpfs(body: ContainerCreate) -> tuple[Tmpfs, ...]:
    """Of --tmpfs and of mounts of that type."""
    host = body.host_config
    found = [
        Tmpfs(target=_destination(target), options=tuple(filter(None, text.split(","))))
        for target, text in (host.tmpfs or {}).items()
    ]
    found += [_tmpfs_mount(mount) for mount in host.mounts or [] if mount.type == "tmpfs"]
    return tuple(found)


def _tmpfs_mount(mount: Mount) -> Tmpfs:
    words: list[str] = ["ro"] if mount.read_only else []
    given = mount.tmpfs_options
    if given:
        if given.size_bytes < 0:
            raise InvalidParameter(
                'invalid mount config for type "tmpfs": size must not be negative'
            )
        words += [f"mode={given.mode:o}"] if given.mode else []
        words += [f"size={given.size_bytes}"] if given.size_bytes else []
        words += ["=".join(option) for option in given.options]
    return Tmpfs(target=_destination(mount.target), options=tuple(words))


def filesystems(points: Sequence[MountPoint]) -> tuple[Filesystem, ...]:
    """The lofs entries of the payload."""
    return tuple(
        Filesystem(
            source=point.source,
            target=point.destination,
            options=() if point.rw else ("ro",),
        )
        for point in points
        if point.type != "tmpfs"
    )


def mount_words(points: Sequence[MountPoint]) -> dict[str, tuple[str, ...]]:
    """`Runtime.mount_options`."""
    return {p.destination: p.words for p in points if p.words and p.type != "tmpfs"}


def inherit(entry: str) -> tuple[str, bool]:
    """`CONTAINER[:ro|:rw|:z]` of --volumes-from: whose, and whether writable."""
    ref, _, mode = entry.partition(":")
    if not ref or not valid_mode(mode):
        raise InvalidParameter(f"invalid mode: {mode}" if ref else "invalid volumes-from: ''")
    return ref, "ro" not in mode.split(",")


def inherited(points: Iterable[MountPoint], *, writable: bool) -> list[MountPoint]:
    """Another container's mounts, as --volumes-from gives them on: all but tmpfs."""
    return [
        replace(point, rw=point.rw and writable, anonymous=False)
        for point in points
        if point.type != "tmpfs"
    ]
