"""Binds, volumes, tmpfs: what the body asks for, what wins at one target, and how inspect shows it.

mountconfig.py reads HostConfig.Mounts; here is the rest, and what becomes of all of them.

    --volumes-from  <  -v src:dst[:mode]  and  --mount  (twice the same target is an error)
    tmpfs and all of these  >  anonymous volumes of the body and the image

A volume's folder is not known here: `MountPoint.source` is "" until the engine has made the volume.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import replace

from dockerapi.errors import APIError, InvalidParameter
from dockerapi.models.containers import ContainerCreate
from gateway.translate.mountconfig import from_mount, tmpfs
from gateway.translate.mountpoints import (
    PROPAGATION,
    MountPoint,
    check_volume_name,
    destination,
    volume,
)
from gateway.zones.metadata import Tmpfs
from gateway.zones.spec import Filesystem

__all__ = ["ANONYMOUS_LABEL", "MountPoint", "mount_points", "tmpfs"]

_MODE_WORDS = (
    frozenset({"rw", "ro"}),
    frozenset({"z", "Z"}),
    frozenset({"nocopy"}),
    PROPAGATION,
    frozenset({"consistent", "cached", "delegated", "default"}),
)
ANONYMOUS_LABEL = "com.docker.volume.anonymous"


def mount_points(
    body: ContainerCreate, image_volumes: Iterable[str], inherited: Sequence[MountPoint]
) -> tuple[MountPoint, ...]:
    """All mounts but tmpfs of --tmpfs; InvalidParameter in dockerd's words."""
    host = body.host_config
    points = {point.destination: point for point in inherited}
    asked: dict[str, MountPoint] = {}
    temporary = {destination(target) for target in host.tmpfs or {}}
    binds = [parse_bind(raw, host.volume_driver) for raw in host.binds or []]
    for point in (*binds, *(from_mount(mount) for mount in host.mounts or [])):
        # dockerd looks for a tmpfs only where -v wants to be: one over a mount of --mount hides it.
        if point.destination in asked or (point.destination in temporary and point in binds):
            raise InvalidParameter(f"Duplicate mount point: {point.destination}")
        asked[point.destination] = point
    points |= asked
    for raw in (*(body.volumes or {}), *image_volumes):
        # dockerd takes a relative one as well, and the runtime starts at the root.
        target = destination(raw if raw.startswith("/") else f"/{raw}")
        if target not in points and target not in temporary:
            points[target] = volume(target, "", words=("volume",), driver=host.volume_driver)
    return tuple(points.values())


def parse_bind(raw: str, driver: str = "") -> MountPoint:
    """`src:dst[:mode]`, or `dst` alone for an anonymous volume; `driver` is that of volumes.

    APIError for what is not so written, as dockerd has it (500); InvalidParameter for a volume's name.
    """
    try:
        point = _parsed_bind(raw, driver)
    except InvalidParameter as error:
        raise APIError(error.message) from error
    if point.type == "volume" and not point.anonymous:
        check_volume_name(point.name)
    return point


def _parsed_bind(raw: str, driver: str) -> MountPoint:
    fault = f"invalid volume specification: '{raw}'"
    parts = raw.split(":")
    if not 1 <= len(parts) <= 3 or (not parts[-1] and len(parts) < 3):
        raise InvalidParameter(fault)
    if len(parts) == 1:
        target = destination(parts[0], f'{fault}: invalid mount config for type "volume"')
        return volume(target, "", mode="z", words=("volume",), driver=driver)
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
    target = destination(target, config)
    words = set(mode.split(","))
    if kind == "bind" and "nocopy" in words:
        raise InvalidParameter(f"{config}: field VolumeOptions must not be specified")
    if kind == "volume" and words & PROPAGATION:
        raise InvalidParameter(f"{config}: field BindOptions must not be specified")
    writable = "ro" not in words
    if kind == "bind":
        propagation = next(iter(words & PROPAGATION), "rprivate")
        return MountPoint(
            "bind",
            target,
            source=posixpath.normpath(source),
            mode=mode,
            rw=writable,
            propagation=propagation,
            words=("create", propagation),
        )
    wanted = ("nocopy",) if "nocopy" in words else ("volume",)
    return volume(target, source, mode=mode or "z", rw=writable, words=wanted, driver=driver)


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


def filesystems(points: Sequence[MountPoint], temporary: Iterable[Tmpfs]) -> tuple[Filesystem, ...]:
    """The lofs entries of the payload: none where a tmpfs would hide it."""
    hidden = {tmpfs.target for tmpfs in temporary}
    return tuple(
        Filesystem(
            source=point.source,
            target=point.destination,
            options=() if point.rw else ("ro",),
        )
        for point in points
        if point.type != "tmpfs" and point.destination not in hidden
    )


def mount_words(points: Sequence[MountPoint]) -> dict[str, tuple[str, ...]]:
    """`Runtime.mount_options`."""
    return {p.destination: p.words for p in points if p.words and p.type != "tmpfs"}


def inherit(entry: str) -> tuple[str, bool]:
    """`CONTAINER[:ro|:rw|:z]` of --volumes-from: whose, and whether writable."""
    if not entry:
        raise InvalidParameter("volumes-from specification cannot be an empty string")
    ref, _, mode = entry.partition(":")
    if not valid_mode(mode) or (PROPAGATION | {"nocopy"}) & set(mode.split(",")):
        raise InvalidParameter(f"invalid mode: {mode}")
    return ref, "ro" not in mode.split(",")


def inherited(points: Iterable[MountPoint], *, writable: bool) -> list[MountPoint]:
    """Another container's mounts, as --volumes-from gives them on: all but tmpfs, and nothing is copied into them."""
    return [
        replace(
            point,
            rw=point.rw and writable,
            anonymous=False,
            mode="",
            words=tuple("nocopy" if word == "volume" else word for word in point.words),
        )
        for point in points
        if point.type != "tmpfs"
    ]
