"""The Linux host as a whole: nothing left behind, nothing lost when the gateway is killed."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dockerapi.errors import APIError, NotRunning
from gateway.hosts.command import Spawner
from gateway.hosts.linux import nft, overlay, probes, records
from gateway.hosts.linux.host import LinuxHost
from gateway.settings import Settings
from gateway.zones.host import AttachStreams, Process, Zone, ZoneChange
from gateway.zones.metadata import decode
from gateway.zones.spec import ZoneState
from tests.contract.conftest import (
    DEADLINE_S,
    Bench,
    collect,
    kept,
    linux_settings,
    opened,
    zone_spec,
)
from tests.gateway.hosts.linux.netlab import LIBC

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[4]


@pytest.fixture
def settings(short_dir: Path) -> Settings:
    return linux_settings(short_dir)


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    async with kept(opened(settings)) as bench:
        yield bench


def _traces(settings: Settings, zones: list[Zone]) -> list[str]:
    """Files, mounts, cgroups and processes that belong to zones."""
    uuids = [str(zone.uuid) for zone in zones]
    # os.walk passes over what is removed meanwhile; layers are not looked into.
    roots = (settings.data_root, settings.exec_root)
    names = [f"{folder}/{name}" for root in roots for folder, folders, files in os.walk(root)
             for name in folders + files if "/layer" not in folder]  # fmt: skip
    found = [name for name in names if any(uuid in name for uuid in uuids)]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines()
              if any(uuid in line for uuid in uuids)]  # fmt: skip
    found += [str(p) for p in Path("/sys/fs/cgroup").glob(f"*/{settings.name}/*/")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        found += [text for uuid in uuids if uuid in text]
    found += [p.name for p in Path("/sys/class/net").iterdir()
              if (p / "brport").exists() and settings.name in str((p / "master").resolve())]  # fmt: skip
    return found


async def _no_trace(settings: Settings, zones: list[Zone]) -> None:
    def gone() -> bool:
        return not _traces(settings, zones)

    try:
        await asyncio.to_thread(_wait_for, gone, 2)
    except TimeoutError:
        pytest.fail(f"left: {_traces(settings, zones)}")


def _wait_for(condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
    """What another process does cannot be waited for by an event."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.02)


async def test_zones_that_were_run_and_deleted_leave_nothing(
    bench: Bench, settings: Settings
) -> None:
    async def one(number: int) -> Zone:
        zone = await bench.create("sh", "-c", f"echo {number}; exit {number}", network=True)
        stdio = await bench.zones.attach(zone.uuid, AttachStreams())
        await bench.zones.start(zone.uuid)
        assert await collect(stdio) == (b"%d\n" % number, b"")
        event = await bench.seen(ZoneChange.STOPPED, zone)
        assert event.zone.exit_status == number
        await bench.zones.delete(zone.uuid)
        return zone

    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(one(number)) for number in range(20)]
    await _no_trace(settings, [run.result() for run in runs])


def _below_the_unified_mount() -> list[str]:
    """What is in the folder that the unified hierarchy of a hybrid layout covers."""
    unified = Path("/sys/fs/cgroup/unified")
    if not unified.is_mount():
        return []
    assert LIBC.unshare(0x20000) == 0
    assert LIBC.mount(None, b"/sys/fs/cgroup", None, 0x4000 | 1 << 18, None) == 0
    assert LIBC.umount2(os.fsencode(unified), 2) == 0
    return [path.name for path in unified.iterdir()]


async def test_the_place_of_the_unified_hierarchy_stays_as_it_was(
    bench: Bench, settings: Settings
) -> None:
    zone = await bench.create("true")
    await bench.zones.start(zone.uuid)
    await bench.seen(ZoneChange.STOPPED, zone)
    # In a thread that ends with its mount namespace.
    with ThreadPoolExecutor(1) as alone:
        assert settings.name not in alone.submit(_below_the_unified_mount).result()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_an_exec_in_a_zone_that_has_just_ended_is_refused(bench: Bench) -> None:
    """Before conmon has said that it did."""
    zone = await bench.start("sleep", "1000")
    conmon_pid = _parent(zone.pid)
    os.kill(conmon_pid, signal.SIGSTOP)
    try:
        process = os.pidfd_open(zone.pid)
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [], 10)
        os.close(process)
        with pytest.raises(NotRunning):
            await bench.zones.exec(zone.uuid, Process(("true",)))
    finally:
        os.kill(conmon_pid, signal.SIGCONT)
    await bench.seen(ZoneChange.STOPPED, zone)


async def test_a_start_that_fails_leaves_nothing_but_the_zone(
    bench: Bench, settings: Settings
) -> None:
    zone = await bench.create("nosuch", network=True)
    for _ in range(3):
        with pytest.raises(APIError):
            await bench.zones.start(zone.uuid)
    await bench.zones.delete(zone.uuid)
    await _no_trace(settings, [zone])


def test_a_chroot_is_told_from_a_machine(tmp_path: Path) -> None:
    def inside() -> bool:
        assert LIBC.unshare(0x200) == 0  # a root of this thread's own
        os.chroot(tmp_path)
        return probes.in_chroot()

    assert not probes.in_chroot()
    (tmp_path / "proc").mkdir()
    assert LIBC.mount(b"/proc", os.fsencode(tmp_path / "proc"), None, 0x1000, None) == 0
    try:
        with ThreadPoolExecutor(1) as alone:
            assert alone.submit(inside).result()
    finally:
        LIBC.umount2(os.fsencode(tmp_path / "proc"), 2)


async def test_an_opening_that_fails_leaves_no_mount_bridge_or_rule(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "_PLACES", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.RaisesGroup(pytest.RaisesExc(APIError, match="conmon is not installed")):
        async with asyncio.TaskGroup() as group:
            await LinuxHost.open(settings, group)
    assert not [
        target for target, _ in overlay.mounts() if str(settings.data_root.parent) in target
    ]
    assert settings.bridge_name not in [name for _, name in socket.if_nameindex()]
    rules = nft.Nft()
    assert settings.name not in rules.run("list tables")
    rules.close()


# Runs until it is killed; says by a file which zones it started.
_DOOMED = """
import asyncio, json, sys
from pathlib import Path
from tests.contract.conftest import opened
from gateway.hosts.linux import conmon
from gateway.settings import Settings

async def never(*_):
    await asyncio.Event().wait()

async def main():
    settings = Settings.model_validate_json(sys.argv[1])
    async with opened(settings) as bench:
        async def up(alias, *argv, **values):
            zone = await bench.create(*argv, alias=alias, network=True, **values)
            await bench.zones.start(zone.uuid)
        await up("counts", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
        await up("cat", "cat", open_stdin=True)
        await up("ends", "sh", "-c", "until test -e /tmp/go; do sleep 0.02; done; echo bye; exit 5")
        await up("always", "sh", "-c", "until test -e /tmp/go; do sleep 0.02; done; exit 6", restart_policy="always")
        await up("unwatched", "sleep", "1000")
        await bench.create("true", alias="created")
        conmon.start = never
        halfway = await bench.create("sh", "-c", "exit 7", alias="halfway", network=True)
        start = asyncio.ensure_future(bench.zones.start(halfway.uuid))
        while not bench.zones.get(halfway.uuid).is_running:
            await asyncio.sleep(0.01)
        record = bench.zones._register.zones[next(z.uuid for z in bench.zones.list() if z.spec.alias == "unwatched")].record
        done = {z.spec.alias: z.root for z in bench.zones.list()} | {"conmon": record.conmon_pid}
        Path(sys.argv[2]).write_text(json.dumps(done))
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def _killed_gateway(settings: Settings, folder: Path) -> None:
    """Start one in a process of its own, let it start zones, kill it; then let some zones end."""
    told = folder / "told"
    spawner = Spawner()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", _DOOMED, settings.model_dump_json(), str(told)]
    child = await spawner.spawn(argv, env=env, fds={2: 2})
    try:
        await asyncio.to_thread(_wait_for, lambda: child.ended or _whole(told))
    finally:
        child.kill()
        await child.wait()
        spawner.close()
    zones = json.loads(await asyncio.to_thread(told.read_text))
    os.kill(zones["conmon"], signal.SIGKILL)
    for alias in ("ends", "always"):
        await asyncio.to_thread(Path(f"{zones[alias]}/tmp/go").touch)
    await asyncio.to_thread(_wait_for, lambda: _count(settings.exec_root / "exits") == 2)


def _whole(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return False


def _count(folder: Path) -> int:
    return len([path for path in folder.iterdir() if "." not in path.name])


async def test_a_killed_gateway_finds_its_zones_again(settings: Settings, tmp_path: Path) -> None:
    await _killed_gateway(settings, tmp_path)
    async with opened(settings) as bench:
        zones = {zone.spec.alias: zone for zone in bench.zones.list()}
        await bench.seen(ZoneChange.STOPPED, zones["halfway"])
        zones = {zone.spec.alias: zone for zone in bench.zones.list()}
        assert {alias: (zone.state, zone.exit_status) for alias, zone in zones.items()} == {
            "counts": (ZoneState.RUNNING, 0),
            "cat": (ZoneState.RUNNING, 0),
            "ends": (ZoneState.STOPPED, 5),
            "always": (ZoneState.RESTARTING, 6),
            "unwatched": (ZoneState.STOPPED, 137),
            "created": (ZoneState.STOPPED, 0),
            "halfway": (ZoneState.STOPPED, 7),
        }
        await bench.seen(ZoneChange.STARTED, zones["always"])
        stdio = await bench.zones.attach(zones["cat"].uuid, AttachStreams(stdin=True))
        await stdio.write(b"hello\n")
        async with asyncio.timeout(DEADLINE_S):
            async for _, data in stdio.output():
                assert data == b"hello\n"
                break
        assert await bench.exec(zones["counts"], "echo", "again") == (0, b"again\n", b"")
        await bench.zones.stop(zones["counts"].uuid, signal=None, timeout_s=0)
        numbers = (await bench.logs(zones["counts"])).split()
        assert numbers == [b"%d" % n for n in range(1, len(numbers) + 1)]
        assert await bench.logs(zones["ends"]) == b"bye\n"
        for zone in zones.values():
            await bench.zones.delete(zone.uuid)
        await _no_trace(settings, list(zones.values()))


async def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    spec = zone_spec("sh", "-c", "echo ü", alias="web", env=("A=ß",))
    zone = Zone(spec, decode(spec.internal_metadata), ZoneState.RUNNING, 1, pid=7, error="no")
    record = records.Record.of(zone)
    records.write(tmp_path, record)
    assert records.read(tmp_path) == record
