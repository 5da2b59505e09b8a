"""SmartOSZones on a machine where other things happen: other people's zones, faults, gaps, another life of the gateway."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dockerapi.errors import (
    APIError,
    CommandFailed,
    Conflict,
    InvalidParameter,
    NotFound,
    NotRunning,
    NotSupported,
)
from gateway.hosts.smartos import runs, vmadm, zones
from gateway.settings import Settings
from gateway.zones.host import (
    AttachStreams,
    LogQuery,
    NetworkPlan,
    NetworkRequest,
    Process,
    ZoneChange,
)
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Filesystem, Nic, ZoneState, ZoneUUID
from tests.contract.conftest import (  # noqa: F401 (fixtures)
    DEADLINE_S,
    IMAGE,
    Bench,
    exit_code,
    global_zone,
    kept,
    opened,
    smartos_settings,
    zone_spec,
)
from tests.fakes.globalzone import process
from tests.fakes.globalzone.process import FakeGZ

pytestmark = pytest.mark.root

SLEEP = ("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done")


@pytest.fixture
async def bench(smartos_settings: Settings) -> AsyncIterator[Bench]:  # noqa: F811
    """A host on a machine whose image is there."""
    async with kept(opened(smartos_settings)) as bench:
        yield bench


@pytest.fixture
def machine(bench: Bench, global_zone: FakeGZ) -> AsyncIterator[FakeGZ]:  # noqa: F811
    """The machine, without faults afterwards."""
    global_zone.clear_faults()
    yield global_zone
    global_zone.clear_faults()


def vms(machine: FakeGZ) -> dict[str, dict[str, Any]]:
    """Everything that vmadm knows."""
    found = json.loads(machine.run("vmadm", "lookup", "-j").stdout)
    return {vm["uuid"]: vm for vm in found}


def vm_of(machine: FakeGZ, uuid: str) -> dict[str, Any]:
    return vms(machine)[uuid]


def make(machine: FakeGZ, **values: Any) -> str:
    """A zone that an administrator makes by hand."""
    spec = zone_spec("sh", "-c", "sleep 1000", kernel_version="4.10").payload()
    spec = {**spec, "tags": {}, **values}
    done = machine.run("vmadm", "create", stdin=json.dumps(spec))
    assert done.returncode == 0, done.stderr
    return str(spec["uuid"])


async def until(holds: Any) -> None:
    """Wait for what comes of itself, with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110 (files and other processes)
            await asyncio.sleep(0.02)


# -- other people's zones --------------------------------------------------------------------------


@pytest.mark.parametrize("tags", [{}, {"zonegate": "another"}])
async def test_a_zone_of_somebody_else_is_not_there(
    bench: Bench, machine: FakeGZ, tags: dict[str, str]
) -> None:
    uuid = ZoneUUID(make(machine, tags=tags, alias="theirs"))
    try:
        before = vm_of(machine, uuid)
        assert not bench.zones.list()
        for call in (
            bench.zones.start(uuid),
            bench.zones.stop(uuid, signal=None, timeout_s=0),
            bench.zones.restart(uuid, signal=None, timeout_s=0),
            bench.zones.kill(uuid, "SIGKILL"),
            bench.zones.pause(uuid),
            bench.zones.unpause(uuid),
            bench.zones.delete(uuid),
            bench.zones.rename(uuid, "ours"),
            bench.zones.attach(uuid, AttachStreams()),
            bench.zones.exec(uuid, Process(("true",))),
            bench.zones.resize(uuid, 1, 1),
            bench.zones.root_size(uuid),
        ):
            with pytest.raises(NotFound):
                await call
        for act in (
            lambda: bench.zones.get(uuid),
            lambda: bench.zones.logs(uuid, LogQuery()),
            lambda: bench.zones.expect_exec(uuid, ""),
        ):
            with pytest.raises(NotFound):
                act()
        await until(lambda: bench.zones._register.is_taken(uuid))
        spec = zone_spec("true", kernel_version="4.10").model_copy(update={"uuid": uuid})
        with pytest.raises(Conflict):
            await bench.zones.create(spec)
        assert vm_of(machine, uuid) == before
    finally:
        machine.run("vmadm", "delete", uuid)
    assert not [event for event in bench.events if event.zone.uuid == uuid]


async def test_what_an_administrator_does_to_a_zone_is_seen(bench: Bench, machine: FakeGZ) -> None:
    zone = await bench.create(*SLEEP, alias="web")
    machine.run("vmadm", "start", zone.uuid)
    await bench.seen(ZoneChange.STARTED, zone)
    machine.run("vmadm", "update", zone.uuid, "alias=other")
    await bench.seen(ZoneChange.UPDATED, zone)
    assert bench.zones.get(zone.uuid).spec.alias == "other"
    await bench.create("true", alias="web")
    machine.run("vmadm", "stop", zone.uuid)
    stopped = await bench.seen(ZoneChange.STOPPED, zone)
    assert stopped.zone.exit_status == 7
    machine.run("vmadm", "delete", zone.uuid)
    await bench.seen(ZoneChange.DELETED, zone)
    with pytest.raises(NotFound):
        bench.zones.get(zone.uuid)
    await bench.create("true", alias="other")


async def test_a_zone_that_loses_our_tag_is_gone(bench: Bench, machine: FakeGZ) -> None:
    zone = await bench.create("true")
    machine.run("vmadm", "update", zone.uuid, stdin='{"remove_tags": ["zonegate"]}')
    await bench.seen(ZoneChange.DELETED, zone)
    assert not bench.zones.list()
    assert zone.uuid in vms(machine)
    machine.run("vmadm", "delete", zone.uuid)


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
async def test_a_create_that_fails_leaves_nothing(
    bench: Bench, machine: FakeGZ, after: bool
) -> None:
    machine.fault("vmadm", "create", stderr="cannot create: out of space", times=1, after=after)
    spec = zone_spec("true", alias="web", kernel_version="4.10", instance=_instance(bench))
    with pytest.raises(CommandFailed, match="out of space"):
        await bench.zones.create(spec)
    assert not bench.zones.list()
    await until(lambda: spec.uuid not in vms(machine))
    await bench.create("true", alias="web")


def _instance(bench: Bench) -> str:
    return str(bench._given["instance"])


async def test_a_create_that_hangs_is_given_up(
    bench: Bench, machine: FakeGZ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vmadm, "_CREATE_S", 0.3)
    machine.fault("vmadm", "create", hang=True, times=1)
    with pytest.raises(CommandFailed, match="no end within"):
        await bench.create("true", alias="web")
    monkeypatch.undo()
    await bench.create("true", alias="web")


async def test_a_bad_payload_is_said_in_vmadms_words(bench: Bench, machine: FakeGZ) -> None:
    with pytest.raises(InvalidParameter, match="kernel_version"):
        await bench.create("true", kernel_version=None)


async def test_a_start_that_fails_leaves_its_reason(bench: Bench, machine: FakeGZ) -> None:
    zone = await bench.create(*SLEEP)
    machine.fault("vmadm", "start", stderr="zone could not be booted", times=1)
    with pytest.raises(CommandFailed, match="could not be booted"):
        await bench.zones.start(zone.uuid)
    failed = bench.zones.get(zone.uuid)
    assert (failed.state, failed.start_exit_code) == (ZoneState.STOPPED, 128)
    assert "could not be booted" in failed.error
    again = await bench.zones.start(zone.uuid)
    assert (again.state, again.error) == (ZoneState.RUNNING, "")


async def test_a_start_that_hangs_is_given_up_and_the_zone_is_down(
    bench: Bench, machine: FakeGZ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vmadm, "_START_S", 0.5)
    zone = await bench.create(*SLEEP)
    machine.fault("vmadm", "start", hang=True, times=1)
    with pytest.raises(CommandFailed, match="no end within"):
        await bench.zones.start(zone.uuid)
    assert bench.zones.get(zone.uuid).state is ZoneState.STOPPED
    monkeypatch.undo()
    assert (await bench.zones.start(zone.uuid)).is_running


async def test_a_start_that_failed_though_the_zone_runs_is_undone(
    bench: Bench, machine: FakeGZ
) -> None:
    zone = await bench.create(*SLEEP)
    machine.fault("vmadm", "start", stderr="something else went wrong", times=1, after=True)
    with pytest.raises(CommandFailed, match="something else"):
        await bench.zones.start(zone.uuid)
    assert bench.zones.get(zone.uuid).state is ZoneState.STOPPED
    assert vm_of(machine, zone.uuid)["state"] == "stopped"
    assert ZoneChange.STARTED not in bench.changes(zone)


async def test_a_command_that_cannot_be_started_is_not_restarted(
    bench: Bench, machine: FakeGZ
) -> None:
    zone = await bench.create("nosuch", restart_policy="always")
    with pytest.raises(APIError, match="executable file not found"):
        await bench.zones.start(zone.uuid)
    assert bench.zones.get(zone.uuid).start_exit_code == 127
    assert not vm_of(machine, zone.uuid)["autoboot"]


async def test_a_busy_dataset_is_destroyed_later(
    bench: Bench, machine: FakeGZ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zones, "_DELETE_DELAY_S", 0.01)
    zone = await bench.create("true")
    machine.fault("vmadm", "delete", stderr="cannot destroy: dataset is busy", times=2)
    await bench.zones.delete(zone.uuid)
    assert zone.uuid not in vms(machine)


async def test_a_delete_that_fails_keeps_the_zone(bench: Bench, machine: FakeGZ) -> None:
    zone = await bench.create("true", alias="web")
    machine.fault("vmadm", "delete", stderr="indestructible_zoneroot is set", times=1)
    with pytest.raises(CommandFailed, match="indestructible"):
        await bench.zones.delete(zone.uuid)
    assert bench.zones.get(zone.uuid).spec.alias == "web"
    await bench.zones.delete(zone.uuid)


async def test_a_stop_that_hangs_says_so_and_another_works(
    bench: Bench, machine: FakeGZ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vmadm, "_STOP_MARGIN_S", 0.2)
    zone = await bench.start(*SLEEP)
    machine.fault("vmadm", "stop", hang=True, times=1)
    with pytest.raises(CommandFailed, match="no end within"):
        await bench.zones.stop(zone.uuid, signal=None, timeout_s=1)
    monkeypatch.undo()
    stopped = await bench.zones.stop(zone.uuid, signal=None, timeout_s=5)
    assert stopped.exit_status == 7


# -- gaps and other lives --------------------------------------------------------------------------


def _event_programs() -> list[int]:
    """`vmadm events` that this process has started."""
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"events" in words and int(parent) == os.getpid():
            found.append(int(path.name))
    return found


async def test_what_happened_in_a_gap_of_the_events_is_told(bench: Bench, machine: FakeGZ) -> None:
    first, second = await bench.start(*SLEEP), await bench.create("true")
    machine.fault("vmadm", "events", stderr="no vminfod", times=2)
    for pid in _event_programs():
        os.kill(pid, signal.SIGKILL)
    await until(lambda: "no vminfod" in str(bench.host.facts.warnings))
    machine.run("vmadm", "stop", first.uuid)
    machine.run("vmadm", "delete", second.uuid)
    stopped = await bench.seen(ZoneChange.STOPPED, first)
    assert stopped.zone.exit_status == 7
    assert not bench.host.facts.warnings
    await bench.seen(ZoneChange.DELETED, second)
    assert [zone.uuid for zone in bench.zones.list()] == [first.uuid]


async def test_an_action_does_not_depend_on_an_event(
    bench: Bench, machine: FakeGZ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_SEEN_TIMEOUT_S", 0.2)
    zone = await bench.create(*SLEEP)
    machine.fault("vmadm", "events", hang=True)
    for pid in _event_programs():
        os.kill(pid, signal.SIGKILL)
    assert (await bench.zones.start(zone.uuid)).is_running
    await bench.zones.delete(zone.uuid)


async def test_another_life_of_the_gateway_finds_its_zones(
    smartos_settings: Settings,  # noqa: F811
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    async with kept(opened(smartos_settings, keep=True)) as bench:
        up = await bench.start(*SLEEP, alias="up", restart_policy="unless-stopped")
        ends = await bench.start(*SLEEP, alias="ends")
        done = await bench.start("sh", "-c", "exit 3", alias="done")
        await bench.seen(ZoneChange.STOPPED, done)
        done = bench.zones.get(done.uuid)
        failed = await bench.create("nosuch", alias="failed")
        with pytest.raises(APIError):
            await bench.zones.start(failed.uuid)
        failed = bench.zones.get(failed.uuid)
        new = await bench.create("true", alias="new")
    global_zone.run("vmadm", "stop", ends.uuid)
    async with kept(opened(smartos_settings)) as bench:
        names = [zone.spec.alias for zone in bench.zones.list()]
        assert names == ["up", "ends", "done", "failed", "new"]
        found = bench.zones.get(up.uuid)
        assert found.is_running
        assert (found.started_ns, found.pid, found.root) == (up.started_ns, up.pid, up.root)
        assert found.metadata.restart_policy == "unless-stopped"
        assert bench.zones.get(done.uuid).started_ns == done.started_ns
        assert exit_code(bench.zones.get(done.uuid)) == 3
        assert bench.zones.get(failed.uuid).error == failed.error
        assert bench.zones.get(new.uuid).started_ns == 0
        over = bench.zones.get(ends.uuid)
        assert (over.state, over.exit_status) == (ZoneState.STOPPED, 7)
        assert over.finished_ns > over.started_ns
        code, out, _ = await bench.exec(found, "echo", "still here")
        assert (code, out) == (0, b"still here\n")
        stopped = await bench.zones.stop(up.uuid, signal=None, timeout_s=DEADLINE_S)
        assert stopped.manually_stopped


async def test_a_wait_for_an_attach_that_a_kill_cut_off_is_ended(
    smartos_settings: Settings,  # noqa: F811
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    async with kept(opened(smartos_settings, keep=True)) as bench:
        up = await bench.create(*SLEEP, alias="up")
        down = await bench.create(*SLEEP, alias="down")
    until_ms = str(int((time.time() + 60) * 1000))
    for zone in (up, down):
        changes = {"set_internal_metadata": {"docker:wait_for_attach": until_ms}}
        assert (
            global_zone.run("vmadm", "update", zone.uuid, stdin=json.dumps(changes)).returncode == 0
        )
    global_zone.run("vmadm", "start", up.uuid)
    async with kept(opened(smartos_settings)) as bench:
        code, out, _ = await bench.exec(bench.zones.get(up.uuid), "echo", "begun")
        assert (code, out) == (0, b"begun\n")
        started = await bench.zones.start(down.uuid)
        code, out, _ = await bench.exec(started, "echo", "begun")
        assert (code, out) == (0, b"begun\n")


async def test_a_creation_that_a_kill_cut_off_is_taken_away(
    smartos_settings: Settings,  # noqa: F811
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    async with kept(opened(smartos_settings)):
        pass
    uuid = make(global_zone, tags={"zonegate": smartos_settings.name})
    never_made = "6f1a1c5e-0d3b-4a53-9f6e-2f8f6f0f3a12"
    for noted in (uuid, never_made):
        (smartos_settings.data_root / "zones" / f"{noted}.json").write_text('{"creating": true}')
    async with kept(opened(smartos_settings)) as bench:
        assert not bench.zones.list()
        await until(lambda: uuid not in vms(global_zone))
        await until(lambda: not list((smartos_settings.data_root / "zones").iterdir()))


def half_made(machine: FakeGZ, settings: Settings, nic: Nic) -> str:
    """A zone with this nic, as a kill in the middle of its creation leaves it."""
    tags = {"zonegate": settings.name}
    uuid = make(machine, tags=tags, nics=[nic.model_dump(exclude_none=True)])
    (settings.data_root / "zones" / f"{uuid}.json").write_text('{"creating": true}')
    return uuid


async def test_a_network_can_be_removed_that_a_half_made_zone_was_on(
    smartos_settings: Settings,  # noqa: F811
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    """At once after a kill, while the zone is still on its way out."""
    async with kept(opened(smartos_settings)) as bench:
        made = await bench.host.networks.create(NetworkPlan("web"))
        nic = bench.host.networks.lease(ZoneUUID(str(uuid4())), NetworkRequest("web"))
    uuid = half_made(global_zone, smartos_settings, nic)
    async with kept(opened(smartos_settings)) as bench:
        await bench.host.networks.remove(made.id)
        assert uuid not in vms(global_zone)


async def test_an_address_that_a_half_made_zone_still_has_is_waited_for(
    smartos_settings: Settings,  # noqa: F811
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    """A kill can lose the lease, and vmadm gives no address twice."""
    async with kept(opened(smartos_settings)) as bench:
        nic = bench.host.networks.lease(ZoneUUID(str(uuid4())), NetworkRequest("bridge"))
    uuid = half_made(global_zone, smartos_settings, nic)
    async with kept(opened(smartos_settings)) as bench:
        zone = await bench.create("true", nics=(nic,))
        assert zone.spec.nics[0].ip == nic.ip
        assert uuid not in vms(global_zone)


async def test_the_note_of_a_zone_that_went_unseen_goes_at_the_next_opening(
    smartos_settings: Settings,  # noqa: F811
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    """A kill between `vmadm delete` and the end of our own removal leaves it; those of others stay."""
    notes = smartos_settings.data_root / "zones"
    async with kept(opened(smartos_settings, keep=True)) as bench:
        zone = await bench.start("true")
        await bench.seen(ZoneChange.STOPPED, zone)
        gone = "6f1a1c5e-0d3b-4a53-9f6e-2f8f6f0f3a11"
        (notes / f"{gone}.json").write_text((notes / f"{zone.uuid}.json").read_text())
    async with kept(opened(smartos_settings)) as bench:
        assert [path.stem for path in notes.iterdir()] == [zone.uuid]
        assert [kept_zone.uuid for kept_zone in bench.zones.list()] == [zone.uuid]


async def test_restarts_are_vmadmds_and_end_with_a_kill(bench: Bench, machine: FakeGZ) -> None:
    zone = await bench.start("sh", "-c", "sleep 0.1; exit 1", restart_policy="always")
    restarting = await bench.seen(ZoneChange.STOPPED, zone, times=2)
    assert restarting.zone.state is ZoneState.RESTARTING
    assert restarting.zone.restart_count == 2
    stopped = await bench.zones.stop(zone.uuid, signal=None, timeout_s=1)
    assert (stopped.state, stopped.manually_stopped) == (ZoneState.STOPPED, True)
    assert not vm_of(machine, zone.uuid)["autoboot"]


async def test_an_opening_and_a_list_cost_the_same_for_many_zones(
    smartos_settings: Settings,  # noqa: F811
    global_zone: FakeGZ,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gateway.hosts.smartos.local import LocalGlobalZone  # noqa: PLC0415

    started: list[tuple[str, ...]] = []
    for name in ("run", "spawn"):
        real = getattr(LocalGlobalZone, name)

        def counted(self: Any, argv: Any, *, _real: Any = real, **values: Any) -> Any:
            started.append(tuple(argv))
            return _real(self, argv, **values)

        monkeypatch.setattr(LocalGlobalZone, name, counted)
    costs = []
    async with kept(opened(smartos_settings, keep=True)):
        pass
    for number in (1, 12):
        async with kept(opened(smartos_settings, keep=True)) as bench:
            for _ in range(number):
                await bench.create("true")
        started.clear()
        async with kept(opened(smartos_settings, keep=True)) as bench:
            costs.append(len(started))
            assert len(bench.zones.list()) >= number
            assert len(started) == costs[-1]
    async with kept(opened(smartos_settings)):
        assert costs[0] == costs[1]


# -- the rest --------------------------------------------------------------------------------------


async def test_a_removal_does_not_wait_for_a_stop_that_does(bench: Bench) -> None:
    zone = await bench.start("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        stopping = group.create_task(bench.zones.stop(zone.uuid, signal=None, timeout_s=300))
        await until(lambda: bench.zones.get(zone.uuid).manually_stopped)
        await bench.zones.delete(zone.uuid)
        assert exit_code(await stopping) == 137
    assert not bench.zones.list()


async def test_pause_is_refused_with_a_reason(bench: Bench) -> None:
    zone = await bench.create(*SLEEP)
    with pytest.raises(NotRunning):
        await bench.zones.pause(zone.uuid)
    await bench.zones.start(zone.uuid)
    with pytest.raises(NotSupported, match="vmadm cannot freeze a zone"):
        await bench.zones.pause(zone.uuid)
    with pytest.raises(Conflict, match="is not paused"):
        await bench.zones.unpause(zone.uuid)


async def test_stop_with_no_time_is_a_kill_at_once(bench: Bench) -> None:
    zone = await bench.start("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    async with asyncio.timeout(5):
        stopped = await bench.zones.stop(zone.uuid, signal=None, timeout_s=0)
    assert stopped.exit_status == -signal.SIGKILL


async def test_a_published_port_leads_into_the_zone_also_for_the_next_life(
    smartos_settings: Settings,  # noqa: F811
) -> None:
    port = 20000 + secrets.randbelow(20000)
    async with kept(opened(smartos_settings, keep=True)) as bench:
        zone = await bench.start(
            "sh", "-c", "while :; do echo hello | nc -l -p 80; done",
            network=True,
            runtime={"published_ports": [PublishedPort(zone_port=80, host_ip="127.0.0.1", host_port=port)]},
        )  # fmt: skip
        assert [taken.host_port for taken in zone.ports] == [port]
        assert await _hello(port) == b"hello\n"
    async with kept(opened(smartos_settings)) as bench:
        found = bench.zones.get(zone.uuid)
        assert [taken.host_port for taken in found.ports] == [port]
        assert await _hello(port) == b"hello\n"
        other = await bench.create(
            *SLEEP,
            network=True,
            runtime={"published_ports": [PublishedPort(zone_port=80, host_ip="127.0.0.1", host_port=port)]},
        )  # fmt: skip
        with pytest.raises(APIError, match="port is already allocated"):
            await bench.zones.start(other.uuid)
        assert bench.zones.get(other.uuid).state is ZoneState.STOPPED
        stopped = await bench.zones.stop(zone.uuid, signal=None, timeout_s=0)
        assert stopped.ports == ()
        await bench.zones.start(other.uuid)


async def _hello(port: int) -> bytes:
    """What the zone says on its published port; its program needs a moment."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                data = await reader.read()
                writer.close()
            except OSError:
                data = b""
            if data:
                return data
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("runtime", [{"network": "host"}, {"pid": "zone:X"}, {"ipc": "zone:X"}])
async def test_namespaces_are_not_shared(bench: Bench, runtime: dict[str, str]) -> None:
    with pytest.raises(NotSupported, match="namespace is not supported on SmartOS"):
        await bench.create("true", runtime=runtime)
    assert not bench.zones.list()


async def test_a_bind_is_made_where_asked_for(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "made" / "here"
    zone = await bench.create(
        "true",
        filesystems=[Filesystem(source=str(source), target="/mnt")],
        runtime={"mount_options": {"/mnt": ("create",)}},
    )
    assert source.is_dir()
    assert zone.spec.filesystems[0].source == str(source)


async def test_a_number_that_the_image_does_not_know_is_not_root(bench: Bench) -> None:
    code, out, _ = await bench.run("sh", "-c", "id -u; id -g", user="1234:4321")
    assert (code, out) == (0, b"1234\n4321\n")


async def test_a_number_is_not_root_where_dockerinit_takes_it_for_a_name(
    short_dir: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("gz")
    fake = await asyncio.to_thread(lambda: process.start(folder, accounts="name"))
    try:
        for name in ("PATH", "ZONEGATE_FAKE_GZ"):
            monkeypatch.setenv(name, fake.environment[name])
        settings = fake.settings(data_root=short_dir / "data", exec_root=short_dir / "run")
        async with opened(settings) as bench:
            for user in ("1234:4321", "33:1234"):
                code, out, _ = await bench.run("sh", "-c", "echo $(id -u):$(id -g)", user=user)
                assert (code, out.decode()) == (0, f"{user}\n")
    finally:
        await asyncio.to_thread(fake.stop)


async def test_a_number_is_not_root_where_a_mount_hides_its_entry(
    bench: Bench, tmp_path: Path
) -> None:
    over = [Filesystem(source=str(tmp_path), target="/etc")]
    zone = await bench.create("id", "-u", user="1234", filesystems=over)
    with pytest.raises(InvalidParameter, match="mounted over the container's /etc/passwd"):
        await bench.zones.start(zone.uuid)
    assert not bench.zones.get(zone.uuid).is_running


async def test_the_root_has_a_size(bench: Bench) -> None:
    zone = await bench.create("true")
    assert await bench.zones.root_size(zone.uuid) >= 0


async def test_a_full_zone_has_no_streams_and_no_signals_of_docker(bench: Bench) -> None:
    spec = zone_spec("true", kernel_version="4.10", instance=_instance(bench))
    values = spec.payload()
    values["internal_metadata"] = {
        ("zonegate:id" if key == "docker:id" else key): value
        for key, value in spec.internal_metadata.items()
        if not key.startswith("docker:") or key == "docker:id"
    }
    for key in ("docker", "restart_init"):
        values.pop(key, None)
    full = type(spec).model_validate_json(json.dumps(values))
    zone = await bench.zones.create(full)
    await bench.zones.start(zone.uuid)
    with pytest.raises(NotSupported, match="full zone of brand lx"):
        await bench.zones.attach(zone.uuid, AttachStreams())
    stopped = await bench.zones.stop(zone.uuid, signal=None, timeout_s=1)
    assert stopped.state is ZoneState.STOPPED
    await bench.zones.start(zone.uuid)
    await bench.zones.kill(zone.uuid, "SIGKILL")
    await bench.seen(ZoneChange.STOPPED, zone, times=2)


async def test_a_stop_signal_that_illumos_lacks_leaves_a_zone_that_can_be_stopped(
    bench: Bench,
) -> None:
    zone = await bench.start(*SLEEP, runtime={"stop_signal": "SIGRTMIN+3"})
    with pytest.raises(InvalidParameter, match=r"SIGRTMIN\+3"):
        await bench.zones.kill(zone.uuid, "SIGRTMIN+3")
    await bench.zones.kill(zone.uuid, "SIGCONT")
    stopped = await bench.zones.stop(zone.uuid, signal=None, timeout_s=5)
    assert exit_code(stopped) == 7
    await bench.zones.start(zone.uuid)
    await bench.zones.kill(zone.uuid, "SIGKILL")
    await bench.seen(ZoneChange.STOPPED, stopped)
