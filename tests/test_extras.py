"""What `--backend smartos` needs is Python and the dependencies: no extra, nothing that only Linux has.

A child interpreter stands for the other platform: the extras cannot be imported, what illumos lacks of the
standard library is taken out, and the loop's selector is poll.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess  # noqa: TID251 - the gateway as a process
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from compat.images import Image, archive, busybox_layer

from tests.fakes.globalzone import process

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 40.0

BARE = textwrap.dedent("""
    import importlib.abc, sys

    EXTRAS = {"uvloop", "orjson", "isal", "zstandard", "cryptography", "asyncssh", "msgpack"}

    class Absent(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in EXTRAS:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())

    import fcntl, os, select, selectors, signal, socket
    for module, names in {
        os: "pidfd_open memfd_create setns unshare eventfd sched_setaffinity O_PATH O_TMPFILE"
            " getxattr setxattr listxattr copy_file_range splice POSIX_SPAWN_CLOSEFROM",
        signal: "pidfd_send_signal",
        select: "epoll",
        socket: "SO_PEERCRED AF_NETLINK AF_PACKET AF_ALG SOCK_CLOEXEC SOCK_NONBLOCK SO_REUSEPORT",
        fcntl: "F_SETPIPE_SZ F_GETPIPE_SZ F_ADD_SEALS",
    }.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    import sysconfig
    sysconfig.get_config_vars()  # of the interpreter that really runs
    selectors.DefaultSelector = selectors.PollSelector
    sys.platform = "sunos5"
""")

SERVE = BARE + textwrap.dedent("""
    import atexit
    from pathlib import Path

    record = Path(sys.argv.pop(1))
    atexit.register(lambda: record.write_text("\\n".join(sys.modules)))
    from gateway.cli import main
    main(sys.argv[1:])
""")


def _bare(*argv: str, code: str = SERVE) -> list[str]:
    return [sys.executable, "-W", "error", "-c", code, *argv]


class _API(http.client.HTTPConnection):
    """One request each, over the unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(str(self._path))

    def ask(self, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body."""
        kind = "application/x-tar" if "load" in target else "application/json"
        headers = {"Content-Type": kind, "Connection": "close"}
        self.request(method, target, body=body, headers=headers)
        answer = self.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            self.close()


def _run(api: _API, command: list[str], **more: object) -> tuple[int, bytes]:
    """A container from create to removal: its exit code and log."""
    body = {"Image": "bb", "Cmd": command, "HostConfig": {"NetworkMode": "none"}, **more}
    status, made = api.ask("POST", "/v1.51/containers/create", json.dumps(body).encode())
    assert status == 201, made
    target = f"/v1.51/containers/{json.loads(made)['Id']}"
    assert api.ask("POST", f"{target}/start") == (204, b"")
    code: int = json.loads(api.ask("POST", f"{target}/wait")[1])["StatusCode"]
    logs = api.ask("GET", f"{target}/logs?stdout=1&stderr=1")[1]
    assert api.ask("DELETE", target)[0] == 204
    return code, logs


@contextmanager
def _served(folder: Path, command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """The gateway runs and has said that it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(folder / "notify"))
        given = environment | {"NOTIFY_SOCKET": str(folder / "notify")}
        with (folder / "log").open("wb") as log:
            child = subprocess.Popen(command, env=given, cwd=ROOT, stderr=log, stdout=log)
        try:
            deadline = time.monotonic() + DEADLINE_S
            while not select.select([ready], [], [], 0.2)[0]:
                if child.poll() is not None or time.monotonic() > deadline:
                    pytest.fail((folder / "log").read_text())
            yield
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(DEADLINE_S)
            finally:
                child.kill()
    assert child.returncode == 0, (folder / "log").read_text()


@pytest.mark.root
def test_the_smartos_backend_serves_without_extras_and_without_linux(
    tmp_path: Path, short_dir: Path
) -> None:
    fake = process.start(tmp_path / "gz")
    try:
        settings = fake.settings()
        config = tmp_path / "config.toml"
        config.write_text(
            f'name = "{settings.name}"\nbackend = "smartos"\ndata-root = "{settings.data_root}"\n'
            f'exec-root = "{settings.exec_root}"\nhosts = ["unix://{short_dir}/api.sock"]\n'
            f'[smartos]\nroot = "{settings.smartos.root}"\nsubnet = "{settings.smartos.subnet}"\n'
            f'gateway = "{settings.smartos.gateway}"\n'
        )
        record = tmp_path / "modules"
        command = _bare(str(record), "serve", "--config", str(config))
        with _served(short_dir, command, fake.environment):
            api = _API(short_dir / "api.sock")
            assert api.ask("GET", "/_ping") == (200, b"OK")
            info = json.loads(api.ask("GET", "/v1.51/info")[1])
            assert "SmartOS" in info["OperatingSystem"]
            image = archive({"bb:latest": Image("bb", [busybox_layer()], {"Cmd": ["sh"]})})
            assert api.ask("POST", "/v1.51/images/load?quiet=1", image)[0] == 200
            code, logs = _run(api, ["sh", "-c", "echo without; exit 5"])
            assert (code, b"without\n" in logs) == (5, True)
            code, logs = _run(api, ["sh", "-c", "tty; exit 6"], Tty=True)
            assert (code, logs.startswith(b"/dev/")) == (6, True)
            assert json.loads(api.ask("GET", "/v1.51/containers/json?all=1")[1]) == []
        modules = record.read_text().split()
        assert "gateway.hosts.smartos.host" in modules
        assert not [name for name in modules if name.startswith("gateway.hosts.linux")]
        assert "gateway.hosts.smartos.sshlink" not in modules
    finally:
        fake.stop()


def test_a_machine_over_ssh_without_asyncssh_is_refused_with_the_extras_name(
    tmp_path: Path,
) -> None:
    command = _bare(
        str(tmp_path / "modules"),
        *("serve", "--backend", "smartos", "--smartos-host", "ssh://root@127.0.0.1:1"),
        *("--data-root", str(tmp_path), "-H", f"unix://{tmp_path}/s"),
    )
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "zonegate: a global zone over SSH needs asyncssh: pip install 'zonegate[ssh]'"
    )


def test_every_module_of_the_backend_can_be_imported_without_extras(tmp_path: Path) -> None:
    ssh = {"sshlink", "sshfiles", "sshsession"}
    names = [
        f"gateway.hosts.smartos.{path.stem}"
        for path in sorted((ROOT / "gateway/hosts/smartos").glob("*.py"))
        if path.stem not in ssh | {"__init__"}
    ]
    names += ["gateway.server", "gateway.cli", "gateway.preview", "gateway.doctor"]
    code = BARE + "".join(f"import {name}\n" for name in names)
    done = subprocess.run(
        _bare(code=code), cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr


def test_help_answers_without_extras(tmp_path: Path) -> None:
    done = subprocess.run(
        _bare(str(tmp_path / "modules"), "--help"),
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "serve" in done.stdout
