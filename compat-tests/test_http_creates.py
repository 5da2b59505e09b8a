"""Creates that must be refused, or are at the edge, row by row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compat import rows
from compat.answers import Recording
from compat.clients import API
from compat.daemons import Daemon
from compat.rows import ZERO, Row, create, host, mount, row

ROWS = [
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
    host("links", {"Links": ["nothere:x"]}),
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
    assert len(names) > 50
