"""Who may import whom, and that every file says what it is for: read from the code, as a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dockerapi", "imgsources", "gateway")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST = 700
_ROW = re.compile(r"\| (?:dockerapi|imgsources|gateway)/[\w/]+\.py \| ")


def test_the_import_contracts_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    # It configures logging as a program would, and silences every logger that is there already.
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_for_and_is_not_too_long(module: Path) -> None:
    text = module.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= LONGEST


def test_every_file_has_its_line_in_the_architecture_in_its_own_words() -> None:
    layout = (ROOT / "docs/architecture.md").read_text()
    listed = [line for line in layout.splitlines() if _ROW.match(line)]
    rows = {}
    for path in MODULES:
        words = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        rows[str(path.relative_to(ROOT))] = f"| {path.relative_to(ROOT)} | {words} |"
    wanted = {row for name, row in rows.items() if not name.endswith("__init__.py")}
    assert sorted(wanted - set(listed)) == []
    assert (
        sorted(set(listed) - set(rows.values())) == []
    )  # of files that are gone, or say something else
    for package in PACKAGES:
        names = [line for line in listed if line.startswith(f"| {package}/")]
        assert names == sorted(set(names), key=_name)


def _name(row: str) -> str:
    return row.split(" ")[1]
