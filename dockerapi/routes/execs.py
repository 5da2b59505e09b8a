"""/containers/{id}/exec and /exec."""

from __future__ import annotations

from dockerapi import web
from dockerapi.errors import InvalidParameter
from dockerapi.framing import Stdio
from dockerapi.models.execs import ExecCreate, ExecStart
from dockerapi.routes import parameters, shims, takeover
from dockerapi.routes.base import Call, Route, empty, json_answer


async def create(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/exec.

    SmartOS: `Privileged`, and users that su cannot be told, are refused (501).
    """
    body = await call.body(ExecCreate)
    if not body.cmd:
        raise InvalidParameter("No exec command specified")
    made = await call.finish(
        call.engine.execs.create(call.name, shims.exec_create_from(call.version, body))
    )
    return json_answer(made, 201)


async def start(call: Call) -> web.StreamResponse:
    """POST /exec/{id}/start.  Framing goes by this body's Tty, whatever create said."""
    body = shims.exec_start_from(call.version, await call.body(ExecStart))
    stdio = await call.finish(call.engine.execs.start(call.name, body), _abandon)
    if stdio is None:
        return empty(200)
    return await takeover.serve(call, stdio, framed=not body.tty, accepts_input=True)


async def _abandon(stdio: Stdio | None) -> None:
    """The client left while the process was being started; that goes on without it."""
    if stdio is not None:
        await stdio.close()


async def resize(call: Call) -> web.StreamResponse:
    """POST /exec/{id}/resize."""
    height = parameters.terminal_size("height", call.text("h"))
    width = parameters.terminal_size("width", call.text("w"))
    await call.engine.execs.resize(call.name, height, width)
    return empty(200)


async def inspect(call: Call) -> web.StreamResponse:
    """GET /exec/{id}/json."""
    return json_answer(await call.engine.execs.inspect(call.name))


ROUTES = (
    Route("POST", "/containers/{id}/exec", create),
    Route("POST", "/exec/{id}/start", start),
    Route("POST", "/exec/{id}/resize", resize),
    Route("GET", "/exec/{id}/json", inspect),
)
