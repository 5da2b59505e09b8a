"""Published ports: reached from where they should be, and nobody's twice."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import pytest

from dockerapi.errors import APIError, InvalidParameter, NotSupported
from gateway.hosts.linux import netlink, nft
from gateway.hosts.linux.network import LinuxNetworks
from gateway.zones.host import NetworkRequest
from gateway.zones.metadata import PublishedPort
from tests.gateway.hosts.linux.netlab import (
    HOST,
    OUTSIDE,
    answering,
    ask,
    content,
    new_uuid,
    rules_of,
    there,
    within,
    zone,
)

pytestmark = pytest.mark.root


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
    with pytest.raises(APIError, match="all ports are allocated"):
        await zone(networks, span)


async def test_what_cannot_be_published_is_refused(networks: LinuxNetworks) -> None:
    with pytest.raises(NotSupported, match="sctp"):
        await zone(networks, PublishedPort(protocol="sctp", zone_port=80, host_port=1))
    with pytest.raises(InvalidParameter, match="invalid host IP"):
        await zone(networks, PublishedPort(zone_port=80, host_ip="x", host_port=1))


async def test_a_restarted_zone_is_reached_at_once(networks: LinuxNetworks) -> None:
    port = PublishedPort(zone_port=80, host_port=8080)
    uuid, nic, path = await zone(networks, port)
    with answering(path, 80):
        ask(None, "127.0.0.1", 8080)
    await networks.disconnect(uuid)
    attachment = await networks.connect(uuid, [nic], [port], endpoint="x")
    with answering(attachment.netns_path, 80):
        before = _sent_again()
        ask(None, "127.0.0.1", 8080)
        assert _sent_again() == before, "the first packet went to the former port"


def _sent_again() -> int:
    """TCP segments that this network namespace had to send a second time."""
    rows = [line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()]
    names, values = (row for row in rows if row[0] == "Tcp:")
    return int(values[names.index("RetransSegs")])


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
