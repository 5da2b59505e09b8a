"""The part of aiohttp's server that is used here: requests, answers, connections.

`aiohttp.web` would bring its own routing, static files and runner along: more than a megabyte that an idle
server has no use for.
"""

from __future__ import annotations

from aiohttp.web_protocol import RequestPayloadError
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server
from aiohttp.web_ws import WebSocketResponse

__all__ = [
    "BaseRequest",
    "RequestPayloadError",
    "Response",
    "Server",
    "StreamResponse",
    "WebSocketResponse",
]
