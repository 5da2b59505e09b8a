"""scripts/failed.py: the last lines of all tests, from what pytest wrote of its runs."""

from __future__ import annotations

import subprocess  # noqa: TID251 - the script is a process
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/failed.py"
TESTS = """
import pytest

@pytest.fixture
def broken():
    raise OSError("no such thing")

def test_good(): pass
def test_wrong(): assert 1 == 2, "not the\\nsame"
def test_without_its_thing(broken): pass
"""


def shown(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def test_failures_are_told_with_place_and_reason(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    report = tmp_path / "one.xml"
    options = ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), "--junit-xml", str(report)]
    subprocess.run([sys.executable, "-m", "pytest", "-q", *options, str(tmp_path)], check=False)
    title, *lines = shown(f"first run={report}")
    assert title == "first run: 2 failed"
    assert lines[::2] == ["  test_some.py::test_wrong", "  test_some.py::test_without_its_thing"]
    assert "test_some.py:9: AssertionError AssertionError: not the same" in lines[1]
    assert "OSError: no such thing" in lines[3]


def test_a_run_without_failures_says_so_and_one_that_was_not_is_left_out(tmp_path: Path) -> None:
    report = tmp_path / "one.xml"
    report.write_text("<testsuites><testcase classname='a.b' name='c'/></testsuites>")
    assert shown(f"a={report}", f"b={tmp_path / 'none.xml'}") == ["a: none failed"]


def test_a_run_that_was_killed_is_no_success(tmp_path: Path) -> None:
    report = tmp_path / "one.xml"
    report.touch()
    assert shown(f"a={report}") == ["a: was ended before it was through"]


def test_of_very_many_failures_the_names_are_shown(tmp_path: Path) -> None:
    report = tmp_path / "one.xml"
    case = (
        "<testcase classname='a.b' name='c'><failure message='why'>b.py:1: why</failure></testcase>"
    )
    report.write_text(f"<testsuites>{case * 40}</testsuites>")
    assert shown(f"a={report}") == ["a: 40 failed", *["  a/b.py::c"] * 40]
