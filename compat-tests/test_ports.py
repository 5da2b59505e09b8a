"""Published ports and the default network, with real connections."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest
from compat.clients import CLI

HTTPD = "sh -c 'mkdir -p /www && hostname > /www/name && exec httpd -f -p 80 -h /www'"


def host_address() -> str:
    """An address of this machine that is not loopback."""
    out = subprocess.run(
        ["ip", "-4", "-o", "addr", "show", "scope", "global"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line.split() for line in out.splitlines()]
    return next(
        words[3].split("/")[0]
        for words in rows
        if not words[1].startswith(("docker", "br-", "zg", "zc", "veth"))
    )


def fetch(address: str, path: str = "/name") -> str:
    """The body; tries while nobody listens yet in the container."""
    end = time.monotonic() + 10
    while True:
        try:
            with urlopen(f"http://{address}{path}", timeout=5) as answer:
                return str(answer.read().decode()).strip()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def published(cli: CLI, name: str, port: str) -> str:
    return cli.ok(f"port {name} {port}").splitlines()[0].rsplit(":", 1)[1]


def test_a_port_is_reached_on_every_address(cli: CLI) -> None:
    cli.ok(f"run -d --name web --hostname web -p 80 bb {HTTPD}")
    port = published(cli, "web", "80")
    assert fetch(f"127.0.0.1:{port}") == "web"
    assert fetch(f"{host_address()}:{port}") == "web"


def test_a_port_on_loopback_is_only_there(cli: CLI) -> None:
    cli.ok(f"run -d --name web --hostname web -p 127.0.0.1::80 bb {HTTPD}")
    port = published(cli, "web", "80")
    assert fetch(f"127.0.0.1:{port}") == "web"
    with socket.socket() as client:
        client.settimeout(2)
        assert client.connect_ex((host_address(), int(port))) != 0


def test_a_port_is_closed_when_the_container_stops(cli: CLI) -> None:
    cli.ok(f"run -d --name web --hostname web -p 127.0.0.1:28381:80 bb {HTTPD}")
    assert fetch("127.0.0.1:28381") == "web"
    cli.ok("stop -t 0 web")
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", 28381)) != 0
    cli.ok("start web")
    assert fetch("127.0.0.1:28381", "/name") == "web"


def test_a_port_that_another_program_has_is_refused(cli: CLI) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = cli(f"run -d --name web -p 127.0.0.1:{port}:80 bb sleep 100")
        assert result.exit == 125
        assert "address already in use" in result.stderr
    assert cli.ok("inspect -f '{{.State.Status}}' web") == "created"
    cli.ok("start web")


ECHO = """
import socket
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 53))
print("bound", flush=True)
data, client = server.recvfrom(100)
server.sendto(data, client)
"""


def test_datagrams_are_published_too(cli: CLI) -> None:
    cli.ok("run -d --name echo -p 127.0.0.1::53/udp bb sleep 1000")
    port = int(published(cli, "echo", "53/udp"))
    inside = ["nsenter", "--net", "-t", cli.ok("inspect -f '{{.State.Pid}}' echo")]
    # busybox has no server for datagrams: one of ours, in the container's network.
    with subprocess.Popen([*inside, sys.executable, "-c", ECHO], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"bound\n"
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.connect(("127.0.0.1", port))
            client.send(b"ping")
            assert client.recv(100) == b"ping"
        assert server.wait(5) == 0


def test_containers_reach_each_other_and_the_host(cli: CLI) -> None:
    cli.ok(f"run -d --name web --hostname web -p 127.0.0.1::80 bb {HTTPD}")
    fetch(f"127.0.0.1:{published(cli, 'web', '80')}")
    address = cli.ok("inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' web")
    gateway = cli.ok("inspect -f '{{.NetworkSettings.Networks.bridge.Gateway}}' web")
    assert cli.ok(f"run --rm bb wget -q -O - http://{address}/name") == "web"
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        server.settimeout(20)
        client = cli.popen(
            f"run --rm bb sh -c 'echo knock | nc -w 5 {gateway} {server.getsockname()[1]}'",
            stdin=subprocess.DEVNULL,
        )
        connection, _ = server.accept()
        with connection:
            assert connection.recv(100) == b"knock\n"
        client.wait(20)


def test_a_container_reaches_a_published_port_by_the_host(cli: CLI) -> None:
    cli.ok(f"run -d --name web --hostname web -p 80 bb {HTTPD}")
    port = published(cli, "web", "80")
    fetch(f"127.0.0.1:{port}")
    assert cli.ok(f"run --rm bb wget -q -O - http://{host_address()}:{port}/name") == "web"


@pytest.mark.parametrize(
    "option",
    [
        "--network none",
        pytest.param(
            "--network host",
            marks=pytest.mark.linux_only("a zone has a network stack of its own: refused with 501"),
        ),
    ],
)
def test_no_network_and_the_hosts(cli: CLI, option: str) -> None:
    names = cli.ok(f"run --rm {option} bb ls /sys/class/net").split()
    assert "lo" in names
    assert (len(names) == 1) == option.endswith("none")


def test_every_container_has_an_address_of_its_own(cli: CLI) -> None:
    for number in range(5):
        cli.ok(f"run -d --name n{number} bb sleep 1000")
    rows = [
        cli.ok(
            f"inspect -f '{{{{.NetworkSettings.IPAddress}}}} {{{{.NetworkSettings.MacAddress}}}}' n{number}"
        ).split()
        for number in range(5)
    ]
    assert len({address for address, _ in rows}) == 5
    assert len({mac for _, mac in rows}) == 5
    seen = cli.ok("exec n3 ip -o addr show eth0")
    assert rows[3][0] in seen
