"""Real programs of a real distribution: an image of debootstrap's, with servers that apt installed."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from compat.answers import Recording
from compat.clients import CLI
from compat.compose import plug_in
from compat.daemons import Daemon
from compat.debian import LEFT_OUT
from compat.images import Image, Registry
from compat.scenarios import OnSmartOS, Step, check, quiet, scenario

pytestmark = pytest.mark.timeout(600)

NGINX = "/usr/sbin/nginx -g 'daemon off;'"
REDIS = "redis-server --protected-mode no --dir /data --save '' --appendonly yes"


@pytest.fixture(scope="module")
def image(debian_image: Image, registry: str, cli: CLI) -> Iterator[str]:
    """Its name, pulled."""
    name = f"{registry}/debian"
    Registry(registry).push(debian_image)
    cli.ok(["pull", "-q", name])
    yield name
    cli(["rmi", "-f", name])


def fetch(url: str) -> bytes:
    """The body; tries while nobody listens yet."""
    end = time.monotonic() + 10
    while True:
        try:
            with urlopen(url, timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def patiently(cli: CLI, *argv: str) -> str:
    """The output of a command that fails as long as a server is not ready."""
    end = time.monotonic() + 10
    while (done := cli(list(argv))).exit and time.monotonic() < end:
        time.sleep(0.05)
    assert done.exit == 0, done
    return done.stdout.strip()


COMPOSE = "docker compose --progress quiet -f {tmp}/compose.yaml"
STATES = COMPOSE + " ps -a --format '{{.Name}} {{.State}} {{.Health}} {{.ExitCode}}'"
SQL = COMPOSE + " exec -T -e PGPASSWORD=s3cret db psql -h 127.0.0.1 -U shop -Atc"
NO_FREEZER = OnSmartOS(exit=1, compare="exit")
SAME = OnSmartOS()


def shown(command: str, smartos: OnSmartOS = SAME) -> Step:
    """Standard output, whose lines come in any order, and the exit code."""
    return Step(command, compare="exit stdout", sort=True, smartos=smartos)


def once(wanted: str, command: str) -> Step:
    """A command again and again until it says this, or some twenty seconds are over; what it says then."""
    return shown(f"sh {{tmp}}/once {wanted} {command}")


def shop(path: str, *options: str) -> str:
    """What the shop answers at the port that it is published at, which is open before nginx listens."""
    patiently = "--retry 9 --retry-delay 1 --retry-all-errors"
    return f'sh -c "curl -s {patiently} {" ".join(options)} http://$({COMPOSE} port web 80)/{path}"'


REAL = scenario(
    "an application of real servers",
    quiet(f"{COMPOSE} build"),
    shown(f"{COMPOSE} up -d"),
    shown(STATES),
    shown(f"{COMPOSE} logs --no-color --no-log-prefix migrate"),
    shown(f"{COMPOSE} exec -T db sh -c 'id -un; ps -o user= -p 1; stat -c %a:%U $PGDATA'"),
    shown(shop("jobs", "-d one")),
    once("one", shop("rows")),
    shown(f"{COMPOSE} up -d --scale worker=3 --no-recreate"),
    once("3", f"{SQL} \"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'worker'\""),
    shown("sh -c 'seq 100 129 >{tmp}/jobs'"),
    shown(shop("jobs", "--data-binary @{tmp}/jobs")),
    once("31", f"{SQL} 'SELECT count(*) FROM rows'"),
    # Their connections are lost: workers fail, and are started again for it.
    shown(f"{COMPOSE} restart db"),
    shown(shop("jobs", "-d late")),
    once("32", f"{SQL} 'SELECT count(*) FROM rows'"),
    shown(f"{COMPOSE} pause web", NO_FREEZER),
    shown(f"{COMPOSE} unpause web", NO_FREEZER),
    shown(f'sh -c "{COMPOSE} top queue | grep -c redis-server"'),
    shown(f"{COMPOSE} exec -T -e PGPASSWORD=s3cret db pg_dump -h 127.0.0.1 -U shop -f /tmp/dump"),
    shown(f"{COMPOSE} cp db:/tmp/dump {{tmp}}/dump"),
    shown("sh -c 'cut -f1 {tmp}/dump | grep -cxE \"one|1[0-2][0-9]|late\"'"),
    shown(f"sh -c 'tar -c -C {{tmp}} dump | {COMPOSE} cp - web:/tmp/'"),
    shown(f"sh -c '{COMPOSE} exec -T web cat /tmp/dump | cmp - {{tmp}}/dump'"),
    shown(f"{COMPOSE} kill worker"),
    shown(STATES),
    shown(f"{COMPOSE} down"),
    shown(f"{COMPOSE} up -d"),
    shown(f"{COMPOSE} logs --no-color --no-log-prefix migrate"),
    shown(shop("rows")),
    shown(f"{COMPOSE} down -v"),
    shown(f"{COMPOSE} up -d --wait db"),
    shown(f"{SQL} \"SELECT count(*) FROM pg_tables WHERE schemaname = 'public'\""),
    shown(f"{COMPOSE} down -v"),
    shown("docker volume ls -q --filter label=com.docker.compose.project=real"),
    shown("docker network ls -q --filter label=com.docker.compose.project=real"),
    quiet("docker rmi real-app real-db"),
)
_ONCE = """#!/bin/sh
# once WANTED COMMAND...: what the command says, when it says this, or when twenty seconds are over
wanted=$1 end=$(($(date +%s) + 20))
shift
while said=$("$@" 2>/dev/null); [ "$said" != "$wanted" ] && [ "$(date +%s)" -lt "$end" ]; do :; done
echo "$said"
"""


@pytest.fixture
def real(daemon: Daemon, image: str, workdir: Path, tmp_path: Path) -> Iterator[CLI]:
    """The files of compat-tests/application, with the image as their base; a client that builds without BuildKit."""
    shutil.copytree(Path(__file__).with_name("application"), tmp_path, dirs_exist_ok=True)
    (tmp_path / ".env").write_text(f"BASE={image}\n")
    (tmp_path / "once").write_text(_ONCE)
    cli = CLI(daemon.url, workdir / "real")
    cli.env["DOCKER_BUILDKIT"] = "0"
    plug_in(cli)
    yield cli
    cli(f"docker compose --progress quiet -f {tmp_path}/compose.yaml down -v -t 0")
    cli("docker rmi -f real-app real-db")


def test_an_application_of_real_servers_by_compose(
    real: CLI, recording: Recording, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(REAL, recording, real, names, fill)


def test_every_file_is_as_its_package_has_it(cli: CLI, image: str, platform: object) -> None:
    changed = cli(f"run --rm {image} dpkg --verify").stdout.splitlines()
    left_out = re.compile(rf"missing +/(?:{'|'.join(LEFT_OUT)})/.*")
    assert [line for line in changed if not left_out.fullmatch(line)] == []
    assert cli.ok(f"run --rm {image} stat -c '%a %U %G' /usr/bin/su /usr/bin/chage /tmp") == (
        "4755 root root\n2755 root shadow\n1777 root root"
    )
    if platform is not None:
        return  # the platform's tar and ZFS have no extended attributes of Linux
    script = "import os; print(os.getxattr('/usr/bin/ping', 'security.capability').hex()[:8])"
    assert cli.ok(["run", "--rm", image, "python3", "-c", script]) in ("01000002", "01000003")


def test_a_user_may_ping(cli: CLI, image: str) -> None:
    assert "1 received" in cli.ok(f"run --rm -u nobody {image} ping -c 1 127.0.0.1")


def test_bash_has_job_control(cli: CLI, image: str) -> None:
    with cli.terminal(f"run --rm -it --name jobs -e 'PS1=> ' {image} bash --norc") as terminal:
        terminal.until("> ")
        terminal.type("sleep 1000\n")
        end = time.monotonic() + 20
        while "sleep 1000" not in cli("top jobs -o pid,args").stdout:
            assert time.monotonic() < end, terminal.seen
        terminal.type(b"\x1a")
        terminal.until(r"\[1\]\+  Stopped")
        # disown: bash may not have noticed the end by the time of exit, and would stay for it.
        terminal.type("kill -9 %1; wait; disown -a; echo over $?\n")
        terminal.until(r"over \d+\r\n")
        terminal.type("exit 5\n")
        assert terminal.end() == 5


def test_init_reaps_what_is_left(cli: CLI, image: str) -> None:
    script = "(sleep 0.1 & exec sleep 0.05) & sleep 0.5; ps -eo stat | grep -c Z"
    assert cli(["run", "--rm", "--init", image, "sh", "-c", script]).stdout.strip() == "0"


def test_nginx_serves_and_leaves_by_its_own_signal(cli: CLI, image: str) -> None:
    cli.ok(f"run -d --name web --stop-signal QUIT -p 127.0.0.1::80 {image} {NGINX}")
    address = cli.ok("port web 80/tcp")
    page = fetch(f"http://{address}/")
    assert b"nginx" in page
    inside = cli.ok(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"])
    script = f'exec 3<>/dev/tcp/{inside}/80; printf "GET / HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3'
    assert "root      " in cli.ok("exec web ps -eo user:10,comm")
    assert "www-data  " in cli.ok("exec web ps -eo user:10,comm")
    assert cli.ok(["run", "--rm", image, "bash", "-c", script]).encode().endswith(page.strip())
    cli.ok("stop web")
    assert cli.ok(["inspect", "-f", "{{.State.ExitCode}}", "web"]) == "0"


def test_redis_keeps_its_data_in_a_volume(cli: CLI, image: str) -> None:
    def server(name: str) -> None:
        cli.ok(f"run -d --name {name} -u redis -v zgdata:/data {image} sh -c 'exec {REDIS}'")
        assert patiently(cli, "exec", name, "redis-cli", "ping") == "PONG"

    cli.ok(f"run --rm -v zgdata:/data {image} chown redis:redis /data")
    server("first")
    cli.ok(["exec", "-i", "first", "redis-cli", "-x", "set", "blob"], b"\x00\xff\r\n" * 50000)
    assert cli.ok("exec first redis-cli strlen blob") == "200000"
    cli.ok("stop first")
    assert cli.ok(["inspect", "-f", "{{.State.ExitCode}}", "first"]) == "0"
    server("second")
    assert cli.ok("exec second redis-cli strlen blob") == "200000"
    cli.ok("kill second")
    assert cli.ok("wait second") == "137"
