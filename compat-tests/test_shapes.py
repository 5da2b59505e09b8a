"""The bodies of answers: every key that dockerd sends is there, in its type."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from compat.answers import Recording, missing, shape
from compat.clients import API

GONE = {
    ".NetworkSettings.SandboxKey": "null where nothing runs",
    ".Containerd": "there is none",
}
NOT_ON_SMARTOS = {
    ".CgroupVersion": "there are no cgroups",
    ".KernelMemoryTCP": "there are no cgroups",
    ".FirewallBackend": "fwadm is none of the two",
}
OPEN = (
    ".GraphDriver.Data",
    ".DriverStatus",
    ".Plugins",
    ".Runtimes",
    ".RegistryConfig.IndexConfigs",
    ".Components",
    ".Warnings",
    ".Status",
    ".Options",
    ".Labels",
    ".Containers.",
)
"""What is below these is the server's own."""

CREATE = {
    "Image": "rich",
    "Cmd": ["1000"],
    "Labels": {"shape": "1"},
    "HostConfig": {
        "PortBindings": {"80/tcp": [{"HostPort": "0", "HostIp": "127.0.0.1"}]},
        "Binds": ["/tmp:/m"],
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1},
        "Memory": 64 << 20,
    },
    "Entrypoint": ["sleep"],
}
LABELLED = quote(json.dumps({"label": ["shape=1"]}))
CASES = {
    "ping headers": ("HEADERS", "=/_ping"),
    "version": ("GET", "/version"),
    "info": ("GET", "/info"),
    "container running": ("GET", "/containers/shape/json"),
    "container created": ("GET", "/containers/shape2/json"),
    "container with sizes": ("GET", "/containers/shape/json?size=1"),
    "containers": ("GET", f"/containers/json?all=1&filters={LABELLED}"),
    "containers with sizes": ("GET", f"/containers/json?all=1&size=1&filters={LABELLED}"),
    "exec": ("GET", "/exec/{exec}/json"),
    "image": ("GET", "/images/rich/json"),
    "images": ("GET", "/images/json?filters=" + quote(json.dumps({"reference": ["rich"]}))),
    "history": ("GET", "/images/rich/history"),
    "networks": ("GET", "/networks"),
    "network": ("GET", "/networks/bridge"),
    "volumes": ("GET", "/volumes?filters=" + quote(json.dumps({"name": ["nothere"]}))),
    "an error": ("GET", "/containers/nothere/json"),
    "a create": ("POST", "/containers/create?name=shape3"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_key_of_dockerd_is_there(case: str, api: API, recording: Recording) -> None:
    api.ok("POST", "/containers/create?name=shape", CREATE)
    api.ok("POST", "/containers/shape/start")
    api.ok("POST", "/containers/create?name=shape2", CREATE)
    made = api.ok("POST", "/containers/shape/exec", {"Cmd": ["true"]})["Id"]
    method, path = CASES[case]
    if method == "HEADERS":
        answer = api("GET", path)
        have = {
            key: "str"
            for key in answer.headers
            if key not in ("Date", "Content-Length", "Connection")
        }
    else:
        body = CREATE | {"Labels": {}} if method == "POST" else None
        have = shape(_ordered(api(method, path.replace("{exec}", made), body).json()))
    if recording.taking:
        recording.put(case, have)
        return
    gone = GONE | NOT_ON_SMARTOS if recording.on_smartos else GONE
    rows = [
        row
        for row in missing(recording.get(case), have)
        if not any(row.startswith(f"{key}:") for key in gone)
        and not any(part in row for part in OPEN)
    ]
    assert not rows


def _ordered(answer: Any) -> Any:
    """Mounts by their place: dockerd's order is another each time, and the first is looked at."""
    for row in answer if isinstance(answer, list) else [answer]:
        if isinstance(row.get("Mounts"), list):
            row["Mounts"].sort(key=lambda mount: mount["Destination"])
    return answer
