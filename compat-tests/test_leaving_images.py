"""Images that go while containers stand on them: their layers go with the last of these, not at the next start."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

import pytest
from compat.clients import API, CLI
from compat.daemons import Daemon
from compat.fakeregistry import RegistryThread
from compat.images import busybox_layer

from tests.fakes.registry import layer_tar


@pytest.fixture
def name(kind: str, cli: CLI) -> Iterator[str]:
    """An image with a layer that no other image has, pulled."""
    with RegistryThread() as registry:
        layer = layer_tar({"only": secrets.token_bytes(100)})
        registry.add_image("x", "latest", [busybox_layer(), layer])
        cli.ok(f"pull -q {registry.host}/x")
        yield f"{registry.host}/x"


def layers(daemon: Daemon) -> frozenset[str]:
    """Datasets of image layers, by name."""
    if daemon.platform is not None:
        return daemon.platform.things()["datasets"]
    return frozenset(path.name for path in daemon.data_root.glob("*/datasets/*"))


def wait_for(daemon: Daemon, api: API, expected: frozenset[str]) -> None:
    """The removal goes on after the answer; each request gives it a turn."""
    end = time.monotonic() + 20
    while (found := layers(daemon)) != expected:
        assert time.monotonic() < end, found ^ expected
        assert api("GET", "=/_ping").status == 200


def test_layers_of_a_forced_removal_go_with_the_container(
    cli: CLI, api: API, daemon: Daemon, kind: str, name: str
) -> None:
    if kind != "zonegate":
        pytest.skip("looks into the data root")
    cli.ok(f"rmi -f {name}")
    without = layers(daemon)
    cli.ok(f"pull -q {name}")
    container = cli.ok(f"create {name} sleep 1000")
    cli.ok(f"rmi -f {name}")
    assert without < layers(daemon), "the container stands on them"
    cli.ok(f"rm -f {container}")
    wait_for(daemon, api, without)
    assert api("GET", f"/images/{name}/json").status == 404


def test_layers_of_a_container_that_has_just_gone_go_with_the_image(
    cli: CLI, api: API, daemon: Daemon, kind: str, name: str
) -> None:
    if kind != "zonegate":
        pytest.skip("looks into the data root")
    cli.ok(f"rmi {name}")
    without = layers(daemon)
    for _ in range(3):
        cli.ok(f"pull -q {name}")
        cli.ok(f"run --rm {name} true")
        cli.ok(f"rmi {name}")
        wait_for(daemon, api, without)
