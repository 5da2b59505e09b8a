"""/containers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

from dockerapi import web
from dockerapi.engine import AttachQuery, ListQuery, LogsQuery
from dockerapi.errors import APIError, InvalidParameter
from dockerapi.framing import MULTIPLEXED, RAW, StreamId, dumps, frame_each_line
from dockerapi.models.containers import ContainerCreate, ContainerUpdate
from dockerapi.routes import parameters, shims, takeover
from dockerapi.routes.base import Call, Question, Route, empty, experimental, json_answer, raw_json
from dockerapi.streams import deliver, refuse
from dockerapi.versions import Version, inspect_for, row_for, rows_need_change

V1_28, V1_30, V1_41, V1_42 = Version(1, 28), Version(1, 30), Version(1, 41), Version(1, 42)
CONDITIONS = ("not-running", "next-exit", "removed")


async def list_(call: Call) -> web.StreamResponse:
    """GET /containers/json."""
    return raw_json(_rows_for(call.version, await call.engine.containers.list(_list_query(call))))


def listed(asked: Question) -> bytes | None:
    """The same without sizes, for which nothing is waited."""
    query = _list_query(asked)
    if query.size:
        return None
    return _rows_for(asked.version, asked.engine.containers.listed(query))


def _list_query(asked: Question) -> ListQuery:
    return ListQuery(
        all=asked.boolean("all"),
        limit=asked.integer("limit") or 0,
        size=asked.boolean("size"),
        filters=asked.filters(),
    )


def _rows_for(version: Version, rows: bytes) -> bytes:
    if not rows_need_change(version, rows):
        return rows
    return dumps([row_for(version, row) for row in json.loads(rows)]) + b"\n"


async def create(call: Call) -> web.StreamResponse:
    """POST /containers/create.

    Differs: options that are refused, or taken with a warning, are listed in divergence.md.

    SmartOS: more options are refused, each with its reason: divergence.md.
    """
    body = await call.body(ContainerCreate, required=True)
    if not body.model_fields_set - {"host_config", "networking_config"}:
        raise InvalidParameter("config cannot be empty in order to create a container")
    platform = call.text("platform") if call.since(V1_41) else ""
    made = await call.finish(
        call.engine.containers.create(
            shims.create_from(call.version, body),
            name=call.text("name") or None,
            platform=platform or None,
        )
    )
    return json_answer(made, 201)


async def inspect(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/json.

    Differs: `Zone`, the payload of `vmadm create`, is ours; `GraphDriver.Data` has `MergedDir` alone, while it runs.

    SmartOS: `SandboxKey` is empty; `SizeRw` counts what ZFS needs itself, too.
    """
    answer = await call.engine.containers.inspect(call.name, size=call.boolean("size"))
    return json_answer(inspect_for(call.version, answer))


async def start(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/start.

    Unread: detachKeys: a start attaches nobody.
    """
    length = call.request.headers.get("Content-Length", "0")
    # Seven bytes: old clients send "null" or "{}" with a line end.
    if length.isdecimal() and int(length) > 7:
        raise InvalidParameter(
            "starting container with non-empty request body was deprecated since API v1.22 "
            "and removed in v1.24"
        )
    if call.text("checkpoint"):
        raise InvalidParameter("checkpoint is only supported in experimental mode")
    await call.finish(call.engine.containers.start(call.name))
    return empty(204)


async def stop(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/stop."""
    timeout_s = call.integer("t")
    await call.finish(
        call.engine.containers.stop(call.name, signal=_signal(call), timeout_s=timeout_s)
    )
    return empty(204)


async def restart(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/restart."""
    timeout_s = call.integer("t")
    await call.finish(
        call.engine.containers.restart(call.name, signal=_signal(call), timeout_s=timeout_s)
    )
    return empty(204)


def _signal(call: Call) -> str | None:
    return (call.text("signal") or None) if call.since(V1_42) else None


async def kill(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/kill.

    SmartOS: signals that illumos lacks (SIGSTKFLT, real-time signals) are refused (400).
    """
    await call.finish(call.engine.containers.kill(call.name, signal=call.text("signal")))
    return empty(204)


async def pause(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/pause.

    SmartOS: refused (501): vmadm cannot freeze a zone.
    """
    await call.finish(call.engine.containers.pause(call.name))
    return empty(204)


async def unpause(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/unpause.

    SmartOS: nothing is ever paused (500, as of any container that is not).
    """
    await call.finish(call.engine.containers.unpause(call.name))
    return empty(204)


async def rename(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/rename."""
    await call.finish(call.engine.containers.rename(call.name, call.text("name")))
    return empty(204)


async def update(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/update.

    Unread: CgroupParent, CpuCount, CpuPercent, DeviceCgroupRules, DeviceRequests, Devices, IOMaximumBandwidth,
    IOMaximumIOps, Init, KernelMemoryTCP, MemorySwappiness, OomKillDisable, Ulimits: dockerd changes none of them
    either in a container that is there.
    """
    body = await call.body(ContainerUpdate)
    return json_answer(await call.finish(call.engine.containers.update(call.name, body)))


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /containers/{id}."""
    await call.finish(
        call.engine.containers.remove(
            call.name,
            force=call.boolean("force"),
            volumes=call.boolean("v"),
            link=call.boolean("link"),
        )
    )
    return empty(204)


async def resize(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/resize."""
    height = parameters.terminal_size("height", call.text("h"))
    width = parameters.terminal_size("width", call.text("w"))
    await call.engine.containers.resize(call.name, height, width)
    return empty(200)


async def wait(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/wait.  The head goes out at once: the CLI starts the container after it."""
    condition = (call.text("condition") if call.since(V1_30) else "") or "not-running"
    if condition not in CONDITIONS:
        raise InvalidParameter(f"invalid condition: {parameters.quoted(condition)}")
    with call.server.follow():
        ending = await call.engine.containers.wait(call.name, condition)
        if not call.since(V1_30):
            return json_answer(await ending)
        response = await call.begin("application/json", follows=True)
        await response.write(dumps(await ending) + b"\n")
        return response
    return call.cut_short()


async def logs(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/logs.

    SmartOS: the log of a full zone or machine is its console.
    """
    query = _logs_query(call)
    with call.server.follow():
        stream = await call.engine.containers.logs(call.name, query)
        framed = not stream.tty
        multiplexed = framed and call.since(V1_42)
        response = await call.begin(MULTIPLEXED if multiplexed else RAW, follows=query.follow)
        is_ready = stream.framed or not framed
        blocks = stream.blocks if is_ready else _line_frames(stream.blocks)
        if query.follow:
            await deliver(blocks, response.write, framed=False)
        else:
            async for _, text in blocks:
                await response.write(text)
        return response
    return call.cut_short()


async def _line_frames(
    blocks: AsyncIterator[tuple[StreamId, bytes]],
) -> AsyncIterator[tuple[StreamId, bytes]]:
    async for stream, text in blocks:
        yield stream, frame_each_line(stream, text)


def _logs_query(call: Call) -> LogsQuery:
    stdout, stderr = call.boolean("stdout"), call.boolean("stderr")
    if not (stdout or stderr):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    return LogsQuery(
        stdout=stdout,
        stderr=stderr,
        follow=call.boolean("follow"),
        since_ns=parameters.timestamp_ns(call.text("since")) or None,
        until_ns=parameters.timestamp_ns(call.text("until")) or None,
        timestamps=call.boolean("timestamps"),
        tail=parameters.tail(call.text("tail")),
        details=call.boolean("details"),
    )


async def attach(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/attach.  dockerd has hijacked before it looks: errors are raw text too.

    SmartOS: where an admin's zlogin has the console, attaching is refused (409).
    """
    query = _attach_query(call)
    try:
        stdio = await call.engine.containers.attach(call.name, query)
    except APIError as error:
        return await refuse(call.request, error.status, error.message, RAW)
    return await takeover.serve(
        call, stdio, framed=not stdio.tty, accepts_input=query.stdin and query.stream
    )


async def attach_ws(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/attach/ws.  Before 1.42 all three streams are meant, whatever the query says."""
    query = _attach_query(call)
    if not call.since(V1_42):
        query = replace(query, stdin=True, stdout=True, stderr=True)
    stdio = await call.engine.containers.attach(call.name, query)
    return await takeover.serve_websocket(
        call, stdio, binary=call.since(V1_28), accepts_input=query.stdin and query.stream
    )


def _attach_query(call: Call) -> AttachQuery:
    return AttachQuery(
        stdin=call.boolean("stdin"),
        stdout=call.boolean("stdout"),
        stderr=call.boolean("stderr"),
        stream=call.boolean("stream"),
        logs=call.boolean("logs"),
        detach_keys=call.text("detachKeys") or None,
    )


async def prune(call: Call) -> web.StreamResponse:
    """POST /containers/prune."""
    return json_answer(await call.finish(call.engine.containers.prune(call.filters())))


ROUTES = (
    Route("GET", "/containers/json", list_, prompt=listed),
    Route("POST", "/containers/create", create),
    Route("GET", "/containers/{id}/json", inspect),
    Route("GET", "/containers/{id}/logs", logs),
    Route("POST", "/containers/{id}/resize", resize),
    Route("POST", "/containers/{id}/start", start),
    Route("POST", "/containers/{id}/stop", stop),
    Route("POST", "/containers/{id}/restart", restart),
    Route("POST", "/containers/{id}/kill", kill),
    Route("POST", "/containers/{id}/rename", rename),
    Route("POST", "/containers/{id}/update", update),
    Route("POST", "/containers/{id}/pause", pause),
    Route("POST", "/containers/{id}/unpause", unpause),
    Route("POST", "/containers/{id}/attach", attach),
    Route("POST", "/containers/{id}/wait", wait),
    Route("DELETE", "/containers/{id}", remove),
    Route("GET", "/containers/{id}/attach/ws", attach_ws),
    Route("POST", "/containers/prune", prune),
    Route("GET", "/containers/{id}/checkpoints", experimental),
    Route("POST", "/containers/{id}/checkpoints", experimental),
    Route(
        "DELETE",
        "/containers/{id}/checkpoints/{checkpoint}",
        experimental,
    ),
)
