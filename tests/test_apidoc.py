"""docs/api.md is made from the code: what it finds there, and what it complains of."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dockerapi.models.base import Body
from dockerapi.routes import parameters
from dockerapi.routes.base import Call, Route, not_built
from dockerapi.versions import Version

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/apidoc.py"
V1_41 = Version(1, 41)


@pytest.fixture(scope="module")
def apidoc() -> ModuleType:
    spec = importlib.util.spec_from_file_location("apidoc", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["apidoc"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


class Small(Body):
    """A body of one field."""

    name: str = ""


async def reads(call: Call) -> None:
    """GET /containers/json.

    Differs: it is a test's.

    SmartOS: refused (501): for a reason.

    Unread: limit: there is no end.
    """
    call.text("all")
    call.filters()
    parameters.tail(call.text("size") if call.since(V1_41) else "")
    await call.body(Small)


async def reads_less(call: Call) -> None:
    """POST /volumes/create."""
    await call.body(Small)


def test_nothing_that_is_described_is_passed_over_in_silence(apidoc: ModuleType) -> None:
    assert apidoc.complaints(apidoc.endpoints()) == []


def test_what_a_handler_reads_is_found(apidoc: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apidoc, "ROUTES", (Route("GET", "/containers/json", reads),))  # type: ignore[arg-type]
    (found,) = apidoc.endpoints()
    assert found.query == ["all", "filters", "size"]
    assert found.query_since == {"size": V1_41}
    assert found.model is Small
    line = apidoc.page([found])
    assert "`size` (1.41)" in line
    assert "it is a test's." in line
    assert "**SmartOS:** refused (501): for a reason." in line
    assert "`limit` has no effect: there is no end." in line
    assert "| Linux |" in line


def test_what_is_described_and_not_read_is_told(
    apidoc: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = (
        Route("POST", "/volumes/create", reads_less),  # type: ignore[arg-type]
        Route("GET", "/events", not_built("events")),
    )
    monkeypatch.setattr(apidoc, "ROUTES", routes)
    told = apidoc.complaints(apidoc.endpoints())
    assert "POST /volumes/create: field Labels is not read" in told
    assert "GET /info: not routed" in told
    assert not any(line.startswith("GET /events") for line in told)
    assert "refused: events is not implemented yet (501)." in apidoc.page(apidoc.endpoints())
