"""docker network over a host in memory: what becomes of leases, names and events when things go wrong or are late."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dockerapi.errors import APIError, Forbidden, NotFound
from dockerapi.filters import Filters
from dockerapi.models.networks import NetworkConnect, NetworkCreate, NetworkDisconnect
from gateway.zones.host import Zone
from gateway.zones.spec import ZoneSpec, ZoneUUID
from tests.gateway.engine.conftest import Bench


async def network(bench: Bench, name: str, **body: Any) -> str:
    made = await bench.gateway.networks.create(NetworkCreate.model_validate({"Name": name, **body}))
    return str(made["Id"])


def joining(container: str, **settings: Any) -> NetworkConnect:
    return NetworkConnect.model_validate({"Container": container, "EndpointConfig": settings})


async def rows(bench: Bench, ref: str) -> dict[str, Any]:
    found: dict[str, Any] = (await bench.inspect(ref))["NetworkSettings"]["Networks"]
    return found


async def test_a_join_that_fails_leaves_no_lease_and_no_trace(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await network(bench, "one")
    docker_id = await bench.started("web")
    before = await rows(bench, "web"), list(bench.host.networks.leases)

    async def refuse(uuid: ZoneUUID, spec: ZoneSpec) -> Zone:
        raise Forbidden("Address already in use")

    monkeypatch.setattr(bench.host.zones, "update", refuse)
    with pytest.raises(Forbidden, match="Address already in use"):
        await bench.gateway.networks.connect("one", joining("web"))
    assert (await rows(bench, "web"), bench.host.networks.leases) == before
    assert docker_id
    assert (await bench.told()).count("network connect") == 1


async def test_joins_of_one_container_at_once_lose_none(bench: Bench) -> None:
    await bench.started("web")
    names = [f"n{number}" for number in range(5)]
    for name in names:
        await network(bench, name)
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(bench.gateway.networks.connect(name, joining("web")))
    assert set(await rows(bench, "web")) == {"bridge", *names}
    zone = bench.host.zones.list()[0]
    assert len({nic.interface for nic in zone.spec.nics}) == 6


async def test_a_network_of_the_same_name_is_not_the_one_it_was_started_on(bench: Bench) -> None:
    old = await network(bench, "one")
    docker_id = await bench.started("web", HostConfig={"NetworkMode": "one"})
    await bench.gateway.containers.stop("web", signal=None, timeout_s=0)
    await bench.gateway.networks.remove("one")
    await network(bench, "one")
    with pytest.raises(NotFound, match=f"container networking: network {old} not found"):
        await bench.gateway.containers.start("web")
    assert old in (await bench.inspect(docker_id))["State"]["Error"]


async def test_what_was_never_started_takes_the_network_of_that_name(bench: Bench) -> None:
    await network(bench, "one")
    await bench.create("web", HostConfig={"NetworkMode": "one"})
    await bench.gateway.networks.remove("one")
    fresh = await network(bench, "one")
    await bench.gateway.containers.start("web")
    row = (await rows(bench, "web"))["one"]
    assert row["NetworkID"] == fresh
    assert row["IPAddress"]


async def test_a_network_named_by_a_part_of_its_id_goes_by_its_name(bench: Bench) -> None:
    made = await network(bench, "one")
    endpoints = {"one": {"Aliases": ["alias"]}}
    docker_id = await bench.started(
        "web",
        HostConfig={"NetworkMode": made},
        NetworkingConfig={"EndpointsConfig": endpoints},
    )
    assert list(await rows(bench, "web")) == ["one"]
    assert (await rows(bench, "web"))["one"]["DNSNames"][:3] == ["web", "alias", docker_id[:12]]
    assert len(bench.host.networks.leases) == 1


async def test_leaving_gives_the_address_back_and_is_told(bench: Bench) -> None:
    made = await network(bench, "one")
    docker_id = await bench.started("web", HostConfig={"NetworkMode": "one"})
    leave = NetworkDisconnect(container="web")
    await bench.gateway.networks.disconnect("one", leave)
    assert bench.host.networks.leased(made) == []
    assert await rows(bench, "web") == {}
    with pytest.raises(APIError, match=f"container {docker_id} is not connected to network one"):
        await bench.gateway.networks.disconnect("one", leave)
    await bench.gateway.containers.stop("web", signal=None, timeout_s=0)
    assert (await bench.told()).count("network disconnect") == 1


async def test_prune_leaves_what_is_in_use_and_what_is_predefined(bench: Bench) -> None:
    await network(bench, "used")
    await network(bench, "stale", Labels={"a": "b"})
    await network(bench, "other")
    await bench.started("web", HostConfig={"NetworkMode": "used"})
    await bench.create("idle", HostConfig={"NetworkMode": "stale"})
    pruned = await bench.gateway.networks.prune(Filters({"label": ["a"]}))
    assert pruned == {"NetworksDeleted": ["stale"]}
    assert (await bench.gateway.networks.prune(Filters({})))["NetworksDeleted"] == ["other"]
    assert [row["Name"] for row in await bench.gateway.networks.list(Filters({}))] == [
        "bridge", "host", "none", "used",
    ]  # fmt: skip
