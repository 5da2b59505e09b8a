"""What compose files may say, by the stock plugin: profiles, extends, namespaces, volumes of others, builds, watches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.answers import Recording
from compat.clients import CLI
from compat.compose import plug_in
from compat.daemons import Daemon
from compat.scenarios import OnSmartOS, Scenario, Step, check, quiet, scenario

FILES = {
    # What is taken from other files, and from the environment.
    "parts/compose.yaml": """
name: parts
include: [more.yaml]
services:
  web:
    extends: {file: common.yaml, service: base}
    env_file: [web.env, {path: missing.env, required: false}]
    environment: {OWN: "${OWN:-unset}", DOLLAR: "$$HOME"}
    profiles: []
    init: true
    labels: {com.example.a: "1"}
  tool:
    extends: web
    profiles: [tools]
    command: echo tool
  other: {extends: {file: common.yaml, service: base}, profiles: [others]}
""",
    "parts/common.yaml": """
services:
  base:
    image: bb
    command: sleep 1000
    stop_grace_period: 0s
    environment: {FROM: base}
    tmpfs: /tmp
    extra_hosts: ["far.example:192.0.2.9"]
    ulimits: {nofile: 2000}
""",
    "parts/more.yaml": "services: {included: {image: bb, command: sleep 1000, stop_grace_period: 0s}}\n",
    "parts/web.env": "# lines of KEY=value\nFILED=from a file\nQUOTED='a b'\nWITH=$FILED\n",
    "parts/.env": "OWN=dotted\n",
    # Namespaces and volumes of other services.
    "joined/compose.yaml": """
name: joined
x-it: &it {image: bb, command: sleep 1000, stop_grace_period: 0s}
services:
  main: {<<: *it, ipc: shareable, hostname: mainhost, volumes: ["/anon", "kept:/kept", "./:/here:ro"]}
  net: {<<: *it, network_mode: "service:main"}
  ipc: {<<: *it, ipc: "service:main"}
  pid: {<<: *it, pid: "service:main"}
  from: {<<: *it, volumes_from: ["main:ro"]}
volumes: {kept: {}}
""",
    # Addresses and names on networks.
    "placed/compose.yaml": """
name: placed
x-it: &it {image: bb, command: sleep 1000, stop_grace_period: 0s}
services:
  one: {<<: *it, networks: {fixed: {ipv4_address: NET.7, aliases: [uno]}}, mac_address: "02:42:0a:00:07:07"}
  two: {<<: *it, networks: {fixed: {}}, links: ["one:lone"], dns_search: [corp.example], domainname: corp.example}
  out: {<<: *it, networks: [there]}
  none: {<<: *it, network_mode: none}
networks:
  fixed: {ipam: {config: [{subnet: NET.0/24, ip_range: NET.128/25, gateway: NET.1}]}, driver_opts: {com.docker.network.driver.mtu: "1400"}}
  there: {name: placed-there, external: true}
""",
    "built/compose.yaml": """
name: built
services:
  one:
    build: {context: ., target: last, args: {WORD: "${WORD:-first}"}, labels: {com.example.l: "1"}, tags: ["built-more:v2"]}
    stop_grace_period: 0s
    develop:
      watch:
        - {action: sync, path: ./synced, target: /synced}
        - {action: rebuild, path: ./rebuilt}
""",
    "built/Dockerfile": """FROM bb AS first
COPY rebuilt/file /rebuilt
FROM first AS last
ARG WORD
RUN echo $WORD >/word && mkdir /synced
CMD ["sleep", "1000"]
""",
    "built/rebuilt/file": "one\n",
    "built/synced/file": "one\n",
}
IN = "docker compose --progress quiet --project-directory {tmp}/"
PARTS = IN + "parts -f {tmp}/parts/compose.yaml"
JOINED = IN + "joined -f {tmp}/joined/compose.yaml"
PLACED = IN + "placed -f {tmp}/placed/compose.yaml"
BUILT = IN + "built -f {tmp}/built/compose.yaml"
STATES = " ps -a --format '{{.Name}} {{.State}} {{.ExitCode}}'"
SAME = OnSmartOS()
APART = OnSmartOS(exit=1, compare="exit")
NO_WAY_OUT = OnSmartOS(stdout="\nNET.7 MAC")


def shown(command: str, smartos: OnSmartOS = SAME) -> Step:
    """Standard output, whose lines come in any order, and the exit code."""
    return Step(command, compare="exit stdout", sort=True, smartos=smartos)


SCENARIOS = [
    scenario(
        "files that make up one",
        shown(f"{PARTS} config --services"),
        shown(f"{PARTS} --profile tools config --services"),
        shown(f"{PARTS} config --profiles"),
        shown(f"{PARTS} config --images"),
        shown(f"{PARTS} config --hash web"),
        shown(f"{PARTS} up -d"),
        shown(f"{PARTS} {STATES}"),
        shown(f"{PARTS} exec -T web sh -c 'env | grep -e FROM -e OWN -e DOLLAR -e FILED -e QUOTED -e WITH'"),
        shown(f"{PARTS} exec -T web sh -c 'grep far /etc/hosts; grep -c .tmp.tmpfs /proc/mounts; ulimit -n; cat /proc/1/comm'", OnSmartOS(compare="")),
        shown(f"{PARTS} run --rm -T tool"),
        shown(f"{PARTS} run --rm -T -e OWN=run -w /tmp --entrypoint sh web -c 'pwd; echo $OWN; exit 4'"),
        shown(f"{PARTS} run -d --name parts-once web sleep 1000"),
        shown("docker ps -a --filter label=com.docker.compose.oneoff=True --format '{{.Names}} {{.State}}'"),
        shown(f"{PARTS} ps --services"),
        shown(f"{PARTS} ps --orphans=false --format '{{{{.Name}}}}'"),
        shown(f"{PARTS} --profile others up -d"),
        shown(f"{PARTS} down"),
        shown(f"{PARTS} {STATES}"),
        shown(f"{PARTS} --profile '*' down"),
        shown(f"{PARTS} {STATES}"),
    ),
    scenario(
        "orphans and what is made anew",
        quiet(f"{PARTS} up -d included web"),
        shown("sh -c 'cd {tmp}/parts && sed -i s/included/renamed/ more.yaml'"),
        Step(f"{PARTS} up -d", compare="exit"),
        shown(f"{PARTS} {STATES}"),
        shown(f"{PARTS} up -d --remove-orphans"),
        shown(f"{PARTS} {STATES}"),
        shown(f"sh -c '{PARTS} ps -q >{{tmp}}/before'"),
        shown(f"{PARTS} up -d --no-recreate"),
        shown(f"sh -c '{PARTS} ps -q | cmp - {{tmp}}/before'"),
        shown(f"{PARTS} up -d --force-recreate web"),
        shown(f"sh -c '{PARTS} ps -q | grep -c -v -f {{tmp}}/before'"),
        shown(f"{PARTS} create --force-recreate renamed"),
        shown(f"{PARTS} {STATES}"),
        shown(f"{PARTS} start"),
        shown(f"{PARTS} up -d --wait --wait-timeout 30"),
        shown(f"{PARTS} scale web=2"),
        shown(f"{PARTS} {STATES}"),
        shown(f"{PARTS} export -o {{tmp}}/web.tar --index 1 web"),
        shown("sh -c 'tar -tf {tmp}/web.tar | grep -c ^bin/busybox'"),
        shown(f"sh -c '{PARTS} commit --index 1 web parts-committed | cut -c1-7'"),
        shown("docker image inspect parts-committed --format '{{range .Config.Env}}{{println .}}{{end}}'"),
        quiet("docker rmi parts-committed"),
        shown(f"{PARTS} down --remove-orphans"),
    ),
    scenario(
        "namespaces and volumes of other services",
        Step(f"{JOINED} up -d", compare="exit", smartos=APART),
        Step(f"{JOINED} up -d main from", compare="exit"),
        shown(f"{JOINED} {STATES}", OnSmartOS(compare="exit")),
        shown(f"{JOINED} exec -T net hostname", APART),
        shown(f"{JOINED} exec -T main sh -c 'echo shared >/dev/shm/f; echo one >/anon/f; echo two >/kept/f'"),
        shown(f"{JOINED} exec -T ipc cat /dev/shm/f", APART),
        shown(f"{JOINED} exec -T pid sh -c 'ps | grep -c sleep'", APART),
        shown(f"{JOINED} exec -T from sh -c 'cat /anon/f /kept/f; touch /anon/x 2>/dev/null || echo read-only'"),
        Step(f"{JOINED} up -d --force-recreate main from", compare="exit"),
        shown(f"{JOINED} exec -T main cat /anon/f /kept/f"),
        Step(f"{JOINED} up -d -V --force-recreate main from", compare="exit"),
        shown(f"{JOINED} exec -T main sh -c 'ls /anon | wc -l; cat /kept/f'"),
        shown(f"{JOINED} rm -s -f -v from"),
        shown(f"{JOINED} down -v"),
    ),
    scenario(
        "places on networks",
        Step(f"{PLACED} up -d", compare="exit"),
        quiet("docker network create placed-there"),
        shown(f"{PLACED} up -d"),
        shown("docker inspect placed-one-1 --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}} {{.Gateway}}{{end}}'", NO_WAY_OUT),
        shown("docker inspect placed-two-1 --format '{{range .NetworkSettings.Networks}}{{.IPPrefixLen}} {{json .Links}}{{end}}'"),
        shown(f"{PLACED} exec -T two sh -c 'for n in one uno lone; do ping -c 1 -W 5 $n | head -n 1; done; cat /sys/class/net/eth0/mtu; hostname -f'", OnSmartOS(compare="")),
        shown(f"{PLACED} exec -T none sh -c 'ls /sys/class/net'", OnSmartOS(compare="")),
        shown(f"{PLACED} exec -T out sh -c 'ping -c 1 -W 1 {{net}}.7 >/dev/null 2>&1 || echo apart; ping -c 1 -W 1 one 2>&1 | tail -n 1'"),
        shown(f"{PLACED} restart one"),
        shown("docker inspect placed-one-1 --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}'"),
        shown(f"{PLACED} up -d --force-recreate one"),
        shown("docker inspect placed-one-1 --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}'"),
        shown(f"{PLACED} down"),
        shown("docker network ls --filter name=placed --format '{{.Name}}'"),
        quiet("docker network rm placed-there"),
    ),
    scenario(
        "images that compose builds",
        quiet(f"{BUILT} build"),
        shown(f"{BUILT} images -q"),
        shown(f"{BUILT} up -d"),
        shown(f"{BUILT} images"),
        shown(f"{BUILT} exec -T one cat /word /rebuilt"),
        shown("docker image inspect built-one --format '{{json .Config.Labels}} {{json .RepoTags}}'"),
        shown(f"sh -c 'WORD=second {BUILT} up -d --build >/dev/null'"),
        shown(f"{BUILT} exec -T one cat /word"),
        shown(f"{BUILT} down --rmi local -v"),
        shown("docker images -q built-one"),
        quiet("docker rmi built-more:v2"),
    ),
]  # fmt: skip


@pytest.fixture
def client(daemon: Daemon, workdir: Path) -> CLI:
    """Builds without BuildKit."""
    cli = CLI(daemon.url, workdir / "compose")
    cli.env["DOCKER_BUILDKIT"] = "0"
    plug_in(cli)
    return cli


@pytest.fixture
def net(platform: object) -> str:
    """The start of addresses that other runs on this machine hardly have."""
    return f"10.{246 if platform is None else 247}.{os.getpid() % 251}"


@pytest.fixture
def files(client: CLI, net: str, tmp_path: Path) -> Iterator[Path]:
    """The files of all projects; nothing of any is left."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("NET.", f"{net}."))
    yield tmp_path
    for name in ("parts", "joined", "placed", "built"):
        options = f"--progress quiet -p {name} --profile '*'"
        client(
            f"docker compose {options} -f {tmp_path}/{name}/compose.yaml down -v -t 0 --remove-orphans"
        )
    client("docker rm -f parts-once")
    client("docker network rm placed-there")
    client("docker rmi -f built-one built-more:v2 parts-committed")


@pytest.mark.parametrize("subject", SCENARIOS, ids=str)
def test_compose_files_mean_what_they_do_with_docker(
    subject: Scenario,
    files: Path,
    client: CLI,
    net: str,
    recording: Recording,
    names: dict[str, str],
    fill: dict[str, str],
) -> None:
    check(subject, recording, client, names | {net: "NET"}, fill | {"net": net})
