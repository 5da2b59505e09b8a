"""Descriptions of layers for Docker 1.9: those that dockerd 28.5.2 wrote into archives of the same images."""

from __future__ import annotations

import json

import pytest

from imgsources.descriptions import descriptions, go_json
from imgsources.oci import parse_config, sha256
from tests.fakes.registry import image_config, layer_tar

A, B = layer_tar({"a": b"a"}), layer_tar({"b/": b"", "b/c": b"x" * 1000})
EMPTY = {
    "Cmd": None,
    "Entrypoint": [],
    "Env": [],
    "Labels": {},
    "ExposedPorts": {},
    "Volumes": {},
    "StopTimeout": 0,
    "Healthcheck": {"Retries": 3, "StartInterval": 5, "Test": []},
    "ArgsEscaped": True,
    "MacAddress": "x",
    "NetworkDisabled": True,
    "Unknown": 1,
    "Shell": [],
}
MODERN = image_config(
    [A, B],
    created="2026-01-02T03:04:05.120000+02:00",
    author="é<a@b>",
    comment="c&d",
    variant="v2",
    architecture="arm64",
    config=EMPTY,
)
OLD = image_config(
    [A],
    config={},
    container="abc",
    container_config={"Cmd": ["x"], "Tty": True},
    docker_version="1",
    id="zz",
    parent="sha256:" + "1" * 64,
    throwaway=True,
    size=12,
    Size=7,
)

MODERNS = [
    "056e22ea231a6d1c192b3eddab329aa324ff4f7891b417f8b03b5b88b31ba074",
    "ebd9f561e9c22b8a66c7445e40ddf4f62bef205528381b84bef231f439038206",
]
OLDS = ["a7278b24d294214c9d9cab52f9ea2d570399d42e15807587e3a48d01dd89ed4f"]


@pytest.mark.parametrize(("config", "digests"), [(MODERN, MODERNS), (OLD, OLDS)])
def test_they_are_what_dockerd_writes_to_the_byte(config: bytes, digests: list[str]) -> None:
    assert [sha256(raw)[7:] for raw in descriptions(parse_config(config))] == digests


def test_what_means_something_in_html_is_escaped_and_nothing_else() -> None:
    raw = go_json({"a": "<é>&\u2028\n\x7f", "b": None})
    assert raw == '{"a":"\\u003cé\\u003e\\u0026\\u2028\\n\x7f","b":null}'.encode()
    assert json.loads(raw)["a"] == "<é>&\u2028\n\x7f"
