"""Long runs: many containers under load, kills of the server at any moment, and nothing left behind.  Run by scripts/soak."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compat.clients import API, CLI
from compat.daemons import Daemon, own_bridge
from compat.images import archive, catalogue
from compat.leftovers import new, settled, snapshot
from compat.ownnetwork import own_network
from compat.smartos import SmartOS
from compat.transfers import Transfers
from soak_compose import applications
from soak_pulls import pulls

GROWTH_LIMIT = 40_000_000
"""Bytes that the server's memory may grow by while it passes streams on."""


def main() -> int:
    """1 if anything was wrong."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=1000, help="containers of the load run")
    options.add_argument("--kills", type=int, default=50, help="kill -9 of the server")
    options.add_argument("--pulls", type=int, default=200, help="pulls from a registry with faults")
    options.add_argument("--applications", type=int, default=100, help="compose up and down")
    options.add_argument("--parallel", type=int, default=20)
    options.add_argument("--megabytes", type=int, default=500, help="through each stream")
    options.add_argument("--attaches", type=int, default=50, help="to one container at once")
    options.add_argument("--backend", choices=["linux", "smartos"], default="linux")
    options.add_argument("--seed", type=int, default=int(time.time()))
    args = options.parse_args()
    own_network()  # what is left behind is told from what others on the machine do
    print(f"seed {args.seed}")
    chance = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp(prefix="zgsoak-", dir="/tmp"))
    platform = SmartOS(folder, over_ssh=False) if args.backend == "smartos" else None
    bridge = () if platform else own_bridge("zonegate", 2)
    name = f"zk{os.getpid() % 1000000}"
    server = Daemon("zonegate", folder / "d", name, "", bridge, platform)
    server.extra += ("--max-download-attempts", "2")  # with a pause between them
    server.witnessed = False  # its memory is measured, and hours of answers would fill the disk
    wrong: list[str] = []
    try:
        server.start()
        cli = CLI(server.url, folder / "config")
        images = folder / "images.tar"
        images.write_bytes(archive({"bb:latest": catalogue()[0]}))
        cli.ok(f"load -q -i {images}")
        cli.ok("run --rm bb true")
        before = snapshot(server)
        wrong += load(cli, args.runs, args.parallel)
        wrong += left(server, before, "after the load")
        wrong += streams(server, args.megabytes, args.attaches)
        wrong += left(server, before, "after the streams")
        wrong += kills(server, cli, args.kills, chance)
        wrong += left(server, before, "after the kills")
        wrong += applications(server, cli, args.applications, chance)
        wrong += left(server, before, "after the applications")
        wrong += pulls(server, args.pulls, chance)
        server.stop()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
        server.discard()
        if platform is not None:
            platform.stop()
        shutil.rmtree(folder, ignore_errors=True)
    for line in wrong[:50]:
        print(line, file=sys.stderr)
    print(f"{len(wrong)} wrong")
    return 1 if wrong else 0


def load(cli: CLI, runs: int, parallel: int) -> list[str]:
    """Short runs, each with its own output and exit code."""

    def one(number: int) -> str:
        code = number % 7
        result = cli(
            [
                "run",
                "--rm",
                "bb",
                "sh",
                "-c",
                f"echo out {number}; echo err {number} >&2; exit {code}",
            ]
        )
        right = (code, f"out {number}\n", f"err {number}\n")
        return (
            ""
            if (result.exit, result.stdout, result.stderr) == right
            else f"run {number}: {result}"
        )

    begun = time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        wrong = [text for text in pool.map(one, range(runs)) if text]
    print(f"{runs} runs in {time.monotonic() - begun:.0f} s, {len(wrong)} wrong")
    return wrong


def streams(server: Daemon, megabytes: int, attaches: int) -> list[str]:
    """Large streams, each way: every byte is there, and the server's memory stays what it was."""
    transfers, size = Transfers(server), megabytes * 1_000_000
    done = [
        transfers.stdout(size),
        transfers.stdin(size),
        transfers.attach(size),
        transfers.exec(size),
        transfers.attach(size // 25, pause_s=0.05),
        transfers.many(size // 10, attaches),
    ]
    for transfer in done:
        print(transfer)
    return [str(t) for t in done if not t.is_whole or t.grown > GROWTH_LIMIT]


def kills(server: Daemon, cli: CLI, count: int, chance: random.Random) -> list[str]:
    """Kill the server while containers come, write and go; what was written must be whole, what exited must have its code."""
    wrong = []
    for number in range(count):
        name = f"k{number}"
        cli.ok(
            [
                "run",
                "-d",
                "--name",
                name,
                "bb",
                "sh",
                "-c",
                f"for i in $(seq 40); do echo $i; sleep 0.02; done; exit {number % 100}",
            ]
        )
        command = f"run --rm -v /data --name r{number} bb sh -c 'sleep 0.1'"
        with cli.popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as other:
            time.sleep(chance.random() * 0.8)
            server.kill()
            time.sleep(chance.random() * 0.5)
            server.start()
            other.wait(30)
        code, text = cli.ok(f"wait {name}"), cli.ok(f"logs {name}")
        if code != str(number % 100):
            wrong.append(f"kill {number}: exit code {code}")
        if text.split() != [str(line) for line in range(1, 41)]:
            wrong.append(f"kill {number}: log {text[-80:]!r}")
    api = API(server.socket)
    for row in api.ok("GET", "/containers/json?all=1"):
        api("DELETE", f"/containers/{row['Id']}?force=1&v=1")
    print(f"{count} kills, {len(wrong)} wrong")
    return wrong


def left(server: Daemon, before: dict[str, frozenset[str]], when: str) -> list[str]:
    """What is on the machine that was not."""
    rows = settled(lambda: new(before, snapshot(server)), 2.0)
    return [f"left {when}: {kind}: {names[:5]}" for kind, names in rows.items()]


if __name__ == "__main__":
    sys.exit(main())
