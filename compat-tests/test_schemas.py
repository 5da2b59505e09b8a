"""The bodies of answers, against the description of the newest API version."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from compat.clients import API
from compat.daemons import Daemon
from compat.schemas import faults

FULL = {
    "Image": "rich",
    "Entrypoint": ["sleep"],
    "Cmd": ["1000"],
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9},
    "HostConfig": {
        "PortBindings": {"80/tcp": [{"HostPort": "0"}]},
        "Binds": ["/tmp:/m", "schemas:/v"],
        "Tmpfs": {"/t": ""},
        "Memory": 64 << 20,
        "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n"}],
        "Annotations": {"a": "b"},
        "Mounts": [
            {"Type": "volume", "Target": "/a", "VolumeOptions": {"NoCopy": True}},
            {"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"SizeBytes": 4096}},
        ],
    },
}
NOT_IN_A_ZONE = ("Devices", "Tmpfs")
OURS = (".Zone: not described",)


@pytest.fixture
def newest(daemon: Daemon, kind: str, platform: object) -> API:
    """Speaks 1.51, with a container of much and one of little."""
    if kind != "zonegate":
        pytest.skip("dockerd 20.10 does not speak 1.51")
    api = API(daemon.socket, "/v1.51")
    body: dict[str, Any] = copy.deepcopy(FULL)
    if platform is not None:
        host = body["HostConfig"]
        body["HostConfig"] = {k: v for k, v in host.items() if k not in NOT_IN_A_ZONE}
        host["Mounts"][1]["Target"] = "/tmp"
    api.ok("POST", "/containers/create?name=full", body)
    api.ok("POST", "/containers/full/start")
    api.ok("POST", "/containers/create?name=plain", {"Image": "bb", "Cmd": ["true"]})
    return api


def check(route: str, answer: Any) -> None:
    assert [row for row in faults(route, answer) if not row.endswith(OURS)] == []


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ("GET /containers/{id}/json", "/containers/full/json?size=1"),
        ("GET /containers/{id}/json", "/containers/plain/json"),
        ("GET /containers/json", "/containers/json?all=1&size=1"),
        ("GET /images/json", "/images/json"),
        ("GET /images/{name}/json", "/images/rich/json"),
        ("GET /images/{name}/history", "/images/rich/history"),
        ("GET /info", "/info"),
        ("GET /version", "/version"),
        ("GET /networks", "/networks"),
        ("GET /networks/{id}", "/networks/bridge"),
        ("GET /volumes", "/volumes"),
        ("GET /volumes/{name}", "/volumes/schemas"),
    ],
)
def test_an_answer_is_as_described(newest: API, route: str, path: str) -> None:
    check(route, newest.ok("GET", path))


def test_answers_to_changes_are_as_described(newest: API) -> None:
    made = newest.ok("POST", "/containers/create", {"Image": "bb", "Cmd": ["true"]})
    check("POST /containers/create", made)
    newest.ok("POST", f"/containers/{made['Id']}/start")
    check("POST /containers/{id}/wait", newest.ok("POST", f"/containers/{made['Id']}/wait"))
    run = newest.ok("POST", "/containers/full/exec", {"Cmd": ["true"], "Tty": True})
    check("POST /containers/{id}/exec", run)
    check("GET /exec/{id}/json", newest.ok("GET", f"/exec/{run['Id']}/json"))
    newest.ok("POST", "/images/bb/tag?repo=schemas&tag=1")
    check("DELETE /images/{name}", newest.ok("DELETE", "/images/schemas:1"))


def test_events_are_as_described(newest: API) -> None:
    lines = newest("GET", "/events?since=1&until=0s").body.splitlines()
    assert lines
    for line in lines:
        event = json.loads(line)
        for legacy in ("status", "id", "from"):  # sent on, though no longer described
            event.pop(legacy, None)
        check("GET /events", event)
