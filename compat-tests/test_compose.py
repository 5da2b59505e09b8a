"""docker compose v2, the stock plugin, with an application of several services: as with dockerd."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.answers import Recording
from compat.clients import API, CLI
from compat.compose import plug_in
from compat.scenarios import OnSmartOS, Scenario, Step, check, quiet, scenario

APPLICATION = """
name: shop
services:
  db:
    image: bb
    command: sh -c 'sleep 0.2; [ -e /data/schema ] || echo one >/data/schema; touch /tmp/ready; exec sleep 1000'
    stop_signal: KILL
    volumes: [data:/data]
    networks: [back]
    healthcheck: {test: test -e /tmp/ready, interval: 500ms, timeout: 5s, retries: 50}
  migrate:
    image: bb
    command: sh -c 'echo two >>/data/schema; echo migrated'
    volumes: [data:/data]
    networks: [back]
    depends_on: {db: {condition: service_healthy}}
  web:
    image: bb
    command: sh -c 'cat /motd /run/secrets/token; echo $$WHO; mkdir /www; echo page >/www/index.html; exec httpd -f -p 80 -h /www'
    stop_signal: KILL
    environment: {WHO: "${WHO:-nobody}"}
    networks: {front: {}, back: {aliases: [shop.internal]}}
    ports: ["127.0.0.1::80"]
    configs: [motd]
    secrets: [token]
    depends_on: {migrate: {condition: service_completed_successfully}}
  probe:
    image: bb
    profiles: [tools]
    entrypoint: [wget, -q, -O-]
    networks: [back]
volumes: {data: {}}
networks: {front: {}, back: {}}
configs: {motd: {content: "welcome\\n"}}
secrets: {token: {file: ./token}}
"""
PLACES = """
name: places
services:
  one: &it
    image: bb
    command: sleep 1000
    stop_signal: KILL
    networks: [left]
    volumes: [kept:/kept, ./here:/here:ro]
    labels: {com.example.kind: "a b"}
  two: {<<: *it, networks: [left, right], volumes: [], hostname: zwei}
  three: {<<: *it, networks: [right], volumes: []}
networks:
  left: {name: places-left, labels: {com.example.side: l}}
  right: {internal: true}
volumes:
  kept: {name: places-kept}
"""
COMPOSE = "docker compose --progress quiet -f {tmp}/shop.yaml"
PLACED = "docker compose --progress quiet -f {tmp}/places.yaml"
NAME = "'{{.Name}}'"
STATES = COMPOSE + " ps -a --format '{{.Name}} {{.State}} {{.ExitCode}}'"


def sorted_(command: str) -> Step:
    """Standard output, whose lines come in any order; the exit code."""
    return Step(command, compare="exit stdout", sort=True)


def shown(command: str) -> Step:
    """Standard output and exit code: what compose tells of its progress differs from run to run."""
    return Step(command, compare="exit stdout")


SCENARIOS = [
    scenario(
        "an application comes up in its order",
        shown(f"{COMPOSE} up -d"),
        sorted_(STATES),
        sorted_(f"{COMPOSE} logs --no-color"),
        shown(f"{COMPOSE} exec -T db cat /data/schema"),
        shown(f"{COMPOSE} run --rm -T probe http://web/"),
        shown(f"{COMPOSE} run --rm -T probe http://shop.internal/"),
        shown(f"{COMPOSE} exec -T web sh -c 'exit 7'"),
        sorted_(f"{COMPOSE} config --services"),
        shown(f"{COMPOSE} ls --format json"),
        sorted_(f"{COMPOSE} images -q"),
        sorted_(f"{COMPOSE} volumes --format {NAME}"),
        shown(f"{COMPOSE} down -v -t 0"),
        sorted_("docker volume ls -q --filter label=com.docker.compose.project=shop"),
        sorted_("docker network ls -q --filter label=com.docker.compose.project=shop"),
    ),
    scenario(
        "up changes nothing but what has changed",
        quiet(f"{COMPOSE} up -d web"),
        Step("sh -c 'docker inspect --format \"{{.Id}}\" shop-db-1 shop-web-1 >{tmp}/before'", compare="exit"),
        shown(f"{COMPOSE} up -d web"),
        Step("sh -c 'docker inspect --format \"{{.Id}}\" shop-db-1 shop-web-1 | cmp - {tmp}/before'"),
        Step(f"sh -c 'WHO=somebody {COMPOSE} up -d web'", compare="exit"),
        Step("sh -c 'docker inspect --format \"{{.Id}}\" shop-db-1 | cmp -n 64 - {tmp}/before'"),
        shown(f"{COMPOSE} exec -T web sh -c 'echo $WHO'"),
        shown(f"{COMPOSE} up -d --force-recreate --no-deps db"),
        shown(f"{COMPOSE} exec -T db cat /data/schema"),
        shown(f"{COMPOSE} down -t 0"),
        shown(f"{COMPOSE} up -d --wait db"),
        shown(f"{COMPOSE} exec -T db cat /data/schema"),
        shown(f"{COMPOSE} down -v -t 0"),
    ),
    scenario(
        "the life of services",
        quiet(f"{COMPOSE} up -d db web"),
        shown(f"{COMPOSE} stop web"),
        sorted_(STATES),
        shown(f"{COMPOSE} start web"),
        shown(f"{COMPOSE} restart -t 0 db"),
        shown(f"{COMPOSE} kill -s KILL web"),
        sorted_(STATES),
        shown(f"{COMPOSE} start web"),
        shown(f"{COMPOSE} up -d --scale db=2 --no-recreate db"),
        sorted_(STATES),
        shown(f"{COMPOSE} up -d --scale db=1 --no-recreate db"),
        shown(f"{COMPOSE} exec -T web wget -q -O- http://127.0.0.1/"),
        shown(f"{COMPOSE} cp {{tmp}}/token web:/www/token"),
        shown(f"{COMPOSE} exec -T web cat /www/token"),
        Step(
            f"{COMPOSE} stats --no-stream --format {NAME}",
            compare="exit stdout",
            sort=True,
            smartos=OnSmartOS(compare="exit"),
        ),
        shown(f"{COMPOSE} wait migrate"),
        shown(f"{COMPOSE} rm -f -s -v web"),
        sorted_(STATES),
        shown(f"{COMPOSE} down -v -t 0"),
    ),
    scenario(
        "several networks, named volumes, binds",
        shown(f"{PLACED} up -d"),
        Step("docker network inspect places-left --format '{{json .Labels}}'", compare="exit"),
        sorted_("docker network inspect places-left --format '{{range .Containers}}{{println .Name}}{{end}}'"),
        sorted_("docker network inspect places_right --format '{{.Internal}} {{len .Containers}}'"),
        shown(f"{PLACED} exec -T two sh -c 'ping -c 1 -W 5 one | head -n 1; ping -c 1 -W 5 three | head -n 1; hostname'"),
        shown(f"{PLACED} exec -T three sh -c 'ping -c 1 -W 5 zwei 2>/dev/null | grep -c IP; ping -c 1 -W 5 one >/dev/null 2>&1 || echo apart'"),
        shown(f"{PLACED} exec -T one sh -c 'cat /here/file; touch /here/x 2>/dev/null || echo read-only'"),
        sorted_("docker ps --filter label=com.example.kind='a b' --format '{{.Names}}'"),
        shown(f"{PLACED} down -t 0"),
        sorted_("docker volume ls -q --filter name=places"),
        shown(f"{PLACED} down -v"),
        sorted_("docker volume ls -q --filter name=places"),
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def compose(cli: CLI) -> None:
    """The plugin, where the stock CLI looks for it."""
    plug_in(cli)


@pytest.fixture
def project(compose: None, cli: CLI, tmp_path: Path) -> Iterator[None]:
    """The files of both applications; nothing of either is left."""
    (tmp_path / "shop.yaml").write_text(APPLICATION)
    (tmp_path / "places.yaml").write_text(PLACES)
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/file").write_text("from the machine\n")
    yield
    for name in ("shop", "places"):
        cli(f"docker compose --progress quiet -f {tmp_path}/{name}.yaml down -v -t 0")


@pytest.mark.parametrize("subject", SCENARIOS, ids=str)
def test_an_application_lives_as_with_docker(
    subject: Scenario,
    project: None,
    cli: CLI,
    recording: Recording,
    names: dict[str, str],
    fill: dict[str, str],
) -> None:
    check(subject, recording, cli, names, fill)


def test_a_port_that_compose_names_is_served(
    project: None, cli: CLI, api: API, tmp_path: Path
) -> None:
    command = f"docker compose --progress quiet -f {tmp_path}/shop.yaml"
    cli.ok(f"{command} up -d web")
    address = cli.ok(f"{command} port web 80")
    assert address.startswith("127.0.0.1:")
    fetched = subprocess.run(
        ["curl", "-s", "--retry", "20", "--retry-connrefused", f"http://{address}/"],
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert fetched.stdout == b"page\n"
    process = cli.ok(f"{command} top db")
    assert "sleep 1000" in process


def test_events_of_a_project_are_its_own(project: None, cli: CLI, tmp_path: Path) -> None:
    command = f"docker compose --progress quiet -f {tmp_path}/places.yaml"
    cli.ok(f"{command} up -d one")
    with cli.popen(
        f"compose -f {tmp_path}/places.yaml events --json", stdout=subprocess.PIPE
    ) as watching:
        try:
            assert watching.stdout is not None
            # Compose asks for the containers first: what happens before that is not told.
            cli.ok("docker run -d --name stranger bb sleep 1000")
            seen: list[str] = []
            while not seen:
                cli.ok(f"{command} restart -t 0 one")
                line = watching.stdout.readline()
                seen.append(json.loads(line)["action"])
            while seen[-1] != "restart":
                event = json.loads(watching.stdout.readline())
                assert event["service"] == "one"
                seen.append(event["action"])
        finally:
            watching.kill()
    assert {"die", "start", "restart"} <= set(seen)
