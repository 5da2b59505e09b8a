"""`docker run` flags become the body that the docker CLI sends."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from dockerapi.errors import InvalidParameter, NotSupported
from gateway.translate.run_arguments import RunRequest, parse

FILES = {"vars": "# comment\nA=1\nHOME\nNOPE\n", "labels": "x=y\n", "profile": '{"a": [1]}'}


def run(line: str) -> RunRequest:
    return parse(
        shlex.split(line),
        read_file=FILES.__getitem__,
        environment={"HOME": "/root"},
        extra_flags=frozenset({"uuid"}),
    )


def body(line: str) -> dict[str, Any]:
    return run(line).body


def host(line: str) -> dict[str, Any]:
    found: dict[str, Any] = body(line)["HostConfig"]
    return found


def test_what_follows_the_image_is_the_command() -> None:
    request = run("--name=x --uuid u --rm busybox sh -c 'exit 1' --uuid v")
    assert request.body["Cmd"] == ["sh", "-c", "exit 1", "--uuid", "v"]
    assert (request.name, request.extra) == ("x", {"uuid": ["u"]})
    assert request.body["HostConfig"]["AutoRemove"] is True


def test_streams_follow_from_interactive_attach_and_detach() -> None:
    foreground = body("-it busybox")
    assert [
        foreground[key] for key in ("AttachStdin", "AttachStdout", "OpenStdin", "StdinOnce", "Tty")
    ] == [True] * 5
    detached = body("-dit busybox")
    assert [detached[key] for key in ("AttachStdin", "AttachStdout", "StdinOnce")] == [False] * 3
    assert detached["OpenStdin"] is True
    chosen = body("-a stderr busybox")
    assert (chosen["AttachStdout"], chosen["AttachStderr"]) == (False, True)


def test_environment_comes_from_flags_files_and_the_caller() -> None:
    assert body("-e B=2 -e HOME -e NOPE --env-file vars busybox")["Env"] == [
        "B=2", "HOME=/root", "A=1", "HOME=/root",
    ]  # fmt: skip


def test_ports_have_every_form_that_docker_takes() -> None:
    bindings = host(
        "-p 80 -p 8080:81 -p 127.0.0.1:9000-9001:90-91/udp -p [::1]::82 -p 7000-7002:83 busybox"
    )["PortBindings"]
    assert bindings == {
        "80/tcp": [{"HostIp": "", "HostPort": ""}],
        "81/tcp": [{"HostIp": "", "HostPort": "8080"}],
        "90/udp": [{"HostIp": "127.0.0.1", "HostPort": "9000"}],
        "91/udp": [{"HostIp": "127.0.0.1", "HostPort": "9001"}],
        "82/tcp": [{"HostIp": "::1", "HostPort": ""}],
        "83/tcp": [{"HostIp": "", "HostPort": "7000-7002"}],
    }


def test_volumes_without_a_source_are_anonymous() -> None:
    found = body("-v /data -v /a:/b:ro busybox")
    assert found["Volumes"] == {"/data": {}}
    assert found["HostConfig"]["Binds"] == ["/a:/b:ro"]


def test_mounts_are_read_as_comma_separated_fields() -> None:
    assert host("--mount type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave "
                "--mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770 busybox")["Mounts"] == [
        {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True,
         "BindOptions": {"Propagation": "rslave"}},
        {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1048576, "Mode": 0o1770}},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "key", "value"),
    [
        ("--memory 512m", "Memory", 536870912),
        ("-m 1.5g", "Memory", 1610612736),
        ("--memory-swap -1", "MemorySwap", -1),
        ("--cpus 1.5", "NanoCpus", 1500000000),
        ("--restart on-failure:3", "RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 3}),
        ("--ulimit nofile=1:2", "Ulimits", [{"Name": "nofile", "Soft": 1, "Hard": 2}]),
        ("--tmpfs /t:size=1m", "Tmpfs", {"/t": "size=1m"}),
        ("--log-driver none", "LogConfig", {"Type": "none"}),
        ("--log-opt max-size=1m", "LogConfig", {"Config": {"max-size": "1m"}}),
        ("--net host", "NetworkMode", "host"),
        ("--init", "Init", True),
        ("--security-opt seccomp=profile", "SecurityOpt", ['seccomp={"a":[1]}']),
        ("--device /dev/a:/dev/b:r", "Devices",
         [{"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"}]),
    ],
)  # fmt: skip
def test_limits_and_modes_reach_the_host_config(flag: str, key: str, value: object) -> None:
    assert host(f"{flag} busybox")[key] == value


def test_health_flags_make_one_health_check() -> None:
    assert body("--health-cmd true --health-interval 1m30s --health-retries 2 busybox")["Healthcheck"] == {
        "Test": ["CMD-SHELL", "true"], "Interval": 90_000_000_000, "Retries": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "requires at least 1 argument"),
        ("--no-such-flag busybox", "unknown flag: --no-such-flag"),
        ("-z busybox", "unknown shorthand flag: 'z' in -z"),
        ("--memory", "flag needs an argument: --memory"),
        ("--memory 5x busybox", "invalid size: '5x'"),
        ("-p aa:80 busybox", "invalid containerPort: aa:80"),
        ("--restart on-failure:x busybox", "maximum retry count must be an integer"),
        ("--cpus many busybox", "failed to parse"),
        ("--mount type=bind,colour=red busybox", "unexpected key 'colour'"),
    ],
)
def test_what_the_cli_would_refuse_is_refused(line: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        run(line)


def test_flags_that_are_not_built_say_so() -> None:
    with pytest.raises(NotSupported, match="--ip6 is not supported"):
        run("--ip6 fd00::2 busybox")


@pytest.mark.parametrize(
    ("flags", "key", "expected"),
    [
        (["--device-read-bps", "/dev/sda:1mb"], "BlkioDeviceReadBps", [{"Path": "/dev/sda", "Rate": 1 << 20}]),
        (["--device-write-iops=/dev/sda:9"], "BlkioDeviceWriteIOps", [{"Path": "/dev/sda", "Rate": 9}]),
        (["--blkio-weight-device", "/dev/sda:300"], "BlkioWeightDevice", [{"Path": "/dev/sda", "Weight": 300}]),
        (["--gpus", "all"], "DeviceRequests", [{"Count": -1, "Capabilities": [["gpu"]]}]),
        (["--gpus", '"device=0,1",driver=x'], "DeviceRequests", [{"DeviceIDs": ["0", "1"], "Driver": "x", "Capabilities": [["gpu"]]}]),
        (["--security-opt", "systempaths=unconfined"], "ReadonlyPaths", []),
        (["--mount", "type=bind,src=/a,dst=/b,ro,bind-recursive=readonly"], "Mounts",
         [{"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True, "BindOptions": {"ReadOnlyForceRecursive": True}}]),
        (["--mount", "src=v,dst=/b,volume-subpath=x,volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-label=a=b"], "Mounts",
         [{"Type": "volume", "Source": "v", "Target": "/b",
           "VolumeOptions": {"Subpath": "x", "DriverConfig": {"Options": {"type": "tmpfs", "device": "tmpfs"}}, "Labels": {"a": "b"}}}]),
        (["--mount", "type=image,src=i,dst=/b,image-subpath=x"], "Mounts",
         [{"Type": "image", "Source": "i", "Target": "/b", "ImageOptions": {"Subpath": "x"}}]),
        (["--mount", "type=tmpfs,dst=/b,tmpfs-size=1m,tmpfs-mode=700"], "Mounts",
         [{"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o700}}]),
    ],
)  # fmt: skip
def test_disks_devices_and_mounts_are_read_as_the_cli_does(
    flags: list[str], key: str, expected: Any
) -> None:
    request = parse([*flags, "busybox"], read_file=str, environment={})
    assert request.body["HostConfig"][key] == expected


@pytest.mark.parametrize(
    "flags",
    [
        ["--mount", "type=bind,zz=1"],
        ["--mount", "type=bind,bind-recursive=zz"],
        ["--mount", "type=tmpfs,tmpfs-size=zz"],
        ["--device-read-bps", "sda:1"],
        ["--gpus", "zz=1"],
    ],
)
def test_what_the_cli_cannot_read_is_refused(flags: list[str]) -> None:
    with pytest.raises(InvalidParameter):
        parse([*flags, "busybox"], read_file=str, environment={})
