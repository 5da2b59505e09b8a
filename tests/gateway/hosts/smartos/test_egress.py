"""What ipnat and ipadm print."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Interface

from gateway.hosts.smartos.egress import addresses, map_lines, mapped

LISTING = """\
List of active MAP/Redirect filters:
map e1000g0 172.26.0.0/24 -> 0.0.0.0/32 portmap tcp/udp auto
map e1000g0 172.26.0.0/24 -> 0.0.0.0/32
map net1 from 10.0.0.0/8 to any -> 192.0.2.1/32
rdr net0 0.0.0.0/0 port 80 -> 172.26.0.2 port 80 tcp

List of active sessions:
MAP 172.26.0.2      1024  <- -> 192.0.2.7       2000  [198.51.100.1 443]
"""


def test_map_rules_are_read_from_ipnats_listing() -> None:
    assert mapped(LISTING) == {
        ("e1000g0", IPv4Network("172.26.0.0/24")),
        ("net1", IPv4Network("10.0.0.0/8")),
    }


def test_ports_are_mapped_before_what_has_none() -> None:
    first, second = map_lines("e1000g0", IPv4Network("172.26.0.0/24")).splitlines()
    assert first == "map e1000g0 172.26.0.0/24 -> 0/32 portmap tcp/udp auto"
    assert second == "map e1000g0 172.26.0.0/24 -> 0/32"


def test_addresses_are_read_from_ipadms_listing() -> None:
    listing = "lo0/v4:127.0.0.1/8\ne1000g0/_a:10.0.0.5/24\nlo0/v6:\\:\\:1/128\nnet1/v4:?\n"
    listing += "net1/ll:fe80\\:\\:1%net1/10\nnet1/v6:fd00\\:1\\:\\:1/64\n"
    assert addresses(listing) == {
        "lo0/v4": IPv4Interface("127.0.0.1/8"),
        "e1000g0/_a": IPv4Interface("10.0.0.5/24"),
        "lo0/v6": IPv6Interface("::1/128"),
        "net1/v6": IPv6Interface("fd00:1::1/64"),
    }
