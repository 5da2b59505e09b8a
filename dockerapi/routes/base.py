"""What every route uses: the call, its decoding, and the kinds of answer.

A handler takes a `Call` and returns a response:

    async def start(call: Call) -> web.StreamResponse:
        await call.finish(call.engine.containers.start(call.name))
        return empty(204)
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, TypeVar
from urllib.parse import parse_qsl

from dockerapi import web
from dockerapi.connection import Connection
from dockerapi.engine import Engine
from dockerapi.errors import APIError, InvalidParameter, NotSupported, Unavailable
from dockerapi.filters import Filters
from dockerapi.framing import dumps, error_line, json_line
from dockerapi.models.base import Body
from dockerapi.routes import bodies, parameters
from dockerapi.streams import connection_of
from dockerapi.versions import Version

T = TypeVar("T")
B = TypeVar("B", bound=Body)
BODY_LIMIT = 64 * 1024 * 1024


class Server(Protocol):
    """What a call needs of the server."""

    @property
    def headers(self) -> Mapping[str, str]:
        """On every answer."""
        ...

    async def finish(
        self, work: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[None]] | None
    ) -> T:
        """Run to the end, even if the client leaves."""
        ...

    def follow(self) -> contextlib.AbstractContextManager[None, bool]:
        """Inside, the request ends quietly when the server shuts down."""
        ...

    @property
    def closing(self) -> bool:
        """Shutting down."""
        ...


@dataclass(slots=True, kw_only=True)
class Question:
    """What a request without a body asks: `name` is what stands for `{id}` or `{name}` in the path."""

    engine: Engine
    version: Version
    path: str
    query_text: str
    name: str
    _query: dict[str, list[str]] | None = field(default=None, repr=False)

    def _values(self) -> dict[str, list[str]]:
        if self._query is None:
            found: dict[str, list[str]] = {}
            if self.query_text:
                for key, value in parse_qsl(self.query_text, keep_blank_values=True):
                    found.setdefault(key, []).append(value)
            self._query = found
        return self._query

    def text(self, key: str) -> str:
        """First value in the query; "" if absent."""
        return self._values().get(key, [""])[0]

    def texts(self, key: str) -> list[str]:
        """All values in the query."""
        return self._values().get(key, [])

    def has(self, key: str) -> bool:
        """Whether the query has the key."""
        return key in self._values()

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """As Go's handlers read it; `default` if absent."""
        return parameters.boolean(self.text(key)) if self.has(key) else default

    def integer(self, key: str) -> int | None:
        """None if absent or empty."""
        return parameters.optional_integer(self.text(key))

    def filters(self) -> Filters:
        """The `filters` parameter."""
        return Filters.parse(self.text("filters"))

    def since(self, version: Version) -> bool:
        """Whether the client speaks `version` or newer."""
        return self.version >= version


@dataclass(slots=True, kw_only=True)
class Call(Question):
    """One request, routed."""

    request: web.BaseRequest
    server: Server
    response: web.StreamResponse | None = None
    """The streamed answer once its head is out: errors can then not be statuses."""

    # -- decoding

    async def body(self, model: type[B], *, required: bool = False, empty: bool = False) -> B:
        """The JSON body.  Without one the model's defaults, or, if `required`, an error.

        `empty`: one of no bytes that comes in chunks is none either.
        """
        length = self.request.headers.get("Content-Length")
        has_body = self.request.body_exists and length != "0"
        bodies.check_content_type(self.request.headers.get("Content-Type"), has_body=has_body)
        if not has_body and not required:
            return model()
        data = await self._read()
        return model() if empty and not data.strip() else bodies.decode(data, model)

    async def _read(self) -> bytes:
        data = bytearray()
        async for block in self.blocks():
            data += block
            if len(data) > BODY_LIMIT:
                raise InvalidParameter(f"request body is larger than {BODY_LIMIT} bytes")
        return bytes(data)

    async def blocks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, decoded from chunks only.

        `Expect: 100-continue` is answered here and not before: a refusal saves the upload.
        """
        self._continue()
        try:
            async for block in self.request.content.iter_any():
                yield block
        except web.RequestPayloadError as error:
            raise InvalidParameter(f"malformed request body: {error}") from error

    def _continue(self) -> None:
        expects = self.request.headers.get("Expect", "").lower() == "100-continue"
        transport = self.request.transport
        if expects and self.request.version >= (1, 1) and transport is not None:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # -- acting

    async def finish(
        self, work: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[None]] | None = None
    ) -> T:
        """A change, once begun, is not cut by a hang-up; `undo` gets a result nobody waits for."""
        return await self.server.finish(work, undo)

    @property
    def connection(self) -> Connection:
        """What the request came in by."""
        return connection_of(self.request)

    # -- streamed answers

    async def begin(
        self, content_type: str, *, follows: bool, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        """Send the head now.  `follows`: the handler waits for this client only."""
        response = web.StreamResponse(
            headers={**self.server.headers, **(headers or {}), "Content-Type": content_type}
        )
        await response.prepare(self.request)
        self.response = response
        if follows:
            self.connection.follows = True
            if self.connection.ended:  # it will never hang up again
                self.connection.force_close()
        return response

    async def progress(self, messages: AsyncIterator[Mapping[str, Any]]) -> web.StreamResponse:
        """JSON lines; an error before the first is a status, later ones are the last line."""
        with self.server.follow():
            first = await anext(aiter(messages), None)
            response = await self.begin("application/json", follows=True)
            try:
                if first is not None:
                    await response.write(json_line(first))
                async for message in messages:
                    await response.write(json_line(message))
            except APIError as error:
                await response.write(error_line(error.message))
            return response
        response = self.cut_short()
        await response.write(error_line("the daemon is shutting down"))
        return response

    def cut_short(self) -> web.StreamResponse:
        """What the server's shutdown left of a streamed answer; Unavailable if nothing is out."""
        if self.response is None:
            raise Unavailable("the daemon is shutting down")
        return self.response


async def send_blocks(
    call: Call, blocks: AsyncGenerator[bytes, None], content_type: str
) -> web.StreamResponse:
    """Blocks as the body.

    An error after the head can only break the body off: the client sees an unfinished one, never a short one
    that looks whole.
    """
    async with contextlib.aclosing(blocks) as source:
        with call.server.follow():
            response = await call.begin(content_type, follows=True)
            async for block in source:
                await response.write(block)
            return response
        return call.cut_short()


Handle = Callable[[Call], Awaitable[web.StreamResponse]]
Prompt = Callable[[Question], bytes | None]
"""The JSON of a GET, from memory and at once; None: `handle` has to."""


@dataclass(frozen=True, slots=True)
class Route:
    """A row of a noun's table.  `path` has at most one `{name}`, which may hold slashes."""

    method: str
    path: str
    handle: Handle
    prompt: Prompt | None = None


def json_answer(value: Any, status: int = 200) -> web.Response:
    """As dockerd writes it: compact, a newline at the end."""
    return raw_json(dumps(value) + b"\n", status)


def raw_json(data: bytes, status: int = 200) -> web.Response:
    """JSON that is serialised already."""
    return web.Response(body=data, status=status, headers={"Content-Type": "application/json"})


def empty(status: int) -> web.Response:
    """No body."""
    return web.Response(status=status)


def not_built(what: str) -> Handle:
    """For what is not implemented: a clear refusal."""

    async def refuse(_call: Call) -> NoReturn:
        raise NotSupported(f"{what} is not implemented by zonegate yet")

    refuse.__doc__ = f"{what} is not implemented yet (501)."
    return refuse


async def experimental(_call: Call) -> NoReturn:
    """checkpoints are an experimental feature, and there are none of these (501, in dockerd's words)."""
    raise NotSupported(
        "This experimental feature is disabled by default. Start the Docker daemon in experimental mode "
        "in order to enable it."
    )


def platform_text(text: str) -> str:
    """`os/arch[/variant]` of a platform parameter in its JSON form (1.48 and later)."""
    try:
        value = bodies.parse(text)
    except InvalidParameter as error:
        words = error.message.removeprefix("invalid JSON: ")
        raise InvalidParameter(f"failed to parse platform: {words}") from error
    if not isinstance(value, dict):
        raise InvalidParameter("failed to parse platform: not an object")
    parts = [value.get("os"), value.get("architecture"), value.get("variant")]
    if not all(isinstance(part, str) for part in parts[:2]):
        raise InvalidParameter("both OS and Architecture must be provided")
    return "/".join(str(part) for part in parts if part)
