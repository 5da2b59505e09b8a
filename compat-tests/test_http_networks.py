"""Bodies and filters of /networks that cannot be meant, one row each: status and message, against what dockerd said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from compat import rows
from compat.answers import Recording
from compat.clients import API
from compat.rows import Instead, Row, row

GO = "fields within fields are told of as Go 1.24 tells of them"
BRIDGE = "com.docker.network.bridge."
MTU = "com.docker.network.driver.mtu"
FILTERS = "/networks?filters="


def made(name: str, body: dict[str, Any], **more: Any) -> Row:
    """A network's creation that is refused."""
    return row(f"network: {name}", "POST /networks/create", {"Name": "nwx"} | body, **more)


def subnet(name: str, config: Any, **more: Any) -> Row:
    """One with something in its IPAM.Config."""
    wants_ipv6 = {"EnableIPv6": True} if ":" in str(config) and "fd" in str(config) else {}
    return made(name, {"IPAM": {"Config": [config]}} | wants_ipv6, **more)


def option(name: str, key: str, value: str, **more: Any) -> Row:
    """One with something in its Options."""
    return made(f"option {name}", {"Options": {key: value}}, **more)


def joined(name: str, settings: Any, path: str = "nw1", **more: Any) -> Row:
    """A connection of a container that runs, which is refused."""
    body = {"Container": "c1", "EndpointConfig": settings}
    return row(f"connect: {name}", f"POST /networks/{path}/connect", body, **more)


def nested(status: int = 400) -> dict[str, Any]:
    instead: Instead = (status, None)
    return {"ours": instead, "why": GO}


TYPES = [
    row("network: nothing", "POST /networks/create", {}),
    made("a name that is a number", {"Name": 1}),
    made("an empty name", {"Name": ""}),
    made("a name of blanks", {"Name": " "}),
    made("a driver that is a number", {"Driver": 1}),
    made("IPAM that is a number", {"IPAM": 1}, **nested()),
    made("ranges that are a number", {"IPAM": {"Config": 1}}, **nested()),
    made("a range that is a number", {"IPAM": {"Config": [1]}}, **nested()),
    made("a subnet that is a number", {"IPAM": {"Config": [{"Subnet": 1}]}}, **nested()),
    made(
        "auxiliary addresses that are a number",
        {"IPAM": {"Config": [{"AuxiliaryAddresses": 1}]}},
        **nested(),
    ),
    made("labels that are a list", {"Labels": ["a"]}),
    made("a label that is a number", {"Labels": {"a": 1}}),
    made("an option that is a number", {"Options": {"a": 1}}),
    made("options that are a list", {"Options": []}),
    made("EnableIPv6 that is a text", {"EnableIPv6": "yes"}),
    made("Internal that is a text", {"Internal": "true"}),
    made("Internal that is a number", {"Internal": 1}),
    made("a configuration that is a text", {"ConfigFrom": "yes"}, **nested()),
]
RANGES = [
    subnet("a range of nothing", {}),
    subnet("a range that is null", None),
    subnet("a range without its subnet", {"IPRange": "10.78.1.0/24"}),
    subnet("a gateway without its subnet", {"Gateway": "10.78.1.1"}),
    subnet("an auxiliary address without its subnet", {"AuxiliaryAddresses": {"a": "10.78.1.1"}}),
    subnet("a subnet without a length", {"Subnet": "10.78.1.0"}),
    subnet("a subnet with too long a length", {"Subnet": "10.78.1.0/33"}),
    subnet("a subnet with zeros before its length", {"Subnet": "10.78.1.0/024"}),
    subnet("a subnet with zeros before a number", {"Subnet": "10.78.01.0/24"}),
    subnet("a subnet with a blank", {"Subnet": " 10.78.1.0/24"}),
    subnet("a subnet with an address of a host", {"Subnet": "10.78.1.5/24"}),
    subnet("a gateway that is no address", {"Subnet": "10.78.1.0/24", "Gateway": "x"}),
    subnet("a gateway elsewhere", {"Subnet": "10.78.1.0/24", "Gateway": "10.78.2.1"}),
    subnet("a gateway with the address of the subnet", {"Subnet": "10.78.1.0/24", "Gateway": "10.78.1.0"}),
    subnet("a gateway with the address of all", {"Subnet": "10.78.1.0/24", "Gateway": "10.78.1.255"}),
    subnet("a gateway with the address of an IPv6 subnet", {"Subnet": "fd78:1::/64", "Gateway": "fd78:1::"}),
    subnet("an auxiliary address that the gateway has", {
        "Subnet": "10.78.1.0/24", "Gateway": "10.78.1.9", "AuxiliaryAddresses": {"a": "10.78.1.9"}}),
    subnet("an auxiliary address with the address of all", {
        "Subnet": "10.78.1.0/24", "Gateway": "10.78.1.1", "AuxiliaryAddresses": {"a": "10.78.1.255"}}),
    subnet("an auxiliary address elsewhere", {
        "Subnet": "10.78.1.0/24", "AuxiliaryAddresses": {"a": "10.79.1.9"}}),
    made("two names of an auxiliary address", {"IPAM": {"Config": [
        {"Subnet": "10.78.1.0/24", "AuxiliaryAddresses": {"a": "10.78.1.9", "b": "10.78.1.9"}}]}},
        ours=(500, r"re:failed to allocate secondary ip address \([ab]:IP\): Address already in use"),
        why="dockerd takes them in any order"),
    made("a subnet that overlaps", {"IPAM": {"Config": [{"Subnet": "10.77.0.0/16"}]}}),
    made("two subnets", {"IPAM": {"Config": [{"Subnet": "10.78.1.0/24"}, {"Subnet": "10.78.2.0/24"}]}}),
    made("an unknown IPAM driver", {"IPAM": {"Driver": "nope"}}),
]  # fmt: skip
SCOPES = [
    made("of a swarm", {"Scope": "swarm"}),
    made("of the ingress", {"Ingress": True}),
    made("of another driver", {"Driver": "nope"}),
    made("of the host", {"Driver": "host"}),
    row("network: scope of another", "GET /networks/nw1?scope=swarm"),
]
NO_BRIDGE = {"smartos": (501, r"re:network option .* is not supported on SmartOS")}
OPTIONS = [
    option("a long name", BRIDGE + "name", "waytoolongbridgename", **NO_BRIDGE),
    option("a name with a slash", BRIDGE + "name", "a/b", **NO_BRIDGE),
    option("a name with a blank", BRIDGE + "name", "a b", **NO_BRIDGE),
    option("a name of a dot", BRIDGE + "name", ".", **NO_BRIDGE),
    option("icc maybe", BRIDGE + "enable_icc", "maybe", **NO_BRIDGE),
    option("masquerade maybe", BRIDGE + "enable_ip_masquerade", "maybe", **NO_BRIDGE),
    option("a binding that is no address", BRIDGE + "host_binding_ipv4", "x", **NO_BRIDGE),
    option("mtu x", MTU, "x"),
    option("mtu empty", MTU, ""),
    option("mtu negative", MTU, "-1"),
    option("mtu too large", MTU, "70000", smartos=(400, f"invalid value for {MTU}: 70000: 576 to 9000")),
    option("mtu too small", MTU, "67", smartos=(400, f"invalid value for {MTU}: 67: 576 to 9000")),
]  # fmt: skip
CONNECTIONS = [
    joined("settings that are a number", 1, **nested()),
    joined("ranges that are a number", {"IPAMConfig": 1}, **nested()),
    joined("aliases that are a text", {"Aliases": "x"}),
    joined("links that are an object", {"Links": {}}),
    joined("a priority that is a text", {"GwPriority": "1"}, ours=(400, r"re:.*EndpointConfig.GwPriority of type int64"), why="whole numbers are told of as int64"),
    joined("options that are a list", {"DriverOpts": []}),
    joined("an address that is none", {"IPAMConfig": {"IPv4Address": "x"}}),
    joined("an address elsewhere", {"IPAMConfig": {"IPv4Address": "10.79.1.9"}}),
    joined("the address of the gateway", {"IPAMConfig": {"IPv4Address": "10.77.1.1"}}),
    joined("the address of the subnet", {"IPAMConfig": {"IPv4Address": "10.77.1.0"}}),
    joined("the address of all", {"IPAMConfig": {"IPv4Address": "10.77.1.255"}}),
    joined("an IPv6 address that is none", {"IPAMConfig": {"IPv6Address": "x"}}),
    joined("a wrong MAC address", {"MacAddress": "zz"}),
    joined("an unknown network", {}, "nwnope"),
    row("connect: nobody", "POST /networks/nw1/connect", {}),
    row("connect: unknown container", "POST /networks/nw1/connect", {"Container": "nobody"}),
    row("disconnect: force that is a text", "POST /networks/nw1/disconnect", {"Container": "c1", "Force": "yes"}),
    row("disconnect: who is not on it", "POST /networks/nw1/disconnect", {"Container": "c1"}),
    row("disconnect: who is not there, by force", "POST /networks/nw1/disconnect", {"Container": "nobody", "Force": True}),
    row("create: an endpoint of null", "POST /containers/create", {
        "Image": "bb", "NetworkingConfig": {"EndpointsConfig": {"nw1": None}}}),
    row("create: a terminal that is a text", "POST /containers/create", {"Image": "bb", "Tty": "yes"}, **nested()),
    row("create: the namespace of nobody", "POST /containers/create", {
        "Image": "bb", "HostConfig": {"NetworkMode": "container:"}}),
]  # fmt: skip
LISTS = [
    row("networks: filters that are none", "GET " + FILTERS + "zz"),
    row("networks: a filter of numbers", "GET " + FILTERS + quote('{"name":[1]}')),
    row("networks: an unknown filter", "GET " + FILTERS + quote('{"before":["x"]}')),
    row("networks: a wrong type", "GET " + FILTERS + quote('{"type":["x"]}')),
    row("networks: dangling maybe", "GET " + FILTERS + quote('{"dangling":["x"]}')),
    row("networks: prune by what is no filter", "POST /networks/prune?filters=" + quote('{"dangling":["true"]}')),
    row("networks: prune until never", "POST /networks/prune?filters=" + quote('{"until":["zz"]}')),
]  # fmt: skip
ROWS = (*TYPES, *RANGES, *SCOPES, *OPTIONS, *CONNECTIONS, *LISTS)


@pytest.fixture(scope="module")
def there(daemon: Any, registry: str) -> Iterator[None]:
    """A network, and a container that runs elsewhere."""
    api = API(daemon.socket)
    config = {"Config": [{"Subnet": "10.77.1.0/24"}]}
    api.ok("POST", "/networks/create", {"Name": "nw1", "IPAM": config})
    api.ok("POST", "/networks/create", {"Name": "nw2"})
    body = {
        "Image": "bb",
        "Cmd": ["sleep", "1000"],
        "Labels": {"keep": ""},
        "HostConfig": {"NetworkMode": "nw2"},
    }
    api.ok("POST", "/containers/create?name=c1", body)
    api.ok("POST", "/containers/c1/start")
    yield
    api("DELETE", "/containers/c1?force=1")
    for name in ("nw1", "nw2"):
        api("DELETE", f"/networks/{name}")


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("case", ROWS, ids=str)
def test_the_request_is_answered_as_dockerd_does(
    case: Row, recording: Recording, api: API, names: dict[str, str]
) -> None:
    rows.check(case, recording, api, {}, names)
    assert api("GET", "/networks/nwx").status == 404


def test_ranges_that_were_asked_for_are_shown_before_those_that_were_chosen(
    api: API, recording: Recording
) -> None:
    config = [{"Subnet": "fd78:1::/64", "AuxiliaryAddresses": {"a": "fd78:1::9"}}]
    body = {"Name": "nwx", "EnableIPv6": True, "IPAM": {"Config": config, "Options": {"k": "v"}}}
    api.ok("POST", "/networks/create", body)
    try:
        shown = api.ok("GET", "/networks/nwx")["IPAM"]
    finally:
        api.ok("DELETE", "/networks/nwx")
    chosen = shown["Config"].pop()
    answer = {"chosen": sorted(chosen), "asked": shown}
    if recording.taking:
        recording.put("ranges that were asked for", answer)
    assert answer == recording.get("ranges that were asked for")
