"""A fake global zone for each module of tests, and the way into it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.hosts.smartos.local import LocalGlobalZone
from tests.fakes.globalzone import process
from tests.fakes.globalzone.process import FakeGZ


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGZ]:
    """The machine."""
    machine = process.start(tmp_path_factory.mktemp("gz"))
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture
async def gz(fake: FakeGZ, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalGlobalZone]:
    """As a gateway on that machine sees it; no fault is on order, before and after."""
    fake.clear_faults()
    for name in ("PATH", "ZONEGATE_FAKE_GZ"):
        monkeypatch.setenv(name, fake.environment[name])
    async with LocalGlobalZone() as zone:
        yield zone
    fake.clear_faults()
