"""Creation: what each option comes to, against what dockerd answered.  Refusals of plain mistakes: test_http_errors.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from compat.answers import Recording
from compat.clients import API
from compat.daemons import Daemon
from compat.exchanges import Exchange, ask, check, exchange, run
from compat.leftovers import new, settled, snapshot

NEW = "/v1.51"
LX = "is not supported for a container of brand lx on SmartOS"
INSPECT = "GET /containers/made/json"
GONE = ask("DELETE /containers/made?force=1&v=1")


def made(host: dict[str, object], **config: object) -> dict[str, object]:
    """A create body."""
    return {"Image": "bb", "Cmd": ["true"], "HostConfig": host, **config}


CREATE = "POST /containers/create?name=made"
EXCHANGES = [
    exchange(
        "what the image says and the client changes",
        run("echo $FLAVOUR:$OTHER; pwd; id -u", image="rich", Env=["FLAVOUR", "OTHER=1"], WorkingDir="/tmp/", User="7"),
        ask(CREATE, made({}, Image="rich", Labels={"tier": "mine", "new": "1"}, WorkingDir="/tmp//x/../"),
            show="Warnings"),
        ask(INSPECT, show="Config.Labels Config.WorkingDir Config.StopSignal Config.StopTimeout Config.Volumes Config.User"),
        GONE,
    ),
    exchange(
        "images by their ids",
        *(
            step
            for image in ("sha256:{id}", "{id}", "{id12}", "bb", "bb:latest", "docker.io/library/bb")
            for step in (ask(CREATE, made({}, Image=image)), ask(INSPECT, show="Config.Image"), GONE)
        ),
        ask(CREATE, made({}, Image="bb:sha256:{id}")),
        ask(CREATE, made({}, Image="bb:{id}")),
        ask(CREATE + "&platform=linux/mips64", made({})),
    ),
    exchange(
        "what came with later versions",
        ask(f"POST ={NEW}/containers/create?name=made", made({"Annotations": {"": "x"}})),
        ask(f"POST ={NEW}/containers/create?name=made", made({}, Healthcheck={"Test": ["CMD", "true"], "StartInterval": 7})),
        ask(f"POST ={NEW}/containers/create?name=made", made({"Annotations": {"a": "b"}})),
        ask(f"GET ={NEW}/containers/made/json", show="HostConfig.Annotations"),
        ask("GET =/v1.46/containers/json?all=1&filters=%7B%22name%22%3A%5B%22made%22%5D%7D", show="HostConfig.Annotations"),
        ask("GET =/v1.45/containers/json?all=1&filters=%7B%22name%22%3A%5B%22made%22%5D%7D", show="HostConfig.Annotations"),
        ask("DELETE /containers/made"),
    ),
    exchange(
        "nothing is masked where all is allowed",
        ask(CREATE, made({"Privileged": True}), smartos=f"501 Privileged {LX}: a zone has the rights of its brand, no Linux capabilities"),
        ask(INSPECT, show="HostConfig.MaskedPaths HostConfig.ReadonlyPaths", smartos="404 No such container: made"),
        ask("DELETE /containers/made", smartos="404 No such container: made"),
    ),
    exchange(
        "names with a slash, and warnings always a list",
        ask("POST /containers/create?name=/made", made({}), show="Warnings"),
        ask(INSPECT, show="Name"),
        GONE,
    ),
    exchange(
        "what is masked in proc and sys",
        ask(CREATE, made({"MaskedPaths": [], "ReadonlyPaths": []})),
        ask(INSPECT, show="HostConfig.MaskedPaths HostConfig.ReadonlyPaths"), GONE,
        ask(CREATE, made({"MaskedPaths": ["/proc/uptime"], "ReadonlyPaths": ["/proc/bus"]})),
        ask(INSPECT, show="HostConfig.MaskedPaths HostConfig.ReadonlyPaths"), GONE,
        ask(CREATE, made({})),
        ask(INSPECT, show="HostConfig.ReadonlyPaths HostConfig.ShmSize HostConfig.MemorySwappiness HostConfig.PidsLimit"),
        GONE,
        run("cat /proc/uptime; touch /proc/sys/kernel/hostname && echo writable",
            {"MaskedPaths": ["/proc/uptime"], "ReadonlyPaths": []},
            smartos="re:[01] .*"),
    ),
    exchange(
        "a limit that means none",
        ask(CREATE, made({"MemorySwappiness": -1, "PidsLimit": -5, "ShmSize": 0})),
        ask(INSPECT, show="HostConfig.MemorySwappiness HostConfig.PidsLimit HostConfig.ShmSize"),
        GONE,
    ),
    exchange(
        "fields of other systems",
        ask(CREATE, made({"CpuPercent": 5}), show="Warnings"), GONE,
        ask(CREATE, made({"CpuCount": 5}), show="Warnings",
            ours='201 {"Warnings": ["linux does not support CPU count. Count discarded."]}', why="dockerd passes it over"),
        ask("DELETE /containers/made"),
        ask(CREATE, made({"IOMaximumIOps": 5})),
        ask(CREATE, made({"IOMaximumBandwidth": 5})),
        ask(CREATE, made({"Cgroup": "some"}), show="Warnings",
            ours='201 {"Warnings": ["linux does not support the field Cgroup. Cgroup discarded."]}', why="dockerd passes it over"),
        GONE,
        ask(CREATE, made({"CpuRealtimeRuntime": 950000, "CpuRealtimePeriod": 1000})),
    ),
    exchange(
        "devices that a driver is to choose",
        ask(CREATE, made({"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu", "nvidia"], ["x"]]}]}), show="Warnings",
            smartos=f"501 DeviceRequests {LX}: a zone sees the devices of its brand"),
        ask("POST /containers/made/start", smartos="404 No such container: made"),
        ask(INSPECT, show="State.Status State.Error HostConfig.DeviceRequests", smartos="404 No such container: made"),
        ask("DELETE /containers/made", smartos="404 No such container: made"),
    ),
    exchange(
        "a limit of a disk that is none",
        ask(CREATE, made({"BlkioDeviceReadBps": [{"Path": "/dev/nope", "Rate": 1000}]}),
            smartos="201"),
        ask("POST /containers/made/start", smartos="204"),
        GONE,
    ),
    exchange(
        "shared memory",
        run("df /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2", {"ShmSize": 2 << 20}, smartos="re:0 .*"),
        run("ls -d /dev/shm 2>&1", {"IpcMode": "none"},
            smartos=f"create 501 IpcMode none {LX}: the brand mounts /dev/shm in every zone"),
        run("true", {"IpcMode": "container:nobody"},
            smartos=f"create 501 IpcMode {LX}: each zone has shared memory of its own"),
        run("true", {"PidMode": "container:nobody"},
            smartos=f"create 501 PidMode {LX}: each zone has processes of its own"),
    ),
    exchange(
        "namespaces of a container that does not run",
        ask("POST /containers/create?name=owner", made({})),
        *(
            run("true", {mode: "container:owner"},
                smartos=f"re:create 501 .* {LX}: .*")
            for mode in ("PidMode", "IpcMode", "NetworkMode")
        ),
        ask("DELETE /containers/owner"),
    ),
    exchange(
        "a network that is joined before it is there",
        ask(CREATE, made({"NetworkMode": "container:later"}), smartos=f"501 NetworkMode {LX}: each zone has a network stack of its own"),
        ask("POST /containers/made/start", smartos="404 No such container: made"),
        ask(INSPECT, show="State.Status State.Error HostConfig.NetworkMode", smartos="404 No such container: made"),
        ask("POST /containers/create?name=later", made({}, Cmd=["sleep", "1000"])),
        ask("POST /containers/later/start"),
        ask("POST /containers/made/start", smartos="404 No such container: made"),
        ask("DELETE /containers/made?force=1", smartos="404 No such container: made"),
        ask(CREATE, made({"NetworkMode": "container:later"}), smartos=f"501 NetworkMode {LX}: each zone has a network stack of its own"),
        ask(INSPECT, show="HostConfig.NetworkMode", smartos="404 No such container: made"),
        ask("DELETE /containers/made?force=1", smartos="404 No such container: made"),
        ask("DELETE /containers/later?force=1"),
    ),
    exchange(
        "a network that is not there",
        ask(CREATE, made({"NetworkMode": "nonet"})),
        ask("POST /containers/made/start"),
        ask(INSPECT, show="State.Status HostConfig.NetworkMode"),
        GONE,
    ),
    exchange(
        "an image for another machine",
        ask("POST /images/create?fromImage={registry}/foreign&tag=latest"),
        ask(CREATE, made({}, Image="{registry}/foreign"), show="Warnings",
            ours='re:201 {"Warnings": \\["The requested image\'s platform \\(linux/s390x\\) does not match the detected host platform .*"\\]}',
            why="the machine's is in it"),
        GONE,
        ask("DELETE /images/{registry}/foreign"),
    ),
    exchange(
        "a size of the root",
        ask(CREATE, made({"StorageOpt": {"foo": "1g"}}), smartos="400 unknown storage option foo"),
        ask(CREATE, made({"StorageOpt": {"size": "zz"}}), smartos="400 invalid size: 'zz'"),
        ask(CREATE, made({"StorageOpt": {"size": "1g"}}), smartos="201"),
        ask("DELETE /containers/made", smartos="204"),
    ),
    exchange(
        "security options",
        ask(CREATE, made({"SecurityOpt": ["disable"]})), GONE,
        ask(CREATE, made({"SecurityOpt": ["systempaths=unconfined"]})),
        ask(CREATE, made({"SecurityOpt": ["writable-cgroups=zz"]})),
        run("grep -c ' cgroup.* rw' /proc/self/mounts", {"SecurityOpt": ["writable-cgroups=true"]}, smartos=f"create 501 writable-cgroups {LX}: there are no cgroups"),
    ),
    exchange(
        "runtimes",
        ask(CREATE, made({"Runtime": "runc"}), show="Warnings",
            ours='re:201 {"Warnings": \\["There is no runtime runc. The container runs by (crun|vmadm)."\\]}',
            why="it is another runtime's name here"),
        ask(INSPECT, show="HostConfig.Runtime"),
        GONE,
    ),
    exchange(
        "few open files",
        run("ulimit -n", {"Ulimits": [{"Name": "nofile", "Soft": 12, "Hard": 13}]},
            ours="0 12", why="set once the runtime is done with the start: dockerd's has too few files then", smartos="re:0 .*"),
    ),
    exchange(
        "tmpfs of both kinds",
        run("grep ' /t ' /proc/self/mounts | cut -d' ' -f3,4 | tr , '\\n' | grep -v inode64",
            {"Tmpfs": {"/t": "size=1m,mode=700,uid=5,exec,rw"}},
            smartos="re:create 501 .*"),
        run("grep ' /t ' /proc/self/mounts | cut -d' ' -f4 | tr , '\\n' | grep -E 'ro|size|mode|exec'",
            {"Mounts": [{"Type": "tmpfs", "Target": "/t", "ReadOnly": True, "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o700}}]},
            smartos="re:create 501 .*"),
        ask(CREATE, made({"Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Options": [["zz"]]}}]})),
        ask("DELETE /containers/made"),
    ),
]  # fmt: skip


# The same words on every host: once is enough.
NO_HOSTS_AFFAIR = {
    "images by their ids",
    "what came with later versions",
    "names with a slash, and warnings always a list",
    "a limit that means none",
    "fields of other systems",
}


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param(
            subject,
            marks=[pytest.mark.linux_only("the host does not come into it")]
            if subject.name in NO_HOSTS_AFFAIR
            else [],
        )
        for subject in EXCHANGES
    ],
    ids=str,
)
def test_creation_goes_as_with_dockerd(
    subject: Exchange, recording: Recording, api: API, names: dict[str, str], fill: dict[str, str]
) -> None:
    image = api.ok("GET", "/images/bb/json")["Id"].removeprefix("sha256:")
    check(subject, recording, api, fill | {"id": image, "id12": image[:12]}, names)


def _disk() -> str:
    """A disk of this machine, by its path; "" if none is to be seen."""
    for name in sorted(path.name for path in Path("/sys/block").iterdir()):
        if Path(f"/dev/{name}").is_block_device() and not name.startswith(("zram", "loop")):
            return f"/dev/{name}"
    return ""


@pytest.mark.linux_only("zones share the disks of the pool: accepted with a warning")
def test_a_disk_can_be_limited(api: API) -> None:
    if not _disk():
        pytest.skip("this machine has no disk that is to be seen")
    limits = {
        key: [{"Path": _disk(), "Rate": rate}]
        for key, rate in (
            ("BlkioDeviceReadBps", 1 << 20),
            ("BlkioDeviceWriteBps", 2 << 20),
            ("BlkioDeviceReadIOps", 300),
            ("BlkioDeviceWriteIOps", 400),
        )
    }
    body = {
        "Image": "bb",
        "Cmd": [
            "sh",
            "-c",
            "cd /sys/fs/cgroup; cat io.max blkio/blkio.throttle.*",
        ],
        "HostConfig": limits,
    }
    answer = api.ok("POST", "/containers/create", body)
    if answer["Warnings"]:
        pytest.skip(f"this machine limits no disks: {answer['Warnings']}")
    name = answer["Id"]
    api.ok("POST", f"/containers/{name}/start")
    api.ok("POST", f"/containers/{name}/wait")
    said = api("GET", f"/containers/{name}/logs?stdout=1").body.decode(errors="replace")
    for value in ("1048576", "2097152", "300", "400"):
        assert value in said


def test_a_refused_creation_leaves_nothing(api: API, daemon: Daemon) -> None:
    if daemon.kind == "dockerd":
        pytest.skip("dockerd leaves the volumes")
    before = snapshot(daemon)
    wanted = {"Binds": ["fresh1:/a", "fresh2:/b"], "LogConfig": {"Type": "json-file", "Config": {}}}
    refused = (
        {"LogConfig": {"Type": "json-file", "Config": {"zz": "1"}}},
        {"VolumeDriver": "nothere"},
        {"VolumesFrom": ["nobody"]},
        {"Mounts": [{"Type": "volume", "Source": "fresh3", "Target": "/c",
                     "VolumeOptions": {"DriverConfig": {"Options": {"zz": "1"}}}}]},
        {"Mounts": [{"Type": "volume", "Source": "fresh4", "Target": "/bin",
                     "VolumeOptions": {"DriverConfig": {"Options": {"type": "none", "o": "bind", "device": "/nope"}}}}]},
    )  # fmt: skip
    for host in refused:
        answer = api("POST", "/containers/create", made({**wanted, **host}))
        assert 400 <= answer.status <= 501, answer.body
    assert not [
        row for row in api.ok("GET", "/volumes")["Volumes"] if row["Name"].startswith("fresh")
    ]
    assert settled(lambda: new(before, snapshot(daemon)), 2) == {}
