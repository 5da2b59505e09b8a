"""Info, version, networks, volumes, names, and --rm containers of an earlier life."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import APIError, NotFound
from dockerapi.filters import Filters
from gateway.engine import names
from gateway.engine.attach import KeyScanner, detach_keys
from gateway.engine.supervisor import Supervisor
from gateway.translate.status import duration, go_time
from gateway.zones.host import Zone
from tests.gateway.engine.conftest import Bench


async def test_info_counts_what_is_there(bench: Bench) -> None:
    await bench.started("aa")
    await bench.started("bb")
    await bench.gateway.containers.pause("bb")
    await bench.create("cc")
    info = await bench.gateway.system.info()
    counted = [info[f"Containers{kind}"] for kind in ("", "Running", "Paused", "Stopped")]
    assert counted == [3, 1, 1, 1]
    assert info["Images"] == 1
    assert info["Warnings"] == ["be warned"]
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    assert info["ID"] == (await bench.gateway.system.info())["ID"] != ""


async def test_version_names_the_programs_used(bench: Bench) -> None:
    version = bench.gateway.system.version()
    assert [part["Name"] for part in version["Components"]] == ["Engine", "crun", "conmon"]
    assert (version["ApiVersion"], version["MinAPIVersion"]) == ("1.51", "1.24")


async def test_networks_show_who_runs_on_them(bench: Bench) -> None:
    docker_id = await bench.started("web")
    shown = await bench.gateway.networks.inspect("bridge")
    assert shown["Containers"][docker_id]["IPv4Address"] == "10.9.0.2/24"
    listed = await bench.gateway.networks.list(Filters({"type": ["builtin"], "name": ["o"]}))
    assert [network["Name"] for network in listed] == ["host", "none"]
    assert await bench.gateway.networks.list(Filters({"type": ["custom"]})) == []
    with pytest.raises(APIError, match="invalid filter: 'type'='x'"):
        await bench.gateway.networks.list(Filters({"type": ["x"]}))
    with pytest.raises(NotFound, match="network x not found"):
        await bench.gateway.networks.inspect("x")


async def test_volumes_show_what_is_dangling(bench: Bench) -> None:
    await bench.create("web", HostConfig={"Binds": ["data:/b"]})
    listed = await bench.gateway.volumes.list(Filters({"dangling": ["false"]}))
    assert [volume["Name"] for volume in listed["Volumes"]] == ["data"]
    assert (await bench.gateway.volumes.list(Filters({"dangling": ["true"]})))["Volumes"] == []
    with pytest.raises(NotFound, match="get x: no such volume"):
        await bench.gateway.volumes.inspect("x")


async def test_rm_containers_that_ended_while_the_gateway_was_away_go(bench: Bench) -> None:
    ended = await bench.started(HostConfig={"AutoRemove": True})
    await bench.create(HostConfig={"AutoRemove": True})
    await bench.started()
    bench.host.zones.exit(bench.uuid(ended), 0)
    removed: list[str] = []

    async def remove(zone: Zone) -> None:
        removed.append(zone.metadata.id)

    async with asyncio.TaskGroup() as group:
        Supervisor(group, remove).sweep(bench.host.zones.list())
    assert removed == [ended]


def test_generated_names_are_valid_and_free() -> None:
    taken: set[str] = set()
    for _ in range(300):
        name = names.generate(taken.__contains__)
        assert name not in taken
        assert names.checked(name) == name
        taken.add(name)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (3 * 86400, "3 days"),
        (21 * 86400, "3 weeks"),
        (90 * 86400, "3 months"),
        (3 * 365 * 86400, "3 years"),
    ],
)
def test_durations_are_worded_as_docker_does(seconds: int, text: str) -> None:
    assert duration(seconds * 10**9) == text


def test_times_are_gos() -> None:
    assert go_time(0) == "0001-01-01T00:00:00Z"
    assert go_time(1_500_000_000) == "1970-01-01T00:00:01.5Z"
    assert go_time(1) == "1970-01-01T00:00:00.000000001Z"


def test_keys() -> None:
    assert detach_keys(None) == b"\x10\x11"
    assert detach_keys("ctrl-a,b,ctrl-[") == b"\x01b\x1b"


@given(st.binary(max_size=40), st.lists(st.integers(1, 5), max_size=40))
def test_the_scanner_finds_the_keys_however_input_is_cut(data: bytes, cuts: list[int]) -> None:
    data = bytes(byte % 3 for byte in data)
    keys = b"\x01\x02"
    scanner, passed, place = KeyScanner(keys), b"", 0
    for size in [*cuts, len(data)]:
        text, found = scanner.feed(data[place : place + size])
        place += size
        passed += text
        if found:
            assert passed == data[: data.index(keys)]
            return
    assert passed + scanner.rest() == data
    assert keys not in data
