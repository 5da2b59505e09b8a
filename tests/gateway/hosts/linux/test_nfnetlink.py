"""Elements by netlink: the kernel has what nft itself would have put there, and says what it refuses."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from gateway.hosts.linux import nft
from gateway.hosts.linux.nfnetlink import BatchError, Element, FilterSocket, batch, changes

_NEWNET = 0x40000000
NET = nft.BridgedNetwork(
    "t0", (IPv4Network("10.1.0.0/16"), IPv6Network("fd00:1::/64")), internal=False
)
INSIDE = nft.BridgedNetwork("t1", (IPv4Network("10.2.0.0/16"),), internal=True)
HIGHEST = nft.BridgedNetwork("t2", (IPv4Network("255.255.0.0/16"),))
SENDER = nft.Sender(
    "zg20000000", "02:42:0a:01:00:02", (IPv4Address("10.1.0.2"), IPv6Address("fd00:1::2"))
)
WEB = nft.Redirect("tcp", None, 8080, IPv4Address("10.1.0.2"), 80)
LOCAL = nft.Redirect("udp", IPv4Address("127.0.0.1"), 53, IPv4Address("10.1.0.3"), 53)
ELEMENTS: Sequence[Element] = (
    *nft.network_elements("t", NET),
    *nft.network_elements("t", INSIDE),
    *nft.network_elements("t", HIGHEST),
    *nft.sender_elements("t", SENDER),
    nft.redirect_element("t", WEB),
    nft.redirect_element("t", LOCAL),
)


@pytest.fixture
def rules() -> Iterator[nft.Nft]:
    """A context in a network namespace of its own, with the tables of `t`."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(_NEWNET) == 0
    made = nft.Nft()
    made.run(nft.ruleset("t"))
    yield made
    made.close()
    assert libc.setns(home, _NEWNET) == 0
    os.close(home)


def contents(rules: nft.Nft) -> dict[str, list[Any]]:
    """Elements by set, as nft lists them."""
    found = {}
    for family in ("inet", "bridge"):
        listing = json.loads(rules.run(f"list table {family} zonegate_t"))
        for row in listing["nftables"]:
            one = row.get("set") or row.get("map")
            if one and one.get("elem"):
                found[f"{family} {one['name']}"] = sorted(map(json.dumps, one["elem"]))
    return found


@pytest.mark.root
def test_the_kernel_has_what_nft_would_have_put_there(rules: nft.Nft) -> None:
    with_nft = {}
    rules.run(nft.ruleset("t", ELEMENTS))
    with_nft = contents(rules)
    rules.run(nft.ruleset("t"))
    link = FilterSocket()
    link.change((), ELEMENTS)
    assert contents(rules) == with_nft
    assert set(with_nft) >= {"inet subnets", "inet leaving6", "bridge own6", "inet ports_at"}
    link.change((), ELEMENTS)
    assert contents(rules) == with_nft
    link.change(ELEMENTS, ())
    assert contents(rules) == {}
    link.close()


@pytest.mark.root
def test_a_batch_is_all_or_nothing_and_tells_what_was_refused(rules: nft.Nft) -> None:
    link = FilterSocket()
    link.change((), [nft.redirect_element("t", LOCAL)])
    before = contents(rules)
    both = [nft.redirect_element("t", one) for one in (LOCAL, WEB)]
    with pytest.raises(BatchError, match="delete from inet zonegate_t ports: ") as missing:
        link.change(both, ())
    assert missing.value.errno == errno.ENOENT
    elsewhere = nft.Redirect("udp", LOCAL.address, 53, IPv4Address("10.1.0.4"), 53)
    with pytest.raises(BatchError, match="add to inet zonegate_t ports_at: ") as there:
        link.change((), [nft.redirect_element("t", elsewhere), both[1]])
    assert there.value.errno in (errno.EEXIST, errno.EBUSY)
    assert contents(rules) == before
    # What takes another's place comes after it is gone.
    link.change([both[0]], [nft.redirect_element("t", elsewhere)])
    assert "10.1.0.4" in rules.run("list table inet zonegate_t")
    link.close()


@pytest.mark.root
def test_a_table_that_somebody_flushed_is_told_of(rules: nft.Nft) -> None:
    link = FilterSocket()
    rules.run("flush ruleset")
    with pytest.raises(BatchError) as gone:
        link.change((), ELEMENTS)
    assert gone.value.errno == errno.ENOENT
    rules.run(nft.ruleset("t"))
    link.change((), ELEMENTS)
    link.close()


@pytest.mark.root
def test_eight_thousand_ports_are_one_batch(rules: nft.Nft) -> None:
    link = FilterSocket()
    elements = [
        nft.redirect_element("t", nft.Redirect("tcp", None, port, IPv4Address("10.1.0.2"), 80))
        for port in range(1, 8001)
    ]
    link.change((), elements)
    assert len(contents(rules)["inet ports"]) == 8000
    link.change(elements, ())
    assert contents(rules) == {}
    link.close()


def test_messages_are_numbered_from_the_first_and_one_for_each_set() -> None:
    messages = changes([nft.redirect_element("t", WEB)], ELEMENTS)
    assert messages[0].what == "delete from inet zonegate_t ports"
    assert len(messages) == len({message.what for message in messages})
    data = batch(messages, 7)
    seen, offset = [], 0
    while offset < len(data):
        seen.append(int.from_bytes(data[offset + 8 : offset + 12], "little"))
        offset += int.from_bytes(data[offset : offset + 4], "little")
    assert seen == list(range(7, 9 + len(messages)))
