"""`zonegate serve` that keeps a copy of every JSON answer:  python -m compat.witness FILE serve ...

The copy is taken where aiohttp is given an answer's head and body, before both become bytes on a connection: clients,
taken connections and times stay as they are.  A line of FILE is [method, path, status, {header: value}, body]; of a
stream each message is a line as soon as it was written, so a client that leaves takes nothing away.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

import gateway.cli
import gateway.server
from dockerapi.app import APIServer

KEPT = ("Api-Version", "Docker-Experimental", "Ostype", "Server", "Content-Type")
Note = Callable[[str, Mapping[str, str], bytes], None]


class Writer:
    """A request's stream writer, with JSON looked at on its way out."""

    def __init__(self, writer: Any, note: Note) -> None:
        self._writer, self._note = writer, note
        self._status, self._headers, self._rest = "", {}, b""
        self._is_json = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    async def write_headers(self, status_line: str, headers: Mapping[str, str]) -> None:
        self._status = status_line.split(" ", 2)[1]
        self._headers = {name: headers[name] for name in KEPT if name in headers}
        self._is_json = headers.get("Content-Type", "").startswith("application/json")
        await self._writer.write_headers(status_line, headers)

    async def write(self, chunk: bytes, **options: Any) -> None:
        self._look(bytes(chunk))
        await self._writer.write(chunk, **options)

    async def write_eof(self, chunk: bytes = b"") -> None:
        self._look(bytes(chunk))
        if self._rest or not self._is_json:
            self._note(self._status, self._headers, self._rest)
        self._rest = b""
        await self._writer.write_eof(chunk)

    def _look(self, chunk: bytes) -> None:
        if not self._is_json:
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                self._note(self._status, self._headers, line)


def _keep(method: str, target: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    row = [method, target, status, dict(headers), body.decode(errors="replace")]
    os.write(_COPIES, json.dumps(row).encode() + b"\n")


class WitnessedServer(APIServer):
    """The server of the API, its answers copied."""

    def prompt(self, target: str) -> bytes | None:
        body = super().prompt(target)
        if body is not None:
            _keep("GET", target, 200, {**self.headers, "Content-Type": "application/json"}, body)
        return body

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        method, target = request.method, request.raw_path

        def note(status: str, headers: Mapping[str, str], body: bytes) -> None:
            _keep(method, target, int(status), headers, body)

        request._payload_writer = Writer(request.writer, note)  # type: ignore[assignment]
        return await super()._serve(request)


if __name__ == "__main__":
    _COPIES = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    gateway.server.APIServer = WitnessedServer
    gateway.cli.main(sys.argv[2:])
