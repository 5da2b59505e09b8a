"""What dockerd 28.5.2 was seen to answer, row by row, beside what 20.10 said when it was recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from compat import rows
from compat.answers import Recording
from compat.clients import API
from compat.daemons import Daemon
from compat.rows import NOT_RUNNING, create, host, mount, row

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
        v28=(
            409,
            'Conflict. The container name "/running" is already in use by container "ID64". '
            "You have to remove (or rename) that container to be able to reuse that name.",
        ),
    ),
    create(
        "a name with a blank",
        {},
        query="?name=a%20b",
        v28=(400, "Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
    ),
    row(
        "remove running",
        "DELETE /containers/running",
        v28=(
            409,
            'cannot remove container "running": container is running: stop the container before removing or force remove',
        ),
    ),
    row(
        "rename to its own name",
        "POST /containers/running/rename?name=running",
        v28=(400, "Renaming a container with the same name as its current name"),
    ),
    row(
        "rename to no name",
        "POST /containers/running/rename?name=",
        v28=(400, "Neither old nor new names may be empty"),
    ),
    row(
        "kill with 0",
        "POST /containers/running/kill?signal=0",
        v28=(400, "cannot kill container: running: invalid signal: 0"),
    ),
    row(
        "kill with SIG42",
        "POST /containers/running/kill?signal=SIG42",
        v28=(400, "cannot kill container: running: invalid signal: SIG42"),
    ),
    row(
        "kill stopped",
        "POST /containers/stopped/kill",
        v28=(409, "cannot kill container: stopped: container ID64 is not running"),
    ),
    row(
        "pause twice",
        "POST /containers/paused/pause",
        v28=(409, "container ID64 is already paused"),
        smartos=NO_FREEZER,
    ),
    row(
        "unpause twice",
        "POST /containers/running/unpause",
        v28=(500, "container ID64 is not paused"),
    ),
    row("pause stopped", "POST /containers/stopped/pause", v28=NOT_RUNNING),
    row("exec stopped", "POST /containers/stopped/exec", {"Cmd": ["true"]}, v28=NOT_RUNNING),
    row("top stopped", "GET /containers/stopped/top", v28=NOT_RUNNING),
    row("resize stopped", "POST /containers/stopped/resize?h=1&w=1", v28=NOT_RUNNING),
    row("top paused", "GET /containers/paused/top"),
    row(
        "logs of no stream",
        "GET /containers/stopped/logs",
        v28=(400, "Bad parameters: you must choose at least one stream"),
    ),
    row("logs with a tail that is no number", "GET /containers/stopped/logs?stdout=1&tail=xx"),
    row(
        "archive of nothing",
        "GET /containers/stopped/archive?path=/dne",
        v28=(404, "Could not find the file /dne in container stopped"),
    ),
    row(
        "archive of a file with a slash",
        "GET /containers/stopped/archive?path=/etc/passwd/",
        v28=(500, "re:.*not a directory"),
    ),
    row(
        "archive onto a file",
        "PUT /containers/stopped/archive?path=/etc/passwd",
        b"\0" * 1024,
        Content_Type="application/x-tar",
        v28=(400, "extraction point is not a directory"),
    ),
    row("archive without path", "GET /containers/stopped/archive", v28=(400, None)),
    row("stats of a stopped one", "GET /containers/stopped/stats?stream=0"),
    row("stats of nobody", "GET /containers/nothere/stats"),
    host("little memory", {"Memory": 1000}, v28=(400, "Minimum memory limit allowed is SIZE")),
    host("shm below zero", {"ShmSize": -1}, v28=(400, "SHM size can not be less than 0")),
    host(
        "an unknown log option",
        {"LogConfig": {"Type": "json-file", "Config": {"rubbish": "1"}}},
        v28=(400, "unknown log opt 'rubbish' for json-file log driver"),
    ),
    host(
        "a volume with a slash",
        {"Binds": ["a/b:/x"]},
        v28=(400, "re:.*includes invalid characters for a local volume name.*"),
    ),
    mount(
        "of a source that is missing",
        {"Type": "bind", "Source": "/nope", "Target": "/x"},
        v28=(
            400,
            'invalid mount config for type "bind": bind source path does not exist: /nope',
        ),
    ),
    row(
        "network of a predefined name",
        "POST /networks/create",
        {"Name": "bridge"},
        v28=(403, "re:operation is not permitted on predefined bridge network.*"),
    ),
    row("network", "POST /networks/create", {"Name": "seen", **POOL}),
    row(
        "network that overlaps",
        "POST /networks/create",
        {"Name": "seen2", **POOL},
        v28=(
            403,
            "invalid pool request: Pool overlaps with other one on this address space",
        ),
    ),
    row(
        "network of a taken name",
        "POST /networks/create",
        {"Name": "seen"},
        v28=(409, "network with name seen already exists"),
    ),
    row("network without name", "POST /networks/create", {"Name": ""}, v28=(400, None)),
    row(
        "delete a predefined network",
        "DELETE /networks/bridge",
        v28=(403, "bridge is a pre-defined network and cannot be removed"),
    ),
    # 20.10 had made a second network of the same name.
    row(
        "connect to a network",
        "POST /networks/seen/connect",
        {"Container": "running2"},
        v28=(200, ""),
    ),
    row(
        "delete a network in use",
        "DELETE /networks/seen",
        v28=(
            403,
            're:error while removing network: network seen .*has active endpoints \\(name:"running2" id:"ID12"\\)',
        ),
    ),
    row(
        "disconnect",
        "POST /networks/seen/disconnect",
        {"Container": "running2", "Force": True},
        v28=(200, ""),
    ),
    row("delete a network", "DELETE /networks/seen", v28=(204, "")),
    row(
        "delete a network that is not there",
        "DELETE /networks/seen",
        v28=(404, "network seen not found"),
    ),
    row("volume that is not there", "GET /volumes/seen", v28=(404, "get seen: no such volume")),
    row(
        "delete a volume that is not there",
        "DELETE /volumes/seen",
        v28=(404, "get seen: no such volume"),
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
        v28=(409, "remove seen: volume is in use - [ID64]"),
    ),
    row("delete its user", "DELETE /containers/user"),
    row("delete a volume", "DELETE /volumes/seen"),
    row(
        "rmi in use",
        "DELETE /images/white",
        v28=(
            409,
            'conflict: unable to remove repository reference "white" (must force) - container ID12 is using its referenced image ID12',
        ),
    ),
    row(
        "tag sha256",
        "POST /images/white/tag?repo=sha256&tag=b",
        v28=(400, "refusing to create an ambiguous tag using digest algorithm as name"),
    ),
    row(
        "tag a digest",
        f"POST /images/white/tag?repo=a@sha256:{'0' * 64}",
        v28=(400, "refusing to create a tag with a digest reference"),
    ),
    row("inspect no image", "GET /images/nope/json", v28=(404, "No such image: nope:latest")),
    row("history of no image", "GET /images/nope/history", v28=(404, "No such image: nope:latest")),
    row("save no image", "GET /images/nope/get", v28=(404, "No such image: nope")),
    row(
        "events that end before they begin",
        "GET /events?since=2000&until=1000",
        v28=(400, "`since` time (2000) cannot be after `until` time (1000)"),
    ),
    row(
        "wait for what nobody knows",
        "POST /containers/stopped/wait?condition=zz",
        v28=(400, 'invalid condition: "zz"'),
    ),
    row("wait for a stopped one", "POST /containers/stopped/wait"),
    row(
        "disk usage of what nobody knows",
        "GET /system/df?type=zz",
        v28=(200, ""),  # at 1.41, where `type` is not read; 1.51: test_system.py
    ),
    row(
        "pull from nowhere",
        "POST /images/create?fromImage=127.0.0.1:1/x&tag=y",
        v28=(500, UNREACHABLE),
    ),
    row(
        "ask nobody for a manifest",
        "GET /distribution/127.0.0.1:1/x:y/json",
        v28=(500, UNREACHABLE),
    ),
    row(
        "log in nowhere",
        "POST /auth",
        {"username": "a", "password": "b", "serveraddress": "127.0.0.1:1"},
        v28=(500, UNREACHABLE),
    ),
    row(
        "pull of a bad platform",
        "POST /images/create?fromImage=bb&tag=x&platform=a/b/c/d",
        v28=(400, None),
    ),
    row("swarm", "GET /swarm", v28=NO_MANAGER),
    row("services", "GET /services", v28=NO_MANAGER),
    row("plugins", "GET /plugins"),
    row(
        "an empty body",
        "POST /containers/create",
        b"",
        Content_Type="application/json",
        v28=(400, "invalid JSON: got EOF while reading request body"),
    ),
    row(
        "too old a version",
        "GET =/v1.10/info",
        v28=(
            400,
            "client version 1.10 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
        ),
    ),
    row(
        "too new a version",
        "GET =/v1.99/info",
        v28=(400, "client version 1.99 is too new. Maximum supported API version is 1.51"),
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
