"""gateway.hosts.linux.resident: what hangs on a zone in memory."""

from __future__ import annotations

from gateway.hosts.linux.records import Record
from gateway.hosts.linux.resident import Resident
from gateway.hosts.linux.stdio import AttachStdio
from gateway.zones.host import AttachStreams, Zone
from gateway.zones.metadata import decode
from gateway.zones.spec import ZoneState
from tests.contract.conftest import zone_spec


async def _resize(_height: int, _width: int) -> None:
    """No terminal."""


async def test_clients_who_left_are_not_kept() -> None:
    spec = zone_spec("cat")
    resident = Resident(Record.of(Zone(spec, decode(spec.internal_metadata), ZoneState.RUNNING, 1)))
    stays = AttachStdio(
        AttachStreams(), tty=False, open_stdin=False, stdin_once=False, resize=_resize
    )
    resident.add_attach(stays)
    for _ in range(10):
        stdio = AttachStdio(
            AttachStreams(), tty=False, open_stdin=False, stdin_once=False, resize=_resize
        )
        resident.add_attach(stdio)
        await stdio.close()
    resident.add_attach(stays)
    assert resident.attaches == [stays, stays]
