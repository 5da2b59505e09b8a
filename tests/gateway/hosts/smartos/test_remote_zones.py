"""The same zones when the machine is another one, reached through a real sshd that may go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dockerapi.errors import APIError, CommandFailed, Unavailable
from gateway.settings import Settings
from gateway.zones.host import NetworkRequest, Zone, ZoneChange
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import ZoneUUID
from tests.contract.conftest import (  # noqa: F401 (fixture)
    DEADLINE_S,
    Bench,
    global_zone,
    kept,
    opened,
    zone_spec,
)
from tests.fakes import sshd
from tests.fakes.globalzone.process import FakeGZ
from tests.fakes.globalzone.programs import fwadm
from tests.fakes.sshd import Sshd

pytest.importorskip("asyncssh")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not Path(sshd.PROGRAM).exists(), reason="there is no sshd"),
]

SLEEP = ("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done")


@pytest.fixture
def server(global_zone: FakeGZ, short_dir: Path) -> Iterator[Sshd]:  # noqa: F811
    """The machine's sshd."""
    names = ("PATH", "ZONEGATE_FAKE_GZ")
    environment = {name: global_zone.environment[name] for name in names}
    server = sshd.start(short_dir / "ssh", environment)
    yield server
    server.stop()
    global_zone.clear_faults()


@pytest.fixture
def remote_settings(server: Sshd, global_zone: FakeGZ, short_dir: Path) -> Settings:  # noqa: F811
    """Of a gateway that has the machine by SSH alone."""
    return global_zone.settings(
        data_root=short_dir / "data",
        exec_root=short_dir / "run",
        smartos={
            "host": server.url,
            "identity_file": server.identity_file,
            "known_hosts": server.known_hosts,
        },
    )


@pytest.fixture
async def bench(remote_settings: Settings) -> AsyncIterator[Bench]:
    """The host on the other machine."""
    async with kept(opened(remote_settings)) as bench:
        yield bench


def rules_of(machine: FakeGZ, zone: Zone) -> list[str]:
    """Firewall rules that name a zone."""
    return [one["rule"] for one in fwadm.load(machine.root).values() if zone.uuid in one["rule"]]


def orders(machine: FakeGZ) -> list[dict[str, Any]]:
    """Faults on order."""
    found: list[dict[str, Any]] = json.loads((machine.root / "faults.json").read_text())
    return found


async def test_a_zone_lives_its_life_over_ssh(bench: Bench) -> None:
    assert await bench.run("sh", "-c", "echo out; echo err >&2; exit 3") == (3, b"out\n", b"err\n")
    zone = await bench.start(*SLEEP)
    assert await bench.exec(zone, "echo", "hello") == (0, b"hello\n", b"")
    stopped = await bench.zones.stop(zone.uuid, signal=None, timeout_s=DEADLINE_S)
    assert stopped.exit_status == 7
    assert await bench.logs(zone) == b""


async def test_a_lost_connection_loses_no_state(
    bench: Bench,
    server: Sshd,
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    stays, ends = await bench.start(*SLEEP), await bench.start(*SLEEP)
    server.drop()
    global_zone.run("vmadm", "stop", ends.uuid)
    stopped = await bench.seen(ZoneChange.STOPPED, ends)
    assert stopped.zone.exit_status == 7
    assert bench.zones.get(stays.uuid).is_running
    assert (await bench.exec(stays, "echo", "hello"))[1] == b"hello\n"


async def test_rules_that_could_not_be_removed_go_when_the_machine_is_heard_of_again(
    bench: Bench,
    remote_settings: Settings,
    server: Sshd,
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    port = PublishedPort(zone_port=80, host_ip="127.0.0.1")
    spec = zone_spec(
        *SLEEP,
        instance=remote_settings.name,
        kernel_version="4.10",
        runtime={"published_ports": [port]},
    )
    nic = bench.host.networks.lease(ZoneUUID(spec.uuid), NetworkRequest("bridge"))
    spec = spec.model_copy(update={"nics": (nic,), "firewall_enabled": True})
    zone = await bench.zones.start((await bench.zones.create(spec)).uuid)
    assert rules_of(global_zone, zone)
    global_zone.fault("fwadm", "delete", stderr="cannot lock", times=1)
    global_zone.run("vmadm", "stop", zone.uuid)
    await bench.seen(ZoneChange.STOPPED, zone)
    async with asyncio.timeout(DEADLINE_S):
        while orders(global_zone)[0]["times"]:  # noqa: ASYNC110 (files of another process)
            await asyncio.sleep(0.02)
    assert rules_of(global_zone, zone)
    server.drop()
    async with asyncio.timeout(DEADLINE_S):
        while rules_of(global_zone, zone):  # noqa: ASYNC110 (files of another process)
            await asyncio.sleep(0.02)


async def test_a_machine_that_is_away_is_said_to_be_so_and_found_again(
    bench: Bench, server: Sshd
) -> None:
    zone = await bench.create(*SLEEP)
    server.stop()
    assert bench.zones.list() == [zone]
    with pytest.raises(Unavailable):
        await bench.zones.start(zone.uuid)
    server.resume()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                started = await bench.zones.start(zone.uuid)
                break
            except Unavailable:
                await asyncio.sleep(0.1)
    assert started.is_running


async def test_a_creation_that_the_connection_cut_off_leaves_nothing(
    bench: Bench,
    server: Sshd,
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    global_zone.fault("vmadm", "create", hang=True, times=1)
    async with asyncio.TaskGroup() as group:
        creation = group.create_task(_refused(bench))
        await _hangs(global_zone)
        server.drop()
    assert isinstance(creation.result(), (Unavailable, CommandFailed))
    assert not bench.zones.list()
    zone = await bench.create("true", alias="web")
    found = json.loads(global_zone.run("vmadm", "lookup", "-j").stdout)
    mine = [vm["uuid"] for vm in found if vm.get("tags") == zone.spec.tags]
    assert mine == [zone.uuid]


async def _refused(bench: Bench) -> APIError:
    try:
        await bench.create("true", alias="web")
    except APIError as error:
        return error
    raise AssertionError("it was made")


async def _hangs(machine: FakeGZ) -> None:
    """Until the fault has struck."""
    async with asyncio.timeout(DEADLINE_S):
        while json.loads((machine.root / "faults.json").read_text())[0]["times"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
