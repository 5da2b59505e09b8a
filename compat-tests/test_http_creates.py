"""Creates that must be refused, or are at the edge, row by row."""

from __future__ import annotations

import pytest
from compat import rows
from compat.answers import Recording
from compat.clients import API
from compat.rows import ZERO, Row, create, host, mount, row

ROWS = [
    row("create: unknown image", "POST /containers/create", {"Image": "nothere"}),
    row("create: unknown image with tag", "POST /containers/create", {"Image": "nothere:tag"}),
    row("create: unknown image by id", "POST /containers/create", {"Image": f"sha256:{ZERO}"}),
    row(
        "create: bad reference",
        "POST /containers/create",
        {"Image": "UPPER"},
    ),
    row("create: name and id", "POST /containers/create", {"Image": f"bb@sha256:{ZERO}"}),
    row(
        "create: no image",
        "POST /containers/create",
        {"Cmd": ["true"]},
        ours=(400, "no image specified: a container needs one"),
        why="dockerd makes one without, which no runtime starts",
    ),
    row(
        "create: no command",
        "POST /containers/create",
        {"Image": "nocmd"},
    ),
    create(
        "a name of one letter",
        {},
        query="?name=x",
    ),
    create("a bad name", {}, query="?name=a%20b"),
    create("a name that is taken", {}, query="?name=running"),
    create("a name that is taken, with slash", {}, query="?name=/running"),
    create(
        "empty environment entry",
        {"Env": [""]},
    ),
    create(
        "nameless environment entry",
        {"Env": ["=x"]},
    ),
    create(
        "only an equals sign",
        {"Env": ["="]},
    ),
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
        "null among texts",
        {
            "Cmd": ["true", None],
            "Labels": {"a": None},
            "ExposedPorts": {"80/tcp": None},
            "HostConfig": {"Tmpfs": {"/tmp": None}},
        },
    ),
    create("null in the environment", {"Env": ["A=b", None]}),
    host("null among binds", {"Binds": [None]}),
    create(
        "a relative working directory",
        {"WorkingDir": "not/absolute"},
    ),
    create(
        "bad exposed port",
        {"ExposedPorts": {"aa80": {}}},
        ours=(400, 'invalid port specification: "aa80"'),
        why="dockerd takes it for port 0",
    ),
    create(
        "bad stop signal",
        {"StopSignal": "SIGRUBBISH"},
    ),
    create(
        "bad hostname",
        {"Hostname": "a" * 300},
    ),
    create(
        "health interval",
        {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 1}},
    ),
    create(
        "health timeout",
        {"Healthcheck": {"Test": ["CMD", "true"], "Timeout": 1}},
    ),
    create(
        "health start period",
        {"Healthcheck": {"Test": ["CMD", "true"], "StartPeriod": 1}},
    ),
    create(
        "health retries",
        {"Healthcheck": {"Test": ["CMD", "true"], "Retries": -1}},
    ),
    host("little memory", {"Memory": 1000}),
    host(
        "shares below zero",
        {"CpuShares": -1},
    ),
    host(
        "shm below zero",
        {"ShmSize": -1},
    ),
    host(
        "cpuset rubbish",
        {"CpusetCpus": "1-42,,"},
    ),
    host(
        "cpuset beyond",
        {"CpusetCpus": "900"},
    ),
    host(
        "cpuset mems rubbish",
        {"CpusetMems": "x"},
    ),
    row(
        "create: cpuset mems beyond",
        "POST /containers/create",
        {"Image": "bb", "Cmd": ["true"], "HostConfig": {"CpusetMems": "900"}},
        smartos=(201, ""),
    ),
    host(
        "oom score",
        {"OomScoreAdj": 2000},
    ),
    host("swap below memory", {"Memory": 64 << 20, "MemorySwap": 32 << 20}),
    host("swap without memory", {"MemorySwap": 64 << 20}),
    host("reservation above memory", {"Memory": 64 << 20, "MemoryReservation": 128 << 20}),
    host(
        "swappiness",
        {"MemorySwappiness": 200},
    ),
    host(
        "too many cpus",
        {"NanoCpus": 10**14},
    ),
    host(
        "cpus and quota",
        {"NanoCpus": 10**9, "CpuQuota": 5000},
    ),
    host(
        "cpu period too short",
        {"CpuPeriod": 10},
    ),
    host(
        "cpu quota too short",
        {"CpuQuota": 10},
    ),
    host(
        "pid mode",
        {"PidMode": "rubbish"},
    ),
    host(
        "pid mode container",
        {"PidMode": "container"},
    ),
    host(
        "ipc mode",
        {"IpcMode": "rubbish"},
    ),
    host(
        "uts mode",
        {"UTSMode": "rubbish"},
    ),
    host(
        "cgroup namespace mode",
        {"CgroupnsMode": "rubbish"},
    ),
    host(
        "restart policy unknown",
        {"RestartPolicy": {"Name": "sometimes"}},
    ),
    host(
        "restart count with always",
        {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 2}},
    ),
    host(
        "restart count below zero",
        {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}},
    ),
    host(
        "restart and remove",
        {"RestartPolicy": {"Name": "always"}, "AutoRemove": True},
    ),
    host(
        "port specification",
        {"PortBindings": {"aa80/tcp": [{"HostPort": ""}]}},
    ),
    host(
        "host port",
        {"PortBindings": {"80/tcp": [{"HostPort": "aa"}]}},
    ),
    host("log option", {"LogConfig": {"Type": "json-file", "Config": {"rubbish": "1"}}}),
    host("capability", {"CapAdd": ["CAP_RUBBISH"]}),
    host("dropped capability", {"CapDrop": ["RUBBISH"]}),
    host(
        "tmpfs relative",
        {"Tmpfs": {"relative": ""}},
    ),
    host(
        "tmpfs on the root",
        {"Tmpfs": {"/": ""}},
    ),
    host(
        "bind to the root",
        {"Binds": ["/tmp:/"]},
    ),
    host(
        "bind mode",
        {"Binds": ["/tmp:/x:rubbish"]},
    ),
    host(
        "bind to relative",
        {"Binds": ["/tmp:x"]},
    ),
    host(
        "bind twice",
        {"Binds": ["/tmp:/x", "/var:/x"]},
    ),
    host(
        "volume name",
        {"Binds": ["a/b:/x"]},
    ),
    host(
        "volumes from nobody",
        {"VolumesFrom": ["nothere"]},
    ),
    host(
        "isolation",
        {"Isolation": "hyperv"},
    ),
    host(
        "dns",
        {"Dns": ["rubbish"]},
        ours=(400, 'bad nameserver address rubbish: ParseAddr("rubbish"): unable to parse IP'),
        why="dockerd says so at start",
    ),
    host(
        "extra host",
        {"ExtraHosts": ["rubbish"]},
    ),
    host(
        "security option",
        {"SecurityOpt": ["rubbish"]},
    ),
    host(
        "runtime",
        {"Runtime": "nothere"},
    ),
    host("links", {"Links": ["nothere:x"]}),
    host("network mode unknown", {"NetworkMode": "nothere"}),
    mount(
        "type",
        {"Type": "rubbish", "Target": "/x"},
    ),
    mount(
        "without target",
        {"Type": "bind", "Source": "/tmp"},
    ),
    mount(
        "without source",
        {"Type": "bind", "Target": "/x"},
    ),
    mount("of a missing source", {"Type": "bind", "Source": "/nope", "Target": "/x"}),
    mount(
        "bind with volume options",
        {"Type": "bind", "Source": "/tmp", "Target": "/x", "VolumeOptions": {}},
    ),
    mount(
        "tmpfs with source",
        {"Type": "tmpfs", "Source": "/tmp", "Target": "/x"},
    ),
    mount(
        "on the root",
        {"Type": "tmpfs", "Target": "/"},
    ),
    mount(
        "volume with bind options",
        {
            "Type": "volume",
            "Source": "vv",
            "Target": "/x",
            "BindOptions": {"Propagation": "rshared"},
        },
    ),
    mount(
        "relative target",
        {"Type": "volume", "Source": "vv", "Target": "x"},
    ),
    create(
        # No beginning of any network's id.
        "two networks",
        {"NetworkingConfig": {"EndpointsConfig": {"one": {}, "two": {}}}},
    ),
    create(
        "a foreign platform",
        {},
        query="?platform=linux/s390x",
    ),
    create(
        "a platform that is rubbish",
        {},
        query="?platform=a/b/c/d",
    ),
    # What stands in Binds and SecurityOpt is read late: dockerd takes a fault there for its own.
    host("bind without copying", {"Binds": ["/tmp:/x:ro,nocopy"]}),
    host("volume that is shared", {"Binds": ["vv:/x:shared"]}),
    host("bind of nothing", {"Binds": [""]}),
    host("bind of a mode alone", {"Binds": ["/x:ro"]}),
    host("bind of four parts", {"Binds": ["a:b:c:d"]}),
    host("bind without source", {"Binds": [":/x"]}),
    host("volume on the root", {"Binds": ["/"]}),
    host("bind of two modes", {"Binds": ["/a:/b:ro,rw"]}),
    host("security option of nobody", {"SecurityOpt": ["a=b"]}),
    host("no new privileges perhaps", {"SecurityOpt": ["no-new-privileges=zz"]}),
    mount("tmpfs with bind options", {"Type": "tmpfs", "Target": "/x", "BindOptions": {}}),
    mount("tmpfs with volume options", {"Type": "tmpfs", "Target": "/x", "VolumeOptions": {}}),
    mount(
        "bind with image options",
        {"Type": "bind", "Source": "/tmp", "Target": "/x", "ImageOptions": {}},
    ),
    host("a port that is too large", {"PortBindings": {"99999/tcp": [{}]}}),
    host("a range of ports", {"PortBindings": {"80-82/tcp": [{"HostPort": "90"}]}}),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_the_request_is_answered_as_dockerd_does(
    case: Row, recording: Recording, api: API, states: dict[str, str], names: dict[str, str]
) -> None:
    rows.check(case, recording, api, states, names)


def test_no_name_stands_twice() -> None:
    names = [case.name for case in ROWS]
    assert len(set(names)) == len(names)
    assert len(names) > 50
