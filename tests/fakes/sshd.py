"""A real OpenSSH server on the loopback, with keys of its own: the way to a fake global zone that is "elsewhere".

    sshd = start(folder, environment)      url, identity_file, known_hosts, stop = sshd
    sshd.drop()                            cuts every connection, as a lost network would
    sshd.stop() ... sshd.resume()          the machine is away, and comes back under the same address and keys

`environment` is what every program started through it sees, PATH included (SetEnv).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess  # noqa: TID251 - a server as users have it, not a child of the gateway
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

PROGRAM = "/usr/sbin/sshd"
_DEADLINE_S = 20.0


class Sshd:
    """One server; unpacks into `(url, identity_file, known_hosts, stop)`."""

    def __init__(self, folder: Path, environment: Mapping[str, str], options: str) -> None:
        self.folder = folder
        self.identity_file = folder / "id_ed25519"
        self.known_hosts = folder / "known_hosts"
        self._config = folder / "sshd_config"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        _make_key(folder / "host_key")
        _make_key(self.identity_file)
        keys = folder / "authorized_keys"
        keys.write_bytes((folder / "id_ed25519.pub").read_bytes())
        self.trust(folder / "host_key.pub")
        # A home without the .bashrc of whoever runs the tests: bash would read it at every program.
        given = {**environment, "HOME": str(folder)}
        values = " ".join(f'"{name}={value}"' for name, value in given.items())
        self._config.write_text(
            f"Port {self.port}\n"
            "ListenAddress 127.0.0.1\n"
            f"HostKey {folder}/host_key\n"
            f"AuthorizedKeysFile {keys}\n"
            "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "PermitRootLogin prohibit-password\nPrintMotd no\n"
            "Subsystem sftp internal-sftp\n"
            f"SetEnv {values}\n{options}\n"
        )

    @property
    def url(self) -> str:
        """For --smartos-host."""
        return f"ssh://root@127.0.0.1:{self.port}"

    def __iter__(self) -> Iterator[str | Path | Callable[[], None]]:
        yield from (self.url, self.identity_file, self.known_hosts, self.stop)

    def trust(self, key: Path) -> None:
        """`known_hosts` has this key for the server, and no other."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key.read_text()}")

    @property
    def pid(self) -> int:
        """Of the listener."""
        assert self._process is not None
        return self._process.pid

    def resume(self) -> None:
        """Serve (again)."""
        # The unprivileged half of every connection lives in this empty folder.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "-D", "-e", "-f", str(self._config)], stdin=subprocess.DEVNULL, stderr=log
            )
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "sshd.log").read_text())
            time.sleep(0.01)

    def sessions(self) -> list[int]:
        """Pids of the processes that serve a connection each."""
        return _children(self.pid)

    def drop(self) -> None:
        """Every connection is lost; programs that ran through it are not told."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """No listener and no connection."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGSTOP)  # no connection between the two
        self.drop()
        self._process.kill()
        self._process.wait(_DEADLINE_S)
        self._process = None


def start(folder: Path, environment: Mapping[str, str], *, options: str = "") -> Sshd:
    """A server that accepts; `options` are further lines of sshd_config."""
    folder.mkdir(parents=True, exist_ok=True)
    sshd = Sshd(folder, environment, options)
    sshd.resume()
    deadline = time.monotonic() + _DEADLINE_S
    while sshd.sessions() and time.monotonic() < deadline:
        time.sleep(0.01)  # what served the first attempt is no session of a test
    return sshd


def make_key(path: Path) -> Path:
    """A further key pair; its public half is PATH.pub."""
    _make_key(path)
    return path


def _make_key(path: Path) -> None:
    subprocess.run(
        ["/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)],
        check=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found
