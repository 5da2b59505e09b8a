"""/volumes."""

from __future__ import annotations

from aiohttp import web

from dockerapi.routes.base import Call, Route, json_answer, not_built
from dockerapi.routes.swarm import not_a_manager
from dockerapi.versions import Version


async def list_(call: Call) -> web.StreamResponse:
    """GET /volumes."""
    return json_answer(await call.engine.volumes.list(call.filters()))


async def inspect(call: Call) -> web.StreamResponse:
    """GET /volumes/{name}."""
    return json_answer(await call.engine.volumes.inspect(call.name))


ROUTES = (
    Route("GET", "/volumes", list_),
    Route("GET", "/volumes/{name}", inspect),
    Route("POST", "/volumes/create", not_built("creating volumes")),
    Route("DELETE", "/volumes/{name}", not_built("removing volumes")),
    Route("POST", "/volumes/prune", not_built("pruning volumes"), Version(1, 25)),
    # Only cluster volumes can be updated.
    Route("PUT", "/volumes/{name}", not_a_manager, Version(1, 42)),
)
