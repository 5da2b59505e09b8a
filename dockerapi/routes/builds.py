"""/build, /commit, and what BuildKit clients ask for."""

from __future__ import annotations

from typing import NoReturn

from dockerapi.errors import NotSupported
from dockerapi.routes.base import Call, Route, not_built
from dockerapi.versions import Version


async def no_buildkit(_call: Call) -> NoReturn:
    """POST /session, POST /grpc."""
    raise NotSupported("BuildKit is not supported by zonegate: set DOCKER_BUILDKIT=0")


ROUTES = (
    Route("POST", "/build", not_built("building images")),
    Route("POST", "/build/prune", not_built("pruning the build cache"), Version(1, 31)),
    Route("POST", "/build/cancel", not_built("cancelling builds"), Version(1, 31)),
    Route("POST", "/commit", not_built("commit")),
    Route("POST", "/session", no_buildkit, Version(1, 31)),
    Route("POST", "/grpc", no_buildkit, Version(1, 39)),
)
