"""Real programs of a real distribution: an image of debootstrap's, with servers that apt installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from compat.clients import CLI
from compat.compose import plug_in
from compat.images import Image, Registry

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


SHOP = """
name: real
services:
  store:
    image: {image}
    user: redis
    command: redis-server --protected-mode no --dir /data --save '' --appendonly yes
    volumes: [kept:/data]
    healthcheck: {{test: redis-cli ping, interval: 500ms, timeout: 5s, retries: 40}}
    depends_on: {{prepare: {{condition: service_completed_successfully}}}}
  prepare:
    image: {image}
    command: chown redis:redis /data
    volumes: [kept:/data]
  worker:
    image: {image}
    command: bash -c 'while redis-cli -h store incr jobs; do redis-cli -h store sadd workers $$HOSTNAME; sleep 0.1; done'
    stop_signal: KILL
    depends_on: {{store: {{condition: service_healthy}}}}
  web:
    image: {image}
    command: nginx -g 'daemon off;'
    stop_signal: QUIT
    ports: ["127.0.0.1::80"]
    configs: [{{source: site, target: /etc/nginx/sites-enabled/default}}]
    depends_on: [worker]
volumes: {{kept: {{}}}}
configs: {{site: {{content: "server {{ listen 80; location / {{ return 200 shop; }} }}"}}}}
"""


def test_an_application_of_real_servers_by_compose(cli: CLI, image: str, tmp_path: Path) -> None:
    plug_in(cli)
    (tmp_path / "shop.yaml").write_text(SHOP.format(image=image))
    compose = ["compose", "--progress", "quiet", "-f", f"{tmp_path}/shop.yaml"]

    def stored(*command: str) -> int:
        # Nothing at all is there before the first job is done.
        return int(cli.ok([*compose, "exec", "-T", "store", "redis-cli", *command]) or 0)

    def until(count: int, *command: str) -> None:
        end = time.monotonic() + 20
        while stored(*command) < count:
            assert time.monotonic() < end

    try:
        cli.ok([*compose, "up", "-d"])
        assert fetch(f"http://{cli.ok([*compose, 'port', 'web', '80'])}/") == b"shop"
        until(2, "get", "jobs")
        cli.ok([*compose, "up", "-d", "--scale", "worker=3", "--no-recreate"])
        until(3, "scard", "workers")
        done = stored("get", "jobs")
        cli.ok([*compose, "down", "-t", "5"])
        cli.ok([*compose, "up", "-d", "--wait", "store"])
        assert stored("get", "jobs") >= done
    finally:
        cli([*compose, "down", "-v", "-t", "0"])


def test_every_file_is_as_its_package_has_it(cli: CLI, image: str, platform: object) -> None:
    assert cli.ok(f"run --rm {image} dpkg --verify") == ""
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
