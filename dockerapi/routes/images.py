"""/images and /distribution."""

from __future__ import annotations

from dockerapi import web
from dockerapi.engine import ImportQuery
from dockerapi.errors import InvalidParameter, NotFound
from dockerapi.filters import Filters
from dockerapi.models.base import JSONObject
from dockerapi.models.system import AuthConfig
from dockerapi.routes import parameters
from dockerapi.routes.base import (
    Call,
    Route,
    empty,
    json_answer,
    platform_text,
    send_blocks,
)
from dockerapi.versions import Version, image_for, image_row_for

V1_32, V1_41, V1_42 = Version(1, 32), Version(1, 41), Version(1, 42)
V1_46, V1_48, V1_49, V1_50 = Version(1, 46), Version(1, 48), Version(1, 49), Version(1, 50)


async def create(call: Call) -> web.StreamResponse:
    """POST /images/create: pull, or with `fromSrc` import."""
    name = call.text("fromImage")
    platform = call.text("platform") if call.since(V1_32) else ""
    if name:
        auth = parameters.registry_auth(call.request.headers.get("X-Registry-Auth"))
        messages = await call.engine.images.pull(
            name, tag=call.text("tag"), platform=platform, auth=auth
        )
        return await call.progress(messages)
    query = ImportQuery(
        source=call.text("fromSrc"),
        repo=call.text("repo"),
        tag=call.text("tag"),
        message=call.text("message"),
        platform=platform,
        changes=tuple(call.texts("changes")),
    )
    return await call.progress(await call.engine.image_files.import_image(query, call.blocks()))


async def load(call: Call) -> web.StreamResponse:
    """POST /images/load; the archive streams through, whatever its size."""
    messages = await call.engine.image_files.load(
        call.blocks(), quiet=call.boolean("quiet"), platform=_platform(call)
    )
    return await call.progress(messages)


async def save(call: Call) -> web.StreamResponse:
    """GET /images/{name}/get, GET /images/get?names=."""
    names = [call.name] if call.name else call.texts("names")
    platform = _platform(call)
    archive = await call.engine.image_files.save(names, platform=platform)
    return await send_blocks(call, archive, "application/x-tar")


def _platform(call: Call) -> str:
    """`platform` in its JSON form; only one, for an image here has only one."""
    texts = call.texts("platform") if call.since(V1_48) else []
    if len(texts) > 1:
        raise InvalidParameter("multiple platform parameters are not supported")
    return platform_text(texts[0]) if texts and texts[0] else ""


async def push(call: Call) -> web.StreamResponse:
    """POST /images/{name}/push.  Credentials in the header, or in the body as the oldest clients send them."""
    header = call.request.headers.get("X-Registry-Auth")
    auth = parameters.registry_auth(header)
    if header is None:
        auth = await _auth_in_body(call)
    text = call.text("platform") if call.since(V1_46) else ""
    platform = platform_text(text) if text else ""
    messages = await call.engine.distribution.push(
        call.name, tag=call.text("tag"), platform=platform, auth=auth
    )
    return await call.progress(messages)


async def _auth_in_body(call: Call) -> AuthConfig | None:
    """Those of the body; None where there are none, or what is there cannot be read."""
    try:
        return await call.body(AuthConfig)
    except InvalidParameter:
        return None


async def distribution(call: Call) -> web.StreamResponse:
    """GET /distribution/{name}/json."""
    auth = parameters.registry_auth(call.request.headers.get("X-Registry-Auth"))
    return json_answer(await call.engine.distribution.inspect(call.name, auth=auth))


async def list_(call: Call) -> web.StreamResponse:
    """GET /images/json.

    Unread: manifests: one platform of an image is kept here, as in dockerd's graph drivers.
    """
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
    """GET /images/{name}/json.

    `manifests` shows nothing: one platform of an image is kept here, as in dockerd's graph drivers.
    """
    if call.since(V1_49) and call.boolean("manifests") and call.text("platform"):
        raise InvalidParameter(
            "conflicting options: manifests and platform options cannot both be set"
        )
    answer = await call.engine.images.inspect(call.name)
    if call.since(V1_49):
        _check_platform(call, answer)
    return json_answer(image_for(call.version, answer))


async def history(call: Call) -> web.StreamResponse:
    """GET /images/{name}/history."""
    if call.since(V1_48) and call.text("platform"):
        _check_platform(call, await call.engine.images.inspect(call.name))
    return json_answer(list(await call.engine.images.history(call.name)))


def _check_platform(call: Call, image: JSONObject, text: str | None = None) -> None:
    """An image here is of one platform; NotFound if another is asked for (`platform` of the query, or `text`)."""
    text = call.text("platform") if text is None else text
    if not text:
        return
    wanted = platform_text(text)
    parts = [image.get("Os"), image.get("Architecture"), image.get("Variant")]
    given = [str(part) for part in parts if part]
    if given[: wanted.count("/") + 1] != wanted.split("/"):
        raise NotFound(
            f"image with reference {call.name} was found but its platform ({'/'.join(given)}) "
            f"does not match the specified platform ({wanted})"
        )


async def tag(call: Call) -> web.StreamResponse:
    """POST /images/{name}/tag."""
    await call.finish(
        call.engine.images.tag(call.name, repo=call.text("repo"), tag=call.text("tag"))
    )
    return empty(201)


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /images/{name}.

    Differs: `Deleted` are the layers that no other image needs; those that a container stands on go with it.
    """
    if not call.name.strip():
        raise InvalidParameter("image name cannot be blank")
    platforms = call.texts("platforms") if call.since(V1_50) else []
    if len(platforms) > 1:
        raise InvalidParameter("multiple platforms are not supported")
    if platforms:
        _check_platform(call, await call.engine.images.inspect(call.name), platforms[0])
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
    Route("POST", "/images/{name}/push", push),
    Route("GET", "/images/search", search),
    Route("POST", "/images/prune", prune),
    Route("GET", "/images/get", save),
    Route("GET", "/images/{name}/get", save),
    Route("GET", "/distribution/{name}/json", distribution),
)
