"""Attach over a websocket: the handshake as dockerd takes it, then messages instead of frames.

    client --> message, text or binary --> Stdio.write     close message --> Stdio.close_input
    client <-- binary message (text before API 1.28) <-- Joiner <-- Stdio.output

Standard output and error are one stream here: nothing tells them apart.  The protocol itself is aiohttp's.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING

from aiohttp import WSMsgType

from dockerapi import web
from dockerapi.connection import Connection
from dockerapi.errors import APIError, InvalidParameter
from dockerapi.streams import deliver

if TYPE_CHECKING:
    from dockerapi.framing import Stdio

log = logging.getLogger(__name__)

MESSAGE_LIMIT = 16 * 1024 * 1024
"""Bytes of one message from a client, which is kept whole; a longer one ends the connection with code 1009."""
CLOSE_WAIT_S = 2.0
CUT_SHORT_WAIT_S = 0.05
"""How long the answer to a close is waited for; when the server ends nobody reads it any more."""
_VERSION = "13"


def check_handshake(headers: Mapping[str, str]) -> None:
    """InvalidParameter in the words of dockerd's websocket library."""
    upgrades = "upgrade" in headers.get("Connection", "").lower()
    if headers.get("Upgrade", "").lower() != "websocket" or not upgrades:
        raise InvalidParameter("not websocket protocol")
    if not _is_key(headers.get("Sec-WebSocket-Key", "")):
        raise InvalidParameter("mismatch challenge/response")
    if headers.get("Sec-WebSocket-Version") != _VERSION:
        raise InvalidParameter("missing or bad WebSocket Version")


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


async def open_socket(
    request: web.BaseRequest, connection: Connection, headers: Mapping[str, str]
) -> web.WebSocketResponse:
    """Answers the handshake, which must have been checked; the only protocol that a client names is taken."""
    offered = [
        word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    ]
    socket = web.WebSocketResponse(
        timeout=CLOSE_WAIT_S,
        compress=False,
        max_msg_size=MESSAGE_LIMIT,
        protocols=offered if len(offered) == 1 and offered[0] else (),
    )
    socket.headers.update(headers)
    await socket.prepare(request)
    connection.become_websocket()
    return socket


async def serve(
    socket: web.WebSocketResponse, stdio: Stdio, *, binary: bool, accepts_input: bool
) -> None:
    """Until the output ends or the client is gone; closes both."""
    wait_s = CUT_SHORT_WAIT_S
    try:
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(_feed(socket, stdio, accepts_input=accepts_input))
            await _drain(socket, stdio, binary=binary)
            feeding.cancel()
        wait_s = CLOSE_WAIT_S
    finally:
        try:
            await stdio.close()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await socket.close()


async def _drain(socket: web.WebSocketResponse, stdio: Stdio, *, binary: bool) -> None:
    async def send(data: bytes) -> None:
        if binary:
            await socket.send_bytes(data)
        else:
            await socket.send_str(data.decode(errors="replace"))

    try:
        await deliver(stdio.output(), send, framed=False)
    except (ConnectionError, RuntimeError) as error:
        log.debug("the client left while output was on its way: %s", error)
    except (APIError, OSError) as error:
        log.warning("a stream ended early: %s", error)


async def _feed(socket: web.WebSocketResponse, stdio: Stdio, *, accepts_input: bool) -> None:
    # aiohttp answers pings, and a close message at once: there is no half-closed websocket.
    async for message in socket:
        if accepts_input and message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            data = message.data
            await _passed_on(stdio.write(data.encode() if isinstance(data, str) else data))
    if accepts_input:
        await _passed_on(stdio.close_input())
    await stdio.close()


async def _passed_on(act: Awaitable[None]) -> None:
    try:
        await act
    except (APIError, OSError) as error:
        log.debug("the process takes no input: %s", error)
