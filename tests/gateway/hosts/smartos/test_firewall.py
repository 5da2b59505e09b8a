"""Firewall rules: what they say in fwadm's language, and that only ours are touched."""

from __future__ import annotations

import json
import secrets
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import CommandFailed
from gateway.hosts.smartos.firewall import (
    Firewall,
    network_rules,
    network_tags,
    payload,
    port_rules,
)
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneUUID
from tests.fakes.globalzone import fwrules
from tests.fakes.globalzone.process import FakeGZ
from tests.fakes.globalzone.programs import fwadm

NETWORK = "11111111-2222-3333-4444-555555555555"
ZONE = ZoneUUID("99999999-8888-7777-6666-555555555555")
RELAY = IPv4Address("10.0.0.2")


def tcp(*numbers: int) -> list[PublishedPort]:
    return [PublishedPort(zone_port=number, host_port=number) for number in numbers]


@pytest.mark.parametrize("host_ip", ["", "0.0.0.0", "::"])
def test_ports_published_everywhere_are_let_in_from_everywhere(host_ip: str) -> None:
    ports = [*tcp(443, 80, 80), PublishedPort(protocol="udp", zone_port=53, host_port=53)]
    ports = [port.model_copy(update={"host_ip": host_ip}) for port in ports]
    assert [rule.text for rule in port_rules("zonegate", ZONE, ports, [RELAY])] == [
        f"FROM any TO vm {ZONE} ALLOW tcp (PORT 80 AND PORT 443)",
        f"FROM any TO vm {ZONE} ALLOW udp PORT 53",
    ]
    assert port_rules("zonegate", ZONE, [], [RELAY]) == ()


@pytest.mark.parametrize("host_ip", ["127.0.0.1", "::1", "192.0.2.7"])
def test_a_port_published_at_one_address_lets_in_the_proxy_alone(host_ip: str) -> None:
    ports = [PublishedPort(zone_port=80, host_ip=host_ip, host_port=8080)]
    (rule,) = port_rules("z", ZONE, ports, [IPv4Address("10.0.0.3"), RELAY])
    assert rule.text == f"FROM (ip 10.0.0.2 OR ip 10.0.0.3) TO vm {ZONE} ALLOW tcp PORT 80"
    (single,) = port_rules("z", ZONE, ports, [RELAY])
    assert single.text == f"FROM ip 10.0.0.2 TO vm {ZONE} ALLOW tcp PORT 80"
    for text in (rule.text, single.text):
        parsed = fwrules.parse(text)
        assert parsed.text() == text
        assert parsed.lets_in({"uuid": ZONE}, RELAY, "tcp", 80, [])
        assert not parsed.lets_in({"uuid": ZONE}, IPv4Address("192.0.2.1"), "tcp", 80, [])
    assert port_rules("z", ZONE, ports, []) == (), "nobody, if the proxy is nowhere"


def test_a_port_published_at_one_address_and_everywhere_is_open() -> None:
    ports = [*tcp(80), PublishedPort(zone_port=80, host_ip="127.0.0.1", host_port=8080)]
    (rule,) = port_rules("z", ZONE, ports, [RELAY])
    assert rule.text == f"FROM any TO vm {ZONE} ALLOW tcp PORT 80"


@given(
    st.sets(st.ip_addresses(v=4), min_size=1, max_size=60), st.sets(st.integers(1, 99), max_size=20)
)
def test_any_number_of_relays_is_let_in(relays: set[IPv4Address], numbers: set[int]) -> None:
    ports = [PublishedPort(zone_port=n, host_ip="127.0.0.1", host_port=n) for n in numbers]
    rules = [fwrules.parse(rule.text) for rule in port_rules("z", ZONE, ports, relays)]
    for relay in relays:
        for number in numbers:
            assert any(r.lets_in({"uuid": ZONE}, relay, "tcp", number, []) for r in rules)


@given(st.sets(st.integers(1, 65535), max_size=40))
def test_any_number_of_ports_is_let_in_and_no_other(numbers: set[int]) -> None:
    rules = [fwrules.parse(rule.text) for rule in port_rules("z", ZONE, tcp(*numbers), [])]
    vm = {"uuid": ZONE}

    def passes(port: int) -> bool:
        return any(r.lets_in(vm, IPv4Address("192.0.2.1"), "tcp", port, []) for r in rules)

    assert all(passes(number) for number in numbers)
    assert not any(passes(number) for number in range(1, 1000) if number not in numbers)


def test_a_rule_has_the_same_uuid_in_every_life_and_another_in_every_instance() -> None:
    assert port_rules("a", ZONE, tcp(80), []) == port_rules("a", ZONE, tcp(80), [])
    uuids = {port_rules(name, ZONE, tcp(port), [])[0].uuid for name in "ab" for port in (80, 81)}
    assert len(uuids) == 4


def test_rules_are_in_fwadms_normal_form_so_that_what_it_lists_is_what_was_said() -> None:
    for rule in (*network_rules("a", NETWORK), *port_rules("a", ZONE, tcp(80, 443), [])):
        assert fwrules.parse(rule.text).text() == rule.text
        assert len(rule.description) < 255


def test_tags_of_a_zone_name_its_networks() -> None:
    nics = [Nic(nic_tag="a", network_uuid=NETWORK), Nic(nic_tag="b")]
    assert network_tags(nics) == {f"zonegate:network:{NETWORK}": True}


def test_the_payload_says_whose_a_rule_is() -> None:
    (first, *_) = json.loads(payload("zonegate", network_rules("zonegate", NETWORK)))["rules"]
    assert first["enabled"] is True
    assert first["created_by"] == "zonegate:zonegate"
    assert first["owner_uuid"] == "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def name() -> str:
    return f"t{secrets.token_hex(4)}"


def there(fake: FakeGZ, name: str) -> set[str]:
    """UUIDs of an instance's rules on the machine."""
    found = fwadm.load(fake.root).items()
    return {uuid for uuid, rule in found if rule["created_by"] == f"zonegate:{name}"}


@pytest.mark.root
async def test_rules_are_kept_removed_and_found_again(
    gz: LocalGlobalZone, fake: FakeGZ, name: str
) -> None:
    one, two = network_rules(name, NETWORK), network_rules(name, NETWORK.replace("1", "2"))
    firewall = Firewall(gz, name)
    await firewall.load()
    await firewall.ensure(one)
    await firewall.ensure([*one, *two])
    assert there(fake, name) == {rule.uuid for rule in (*one, *two)}
    again = Firewall(gz, name)
    await again.load()
    await again.retain(two)
    assert there(fake, name) == {rule.uuid for rule in two}
    await again.remove([*one, *two])
    await again.remove(two)
    assert there(fake, name) == set()
    await again.ensure(two)
    assert there(fake, name) == {rule.uuid for rule in two}


@pytest.mark.root
async def test_rules_of_others_stay(gz: LocalGlobalZone, fake: FakeGZ, name: str) -> None:
    theirs = "FROM any TO all vms ALLOW tcp PORT 22"
    assert fake.run("fwadm", "add", "-g", "-e", theirs).returncode == 0
    other = Firewall(gz, f"{name}x")
    await other.ensure(network_rules(f"{name}x", NETWORK))
    firewall = Firewall(gz, name)
    await firewall.load()
    await firewall.retain([])
    assert theirs in [rule["rule"] for rule in fwadm.load(fake.root).values()]
    assert len(there(fake, f"{name}x")) == 5


@pytest.mark.root
async def test_a_rule_that_somebody_deleted_by_hand_does_not_stop_the_rest(
    gz: LocalGlobalZone, fake: FakeGZ, name: str
) -> None:
    rules = network_rules(name, NETWORK)
    firewall = Firewall(gz, name)
    await firewall.ensure(rules)
    assert fake.run("fwadm", "delete", rules[1].uuid).returncode == 0
    await firewall.remove(rules)
    assert there(fake, name) == set()


@pytest.mark.root
async def test_a_rule_that_was_added_though_fwadm_failed_is_known(
    gz: LocalGlobalZone, fake: FakeGZ, name: str
) -> None:
    rules = network_rules(name, NETWORK)
    firewall = Firewall(gz, name)
    fake.fault("fwadm", "add", after=True, times=1, stderr="cannot reload ipf", code=1)
    with pytest.raises(CommandFailed, match="fwadm: cannot reload ipf"):
        await firewall.ensure(rules)
    await firewall.remove(rules)
    assert there(fake, name) == set()
