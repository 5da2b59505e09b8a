"""The server: routing, the one place where errors become answers, changes that outlive their client.

`APIServer` is the protocol factory for any listening socket:

    server = APIServer(engine, group, server_version="28.5.2")
    await loop.create_unix_server(server, path)
    ...                                     # the caller closes its listeners first
    await server.shutdown(timeout_s=10)

Listeners, signals and TLS are the caller's.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from dockerapi import web
from dockerapi.connection import Connection, HTTPServer, PingAnswer, Prompter
from dockerapi.engine import Engine
from dockerapi.errors import APIError, NotModified, PageNotFound
from dockerapi.framing import error_body
from dockerapi.routes import (
    builds,
    containers,
    execs,
    files,
    images,
    networks,
    swarm,
    system,
    usage,
    volumes,
)
from dockerapi.routes.base import Call, Question, Route, empty
from dockerapi.routes.router import MovedPermanently, Router, clean
from dockerapi.versions import CURRENT, ClientTooOld, negotiate

log = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
T = TypeVar("T")

ROUTES: tuple[Route, ...] = (
    *containers.ROUTES,
    *files.ROUTES,
    *usage.ROUTES,
    *execs.ROUTES,
    *images.ROUTES,
    *networks.ROUTES,
    *volumes.ROUTES,
    *builds.ROUTES,
    *system.ROUTES,
    *swarm.ROUTES,
)


class APIServer:
    """Serves an engine.  `group` must outlive it and gets the changes that clients began."""

    def __init__(self, engine: Engine, group: asyncio.TaskGroup, *, server_version: str) -> None:
        self.headers = {
            "Api-Version": str(CURRENT),
            "Docker-Experimental": "false",
            "Ostype": "linux",
            "Server": f"Docker/{server_version} (linux)",
        }
        self.closing = False
        self._engine = engine
        self._group = group
        self._router = Router(ROUTES)
        self._followers: set[asyncio.Task[Any]] = set()
        self._changes: set[asyncio.Task[Any]] = set()
        self._http = HTTPServer(
            self._serve,
            PingAnswer({**self.headers, **system.PING_HEADERS}),
            Prompter(self.headers, self.prompt),
        )

    def __call__(self) -> Connection:
        """A protocol for one connection."""
        return self._http()

    async def shutdown(self, timeout_s: float) -> None:
        """Ends waits, events, logs, pulls and taken connections; lets changes and quick requests end.

        Changes that a client began and left are waited for too, all for `timeout_s` at most.
        """
        self.closing = True
        for task in list(self._followers):
            task.cancel()
        if self._changes:
            await asyncio.wait(set(self._changes), timeout=timeout_s)
        # Else aiohttp waits out the time for connections on which nothing is asked.
        self._http.pre_shutdown()
        await self._http.shutdown(timeout_s)

    # -- what routes ask for

    async def finish(
        self,
        work: Coroutine[Any, Any, T],
        undo: Callable[[T], Awaitable[None]] | None = None,
    ) -> T:
        """Runs `work` in the server's group, so that a cancelled request does not cut it."""
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = self._group.create_task(self._to_the_end(work, result, undo))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if not result.done():
                result.cancel()  # tells _to_the_end that nobody is waiting
            elif undo is not None and not result.cancelled() and result.exception() is None:
                await undo(result.result())
            raise

    async def _to_the_end(
        self,
        work: Coroutine[Any, Any, T],
        result: asyncio.Future[T],
        undo: Callable[[T], Awaitable[None]] | None,
    ) -> None:
        try:
            value = await work
        except Exception as error:
            if not result.done():
                result.set_exception(error)
            elif isinstance(error, APIError):
                log.debug("a change went wrong after its client had left: %s", error)
            else:
                log.exception("a change failed after its client had left")
        else:
            if not result.done():
                result.set_result(value)
            elif undo is not None:
                await undo(value)
        finally:
            if not result.done():
                result.cancel()

    def follow(self) -> Follower:
        """The block ends quietly when the server shuts down."""
        return Follower(self, self._followers)

    # -- a request

    def prompt(self, target: str) -> bytes | None:
        """The JSON that a GET of `target` is answered with at once; None: the usual way has to."""
        raw_path, _, query = target.partition("?")
        try:
            version, path = negotiate(clean(raw_path, query))
            found = self._router.find("GET", path)
            prompt = found and found[0].prompt
            if not found or not prompt:
                return None
            return prompt(
                Question(
                    engine=self._engine,
                    version=version,
                    path=path,
                    query_text=query,
                    name=found[1],
                )
            )
        except APIError:
            return None  # the usual way finds it, too, and says it
        except Exception:
            log.exception("GET %s", target)
            return None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        call: Call | None = None
        try:
            if request.method == "OPTIONS":
                return self._sign(empty(200))
            route, call = self._route(request)
            return self._sign(await route.handle(call))
        except APIError as error:
            return self._failed(request, call, error)
        except ConnectionError:
            if request.transport is None or request.transport.is_closing():
                raise
            unknown = _unknown()
            log.exception("%s %s: %s", request.method, request.raw_path, unknown)
            return self._failed(request, call, unknown)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                # Whoever asked can do something about it, and should not have to look for the log.
                log.exception("%s %s", request.method, request.raw_path)
                return self._failed(request, call, APIError(os.strerror(error.errno).lower()))
            unknown = _unknown()
            log.exception("%s %s: %s", request.method, request.raw_path, unknown)
            return self._failed(request, call, unknown)
        finally:
            self._release(request)

    def _route(self, request: web.BaseRequest) -> tuple[Route, Call]:
        raw = request.raw_path
        if not raw.startswith("/"):  # a proxy's absolute form
            raw = request.rel_url.raw_path_qs
        raw_path, _, query = raw.partition("?")
        version, path = negotiate(clean(raw_path, query))
        log.debug("%s %s", request.method, raw)
        found = self._router.find(request.method, path)
        if found is None:
            raise PageNotFound
        route, name = found
        return route, Call(
            request=request,
            engine=self._engine,
            version=version,
            path=path,
            query_text=query,
            name=name,
            server=self,
        )

    def _sign(self, response: web.StreamResponse) -> web.StreamResponse:
        if not response.prepared:
            response.headers.update(self.headers)
        return response

    def _failed(
        self, request: web.BaseRequest, call: Call | None, error: APIError
    ) -> web.StreamResponse:
        if call is not None and call.response is not None:
            # The head is out: only a broken connection can tell the client now.
            raise ConnectionResetError("the answer ended early") from error
        if error.detail:
            log.info("%s %s: %s: %s", request.method, request.raw_path, error, error.detail)
        response = self._sign(_error_answer(error))
        if isinstance(error, PageNotFound):
            del response.headers["Api-Version"]
        if isinstance(error, ClientTooOld):
            del response.headers["Docker-Experimental"]
        if request.body_exists and not request.content.at_eof():
            # Whoever still sends a body shall see the answer, not send all of it for nothing.
            response.force_close()
        return response

    def _release(self, request: web.BaseRequest) -> None:
        connection: Any = request.protocol
        if isinstance(connection, Connection):
            connection.follows = False
            connection.continue_http()


class Follower:
    """Context of a request that lasts: the server's shutdown ends the block without an error."""

    def __init__(self, server: APIServer, followers: set[asyncio.Task[Any]]) -> None:
        self._server = server
        self._followers = followers
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        if self._task is not None:
            self._followers.add(self._task)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        task = self._task
        if task is None:
            return False
        self._followers.discard(task)
        if kind is asyncio.CancelledError and self._server.closing and task.cancelling() == 1:
            task.uncancel()
            return True
        return False


def _unknown() -> APIError:
    return APIError(f"server error ({uuid.uuid4().hex[:12]})")


def _error_answer(error: APIError) -> web.Response:
    if isinstance(error, NotModified):
        return empty(304)
    if isinstance(error, MovedPermanently):
        return web.Response(status=301, headers={"Location": error.location})
    if isinstance(error, ClientTooOld):
        return web.Response(text=error.message + "\n", status=error.status)
    return web.Response(
        body=error_body(error.message),
        status=error.status,
        headers={"Content-Type": "application/json"},
    )
