"""Entries of HostConfig.Mounts, and tmpfs: checked in dockerd's words.  Pure.

bind     Source: a path that exists (unless CreateMountpoint)      volume   Source: a name, or none
image    Source: a reference                                       tmpfs    no Source
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from dockerapi.errors import InvalidParameter
from dockerapi.models.containers import BindOptions, ContainerCreate, Mount, TmpfsOptions
from gateway.translate.mountpoints import (
    PROPAGATION,
    MountPoint,
    check_volume_name,
    destination,
    volume,
)
from gateway.zones.metadata import Tmpfs

_TMPFS_OPTIONS = ("exec", "noexec")


def from_mount(mount: Mount) -> MountPoint:
    """One entry; InvalidParameter."""
    fault = f'invalid mount config for type "{mount.type}"'
    if not mount.target:
        raise InvalidParameter(f"{fault}: field Target must not be empty")
    target = destination(mount.target, fault)
    if mount.type not in ("bind", "volume", "tmpfs", "image"):
        raise InvalidParameter(f"{fault}: mount type unknown")
    _check_options(mount, fault)
    match mount.type:
        case "bind":
            return _bind(mount, target, fault)
        case "tmpfs":
            if mount.source:
                raise InvalidParameter(f"{fault}: field Source must not be specified")
            _tmpfs_words(mount, fault)
            return MountPoint("tmpfs", target, rw=not mount.read_only)
        case "image":
            return _image(mount, target, fault)
        case _:
            return _volume(mount, target, fault)


def _check_options(mount: Mount, fault: str) -> None:
    options = {
        "bind": ("BindOptions", mount.bind_options),
        "volume": ("VolumeOptions", mount.volume_options),
        "tmpfs": ("TmpfsOptions", mount.tmpfs_options),
        "image": ("ImageOptions", mount.image_options),
    }
    for kind, (name, given) in options.items():
        if given is not None and kind != mount.type:
            if name == "ImageOptions":
                raise InvalidParameter(f"{fault}: field {name} must not be specified")
            raise InvalidParameter(f'{name} must not be specified on mount type "{mount.type}"')


def _bind(mount: Mount, target: str, fault: str) -> MountPoint:
    if not mount.source:
        raise InvalidParameter(f"{fault}: field Source must not be empty")
    if not mount.source.startswith("/"):
        raise InvalidParameter(
            f"{fault}: invalid mount path: '{mount.source}' mount path must be absolute"
        )
    options = mount.bind_options or BindOptions()
    propagation = options.propagation or "rprivate"
    if propagation not in PROPAGATION:
        raise InvalidParameter(f"{fault}: invalid propagation mode: {propagation}")
    _check_read_only(options, read_only=mount.read_only)
    chosen = {
        "nonrecursive": options.non_recursive,
        "create": options.create_mountpoint,
        "readonlynonrecursive": options.read_only_non_recursive,
        "readonlyforcerecursive": options.read_only_force_recursive,
    }
    return MountPoint(
        "bind",
        target,
        source=posixpath.normpath(mount.source),
        rw=not mount.read_only,
        propagation=propagation,
        words=(propagation, *(word for word, wanted in chosen.items() if wanted)),
        must_exist=not options.create_mountpoint,
    )


def _check_read_only(options: BindOptions, *, read_only: bool) -> None:
    fault = "mount options conflict: "
    alone, forced = options.read_only_non_recursive, options.read_only_force_recursive
    if alone and not read_only:
        raise InvalidParameter(f"{fault}!ReadOnly && BindOptions.ReadOnlyNonRecursive")
    if forced and not read_only:
        raise InvalidParameter(f"{fault}!ReadOnly && BindOptions.ReadOnlyForceRecursive")
    if alone and forced:
        raise InvalidParameter(f"{fault}ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive")


def _volume(mount: Mount, target: str, fault: str) -> MountPoint:
    options = mount.volume_options
    subpath = options.subpath if options else ""
    if mount.source:
        check_volume_name(mount.source)
    elif subpath:
        raise InvalidParameter(f"{fault}: must not set Subpath when using anonymous volumes")
    elif mount.read_only:
        raise InvalidParameter(f"{fault}: must not set ReadOnly mode when using anonymous volumes")
    driver = options.driver_config if options else None
    return volume(
        target,
        mount.source,
        mode="z",
        rw=not mount.read_only,
        words=("nocopy" if options and options.no_copy else "volume", *_subpath(subpath, fault)),
        labels=options.labels if options else None,
        driver=driver.name if driver else "",
        options=driver.options if driver else None,
    )


def _image(mount: Mount, target: str, fault: str) -> MountPoint:
    """Read-only, whatever was asked for, as dockerd's is."""
    if not mount.source:
        raise InvalidParameter(f"{fault}: field Source must not be empty")
    subpath = mount.image_options.subpath if mount.image_options else ""
    return MountPoint(
        "image",
        target,
        name=mount.source,
        rw=False,
        propagation="rprivate",
        words=("image", *_subpath(subpath, fault)),
    )


def _subpath(path: str, fault: str) -> tuple[str, ...]:
    """Go's filepath.IsLocal: relative, and never above its beginning."""
    if not path:
        return ()
    if path.startswith("/") or posixpath.normpath(path).split("/")[0] == "..":
        raise InvalidParameter(f"{fault}: subpath must be a relative path within the volume")
    return (f"subpath={posixpath.normpath(path)}",)


def tmpfs(body: ContainerCreate) -> tuple[Tmpfs, ...]:
    """Of --tmpfs and of mounts of that type, which are heard where both name a target."""
    host = body.host_config
    found = [
        Tmpfs(target=destination(target), options=tuple(filter(None, text.split(","))))
        for target, text in (host.tmpfs or {}).items()
    ]
    fault = 'invalid mount config for type "tmpfs"'
    found += [
        Tmpfs(
            target=destination(mount.target, fault),
            options=_tmpfs_words(mount, fault),
            is_mount=True,
        )
        for mount in host.mounts or []
        if mount.type == "tmpfs"
    ]
    return tuple({tmpfs.target: tmpfs for tmpfs in found}.values())


def _tmpfs_words(mount: Mount, fault: str) -> tuple[str, ...]:
    given = mount.tmpfs_options or TmpfsOptions()
    if given.size_bytes < 0:
        raise InvalidParameter(f"{fault}: size must not be negative")
    words: list[str] = ["ro"] if mount.read_only else []
    words += [f"mode={given.mode:o}"] if given.mode else []
    words += [f"size={given.size_bytes}"] if given.size_bytes else []
    return (*words, *_tmpfs_options(given.options, fault))


def _tmpfs_options(options: Sequence[Sequence[str]], fault: str) -> tuple[str, ...]:
    for option in options:
        if not 1 <= len(option) <= 2:
            raise InvalidParameter(f"{fault}: invalid option array length")
        if option[0] not in _TMPFS_OPTIONS:
            raise InvalidParameter(f"{fault}: invalid option: {option[0]}")
    return tuple("=".join(option) for option in options)
