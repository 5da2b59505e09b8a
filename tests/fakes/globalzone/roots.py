"""Roots of zones for the Linux host: they are there already, below each machine's zonepath.

Stands where the Linux host has its own overlay store: cloning, mounting and throwing away are the pool's.
"""

from __future__ import annotations

from pathlib import Path

from imgsources.oci import ImageUUID


class Roots:
    """What LinuxZones asks of a store of roots."""

    driver = "zfs"
    sized_folders = None

    async def status(self) -> tuple[tuple[str, str], ...]:
        """Nobody asks this host for it."""
        return ()

    def check_size(self, size: int) -> None:
        """The quota is the pool's."""

    def __init__(self, zones: Path) -> None:
        self._folder = zones
        self._known: set[str] = set()

    def zones(self) -> frozenset[str]:
        """Zones that have a root here."""
        return frozenset(self._known)

    def folder(self, zone: str) -> Path:
        """The zonepath."""
        return self._folder / zone

    async def clone(self, uuid: ImageUUID | None, zone: str, *, size: int = 0) -> Path:
        """vmadm has cloned it."""
        self._known.add(zone)
        return self.folder(zone) / "root"

    async def mount(self, zone: str) -> Path:
        """The root; it is mounted as long as its machine exists."""
        return self.folder(zone) / "root"

    async def unmount(self, zone: str) -> None:
        """It stays: the global zone looks into the roots of stopped zones."""

    def leave(self, zone: str) -> None:
        """`vmadm delete` destroys the dataset itself."""

    async def discard(self, zone: str) -> None:
        """`vmadm delete` destroys the dataset."""
        self._known.discard(zone)

    def close(self) -> None:
        """There is nothing to let go of."""
