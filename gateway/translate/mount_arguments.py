"""`--mount type=...,src=...,dst=...` as the docker CLI reads it, into an entry of HostConfig.Mounts.  Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from dockerapi.errors import InvalidParameter
from gateway.translate.limits import byte_size

_KEYS: dict[str, tuple[str, ...]] = {
    "type": ("Type",), "source": ("Source",), "src": ("Source",), "target": ("Target",),
    "dst": ("Target",), "destination": ("Target",), "consistency": ("Consistency",),
    "bind-propagation": ("BindOptions", "Propagation"),
    "volume-driver": ("VolumeOptions", "DriverConfig", "Name"),
    "volume-subpath": ("VolumeOptions", "Subpath"),
    "image-subpath": ("ImageOptions", "Subpath"),
    "tmpfs-size": ("TmpfsOptions", "SizeBytes"), "tmpfs-mode": ("TmpfsOptions", "Mode"),
    "readonly": ("ReadOnly",), "ro": ("ReadOnly",),
    "volume-nocopy": ("VolumeOptions", "NoCopy"),
    "bind-nonrecursive": ("BindOptions", "NonRecursive"),
}  # fmt: skip
_SWITCHES = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive")
_PAIRS = {
    "volume-label": ("VolumeOptions", "Labels"),
    "volume-opt": ("VolumeOptions", "DriverConfig", "Options"),
}
_RECURSIVE: dict[str, dict[str, bool]] = {
    "enabled": {},
    "disabled": {"NonRecursive": True},
    "writable": {"ReadOnlyNonRecursive": True},
    "readonly": {"ReadOnlyForceRecursive": True},
}


def entries(values: Sequence[str], name: str) -> list[dict[str, Any]]:
    """One entry for each --mount; InvalidParameter in the CLI's words."""
    return [_entry(next(csv.reader(io.StringIO(text)))) for text in values]


def _entry(fields: Sequence[str]) -> dict[str, Any]:
    mount: dict[str, Any] = {"Type": "volume"}
    for item in fields:
        key, equals, value = item.partition("=")
        key = key.lower()
        if key in _PAIRS:
            label, _, text = value.partition("=")
            _put(mount, (*_PAIRS[key], label), text)
        elif key == "bind-recursive":
            if value not in _RECURSIVE:
                raise InvalidParameter(
                    f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")'
                )
            mount.setdefault("BindOptions", {}).update(_RECURSIVE[value])
        elif key in _KEYS and (equals or key in _SWITCHES):
            _put(mount, _KEYS[key], _value(key, value))
        else:
            raise InvalidParameter(f"unexpected key '{key}' in '{item}'")
    return mount


def _put(mount: dict[str, Any], path: Sequence[str], value: Any) -> None:
    target = mount
    for part in path[:-1]:
        target = target.setdefault(part, {})
    target[path[-1]] = value


def _value(key: str, text: str) -> Any:
    if key in _SWITCHES:
        return text.lower() in ("", "true", "1")
    try:
        if key == "tmpfs-size":
            return byte_size(text)
        if key == "tmpfs-mode":
            return int(text, 8)
    except ValueError as error:
        raise InvalidParameter(f"invalid value for {key}: {text}") from error
    return text
