"""Requests that must be refused, or are at the edge, row by row: all but creates."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from compat import rows
from compat.answers import Recording
from compat.clients import API
from compat.rows import ZERO, Row, row

GO_WORDS = "invalid JSON: json: cannot unmarshal {} into Go struct field {} of type {}"
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
    ),
    row(
        "a version that is too old",
        "GET =/v1.10/info",
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
    ),
    row(
        "create with text",
        "POST /containers/create",
        b'{"Image":"bb"}',
        Content_Type="text/plain",
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
    ),
    row(
        "create with text after JSON",
        "POST /containers/create",
        b'{"Image":"bb"}{"a":1}',
        Content_Type="application/json",
    ),
    row(
        "create with nothing",
        "POST /containers/create",
        b"",
        Content_Type="application/json",
    ),
    row(
        "create with a list",
        "POST /containers/create",
        b"[]",
        Content_Type="application/json",
    ),
    row(
        "create with a wrong type",
        "POST /containers/create",
        {"Image": 7},
        ours=(400, GO_WORDS.format("number", "CreateRequest.Image", "string")),
        why="the recorded one was built with a Go that has no words for an embedded struct",
    ),
    row(
        "create with an empty object",
        "POST /containers/create",
        {},
    ),
    row(
        "exec with broken JSON",
        "POST /containers/running/exec",
        b"{invalid",
        Content_Type="application/json",
    ),
    row(
        "exec with text",
        "POST /containers/running/exec",
        b"{}",
        Content_Type="text/plain",
    ),
    row(
        "exec start with broken JSON",
        "POST /exec/{exec}/start",
        b"{invalid",
        Content_Type="application/json",
    ),
]
LIFE = [
    row("start unknown", "POST /containers/nothere/start"),
    row("start running", "POST /containers/running/start"),
    row(
        "start paused",
        "POST /containers/paused/start",
        smartos=(304, ""),
    ),
    row("stop unknown", "POST /containers/nothere/stop"),
    row("stop stopped", "POST /containers/stopped/stop"),
    row("stop created", "POST /containers/created/stop"),
    row(
        "stop with a bad time",
        "POST /containers/running/stop?t=xx",
    ),
    row("restart unknown", "POST /containers/nothere/restart"),
    row(
        "restart with a bad time",
        "POST /containers/running/restart?t=xx",
    ),
    row(
        "kill unknown",
        "POST /containers/nothere/kill",
    ),
    row(
        "kill stopped",
        "POST /containers/stopped/kill",
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
        "kill with 99",
        "POST /containers/running/kill?signal=99",
    ),
    row(
        "kill with a word",
        "POST /containers/running/kill?signal=rubbish",
    ),
    row(
        "pause paused",
        "POST /containers/paused/pause",
        smartos=(501, "pause is not supported on SmartOS: vmadm cannot freeze a zone"),
    ),
    row(
        "pause stopped",
        "POST /containers/stopped/pause",
    ),
    row(
        "unpause running",
        "POST /containers/running/unpause",
    ),
    row("pause unknown", "POST /containers/nothere/pause"),
    row("unpause unknown", "POST /containers/nothere/unpause"),
    row("wait unknown", "POST /containers/nothere/wait"),
    row("wait stopped", "POST /containers/stopped/wait"),
    row(
        "wait for a rubbish condition",
        "POST /containers/stopped/wait?condition=zz",
    ),
    row("rename unknown", "POST /containers/nothere/rename?name=other"),
    row(
        "rename to nothing",
        "POST /containers/running/rename?name=",
    ),
    row(
        "rename to itself",
        "POST /containers/running/rename?name=running",
    ),
    row("rename to a taken name", "POST /containers/running/rename?name=stopped"),
    row(
        "rename to a bad name",
        "POST /containers/running/rename?name=a%20b",
    ),
    row("remove unknown", "DELETE /containers/nothere"),
    row(
        "remove running",
        "DELETE /containers/running",
    ),
    row(
        "remove paused",
        "DELETE /containers/paused",
        smartos=(409, 're:cannot remove container "/?paused": container is running: .*'),
    ),
    row("inspect unknown", "GET /containers/nothere/json"),
    row("inspect by a short id", "GET /containers/{running12}/json"),
    row("inspect with a slash", "GET /containers/%2Frunning/json"),
    row(
        "resize stopped",
        "POST /containers/stopped/resize?h=1&w=1",
    ),
    row("resize unknown", "POST /containers/nothere/resize?h=1&w=1"),
    row(
        "resize without numbers",
        "POST /containers/running/resize",
    ),
    row(
        "resize with words",
        "POST /containers/running/resize?h=xx&w=1",
    ),
    row(
        "resize with a negative width",
        "POST /containers/running/resize?h=1&w=-1",
    ),
    row(
        "resize with a large height",
        "POST /containers/running/resize?h=4294967296&w=1",
    ),
    row("logs unknown", "GET /containers/nothere/logs?stdout=1"),
    row("logs without streams", "GET /containers/stopped/logs"),
    row("logs with a rubbish tail", "GET /containers/stopped/logs?stdout=1&tail=xx"),
    row(
        "logs with a rubbish since",
        "GET /containers/stopped/logs?stdout=1&since=xx",
    ),
    row("logs with until zero", "GET /containers/stopped/logs?stdout=1&until=0"),
    row("attach unknown", "POST /containers/nothere/attach?stdout=1&stream=1"),
    row(
        "attach paused",
        "POST /containers/paused/attach?stdout=1",  # without `stream` it ends where nothing is paused
        smartos=(200, ""),
    ),
    row(
        "attach with bad keys",
        "POST /containers/running/attach?stdout=1&stream=1&detachKeys=rubbish",
    ),
    row(
        "top unknown",
        "GET /containers/nothere/top",
    ),
    row(
        "checkpoints",
        "GET /containers/running/checkpoints",
    ),
]
EXEC = [
    row("exec unknown container", "POST /containers/nothere/exec", {"Cmd": ["true"]}),
    row(
        "exec stopped",
        "POST /containers/stopped/exec",
        {"Cmd": ["true"]},
    ),
    row(
        "exec created",
        "POST /containers/created/exec",
        {"Cmd": ["true"]},
    ),
    row(
        "exec paused",
        "POST /containers/paused/exec",
        {"Cmd": ["true"]},
        smartos=(201, ""),
    ),
    row(
        "exec nothing",
        "POST /containers/running/exec",
        {},
    ),
    row(
        "exec an empty list",
        "POST /containers/running/exec",
        {"Cmd": []},
    ),
    row(
        "exec with bad keys",
        "POST /containers/running/exec",
        {"Cmd": ["true"], "DetachKeys": "rubbish"},
    ),
    row("exec start unknown", "POST /exec/nothere/start", {}),
    row(
        "exec start again, detached",
        "POST /exec/{exec}/start",
        {"Detach": True},
    ),
    row("exec inspect unknown", "GET /exec/nothere/json"),
    row("exec resize unknown", "POST /exec/nothere/resize?h=1&w=1"),
    row(
        "exec resize without numbers",
        "POST /exec/{exec}/resize",
    ),
    row(
        "exec resize of a finished one",
        "POST /exec/{exec}/resize?h=1&w=1",
    ),
]
LISTS = [
    row(
        "list with a rubbish status",
        "GET /containers/json?filters=%7B%22status%22%3A%5B%22rubbish%22%5D%7D",
    ),
    row(
        "list with an unknown filter",
        "GET /containers/json?filters=%7B%22rubbish%22%3A%5B%22a%22%5D%7D",
    ),
    row(
        "list with filters that are not JSON",
        "GET /containers/json?filters=rubbish",
    ),
    row(
        "list with a bare string",
        "GET /containers/json?filters=%22a%22",
    ),
    row(
        "list with a rubbish limit",
        "GET /containers/json?limit=xx",
    ),
    row(
        "list with a rubbish health",
        "GET /containers/json?filters=%7B%22health%22%3A%5B%22zz%22%5D%7D",
    ),
    row(
        "list before nobody",
        "GET /containers/json?filters=%7B%22before%22%3A%5B%22nothere%22%5D%7D",
    ),
    row(
        "list with rubbish exited",
        "GET /containers/json?filters=%7B%22exited%22%3A%5B%22zz%22%5D%7D",
    ),
    row("list with empty filters", "GET /containers/json?filters="),
    row(
        "images with an unknown filter",
        "GET /images/json?filters=%7B%22rubbish%22%3A%5B%22a%22%5D%7D",
    ),
    row(
        "images with rubbish dangling",
        "GET /images/json?filters=%7B%22dangling%22%3A%5B%22zz%22%5D%7D",
    ),
    row(
        "images with filters that are not JSON",
        "GET /images/json?filters=rubbish",
    ),
    row(
        "image unknown",
        "GET /images/nothere/json",
    ),
    row(
        "image unknown with tag",
        "GET /images/nothere:tag/json",
    ),
    row(
        "image bad reference",
        "GET /images/UPPER/json",
    ),
    row("history unknown", "GET /images/nothere/history"),
    row("remove unknown image", "DELETE /images/nothere"),
    row("tag unknown", "POST /images/nothere/tag?repo=a&tag=b"),
    row(
        "tag badly",
        "POST /images/bb/tag?repo=UPPER&tag=b",
    ),
    row(
        "tag sha256",
        "POST /images/bb/tag?repo=sha256&tag=b",
    ),
    row(
        "tag with a digest",
        f"POST /images/bb/tag?repo=a@sha256:{ZERO}",
    ),
    row(
        "tag with a bad tag",
        "POST /images/bb/tag?repo=a&tag=%20",
    ),
    row(
        "pull nothing",
        "POST /images/create",
    ),
    row(
        "pull badly",
        "POST /images/create?fromImage=UPPER",
    ),
    row(
        "pull with a bad platform",
        "POST /images/create?fromImage=bb&tag=x&platform=a/b/c/d",
    ),
    row(
        "pull with an id for a name",
        f"POST /images/create?fromImage={ZERO}",
    ),
    row(
        "events backwards",
        "GET /events?since=2000&until=1000",
    ),
    row(
        "events with rubbish since",
        "GET /events?since=xx&until=1",
    ),
    row(
        "events with filters that are not JSON",
        "GET /events?until=1&filters=rubbish",
    ),
    row("network unknown", "GET /networks/nothere"),
    row("volume unknown", "GET /volumes/nothere"),
    row(
        "networks with an unknown filter",
        "GET /networks?filters=%7B%22rubbish%22%3A%5B%22a%22%5D%7D",
    ),
    row(
        "volumes with an unknown filter",
        "GET /volumes?filters=%7B%22rubbish%22%3A%5B%22a%22%5D%7D",
    ),
]
# What a handler of dockerd's does not call the client's fault is its own: 500.
OWN_FAULTS = [
    row("stop by a signal that is none", "POST /containers/running/stop?signal=zz&t=0"),
    row("restart by a signal that is none", "POST /containers/running/restart?signal=zz&t=0"),
    row("stop in more than an integer", "POST /containers/running/stop?t=99999999999999999999"),
    row("logs since rubbish", "GET /containers/stopped/logs?stdout=1&since=xx"),
    row("logs since rubbish of a second", "GET /containers/stopped/logs?stdout=1&since=1.xx"),
    row("logs until some time ago", "GET /containers/stopped/logs?stdout=1&until=10m"),
    row("events until rubbish", "GET /events?since=1&until=xx"),
    row("a link that is none", "DELETE /containers/stopped?link=1"),
    row("a build with shared memory of rubbish", "POST /build?shmsize=xx"),
]
CHECKPOINTS = [
    row("a checkpoint", "POST /containers/running/checkpoints", {"CheckpointID": "x"}),
    row("a checkpoint goes", "DELETE /containers/running/checkpoints/x"),
    row("start from a checkpoint", "POST /containers/created/start?checkpoint=x"),
]
OTHER_BODIES = [
    row("an exec that is a list", "POST /containers/running/exec", []),
    row("an exec with a wrong type", "POST /containers/running/exec", {"Tty": "x"}),
    row("an update that is a list", "POST /containers/running/update", []),
    row("an update with a wrong type", "POST /containers/running/update", {"Memory": "x"}),
    row("an update of nothing", "POST /containers/running/update"),
    row("a network that is a list", "POST /networks/create", []),
    row("a network with a wrong type", "POST /networks/create", {"Name": 5}),
    row("a connection that is a list", "POST /networks/bridge/connect", []),
    row("a connection with a wrong type", "POST /networks/bridge/connect", {"Container": 5}),
    row("a disconnection that is a list", "POST /networks/bridge/disconnect", []),
    row("a volume that is a list", "POST /volumes/create", []),
    row("a volume with a wrong type", "POST /volumes/create", {"Labels": []}),
    row("a commit that is a list", "POST /commit?container=stopped", []),
]
# No endpoint has a version of its own: the oldest client may ask for what came later.
NONE = quote('{"label":["nobody-has-this"]}')
OLD_CLIENTS = [
    row("disk usage by an old client", "GET =/v1.24/system/df"),
    row("a prune of containers by an old client", f"POST =/v1.24/containers/prune?filters={NONE}"),
    row("a prune of images by an old client", f"POST =/v1.24/images/prune?filters={NONE}"),
    row("a prune of networks by an old client", f"POST =/v1.24/networks/prune?filters={NONE}"),
    row("a prune of volumes by an old client", f"POST =/v1.24/volumes/prune?filters={NONE}"),
    row("a prune of builds by an old client", "POST =/v1.30/build/prune"),
    row("an image far away by an old client", "GET =/v1.29/distribution/127.0.0.1:1/x:y/json"),
    row("secrets by an old client", "GET =/v1.24/secrets"),
    row("configs by an old client", "GET =/v1.29/configs"),
    row("checkpoints by an old client", "GET =/v1.24/containers/running/checkpoints"),
    row("a volume is changed by an old client", "PUT =/v1.41/volumes/x", {}),
    row("a volume is changed", "PUT /volumes/x", {}),
]
ROWS = (
    *(ENTRY + BODIES + LIFE + EXEC + LISTS),
    *(OWN_FAULTS + CHECKPOINTS + OTHER_BODIES + OLD_CLIENTS),
)


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_the_request_is_answered_as_dockerd_does(
    case: Row, recording: Recording, api: API, states: dict[str, str], names: dict[str, str]
) -> None:
    rows.check(case, recording, api, states, names)


def test_no_name_stands_twice() -> None:
    names = [case.name for case in ROWS]
    assert len(set(names)) == len(names)
    assert len(names) > 100
