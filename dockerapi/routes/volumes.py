"""/volumes."""

from __future__ import annotations

from typing import NoReturn

from dockerapi import web
from dockerapi.errors import InvalidParameter, NotFound, Unavailable
from dockerapi.filters import Filters
from dockerapi.models.volumes import VolumeCreate
from dockerapi.routes.base import Call, Route, empty, json_answer
from dockerapi.routes.swarm import not_a_manager
from dockerapi.versions import Version

V1_42 = Version(1, 42)


async def list_(call: Call) -> web.StreamResponse:
    """GET /volumes."""
    try:
        filters = call.filters()
    except InvalidParameter as error:
        raise InvalidParameter(f"error reading volume filters: {error.message}") from error
    return json_answer(await call.engine.volumes.list(filters))


async def inspect_none(_call: Call) -> NoReturn:
    """GET /volumes/: dockerd takes nothing for a name."""
    raise NotFound("get: no such volume")


async def inspect(call: Call) -> web.StreamResponse:
    """GET /volumes/{name}."""
    return json_answer(await call.engine.volumes.inspect(call.name))


async def create(call: Call) -> web.StreamResponse:
    """POST /volumes/create."""
    body = await call.body(VolumeCreate)
    if body.cluster_volume_spec is not None and call.since(V1_42):
        await not_a_manager(call)
    return json_answer(await call.finish(call.engine.volumes.create(body)), 201)


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /volumes/{name}."""
    await call.finish(call.engine.volumes.remove(call.name, force=call.boolean("force")))
    return empty(204)


async def prune(call: Call) -> web.StreamResponse:
    """POST /volumes/prune; before 1.42 named volumes went as well."""
    filters = call.filters()
    if not call.since(V1_42):
        named = dict.fromkeys((*filters.get("all"), "true"))
        filters = Filters({**{key: filters.get(key) for key in filters}, "all": tuple(named)})
    return json_answer(await call.finish(call.engine.volumes.prune(filters)))


async def update(_call: Call) -> NoReturn:
    """PUT /volumes/{name}: only cluster volumes can be updated, and there is no swarm (503)."""
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


ROUTES = (
    Route("GET", "/volumes", list_),
    Route("GET", "/volumes/", inspect_none),
    Route("GET", "/volumes/{name}", inspect),
    Route("POST", "/volumes/create", create),
    Route("DELETE", "/volumes/{name}", remove),
    Route("POST", "/volumes/prune", prune),
    Route("PUT", "/volumes/{name}", update),
)
