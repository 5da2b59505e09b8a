"""From paths to routes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockerapi.app import ROUTES
from dockerapi.routes.router import MovedPermanently, Router, clean

INVENTORY = [
    line.split() for line in (Path(__file__).parent / "inventory.txt").read_text().splitlines()
]


@pytest.mark.parametrize(("method", "path", "_since"), INVENTORY)
def test_every_endpoint_of_the_api_has_a_row_of_its_own(method, path, _since):
    found = Router(ROUTES).find(method, path.replace("{", "").replace("}", ""))
    assert found is not None
    route, _ = found
    shape = [part.startswith("{") for part in route.path.split("/")]
    assert shape == [part.startswith("{") for part in path.split("/")]


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/images/a/b/c:tag/json", "a/b/c:tag"),
        ("DELETE", "/images/a/b", "a/b"),
        ("GET", "/images/json/json", "json"),
        ("GET", "/containers/a/b/json", "a/b"),
        ("GET", "/containers/x/attach/ws", "x"),
        ("DELETE", "/containers/x/checkpoints/y", "x"),
        ("GET", "/distribution/reg:5000/a/json", "reg:5000/a"),
        ("GET", "/networks/", ""),
    ],
)
def test_names_may_hold_slashes(method, path, name):
    found = Router(ROUTES).find(method, path)
    assert found is not None
    assert found[1] == name


@pytest.mark.parametrize("path", ["/", "/images", "/images//json", "/containers", "/exec", ""])
def test_there_is_nothing_at(path):
    assert Router(ROUTES).find("GET", path) is None


def test_a_clean_path_is_decoded():
    assert clean("/containers/a%20b/json", "") == "/containers/a b/json"


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("//a", "/a"),
        ("/a/../b", "/b"),
        ("/a/./b/", "/a/b/"),
        ("/../..", "/"),
        ("/a%2F%2Fb", "/a/b"),
    ],
)
def test_other_paths_lead_to_the_clean_one(path, location):
    with pytest.raises(MovedPermanently) as caught:
        clean(path, "")
    assert caught.value.location == location
