"""The server as a whole: ping, version, info, disk usage, login; and what every request meets before its route."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from compat.answers import Recording, normal, shape
from compat.clients import API, CLI
from compat.daemons import Daemon
from compat.fakeregistry import RegistryThread

SIGNED = ("Api-Version", "Docker-Experimental", "Ostype", "Server")
PINGED = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Ostype": "linux",
    "Docker-Experimental": "false",
}


# -- the entry gate


@pytest.mark.parametrize("path", ["=/_ping", "/_ping"])
def test_a_ping_has_its_heads(api: API, path: str) -> None:
    get, head = api("GET", path), api("HEAD", path)
    assert (get.status, get.body, head.status, head.body) == (200, b"OK", 200, b"")
    for answer in (get, head):
        assert {name: answer.headers[name] for name in PINGED} == PINGED
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert answer.headers["Builder-Version"]
        assert answer.headers["Server"].startswith("Docker/")
        assert answer.headers["Api-Version"] == "1.51"
    assert head.headers["Content-Length"] == "0"


def test_every_answer_is_signed(api: API) -> None:
    made = api.ok("POST", "/containers/create", {"Image": "bb", "Cmd": ["true"]})["Id"]
    run = f"/containers/{made}"
    for method, path in (
        ("GET", "/info"),
        ("GET", "/containers/json"),
        ("GET", "/containers/nothere/json"),
        ("POST", f"{run}/start"),
        ("POST", f"{run}/wait"),
        ("POST", f"{run}/stop"),
        ("GET", f"{run}/logs?stdout=1"),
        ("GET", "/events?since=1&until=2"),
        ("DELETE", run),
        ("OPTIONS", "/containers/json"),
    ):
        answer = api(method, path)
        missing = [name for name in SIGNED if name not in answer.headers]
        assert not missing or method == "OPTIONS", (method, path, missing)


def test_a_taken_connection_is_signed_too(api: API) -> None:
    api.ok("POST", "/containers/create?name=signed", {"Image": "bb", "Cmd": ["sleep", "1000"]})
    api.ok("POST", "/containers/signed/start")
    made = api.ok("POST", "/containers/signed/exec", {"Cmd": ["true"], "AttachStdout": True})["Id"]
    with api.hijack(f"/exec/{made}/start", {}) as taken:
        taken.rest()
    heads = taken.head.lower()
    assert "server: docker/" in heads
    assert "api-version: " in heads


@pytest.mark.parametrize("path", ["/nothere", "/containers/json", "/containers/x/start"])
def test_options_of_any_path_are_empty(api: API, path: str) -> None:
    answer = api("OPTIONS", path)
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("path", "status", "kind_of"),
    [
        ("=/v1.99/info", 400, "application/json"),
        ("=/v1.99/_ping", 400, "application/json"),
        ("=/v1.23/info", 400, "text/plain"),
        ("=/v1/info", 400, "text/plain"),
        ("=/v9.9/containers/json", 400, "application/json"),
    ],
)
def test_a_version_out_of_range_is_refused(api: API, path: str, status: int, kind_of: str) -> None:
    answer = api("GET", path)
    assert answer.status == status
    assert answer.headers["Content-Type"].startswith(kind_of)
    words = "is too new. Maximum" if kind_of == "application/json" else "is too old. Minimum"
    assert words in answer.message


@pytest.mark.parametrize("minor", [24, 25, 28, 30, 32, 35, 37, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51])  # fmt: skip
def test_every_version_in_range_is_spoken(daemon: Daemon, minor: int) -> None:
    api = API(daemon.socket, f"/v1.{minor}")
    assert api.ok("GET", "/version")["ApiVersion"]
    assert api.ok("GET", "/info")["OSType"] == "linux"
    assert isinstance(api.ok("GET", "/containers/json?all=1"), list)
    assert isinstance(api.ok("GET", "/images/json"), list)
    assert api.ok("GET", "/networks/bridge")["Name"] == "bridge"


def test_what_harnesses_list_before_and_after_each_step(api: API) -> None:
    undangled = quote(json.dumps({"dangling": ["false"]}))
    as_map = quote(json.dumps({"dangling": {"false": True}}))
    assert isinstance(api.ok("GET", "/containers/json?all=1"), list)
    listed = [api.ok("GET", f"/images/json?filters={text}") for text in (undangled, as_map)]
    assert {row["Id"] for row in listed[0]} == {row["Id"] for row in listed[1]}
    assert api.ok("GET", "/plugins") == []
    assert {row["Name"] for row in api.ok("GET", "/networks")} >= {"bridge", "host", "none"}
    assert "Volumes" in api.ok("GET", "/volumes")


BODY_ROUTES = (
    ("POST", "/commit?container=x"),
    ("POST", "/containers/create"),
    ("POST", "/containers/x/exec"),
    ("POST", "/exec/x/start"),
    ("POST", "/containers/x/update"),
    ("POST", "/networks/create"),
    ("POST", "/networks/x/connect"),
    ("POST", "/networks/x/disconnect"),
    ("POST", "/volumes/create"),
)
JSON_TYPE = {"Content-Type": "application/json"}


@pytest.mark.parametrize(("method", "path"), BODY_ROUTES, ids=lambda word: word.split("?")[0])
def test_a_body_is_read_as_gos_decoder_does(api: API, method: str, path: str) -> None:
    told = api(method, path, b"{}", {"Content-Type": "text/plain"})
    words = "unsupported Content-Type header (text/plain): must be 'application/json'"
    assert (told.status, told.message) == (400, words)
    told = api(method, path, b"{invalid", JSON_TYPE)
    words = "invalid JSON: invalid character 'i' looking for beginning of object key string"
    assert (told.status, told.message) == (400, words)
    told = api(method, path, b"{} {}", JSON_TYPE)
    assert (told.status, told.message) == (400, "unexpected content after JSON")
    assert api(method, path, b"", JSON_TYPE).status < 500
    assert (
        api(method, path, b"null", {"Content-Type": "application/json; charset=utf-8"}).status < 500
    )


def test_a_chunked_body_needs_no_length(api: API) -> None:
    body = json.dumps({"Image": "bb"}).encode()
    answer = api.raw(
        f"POST {api.version}/containers/create?name=chunked HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode()
        + body
        + b"\r\n0\r\n\r\n"
    )
    assert b" 201 Created\r\n" in answer


def test_an_error_is_a_message(api: API) -> None:
    answer = api("GET", "/containers/nothere/json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"message": "No such container: nothere"}
    assert api("GET", "/nothere").json() == {"message": "page not found"}


def test_of_several_removals_one_removes(api: API) -> None:
    """The others find it going, or gone."""
    made = api.ok("POST", "/containers/create", {"Image": "bb", "Cmd": ["sleep", "1000"]})["Id"]
    api.ok("POST", f"/containers/{made}/start")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: api("DELETE", f"/containers/{made}?force=1"), range(6)))
    told = {
        204: "",
        404: f"No such container: {made}",
        409: f"removal of container {made} is already in progress",
    }
    assert [answer.status for answer in answers].count(204) == 1
    for answer in answers:
        assert answer.message == told[answer.status]


# -- version and info


def test_version_and_info_tell_the_same(api: API) -> None:
    version, info = api.ok("GET", "/version"), api.ok("GET", "/info")
    assert version["Version"] == info["ServerVersion"]
    assert version["KernelVersion"] == info["KernelVersion"]
    assert version.get("Experimental", False) == info["ExperimentalBuild"]
    engine = version["Components"][0]
    assert engine["Name"] == "Engine"
    assert engine["Version"] == version["Version"]
    assert engine["Details"]["ApiVersion"] == version["ApiVersion"]
    assert engine["Details"]["MinAPIVersion"] == version["MinAPIVersion"]


def test_info_is_true_of_this_machine(api: API, platform: object) -> None:
    info = api.ok("GET", "/info")
    assert info["OSType"] == "linux"
    assert info["ID"]
    assert info["DockerRootDir"]
    assert info["NCPU"] > 0
    assert info["MemTotal"] > 1 << 28
    if platform is None:
        assert info["SecurityOptions"]
        assert info["CgroupVersion"] in ("1", "2")
        assert info["CgroupDriver"] in ("cgroupfs", "systemd")
        assert info["Architecture"] == __import__("platform").machine()
    assert info["DefaultRuntime"] in info["Runtimes"]
    for limit in ("MemoryLimit", "SwapLimit", "PidsLimit", "CpuCfsQuota", "CPUShares", "CPUSet"):
        assert isinstance(info[limit], bool)


def test_the_counters_of_info_move_with_the_containers(api: API, platform: object) -> None:
    def counts() -> tuple[int, int, int]:
        info = api.ok("GET", "/info")
        found = info["ContainersRunning"], info["ContainersPaused"], info["ContainersStopped"]
        assert info["Containers"] == sum(found)
        return found

    running, paused, stopped = counts()
    api.ok("POST", "/containers/create?name=counted", {"Image": "bb", "Cmd": ["sleep", "1000"]})
    assert counts() == (running, paused, stopped + 1)
    api.ok("POST", "/containers/counted/start")
    assert counts() == (running + 1, paused, stopped)
    if platform is None:
        api.ok("POST", "/containers/counted/pause")
        assert counts() == (running, paused + 1, stopped)
    api("DELETE", "/containers/counted?force=1")
    assert counts() == (running, paused, stopped)


def test_the_images_of_info_are_counted(api: API) -> None:
    assert api.ok("GET", "/info")["Images"] >= len(api.ok("GET", "/images/json"))


INFO_KEYS = {
    # key: versions that have it, from and below
    "KernelMemory": (24, 42),
    "BridgeNfIptables": (24, 50),
    "FirewallBackend": (49, 52),
}


@pytest.mark.parametrize("minor", [24, 25, 41, 42, 48, 49, 50, 51])
def test_info_has_the_fields_of_its_version(daemon: Daemon, platform: object, minor: int) -> None:
    info = API(daemon.socket, f"/v1.{minor}").ok("GET", "/info")
    for key, (since, below) in INFO_KEYS.items():
        if key == "FirewallBackend" and platform is not None:
            continue
        assert (key in info) == (since <= minor < below), key
    assert ("Expected" in info["RuncCommit"]) == (minor < 49)
    assert ("AllowNondistributableArtifactsCIDRs" in info["RegistryConfig"]) == (minor < 48)
    if platform is None:
        named = [option.startswith("name=") for option in info["SecurityOptions"]]
        assert all(named) if minor >= 25 else not any(named)


# -- disk usage

LABEL = {"usage": ""}


@pytest.fixture
def used(api: API) -> Iterator[None]:
    """A container with a volume of some bytes, an image of its own name."""
    api.ok("POST", "/volumes/create", {"Name": "weighed", "Labels": LABEL})
    body = {
        "Image": "bb",
        "Cmd": ["sh", "-c", "head -c 100000 /dev/zero > /v/f; head -c 50000 /dev/zero > /f; sync"],
        "Labels": LABEL,
        "HostConfig": {"Binds": ["weighed:/v"]},
    }
    api.ok("POST", "/containers/create?name=weighs", body)
    api.ok("POST", "/containers/weighs/start")
    api.ok("POST", "/containers/weighs/wait")
    yield
    api("DELETE", "/containers/weighs?force=1")
    api("DELETE", "/volumes/weighed")


def test_disk_usage_has_what_dockerds_has(api: API, used: None, recording: Recording) -> None:
    """Every key of it, in its type; and the same numbers of the same things."""
    found = api.ok("GET", "/system/df")
    volume = next(row for row in found["Volumes"] if row["Name"] == "weighed")
    container = next(row for row in found["Containers"] if row["Names"] == ["/weighs"])
    image = next(row for row in found["Images"] if "bb:latest" in (row["RepoTags"] or ()))
    assert 100000 <= volume["UsageData"]["Size"] < 300000
    assert volume["UsageData"]["RefCount"] == 1
    assert 50000 <= container["SizeRw"] < 300000
    assert container["SizeRootFs"] == container["SizeRw"] + image["Size"]
    assert image["Containers"] >= 1
    assert 0 < image["SharedSize"] <= image["Size"]
    assert found["LayersSize"] >= image["Size"]
    actual = shape({"df": {k: v for k, v in found.items() if k not in ROWS}, "volume": volume})
    if recording.taking:
        recording.put("disk usage", actual)
        return
    assert actual == recording.get("disk usage")


ROWS = ("Images", "Containers", "Volumes", "BuildCache")


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("type=container", {"Containers"}),
        ("type=image", {"Images"}),
        ("type=volume", {"Volumes"}),
        ("type=build-cache", {"BuildCache"}),
        ("type=image&type=volume", {"Images", "Volumes"}),
        ("", set(ROWS)),
        ("verbose=1", set(ROWS)),
    ],
)
def test_disk_usage_of_some_types(api: API, query: str, asked: set[str], used: None) -> None:
    found = api.ok("GET", f"/system/df?{query}")
    assert {key for key in ROWS if found[key] is not None} == asked
    assert (found["LayersSize"] > 0) == ("Images" in asked)


@pytest.mark.parametrize("minor", [25, 41, 42, 43, 44, 51])
def test_disk_usage_has_the_fields_of_its_version(daemon: Daemon, minor: int) -> None:
    found = API(daemon.socket, f"/v1.{minor}").ok("GET", "/system/df?type=container")
    assert "BuilderSize" not in found  # nothing is cached
    assert (found["Images"] is None) == (minor >= 42)
    if found["Images"]:
        assert "VirtualSize" in found["Images"][0]


def test_disk_usage_of_an_unknown_type_is_refused(api: API) -> None:
    answer = api("GET", "/system/df?type=zz")
    assert (answer.status, answer.message) == (400, "unknown object type: zz")


def test_the_cli_shows_disk_usage(cli: CLI, used: None) -> None:
    rows = cli.ok("system df --format '{{.Type}}'").splitlines()
    assert rows == ["Images", "Containers", "Local Volumes", "Build Cache"]
    shown = cli.ok("system df -v")
    assert "weighed" in shown
    assert "weighs" in shown


# -- login


def test_a_login_without_a_registry_there_is_an_error_of_the_server(api: API) -> None:
    body = {"username": "a", "password": "b", "serveraddress": "127.0.0.1:1"}
    answer = api("POST", "/auth", body)
    assert answer.status == 500
    assert "127.0.0.1:1" in answer.message


def test_a_login_that_the_registry_takes(api: API, registry: str) -> None:
    """The registry of these tests asks nobody who he is."""
    body: dict[str, Any] = {"username": "a", "password": "b", "serveraddress": registry}
    answer = api.ok("POST", "/auth", body)
    assert answer["Status"] == "Login Succeeded"


def test_a_login_that_the_registry_refuses(
    api: API, names: dict[str, str], recording: Recording
) -> None:
    with RegistryThread(basic=("me", "secret")) as registry:
        body = {"username": "me", "password": "wrong", "serveraddress": registry.host}
        answer = api("POST", "/auth", body)
        actual = {"status": answer.status, "message": normal(answer.message, {registry.host: "IT"})}
        right = api.ok("POST", "/auth", body | {"password": "secret"})
    assert right["Status"] == "Login Succeeded"
    if recording.taking:
        recording.put("a refused login", actual)
        return
    assert actual == recording.get("a refused login")
