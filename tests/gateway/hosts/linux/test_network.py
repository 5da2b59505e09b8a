"""Zones' networks with real packets, in a network namespace of the test's own."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from dockerapi.errors import APIError, InvalidParameter, NotFound
from gateway.hosts.ipam import mac_of
from gateway.hosts.linux import netlink, nft
from gateway.hosts.linux.forwarding import probe
from gateway.hosts.linux.network import LinuxNetworks
from gateway.zones.host import NetworkRequest
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic
from tests.gateway.hosts.linux.netlab import (
    HOST,
    LIBC,
    OUTSIDE,
    answering,
    ask,
    content,
    new_uuid,
    rules_of,
    there,
    wait_until,
    within,
    zone,
)

pytestmark = pytest.mark.root


async def test_a_zone_reaches_the_gateway_and_another_zone(networks: LinuxNetworks) -> None:
    _, first, first_ns = await zone(networks)
    _, second, second_ns = await zone(networks)
    gateway = networks.get("bridge").gateway
    assert first.ip is not None
    assert second.ip is not None
    with answering(first_ns, 80), answering("/proc/thread-self/ns/net", 81):
        assert ask(second_ns, first.ip, 80) == second.ip
        assert ask(None, first.ip, 80) == gateway
        assert ask(first_ns, gateway, 81) == first.ip


async def test_a_nic_is_as_dockerd_would_make_it(networks: LinuxNetworks) -> None:
    uuid, nic, path = await zone(networks)
    assert (nic.ip, nic.netmask, nic.gateway) == ("10.201.0.2", "255.255.255.0", "10.201.0.1")
    assert nic.mac == "02:42:0a:c9:00:02"

    def look() -> tuple[list[netlink.Link], list[tuple[int, IPv4Interface]], str]:
        route = netlink.RouteSocket()
        try:
            mac = Path("/proc/thread-self/net/arp").read_text()
            return route.links(), route.addresses(), mac
        finally:
            route.close()

    links, addresses, _ = within(path, look)
    assert {link.name: link.up for link in links if link.name in ("lo", "eth0")} == {
        "lo": True,
        "eth0": True,
    }
    assert IPv4Interface("10.201.0.2/24") in [address for _, address in addresses]
    v6 = within(path, lambda: Path("/proc/thread-self/net/if_inet6").read_text())
    assert "eth0" not in v6
    await networks.disconnect(uuid)


async def test_without_a_nic_there_is_only_loopback(networks: LinuxNetworks) -> None:
    uuid = new_uuid()
    attachment = await networks.connect(uuid, [], [PublishedPort(zone_port=80)], endpoint="x")
    assert attachment.ports == ()
    assert attachment.netns_path == networks.netns_path(uuid)
    with answering(attachment.netns_path, 80):
        assert ask(attachment.netns_path, "127.0.0.1", 80) == "127.0.0.1"


async def test_a_zone_reaches_the_outside_under_the_hosts_address(
    networks: LinuxNetworks, outside: int
) -> None:
    _, _, path = await zone(networks)
    with answering(outside, 443):
        assert ask(path, OUTSIDE, 443) == HOST


async def test_the_outside_and_other_instances_reach_no_zone_directly(
    networks: LinuxNetworks, opened: Callable[..., LinuxNetworks], outside: int
) -> None:
    other = opened("u")
    try:
        _, nic, path = await zone(networks)
        _, _, other_ns = await zone(other)
        assert other.get("bridge").subnet != networks.get("bridge").subnet
        route = netlink.RouteSocket
        within(outside, lambda: _add_route(route()))
        assert nic.ip is not None
        with answering(path, 80):
            for place in (outside, other_ns):
                with pytest.raises(TimeoutError):
                    ask(place, nic.ip, 80, timeout_s=0.4)
    finally:
        await other.close(remove=True)


def _frame(nic: Nic, to: str, port: int, text: bytes) -> bytes:
    """An Ethernet frame with a UDP datagram from a zone to its gateway's MAC."""
    assert nic.ip is not None
    assert nic.mac is not None
    assert nic.gateway is not None
    udp = struct.pack("!HHHH", 4000, port, 8 + len(text), 0) + text
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    head += IPv4Address(nic.ip).packed + IPv4Address(to).packed
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    macs = bytes.fromhex(mac_of(IPv4Address(nic.gateway)).replace(":", ""))
    return macs + bytes.fromhex(nic.mac.replace(":", "")) + b"\x08\x00" + head + udp


async def test_a_zone_cannot_reach_what_listens_on_the_hosts_loopback(
    networks: LinuxNetworks,
) -> None:
    """A forged frame to 127.0.0.1, as route_localnet would let it in; a second one shows when to stop waiting."""
    _, nic, path = await zone(networks)
    gateway = networks.get("bridge").gateway
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as open_to_all,
    ):
        service.bind(("127.0.0.1", 5300))
        open_to_all.bind((gateway, 5301))
        open_to_all.settimeout(2)

        def forge() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind(("eth0", 0))
                raw.send(_frame(nic, "127.0.0.1", 5300, b"attack"))
                raw.send(_frame(nic, gateway, 5301, b"done"))

        within(path, forge)
        assert open_to_all.recv(100) == b"done"
        service.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.recv(100)


async def test_a_child_in_a_mount_namespace_of_its_own_sees_namespaces_come_and_go(
    networks: LinuxNetworks,
) -> None:
    """Else the runtime could not join a namespace, and its copy of the mount would keep it alive."""
    with ThreadPoolExecutor(1) as child:

        def enter() -> None:
            assert LIBC.unshare(0x20000) == 0

        def mounted(path: str) -> bool:
            return path in content("/proc/thread-self/mountinfo")

        child.submit(enter).result()
        uuid, _, path = await zone(networks)
        assert child.submit(mounted, path).result()
        await networks.disconnect(uuid)
        assert not child.submit(mounted, path).result()


def _add_route(route: netlink.RouteSocket) -> None:
    route.execute(netlink.default_route(IPv4Address(HOST), 50))
    route.close()


async def test_nothing_is_left_after_disconnect(
    networks: LinuxNetworks, machine: netlink.RouteSocket
) -> None:
    before = rules_of("t")
    uuid, _, path = await zone(
        networks,
        PublishedPort(zone_port=80, host_port=8080),
        PublishedPort(zone_port=81, host_ip="127.0.0.1", host_port=8081),
    )
    assert rules_of("t") != before
    await networks.disconnect(uuid)
    await networks.disconnect(uuid)
    assert rules_of("t") == before
    assert not there(path)
    assert path not in content("/proc/self/mountinfo")
    wait_until(lambda: not [link for link in machine.links() if link.kind == "veth"])
    for port in (8080, 8081):
        socket.create_server(("127.0.0.1", port)).close()


async def test_a_bridge_that_somebody_removed_is_an_error_and_leaves_nothing(
    networks: LinuxNetworks, machine: netlink.RouteSocket
) -> None:
    machine.execute(netlink.delete_link(socket.if_nametoindex("t0")))
    uuid = new_uuid()
    nic = networks.lease(uuid, NetworkRequest("bridge"))
    with pytest.raises(APIError, match="create veth"):
        await networks.connect(uuid, [nic], [PublishedPort(zone_port=80)], endpoint="x")
    assert not there(networks.netns_path(uuid))


async def test_a_cancelled_connect_leaves_nothing(networks: LinuxNetworks) -> None:
    uuid = new_uuid()
    nic = networks.lease(uuid, NetworkRequest("bridge"))
    before = rules_of("t")
    connecting = asyncio.timeout(0)
    with pytest.raises(TimeoutError):
        async with connecting:
            await networks.connect(
                uuid, [nic], [PublishedPort(zone_port=80, host_port=8080)], endpoint="x"
            )
    await networks.disconnect(new_uuid())
    assert not there(networks.netns_path(uuid))
    assert rules_of("t") == before


async def test_what_a_client_asks_of_a_nic_is_given_or_refused(networks: LinuxNetworks) -> None:
    nic = networks.lease(new_uuid(), NetworkRequest("bridge", mac="02:AB:00:00:00:01"))
    assert nic.mac == "02:ab:00:00:00:01"
    with pytest.raises(InvalidParameter, match="invalid MAC address: 1:2"):
        networks.lease(new_uuid(), NetworkRequest("bridge", mac="1:2"))
    with pytest.raises(InvalidParameter, match="user specified IP address is supported on user"):
        networks.lease(new_uuid(), NetworkRequest("bridge", address="10.201.0.9"))
    with pytest.raises(InvalidParameter, match="network host has no addresses"):
        networks.lease(new_uuid(), NetworkRequest("host"))


async def test_networks_are_found_by_name_id_and_prefix(networks: LinuxNetworks) -> None:
    bridge = networks.get("bridge")
    assert networks.get(bridge.id) == networks.get(bridge.id[:12]) == bridge
    assert [n.driver for n in networks.list()] == ["bridge", "host", "null"]
    with pytest.raises(NotFound, match="network nope not found"):
        networks.get("nope")


async def test_a_dropping_forward_policy_is_reported_and_left_alone(
    networks: LinuxNetworks,
) -> None:
    rules = nft.Nft()
    try:
        rules.run(
            "table ip filter { chain DOCKER-USER { }\n chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER\n }\n }"
        )
        before = rules.run("list table ip filter")
        await networks._run(networks._look_around)
        (warning,) = networks.warnings()
        assert "table ip filter chain FORWARD" in warning
        assert "iptables -I DOCKER-USER -i t0 -j ACCEPT" in warning
        assert rules.run("list table ip filter") == before
        assert "ip filter FORWARD" in probe()["forward policy"]
        rules.run("add rule ip filter DOCKER-USER iifname t0 counter accept")
        rules.run("add rule ip filter DOCKER-USER oifname t0 counter accept")
        await networks._run(networks._look_around)
        assert networks.warnings() == ()
    finally:
        rules.close()


def test_probe_tells_the_version_of_the_library(machine: netlink.RouteSocket) -> None:
    facts = probe()
    assert facts["libnftables"].startswith("1.")
    assert facts["ip_forward"] in ("0", "1")
