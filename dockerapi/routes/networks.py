"""/networks."""

from __future__ import annotations

from aiohttp import web

from dockerapi.errors import NotFound
from dockerapi.routes.base import Call, Route, json_answer, not_built
from dockerapi.versions import Version

V1_31 = Version(1, 31)


async def list_(call: Call) -> web.StreamResponse:
    """GET /networks."""
    return json_answer(list(await call.engine.networks.list(call.filters())))


async def inspect(call: Call) -> web.StreamResponse:
    """GET /networks/{id}.  Every network here is local, so `verbose` adds nothing."""
    network = await call.engine.networks.inspect(call.name)
    scope = call.text("scope") if call.since(V1_31) else ""
    if scope and scope != network.get("Scope"):
        raise NotFound(f"network {call.name} not found")
    return json_answer(network)


async def prune(call: Call) -> web.StreamResponse:
    """POST /networks/prune."""
    return json_answer(await call.finish(call.engine.networks.prune(call.filters())))


ROUTES = (
    Route("GET", "/networks", list_),
    Route("GET", "/networks/", list_),
    Route("GET", "/networks/{id}", inspect),
    Route("DELETE", "/networks/{id}", not_built("removing networks")),
    Route("POST", "/networks/create", not_built("creating networks")),
    Route("POST", "/networks/{id}/connect", not_built("connecting networks")),
    Route("POST", "/networks/{id}/disconnect", not_built("disconnecting networks")),
    Route("POST", "/networks/prune", prune, Version(1, 25)),
)
