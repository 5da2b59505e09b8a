"""`MountPoint`, one mount of a container, and what all ways to ask for one have in common.  Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dockerapi.errors import InvalidParameter
from dockerapi.models.base import JSONObject

PROPAGATION = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One mount of a container.  `words` go to the host: volume, nocopy, create, image, subpath=..., propagation.

    A volume without `name` is anonymous: the engine names and makes it.  `driver`, `options`, `labels`: of a
    volume that the mount makes.  Of an image mount `name` is the reference as typed.
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
    image: str = ""
    """Id of the image that is mounted."""
    driver: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

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
        found = asdict(self) | {"words": list(self.words)}
        return {key: value for key, value in found.items() if value or key in _ALWAYS_KEPT}

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> MountPoint:
        """What `kept` wrote."""
        return cls(**{**data, "words": tuple(data["words"])})


_ALWAYS_KEPT = frozenset(
    [
        "type",
        "destination",
        "source",
        "name",
        "mode",
        "rw",
        "propagation",
        "words",
        "anonymous",
        "must_exist",
        "labels",
    ]
)


def volume(
    target: str,
    name: str,
    *,
    mode: str = "",
    rw: bool = True,
    words: tuple[str, ...] = (),
    labels: Mapping[str, str] | None = None,
    driver: str = "",
    options: Mapping[str, str] | None = None,
) -> MountPoint:
    """Of a volume, which is anonymous without `name`."""
    return MountPoint(
        "volume",
        target,
        name=name,
        mode=mode,
        rw=rw,
        words=words,
        anonymous=not name,
        labels=labels or {},
        driver=driver,
        options=options or {},
    )


def destination(target: str, prefix: str = "") -> str:
    """The target without dots and double slashes; InvalidParameter unless it is absolute, and not the root."""
    before = f"{prefix}: " if prefix else ""
    cleaned = posixpath.normpath(target).replace("//", "/")
    if cleaned == "/":
        raise InvalidParameter(f"{before}invalid specification: destination can't be '/'")
    if not target.startswith("/"):
        raise InvalidParameter(
            f"{before}invalid mount path: '{target}' mount path must be absolute"
        )
    return cleaned


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
