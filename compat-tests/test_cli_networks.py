"""docker network, and what a container is on its networks: by the stock CLI, the answers compared with dockerd's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from compat.answers import Recording
from compat.clients import API, CLI
from compat.scenarios import OnSmartOS, Scenario, Step, check, quiet, scenario

NOT_LIVE = OnSmartOS(compare="exit")
"""A running zone gets a new nic at its next start."""
SHOWN = (
    "docker network inspect -f '{{.Name}} {{.Driver}} {{.Scope}} {{.Attachable}} {{.EnableIPv6}}"
    " {{.Labels}} {{json .IPAM.Config}} {{len .Containers}}' "
)
JOINED = "docker inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.IPAddress}} {{end}}' "
NO_PREFIX = "28 says at a start that it is about networking"

SCENARIOS = [
    scenario(
        "networks are made and removed",
        "docker network create nw1",
        SHOWN + "nw1",
        "docker network create --driver bridge --label a=1 --label b= --internal --attachable nw2",
        SHOWN + "nw2",
        "docker network inspect -f '{{.Internal}}' nw2",
        "docker network create --subnet 10.77.1.0/24 --gateway 10.77.1.254 --ip-range 10.77.1.128/25"
        " --aux-address printer=10.77.1.200 nw3",
        SHOWN + "nw3",
        "docker network create --subnet 10.77.2.0/24 nw4",
        SHOWN + "nw4",
        "docker network ls --format '{{.Name}} {{.Driver}} {{.Scope}}' -f name=nw",
        Step("docker network ls --format '{{.Name}}' -f type=builtin", sort=True),
        "docker network ls --format '{{.Name}}' -f label=a",
        "docker network ls --format '{{.Name}}' -f label=a=2",
        "docker network ls --format '{{.Name}}' -f driver=null",
        "docker network ls --format '{{.Name}}' -f driver=bridge -f name=nw3",
        "docker network ls -q -f scope=global",
        Step("docker network ls --format '{{.Name}}' -f dangling=true -f name=nw", sort=True),
        "docker network ls -f type=zz",
        Step(
            "docker network ls -f nope=1",
        ),
        "docker network rm nw1 nwnope nw2",
        "docker network inspect -f '{{.Name}}' nw1 nw3",
        "docker network rm nw3 nw4",
        "docker network ls -q -f name=nw",
    ),
    scenario(
        "networks that cannot be",
        "docker network create bridge",
        "docker network create host",
        "docker network create none",
        "docker network create default",
        "docker network create -d host nw1",
        "docker network create -d null nw1",
        "docker network create -d nope nw1",
        Step(
            "docker network create -d overlay nw1",
        ),
        "docker network create --subnet 10.77.1.0/24 nw1",
        "docker network create nw1",
        Step(
            "docker network create --subnet 10.77.0.0/16 nw2",
        ),
        Step(
            "docker network create --subnet 10.78.1.5/24 nw2",
            stdout="",
            why="28 validates",
            compare="exit stderr",
        ),
        Step(
            "docker network create --subnet 10.78.2.0/24 --gateway 10.79.0.1 --ip-range 10.80.0.0/25 nw3",
            compare="exit",
        ),
        Step(
            "docker network rm nw2",
            compare="exit",
        ),
        "docker network rm bridge",
        "docker network rm nwnope",
        "docker network inspect nwnope",
        Step(
            "docker run --rm --network nwnope bb true",
        ),
        quiet("docker network rm nw1"),
    ),
    scenario(
        "containers join and leave",
        quiet("docker network create --subnet 10.77.1.0/24 nw1"),
        quiet("docker network create nw2"),
        "docker run -d --name c1 --network nw1 --network-alias one bb sleep 1000",
        JOINED + "c1",
        "docker network connect --alias two nw2 c1",
        JOINED + "c1",
        Step("docker exec c1 sh -c 'ip -4 -o addr | wc -l'", smartos=NOT_LIVE),
        "docker network inspect -f '{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}' nw2",
        Step(
            "docker network connect nw2 c1",
            compare="exit stderr",
            why="twice",
        ),
        Step(
            "docker network rm nw2",
        ),
        "docker network disconnect nw2 c1",
        JOINED + "c1",
        Step("docker exec c1 sh -c 'ip -4 -o addr | wc -l'", smartos=NOT_LIVE),
        "docker network disconnect nw2 c1",
        "docker network rm nw2",
        "docker network disconnect nwnope c1",
        "docker network connect nwnope c1",
        "docker network connect nw1 cnope",
        "docker network disconnect nw1 cnope",
        "docker stop -t 0 c1",
        JOINED + "c1",
        "docker network disconnect nw1 c1",
        "docker network disconnect nw1 c1",
        "docker network connect --ip 10.77.1.9 nw1 c1",
        "docker network connect nw1 c1",
        "docker start c1",
        JOINED + "c1",
        "docker exec c1 hostname -i",
        quiet("docker rm -f c1"),
        "docker network rm nw1",
    ),
    scenario(
        "what does not go together",
        quiet("docker network create --subnet 10.77.1.0/24 nw1"),
        quiet("docker network create nw2"),
        quiet("docker run -d --name c1 --network none bb sleep 1000"),
        "docker network connect nw1 c1",
        "docker network disconnect none c1",
        "docker network connect nw1 c1",
        JOINED + "c1",
        Step(
            "docker network connect host c1",
        ),
        Step(
            "docker network connect --ip 10.99.0.1 nw1 c1",
            compare="exit",
        ),
        Step(
            "docker network connect --ip 10.99.0.1 nw2 c1",
        ),
        Step(
            "docker network connect --ip 10.99.0.1 --alias x bridge c1",
            stderr="Error response from daemon: invalid endpoint settings:\n* user specified IP address is supported"
            " on user defined networks only\n* network-scoped alias is supported only for containers in user"
            " defined networks\n* no configured subnet or ip-range contain the IP address IP\n",
            why="the gateway of these tests has a --bip",
        ),
        quiet("docker rm -f c1"),
        quiet("docker network rm nw1 nw2"),
    ),
    scenario(
        "addresses are had once",
        quiet("docker network create --subnet 10.77.1.0/24 nw1"),
        quiet("docker run -d --name c1 --network nw1 --ip 10.77.1.9 bb sleep 1000"),
        "docker create --name c2 --network nw1 --ip 10.77.1.9 bb sleep 1000",
        Step(
            "docker start c2",
        ),
        quiet("docker rm -f c1"),
        "docker start c2",
        "docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}' c2",
        "docker restart -t 0 c2",
        "docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAMConfig.IPv4Address}}{{end}}' c2",
        quiet("docker rm -f c2"),
        Step("docker run --rm --network nw1 --ip 10.78.0.1 bb true", compare="exit"),
        Step(
            "docker run --rm --network nw1 --mac-address 02:42:00:00:00:99 bb cat /sys/class/net/eth0/address",
        ),
        quiet("docker network rm nw1"),
    ),
    scenario(
        "a network may come after its container",
        "docker create --name c1 --network nwlate bb true",
        "docker inspect -f '{{.HostConfig.NetworkMode}} {{json .NetworkSettings.Ports}}' c1",
        Step(
            "docker start c1",
        ),
        Step(
            "docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}' c1",
        ),
        quiet("docker network create nwlate"),
        "docker start -a c1",
        quiet("docker rm c1"),
        quiet("docker network rm nwlate"),
    ),
    scenario(
        "ports are shown where a bridge leads out",
        quiet("docker network create nw1"),
        quiet("docker network create --internal nw2"),
        quiet("docker run -d --name c1 --network nw1 --expose 80 bb sleep 1000"),
        quiet("docker run -d --name c2 --network nw2 --expose 80 -p 28150:81 bb sleep 1000"),
        quiet("docker run -d --name c3 --network none --expose 80 -p 28151:81 bb sleep 1000"),
        Step(
            "docker run -d --name c4 --network host --expose 80 -p 28152:81 bb sleep 1000",
            smartos=OnSmartOS(
                command="docker run -d --name c4 --network none --expose 80 bb sleep 1000",
                stderr="",
            ),
        ),
        Step("docker ps --format '{{.Names}} {{.Ports}}'", sort=True),
        "docker inspect -f '{{json .NetworkSettings.Ports}}' c1 c2 c3 c4",
        "docker port c2",
        quiet("docker network connect nw1 c2"),
        quiet("docker restart -t 0 c2"),
        "docker inspect -f '{{json .NetworkSettings.Ports}}' c2",
        "docker ps --format '{{.Ports}}' -f name=c2",
        quiet("docker network disconnect nw1 c2"),
        Step(
            "docker inspect -f '{{json .NetworkSettings.Ports}}' c2",
            smartos=OnSmartOS(command="docker restart -t 0 c2", stdout="c2\n"),
        ),
        quiet("docker rm -f c1 c2 c3 c4"),
        quiet("docker network rm nw1 nw2"),
    ),
    scenario(
        "a stopped container knows where it was",
        quiet("docker network create nw1"),
        quiet("docker run -d --name c1 --network nw1 --network-alias one bb sleep 1000"),
        "docker stop -t 0 c1",
        "docker inspect -f '{{json .NetworkSettings.Networks}}' c1",
        Step("docker network rm nw1", smartos=OnSmartOS(compare="")),
        Step("docker start c1", smartos=OnSmartOS(compare="")),
        Step(
            "docker inspect -f '{{json .NetworkSettings.Networks}}' c1",
            smartos=OnSmartOS(compare="exit"),
        ),
        quiet("docker rm -f c1"),
    ),
    scenario(
        "networks are pruned",
        quiet("docker network create --label k=v nw1"),
        quiet("docker network create nw2"),
        quiet("docker network create nw3"),
        quiet("docker run -d --name c1 --network nw3 bb sleep 1000"),
        "docker network prune -f --filter label=nope",
        "docker network prune -f --filter label=k=v",
        "docker network prune -f",
        "docker network ls --format '{{.Name}}' -f name=nw",
        quiet("docker rm -f c1"),
        "docker network prune -f",
        "docker network prune -f",
    ),
    scenario(
        "hosts follow the networks",
        quiet("docker network create --subnet 10.77.1.0/24 nw1"),
        quiet("docker network create --subnet 10.77.2.0/24 nw2"),
        quiet("docker run -d --name c1 --hostname h --network nw1 --ip 10.77.1.9 bb sleep 1000"),
        # Where nobody answers for names a container has lines for its own.
        Step(
            "docker exec c1 grep -w h /etc/hosts",
            smartos=OnSmartOS(stdout="re:IP\th\n(IP\tc1 ID12 h\n)?"),
        ),
        quiet("docker exec c1 sh -c 'echo 192.0.2.9 mine >>/etc/hosts'"),
        "docker network connect --ip 10.77.2.9 nw2 c1",
        Step("docker exec c1 grep -E '\\bh|mine' /etc/hosts", smartos=NOT_LIVE),
        "docker network disconnect nw1 c1",
        Step(
            "docker exec c1 grep -E '\\bh|mine' /etc/hosts",
            smartos=NOT_LIVE,
        ),
        quiet("docker rm -f c1"),
        quiet("docker network rm nw1 nw2"),
    ),
    scenario(
        "networks are kept apart",
        quiet("docker network create --subnet 10.77.1.0/24 nw1"),
        quiet("docker network create --subnet 10.77.2.0/24 --internal nw2"),
        quiet("docker run -d --name c1 --network nw1 --ip 10.77.1.9 bb sleep 1000"),
        quiet("docker run -d --name c2 --network nw1 --ip 10.77.1.10 bb sleep 1000"),
        quiet("docker run -d --name c3 --network nw2 --ip 10.77.2.9 bb sleep 1000"),
        quiet("docker run -d --name c4 bb sleep 1000"),
        quiet("docker exec c1 ping -c 1 -W 2 10.77.1.10"),
        quiet("docker exec c1 ping -c 1 -W 1 10.77.2.9"),
        quiet("docker exec c3 ping -c 1 -W 1 10.77.1.9"),
        quiet("docker exec c4 ping -c 1 -W 1 10.77.1.9"),
        quiet("docker network connect nw2 c1"),
        Step("docker exec c1 ping -c 1 -W 2 10.77.2.9", compare="exit", smartos=OnSmartOS(exit=1)),
        quiet("docker restart -t 0 c1"),
        quiet("docker exec c1 ping -c 1 -W 2 10.77.2.9"),
        quiet("docker rm -f c1 c2 c3 c4"),
        quiet("docker network rm nw1 nw2"),
    ),
    scenario(
        "ports are mapped",
        quiet("docker network create nw1"),
        quiet("docker network create nw2"),
        "docker create --name c0 -p 28140:80 bb sleep 1000",
        "docker inspect -f '{{json .NetworkSettings.Ports}}' c0",
        quiet("docker run -d --name c1 --network nw1 -p 28141-28143:80 bb sleep 1000"),
        Step("docker port c1", sort=True),
        quiet("docker run -d --name c2 --network nw1 -p 28141-28143:80 bb sleep 1000"),
        Step("docker port c2", sort=True),
        quiet("docker run -d --name c3 --network nw1 -p 127.0.0.1:28144-28145:90-91 bb sleep 1000"),
        Step("docker port c3", sort=True),
        quiet("docker run -d --name c4 --network nw2 --expose 95 -P -p 0:96 bb sleep 1000"),
        Step("docker port c4", sort=True),
        quiet("docker network connect nw2 c1"),
        quiet("docker network disconnect nw1 c1"),
        Step(
            "docker port c1",
            sort=True,
            stdout="\n80/tcp -> 0.0.0.0:28141\n80/tcp -> [::]:28141",
            why="a container keeps the port that it has, dockerd takes the next of the range",
        ),
        "docker stop -t 0 c1",
        "docker port c1",
        quiet("docker run -d --name c5 --network nw1 -p 28141:80 bb sleep 1000"),
        "docker port c5 80/tcp",
        Step(
            "docker network create -o com.docker.network.bridge.host_binding_ipv4=127.0.0.1 nw3",
            compare="exit",
            smartos=OnSmartOS(exit=1),
        ),
        quiet("docker rm -f c0 c1 c2 c3 c4 c5"),
    ),
]


@pytest.fixture
def no_networks(cli: CLI) -> Iterator[None]:
    """None of ours is left over."""
    yield
    for name in cli.ok("docker ps -aq").split():
        cli(f"docker rm -f {name}")
    for name in cli.ok("docker network ls -q -f type=custom").split():
        cli(f"docker network rm {name}")


@pytest.mark.usefixtures("no_networks")
@pytest.mark.parametrize("case", SCENARIOS, ids=str)
def test_the_commands_answer_as_dockerd_does(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(case, recording, cli, names, fill)


@pytest.fixture
def joined(api: API, no_networks: None) -> dict[str, str]:
    """A network with a subnet, one without, a container that runs on the first, one that was never started."""
    one = api.ok(
        "POST",
        "/networks/create",
        {"Name": "nw1", "IPAM": {"Config": [{"Subnet": "10.77.1.0/24"}]}},
    )
    two = api.ok("POST", "/networks/create", {"Name": "nw2"})
    body = {"Image": "bb", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "nw1"}}
    runs = api.ok("POST", "/containers/create?name=c1", body)["Id"]
    api.ok("POST", f"/containers/{runs}/start")
    waits = api.ok("POST", "/containers/create?name=c2", body)["Id"]
    return {"one": one["Id"], "two": two["Id"], "runs": runs, "waits": waits}


STATUSES = [
    ("POST", "/networks/create", {"Name": "bridge"}, 403, "operation is not permitted on predefined bridge network"),
    ("POST", "/networks/create", {"Name": "nw1", "CheckDuplicate": True}, 409, "network with name nw1 already exists"),
    ("POST", "/networks/create", {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.77.0.0/16"}]}}, 403,
     "Pool overlaps with other one on this address space"),
    ("POST", "/networks/create", {"Name": "x", "Driver": "nope"}, 404, 'plugin "nope" not found'),
    ("POST", "/networks/create", {"Name": "x", "IPAM": {"Driver": "nope"}}, 404, 'plugin "nope" not found'),
    ("GET", "/networks/nope", None, 404, "network nope not found"),
    ("DELETE", "/networks/nope", None, 404, "network nope not found"),
    ("DELETE", "/networks/host", None, 403, "host is a pre-defined network and cannot be removed"),
    ("DELETE", "/networks/nw1", None, 403, "has active endpoints"),
    ("POST", "/networks/nw2/connect", {"Container": "nope"}, 404, "No such container: nope"),
    ("POST", "/networks/nope/connect", {"Container": "c1"}, 404, "network nope not found"),
    ("POST", "/networks/nw1/connect", {"Container": "c1"}, 403,
     "endpoint with name c1 already exists in network nw1"),
    ("POST", "/networks/host/connect", {"Container": "c1"}, 400, "host network"),
    ("POST", "/networks/none/connect", {"Container": "c1"}, 400,
     "container cannot be connected to multiple networks with one of the networks in private (none) mode"),
    ("POST", "/networks/nw2/connect", {"Container": "c1", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}}},
     400, "user specified IP address is supported only when connecting to networks with user configured subnets"),
    ("POST", "/networks/bridge/connect", {"Container": "c1", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}}},
     400, "user specified IP address is supported on user defined networks only"),
    ("POST", "/networks/nw2/disconnect", {"Container": "c1"}, 500, "is not connected to"),
    ("POST", "/networks/nw2/disconnect", {"Container": "c2"}, 500, "is not connected to"),
    ("POST", "/networks/nw2/disconnect", {"Container": "nope"}, 404, "No such container: nope"),
    ("POST", "/networks/nw2/disconnect", {"Container": "nope", "Force": True}, 404, "endpoint nope not found"),
    ("POST", "/networks/nope/disconnect", {"Container": "c1"}, 404, "network nope not found"),
    ("POST", "/networks/prune?filters=%7B%22x%22%3A%5B%22y%22%5D%7D", None, 400, "invalid filter 'x'"),
]  # fmt: skip


def test_statuses_of_what_cannot_be(api: API, joined: dict[str, str]) -> None:
    wrong = []
    for method, path, body, status, words in STATUSES:
        answer = api(method, path, body)
        if (
            answer.status != status
            or words.lower() not in answer.body.decode().replace('\\"', '"').lower()
        ):
            wrong.append((method, path, body, status, words, answer.status, answer.body))
    assert not wrong, "\n".join(map(str, wrong))


V28 = [
    ("/networks/create", {"Name": " "}, 400, "invalid name: name is empty"),
    ("/networks/create", {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.78.1.5/24", "Gateway": "1.2.3.4"}]}}, 400,
     "invalid network config:\n* invalid subnet 10.78.1.5/24: it should be 10.78.1.0/24\n"
     "* invalid gateway 1.2.3.4: parent subnet 10.78.1.5/24 doesn't contain this address"),
    ("/networks/create", {"Name": "x", "IPAM": {"Config": [{"Subnet": "nope"}]}}, 400,
     "invalid network config:\ninvalid subnet nope: invalid CIDR block notation"),
    ("/networks/create", {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.78.1.0/24", "IPRange": "10.78.0.0/16"}]}}, 400,
     "invalid network config:\ninvalid ip-range 10.78.0.0/16: CIDR block is bigger than its parent subnet 10.78.1.0/24"),
    ("/networks/create", {"Name": "x", "IPAM": {"Config": [
        {"Subnet": "10.78.1.0/24", "AuxiliaryAddresses": {"a": "fd00::1"}}]}}, 400,
     "invalid network config:\ninvalid auxiliary address a: parent subnet is an IPv4 block"),
    ("/networks/create", {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.78.1.0/24"}, {"Subnet": "10.79.1.0/24"}]}}, 403,
     "bridge driver doesn't support multiple subnets"),
    ("/networks/nw1/connect", {"Container": "c2", "EndpointConfig": {"MacAddress": "nope"}}, 400, "invalid MAC address nope"),
    ("/networks/nw2/connect", {"Container": "c1", "EndpointConfig": {"MacAddress": "nope", "IPAMConfig": {
        "IPv4Address": "x", "IPv6Address": "y"}}}, 400,
     "invalid MAC address nope"),
    ("/networks/nw2/connect", {"Container": "c1", "EndpointConfig": {"DriverOpts": {
        "com.docker.network.endpoint.sysctls": "net.ipv4.conf.eth0.forwarding=1"}}}, 400,
     "unrecognised network interface sysctl 'net.ipv4.conf.eth0.forwarding=1'"),
]  # fmt: skip


@pytest.mark.usefixtures("joined")
def test_words_of_28(api: API, recording: Recording) -> None:
    wrong = []
    for path, body, status, words in V28:
        answer = api("POST", f"=/v1.51{path}", body)
        text = json.loads(answer.body)["message"] if answer.body.strip() else ""
        refused = recording.on_smartos and "sysctl" in words
        wanted = (501, "on SmartOS: there is no Linux kernel") if refused else (status, words)
        if answer.status != wanted[0] or wanted[1] not in text:
            wrong.append((path, body, *wanted, answer.status, text))
    assert not wrong, "\n".join(map(str, wrong))


def test_lookup_is_by_id_then_name_then_prefix(api: API, joined: dict[str, str]) -> None:
    prefix = joined["one"][:6]
    assert api.ok("GET", f"/networks/{prefix}")["Name"] == "nw1"
    made = api.ok("POST", "/networks/create", {"Name": prefix})
    assert api.ok("GET", f"/networks/{prefix}")["Id"] == made["Id"]
    assert api.ok("GET", f"/networks/{joined['one']}")["Name"] == "nw1"
    assert isinstance(api.ok("GET", "/networks/"), list)
    assert {row["Name"] for row in api.ok("GET", "/networks")} >= {"bridge", "nw1", "nw2", prefix}
    with_name = api.ok("POST", "/networks/create", {"Name": "with a blank"})
    assert api.ok("GET", "/networks/with%20a%20blank")["Id"] == with_name["Id"]


def test_endpoints_are_shown(api: API, joined: dict[str, str], kind: str) -> None:
    v = "" if kind == "dockerd" else "=/v1.51"
    settings: dict[str, Any] = {
        "Aliases": ["web"],
        "GwPriority": 7,
        "MacAddress": "02:42:ac:00:00:09",
    }
    settings["IPAMConfig"] = {"IPv4Address": "10.77.1.77"}
    mode = {"NetworkMode": joined["one"][:10]}
    body: dict[str, Any] = {
        "Image": "bb",
        "Cmd": ["sleep", "1000"],
        "Hostname": "h",
        "HostConfig": mode,
    }
    body["NetworkingConfig"] = {"EndpointsConfig": {joined["one"][:10]: settings}}
    made = api.ok("POST", f"{v}/containers/create?name=c3", body)["Id"]
    if kind != "dockerd":
        api.ok("POST", f"{v}/networks/nw2/connect", {"Container": "c3", "EndpointConfig": {}})
        fresh = api.ok("GET", f"{v}/containers/{made}/json")["NetworkSettings"]["Networks"]
        assert {name: row["IPAddress"] for name, row in fresh.items()} == {"nw1": "", "nw2": ""}
    api.ok("POST", f"{v}/containers/{made}/start")
    shown = api.ok("GET", f"{v}/containers/{made}/json")
    assert shown["HostConfig"]["NetworkMode"] == mode["NetworkMode"]
    row = shown["NetworkSettings"]["Networks"]["nw1"]
    assert row["IPAddress"] == "10.77.1.77"
    assert row["NetworkID"] == joined["one"]
    assert row["IPPrefixLen"] == 24
    assert "web" in row["Aliases"]
    if kind == "dockerd":
        return
    assert row["DNSNames"] == ["c3", "web", made[:12], "h"]
    assert row["Aliases"] == ["web"]
    assert row["GwPriority"] == 7
    assert row["MacAddress"] == "02:42:ac:00:00:09"
    assert row["EndpointID"]
    member = api.ok("GET", f"{v}/networks/nw1")["Containers"][made]
    assert member["IPv4Address"] == "10.77.1.77/24"
    assert member["MacAddress"] == "02:42:ac:00:00:09"
    api.ok("POST", f"{v}/containers/{made}/restart?t=0")
    again = api.ok("GET", f"{v}/containers/{made}/json")["NetworkSettings"]["Networks"]["nw1"]
    assert again["MacAddress"] == "02:42:ac:00:00:09"


@pytest.mark.linux_only("a zone's interfaces are the brand's")
def test_the_network_that_leads_out_and_the_interfaces_names(
    cli: CLI, joined: dict[str, str], kind: str
) -> None:
    show = "sh -c 'ip route | grep default; ls /sys/class/net | grep -v -e sit -e tunl -e gre'"
    plain = cli.ok(f"docker run --rm --network nw2 --network nw1 bb {show}").split()
    assert plain[2].startswith("10.77.1.")
    if kind == "zonegate":  # dockerd's are in an order of their own at each start
        assert plain[plain.index("dev") + 1] == "eth1"
    first = cli.ok(
        "docker run --rm --network nw1 --network name=nw2,gw-priority=1,"
        f"driver-opt=com.docker.network.endpoint.ifname=web0 bb {show}"
    ).split()
    assert first[first.index("dev") + 1] == "web0"
    assert {"eth0", "web0", "lo"} <= set(first)
    cli.ok("docker network connect --gw-priority 5 nw2 c1")
    live = cli.ok("docker exec c1 ip route")
    assert "default via 10.77.1." not in live
    cli.ok("docker network disconnect nw2 c1")
    assert "default via 10.77.1." in cli.ok("docker exec c1 ip route")


@pytest.mark.linux_only(
    "a network that leads nowhere has no gateway; its addresses: test_addresses.py"
)
def test_a_network_of_both_versions(cli: CLI, api: API, no_networks: None, kind: str) -> None:
    subnet = "--subnet fd00:77::/64 " if kind == "dockerd" else ""
    cli.ok(f"docker network create --ipv6 {subnet}nw6")
    cli.ok("docker run -d --name c1 --network nw6 bb sleep 1000")
    row = api.ok("GET", "/containers/c1/json")["NetworkSettings"]["Networks"]["nw6"]
    assert row["GlobalIPv6Address"].startswith("fd")
    assert row["GlobalIPv6PrefixLen"] == 64
    assert row["IPv6Gateway"]
    cli.ok(f"docker run --rm --network nw6 bb ping -6 -c 1 -W 5 {row['GlobalIPv6Address']}")
    assert row["GlobalIPv6Address"] in cli.ok("docker exec c1 cat /etc/hosts")
    shown = api.ok("GET", "/networks/nw6")
    assert shown["EnableIPv6"] is True
    (member,) = shown["Containers"].values()
    assert member["IPv6Address"] == f"{row['GlobalIPv6Address']}/64"
