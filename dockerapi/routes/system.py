"""/_ping, /version, /info, /events, /auth, /system/df."""

from __future__ import annotations

import time

from dockerapi import web
from dockerapi.engine import EventsQuery
from dockerapi.errors import InvalidParameter
from dockerapi.framing import dumps
from dockerapi.models.system import AuthConfig
from dockerapi.routes import parameters
from dockerapi.routes.base import Call, Question, Route, json_answer, raw_json
from dockerapi.versions import Version, disk_usage_for, info_for

V1_42 = Version(1, 42)

PING_HEADERS = {
    "Builder-Version": "1",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Content-Type": "text/plain; charset=utf-8",
    "Pragma": "no-cache",
    "Swarm": "inactive",
}


async def ping(call: Call) -> web.StreamResponse:
    """GET /_ping, HEAD /_ping where the connection has not answered them itself."""
    body = b"OK" if call.request.method == "GET" else b""
    return web.Response(body=body, headers={**PING_HEADERS, "Content-Length": str(len(body))})


async def version(call: Call) -> web.StreamResponse:
    """GET /version.

    Differs: `GoVersion` names the Python we run on; `GitCommit` and `BuildTime` are empty.
    """
    return raw_json(versioned(call))


def versioned(asked: Question) -> bytes:
    """The same at once."""
    return dumps(asked.engine.system.version()) + b"\n"


async def info(call: Call) -> web.StreamResponse:
    """GET /info.

    SmartOS: no `CgroupVersion`, `FirewallBackend`, `SecurityOptions`; `CgroupDriver` is none.
    """
    return json_answer(info_for(call.version, await call.engine.system.info()))


async def auth(call: Call) -> web.StreamResponse:
    """POST /auth."""
    return json_answer(await call.engine.system.auth(await call.body(AuthConfig, required=True)))


async def events(call: Call) -> web.StreamResponse:
    """GET /events.  The head goes out at once, there may be no event for hours.

    Differs: the last 1000 events are kept, dockerd keeps 256.
    """
    query = _events_query(call)
    with call.server.follow():
        found = await call.engine.system.events(query)
        response = await call.begin("application/json", follows=True)
        async for event in found:
            await response.write(event + b"\n")
        return response
    return call.cut_short()


KINDS = ("container", "image", "volume", "build-cache")


async def disk_usage(call: Call) -> web.StreamResponse:
    """GET /system/df.  What `type` does not name is null.

    Differs: `BuildCache` is empty: a build's steps are images.
    """
    asked = call.texts("type") if call.since(V1_42) else []
    for kind in asked:
        if kind not in KINDS:
            raise InvalidParameter(f"unknown object type: {kind}")
    found = await call.engine.system.disk_usage(frozenset(asked or KINDS))
    return json_answer(disk_usage_for(call.version, found))


def _events_query(call: Call) -> EventsQuery:
    now_ns = time.time_ns()
    since = parameters.timestamp_ns(call.text("since"), now_ns=now_ns)
    until = parameters.timestamp_ns(call.text("until"), now_ns=now_ns)
    if since is not None and until is not None and since > until:
        raise InvalidParameter(
            f"`since` time ({call.text('since')}) cannot be after `until` time ({call.text('until')})"
        )
    return EventsQuery(since_ns=since, until_ns=until, filters=call.filters())


ROUTES = (
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping),
    Route("GET", "/version", version, prompt=versioned),
    Route("GET", "/info", info),
    Route("POST", "/auth", auth),
    Route("GET", "/events", events),
    Route("GET", "/system/df", disk_usage),
)
