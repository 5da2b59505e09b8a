"""/containers/{id}/top and stats: what a container uses."""

from __future__ import annotations

import contextlib

from dockerapi import web
from dockerapi.framing import dumps
from dockerapi.routes.base import Call, Route, json_answer
from dockerapi.versions import Version

V1_41 = Version(1, 41)


async def top(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/top.

    SmartOS: options are those of illumos's ps; what would show processes of other zones is refused (400).
    """
    return json_answer(await call.engine.usage.top(call.name, call.text("ps_args")))


async def stats(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/stats."""
    stream = call.boolean("stream", default=True)
    one_shot = call.since(V1_41) and call.boolean("one-shot")
    samples = await call.engine.usage.stats(call.name, stream=stream, one_shot=one_shot)
    async with contextlib.aclosing(samples) as source:
        with call.server.follow():
            response = await call.begin("application/json", follows=True)
            async for sample in source:
                await response.write(dumps(sample) + b"\n")
            return response
        return call.cut_short()


ROUTES = (
    Route("GET", "/containers/{id}/top", top),
    Route("GET", "/containers/{id}/stats", stats),
)
