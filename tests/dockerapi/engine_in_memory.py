"""A small engine behind the routes: enough state to see what the server makes of requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from dockerapi.engine import EventsQuery, LogsQuery, LogStream
from dockerapi.errors import Conflict, NoSuchContainer, NoSuchExec, NoSuchImage, NotModified
from dockerapi.framing import StreamId, dumps

END = (StreamId.SYSTEM, b"")


class Echo:
    """Stdio of a `cat`: output is input, ends after input has ended.

    `feed` puts output of its own; `hold` keeps it running after the input's end.
    """

    def __init__(self, *, tty: bool = False, hold: bool = False) -> None:
        self.tty = tty
        self.hold = hold
        self.received = bytearray()
        self.input_ended = asyncio.Event()
        self.closed = asyncio.Event()
        self._chunks: asyncio.Queue[tuple[StreamId, bytes]] = asyncio.Queue(64)

    async def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        while (chunk := await self._chunks.get()) != END:
            yield chunk

    async def feed(self, stream: StreamId, data: bytes) -> None:
        await self._chunks.put((stream, data))

    async def end(self) -> None:
        await self._chunks.put(END)

    async def write(self, data: bytes) -> None:
        self.received += data
        await self.feed(StreamId.STDOUT, data)

    async def close_input(self) -> None:
        self.input_ended.set()
        if not self.hold:
            await self.end()

    async def resize(self, height: int, width: int) -> None:
        pass

    async def close(self) -> None:
        self.closed.set()


class Containers:
    def __init__(self) -> None:
        self.known: dict[str, Any] = {"c1": {"Id": "c1" * 32, "Config": {"Hostname": "h"}}}
        self.calls: list[tuple[Any, ...]] = []
        self.streams: dict[str, Echo] = {}
        self.exits: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.waiting = asyncio.Event()
        self.wait_cancelled = asyncio.Event()
        self.gate = asyncio.Event()
        self.started = asyncio.Event()
        self.finished = asyncio.Event()
        self.log_blocks: list[tuple[StreamId, bytes]] = []
        self.log_tty = False
        self.logs_closed = asyncio.Event()

    def _get(self, ref: str) -> Any:
        if ref not in self.known:
            raise NoSuchContainer(ref)
        return self.known[ref]

    async def create(self, body: Any, *, name: Any, platform: Any) -> dict[str, Any]:
        if body.image == "missing":
            raise NoSuchImage("missing:latest")
        self.calls.append(("create", body, name, platform))
        return {"Id": "ab" * 32, "Warnings": []}

    async def list(self, query: Any) -> bytes:
        return self.listed(query)

    def listed(self, query: Any) -> bytes:
        self.calls.append(("list", query))
        return b'[{"Id":"1","HostConfig":{"NetworkMode":"bridge","Annotations":{"a":"b"}}}]\n'

    async def inspect(self, ref: str, *, size: bool) -> dict[str, Any]:
        if ref == "broken":
            raise RuntimeError("a secret of the inside")
        return dict(self._get(ref))

    async def start(self, ref: str) -> None:
        self._get(ref)
        if ref == "running":
            raise NotModified("already started")
        self.started.set()
        await self.gate.wait()
        self.calls.append(("started", ref))
        self.finished.set()

    async def stop(self, ref: str, *, signal: Any, timeout_s: Any) -> None:
        self._get(ref)
        self.calls.append(("stop", ref, signal, timeout_s))

    async def restart(self, ref: str, *, signal: Any, timeout_s: Any) -> None:
        await self.stop(ref, signal=signal, timeout_s=timeout_s)

    async def kill(self, ref: str, *, signal: str) -> None:
        self.calls.append(("kill", ref, signal))

    async def pause(self, ref: str) -> None:
        raise Conflict(f"container {ref} is already paused")

    async def unpause(self, ref: str) -> None:
        self._get(ref)

    async def rename(self, ref: str, name: str) -> None:
        self.calls.append(("rename", ref, name))

    async def remove(self, ref: str, *, force: bool, volumes: bool, link: bool) -> None:
        self.calls.append(("remove", ref, force, volumes, link))

    async def resize(self, ref: str, height: int, width: int) -> None:
        self.calls.append(("resize", ref, height, width))

    async def wait(self, ref: str, condition: str) -> Any:
        self._get(ref)
        return self._ending()

    async def _ending(self) -> dict[str, Any]:
        self.waiting.set()
        try:
            return await asyncio.shield(self.exits)
        except asyncio.CancelledError:
            self.wait_cancelled.set()
            raise

    async def attach(self, ref: str, query: Any) -> Echo:
        if ref not in self.streams:
            raise NoSuchContainer(ref)
        self.calls.append(("attach", ref, query))
        return self.streams[ref]

    async def logs(self, ref: str, query: LogsQuery) -> LogStream:
        self._get(ref)
        self.calls.append(("logs", query))
        return LogStream(self.log_tty, self._log(query))

    async def _log(self, query: LogsQuery) -> AsyncIterator[tuple[StreamId, bytes]]:
        try:
            for block in self.log_blocks:
                yield block
            if query.follow:
                await asyncio.Event().wait()
        finally:
            self.logs_closed.set()


class Execs:
    def __init__(self) -> None:
        self.streams: dict[str, Echo | None] = {}
        self.bodies: list[Any] = []

    async def create(self, ref: str, body: Any) -> dict[str, Any]:
        self.bodies.append(body)
        return {"Id": "e1"}

    async def start(self, exec_id: str, body: Any) -> Echo | None:
        if exec_id not in self.streams:
            raise NoSuchExec(exec_id)
        self.bodies.append(body)
        return None if body.detach else self.streams[exec_id]

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        raise NoSuchExec(exec_id)

    async def inspect(self, exec_id: str) -> dict[str, Any]:
        return {"ID": exec_id}


class Images:
    def __init__(self) -> None:
        self.loaded = 0
        self.largest = 0
        self.auth: Any = None

    async def pull(
        self, name: str, *, tag: str, platform: str, auth: Any
    ) -> AsyncIterator[dict[str, Any]]:
        self.auth = auth
        return self._pull(name)

    async def _pull(self, name: str) -> AsyncIterator[dict[str, Any]]:
        if name == "missing":
            raise NoSuchImage(name)
        yield {"status": "Pulling from library/x", "id": "latest"}
        if name == "bad":
            raise NoSuchImage(name)
        yield {"status": "Status: Image is up to date for x"}

    async def load(
        self, archive: AsyncIterator[bytes], *, quiet: bool, platform: str
    ) -> AsyncIterator[dict[str, Any]]:
        return self._load(archive)

    async def _load(self, archive: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
        async for block in archive:
            self.loaded += len(block)
            self.largest = max(self.largest, len(block))
        yield {"stream": "Loaded image: x:latest\n"}

    async def list(self, **_: Any) -> list[dict[str, Any]]:
        return [{"Id": "sha256:1", "Size": 5, "RepoTags": [], "RepoDigests": []}]

    async def inspect(self, name: str) -> dict[str, Any]:
        return {"Id": name, "Os": "linux", "Architecture": "amd64", "Size": 5, "Config": {}}

    async def history(self, name: str) -> list[dict[str, Any]]:
        return [{"Id": name}]

    async def tag(self, name: str, *, repo: str, tag: str) -> None:
        pass

    async def remove(self, name: str, *, force: bool, noprune: bool) -> list[dict[str, Any]]:
        return [{"Untagged": name}]


class Commits:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def commit(self, ref: str, query: Any, body: Any) -> dict[str, Any]:
        self.asked.append((ref, query, body))
        return {"Id": "sha256:1"}


class Networks:
    async def list(self, filters: Any) -> list[dict[str, Any]]:
        return [{"Name": "bridge", "Id": "n1", "Scope": "local"}]

    async def inspect(self, ref: str) -> dict[str, Any]:
        return {"Name": ref, "Id": "n1", "Scope": "local"}

    async def create(self, body: Any) -> dict[str, Any]:
        return {"Id": "n2", "Warning": ""}

    async def remove(self, ref: str) -> None: ...
    async def connect(self, ref: str, body: Any) -> None: ...
    async def disconnect(self, ref: str, body: Any) -> None: ...


class Volumes:
    async def list(self, filters: Any) -> dict[str, Any]:
        return {"Volumes": [], "Warnings": None}

    async def inspect(self, name: str) -> dict[str, Any]:
        return {"Name": name}


class System:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.events_closed = asyncio.Event()

    def version(self) -> dict[str, Any]:
        return {"Version": "28.5.2", "ApiVersion": "1.51", "MinAPIVersion": "1.24"}

    async def info(self) -> dict[str, Any]:
        return {"ID": "x", "RuncCommit": {"ID": "abc"}, "DiscoveredDevices": []}

    async def disk_usage(self, kinds: frozenset[str]) -> dict[str, Any]:
        rows = [{"Id": "sha256:1", "Size": 5, "RepoTags": ["a:1"], "RepoDigests": []}]
        return {
            "LayersSize": 5,
            "Images": rows if "image" in kinds else None,
            "Containers": [{"Id": "1", "HostConfig": {"Annotations": {"a": "b"}}}],
            "BuildCache": [{"Size": 3}, {"Size": 4}],
        }

    async def auth(self, body: Any) -> dict[str, Any]:
        return {"Status": "Login Succeeded", "IdentityToken": body.username}

    async def events(self, query: EventsQuery) -> AsyncIterator[bytes]:
        return self._events()

    async def _events(self) -> AsyncIterator[bytes]:
        yield dumps({"Type": "container", "Action": "start"})
        try:
            while True:
                yield await self.queue.get()
        finally:
            self.events_closed.set()


class EngineInMemory:
    """Satisfies dockerapi.engine.Engine."""

    def __init__(self) -> None:
        self.containers = Containers()
        self.execs = Execs()
        self.images = Images()
        self.image_files = self.images
        self.commits = Commits()
        self.networks = Networks()
        self.volumes = Volumes()
        self.system = System()
