"""gateway.hosts.linux.warmth: moves to our own cgroup while wanted, and none afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.hosts.linux.cgroups import Cgroups
from gateway.hosts.linux.warmth import Warmth

OWN = Path("/proc/self/cgroup")


@pytest.fixture
def procs(tmp_path: Path) -> Path:
    """cgroup.procs of our own cgroup in a tree that is only files."""
    folder = tmp_path / OWN.read_text().splitlines()[0].split(":", 2)[2].lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.procs").touch()
    return folder / "cgroup.procs"


@pytest.fixture
def warmth(tmp_path: Path, procs: Path) -> Iterator[Warmth]:
    controllers = OWN.read_text().splitlines()[0].split(":", 2)[1]
    first = controllers.split(",", maxsplit=1)[0].removeprefix("name=")
    if controllers:
        made = Warmth(Cgroups("v1", {first: tmp_path}, None))
    else:
        made = Warmth(Cgroups("v2", {}, tmp_path))
    yield made
    made.close()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end


def moves(procs: Path, seconds: float) -> bool:
    """Whether anything is written within that time."""
    procs.write_text("")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if procs.read_text():
            return True
    return False


def test_as_long_as_it_is_wanted_we_move_to_where_we_are(warmth: Warmth, procs: Path) -> None:
    with warmth.kept():
        until(lambda: procs.read_text() == str(os.getpid()))
        assert moves(procs, 1)
        with warmth.kept():
            pass
        assert moves(procs, 1)


def test_then_it_rests_and_can_be_woken_again(warmth: Warmth, procs: Path) -> None:
    for _ in range(3):
        with warmth.kept():
            until(lambda: procs.read_text() != "")
        until(lambda: not moves(procs, 0.03))


def test_an_announcement_is_forgotten_after_a_moment(warmth: Warmth, procs: Path) -> None:
    warmth.announce()
    until(lambda: procs.read_text() != "")
    until(lambda: not moves(procs, 0.1))


def test_a_tree_that_is_not_there_does_no_harm(warmth: Warmth, procs: Path) -> None:
    procs.unlink()
    with warmth.kept():
        assert not procs.exists()
    procs.touch()
    with warmth.kept():
        until(lambda: procs.read_text() != "")


@pytest.mark.root
def test_on_the_real_tree_it_moves_nobody() -> None:
    before = OWN.read_text()
    real = Warmth(Cgroups.detect())
    with real.kept():
        time.sleep(0.05)
    real.close()
    assert OWN.read_text() == before
