"""How zones are reached by their networks' gateway modes, in both versions of IP, with real packets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Interface

import pytest

from dockerapi.errors import APIError, Forbidden, InvalidParameter
from gateway.hosts.linux import netlink, nft
from gateway.hosts.linux.bridges import write_sysctl
from gateway.hosts.linux.netns import inside, write_sysctls
from gateway.hosts.linux.network import LinuxNetworks
from gateway.zones.host import AddressRange, NetworkPlan, NetworkRequest
from gateway.zones.members import ipv4, ipv6
from gateway.zones.metadata import Endpoint, PublishedPort
from gateway.zones.spec import Nic, ZoneUUID
from tests.gateway.hosts.linux.netlab import HOST, OUTSIDE, new_uuid, within

pytestmark = pytest.mark.root
BRIDGE = "com.docker.network.bridge."
HOST6, OUTSIDE6 = "fd99::1", "fd99::2"
WEB = PublishedPort(zone_port=80, host_port=8080)


@pytest.fixture
def router(machine: netlink.RouteSocket, outside: int) -> Iterator[int]:
    """The other machine, with IPv6 and with a way to the zones' own addresses."""
    write_sysctls(outside, {"ipv6/conf/eth0/disable_ipv6": "0"})
    # Its link-local address at once: by that the machine looks for the other one.
    for key, value in (("disable_ipv6", "1"), ("accept_dad", "0"), ("disable_ipv6", "0")):
        write_sysctl(f"net/ipv6/conf/out0/{key}", value)
    index = socket.if_nametoindex("out0")
    machine.execute(netlink.add_address(index, IPv6Interface(f"{HOST6}/64")))
    with inside(outside):
        route = netlink.RouteSocket()
    route.execute(
        netlink.add_address(50, IPv6Interface(f"{OUTSIDE6}/64")),
        netlink.default_route(IPv4Address(HOST), 50),
        netlink.default_route(IPv6Address(HOST6), 50),
    )
    yield outside
    route.close()


async def made(networks: LinuxNetworks, name: str, *, ipv4: bool = True, **more: object) -> None:
    plan = NetworkPlan(name, ipv6=AddressRange(), enable_ipv4=ipv4, **more)  # type: ignore[arg-type]
    await networks.create(plan)


async def on(
    networks: LinuxNetworks, name: str, *ports: PublishedPort, **asked: str
) -> tuple[ZoneUUID, Nic, str]:
    uuid = new_uuid()
    nic = networks.lease(uuid, NetworkRequest(name, **asked))
    nic = nic.model_copy(update={"interface": "eth0"})
    attachment = await networks.connect(uuid, [nic], ports, endpoint="web")
    return uuid, nic, attachment.netns_path


def own(nic: Nic, version: int) -> str:
    found = ipv4(nic) if version == 4 else ipv6(nic)
    assert found is not None
    return str(found.ip)


def met(
    client: str | int | None, server: str, to: str, port: int, at: int = 80, timeout_s: float = 5
) -> str:
    """Whom the server, at a port of a namespace, sees when the client goes to an address; OSError if nobody comes."""

    def listen() -> socket.socket:
        # Of both versions.
        return socket.create_server(("::", at), family=socket.AF_INET6, dualstack_ipv6=True)

    def connect() -> socket.socket:
        return socket.create_connection((to, port), timeout=timeout_s)

    with within(server, listen) as listening:
        listening.settimeout(2)
        with within(client, connect) if client is not None else connect():
            connection, peer = listening.accept()
            connection.close()
            return str(peer[0]).removeprefix("::ffff:")


def not_met(client: str | int | None, server: str, to: str, port: int, at: int = 80) -> None:
    with pytest.raises(OSError, match=r"timed out|refused|unreachable|No route"):
        met(client, server, to, port, at, timeout_s=0.3)


async def test_a_port_is_led_to_a_zone_with_ipv6_by_rules(
    networks: LinuxNetworks, router: int
) -> None:
    await made(networks, "six")
    uuid, nic, path = await on(networks, "six", WEB)
    assert met(router, path, HOST, 8080) == OUTSIDE
    assert met(router, path, HOST6, 8080) == OUTSIDE6
    not_met(router, path, own(nic, 4), 80)
    not_met(router, path, own(nic, 6), 80)
    # From the zone itself, from another network, from the machine's own address.
    assert met(path, path, HOST6, 8080)
    _, _, neighbour = await on(networks, "bridge")
    assert met(neighbour, path, HOST, 8080)
    assert met(None, path, HOST6, 8080)
    await networks.disconnect(uuid)
    with pytest.raises(OSError, match=r"timed out|refused"):
        within(router, lambda: socket.create_connection((HOST6, 8080), timeout=0.5))


async def test_a_port_at_an_ipv6_address_is_only_there(
    networks: LinuxNetworks, router: int
) -> None:
    await made(networks, "six")
    _, _, path = await on(
        networks, "six", PublishedPort(zone_port=80, host_ip=HOST6, host_port=8080)
    )
    assert met(router, path, HOST6, 8080) == OUTSIDE6
    not_met(router, path, HOST, 8080)


async def test_a_udp_client_finds_the_zone_that_took_over_the_port_by_ipv6(
    networks: LinuxNetworks, router: int
) -> None:
    await made(networks, "six")
    udp = PublishedPort(protocol="udp", zone_port=53, host_port=5353)

    def open_client() -> socket.socket:
        client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        client.connect((HOST6, 5353))
        return client

    def open_server() -> socket.socket:
        server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        server.settimeout(5)
        server.bind(("::", 53))
        return server

    with within(router, open_client) as client:
        client.settimeout(5)
        for _ in range(2):
            uuid, _, path = await on(networks, "six", udp)
            with within(path, open_server) as server:
                client.send(b"?")
                data, peer = server.recvfrom(100)
                server.sendto(data, peer)
                assert (client.recv(100), peer[0]) == (b"?", OUTSIDE6)
            await networks.disconnect(uuid)


async def test_a_network_of_ipv6_alone(networks: LinuxNetworks, router: int) -> None:
    await made(networks, "only", ipv4=False)
    network = networks.get("only")
    assert (network.subnet, network.gateway) == ("", "")
    uuid, nic, path = await on(networks, "only", WEB)
    assert (nic.ip, len(nic.ips or ()), bool(nic.mac)) == (None, 1, True)
    assert [(p.host_ip, p.host_port) for p in networks._published.ports(uuid)] == [("::", 8080)]
    assert met(router, path, HOST6, 8080) == OUTSIDE6
    # What leaves has the machine's address.
    home = "/proc/thread-self/ns/net"
    _, _, other = await on(networks, "only")
    assert met(other, path, own(nic, 6), 80)
    assert met(path, home, HOST6, 8081, 8081) == own(nic, 6)
    alone, _, _ = await on(
        networks, "only", PublishedPort(zone_port=80, host_ip="127.0.0.1", host_port=8082)
    )
    assert networks._published.ports(alone) == ()


async def test_a_routed_network_is_reached_at_its_own_addresses(
    networks: LinuxNetworks, router: int
) -> None:
    modes = {BRIDGE + "gateway_mode_ipv4": "routed", BRIDGE + "gateway_mode_ipv6": "routed"}
    await made(networks, "routed", options=modes)
    uuid, nic, path = await on(networks, "routed", WEB)
    taken = networks._published.ports(uuid)
    assert [(p.host_ip, p.host_port) for p in taken] == [("0.0.0.0", 0), ("::", 0)]
    assert met(router, path, own(nic, 4), 80) == OUTSIDE
    assert met(router, path, own(nic, 6), 80) == OUTSIDE6
    not_met(router, path, own(nic, 6), 81, 81)
    _, _, neighbour = await on(networks, "bridge")
    assert met(neighbour, path, own(nic, 4), 80)
    not_met(neighbour, path, own(nic, 4), 81, 81)
    # No port of the machine is taken.
    with socket.create_server(("", 8080)):
        pass


async def test_a_mode_holds_for_one_version(networks: LinuxNetworks, router: int) -> None:
    await made(networks, "mixed", options={BRIDGE + "gateway_mode_ipv6": "routed"})
    uuid, nic, path = await on(networks, "mixed", WEB)
    taken = networks._published.ports(uuid)
    assert [(p.host_ip, p.host_port) for p in taken] == [("0.0.0.0", 8080), ("::", 0)]
    assert met(router, path, HOST, 8080) == OUTSIDE
    assert met(router, path, own(nic, 6), 80) == OUTSIDE6
    not_met(router, path, own(nic, 4), 80)


async def test_an_unprotected_network_is_open_to_the_outside_alone(
    networks: LinuxNetworks, router: int
) -> None:
    await made(networks, "open", options={BRIDGE + "gateway_mode_ipv4": "nat-unprotected"})
    _, nic, path = await on(networks, "open", WEB)
    assert met(router, path, own(nic, 4), 81, 81) == OUTSIDE
    assert met(router, path, HOST, 8080) == OUTSIDE
    not_met(router, path, own(nic, 6), 81, 81)
    _, _, neighbour = await on(networks, "bridge")
    not_met(neighbour, path, own(nic, 4), 81, 81)


async def test_a_trusted_interface_reaches_published_ports_directly(
    networks: LinuxNetworks, router: int
) -> None:
    await made(networks, "trusting", options={BRIDGE + "trusted_host_interfaces": "none0:out0"})
    uuid, nic, path = await on(networks, "trusting", WEB)
    assert met(router, path, own(nic, 4), 80) == OUTSIDE
    assert met(router, path, own(nic, 6), 80) == OUTSIDE6
    assert met(router, path, HOST, 8080) == OUTSIDE
    not_met(router, path, own(nic, 4), 81, 81)
    await networks.disconnect(uuid)
    assert own(nic, 4) not in _elements()


def _elements() -> str:
    rules = nft.Nft()
    try:
        return rules.run("list set inet zonegate_t trusted")
    finally:
        rules.close()


async def test_isolated_networks_and_gateways_of_others_have_no_address_of_the_machine(
    networks: LinuxNetworks, machine: netlink.RouteSocket
) -> None:
    isolated = {
        BRIDGE + "gateway_mode_ipv4": "isolated", BRIDGE + "gateway_mode_ipv6": "isolated"
    }  # fmt: skip
    await made(networks, "isolated", options=isolated, internal=True)
    _, nic, path = await on(networks, "isolated")
    _, _, other = await on(networks, "isolated")
    assert own(nic, 4).endswith(".1")
    assert met(other, path, own(nic, 4), 80)
    assert met(other, path, own(nic, 6), 80)
    await made(networks, "inhibited", options={BRIDGE + "inhibit_ipv4": "true"})
    bridges = {n: f"br-{networks.get(n).id[:12]}" for n in ("isolated", "inhibited")}
    indexes = {name: socket.if_nametoindex(bridge) for name, bridge in bridges.items()}
    six = [index for index, one in machine.addresses6() if not one.is_link_local]
    found = [*six, *(index for index, _ in machine.addresses())]
    assert found.count(indexes["isolated"]) == 0
    assert found.count(indexes["inhibited"]) == 1
    with pytest.raises(APIError, match="can only be used for an internal network"):
        await made(networks, "x", options=isolated)
    with pytest.raises(InvalidParameter, match=r"\(unknown gateway mode bogus\)"):
        await made(networks, "x", options={BRIDGE + "gateway_mode_ipv6": "bogus"})


async def test_link_local_addresses_are_the_zones_own_after_a_restart_too(
    opened: Callable[..., LinuxNetworks], router: int
) -> None:
    first = opened()
    await first.adopt({})
    await made(first, "six", options={BRIDGE + "gateway_mode_ipv6": "routed"})
    asked = Endpoint(link_local=("169.254.9.9", "fe80::99"))
    uuid = new_uuid()
    nic = first.lease(uuid, NetworkRequest("six")).model_copy(update={"interface": "eth0"})
    endpoints = {nic.network_uuid or "": asked}
    attachment = await first.connect(uuid, [nic], [WEB], endpoint="web", endpoints=endpoints)
    await first.close(remove=False)
    second = opened()
    second.learn(uuid, [nic])
    await second.adopt({uuid: ([nic], attachment.ports)}, {uuid: endpoints})
    other = new_uuid()
    near = second.lease(other, NetworkRequest("six")).model_copy(update={"interface": "eth0"})
    path = (
        await second.connect(
            other, [near], [], endpoints={"": asked, near.network_uuid or "": Endpoint(link_local=("169.254.9.8",))}
        )
    ).netns_path  # fmt: skip
    assert met(path, attachment.netns_path, "169.254.9.9", 80) == "169.254.9.8"
    assert met(router, attachment.netns_path, own(nic, 6), 80) == OUTSIDE6
    assert met(router, attachment.netns_path, HOST, 8080) == OUTSIDE
    with pytest.raises(InvalidParameter, match=r"invalid link local IP address: 10\.9\.9\.9"):
        await second.connect(
            other, [near], [], endpoints={near.network_uuid or "": Endpoint(link_local=("10.9.9.9",))}
        )  # fmt: skip
    await second.close(remove=True)


async def test_configurations_are_kept_and_nobody_is_on_them(
    opened: Callable[..., LinuxNetworks],
) -> None:
    first = opened()
    await first.adopt({})
    plan = NetworkPlan("settings", "null", AddressRange("10.209.0.0/24"), config_only=True)
    kept = await first.create(plan)
    assert (kept.subnet, kept.driver) == ("", "null")
    await first.close(remove=False)
    second = opened()
    await second.adopt({})
    assert second.get("settings").plan == plan
    with pytest.raises(Forbidden, match="cannot create endpoint on configuration-only network"):
        second.lease(new_uuid(), NetworkRequest("settings"))
    await second.remove("settings")
    assert "settings" not in [network.name for network in second.list()]
    await second.close(remove=True)
