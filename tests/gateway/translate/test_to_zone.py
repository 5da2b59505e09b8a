"""Create bodies become payloads that vmadm takes, and refusals in dockerd's words."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import APIError, InvalidParameter, NotSupported
from dockerapi.models.containers import ContainerCreate
from gateway.translate import from_zone
from gateway.translate.facts import Identity, ImageFacts, Surroundings
from gateway.translate.mounts import MountPoint
from gateway.translate.security import ALL_CAPABILITIES, DEFAULT_CAPABILITIES
from gateway.translate.to_zone import Plan, mount_points, plan, zone_spec
from gateway.zones.host import Zone
from gateway.zones.metadata import DockerMetadata, decode
from gateway.zones.spec import Nic, ZoneSpec, ZoneState

PAYLOADS = Path(__file__).parent.parent / "payloads"
TABLE = json.loads((PAYLOADS / "vmadm-properties.json").read_text())
DOCKER_ID = "0123456789abcdef" * 4
IMAGE = ImageFacts(
    id="sha256:" + "ab" * 32,
    uuid="11111111-2222-3333-4444-555555555555",
    config={
        "Env": ["PATH=/bin", "LANG=C"],
        "Cmd": ["sh"],
        "Entrypoint": None,
        "Labels": {"vendor": "me", "tier": "image"},
        "WorkingDir": "/srv/",
    },
)
NIC = Nic(
    nic_tag="zonegate0",
    mac="02:42:ac:1e:00:02",
    ip="172.30.0.2",
    netmask="255.255.0.0",
    gateway="172.30.0.1",
    primary=True,
    network_uuid="99999999-2222-3333-4444-555555555555",
)
AROUND = Surroundings(ncpu=2, host_gateway="172.30.0.1", hostname="machine")


def planned(body: dict[str, Any], image: ImageFacts = IMAGE, around: Surroundings = AROUND) -> Plan:
    """A plan of a wire body."""
    full = {"Image": "busybox", **body}
    return plan(
        ContainerCreate.model_validate(full), image, Identity(DOCKER_ID, "brave_euler"), around
    )


def made(body: dict[str, Any], image: ImageFacts = IMAGE) -> ZoneSpec:
    """The spec of a wire body; volumes get folders named after their targets."""
    found = planned(body, image)
    points = tuple(
        MountPoint.read(
            {**p.kept(), "source": f"/volumes{p.destination}", "name": p.name or "anon"}
        )
        if p.type == "volume"
        else p
        for p in mount_points(found, ())
    )
    nics = (NIC,) if found.requests else ()
    return zone_spec(found, nics=nics, points=points)


def metadata(body: dict[str, Any], image: ImageFacts = IMAGE) -> DockerMetadata:
    """What the host reads."""
    return decode(made(body, image).internal_metadata)


def zone(body: dict[str, Any]) -> Zone:
    """The zone that a host would show."""
    spec = made(body)
    return Zone(spec, decode(spec.internal_metadata), ZoneState.STOPPED, created_ns=1)


GOLDEN: dict[str, dict[str, Any]] = {
    "plain": {},
    "command": {"Cmd": ["echo", "a b"], "Tty": True, "OpenStdin": True, "AttachStdin": True},
    "entrypoint": {"Entrypoint": ["/bin/tool"], "Cmd": ["--x"]},
    "environment": {"Env": ["A=1", "LANG", "EMPTY="], "WorkingDir": "/tmp/"},
    "user": {"User": "1000:1000", "HostConfig": {"GroupAdd": ["audio"]}},
    "labels": {"Labels": {"com.docker.compose.project": "p", "tier": "own"}},
    "names": {
        "Hostname": "web",
        "Domainname": "example.org",
        "HostConfig": {"ExtraHosts": ["a:10.0.0.1", "gw:host-gateway"], "Dns": ["9.9.9.9"],
                       "DnsSearch": ["example.org"], "DnsOptions": ["ndots:1"]},
    },
    "memory": {"HostConfig": {"Memory": 64 * 2**20, "PidsLimit": 100}},
    "memory_and_swap": {"HostConfig": {"Memory": 512 * 2**20, "MemorySwap": 2**30}},
    "cpus": {"HostConfig": {"NanoCpus": 1_500_000_000, "CpuShares": 100_000, "CpusetCpus": "0-1"}},
    "cpu_quota": {"HostConfig": {"CpuQuota": 25_000, "CpuPeriod": 50_000}},
    "restart_always": {"HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}}},
    "restart_on_failure": {
        "HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}
    },
    "log": {"HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}}}},
    "ports": {
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "HostConfig": {
            "PortBindings": {
                "80/tcp": [{"HostPort": "8080"}, {"HostIp": "127.0.0.1", "HostPort": "9000-9010"}],
                "90": None,
            }
        },
    },
    "publish_all": {"ExposedPorts": {"7000-7002/tcp": {}}, "HostConfig": {"PublishAllPorts": True}},
    "mounts": {
        "Volumes": {"/anon": {}},
        "HostConfig": {
            "Binds": ["/srv/a:/a:ro", "data:/data:nocopy"],
            "Mounts": [
                {"Type": "volume", "Source": "cache", "Target": "/cache", "ReadOnly": True},
                {"Type": "tmpfs", "Target": "/fast", "TmpfsOptions": {"SizeBytes": 65536}},
            ],
            "Tmpfs": {"/run": "size=64m,mode=1777"},
        },
    },
    "security": {
        "HostConfig": {
            "CapAdd": ["NET_ADMIN"],
            "CapDrop": ["MKNOD"],
            "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"],
            "ReadonlyRootfs": True,
            "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 2048}],
            "Sysctls": {"net.core.somaxconn": "100"},
            "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x"}],
            "ShmSize": 2**20,
            "Init": True,
        }
    },
    "privileged": {"HostConfig": {"Privileged": True}},
    "host_network": {"HostConfig": {"NetworkMode": "host", "PidMode": "host"}},
    "no_network": {"HostConfig": {"NetworkMode": "none"}},
    "stop": {"StopSignal": "SIGINT", "StopTimeout": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_a_body_gives_the_payload_on_record(name: str) -> None:
    """ZONEGATE_WRITE_PAYLOADS=1 takes the records anew; look at the difference before you keep it."""
    payload = made(GOLDEN[name]).payload()
    path = PAYLOADS / f"{name}.json"
    record = {"body": GOLDEN[name], "payload": payload}
    if os.environ.get("ZONEGATE_WRITE_PAYLOADS"):
        path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    assert json.loads(path.read_text()) == record


@pytest.mark.parametrize("name", GOLDEN)
def test_vmadm_would_take_every_payload_on_record(name: str) -> None:
    payload = json.loads((PAYLOADS / f"{name}.json").read_text())["payload"]
    for key in TABLE["required_on_create"][payload["brand"]]:
        assert key in payload
    check_rows(payload, TABLE["properties"], payload["brand"])
    for nic in payload["nics"]:
        check_rows(nic, TABLE["nics"], payload["brand"])
    for filesystem in payload["filesystems"]:
        check_rows(filesystem, TABLE["filesystems"], payload["brand"])


def check_rows(values: dict[str, Any], rows: list[dict[str, Any]], brand: str) -> None:
    """Every key is known to vmadm for this brand, and of its type and range."""
    known = {row["name"]: row for row in rows}
    for key, value in values.items():
        row = known[key]
        assert row["create"] == "all" or brand in row["create"], key
        assert is_of_type(value, row["type"]), (key, value)
        if row["type"] == "integer":
            assert row.get("min", value) <= value <= row.get("max", value), (key, value)


def is_of_type(value: object, kind: str) -> bool:
    """vmadm's strict validation."""
    match kind:
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "uuid":
            return bool(re.fullmatch(r"[a-f0-9]{8}(-[a-f0-9]{4}){3}-[a-f0-9]{12}", str(value)))
        case "flat-object":
            return isinstance(value, dict) and all(
                isinstance(v, (str, int, float, bool)) for v in value.values()
            )
        case "list-of-strings":
            return isinstance(value, list) and all(
                isinstance(v, str) and "," not in v for v in value
            )
        case "object-array":
            return isinstance(value, list) and all(isinstance(v, dict) for v in value)
        case _:
            return isinstance(value, str)


HOST = "HostConfig"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"Env": ["=x"]}, "invalid environment variable: =x"),
    ({"Env": [""]}, "invalid environment variable: "),
    ({"WorkingDir": "rel"}, "the working directory 'rel' is invalid, it needs to be an absolute path"),
    ({"StopSignal": "NOPE"}, "invalid signal: NOPE"),
    ({"Healthcheck": {"Interval": 1}}, "Interval in Healthcheck cannot be less than 1ms"),
    ({"Healthcheck": {"StartInterval": 1}}, "StartInterval in Healthcheck cannot be less than 1ms"),
    ({"Healthcheck": {"Retries": -1}}, "Retries in Healthcheck cannot be negative"),
    ({"ExposedPorts": {"aa80": {}}}, 'invalid port specification: "aa80"'),
    ({"ExposedPorts": {"80/foo": {}}}, "invalid proto: foo"),
    ({HOST: {"PortBindings": {"80/tcp": [{"HostPort": "x"}]}}}, 'invalid port specification: "x"'),
    ({HOST: {"Memory": 1000}}, "Minimum memory limit allowed is 6MB"),
    ({HOST: {"MemorySwap": 1000}}, "You should always set the Memory limit"),
    ({HOST: {"MemorySwappiness": 101}}, "valid memory swappiness range is 0-100"),
    ({HOST: {"CpuShares": -1}}, "invalid CPU shares (-1): value must be a positive integer"),
    ({HOST: {"NanoCpus": 10**10}}, "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs"),
    ({HOST: {"CpusetCpus": "1-42,,"}}, "Invalid value 1-42,, for cpuset cpus"),
    ({HOST: {"CpusetCpus": "7"}}, "Requested CPUs are not available - requested 7, available: 0-1"),
    ({HOST: {"ShmSize": -1}}, "SHM size can not be less than 0"),
    ({HOST: {"OomScoreAdj": 1001}}, "range for oom score adj is [-1000, 1000]"),
    ({HOST: {"IpcMode": "foo"}}, "invalid IPC mode: foo"),
    ({HOST: {"PidMode": "container"}}, "invalid PID mode: container"),
    ({HOST: {"UTSMode": "foo"}}, "invalid UTS mode: foo"),
    ({HOST: {"Annotations": {"": "x"}}}, "the empty string is not permitted as an annotation key"),
    ({HOST: {"RestartPolicy": {"Name": "foo"}}}, "invalid restart policy: unknown policy 'foo'"),
    (
        {HOST: {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 1}}},
        "maximum retry count can only be used with 'on-failure'",
    ),
    (
        {HOST: {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}}},
        "maximum retry count cannot be negative",
    ),
    (
        {HOST: {"AutoRemove": True, "RestartPolicy": {"Name": "always"}}},
        "can't create 'AutoRemove' container with restart policy",
    ),
    ({HOST: {"Runtime": "foo"}}, "unknown or invalid runtime name: foo"),
    ({HOST: {"LogConfig": {"Type": "foo"}}}, 'error looking up logging plugin foo: plugin "foo" not found'),
    ({HOST: {"LogConfig": {"Config": {"zz": "1"}}}}, "unknown log opt 'zz' for json-file log driver"),
    ({HOST: {"CapAdd": ["FOO"]}}, 'invalid CapAdd: unknown capability: "CAP_FOO"'),
    ({HOST: {"LogConfig": {"Config": {"tag": "{{.Zz}}"}}}}, "at <.Zz>: can't evaluate field Zz in type *logger.Info"),
    ({HOST: {"LogConfig": {"Config": {"env-regex": "["}}}}, "error parsing regexp: missing closing ]: `[`"),
    ({HOST: {"LogConfig": {"Config": {"mode": "zz"}}}}, "logging mode not supported: zz"),
    ({HOST: {"Binds": [":/x"]}}, "invalid volume specification: ':/x'"),
    ({HOST: {"Binds": ["/x:/y:nocopy"]}}, "field VolumeOptions must not be specified"),
    ({HOST: {"Binds": ["xx:/y:rslave"]}}, "field BindOptions must not be specified"),
    ({HOST: {"Binds": ["x:/y"]}}, "create x: volume name is too short"),
    ({HOST: {"SecurityOpt": ["foo"]}}, 'invalid --security-opt 1: "foo"'),
    ({HOST: {"SecurityOpt": ["foo=bar"]}}, 'invalid --security-opt 2: "foo=bar"'),
    ({HOST: {"Ulimits": [{"Name": "foo"}]}}, "invalid ulimit type: foo"),
    ({HOST: {"Tmpfs": {"rel": ""}}}, "mount path must be absolute"),
    ({HOST: {"Tmpfs": {"//": ""}}}, "destination can't be '/'"),
    ({HOST: {"Binds": ["/a:/"]}}, 'invalid volume specification: \'/a:/\': invalid mount config for type "bind": invalid specification: destination can'),
    ({HOST: {"Binds": ["v1:rel"]}}, 'invalid mount config for type "volume": invalid mount path: \'rel\' mount path must be absolute'),
    ({HOST: {"Binds": ["/a:/b:zz"]}}, "invalid mode: zz"),
    ({HOST: {"Binds": ["/a:/b:ro:rw"]}}, "invalid volume specification: '/a:/b:ro:rw'"),
    ({HOST: {"Binds": ["a/b:/c"]}}, "includes invalid characters for a local volume name"),
    ({HOST: {"Binds": ["/a:/x", "/b:/x"]}}, "Duplicate mount point: /x"),
    (
        {HOST: {"NetworkMode": "host"}, "NetworkingConfig": {"EndpointsConfig": {"bridge": {}}}},
        "cannot attach both user-defined and non-user-defined network-modes",
    ),
    ({HOST: {"Mounts": [{"Type": "foo", "Target": "/x"}]}}, "mount type unknown"),
    ({HOST: {"Mounts": [{"Type": "bind", "Source": "/x"}]}}, "field Target must not be empty"),
    ({HOST: {"Mounts": [{"Type": "bind", "Target": "/x"}]}}, "field Source must not be empty"),
    (
        {HOST: {"Mounts": [{"Type": "tmpfs", "Target": "/x", "Source": "y"}]}},
        "field Source must not be specified",
    ),
    (
        {HOST: {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/x", "VolumeOptions": {}}]}},
        "VolumeOptions must not be specified",
    ),
    ({"Hostname": "x", HOST: {"NetworkMode": "container:y"}}, "hostname and the network mode"),
    (
        {HOST: {"NetworkMode": "container:y", "PortBindings": {"80/tcp": []}}},
        "port publishing and the container type network mode",
    ),
    ({HOST: {"Dns": ["zz"]}}, "bad nameserver address zz: "),
    ({HOST: {"ExtraHosts": ["zz"]}}, 'bad format for add-host: "zz"'),
]  # fmt: skip


@pytest.mark.parametrize(("body", "words"), REFUSED)
def test_what_cannot_be_meant_is_refused_in_dockerds_words(
    body: dict[str, Any], words: str
) -> None:
    with pytest.raises(APIError) as caught:
        made(body)
    assert caught.value.status in (400, 500)
    assert words in caught.value.message


@pytest.mark.parametrize(
    "host",
    [
        {"LogConfig": {"Type": "awslogs"}},
        {"PortBindings": {"80/sctp": [{"HostPort": "80"}]}},
    ],
)
def test_what_is_not_built_is_refused_and_not_ignored(host: dict[str, Any]) -> None:
    with pytest.raises(NotSupported):
        made({"HostConfig": host})


@pytest.mark.parametrize(
    "endpoint",
    [
        {"DriverOpts": {"com.docker.network.endpoint.nope": "b"}},
    ],
)
def test_what_an_endpoint_cannot_have_is_refused(endpoint: dict[str, Any]) -> None:
    with pytest.raises(NotSupported):
        made({"NetworkingConfig": {"EndpointsConfig": {"bridge": endpoint}}})


def test_an_image_without_command_needs_one() -> None:
    bare = ImageFacts(id=IMAGE.id, uuid=IMAGE.uuid)
    with pytest.raises(InvalidParameter, match="no command specified"):
        made({}, bare)


@pytest.mark.parametrize(
    ("body", "argv"),
    [
        ({}, ("ep", "cmd")),
        ({"Cmd": ["x"]}, ("ep", "x")),
        ({"Entrypoint": ["y"]}, ("y",)),
        ({"Entrypoint": ["y"], "Cmd": ["x"]}, ("y", "x")),
        ({"Entrypoint": [""], "Cmd": ["x"]}, ("x",)),
        ({"Entrypoint": [], "Cmd": ["x"]}, ("x",)),
    ],
)
def test_command_and_entrypoint_are_joined_as_dockerd_does(
    body: dict[str, Any], argv: tuple[str, ...]
) -> None:
    image = ImageFacts(IMAGE.id, IMAGE.uuid, {"Cmd": ["cmd"], "Entrypoint": ["ep"]})
    assert metadata(body, image).argv == argv


def test_the_image_gives_what_the_client_left_open() -> None:
    config = planned({"Env": ["LANG"], "Labels": {"tier": "own"}}).config
    assert config["Env"] == ["LANG", "PATH=/bin"]
    assert config["Labels"] == {"vendor": "me", "tier": "own"}
    assert config["WorkingDir"] == "/srv"


@pytest.mark.parametrize(
    ("added", "dropped", "expected"),
    [
        ([], [], set(DEFAULT_CAPABILITIES)),
        (["ALL"], [], set(ALL_CAPABILITIES)),
        (["ALL"], ["chown"], set(ALL_CAPABILITIES) - {"CAP_CHOWN"}),
        ([], ["ALL"], set()),
        (["net_admin"], ["ALL"], {"CAP_NET_ADMIN"}),
        (["CAP_BPF"], ["CAP_KILL"], set(DEFAULT_CAPABILITIES) - {"CAP_KILL"} | {"CAP_BPF"}),
    ],
)
def test_capabilities_are_added_and_dropped(
    added: list[str], dropped: list[str], expected: set[str]
) -> None:
    found = metadata({"HostConfig": {"CapAdd": added, "CapDrop": dropped}})
    assert set(found.runtime.capabilities) == expected


def test_a_tmpfs_wins_over_a_volume_of_the_image_and_a_bind_too() -> None:
    image = ImageFacts(
        IMAGE.id, IMAGE.uuid, {"Cmd": ["sh"], "Volumes": {"/a": {}, "/b": {}, "/c/": {}}}
    )
    found = planned({"HostConfig": {"Tmpfs": {"/a": ""}, "Binds": ["/srv:/b"]}}, image)
    points = mount_points(found, ())
    assert [(p.type, p.destination) for p in points] == [("bind", "/b"), ("volume", "/c")]


def test_discarded_ports_are_warned_of() -> None:
    found = planned({"HostConfig": {"NetworkMode": "host", "PortBindings": {"80/tcp": []}}})
    assert found.warnings == ("Published ports are discarded when using host network mode",)


def test_mounts_are_shown_as_they_were_sent() -> None:
    sent = [
        {"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "private"}},
        {"Type": "volume", "Target": "/c", "VolumeOptions": {"NoCopy": True}},
        {"Type": "tmpfs", "Target": "/d", "TmpfsOptions": {}},
    ]
    assert planned({"HostConfig": {"Mounts": sent}}).host_config["Mounts"] == sent


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ({}, None),
        ({"PidMode": "host", "SecurityOpt": ["no-new-privileges"]}, ["no-new-privileges", "label=disable"]),
        ({"IpcMode": "host"}, ["label=disable"]),
        ({"Privileged": True, "SecurityOpt": ["label=type:a"]}, ["label=type:a"]),
    ],
)  # fmt: skip
def test_who_shares_with_the_machine_has_no_label(asked: dict[str, Any], shown: object) -> None:
    assert planned({"HostConfig": asked}).host_config["SecurityOpt"] == shown


def test_limits_that_the_machine_lacks_are_told() -> None:
    host = {
        "Memory": 64 * 2**20,
        "MemorySwappiness": 10,
        "OomKillDisable": True,
        "OomScoreAdj": -500,
        "BlkioWeight": 300,
        "CpuShares": 5,
        "Ulimits": [
            {"Name": "nofile", "Soft": 5, "Hard": -1},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
    }
    able = Surroundings(cgroup_version="1")
    assert planned({"HostConfig": host}, around=able).warnings == ()
    around = Surroundings(
        limits={"BlkioWeight": False, "CPUShares": True},
        rlimits={"RLIMIT_NOFILE": 20000, "RLIMIT_CORE": 0},
        oom_score_adj=0,
    )
    discarded = "or the cgroup is not mounted."
    assert planned({"HostConfig": host}, around=around).warnings == (
        f"Your kernel does not support memory swappiness capabilities {discarded} Memory swappiness discarded.",
        "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
        f"Your kernel does not support Block I/O weight {discarded} Weight discarded.",
        "The ulimit nofile is lowered to 20000: zonegate may not raise it",
        "The oom score adj is raised to 0: zonegate may not lower it",
    )


def test_limits_that_are_none_or_not_kept_are_not_shown() -> None:
    host = {"BlkioWeight": 300, "CpuShares": 5, "PidsLimit": 0, "MemorySwappiness": -1}
    shown = planned({"HostConfig": host}, around=Surroundings(limits={"BlkioWeight": False}))
    assert [shown.host_config[key] for key in host] == [0, 5, None, None]


def test_limits_that_the_machine_lacks_are_not_asked_of_the_runtime() -> None:
    host = {"PidsLimit": 9, "CpusetCpus": "0", "CpuShares": 5, "Memory": 64 * 2**20}
    around = Surroundings(limits={"PidsLimit": False, "CPUSet": False, "SwapLimit": False})
    spec = zone_spec(planned({"HostConfig": host}, around=around))
    asked = decode(spec.internal_metadata).runtime.resources
    assert (asked.pids, asked.cpuset_cpus, asked.memory_swap) == (None, "", None)
    assert (asked.cpu_shares, asked.memory) == (5, 64 * 2**20)


def test_the_shell_of_an_image_is_for_builds_only() -> None:
    image = replace(IMAGE, config={**IMAGE.config, "Shell": ["/bin/bash", "-c"]})
    assert "Shell" not in planned({}, image).config
    assert planned({"Shell": ["sh"]}, image).config["Shell"] == ["sh"]


def test_settings_fill_in_limits_that_the_client_left_open() -> None:
    around = Surroundings(
        zone_defaults={"max_physical_memory": 1024, "quota": 10, "kernel_version": "5.1"}
    )
    spec = zone_spec(planned({"HostConfig": {"Memory": 64 * 2**20}}, around=around))
    assert (spec.max_physical_memory, spec.quota, spec.kernel_version) == (64, 10, "5.1")


texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
words = st.from_regex(r"\A[a-z][a-z0-9]{1,8}\Z")
bodies = st.fixed_dictionaries(
    {},
    optional={
        "Cmd": st.lists(texts, min_size=1, max_size=4),
        "Env": st.lists(st.builds("{}={}".format, words, texts), max_size=4),
        "Labels": st.dictionaries(words, texts, max_size=4),
        "Hostname": words,
        "Tty": st.booleans(),
        "User": words,
        "StopTimeout": st.integers(0, 100),
        "HostConfig": st.fixed_dictionaries(
            {},
            optional={
                "AutoRemove": st.booleans(),
                "Binds": st.lists(st.builds("/s:/{}:ro".format, words), max_size=3, unique=True),
                "CapAdd": st.lists(st.sampled_from(["NET_ADMIN", "ALL"]), max_size=2),
                "Memory": st.integers(6 * 2**20, 2**40),
                "OomScoreAdj": st.integers(-1000, 1000),
                "Tmpfs": st.dictionaries(
                    words.map("/scratch/{}".format), st.just("size=1m"), max_size=2
                ),
                "Annotations": st.dictionaries(words, texts, max_size=2, min_size=1),
                "ShmSize": st.integers(1, 2**40),
                "Sysctls": st.dictionaries(words.map("net.{}".format), words, max_size=2),
            },
        ),
    },
)


@given(bodies)
def test_inspect_shows_what_the_client_sent(body: dict[str, Any]) -> None:
    found = zone(body)
    shown = from_zone.inspect(
        found, networks={}, places=from_zone.Places(Path("/d"), Path("/e"), "overlay2")
    )
    assert (
        decode(
            ZoneSpec.model_validate(
                json.loads(json.dumps(found.spec.payload())), strict=False
            ).internal_metadata
        )
        == found.metadata
    )
    for key, value in body.items():
        if key == "HostConfig":
            continue
        expected = {**IMAGE.config["Labels"], **value} if key == "Labels" else value
        if key == "Env":
            names = {entry.partition("=")[0] for entry in value}
            expected = value + [e for e in IMAGE.config["Env"] if e.partition("=")[0] not in names]
        assert shown["Config"][key] == expected
    for key, value in body.get("HostConfig", {}).items():
        empty = key in ("Tmpfs", "Sysctls") and not value
        assert shown["HostConfig"].get(key, {} if empty else None) == value


@given(st.text(max_size=20))
def test_no_bind_text_breaks_the_parser(raw: str) -> None:
    try:
        spec = made({"HostConfig": {"Binds": [raw]}})
    except APIError:
        return
    assert spec.filesystems[0].target.startswith("/")
