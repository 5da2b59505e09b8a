"""What networks leave behind, take over and take away."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from dockerapi.errors import APIError, CommandFailed, InvalidParameter, NotFound
from gateway.hosts.command import Spawner, run
from gateway.hosts.linux import netlink, nft
from gateway.hosts.linux.network import LinuxNetworks
from gateway.zones.host import NetworkRequest
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic
from tests.gateway.hosts.linux.netlab import (
    answering,
    ask,
    content,
    new_uuid,
    there,
    wait_until,
    zone,
)

pytestmark = pytest.mark.root

_ROOT = Path(__file__).parents[4]


async def test_live_zones_outlast_the_gateway_and_the_rest_is_removed(
    opened: Callable[..., LinuxNetworks], machine: netlink.RouteSocket
) -> None:
    first = opened()
    port = PublishedPort(zone_port=80, host_port=8080)
    kept, nic, path = await zone(first, port)
    _gone, gone_nic, gone_ns = await zone(first, PublishedPort(zone_port=80, host_port=8082))
    subnet, ids = first.get("bridge").subnet, [n.id for n in first.list()]
    await first.close(remove=False)

    second = opened()
    try:
        assert (second.get("bridge").subnet, [n.id for n in second.list()]) == (subnet, ids)
        taken = port.model_copy(update={"host_ip": "0.0.0.0"})
        with answering(path, 80):
            ask(None, "127.0.0.1", 8080)
            second.learn(kept, [nic])
            await second.adopt({kept: ([nic], [taken])})
            ask(None, "127.0.0.1", 8080)
        assert not there(gone_ns)
        wait_until(lambda: len([li for li in machine.links() if li.kind == "veth"]) == 1)
        with pytest.raises(APIError, match="already allocated"):
            await zone(second, port)
        _, fresh, _ = await zone(second, PublishedPort(zone_port=80, host_port=8082))
        assert fresh.ip not in (nic.ip, gone_nic.ip)
        await second.disconnect(kept)
        await zone(second, port)
    finally:
        await second.close(remove=True)


_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from gateway.hosts.linux.network import LinuxNetworks
from gateway.settings import AddressPool
from gateway.zones.host import NetworkRequest
from gateway.zones.metadata import PublishedPort

async def main(root, *uuids):
    networks = LinuxNetworks.open(
        name="t", bridge="t0", bip="", pools=[AddressPool(base="10.201.0.0/16", size=24)],
        state=Path(root) / "t/state", exec_root=Path(root) / "t/run",
    )
    await networks.adopt({})
    for number, uuid in enumerate(uuids):
        nic = networks.lease(uuid, NetworkRequest("bridge"))
        port = PublishedPort(zone_port=80, host_ip="0.0.0.0", host_port=8080 + number)
        await networks.connect(uuid, [nic], [port], endpoint="x")
        print(nic.model_dump_json(), file=open(Path(root) / uuid, "w"), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_after_kill_9_the_next_one_finds_everything_in_order(
    opened: Callable[..., LinuxNetworks], machine: netlink.RouteSocket, tmp_path: Path
) -> None:
    kept, gone = new_uuid(), new_uuid()
    spawner = Spawner()
    program = [sys.executable, "-c", _KILLED, str(tmp_path), kept, gone]
    with pytest.raises(CommandFailed) as raised:
        await run(
            program, timeout_s=20, spawner=spawner, env=dict(os.environ, PYTHONPATH=str(_ROOT))
        )
    spawner.close()
    assert raised.value.exit_status == -9, raised.value.detail
    nic = Nic.model_validate_json(content(str(tmp_path / kept)))
    networks = opened()
    networks.learn(kept, [nic])
    port = PublishedPort(zone_port=80, host_ip="0.0.0.0", host_port=8080)
    with answering(networks.netns_path(kept), 80):
        assert ask(None, "127.0.0.1", 8080) == nic.gateway
        await networks.adopt({kept: ([nic], [port])})
        assert ask(None, "127.0.0.1", 8080) == nic.gateway
        with pytest.raises(ConnectionRefusedError):
            ask(None, "127.0.0.1", 8081)
    assert not there(networks.netns_path(gone))
    _, fresh, _ = await zone(networks)
    assert fresh.ip != nic.ip
    wait_until(lambda: len([link for link in machine.links() if link.kind == "veth"]) == 2)
    await networks.close(remove=True)
    assert str(tmp_path) not in content("/proc/self/mountinfo")


async def test_removal_takes_everything_away(
    opened: Callable[..., LinuxNetworks], machine: netlink.RouteSocket, tmp_path: Path
) -> None:
    networks = opened()
    await zone(networks, PublishedPort(zone_port=80, host_port=8080))
    await networks.close(remove=True)
    wait_until(lambda: [link.name for link in machine.links() if link.kind] == [])
    rules = nft.Nft()
    tables = json.loads(rules.run("list tables"))["nftables"]
    rules.close()
    assert not [row for row in tables if "table" in row]
    assert str(tmp_path) not in content("/proc/self/mountinfo")
    assert not there(tmp_path / "t" / "run" / "netns")


async def test_a_bridge_of_somebody_else_is_used_and_left(
    opened: Callable[..., LinuxNetworks], machine: netlink.RouteSocket
) -> None:
    machine.execute(netlink.new_bridge("lan0", "02:00:00:00:00:09"))
    index = socket.if_nametoindex("lan0")
    machine.execute(netlink.add_address(index, IPv4Interface("10.77.0.1/24")))
    with pytest.raises(InvalidParameter, match=r"10\.77\.0\.1"):
        opened(bridge="lan0", bip="10.78.0.1/24")
    networks = opened(bridge="lan0")
    _, nic, path = await zone(networks)
    assert nic.ip == "10.77.0.2"
    with answering(path, 80):
        ask(None, nic.ip, 80)
    await networks.close(remove=True)
    assert netlink.first_by_name(machine.links(), "lan0") is not None


async def test_a_subnet_in_use_on_the_machine_is_passed_over(
    opened: Callable[..., LinuxNetworks], machine: netlink.RouteSocket
) -> None:
    machine.execute(netlink.add_address(1, IPv4Interface("10.201.0.9/23")))
    networks = opened()
    assert networks.get("bridge").subnet == "10.201.2.0/24"
    await networks.close(remove=True)


async def test_a_subnet_that_was_given_up_may_be_gone_when_one_comes_back(
    opened: Callable[..., LinuxNetworks],
) -> None:
    first = opened()
    await first.close(remove=True)
    first = opened()
    assert first.get("bridge").subnet == "10.201.0.0/24", "kept over a restart"
    await first.close(remove=True)
    other = opened("u")
    assert other.get("bridge").subnet == "10.201.0.0/24"
    first = opened()
    assert first.get("bridge").subnet == "10.201.1.0/24"
    await first.close(remove=True)
    await other.close(remove=True)


async def test_without_a_default_network_there_is_nothing_to_lease(
    opened: Callable[..., LinuxNetworks],
) -> None:
    networks = opened(bridge="none")
    assert [network.name for network in networks.list()] == ["host", "none"]
    with pytest.raises(NotFound, match="network bridge not found"):
        networks.lease(new_uuid(), NetworkRequest("bridge"))
    await networks.connect(new_uuid(), [], [], endpoint="x")
    await networks.close(remove=True)


def test_an_opening_that_fails_takes_its_bridge_away_again(
    opened: Callable[..., LinuxNetworks], machine: netlink.RouteSocket, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        opened(exec_root=tmp_path / "file")
    assert [link.name for link in machine.links()] == ["lo"]
