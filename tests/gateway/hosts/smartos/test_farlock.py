"""vmadm's lock, taken on the other machine through a real sshd."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.ssh import SSHGlobalZone
from gateway.settings import SmartOSSettings
from tests.fakes import sshd
from tests.fakes.globalzone.process import FakeGZ
from tests.fakes.sshd import Sshd

pytest.importorskip("asyncssh")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not Path(sshd.PROGRAM).exists(), reason="there is no sshd"),
]
DEADLINE_S = 20.0


def is_free(path: Path) -> bool:
    """Whether another process could take the lock."""
    with path.open("a") as file, suppress(BlockingIOError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


async def free(path: Path) -> None:
    """Returns when nobody holds it."""

    def take() -> None:
        with path.open("a") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)

    await asyncio.to_thread(take)


@pytest.fixture
def server(fake: FakeGZ, tmp_path: Path) -> Iterator[Sshd]:
    """The machine's sshd."""
    environment = {name: fake.environment[name] for name in ("PATH", "ZONEGATE_FAKE_GZ")}
    server = sshd.start(tmp_path / "ssh", environment)
    yield server
    server.stop()


@pytest.fixture
async def far(server: Sshd) -> AsyncIterator[SSHGlobalZone]:
    """The machine, by SSH alone."""
    settings = SmartOSSettings(
        host=server.url, identity_file=server.identity_file, known_hosts=server.known_hosts
    )
    async with await SSHGlobalZone.open(settings) as zone:
        yield zone


async def test_nobody_else_of_that_machine_has_the_lock(far: SSHGlobalZone, tmp_path: Path) -> None:
    path = tmp_path / "vm.x.config.lockfile"
    async with asyncio.timeout(DEADLINE_S):
        async with far.locked(str(path)):
            assert not is_free(path)
        await free(path)  # its program goes on its own


async def test_the_lock_is_waited_for(
    far: SSHGlobalZone, gz: LocalGlobalZone, tmp_path: Path
) -> None:
    path, order = tmp_path / "lock", []

    async def take() -> None:
        async with far.locked(str(path)):
            order.append("far")

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group, gz.locked(str(path)):
        work = group.create_task(take())
        await asyncio.wait([work], timeout=0.2)
        order.append("near")
    assert order == ["near", "far"]


async def test_a_lost_connection_lets_go_of_the_lock(
    far: SSHGlobalZone, server: Sshd, tmp_path: Path
) -> None:
    path = tmp_path / "lock"
    async with asyncio.timeout(DEADLINE_S):
        async with far.locked(str(path)):
            server.drop()
            await free(path)


async def test_a_machine_without_the_module_is_worked_on_all_the_same(
    far: SSHGlobalZone, fake: FakeGZ, gz: LocalGlobalZone, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    fake.fault("node", stderr="Error: Cannot find module '/usr/vm/node_modules/locker'\n", code=8)
    async with asyncio.timeout(DEADLINE_S), far.locked(str(tmp_path / "lock")):
        pass
    assert "is not locked: Error: Cannot find module" in caplog.text
