"""What only SmartOS has: zones that are not ours, every kind of zone, the platform's own faults."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from compat.clients import API, CLI, Answer
from compat.daemons import Daemon
from compat.images import Image, archive, busybox_layer, catalogue, layer
from compat.imageserver import DISK, DISTRIBUTION, PLATFORM
from compat.leftovers import new, settled, snapshot
from compat.smartos import SmartOS

from dockerapi.app import ROUTES
from dockerapi.routes.base import Route

ZERO_UUID = "00000000-0000-0000-0000-000000000000"
SLEEP = {"docker:cmd": '["sleep", "1000"]', "docker:entrypoint": "[]", "docker:env": "[]"}


@pytest.fixture
def machine(platform: SmartOS | None) -> Iterator[SmartOS]:
    """The global zone, without faults before and after."""
    assert platform is not None
    yield platform
    platform.gz.clear_faults()


def until(true: Callable[[], bool], deadline_s: float = 20) -> None:
    """Wait for what no message tells a client."""
    end = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def vmadm(machine: SmartOS, *argv: str, stdin: Any = None) -> str:
    """Its output; it must succeed."""
    text = json.dumps(stdin) if stdin is not None else ""
    done = machine.gz.run("vmadm", *argv, stdin=text)
    assert done.returncode == 0, done.stderr
    return done.stdout


def vms(machine: SmartOS) -> set[str]:
    return set(vmadm(machine, "lookup").split())


def test_what_is_left_behind_is_seen(machine: SmartOS, daemon: Daemon) -> None:
    """The look that other tests rely on."""
    before = snapshot(daemon)
    payload = {"brand": "lx", "kernel_version": "4.3.0", "image_uuid": layer_uuid(machine)}
    vmadm(machine, "create", stdin={**payload, "docker": True, "autoboot": False})
    assert machine.gz.run("nictagadm", "add", "-l", "left0").returncode == 0
    (uuid,) = new(before, snapshot(daemon))["SmartOS: VMs"]
    rule = f"FROM any TO vm {uuid} ALLOW tcp PORT 80"
    assert machine.gz.run("fwadm", "add", "-e", "-O", ZERO_UUID, rule).returncode == 0
    kinds = {"VMs", "datasets", "nic tags", "firewall rules", "files"}
    assert {f"SmartOS: {kind}" for kind in kinds} <= set(new(before, snapshot(daemon)))
    for rule_id in (
        row["uuid"] for row in json.loads(machine.gz.run("fwadm", "list", "-j").stdout)
    ):
        shown = machine.gz.run("fwadm", "get", rule_id).stdout
        if uuid in shown:
            machine.gz.run("fwadm", "delete", rule_id)
    vmadm(machine, "delete", uuid)
    machine.gz.run("nictagadm", "delete", "left0")
    # The first rule and the first nic tag of a machine make files that stay.
    assert set(new(before, snapshot(daemon))) <= {"SmartOS: files"}


# zones that are not ours ---------------------------------------------------------------------------


def layer_uuid(machine: SmartOS) -> str:
    """Of any layer that is there."""
    listed = json.loads(machine.gz.run("imgadm", "list", "-j").stdout)
    return str(
        next(row["manifest"]["uuid"] for row in listed if row["manifest"].get("type") == "docker")
    )


def by_hand(machine: SmartOS, image: str, **more: Any) -> str:
    """A running container of the admin's, from the image of a layer of ours; its uuid."""
    payload = {
        "brand": "lx",
        "kernel_version": "4.3.0",
        "image_uuid": image,
        "docker": True,
        "autoboot": False,
        "max_physical_memory": 256,
        "quota": 10,
        "internal_metadata": SLEEP,
        **more,
    }
    before = vms(machine)
    vmadm(machine, "create", stdin=payload)
    (uuid,) = vms(machine) - before
    vmadm(machine, "start", uuid)
    return uuid


@pytest.fixture
def theirs(machine: SmartOS, daemon: Daemon) -> Iterator[dict[str, str]]:
    """{uuid: alias} of an admin's container, and of one that another gateway made."""
    image = layer_uuid(machine)
    address = {
        "nic_tag": "admin",
        "ip": str(machine.gz.subnet[200]),
        "netmask": str(machine.gz.subnet.netmask),
        "gateway": machine.gz.gateway,
        "primary": True,
    }
    made = {
        by_hand(machine, image, alias="theirs", nics=[address]): "theirs",
        by_hand(
            machine, image, alias="anothers", tags={"zonegate": "another", "docker:label:a": "b"}
        ): "anothers",
    }
    yield made
    for uuid in made:
        vmadm(machine, "delete", uuid)


OURS = ("/containers", "/images", "/exec", "/networks", "/volumes", "/commit")
QUERIES = {
    "rename": "name=stolen",
    "resize": "h=1&w=1",
    "archive": "path=/etc",
    "tag": "repo=stolen&tag=1",
    "logs": "stdout=1",
    "attach": "stream=1&stdout=1",
    "update": "",
}
BODIES = {
    "exec": {"Cmd": ["true"]},
    "update": {"Memory": 64 << 20},
    "connect": {"Container": "nothere"},
    "disconnect": {"Container": "nothere"},
}
MISSING = (404, 501, 503)
"""Not there; not built for anybody; this is no swarm (cluster volumes)."""


def addressed() -> list[Route]:
    """Every route that names something of somebody's."""
    return [route for route in ROUTES if "{" in route.path and route.path.startswith(OURS)]


def ask(api: API, route: Route, reference: str) -> Answer:
    """The request of this route with `reference` for a name."""
    before, _, behind = route.path.partition("{")
    verb = behind.partition("}")[2].strip("/").partition("/")[0]
    path = before + reference + behind.partition("}")[2].replace("{checkpoint}", "x")
    method, _, query = route.method, "", QUERIES.get(verb, "")
    body: Any = BODIES.get(verb, b"" if method == "PUT" else {} if method == "POST" else None)
    return api(method, f"{path}?{query}", body)


@pytest.mark.timeout(120)
def test_zones_of_others_are_out_of_reach_of_every_endpoint(
    api: API, cli: CLI, machine: SmartOS, theirs: dict[str, str], daemon: Daemon
) -> None:
    api = API(api.path, "/v1.51")
    cli.ok("run --rm bb true")
    objects = {uuid: vmadm(machine, "get", uuid) for uuid in theirs}
    before = snapshot(daemon)
    wrong = []
    for uuid, alias in theirs.items():
        docker_id = json.loads(objects[uuid])["internal_metadata"]["docker:id"]
        for reference in (uuid, alias, docker_id, docker_id[:12], uuid.replace("-", "")):
            for route in addressed():
                answer = ask(api, route, reference)
                # A push begins to answer before it looks for the image, as dockerd's; an id is no name to push.
                refused = route.path.endswith("/push") and (
                    b'"errorDetail"' in answer.body or answer.status == 400
                )
                if answer.status not in MISSING and not refused:
                    wrong.append((route.method, route.path, reference, answer.status, answer.body))
    assert not wrong, wrong
    assert {uuid: vmadm(machine, "get", uuid) for uuid in theirs} == objects
    assert new(before, snapshot(daemon)) == {}


def test_zones_of_others_are_in_no_list_and_survive_what_is_done_to_all(
    api: API, cli: CLI, machine: SmartOS, theirs: dict[str, str]
) -> None:
    api = API(api.path, "/v1.51")
    objects = {uuid: vmadm(machine, "get", uuid) for uuid in theirs}
    shown = [
        api.ok("GET", path)
        for path in ("/containers/json?all=1", "/networks", "/volumes", "/images/json")
    ]
    words = json.dumps(shown)
    assert not [name for pair in theirs.items() for name in pair if name in words]
    assert api.ok("GET", "/info")["Containers"] == len(shown[0])
    for noun in ("containers", "images", "volumes", "networks"):
        assert api("POST", f"/{noun}/prune").status in (200, 501)
    for option in ("--volumes-from", "--network container:", "--link", "--ipc container:"):
        space = "" if option.endswith(":") else " "
        assert cli(f"create {option}{space}theirs bb true").exit != 0
    # A name is another's business: theirs is no reason to refuse it, and ours no way to them.
    ours = cli.ok("run -d --name theirs bb sleep 1000")
    assert cli.ok("ps -q --no-trunc") == ours
    cli.ok("rm -f theirs")
    assert cli("rm -f anothers").exit in (0, 1)
    assert {uuid: vmadm(machine, "get", uuid) for uuid in theirs} == objects


def test_addresses_of_others_are_not_given_out(
    cli: CLI, machine: SmartOS, api: API, theirs: dict[str, str]
) -> None:
    first = cli.ok("run -d --name first bb sleep 1000")
    used = api.ok("GET", f"/containers/{first}/json")["NetworkSettings"]["IPAddress"]
    cli.ok("rm -f first")
    subnet = list(machine.gz.subnet.hosts())
    position = [str(address) for address in subnet].index(used)
    ahead = [str(address) for address in subnet[position : position + 3]]
    image = json.loads(vmadm(machine, "get", next(iter(theirs))))["image_uuid"]
    nics = [
        {"nic_tag": "admin", "ip": ip, "netmask": str(machine.gz.subnet.netmask)} for ip in ahead
    ]
    squatter = by_hand(machine, image, alias="squatter", nics=nics)
    try:
        cli.ok("run --rm bb true")  # events come in order: the squatter is known when this is over
        taken = set()
        for number in range(3):
            name = cli.ok(f"run -d --name n{number} bb sleep 1000")
            taken.add(api.ok("GET", f"/containers/{name}/json")["NetworkSettings"]["IPAddress"])
        assert not taken & set(ahead)
        assert str(machine.gz.subnet[200]) not in taken
    finally:
        vmadm(machine, "delete", squatter)


def test_images_of_others_stay(api: API, machine: SmartOS, cli: CLI) -> None:
    uuid = machine.images.uuid("theirs")
    done = machine.gz.run("imgadm", "import", "-S", machine.images.url, uuid)
    assert done.returncode == 0, done.stderr
    try:
        shown = machine.gz.run("imgadm", "get", uuid).stdout
        for method, path in (
            ("GET", f"/images/{uuid}/json"),
            ("GET", f"/images/{uuid}/history"),
            ("DELETE", f"/images/{uuid}?force=1"),
            ("POST", f"/images/{uuid}/tag?repo=stolen"),
        ):
            assert api(method, path).status == 404, (method, path)
        assert uuid not in cli.ok("images --no-trunc -a")
        assert machine.gz.run("imgadm", "get", uuid).stdout == shown
        # Pulled and removed by us it stays what it was: the admin's.
        cli.ok(f"pull -q {uuid}")
        cli.ok(f"rmi {uuid}")
        assert machine.gz.run("imgadm", "get", uuid).returncode == 0
    finally:
        machine.gz.run("imgadm", "delete", uuid)


def test_pruning_everything_takes_nothing_of_others(
    cli: CLI, machine: SmartOS, theirs: dict[str, str], own: Daemon
) -> None:
    objects = {uuid: vmadm(machine, "get", uuid) for uuid in theirs}
    cli.ok("run --name hers -v hold:/held bb sh -c 'echo kept > /held/file'")
    pruner = API(own.socket, "/v1.51")
    CLI(own.url, own.root / "config").ok("run --name mine -v mine:/x bb true")
    everything = quote(json.dumps({"dangling": ["false"]}))
    for path in ("containers", f"images/prune?filters={everything}", "networks", "volumes"):
        asked = path if "?" in path else f"{path}/prune"
        assert pruner("POST", f"/{asked}").status in (200, 501), path
    assert {uuid: vmadm(machine, "get", uuid) for uuid in theirs} == objects
    assert cli.ok("ps -a --format '{{.Names}}'") == "hers"
    assert cli.ok("run --rm -v hold:/held bb cat /held/file") == "kept"
    assert cli.ok("run --rm --entrypoint cat rich /srv/data/seed") == "seeded"


# every kind of zone --------------------------------------------------------------------------------


@pytest.fixture
def pulled(cli: CLI, machine: SmartOS) -> Iterator[Callable[[str], str]]:
    """Pulls an image of the image server, by name; its full name."""
    names: list[str] = []

    def pull(name: str) -> str:
        full = f"{machine.images.authority}/{name}:1"
        assert full in cli.ok(f"pull {full}")
        names.append(full)
        return full

    yield pull
    for row in cli.ok("ps -aq").split():
        cli(f"rm -f {row}")
    for name in names:
        cli.ok(f"rmi {name}")


def brand(machine: SmartOS, cli: CLI, name: str) -> str:
    uuid = json.loads(cli.ok(f"inspect -f '{{{{json .Zone.uuid}}}}' {name}"))
    return str(json.loads(vmadm(machine, "get", uuid))["brand"])


def test_a_distribution_is_a_full_zone(
    cli: CLI, machine: SmartOS, pulled: Callable[[str], str]
) -> None:
    image = pulled(DISTRIBUTION)
    cli.ok(f"run -d --name full --hostname debianz01 -e role=db {image}")
    assert brand(machine, cli, "full") == "lx"
    assert cli.ok("exec full hostname") == "debianz01"
    assert cli("exec full sh -c 'exit 3'").exit == 3
    refused = cli("attach full")
    assert refused.exit == 1
    assert "received 501" in refused.stderr
    refused = cli(f"run --rm {image} echo hello")
    assert refused.exit == 125
    assert "run commands in it with docker exec" in refused.stderr
    cli.ok("stop full")
    assert cli.ok("inspect -f '{{.State.Status}}' full") == "exited"
    cli.ok("start full")
    assert cli.ok("exec full hostname") == "debianz01"
    assert "is using its referenced image" in cli(f"rmi {image}").stderr
    cli.ok("rm -f full")


def test_a_smartos_image_is_a_full_zone_or_runs_a_command(
    cli: CLI, machine: SmartOS, pulled: Callable[[str], str]
) -> None:
    image = pulled(PLATFORM)
    cli.ok(f"run -d --name full {image}")
    assert brand(machine, cli, "full") == "joyent"
    assert cli.ok("exec full sh -c 'echo inside'") == "inside"
    cli.ok("rm -f full")
    minimal = "--label com.zonegate.brand=joyent-minimal"
    result = cli(f"run --name one {minimal} {image} sh -c 'echo said; exit 4'")
    assert (result.exit, result.stdout) == (4, "said\n")
    assert brand(machine, cli, "one") == "joyent-minimal"
    assert cli.ok("logs one") == "said"
    cli.ok("rm one")


def test_a_disk_is_a_machine(cli: CLI, machine: SmartOS, pulled: Callable[[str], str]) -> None:
    image = pulled(DISK)
    cli.ok(f"run -d --name disk --memory 1g {image}")
    assert brand(machine, cli, "disk") == "bhyve"
    for command in ("exec disk ls", "cp disk:/etc/passwd -", "top disk"):
        assert re.search("bhyve.* is a machine", cli(command).stderr), command
    cli.ok("stop -t 1 disk")
    cli.ok("rm disk")


def test_images_are_searched_at_the_image_server(api: API, machine: SmartOS) -> None:
    rows = api.ok("GET", f"/images/search?term={machine.images.authority}/debian")
    assert {row["name"].rpartition("/")[2].partition(":")[0] for row in rows} == {
        DISTRIBUTION,
        DISK,
    }


# limits --------------------------------------------------------------------------------------------


def test_limits_are_the_zones_properties_and_hold(cli: CLI, machine: SmartOS) -> None:
    cli.ok("run -d --name c1 --memory 64m --pids-limit 12 --cpus 0.5 bb sleep 1000")
    zone = json.loads(vmadm(machine, "lookup", "-j", "alias=c1"))[0]
    assert {key: zone[key] for key in ("max_physical_memory", "max_lwps", "cpu_cap")} == {
        "max_physical_memory": 64,
        "max_lwps": 12,
        "cpu_cap": 50,
    }
    forks = "for i in $(seq 30); do sleep 9 & done; echo all"
    assert "all" not in cli(["exec", "c1", "sh", "-c", forks]).stdout


def test_a_number_without_an_entry_is_no_way_to_root(cli: CLI) -> None:
    for user in ("4242", "4242:4243", "1001:4243"):
        words = cli.ok(["run", "--rm", "-u", user, "bb", "sh", "-c", "id -u; id -g"]).split()
        assert words[0] == user.partition(":")[0]
        assert words[0] != "0"
    refused = cli("run --rm -u nosuch bb id")
    assert refused.exit == 125
    assert "unable to find user nosuch" in refused.stderr


# faults --------------------------------------------------------------------------------------------


def test_a_vmadm_that_fails_leaves_nothing(cli: CLI, machine: SmartOS, daemon: Daemon) -> None:
    cli.ok("run --rm bb true")
    before = snapshot(daemon)
    for more in ({}, {"midway": True}, {"after": True}):
        machine.gz.fault(
            "vmadm", "create", times=1, stderr="Failed to create VM: broken disk", code=1, **more
        )
        result = cli("run --name c1 -v /vol -p 80 bb true")
        assert result.exit == 125, more
        assert "broken disk" in result.stderr, more
        assert settled(lambda: new(before, snapshot(daemon)), 10) == {}, more
        assert cli.ok("ps -aq") == ""
    assert cli.ok("run --rm --name c1 bb echo fine") == "fine"


def test_a_start_that_fails_says_why_and_can_be_tried_again(cli: CLI, machine: SmartOS) -> None:
    cli.ok("create --name c1 -p 127.0.0.1:28391:80 bb sleep 1000")
    machine.gz.fault("vmadm", "start", times=1, stderr="Unable to start VM: zoneadm broke", code=1)
    refused = cli("start c1")
    assert refused.exit == 1
    assert "zoneadm broke" in refused.stderr
    assert cli.ok("inspect -f '{{.State.Running}} {{.State.Error}}' c1").startswith("false ")
    cli.ok("start c1")
    assert cli.ok("port c1 80") == "127.0.0.1:28391"


def test_a_stop_or_removal_that_fails_can_be_tried_again(cli: CLI, machine: SmartOS) -> None:
    cli.ok("run -d --name c1 bb sleep 1000")
    machine.gz.fault("vmadm", "stop", times=1, stderr="Unable to stop VM: stuck", code=1)
    machine.gz.fault("vmadm", "kill", times=1, stderr="Unable to kill VM: stuck", code=1)
    assert "stuck" in cli("stop c1").stderr
    assert "stuck" in cli("kill c1").stderr
    assert cli.ok("inspect -f '{{.State.Running}}' c1") == "true"
    cli.ok("stop -t 1 c1")
    for more in ({}, {"midway": True}):
        machine.gz.fault("vmadm", "delete", times=1, stderr="Failed to delete: bad", code=1, **more)
        assert "bad" in cli("rm c1").stderr, more
        assert cli.ok("ps -a --format '{{.Names}}'") == "c1", more
    cli.ok("rm c1")
    assert cli.ok("ps -aq") == ""


def test_while_one_vmadm_hangs_all_else_goes_on(cli: CLI, machine: SmartOS) -> None:
    cli.ok("run -d --name c1 bb sleep 1000")
    machine.gz.fault("vmadm", "create", times=1, hang=True)
    with cli.popen("run --name stuck bb true", stdin=subprocess.DEVNULL) as stuck:
        until(lambda: machine.faults_left == 0)
        assert cli.ok("ps --format '{{.Names}}'") == "c1"
        assert cli.ok("exec c1 echo hello") == "hello"
        assert cli.ok("run --rm bb echo more") == "more"
        cli.ok("restart -t 0 c1")
        stuck.kill()
    assert cli.ok("ps -a --format '{{.Names}}'") == "c1"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", ["create", "start", "delete"])
def test_a_vmadm_that_hangs_is_over_with_the_gateways_next_start(
    machine: SmartOS, own: Daemon, command: str
) -> None:
    cli = CLI(own.url, own.root / "config")
    cli.ok("run --rm bb true")
    before = snapshot(own)
    midway = {"midway": True} if command != "start" else {}
    if command != "create":
        cli.ok("create --name c1 bb sleep 1000")
    machine.gz.fault("vmadm", command, times=1, hang=True, **midway)
    words = {"create": "run --name c1 bb true", "start": "start c1", "delete": "rm c1"}[command]
    with cli.popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as stuck:
        until(lambda: machine.faults_left == 0)
        own.kill()
        stuck.wait(20)
    machine.end_programs("vmadm", command)  # as an admin would
    machine.gz.clear_faults()
    own.start()
    if command == "start":
        cli.ok("start c1")
        cli.ok("rm -f c1")
    elif command == "delete":
        cli("rm -f c1")
    assert settled(lambda: new(before, snapshot(own)), 20) == {}
    assert cli.ok("ps -aq") == ""
    assert cli.ok("run --rm --name c1 bb echo fine") == "fine"


def test_a_lost_connection_is_made_again(cli: CLI, machine: SmartOS, daemon: Daemon) -> None:
    if machine.sshd is None:
        pytest.skip("there is no connection: this gateway is in the global zone")
    cli.ok("run --rm bb true")
    before = snapshot(daemon)
    cli.ok("run -d --name c1 -p 127.0.0.1:28392:80 bb sh -c 'sleep 1.5; exit 7'")
    cli.ok("run -d --name c2 bb sleep 1000")
    for _ in range(3):
        machine.sshd.drop()
        assert set(cli.ok("ps --format '{{.Names}}'").split()) <= {"c1", "c2"}
        until(lambda: cli("exec c2 true").exit == 0)
    assert cli.ok("wait c1") == "7"
    with cli.popen("run --name c3 bb echo said", stdout=subprocess.DEVNULL) as begun:
        machine.sshd.drop()
        begun.wait(30)
    assert cli.ok("run --rm bb echo fine") == "fine"
    cli.ok("stop -t 0 c2")
    cli("rm -f c1 c2 c3")
    assert cli.ok("ps -aq") == ""
    assert settled(lambda: new(before, snapshot(daemon)), 10) == {}


@pytest.fixture
def own(machine: SmartOS, workdir: Path, baseline: Path) -> Iterator[Daemon]:
    """A gateway of the test's own."""
    made = Daemon("zonegate", workdir / "o", f"zo{os.getpid() % 1000000}", "", (), machine)
    try:
        made.start()
        CLI(made.url, made.root / "config").ok(f"docker load -q -i {baseline}")
        yield made
        api = API(made.socket)
        for row in api.ok("GET", "/containers/json?all=1"):
            api("DELETE", f"/containers/{row['Id']}?force=1&v=1")
        made.stop()
    finally:
        if made.process is not None and made.process.poll() is None:
            made.kill()
        made.discard()


@pytest.mark.timeout(120)
def test_a_full_pool_is_told_and_leaves_nothing_half_made(workdir: Path) -> None:
    small = SmartOS(workdir / "full", over_ssh=False, free=str(24 << 20))
    server = Daemon("zonegate", workdir / "f", f"zf{os.getpid() % 1000000}", "", (), small)
    try:
        server.start()
        cli = CLI(server.url, workdir / "f-config")
        bb = next(image for image in catalogue() if image.name == "bb")
        large = Image("large", [busybox_layer("large"), layer([("fill", os.urandom(24 << 20))])])
        for name, image in (("bb", bb), ("large", large)):
            (workdir / f"{name}.tar").write_bytes(archive({f"{name}:latest": image}))
        cli.ok(f"load -q -i {workdir}/bb.tar")
        cli.ok("run -d --name kept bb sleep 1000")
        before = snapshot(server)
        refused = cli(f"load -q -i {workdir}/large.tar")
        assert refused.exit == 1
        assert "space" in refused.stderr
        refused = cli("create --name c1 bb true")
        assert refused.exit == 1
        assert "space" in refused.stderr
        assert settled(lambda: new(before, snapshot(server)), 10) == {}
        assert cli.ok("ps -a --format '{{.Names}}'") == "kept"
        assert cli.ok("images --format '{{.Repository}}'") == "bb"
        assert cli.ok("exec kept echo goes on") == "goes on"
        again = snapshot(server)
        server.kill()
        server.start()
        assert settled(lambda: new(again, snapshot(server)), 10) == {}
        cli.ok("rm -f kept")
        server.stop()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
        server.discard()
        small.stop()


def test_a_share_of_nfs_is_had_while_a_container_runs(
    machine: SmartOS, cli: CLI, daemon: Daemon
) -> None:
    share = machine.gz.root / "net/192.0.2.9/share"
    share.mkdir(parents=True)
    (share / "seed").write_text("shared")
    table = machine.gz.root / "etc/mnttab"
    options = "-o type=nfs -o o=addr=192.0.2.9,nfsvers=4,nolock -o device=:/share"
    cli.ok(f"volume create {options} far")
    cli.ok("run -d --name keeper -v far:/v bb sleep 1000")
    assert cli.ok("exec keeper cat /v/seed") == "shared"
    cli.ok("run --rm -v far:/w bb sh -c 'echo more >/w/more'")
    assert "\tnfs\tvers=4,llock," in table.read_text()
    daemon.kill()
    daemon.start()
    assert cli.ok("exec keeper cat /v/more") == "more"
    refused = cli("volume rm far")
    assert "volume is in use" in refused.stderr
    cli.ok("restart -t 0 keeper")
    assert cli.ok("exec keeper cat /v/seed") == "shared"
    cli.ok("stop -t 0 keeper")
    until(lambda: table.read_text() == "")
    assert cli.ok("cp keeper:/v/more -").startswith("more")
    cli.ok("rm keeper")
    cli.ok("volume rm far")
    table.unlink()
    assert not list((machine.gz.root / "var/run/zonegate").glob("*/volumes/*"))
    assert sorted(path.name for path in share.iterdir()) == ["more", "seed"]
