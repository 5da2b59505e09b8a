"""kill -9 of the server while containers run, write and exit: after a restart nothing is lost and nothing is doubled."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.clients import API, CLI
from compat.daemons import Daemon, own_bridge
from compat.leftovers import new, settled, snapshot
from compat.scenarios import Told
from compat.smartos import SmartOS


@pytest.fixture
def server(kind: str, workdir: Path, baseline: Path, platform: SmartOS | None) -> Iterator[Daemon]:
    """A server of the test's own."""
    if kind != "zonegate":
        pytest.skip("dockerd was not told to keep containers alive (live-restore)")
    flags = () if platform else own_bridge(kind, 1)
    name = f"zs{os.getpid() % 1000000}"
    made = Daemon("zonegate", workdir / "s", name, "", flags, platform)
    try:
        made.start()
        CLI(made.url, workdir / "seed").ok(f"docker load -q -i {baseline}")
        yield made
        if made.process is not None and made.process.poll() is not None:
            made.start()
        api = API(made.socket)
        for row in api.ok("GET", "/containers/json?all=1"):
            api("DELETE", f"/containers/{row['Id']}?force=1&v=1")
        made.stop()
    finally:
        if made.process is not None and made.process.poll() is None:
            made.kill()
        made.discard()


@pytest.fixture
def own(server: Daemon, workdir: Path) -> CLI:
    return CLI(server.url, workdir / "own")


def again(server: Daemon) -> None:
    server.kill()
    server.start()


def test_running_containers_go_on(server: Daemon, own: CLI) -> None:
    own.ok(
        "run -d --name c1 --hostname one -p 127.0.0.1::80 bb sh -c 'i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done'"
    )
    own.ok("run -d --name c2 bb sleep 1000")
    port = own.ok("port c1 80")
    pid, started = own.ok("inspect -f '{{.State.Pid}} {{.State.StartedAt}}' c1").split()
    again(server)
    assert own.ok("ps --format '{{.Names}}'").split() == ["c2", "c1"]
    assert own.ok("inspect -f '{{.State.Pid}} {{.State.StartedAt}}' c1").split() == [pid, started]
    assert own.ok("port c1 80") == port
    assert own.ok("exec c1 hostname") == "one"
    own.ok("stop -t 0 c1")
    lines = own.ok("logs c1").splitlines()
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]
    assert own.ok("wait c1") == "137"


def test_what_exits_meanwhile_has_its_exit_code(server: Daemon, own: CLI) -> None:
    own.ok("run -d --name c1 bb sh -c 'sleep 0.6; echo last words; exit 7'")
    own.ok("run -d --rm --name c2 bb sh -c 'sleep 0.6; exit 3'")
    pid = own.ok("inspect -f '{{.State.Pid}}' c1")
    server.kill()
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    server.start()
    assert own.ok("inspect -f '{{.State.Status}} {{.State.ExitCode}}' c1") == "exited 7"
    assert own.ok("wait c1") == "7"
    assert own.ok("logs c1") == "last words"
    end = time.monotonic() + 10  # --rm: on its way since the start
    while own("container inspect c2").exit == 0:  # an id of a network may begin so, too
        assert time.monotonic() < end, own("ps -a").stdout + server.tail()
        time.sleep(0.05)
    own.ok("start c1")
    assert own.ok("wait c1") == "7"


def test_one_can_attach_and_wait_after_it(server: Daemon, own: CLI) -> None:
    own.ok(
        "run -di --name c1 bb sh -c 'while read x; do echo got $x; [ $x = end ] && exit 9; done'"
    )
    again(server)
    with own.popen("attach c1", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attached:
        assert attached.stdin is not None
        assert attached.stdout is not None
        attached.stdin.write(b"one\n")
        attached.stdin.flush()
        assert attached.stdout.readline() == b"got one\n"
        attached.stdin.write(b"end\n")
        attached.stdin.flush()
        assert attached.stdout.readline() == b"got end\n"
        attached.stdin.close()
        assert attached.wait(10) == 9
    assert own.ok("logs c1") == "got one\ngot end"


def test_who_was_attached_at_the_kill_keeps_nobody_out(server: Daemon, own: CLI) -> None:
    own.ok(
        "run -di --name c1 bb sh -c 'while read x; do echo got $x; [ $x = end ] && exit 9; done'"
    )
    for word in (b"one", b"end"):
        with own.popen("attach c1", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attached:
            assert attached.stdin is not None
            assert attached.stdout is not None
            attached.stdin.write(word + b"\n")
            attached.stdin.flush()
            assert attached.stdout.readline() == b"got " + word + b"\n"
            if word == b"one":
                again(server)
    assert own.ok("wait c1") == "9"
    assert own.ok("logs c1") == "got one\ngot end"


def test_restart_policies_hold(server: Daemon, own: CLI) -> None:
    own.ok("run -d --name c1 --restart always bb sh -c 'sleep 0.4; exit 1'")
    own.ok("run -d --name c2 --restart always bb sleep 1000")
    own.ok("stop -t 0 c2")
    server.kill()
    time.sleep(0.8)  # it must exit while nobody looks: there is nothing of the server's to wait for
    server.start()
    end = time.monotonic() + 15
    while own.ok("inspect -f '{{.State.Running}}' c1") != "true":
        assert time.monotonic() < end
        time.sleep(0.05)


def test_health_begins_anew(server: Daemon, own: CLI) -> None:
    health = "inspect -f '{{.State.Health.Status}} {{len .State.Health.Log}}' c1"
    began = time.time()
    own.ok("run -d --name c1 --health-cmd true --health-interval 600ms bb sleep 1000")
    own.ok("run -d --name c2 --health-cmd true --health-interval 600ms bb sleep 1000")
    Told("c1", "health_status: healthy").wait(own, began)
    own.ok("stop -t 0 c2")
    began = time.time()
    again(server)
    assert own.ok(health) == "starting 0"
    assert own.ok("inspect -f '{{.State.Health.Status}}' c2") == "unhealthy"
    Told("c1", "health_status: healthy").wait(own, began)
    assert own.ok(health) == "healthy 1"


@pytest.mark.linux_only(
    "a zlogin that lost its gateway ends by itself, and its command when it next writes"
)
def test_a_probe_under_way_goes_with_the_server(server: Daemon, own: CLI) -> None:
    began = time.time()
    own.ok("run -d --name c1 --health-cmd 'exec sleep 999' --health-interval 100ms bb sleep 1000")
    Told("c1", "exec_start").wait(own, began)
    end = time.monotonic() + 15
    while "sleep 999" not in own.ok("top c1"):
        assert time.monotonic() < end
    again(server)
    assert "sleep 999" not in own.ok("top c1")


def test_kills_at_any_moment_leave_a_server_that_starts(server: Daemon, own: CLI) -> None:
    for number in range(6):
        with own.popen(
            f"run --name k{number} bb sh -c 'echo x; sleep 0.1'",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as running:
            time.sleep(0.03 * number)  # another moment each time
            again(server)
            running.wait(20)
    for row in own.ok("ps -a --format '{{.Names}} {{.State}}'").splitlines():
        assert row.split()[1] in ("created", "running", "exited"), row
    names = own.ok("ps -a --format '{{.Names}}'").split()
    assert own.ok(["rm", "-f", *names]).split() == names if names else True
    assert own.ok("run --rm bb echo fine") == "fine"


def test_nothing_is_left_of_containers_that_were_removed_after_a_kill(
    server: Daemon, own: CLI
) -> None:
    own.ok("run --rm bb true")
    before = snapshot(server)
    for number in range(5):
        own.ok(f"run -d --name c{number} -p 80 bb sleep 1000")
    again(server)
    own.ok("rm -f c0 c1 c2 c3 c4")
    assert settled(lambda: new(before, snapshot(server)), 1.0) == {}


def test_a_stop_leaves_containers_running_and_the_next_start_finds_them(
    server: Daemon, own: CLI
) -> None:
    own.ok("run -d --name c1 bb sleep 1000")
    pid = own.ok("inspect -f '{{.State.Pid}}' c1")
    assert server.stop() == 0
    assert Path(f"/proc/{pid}").exists()
    server.start()
    assert own.ok("inspect -f '{{.State.Running}} {{.State.Pid}}' c1") == f"true {pid}"


@pytest.mark.linux_only("there is no freezer")
def test_a_container_that_was_being_committed_runs_on(server: Daemon, own: CLI) -> None:
    own.ok(
        "run -d --name c1 bb sh -c 'dd if=/dev/zero of=/big bs=1000000 count=600; echo done; sleep 1000'"
    )
    settled_s = time.monotonic() + 30
    while "done" not in own("logs c1").stdout:
        assert time.monotonic() < settled_s
    before = own.ok("images -a -q")
    client = own.popen("commit c1 made:half", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while own.ok("inspect -f '{{.State.Status}}' c1") != "paused":
        assert time.monotonic() < settled_s + 10
    again(server)
    client.wait(20)
    while own.ok("inspect -f '{{.State.Status}}' c1") != "running":
        assert time.monotonic() < settled_s + 20
    assert own.ok("exec c1 echo alive") == "alive"
    assert own.ok("images -a -q") == before
    assert not [path for path in Path(server.root).rglob("commit-*") if path.is_file()]
    assert not list(Path(server.root).rglob("*.partial"))
    own.ok("rm -f c1")


@pytest.mark.linux_only(
    "what mounts there is looked at in the Linux mount table: test_smartos has it for zones"
)
def test_what_volumes_mount_stays_while_it_is_used(
    server: Daemon, own: CLI, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept\n")
    own.ok(f"volume create -o type=none -o o=bind -o device={tmp_path} bound")
    before = snapshot(server)
    own.ok("run -d --name c1 -v bound:/v bb sleep 1000")
    own.ok("run -d --name c2 -v bound:/v bb sleep 1000")
    pid = int(own.ok("inspect -f '{{.State.Pid}}' c2"))
    server.kill()
    os.kill(pid, signal.SIGKILL)
    server.start()
    mounts = Path("/proc/self/mountinfo").read_text()
    assert mounts.count("/volumes/bound/_data ") == 1
    assert own.ok("exec c1 cat /v/file") == "kept"
    assert own.ok("start c2") == "c2"
    assert own.ok("exec c2 cat /v/file") == "kept"
    own.ok("rm -f c1 c2")
    assert settled(lambda: new(before, snapshot(server)), 4) == {}
    own.ok("volume rm bound")
    assert (tmp_path / "file").read_text() == "kept\n"


def test_what_a_far_end_has_not_got_the_next_gateway_sends(server: Daemon, own: CLI) -> None:
    with socket.create_server(("127.0.0.1", 0)) as far:
        far.settimeout(20)
        address = f"tcp://127.0.0.1:{far.getsockname()[1]}"
        own.ok(
            f"run -d --name c1 --log-driver syslog --log-opt syslog-address={address} "
            "bb sh -c 'echo one; sleep 0.5; seq 1000; echo last; sleep 1000'"
        )
        first, _ = far.accept()
        first.settimeout(20)
        assert first.recv(65536).endswith(b": one\n")
        server.kill()
        first.close()
        server.start()
        second, _ = far.accept()
        with second:
            second.settimeout(20)
            got = b""
            while b": last\n" not in got:
                got += second.recv(65536)
        assert own("logs c1").stdout.splitlines()[-1] == "last"
    said = [line.rpartition(b": ")[2] for line in got.splitlines()]
    assert said[-1001:] == [b"%d" % number for number in range(1, 1001)] + [b"last"]
    assert set(said[:-1001]) <= {b"one"}  # the place may have been kept before it or after it
