"""Addresses that were asked for: they are whose container runs; and those of IPv6.  Compared with dockerd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compat.answers import Recording
from compat.clients import CLI
from compat.compose import plug_in
from compat.scenarios import Scenario, Step, Told, check, quiet, scenario

IN_USE = "failed to set up container networking: Address already in use"
SHOWN = (
    "docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}"
    " {{.GlobalIPv6PrefixLen}}{{end}}' "
)
FIXED = """
name: fixed
services:
  it:
    image: bb
    command: sleep 1000
    stop_signal: KILL
    environment: {WHO: "${WHO:-nobody}"}
    networks: {own: {ipv4_address: 10.76.1.9, ipv6_address: "fd76:1::9"}}
networks:
  own:
    enable_ipv6: true
    ipam: {config: [{subnet: 10.76.1.0/24}, {subnet: "fd76:1::/64"}]}
"""
COMPOSE = "docker compose --progress quiet -f {tmp}/fixed.yaml"

ASK_A_SERVER = "name servers know addresses of IPv6"

SCENARIOS = [
    scenario(
        "an address is whose container runs",
        quiet("docker network create --subnet 10.76.1.0/24 nw1"),
        quiet("docker run -d --name c1 --network nw1 --ip 10.76.1.9 bb sleep 1000"),
        "docker stop -t 0 c1",
        quiet("docker create --name c2 --network nw1 --ip 10.76.1.9 bb sleep 1000"),
        "docker start c2",
        SHOWN + "c2",
        "docker start c1",
        "docker inspect -f '{{.State.Status}} {{.State.Error}}' c1",
        "docker stop -t 0 c2",
        "docker start c1",
        SHOWN + "c1",
        "docker exec c1 sh -c 'ip -4 -o addr show eth0 | grep -c 10.76.1.9/24'",
        "docker start c2",
        "docker rm -f c1",
        "docker start c2",
        "docker exec c2 sh -c 'ip -4 -o addr show eth0 | grep -c 10.76.1.9/24'",
        quiet("docker rm -f c2"),
        "docker network rm nw1",
    ),
    scenario(
        "a stopped container may be given an address that another has",
        quiet("docker network create --subnet 10.76.1.0/24 nw1"),
        quiet("docker run -d --name c1 --network nw1 --ip 10.76.1.9 bb sleep 1000"),
        quiet("docker create --name c2 bb sleep 1000"),
        "docker network connect --ip 10.76.1.9 nw1 c2",
        "docker start c2",
        "docker stop -t 0 c1",
        "docker start c2",
        "docker exec c2 sh -c 'ip -4 -o addr | grep -c 10.76.1.9/24'",
        quiet("docker rm -f c1 c2"),
        quiet("docker network rm nw1"),
    ),
    scenario(
        "compose recreates a service that has an address",
        quiet(f"{COMPOSE} up -d"),
        Step(f"sh -c 'WHO=somebody {COMPOSE} up -d'", compare="exit"),
        Step(f"{COMPOSE} exec -T it sh -c 'echo $WHO; ip -o addr show eth0 | grep -c 10.76.1.9/24'"),
        SHOWN + "fixed-it-1",
        quiet(f"{COMPOSE} stop"),
        quiet(f"{COMPOSE} up -d --force-recreate"),
        SHOWN + "fixed-it-1",
        quiet(f"{COMPOSE} down -t 0"),
    ),
    scenario(
        "addresses of IPv6",
        "docker network create --ipv6 --subnet fd76:1::/64 --subnet 10.76.1.0/24 nw1",
        "docker network inspect -f '{{.EnableIPv6}} {{json .IPAM.Config}}' nw1",
        quiet("docker run -d --name c1 --network nw1 --ip6 fd76:1::99 bb httpd -f -p [::]:80"),
        SHOWN + "c1",
        "docker network inspect -f '{{range .Containers}}{{.Name}} {{.IPv6Address}}{{end}}' nw1",
        "docker exec c1 sh -c 'ip -6 -o addr show eth0 | grep -c fd76:1::99/64'",
        "docker exec c1 grep -c '^fd76:1::99' /etc/hosts",
        quiet("docker run -d --name c2 --network nw1 --hostname two bb sleep 1000"),
        "docker exec c2 sh -c 'ping -6 -c 1 -W 5 c1 >/dev/null && echo up'",
        quiet("docker restart -t 0 c1"),
        "docker exec c2 sh -c 'ping -6 -c 3 -W 5 fd76:1::99 >/dev/null && echo up'",
        "docker exec c2 sh -c 'wget -q -O- http://[fd76:1::99]/nope 2>&1 | tail -1'",
        quiet("docker run -d --name c4 --restart always --network nw1 --ip6 fd76:1::77 bb"
              " sh -c '[ ! -e /again ] || exec sleep 1000; touch /again'"),
        Step("docker exec c4 timeout 20 sh -c 'until ip -6 -o addr show eth0 | grep -q fd76:1::77/64; do sleep 0.1;"
             " done; echo there'", after=Told("c4", "start", 2)),
        "docker create --name c3 --network nw1 --ip6 fd76:1::99 bb true",
        "docker start c3",
        Step("docker run --rm --network nw1 --ip6 fd75::1 bb true", compare="exit"),
        "docker network create --ipv6 --subnet fd76:1::/80 nw2",
        "docker network create --ipv6 --subnet fd76:2::/64 --gateway fd76:3::1 nw2",
        "docker network create --subnet fd76:2::/64 nw2",
        quiet("docker rm -f c1 c2 c3 c4"),
        "docker network rm nw1",
    ),
    scenario(
        ASK_A_SERVER,
        quiet("docker network create --ipv6 --subnet fd76:1::/64 --subnet 10.76.1.0/24 nw1"),
        quiet("docker run -d --name c1 --network nw1 --ip6 fd76:1::99 bb sleep 1000"),
        quiet("docker run -d --name c2 --network nw1 bb sleep 1000"),
        "docker exec c2 sh -c 'nslookup -type=aaaa c1 | grep -c fd76:1::99'",
        quiet("docker rm -f c1 c2"),
        quiet("docker network rm nw1"),
    ),
]  # fmt: skip


@pytest.fixture
def places(cli: CLI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Words of commands; nothing of a scenario is left over."""
    folder = tmp_path_factory.mktemp("addresses")
    (folder / "fixed.yaml").write_text(FIXED)
    yield {"tmp": str(folder)}
    for name in cli.ok("docker ps -aq").split():
        cli(f"docker rm -f {name}")
    for name in cli.ok("docker network ls -q -f type=custom").split():
        cli(f"docker network rm {name}")


@pytest.mark.parametrize("case", SCENARIOS, ids=str)
def test_addresses_are_as_with_dockerd(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str], places: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if request.config.getoption("--backend") == "smartos-ssh" and case.name == ASK_A_SERVER:
        pytest.skip("over SSH names are lines of /etc/hosts, and nobody is asked")
    plug_in(cli)
    check(case, recording, cli, names, fill | places)
