"""Whatever step of making or removing a network or a volume a kill -9 hits: the next life has all of it, or nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gateway.hosts.command import run

REPOSITORY = Path(__file__).parents[4]


@pytest.mark.root
@pytest.mark.parametrize(("kind", "steps"), [("networks", 25), ("volumes", 20)])
async def test_a_kill_at_any_step_leaves_nothing(kind: str, steps: int, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.gateway.hosts.linux.killing", kind, str(tmp_path)]
    path = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    said = await run(program, env=path, timeout_s=120)
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line for line in lines if "act" not in line] == []
    assert {line["act"] for line in lines} == {"create", "remove"}
    assert sum(line["steps"] for line in lines) >= steps
