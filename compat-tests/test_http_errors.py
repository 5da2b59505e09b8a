"""Requests that must be refused, or are at the edge: status and message, row by row, against what dockerd said.

`v28` is what 28.5 answers where 20.10 (which was recorded) answers otherwise: (status, message), None = not compared;
a message that starts with `re:` is a regular expression.  `smartos` is what is answered there, where that differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from compat.answers import Recording, normal
from compat.clients import API

BAD_JSON = r"re:invalid JSON: .*"
NOT_RUNNING = (409, "container ID64 is not running")
ZERO = "0" * 64


@dataclass(frozen=True)
class Row:
    """One request.  `{running}`... in the path become ids."""

    name: str
    method: str
    path: str
    body: Any = None
    headers: dict[str, str] | None = None
    v28: tuple[int | None, str | None] = (None, "")
    smartos: tuple[int, str] | None = None

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def row(
    name: str,
    request: str,
    body: Any = None,
    *,
    v28: tuple[int | None, str | None] = (None, ""),
    smartos: tuple[int, str] | None = None,
    **headers: str,
) -> Row:
    """`request` is `METHOD /path`; headers by name with `_` for `-`."""
    method, path = request.split(" ", 1)
    return Row(
        name,
        method,
        path,
        body,
        {key.replace("_", "-"): value for key, value in headers.items()},
        v28,
        smartos,
    )


def create(
    name: str,
    body: dict[str, Any],
    *,
    query: str = "",
    v28: tuple[int | None, str | None] = (None, ""),
) -> Row:
    """A create with busybox and something in it."""
    return row(
        f"create: {name}",
        f"POST /containers/create{query}",
        {"Image": "bb", "Cmd": ["true"]} | body,
        v28=v28,
    )


def host(
    name: str, config: dict[str, Any], *, v28: tuple[int | None, str | None] = (None, "")
) -> Row:
    """A create with something in its HostConfig."""
    return create(name, {"HostConfig": config}, v28=v28)


def mount(
    name: str, config: dict[str, Any], *, v28: tuple[int | None, str | None] = (None, "")
) -> Row:
    """A create with one entry of Mounts."""
    return host(f"mount {name}", {"Mounts": [config]}, v28=v28)


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
CREATE = [
    row("create: unknown image", "POST /containers/create", {"Image": "nothere"}),
    row("create: unknown image with tag", "POST /containers/create", {"Image": "nothere:tag"}),
    row("create: unknown image by id", "POST /containers/create", {"Image": f"sha256:{ZERO}"}),
    row(
        "create: bad reference",
        "POST /containers/create",
        {"Image": "UPPER"},
        v28=(400, "re:invalid reference format.*"),
    ),
    row("create: name and id", "POST /containers/create", {"Image": f"bb@sha256:{ZERO}"}),
    row("create: no image", "POST /containers/create", {"Cmd": ["true"]}, v28=(None, None)),
    row(
        "create: no command",
        "POST /containers/create",
        {"Image": "nocmd"},
        v28=(400, "no command specified"),
    ),
    create(
        "a name of one letter",
        {},
        query="?name=x",
        v28=(400, "Invalid container name (x), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
    ),
    create("a bad name", {}, query="?name=a%20b"),
    create("a name that is taken", {}, query="?name=running"),
    create("a name that is taken, with slash", {}, query="?name=/running"),
    create(
        "empty environment entry", {"Env": [""]}, v28=(400, "re:invalid environment variable:.*")
    ),
    create(
        "nameless environment entry", {"Env": ["=x"]}, v28=(400, "invalid environment variable: =x")
    ),
    create("only an equals sign", {"Env": ["="]}, v28=(400, "invalid environment variable: =")),
    create(
        "null fields",
        {
            "Env": None,
            "Volumes": None,
            "Labels": None,
            "Entrypoint": None,
            "HostConfig": None,
            "ExposedPorts": None,
        },
    ),
    create(
        "a relative working directory",
        {"WorkingDir": "not/absolute"},
        v28=(
            400,
            "the working directory 'not/absolute' is invalid, it needs to be an absolute path",
        ),
    ),
    create("bad exposed port", {"ExposedPorts": {"aa80": {}}}, v28=(400, "re:.*aa80.*")),
    create(
        "bad stop signal",
        {"StopSignal": "SIGRUBBISH"},
        v28=(400, "re:(?i)invalid signal: SIGRUBBISH"),
    ),
    create("bad hostname", {"Hostname": "a" * 300}, v28=(None, None)),
    create(
        "health interval",
        {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 1}},
        v28=(400, "Interval in Healthcheck cannot be less than 1ms"),
    ),
    create(
        "health timeout",
        {"Healthcheck": {"Test": ["CMD", "true"], "Timeout": 1}},
        v28=(400, "Timeout in Healthcheck cannot be less than 1ms"),
    ),
    create(
        "health start period",
        {"Healthcheck": {"Test": ["CMD", "true"], "StartPeriod": 1}},
        v28=(400, "StartPeriod in Healthcheck cannot be less than 1ms"),
    ),
    create(
        "health retries",
        {"Healthcheck": {"Test": ["CMD", "true"], "Retries": -1}},
        v28=(400, "Retries in Healthcheck cannot be negative"),
    ),
    host("little memory", {"Memory": 1000}),
    host("shares below zero", {"CpuShares": -1}, v28=(400, "re:(?i)invalid CPU shares.*")),
    host("shm below zero", {"ShmSize": -1}, v28=(400, "SHM size can not be less than 0")),
    host(
        "cpuset rubbish",
        {"CpusetCpus": "1-42,,"},
        v28=(400, "re:(?i)invalid value 1-42,, for cpuset cpus.*"),
    ),
    host(
        "cpuset beyond",
        {"CpusetCpus": "900"},
        v28=(400, "re:Requested CPUs are not available - requested 900, available: .*"),
    ),
    host(
        "cpuset mems rubbish",
        {"CpusetMems": "x"},
        v28=(400, "re:(?i)invalid value x for cpuset mems.*"),
    ),
    host(
        "oom score",
        {"OomScoreAdj": 2000},
        v28=(400, "re:(?i)invalid value 2000, range for oom score adj is \\[-1000, 1000\\]"),
    ),
    host("swap below memory", {"Memory": 64 << 20, "MemorySwap": 32 << 20}),
    host("swap without memory", {"MemorySwap": 64 << 20}),
    host("reservation above memory", {"Memory": 64 << 20, "MemoryReservation": 128 << 20}),
    host(
        "swappiness",
        {"MemorySwappiness": 200},
        v28=(400, "re:(?i)invalid value: 200.*valid memory swappiness range is 0-100"),
    ),
    host(
        "too many cpus",
        {"NanoCpus": 10**14},
        v28=(400, "re:(?i)range of CPUs is from 0.01 to .*, as there are only .* CPUs available"),
    ),
    host(
        "cpus and quota",
        {"NanoCpus": 10**9, "CpuQuota": 5000},
        v28=(400, "re:(?i)conflicting options: .*"),
    ),
    host(
        "cpu period too short",
        {"CpuPeriod": 10},
        v28=(400, "re:(?i)CPU cfs period can not be less than 1ms.*"),
    ),
    host(
        "cpu quota too short",
        {"CpuQuota": 10},
        v28=(400, "re:(?i)CPU cfs quota can not be less than 1ms.*"),
    ),
    host("pid mode", {"PidMode": "rubbish"}, v28=(400, "re:(?i)invalid PID mode: rubbish")),
    host(
        "pid mode container",
        {"PidMode": "container"},
        v28=(400, "re:(?i)invalid PID mode: container"),
    ),
    host("ipc mode", {"IpcMode": "rubbish"}, v28=(400, "re:(?i)invalid IPC mode: rubbish")),
    host("uts mode", {"UTSMode": "rubbish"}, v28=(400, "re:(?i)invalid UTS mode: rubbish")),
    host(
        "cgroup namespace mode",
        {"CgroupnsMode": "rubbish"},
        v28=(400, "re:(?i)invalid cgroup namespace mode: rubbish"),
    ),
    host(
        "restart policy unknown",
        {"RestartPolicy": {"Name": "sometimes"}},
        v28=(400, "re:invalid restart policy: unknown policy 'sometimes'.*"),
    ),
    host(
        "restart count with always",
        {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 2}},
        v28=(
            400,
            "re:invalid restart policy: maximum retry count can only be used with 'on-failure'.*",
        ),
    ),
    host(
        "restart count below zero",
        {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}},
        v28=(400, "re:invalid restart policy: maximum retry count cannot be negative.*"),
    ),
    host(
        "restart and remove",
        {"RestartPolicy": {"Name": "always"}, "AutoRemove": True},
        v28=(400, "re:(?i)can't create 'AutoRemove' container with restart policy"),
    ),
    host(
        "port specification",
        {"PortBindings": {"aa80/tcp": [{"HostPort": ""}]}},
        v28=(400, 'invalid port specification: "aa80/tcp"'),
    ),
    host(
        "host port",
        {"PortBindings": {"80/tcp": [{"HostPort": "aa"}]}},
        v28=(400, 're:(?i)invalid port specification: "?aa"?'),
    ),
    host("log option", {"LogConfig": {"Type": "json-file", "Config": {"rubbish": "1"}}}),
    host("capability", {"CapAdd": ["CAP_RUBBISH"]}),
    host("dropped capability", {"CapDrop": ["RUBBISH"]}),
    host(
        "tmpfs relative",
        {"Tmpfs": {"relative": ""}},
        v28=(400, "re:.*mount path must be absolute.*"),
    ),
    host("tmpfs on the root", {"Tmpfs": {"/": ""}}, v28=(400, "re:.*destination can't be '/'.*")),
    host(
        "bind to the root",
        {"Binds": ["/tmp:/"]},
        v28=(
            400,
            "invalid volume specification: '/tmp:/': invalid mount config for type \"bind\": "
            "invalid specification: destination can't be '/'",
        ),
    ),
    host(
        "bind mode",
        {"Binds": ["/tmp:/x:rubbish"]},
        v28=(400, "re:invalid (volume specification|mode).*"),
    ),
    host(
        "bind to relative",
        {"Binds": ["/tmp:x"]},
        v28=(
            400,
            "invalid volume specification: '/tmp:x': invalid mount config for type \"bind\": "
            "invalid mount path: 'x' mount path must be absolute",
        ),
    ),
    host(
        "bind twice",
        {"Binds": ["/tmp:/x", "/var:/x"]},
        v28=(400, "re:(?i)duplicate mount point: /x"),
    ),
    host(
        "volume name",
        {"Binds": ["a/b:/x"]},
        v28=(400, "re:.*includes invalid characters for a local volume name.*"),
    ),
    host(
        "volumes from nobody",
        {"VolumesFrom": ["nothere"]},
        v28=(400, "re:.*[Nn]o such container: nothere"),
    ),
    host("isolation", {"Isolation": "hyperv"}, v28=(400, "re:(?i).*isolation.*hyperv.*")),
    host("dns", {"Dns": ["rubbish"]}, v28=(None, None)),
    host(
        "extra host",
        {"ExtraHosts": ["rubbish"]},
        v28=(400, "re:(?i)bad format for add-host: .*rubbish.*"),
    ),
    host("security option", {"SecurityOpt": ["rubbish"]}, v28=(None, None)),
    host(
        "runtime",
        {"Runtime": "nothere"},
        v28=(400, "re:(?i)(unknown or )?invalid runtime name: nothere"),
    ),
    host("links", {"Links": ["nothere:x"]}, v28=(None, None)),
    host("network mode unknown", {"NetworkMode": "nothere"}),
    mount("type", {"Type": "rubbish", "Target": "/x"}, v28=(400, "re:.*mount type unknown")),
    mount(
        "without target",
        {"Type": "bind", "Source": "/tmp"},
        v28=(400, "re:.*field Target must not be empty"),
    ),
    mount(
        "without source",
        {"Type": "bind", "Target": "/x"},
        v28=(400, "re:.*field Source must not be empty"),
    ),
    mount("of a missing source", {"Type": "bind", "Source": "/nope", "Target": "/x"}),
    mount(
        "bind with volume options",
        {"Type": "bind", "Source": "/tmp", "Target": "/x", "VolumeOptions": {}},
        v28=(400, "re:.*VolumeOptions must not be specified"),
    ),
    mount(
        "tmpfs with source",
        {"Type": "tmpfs", "Source": "/tmp", "Target": "/x"},
        v28=(400, "re:.*field Source must not be specified"),
    ),
    mount(
        "on the root", {"Type": "tmpfs", "Target": "/"}, v28=(400, "re:.*destination can't be '/'")
    ),
    mount(
        "volume with bind options",
        {
            "Type": "volume",
            "Source": "vv",
            "Target": "/x",
            "BindOptions": {"Propagation": "rshared"},
        },
        v28=(400, "re:.*BindOptions must not be specified"),
    ),
    mount(
        "relative target",
        {"Type": "volume", "Source": "vv", "Target": "x"},
        v28=(400, "re:.*mount path must be absolute"),
    ),
    create(
        "two networks",
        {"NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}}}},
        v28=(
            400,
            "re:(?i)container cannot be (created with multiple network endpoints|connected to network endpoints.*)",
        ),
    ),
    create(
        "a foreign platform",
        {},
        query="?platform=linux/s390x",
        v28=(404, "re:image with reference bb was found but .*platform.*"),
    ),
    create("a platform that is rubbish", {}, query="?platform=a/b/c/d", v28=(400, None)),
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
        v28=(400, "re:.*invalid signal: 99"),
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
    row("pull nothing", "POST /images/create", v28=(400, None)),
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
ROWS = ENTRY + BODIES + CREATE + LIFE + EXEC + LISTS


@pytest.fixture(scope="module")
def states(daemon: Any, registry: str, platform: Any) -> Iterator[dict[str, str]]:
    """A container in each state; {word: id}.  Where nothing can be paused, `paused` runs."""
    api = API(daemon.socket)
    body = {
        "Image": "bb",
        "Labels": {"keep": ""},
        "Cmd": ["sleep", "100000"],
        "HostConfig": {"NetworkMode": "none"},
    }
    ids = {}
    for name in ("created", "stopped", "running", "paused"):
        command = {"Cmd": ["sh", "-c", "echo said; exit 3"]} if name == "stopped" else {}
        ids[name] = api.ok("POST", f"/containers/create?name={name}", body | command)["Id"]
        if name != "created":
            api.ok("POST", f"/containers/{name}/start")
    api.ok("POST", "/containers/stopped/wait")
    pausing = api("POST", "/containers/paused/pause")
    assert pausing.status == (501 if platform else 204), pausing.body
    ids["exec"] = api.ok(
        "POST", "/containers/running/exec", {"Cmd": ["true"], "AttachStdout": True}
    )["Id"]
    api("POST", f"/exec/{ids['exec']}/start", {})
    ids["running12"] = ids["running"][:12]
    yield ids
    for name in ("created", "stopped", "running", "paused"):
        api("DELETE", f"/containers/{ids[name]}?force=1&v=1")


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_the_request_is_answered_as_dockerd_does(
    case: Row, recording: Recording, api: API, states: dict[str, str], names: dict[str, str]
) -> None:
    path = case.path
    for word, value in states.items():
        path = path.replace("{" + word + "}", value)
    answer = api(case.method, path, case.body, case.headers, timeout_s=20)
    actual = {
        "status": answer.status,
        "message": normal(answer.message, names) if answer.status >= 400 else "",
    }
    if recording.taking:
        recording.put(case.name, actual)
        return
    expected = dict(recording.get(case.name))
    compared = {"status", "message"}
    if not recording.exact:
        status, message = (recording.on_smartos and case.smartos) or case.v28
        expected["status"] = status or expected["status"]
        if message is None:
            compared.discard("message")
            if (
                status is None
            ):  # refused or accepted by good reasons of our own: but always an answer
                assert answer.status < 500 or answer.status == 501, answer.body
                return
        elif message or (recording.on_smartos and case.smartos):
            expected["message"] = message
    if expected["message"].startswith("re:") and re.fullmatch(
        expected["message"][3:], actual["message"], re.DOTALL
    ):
        compared.discard("message")
    assert {key: actual[key] for key in compared} == {key: expected[key] for key in compared}


def test_no_name_stands_twice() -> None:
    names = [case.name for case in ROWS]
    assert len(set(names)) == len(names)
    assert len(names) > 100
