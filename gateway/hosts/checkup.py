"""What `zonegate doctor` finds: one line each.  And what is asked on every platform."""

from __future__ import annotations

import grp
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.settings import Settings

EXTRAS = {
    "uvloop": "twice the requests a second",
    "orjson": "faster lists and inspects",
    "isal": "gzip layers unpack in half the time",
    "zstandard": "zstd layers; without it they are refused",
}
"""Module -> what it is good for.  Everything runs without."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.  `fatal` and not `ok`: containers cannot run."""

    ok: bool
    text: str
    fatal: bool = False


def python() -> Finding:
    """The interpreter's version."""
    return Finding(sys.version_info >= (3, 11), f"Python {platform.python_version()}", fatal=True)


def is_installed(module: str) -> bool:
    """Whether it could be imported; it is not."""
    return importlib.util.find_spec(module) is not None


def surroundings(settings: Settings, *, client: str) -> Iterator[Finding]:
    """Extras, the socket's group, the docker CLI; `client`: how one gets it here."""
    for name, gain in EXTRAS.items():
        there = is_installed(name)
        yield Finding(there, f"{name}: {gain}" if there else f"{name} is not installed: {gain}")
    try:
        grp.getgrnam(settings.group)
    except KeyError:
        yield Finding(False, f"no group {settings.group}: the socket will be root's alone")
    found = shutil.which("docker")
    yield Finding(
        found is not None, f"docker CLI at {found}" if found else f"no docker CLI: {client}"
    )
