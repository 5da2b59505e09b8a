"""The name server: what it knows, what it asks others, over both protocols."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hosts.dns import NameServer
from gateway.hosts.names import Entry, NameBook, Place
from gateway.hosts.upstream import Upstream, answers, parse
from gateway.zones.spec import ZoneUUID

WEB, DB, DB2, OTHER, CLOSED = (
    ZoneUUID(f"0000000{n}-0000-0000-0000-000000000000") for n in range(5)
)
DEADLINE_S = 20.0


def place(network: str, address: str, *names: str, **links: str) -> Place:
    """On a network whose id and name are the same word."""
    return Place(network, network, (ip_address(address),), names, links)


@pytest.fixture
def book() -> NameBook:
    """Two networks, one zone on both; one zone on neither, and one that is shut in."""
    book = NameBook()
    book.put(
        WEB,
        Entry(
            (
                place("front", "10.1.0.2", "web", "aaaaaaaaaaaa"),
                place("back.end", "10.2.0.2", "web"),
            )
        ),
    )
    book.put(DB, Entry((place("back.end", "10.2.0.3", "db", "sql", maindb="db"),)))
    book.put(
        DB2,
        Entry(
            (
                Place(
                    "back.end",
                    "back.end",
                    (ip_address("10.2.0.4"), ip_address("fd00::4")),
                    ("db2", "SQL"),
                ),
            )
        ),
    )
    book.put(OTHER, Entry((place("front", "10.1.0.9", "lonely.host"),), ("127.0.0.1",)))
    book.put(CLOSED, Entry((place("shut", "10.3.0.2", "closed"),), None))
    return book


@asynccontextmanager
async def serving(book: NameBook, upstream: Upstream | None = None) -> AsyncIterator[NameServer]:
    """A name server whose tasks are over at the end."""
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        yield NameServer(book, upstream or Upstream(Path("/nonexistent")), group)


def ask(server: NameServer, asker: ZoneUUID, name: str, kind: str = "A") -> tuple[str, list[str]]:
    """Code and data of an answer that is known; ("", []) where others would be asked."""
    wire = server.answer(asker, dns.message.make_query(name, kind).to_wire())
    if wire is None:
        return "", []
    message = dns.message.from_wire(wire)
    data = [row.to_text() for rows in message.answer for row in rows]
    return dns.rcode.to_text(message.rcode()), data


async def test_names_are_those_of_the_askers_own_networks(book: NameBook) -> None:
    async with serving(book) as server:
        assert ask(server, WEB, "db") == ("NOERROR", ["10.2.0.3"])
        assert ask(server, WEB, "DB.") == ("NOERROR", ["10.2.0.3"])
        assert ask(server, WEB, "web") == ("NOERROR", ["10.1.0.2"])
        assert ask(server, DB, "web") == ("NOERROR", ["10.2.0.2"])
        assert ask(server, DB, "aaaaaaaaaaaa") == ("NXDOMAIN", [])
        assert ask(server, DB, "lonely.host") == ("", [])
        assert ask(server, WEB, "lonely.host") == ("NOERROR", ["10.1.0.9"])
        assert ask(server, WEB, "localtypo") == ("NXDOMAIN", [])


async def test_a_name_may_have_the_networks_behind_it(book: NameBook) -> None:
    async with serving(book) as server:
        assert ask(server, WEB, "web.back.end") == ("NOERROR", ["10.2.0.2"])
        assert ask(server, WEB, "lonely.host.front") == ("NOERROR", ["10.1.0.9"])
        assert ask(server, DB, "web.front") == ("", [])


async def test_those_that_share_a_name_take_turns(book: NameBook) -> None:
    async with serving(book) as server:
        firsts = {ask(server, WEB, "sql")[1][0] for _ in range(40)}
        assert sorted(ask(server, WEB, "sql")[1]) == ["10.2.0.3", "10.2.0.4"]
    assert firsts == {"10.2.0.3", "10.2.0.4"}


async def test_a_known_name_has_an_empty_answer_of_other_kinds(book: NameBook) -> None:
    async with serving(book) as server:
        assert ask(server, WEB, "db", "AAAA") == ("NOERROR", [])
        assert ask(server, WEB, "db2", "AAAA") == ("NOERROR", ["fd00::4"])
        assert ask(server, WEB, "db", "MX") == ("NOERROR", [])


async def test_addresses_have_names(book: NameBook) -> None:
    async with serving(book) as server:
        assert ask(server, WEB, "3.0.2.10.in-addr.arpa", "PTR") == ("NOERROR", ["db.back.end."])
        back = ip_address("fd00::4").reverse_pointer
        assert ask(server, DB, back, "PTR") == ("NOERROR", ["db2.back.end."])
        assert ask(server, OTHER, "3.0.2.10.in-addr.arpa", "PTR") == ("", [])


async def test_a_link_is_the_askers_own_name_for_another(book: NameBook) -> None:
    async with serving(book) as server:
        assert ask(server, DB, "maindb") == ("NOERROR", ["10.2.0.3"])
        assert ask(server, DB2, "maindb") == ("NXDOMAIN", [])


async def test_names_follow_renames_and_go_with_their_zone(book: NameBook) -> None:
    async with serving(book) as server:
        book.put(DB, Entry((place("back.end", "10.2.0.3", "newdb"),)))
        assert ask(server, WEB, "newdb") == ("NOERROR", ["10.2.0.3"])
        assert ask(server, WEB, "db") == ("NXDOMAIN", [])
        assert ask(server, WEB, "sql") == ("NOERROR", ["10.2.0.4"])
        book.drop(DB)
        assert ask(server, WEB, "newdb") == ("NXDOMAIN", [])
        assert ask(server, WEB, "3.0.2.10.in-addr.arpa", "PTR") == ("", [])


async def test_who_is_shut_in_learns_nothing_of_the_world(book: NameBook) -> None:
    async with serving(book) as server:
        assert ask(server, CLOSED, "example.org") == ("SERVFAIL", [])
        assert ask(server, CLOSED, "closed") == ("NOERROR", ["10.3.0.2"])


async def test_an_answer_that_is_too_long_is_cut_for_udp_alone(book: NameBook) -> None:
    for number in range(60):
        uuid = ZoneUUID(f"00000000-0000-0000-0000-{number:012}")
        book.put(uuid, Entry((place("front", f"10.1.1.{number}", "many"),)))
    query = dns.message.make_query("many", "A").to_wire()
    async with serving(book) as server:
        short = dns.message.from_wire(server.answer(WEB, query) or b"")
        whole = dns.message.from_wire(server.answer(WEB, query, tcp=True) or b"")
    assert short.flags & dns.flags.TC
    assert not whole.flags & dns.flags.TC
    assert len(whole.answer[0]) == 60


@given(st.binary(max_size=64))
def test_what_is_no_query_is_refused_without_harm(wire: bytes) -> None:
    server = NameServer(NameBook(), Upstream(Path("/nonexistent")), None)  # type: ignore[arg-type]
    with suppress(ValueError):
        server.answer(WEB, wire)


@given(
    st.sampled_from(["web", "a.b.c", ""]),
    st.sampled_from(["A", "PTR", "ANY", "OPT", "TSIG", "AXFR"]),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4),
    st.booleans(),
)
def test_a_query_that_was_tampered_with_does_no_harm(
    name: str, kind: str, changes: list[tuple[int, int]], edns: bool
) -> None:
    book = NameBook()
    book.put(WEB, Entry((place("front", "10.1.0.2", "web"),)))
    server = NameServer(book, Upstream(Path("/nonexistent")), None)  # type: ignore[arg-type]
    wire = bytearray(dns.message.make_query(f"{name}.", kind, use_edns=edns).to_wire())
    for at, value in changes:
        wire[at % len(wire)] = value
    with suppress(ValueError):
        server.answer(WEB, bytes(wire))


@given(st.binary(min_size=12, max_size=64), st.binary(min_size=12, max_size=64))
def test_only_an_answer_to_the_question_is_taken(wire: bytes, query: bytes) -> None:
    if answers(wire, query):
        assert wire[:2] == query[:2]
        assert wire[2] & 0x80


def test_resolv_conf_is_read_for_its_name_servers() -> None:
    text = "# nameserver 9.9.9.9\nnameserver 10.0.0.1\nsearch a b\nnameserver\nnameserver fe80::1%eth0\nnameserver x\n"
    assert parse(text) == ("10.0.0.1", "fe80::1%eth0")


# -- over sockets ----------------------------------------------------------------------------------


def sockets() -> tuple[socket.socket, socket.socket]:
    """A datagram socket and a listening one with the same number."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        udp.bind(("127.0.0.1", 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen()
        return udp, tcp


def by_udp(address: tuple[str, int], query: dns.message.Message) -> dns.message.Message:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE_S)
        client.connect(address)
        client.send(query.to_wire())
        return dns.message.from_wire(client.recv(65535))


def by_tcp(address: tuple[str, int], query: dns.message.Message) -> dns.message.Message:
    with socket.create_connection(address, DEADLINE_S) as client, client.makefile("rwb") as file:
        wire = query.to_wire()
        file.write(len(wire).to_bytes(2) + wire)
        file.flush()
        return dns.message.from_wire(file.read(int.from_bytes(file.read(2))))


Ask = Callable[[tuple[str, int], dns.message.Message], dns.message.Message]


@pytest.mark.parametrize("way", [by_udp, by_tcp])
async def test_the_world_is_asked_by_the_same_protocol(book: NameBook, way: Ask) -> None:
    """The world is a second server here, whose asker has a network with a name that has a dot."""
    world = NameBook()
    world.put(WEB, Entry((place("w", "192.0.2.7", "example.org"),)))
    async with serving(world) as far:
        outside = sockets()
        served = far.serve(*outside, lambda _: WEB)
        port = outside[0].getsockname()[1]
        async with serving(book, Upstream(Path("/nonexistent"), port=port)) as near:
            inside = sockets()
            ours = near.serve(*inside, lambda _: OTHER)
            query = dns.message.make_query("example.org", "A")
            found = await asyncio.to_thread(way, inside[0].getsockname(), query)
            assert [row.to_text() for row in found.answer[0]] == ["192.0.2.7"]
            unknown = dns.message.make_query("no.such.name", "A")
            # Nobody is behind the world's server: it says so, and that is handed on.
            failed = await asyncio.to_thread(way, inside[0].getsockname(), unknown)
            assert failed.rcode() == dns.rcode.SERVFAIL
            ours.close()
        served.close()


async def test_a_connection_may_bring_several_queries(book: NameBook) -> None:
    def converse(address: tuple[str, int]) -> list[str]:
        with (
            socket.create_connection(address, DEADLINE_S) as client,
            client.makefile("rwb") as file,
        ):
            for name in ("db", "web"):
                wire = dns.message.make_query(name, "A").to_wire()
                file.write(len(wire).to_bytes(2) + wire)
            file.flush()
            wires = [file.read(int.from_bytes(file.read(2))) for _ in range(2)]
        return [dns.message.from_wire(wire).answer[0][0].to_text() for wire in wires]

    async with serving(book) as server:
        ours = sockets()
        served = server.serve(*ours, lambda _: WEB)
        assert await asyncio.to_thread(converse, ours[1].getsockname()) == ["10.2.0.3", "10.1.0.2"]
        served.close()


async def test_strangers_are_not_answered(book: NameBook) -> None:
    async with serving(book) as server:
        ours = sockets()
        served = server.serve(*ours, lambda _: None)
        with pytest.raises((ConnectionError, dns.message.ShortHeader)):
            await asyncio.to_thread(
                by_tcp, ours[1].getsockname(), dns.message.make_query("db", "A")
            )
        served.close()
