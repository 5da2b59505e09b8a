"""Records of zones on a disk that becomes full."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.hosts.linux import records
from gateway.zones.host import Zone
from gateway.zones.metadata import decode
from gateway.zones.spec import ZoneState
from tests.contract.conftest import zone_spec


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may become larger than that: what more is written is cut off, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_half_a_record_never_replaces_a_whole_one(tmp_path: Path) -> None:
    spec = zone_spec("cat")
    zone = Zone(spec, decode(spec.internal_metadata), ZoneState.RUNNING, 1)
    record = records.Record.of(zone)
    records.write(tmp_path, record)
    with room(100), pytest.raises(OSError, match="No space left on device"):
        records.write(tmp_path, record.with_zone(zone))
    assert records.read(tmp_path) == record
