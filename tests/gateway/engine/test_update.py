"""docker update: what stays, what changes, what is refused."""

from __future__ import annotations

import pytest

from dockerapi.errors import Conflict, InvalidParameter, NoSuchContainer
from dockerapi.models.containers import ContainerUpdate
from tests.gateway.engine.conftest import Bench

MIB = 1 << 20


async def update(bench: Bench, **body: object) -> list[str]:
    answer = await bench.gateway.containers.update("web", ContainerUpdate.model_validate(body))
    return list(answer["Warnings"])


async def test_limits_change_and_what_is_left_open_stays(bench: Bench) -> None:
    await bench.started("web", HostConfig={"Memory": 64 * MIB, "CpuShares": 512})
    await update(bench, Memory=32 * MIB, MemorySwap=48 * MIB)
    shown = (await bench.inspect("web"))["HostConfig"]
    assert (shown["Memory"], shown["MemorySwap"], shown["CpuShares"]) == (32 * MIB, 48 * MIB, 512)
    spec = (await bench.inspect("web"))["Zone"]
    assert (spec["max_physical_memory"], spec["max_swap"], spec["cpu_shares"]) == (32, 256, 512)
    assert (await bench.told())[-1] == "container update"


async def test_a_pids_limit_is_lifted_by_zero(bench: Bench) -> None:
    await bench.started("web", HostConfig={"PidsLimit": 50})
    await update(bench, CpuShares=100)
    assert (await bench.inspect("web"))["HostConfig"]["PidsLimit"] == 50
    await update(bench, PidsLimit=0)
    assert (await bench.inspect("web"))["HostConfig"]["PidsLimit"] == 0
    assert "max_lwps" not in (await bench.inspect("web"))["Zone"]


async def test_the_restart_policy_changes_alone(bench: Bench) -> None:
    await bench.started("web")
    await update(bench, RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 3})
    inspected = await bench.inspect("web")
    shown = inspected["HostConfig"]["RestartPolicy"]
    assert shown == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert inspected["Zone"]["internal_metadata"]["docker:restartpolicy"] == "on-failure:3"


async def test_a_container_that_removes_itself_keeps_its_policy(bench: Bench) -> None:
    await bench.started("web", HostConfig={"AutoRemove": True})
    with pytest.raises(Conflict, match="because AutoRemove is enabled for the container"):
        await update(bench, RestartPolicy={"Name": "always"})
    await update(bench, RestartPolicy={"Name": "no"})


async def test_limits_are_checked_as_at_creation(bench: Bench) -> None:
    await bench.started("web", HostConfig={"Memory": 64 * MIB})
    with pytest.raises(InvalidParameter, match="Minimum memory limit allowed is 6MB"):
        await update(bench, Memory=1 * MIB, MemorySwap=1 * MIB)
    with pytest.raises(Conflict, match="already set memoryswap limit"):
        await update(bench, Memory=512 * MIB)
    with pytest.raises(InvalidParameter, match="unknown policy"):
        await update(bench, RestartPolicy={"Name": "sometimes"})
    await update(bench, NanoCpus=500_000_000)
    with pytest.raises(Conflict, match="NanoCPUs has already been set"):
        await update(bench, CpuQuota=50_000)


async def test_an_unknown_container_is_told(bench: Bench) -> None:
    with pytest.raises(NoSuchContainer):
        await update(bench, Memory=64 * MIB)
