"""Who may import whom, and that every file says what it is for: read from the code, as a test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dockerapi", "imgsources", "gateway")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST = 700


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


def test_every_file_has_its_line_in_the_architecture() -> None:
    layout = (ROOT / "docs/architecture.md").read_text()
    missing = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if path.name != "__init__.py" and path.name not in layout
    ]
    assert not missing
