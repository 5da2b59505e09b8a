"""Published ports by proxy: straight, through a connection, kept over a restart, and nobody's twice."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from dockerapi.errors import APIError, NotSupported, Unavailable
from gateway.hosts.ports import ephemeral_range
from gateway.hosts.smartos.published import PublishedPorts, Way
from gateway.hosts.smartos.reach import on_link
from gateway.hosts.smartos.ssh import SSHGlobalZone
from gateway.settings import SmartOSSettings
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneUUID
from tests.fakes import sshd

NIC = Nic(nic_tag="admin", ip="127.0.0.2", netmask="255.0.0.0")
HERE = Way(IPv4Address("127.0.0.2"), None)
DEADLINE_S = 10.0


@pytest.fixture
async def published(tmp_path: Path) -> AsyncIterator[PublishedPorts]:
    found = PublishedPorts(tmp_path / "ports.json")
    yield found
    found.close()


def new_zone() -> ZoneUUID:
    return ZoneUUID(str(uuid.uuid4()))


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@asynccontextmanager
async def zone_server(host: str = "127.0.0.2") -> AsyncIterator[int]:
    """Echoes in capitals; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data.upper())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def said(host: str, port: int, text: bytes = b"hello") -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(text)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    return answer


async def test_a_port_leads_to_the_zone_by_both_families(published: PublishedPorts) -> None:
    number = free_port()
    async with zone_server() as port:
        asked = PublishedPort(zone_port=port, host_port=number)
        taken = await published.publish(new_zone(), NIC, [asked], HERE, "web")
        assert [one.host_ip for one in taken] == ["0.0.0.0", "::"]
        assert {one.host_port for one in taken} == {number}
        assert await said("127.0.0.1", number) == b"HELLO"
        assert await said("::1", number) == b"HELLO"
        assert await said("127.0.0.1", number, b"x" * 300_000) == b"X" * 300_000


async def test_without_a_number_one_is_chosen(published: PublishedPorts) -> None:
    asked = [PublishedPort(zone_port=80), PublishedPort(zone_port=81)]
    taken = await published.publish(new_zone(), NIC, asked, HERE, "web")
    numbers = {one.host_port for one in taken}
    assert len(numbers) == 2
    assert all(number in ephemeral_range() for number in numbers)


async def test_the_first_free_port_of_a_range_is_taken(published: PublishedPorts) -> None:
    first = free_port()
    asked = PublishedPort(
        zone_port=80, host_ip="127.0.0.1", host_port=first, host_port_end=first + 9
    )
    numbers = [
        (await published.publish(new_zone(), NIC, [asked], HERE, "web"))[0].host_port
        for _ in range(2)
    ]
    assert numbers[0] < numbers[1] <= first + 9


async def test_a_port_that_is_taken_is_refused_in_dockerds_words(
    published: PublishedPorts,
) -> None:
    number = free_port()
    asked = PublishedPort(zone_port=80, host_port=number)
    zone = new_zone()
    await published.publish(zone, NIC, [asked], HERE, "web")
    words = (
        rf"driver failed programming external connectivity on endpoint db \([0-9a-f]{{64}}\):"
        rf" Bind for 0\.0\.0\.0:{number} failed: port is already allocated"
    )
    with pytest.raises(APIError, match=words):
        await published.publish(new_zone(), NIC, [PublishedPort(zone_port=1), asked], HERE, "db")
    published.withdraw(zone)
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.1", number))
        theirs.listen()
        with pytest.raises(
            APIError, match=rf"{number}:127\.0\.0\.2:80/tcp: address already in use"
        ):
            await published.publish(zone, NIC, [asked], HERE, "web")
    assert published.of(zone) == ()
    await published.publish(zone, NIC, [asked], HERE, "web")


async def test_a_port_is_free_and_its_clients_are_cut_off_when_the_zone_is_down(
    published: PublishedPorts,
) -> None:
    number, zone = free_port(), new_zone()
    async with zone_server() as port:
        asked = PublishedPort(zone_port=port, host_port=number)
        await published.publish(zone, NIC, [asked], HERE, "web")
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        published.withdraw(zone)
        published.withdraw(zone)
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b""
        writer.close()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", number)


async def test_datagrams_lead_to_the_zone_and_back(published: PublishedPorts) -> None:
    number = free_port(socket.SOCK_DGRAM)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as zone:
        zone.bind(("127.0.0.2", 0))
        zone.setblocking(False)
        asked = PublishedPort(
            protocol="udp", zone_port=zone.getsockname()[1], host_ip="127.0.0.1", host_port=number
        )
        await published.publish(new_zone(), NIC, [asked], HERE, "dns")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(("127.0.0.1", number))
            await loop.sock_sendall(client, b"question")
            async with asyncio.timeout(DEADLINE_S):
                data, peer = await loop.sock_recvfrom(zone, 100)
                await loop.sock_sendto(zone, data + b" answered", peer)
                assert await loop.sock_recv(client, 100) == b"question answered"


async def test_through_a_connection_only_tcp_is_published(published: PublishedPorts) -> None:
    calls: list[tuple[str, int]] = []
    number = free_port()
    async with zone_server("127.0.0.1") as port:

        async def connect(
            host: str, zone_port: int
        ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            calls.append((host, zone_port))
            return await asyncio.open_connection("127.0.0.1", port)

        way = Way(IPv4Address("10.99.0.7"), connect)
        udp = PublishedPort(protocol="udp", zone_port=53, host_port=number)
        with pytest.raises(NotSupported, match="udp ports is not supported by zonegate over SSH"):
            await published.publish(new_zone(), NIC, [udp], way, "dns")
        asked = PublishedPort(zone_port=80, host_port=number)
        await published.publish(new_zone(), NIC, [asked], way, "web")
        assert await said("127.0.0.1", number) == b"HELLO"
    assert calls == [("10.99.0.7", 80)]


@pytest.mark.parametrize("error", [OSError("no"), Unavailable("the connection is lost")])
async def test_a_zone_that_cannot_be_reached_ends_the_clients_connection(
    published: PublishedPorts, error: Exception
) -> None:
    async def connect(_: str, __: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise error

    asked = PublishedPort(zone_port=80, host_ip="127.0.0.1", host_port=free_port())
    way = Way(IPv4Address("10.99.0.7"), connect)
    await published.publish(new_zone(), NIC, [asked], way, "web")
    reader, writer = await asyncio.open_connection("127.0.0.1", asked.host_port)
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.read() == b""
    writer.close()


async def test_ports_are_the_same_after_a_restart_of_the_gateway(tmp_path: Path) -> None:
    before = PublishedPorts(tmp_path / "ports.json")
    zone, gone = new_zone(), new_zone()
    async with zone_server() as port:
        asked = PublishedPort(zone_port=port)
        taken = await before.publish(zone, NIC, [asked], HERE, "web")
        await before.publish(gone, NIC, [asked], HERE, "db")
        before.close()
        after = PublishedPorts(tmp_path / "ports.json")
        assert await after.take_over(zone, NIC, [asked], HERE, "web") == taken
        assert await said("127.0.0.1", taken[0].host_port) == b"HELLO"
        fresh = await after.take_over(new_zone(), NIC, [asked], HERE, "new")
        assert fresh[0].host_port != taken[0].host_port
        after.settle()
        after.close()
    last = PublishedPorts(tmp_path / "ports.json")
    assert gone not in last._remembered
    last.close()


async def test_a_port_that_another_program_took_meanwhile_is_still_the_zones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = PublishedPorts(tmp_path / "ports.json")
    zone = new_zone()
    asked = PublishedPort(zone_port=80, host_ip="127.0.0.1", host_port=free_port())
    taken = await before.publish(zone, NIC, [asked], HERE, "web")
    before.close()
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.1", asked.host_port))
        theirs.listen()
        after = PublishedPorts(tmp_path / "ports.json")
        assert await after.take_over(zone, NIC, [asked], HERE, "web") == taken
        assert "is bound by another program" in caplog.text
        after.close()


async def test_a_half_written_file_of_ports_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text('{"a": [')
    published = PublishedPorts(tmp_path / "ports.json")
    assert await published.take_over(new_zone(), NIC, [PublishedPort(zone_port=1)], HERE, "web")
    published.close()


def test_a_network_that_this_machine_is_on_is_reached_straight() -> None:
    assert on_link(IPv4Address("127.0.0.9"), IPv4Network("127.0.0.0/8"))
    assert not on_link(IPv4Address("198.51.100.9"), IPv4Network("198.51.100.0/24"))


@pytest.mark.root
async def test_a_port_leads_through_a_real_ssh_connection_and_its_loss_is_only_a_closed_one(
    published: PublishedPorts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = sshd.start(tmp_path / "sshd", {"PATH": os.environ["PATH"]})
    settings = SmartOSSettings(
        host=server.url, identity_file=server.identity_file, known_hosts=server.known_hosts
    )
    try:
        async with await SSHGlobalZone.open(settings) as gz, zone_server() as port:
            asked = PublishedPort(zone_port=port, host_ip="127.0.0.1", host_port=free_port())
            way = Way(IPv4Address("127.0.0.2"), gz.connect)
            await published.publish(new_zone(), NIC, [asked], way, "web")
            assert await said("127.0.0.1", asked.host_port) == b"HELLO"
            large = b"x" * 3_000_000
            assert await said("127.0.0.1", asked.host_port, large) == large.upper()
            async with asyncio.TaskGroup() as group:
                answers = [
                    group.create_task(said("127.0.0.1", asked.host_port, f"n{n}".encode()))
                    for n in range(20)
                ]
            assert [task.result() for task in answers] == [f"N{n}".encode() for n in range(20)]
            reader, writer = await asyncio.open_connection("127.0.0.1", asked.host_port)
            writer.write(b"half")
            assert await reader.readexactly(4) == b"HALF", (
                "it goes through the connection that is lost"
            )
            server.drop()
            async with asyncio.timeout(DEADLINE_S):
                assert await reader.read() == b""
            writer.close()
            assert await said("127.0.0.1", asked.host_port) == b"HELLO", "it comes back"
        assert "Unhandled" not in caplog.text
    finally:
        server.stop()
