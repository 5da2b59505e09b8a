"""A client that speaks bytes, and what it talks to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass

from engine_in_memory import EngineInMemory

from dockerapi.app import APIServer


@dataclass
class Answer:
    """Status, headers with lower-case names, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return self.json["message"]


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().partition(": ")[::2] for line in head[1:] if line)
    exact = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in head[1:] if line}
    return int(head[0].split()[1]), {key: exact[key] for key in headers}


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readline()).split(b";")[0], 16)
    data = await reader.readexactly(size)
    await reader.readexactly(2)
    return data


async def read_answer(reader: asyncio.StreamReader, method: str = "GET") -> Answer:
    status, headers = await read_head(reader)
    body = b""
    if method != "HEAD" and status not in {204, 304}:
        if headers.get("transfer-encoding") == "chunked":
            while chunk := await read_chunk(reader):
                body += chunk
        elif "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body = await reader.read()
    return Answer(status, headers, body)


class World:
    """A running server with its engine."""

    def __init__(self, path: str, engine: EngineInMemory, server: APIServer) -> None:
        self.path = path
        self.engine = engine
        self.server = server
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.path, limit=2**25)
        self._writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(
        self, method: str, path: str, body: bytes | object = b"", **headers: str
    ) -> Answer:
        """One request on its own connection; what is no bytes goes as JSON."""
        reader, writer = await self.connect()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            named.setdefault("Content-Type", "application/json")
        if body:
            named["Content-Length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode() + body)
        async with asyncio.timeout(10):
            return await read_answer(reader, method)
