"""Health checks: probes run while a container does, and are told of; nobody probes what is paused or over."""

from __future__ import annotations

import asyncio
from typing import Any

from dockerapi.engine import EventsQuery, ListQuery
from dockerapi.filters import Filters
from dockerapi.framing import StreamId
from dockerapi.models.base import JSONObject
from tests.gateway.engine.conftest import Bench
from tests.gateway.engine.host_double import Running

MS = 1_000_000


def checked(**more: Any) -> JSONObject:
    return {"Healthcheck": {"Test": ["CMD", "probe"], "Interval": MS, "Retries": 1, **more}}


async def probe(bench: Bench) -> Running:
    """The next one that is started."""
    zones = bench.host.zones
    async with asyncio.timeout(5):
        await zones.process_started.wait()
    zones.process_started.clear()
    return zones.processes[-1]


async def ended(bench: Bench, running: Running, code: int) -> JSONObject:
    """State.Health once the probe has given its result, which the start of the next one shows."""
    running.end(code)
    await probe(bench)
    return await state(bench)


async def state(bench: Bench) -> JSONObject:
    found: JSONObject = (await bench.inspect("web"))["State"]["Health"]
    return found


async def test_a_container_becomes_healthy_and_unhealthy(bench: Bench) -> None:
    await bench.started("web", **checked())
    assert await state(bench) == {"Status": "starting", "FailingStreak": 0, "Log": []}
    first = await probe(bench)
    assert first.stdio is not None
    first.stdio.chunks.put_nowait((StreamId.STDOUT, b"out\n"))
    seen = await ended(bench, first, 0)
    assert (seen["Status"], seen["Log"][0]["Output"]) == ("healthy", "out\n")
    seen = await ended(bench, bench.host.zones.processes[-1], 2)
    assert (seen["Status"], seen["FailingStreak"]) == ("unhealthy", 1)
    told = await bench.told()
    assert [row for row in told if "health" in row] == [
        "container health_status: healthy",
        "container health_status: unhealthy",
    ]
    assert "container exec_create: probe " in told
    assert "container exec_die" in told


async def test_a_probe_that_takes_too_long_is_killed(bench: Bench) -> None:
    await bench.started("web", **checked(Timeout=5 * MS))
    await probe(bench)
    await probe(bench)  # the first one is over
    seen = await state(bench)
    assert seen["Log"][0]["ExitCode"] == -1
    assert seen["Log"][0]["Output"] == "Health check exceeded timeout (5ms)"
    async with asyncio.timeout(5):
        assert await bench.host.zones.processes[0].wait() == 137


async def test_a_probe_that_cannot_be_started_is_a_failure(bench: Bench) -> None:
    body = checked()
    body["Healthcheck"]["Test"] = ["CMD", "nosuch"]
    await bench.started("web", **body)
    query = EventsQuery(since_ns=0, filters=Filters({"event": ["health_status"]}))
    async with asyncio.timeout(5):
        await anext(await bench.gateway.system.events(query))
    seen = await state(bench)
    assert seen["Log"][0]["ExitCode"] == -1
    assert seen["Status"] == "unhealthy"


async def test_a_paused_container_is_unhealthy_and_not_probed(bench: Bench) -> None:
    await bench.started("web", **checked())
    await ended(bench, await probe(bench), 0)
    await bench.gateway.containers.pause("web")
    assert (await state(bench))["Status"] == "unhealthy"
    async with asyncio.timeout(5):  # the probe under way is killed, and its result means nothing
        assert await bench.host.zones.processes[-1].wait() == 137
    await bench.gateway.containers.unpause("web")
    assert (await state(bench))["Status"] == "unhealthy"
    assert (await ended(bench, await probe(bench), 0))["Status"] == "healthy"


async def test_a_restart_begins_anew_and_keeps_the_log(bench: Bench) -> None:
    await bench.started("web", **checked())
    await ended(bench, await probe(bench), 0)
    await bench.gateway.containers.stop("web", signal=None, timeout_s=0)
    seen = await state(bench)
    assert (seen["Status"], len(seen["Log"])) == ("unhealthy", 1)
    await bench.gateway.containers.start("web")
    seen = await state(bench)
    assert (seen["Status"], len(seen["Log"])) == ("starting", 1)


async def test_a_container_that_never_ran_or_has_no_check_has_no_health(bench: Bench) -> None:
    await bench.create("made", **checked())
    await bench.started("plain")
    await bench.started("off", Healthcheck={"Test": ["NONE"]})
    for name in ("made", "plain", "off"):
        assert "Health" not in (await bench.inspect(name))["State"]
    assert bench.host.zones.processes == []


async def test_rows_and_filters_know_the_health(bench: Bench) -> None:
    await bench.started("web", **checked(Interval=3600 * 1000 * MS))
    await bench.started("plain")
    rows = await bench.gateway.containers.list(ListQuery())
    assert b"(health: starting)" in rows
    for value, name in (("starting", b"/web"), ("none", b"/plain")):
        query = ListQuery(filters=Filters({"health": [value]}))
        found = await bench.gateway.containers.list(query)
        assert found.count(b'"Names"') == 1
        assert name in found


async def test_a_container_that_is_removed_is_not_probed_any_more(bench: Bench) -> None:
    await bench.started("web", **checked())
    running = await probe(bench)
    await bench.gateway.containers.remove("web", force=True, volumes=False, link=False)
    async with asyncio.timeout(5):
        assert await running.wait() == 137
