"""Refusals in dockerd's words: this is no swarm node, and there are no plugins."""

from __future__ import annotations

from typing import NoReturn

from dockerapi import web
from dockerapi.errors import InvalidParameter, NotFound, NotSupported, Unavailable
from dockerapi.routes.base import Call, Route, json_answer, not_built
from dockerapi.routes.parameters import quoted

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
    "this node to swarm and try again."
)


async def not_a_manager(_call: Call) -> NoReturn:
    """This is no swarm manager (503)."""
    raise Unavailable(NOT_A_MANAGER)


async def not_part(_call: Call) -> NoReturn:
    """This is not part of a swarm (503)."""
    raise Unavailable("This node is not part of a swarm")


async def no_swarm(_call: Call) -> NoReturn:
    """Swarm mode is not supported (501)."""
    raise NotSupported("swarm mode is not supported by zonegate")


async def update(call: Call) -> NoReturn:
    """This is no swarm manager (503); a bad `version` is told first (400)."""
    text = call.text("version")
    if not (text.isascii() and text.isdecimal()):
        raise InvalidParameter(
            f"invalid swarm object version '{text}': strconv.ParseUint: parsing {quoted(text)}: "
            "invalid syntax"
        )
    raise Unavailable(NOT_A_MANAGER)


async def plugins(_call: Call) -> web.StreamResponse:
    """GET /plugins.

    Unread: filters: there are no plugins to choose from.
    """
    return json_answer([])


async def no_plugin(call: Call) -> NoReturn:
    """There are no plugins: none is found (404)."""
    raise NotFound(f"plugin {quoted(call.name)} not found")


def _objects(noun: str, *verbs: str) -> list[Route]:
    """Rows of one kind of swarm object."""
    rows = {
        "list": ("GET", f"/{noun}"),
        "inspect": ("GET", f"/{noun}/{{id}}"),
        "create": ("POST", f"/{noun}/create"),
        "remove": ("DELETE", f"/{noun}/{{id}}"),
        "logs": ("GET", f"/{noun}/{{id}}/logs"),
    }
    found = [Route(*rows[verb], not_a_manager) for verb in verbs if verb in rows]
    if "update" in verbs:
        found.append(Route("POST", f"/{noun}/{{id}}/update", update))
    return found


ROUTES = (
    Route("GET", "/swarm", not_a_manager),
    Route("POST", "/swarm/init", no_swarm),
    Route("POST", "/swarm/join", no_swarm),
    Route("POST", "/swarm/leave", not_part),
    Route("POST", "/swarm/update", update),
    Route("GET", "/swarm/unlockkey", not_a_manager),
    Route("POST", "/swarm/unlock", not_a_manager),
    *_objects("nodes", "list", "inspect", "remove", "update"),
    *_objects("services", "list", "inspect", "create", "remove", "update", "logs"),
    *_objects("tasks", "list", "inspect", "logs"),
    *_objects("secrets", "list", "inspect", "create", "remove", "update"),
    *_objects("configs", "list", "inspect", "create", "remove", "update"),
    Route("GET", "/plugins", plugins),
    Route("GET", "/plugins/privileges", not_built("plugins")),
    Route("POST", "/plugins/pull", not_built("plugins")),
    Route("POST", "/plugins/create", not_built("plugins")),
    Route("GET", "/plugins/{name}/json", no_plugin),
    Route("DELETE", "/plugins/{name}", no_plugin),
    Route("POST", "/plugins/{name}/enable", no_plugin),
    Route("POST", "/plugins/{name}/disable", no_plugin),
    Route("POST", "/plugins/{name}/upgrade", no_plugin),
    Route("POST", "/plugins/{name}/push", no_plugin),
    Route("POST", "/plugins/{name}/set", no_plugin),
)
