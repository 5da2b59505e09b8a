"""Transfers that are tried again, and SIGHUP, which says anew how often, and where from: what clients are told, and what is told of it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.clients import API
from compat.daemons import Daemon, own_bridge
from compat.fakeregistry import RegistryThread

from tests.fakes.registry import FakeRegistry, Fault, layer_tar

NAME = f"zr{os.getpid() % 1000000}"


@pytest.fixture
def alone(kind: str, workdir: Path) -> Iterator[Daemon]:
    """A gateway whose settings lie in a file."""
    if kind != "zonegate":
        pytest.skip("about zonegate's own start")
    folder = workdir / "r"
    folder.mkdir()
    daemon = Daemon("zonegate", folder / "d", NAME, "", own_bridge("zonegate", 3))
    daemon.extra += ("--config", str(folder / "config.toml"))
    write(daemon, "max_download_attempts = 3\n")
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
        daemon.discard()
        shutil.rmtree(folder)


@pytest.fixture
def broken(kind: str) -> Iterator[FakeRegistry]:
    """A registry with an image whose layers nobody gets."""
    with RegistryThread() as registry:
        image = registry.add_image("x", "latest", [layer_tar({"a": secrets.token_bytes(1000)})])
        registry.faults.append(Fault(image.layer_digests[0], break_after=10, times=999))
        yield registry


def write(daemon: Daemon, text: str) -> None:
    Path(daemon.extra[-1]).write_text(text)


def reload(daemon: Daemon, text: str) -> dict[str, str]:
    """What the event tells of the new settings; {} if there was none."""
    api = API(daemon.socket)
    write(daemon, text)
    events = api.stream("GET", '/events?filters={"type":["daemon"]}')
    os.kill(daemon.pid, signal.SIGHUP)
    try:
        found: dict[str, str] = json.loads(events.readline())["Actor"]["Attributes"]
        return found
    finally:
        api.close()


def first_words(daemon: Daemon, registry: FakeRegistry) -> str:
    """What a pull tells first of the layer that it does not get; the client goes then."""
    api = API(daemon.socket)
    lines = api.stream("POST", f"/images/create?fromImage={registry.host}/x&tag=latest")
    try:
        while line := lines.readline():
            told = json.loads(line)
            text = str(told.get("error") or told["status"])
            if "error" in told or text.startswith("Retrying"):
                return text
        return ""
    finally:
        api.close()


def test_a_hangup_takes_the_attempts_from_the_settings_anew(
    alone: Daemon, broken: FakeRegistry
) -> None:
    assert first_words(alone, broken) == "Retrying in 5 seconds"
    told = reload(
        alone,
        "max_download_attempts = 1\nmax_concurrent_downloads = 7\nmax_concurrent_uploads = 2\n",
    )
    assert told["max-download-attempts"] == "1"
    assert told["max-concurrent-downloads"] == "7"
    assert told["max-concurrent-uploads"] == "2"
    assert first_words(alone, broken) == "unexpected EOF"


def test_a_hangup_takes_mirrors_insecure_registries_and_labels_anew(alone: Daemon) -> None:
    text = 'registry_mirrors = ["http://{}"]\ninsecure_registries = ["r.example:5000"]\nlabels = ["a=b"]\n'
    api = API(alone.socket)
    with RegistryThread() as first, RegistryThread() as second:
        for registry in (first, second):
            registry.add_image("library/x", "latest", [layer_tar({"host": registry.host.encode()})])
            told = reload(alone, text.format(registry.host))
            assert told["registry-mirrors"] == f'["http://{registry.host}"]'
            assert told["insecure-registries"] == '["r.example:5000"]'
            assert told["labels"] == '["a=b"]'
            info = api.ok("GET", "/info")
            assert info["RegistryConfig"]["Mirrors"] == [f"http://{registry.host}/"]
            assert not info["RegistryConfig"]["IndexConfigs"]["r.example:5000"]["Secure"]
            assert info["Labels"] == ["a=b"]
            asked = len(registry.log)
            lines = api("POST", "/images/create?fromImage=x&tag=latest").body.decode()
            assert "Downloaded newer image for x:latest" in lines
            assert len(registry.log) > asked
    told = reload(alone, "")
    assert (told["registry-mirrors"], told["insecure-registries"]) == ("[]", "[]")
    assert api.ok("GET", "/info")["RegistryConfig"]["Mirrors"] is None


def test_settings_that_are_wrong_change_nothing(alone: Daemon, broken: FakeRegistry) -> None:
    write(alone, "max_download_attempts = 0\n")
    os.kill(alone.pid, signal.SIGHUP)
    words = "not reloaded: invalid settings: max_download_attempts: Input should be greater than"
    api, end = API(alone.socket), time.monotonic() + 20
    while words not in alone.tail():
        assert api("GET", "=/_ping").status == 200, "a signal is seen between requests"
        assert time.monotonic() < end, alone.tail()
    assert reload(alone, "max_download_attempts = 2\n")["max-download-attempts"] == "2"
    assert first_words(alone, broken) == "Retrying in 5 seconds"
