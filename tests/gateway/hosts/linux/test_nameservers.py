"""127.0.0.11 inside of a namespace: asked from in there, by programs that know nothing of it."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import dns.message
import pytest

from dockerapi.errors import APIError
from gateway.hosts.linux import nameservers
from gateway.hosts.linux.nameservers import ADDRESS, NameServers
from gateway.hosts.linux.netns import NamespaceFolder, NamespacePool
from gateway.zones.host import Network, NetworkPlan, Zone
from gateway.zones.members import network_uuid
from gateway.zones.metadata import DockerMetadata, Endpoint, Runtime
from gateway.zones.spec import Nic, ZoneSpec, ZoneState, ZoneUUID

pytestmark = pytest.mark.root
T = TypeVar("T")

DEADLINE_S = 20.0
NETWORK = Network(
    "a1" * 32, "back", "bridge", 0, subnet="10.9.0.0/24", plan=NetworkPlan("back", internal=True)
)
WEB = ZoneUUID("00000000-0000-0000-0000-000000000001")
DB = ZoneUUID("00000000-0000-0000-0000-000000000002")


def zone(uuid: ZoneUUID, name: str, address: str, **endpoint: tuple[str, ...]) -> Zone:
    """That runs on the network."""
    on = network_uuid(NETWORK.id)
    nic = Nic(nic_tag="x", ip=address, netmask="255.255.255.0", network_uuid=on)
    spec = ZoneSpec(uuid=uuid, brand="lx", image_uuid=uuid, alias=name, hostname=name, nics=(nic,))
    runtime = Runtime(endpoints={on: Endpoint(**endpoint)})
    return Zone(
        spec, DockerMetadata(id=secrets.token_hex(32), runtime=runtime), ZoneState.RUNNING, 0
    )


@pytest.fixture
def netns(tmp_path: Path) -> Iterator[str]:
    """The path of a namespace that is there."""
    folder, pool = NamespaceFolder(tmp_path / "netns"), NamespacePool(1)
    namespace = pool.take()
    folder.add("zone", namespace)
    namespace.close()
    yield str(folder.path("zone"))
    pool.close()
    folder.close()


@pytest.fixture
async def servers() -> AsyncIterator[NameServers]:
    """Of a host with one user network."""
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        made = NameServers(lambda: [NETWORK], group)
        yield made
        made.shut()


async def inside(netns: str, act: Callable[[], T]) -> T:
    """`act` in a thread that has entered the namespace for good."""
    found: list[T | BaseException] = []

    def work() -> None:
        descriptor = os.open(netns, os.O_RDONLY)
        try:
            nameservers._enter(descriptor)
            found.append(act())
        except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
            found.append(error)
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=work)
    thread.start()
    await asyncio.to_thread(thread.join)
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def ask(name: str) -> list[str]:
    """As a resolver does: port 53, by UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE_S)
        client.connect((ADDRESS, 53))
        client.send(dns.message.make_query(name, "A").to_wire())
        answer = dns.message.from_wire(client.recv(4096))
        return [row.to_text() for rows in answer.answer for row in rows]


def ask_by_tcp(name: str) -> list[str]:
    with (
        socket.create_connection((ADDRESS, 53), DEADLINE_S) as client,
        client.makefile("rwb") as file,
    ):
        wire = dns.message.make_query(name, "A").to_wire()
        file.write(len(wire).to_bytes(2) + wire)
        file.flush()
        answer = dns.message.from_wire(file.read(int.from_bytes(file.read(2))))
        return [row.to_text() for rows in answer.answer for row in rows]


async def test_names_are_answered_in_the_zone(servers: NameServers, netns: str) -> None:
    servers.tell(zone(WEB, "web", "10.9.0.2"))
    servers.tell(zone(DB, "db", "10.9.0.3", aliases=("sql",)))
    await servers.open(WEB, netns)
    assert await inside(netns, lambda: ask("db")) == ["10.9.0.3"]
    assert await inside(netns, lambda: ask_by_tcp("sql.back")) == ["10.9.0.3"]
    assert await inside(netns, lambda: ask("nobody")) == []


async def test_programs_of_the_zone_may_have_port_53(servers: NameServers, netns: str) -> None:
    def bind() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind(("0.0.0.0", 53))
            return ask("web")[0]

    servers.tell(zone(WEB, "web", "10.9.0.2"))
    await servers.open(WEB, netns)
    assert await inside(netns, bind) == "10.9.0.2"


async def test_another_life_of_the_gateway_answers_as_well(netns: str) -> None:
    for _ in range(2):
        async with asyncio.TaskGroup() as group:
            servers = NameServers(lambda: [NETWORK], group)
            await servers.resume(zone(WEB, "web", "10.9.0.2"), netns)
            assert await inside(netns, lambda: ask("web")) == ["10.9.0.2"]
            servers.shut()


async def test_a_closed_one_answers_no_more(servers: NameServers, netns: str) -> None:
    servers.tell(zone(WEB, "web", "10.9.0.2"))
    await servers.open(WEB, netns)
    assert WEB in servers
    servers.close(WEB)
    assert WEB not in servers
    with pytest.raises(ConnectionRefusedError):
        await inside(netns, lambda: ask("web"))


async def test_a_namespace_that_is_gone_is_an_error_and_nothing_stays(
    servers: NameServers, tmp_path: Path
) -> None:
    with pytest.raises(APIError, match="failed to set up name server"):
        await servers.open(WEB, str(tmp_path / "none"))
    assert WEB not in servers
