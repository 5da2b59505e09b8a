"""Names between containers: on user networks, by links, after renames and restarts, and where there are none."""

from __future__ import annotations

import pytest
from compat.answers import Recording
from compat.clients import CLI
from compat.daemons import Daemon
from compat.scenarios import OnSmartOS, Scenario, Step, check, quiet, scenario

STAYS = "bb sleep 1000"
HOSTS = r"docker exec {name} sh -c 'grep -v : /etc/hosts | cut -f2 | sort'"
VMADM = "vmadm writes one line for each network, without the domain"


def seen(asker: str, name: str, **more: str) -> Step:
    """The first line of a ping: the name, and the address that it has."""
    return Step(
        f"docker exec {asker} sh -c 'ping -c 1 -W 5 {name} 2>&1 | head -n 1'",
        compare="exit stdout",
        **more,
    )


def address(asker: str, name: str, kind: str = "a") -> Step:
    """What the name server answers, sorted; where names are in /etc/hosts there is none to ask."""
    return Step(
        f"docker exec {asker} sh -c 'nslookup -type={kind} {name} 2>&1 | sed -n \"s/^Address: //p;s/.*name = //p\" | sort'",
        compare="exit stdout",
    )


def torn_down(*names: str, networks: str = "n1") -> tuple[Step, ...]:
    """Containers first."""
    return quiet(f"docker rm -f {' '.join(names)}"), quiet(f"docker network rm {networks}")


SCENARIOS = [
    scenario(
        "names on a user network",
        quiet("docker network create n1"),
        quiet(f"docker run -d --name db --hostname dbhost --network n1 --network-alias sql {STAYS}"),
        quiet(f"docker run -d --name web --network n1 {STAYS}"),
        seen("web", "db"),
        seen("web", "sql"),
        seen("web", "DB"),
        seen("web", "web"),
        seen("db", "web"),
        seen("web", "dbhost", stdout="PING dbhost (IP): 56 data bytes\n", why="28 answers for host names"),
        seen("web", "nobody"),
        Step(
            "docker inspect db --format '{{{{json .NetworkSettings.Networks.n1.Aliases}}}}'".replace("{{{{", "{{").replace("}}}}", "}}"),
            stdout='["sql"]\n',
            why="since 26 without the id, which is in DNSNames",
        ),
        *torn_down("db", "web"),
    ),
    scenario(
        "a container is found by its short id",
        quiet("docker network create n1"),
        quiet(f"docker run -d --name db --network n1 {STAYS}"),
        quiet(f"docker run -d --name web --network n1 {STAYS}"),
        Step(
            "sh -c 'docker exec web ping -c 1 -W 5 $(docker inspect db --format \"{{slice .Id 0 12}}\") | head -n 1'",
            compare="exit stdout",
        ),
        *torn_down("db", "web"),
    ),
    scenario(
        "several containers share an alias",
        quiet("docker network create n1"),
        quiet(f"docker run -d --name a1 --network n1 --network-alias pool {STAYS}"),
        quiet(f"docker run -d --name a2 --network n1 --network-alias pool {STAYS}"),
        address("a1", "pool"),
        quiet("docker stop -t 0 a2"),
        address("a1", "pool"),
        *torn_down("a1", "a2"),
    ),
    scenario(
        "names follow a rename, and outlive a restart",
        quiet("docker network create n1"),
        quiet(f"docker run -d --name db --network n1 {STAYS}"),
        quiet(f"docker run -d --name web --network n1 {STAYS}"),
        quiet("docker rename db store"),
        seen("web", "store"),
        seen("web", "db"),
        quiet("docker restart -t 0 store"),
        seen("web", "store"),
        quiet("docker restart -t 0 web"),
        seen("web", "store"),
        *torn_down("store", "web"),
    ),
    scenario(
        "no names on the default network",
        quiet(f"docker run -d --name db {STAYS}"),
        quiet(f"docker run -d --name web {STAYS}"),
        seen("web", "db"),
    ),
    scenario(
        "networks do not see each other",
        quiet("docker network create n1"),
        quiet("docker network create n2"),
        quiet(f"docker run -d --name db --network n1 {STAYS}"),
        quiet(f"docker run -d --name web --network n2 {STAYS}"),
        seen("web", "db"),
        Step(
            "sh -c 'docker exec web ping -c 1 -W 1 $(docker inspect db --format \"{{.NetworkSettings.Networks.n1.IPAddress}}\") | tail -n 1'",
            compare="exit stdout",
            stdout="re:.*100% packet loss\n|PING IP \\(IP\\): 56 data bytes\n",
            why="how a packet is kept off is the platform's own",
        ),
        *torn_down("db", "web", networks="n1 n2"),
    ),
    scenario(
        "joining and leaving while it runs",
        quiet("docker network create n1"),
        quiet(f"docker run -d --name db --network n1 {STAYS}"),
        quiet(f"docker run -d --name web {STAYS}"),
        seen("web", "db"),
        quiet("docker network connect --alias front n1 web"),
        Step(
            "docker exec web true",
            compare="exit",
            smartos=OnSmartOS(command="docker restart -t 0 web", compare="exit"),
        ),
        seen("web", "db"),
        seen("db", "front"),
        quiet("docker network disconnect n1 web"),
        Step(
            "docker exec web true",
            compare="exit",
            smartos=OnSmartOS(command="docker restart -t 0 web", compare="exit"),
        ),
        seen("web", "db"),
        seen("db", "front"),
        *torn_down("db", "web"),
    ),
    scenario(
        "a link on a user network is a name of the one container alone",
        quiet("docker network create n1"),
        quiet(f"docker run -d --name db --network n1 {STAYS}"),
        quiet(f"docker run -d --name web --network n1 --link db:short {STAYS}"),
        seen("web", "short"),
        seen("db", "short"),
        "docker inspect web --format '{{json .HostConfig.Links}} {{json .NetworkSettings.Networks.n1.Links}}'",
        *torn_down("db", "web"),
    ),
    scenario(
        "links on the default network",
        quiet("docker run -d --name db --hostname dbhost --expose 80 --expose 443/udp --expose 81 -e FOO=bar -e HOME=/x -e EMPTY= bb sleep 1000"),
        "docker run --rm --name web --link db:data-base bb sh -c 'env | grep ^DATA | sort; grep data /etc/hosts'",
        quiet(f"docker run -d --name web --link db {STAYS}"),
        "docker exec web sh -c 'env | grep ^DB_PORT= ; grep dbhost /etc/hosts'",
        seen("web", "db"),
        "docker inspect web --format '{{json .HostConfig.Links}}'",
        "docker inspect web/db --format '{{.Name}}'",
        "docker ps --no-trunc --format '{{.Names}}'",
        quiet("docker rename db store"),
        "docker inspect web --format '{{json .HostConfig.Links}}'",
        "docker rm --link store",
        "docker rm --link web/nope",
        "docker rm --link web/db",
        "docker inspect web --format '{{json .HostConfig.Links}}'",
        "docker exec web grep -c dbhost /etc/hosts",
    ),
    scenario(
        "links that cannot be",
        "docker run --rm --link missing:x bb true",
        quiet(f"docker run -d --name db {STAYS}"),
        Step(
            "docker run --rm --link db:x --network host bb true",
            smartos=OnSmartOS(compare="exit"),
        ),
        quiet(f"docker run -d --name web --link db {STAYS}"),
        quiet("docker stop -t 0 web db"),
        "docker start web",
        quiet("docker rm db"),
        "docker inspect web --format '{{json .HostConfig.Links}}'",
        "docker start web",
    ),
    scenario(
        "files of names are edited in place, and made anew at a start",
        Step(
            "docker run --rm --add-host gw:host-gateway bb sh -c 'set -- $(grep -w gw /etc/hosts); ip route | grep -c \"default via $1 \"'",
            compare="exit stdout",
        ),
        quiet(f"docker run -d --name db {STAYS}"),
        quiet("docker exec db sh -c 'for f in hosts hostname resolv.conf; do echo mine >>/etc/$f; done'"),
        "docker exec db sh -c 'cd /etc; grep -c mine hosts hostname resolv.conf'",
        quiet("docker restart -t 0 db"),
        Step(
            "docker exec db sh -c 'cd /etc; grep -c mine hosts hostname resolv.conf'",
            smartos=OnSmartOS(compare=""),
        ),
        "docker exec db sh -c 'mv /etc/hosts /etc/x 2>/dev/null; echo $?'",
    ),
    scenario(
        "the resolver's own words",
        quiet("docker network create n1"),
        Step(
            "docker run --rm --network n1 --dns-search corp.example --dns-option timeout:3 bb sh -c 'grep -v ^# /etc/resolv.conf | grep .'",
            compare="exit stdout",
            stdout="nameserver 127.0.0.11\nsearch corp.example\noptions timeout:3 ndots:0\n",
            why="28 writes the name servers first",
            smartos=OnSmartOS(stdout="search corp.example local\nnameserver IP\n"),
        ),
        Step(
            "docker run --rm --network n1 bb sh -c 'grep -c . /etc/hosts; nslookup -type=mx nobody >/dev/null 2>&1'",
            compare="exit",
        ),
        quiet("docker network rm n1"),
    ),
]  # fmt: skip


ASK_A_SERVER = ("several containers share an alias", "the resolver's own words")


@pytest.mark.parametrize("subject", SCENARIOS, ids=str)
def test_names_as_with_docker(
    subject: Scenario, cli: CLI, recording: Recording, names: dict[str, str], fill: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if request.config.getoption("--backend") == "smartos-ssh" and subject.name in ASK_A_SERVER:
        pytest.skip("over SSH names are lines of /etc/hosts, and nobody is asked")
    try:
        check(subject, recording, cli, names, fill)
    finally:
        cli("docker rm -f db web store a1 a2")
        cli("docker network rm n1 n2")


def test_names_outlive_a_kill_of_the_server(daemon: Daemon, cli: CLI) -> None:
    if daemon.kind == "dockerd":
        pytest.skip("dockerd ends its containers with itself")
    cli.ok("docker network create n1")
    try:
        cli.ok("docker run -d --name db --network n1 --network-alias sql bb sleep 1000")
        cli.ok("docker run -d --name web --network n1 bb sleep 1000")
        daemon.kill()
        daemon.start()
        assert cli.ok("docker exec web ping -c 1 -W 5 sql").startswith("PING sql (")
        cli.ok("docker run -d --name late --network n1 bb sleep 1000")
        assert cli.ok("docker exec web ping -c 1 -W 5 late").startswith("PING late (")
    finally:
        cli("docker rm -f db web late")
        cli("docker network rm n1")
