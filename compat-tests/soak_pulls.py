"""Pulls from a registry that is killed, stalls, lies and refuses at random; then everything here must be whole.

Each pull ends right, or with an error that says what was wrong; the server may be killed as well.  Called by soak.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from compat.clients import API
from compat.daemons import ROOT, Daemon

sys.path.insert(0, str(ROOT))
from tests.fakes.registry import FakeImage, FakeRegistry, Fault, layer_tar

_WORDS = {
    429: {
        "errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit"}]
    },
    500: {"errors": [{"code": "UNKNOWN", "message": "the registry has a bad day"}]},
    401: {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
}
_FAULTS = ("none", "status", "broken", "stalled", "corrupted", "cut", "killed", "server killed")
_PATIENCE_S = 4.0


class Registry:
    """Serves from a thread of its own; `restart` cuts every connection and comes back at the same port."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.images: dict[str, FakeImage] = {}
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        ready.result(20)

    async def _serve(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._restart, self._over = asyncio.Event(), False
        port, before = 0, None
        while not self._over:
            async with FakeRegistry.serve(port=port) as registry:
                self._registry = registry
                if before is None:
                    self._fill()
                else:
                    registry.take_over(before)
                self.host = registry.host
                port, before = int(registry.host.rpartition(":")[2]), registry
                if not ready.done():
                    ready.set_result(None)
                await self._restart.wait()
                self._restart.clear()

    def _fill(self) -> None:
        """Images that share layers, with some of 3 MB: a fault then meets a transfer under way."""
        layers = [
            layer_tar({f"f{number}": self._chance.randbytes(size)})
            for number, size in enumerate((3_000_000, 50_000, 1_500_000, 300_000, 2_000_000, 10))
        ]
        for number in range(6):
            chosen = [layers[0], *self._chance.sample(layers[1:], 1 + number % 4)]
            kind = "zstd" if number == 5 else "gzip"
            name = f"soak/i{number}"
            self.images[name] = self._registry.add_image(name, "v", chosen, compression=kind)  # type: ignore[arg-type]

    def fault(self, fault: Fault | None) -> None:
        """The only one that is still to come."""
        self._call(lambda: self._set(fault))

    def _set(self, fault: Fault | None) -> None:
        self._registry.faults[:] = [fault] if fault else []

    def restart(self) -> None:
        """Gone, and there again soon."""
        self._call(self._restart.set)

    def stop(self) -> None:
        """Gone for good."""
        self._over = True
        self.restart()
        self._thread.join(20)

    def _call(self, work: Callable[[], Any]) -> None:
        self._loop.call_soon_threadsafe(work)


def pulls(server: Daemon, count: int, chance: random.Random) -> list[str]:
    """So many pulls, each with a fault of some kind; what was wrong."""
    registry = Registry(chance)
    api = API(server.socket)
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    begun = time.monotonic()
    try:
        for number in range(count):
            name = chance.choice([*registry.images])
            kind = chance.choice(_FAULTS)
            if chance.random() < 0.6:
                api("DELETE", f"/images/{registry.host}/{name}:v?force=1")
            said = _pull(server, registry, api, name, kind, chance)
            ends[f"{kind}: {'right' if said is None else 'refused' if said else 'cut short'}"] += 1
            if said is not None and not _is_clear(said):
                wrong.append(f"pull {number} ({kind}): {said!r}")
        registry.fault(None)
        for name, image in registry.images.items():
            if said := _last(api, f"{registry.host}/{name}", image):
                wrong.append(said)
    finally:
        registry.stop()
    print(f"{count} pulls in {time.monotonic() - begun:.0f} s: {dict(sorted(ends.items()))}")
    return wrong + verified(server)


def _pull(
    server: Daemon, registry: Registry, api: API, name: str, kind: str, chance: random.Random
) -> str | None:
    """None for a good end, else what was said; "" where the client or the server went before."""
    registry.fault(_fault(kind, chance))
    later: threading.Timer | None = None
    if kind == "killed":
        later = threading.Timer(chance.random() * 0.1, registry.restart)
    elif kind == "server killed":
        later = threading.Timer(chance.random() * 0.15, server.kill)
    if later:
        later.start()
    path = f"/images/create?fromImage={registry.host}/{name}&tag=v"
    try:
        answer = api("POST", path, timeout_s=_PATIENCE_S if kind == "stalled" else 60)
        last = [json.loads(line) for line in answer.body.splitlines() if line.strip()][-1]
        said = last.get("error") or (answer.message if answer.status >= 400 else None)
    except (OSError, IndexError, ValueError, EOFError):
        said = ""
    except Exception as error:  # noqa: BLE001 - http.client's, when the server goes in the middle
        said = "" if kind == "server killed" else repr(error)
    if later:
        later.join()
    if kind == "server killed":
        server.start()
    return said


def _fault(kind: str, chance: random.Random) -> Fault | None:
    where = chance.choice(["/blobs/", "/blobs/", "/manifests/", "/v2/"])
    at, times = chance.randrange(1, 400_000), chance.choice([1, 1, 2, 50])
    match kind:
        case "status":
            status = chance.choice([*_WORDS])
            return Fault(where, times=times, status=status, body=_WORDS[status])
        case "broken":
            return Fault("/blobs/", times=times, break_after=at)
        case "stalled":
            return Fault("/blobs/", stall_after=at)
        case "corrupted":
            return Fault(where, times=times, flip=True)
        case "cut":
            return Fault("/blobs/", times=times, truncate_after=at)
    return None


def _is_clear(said: str) -> bool:
    """Not our own fault, and not nothing; "" is a client that did not wait."""
    return "server error" not in said and "Traceback" not in said


def _last(api: API, name: str, image: FakeImage) -> str:
    """With nothing wrong any more every image comes, and is the right one."""
    answer = api("POST", f"/images/create?fromImage={name}&tag=v", timeout_s=60)
    if b'"error"' in answer.body:
        return f"{name} at last: {answer.body[-300:]!r}"
    found = api("GET", f"/images/{name}:v/json").json()["Id"]
    return "" if found == image.id else f"{name} is {found}, not {image.id}"


def verified(server: Daemon) -> list[str]:
    """What `zonegate images verify` finds, and files that should not be there."""
    # The backend, and the file that says where its machine is.
    where = server.platform.flags(server.root)[:4] if server.platform else []
    roots = ["--data-root", str(server.data_root), *where]
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "images", "verify", *roots],
        cwd=ROOT,
        env=server.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout.splitlines()[-1] if done.stdout else done.stderr)
    wrong = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    return wrong + [f"left: {path}" for path in _left(server.data_root)]


def _left(root: Path) -> list[Path]:
    found = [*root.glob("overlay/datasets/.partial-*"), *root.glob("layers/.new-*")]
    with contextlib.suppress(FileNotFoundError):
        found += [path for path in (root / "downloads").iterdir() if path.suffix != ".partial"]
    return found
