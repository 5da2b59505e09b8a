"""The answer of attach and exec start: the head of a taken connection, then the streams; or a websocket."""

from __future__ import annotations

from dockerapi import web, websocket
from dockerapi.framing import MULTIPLEXED, RAW, Stdio
from dockerapi.routes.base import Call
from dockerapi.streams import Hijack, Taken, head
from dockerapi.streams import serve as pump
from dockerapi.versions import Version

V1_42 = Version(1, 42)


def answer_head(call: Call, *, framed: bool) -> bytes:
    """101 for a client that asked to upgrade, in whatever words; 200 and bare bytes for others."""
    if "Upgrade" not in call.request.headers:
        return head("200 OK", {"Content-Type": RAW, **call.server.headers})
    content_type = MULTIPLEXED if framed and call.since(V1_42) else RAW
    headers = {"Content-Type": content_type, "Connection": "Upgrade", "Upgrade": "tcp"}
    return head("101 UPGRADED", {**headers, **call.server.headers})


async def serve(
    call: Call, stdio: Stdio, *, framed: bool, accepts_input: bool
) -> web.StreamResponse:
    """Takes the connection and pumps until either side is done; closes `stdio` whatever happens."""
    with call.server.follow():
        try:
            hijack = Hijack(call.connection)
            call.response = Taken()
            await hijack.write_head(answer_head(call, framed=framed))
        except BaseException:
            await stdio.close()
            raise
        await pump(hijack, stdio, framed=framed, accepts_input=accepts_input)
    return Taken()


async def serve_websocket(
    call: Call, stdio: Stdio, *, binary: bool, accepts_input: bool
) -> web.StreamResponse:
    """The same by messages of a websocket.  What is no handshake is refused; `stdio` is closed in any case."""
    with call.server.follow():
        try:
            websocket.check_handshake(call.request.headers)
            socket = await websocket.open_socket(call.request, call.connection, call.server.headers)
            call.response = socket
        except BaseException:
            await stdio.close()
            raise
        await websocket.serve(socket, stdio, binary=binary, accepts_input=accepts_input)
        return socket
    return call.cut_short()
