"""A SmartOS machine for `--backend smartos`: the platform's programs, played by tests/fakes/globalzone.

With `over_ssh` the gateway reaches it as another machine, through a real OpenSSH server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from compat.imageserver import ImageServer
from tests.fakes import sshd
from tests.fakes.globalzone import process


class SmartOS:
    """One machine; a `compat.daemons.Platform`."""

    def __init__(self, folder: Path, *, over_ssh: bool, **options: str) -> None:
        self.gz = process.start(folder / "gz", **options)
        self.sshd = sshd.start(folder / "ssh", self.gz.environment) if over_ssh else None
        self.images = ImageServer()

    def flags(self, folder: Path) -> list[str]:
        """The backend, and a config file with what `[smartos]` needs."""
        rows = {
            "root": str(self.gz.root),
            "nic_tag": "admin",
            "subnet": str(self.gz.subnet),
            "gateway": self.gz.gateway,
            "image_servers": self.images.url,
        }
        if self.sshd is not None:
            rows |= {
                "host": self.sshd.url,
                "identity_file": str(self.sshd.identity_file),
                "known_hosts": str(self.sshd.known_hosts),
            }
        config = folder / "config.toml"
        values = {key: f'"{text}"' for key, text in rows.items()}
        values["image_servers"] = f"[{values['image_servers']}]"
        config.write_text("[smartos]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()))
        # Of the size that dockerd's have; machines side by side seldom have the same.
        pool = f"base=10.{64 + 16 * (int(self.gz.subnet.network_address) >> 8 & 3)}.0.0/12,size=16"
        return ["--backend", "smartos", "--config", str(config), "--default-address-pool", pool]

    @property
    def environment(self) -> dict[str, str]:
        """Of a gateway in the global zone; over SSH it needs none of it."""
        return self.gz.environment

    def things(self) -> dict[str, frozenset[str]]:
        """What there is in the global zone by its own programs and files, and of the computer that plays it."""
        asked = {
            "VMs": ["vmadm", "lookup"],
            "datasets": ["zfs", "list", "-H", "-o", "name", "-t", "all"],
            "images": ["imgadm", "list", "-H", "-o", "uuid"],
            "nic tags": ["nictagadm", "list", "-p"],
            "firewall rules": ["fwadm", "list", "-j"],
            "NAT": ["ipnat", "-l"],
        }
        bridge = self._bridge()
        found = {kind: self._lines(*argv) for kind, argv in asked.items()}
        found["files"] = frozenset(_files(self.gz.root))
        found["links"] = frozenset(
            link.name
            for link in Path("/sys/class/net").iterdir()
            if (link / "master").resolve().name == bridge
        )
        found["mounts"] = frozenset(
            words[4]
            for words in map(str.split, Path("/proc/self/mountinfo").read_text().splitlines())
            if words[4].startswith(f"{self.gz.root}/")
        )
        return found

    def _lines(self, *argv: str) -> frozenset[str]:
        done = self.gz.run(*argv)
        assert done.returncode == 0, (argv, done.stderr)
        if "-j" in argv:
            return frozenset(json.dumps(row, sort_keys=True) for row in json.loads(done.stdout))
        return frozenset(done.stdout.splitlines())

    def _bridge(self) -> str:
        """The interface that has the router's address."""
        shown = subprocess.run(
            ["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True
        )
        rows = [line.split() for line in shown.stdout.splitlines()]
        return next(row[1] for row in rows if row[3].split("/")[0] == self.gz.gateway)

    @property
    def faults_left(self) -> int:
        """How often those on order will still strike."""
        path = self.gz.root / "faults.json"
        orders = json.loads(path.read_text()) if path.exists() else []
        return sum(order["times"] for order in orders)

    def end_programs(self, program: str, word: str) -> None:
        """Kill those of this global zone with this argument, whoever started them."""
        mine = f"ZONEGATE_FAKE_GZ={self.gz.root}".encode()
        for entry in Path("/proc").iterdir():
            try:
                words = (
                    (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
                )
                if word.encode() not in words or not any(
                    text.endswith(f"/{program}".encode()) for text in words
                ):
                    continue
                if mine in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue

    def stop(self) -> None:
        """Zones, mounts and processes are gone."""
        self.images.stop()
        if self.sshd is not None:
            self.sshd.stop()
        self.gz.stop()


_CHANGING = ("faults.json", "gz.sock", "messages")
_ONCE = ("usbkey", "usbkey/config", "var/run/datalinks.json")
"""From the first network on: what is in them is looked at by the programs."""


def _files(root: Path) -> list[str]:
    """Down to the zones' own folders, whose files are theirs."""
    found = []
    for parent, folders, files in os.walk(root):
        depth = parent.count("/") - str(root).count("/")
        if depth >= 3 or "/native" in parent:
            folders.clear()
            continue
        found += [f"{parent}/{name}" for name in (*folders, *files) if name not in _CHANGING]
    return [path for path in found if not path.endswith(_ONCE)]
