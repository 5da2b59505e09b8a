"""An image server (IMGAPI) in this process.

    async with FakeImageServer.serve() as server:
        base = server.add("base-64-lts", "15.4.0", type="zone-dataset")
        ... pull f"{server.authority}/base-64-lts:15.4.0", or base["uuid"]
        server.log             every request: its path with the query
        server.status = 503    what it answers instead

Lists and manifests as https://images.smartos.org gives them; `file` gives a small file, which only the fake
imgadm looks at.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Manifest = dict[str, Any]


def manifest(
    name: str, version: str, *, type: str = "zone-dataset", file: bytes = b"zfs stream", **more: Any
) -> Manifest:
    """One of IMGAPI's manifests; the same name, version and type have the same UUID."""
    return {
        "v": 2,
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{version}/{type}")),
        "owner": "9dce1460-0c4c-4417-ab8b-25ca478c5a78",
        "name": name,
        "version": version,
        "state": "active",
        "disabled": False,
        "public": True,
        "published_at": "2016-01-19T18:57:51Z",
        "type": type,
        "os": "smartos" if type == "zone-dataset" else "linux",
        "files": [
            {"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "gzip"}
        ],
        "description": f"{name} for tests",
        "homepage": "https://docs.example.org/images",
        "requirements": {"networks": [{"name": "net0", "description": "public"}]},
        "tags": {"role": "os"},
        **more,
    }


class FakeImageServer:
    """The images of one server."""

    def __init__(self) -> None:
        self.images: dict[str, Manifest] = {}
        self.files: dict[str, bytes] = {}
        self.log: list[str] = []
        self.status = 200
        self.authority = ""

    @property
    def url(self) -> str:
        """As the settings name it."""
        return f"http://{self.authority}"

    def add(self, name: str, version: str, *, file: bytes = b"zfs stream", **more: Any) -> Manifest:
        """One more image; its manifest."""
        made = manifest(name, version, file=file, **more)
        self.images[made["uuid"]] = made
        self.files[made["uuid"]] = file
        return made

    @classmethod
    @asynccontextmanager
    async def serve(cls) -> AsyncIterator[FakeImageServer]:
        """On a port of its own until the block ends."""
        server = cls()
        app = web.Application(middlewares=[server._note])
        app.router.add_get("/ping", server._ping)
        app.router.add_get("/images", server._list)
        app.router.add_get("/images/{uuid}", server._get)
        app.router.add_get("/images/{uuid}/file", server._file)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            server.authority = f"127.0.0.1:{runner.addresses[0][1]}"
            yield server
        finally:
            await runner.cleanup()

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.log.append(request.path_qs)
        if self.status != 200:
            return _error(self.status, "ServiceUnavailableError", "out of order")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _ping(self, _: web.Request) -> web.Response:
        return web.json_response({"ping": "pong", "version": "4.0.0", "imgapi": True})

    async def _list(self, request: web.Request) -> web.Response:
        found = sorted(self.images.values(), key=lambda image: image["published_at"])
        for key in ("name", "version", "os", "type", "state"):
            if wanted := request.query.get(key, ""):
                found = [image for image in found if _fits(wanted, image[key])]
        return web.json_response(found)

    async def _get(self, request: web.Request) -> web.Response:
        image = self.images.get(request.match_info["uuid"])
        if image is None:
            return _error(404, "ResourceNotFound", "image not found")
        return web.json_response(image)

    async def _file(self, request: web.Request) -> web.Response:
        file = self.files.get(request.match_info["uuid"])
        if file is None:
            return _error(404, "ResourceNotFound", "image not found")
        return web.Response(body=file, content_type="application/octet-stream")


def _fits(wanted: str, value: str) -> bool:
    return wanted[1:] in value if wanted.startswith("~") else wanted == value


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)
