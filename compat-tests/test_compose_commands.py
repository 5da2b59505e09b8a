"""Every command of `docker compose`, with its main options: what it says, how it ends, what it leaves, as with dockerd."""

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
    "all.yaml": """
name: all-of-it
x-it: &it {image: bb, command: sleep 1000, stop_grace_period: 0s}
services:
  web:
    <<: *it
    command: "sh -c 'echo one; echo two; echo three; exec sleep 1000'"
    labels: {com.example.ü: "ünï ☃"}
    ports: ["127.0.0.1:PORTS:80"]
    deploy: {replicas: 2}
    volumes: ["data:/data", /anon]
  db:
    <<: *it
    command: "sh -c 'touch /ok; exec sleep 1000'"
    healthcheck: {test: [CMD, test, -e, /ok], interval: 1s, start_interval: 100ms, start_period: 20s}
  app: {<<: *it, depends_on: {db: {condition: service_healthy, restart: true}}}
  echo:
    <<: *it
    command: "sh -c 'while read l; do echo got $$l; [ $$l = end ] && exit 3; done; exit 4'"
    stdin_open: true
    profiles: [echo]
  job: {<<: *it, command: "sh -c 'echo done; exit 5'", profiles: [job]}
  ok: {<<: *it, command: echo fine, profiles: [job]}
  pushed: {<<: *it, image: "${REG}/compose-pushed:v1", build: {context: .}, profiles: [push]}
  hooked:
    <<: *it
    profiles: [hook]
    volumes: ["data:/data"]
    post_start: [{command: [sh, -c, "echo started $$A >/hook"], environment: [A=b]}]
    pre_stop: [{command: [sh, -c, "echo stopping >/data/hook"]}]
  again: {<<: *it, restart: always, profiles: [again]}
volumes: {data: {}}
""",
    "pub.yaml": "name: pub\nservices: {one: {image: bb, command: sleep 1000}}\n",
    "Dockerfile": 'FROM bb\nCMD ["sleep", "1000"]\n',
    "bad/unset.yaml": 'services: {a: {image: "bb:${TAG:?must be set}"}}',
    "bad/cycle.yaml": "services: {a: {image: bb, depends_on: [b]}, b: {image: bb, depends_on: [a]}}",
    "bad/volume.yaml": 'services: {a: {image: bb, volumes: ["v:/x"]}}',
    "bad/network.yaml": "services: {a: {image: bb, networks: [n]}}\nnetworks: {n: {external: true}}",
    "bad/external.yaml": 'services: {a: {image: bb, volumes: ["v:/x"]}}\nvolumes: {v: {external: true}}',
    "bad/image.yaml": "services: {a: {image: nosuch:xx, pull_policy: never}}",
    "bad/one.yaml": "services: {a: {image: bb, deploy: {replicas: 2}, container_name: once}}",
    "bad/isolation.yaml": "services: {a: {image: bb, isolation: hyperv}}",
    "bad/runtime.yaml": "services: {a: {image: bb, runtime: nope}}",
    "bad/device.yaml": "services: {a: {image: bb, devices: [/dev/nope]}}",
    "bad/gpus.yaml": "services: {a: {image: bb, gpus: all}}",
    "bad/service.yaml": 'services: {a: {image: bb, network_mode: "service:zz"}}',
    "bad/container.yaml": 'services: {a: {image: bb, network_mode: "container:zz"}}',
    "bad/source.yaml": "services: {a: {image: bb, volumes: [{type: bind, source: /tmp/zg/nope, target: /x, bind: {create_host_path: false}}]}}",
    "bad/provider.yaml": "services: {a: {provider: {type: nope}}}",
}  # fmt: skip
ALL = "docker compose --progress quiet --profile {profile} -f {{tmp}}/all.yaml "
BASE, EVERY = ALL.format(profile="none"), ALL.format(profile="'*'")
STATES = "ps -a --format '{{.Name}} {{.State}} {{.ExitCode}}'"
SAME = OnSmartOS()
NO_FREEZER = OnSmartOS(compare="")


def said(command: str, smartos: OnSmartOS = SAME) -> Step:
    """Both outputs together, whose lines come in any order."""
    return Step(f'sh -c "{command}"', compare="exit stdout", sort=True, smartos=smartos)


def dc(*commands: str, smartos: OnSmartOS = SAME) -> Step:
    """Commands of compose for the services without a profile, one after the other, each with its exit code."""
    return _in_turn(BASE, commands, smartos)


def every(*commands: str, smartos: OnSmartOS = SAME) -> Step:
    """The same, for all services."""
    return _in_turn(EVERY, commands, smartos)


def _in_turn(start: str, commands: tuple[str, ...], smartos: OnSmartOS) -> Step:
    script = "; ".join(f"{start}{command} 2>&1; echo $?" for command in commands)
    quoted = script.replace("\\", "\\\\").replace('"', '\\"')
    return said(quoted, smartos)


SCENARIOS = [
    scenario(
        "what files and projects are shown as",
        dc("version --short", "config -q", "config --networks", "config --volumes", "config --images", "config --profiles"),
        dc("config --hash '*'", "config --variables", "config --no-interpolate --no-normalize --no-path-resolution -q"),
        dc("create", "ps -a", "ps", "ls", "ls -a", "volumes", "volumes -q"),
        dc("--dry-run up -d app"),
        dc("up -d --wait --quiet-pull --pull never", "ps", "ps --services", "ps --status running --services", "ps --filter status=exited -q"),
        dc("ps --no-trunc web --format '{{.Image}} {{.Command}} {{.Service}} {{.Project}} {{.Health}} {{.ExitCode}} {{.LocalVolumes}} {{.Networks}} {{.Publishers}}'"),
        dc("ls", "ls -q", "ls --format json", "ls --filter name=all-of", "ls --filter name=nope -q"),
        dc("images", "images web", "volumes", "volumes web", "volumes --format '{{.Name}} {{.Driver}}'"),
        said("docker ps -q --filter 'label=com.example.ü=ünï ☃' | wc -l"),
        dc("port --index 1 web 80", "port --index 2 web 80", "port web 81", "port --protocol udp web 80", "port db 80"),
        dc("logs --no-color web", "logs --no-color --index 1 web", "logs --no-log-prefix --tail 1 web", "logs -n 0 web", "logs --no-color -t web", "logs --since 1h --no-color --index 2 web", "logs --until 1h web", "logs nope"),
        dc("stats --no-stream --format '{{.Name}}'", "stats --no-stream --no-trunc --format '{{.ID}}' db", smartos=OnSmartOS(compare="exit")),
        dc("top nope", "kill -s XX web", "exec nope true", "exec -T --index 9 web true", "cp --index 2 web:/nope {tmp}"),
        dc("--project-name Bad.Name up", "-p dashed-name-1 up -d db", "-p dashed-name-1 ps --format '{{.Name}} {{.Project}}'", "-p dashed-name-1 down"),
        said("COMPOSE_PROFILES=job,echo docker compose -f - config --services <{tmp}/all.yaml"),
        dc("down -v", "ls -a"),
    ),
    scenario(
        "what is done to services",
        dc("up -d --wait", STATES),
        dc("exec -T --index 2 -u 1 -w /tmp -e A=b web sh -c 'id -u; pwd; echo $A'", "exec -d web touch /x", "exec -T web sh -c 'exit 9'"),
        dc("cp {tmp}/pub.yaml web:/copied", "exec -T --index 2 web wc -c /copied", "cp -a -L --index 1 web:/etc/passwd {tmp}/passwd", "cp --all {tmp}/pub.yaml web:/all", "exec -T --index 1 web ls /all"),
        dc("pause web", "ps -a --format '{{.Name}} {{.State}}' web", "ps --status paused -q", "unpause web", "unpause web", smartos=NO_FREEZER),
        said("docker inspect -f '{{.State.StartedAt}}' all-of-it-app-1 >{tmp}/app"),
        dc("restart db", "restart --no-deps db", "stop -t 0 web", "start --wait web", STATES),
        said("docker inspect -f '{{.State.StartedAt}}' all-of-it-app-1 | cmp -s - {tmp}/app"),
        dc("kill -s HUP web", "kill", STATES, "up -d --no-deps app", STATES, "up -d"),
        dc("up -d --scale web=1", "scale web=2", STATES, "scale web=0 --no-deps", STATES, "scale web=2"),
        said("docker events --since {began} --until {now} --filter type=container --filter label=com.docker.compose.service=app --format '{{.Action}} {{.Actor.Attributes.exitCode}}'"),
        dc("up -d -V --always-recreate-deps --remove-orphans app", "up --no-start app", "up -d --no-recreate --force-recreate", "up -d --no-build -y -t 0 db", "up nope", "run -T nope"),
        dc("run --rm -T --no-deps -v data:/d -l a=b --name all-run -u 2 -w /tmp web sh -c 'id -u; pwd; ls /d | wc -l'", "run --rm -T --entrypoint echo web hi", "run -d -T --name all-once app"),
        said(f"printf 'a\\\\nend\\\\n' | {EVERY}run --rm -i -T echo; echo $?"),
        dc("run --rm -T --use-aliases --name all-alias web sh -c 'nslookup web | grep -c Address'", STATES, smartos=OnSmartOS(compare="")),
        every("up -d echo"),
        Step(f"{EVERY}attach --index 1 echo", stdin="hi\nend\n", compare="exit"),
        dc("attach nope", "attach app --no-stdin --index 7", "export --index 9 web"),
        every("up -d job ok", "wait nope"),
        every("up --no-color --abort-on-container-exit --menu=false job"),
        every("up --no-color --no-log-prefix --exit-code-from job job", "up --no-color --abort-on-container-failure job", "up --no-color --timestamps ok", "up --wait --wait-timeout 1 job"),
        every("up -d hooked", "exec -T hooked cat /hook", "stop hooked", "exec -T --index 1 web cat /data/hook", "rm -f -s -v hooked"),
        every("up -d again", "exec -T again sh -c 'kill -9 1 || true'", "kill again", "ps -a --format '{{.State}} {{.ExitCode}}' again"),
        dc("rm -f", "rm -f -s web >{tmp}/removed", STATES),
        every("down --rmi local -v -t 0 --remove-orphans"),
        said("docker ps -aq --filter label=com.docker.compose.project=all-of-it; docker volume ls -q --filter label=com.docker.compose.project=all-of-it; docker network ls -q --filter label=com.docker.compose.project=all-of-it"),
    ),
    scenario(
        "images go to a registry and come from it",
        quiet(f"{EVERY}build -q pushed"),
        every("push -q pushed"),
        quiet("docker rmi {registry}/compose-pushed:v1"),
        every("pull -q pushed", "pull --policy missing pushed", "pull --ignore-buildable -q pushed", "images -q", "build nope"),
        said("docker images {registry}/compose-pushed --format '{{.Repository}}:{{.Tag}}'"),
        every("up -d --pull always --no-deps pushed", "images pushed", "config --images --resolve-image-digests pushed", "down"),
        quiet("docker rmi {registry}/compose-pushed:v1"),
        said("docker compose --progress quiet -f {tmp}/pub.yaml publish -y {registry}/published:v1; echo $?; curl -s http://{registry}/v2/published/tags/list"),
    ),
    scenario(
        "files that cannot be",
        *(
            said(f"docker compose --progress quiet -p bad -f {{tmp}}/{name} up -d 2>&1", OnSmartOS(compare="exit") if name in ("bad/device.yaml", "bad/gpus.yaml", "bad/container.yaml", "bad/runtime.yaml", "bad/isolation.yaml", "bad/source.yaml") else SAME)
            for name in FILES if name.startswith("bad/")
        ),
        quiet("docker compose --progress quiet -p bad -f {tmp}/bad/image.yaml down -v --remove-orphans"),
    ),
]  # fmt: skip


@pytest.fixture
def client(daemon: Daemon, registry: str, workdir: Path) -> CLI:
    """Builds without BuildKit."""
    cli = CLI(daemon.url, workdir / "commands")
    cli.env |= {"DOCKER_BUILDKIT": "0", "REG": registry}
    plug_in(cli)
    return cli


@pytest.fixture
def files(client: CLI, tmp_path: Path, platform: object) -> Iterator[Path]:
    """The files; nothing of any project is left."""
    first = 28000 + os.getpid() % 2000 * 2
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace("PORTS", f"{first}-{first + 1}"))
    yield tmp_path
    client(f"docker compose --profile '*' -f {tmp_path}/all.yaml down -v -t 0 --remove-orphans")
    client(f"docker compose -p bad -f {tmp_path}/bad/image.yaml down -v -t 0 --remove-orphans")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("subject", SCENARIOS, ids=str)
def test_commands_of_compose_do_as_with_docker(
    subject: Scenario,
    files: Path,
    client: CLI,
    recording: Recording,
    names: dict[str, str],
    fill: dict[str, str],
) -> None:
    first = 28000 + os.getpid() % 2000 * 2
    ports = {str(first): "P", str(first + 1): "P"}
    check(subject, recording, client, names | ports, fill)
