"""/images and /distribution."""

from __future__ import annotations

from aiohttp import web

from dockerapi.errors import InvalidParameter, NotFound, NotSupported
from dockerapi.filters import Filters
from dockerapi.models.base import JSONObject
from dockerapi.routes import parameters
from dockerapi.routes.base import Call, Route, empty, json_answer, not_built, platform_text
from dockerapi.versions import Version, image_for, image_row_for

V1_32, V1_41, V1_42 = Version(1, 32), Version(1, 41), Version(1, 42)
V1_48, V1_49, V1_50 = Version(1, 48), Version(1, 49), Version(1, 50)


async def create(call: Call) -> web.StreamResponse:
    """POST /images/create: pull.  (With `fromSrc` it would be import.)"""
    name = call.text("fromImage")
    if not name:
        if call.text("fromSrc"):
            raise NotSupported("importing an image is not implemented by zonegate yet")
        raise InvalidParameter("invalid reference format")
    messages = await call.engine.images.pull(
        name,
        tag=call.text("tag"),
        platform=call.text("platform") if call.since(V1_32) else "",
        auth=parameters.registry_auth(call.request.headers.get("X-Registry-Auth")),
    )
    return await call.progress(messages)


async def load(call: Call) -> web.StreamResponse:
    """POST /images/load; the archive streams through, whatever its size."""
    platform = call.text("platform") if call.since(V1_48) else ""
    messages = await call.engine.images.load(
        call.blocks(),
        quiet=call.boolean("quiet"),
        platform=platform_text(platform) if platform else "",
    )
    return await call.progress(messages)


async def list_(call: Call) -> web.StreamResponse:
    """GET /images/json."""
    rows = await call.engine.images.list(
        all=call.boolean("all"),
        digests=call.boolean("digests"),
        shared_size=call.since(V1_42) and call.boolean("shared-size"),
        filters=_filters(call),
    )
    return json_answer([image_row_for(call.version, row) for row in rows])


def _filters(call: Call) -> Filters:
    """Before 1.41 a name was given by itself."""
    filters = call.filters()
    name = call.text("filter") if not call.since(V1_41) else ""
    if not name:
        return filters
    values = {key: list(filters.get(key)) for key in filters}
    values.setdefault("reference", []).append(name)
    return Filters(values)


async def inspect(call: Call) -> web.StreamResponse:
    """GET /images/{name}/json."""
    answer = await call.engine.images.inspect(call.name)
    if call.since(V1_49):
        _check_platform(call, answer)
    return json_answer(image_for(call.version, answer))


async def history(call: Call) -> web.StreamResponse:
    """GET /images/{name}/history."""
    if call.since(V1_48) and call.text("platform"):
        _check_platform(call, await call.engine.images.inspect(call.name))
    return json_answer(list(await call.engine.images.history(call.name)))


def _check_platform(call: Call, image: JSONObject) -> None:
    """An image here is of one platform; NotFound if another is asked for."""
    if not call.text("platform"):
        return
    wanted = platform_text(call.text("platform"))
    parts = [image.get("Os"), image.get("Architecture"), image.get("Variant")]
    given = [str(part) for part in parts if part]
    if given[: wanted.count("/") + 1] != wanted.split("/"):
        raise NotFound(
            f"image with reference {call.name} was found but does not provide the specified "
            f"platform ({wanted})"
        )


async def tag(call: Call) -> web.StreamResponse:
    """POST /images/{name}/tag."""
    await call.finish(
        call.engine.images.tag(call.name, repo=call.text("repo"), tag=call.text("tag"))
    )
    return empty(201)


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /images/{name}."""
    if not call.name.strip():
        raise InvalidParameter("image name cannot be blank")
    if call.since(V1_50) and call.texts("platforms"):
        raise NotSupported("removing one platform of an image is not implemented by zonegate yet")
    gone = await call.finish(
        call.engine.images.remove(
            call.name, force=call.boolean("force"), noprune=call.boolean("noprune")
        )
    )
    return json_answer(list(gone))


async def prune(call: Call) -> web.StreamResponse:
    """POST /images/prune."""
    return json_answer(await call.finish(call.engine.images.prune(call.filters())))


async def search(call: Call) -> web.StreamResponse:
    """GET /images/search.  Garbage for credentials is none, as in dockerd."""
    limit = call.integer("limit") or 0
    if limit < 0:
        raise InvalidParameter("invalid limit specified")
    rows = await call.engine.images.search(
        call.text("term"),
        limit=limit,
        filters=call.filters(),
        auth=parameters.registry_auth(call.request.headers.get("X-Registry-Auth")),
    )
    return json_answer(list(rows))


ROUTES = (
    Route("GET", "/images/json", list_),
    Route("POST", "/images/create", create),
    Route("POST", "/images/load", load),
    Route("GET", "/images/{name}/json", inspect),
    Route("GET", "/images/{name}/history", history),
    Route("POST", "/images/{name}/tag", tag),
    Route("DELETE", "/images/{name}", remove),
    Route("POST", "/images/{name}/push", not_built("push")),
    Route("GET", "/images/search", search),
    Route("POST", "/images/prune", prune, Version(1, 25)),
    Route("GET", "/images/get", not_built("saving images")),
    Route("GET", "/images/{name}/get", not_built("saving images")),
    Route("GET", "/images/{name}/attestations", not_built("listing attestations")),
    Route(
        "GET",
        "/distribution/{name}/json",
        not_built("inspecting an image in its registry"),
        Version(1, 30),
    ),
)
