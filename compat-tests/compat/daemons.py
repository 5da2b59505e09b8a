"""The server under test as a process: zonegate or dockerd, each with roots, a socket and a name of its own.

Readiness is the server's own sd_notify message, never a guess by time.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from compat.traffic import Traffic

ROOT = Path(__file__).resolve().parents[2]
WITNESSED: dict[Path, Traffic] = {}
"""The answers of every server that was started, for the fixture that looks at them after each test."""


def zonegate_program() -> list[str]:
    """The command of this checkout's interpreter; works with and without an installed script."""
    script = Path(sys.executable).with_name("zonegate")
    return [str(script)] if script.exists() else [sys.executable, "-m", "gateway"]


def witness_program(traffic: Path) -> list[str]:
    """The same, its answers copied into a file; with the options of the interpreter that it gives itself."""
    return [sys.executable, "-OO", "-X", "no_debug_ranges", "-m", "compat.witness", str(traffic)]


def own_bridge(kind: str, number: int) -> tuple[str, ...]:
    """Flags for a bridge whose addresses no other server of these tests has."""
    part = (os.getpid() * 4 + number) % (48 * 256)
    return () if kind == "dockerd" else ("--bip", f"10.{200 + part // 256}.{part % 256}.1/24")


class Platform(Protocol):
    """What the zones run on, where it is not this machine itself (`--backend smartos`)."""

    def flags(self, folder: Path) -> list[str]:
        """Of `zonegate serve`; `folder` is there for a config file."""
        ...

    @property
    def environment(self) -> dict[str, str]:
        """The server's."""
        ...

    def things(self) -> dict[str, frozenset[str]]:
        """What there is on it, by kind: for what is left behind."""
        ...


@dataclass
class Daemon:
    """One server.  `start` and `kill` may follow each other any number of times on the same roots."""

    kind: str
    root: Path
    name: str
    registry: str = ""
    extra: tuple[str, ...] = ()
    platform: Platform | None = None
    witnessed: bool = True
    """Whether copies of its JSON answers are kept, in `traffic` (zonegate only)."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def socket(self) -> str:
        """Path of the API socket."""
        return str(self.root / "api.sock")

    @property
    def url(self) -> str:
        """For DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> Path:
        """What the server printed."""
        return self.root / "server.log"

    @property
    def traffic(self) -> Path:
        """Copies of its JSON answers, for compat.traffic."""
        return self.root / "traffic.jsonl"

    @property
    def data_root(self) -> Path:
        return self.root / "data"

    @property
    def exec_root(self) -> Path:
        return self.root / "exec"

    @property
    def environment(self) -> dict[str, str]:
        """Of the process."""
        found = self.platform.environment if self.platform else dict(os.environ)
        path = f"{ROOT / 'compat-tests'}:{ROOT}"
        return found | {"PYTHONPATH": path} if self.witnessed else found

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def memory(self) -> int:
        """Bytes that are the process's own share (PSS)."""
        rows = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(row.split()[1]) << 10 for row in rows if row.startswith("Pss:"))

    def argv(self) -> list[str]:
        """The command line that starts it."""
        roots = ["--data-root", str(self.data_root), "--exec-root", str(self.exec_root)]
        roots += ["--pidfile", str(self.root / "pid"), "--host", self.url]
        if self.kind == "dockerd":
            return ["dockerd", *roots, "--insecure-registry", self.registry, *self.extra]
        more = ["--insecure-registry", self.registry] if self.registry else []
        if "--config" not in self.extra:
            # A pause takes seconds: test_reload.py looks at them.
            more += ["--max-download-attempts", "1"]
        if self.platform is not None:
            more += self.platform.flags(self.root)
        program = witness_program(self.traffic) if self.witnessed else zonegate_program()
        return [*program, "serve", "--name", self.name, *roots, *more, *self.extra]

    def start(self, deadline_s: float = 40) -> Daemon:
        """Returns once it has said that it is ready; AssertionError with its log otherwise."""
        self.root.mkdir(parents=True, exist_ok=True)
        if self.kind == "zonegate" and self.witnessed:
            WITNESSED.setdefault(self.traffic, Traffic(self.traffic))
        notify = self.root / "notify.sock"
        notify.unlink(missing_ok=True)
        (self.root / "pid").unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log.open("ab") as log:
            ready.bind(str(notify))
            ready.settimeout(0.2)
            self.process = subprocess.Popen(
                self.argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | {"NOTIFY_SOCKET": str(notify)},
                cwd=self.root,
            )
            end = time.monotonic() + deadline_s
            while time.monotonic() < end:
                try:
                    if b"READY=1" in ready.recv(4096):
                        return self
                except TimeoutError:
                    assert self.process.poll() is None, f"{self.kind} ended: {self.tail()}"
        raise AssertionError(f"{self.kind} is not ready after {deadline_s} s: {self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def kill(self) -> None:
        """kill -9, and gone when this returns."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)

    def stop(self, deadline_s: float = 40) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)
            raise AssertionError(f"{self.kind} did not stop: {self.tail()}") from None

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Ready inside the block; stopped and gone behind it.  KEEP_LOG=FILE: what it printed stays there."""
        try:
            self.start()
            yield
        finally:
            try:
                if self.process is not None:
                    self.stop()
            finally:
                if os.environ.get("KEEP_LOG") and self.log.exists():
                    shutil.copy(self.log, os.environ["KEEP_LOG"])
                self.discard()

    def discard(self) -> None:
        """Take away its files, and what it left mounted below its roots."""
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            target = line.split()[1].encode().decode("unicode_escape")
            if target.startswith(str(self.root) + "/"):
                subprocess.run(["umount", "-l", target], check=False, capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)


def start_registry(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A docker-registry on a free loopback port: (process, `127.0.0.1:PORT`), answering."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "registry.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/blobs}}, "
        f"delete: {{enabled: true}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n"
    )
    with (folder / "registry.log").open("ab") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return process, f"127.0.0.1:{port}"
        assert process.poll() is None, (folder / "registry.log").read_text()[-2000:]
        time.sleep(0.02)
    raise AssertionError("the registry does not listen")
