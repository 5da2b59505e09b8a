"""The bodies of answers, against the description of the newest API version.

What every test's traffic must be, conftest.py looks at (`_as_described`).  Here is an answer of each route that needs no
registry, and dockerd's own: what the description does not have of it is what compat/exceptions.py may list.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from compat.answers import Recording, normal
from compat.clients import API
from compat.daemons import Daemon
from compat.exceptions import KNOWN, LEGACY, OURS
from compat.schemas import description, faults
from compat.traffic import Copy, route_of

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
        "Devices": [
            {"PathOnHost": "/dev/null", "PathInContainer": "/dev/n", "CgroupPermissions": "rwm"}
        ],
        "Annotations": {"a": "b"},
        "Mounts": [
            {"Type": "volume", "Target": "/a", "VolumeOptions": {"NoCopy": True}},
            {"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"SizeBytes": 4096}},
        ],
    },
}
NOT_IN_A_ZONE = ("Devices", "Tmpfs")
CASES = {
    "a container with much": "GET /containers/full/json?size=1",
    "a privileged container": "GET /containers/private/json",
    "a container with little": "GET /containers/plain/json",
    "the containers": "GET /containers/json?all=1&size=1",
    "processes": "GET /containers/full/top",
    "usage": "GET /containers/full/stats?stream=0&one-shot=1",
    "usage of what does not run": "GET /containers/plain/stats?stream=0",
    "changes": "GET /containers/full/changes",
    "no changes": "GET /containers/plain/changes",
    "an exec": "GET /exec/{exec}/json",
    "an exec that has run": "GET /exec/{ran}/json",
    "the images": "GET /images/json",
    "the images, digests too": "GET /images/json?digests=1",
    "an image": "GET /images/rich/json",
    "an image without a command": "GET /images/nocmd/json",
    "a small image": "GET /images/bb/json",
    "the history of an image": "GET /images/rich/history",
    "the machine": "GET /info",
    "the version": "GET /version",
    "the networks": "GET /networks",
    "a network": "GET /networks/bridge",
    "the volumes": "GET /volumes",
    "a volume": "GET /volumes/schemas",
    "a new volume": "POST /volumes/create",
    "disk usage": "GET /system/df",
    "the plugins": "GET /plugins",
    "a refusal": "GET /containers/nothere/json",
    "an update": "POST /containers/full/update",
    "a prune of containers": "POST /containers/prune?filters=%7B%22label%22%3A%5B%22nothere%22%5D%7D",
    "a prune of images": "POST /images/prune?filters=%7B%22label%22%3A%5B%22nothere%22%5D%7D",
    "a prune of volumes": "POST /volumes/prune?filters=%7B%22label%22%3A%5B%22nothere%22%5D%7D",
    "a prune of networks": "POST /networks/prune?filters=%7B%22label%22%3A%5B%22nothere%22%5D%7D",
    "a prune of what builds left": "POST /build/prune?filters=%7B%22id%22%3A%5B%22nothere%22%5D%7D",
    "an untagged image": "DELETE /images/schemas:1",
    "events": "GET /events?since=1&until={now}",
    "a wait": "POST /containers/full/wait?condition=removed",
}
BODIES = {
    "an update": {"Memory": 80 << 20, "MemorySwap": 160 << 20},
    "a new volume": {"Name": "schemas2"},
}
NOT_IN_ALL = (
    "processes",
    "changes",
    "no changes",
    "a privileged container",
    "usage",
    "usage of what does not run",
)
OTHER_KEYS = ("the images, digests too", "events")
"""Cases that show what other tests have left, too."""
LEFT_OUT = re.compile(
    r"\.(Zone|GraphDriver\.Data|Runtimes|IndexConfigs|Containerd|memory_stats\.stats|Components|Labels|Options|DriverStatus)\b"
)
"""What is the server's own, and keys that are names."""
MORE = {"usage": {".id", ".name"}}
"""Of one reading dockerd leaves these out."""
STATUS = {"a new volume": 201}
VERSIONS = ("/v1.24", "/v1.40", "/v1.43", "/v1.47", "/v1.49")


@pytest.fixture
def things(api: API, platform: object) -> Iterator[dict[str, str]]:
    """A container of much that runs, one of little that does not; ids of two execs."""
    body: dict[str, Any] = copy.deepcopy(FULL)
    if platform is not None:
        host = body["HostConfig"]
        body["HostConfig"] = {k: v for k, v in host.items() if k not in NOT_IN_A_ZONE}
        host["Mounts"][1]["Target"] = "/tmp"
    api.ok("POST", "/containers/create?name=full", body)
    api.ok("POST", "/containers/full/start")
    api.ok("POST", "/containers/create?name=plain", {"Image": "bb", "Cmd": ["true"]})
    api.ok("POST", "/images/bb/tag?repo=schemas&tag=1")
    made = [api.ok("POST", "/containers/full/exec", {"Cmd": ["true"]})["Id"] for _ in range(2)]
    api.ok("POST", f"/exec/{made[1]}/start", {"Detach": True})
    if platform is None:
        private = {"Image": "bb", "HostConfig": {"Privileged": True}}
        api.ok("POST", "/containers/create?name=private", private)
    yield {"exec": made[0], "ran": made[1], "now": str(int(time.time()) + 1)}
    api("DELETE", "/images/schemas:1")
    api("DELETE", "/containers/full?force=1&v=1")
    for volume in ("schemas", "schemas2"):
        api("DELETE", f"/volumes/{volume}")


def ask(api: API, case: str, things: dict[str, str]) -> Any:
    """The answer's values: one, or those of a stream."""
    method, path = CASES[case].split(" ", 1)
    if case == "a wait":
        answer = api.stream(method, path)
        api("DELETE", "/containers/full?force=1")
        return [json.loads(answer.read())]
    found = api(method, path.format(**things), BODIES.get(case))
    return [json.loads(line) for line in found.body.splitlines()]


def test_an_answer_of_each_route_is_as_described(
    api: API,
    things: dict[str, str],
    recording: Recording,
    names: dict[str, str],
    platform: object,
) -> None:
    """On zonegate `_as_described` looks at them, and they have dockerd's keys, no more and no less; of dockerd they are kept."""
    for case, request in CASES.items():
        if platform is not None and case == "a privileged container":
            continue  # no zone is privileged
        values = ask(api, case, things)
        assert values, case
        if recording.taking:
            method, target = request.split(" ", 1)
            route = str(route_of(method, target.partition("?")[0]))
            status = STATUS.get(case, 200)
            lines = sorted({line for value in values for line in faults(route, value, status)})
            recording.put(
                case, {"route": route, "faults": lines, "answer": like(values[:9], names)}
            )
        elif platform is None and not recording.exact and case not in OTHER_KEYS:
            theirs, ours = paths(recording.get(case)["answer"]), paths(values)
            assert {path for path in theirs ^ ours if not LEFT_OUT.search(path)} == MORE.get(
                case, set()
            ), case


def paths(value: Any, where: str = "") -> set[str]:
    """Every key of an answer with those around it; elements of lists are one."""
    if isinstance(value, dict):
        names = {key: "ID" if len(key) == 64 else key for key in value}
        inner = [paths(v, f"{where}.{names[key]}") for key, v in value.items()]
        return {where}.union(*inner)
    if isinstance(value, list):
        return {where}.union(*(paths(v, where) for v in value))
    return {where}


def like(value: Any, names: dict[str, str]) -> Any:
    """With words for what differs from run to run."""
    if isinstance(value, dict):
        return {key: like(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [like(inner, names) for inner in value]
    return normal(value, names) if isinstance(value, str) else value


@pytest.mark.parametrize("version", VERSIONS)
def test_an_answer_of_an_older_version_has_nothing_of_a_newer_one(
    version: str, daemon: Daemon, things: dict[str, str]
) -> None:
    asked = API(daemon.socket, version)
    for case, request in CASES.items():
        if request.startswith("GET /") and case not in NOT_IN_ALL:
            assert ask(asked, case, things)


def test_what_is_excused_is_dockerds_own(recording: Recording) -> None:
    """Each line of the list is one of an answer that dockerd gave."""
    for row in KNOWN:
        recorded = recording.get(row.shown) if row.shown else {"route": "", "faults": []}
        shown = any(row.fits(recorded["route"], line) for line in recorded["faults"])
        assert shown or row.why, row


def test_the_exceptions_name_routes_of_the_description() -> None:
    for row in (*KNOWN, *LEGACY, *OURS):
        assert any(re.fullmatch(row.route, route) for route in description()["routes"]), row


SIGNED = {"Api-Version": "1.51", "Docker-Experimental": "false", "Ostype": "linux", "Server": "x"}


@pytest.mark.parametrize(
    ("target", "status", "kind", "body", "fault"),
    [
        ("/v1.51/info", 200, "application/json", '{"NCPU":"1"}', ".NCPU: '1' is no integer"),
        ("/info", 200, "application/json", '{"Rubbish":1}', ".Rubbish: not described"),
        ("/v1.51/info", 200, "application/json", '{"ID":null}', ".ID: null"),
        ("/v1.51/info", 404, "text/plain", "no", "an error as text/plain"),
        ("/v1.51/info", 404, "application/json", '{"error":"no"}', ".message: missing"),
        ("/v1.51/images/a/b/json", 200, "application/json", '{"Size":true}', ".Size: True is no integer"),
        ("/v1.51/exec/a/json", 201, "application/json", "{}", "status 201 is not described"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_told(target: str, status: int, kind: str, body: str, fault: str) -> None:
    copied = Copy("GET", target, status, SIGNED | {"Content-Type": kind}, body)
    assert any(line.endswith(fault) for line in copied.faults()), copied.faults()


def test_an_answer_that_is_not_signed_is_told() -> None:
    copied = Copy("GET", "/info", 200, {"Content-Type": "application/json"}, "{}")
    assert any("no Api-Version" in line for line in copied.faults())
