"""/containers/{id}/archive, changes, export: the files of a container."""

from __future__ import annotations

import base64
import contextlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

from dockerapi import web
from dockerapi.errors import APIError, InvalidParameter
from dockerapi.framing import dumps
from dockerapi.models.base import JSONObject
from dockerapi.routes.base import Call, Route, empty, json_answer

STAT_HEADER = "X-Docker-Container-Path-Stat"
_TAR = "application/x-tar"
_DROPPED = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS


async def stat(call: Call) -> web.StreamResponse:
    """HEAD /containers/{id}/archive."""
    found = await call.engine.files.stat(call.name, _path(call))
    return web.Response(status=200, headers=_stat_header(found))


async def read(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/archive."""
    archive = await call.engine.files.read(call.name, _path(call))
    return await _send(call, archive.blocks, _TAR, _stat_header(archive.stat))


async def write(call: Call) -> web.StreamResponse:
    """PUT /containers/{id}/archive."""
    upload = call.blocks()
    try:
        await call.finish(
            call.engine.files.write(
                call.name,
                _path(call),
                upload,
                no_overwrite_dir_non_dir=call.boolean("noOverwriteDirNonDir"),
                copy_uid_gid=call.boolean("copyUIDGID"),
            )
        )
    except APIError:
        await _drop(upload)
        raise
    return empty(200)


async def _drop(upload: AsyncIterator[bytes]) -> None:
    """A little of what is still coming, as Go's server does: a client cut off in its upload tells of that
    and not of our answer."""
    size = 0
    async for block in upload:
        size += len(block)
        if size > _DROPPED:
            return


async def changes(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/changes.

    SmartOS: of a file with several names all are shown where one changed.
    """
    return json_answer(await call.engine.files.changes(call.name))


async def export(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/export."""
    return await _send(
        call, await call.engine.files.export(call.name), "application/octet-stream", {}
    )


def _path(call: Call) -> str:
    path = call.text("path")
    if not path:
        raise InvalidParameter("bad parameter: pathcannot be empty")
    return path


def _stat_header(found: JSONObject) -> dict[str, str]:
    return {STAT_HEADER: base64.b64encode(dumps(found)).decode()}


async def _send(
    call: Call, blocks: AsyncGenerator[bytes, None], content_type: str, headers: dict[str, str]
) -> web.StreamResponse:
    """Blocks as the body, compressed if the client asks for it.

    An error after the head can only break the body off: the client sees an unfinished one, never a short tar
    that looks whole.
    """
    compressor = None
    if content_type == _TAR and "gzip" in call.request.headers.get("Accept-Encoding", ""):
        compressor = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
        headers = {**headers, "Content-Encoding": "gzip"}
    async with contextlib.aclosing(blocks) as source:
        with call.server.follow():
            response = await call.begin(content_type, follows=True, headers=headers)
            async for block in source:
                data = compressor.compress(block) if compressor else block
                if data:
                    await response.write(data)
            if compressor:
                await response.write(compressor.flush())
            return response
        return call.cut_short()


ROUTES = (
    Route("HEAD", "/containers/{id}/archive", stat),
    Route("GET", "/containers/{id}/archive", read),
    Route("PUT", "/containers/{id}/archive", write),
    Route("GET", "/containers/{id}/changes", changes),
    Route("GET", "/containers/{id}/export", export),
)
