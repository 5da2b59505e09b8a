"""Where one instance keeps images: names in the pool, files below /var, properties; and clean-up that may find nothing."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockerapi.errors import APIError, NotFound
from gateway.hosts.smartos import imgadm
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.zfs import ZFS

log = logging.getLogger(__name__)

CLAIM = "zonegate:instance."
"""With an instance's name after it: it wants this dataset."""
PARTIAL = "-partial"
"""After a dataset's name while it is being made, as imgadm has it."""


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """`root`: below it the platform's files are; `mountpoint` is the pool's; `spool` a folder of this machine."""

    gz: GlobalZone
    zpool: str
    root: str
    mountpoint: str
    instance: str
    spool: Path

    @property
    def zfs(self) -> ZFS:
        """Commands on the pool."""
        return ZFS(self.gz)

    @property
    def claim(self) -> str:
        """The property that says that this instance wants a dataset."""
        return CLAIM + self.instance

    @property
    def lock_owner(self) -> str:
        """What is written into imgadm's locks."""
        return f"zonegate {self.instance}"

    @property
    def spool_start(self) -> str:
        """What the names of layers on their way begin with."""
        return f"zonegate-{self.instance}-"

    @property
    def far_spool(self) -> str:
        """The folder for layers in the global zone; its /tmp is memory."""
        return f"{self.root.rstrip('/')}/var/tmp"  # noqa: S108 - names in it are random

    def dataset(self, uuid: str) -> str:
        """Its full name."""
        return f"{self.zpool}/{uuid}"

    def entry(self, uuid: str) -> str:
        """Path of imgadm's database entry."""
        return imgadm.entry_path(self.root, self.zpool, uuid)

    def lock(self, uuid: str) -> str:
        """Path of imgadm's lock."""
        return imgadm.lock_path(self.root, uuid)

    async def quietly(self, work: Coroutine[Any, Any, None]) -> None:
        """Clean-up that may find nothing, or no machine: the next start does the rest."""
        try:
            await work
        except NotFound:
            pass
        except APIError as error:
            log.warning("not cleaned up until the next start: %s", error)
