"""What is easily answered otherwise than dockerd answers it, row by row: requests that were found so."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from compat import rows
from compat.answers import Recording
from compat.clients import API
from compat.daemons import Daemon
from compat.rows import create, host, mount, row

NO_FREEZER = (501, "pause is not supported on SmartOS: vmadm cannot freeze a zone")
NO_MANAGER = (
    503,
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
    "this node to swarm and try again.",
)
UNREACHABLE = r"re:.*dial tcp 127\.0\.0\.1:1: connect: connection refused"
POOL = {"IPAM": {"Config": [{"Subnet": "10.99.7.0/24"}]}}
ROWS = [
    row("start created", "POST /containers/created2/start"),
    row("start again", "POST /containers/created2/start"),
    row("stop running", "POST /containers/created2/stop?t=0"),
    row("stop again", "POST /containers/created2/stop"),
    create(
        "a taken name",
        {},
        query="?name=running",
    ),
    create(
        "a name with a blank",
        {},
        query="?name=a%20b",
    ),
    row(
        "remove running",
        "DELETE /containers/running",
    ),
    row(
        "rename to its own name",
        "POST /containers/running/rename?name=running",
    ),
    row(
        "rename to no name",
        "POST /containers/running/rename?name=",
    ),
    row(
        "kill with 0",
        "POST /containers/running/kill?signal=0",
    ),
    row(
        "kill with SIG42",
        "POST /containers/running/kill?signal=SIG42",
    ),
    row(
        "kill stopped",
        "POST /containers/stopped/kill",
    ),
    row(
        "pause twice",
        "POST /containers/paused/pause",
        smartos=NO_FREEZER,
    ),
    row(
        "unpause twice",
        "POST /containers/running/unpause",
    ),
    row(
        "pause stopped",
        "POST /containers/stopped/pause",
    ),
    row(
        "exec stopped",
        "POST /containers/stopped/exec",
        {"Cmd": ["true"]},
    ),
    row(
        "top stopped",
        "GET /containers/stopped/top",
    ),
    row(
        "resize stopped",
        "POST /containers/stopped/resize?h=1&w=1",
    ),
    row("top paused", "GET /containers/paused/top"),
    row(
        "logs of no stream",
        "GET /containers/stopped/logs",
    ),
    row("logs with a tail that is no number", "GET /containers/stopped/logs?stdout=1&tail=xx"),
    row(
        "archive of nothing",
        "GET /containers/stopped/archive?path=/dne",
    ),
    row(
        "archive of a file with a slash",
        "GET /containers/stopped/archive?path=/etc/passwd/",
    ),
    row(
        "archive onto a file",
        "PUT /containers/stopped/archive?path=/etc/passwd",
        b"\0" * 1024,
        Content_Type="application/x-tar",
    ),
    row(
        "archive without path",
        "GET /containers/stopped/archive",
    ),
    row("stats of a stopped one", "GET /containers/stopped/stats?stream=0"),
    row("stats of nobody", "GET /containers/nothere/stats"),
    host(
        "little memory",
        {"Memory": 1000},
    ),
    host(
        "shm below zero",
        {"ShmSize": -1},
    ),
    host(
        "an unknown log option",
        {"LogConfig": {"Type": "json-file", "Config": {"rubbish": "1"}}},
    ),
    host(
        "a volume with a slash",
        {"Binds": ["a/b:/x"]},
    ),
    mount(
        "of a source that is missing",
        {"Type": "bind", "Source": "/nope", "Target": "/x"},
    ),
    row(
        "network of a predefined name",
        "POST /networks/create",
        {"Name": "bridge"},
    ),
    row("network", "POST /networks/create", {"Name": "seen", **POOL}),
    row(
        "network that overlaps",
        "POST /networks/create",
        {"Name": "seen2", **POOL},
    ),
    row(
        "network of a taken name",
        "POST /networks/create",
        {"Name": "seen"},
    ),
    row(
        "network without name",
        "POST /networks/create",
        {"Name": ""},
    ),
    row(
        "delete a predefined network",
        "DELETE /networks/bridge",
    ),
    row(
        "connect to a network",
        "POST /networks/seen/connect",
        {"Container": "running2"},
    ),
    row(
        "delete a network in use",
        "DELETE /networks/seen",
    ),
    row(
        "disconnect",
        "POST /networks/seen/disconnect",
        {"Container": "running2", "Force": True},
    ),
    row(
        "delete a network",
        "DELETE /networks/seen",
    ),
    row(
        "delete a network that is not there",
        "DELETE /networks/seen",
    ),
    row(
        "volume that is not there",
        "GET /volumes/seen",
    ),
    row(
        "delete a volume that is not there",
        "DELETE /volumes/seen",
    ),
    row("delete a volume that is not there, by force", "DELETE /volumes/seen?force=1"),
    row("volume", "POST /volumes/create", {"Name": "seen", "Labels": {"a": "1"}}),
    row(
        "volume again, with another label",
        "POST /volumes/create",
        {"Name": "seen", "Labels": {"a": "2"}},
    ),
    host("a volume for use", {"Binds": ["seen:/x"]}, query="?name=user"),
    row(
        "delete a volume in use",
        "DELETE /volumes/seen",
    ),
    row("delete its user", "DELETE /containers/user"),
    row("delete a volume", "DELETE /volumes/seen"),
    row(
        "rmi in use",
        "DELETE /images/white",
    ),
    row(
        "tag sha256",
        "POST /images/white/tag?repo=sha256&tag=b",
    ),
    row(
        "tag a digest",
        f"POST /images/white/tag?repo=a@sha256:{'0' * 64}",
    ),
    row(
        "inspect no image",
        "GET /images/nope/json",
    ),
    row(
        "history of no image",
        "GET /images/nope/history",
    ),
    row(
        "save no image",
        "GET /images/nope/get",
    ),
    row(
        "events that end before they begin",
        "GET /events?since=2000&until=1000",
    ),
    row(
        "wait for what nobody knows",
        "POST /containers/stopped/wait?condition=zz",
    ),
    row("wait for a stopped one", "POST /containers/stopped/wait"),
    row(
        "disk usage of what nobody knows",
        "GET /system/df?type=zz",
    ),
    row(
        "pull from nowhere",
        "POST /images/create?fromImage=127.0.0.1:1/x&tag=y",
    ),
    row(
        "ask nobody for a manifest",
        "GET /distribution/127.0.0.1:1/x:y/json",
    ),
    row(
        "log in nowhere",
        "POST /auth",
        {"username": "a", "password": "b", "serveraddress": "127.0.0.1:1"},
    ),
    row(
        "pull of a bad platform",
        "POST /images/create?fromImage=bb&tag=x&platform=a/b/c/d",
    ),
    row(
        "swarm",
        "GET /swarm",
    ),
    row(
        "services",
        "GET /services",
    ),
    row("plugins", "GET /plugins"),
    row(
        "an empty body",
        "POST /containers/create",
        b"",
        Content_Type="application/json",
    ),
    row(
        "too old a version",
        "GET =/v1.10/info",
    ),
    row(
        "too new a version",
        "GET =/v1.99/info",
    ),
]


@pytest.fixture(scope="module")
def states(daemon: Daemon, registry: str, platform: object) -> Iterator[dict[str, str]]:
    api = API(daemon.socket)
    # An image that no other test gives a second name: the conflict is about its only one.
    body = {"Image": "white", "Labels": {"keep": ""}, "Cmd": ["sleep", "100000"]}
    with rows.states(api, on_smartos=platform is not None) as found:
        for name in ("created2", "running2"):
            found[name] = api.ok("POST", f"/containers/create?name={name}", body)["Id"]
        api.ok("POST", "/containers/running2/start")
        try:
            yield found
        finally:
            for name in ("created2", "running2"):
                api("DELETE", f"/containers/{found[name]}?force=1&v=1")


def test_the_requests_are_answered_as_seen(
    recording: Recording, api: API, states: dict[str, str], names: dict[str, str]
) -> None:
    """One after the other: each finds what the ones before have made."""
    wrong = []
    for case in ROWS:
        try:
            rows.check(case, recording, api, states, names)
        except AssertionError as error:
            wrong.append(f"{case.name}: {error}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_stats_of_a_stopped_container_are_of_no_time(api: API, states: dict[str, str]) -> None:
    answer = api.ok("GET", "/containers/stopped/stats?stream=0")
    assert answer["read"] == answer["preread"] == "0001-01-01T00:00:00Z"


def test_a_volume_made_twice_is_the_first(api: API) -> None:
    first = api.ok("POST", "/volumes/create", {"Name": "twice", "Labels": {"a": "1"}})
    again = api.ok("POST", "/volumes/create", {"Name": "twice", "Labels": {"a": "2"}})
    api.ok("DELETE", "/volumes/twice")
    assert first == again


def test_too_old_a_version_is_told_in_plain_text(api: API) -> None:
    assert api("GET", "=/v1.10/info").headers["Content-Type"].startswith("text/plain")
    told = api("GET", "=/v1.99/info")
    assert told.headers["Content-Type"] == "application/json"
    assert json.loads(told.body)["message"]


def test_no_name_stands_twice() -> None:
    names = [case.name for case in ROWS]
    assert len(set(names)) == len(names)
