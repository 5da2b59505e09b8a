"""What all builds of a gateway work with: its images and containers, a folder for what is under way, and who cleans up."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dockerapi.engine import AttachQuery
from dockerapi.errors import APIError
from dockerapi.framing import Stdio
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate
from dockerapi.models.system import AuthConfig
from gateway.engine.roster import Roster
from gateway.zones.host import Host
from gateway.zones.spec import ZoneUUID
from imgsources.catalog import Catalog
from imgsources.puller import Puller


class Containers(Protocol):
    """What a build asks of the containers."""

    async def create(
        self, body: ContainerCreate, *, name: str | None, platform: str | None
    ) -> JSONObject: ...
    async def attach(self, ref: str, query: AttachQuery) -> Stdio: ...
    async def start(self, ref: str) -> None: ...
    async def wait(self, ref: str, condition: str) -> Awaitable[JSONObject]: ...
    async def remove(self, ref: str, *, force: bool, volumes: bool, link: bool) -> None: ...


class Images(Protocol):
    """What a build asks of the images."""

    async def pull(
        self, name: str, *, tag: str, platform: str, auth: AuthConfig | None
    ) -> AsyncIterator[JSONObject]: ...


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all builds of one gateway work with.  `group` outlives the clients, so that what they leave is removed."""

    host: Host
    catalog: Catalog
    puller: Puller
    containers: Containers
    images: Images
    roster: Roster
    spool: Path
    group: asyncio.TaskGroup

    def temporary(self) -> tempfile._TemporaryFileWrapper[bytes]:
        """A file of the spool, to be used as a context manager; it is gone after the block, or at the next start."""
        return tempfile.NamedTemporaryFile(dir=self.spool, prefix="build-")

    async def discard(self, container: str) -> None:
        """Remove a container and its volumes, even if the client has hung up.  One that is gone is fine."""
        task = self.group.create_task(self._discard(container))
        await asyncio.shield(task)

    async def _discard(self, container: str) -> None:
        with contextlib.suppress(APIError):
            await self.containers.remove(container, force=True, volumes=True, link=False)

    def uuid(self, container: str) -> ZoneUUID:
        """Of its zone."""
        return self.roster.find(container).uuid
