"""Kill -9 before each single step of an act: what the next life of it finds.  Run as a program of its own.

    python -m tests.gateway.hosts.linux.killing networks|volumes FOLDER

A step is a call that changes something outside of the process: a file, or the kernel by a socket.  Each try is a fork,
so that the modules are imported once; the namespaces of network and mounts are this program's own.  Prints how many tries each act
took, and a line for each thing that was left: JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from gateway.hosts.linux import netlink, nft
from gateway.hosts.linux.network import LinuxNetworks
from gateway.hosts.linux.volumes import LinuxVolumes
from gateway.zones.host import AddressRange, NetworkPlan
from tests.gateway.hosts.linux.netlab import LIBC, NEWNET, POOLS

_CHANGING = frozenset(
    ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "symlink", "open", "write")
) | frozenset(("close", "chmod", "chown", "truncate", "umount2", "send", "sendto", "sendmsg"))
_NEWNS, _PRIVATE = 0x20000, 0x4000 | 1 << 18
Things = dict[str, list[str]]


class Trial(Protocol):
    """What makes and removes one thing, on what `FOLDER` holds."""

    async def open(self) -> None: ...
    async def create(self) -> None: ...
    async def remove(self) -> None: ...
    async def close(self) -> None: ...
    def exists(self) -> bool: ...
    def things(self) -> Things: ...


class Networks:
    """A bridge with both versions of IP."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._host = LinuxNetworks.open(
            name="k", bridge="k0", bip="", pools=POOLS, state=folder / "state",
            exec_root=folder / "run",
        )  # fmt: skip

    async def open(self) -> None:
        await self._host.adopt({})

    async def create(self) -> None:
        await self._host.create(NetworkPlan("web", ipv6=AddressRange("fd00:1::/64")))

    async def remove(self) -> None:
        await self._host.remove("web")

    async def close(self) -> None:
        await self._host.close(remove=False)

    def exists(self) -> bool:
        return any(network.name == "web" for network in self._host.list())

    def things(self) -> Things:
        """Links, rules, files with what is in them; networks of the book of leases that nobody knows."""
        route, context = netlink.RouteSocket(), nft.Nft()
        try:
            links = sorted(link.name for link in route.links())
            rules = _rules(json.loads(context.run("list ruleset")))
        finally:
            route.close()
            context.close()
        book = self._folder / "state/leases.json"
        leases = {*json.loads(book.read_text())} if book.exists() else set()
        return {
            "links": links,
            "rules": rules,
            "files": _files(self._folder),
            "leases": sorted(leases - {network.id for network in self._host.list()}),
        }


class Volumes:
    """A folder with a file in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._host = LinuxVolumes(folder)

    async def open(self) -> None:
        pass

    async def create(self) -> None:
        volume = await self._host.create("data", labels={"a": "b"}, options={}, owner="zone")
        await asyncio.to_thread(Path(volume.mountpoint, "file").write_text, "content")

    async def remove(self) -> None:
        await self._host.keep("data")
        await self._host.remove("data")

    async def close(self) -> None:
        pass

    def exists(self) -> bool:
        return any(volume.name == "data" for volume in self._host.list())

    def things(self) -> Things:
        return {"files": _files(self._folder)}


def _rules(document: dict[str, Any]) -> list[str]:
    """Without handles, which are new each time."""
    rows = [(kind, body) for row in document["nftables"] for kind, body in row.items()]
    return sorted(
        f"{kind} { ({key: value for key, value in body.items() if key != 'handle'}) }"
        for kind, body in rows
        if kind != "metainfo"
    )


def _files(folder: Path) -> list[str]:
    """What is in them, too; not of the book of leases, which is begun anew at any change."""
    return sorted(
        f"{path.relative_to(folder)} {path.read_text() if path.is_file() else ''}"
        for path in folder.rglob("*")
        if not path.name.startswith("leases.json")
    )


# --- killing ------------------------------------------------------------------------------------


class Countdown:
    """Kills this process before its step of that number, in whatever thread but the loop's."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self.begun = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """A profile function, see sys.setprofile."""
        if event == "c_call" and self.begun and argument.__name__ in _CHANGING:
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1


def in_fork(work: Coroutine[Any, Any, None]) -> bool:
    """Whether it came to its end; False: it was killed.  RuntimeError if it failed."""
    pid = os.fork()  # noqa: TID251 - a start anew would take ten times as long
    if pid == 0:
        code = 1
        try:
            asyncio.run(work)
            code = 0
        except Exception:  # noqa: BLE001 - told, and by the exit code
            traceback.print_exc()
        finally:
            os._exit(code)
    work.close()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{work} ended with {status}")
    return status == 0


async def tried(make: Callable[[], Trial], act: str, steps: int) -> None:
    """An act that a kill ends, or its own end."""
    countdown = Countdown(steps)
    threading.setprofile(countdown)
    trial = make()
    await trial.open()
    if act == "remove":
        await trial.create()
    countdown.begun = True
    await (trial.create() if act == "create" else trial.remove())
    countdown.begun = False


async def looked(make: Callable[[], Trial], base: Path, when: str) -> None:
    """The next life: what is there is whole, and goes; nothing else is there."""
    trial = make()
    await trial.open()
    if trial.exists():
        await trial.remove()
    await trial.close()
    _compare(trial.things(), base, when)


def _compare(things: Things, base: Path, when: str) -> None:
    if not base.exists():
        base.write_text(json.dumps(things))
    before: Things = json.loads(base.read_text())
    for kind, names in things.items():
        for name in sorted({*names} ^ {*before[kind]}):
            tell(when=when, kind=kind, name=name)


def tell(**line: object) -> None:
    """One line for the test."""
    os.write(1, json.dumps(line).encode() + b"\n")


def main(kind: str, folder: Path) -> None:
    """Every act, killed before every step."""
    if LIBC.unshare(NEWNET | _NEWNS) or LIBC.mount(None, b"/", None, _PRIVATE, None):
        raise OSError("no namespaces of its own")

    def make() -> Trial:
        return Networks(folder / "root") if kind == "networks" else Volumes(folder / "root")

    base = folder / "before.json"
    in_fork(looked(make, base, "at the beginning"))
    for act in ("create", "remove"):
        steps, ended = 0, False
        while not ended:
            ended = in_fork(tried(make, act, steps))
            in_fork(looked(make, base, f"killed before step {steps} of {act}"))
            steps += 1
        tell(act=act, steps=steps)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
