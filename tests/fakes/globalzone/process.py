"""A fake global zone as a process, for tests:

    fake = start(tmp_path / "gz")
    ... fake.environment is what the programs and a gateway need; fake.settings() a gateway's settings ...
    fake.stop()

Several run side by side: each has a subnet of its own.  What a killed one left behind is cleared by `stop`, or
by starting it on the same folder again.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import subprocess  # noqa: TID251 - the global zone is another machine
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from gateway.hosts.linux import netlink
from gateway.settings import AddressPool, Settings, SmartOSSettings

BIN = Path(__file__).parents[1] / "bin"
ROOT = Path(__file__).parents[3]
_POOL = IPv4Network("10.212.0.0/14")
_READY_S, _END_S = 60.0, 60.0
_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2


@dataclass(slots=True)
class FakeGZ:
    """`root` stands for / of the global zone; `subnet` is that of the nic tag admin, its first address the router's."""

    root: Path
    subnet: IPv4Network
    options: dict[str, str]
    process: subprocess.Popen[str]

    @property
    def environment(self) -> dict[str, str]:
        """For programs that run in this global zone: the fake ones come first in PATH."""
        return os.environ | {
            "PATH": f"{BIN}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "ZONEGATE_FAKE_GZ": str(self.root),
        }

    @property
    def pool(self) -> str:
        """Where user networks of this machine get their subnets from: machines side by side share this computer."""
        index = (int(self.subnet.network_address) >> 8) % 1024
        return str(IPv4Network((int(IPv4Address("10.64.0.0")) + index * 4096, 20)))

    @property
    def gateway(self) -> str:
        """Router of the subnet: this computer."""
        return str(next(self.subnet.hosts()))

    def settings(self, *, smartos: dict[str, Any] | None = None, **more: Any) -> Settings:
        """Of a gateway in this global zone, with files below its root."""
        network = {
            "root": str(self.root),
            "nic_tag": "admin",
            "subnet": str(self.subnet),
            "gateway": self.gateway,
        }
        values: dict[str, Any] = {
            "name": f"t{secrets.token_hex(4)}",
            "backend": "smartos",
            "default_address_pools": (AddressPool(base=self.pool, size=24),),
            "data_root": self.root / "var/lib/zonegate",
            "exec_root": self.root / "var/run/zonegate",
        }
        table = SmartOSSettings(**(network | (smartos or {})))
        return Settings(**(values | more | {"smartos": table}))

    def run(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """A program of the global zone, to its end."""
        return subprocess.run(
            [str(BIN / argv[0]), *argv[1:]],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_END_S,
            check=False,
        )

    def fault(self, program: str, match: str = "", **more: Any) -> None:
        """Order a fault (faults.py): `stderr`, `code`, `times`, `hang`, `after`."""
        path = self.root / "faults.json"
        orders = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps([*orders, {"program": program, "match": match, **more}]))

    def clear_faults(self) -> None:
        """None is on order any more."""
        (self.root / "faults.json").unlink(missing_ok=True)

    def kill(self) -> None:
        """As a machine that loses its power; zones' processes stay until `stop`, `start` on the folder, or reboot."""
        _kill(self.process)

    def stop(self) -> None:
        """Every zone, mount, interface is gone; the files stay."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.communicate(timeout=_END_S)
            except subprocess.TimeoutExpired:
                _kill(self.process)
        if self.process.wait() != 0:
            unmount_below(self.root)
            again = _spawn(self.root, self.options | {"sweep": "1"})
            again.communicate(timeout=_END_S)
        unmount_below(self.root)


def start(folder: Path, **options: str) -> FakeGZ:
    """A global zone on this folder, new or of an earlier life; RuntimeError with its words if it does not come up."""
    folder.mkdir(parents=True, exist_ok=True)
    unmount_below(folder)
    (folder / "faults.json").unlink(missing_ok=True)
    subnet = IPv4Network(options["subnet"]) if "subnet" in options else free_subnet()
    told = {**options, "subnet": str(subnet)}
    process = _spawn(folder, told)
    assert process.stdout is not None
    if process.stdout.readline() != "READY\n":
        _kill(process)
        unmount_below(folder)
        raise RuntimeError("the fake global zone does not come up: its words are on standard error")
    return FakeGZ(folder, subnet, told, process)


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _spawn(folder: Path, options: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.globalzone", str(folder)]
        + [f"{key}={value}" for key, value in options.items()],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C is for the tests, which stop it then
    )


def free_subnet() -> IPv4Network:
    """A /24 that this computer knows no way to; begun at a place of this process's own."""
    route = netlink.RouteSocket()
    try:
        taken = [network for _, network in route.routes()]
        taken += [address.network for _, address in route.addresses()]
    finally:
        route.close()
    candidates = list(_POOL.subnets(new_prefix=24))
    first = (os.getpid() * 7 + secrets.randbelow(64)) % len(candidates)
    for subnet in candidates[first:] + candidates[:first]:
        if not any(subnet.overlaps(other) for other in taken if other.prefixlen):
            return subnet
    raise RuntimeError(f"no subnet of {_POOL} is free")


def unmount_below(folder: Path) -> None:
    """Whatever a killed one left mounted, deepest first."""
    inside = str(folder.resolve())
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    targets = [line.split(" ")[4].encode().decode("unicode_escape") for line in lines]
    for target in reversed(targets):
        if target == inside or target.startswith(f"{inside}/"):
            _libc.umount2(os.fsencode(target), _MNT_DETACH)
