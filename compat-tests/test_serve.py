"""`zonegate serve` itself: settings from every source, sockets of systemd, several instances, and starts that fail."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.clients import API, CLI
from compat.daemons import Daemon, own_bridge, zonegate_program

NAME = f"zv{os.getpid() % 1000000}"


@pytest.fixture(autouse=True)
def _zonegate_alone(kind: str) -> None:
    if kind != "zonegate":
        pytest.skip("about zonegate's own start")


@pytest.fixture
def folder(workdir: Path) -> Iterator[Path]:
    """Short, and gone afterwards unless something is still mounted there."""
    path = workdir / "v"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def argv(folder: Path, *more: str) -> list[str]:
    """An instance of this module's own."""
    flags = [
        "--group",
        "root",
        "--name",
        NAME,
        "--data-root",
        f"{folder}/data",
        "--exec-root",
        f"{folder}/exec",
    ]
    return [*zonegate_program(), "serve", *flags, *own_bridge("zonegate", 3), *more]


def traces(folder: Path) -> list[str]:
    """What a server has outside of its data root."""
    found = [line for line in Path("/proc/self/mounts").read_text().splitlines()
             if f"{folder}/" in line]  # fmt: skip
    found += [name for _, name in socket.if_nameindex() if name == f"{NAME}0"]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    found += [line for line in tables.stdout.splitlines() if line.endswith(f"_{NAME}")]
    for parent, folders, _ in os.walk(
        "/sys/fs/cgroup"
    ):  # unlike glob, no matter what others remove
        found += [f"{parent}/{name}" for name in folders if name == NAME]
    return found + [str(path) for path in folder.glob("*.sock")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--bip 10.0.0.0/99", "invalid bip 10.0.0.0/99: '99' is not a valid netmask"),
        ("--default-address-pool x", "invalid default address pool x: base: Field required"),
        ("--default-address-pool base=127.0.0.0/16,size=24 --bip=", "all predefined address pools"),
        ("--bridge lo", "interface lo is there and is no bridge"),
        ("--config /nowhere.toml", "cannot read /nowhere.toml: No such file or directory"),
        ("--label x", "bad attribute format: x"),
        ("--data-root /etc/passwd", "cannot start: File exists: /etc/passwd"),
        ("--exec-root /etc/passwd", "cannot start: File exists: /etc/passwd"),
        ("--pidfile /tmp", "cannot start: Is a directory: /tmp"),
        ("--group nobody-here", "group nobody-here not found"),
        ("-H tcp://0.0.0.0:2375", "tcp://0.0.0.0:2375 without TLS would give root"),
        ("-H fd://", "no sockets found via socket activation"),
        ("-H tcp://127.0.0.1:{port}", "cannot listen on tcp://127.0.0.1:{port}: Address already"),
        ("-H tcp://0.0.0.0:0 --tls --tlscert /x --tlskey /x", "cannot read /x: No such file"),
        ("--backend smartos", "this is no SmartOS machine: sysinfo is not there"),
    ],
)
def test_a_start_that_fails_says_why_on_one_line_and_leaves_nothing(
    folder: Path, flags: str, message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        command = argv(folder, "-H", f"unix://{folder}/a.sock", *flags.format(port=port).split())
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("zonegate: ")
    assert message.format(port=port) in done.stderr
    assert done.stderr.count("\n") == 1
    assert not traces(folder)


def test_a_data_root_an_exec_root_and_a_name_have_one_server(folder: Path) -> None:
    first = Daemon("zonegate", folder / "d", NAME, "", own_bridge("zonegate", 3))
    first.start()
    try:
        for flag, root in (("--data-root", first.data_root), ("--exec-root", first.exec_root)):
            more = [flag, str(root), "-H", f"unix://{folder}/b.sock"]
            done = subprocess.run(
                argv(folder, *more), capture_output=True, text=True, timeout=30, check=False
            )
            assert done.returncode == 1
            assert done.stderr == f"zonegate: {root} is in use by another zonegate\n"
        done = subprocess.run(
            argv(folder, "-H", f"unix://{folder}/b.sock"),
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        words = f"another zonegate is called {NAME} here: --name tells instances apart"
        assert (done.returncode, done.stderr) == (1, f"zonegate: {words}\n")
        assert API(first.socket)("GET", "=/_ping").status == 200
    finally:
        assert first.stop() == 0
    assert not traces(folder)


def test_a_signal_during_the_start_ends_it_cleanly(folder: Path) -> None:
    path = folder / "a.sock"
    command = argv(folder, "-H", f"unix://{path}", "--pidfile", f"{folder}/pid")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        end = time.monotonic() + 20
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.001)
        server.send_signal(signal.SIGTERM)
        try:
            assert server.wait(20) == 0
        finally:
            server.kill()
    assert not traces(folder)
    assert not (folder / "pid").exists()


def test_sockets_of_systemd_are_served_and_left_alone(folder: Path, baseline: Path) -> None:
    with socket.socket(socket.AF_UNIX) as passed, socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM
    ) as told:  # fmt: skip
        passed.bind(f"{folder}/a.sock")
        passed.listen()
        told.bind(f"{folder}/notify")
        told.settimeout(20)
        # The program becomes the server, so that the number is its own.
        program = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3)\n"
            "os.environ |= {'LISTEN_FDS': '1', 'LISTEN_PID': str(os.getpid())}\n"
            "os.execvp(sys.argv[2], sys.argv[2:])"
        )
        number = passed.fileno()
        with subprocess.Popen(
            [sys.executable, "-c", program, str(number), *argv(folder, "-H", "fd://")],
            pass_fds=[number],
            stderr=subprocess.DEVNULL,
            env=os.environ | {"NOTIFY_SOCKET": f"{folder}/notify"},
        ) as server:
            try:
                assert told.recv(100) == b"READY=1"
                cli = CLI(f"unix://{folder}/a.sock", folder / "config")
                cli.ok(f"docker load -q -i {baseline}")
                cli.ok("docker run -d --name c1 bb sleep 1000")
                # A runtime that sees LISTEN_FDS hands on what it has at 3; `ls` has the folder itself open there.
                assert cli.ok("docker exec c1 ls /proc/self/fd").split() == ["0", "1", "2", "3"]
                assert not {"LISTEN_FDS", "NOTIFY_SOCKET"} & set(
                    re.findall(r"\w+(?==)", cli.ok("docker exec c1 env"))
                )
                cli.ok("docker rm -f c1")
                server.terminate()
                assert told.recv(100) == b"STOPPING=1"
                assert server.wait(20) == 0
            finally:
                server.kill()
        assert (folder / "a.sock").is_socket()
    (folder / "a.sock").unlink()
    assert not traces(folder)


def test_settings_come_from_file_environment_and_flags(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "config.toml").write_text(
        'labels = ["tier=file"]\nregistry-mirrors = ["https://mirror.example/"]\ngroup = "root"\n'
        '[[default-address-pools]]\nbase = "10.251.0.0/16"\nsize = 26\n'
    )
    monkeypatch.setenv("ZONEGATE_INSECURE_REGISTRIES", "10.9.0.0/16,registry.example:5000")
    monkeypatch.setenv("ZONEGATE_LABELS", "tier=environment")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    extra = ("--config", f"{folder}/config.toml", "-H", f"tcp://127.0.0.1:{port}")
    server = Daemon("zonegate", folder / "d", NAME, "", (*extra, "--label", "tier=flag", "-D"))
    server.start()
    try:
        info = API(server.socket).ok("GET", "/info")
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.")
    finally:
        assert server.stop() == 0
    assert info["Labels"] == ["tier=flag"]
    assert info["RegistryConfig"]["Mirrors"] == ["https://mirror.example/"]
    assert "10.9.0.0/16" in info["RegistryConfig"]["InsecureRegistryCIDRs"]
    assert "registry.example:5000" in info["RegistryConfig"]["IndexConfigs"]
    assert info["DefaultAddressPools"] == [{"Base": "10.251.0.0/16", "Size": 26}]
    assert info["Debug"] is True
    assert not traces(folder)


def test_without_a_default_bridge_containers_have_their_loopback(
    folder: Path, baseline: Path
) -> None:
    server = Daemon("zonegate", folder / "d", NAME, "", ("--bridge", "none"))
    server.start()
    try:
        cli = CLI(server.url, folder / "config")
        cli.ok(f"docker load -q -i {baseline}")
        assert cli.ok("docker network ls --format '{{.Name}}'").split() == ["host", "none"]
        assert cli.ok("docker run --rm -p 80 bb ls /sys/class/net").split() == ["lo"]
    finally:
        assert server.stop() == 0
    assert not traces(folder)
