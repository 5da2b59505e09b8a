"""Compose where much happens at once: many services, two projects, who changes their mind, a server that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compat.clients import API, CLI
from compat.compose import plug_in
from compat.daemons import Daemon

IT = {"image": "bb", "command": "sleep 1000", "stop_grace_period": "0s"}
SLOW = {
    **IT,
    "command": ["sh", "-c", "trap 'echo leaving; sleep 0.3; exit 3' TERM; echo here; while :; do sleep 0.05; done"],
    "stop_grace_period": "30s",
}  # fmt: skip
DEADLINE_S = 30


class Project:
    """One compose file in a folder of its own."""

    def __init__(self, cli: CLI, folder: Path, name: str, services: dict[str, Any]) -> None:
        folder.mkdir(exist_ok=True)
        self.name, self._cli, self._folder = name, cli, folder
        (folder / "compose.json").write_text(json.dumps({"name": name, "services": services}))
        self.argv = ["compose", "--progress", "quiet", "-f", f"{folder}/compose.json"]

    def __call__(self, *argv: str) -> str:
        return self._cli.ok([*self.argv, *argv])

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        """Go on while it runs; what it says comes in one stream."""
        return subprocess.Popen(
            ["docker", *self.argv, *argv],
            env=self._cli.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def states(self) -> list[str]:
        """`NAME STATE EXIT` of all that there is, sorted."""
        return sorted(
            self("ps", "-a", "--format", "{{.Name}} {{.State}} {{.ExitCode}}").splitlines()
        )


@pytest.fixture
def project(daemon: Daemon, cli: CLI, tmp_path: Path) -> Iterator[Callable[..., Project]]:
    """Makes them; nothing of any is left after the test."""
    plug_in(cli)
    made: list[Project] = []

    def make(name: str, **services: Any) -> Project:
        made.append(Project(cli, tmp_path / name, name, services))
        return made[-1]

    yield make
    for one in made:
        one("down", "-v", "-t", "0", "--remove-orphans")
        assert left(cli, one.name) == []


def left(cli: CLI, name: str) -> list[str]:
    """Containers, networks and volumes of a project."""
    kinds = ("ps -aq", "network ls -q", "volume ls -q")
    mine = f"--filter label=com.docker.compose.project={name}"
    return [row for kind in kinds for row in cli.ok(f"{kind} {mine}").split()]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end


def read_until(stream: subprocess.Popen[bytes], word: bytes, times: int = 1) -> bytes:
    """Its output up to there."""
    assert stream.stdout is not None
    seen = b""
    while seen.count(word) < times:
        data = os.read(stream.stdout.fileno(), 65536)
        assert data, seen
        seen += data
    return seen


@pytest.mark.timeout(240)
def test_many_services_come_and_go_at_once(
    project: Callable[..., Project], api: API, platform: object
) -> None:
    count = 50 if platform is None else 12
    many = project("many", **{f"s{number}": IT for number in range(count)})
    many("up", "-d")
    rows = api.ok("GET", "/networks/many_default")["Containers"].values()
    assert len({row["IPv4Address"] for row in rows}) == count
    assert many("exec", "-T", "s1", "ping", "-c", "1", "-W", "5", f"s{count - 1}").startswith(
        f"PING s{count - 1} ("
    )
    before = many("ps", "-q")
    many("up", "-d")
    assert many("ps", "-q") == before
    many("down")
    assert left(many._cli, "many") == []


def test_down_in_the_middle_of_up(project: Callable[..., Project], cli: CLI) -> None:
    one = project("midway", **{f"s{number}": IT for number in range(6)})
    with one.start("up", "-d") as coming:
        until(lambda: len(left(cli, "midway")) > 2)
        with one.start("down") as going:
            going.communicate(timeout=DEADLINE_S)
        coming.communicate(timeout=DEADLINE_S)
    one("down")
    assert left(cli, "midway") == []


def test_control_c_stops_what_up_has_started(project: Callable[..., Project]) -> None:
    one = project("once", a=SLOW, b=SLOW)
    with one.start("up") as up:
        read_until(up, b"| here", 2)
        up.send_signal(signal.SIGINT)
        said, _ = up.communicate(timeout=DEADLINE_S)
    assert up.returncode == 130, said
    assert one("logs").count("| leaving") == 2
    assert one.states() == ["once-a-1 exited 3", "once-b-1 exited 3"]


def test_control_c_twice_kills_what_up_has_started(project: Callable[..., Project]) -> None:
    stays = {**SLOW, "stop_grace_period": "3s", "command": ["sh", "-c", "trap 'echo leaving' TERM; echo here; while :; do sleep 0.05; done"]}  # fmt: skip
    one = project("twice", a=stays)
    with one.start("up") as up:
        read_until(up, b"| here")
        up.send_signal(signal.SIGINT)
        read_until(up, b"Stopping")
        until(lambda: "leaving" in one("logs"))
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=DEADLINE_S)
    assert up.returncode != 0
    until(lambda: one.states() == ["twice-a-1 exited 137"])


def test_wait_gives_the_code_of_the_service_that_ends(project: Callable[..., Project]) -> None:
    one = project("waited", a=IT, b=IT)
    said = b"no containers for project"
    while b"no containers for project" in said:  # it ended before compose had looked for it
        one("up", "-d")
        with one.start("wait", "a") as waiting:
            one("kill", "a")
            said, _ = waiting.communicate(timeout=DEADLINE_S)
    assert b"exited with status code 137" in said
    assert waiting.returncode == 137
    assert one.states() == ["waited-a-1 exited 137", "waited-b-1 running 0"]


def test_two_projects_of_one_file_do_not_meet(project: Callable[..., Project]) -> None:
    pair = [project(name, web=IT, db=IT) for name in ("left", "right")]
    for one, running in [(one, one.start("up", "-d")) for one in pair]:
        with running:
            said, _ = running.communicate(timeout=DEADLINE_S)
        assert running.returncode == 0, (one.name, said)
    seen = [one("exec", "-T", "web", "ping", "-c", "1", "-W", "5", "db").split("\n")[0] for one in pair]  # fmt: skip
    assert seen[0] != seen[1]
    pair[0]("down")
    assert pair[1].states() == ["right-db-1 running 0", "right-web-1 running 0"]


def test_an_attached_up_tells_when_its_server_is_killed(
    project: Callable[..., Project], daemon: Daemon
) -> None:
    if daemon.kind == "dockerd":
        pytest.skip("dockerd ends its containers with itself")
    one = project("cut", a=SLOW, b=IT)
    with one.start("up") as up:
        read_until(up, b"| here")
        daemon.kill()
        up.communicate(timeout=DEADLINE_S)
        daemon.start()
    # The second may have been about to start.
    assert one.states()[0] == "cut-a-1 running 0"
    assert one.states()[1] in ("cut-b-1 running 0", "cut-b-1 created 0")
    with one.start("up") as again:
        read_until(again, b"Attaching to")
        again.send_signal(signal.SIGINT)
        again.communicate(timeout=DEADLINE_S)
    assert one.states() == ["cut-a-1 exited 3", "cut-b-1 exited 137"]


def test_watch_brings_changes_in_and_builds_anew(
    project: Callable[..., Project], cli: CLI, tmp_path: Path
) -> None:
    watched = {
        **IT,
        "build": {"context": "."},
        "image": "watched",
        "develop": {
            "watch": [
                {"action": "sync", "path": "./synced", "target": "/synced"},
                {"action": "rebuild", "path": "./rebuilt"},
            ]
        },
    }
    one = project("watched", it=watched)
    folder = tmp_path / "watched"
    for name in ("synced", "rebuilt"):
        (folder / name).mkdir()
        (folder / name / "file").write_text("old\n")
    (folder / "Dockerfile").write_text("FROM bb\nCOPY synced /synced\nCOPY rebuilt /rebuilt\n")

    def inside(path: str) -> str:
        # While a container is made anew there may be none for a moment.
        return cli([*one.argv, "exec", "-T", "it", "cat", path]).stdout

    env, cli.env = cli.env, cli.env | {"DOCKER_BUILDKIT": "0"}
    try:
        one("up", "-d", "--build")
        with one.start("watch", "--no-up") as watch:
            try:
                read_until(watch, b"Watch enabled")
                (folder / "synced/file").write_text("new\n")
                until(lambda: inside("/synced/file") == "new\n")
                first = one("ps", "-q")
                (folder / "rebuilt/file").write_text("new\n")
                until(lambda: inside("/rebuilt/file") == "new\n")
                assert one("ps", "-q") != first
            finally:
                watch.terminate()
                watch.communicate(timeout=DEADLINE_S)
    finally:
        cli.env = env
        one("down", "-t", "0")
        cli("rmi -f watched")
