"""Files and usage of zones on this host: not built yet, and refused with 501."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from dockerapi.errors import NotSupported
from gateway.zones.host import PathChange, PathStatus, ProcessTable, Sample
from gateway.zones.spec import ZoneUUID


def _refusal(what: str) -> NotSupported:
    return NotSupported(f"{what} is not supported by zonegate on SmartOS yet")


class UnbuiltFiles:
    """Satisfies gateway.zones.host.ZoneFiles by refusing."""

    async def status(self, uuid: ZoneUUID, path: str) -> PathStatus:
        """Refused."""
        raise _refusal("docker cp")

    async def read(
        self, uuid: ZoneUUID, path: str
    ) -> tuple[PathStatus, AsyncGenerator[bytes, None]]:
        """Refused."""
        raise _refusal("docker cp")

    async def write(
        self,
        uuid: ZoneUUID,
        path: str,
        tar: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None:
        """Refused."""
        raise _refusal("docker cp")

    async def changes(self, uuid: ZoneUUID) -> Sequence[PathChange]:
        """Refused."""
        raise _refusal("docker diff")

    async def export(self, uuid: ZoneUUID) -> AsyncGenerator[bytes, None]:
        """Refused."""
        raise _refusal("docker export")

    async def layer(self, uuid: ZoneUUID) -> AsyncGenerator[bytes, None]:
        """Refused."""
        raise _refusal("docker commit")


class UnbuiltGauges:
    """Satisfies gateway.zones.host.ZoneGauges by refusing."""

    async def sample(self, uuid: ZoneUUID) -> Sample | None:
        """Refused."""
        raise _refusal("docker stats")

    async def processes(self, uuid: ZoneUUID, ps_args: str) -> ProcessTable:
        """Refused."""
        raise _refusal("docker top")
