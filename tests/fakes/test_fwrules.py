"""The fake fwadm's rule language against what the real one takes, refuses and writes."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.globalzone.call import Failed
from tests.fakes.globalzone.fwrules import Parsed, Target, parse

ZONE = "99999999-8888-7777-6666-555555555555"


@pytest.mark.parametrize(
    ("given_text", "normal"),
    [
        ("FROM any to all vms ALLOW tcp port 22", "FROM any TO all vms ALLOW tcp PORT 22"),
        (
            "FROM (vm 99999999-8888-7777-6666-555555555555 OR tag b OR ip 10.0.0.1) TO tag a ALLOW tcp PORT all",
            f"FROM (ip 10.0.0.1 OR tag b OR vm {ZONE}) TO tag a ALLOW tcp PORT all",
        ),
        (
            'FROM all vms TO tag "VM type" = "LDAP server" ALLOW tcp (PORT 443 AND PORT 80)',
            'FROM all vms TO tag "VM type" = "LDAP server" ALLOW tcp (PORT 80 AND PORT 443)',
        ),
        (
            "FROM any TO tag a ALLOW icmp TYPE 8 CODE 0",
            "FROM any TO tag a ALLOW icmp TYPE 8 CODE 0",
        ),
        (
            "FROM tag www TO any ALLOW tcp ports 80, 443, 8000-8100",
            "FROM tag www TO any ALLOW tcp PORTS 80, 443, 8000 - 8100",
        ),
        (
            "FROM tag a TO tag b ALLOW TCP PORT all PRIORITY 10",
            "FROM tag a TO tag b ALLOW tcp PORT all PRIORITY 10",
        ),
    ],
)
def test_rules_are_written_in_normal_form(given_text: str, normal: str) -> None:
    assert parse(given_text).text() == normal
    assert parse(normal).text() == normal


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM any TO any ALLOW tcp PORT 53", "rule does not affect VMs"),
        ("FROM ip 10.8.0.1 TO subnet 10.9.0.0/16 ALLOW TCP port 53", "rule does not affect VMs"),
        ("FROM foo TO ip 8.8.8.8 ALLOW udp port 53", "found: word"),
        ("FROM tag foo TO ip 10.288.0.0 ALLOW udp port 53", 'IPv4 address "10.288.0.0" is invalid'),
        ("FROM tag foo TO subnet 10.8.0.0/5 ALLOW udp port 53", "bits set to right of mask"),
        ("FROM tag foo TO any ALLOW udp port 0", 'Port number "0" is invalid'),
        ("FROM tag foo TO any ALLOW udp port 65537", 'Port number "65537" is invalid'),
        ("FROM vm asdf TO any ALLOW udp port 50", 'UUID "asdf" is invalid'),
        ("FROM (all vms OR tag one) TO ip 10.0.0.1 ALLOW udp port 53", "expected: ')', found: OR"),
        ("FROM ip 10.0.0.1 TO all vms ALLOW TCP (port ALL AND port 53)", "expected: ')'"),
        ("FROM any TO tag zonegate:network ALLOW tcp PORT 1", "Error at character"),
    ],
)
def test_what_the_real_one_refuses_is_refused(text: str, words: str) -> None:
    with pytest.raises(Failed) as caught:
        parse(text)
    assert words in str(caught.value)


def test_there_are_limits() -> None:
    ports = " AND ".join(f"PORT {n}" for n in range(1, 10))
    with pytest.raises(Failed, match="maximum of 8 ports allowed"):
        parse(f"FROM any TO all vms ALLOW tcp ({ports})")
    targets = " OR ".join(f"ip 10.0.0.{n}" for n in range(1, 26))
    with pytest.raises(Failed, match="maximum of 24 targets allowed per side"):
        parse(f"FROM ({targets}) TO all vms ALLOW tcp PORT 1")


def test_a_rule_with_an_owner_is_about_no_other_owners_machines() -> None:
    rule = parse("FROM any TO tag a ALLOW tcp PORT 1")
    vm = {"uuid": ZONE, "tags": {"a": True}, "owner_uuid": "one"}
    assert rule.concerns(vm, None)
    assert rule.concerns(vm, "one")
    assert not rule.concerns(vm, "two")


def test_a_value_of_a_tag_is_compared_as_text() -> None:
    rule = parse("FROM any TO tag on = true ALLOW tcp PORT 1")
    assert rule.lets_in({"uuid": ZONE, "tags": {"on": True}}, IPv4Address("10.0.0.1"), "tcp", 1, [])
    assert not rule.lets_in(
        {"uuid": ZONE, "tags": {"on": 1}}, IPv4Address("10.0.0.1"), "tcp", 1, []
    )


words = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=8)
tags = st.builds(Target, st.just("tag"), words, st.none() | words)
ports = st.lists(st.integers(1, 65535), min_size=1, max_size=8, unique=True)


@given(st.sets(tags, min_size=1, max_size=4), ports)
def test_any_tag_and_port_survives_being_written_and_read(
    found: set[Target], numbers: list[int]
) -> None:
    side = tuple(sorted(found, key=lambda t: (t.value, t.tag_value or "")))
    rule = Parsed(side, side, "allow", "tcp", tuple(str(n) for n in sorted(numbers)))
    again = parse(rule.text())
    assert set(again.sources) == found
    assert again.ports == rule.ports
    assert parse(again.text()) == again
