"""Volumes of the driver `local`, by name: what dockerd lets them be called and be asked for, and what every host does alike.

All are in memory; a change is made on the platform first, then known.  Where a volume is kept is the host's.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace

from dockerapi.errors import InvalidParameter, NotFound
from gateway.zones.host import Volume

ANONYMOUS_LABEL = "com.docker.volume.anonymous"

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_NEEDED = {"o": ("device", "type"), "type": ("device",), "device": ("type",)}
"""Option -> options that it goes with."""
_OPTIONS = frozenset(("type", "o", "device", "size"))
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?")


class LocalVolumes(ABC):
    """The half of `gateway.zones.host.VolumeHost` that knows no platform."""

    def __init__(self, volumes: Iterable[Volume] = ()) -> None:
        self._volumes = {volume.name: volume for volume in volumes}
        self._lock = asyncio.Lock()

    @abstractmethod
    def _check(self, name: str, options: dict[str, str]) -> None:
        """InvalidParameter, NotSupported for what this platform cannot make."""

    @abstractmethod
    def _place(self, name: str) -> str:
        """Where a new volume's folder will be."""

    @abstractmethod
    async def _make(self, volume: Volume) -> None:
        """All of it or nothing."""

    @abstractmethod
    async def _disown(self, volume: Volume) -> None:
        """Remember that it has no owner any more."""

    @abstractmethod
    async def _unmake(self, volume: Volume) -> None:
        """With everything in it."""

    def list(self) -> Sequence[Volume]:
        """From memory, oldest first."""
        return list(self._volumes.values())

    def get(self, name: str) -> Volume:
        """NotFound(`get X: no such volume`)."""
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    async def create(
        self, name: str, *, labels: dict[str, str], options: dict[str, str], owner: str = ""
    ) -> Volume:
        """The existing one where the name is known; "" makes an anonymous one with a name of 64 hex.

        InvalidParameter for a bad name or option, NotSupported for options that the platform cannot do.
        """
        if not name:
            name = secrets.token_hex(32)
            labels = {ANONYMOUS_LABEL: "", **labels}
        if name in self._volumes:
            return self._volumes[name]
        check_name(name)
        try:
            self._check(name, options)
        except InvalidParameter as error:
            if error.message.startswith("create "):
                raise
            raise InvalidParameter(f"create {name}: {error.message}") from error
        async with self._lock:
            if name in self._volumes:
                return self._volumes[name]
            volume = Volume(
                name=name,
                mountpoint=self._place(name),
                created_ns=time.time_ns(),
                labels=dict(labels),
                options=dict(options),
                owner=owner,
            )
            await self._make(volume)
            self._volumes[name] = volume
            return volume

    async def keep(self, name: str) -> None:
        """It has no owner any more; NotFound if there is none."""
        async with self._lock:
            volume = replace(self.get(name), owner="")
            await self._disown(volume)
            self._volumes[name] = volume

    async def remove(self, name: str) -> None:
        """NotFound if there is none.  Whether it is in use is the engine's to know."""
        async with self._lock:
            await self._unmake(self.get(name))
            del self._volumes[name]


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
    for option, needed in _NEEDED.items():
        for name in needed:
            if option in options and name not in options:
                raise InvalidParameter(f'missing required option: "{name}"')


def byte_size(text: str) -> int:
    """`10m`, `1.5g`, `512kb`: powers of 1024 as docker/go-units RAMInBytes; ValueError."""
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(found[1]) * 1024 ** " kmgtp".index(found[2] or " "))


def size_of(options: dict[str, str]) -> int:
    """Bytes of the option `size`, 0 = no limit; InvalidParameter in dockerd's words."""
    if "size" not in options:
        return 0
    try:
        return byte_size(options["size"])
    except ValueError as error:
        raise InvalidParameter(str(error)) from error


def mounts_something(volume: Volume) -> bool:
    """Whether its options say what is to be mounted on its folder."""
    return bool(volume.options.get("device") or volume.options.get("type"))
