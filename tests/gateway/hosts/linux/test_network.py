"""Zones' networks with real packets, in a network namespace of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import re
import socket
import struct
import sys
import threading
import time
import uuid as uuids
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TypeVar

import pytest

from dockerapi.errors import APIError, CommandFailed, InvalidParameter, NotFound, NotSupported
from gateway.hosts.command import Spawner, run
from gateway.hosts.ipam import mac_of
from gateway.hosts.linux import netlink, netns, nft
from gateway.hosts.linux.forwarding import probe
from gateway.hosts.linux.network import LinuxNetworks
from gateway.settings import AddressPool
from gateway.zones.host import NetworkRequest
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneUUID

pytestmark = pytest.mark.root

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_NEWNET = 0x40000000
_ROOT = Path(__file__).parents[4]
POOLS = (AddressPool(base="10.201.0.0/16", size=24),)
OUTSIDE = "198.51.100.2"
HOST = "198.51.100.1"


@pytest.fixture
def machine() -> Iterator[netlink.RouteSocket]:
    """A network namespace in which this thread, and all it starts, is alone: the machine of the test."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert _libc.unshare(_NEWNET) == 0
    route = netlink.RouteSocket()
    try:
        route.execute(netlink.link_up(1))
        yield route
    finally:
        route.close()
        assert _libc.setns(home, _NEWNET) == 0
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


def there(path: str | Path) -> bool:
    return Path(path).exists()


def content(path: str) -> str:
    return Path(path).read_text()


def new_uuid() -> ZoneUUID:
    return ZoneUUID(str(uuids.uuid4()))


def within(path: str | int, act: Callable[[], T]) -> T:
    """Do something in another network namespace: a thread goes there and ends; its sockets stay there."""
    results: list[T] = []
    errors: list[BaseException] = []

    def go() -> None:
        fd = os.open(path, os.O_RDONLY) if isinstance(path, str) else path
        try:
            assert _libc.setns(fd, _NEWNET) == 0
            results.append(act())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            errors.append(error)
        finally:
            if isinstance(path, str):
                os.close(fd)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def answering(
    path: str | int, port: int, kind: socket.SocketKind = socket.SOCK_STREAM
) -> Iterator[None]:
    """A server in a namespace that tells each client from which address it came."""

    def listen() -> socket.socket:
        server = socket.socket(socket.AF_INET, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            server.listen(16)
        return server

    server = within(path, listen)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                if kind == socket.SOCK_DGRAM:
                    data, peer = server.recvfrom(100)
                    if data == b"stop":
                        return
                    server.sendto(peer[0].encode(), peer)
                    continue
                connection, peer = server.accept()
                with connection:
                    connection.sendall(peer[0].encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        if kind == socket.SOCK_STREAM:
            server.shutdown(socket.SHUT_RDWR)
        else:
            own = server.getsockname()[1]
            within(path, lambda: _send(b"stop", own))
        thread.join()
        server.close()


def _send(data: bytes, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(data, ("127.0.0.1", port))


def ask(
    path: str | int | None,
    address: str,
    port: int,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    timeout_s: float = 2.0,
) -> str:
    """Who the server says we are.  OSError if it cannot be reached."""

    def go() -> str:
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(timeout_s)
            client.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                client.send(b"?")
            return client.recv(100).decode()

    return go() if path is None else within(path, go)


async def zone(
    networks: LinuxNetworks, *ports: PublishedPort, endpoint: str = "web"
) -> tuple[ZoneUUID, Nic, str]:
    uuid = new_uuid()
    nic = networks.lease(uuid, NetworkRequest("bridge"))
    attachment = await networks.connect(uuid, [nic], ports, endpoint=endpoint)
    return uuid, nic, attachment.netns_path


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


async def test_a_published_port_is_reached_from_everywhere(
    networks: LinuxNetworks, outside: int
) -> None:
    _, _nic, path = await zone(networks, PublishedPort(zone_port=80, host_port=8080))
    _, _other, other_ns = await zone(networks)
    gateway = networks.get("bridge").gateway
    with answering(path, 80):
        assert ask(None, "127.0.0.1", 8080) == gateway, "no zone can answer 127.0.0.1 itself"
        assert ask(None, gateway, 8080) == gateway
        assert ask(None, HOST, 8080) == HOST
        assert ask(outside, HOST, 8080) == OUTSIDE
        assert ask(other_ns, gateway, 8080) == gateway
        assert ask(other_ns, HOST, 8080) == gateway
        assert ask(path, HOST, 8080) == gateway, "hairpin: a zone reaches its own port"
        assert ask(path, gateway, 8080) == gateway


async def test_a_published_udp_port_is_reached(networks: LinuxNetworks, outside: int) -> None:
    udp = PublishedPort(protocol="udp", zone_port=53, host_port=5353)
    _uuid, _nic, path = await zone(networks, udp)
    with answering(path, 53, socket.SOCK_DGRAM):
        assert ask(outside, HOST, 5353, socket.SOCK_DGRAM) == OUTSIDE
        assert ask(None, "127.0.0.1", 5353, socket.SOCK_DGRAM) == "10.201.0.1"


async def test_a_udp_client_finds_the_zone_that_took_over_the_port(
    networks: LinuxNetworks, outside: int
) -> None:
    udp = PublishedPort(protocol="udp", zone_port=53, host_port=5353)

    def open_client() -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(2)
        client.connect((HOST, 5353))
        return client

    with within(outside, open_client) as client:
        first, _, first_ns = await zone(networks, udp)
        with answering(first_ns, 53, socket.SOCK_DGRAM):
            client.send(b"?")
            assert client.recv(100).decode() == OUTSIDE
        await networks.disconnect(first)
        _, _, second_ns = await zone(networks, udp)
        with answering(second_ns, 53, socket.SOCK_DGRAM):
            client.send(b"?")
            assert client.recv(100).decode() == OUTSIDE


async def ask6(port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> str:
    """By ::1, from this process: its event loop has to serve meanwhile."""

    def go() -> str:
        with socket.socket(socket.AF_INET6, kind) as client:
            client.settimeout(2)
            client.connect(("::1", port))
            if kind == socket.SOCK_DGRAM:
                client.send(b"?")
            return client.recv(100).decode()

    return await asyncio.to_thread(go)


@pytest.mark.parametrize("address", ["", "::", "::1"])
async def test_a_published_port_is_reached_by_ipv6(networks: LinuxNetworks, address: str) -> None:
    tcp = PublishedPort(zone_port=80, host_ip=address, host_port=8080)
    udp = PublishedPort(protocol="udp", zone_port=53, host_ip=address, host_port=8080)
    uuid, _, path = await zone(networks, tcp, udp)
    with answering(path, 80), answering(path, 53, socket.SOCK_DGRAM):
        assert await ask6(8080) == "10.201.0.1"
        assert await ask6(8080, socket.SOCK_DGRAM) == "10.201.0.1"
        with pytest.raises(APIError, match=r"port is already allocated"):
            await zone(networks, tcp)
    await networks.disconnect(uuid)
    with pytest.raises(ConnectionRefusedError):
        await ask6(8080)


async def test_a_connection_by_ipv6_ends_with_the_zones_network(networks: LinuxNetworks) -> None:
    uuid, _, path = await zone(networks, PublishedPort(zone_port=80, host_port=8080))
    listening = within(path, lambda: socket.create_server(("0.0.0.0", 80)))
    listening.setblocking(False)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        with listening:
            reader, writer = await asyncio.open_connection("::1", 8080)
            connection, _peer = await loop.sock_accept(listening)
            with connection:
                writer.write(b"to the zone")
                writer.write_eof()
                assert await loop.sock_recv(connection, 100) == b"to the zone"
                await loop.sock_sendall(connection, b"after its end of input")
                assert await reader.read(100) == b"after its end of input"
                await networks.disconnect(uuid)
                assert await reader.read(100) == b""
        writer.close()


async def test_a_port_that_another_program_has_in_ipv6_is_taken(networks: LinuxNetworks) -> None:
    with (
        socket.create_server(("::", 8090), family=socket.AF_INET6),
        pytest.raises(APIError, match=r"failed to bind host port for \[::\]:8090:.*in use"),
    ):
        await zone(networks, PublishedPort(zone_port=80, host_port=8090))
    socket.create_server(("0.0.0.0", 8090)).close()


async def test_a_port_bound_to_an_address_is_not_reached_by_another(
    networks: LinuxNetworks, outside: int
) -> None:
    local = PublishedPort(zone_port=80, host_ip="127.0.0.1", host_port=8081)
    _, _, path = await zone(networks, local)
    with answering(path, 80):
        assert ask(None, "127.0.0.1", 8081) == "10.201.0.1"
        with pytest.raises(ConnectionRefusedError):
            ask(outside, HOST, 8081)
        with pytest.raises(ConnectionRefusedError):
            ask(None, HOST, 8081)


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
            assert _libc.unshare(0x20000) == 0

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


async def test_a_port_that_one_of_ours_has_is_already_allocated(networks: LinuxNetworks) -> None:
    port = PublishedPort(zone_port=80, host_port=8080)
    await zone(networks, port)
    uuid = new_uuid()
    nic = networks.lease(uuid, NetworkRequest("bridge"))
    before = rules_of("t")
    with pytest.raises(
        APIError,
        match=r"^driver failed programming external connectivity on endpoint late \([0-9a-f]{64}\): "
        r"Bind for 0\.0\.0\.0:8080 failed: port is already allocated$",
    ) as raised:
        await networks.connect(
            uuid, [nic], [PublishedPort(zone_port=81, host_port=8081), port], endpoint="late"
        )
    assert raised.value.status == 500
    assert not there(networks.netns_path(uuid))
    assert rules_of("t") == before
    await zone(networks, PublishedPort(zone_port=81, host_port=8081))


async def test_a_port_of_another_program_says_address_already_in_use(
    networks: LinuxNetworks,
) -> None:
    with socket.create_server(("0.0.0.0", 8090)):
        uuid = new_uuid()
        nic = networks.lease(uuid, NetworkRequest("bridge"))
        text = f"failed to bind host port for 0.0.0.0:8090:{nic.ip}:80/tcp: address already in use"
        with pytest.raises(APIError, match=text):
            await networks.connect(
                uuid, [nic], [PublishedPort(zone_port=80, host_port=8090)], endpoint="x"
            )
    await networks.connect(uuid, [nic], [PublishedPort(zone_port=80, host_port=8090)], endpoint="x")
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("0.0.0.0", 8090)).close()


async def test_an_address_the_machine_does_not_have_cannot_be_published(
    networks: LinuxNetworks,
) -> None:
    with pytest.raises(APIError, match="cannot assign requested address"):
        await zone(networks, PublishedPort(zone_port=80, host_ip="192.0.2.77", host_port=8091))


async def test_ranges_and_ephemeral_ports_take_the_first_that_is_free(
    networks: LinuxNetworks,
) -> None:
    span = PublishedPort(zone_port=80, host_port=9000, host_port_end=9001)
    taken = []
    for _ in range(2):
        uuid = new_uuid()
        nic = networks.lease(uuid, NetworkRequest("bridge"))
        attachment = await networks.connect(
            uuid, [nic], [span, PublishedPort(zone_port=81)], endpoint="x"
        )
        taken.append([port.host_port for port in attachment.ports])
        assert [port.host_ip for port in attachment.ports] == ["0.0.0.0", "::"] * 2
    assert [ports[0] for ports in taken] == [ports[1] for ports in taken] == [9000, 9001]
    assert all(ports[2] == ports[3] for ports in taken)
    first, last = map(int, content("/proc/sys/net/ipv4/ip_local_port_range").split())
    assert all(first <= ports[2] <= last for ports in taken)
    with pytest.raises(APIError, match="port is already allocated"):
        await zone(networks, span)


async def test_what_cannot_be_published_is_refused(networks: LinuxNetworks) -> None:
    with pytest.raises(NotSupported, match="sctp"):
        await zone(networks, PublishedPort(protocol="sctp", zone_port=80, host_port=1))
    with pytest.raises(InvalidParameter, match="invalid host IP"):
        await zone(networks, PublishedPort(zone_port=80, host_ip="x", host_port=1))


def rules_of(name: str) -> str:
    rules = nft.Nft()
    try:
        return rules.run(f"list table inet zonegate_{name}")
    finally:
        rules.close()


def wait_until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "nothing changed in time"
        threading.Event().wait(0.01)


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


async def test_a_restarted_zone_is_reached_at_once(networks: LinuxNetworks) -> None:
    port = PublishedPort(zone_port=80, host_port=8080)
    uuid, nic, path = await zone(networks, port)
    with answering(path, 80):
        ask(None, "127.0.0.1", 8080)
    await networks.disconnect(uuid)
    attachment = await networks.connect(uuid, [nic], [port], endpoint="x")
    with answering(attachment.netns_path, 80):
        began = time.monotonic()
        ask(None, "127.0.0.1", 8080)
        assert time.monotonic() - began < 0.5, "the first packet went to the former port"


async def test_twenty_at_once_are_all_right(networks: LinuxNetworks) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(zone(networks, PublishedPort(zone_port=80, host_port=7000 + n)))
            for n in range(20)
        ]
    zones = [task.result() for task in tasks]
    assert len({nic.ip for _, nic, _ in zones}) == 20
    for number, (_, _, path) in enumerate(zones):
        with answering(path, 80):
            ask(None, "127.0.0.1", 7000 + number)
    async with asyncio.TaskGroup() as group:
        for uuid, _, _ in zones:
            group.create_task(networks.disconnect(uuid))
    assert not [path for _, _, path in zones if there(path)]


async def test_rules_that_somebody_flushed_are_made_anew(
    networks: LinuxNetworks, machine: netlink.RouteSocket
) -> None:
    first, _, path = await zone(networks, PublishedPort(zone_port=80, host_port=8080))
    before = rules_of("t")
    rules = nft.Nft()
    rules.run("flush ruleset")
    rules.close()
    second, _, _ = await zone(networks, PublishedPort(zone_port=80, host_port=8081))
    with answering(path, 80):
        ask(None, "127.0.0.1", 8080)
    await networks.disconnect(second)
    rules = nft.Nft()
    rules.run("flush ruleset")
    rules.close()
    await networks._run(networks._look_around)
    assert without_handles(rules_of("t")) == without_handles(before)
    await networks.disconnect(first)


def without_handles(listing: str) -> str:
    return re.sub(r'"handle": \d+', "", listing)


async def test_a_bridge_that_somebody_removed_is_an_error_and_leaves_nothing(
    networks: LinuxNetworks, machine: netlink.RouteSocket
) -> None:
    machine.execute(netlink.delete_link(socket.if_nametoindex("t0")))
    uuid = new_uuid()
    nic = networks.lease(uuid, NetworkRequest("bridge"))
    with pytest.raises(APIError, match="failed to set up container networking: create veth"):
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


async def test_without_a_default_network_there_is_nothing_to_lease(
    opened: Callable[..., LinuxNetworks],
) -> None:
    networks = opened(bridge="none")
    assert [network.name for network in networks.list()] == ["host", "none"]
    with pytest.raises(NotFound, match="network bridge not found"):
        networks.lease(new_uuid(), NetworkRequest("bridge"))
    await networks.connect(new_uuid(), [], [], endpoint="x")
    await networks.close(remove=True)


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
