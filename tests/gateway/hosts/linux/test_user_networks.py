"""Networks that clients make, with real packets: who reaches whom, what survives, what is left behind."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from dockerapi.errors import (
    APIError,
    Conflict,
    Forbidden,
    InvalidParameter,
    NotFound,
    NotSupported,
)
from gateway.hosts.linux import netlink
from gateway.hosts.linux.network import LinuxNetworks
from gateway.zones.host import AddressRange, NetworkPlan, NetworkRequest
from gateway.zones.members import ipv6
from gateway.zones.metadata import Endpoint, PublishedPort
from gateway.zones.spec import Nic, ZoneUUID
from tests.gateway.hosts.linux.netlab import (
    HOST,
    OUTSIDE,
    answering,
    ask,
    content,
    new_uuid,
    rules_of,
    there,
    wait_until,
    within,
)

pytestmark = pytest.mark.root

OURS = ("br-", "zg", "t0")
UNREACHED = "timed out|refused|unreachable|No route"
BRIDGE = "com.docker.network.bridge."


def planned(name: str, subnet: str = "", **more: object) -> NetworkPlan:
    return NetworkPlan(name, ipv4=AddressRange(subnet), **more)  # type: ignore[arg-type]


async def on(
    networks: LinuxNetworks, *names: str, ports: tuple[PublishedPort, ...] = (), **asked: str
) -> tuple[ZoneUUID, tuple[Nic, ...], str]:
    """A running zone on these networks; the first leads out."""
    uuid = new_uuid()
    nics = tuple(
        networks.lease(uuid, NetworkRequest(name, **asked)).model_copy(
            update={"interface": f"eth{number}", "primary": True if number == 0 else None}
        )
        for number, name in enumerate(names)
    )
    attachment = await networks.connect(uuid, nics, ports, endpoint="web")
    return uuid, nics, attachment.netns_path


def cannot(path: str | int | None, address: str, port: int) -> None:
    with pytest.raises(OSError, match=UNREACHED):
        ask(path, address, port, timeout_s=0.2)


def address(nic: Nic) -> str:
    assert nic.ip is not None
    return nic.ip


async def test_zones_of_a_network_reach_each_other_and_no_others(networks: LinuxNetworks) -> None:
    await networks.create(planned("one"))
    await networks.create(planned("two"))
    _, (first,), first_ns = await on(networks, "one")
    _, (second,), second_ns = await on(networks, "one")
    _, (third,), third_ns = await on(networks, "two")
    _, _, fourth_ns = await on(networks, "bridge")
    with answering(first_ns, 80), answering(third_ns, 80):
        assert ask(second_ns, address(first), 80) == second.ip
        cannot(second_ns, address(third), 80)
        cannot(third_ns, address(first), 80)
        cannot(fourth_ns, address(first), 80)
        assert ask(None, address(first), 80) == networks.get("one").gateway


async def test_a_networks_bridge_takes_what_127_0_0_1_sends_to_published_ports(
    networks: LinuxNetworks,
) -> None:
    await networks.create(planned("let", options={BRIDGE + "name": "let0"}))
    settings = Path("/proc/sys/net/ipv4/conf")
    assert (settings / "let0" / "route_localnet").read_text() == "1\n"
    assert (settings / "lo" / "route_localnet").read_text() == "0\n"


async def test_an_internal_network_leads_nowhere(networks: LinuxNetworks, outside: int) -> None:
    await networks.create(planned("inner", internal=True))
    await networks.create(planned("outer"))
    uuid, (first,), path = await on(
        networks, "inner", ports=(PublishedPort(zone_port=80, host_port=8080),)
    )
    _, (second,), neighbour = await on(networks, "inner")
    _, _, outer = await on(networks, "outer")
    assert first.gateway is None
    with answering(path, 80), answering(outside, 443):
        assert ask(neighbour, address(first), 80) == second.ip
        cannot(path, OUTSIDE, 443)
        cannot(None, "127.0.0.1", 8080)
        assert ask(outer, OUTSIDE, 443) == HOST
    await networks.disconnect(uuid)


async def test_without_icc_zones_reach_the_outside_and_not_each_other(
    networks: LinuxNetworks, outside: int
) -> None:
    await networks.create(planned("alone", options={BRIDGE + "enable_icc": "false"}))
    _, (first,), first_ns = await on(networks, "alone")
    _, _, second_ns = await on(networks, "alone")
    with answering(first_ns, 80), answering(outside, 443):
        cannot(second_ns, address(first), 80)
        assert ask(second_ns, OUTSIDE, 443) == HOST
        assert ask(None, address(first), 80) == networks.get("alone").gateway


async def test_options_of_a_bridge_are_kept(networks: LinuxNetworks, outside: int) -> None:
    options = {
        BRIDGE + "name": "mine0",
        BRIDGE + "host_binding_ipv4": "127.0.0.1",
        BRIDGE + "enable_ip_masquerade": "false",
        "com.docker.network.driver.mtu": "1400",
        "com.example.other": "theirs",
    }
    await networks.create(planned("opts", options=options))
    uuid, _, path = await on(networks, "opts", ports=(PublishedPort(zone_port=80, host_port=8081),))
    assert socket.if_nametoindex("mine0")
    assert within(path, _mtu) == 1400
    assert [port.host_ip for port in networks._published.ports(uuid)] == ["127.0.0.1"]
    with answering(path, 80), answering(outside, 443):
        assert ask(None, "127.0.0.1", 8081)
        cannot(outside, HOST, 8081)
        cannot(path, OUTSIDE, 443)  # its answers find no way back


def _mtu() -> int:
    route = netlink.RouteSocket()
    try:
        link = route.link("eth0")
        assert link is not None
        return link.mtu
    finally:
        route.close()


async def test_a_zone_can_send_as_itself_only(networks: LinuxNetworks) -> None:
    await networks.create(planned("n", "10.202.0.0/24"))
    await networks.create(
        planned("free", "10.203.0.0/24", options={"zonegate.network.allow_spoofing": "true"})
    )
    for name, subnet, reaches in (("n", "10.202.0", False), ("free", "10.203.0", True)):
        _, (server,), server_ns = await on(networks, name)
        _, _, liar_ns = await on(networks, name)
        lie(liar_ns, f"{subnet}.77/24")
        with answering(server_ns, 80):
            assert ask(liar_ns, address(server), 80) != f"{subnet}.77"
            if reaches:
                assert _ask_as(liar_ns, f"{subnet}.77", address(server)) == f"{subnet}.77"
            else:
                with pytest.raises(OSError, match=UNREACHED):
                    _ask_as(liar_ns, f"{subnet}.77", address(server))


def lie(path: str, address: str) -> None:
    """The zone gives itself one more address."""

    def go() -> None:
        route = netlink.RouteSocket()
        try:
            route.execute(netlink.add_address(route.index_of("eth0"), IPv4Interface(address)))
        finally:
            route.close()

    within(path, go)


def _ask_as(path: str, source: str, to: str) -> str:
    def go() -> str:
        with socket.socket() as client:
            client.settimeout(0.3)
            client.bind((source, 0))
            client.connect((to, 80))
            return client.recv(100).decode()

    return within(path, go)


async def test_both_versions_of_ip(networks: LinuxNetworks) -> None:
    made = await networks.create(planned("six", ipv6=AddressRange()))
    assert made.ipv6 is not None
    assert made.ipv6.subnet.startswith("fd")
    _, (first,), first_ns = await on(networks, "six")
    _, (second,), second_ns = await on(networks, "six")
    there6, here6 = ipv6(first), ipv6(second)
    assert there6 is not None
    assert here6 is not None

    def listen() -> socket.socket:
        server = socket.socket(socket.AF_INET6)
        server.bind(("::", 80))
        server.listen(1)
        return server

    def call() -> str:
        with socket.socket(socket.AF_INET6) as client:
            client.settimeout(2)
            client.connect((str(there6.ip), 80))
            return str(client.getsockname()[0])

    with within(first_ns, listen):
        assert within(second_ns, call) == str(here6.ip)
    asked = await networks.create(
        planned("six2", "10.204.0.0/24", ipv6=AddressRange("fd00:7::/64", "fd00:7::9"))
    )
    assert asked.ipv6 is not None
    assert asked.ipv6.gateway == "fd00:7::9"
    uuid = new_uuid()
    nic = networks.lease(uuid, NetworkRequest("six2", address6="fd00:7::77"))
    assert nic.ips == ("10.204.0.2/24", "fd00:7::77/64")
    with pytest.raises(Forbidden, match="Pool overlaps"):
        await networks.create(planned("six3", ipv6=AddressRange("fd00:7::/48")))


async def test_a_running_zone_joins_and_leaves_and_its_ports_follow(
    networks: LinuxNetworks,
) -> None:
    await networks.create(planned("one"))
    await networks.create(planned("two"))
    ports = (PublishedPort(zone_port=80, host_port=8082),)
    uuid, (first,), path = await on(networks, "one", ports=ports)
    _, (neighbour,), neighbour_ns = await on(networks, "two")
    second = networks.lease(uuid, NetworkRequest("two")).model_copy(
        update={"interface": "eth1", "primary": None}
    )
    taken = networks._published.ports(uuid)
    with answering(path, 80):
        cannot(neighbour_ns, address(second), 80)
        assert await networks.rejoin(uuid, (first, second), ports) == taken
        assert ask(neighbour_ns, address(second), 80) == neighbour.ip
        assert ask(None, networks.get("one").gateway, 8082)
        alone = second.model_copy(update={"primary": True})
        assert await networks.rejoin(uuid, (alone,), ports) == taken
        cannot(None, address(first), 80)
        assert ask(None, networks.get("two").gateway, 8082)
        assert await networks.rejoin(uuid, (), ports) == ()
        cannot(None, networks.get("two").gateway, 8082)
        assert [port.host_port for port in await networks.rejoin(uuid, (alone,), ports)] == [
            8082
        ] * 2
        assert ask(neighbour_ns, address(second), 80) == neighbour.ip
    await networks.disconnect(uuid)
    assert "8082" not in rules_of("t")


async def test_joining_that_fails_changes_nothing(networks: LinuxNetworks) -> None:
    await networks.create(planned("one"))
    await networks.create(planned("two", "10.205.0.0/24"))
    uuid, (first,), path = await on(networks, "one")
    await on(networks, "two", address="10.205.0.9")
    second = networks.lease(uuid, NetworkRequest("two", address="10.205.0.9")).model_copy(
        update={"interface": "eth1", "primary": None}
    )
    with pytest.raises(Forbidden, match="Address already in use"):
        await networks.rejoin(uuid, (first, second), ())
    bad = second.model_copy(update={"ip": "10.205.0.8", "interface": "eth0"})
    with pytest.raises(APIError):
        await networks.rejoin(uuid, (first, bad), ())
    with answering(path, 80):
        assert ask(None, address(first), 80) == networks.get("one").gateway


async def test_sysctls_and_names_of_an_endpoint(networks: LinuxNetworks) -> None:
    await networks.create(planned("one"))
    uuid = new_uuid()
    nic = networks.lease(uuid, NetworkRequest("one")).model_copy(update={"interface": "web0"})
    options = {
        "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.forwarding=0"
    }
    endpoints = {str(nic.network_uuid): Endpoint(options=options)}
    made = await networks.connect(uuid, [nic], (), endpoints=endpoints)
    folder = "/proc/sys/net/ipv4/conf/web0"
    seen = within(
        made.netns_path,
        lambda: (content(f"{folder}/log_martians"), content(f"{folder}/forwarding")),
    )
    assert seen == ("1\n", "0\n")
    options = {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.nope=1"}
    with pytest.raises(InvalidParameter, match="cannot set sysctl"):
        await networks.connect(
            uuid, [nic], (), endpoints={str(nic.network_uuid): Endpoint(options=options)}
        )


@pytest.mark.parametrize(
    ("plan", "error", "words"),
    [
        (planned("taken"), Conflict, "network with name taken already exists"),
        (planned("x", "10.206.0.0/16"), Forbidden, "Pool overlaps with other one"),
        (planned("x", driver="host"), Forbidden, 'only one instance of "host"'),
        (planned("x", driver="overlay"), Forbidden, "not a swarm manager"),
        (planned("x", driver="nope"), NotFound, 'plugin "nope" not found'),
        (planned("x", options={BRIDGE + "enable_icc": "x"}), InvalidParameter, "enable_icc value: x"),
        (planned("x", options={BRIDGE + "nope": "x"}), NotSupported, "nope is not supported"),
        (planned("x", options={BRIDGE + "name": "lo"}), InvalidParameter, "is no bridge"),
        (planned("x", options={BRIDGE + "name": "used0"}), Forbidden, "same bridge name"),
        (planned("x", options={"com.docker.network.driver.mtu": "1"}), APIError, "invalid argument"),
        (planned("x", driver="macvlan", options={"parent": "nope0"}), InvalidParameter, "nope0"),
        (planned("x", driver="macvlan", options={"macvlan_mode": "y"}), InvalidParameter, "mode 'y'"),
        (planned("x", driver="ipvlan", options={"ipvlan_flag": "y"}), InvalidParameter, "flag 'y'"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_and_leaves_nothing(
    plan: NetworkPlan, error: type[APIError], words: str, networks: LinuxNetworks,
    machine: netlink.RouteSocket, tmp_path: Path,
) -> None:  # fmt: skip
    await networks.create(planned("taken", "10.206.1.0/24"))
    await networks.create(planned("used", options={BRIDGE + "name": "used0"}))
    before = sorted(link.name for link in machine.links()), rules_of("t")
    with pytest.raises(error, match=words):
        await networks.create(plan)
    assert (sorted(link.name for link in machine.links()), rules_of("t")) == before
    assert len(list((tmp_path / "t" / "state" / "user").iterdir())) == 2


async def test_removal_leaves_nothing(
    networks: LinuxNetworks, machine: netlink.RouteSocket, tmp_path: Path
) -> None:
    before = sorted(link.name for link in machine.links()), rules_of("t")
    made = await networks.create(planned("gone", "10.207.0.0/24", ipv6=AddressRange()))
    uuid, _, _ = await on(networks, "gone")
    with pytest.raises(Forbidden, match="has active endpoints"):
        await networks.remove("gone")
    assert networks.leased(made.id) == (uuid,)
    await networks.disconnect(uuid)
    await networks.remove("gone")
    assert networks.leased(made.id) == ()
    with pytest.raises(NotFound):
        networks.get(made.id)
    # A namespace without a name takes its moment to end.
    wait_until(lambda: sorted(link.name for link in machine.links()) == before[0])
    assert rules_of("t") == before[1]
    assert not list((tmp_path / "t" / "state" / "user").iterdir())
    await networks.create(planned("again", "10.207.0.0/24"))


async def test_networks_and_their_zones_outlast_the_gateway(
    opened: Callable[..., LinuxNetworks], machine: netlink.RouteSocket, tmp_path: Path
) -> None:
    first = opened()
    await first.adopt({})
    await first.create(planned("stays", "10.208.0.0/24", labels={"a": "b"}))
    uuid, nics, path = await on(
        first, "stays", ports=(PublishedPort(zone_port=80, host_port=8083),)
    )
    gone, _, _ = await on(first, "stays")
    ports = first._published.ports(uuid)
    half = await first.create(planned("half"))
    record = tmp_path / "t" / "state" / "user" / f"{half.id}.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"ready": False}))
    await first.close(remove=False)
    second = opened()
    second.learn(uuid, nics)
    await second.adopt({uuid: (nics, ports)})
    assert second.get("stays").labels == {"a": "b"}
    with pytest.raises(NotFound):
        second.get("half")
    assert not record.exists()
    assert f"br-{half.id[:12]}" not in {link.name for link in machine.links()}
    assert not there(second.netns_path(gone))
    _, (other,), other_ns = await on(second, "stays")
    assert other.ip != nics[0].ip
    with answering(path, 80):
        assert ask(other_ns, address(nics[0]), 80) == other.ip
        assert ask(None, "10.208.0.1", 8083)
        lie(path, "10.208.0.99/24")
        with pytest.raises(OSError, match=UNREACHED):
            ask(other_ns, "10.208.0.99", 80, timeout_s=0.2)
    (tmp_path / "t" / "state" / "user" / "broken.json").write_text("{")
    await second.close(remove=True)
    wait_until(lambda: not any(link.name.startswith(OURS) for link in machine.links()))
    third = opened()
    await third.adopt({})
    assert third.get("stays").subnet == "10.208.0.0/24"
    assert socket.if_nametoindex(f"br-{third.get('stays').id[:12]}")
    await third.close(remove=True)


async def test_what_a_kill_left_half_joined_is_mended(
    opened: Callable[..., LinuxNetworks], machine: netlink.RouteSocket
) -> None:
    first = opened()
    await first.adopt({})
    await first.create(planned("one", "10.210.0.0/24"))
    await first.create(planned("two", "10.211.0.0/24"))
    joining, (early,), joining_ns = await on(first, "one")
    extra = first.lease(joining, NetworkRequest("two")).model_copy(
        update={"interface": "eth1", "primary": None}
    )
    await first.rejoin(joining, (early, extra), ())
    leaving, (stays, goes), leaving_ns = await on(first, "one", "two")
    await first.rejoin(leaving, (stays,), ())
    await first.close(remove=False)
    second = opened()
    # What the records say of both is what was before the change.
    records = {joining: ((early,), ()), leaving: ((stays, goes), ())}
    for uuid, (nics, _) in records.items():
        second.learn(uuid, nics)
    await second.adopt(records)
    links = {link.alias.removeprefix("zonegate t ") for link in machine.links()}
    assert f"{joining} {extra.network_uuid}" not in links
    assert f"{leaving} {goes.network_uuid}" in links
    _, (third,), third_ns = await on(second, "two")
    with answering(leaving_ns, 80), answering(joining_ns, 80):
        assert ask(third_ns, address(goes), 80) == third.ip
        assert ask(leaving_ns, address(early), 80) == stays.ip
    await second.close(remove=True)


@pytest.fixture
def lan(machine: netlink.RouteSocket) -> Iterator[str]:
    """A network that is there already, behind an interface of the machine."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    machine.execute(
        netlink.new_veth(
            "lan0", index=9100, bridge=0, netns_fd=here, peer="lan1", peer_index=9101,
            mac="02:00:00:00:00:09", mtu=None,
        )
    )  # fmt: skip
    os.close(here)
    for name in ("lan0", "lan1"):
        machine.execute(netlink.link_up(socket.if_nametoindex(name)))
    yield "lan0"
    forget(machine, "lan0")


def can_make(machine: netlink.RouteSocket, kind: str) -> bool:
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    parent = machine.index_of("lan0")
    attempts = {
        "dummy": netlink.new_dummy("probe9"),
        "vlan": netlink.new_vlan("probe9", parent, 9),
        **{
            kind: netlink.new_on_parent(
                kind, mode, 0, parent=parent, name="probe9", index=9200, netns_fd=here,
                mac="02:00:00:00:00:0a", mtu=None,
            )
            for kind, mode in (("macvlan", 4), ("ipvlan", 0))
        },
    }  # fmt: skip
    try:
        machine.execute(attempts[kind])
    except netlink.NetlinkError:
        return False
    finally:
        os.close(here)
    forget(machine, "probe9")
    return True


def forget(machine: netlink.RouteSocket, name: str) -> None:
    if index := machine.index_of(name):
        machine.execute(netlink.delete_link(index))


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("macvlan", {"parent": "lan0"}),
        ("macvlan", {"parent": "lan0.50"}),
        ("macvlan", {}),
        ("ipvlan", {"parent": "lan0"}),
        ("ipvlan", {"parent": "lan0", "ipvlan_mode": "l3"}),
    ],
)
async def test_zones_on_a_network_of_the_machine(
    driver: str, options: Mapping[str, str], lan: str, networks: LinuxNetworks,
    machine: netlink.RouteSocket,
) -> None:  # fmt: skip
    before = {link.name for link in machine.links()}
    kind = driver if options.get("parent") == "lan0" else "vlan" if options else "dummy"
    if not can_make(machine, kind):
        pytest.skip(f"this kernel has no {kind} interfaces")
    made = await networks.create(planned("lan", "10.209.0.0/24", driver=driver, options=options))
    assert made.internal is (not options)
    first_uuid, (first,), first_ns = await on(
        networks, "lan", ports=(PublishedPort(zone_port=80, host_port=8084),)
    )
    second_uuid, (second,), second_ns = await on(networks, "lan")
    assert networks._published.ports(first_uuid) == ()
    with answering(first_ns, 80):
        assert ask(second_ns, address(first), 80) == second.ip
    await networks.disconnect(first_uuid)
    await networks.disconnect(second_uuid)
    await networks.remove("lan")
    wait_until(lambda: {link.name for link in machine.links()} == before)
