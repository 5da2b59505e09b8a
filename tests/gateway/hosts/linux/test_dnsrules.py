"""The rules that lead 127.0.0.11 to a name server, as nft lists them; and netlink with many descriptors."""

from __future__ import annotations

import ctypes
import json
import os
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.hosts.linux import dnsrules, nft
from gateway.hosts.linux.forwarding import forwarding_warnings
from gateway.hosts.linux.nfnetlink import FilterSocket

pytestmark = pytest.mark.root
_NEWNET = 0x40000000


@pytest.fixture
def namespace() -> Iterator[None]:
    """A network namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(_NEWNET) == 0
    yield
    assert libc.setns(home, _NEWNET) == 0
    os.close(home)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Whatever is opened has a number that select() cannot take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.open("/dev/null", os.O_RDONLY)]
    while held[-1] < 1100:
        held.append(os.dup(held[0]))
    yield
    for one in held:
        os.close(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def listed() -> list[tuple[str, ...]]:
    """What the kernel's rules compare, and where they lead."""
    rules = nft.Nft()
    try:
        rows = json.loads(rules.run("list ruleset"))["nftables"]
    finally:
        rules.close()
    assert [row["chain"]["hook"] for row in rows if "chain" in row] == ["output"]
    return [tuple(map(_shown, row["rule"]["expr"])) for row in rows if "rule" in row]


def _shown(expression: dict[str, Any]) -> str:
    if match := expression.get("match"):
        payload = match["left"]["payload"]
        return f"{payload['protocol']} {payload['field']} {match['op']} {match['right']}"
    return f"{expression['dnat']['addr']}:{expression['dnat']['port']}"


@pytest.mark.usefixtures("namespace")
def test_port_53_leads_to_the_name_server_of_the_last_process() -> None:
    for ports in ((5300, 5301), (5302, 5303)):
        rules = FilterSocket()
        dnsrules.lead(rules, *ports)
        rules.close()
        assert listed() == [
            ("ip daddr == 127.0.0.11", f"{name} dport == 53", f"127.0.0.11:{port}")
            for name, port in zip(("udp", "tcp"), ports, strict=True)
        ]


@pytest.mark.usefixtures("namespace", "many_files")
def test_a_gateway_with_a_thousand_open_files_makes_and_reads_rules() -> None:
    rules = FilterSocket()
    dnsrules.lead(rules, 5300, 5301)
    rules.close()
    assert len(listed()) == 2
    assert forwarding_warnings("br0") == ()
