"""Requests that must be refused, or are at the edge, row by row: all but creates."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compat import rows
from compat.answers import Recording
from compat.clients import API
from compat.daemons import Daemon
from compat.rows import BAD_JSON, NOT_RUNNING, ZERO, Row, row

ENTRY = [
    row("ping", "GET =/_ping"),
    row("ping below a version", "GET /_ping"),
    row("an unknown path", "GET /nothere"),
    row("an unknown path without version", "GET =/nothere"),
    row("the wrong method", "GET /containers/create"),
    row("the wrong method for a list", "PUT /containers/json"),
    row("a list with a slash at its end", "GET /containers/json/"),
    row("the root", "GET =/"),
    row(
        "a version that is too new",
        "GET =/v1.99/info",
        v28=(400, "client version 1.99 is too new. Maximum supported API version is 1.51"),
    ),
    row(
        "a version that is too old",
        "GET =/v1.10/info",
        v28=(
            400,
            "client version 1.10 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
        ),
    ),
    row("a version that is a word", "GET =/vabc/info"),
    row("options", "OPTIONS /containers/json"),
    row("options of an unknown path", "OPTIONS /nothere"),
    row("plugins", "GET /plugins"),
    row("swarm", "GET /swarm"),
    row("services", "GET /services"),
    row("nodes", "GET /nodes"),
    row("tasks", "GET /tasks"),
    row("secrets", "GET /secrets"),
    row("configs", "GET /configs"),
    row("swarm leave", "POST /swarm/leave"),
]
BODIES = [
    row(
        "create without a content type",
        "POST /containers/create",
        b'{"Image":"bb"}',
        v28=(400, "re:(?i)(unsupported|malformed) Content-Type header \\(\\)?.*"),
    ),
    row(
        "create with text",
        "POST /containers/create",
        b'{"Image":"bb"}',
        Content_Type="text/plain",
        v28=(400, "unsupported Content-Type header (text/plain): must be 'application/json'"),
    ),
    row(
        "create with charset",
        "POST /containers/create?name=charset",
        b'{"Image":"bb"}',
        Content_Type="application/json; charset=utf-8",
    ),
    row(
        "create with broken JSON",
        "POST /containers/create",
        b"{invalid",
        Content_Type="application/json",
        v28=(400, "invalid JSON: invalid character 'i' looking for beginning of object key string"),
    ),
    row(
        "create with text after JSON",
        "POST /containers/create",
        b'{"Image":"bb"}{"a":1}',
        Content_Type="application/json",
        v28=(400, "unexpected content after JSON"),
    ),
    row(
        "create with nothing",
        "POST /containers/create",
        b"",
        Content_Type="application/json",
        v28=(400, "invalid JSON: got EOF while reading request body"),
    ),
    row(
        "create with a list",
        "POST /containers/create",
        b"[]",
        Content_Type="application/json",
        v28=(400, BAD_JSON),
    ),
    row("create with a wrong type", "POST /containers/create", {"Image": 7}, v28=(400, BAD_JSON)),
    row(
        "create with an empty object",
        "POST /containers/create",
        {},
        v28=(
            400,
            "re:(?i)config cannot be empty in order to create a container|no command specified",
        ),
    ),
    row(
        "exec with broken JSON",
        "POST /containers/running/exec",
        b"{invalid",
        Content_Type="application/json",
        v28=(400, BAD_JSON),
    ),
    row(
        "exec with text",
        "POST /containers/running/exec",
        b"{}",
        Content_Type="text/plain",
        v28=(400, "unsupported Content-Type header (text/plain): must be 'application/json'"),
    ),
    row(
        "exec start with broken JSON",
        "POST /exec/{exec}/start",
        b"{invalid",
        Content_Type="application/json",
        v28=(400, BAD_JSON),
    ),
]
LIFE = [
    row("start unknown", "POST /containers/nothere/start"),
    row("start running", "POST /containers/running/start"),
    row(
        "start paused",
        "POST /containers/paused/start",
        smartos=(304, ""),
        v28=(409, "cannot start a paused container, try unpause instead"),
    ),
    row("stop unknown", "POST /containers/nothere/stop"),
    row("stop stopped", "POST /containers/stopped/stop"),
    row("stop created", "POST /containers/created/stop"),
    row("stop with a bad time", "POST /containers/running/stop?t=xx", v28=(400, None)),
    row("restart unknown", "POST /containers/nothere/restart"),
    row("restart with a bad time", "POST /containers/running/restart?t=xx", v28=(400, None)),
    row(
        "kill unknown",
        "POST /containers/nothere/kill",
        v28=(404, "re:([Cc]annot kill container: nothere: )?No such container: nothere"),
    ),
    row(
        "kill stopped",
        "POST /containers/stopped/kill",
        v28=(409, "re:(cannot kill container: stopped: )?container ID64 is not running"),
    ),
    row(
        "kill with 0", "POST /containers/running/kill?signal=0", v28=(400, "re:.*invalid signal: 0")
    ),
    row(
        "kill with SIG42",
        "POST /containers/running/kill?signal=SIG42",
        v28=(400, "re:.*invalid signal: SIG42"),
    ),
    row(
        "kill with 99",
        "POST /containers/running/kill?signal=99",
        v28=(
            400,
            "cannot kill container: running: the linux daemon does not support signal 99",
        ),
    ),
    row(
        "kill with a word",
        "POST /containers/running/kill?signal=rubbish",
        v28=(400, "re:.*invalid signal: rubbish"),
    ),
    row(
        "pause paused",
        "POST /containers/paused/pause",
        smartos=(501, "pause is not supported on SmartOS: vmadm cannot freeze a zone"),
        v28=(409, "re:container (ID64|paused) is already paused"),
    ),
    row(
        "pause stopped",
        "POST /containers/stopped/pause",
        v28=(409, "re:container (ID64|stopped) is not running"),
    ),
    row(
        "unpause running",
        "POST /containers/running/unpause",
        v28=(500, "re:container (ID64|running) is not paused"),
    ),
    row("pause unknown", "POST /containers/nothere/pause"),
    row("unpause unknown", "POST /containers/nothere/unpause"),
    row("wait unknown", "POST /containers/nothere/wait"),
    row("wait stopped", "POST /containers/stopped/wait"),
    row(
        "wait for a rubbish condition",
        "POST /containers/stopped/wait?condition=zz",
        v28=(400, 'invalid condition: "zz"'),
    ),
    row("rename unknown", "POST /containers/nothere/rename?name=other"),
    row(
        "rename to nothing",
        "POST /containers/running/rename?name=",
        v28=(400, "Neither old nor new names may be empty"),
    ),
    row(
        "rename to itself",
        "POST /containers/running/rename?name=running",
        v28=(400, "Renaming a container with the same name as its current name"),
    ),
    row("rename to a taken name", "POST /containers/running/rename?name=stopped"),
    row("rename to a bad name", "POST /containers/running/rename?name=a%20b", v28=(400, None)),
    row("remove unknown", "DELETE /containers/nothere"),
    row(
        "remove running",
        "DELETE /containers/running",
        v28=(
            409,
            're:cannot remove container "/?running": container is running: stop the container before removing or force remove',
        ),
    ),
    row(
        "remove paused",
        "DELETE /containers/paused",
        smartos=(409, 're:cannot remove container "/?paused": container is running: .*'),
        v28=(409, 're:cannot remove container "/?paused": container is paused.*'),
    ),
    row("inspect unknown", "GET /containers/nothere/json"),
    row("inspect by a short id", "GET /containers/{running12}/json"),
    row("inspect with a slash", "GET /containers/%2Frunning/json"),
    row("resize stopped", "POST /containers/stopped/resize?h=1&w=1", v28=NOT_RUNNING),
    row("resize unknown", "POST /containers/nothere/resize?h=1&w=1"),
    row(
        "resize without numbers",
        "POST /containers/running/resize",
        v28=(400, 're:invalid resize height "": invalid syntax'),
    ),
    row(
        "resize with words",
        "POST /containers/running/resize?h=xx&w=1",
        v28=(400, 're:invalid resize height "xx": invalid syntax'),
    ),
    row(
        "resize with a negative width",
        "POST /containers/running/resize?h=1&w=-1",
        v28=(400, 're:invalid resize width "-1": invalid syntax'),
    ),
    row(
        "resize with a large height",
        "POST /containers/running/resize?h=4294967296&w=1",
        v28=(400, 're:invalid resize height "4294967296": value out of range'),
    ),
    row("logs unknown", "GET /containers/nothere/logs?stdout=1"),
    row("logs without streams", "GET /containers/stopped/logs"),
    row("logs with a rubbish tail", "GET /containers/stopped/logs?stdout=1&tail=xx"),
    row(
        "logs with a rubbish since",
        "GET /containers/stopped/logs?stdout=1&since=xx",
        v28=(400, None),
    ),
    row("logs with until zero", "GET /containers/stopped/logs?stdout=1&until=0"),
    row("attach unknown", "POST /containers/nothere/attach?stdout=1&stream=1"),
    row(
        "attach paused",
        "POST /containers/paused/attach?stdout=1",  # without `stream` it ends where nothing is paused
        smartos=(200, ""),
        v28=(409, "re:container (ID64|paused) is paused, unpause the container before attach"),
    ),
    row(
        "attach with bad keys",
        "POST /containers/running/attach?stdout=1&stream=1&detachKeys=rubbish",
        v28=(400, None),
    ),
    row("top unknown", "GET /containers/nothere/top", v28=(None, None)),
    row("checkpoints", "GET /containers/running/checkpoints", v28=(None, None)),
]
EXEC = [
    row("exec unknown container", "POST /containers/nothere/exec", {"Cmd": ["true"]}),
    row("exec stopped", "POST /containers/stopped/exec", {"Cmd": ["true"]}, v28=NOT_RUNNING),
    row("exec created", "POST /containers/created/exec", {"Cmd": ["true"]}, v28=NOT_RUNNING),
    row(
        "exec paused",
        "POST /containers/paused/exec",
        {"Cmd": ["true"]},
        smartos=(201, ""),
        v28=(409, "re:[Cc]ontainer (ID64|paused) is paused, unpause the container before exec"),
    ),
    row(
        "exec nothing",
        "POST /containers/running/exec",
        {},
        v28=(400, "re:(?i)no exec command specified"),
    ),
    row(
        "exec an empty list",
        "POST /containers/running/exec",
        {"Cmd": []},
        v28=(400, "re:(?i)no exec command specified"),
    ),
    row(
        "exec with bad keys",
        "POST /containers/running/exec",
        {"Cmd": ["true"], "DetachKeys": "rubbish"},
        v28=(400, None),
    ),
    row("exec start unknown", "POST /exec/nothere/start", {}),
    row(
        "exec start again, detached",
        "POST /exec/{exec}/start",
        {"Detach": True},
        v28=(409, "re:exec command ID64 has already run"),
    ),
    row("exec inspect unknown", "GET /exec/nothere/json"),
    row("exec resize unknown", "POST /exec/nothere/resize?h=1&w=1"),
    row(
        "exec resize without numbers",
        "POST /exec/{exec}/resize",
        v28=(400, 're:invalid resize height "": invalid syntax'),
    ),
    row("exec resize of a finished one", "POST /exec/{exec}/resize?h=1&w=1", v28=(None, None)),
]
LISTS = [
    row(
        "list with a rubbish status",
        "GET /containers/json?filters=%7B%22status%22%3A%5B%22rubbish%22%5D%7D",
        v28=(400, "invalid filter 'status=rubbish'"),
    ),
    row(
        "list with an unknown filter",
        "GET /containers/json?filters=%7B%22rubbish%22%3A%5B%22a%22%5D%7D",
        v28=(400, "invalid filter 'rubbish'"),
    ),
    row(
        "list with filters that are not JSON",
        "GET /containers/json?filters=rubbish",
        v28=(400, "invalid filter"),
    ),
    row(
        "list with a bare string",
        "GET /containers/json?filters=%22a%22",
        v28=(400, "invalid filter"),
    ),
    row("list with a rubbish limit", "GET /containers/json?limit=xx", v28=(400, None)),
    row(
        "list with a rubbish health",
        "GET /containers/json?filters=%7B%22health%22%3A%5B%22zz%22%5D%7D",
        v28=(400, None),
    ),
    row(
        "list before nobody",
        "GET /containers/json?filters=%7B%22before%22%3A%5B%22nothere%22%5D%7D",
        v28=(404, "re:(?i)no such container:? nothere"),
    ),
    row(
        "list with rubbish exited",
        "GET /containers/json?filters=%7B%22exited%22%3A%5B%22zz%22%5D%7D",
        v28=(400, None),
    ),
    row("list with empty filters", "GET /containers/json?filters="),
    row(
        "images with an unknown filter",
        "GET /images/json?filters=%7B%22rubbish%22%3A%5B%22a%22%5D%7D",
        v28=(400, "invalid filter 'rubbish'"),
    ),
    row(
        "images with rubbish dangling",
        "GET /images/json?filters=%7B%22dangling%22%3A%5B%22zz%22%5D%7D",
        v28=(400, "invalid filter 'dangling=[zz]'"),
    ),
    row(
        "images with filters that are not JSON",
        "GET /images/json?filters=rubbish",
        v28=(400, "invalid filter"),
    ),
    row("image unknown", "GET /images/nothere/json", v28=(404, "No such image: nothere:latest")),
    row(
        "image unknown with tag",
        "GET /images/nothere:tag/json",
        v28=(404, "No such image: nothere:tag"),
    ),
    row(
        "image bad reference", "GET /images/UPPER/json", v28=(400, "re:invalid reference format.*")
    ),
    row("history unknown", "GET /images/nothere/history"),
    row("remove unknown image", "DELETE /images/nothere"),
    row("tag unknown", "POST /images/nothere/tag?repo=a&tag=b"),
    row(
        "tag badly",
        "POST /images/bb/tag?repo=UPPER&tag=b",
        v28=(400, "re:invalid reference format.*"),
    ),
    row(
        "tag sha256",
        "POST /images/bb/tag?repo=sha256&tag=b",
        v28=(400, "refusing to create an ambiguous tag using digest algorithm as name"),
    ),
    row(
        "tag with a digest",
        f"POST /images/bb/tag?repo=a@sha256:{ZERO}",
        v28=(400, "refusing to create a tag with a digest reference"),
    ),
    row("tag with a bad tag", "POST /images/bb/tag?repo=a&tag=%20", v28=(400, "re:invalid.*")),
    row("pull nothing", "POST /images/create", v28=(500, None)),
    row(
        "pull badly",
        "POST /images/create?fromImage=UPPER",
        v28=(400, "re:invalid reference format.*"),
    ),
    row(
        "pull with a bad platform",
        "POST /images/create?fromImage=bb&tag=x&platform=a/b/c/d",
        v28=(400, None),
    ),
    row("pull with an id for a name", f"POST /images/create?fromImage={ZERO}", v28=(400, None)),
    row(
        "events backwards",
        "GET /events?since=2000&until=1000",
        v28=(400, "re:`since` time .* cannot be after `until` time .*"),
    ),
    row("events with rubbish since", "GET /events?since=xx&until=1", v28=(400, None)),
    row(
        "events with filters that are not JSON",
        "GET /events?until=1&filters=rubbish",
        v28=(400, "invalid filter"),
    ),
    row("network unknown", "GET /networks/nothere"),
    row("volume unknown", "GET /volumes/nothere"),
    row(
        "networks with an unknown filter",
        "GET /networks?filters=%7B%22rubbish%22%3A%5B%22a%22%5D%7D",
        v28=(400, "invalid filter 'rubbish'"),
    ),
    row(
        "volumes with an unknown filter",
        "GET /volumes?filters=%7B%22rubbish%22%3A%5B%22a%22%5D%7D",
        v28=(400, "invalid filter 'rubbish'"),
    ),
]
ROWS = ENTRY + BODIES + LIFE + EXEC + LISTS


@pytest.fixture(scope="module")
def states(daemon: Daemon, registry: str, platform: object) -> Iterator[dict[str, str]]:
    with rows.states(API(daemon.socket), on_smartos=platform is not None) as found:
        yield found


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_the_request_is_answered_as_dockerd_does(
    case: Row, recording: Recording, api: API, states: dict[str, str], names: dict[str, str]
) -> None:
    rows.check(case, recording, api, states, names)


def test_no_name_stands_twice() -> None:
    names = [case.name for case in ROWS]
    assert len(set(names)) == len(names)
    assert len(names) > 100
