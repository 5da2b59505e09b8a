"""`os/architecture/variant` as clients write it, in containerd's words."""

from __future__ import annotations

import platform
import re

from dockerapi.errors import InvalidParameter
from imgsources.oci import Platform

_OSES = frozenset(["linux", "windows", "freebsd", "darwin", "illumos", "solaris", "wasi"])
_ARCHITECTURES = frozenset(
    [
        "386",
        "amd64",
        "arm",
        "arm64",
        "loong64",
        "mips",
        "mips64",
        "mips64le",
        "mipsle",
        "ppc64",
        "ppc64le",
        "riscv64",
        "s390x",
        "wasm",
    ]
)
_ALIASES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "armhf": "arm",
    "armv7l": "arm",
}


def own_architecture() -> str:
    """This machine's, in Go's words."""
    machine = platform.machine()
    return _ALIASES.get(machine, machine)


def parse_platform(text: str) -> Platform:
    """`os[/architecture[/variant]]`, or an architecture alone; InvalidParameter."""
    parts = text.lower().split("/")
    fault = f'"{text}": '
    if len(parts) > 3 or not all(re.fullmatch(r"[a-z0-9_.-]+", part) for part in parts):
        raise InvalidParameter(
            f"{fault}cannot parse platform specifier: platform specifier component must match "
            '"^[A-Za-z0-9_-]+$": invalid argument'
        )
    first = _ALIASES.get(parts[0], parts[0])
    if len(parts) == 1 and first in _ARCHITECTURES:
        return Platform("linux", first)
    if first not in _OSES:
        raise InvalidParameter(f"{fault}unknown operating system or architecture: invalid argument")
    if len(parts) == 1:
        return Platform(first, own_architecture())
    return Platform(first, _ALIASES.get(parts[1], parts[1]), *parts[2:])


def fits(wanted: Platform, found: Platform) -> bool:
    """Whether an image of platform `found` is what was asked for; a variant counts if both name one."""
    same = (wanted.os, wanted.architecture) == (found.os, found.architecture)
    return same and (not wanted.variant or not found.variant or wanted.variant == found.variant)
