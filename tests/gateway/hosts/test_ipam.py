"""Addresses are given out once, in order, and remembered."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import APIError, Forbidden, InvalidParameter
from gateway.hosts.ipam import LeaseBook, Subnet, choose_subnet, mac_of, parse_bip
from gateway.settings import AddressPool
from gateway.zones.spec import ZoneUUID

NET = IPv4Network("10.1.0.0/29")
GATEWAY = IPv4Address("10.1.0.1")
ONE, TWO, THREE = (ZoneUUID(f"{n}0000000-0000-0000-0000-000000000000") for n in "123")


def book(tmp_path: Path, network: IPv4Network = NET) -> LeaseBook:
    made = LeaseBook(tmp_path / "leases.json")
    made.add_network("n", network, GATEWAY)
    return made


def test_the_mac_carries_the_address() -> None:
    assert mac_of(IPv4Address("172.30.1.255")) == "02:42:ac:1e:01:ff"


def test_a_just_freed_address_comes_last() -> None:
    subnet = Subnet(NET, [GATEWAY])
    first = subnet.take_next()
    assert first == IPv4Address("10.1.0.2")
    subnet.give_back(first)
    rest = [subnet.take_next() for _ in range(5)]
    assert [str(address) for address in rest] == [
        "10.1.0.3",
        "10.1.0.4",
        "10.1.0.5",
        "10.1.0.6",
        "10.1.0.2",
    ]
    assert subnet.take_next() is None


@given(st.lists(st.one_of(st.none(), st.integers(0, 7)), max_size=60))
def test_no_address_is_ever_given_out_twice(steps: list[int | None]) -> None:
    """None takes the next; a number takes that address, or gives it back if it is taken."""
    subnet = Subnet(NET, [GATEWAY])
    taken = {GATEWAY}
    for step in steps:
        if step is None:
            address = subnet.take_next()
            if address is None:
                assert set(NET.hosts()) <= taken
                continue
            assert address in NET.hosts() or address not in taken
            assert address not in taken
            taken.add(address)
            continue
        address = NET[step]
        if address in taken - {GATEWAY}:
            subnet.give_back(address)
            taken.discard(address)
        elif address in set(NET.hosts()):
            assert subnet.take(address) == (address not in taken)
            taken.add(address)


def test_leases_are_remembered_and_their_zones_learned(tmp_path: Path) -> None:
    first = book(tmp_path)
    assert first.lease(ONE, "n", "bridge") == IPv4Address("10.1.0.2")
    assert first.lease(TWO, "n", "bridge") == IPv4Address("10.1.0.3")
    first.close()

    second = book(tmp_path)
    second.learn(TWO, "n", IPv4Address("10.1.0.3"))
    second.forget_unlearned()
    assert second.of(ONE) == ()
    assert second.of(TWO) == (IPv4Address("10.1.0.3"),)
    assert second.lease(THREE, "n", "bridge") == IPv4Address("10.1.0.4")
    second.close()


def test_a_lost_file_is_made_up_for_by_the_zones_nics(tmp_path: Path) -> None:
    (tmp_path / "leases.json").write_text('{"n": {"nex')
    made = book(tmp_path)
    made.learn(ONE, "n", IPv4Address("10.1.0.2"))
    made.forget_unlearned()
    assert made.lease(TWO, "n", "bridge") == IPv4Address("10.1.0.3")
    made.close()


def test_the_nic_wins_over_the_file(tmp_path: Path) -> None:
    document = {"n": {"next": "10.1.0.3", "leases": {"10.1.0.2": TWO}}}
    (tmp_path / "leases.json").write_text(json.dumps(document))
    made = book(tmp_path)
    made.learn(ONE, "n", IPv4Address("10.1.0.2"))
    made.forget_unlearned()
    made.release(TWO)
    assert made.of(ONE) == (IPv4Address("10.1.0.2"),)
    assert made.lease(THREE, "n", "bridge") == IPv4Address("10.1.0.3")
    made.close()


def test_leases_of_another_subnet_in_the_file_are_dropped(tmp_path: Path) -> None:
    document = {"n": {"next": "10.9.0.3", "leases": {"10.9.0.2": ONE}}}
    (tmp_path / "leases.json").write_text(json.dumps(document))
    made = book(tmp_path)
    assert made.of(ONE) == ()
    assert made.lease(ONE, "n", "bridge") == IPv4Address("10.1.0.2")
    made.close()


def test_a_full_network_says_so_in_dockerds_words(tmp_path: Path) -> None:
    made = book(tmp_path, IPv4Network("10.1.0.0/30"))
    made.lease(ONE, "n", "bridge")
    with pytest.raises(
        APIError, match="no available IPv4 addresses on this network's address pools: bridge"
    ):
        made.lease(TWO, "n", "bridge")
    made.release(ONE)
    made.lease(TWO, "n", "bridge")
    made.close()


def test_an_address_asked_for_is_given_or_refused(tmp_path: Path) -> None:
    made = book(tmp_path)
    made.reserve(IPv4Address("10.1.0.6"))
    with pytest.raises(Forbidden, match="Address already in use"):
        made.lease_this(TWO, "n", IPv4Address("10.1.0.6"))
    with pytest.raises(InvalidParameter, match="no configured subnet"):
        made.lease_this(TWO, "n", IPv4Address("10.2.0.5"))
    made.close()


def test_an_address_that_two_asked_for_is_free_when_both_have_given_it_back(
    tmp_path: Path,
) -> None:
    made, address = book(tmp_path), IPv4Address("10.1.0.2")
    made.lease_this(ONE, "n", address)
    made.lease_this(TWO, "n", address)
    assert made.owners("n", address) == (ONE, TWO)
    made.release(ONE, "n")
    assert made.lease(ONE, "n", "bridge") != address
    made.release(TWO)
    made.lease_this(ONE, "n", address)
    assert made.owners("n", address) == (ONE,)
    assert made.zones_on("n") == (ONE,)
    made.release(ONE)
    assert made.zones_on("n") == ()
    made.close()


def test_a_network_has_addresses_of_both_versions(tmp_path: Path) -> None:
    made = book(tmp_path)
    made.add_network("n", IPv6Network("fd00:1::/64"), IPv6Address("fd00:1::1"))
    assert made.lease(ONE, "n", "bridge", 6) == IPv6Address("fd00:1::2")
    made.lease(ONE, "n", "bridge")
    made.close()
    again = book(tmp_path)
    again.add_network("n", IPv6Network("fd00:1::/64"), IPv6Address("fd00:1::1"))
    assert again.lease(TWO, "n", "bridge", 6) == IPv6Address("fd00:1::3")
    assert len(again.of(ONE)) == 2
    again.release(ONE, "n")
    assert again.of(ONE) == ()
    again.close()


def test_subnets_come_from_the_pools_in_order() -> None:
    pools = (AddressPool(base="10.0.0.0/23", size=24), AddressPool(base="10.5.0.0/24", size=24))
    assert choose_subnet(pools, []) == IPv4Network("10.0.0.0/24")
    assert choose_subnet(pools, [IPv4Network("10.0.0.128/25")]) == IPv4Network("10.0.1.0/24")
    assert choose_subnet(pools, [IPv4Network("10.0.0.0/16")]) == IPv4Network("10.5.0.0/24")
    with pytest.raises(APIError, match="fully subnetted"):
        choose_subnet(pools, [IPv4Network("10.0.0.0/8")])


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1",
        "10.0.0.0/24",
        "10.0.0.255/24",
        "x",
        "127.1.0.1/16",
        "224.0.0.1/16",
        "10.0.0.1/32",
    ],
)
def test_a_bip_that_is_no_hosts_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid bip"):
        parse_bip(text)


def test_a_bip_is_an_address_and_a_prefix() -> None:
    assert parse_bip("10.0.0.1/24") == IPv4Interface("10.0.0.1/24")


def test_only_addresses_of_a_span_are_given_out_and_others_can_be_asked_for() -> None:
    network = IPv4Network("10.0.0.0/24")
    span = (IPv4Address("10.0.0.10"), IPv4Address("10.0.0.12"))
    subnet = Subnet(network, [IPv4Address("10.0.0.11")], span)
    outside = IPv4Address("10.0.0.200")
    assert subnet.take(outside)
    assert [str(subnet.take_next()) for _ in range(3)] == ["10.0.0.10", "10.0.0.12", "None"]
    subnet.give_back(outside)
    subnet.give_back(IPv4Address("10.0.0.11"))
    assert subnet.take_next() is None, "neither of these two is to be given out"
    subnet.give_back(IPv4Address("10.0.0.12"))
    assert str(subnet.take_next()) == "10.0.0.12"


def test_a_reserved_address_is_nobodys_until_it_is_free_again(tmp_path: Path) -> None:
    leases = LeaseBook(tmp_path / "leases.json")
    leases.add_network("n", IPv4Network("10.0.0.0/29"), None)
    ours, theirs = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
    first, second = ONE, TWO
    assert leases.lease(first, "n", "n") == ours
    leases.reserve(ours)
    leases.reserve(theirs)
    assert leases.lease(second, "n", "n") == IPv4Address("10.0.0.3")
    leases.unreserve(ours)
    assert leases.lease(THREE, "n", "n") == IPv4Address("10.0.0.4")
    with pytest.raises(Forbidden):
        leases.lease_this(second, "n", theirs)
    leases.unreserve(theirs)
    leases.lease_this(second, "n", theirs)
    assert set(leases.zones_on("n")) == {first, second, THREE}
    leases.close()
