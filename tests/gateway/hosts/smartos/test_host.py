"""The SmartOS host opened and closed; what the machine says of itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockerapi.errors import APIError
from gateway.hosts.smartos import events, facts
from gateway.hosts.smartos.host import SmartOSHost
from gateway.hosts.smartos.network import SmartOSNetworks
from gateway.settings import Settings, SmartOSSettings
from tests.contract.conftest import global_zone, smartos_settings  # noqa: F401 (fixtures)
from tests.fakes.globalzone.process import FakeGZ

SYSINFO = {
    "Live Image": "20260305T000102Z",
    "System Type": "SunOS",
    "MiB of Memory": "32742",
    "CPU Total Cores": "8",
    "Hostname": "gz",
}


def test_what_the_machine_says_of_itself_is_shown() -> None:
    found = facts.facts(SYSINFO, Settings(backend="smartos"), resolvers=("8.8.8.8",))
    assert (found.platform, found.storage_driver) == ("smartos", "zfs")
    assert found.operating_system == "SmartOS 20260305T000102Z"
    assert (found.ncpu, found.mem_total) == (8, 32742 << 20)
    assert found.kernel_version == "4.10 (joyent_20260305T000102Z)"
    assert found.resolvers == ("8.8.8.8",)
    assert not found.limits["CPUSet"]


def test_a_machine_that_says_little_is_shown_too() -> None:
    found = facts.facts({}, Settings(backend="smartos"), resolvers=())
    assert (found.ncpu, found.mem_total, found.operating_system) == (1, 0, "SmartOS")


def test_linux_that_zones_show_is_that_of_the_settings() -> None:
    settings = Settings(backend="smartos", zone_defaults={"kernel_version": "5.10"})
    assert facts.facts({}, settings, resolvers=()).kernel_version == "5.10"


def test_name_servers_of_a_zone_are_the_machines_but_its_own() -> None:
    text = "# by dhcp\nsearch lan\nnameserver 127.0.0.1\nnameserver 10.0.0.2 # one\n nameserver 8.8.8.8\n"
    assert facts.resolvers(text) == ("10.0.0.2", "8.8.8.8")


async def _refused(settings: Settings) -> str:
    """Why it does not open."""
    async with asyncio.TaskGroup() as group:
        with pytest.raises(APIError) as caught:
            await SmartOSHost.open(settings, group)
    return caught.value.message


async def test_a_machine_that_is_no_smartos_is_named(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(short_dir))
    settings = Settings(
        backend="smartos", data_root=short_dir, smartos=SmartOSSettings(root=str(short_dir))
    )
    assert "this is no SmartOS machine: sysinfo is not there" in await _refused(settings)


@pytest.fixture
def machine(global_zone: FakeGZ) -> Iterator[FakeGZ]:  # noqa: F811
    """Without faults afterwards."""
    yield global_zone
    global_zone.clear_faults()


@pytest.mark.root
async def test_a_machine_whose_vminfod_is_down_is_named(
    smartos_settings: Settings,  # noqa: F811
    machine: FakeGZ,
) -> None:
    machine.fault("vmadm", "events", stderr="connect ECONNREFUSED 127.0.0.1:9090")
    words = await _refused(smartos_settings)
    assert words == (
        "local: vmadm tells no events, vminfod may not run: vmadm: connect ECONNREFUSED 127.0.0.1:9090"
    )
    assert not _children()


@pytest.mark.root
async def test_a_machine_that_does_not_answer_is_given_up(
    smartos_settings: Settings,  # noqa: F811
    machine: FakeGZ,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "_READY_S", 0.2)
    machine.fault("vmadm", "events", hang=True)
    assert (await _refused(smartos_settings)).endswith("no answer")
    assert not _children()


@pytest.mark.root
async def test_a_closed_host_leaves_no_process_of_its_own(
    smartos_settings: Settings,  # noqa: F811
    machine: FakeGZ,
) -> None:
    async with asyncio.TaskGroup() as group:
        host = await SmartOSHost.open(smartos_settings, group)
        assert len(_children()) == 1
        await host.close()
    assert not _children()


@pytest.mark.root
async def test_a_host_that_cannot_keep_notes_lets_go_of_its_networks(
    smartos_settings: Settings,  # noqa: F811
    machine: FakeGZ,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[SmartOSNetworks] = []
    close = SmartOSNetworks.close

    async def seen(self: SmartOSNetworks) -> None:
        await close(self)
        closed.append(self)

    monkeypatch.setattr(SmartOSNetworks, "close", seen)
    smartos_settings.data_root.mkdir(parents=True, exist_ok=True)
    (smartos_settings.data_root / "zones").write_text("no folder")
    async with asyncio.TaskGroup() as group:
        with pytest.raises(FileExistsError):
            await SmartOSHost.open(smartos_settings, group)
    assert len(closed) == 1
    assert not _children()


def _children() -> list[int]:
    """Programs of the global zone that this process still has."""
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            words = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == os.getpid() and b"/tests/fakes/bin/" in words:
            found.append(int(path.name))
    return found
