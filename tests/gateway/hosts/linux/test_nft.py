"""The rules as text, and that nft takes them."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from dockerapi.errors import CommandFailed
from gateway.hosts.linux import nft
from gateway.hosts.linux.rules import Rules

_NEWNET = 0x40000000
WEB = nft.Redirect("tcp", None, 8080, IPv4Address("10.1.0.2"), 80)
LOCAL = nft.Redirect("udp", IPv4Address("127.0.0.1"), 53, IPv4Address("10.1.0.3"), 53)
NET = nft.BridgedNetwork("t0", (IPv4Network("10.1.0.0/16"),))


@pytest.fixture
def rules() -> Iterator[nft.Nft]:
    """A context in a network namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(_NEWNET) == 0
    made = nft.Nft()
    yield made
    made.close()
    assert libc.setns(home, _NEWNET) == 0
    os.close(home)


def test_a_port_bound_to_an_address_goes_to_the_map_of_addresses() -> None:
    assert [nft.text_of(nft.redirect_element("t", one)) for one in (WEB, LOCAL)] == [
        "add element inet zonegate_t ports { tcp . 8080 : 10.1.0.2 . 80 }\n",
        "add element inet zonegate_t ports_at { 127.0.0.1 . udp . 53 : 10.1.0.3 . 53 }\n",
    ]


def test_chains_that_drop_by_policy_are_found_in_a_listing() -> None:
    def chain(name: str, **more: str) -> dict[str, object]:
        return {"chain": {"family": "ip", "table": "filter", "name": name, **more}}

    rows = [
        {"metainfo": {"version": "1.0.6"}},
        chain("FORWARD", hook="forward", policy="drop"),
        chain("INPUT", hook="input", policy="drop"),
        chain("OTHER", hook="forward", policy="accept"),
        chain("USER"),
    ]
    listing = json.dumps({"nftables": rows})
    assert nft.dropping_chains(listing) == ("ip filter FORWARD",)


@pytest.mark.root
def test_nft_takes_the_rules_and_takes_them_again(rules: nft.Nft) -> None:
    elements = [*nft.network_elements("t", NET), nft.redirect_element("t", WEB)]
    rules.run(nft.ruleset("t"))
    empty = rules.run("list table inet zonegate_t")
    rules.run(nft.ruleset("t", elements))
    assert "10.1.0.2" in rules.run("list table inet zonegate_t")
    rules.run(nft.ruleset("t"))
    assert rules.run("list table inet zonegate_t").count("elem") == empty.count("elem")
    rules.run(nft.delete_table("t"))
    rules.run(nft.delete_table("t"))
    assert "zonegate_t" not in rules.run("list tables")


@pytest.mark.root
def test_two_instances_have_tables_of_their_own(rules: nft.Nft) -> None:
    rules.run(nft.ruleset("t", nft.network_elements("t", NET)))
    other = nft.BridgedNetwork("u0", (IPv4Network("10.2.0.0/16"),))
    rules.run(nft.ruleset("u", nft.network_elements("u", other)))
    rules.run(nft.delete_table("u"))
    assert "zonegate_t" in rules.run("list tables")


class NoBridgeFamily(nft.Nft):
    """A kernel without nftables for bridges."""

    def run(self, text: str) -> str:
        if "bridge zonegate" in text:
            raise CommandFailed("nft", 1, "Operation not supported")
        return super().run(text)


@pytest.mark.root
@pytest.mark.usefixtures("rules")
def test_without_rules_for_bridges_all_else_is_there() -> None:
    context = NoBridgeFamily()
    made = Rules(context, "t")
    made.know_network(NET)
    made.make()
    assert not made.guards
    made.add_senders([nft.Sender("p", "02:00:00:00:00:01", ())])
    made.add_redirects([WEB])
    made.remove_senders(["p"])
    made.make_if_missing()
    assert "10.1.0.2" in context.run("list table inet zonegate_t")
    made.remove()
    assert "zonegate_t" not in context.run("list tables")
    made.close()
    context.close()


@pytest.mark.root
def test_rules_that_somebody_flushed_come_back_with_the_next_change(rules: nft.Nft) -> None:
    made = Rules(rules, "t")
    made.know_network(NET)
    made.make()
    made.add_redirects([WEB])
    rules.run(nft.delete_table("t"))
    made.add_senders([nft.Sender("p", "02:00:00:00:00:01", (IPv4Address("10.1.0.9"),))])
    assert "10.1.0.2" in rules.run("list table inet zonegate_t")
    assert "10.1.0.9" in rules.run("list table bridge zonegate_t")
    made.remove_senders(["p", "never"])
    made.tidy()
    assert "10.1.0.9" not in rules.run("list table bridge zonegate_t")
    made.remove()
    made.close()
