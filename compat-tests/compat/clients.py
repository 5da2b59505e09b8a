"""The clients: the stock docker CLI as a process (with pipes or a terminal), and bare HTTP on the socket."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compat.wording import major


@dataclass(frozen=True)
class Result:
    """What a command answered."""

    exit: int
    stdout: str
    stderr: str


class CLI:
    """`docker` with its own configuration folder, against one server."""

    def __init__(self, url: str, config: Path) -> None:
        config.mkdir(parents=True, exist_ok=True)
        (config / "config.json").write_text("{}")
        self.env = {
            "DOCKER_HOST": url,
            "DOCKER_CONFIG": str(config),
            "HOME": str(config),
            "PATH": os.environ["PATH"],
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
            "DOCKER_CLI_HINTS": "false",
        }
        self.major = major(self.env["PATH"])

    def __call__(
        self, command: str | list[str], stdin: str | bytes = b"", timeout_s: float = 50
    ) -> Result:
        """Run `docker ...`; text is split as a shell would.  A shell only where the command is `sh -c ...` itself."""
        argv = shlex.split(command) if isinstance(command, str) else command
        if argv[0] not in ("docker", "sh"):
            argv = ["docker", *argv]
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            argv, input=data, capture_output=True, env=self.env, timeout=timeout_s, check=False
        )
        return Result(
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )

    def ok(self, command: str | list[str], stdin: str | bytes = b"") -> str:
        """Run it, demand success, give its stdout without the last newline."""
        result = self(command, stdin)
        assert result.exit == 0, (command, result)
        return result.stdout.rstrip("\n")

    def popen(self, command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start it and go on."""
        return subprocess.Popen(["docker", *shlex.split(command)], env=self.env, **options)

    def terminal(self, command: str, rows: int = 30, columns: int = 100) -> Terminal:
        """Start it on a terminal of its own."""
        return Terminal(["docker", *shlex.split(command)], self.env, rows, columns)


class Terminal:
    """A command on a pseudo terminal: type, and wait for what it shows."""

    def __init__(self, argv: list[str], env: dict[str, str], rows: int, columns: int) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe(argv[0], argv, env)
        self.seen = ""
        self.size(rows, columns)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def size(self, rows: int, columns: int) -> None:
        """Change the window; the kernel tells the command."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str | bytes) -> None:
        """Keys."""
        os.write(self._fd, text.encode() if isinstance(text, str) else text)

    def until(self, pattern: str, deadline_s: float = 20) -> str:
        """Read until the regexp shows up in what was not yet consumed; what came up to its end."""
        end = time.monotonic() + deadline_s
        while not (found := re.search(pattern, self.seen)):
            left = end - time.monotonic()
            assert left > 0, f"{pattern!r} does not show up in {self.seen!r}"
            if select.select([self._fd], [], [], left)[0]:
                try:
                    data = os.read(self._fd, 65536)
                except OSError:  # EIO: the other side is closed
                    data = b""
                assert data, f"ended without {pattern!r}: {self.seen!r}"
                self.seen += data.decode(errors="replace")
        taken, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return taken

    def end(self, deadline_s: float = 20) -> int:
        """Read to the end; the exit code."""
        stop = time.monotonic() + deadline_s
        while True:
            left = stop - time.monotonic()
            assert left > 0, f"does not end: {self.seen!r}"
            if select.select([self._fd], [], [], left)[0]:
                try:
                    data = os.read(self._fd, 65536)
                except OSError:
                    break
                if not data:
                    break
                self.seen += data.decode(errors="replace")
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body) if self.body.strip() else None

    @property
    def message(self) -> str:
        """The error text: of the JSON body, or the bare text."""
        try:
            value = self.json()
        except ValueError:
            return self.body.decode(errors="replace").strip()
        return value["message"] if isinstance(value, dict) and "message" in value else ""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class API:
    """HTTP requests to one socket, each on a connection of its own."""

    def __init__(self, path: str, version: str = "/v1.51") -> None:
        self.path, self.version = path, version
        self._streams: list[tuple[_Connection, http.client.HTTPResponse]] = []

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 30,
    ) -> Answer:
        """`path` starting with `=` goes as it is, others get the version in front; a dict body goes as JSON."""
        sent = dict(headers or {})
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        if isinstance(body, str):
            body = body.encode()
        connection = _Connection(self.path, timeout_s)
        try:
            target = path[1:] if path.startswith("=") else self.version + path
            connection.request(method, target, body=body, headers=sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a successful answer."""
        answer = self(method, path, body)
        assert answer.status < 400, (method, path, answer.status, answer.body)
        return answer.json()

    def stream(
        self, method: str, path: str, body: Any = None, timeout_s: float = 30
    ) -> http.client.HTTPResponse:
        """An answer whose head is there and whose body is still to be read."""
        connection = _Connection(self.path, timeout_s)
        data = json.dumps(body).encode() if body is not None else None
        connection.request(
            method, self.version + path, body=data, headers={"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        self._streams.append((connection, answer))
        return answer

    def close(self) -> None:
        """Close the streams that are still open."""
        for connection, answer in self._streams:
            answer.close()
            connection.close()
        self._streams.clear()

    def raw(self, data: bytes, timeout_s: float = 10, half_close: bool = False) -> bytes:
        """Bytes there, bytes back until the server closes, or nothing more comes."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout_s)
            client.connect(self.path)
            client.sendall(data)
            if half_close:
                client.shutdown(socket.SHUT_WR)
            received = b""
            try:
                while block := client.recv(65536):
                    received += block
            except TimeoutError:
                return received
            return received

    def hijack(
        self, path: str, body: Any = None, version: str | None = None, timeout_s: float = 20
    ) -> Hijack:
        """POST with Upgrade; the connection after the head."""
        return Hijack(self.path, (version or self.version) + path, body, timeout_s)


class Hijack:
    """An upgraded connection."""

    def __init__(self, path: str, target: str, body: Any, timeout_s: float) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        self.socket.connect(path)
        head = (
            f"POST {target} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self.socket.sendall(head.encode() + data)
        received = b""
        while b"\r\n\r\n" not in received:
            block = self.socket.recv(65536)
            assert block, received
            received += block
        head_bytes, self._early = received.split(b"\r\n\r\n", 1)
        self.head = head_bytes.decode()
        self.status = int(self.head.split()[1])

    def __enter__(self) -> Hijack:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def close_input(self) -> None:
        """Half-close: end of the container's stdin."""
        self.socket.shutdown(socket.SHUT_WR)

    def taken(self) -> bytes:
        """What was read already, and not yet had."""
        taken, self._early = self._early, b""
        return taken

    def rest(self) -> bytes:
        """Everything until the server closes."""
        received, self._early = [self._early], b""
        while block := self.socket.recv(1 << 20):
            received.append(block)
        return b"".join(received)

    def until(self, text: bytes) -> bytes:
        """Read until `text` came."""
        while text not in self._early:
            block = self.socket.recv(65536)
            assert block, self._early
            self._early += block
        taken, self._early = self._early, b""
        return taken


def frames(data: bytes) -> dict[int, bytes]:
    """{stream: its bytes} of multiplexed output."""
    streams: dict[int, list[bytes]] = {}
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "big")
        streams.setdefault(data[place], []).append(data[place + 8 : place + 8 + size])
        place += 8 + size
    return {stream: b"".join(pieces) for stream, pieces in streams.items()}
