"""What dockerd lets a volume of the driver `local` be called, and be asked for; the same on every host."""

from __future__ import annotations

import re

from dockerapi.errors import InvalidParameter

ANONYMOUS_LABEL = "com.docker.volume.anonymous"

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_OPTIONS = frozenset(("type", "o", "device", "size"))


def check_name(name: str) -> None:
    """InvalidParameter in dockerd's words."""
    if _NAME.fullmatch(name):
        return
    if len(name) == 1:
        raise InvalidParameter(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    raise InvalidParameter(
        f'create {name}: "{name}" includes invalid characters for a local volume name, only '
        '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use '
        "absolute path"
    )


def check_options(options: dict[str, str]) -> None:
    """dockerd's own complaints about options; whether the host can do what they ask for is its own to say."""
    for name in options:
        if name not in _OPTIONS:
            raise InvalidParameter(f'invalid option: "{name}"')
    if not options:
        return
    for name in ("device", "type"):
        if not options.get(name) and "size" not in options:
            raise InvalidParameter(f'missing required option: "{name}"')
