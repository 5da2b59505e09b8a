"""/build, /commit, and what BuildKit clients ask for."""

from __future__ import annotations

from typing import NoReturn

from aiohttp import web

from dockerapi.engine import CommitQuery
from dockerapi.errors import NotSupported
from dockerapi.models.containers import ContainerCreate
from dockerapi.routes.base import Call, Route, json_answer, not_built
from dockerapi.versions import Version


async def commit(call: Call) -> web.StreamResponse:
    """POST /commit.  The CLI sends no body, or null."""
    query = CommitQuery(
        repo=call.text("repo"),
        tag=call.text("tag"),
        author=call.text("author"),
        comment=call.text("comment"),
        # An empty value is no value here, not "no".
        pause=call.boolean("pause") if call.text("pause") else True,
        changes=tuple(call.texts("changes")),
    )
    body = await call.body(ContainerCreate, empty=True)
    made = await call.finish(call.engine.commits.commit(call.text("container"), query, body))
    return json_answer(made, 201)


async def prune(call: Call) -> web.StreamResponse:
    """POST /build/prune: nothing is built here, so there is no cache.  `docker system prune` asks for it."""
    call.filters()
    return json_answer({"CachesDeleted": None, "SpaceReclaimed": 0})


async def no_buildkit(_call: Call) -> NoReturn:
    """POST /session, POST /grpc."""
    raise NotSupported("BuildKit is not supported by zonegate: set DOCKER_BUILDKIT=0")


ROUTES = (
    Route("POST", "/build", not_built("building images")),
    Route("POST", "/build/prune", prune, Version(1, 31)),
    Route("POST", "/build/cancel", not_built("cancelling builds"), Version(1, 31)),
    Route("POST", "/commit", commit),
    Route("POST", "/session", no_buildkit, Version(1, 31)),
    Route("POST", "/grpc", no_buildkit, Version(1, 39)),
)
