"""vmadm of the fake global zone: what it refuses, its exit texts and codes, the life of a machine, restarts, events."""

from __future__ import annotations

import json
import os
import subprocess  # noqa: TID251 - the programs are processes
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.conftest import DEADLINE_S, IMAGE, Vmadm, assert_gone, docker_payload
from tests.fakes.globalzone.process import BIN, FakeGZ, start

pytestmark = pytest.mark.root

FOREVER = (
    "sh",
    "-c",
    "trap 'exit 7' TERM; trap 'echo usr' USR1; echo up; while :; do sleep 0.05; done",
)
STUBBORN = ("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
NOBODY = "00000000-0000-4000-8000-00000000dead"


def log(vmadm: Vmadm, uuid: str) -> str:
    """Text of its standard output, by the records' messages."""
    lines = (vmadm.fake.root / "zones" / uuid / "logs/stdio.log").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return "".join(r["msg"] for r in records if r["stream"] == "stdout")


def begin(vmadm: Vmadm, uuid: str) -> None:
    """Start FOREVER or STUBBORN, and see that its traps are set."""
    vmadm("start", uuid)
    said(vmadm, uuid, "up\n")


def said(vmadm: Vmadm, uuid: str, text: str) -> None:
    """Wait until it has written this."""
    deadline = time.monotonic() + DEADLINE_S
    while text not in log(vmadm, uuid) and time.monotonic() < deadline:
        os.sched_yield()
    assert text in log(vmadm, uuid)


# --- create


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel_version": ...}, "Missing required properties: kernel_version"),
        ({"image_uuid": NOBODY}, f"image {NOBODY} not found"),
        ({"image_uuid": ...}, "Missing required properties: image_uuid"),
        ({"max_swap": 128, "max_physical_memory": 64}, "Invalid value(s) for: max_swap"),
        ({"tags": {"a": ["b"]}}, "Invalid value(s) for: tags"),
        ({"internal_metadata": {"docker:cmd": ["sh"]}}, "Invalid value(s) for: internal_metadata"),
        ({"nics": [{"nic_tag": "nowhere", "ip": "dhcp"}]}, 'Invalid nic tag "nowhere"'),
        ({"brand": "joyent"}, "is of type docker, and brand joyent takes zone-dataset"),
        ({"brand": "lxc"}, "Invalid brand"),
        ({"zpool": "tank"}, "Invalid value(s) for: zpool"),
    ],
    ids=str,
)
def test_create_refuses_what_the_real_one_refuses(
    vmadm: Vmadm, change: dict[str, Any], words: str
) -> None:
    payload = {k: v for k, v in (docker_payload("true") | change).items() if v is not ...}
    assert words in vmadm.fails("create", stdin=payload)
    assert vmadm("lookup") == ""


def test_create_drops_what_it_does_not_know_and_warns(vmadm: Vmadm) -> None:
    done = vmadm.run("create", stdin=docker_payload("true") | {"firewall": {}, "typo": 1})
    assert done.returncode == 0
    *warnings, last = done.stderr.splitlines()
    uuid = last.removeprefix("Successfully created VM ")
    assert [line.split()[-1] for line in warnings] == ["firewall", "typo"]
    assert "typo" not in vmadm.get(uuid)


def test_a_machine_boots_by_itself_unless_told_otherwise(vmadm: Vmadm) -> None:
    payload = docker_payload(*FOREVER)
    del payload["autoboot"]
    uuid = vmadm.run("create", stdin=payload).stderr.split()[-1]
    assert vmadm.get(uuid)["state"] == "running"


def test_a_uuid_a_mac_and_an_address_are_there_once(vmadm: Vmadm) -> None:
    address = str(list(vmadm.fake.subnet.hosts())[8])
    nic = {
        "nic_tag": "admin",
        "mac": "02:00:00:00:00:aa",
        "ip": address,
        "netmask": "255.255.255.0",
    }
    uuid = vmadm.create("true", nics=[nic])
    assert "already exists" in vmadm.fails("create", stdin=docker_payload("true") | {"uuid": uuid})
    other = {**nic, "mac": "02:00:00:00:00:bb"}
    assert address in vmadm.fails("create", stdin=docker_payload("true") | {"nics": [other]})
    other = {**nic, "ip": "dhcp"}
    assert nic["mac"] in vmadm.fails("create", stdin=docker_payload("true") | {"nics": [other]})


def test_the_files_of_etc_are_written_and_mounted(vmadm: Vmadm) -> None:
    uuid = vmadm.create(
        "sh",
        "-c",
        "cat /etc/hosts /etc/resolv.conf /etc/hostname; echo 9.9.9.9 own >> /etc/hosts",
        hostname="web",
        resolvers=["8.8.8.8"],
        dns_domain="example.org",
        metadata={
            "docker:extraHosts": '["db:10.1.1.1","six:fd00::1"]',
            "docker:dnssearch": '["a.b"]',
        },
    )
    vmadm("start", uuid)
    vmadm.wait(uuid)
    text = log(vmadm, uuid)
    assert "10.1.1.1\tdb\n" in text
    assert "fd00::1\tsix\n" in text
    assert "search a.b example.org\nnameserver 8.8.8.8\nweb\n" in text
    hosts = vmadm.fake.root / "zones" / uuid / "config/hosts"
    assert hosts.read_text().endswith("own\n")
    targets = [item["target"] for item in vmadm.get(uuid)["filesystems"]]
    assert targets == ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]


def test_an_own_volume_holds_what_the_image_has_there(vmadm: Vmadm) -> None:
    uuid = vmadm.create(
        "cat",
        "/data/kept",
        filesystems=[{"source": "create-volume", "target": "/data", "type": "lofs", "options": []}],
    )
    source = vmadm.get(uuid)["filesystems"][0]["source"]
    assert source.startswith(f"/zones/{uuid}/volumes/")
    vmadm("start", uuid)
    vmadm.wait(uuid)
    assert log(vmadm, uuid) == "from the image\n"
    assert source[1:] in vmadm.fake.run("zfs", "list", "-H", "-o", "name").stdout
    vmadm("delete", uuid)
    assert uuid not in vmadm.fake.run("zfs", "list", "-H", "-o", "name").stdout


def test_a_volume_behind_a_link_ends_the_creation(vmadm: Vmadm) -> None:
    entry = {"source": "create-volume", "target": "/bin/sh/x", "type": "lofs"}
    payload = docker_payload("true") | {"filesystems": [entry]}
    assert "is not a directory" in vmadm.fails("create", stdin=payload)
    assert vmadm("lookup") == ""
    datasets = vmadm.fake.run("zfs", "list", "-H", "-o", "name").stdout.split()
    assert [name for name in datasets if IMAGE not in name] == ["zones"]


# --- the life of a machine


def test_a_short_life_leaves_its_exit_status(vmadm: Vmadm) -> None:
    uuid = vmadm.create("sh", "-c", "echo hi; exit 3")
    assert "exit_status" not in vmadm.get(uuid)
    assert "docker:restartcount" not in vmadm.get(uuid)["internal_metadata"]
    vmadm("start", uuid)
    vm = vmadm.wait(uuid)
    assert vm["exit_status"] == 3
    assert vm["internal_metadata"]["docker:restartcount"] == 0
    assert "pid" not in vm
    assert vm["autoboot"] is False
    moment, status = (vmadm.fake.root / "zones" / uuid / "lastexited").read_text().split()
    assert abs(float(moment) - time.time()) < 60
    assert int(status) == 3 << 8
    assert log(vmadm, uuid) == "hi\n"


def test_start_of_a_running_machine_fails(vmadm: Vmadm) -> None:
    uuid = vmadm.create(*FOREVER)
    vmadm("start", uuid)
    vm = vmadm.get(uuid)
    assert vm["state"] == "running"
    assert vm["pid"] > 0
    assert vm["zoneid"] > 0
    assert f"VM {uuid} is already 'running'" in vmadm.fails("start", uuid)


def test_stop_asks_first_and_takes_autoboot_away(vmadm: Vmadm) -> None:
    uuid = vmadm.create(*FOREVER, metadata={"docker:restartpolicy": "always"})
    begin(vmadm, uuid)
    assert vmadm.get(uuid)["autoboot"] is True
    vmadm("stop", uuid)
    vm = vmadm.get(uuid)
    assert (vm["state"], vm["exit_status"], vm["autoboot"]) == ("stopped", 7, False)
    again = vmadm.run("stop", uuid)
    assert again.returncode == 0
    assert "not running" in again.stderr


def test_stop_kills_what_does_not_listen(vmadm: Vmadm) -> None:
    uuid = vmadm.create(*STUBBORN)
    begin(vmadm, uuid)
    vmadm("stop", uuid, "-t", "1")
    assert vmadm.get(uuid)["exit_status"] == -9
    begin(vmadm, uuid)
    vmadm("stop", "-F", uuid)
    assert vmadm.get(uuid)["exit_status"] == -9


def test_kill_knows_names_and_the_platforms_numbers(vmadm: Vmadm) -> None:
    uuid = vmadm.create(*FOREVER)
    assert "not running" in vmadm.fails("kill", uuid)
    begin(vmadm, uuid)
    for name in ("USR1", "SIGUSR1", "16"):
        vmadm("kill", "-s", name, uuid)
    assert "Invalid signal" in vmadm.fails("kill", "-s", "NOPE", uuid)
    vmadm("kill", uuid)
    assert vmadm.wait(uuid)["exit_status"] == 7
    assert 1 <= log(vmadm, uuid).count("usr\n") <= 3  # the shell joins those that come together


def test_reboot_works_from_stopped_too(vmadm: Vmadm) -> None:
    uuid = vmadm.create(*FOREVER)
    vmadm("reboot", uuid)
    first = vmadm.get(uuid)["pid"]
    vmadm("reboot", uuid)
    assert vmadm.get(uuid)["pid"] != first


def test_delete_takes_all_of_it(vmadm: Vmadm) -> None:
    uuid = vmadm.create(*STUBBORN)
    begin(vmadm, uuid)
    vmadm("delete", uuid)
    assert not (vmadm.fake.root / "zones" / uuid).exists()
    for command in ("get", "start", "stop", "kill", "update", "reboot", "delete"):
        assert "No such zone configured" in vmadm.fails(command, uuid)


def test_an_indestructible_machine_stays(vmadm: Vmadm) -> None:
    uuid = vmadm.create("true", indestructible_zoneroot=True)
    assert "indestructible_zoneroot" in vmadm.fails("delete", uuid)
    vmadm("update", uuid, "indestructible_zoneroot=false")


@pytest.mark.parametrize(
    ("command", "metadata", "code"),
    [
        (("nosuch",), {}, 17),
        (("/no/such",), {}, 25),
        (("/etc",), {}, 26),
        (("/etc/passwd",), {}, 27),
        (("/bin/garbage",), {}, 3),
        ((), {}, 13),
        (("true",), {"docker:user": "nobody"}, 29),
        (("true",), {"docker:user": "web:nogroup"}, 5),
        (("true",), {"docker:workdir": "/etc/passwd"}, 2),
        (("true",), {"docker:env": "no json"}, 20),
    ],
    ids=str,
)
def test_dockerinit_starts_and_gives_up(
    vmadm: Vmadm, command: tuple[str, ...], metadata: dict[str, str], code: int
) -> None:
    uuid = vmadm.create(*command, metadata=metadata)
    vmadm("start", uuid)
    assert vmadm.wait(uuid)["exit_status"] == code
    root = vmadm.fake.root / "zones" / uuid / "root"
    last = (root / "var/log/sdc-dockerinit.log").read_text().splitlines()[-1]
    assert f" FATAL (code: {code}): " in last


def test_a_number_that_nobody_has_runs_as_root(vmadm: Vmadm) -> None:
    uuid = vmadm.create("id", "-u", metadata={"docker:user": "4711"})
    vmadm("start", uuid)
    vmadm.wait(uuid)
    assert log(vmadm, uuid) == "0\n"


def test_dockerinit_waits_for_an_attach(vmadm: Vmadm) -> None:
    flag = {"docker:wait_for_attach": str(int((time.time() + 60) * 1000))}
    uuid = vmadm.create("echo", "now", metadata=flag)
    vmadm("start", uuid)
    assert vmadm.get(uuid)["state"] == "running"
    assert log(vmadm, uuid) == ""
    path = vmadm.fake.root / "zones" / uuid / "config/metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["internal_metadata"]["docker:wait_for_attach"]
    path.write_text(json.dumps(metadata))
    vmadm.wait(uuid)
    assert log(vmadm, uuid) == "now\n"


def test_dockerinit_does_not_wait_for_ever(vmadm: Vmadm) -> None:
    flag = {"docker:wait_for_attach": str(int((time.time() - 1) * 1000))}
    uuid = vmadm.create("true", metadata=flag)
    vmadm("start", uuid)
    assert vmadm.wait(uuid)["exit_status"] == 45


def test_a_waiting_dockerinit_can_be_stopped(vmadm: Vmadm) -> None:
    flag = {"docker:wait_for_attach": str(int((time.time() + 60) * 1000))}
    uuid = vmadm.create("true", metadata=flag)
    vmadm("start", uuid)
    vmadm("stop", uuid)
    assert vmadm.get(uuid)["exit_status"] == -15


# --- restarts


def test_always_comes_back_after_a_kill_and_not_after_a_stop(vmadm: Vmadm) -> None:
    uuid = vmadm.create(*STUBBORN, metadata={"docker:restartpolicy": "always"})
    begin(vmadm, uuid)
    with vmadm.events(uuid) as events:
        events.until("ready")
        vmadm("kill", "-s", "KILL", uuid)
        for event in events:
            if event["vm"]["internal_metadata"].get("docker:restartcount") == 1:
                break
    assert vmadm.wait(uuid, "running")["internal_metadata"]["docker:restartdelay"] == 200
    vmadm("stop", uuid, "-t", "1")
    assert vmadm.get(uuid)["state"] == "stopped"


def test_on_failure_counts(vmadm: Vmadm) -> None:
    uuid = vmadm.create("false", metadata={"docker:restartpolicy": "on-failure:2"})
    with vmadm.events(uuid) as events:
        events.until("ready")
        vmadm("start", uuid)
        ends = 0
        for event in events:
            paths = {c["prettyPath"]: c["newValue"] for c in event["changes"]}
            ends += paths.get("state") == "stopped"
            if ends == 3:
                break
    assert vmadm.get(uuid)["internal_metadata"]["docker:restartcount"] == 2


# --- update, lookup, list, validate


def test_an_update_of_links_rewrites_hosts_in_place(vmadm: Vmadm) -> None:
    uuid = vmadm.create("sh", "-c", "while ! grep db /etc/hosts; do sleep 0.05; done")
    vmadm("start", uuid)
    payload = {"set_internal_metadata": {"docker:linkHosts": "10.2.2.2\tdb\n"}, "alias": "new"}
    vmadm("update", uuid, stdin=payload)
    vmadm.wait(uuid)
    assert log(vmadm, uuid) == "10.2.2.2\tdb\n"
    assert vmadm("lookup", "alias=new") == f"{uuid}\n"


def test_updates_come_by_argument_file_and_stdin(vmadm: Vmadm) -> None:
    uuid = vmadm.create("true")
    vmadm("update", uuid, "quota=3", "max_physical_memory=512")
    path = vmadm.fake.root / "var/tmp/update.json"
    path.write_text('{"set_tags": {"a": "b"}}')
    vmadm("update", uuid, "-f", "/var/tmp/update.json")
    vm = vmadm.get(uuid)
    assert (vm["quota"], vm["max_physical_memory"], vm["max_swap"]) == (3, 512, 512)
    assert vm["tags"] == {"a": "b"}
    done = vmadm.run("update", uuid, stdin={"image_uuid": IMAGE, "alias": "c"})
    assert done.returncode == 0
    assert "image_uuid" in done.stderr
    assert "Invalid value(s)" in vmadm.fails("update", uuid, stdin={"max_swap": "no"})


def test_lookup_filters_and_picks(vmadm: Vmadm) -> None:
    first = vmadm.create("true", alias="one", tags={"zonegate": "x"})
    second = vmadm.create("true", alias="two")
    assert vmadm("lookup").split() == [first, second]
    assert vmadm("lookup", "tags.zonegate=x") == f"{first}\n"
    assert vmadm("lookup", "alias=~^t") == f"{second}\n"
    rows = json.loads(vmadm("lookup", "-j", "-o", "alias,tags,exit_status", "docker=true"))
    assert rows == [{"alias": "one", "tags": {"zonegate": "x"}}, {"alias": "two", "tags": {}}]
    assert "found 2 results" in vmadm.fails("lookup", "-1", "docker=true")
    assert vmadm("lookup", "-1", "alias=one") == f"{first}\n"
    assert "Cannot specify -o without -j" in vmadm.fails("lookup", "-o", "alias")
    assert vmadm("list", "-p", "-o", "alias,state", "-s", "alias") == "one:stopped\ntwo:stopped\n"


def test_validate_reports_unknown_keys(vmadm: Vmadm) -> None:
    payload = docker_payload("true") | {"typo": 1}
    problems = json.loads(vmadm.fails("validate", "create", stdin=payload))
    assert problems == {"bad_properties": ["typo"]}
    del payload["typo"]
    done = vmadm.run("validate", "create", stdin=payload)
    assert done.returncode == 0
    assert done.stderr == "VALID 'create' payload for lx brand VMs.\n"
    assert "bad_properties" in vmadm.fails("validate", "update", "lx", stdin={"uuid": "x"})


def test_what_is_no_command_is_told_with_code_2(vmadm: Vmadm) -> None:
    vmadm.fails("bogus", code=2)
    vmadm.fails("start", "no-uuid", code=2)
    vmadm.fails("stop", NOBODY, "-x", code=2)


# --- events


def test_events_tell_a_life_in_order(vmadm: Vmadm) -> None:
    other = vmadm.create("true")
    with vmadm.events() as events:
        assert list(events.until("ready")[0]["vms"]) == [other]
        uuid = vmadm.create("true")
        vmadm("start", uuid)
        vmadm.wait(uuid)
        vmadm("delete", uuid)
        told = events.until("delete")
    assert all(event["zonename"] == uuid for event in told)
    assert told[0]["type"] == "create"
    assert told[0]["vm"]["state"] == "provisioning"
    states = [
        (change["oldValue"], change["newValue"])
        for event in told
        for change in event.get("changes", [])
        if change["path"] == ["state"]
    ]
    assert states == [
        ("provisioning", "stopped"),
        ("stopped", "running"),
        ("running", "stopped"),
    ]
    assert "vm" not in told[-1]


def test_events_of_one_machine_leave_out_the_others(vmadm: Vmadm) -> None:
    uuid = vmadm.create("true")
    with vmadm.events(uuid) as events:
        assert list(events.until("ready")[0]["vms"]) == [uuid]
        vmadm.create("true")
        vmadm("update", uuid, "alias=seen")
        assert events.until("modify")[0]["changes"][0]["newValue"] == "seen"


# --- other brands


def test_a_full_zone_runs_its_init_and_logs_its_console(vmadm: Vmadm) -> None:
    payload = {"brand": "lx", "kernel_version": "4.10", "image_uuid": IMAGE, "alias": "full"}
    uuid = vmadm.run("create", stdin=payload).stderr.split()[-1]
    assert vmadm.get(uuid)["state"] == "running"
    assert "only supported for docker" in vmadm.fails("stop", uuid, "-t", "1")
    vmadm("stop", uuid)
    vm = vmadm.get(uuid)
    assert vm["state"] == "stopped"
    assert vm["filesystems"] == []
    assert "Cannot reboot" in vmadm.fails("reboot", uuid)
    assert (
        '"stream":"logfile"' in (vmadm.fake.root / "zones" / uuid / "logs/console.log").read_text()
    )


def test_a_bhyve_machine_is_a_process_and_its_disks(vmadm: Vmadm) -> None:
    payload = {
        "brand": "bhyve",
        "ram": 512,
        "disks": [{"size": 10, "model": "virtio", "boot": True}],
    }
    uuid = vmadm.run("create", stdin=payload).stderr.split()[-1]
    vm = vmadm.get(uuid)
    assert vm["state"] == "running"
    assert vm["disks"][0]["path"] == f"/dev/zvol/rdsk/zones/{uuid}/disk0"
    vmadm("stop", uuid)
    assert vmadm.get(uuid)["state"] == "stopped"
    vmadm("delete", uuid)
    assert uuid not in vmadm.fake.run("zfs", "list", "-H", "-o", "name").stdout


# --- the other programs


def test_kstat_shows_what_a_zone_uses(vmadm: Vmadm) -> None:
    uuid = vmadm.create(*FOREVER, cpu_cap=100)
    fake = vmadm.fake
    assert fake.run("kstat", "-p", "-c", "zone_memory_cap").returncode == 1
    vmadm("start", uuid)
    zoneid = vmadm.get(uuid)["zoneid"]
    rows = fake.run("kstat", "-p", "-c", "zone_memory_cap", "-s", "rss").stdout
    name, _, rss = rows.partition("\t")
    assert name == f"memory_cap:{zoneid}:{uuid[:30]}:rss"
    assert int(rss) > 0
    caps = json.loads(fake.run("kstat", "-j", "-n", f"cpucaps_zone_{zoneid}").stdout)[0]
    assert caps["data"]["value"] == 100
    assert caps["data"]["zonename"] == uuid
    misc = json.loads(fake.run("kstat", "-j", "-c", "zone_misc").stdout)[0]["data"]
    assert {"nsec_user", "nsec_sys", "nsec_waitrq"} <= set(misc)


def test_zoneadm_lists_and_halts(vmadm: Vmadm) -> None:
    uuid = vmadm.create(*FOREVER)
    run = vmadm.fake.run
    assert (
        f"-:{uuid}:installed:/zones/{uuid}:{uuid}:lx:excl:-\n"
        in run("zoneadm", "list", "-cp").stdout
    )
    assert run("zoneadm", "-u", uuid, "boot", "-X").returncode == 0
    assert f":{uuid}:running:" in run("zoneadm", "list", "-p").stdout
    assert "already booted" in run("zoneadm", "-u", uuid, "mount").stderr
    assert run("zoneadm", "-z", uuid, "halt", "-X").returncode == 0
    assert vmadm.get(uuid)["state"] == "stopped"
    assert run("zoneadm", "-u", uuid, "mount").returncode == 0
    assert run("zoneadm", "-u", uuid, "unmount").returncode == 0
    info = run("zonecfg", "-z", uuid, "info attr name=zlog-mode").stdout
    assert "value: g--" in info


def test_sysinfo_is_json(vmadm: Vmadm) -> None:
    facts = json.loads(vmadm.fake.run("sysinfo").stdout)
    assert facts["Live Image"].endswith("Z")
    assert int(facts["MiB of Memory"]) > 0


# --- faults


def test_faults_strike_as_often_as_ordered(vmadm: Vmadm) -> None:
    fake = vmadm.fake
    fake.fault("vmadm", "lookup", times=1, stderr="no memory", code=3)
    assert vmadm.fails("lookup", code=3) == "no memory\n"
    assert vmadm("lookup") == ""
    fake.fault("vmadm", "create", times=1, after=True, stderr="too late", code=1)
    assert "too late" in vmadm.fails("create", stdin=docker_payload("true"))
    assert len(vmadm("lookup").split()) == 1


def test_a_creation_that_fails_midway_leaves_nothing(vmadm: Vmadm) -> None:
    vmadm.fake.fault("vmadm", "create", midway=True, stderr="out of space", times=1)
    with vmadm.events() as events:
        events.until("ready")
        assert vmadm.fails("create", stdin=docker_payload("true")) == "out of space\n"
        assert [event["type"] for event in events.until("delete")] == ["create", "delete"]
    assert vmadm("lookup") == ""


@pytest.mark.parametrize("act", ["create", "delete"])
def test_a_vmadm_that_is_killed_leaves_half_a_machine(vmadm: Vmadm, act: str) -> None:
    uuid = "11111111-0000-4000-8000-000000000001"
    if act == "delete":
        vmadm.create("true", uuid=uuid)
    vmadm.fake.fault("vmadm", act, midway=True, hang=True, times=1)
    dataset = vmadm.fake.root / "zones" / uuid
    hung = subprocess.Popen(
        [str(BIN / "vmadm"), act, *([uuid] if act == "delete" else [])],
        env=vmadm.fake.environment,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert hung.stdin is not None
    hung.stdin.write(json.dumps(docker_payload("true") | {"uuid": uuid}))
    hung.stdin.close()
    deadline = time.monotonic() + DEADLINE_S
    while (dataset / "logs").exists() is (act == "delete") and time.monotonic() < deadline:
        os.sched_yield()
    hung.kill()
    hung.wait()
    assert vmadm.get(uuid)["state"] == ("provisioning" if act == "create" else "stopped")
    vmadm("delete", uuid)
    assert not dataset.exists()
    assert vmadm("lookup") == ""


# --- the process


def test_nothing_is_left_when_it_stops(fresh: FakeGZ) -> None:
    vmadm = Vmadm(fresh)
    uuid = vmadm.create(*STUBBORN)
    vmadm("start", uuid)
    pid = vmadm.get(uuid)["pid"]
    fresh.stop()
    assert fresh.process.returncode == 0
    assert not Path(f"/proc/{pid}").exists()
    assert_gone(fresh)


def test_nothing_is_left_when_it_was_killed(fresh: FakeGZ) -> None:
    vmadm = Vmadm(fresh)
    uuid = vmadm.create(*STUBBORN)
    vmadm("start", uuid)
    pid = vmadm.get(uuid)["pid"]
    fresh.kill()
    fresh.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert_gone(fresh)


def test_a_machine_that_lost_its_power_comes_up_with_its_zones(fresh: FakeGZ) -> None:
    vmadm = Vmadm(fresh)
    always = vmadm.create(*FOREVER, metadata={"docker:restartpolicy": "always"})
    never = vmadm.create(*FOREVER)
    for uuid in (always, never):
        vmadm("start", uuid)
    fresh.kill()
    again = start(fresh.root, **fresh.options)
    try:
        vmadm = Vmadm(again)
        assert vmadm.wait(always, "running")["pid"] > 0
        assert vmadm.get(never)["state"] == "stopped"
    finally:
        again.stop()
    assert_gone(again)


def test_several_stand_side_by_side(vmadm: Vmadm, fresh: FakeGZ) -> None:
    assert not vmadm.fake.subnet.overlaps(fresh.subnet)
    uuid = Vmadm(fresh).create("true")
    assert uuid not in vmadm("lookup")


def test_a_filesystem_without_its_source_keeps_a_zone_from_booting(vmadm: Vmadm) -> None:
    entry = {"source": "/no/such", "target": "/x", "type": "lofs"}
    uuid = vmadm.create("true", filesystems=[entry])
    assert "could not access /no/such: No such file" in vmadm.fails("start", uuid)
    assert vmadm.get(uuid)["state"] == "stopped"


def test_a_bind_of_the_computer_is_seen_in_the_zone(vmadm: Vmadm, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from outside")
    entry = {"source": str(tmp_path), "target": "/x", "type": "lofs", "options": ["ro"]}
    uuid = vmadm.create("sh", "-c", "cat /x/file; touch /x/new", filesystems=[entry])
    vmadm("start", uuid)
    assert vmadm.wait(uuid)["exit_status"] == 1
    assert log(vmadm, uuid) == "from outside"


def test_caps_hold_and_follow_an_update(vmadm: Vmadm) -> None:
    uuid = vmadm.create(*FOREVER, max_lwps=30)
    vmadm("start", uuid)
    name = (vmadm.fake.root / ".linux/name").read_text()
    (file,) = Path("/sys/fs/cgroup").glob(f"**/{name}/{uuid}/pids.max")
    assert file.read_text() == "30\n"
    vmadm("update", uuid, "max_lwps=40")
    assert file.read_text() == "40\n"


def test_a_zone_cannot_change_this_computer(vmadm: Vmadm) -> None:
    uuid = vmadm.create("sh", "-c", "echo 1 > /proc/sys/kernel/panic")
    vmadm("start", uuid)
    assert vmadm.wait(uuid)["exit_status"] == 1
