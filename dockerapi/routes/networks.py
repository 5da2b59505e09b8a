"""/networks."""

from __future__ import annotations

from dockerapi import web
from dockerapi.errors import NotFound
from dockerapi.models.networks import NetworkConnect, NetworkCreate, NetworkDisconnect
from dockerapi.routes.base import Call, Route, empty, json_answer
from dockerapi.versions import Version

V1_31, V1_44, V1_48 = Version(1, 31), Version(1, 44), Version(1, 48)


async def list_(call: Call) -> web.StreamResponse:
    """GET /networks."""
    return json_answer(list(await call.engine.networks.list(call.filters())))


async def inspect(call: Call) -> web.StreamResponse:
    """GET /networks/{id}.

    Unread: verbose: every network here is local, there are no services to add.
    """
    network = await call.engine.networks.inspect(call.name)
    scope = call.text("scope") if call.since(V1_31) else ""
    if scope and scope != network.get("Scope"):
        raise NotFound(f"network {call.name} not found")
    return json_answer(network)


async def create(call: Call) -> web.StreamResponse:
    """POST /networks/create.

    Differs: options of Docker's own that are not known here are refused.

    SmartOS: most driver options of Docker's own, and networks without IPv4, are refused; without `smartos.egress_nic` a network is internal.
    """
    body = await call.body(NetworkCreate, required=True)
    if not call.since(V1_48):
        body = body.model_copy(update={"enable_ipv4": None})
    return json_answer(await call.finish(call.engine.networks.create(body)), 201)


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /networks/{id}.

    SmartOS: not while a stopped container is on it, either.
    """
    await call.finish(call.engine.networks.remove(call.name))
    return empty(204)


async def connect(call: Call) -> web.StreamResponse:
    """POST /networks/{id}/connect.

    SmartOS: a running container has the nic from its next start on.
    """
    body = await call.body(NetworkConnect, required=True)
    # A MAC of an endpoint came with 1.44.
    if body.endpoint_config is not None and not call.since(V1_44):
        settings = body.endpoint_config.model_copy(update={"mac_address": ""})
        body = body.model_copy(update={"endpoint_config": settings})
    await call.finish(call.engine.networks.connect(call.name, body))
    return empty(200)


async def disconnect(call: Call) -> web.StreamResponse:
    """POST /networks/{id}/disconnect.

    SmartOS: a running container has the nic until its next start.
    """
    body = await call.body(NetworkDisconnect, required=True)
    await call.finish(call.engine.networks.disconnect(call.name, body))
    return empty(200)


async def prune(call: Call) -> web.StreamResponse:
    """POST /networks/prune."""
    return json_answer(await call.finish(call.engine.networks.prune(call.filters())))


ROUTES = (
    Route("GET", "/networks", list_),
    Route("GET", "/networks/", list_),
    Route("GET", "/networks/{id}", inspect),
    Route("DELETE", "/networks/{id}", remove),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/{id}/connect", connect),
    Route("POST", "/networks/{id}/disconnect", disconnect),
    Route("POST", "/networks/prune", prune),
)
