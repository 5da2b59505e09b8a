"""Many containers at once: all answers right, and nothing left on the machine a second later."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from compat.clients import API, CLI
from compat.daemons import Daemon
from compat.leftovers import Snapshot, new, settled, snapshot


def _one(cli: CLI, number: int) -> str:
    """Run one; "" or what was wrong."""
    code = number % 5
    result = cli(
        ["run", "--rm", "bb", "sh", "-c", f"echo out {number}; echo err {number} >&2; exit {code}"]
    )
    right = (result.exit, result.stdout, result.stderr) == (
        code,
        f"out {number}\n",
        f"err {number}\n",
    )
    return "" if right else f"{number}: {result}"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_hundred_runs_twenty_at_a_time(cli: CLI, api: API, daemon: Daemon) -> None:
    cli.ok("run --rm bb true")
    before = settled_snapshot(daemon)
    with ThreadPoolExecutor(20) as pool:
        wrong = [text for text in pool.map(lambda number: _one(cli, number), range(200)) if text]
    assert not wrong, "\n".join(wrong[:10])
    assert left_behind(before, daemon) == {}
    assert api.ok("GET", "/containers/json?all=1") == []


def left_behind(before: Snapshot, daemon: Daemon) -> dict[str, list[str]]:
    """What is new since then, and stays.  A machine at rest needs a tenth of a second; a busy one is not judged here."""
    rows = settled(lambda: new(before, snapshot(daemon)), 10.0)
    if daemon.kind == "dockerd":  # it takes its netns files away a minute later
        rows.pop("files", None)
    return rows


def settled_snapshot(daemon: Daemon) -> Snapshot:
    """A snapshot that is the same twice: what an earlier test left is gone."""
    last = snapshot(daemon)
    settled(lambda: new(last, snapshot(daemon)), 1.0)
    return snapshot(daemon)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_many_live_at_once_and_are_removed_together(cli: CLI, api: API, daemon: Daemon) -> None:
    before = settled_snapshot(daemon)
    with ThreadPoolExecutor(10) as pool:
        names = [f"many{number}" for number in range(40)]
        list(
            pool.map(
                lambda name: cli.ok(f"run -d --name {name} --hostname {name} bb sleep 1000"), names
            )
        )
        assert len(api.ok("GET", "/containers/json")) == 40
        assert list(pool.map(lambda name: cli.ok(f"exec {name} hostname"), names)) == names
        addresses = {
            row["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
            for row in api.ok("GET", "/containers/json")
        }
        assert len(addresses) == 40
        cli.ok(["rm", "-f", *names])
    assert left_behind(before, daemon) == {}


@pytest.mark.slow
def test_one_name_is_won_by_one(cli: CLI) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: cli("create --name wanted bb true"), range(8)))
    assert sorted(result.exit for result in results) == [0] + [1] * 7
    assert all(
        "is already in use by container" in result.stderr for result in results if result.exit
    )
