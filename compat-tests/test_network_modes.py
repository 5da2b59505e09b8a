"""Networks of IPv6 alone, gateway modes, configurations for other networks: by the stock CLI, the answers compared with dockerd's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compat.answers import Recording
from compat.clients import CLI
from compat.scenarios import OnSmartOS, Scenario, Step, check, quiet, scenario

BRIDGE = "com.docker.network.bridge."
ROUTED = f"-o {BRIDGE}gateway_mode_ipv4=routed -o {BRIDGE}gateway_mode_ipv6=routed"
SHOWN = (
    "docker network inspect -f '{{.Driver}} {{.EnableIPv4}} {{.EnableIPv6}} {{.Internal}} {{.ConfigOnly}}"
    " {{json .ConfigFrom}} {{json .IPAM}} {{json .Options}} {{json .Labels}}' "
)
PORTS = "docker inspect -f '{{json .NetworkSettings.Ports}}' "
ENDPOINT = (
    "docker inspect -f '{{range .NetworkSettings.Networks}}{{json .IPAMConfig}} {{.Gateway}} {{.IPAddress}} {{.IPPrefixLen}}"
    " {{.IPv6Gateway}} {{.GlobalIPv6Address}} {{.GlobalIPv6PrefixLen}}{{end}}' "
)

CLOSED = OnSmartOS(compare="exit")
"""Without a way out (`smartos.egress_nic`) a network is internal, and has no gateway."""
ON_LINUX = {
    "networks of IPv6 alone": "IPv4 always",
    "gateway modes": "an etherstub has none",
    "the IPAM driver null, and link-local addresses": "a nic has one address of each version",
}

SCENARIOS = [
    scenario(
        "networks that configure others",
        "docker network create --config-only --subnet 10.77.1.0/24 --gateway 10.77.1.9 --label a=b"
        " -o com.docker.network.driver.mtu=1400 nwc",
        SHOWN + "nwc",
        "docker network create --config-from nwc nw1",
        Step(SHOWN + "nw1", smartos=CLOSED),
        "docker network create --config-from nwc nw2",
        "docker network create --config-from nwc --label x=y nw2",
        "docker network create --config-from nwc --subnet 10.77.2.0/24 nw2",
        "docker network create --config-from nwc --ipv6 nw2",
        "docker network create --config-from nwc -o a=b nw2",
        "docker network create --config-from nwnope nw2",
        "docker network create --config-from nw1 nw2",
        "docker network create --config-only --config-from nwc nw2",
        "docker network create --config-only --internal nw2",
        "docker network create --config-only nwc",
        "docker run --rm --network nwc bb true",
        "docker run -d --name c1 --network nw1 bb sleep 1000",
        Step(ENDPOINT + "c1", smartos=CLOSED),
        # It is in the payload of vmadm; who plays the machine gives nics none.
        Step("docker exec c1 cat /sys/class/net/eth0/mtu", smartos=OnSmartOS(compare="exit")),
        "docker network connect nwc c1",
        "docker network rm nwc",
        Step("docker network ls --format '{{.Name}} {{.Driver}}' -f dangling=true -f name=nwc", sort=True),
        quiet("docker rm -f c1"),
        "docker network prune -f",
        "docker network rm nwc",
        "docker network ls -q -f name=nw",
    ),
    scenario(
        "networks of IPv6 alone",
        "docker network create --ipv4=false nw1",
        "docker network create --ipv4=false -d macvlan nw1",
        "docker network create --ipv4=false --ipv6 --subnet fd00:77::/64 nw1",
        SHOWN + "nw1",
        "docker run -d --name c1 --network nw1 --ip6 fd00:77::9 -p 28391:80 bb sleep 1000",
        ENDPOINT + "c1",
        PORTS + "c1",
        "docker port c1",
        "docker exec c1 sh -c 'ip -4 -o addr show eth0; ip -6 -o addr show eth0 scope global | wc -l'",
        "docker exec c1 sh -c 'ip route; ip -6 route show default'",
        quiet("docker exec c1 ping -6 -c 1 -W 2 -q fd00:77::1"),
        Step("docker exec c1 cat /etc/hosts", compare="exit"),
        quiet("docker run --rm --network nw1 bb ping -c 1 -W 2 -q c1"),
        "docker run --rm --network nw1 --ip 10.9.9.9 bb true",
        "docker run --rm --network nw1 --ip6 fd00:78::9 bb true",
        "docker run -d --name c2 --network nw1 -p 127.0.0.1:28392:80 bb sleep 1000",
        PORTS + "c2",
        "docker network inspect -f '{{len .Containers}}' nw1",
        "docker network connect --ip6 fd00:77::a bridge c2",
        quiet("docker rm -f c1 c2"),
        "docker network rm nw1",
    ),
    scenario(
        "both versions of IP",
        "docker network create --ipv6 --subnet 10.77.1.0/24 --subnet fd00:77::/64 nw1",
        Step(SHOWN + "nw1", smartos=CLOSED),
        "docker run -d --name c1 --network nw1 -p 28391:80 -p 127.0.0.1:28392:81 -p [::1]:28393:82 bb sleep 1000",
        PORTS + "c1",
        Step(ENDPOINT + "c1", smartos=CLOSED),
        "docker port c1",
        quiet("docker run --rm --network nw1 bb ping -6 -c 1 -W 2 -q c1"),
        quiet("docker run --rm --network nw1 bb ping -4 -c 1 -W 2 -q c1"),
        "docker run -d --name c2 --network nw1 -p 28391:80 bb sleep 1000",
        "docker run -d --name c3 --network nw1 -p [::1]:28393:80 bb sleep 1000",
        quiet("docker rm -f c1 c2 c3"),
        "docker network rm nw1",
    ),
    scenario(
        "ports that are taken, in both versions of IP",
        quiet("docker run -d --name c1 -p 127.0.0.1:28393:80 -p [::1]:28393:80 -p 28394-28395:81-82 bb sleep 1000"),
        "docker run --rm --name c4 -p 28393:80 bb true",
        "docker run --rm --name c4 -p 127.0.0.1:28393:81 bb true",
        "docker run --rm --name c4 -p [::]:28393:80 bb true",
        "docker run --rm --name c4 -p [::1]:28393:80 bb true",
        "docker run --rm --name c4 -p [::1]:28394:80 bb true",
        "docker run --rm --name c4 -p [::]:28394:80 bb true",
        "docker run --rm --name c4 -p 28394-28395:80 bb true",
        "docker run --rm -p 28394-28396:80-81 bb true",
        "docker run --rm --name c4 -p [fd00:9::9]:28390:80 bb true",
        "docker run --rm -p 28394:80/udp bb true",
        "docker run -d --name c2 -p 28394-28396:80 bb sleep 1000",
        PORTS + "c2",
        quiet("docker stop -t 0 c2"),
        PORTS + "c2",
        "docker run -d --name c3 -p 28396:80 bb sleep 1000",
        "docker start c2",
        quiet("docker rm -f c3"),
        "docker start c2",
        PORTS + "c2",
        quiet("docker rm -f c1 c2"),
    ),
    scenario(
        "gateway modes",
        f"docker network create -o {BRIDGE}gateway_mode_ipv4=bogus nw1",
        f"docker network create -o {BRIDGE}gateway_mode_ipv4=isolated nw1",
        f"docker network create --ipv6 -o {BRIDGE}gateway_mode_ipv6=isolated nw1",
        f"docker network create -o {BRIDGE}inhibit_ipv4=zz nw1",
        f"docker network create --ipv6 {ROUTED} --subnet 10.77.1.0/24 --subnet fd00:77::/64 nw1",
        SHOWN + "nw1",
        "docker run -d --name c1 --network nw1 -p 28391:80 bb sleep 1000",
        PORTS + "c1",
        "docker port c1",
        "docker ps --format '{{.Ports}}' -f name=c1",
        "docker run -d --name c2 --network nw1 -P --expose 99 -p 127.0.0.1:28392:80 bb sleep 1000",
        PORTS + "c2",
        quiet("docker rm -f c1 c2"),
        f"docker network create --ipv6 -o {BRIDGE}gateway_mode_ipv6=routed nw2",
        "docker run -d --name c1 --network nw2 -p 28391:80 bb sleep 1000",
        PORTS + "c1",
        f"docker network create -o {BRIDGE}gateway_mode_ipv4=nat-unprotected nw3",
        "docker run -d --name c2 --network nw3 -p 28392:80 bb sleep 1000",
        PORTS + "c2",
        f"docker network create --internal --subnet 10.77.5.0/24 -o {BRIDGE}gateway_mode_ipv4=isolated nw4",
        SHOWN + "nw4",
        "docker run -d --name c3 --network nw4 bb sleep 1000",
        ENDPOINT + "c3",
        "docker exec c3 ip route",
        f"docker network create --subnet 10.77.6.0/24 -o {BRIDGE}inhibit_ipv4=true nw5",
        SHOWN + "nw5",
        "docker run -d --name c4 --network nw5 bb sleep 1000",
        ENDPOINT + "c4",
        quiet("docker exec c4 ping -c 1 -W 1 -q 10.77.6.1"),
        f"docker network create -o {BRIDGE}trusted_host_interfaces=lo:none0 nw6",
        quiet("docker rm -f c1 c2 c3 c4"),
        "docker network rm nw1 nw2 nw3 nw4 nw5 nw6",
    ),
    scenario(
        "the IPAM driver null, and link-local addresses",
        "docker network create --ipam-driver null nw1",
        "docker network create --ipam-driver null --subnet 10.77.1.0/24 nw1",
        "docker network create --ipam-driver null --ipv4=false --ipv6 nw1",
        quiet("docker network create --ipv6 nw1"),
        "docker run -d --name c1 --network nw1 --link-local-ip 169.254.9.9 --link-local-ip fe80::99 bb sleep 1000",
        "docker inspect -f '{{range .NetworkSettings.Networks}}{{json .IPAMConfig}}{{end}}' c1",
        "docker exec c1 sh -c 'ip -4 -o addr show eth0 | wc -l; ip -6 -o addr show eth0 | grep -c fe80::99/64'",
        quiet("docker run --rm --network nw1 --link-local-ip 169.254.9.8 bb ping -c 1 -W 2 -q 169.254.9.9"),
        "docker run --rm --network nw1 --link-local-ip 10.9.9.9 bb true",
        "docker network connect --link-local-ip 169.254.9.10 bridge c1",
        "docker exec c1 sh -c 'ip -4 -o addr show eth1 | wc -l'",
        quiet("docker rm -f c1"),
        "docker network rm nw1",
    ),
]  # fmt: skip


@pytest.fixture
def no_networks(cli: CLI) -> Iterator[None]:
    yield
    for name in ("c1", "c2", "c3", "c4"):
        cli(f"docker rm -f {name}")
    for name in cli.ok("docker network ls -q -f type=custom").split():
        cli(f"docker network rm {name}")


@pytest.mark.usefixtures("no_networks")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=str(case),
            marks=[pytest.mark.linux_only(ON_LINUX[case.name])] if case.name in ON_LINUX else [],
        )
        for case in SCENARIOS
    ],
)
def test_the_commands_answer_as_dockerd_does(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(case, recording, cli, names, fill)
