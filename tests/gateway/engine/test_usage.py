"""Processes and figures of containers."""

from __future__ import annotations

import contextlib

import pytest

from gateway.engine import usage
from gateway.zones.host import InterfaceCounters, Sample
from tests.gateway.engine.conftest import Bench


@pytest.fixture(autouse=True)
def _no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_INTERVAL_S", 0.0)


def sample(cpu_ns: int, **more: object) -> Sample:
    values = {"cpu_user_ns": 1, "cpu_system_ns": 2, "machine_cpu_ns": 10 * cpu_ns, "online_cpus": 2}
    return Sample(time_ns=cpu_ns, cpu_total_ns=cpu_ns, **(values | more))  # type: ignore[arg-type]


async def test_a_container_that_does_not_run_is_told_of_at_once_all_zero(bench: Bench) -> None:
    await bench.started("web")
    [shown] = [
        one async for one in await bench.gateway.usage.stats("web", stream=False, one_shot=False)
    ]
    assert shown["name"] == "/web"
    assert shown["read"] == "0001-01-01T00:00:00Z"
    assert shown["memory_stats"] == shown["pids_stats"] == {}
    assert shown["cpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert "networks" not in shown


@pytest.mark.parametrize(("failures", "shown"), [(0, {}), (2, {"failcnt": 2})])
async def test_refused_memory_is_told_of_where_there_was_any(
    bench: Bench, failures: int, shown: dict[str, int]
) -> None:
    await bench.started("web")
    bench.host.gauges.samples = [sample(5, memory_failures=failures)]
    [answer] = [
        one async for one in await bench.gateway.usage.stats("web", stream=False, one_shot=True)
    ]
    memory = answer["memory_stats"]
    assert {key: memory[key] for key in memory if key == "failcnt"} == shown


async def test_one_object_compares_two_samples(bench: Bench) -> None:
    await bench.started("web")
    bench.host.gauges.samples = [sample(5), sample(7, networks={"eth0": InterfaceCounters(1)})]
    [shown] = [
        one async for one in await bench.gateway.usage.stats("web", stream=False, one_shot=False)
    ]
    assert shown["precpu_stats"]["cpu_usage"]["total_usage"] == 5
    assert shown["cpu_stats"]["cpu_usage"]["total_usage"] == 7
    assert shown["cpu_stats"]["system_cpu_usage"] == 70
    assert shown["networks"]["eth0"]["rx_bytes"] == 1
    assert len(shown["networks"]["eth0"]) == 8


async def test_one_shot_compares_nothing(bench: Bench) -> None:
    await bench.started("web")
    bench.host.gauges.samples = [sample(5)]
    [shown] = [
        one async for one in await bench.gateway.usage.stats("web", stream=False, one_shot=True)
    ]
    assert shown["preread"] == "0001-01-01T00:00:00Z"
    assert shown["cpu_stats"]["cpu_usage"]["total_usage"] == 5


async def test_a_stream_ends_with_its_container(bench: Bench) -> None:
    await bench.started("web")
    bench.host.gauges.samples = [sample(5), sample(6)]
    async with contextlib.aclosing(
        await bench.gateway.usage.stats("web", stream=True, one_shot=False)
    ) as stream:
        assert (await anext(stream))["precpu_stats"]["cpu_usage"]["total_usage"] == 0
        assert (await anext(stream))["precpu_stats"]["cpu_usage"]["total_usage"] == 5
        await bench.gateway.containers.remove("web", force=True, volumes=False, link=False)
        assert await anext(stream, None) is None


async def test_processes_are_shown_under_their_titles(bench: Bench) -> None:
    await bench.started("web")
    shown = await bench.gateway.usage.top("web", "aux")
    assert shown == {"Titles": ["PID", "CMD"], "Processes": [["1", "aux"]]}
