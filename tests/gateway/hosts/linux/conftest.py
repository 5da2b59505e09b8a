"""A machine of its own for each test of networks: a namespace with nothing but loopback."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from gateway.hosts.linux import netlink, netns
from gateway.hosts.linux.network import LinuxNetworks
from tests.gateway.hosts.linux.netlab import (
    HOST,
    LIBC,
    NEWNET,
    OUTSIDE,
    POOLS,
)


@pytest.fixture
def machine() -> Iterator[netlink.RouteSocket]:
    """A network namespace in which this thread, and all it starts, is alone: the machine of the test."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert LIBC.unshare(NEWNET) == 0
    route = netlink.RouteSocket()
    try:
        route.execute(netlink.link_up(1))
        yield route
    finally:
        route.close()
        assert LIBC.setns(home, NEWNET) == 0
        os.close(home)


@pytest.fixture
def opened(machine: netlink.RouteSocket, tmp_path: Path) -> Callable[..., LinuxNetworks]:
    def make(name: str = "t", **settings: object) -> LinuxNetworks:
        given: dict[str, object] = {
            "bridge": f"{name}0",
            "bip": "",
            "pools": POOLS,
            "state": tmp_path / name / "state",
            "exec_root": tmp_path / name / "run",
        }
        return LinuxNetworks.open(name=name, **(given | settings))  # type: ignore[arg-type]

    return make


@pytest.fixture
async def networks(opened: Callable[..., LinuxNetworks]) -> AsyncIterator[LinuxNetworks]:
    networks = opened()
    await networks.adopt({})
    yield networks
    await networks.close(remove=True)


@pytest.fixture
def outside(machine: netlink.RouteSocket) -> Iterator[int]:
    """Another machine that has no route to the zones; the descriptor of its namespace."""
    namespace = netns._make()
    machine.execute(
        netlink.new_veth(
            "out0", index=9000, bridge=0, netns_fd=namespace.fd, peer="eth0", peer_index=50,
            mac="02:00:00:00:00:02", mtu=None,
        )
    )  # fmt: skip
    index = socket.if_nametoindex("out0")
    machine.execute(netlink.add_address(index, IPv4Interface(f"{HOST}/24")), netlink.link_up(index))
    namespace.route.execute(
        netlink.add_address(50, IPv4Interface(f"{OUTSIDE}/24")), netlink.link_up(50)
    )
    yield namespace.fd
    namespace.close()
