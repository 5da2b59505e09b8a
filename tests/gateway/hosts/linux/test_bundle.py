import dataclasses
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import APIError, InvalidParameter, NotSupported
from gateway.hosts.command import Spawner, run
from gateway.hosts.linux import devices, machine, mounts, seccomp
from gateway.hosts.linux.bundle import exec_process, oci_config
from gateway.hosts.linux.cgroups import Cgroups
from gateway.hosts.linux.machine import Machine, Place
from gateway.hosts.linux.process import few_files, override
from gateway.hosts.linux.users import Identity
from gateway.zones.host import Process
from gateway.zones.metadata import Device, DockerMetadata, Resources, Rlimit, Runtime, Tmpfs
from gateway.zones.spec import Filesystem, ZoneSpec

UUID = "11111111-2222-3333-4444-555555555555"
PLACE = Place(rootfs="/zones/root", cgroups_path="/zonegate/z", etc="/zones/etc")
MACHINE = Machine(kernel=(6, 1))
CAPABILITIES = ("CAP_CHOWN", "CAP_KILL", "CAP_SETUID")
TUN = {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"}
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def config(
    *,
    runtime: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    place: Place = PLACE,
    identity: Identity = Identity(),  # noqa: B008
    on: Machine = MACHINE,
    **metadata: Any,
) -> dict[str, Any]:
    settings = Runtime(**({"capabilities": CAPABILITIES} | (runtime or {})))
    return oci_config(
        zone_spec(**(spec or {})),
        DockerMetadata(id="a" * 64, runtime=settings, **({"cmd": ("/bin/true",)} | metadata)),
        place,
        identity,
        on,
    )


def zone_spec(**fields: Any) -> ZoneSpec:
    return ZoneSpec(
        uuid=UUID, brand="lx", image_uuid=UUID, alias="web", **({"hostname": "web"} | fields)
    )


def mounted(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["destination"]: mount for mount in body["mounts"]}


# --- the process -------------------------------------------------------------------------------------


def test_the_environment_is_dockerds_in_its_order():
    body = config(env=("B=1", "PATH=/mine", "A=2"), tty=True, identity=Identity(home="/root"))
    assert body["process"]["env"] == [
        "PATH=/mine",
        "HOSTNAME=web",
        "TERM=xterm",
        "B=1",
        "A=2",
        "HOME=/root",
    ]


def test_a_name_without_a_value_takes_a_default_away():
    assert override(["A=1", "B=2"], ["A", "C", "D=4"]) == ["B=2", "D=4"]


@given(st.lists(st.sampled_from(["A=1", "A=2", "B=", "C=x=y"]), unique_by=lambda e: e[0]))
def test_overriding_with_the_same_changes_nothing(environment):
    assert override(environment, environment) == environment


def test_home_is_of_the_user_unless_the_client_says_otherwise():
    body = config(env=("HOME=/mine",), identity=Identity(home="/root"))
    assert body["process"]["env"] == [PATH, "HOSTNAME=web", "HOME=/mine"]


def test_entrypoint_and_command_make_the_arguments():
    body = config(entrypoint=("/entry", "-v"), cmd=("a b",), workdir="/srv")
    assert body["process"]["args"] == ["/entry", "-v", "a b"]
    assert body["process"]["cwd"] == "/srv"
    assert config()["process"]["cwd"] == "/"


def test_root_has_its_capabilities_and_others_only_the_bound():
    names = list(CAPABILITIES)
    assert config()["process"]["capabilities"] == {
        "bounding": names,
        "effective": names,
        "permitted": names,
    }
    body = config(identity=Identity(uid=1000, gid=5, additional_gids=(5, 6)))
    assert body["process"]["capabilities"] == {"bounding": names}
    assert body["process"]["user"] == {"uid": 1000, "gid": 5, "additionalGids": [5, 6]}


def test_nothing_is_asked_for_that_the_machine_cannot_give():
    poor = Machine(
        bounding=frozenset({"CAP_KILL"}), rlimits={"RLIMIT_NOFILE": 1000}, oom_score_adj=10
    )
    limits = (
        Rlimit(type="RLIMIT_NOFILE", soft=500, hard=10000),
        Rlimit(type="RLIMIT_NOFILE", soft=2000, hard=-1),
        Rlimit(type="RLIMIT_CORE", soft=-1, hard=-1),
    )
    process = config(runtime={"rlimits": limits, "oom_score_adj": -500}, on=poor)["process"]
    assert process["capabilities"]["bounding"] == ["CAP_KILL"]
    assert process["oomScoreAdj"] == 10
    assert process["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 500, "hard": 1000},
        {"type": "RLIMIT_NOFILE", "soft": 1000, "hard": 1000},
        {"type": "RLIMIT_CORE", "soft": 2**64 - 1, "hard": 2**64 - 1},
    ]


def test_init_runs_first_and_only_with_process_numbers_of_its_own():
    place = Place(rootfs="/r", cgroups_path="/c", init="/usr/bin/tini")
    body = config(runtime={"init": True}, place=place)
    assert body["process"]["args"] == ["/sbin/docker-init", "--", "/bin/true"]
    assert mounted(body)["/sbin/docker-init"]["source"] == "/usr/bin/tini"
    assert config(runtime={"init": True, "pid": "host"})["process"]["args"] == ["/bin/true"]
    with pytest.raises(NotSupported, match="no init program"):
        config(runtime={"init": True})


def test_exec_is_a_whole_process_with_the_zones_environment_and_limits():
    runtime = Runtime(
        capabilities=CAPABILITIES,
        no_new_privileges=True,
        rlimits=(Rlimit(type="RLIMIT_CORE", soft=0, hard=0),),
    )
    metadata = DockerMetadata(id="a" * 64, env=("A=1", "B=1"), workdir="/srv", runtime=runtime)
    process = Process(argv=("sh",), env=("B=2",), tty=True, console_size=(30, 99))
    body = exec_process(zone_spec(), metadata, process, Identity(), MACHINE)
    assert body == {
        "terminal": True,
        "consoleSize": {"height": 30, "width": 99},
        "user": {"uid": 0, "gid": 0, "additionalGids": [0]},
        "args": ["sh"],
        "env": [PATH, "HOSTNAME=web", "TERM=xterm", "A=1", "B=2", "HOME=/"],
        "cwd": "/srv",
        "capabilities": {key: list(CAPABILITIES) for key in ("bounding", "effective", "permitted")},
        "noNewPrivileges": True,
        "oomScoreAdj": 0,
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
    }
    privileged = Process(argv=("sh",), privileged=True, workdir="/tmp")
    body = exec_process(zone_spec(), metadata, privileged, Identity(), MACHINE)
    assert set(body["capabilities"]["effective"]) == MACHINE.bounding
    assert body["cwd"] == "/tmp"
    assert not body["terminal"]


# --- mounts ------------------------------------------------------------------------------------------


def test_the_default_mounts_come_in_dockers_order():
    assert list(mounted(config())) == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/sys",
        "/sys/fs/cgroup",
        "/dev/mqueue",
        "/dev/shm",
        "/etc/resolv.conf",
        "/etc/hostname",
        "/etc/hosts",
    ]
    assert "size=67108864" in mounted(config())["/dev/shm"]["options"]


def test_filesystems_are_bound_shallow_first_with_their_options():
    filesystems = (
        Filesystem(source="/host/deep", target="/a/b/c"),
        Filesystem(source="/host/ro", target="/a", options=("ro",)),
        Filesystem(source=UUID, target="/own/"),
    )
    place = Place(rootfs="/r", cgroups_path="/c", volumes={"/own/": "/zones/volumes/own"})
    body = config(
        spec={"filesystems": filesystems},
        runtime={"mount_options": {"/a/b/c": ("volume", "nocopy"), "/a": ("nonrecursive",)}},
        place=place,
    )
    assert body["mounts"][-3:] == [
        {"destination": "/a", "type": "bind", "source": "/host/ro", "options": ["bind", "ro", "private"]},
        {"destination": "/own", "type": "bind", "source": "/zones/volumes/own", "options": ["rbind", "rprivate"]},
        {"destination": "/a/b/c", "type": "bind", "source": "/host/deep", "options": ["rbind", "rprivate"]},
    ]  # fmt: skip


def test_read_only_means_everything_below_where_the_kernel_can():
    spec = {"filesystems": (Filesystem(source="/h", target="/a", options=("ro",)),)}
    new, old = config(spec=spec), config(spec=spec, on=Machine(kernel=(5, 4)))
    assert mounted(new)["/a"]["options"] == ["rbind", "rro", "rprivate"]
    assert mounted(old)["/a"]["options"] == ["rbind", "ro", "rprivate"]
    place = Place(rootfs="/r", cgroups_path="/c", files=frozenset({"/h"}))
    assert mounted(config(spec=spec, place=place))["/a"]["options"] == ["rbind", "ro", "rprivate"]


@pytest.mark.parametrize(
    ("words", "root"), [((), None), (("rslave",), "rslave"), (("rslave", "shared"), "rshared")]
)
def test_the_root_passes_on_what_its_strongest_bind_does(words, root):
    filesystems = [Filesystem(source="/h", target=f"/{word}") for word in words]
    options = {f"/{word}": (word,) for word in words}
    body = config(spec={"filesystems": tuple(filesystems)}, runtime={"mount_options": options})
    assert body["linux"].get("rootfsPropagation") == root
    assert all(mounted(body)[f"/{word}"]["options"][-1] == word for word in words)


def test_a_mount_of_the_clients_replaces_ours():
    filesystems = (
        Filesystem(source="/my/hosts", target="/etc/hosts"),
        Filesystem(source="/dev", target="/dev"),
    )
    body = config(spec={"filesystems": filesystems})
    assert [mount["source"] for mount in body["mounts"]].count("/my/hosts") == 1
    assert mounted(body)["/etc/hosts"]["source"] == "/my/hosts"
    assert [m["destination"] for m in body["mounts"] if m["destination"].startswith("/dev")] == [
        "/dev"
    ]


def test_of_tmpfs_options_the_last_word_counts():
    merge = mounts.merge_tmpfs_options
    assert merge(["noexec", "nosuid", "size=1m", "exec", "size=2m"]) == [
        "nosuid",
        "exec",
        "size=2m",
    ]
    body = config(runtime={"tmpfs": (Tmpfs(target="/t", options=("size=64m", "mode=1777")),)})
    assert mounted(body)["/t"]["options"] == [
        "noexec",
        "nosuid",
        "nodev",
        "rprivate",
        "size=64m",
        "mode=1777",
    ]
    with pytest.raises(InvalidParameter, match=r'invalid tmpfs option "shape"'):
        merge(["shape=round"])


def test_a_read_only_root_takes_the_etc_files_along_but_not_the_clients_mounts():
    spec = {"filesystems": (Filesystem(source="/h", target="/data"),)}
    body = config(spec=spec, runtime={"readonly_rootfs": True})
    assert body["root"]["readonly"]
    assert "ro" in mounted(body)["/etc/hosts"]["options"]
    assert "ro" in mounted(body)["/sys"]["options"]
    assert "ro" not in mounted(body)["/data"]["options"]
    assert "ro" not in mounted(body)["/dev/shm"]["options"]


def test_shared_memory_of_another_zone_is_bound():
    place = Place(rootfs="/r", cgroups_path="/c", ipcns="/proc/7/ns/ipc", shm="/zones/other/shm")
    body = config(runtime={"ipc": "zone:x"}, place=place)
    assert mounted(body)["/dev/shm"]["source"] == "/zones/other/shm"
    assert {"type": "ipc", "path": "/proc/7/ns/ipc"} in body["linux"]["namespaces"]
    assert mounted(config(runtime={"ipc": "host"}))["/dev/shm"]["source"] == "/dev/shm"


# --- namespaces, limits, devices, confinement -----------------------------------------------------------


def test_namespaces_are_own_the_hosts_or_anothers():
    place = Place(rootfs="/r", cgroups_path="/c", netns="/run/netns/z", pidns="/proc/7/ns/pid")
    runtime = {"pid": "zone:other", "uts": "host", "cgroup": "host"}
    body = config(runtime=runtime, place=place)
    assert body["linux"]["namespaces"] == [
        {"type": "mount"},
        {"type": "network", "path": "/run/netns/z"},
        {"type": "pid", "path": "/proc/7/ns/pid"},
        {"type": "ipc"},
    ]
    assert "hostname" not in body
    assert {"type": "cgroup"} in config()["linux"]["namespaces"]
    with pytest.raises(InvalidParameter):
        config(runtime={"pid": "zone:gone"})


def test_sysctls_of_the_network_are_set_unless_it_is_the_hosts():
    own = config(runtime={"sysctls": {"net.core.somaxconn": "9"}}, spec={"dns_domain": "d.example"})
    assert own["linux"]["sysctl"] == {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
        "kernel.domainname": "d.example",
        "net.core.somaxconn": "9",
    }
    assert config(runtime={"network": "host"})["linux"]["sysctl"] == {}


def test_only_limits_that_were_asked_for_are_set():
    assert config()["linux"]["resources"] == {"devices": [{"allow": False, "access": "rwm"}, TUN]}
    wanted = Resources(
        memory=64 << 20,
        memory_reservation=32 << 20,
        memory_swappiness=10,
        cpu_shares=512,
        cpu_quota=50_000,
        cpu_period=100_000,
        cpuset_cpus="0",
        pids=20,
        blkio_weight=100,
        oom_kill_disable=True,
    )
    v1 = config(runtime={"resources": wanted}, on=Machine(cgroup_layout="v1"))["linux"]["resources"]
    assert v1["memory"] == {
        "limit": 64 << 20,
        "swap": 128 << 20,
        "reservation": 32 << 20,
        "swappiness": 10,
        "disableOOMKiller": True,
    }
    assert v1["cpu"] == {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"}
    assert v1["pids"] == {"limit": 20}
    assert v1["blockIO"] == {"weight": 100}
    poor = Machine(cgroup_layout="v2", swap_limit=False, blkio_weight=False)
    v2 = config(runtime={"resources": wanted}, on=poor)["linux"]["resources"]
    assert v2["memory"] == {"limit": 64 << 20, "reservation": 32 << 20}
    assert "blockIO" not in v2


def test_a_device_is_made_and_allowed():
    runtime = Runtime(
        devices=(Device(source="/dev/null", target="/dev/mine", permissions="r"),),
        device_cgroup_rules=("c 13:* rw",),
    )
    place = Place(rootfs="/r", cgroups_path="/c", devices=devices.find(runtime))
    body = config(runtime=runtime.model_dump(), place=place)
    assert body["linux"]["devices"][0] | {"uid": 0, "gid": 0} == {
        "path": "/dev/mine",
        "type": "c",
        "major": 1,
        "minor": 3,
        "fileMode": 0o666,
        "uid": 0,
        "gid": 0,
    }
    assert body["linux"]["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        TUN,
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"},
        {"allow": True, "type": "c", "major": 13, "access": "rw"},
    ]


@pytest.mark.parametrize(
    ("source", "reason"),
    [("/dev/none", "no such file or directory"), ("/etc/passwd", "not a device node")],
)
def test_what_is_no_device_is_refused(source, reason):
    with pytest.raises(InvalidParameter) as caught:
        devices.find(Runtime(devices=(Device(source=source, target=source),)))
    assert caught.value.message == (
        f'error gathering device information while adding custom device "{source}": {reason}'
    )
    with pytest.raises(InvalidParameter, match="invalid device cgroup rule format: 'x 1:2 r'"):
        devices.parse_rule("x 1:2 r")


def test_a_privileged_zone_has_everything_and_no_filter():
    runtime = {
        "privileged": True,
        "masked_paths": ("/proc/kcore",),
        "readonly_paths": ("/proc/sys",),
    }
    body = config(runtime=runtime)
    assert set(body["process"]["capabilities"]["bounding"]) == MACHINE.bounding
    assert body["linux"]["maskedPaths"] == body["linux"]["readonlyPaths"] == []
    assert body["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert seccomp.ANNOTATION not in body["annotations"]
    assert "seccomp" not in body["linux"]
    assert "rw" in mounted(body)["/sys"]["options"]
    paths = {node.path for node in devices.find(Runtime(privileged=True))}
    assert "/dev/null" in paths
    assert not any(path.startswith(("/dev/pts/", "/dev/shm")) for path in paths)


def test_crun_gets_a_compiled_filter_and_runc_the_json():
    crun, runc = config(), config(on=Machine(runtime="runc", seccomp="json"))
    assert seccomp.ANNOTATION in crun["annotations"]
    assert "seccomp" not in crun["linux"]
    assert seccomp.ANNOTATION not in runc["annotations"]
    assert runc["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    own = {"privileged": True, "seccomp": '{"defaultAction":"SCMP_ACT_ALLOW"}'}
    assert seccomp.ANNOTATION in config(runtime=own)["annotations"]
    unconfined = config(runtime={"seccomp": "unconfined"})
    assert seccomp.ANNOTATION not in unconfined["annotations"]


def test_an_apparmor_profile_needs_apparmor():
    with pytest.raises(InvalidParameter, match="AppArmor is not supported on this host"):
        config(runtime={"apparmor": "mine"})
    assert "apparmorProfile" not in config(runtime={"apparmor": "unconfined"})["process"]
    body = config(runtime={"apparmor": "mine"}, on=Machine(apparmor=True))
    assert body["process"]["apparmorProfile"] == "mine"


# --- run for real ------------------------------------------------------------------------------------

Runner = Callable[..., Any]


@pytest.fixture
async def run_zone(tmp_path: Path) -> AsyncIterator[Runner]:
    """Runs busybox commands in a zone made from a bundle, with crun or runc."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "busybox", root / "bin/busybox")
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("hosts", "hostname", "resolv.conf"):
        (etc / name).write_text(f"{name} of the zone\n")
    cgroups = Cgroups.detect()
    name = f"zonegate-test-bundle-{os.getpid()}"
    path = cgroups.path(name, "zonegate-test")
    spawner = Spawner()

    async def run_script(script: str, runtime: str = "crun", **fields: Any) -> str:
        here = machine.detect(
            runtime=runtime,  # type: ignore[arg-type]
            cgroup_layout=cgroups.layout,
            bpf_annotation=True,
        )
        settings = Runtime(**({"capabilities": CAPABILITIES} | fields.pop("runtime_fields", {})))
        place = Place(
            rootfs=str(root), cgroups_path=path, etc=str(etc), devices=devices.find(settings)
        )
        body = oci_config(
            zone_spec(**fields),
            DockerMetadata(id="a" * 64, cmd=("/bin/busybox", "sh", "-c", script), runtime=settings),
            place,
            Identity(),
            here,
        )
        (tmp_path / "config.json").write_text(json.dumps(body))
        hide = "umount /sys/fs/cgroup/unified 2>/dev/null; exec"
        command = f"{hide} {runtime} --root {tmp_path}/state run -b {tmp_path} {name}"
        output = await run(
            ["/usr/bin/unshare", "-m", "/bin/sh", "-c", command], timeout_s=20, spawner=spawner
        )
        return output.decode()

    yield run_script
    spawner.close()
    await cgroups.remove(path)
    await cgroups.remove(str(Path(path).parent))


@pytest.mark.root
@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_a_zone_runs_confined_as_its_spec_says(run_zone, tmp_path, runtime):
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    source = tmp_path / "data"
    source.mkdir()
    (source / "file").write_text("bound")
    output = await run_zone(
        """
        busybox grep -E '^(CapEff|CapBnd|Seccomp):' /proc/self/status
        busybox cat /data/file /etc/hostname; echo
        busybox touch /data/no 2>&1
        busybox mount -t tmpfs x /data 2>&1
        busybox hostname
        busybox df -m /small | busybox tail -1
        busybox cat /proc/sys/net/ipv4/ip_unprivileged_port_start
        echo $$
        """.replace("busybox", "/bin/busybox"),
        runtime=runtime,
        filesystems=(Filesystem(source=str(source), target="/data", options=("ro",)),),
        runtime_fields={
            "tmpfs": (Tmpfs(target="/small", options=("size=2m",)),),
            "resources": Resources(memory=64 << 20, pids=20),
            "masked_paths": ("/proc/kcore",),
            "readonly_paths": ("/proc/bus",),
        },
    )
    assert "CapEff:\t00000000000000a1" in output
    assert "CapBnd:\t00000000000000a1" in output
    assert "Seccomp:\t2" in output
    assert "boundhostname of the zone" in output
    assert "/data/no: Read-only file system" in output
    assert "mount: permission denied" in output.lower() or "Operation not permitted" in output
    assert output.split()[-1] == "1"
    assert "\nweb\n" in output


@pytest.mark.root
async def test_a_privileged_zone_may_mount(run_zone):
    output = await run_zone(
        "/bin/busybox mount -t tmpfs x /media 2>&1 || /bin/busybox mkdir /m && "
        "/bin/busybox mount -t tmpfs x /m && echo mounted; "
        "/bin/busybox grep Seccomp: /proc/self/status",
        runtime_fields={"privileged": True},
    )
    assert "mounted" in output
    assert "Seccomp:\t0" in output


# --- disks, files, shared memory ---------------------------------------------------------------------


def test_limits_of_disks_go_by_their_numbers():
    limits = {
        "blkio_device_read_bps": ({"path": "/dev/a", "value": 1000},),
        "blkio_device_write_iops": ({"path": "/dev/b", "value": 7},),
        "blkio_weight_device": ({"path": "/dev/a", "value": 300},),
    }
    place = dataclasses.replace(PLACE, disks={"/dev/a": (8, 0), "/dev/b": (8, 16)})
    body = config(runtime={"resources": Resources(**limits)}, place=place)
    assert body["linux"]["resources"]["blockIO"] == {
        "weightDevice": [{"major": 8, "minor": 0, "weight": 300}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 7}],
    }


def test_a_disk_that_is_not_there_is_named():
    limits = Resources(blkio_device_read_bps=({"path": "/dev/nothing", "value": 1},))
    with pytest.raises(APIError, match="stat /dev/nothing: no such file or directory"):
        devices.disks(limits)


def test_devices_that_a_driver_would_choose_are_not_to_be_had():
    wanted = Runtime(device_requests=({"driver": "", "capabilities": (("gpu", "x"), ("y",))},))
    words = r'could not select device driver "" with capabilities: \[\[gpu x\] \[y\]\]'
    with pytest.raises(APIError, match=words):
        devices.find(wanted)


def test_too_few_files_for_the_runtime_are_left_to_be_set_later():
    few = Rlimit(type="RLIMIT_NOFILE", soft=5, hard=-1)
    other = Rlimit(type="RLIMIT_CORE", soft=0, hard=0)
    runtime = Runtime(rlimits=(few, other))
    body = config(runtime={"rlimits": (few, other)})
    assert [limit["type"] for limit in body["process"]["rlimits"]] == ["RLIMIT_CORE"]
    assert few_files(runtime, MACHINE) == (5, 1 << 20)
    bound = dataclasses.replace(MACHINE, rlimits={"RLIMIT_NOFILE": 4096})
    assert few_files(runtime, bound) == (5, 4096)
    assert few_files(Runtime(rlimits=(other,)), MACHINE) is None


def test_a_zone_may_be_without_shared_memory_or_have_its_cgroups_writable():
    assert "/dev/shm" not in mounted(config(runtime={"ipc": "none"}))
    options = {
        (privileged, writable): mounted(
            config(runtime={"privileged": privileged, "writable_cgroups": writable})
        )["/sys/fs/cgroup"]["options"][0]
        for privileged in (True, False)
        for writable in (True, False, None)
    }
    assert [key for key, word in options.items() if word == "rw"] == [
        (True, True),
        (True, None),
        (False, True),
    ]


def test_a_forced_recursive_read_only_bind_needs_a_kernel_that_can():
    wanted = {
        "spec": {"filesystems": (Filesystem(source="/a", target="/v", options=("ro",)),)},
        "runtime": {"mount_options": {"/v": ("rprivate", "readonlyforcerecursive")}},
    }
    assert "rro" in mounted(config(**wanted))["/v"]["options"]
    with pytest.raises(InvalidParameter, match="recursively read-only"):
        config(**wanted, on=dataclasses.replace(MACHINE, kernel=(5, 4)))
