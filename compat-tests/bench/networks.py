"""Networks, names, ports and compose, side by side: what each server takes for the same, rounds interleaved A B A B.

    networks.py --host zonegate=unix:///run/zonegate.sock --host dockerd=unix:///run/docker.sock --seed busybox.tar --out out.json

The servers share one network namespace and this program runs in it.  Everything goes by the docker CLI but the DNS queries and
the bytes: those are sent from inside a container's namespace, by nsenter, and by busybox nc.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE = "busybox"
SERVICES = 10
MEGABYTES = 2000
QUERIES, QUERIES_PER_S = 3000, 1000


@dataclass
class Server:
    """One server by its name and DOCKER_HOST."""

    name: str
    url: str
    config: str

    def docker(self, *argv: str, check: bool = True) -> str:
        """Standard output of a docker command; what it says on failure is shown."""
        environment = os.environ | {"DOCKER_HOST": self.url, "DOCKER_CONFIG": self.config}
        done = subprocess.run(
            ["docker", *argv], env=environment, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: docker {' '.join(argv)}: {done.stderr}")
        return done.stdout.strip()

    def pid(self, container: str) -> str:
        """Of its first process."""
        return self.docker("inspect", "-f", "{{.State.Pid}}", container)


def compose(server: Server, folder: Path) -> dict[str, float]:
    """`up -d` and `down` of ten services on one network, each with a name, a label and an environment."""
    services = {
        f"s{number}": {
            "image": IMAGE,
            "command": ["sleep", "1000"],
            "environment": {"NUMBER": str(number)},
            "stop_grace_period": "0s",
        }
        for number in range(SERVICES)
    }
    path = folder / "compose.json"
    path.write_text(json.dumps({"services": services}))
    project = f"p{secrets.token_hex(4)}"
    began = time.perf_counter()
    server.docker("compose", "-p", project, "-f", str(path), "up", "-d", "--quiet-pull")
    up = time.perf_counter()
    server.docker("compose", "-p", project, "-f", str(path), "down", "-v")
    return {"up_s": up - began, "down_s": time.perf_counter() - up}


ASK = """
import socket, statistics, struct, sys, time
name, count, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\\0" + struct.pack(">HH", 1, 1)
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect(("127.0.0.11", 53))
client.settimeout(2)
times, begun, lost = [], time.perf_counter(), 0
for number in range(count):
    while time.perf_counter() < begun + number / rate:
        pass
    at = time.perf_counter()
    client.send(struct.pack(">HHHHHH", number & 0xFFFF, 0x100, 1, 0, 0, 0) + question)
    try:
        answer = client.recv(4096)
    except TimeoutError:
        lost += 1
        continue
    assert answer[3] & 15 == 0 and answer[7] == 1, answer
    times.append(time.perf_counter() - at)
print(statistics.median(times) * 1e3, sorted(times)[int(len(times) * 0.99)] * 1e3, lost)
"""


def names(server: Server, _: Path) -> dict[str, float]:
    """Queries for another container's name, a thousand a second."""
    network = f"n{secrets.token_hex(4)}"
    server.docker("network", "create", network)
    try:
        for name in ("asked", "asking"):
            server.docker(
                "run",
                "-d",
                "--name",
                f"{network}-{name}",
                "--network",
                network,
                IMAGE,
                "sleep",
                "1000",
            )
        command = [
            "nsenter",
            "-t",
            server.pid(f"{network}-asking"),
            "-n",
            sys.executable,
            "-c",
            ASK,
        ]
        done = subprocess.run(
            [*command, f"{network}-asked", str(QUERIES), str(QUERIES_PER_S)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        median, slow, lost = map(float, done.stdout.split())
        return {"median_ms": median, "p99_ms": slow, "lost": lost}
    finally:
        server.docker("rm", "-f", f"{network}-asked", f"{network}-asking", check=False)
        server.docker("network", "rm", network)


RECEIVE = "nc -l -p 5001 >/dev/null"


def tcp(server: Server, _: Path) -> dict[str, float]:
    """Bytes from one container to another on a user network, and from this machine to a published port."""
    network = f"n{secrets.token_hex(4)}"
    server.docker("network", "create", network)
    try:
        receiver = (
            "run",
            "-d",
            "--network",
            network,
            "-p",
            "127.0.0.1::5001",
            "--name",
            f"{network}-to",
        )
        server.docker(*receiver, IMAGE, "sh", "-c", f"while :; do {RECEIVE}; done")
        server.docker(
            "run", "-d", "--network", network, "--name", f"{network}-from", IMAGE, "sleep", "1000"
        )
        address = server.docker(
            "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", f"{network}-to"
        )  # fmt: skip
        found = {"between_MBps": _inside(server, f"{network}-from", address)}
        port = int(server.docker("port", f"{network}-to", "5001").rpartition(":")[2])
        found["published_MBps"] = _from_here(port)
        return found
    finally:
        server.docker("rm", "-f", f"{network}-to", f"{network}-from", check=False)
        server.docker("network", "rm", network)


def _inside(server: Server, container: str, address: str) -> float:
    """By a sender in the container's network that costs next to nothing."""
    sender = (
        "import socket, sys, time\n"
        "for _ in range(200):\n"
        "    try:\n"
        "        client = socket.create_connection((sys.argv[1], 5001))\n"
        "        break\n"
        "    except OSError:\n"
        "        time.sleep(0.05)\n"
        f"data, began = bytes(1 << 20), time.perf_counter()\n"
        f"for _ in range({MEGABYTES}):\n"
        "    client.sendall(data)\n"
        "client.shutdown(socket.SHUT_WR)\n"
        "client.recv(1)\n"
        "print(time.perf_counter() - began)\n"
    )
    command = ["nsenter", "-t", server.pid(container), "-n", sys.executable, "-c", sender, address]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return MEGABYTES / float(done.stdout)


def _from_here(port: int) -> float:
    end = time.monotonic() + 10
    while True:
        try:
            client = socket.create_connection(("127.0.0.1", port), timeout=60)
            break
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
    with client:
        data, began = bytes(1 << 20), time.perf_counter()
        for _ in range(MEGABYTES):
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        client.recv(1)
        return MEGABYTES / (time.perf_counter() - began)


def many(server: Server, _: Path) -> dict[str, float]:
    """Milliseconds of create, inspect and list of networks: of the first five, and with a hundred there."""
    prefix = f"m{secrets.token_hex(4)}"
    subnets = [f"10.{180 + number // 250}.{number % 250}.0/24" for number in range(105)]
    made: list[str] = []

    def timed(work: Callable[[int], object], rounds: int = 5) -> float:
        times = []
        for number in range(rounds):
            began = time.perf_counter()
            work(number)
            times.append((time.perf_counter() - began) * 1e3)
        return statistics.median(times)

    def create(_: int) -> None:
        name = f"{prefix}-{len(made)}"
        server.docker("network", "create", "--subnet", subnets[len(made)], name)
        made.append(name)

    try:
        found = {
            "create_first_ms": timed(create),
            "list_first_ms": timed(lambda _: server.docker("network", "ls")),
        }
        found["inspect_first_ms"] = timed(lambda _: server.docker("network", "inspect", made[0]))
        while len(made) < 100:
            create(0)
        found["create_100_ms"] = timed(create)
        found["list_100_ms"] = timed(lambda _: server.docker("network", "ls"))
        found["inspect_100_ms"] = timed(lambda _: server.docker("network", "inspect", made[0]))
        return found
    finally:
        server.docker("network", "rm", *made)


class _Wire(http.client.HTTPConnection):
    """HTTP on a unix socket, which costs less than what is measured."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(self._path)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON; RuntimeError with the server's words for a refusal."""
        headers = {"Content-Type": "application/json"}
        self.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.getresponse()
        data = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {data!r}")
        return json.loads(data) if data.strip() else None


NETWORKS, CONTAINERS, ROUNDS = 100, 500, 21


def crowd(server: Server, _: Path) -> dict[str, float]:
    """Milliseconds of each operation with next to nothing there, and among a hundred networks with five containers each."""
    wire = _Wire(server.url.removeprefix("unix://"))
    prefix = f"c{secrets.token_hex(3)}"
    networks = [f"{prefix}-n{number}" for number in range(NETWORKS)]
    made: list[str] = []

    def network(name: str, number: int) -> None:
        subnet = f"10.{180 + number // 250}.{number % 250}.0/24"
        wire.ask(
            "POST", "/networks/create", {"Name": name, "IPAM": {"Config": [{"Subnet": subnet}]}}
        )

    def container(name: str, on: str) -> None:
        body = {"Image": IMAGE, "Cmd": ["sleep", "10000"], "HostConfig": {"NetworkMode": on}}
        wire.ask("POST", f"/containers/create?name={name}", body)
        made.append(name)

    try:
        network(networks[0], 0)
        few = _figures(wire, network, container, prefix, networks[0])
        for number, name in enumerate(networks[1:], 1):
            network(name, number)
        for number in range(CONTAINERS):
            container(f"{prefix}-{number}", networks[number % NETWORKS])
            wire.ask("POST", f"/containers/{prefix}-{number}/start")
        among = _figures(wire, network, container, prefix, networks[0])
        found = {f"{key}_few_ms": value for key, value in few.items()}
        found |= {f"{key}_many_ms": value for key, value in among.items()}
        return found | {f"{key}_growth": among[key] / few[key] for key in few}
    finally:
        for name in made:
            with suppress(RuntimeError):
                wire.ask("DELETE", f"/containers/{name}?force=1")
        for name in networks:
            with suppress(RuntimeError):
                wire.ask("DELETE", f"/networks/{name}")


def _figures(
    wire: _Wire,
    network: Callable[[str, int], None],
    container: Callable[[str, str], None],
    prefix: str,
    on: str,
) -> dict[str, float]:
    """The quickest of some rounds of each: what the machine does besides is not the server's."""
    times: dict[str, list[float]] = {}
    rows: list[int] = []

    def timed(key: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        times.setdefault(key, []).append((time.perf_counter() - began) * 1e3)

    for number in range(ROUNDS):
        net, name = f"{prefix}-x{number}", f"{prefix}-y{number}"
        timed("network_create", lambda net=net, n=number: network(net, 300 + n))
        timed("network_inspect", lambda net=net: wire.ask("GET", f"/networks/{net}"))
        timed("create", lambda name=name: container(name, on))
        timed("start", lambda name=name: wire.ask("POST", f"/containers/{name}/start"))
        timed("inspect", lambda name=name: wire.ask("GET", f"/containers/{name}/json"))
        timed("list", lambda: rows.append(len(wire.ask("GET", "/containers/json?all=1"))))
        timed("network_list", lambda: rows.append(len(wire.ask("GET", "/networks"))))
        timed("remove", lambda name=name: wire.ask("DELETE", f"/containers/{name}?force=1"))
        timed("network_remove", lambda net=net: wire.ask("DELETE", f"/networks/{net}"))
    found = {key: min(values) for key, values in times.items()}
    # A list is as long as there are others: what has to stay flat is the time of a row.
    found["list_row"] = found.pop("list") / rows[-2]
    found["network_list_row"] = found.pop("network_list") / rows[-1]
    return found


FUNCTIONS = {
    "compose": (compose, 5), "dns": (names, 3), "tcp": (tcp, 3), "networks": (many, 1), "crowd": (crowd, 1)
}  # fmt: skip
LONG = ("crowd",)
"""Of dockerd it takes minutes: only when asked for."""


def main() -> None:
    """Medians by function and figure, as JSON and as lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", action="append", required=True, help="NAME=URL")
    parser.add_argument("--seed", required=True, help="an archive with the image `busybox`")
    parser.add_argument("--only", default="", help="of " + ",".join(FUNCTIONS))
    parser.add_argument("--out", default="")
    given = parser.parse_args()
    wanted = [name for name in given.only.split(",") if name]
    wanted = wanted or [name for name in FUNCTIONS if name not in LONG]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        found_compose = importlib.util.find_spec("compose")
        if found_compose is not None and found_compose.origin:
            (folder / "cli-plugins").mkdir()
            program = Path(found_compose.origin).with_name("docker-compose")
            (folder / "cli-plugins/docker-compose").symlink_to(program)
        (folder / "config.json").write_text("{}")
        servers = [Server(*row.split("=", 1), str(folder)) for row in given.host]
        for server in servers:
            server.docker("load", "-q", "-i", given.seed)
        out: dict[str, dict[str, float]] = {server.name: {} for server in servers}
        for name in wanted:
            function, rounds = FUNCTIONS[name]
            found: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
            for _ in range(rounds):
                for server in servers:
                    found[server.name].append(function(server, folder))
            for server in servers:
                for key in found[server.name][0]:
                    value = statistics.median(row[key] for row in found[server.name])
                    out[server.name][f"{name}.{key}"] = value
    for key in next(iter(out.values())):
        shown = "  ".join(f"{server.name} {out[server.name][key]:.3f}" for server in servers)
        first, *others = [out[server.name][key] for server in servers]
        ratio = f"  ratio {first / others[0]:.3f}" if others and others[0] else ""
        sys.stdout.write(f"{key}: {shown}{ratio}\n")
    if given.out:
        Path(given.out).write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
