"""Networks and endpoints: from bodies to what hosts are told, and back to what clients read."""

from __future__ import annotations

from typing import Any

import pytest

from dockerapi.errors import APIError, Forbidden, InvalidParameter, NotFound
from dockerapi.models.containers import EndpointSettings
from dockerapi.models.networks import NetworkCreate
from gateway.translate import networking
from gateway.translate.endpoints import asked_of, join, settings_of
from gateway.translate.networks import plan, shown
from gateway.zones.host import AddressRange, Network, NetworkPlan
from gateway.zones.members import network_uuid
from gateway.zones.metadata import Endpoint
from gateway.zones.spec import Nic


def body(**keys: Any) -> NetworkCreate:
    return NetworkCreate.model_validate({"Name": "n", **keys})


def network(name: str, **more: Any) -> Network:
    return Network(name.encode().hex().ljust(64, "0"), name, "bridge", 1, **more)


def nic(on: Network, **more: Any) -> Nic:
    return Nic(nic_tag="t", gateway="10.0.0.1", network_uuid=network_uuid(on.id), **more)


def test_a_plan_has_what_was_asked_for() -> None:
    ipam = {"Config": [{"Subnet": "10.1.0.0/24", "IPRange": "10.1.0.128/25", "Gateway": "10.1.0.9",
                        "AuxiliaryAddresses": {"p": "10.1.0.7"}}, {"Subnet": "fd00::/64"}]}  # fmt: skip
    made = plan(
        body(IPAM=ipam, EnableIPv6=True, Internal=True, Labels={"a": "b"}, Options={"o": "p"})
    )
    assert made == NetworkPlan(
        name="n",
        ipv4=AddressRange("10.1.0.0/24", "10.1.0.9", "10.1.0.128/25", {"p": "10.1.0.7"}),
        ipv6=AddressRange("fd00::/64"),
        internal=True,
        options={"o": "p"},
        labels={"a": "b"},
    )
    assert plan(body(IPAM=ipam)).ipv6 is None
    assert plan(body(Options={"com.docker.network.enable_ipv6": "true"})).ipv6 == AddressRange()


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"Name": ""}, InvalidParameter, "name is empty"),
        ({"Name": "a/b"}, InvalidParameter, "slash"),
        ({"Name": "default"}, Forbidden, "predefined default network"),
        ({"EnableIPv4": False}, InvalidParameter, "IPv4 or IPv6 must be enabled"),
        ({"EnableIPv4": False, "Driver": "macvlan"}, APIError, "operation not supported"),
        ({"ConfigOnly": True, "Internal": True}, Forbidden, "can only contain network specific fields"),
        ({"ConfigOnly": True, "ConfigFrom": {"Network": "x"}}, Forbidden, "cannot depend on another"),
        ({"ConfigFrom": {"Network": "x"}}, NotFound, 'configuration network "x" does not exist'),
        ({"IPAM": {"Driver": "x"}}, NotFound, 'plugin "x" not found'),
        ({"IPAM": {"Driver": "null"}}, InvalidParameter, "ipv4 pool is empty"),
        ({"IPAM": {"Driver": "null", "Config": [{"Subnet": "10.0.0.0/24"}]}}, InvalidParameter, "null ipam driver"),
        ({"IPAM": {"Config": [{"Gateway": "10.0.0.1"}]}}, InvalidParameter, "invalid subnet :"),
        ({"IPAM": {"Config": [{"Subnet": "10.0.0.0/255"}]}}, InvalidParameter, "CIDR block"),
        ({"IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "Gateway": "x"}]}}, InvalidParameter, "invalid address"),
        ({"IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "IPRange": "fd00::/64"}]}}, InvalidParameter, "is an IPv4 block"),
        ({"IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "IPRange": "10.0.0.1/25"}]}}, InvalidParameter,
         "it should be 10.0.0.0/25"),
        ({"IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "IPRange": "10.1.0.0/25"}]}}, InvalidParameter,
         "doesn't contain ip-range"),
        ({"Options": {"com.docker.network.enable_ipv6": "x"}}, InvalidParameter, "not a valid bool"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(keys: dict[str, Any], error: type[APIError], words: str) -> None:
    with pytest.raises(error) as caught:
        plan(body(**keys))
    assert words in caught.value.message


def test_inspect_shows_what_was_asked_for_and_else_what_was_chosen() -> None:
    asked = NetworkPlan("n", ipv4=AddressRange("10.1.0.0/24"))
    chosen = network("n", subnet="10.1.0.0/24", gateway="10.1.0.1", plan=asked)
    assert shown(chosen)["IPAM"]["Config"] == [{"Subnet": "10.1.0.0/24"}]
    free = network("n", subnet="10.1.0.0/24", gateway="10.1.0.1", plan=NetworkPlan("n"))
    assert shown(free)["IPAM"]["Config"] == [{"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.1"}]
    both = network("n", subnet="10.1.0.0/24", ipv6=AddressRange("fd00::/64", "fd00::1"))
    assert shown(both)["EnableIPv6"] is True
    assert shown(both)["IPAM"]["Config"][1] == {"Subnet": "fd00::/64", "Gateway": "fd00::1"}


def test_nics_are_in_the_clients_order_and_named_in_turn() -> None:
    a, b = network("a"), network("b")
    found = join({"b": {}, "later": {}, a.id[:8]: {}}, [nic(a), nic(b)], {"b": b, a.id[:8]: a})
    assert [one.interface for one in found.nics] == ["eth0", "eth1"]
    assert [one.network_uuid for one in found.nics] == [network_uuid(b.id), network_uuid(a.id)]
    assert list(found.asked) == ["b", "later", "a"]
    assert found.asked["a"] == {"NetworkID": a.id}
    named = join(
        {"a": {"DriverOpts": {networking.IFNAME: "eth1"}}, "b": {}}, [nic(a), nic(b)],
        {"a": a, "b": b}, first="eth1",
    )  # fmt: skip
    assert [one.interface for one in named.nics] == ["eth1", "eth2"]
    kept = join({"a": {}, "b": {}}, [nic(a, interface="eth1"), nic(b)], {"a": a, "b": b},
                kept=[nic(a, interface="eth1")])  # fmt: skip
    assert [one.interface for one in kept.nics] == ["eth1", "eth0"]


@pytest.mark.parametrize(
    ("asked", "leads_out"),
    [
        ({"b": {}, "a": {}}, "a"),
        ({"a": {}, "b": {"GwPriority": 1}}, "b"),
        ({"a": {"GwPriority": -1}, "b": {}}, "b"),
        ({"a": {}, "six": {}}, "six"),
        ({"aint": {"GwPriority": 9}, "b": {}}, "b"),
        ({"aint": {}}, "aint"),
    ],
)
def test_one_network_leads_out(asked: dict[str, Any], leads_out: str) -> None:
    networks = {
        "a": network("a"),
        "b": network("b"),
        "six": network("six", ipv6=AddressRange("fd00::/64")),
        "aint": network("aint", internal=True),
    }
    ips = {"six": ("10.0.0.2/24", "fd00::2/64")}
    nics = [nic(networks[name], ips=ips.get(name)) for name in asked]
    found = join(asked, nics, {name: networks[name] for name in asked})
    primary = [one.network_uuid for one in found.nics if one.primary]
    assert primary == [network_uuid(networks[leads_out].id)]


def test_what_was_asked_for_survives_the_metadata() -> None:
    settings = EndpointSettings.model_validate(
        {"IPAMConfig": {"IPv4Address": "10.0.0.9"}, "Aliases": ["a"], "GwPriority": 3,
         "MacAddress": "02:00:00:00:00:01", "DriverOpts": {"k": "v"}, "Links": ["c:d"]}
    )  # fmt: skip
    assert settings_of(asked_of(settings)) == settings
    on = network("n", subnet="10.0.0.0/24")
    found = join({"n": asked_of(settings)}, [], {"n": on}).endpoints[network_uuid(on.id)]
    assert found == Endpoint(
        aliases=("a",), links=("c:d",), static=(4,), gateway_priority=3, options={"k": "v"}
    )


def test_complaints_are_listed() -> None:
    assert networking.listed(["one"]) == "one"
    assert networking.listed(["one", "two\nthree"]) == "* one\n* two\n\tthree"
