"""Compose projects while the server is killed: after its restart `down -v` leaves nothing, whatever was half done.

Each cycle has three networks, named and anonymous volumes, published ports, a secret, and services that wait for
each other's health and end.  Called by soak.py.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

from compat.clients import CLI
from compat.compose import plug_in
from compat.daemons import Daemon
from compat.leftovers import Snapshot, new, settled, snapshot

_QUICK = {"image": "bb", "stop_grace_period": "0s"}
PROJECT: dict[str, Any] = {
    "services": {
        "web": {
            **_QUICK,
            "command": ["sh", "-c", "while :; do nc -l -p 80 -e echo hi; done"],
            "networks": ["front", "back"],
            "ports": ["127.0.0.1::80"],
            "secrets": ["token"],
            "depends_on": {
                "store": {"condition": "service_healthy"},
                "migrate": {"condition": "service_completed_successfully"},
            },
        },
        "store": {
            **_QUICK,
            "command": ["sh", "-c", "echo kept >/data/f; sleep 1000"],
            "networks": {"back": {"aliases": ["db"]}},
            "volumes": ["data:/data", "/more"],
            "healthcheck": {"test": "test -e /data/f", "interval": "100ms", "retries": 100},
        },
        "migrate": {
            **_QUICK,
            "command": ["sh", "-c", "echo done >>/data/f"],
            "networks": ["back"],
            "volumes": ["data:/data"],
            "depends_on": {"store": {"condition": "service_healthy"}},
        },
        "worker": {
            **_QUICK,
            "command": ["sh", "-c", "nslookup db; sleep 1000"],
            "networks": ["back"],
            "restart": "always",
            "tmpfs": ["/tmp"],
            "depends_on": ["store"],
            "scale": 2,
        },
        "alone": {**_QUICK, "command": ["sleep", "1000"], "volumes": ["/scratch"]},
    },
    "networks": {"front": {}, "back": {"internal": True}},
    "volumes": {"data": {}},
    "secrets": {"token": {"file": "./compose.json"}},
}


def applications(server: Daemon, cli: CLI, cycles: int, chance: random.Random) -> list[str]:
    """What was wrong: a `down` that failed, or something that was left after it."""
    if not cycles:
        return []
    plug_in(cli)
    path = server.root / "compose.json"
    path.write_text(json.dumps(PROJECT))
    before, begun = things(server, cli), time.monotonic()
    long_s = _whole_s(cli, path)
    wrong = _left(server, cli, before, "after the first, which nothing disturbed")
    for number in range(cycles):
        project = ["compose", "-p", f"soak{number}", "-f", str(path)]
        told = _disturbed(server, cli, project, chance, long_s)
        done = cli([*project, "down", "-v"])
        if done.exit:
            wrong.append(f"cycle {number}, {told}: {done.stderr[-300:]}")
        if told.endswith("recreation"):
            # Anonymous volumes have names for the containers that inherit them: dockerd's `down -v` leaves them, too.
            cli.ok("volume prune -f")
        if left := _left(server, cli, before, f"cycle {number}, {told}"):
            wrong += left
            before = things(server, cli)  # each is told once
    print(f"{cycles} applications, each killed, in {time.monotonic() - begun:.0f} s")
    return wrong


def _whole_s(cli: CLI, path: Path) -> float:
    """How long `up` takes here: kills are to strike all of it."""
    begun = time.monotonic()
    cli.ok(["compose", "-p", "soak", "-f", str(path), "up", "-d"])
    took = time.monotonic() - begun
    cli.ok(["compose", "-p", "soak", "-f", str(path), "down", "-v"])
    return took


def _disturbed(
    server: Daemon, cli: CLI, project: list[str], chance: random.Random, long_s: float
) -> str:
    """Kill the server in the middle of `up`, of `down` or of a second `up` that makes all anew; when it was."""
    commands = {
        "up": (["up", "-d"], 1.1 * long_s),
        "down": (["down", "-v"], 0.5 * long_s),
        "recreation": (["up", "-d", "--force-recreate"], 1.3 * long_s),
    }
    name = chance.choices([*commands], weights=(4, 4, 2))[0]
    if name != "up":
        cli.ok([*project, "up", "-d"])
    argv, within_s = commands[name]
    running = subprocess.Popen(
        ["docker", *project, *argv],
        env=cli.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after_s = chance.random() * within_s
    time.sleep(after_s)
    server.kill()
    time.sleep(chance.choice((0, 0, 0.3)))
    server.start()
    if chance.random() < 0.2:  # it is killed again while it finds its way
        server.kill()
        server.start()
    running.wait(60)
    return f"killed {after_s:.2f} s into its {name}"


def _left(server: Daemon, cli: CLI, before: Snapshot, when: str) -> list[str]:
    rows = settled(lambda: new(before, things(server, cli)), 10)
    return [f"{when}: {kind} left: {names[:8]}" for kind, names in rows.items()]


def things(server: Daemon, cli: CLI) -> Snapshot:
    """What the server has of every kind, by its own word, by the kernel's, and by its files."""
    shown = {
        "networks": "network ls -q --no-trunc",
        "volumes": "volume ls -q",
        "containers": "ps -aq --no-trunc",
    }
    told = {kind: frozenset(cli.ok(command).split()) for kind, command in shown.items()}
    return snapshot(server) | told | _of_kernel(server) | _of_files(server)


def _of_kernel(server: Daemon) -> Snapshot:
    """Rules of its own table, bridges, and whatever else is plugged in; scripts/soak has a namespace of its own."""
    tables = _lines("nft", "-s", "list", "ruleset")
    own = [part for part in "\n".join(tables).split("\ntable ") if server.name in part]
    return {
        "rules": frozenset(line.strip() for part in own for line in part.splitlines()),
        "links": frozenset(line.split(": ")[1] for line in _lines("ip", "-o", "link", "show")),
    }


def _of_files(server: Daemon) -> Snapshot:
    """Leases, records of networks, folders of volumes, what is in the trash."""
    book = server.data_root / "networks/leases.json"
    leases = json.loads(book.read_text()) if book.exists() else {}
    return {
        "leases": frozenset(
            f"{network} {address} {zone}"
            for network, rows in leases.items()
            for address, zone in rows["leases"].items()
        ),
        "records": _names(server, "networks/user", "volumes", "zones", "trash", "tmp"),
    }


def _names(server: Daemon, *folders: str) -> frozenset[str]:
    return frozenset(
        str(path) for folder in folders for path in (server.data_root / folder).glob("*")
    )


def _lines(*argv: str) -> list[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
