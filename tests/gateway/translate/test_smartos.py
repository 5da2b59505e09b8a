"""Create bodies on SmartOS: payloads on record, what is refused, what is told, what the settings add."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import APIError, InvalidParameter, NotSupported
from dockerapi.models.containers import ContainerCreate
from gateway.settings import SMARTOS_ZONE_DEFAULTS, Settings
from gateway.translate import from_zone
from gateway.translate.facts import Identity, ImageFacts, Surroundings
from gateway.translate.mounts import MountPoint
from gateway.translate.run_arguments import parse
from gateway.translate.smartos import zone_defaults
from gateway.translate.to_zone import Plan, mount_points, plan, zone_spec
from gateway.zones.host import Zone
from gateway.zones.metadata import decode
from gateway.zones.spec import Nic, ZoneSpec, ZoneState
from tests.fakes.globalzone.properties import check_create

PAYLOADS = Path(__file__).parent.parent / "payloads" / "smartos"
DOCKER_ID = "0123456789abcdef" * 4
HOST = "HostConfig"
GIB = 2**30

BUSYBOX = ImageFacts(
    id="sha256:" + "ab" * 32,
    uuid="11111111-2222-3333-4444-555555555555",
    config={"Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": {"vendor": "me"}},
)
BASE = ImageFacts(
    id="sha256:" + "cd" * 32,
    uuid="96bcddda-beb7-11e5-af20-a3fb54c8ae29",
    os="smartos",
    type="zone-dataset",
    manifest={"uuid": "96bcddda-beb7-11e5-af20-a3fb54c8ae29", "type": "zone-dataset"},
)
DEBIAN = replace(
    BASE,
    uuid="1adf7176-8679-11e5-9ff7-3beedf8060b9",
    os="linux",
    type="lx-dataset",
    manifest={"type": "lx-dataset", "tags": {"kernel_version": "3.16.0", "role": "os"}},
)
MACHINE = replace(
    BASE,
    uuid="2adf7176-8679-11e5-9ff7-3beedf8060b9",
    os="linux",
    type="zvol",
    manifest={
        "type": "zvol",
        "image_size": 10240,
        "nic_driver": "virtio",
        "disk_driver": "virtio",
        "cpu_type": "host",
        "requirements": {"bootrom": "uefi"},
    },
)
IMAGES = {"busybox": BUSYBOX, "base": BASE, "debian": DEBIAN, "machine": MACHINE}
NICS = tuple(
    Nic(
        nic_tag=tag,
        ip=f"{network}.146",
        netmask="255.255.255.0",
        gateway=f"{network}.1",
        primary=True,
        network_uuid=f"99999999-2222-3333-4444-{number:0>12}",
    )
    for number, tag, network in ((1, "admin", "10.110.110"), (2, "zg57ab", "10.5.0"))
)
AROUND = Surroundings(
    platform="smartos",
    ncpu=8,
    cgroup_version="",
    runtimes=("vmadm",),
    default_runtime="vmadm",
    dns=("8.8.8.8",),
    host_gateway="10.110.110.1",
    zone_defaults=SMARTOS_ZONE_DEFAULTS,
)


def planned(body: dict[str, Any], image: str = "busybox", around: Surroundings = AROUND) -> Plan:
    """A plan of a wire body for one of the images."""
    full = ContainerCreate.model_validate({"Image": image, **body})
    return plan(full, IMAGES[image], Identity(DOCKER_ID, "brave_euler"), around)


def made(body: dict[str, Any], image: str = "busybox", around: Surroundings = AROUND) -> ZoneSpec:
    """The spec; a volume is a dataset named after its target."""
    found = planned(body, image, around)
    points = [
        MountPoint.read(
            {**p.kept(), "source": f"/zones/v{p.destination}", "name": p.name or "anon"}
        )
        if p.type == "volume"
        else p
        for p in mount_points(found, ())
    ]
    return zone_spec(found, nics=NICS[: len(found.requests)], points=points)


GOLDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("busybox", {}),
    "command": ("busybox", {"Cmd": ["echo", "a b"], "Tty": True, "OpenStdin": True}),
    "entrypoint": ("busybox", {"Entrypoint": ["/bin/tool"], "Cmd": ["--x"], "Env": ["A=1", "B"]}),
    "user": ("busybox", {"User": "daemon:adm", "WorkingDir": "/srv/"}),
    "labels": ("busybox", {"Labels": {"com.docker.compose.project": "p", "n": "1"}}),
    "names": ("busybox", {
        "Hostname": "web", "Domainname": "example.org",
        HOST: {"ExtraHosts": ["db:10.0.0.1", "gw:host-gateway"], "Dns": ["9.9.9.9"],
               "DnsSearch": ["example.org"]},
    }),
    "memory": ("busybox", {HOST: {"Memory": 64 * 2**20}}),
    "much_memory": ("busybox", {HOST: {"Memory": 8 * GIB, "MemorySwap": -1}}),
    "memory_and_swap": ("busybox", {HOST: {"Memory": 256 * 2**20, "MemorySwap": GIB}}),
    "cpus": ("busybox", {HOST: {"NanoCpus": 1_500_000_000, "CpuShares": 100_000}}),
    "cpu_quota": ("busybox", {HOST: {"CpuQuota": 25_000, "CpuPeriod": 50_000}}),
    "processes": ("busybox", {HOST: {"PidsLimit": 100}}),
    "block_weight": ("busybox", {HOST: {"BlkioWeight": 300}}),
    "quota": ("busybox", {HOST: {"StorageOpt": {"size": "20g"}}}),
    "temporary": ("busybox", {HOST: {"Tmpfs": {"/tmp": "size=64m,mode=1777"}}}),
    "temporary_without_size": ("busybox", {HOST: {"Tmpfs": {"/tmp": ""}}}),
    "restart_always": ("busybox", {HOST: {"RestartPolicy": {"Name": "unless-stopped"}}}),
    "restart_on_failure": ("busybox", {
        HOST: {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}
    }),
    "log": ("busybox", {HOST: {"LogConfig": {"Type": "local", "Config": {"max-size": "10m"}}}}),
    "no_log": ("busybox", {HOST: {"LogConfig": {"Type": "none"}}}),
    "ports": ("busybox", {
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        HOST: {"PortBindings": {"80/tcp": [{"HostPort": "8080"}], "90": None}},
    }),
    "publish_all": ("busybox", {"ExposedPorts": {"7000-7002/tcp": {}}, HOST: {"PublishAllPorts": True}}),
    "binds": ("busybox", {HOST: {"Binds": ["/opt/a:/a:ro", "data:/data:nocopy"]}}),
    "volumes": ("busybox", {
        "Volumes": {"/anon": {}},
        HOST: {"Mounts": [{"Type": "volume", "Source": "cache", "Target": "/c", "ReadOnly": True}]},
    }),
    "no_network": ("busybox", {HOST: {"NetworkMode": "none"}}),
    "two_networks": ("busybox", {
        "NetworkingConfig": {"EndpointsConfig": {"bridge": {}, "back": {"Aliases": ["db"]}}}
    }),
    "stop": ("busybox", {"StopSignal": "SIGINT", "StopTimeout": 3}),
    "full_zone": ("base", {"Hostname": "web"}),
    "full_zone_limits": ("base", {
        "Domainname": "example.org",
        HOST: {"Memory": 512 * 2**20, "NanoCpus": 2 * 10**9, "StorageOpt": {"size": "5g"},
               "Binds": ["/opt/a:/a"], "RestartPolicy": {"Name": "always"}},
    }),
    "full_zone_metadata": ("base", {"Env": ["root_authorized_keys=ssh-ed25519 A", "admin_pw=geheim"]}),
    "native_container": ("base", {
        "Cmd": ["/usr/bin/uptime"], "Labels": {"com.zonegate.brand": "joyent-minimal"}
    }),
    "full_lx": ("debian", {"Hostname": "debianz01", HOST: {"PublishAllPorts": True}}),
    "machine": ("machine", {"Env": ["cloud-init:user-data=#cloud-config"]}),
    "machine_limits": ("machine", {
        HOST: {"Memory": 2 * GIB, "NanoCpus": 2 * 10**9, "StorageOpt": {"size": "20g"}}
    }),
    "machine_kvm": ("machine", {"Labels": {"com.zonegate.brand": "kvm"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_a_body_gives_the_payload_on_record(name: str) -> None:
    """ZONEGATE_WRITE_PAYLOADS=1 takes the records anew; look at the difference before you keep it."""
    image, body = GOLDEN[name]
    record = {"image": image, "body": body, "payload": made(body, image).payload()}
    path = PAYLOADS / f"{name}.json"
    if os.environ.get("ZONEGATE_WRITE_PAYLOADS"):
        path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    assert json.loads(path.read_text()) == record


@pytest.mark.parametrize("name", GOLDEN)
def test_vmadm_would_take_every_payload_on_record(name: str) -> None:
    assert check_create(json.loads((PAYLOADS / f"{name}.json").read_text())["payload"]) == []


@pytest.mark.parametrize("name", GOLDEN)
def test_inspect_shows_every_zone_on_record(name: str) -> None:
    image, body = GOLDEN[name]
    spec = made(body, image)
    found = Zone(spec, decode(spec.internal_metadata), ZoneState.STOPPED, created_ns=1)
    places = from_zone.Places(Path("/d"), Path("/e"), "zfs")
    shown = from_zone.inspect(found, networks={}, places=places)
    assert (shown["Id"], shown["Name"]) == (DOCKER_ID, "/brave_euler")
    assert shown["Config"]["Env"] == [*body.get("Env", []), *IMAGES[image].config.get("Env", [])]
    assert shown["Zone"] == spec.payload()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("busybox", {HOST: {"Privileged": True}}, "Privileged"),
    ("busybox", {HOST: {"CapAdd": ["NET_ADMIN"]}}, "CapAdd"),
    ("busybox", {HOST: {"CapDrop": ["ALL"]}}, "CapDrop"),
    ("busybox", {HOST: {"SecurityOpt": ["no-new-privileges"]}}, "no-new-privileges"),
    ("busybox", {HOST: {"SecurityOpt": ['seccomp={"syscalls":[]}']}}, "seccomp"),
    ("busybox", {HOST: {"SecurityOpt": ["apparmor=mine"]}}, "AppArmor"),
    ("busybox", {HOST: {"Devices": [{"PathOnHost": "/dev/null"}]}}, "Devices"),
    ("busybox", {HOST: {"DeviceCgroupRules": ["c 1:3 r"]}}, "DeviceCgroupRules"),
    ("busybox", {HOST: {"Sysctls": {"net.core.somaxconn": "1"}}}, "Sysctls"),
    ("busybox", {HOST: {"ReadonlyRootfs": True}}, "ReadonlyRootfs"),
    ("busybox", {HOST: {"GroupAdd": ["audio"]}}, "GroupAdd"),
    ("busybox", {HOST: {"NetworkMode": "host"}}, "NetworkMode"),
    ("busybox", {HOST: {"NetworkMode": "container:x"}}, "NetworkMode"),
    ("busybox", {HOST: {"PidMode": "host"}}, "PidMode"),
    ("busybox", {HOST: {"IpcMode": "container:x"}}, "IpcMode"),
    ("busybox", {HOST: {"UTSMode": "host"}}, "UTSMode"),
    ("busybox", {HOST: {"Tmpfs": {"/run": ""}}}, "tmpfs on /run"),
    ("busybox", {HOST: {"Tmpfs": {"/tmp": "noexec"}}}, "option noexec"),
    ("busybox", {HOST: {"Mounts": [{"Type": "tmpfs", "Target": "/fast"}]}}, "tmpfs on /fast"),
    ("busybox", {HOST: {"Binds": ["/a:/b:rshared"]}}, "mount propagation"),
    (
        "busybox",
        {HOST: {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b",
                            "BindOptions": {"NonRecursive": True}}]}},
        "NonRecursive",
    ),
    ("busybox", {HOST: {"LogConfig": {"Type": "awslogs"}}}, "awslogs"),
    ("base", {"Cmd": ["ls"]}, "Cmd is not supported for a full zone of brand joyent"),
    ("base", {"Entrypoint": ["ls"]}, "Entrypoint"),
    ("base", {"User": "me"}, "User"),
    ("base", {"WorkingDir": "/srv"}, "WorkingDir"),
    ("base", {HOST: {"ExtraHosts": ["a:1.2.3.4"]}}, "ExtraHosts"),
    ("base", {HOST: {"DnsSearch": ["a.b"]}}, "DnsSearch"),
    ("base", {HOST: {"RestartPolicy": {"Name": "on-failure"}}}, "on-failure"),
    ("base", {HOST: {"LogConfig": {"Type": "none"}}}, "LogConfig none"),
    ("debian", {"Cmd": ["ls"]}, "a full zone of brand lx"),
    ("machine", {"Cmd": ["ls"]}, "a machine of brand bhyve"),
    ("machine", {HOST: {"Binds": ["/a:/b"]}}, "Binds"),
    ("machine", {"Volumes": {"/b": {}}}, "Volumes"),
    ("machine", {HOST: {"Tmpfs": {"/tmp": ""}}}, "Tmpfs"),
    ("machine", {HOST: {"VolumesFrom": ["x"]}}, "VolumesFrom"),
    ("machine", {"Domainname": "a.b"}, "Domainname"),
    ("machine", {"Healthcheck": {"Test": ["CMD", "true"]}}, "Healthcheck"),
    (
        "machine",
        {"Labels": {"com.zonegate.brand": "kvm"}, HOST: {"StorageOpt": {"size": "20g"}}},
        "StorageOpt",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("image", "body", "words"), REFUSED)
def test_what_no_zone_can_be_is_refused_with_the_reason(
    image: str, body: dict[str, Any], words: str
) -> None:
    with pytest.raises(NotSupported) as caught:
        made(body, image)
    assert words in caught.value.message


WARNED: list[tuple[str, dict[str, Any], str]] = [
    ("busybox", {HOST: {"MemoryReservation": 2**24}}, "MemoryReservation"),
    ("busybox", {HOST: {"MemorySwappiness": 10}}, "MemorySwappiness"),
    ("busybox", {HOST: {"OomKillDisable": True}}, "OomKillDisable"),
    ("busybox", {HOST: {"OomScoreAdj": 1}}, "OomScoreAdj"),
    ("busybox", {HOST: {"CpusetCpus": "0"}}, "CpusetCpus"),
    ("busybox", {HOST: {"CpusetMems": "0"}}, "CpusetMems"),
    ("busybox", {HOST: {"Ulimits": [{"Name": "nofile", "Soft": 9, "Hard": 9}]}}, "Ulimits"),
    ("busybox", {HOST: {"DnsOptions": ["ndots:1"]}}, "DnsOptions"),
    ("busybox", {HOST: {"CgroupParent": "/x"}}, "CgroupParent"),
    ("busybox", {HOST: {"CgroupnsMode": "host"}}, "CgroupnsMode"),
    ("busybox", {HOST: {"ShmSize": 2**20}}, "ShmSize"),
    ("busybox", {HOST: {"Init": True}}, "Init"),
    ("busybox", {HOST: {"LogConfig": {"Config": {"max-file": "3"}}}}, "max-file"),
    ("busybox", {HOST: {"LogConfig": {"Config": {"max-size": "10k"}}}}, "max-size"),
    ("busybox", {"StopSignal": "SIGRTMIN+3"}, "StopSignal SIGRTMIN+3"),
    ("base", {"StopSignal": "SIGINT"}, "StopSignal"),
    ("base", {"StopTimeout": 3}, "StopTimeout"),
    ("base", {HOST: {"LogConfig": {"Config": {"max-size": "10m"}}}}, "LogConfig"),
    ("machine", {HOST: {"Memory": 2**30, "MemorySwap": 2**30}}, "MemorySwap"),
    ("machine", {HOST: {"PidsLimit": 5}}, "PidsLimit"),
    ("machine", {HOST: {"NanoCpus": 1_500_000_000}}, "a part of a CPU"),
]


@pytest.mark.parametrize(("image", "body", "words"), WARNED)
def test_what_has_no_effect_on_a_zone_is_told(image: str, body: dict[str, Any], words: str) -> None:
    (warning,) = planned(body, image).warnings
    assert words in warning
    made(body, image)


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_is_told_of_a_body_that_asks_for_nothing(image: str) -> None:
    assert planned({}, image).warnings == ()


def test_what_the_docker_cli_sends_of_itself_is_no_wish() -> None:
    sent = parse(["-it", "--rm", "busybox"], read_file=str, environment={}).body
    swappiness = {**sent[HOST], "MemorySwappiness": -1, "ConsoleSize": [24, 80], "PidsLimit": 0}
    assert planned({**sent, HOST: swappiness}).warnings == ()


@pytest.mark.parametrize(
    "host",
    [
        {"CapAdd": ["CHOWN"], "CapDrop": ["NET_ADMIN"]},
        {"SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined", "label=disable"]},
        {"IpcMode": "shareable", "UsernsMode": "host", "CgroupnsMode": "private"},
    ],
)
def test_what_a_zone_is_anyway_may_be_asked_for(host: dict[str, Any]) -> None:
    assert planned({HOST: host}).warnings == ()


def test_the_settings_fill_in_what_the_brand_has() -> None:
    given = {
        "kernel_version": "5.1",
        "tmpfs": 64,
        "quota": 3,
        "firewall_enabled": False,
        "vcpus": 4,
    }
    around = replace(AROUND, zone_defaults={**SMARTOS_ZONE_DEFAULTS, **given})
    docker = made({}, around=around)
    assert (docker.kernel_version, docker.tmpfs, docker.quota) == ("5.1", 64, 3)
    assert (docker.firewall_enabled, docker.vcpus, docker.max_physical_memory) == (
        False,
        None,
        1024,
    )
    full = made({}, "base", around)
    assert (full.kernel_version, full.tmpfs, full.quota) == (None, 64, 3)
    machine = made({}, "machine", around)
    assert (machine.vcpus, machine.ram, machine.quota, machine.tmpfs) == (4, 1024, None, None)


@pytest.mark.parametrize("backend", ["linux", "smartos"])
def test_a_boolean_of_the_settings_stays_one(backend: str) -> None:
    settings = Settings.model_validate(
        {"backend": backend, "zone_defaults": {"firewall_enabled": False, "quota": 1}}
    )
    around = replace(AROUND, platform=backend, zone_defaults=zone_defaults(settings))
    spec = made({}, around=replace(around, runtimes=("crun",), default_runtime="crun"))
    assert (spec.firewall_enabled, spec.quota) == (False, 1)
    assert spec.max_lwps == (2000 if backend == "smartos" else None)


def test_an_image_knows_better_than_the_settings_what_linux_it_needs() -> None:
    around = replace(AROUND, zone_defaults={"kernel_version": "5.1"})
    assert made({}, "debian", around).kernel_version == "3.16.0"


def test_a_setting_that_vmadm_would_not_take_is_named() -> None:
    for key, value in (("quotta", 3), ("cpu_shares", -1)):
        with pytest.raises(InvalidParameter, match=f"settings: zone_defaults.{key}"):
            made({}, around=replace(AROUND, zone_defaults={key: value}))


def test_limits_are_settled_as_vmadm_would() -> None:
    small = made({HOST: {"Memory": 64 * 2**20}})
    assert (small.max_physical_memory, small.max_locked_memory, small.max_swap) == (64, 64, 256)
    large = made({HOST: {"Memory": 8 * GIB, "MemorySwap": -1}})
    assert (large.max_physical_memory, large.max_swap) == (8192, 8192)


@pytest.mark.parametrize(
    ("interface", "image", "names"),
    [
        ("", "busybox", ["eth0", "eth1"]),
        ("net0", "busybox", ["net0", "net1"]),
        ("", "base", ["net0", "net1"]),
        ("eth4", "base", ["eth4", "eth5"]),
    ],
)
def test_nics_are_named_as_the_brand_or_the_settings_have_it(
    interface: str, image: str, names: list[str]
) -> None:
    body = {"NetworkingConfig": {"EndpointsConfig": {"bridge": {}, "back": {}}}}
    found = made(body, image, replace(AROUND, interface=interface)).nics
    assert [nic.interface for nic in found] == names
    assert [nic.primary for nic in found] == [True, None]


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ({"size": "1g"}, "at least as large"),
        ({"size": "x"}, "invalid size"),
        ({"a": "b"}, "unknown"),
    ],
)
def test_a_disk_that_cannot_be_is_refused(storage: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        made({HOST: {"StorageOpt": storage}}, "machine")


def test_an_image_of_layers_for_another_system_is_refused() -> None:
    with pytest.raises(NotSupported, match="layers for windows"):
        plan(
            ContainerCreate.model_validate({"Image": "w"}),
            replace(BUSYBOX, os="windows"),
            Identity(DOCKER_ID, "w"),
            AROUND,
        )


def test_an_image_servers_image_runs_on_smartos_only() -> None:
    with pytest.raises(NotSupported, match="zone-dataset runs on SmartOS only"):
        planned({}, "base", Surroundings())


bodies = st.fixed_dictionaries(
    {},
    optional={
        "Cmd": st.lists(st.text(max_size=3), max_size=2),
        "Env": st.lists(st.sampled_from(["A=1", "b_pw=2", "C"]), max_size=3),
        "Labels": st.dictionaries(
            st.sampled_from(["com.zonegate.brand", "x"]), st.sampled_from(["kvm", "joyent", "lx"])
        ),
        HOST: st.fixed_dictionaries(
            {},
            optional={
                "Memory": st.integers(0, 2**36),
                "MemorySwap": st.integers(-1, 2**36),
                "NanoCpus": st.integers(0, 8 * 10**9),
                "CpuShares": st.integers(0, 2**18),
                "BlkioWeight": st.integers(10, 1000),
                "PidsLimit": st.integers(-1, 9),
                "StorageOpt": st.fixed_dictionaries({"size": st.sampled_from(["1m", "30g"])}),
                "Tmpfs": st.dictionaries(st.just("/tmp"), st.sampled_from(["", "size=1m"])),
            },
        ),
    },
)


@given(st.sampled_from([*IMAGES]), bodies)
def test_whatever_is_asked_for_is_refused_or_a_payload_that_vmadm_takes(
    image: str, body: dict[str, Any]
) -> None:
    """`tests/conftest.py` checks each spec that is made."""
    try:
        spec = made(body, image)
    except APIError:
        return
    assert ZoneSpec.model_validate_json(json.dumps(spec.payload())) == spec
