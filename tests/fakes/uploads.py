"""What is pushed to the registry in this process: uploads begun, filled, named or mounted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Uploads:
    """The uploads of a registry; `knows_patch`: blobs may come in pieces.  `lost`: forgets every upload at once."""

    add: Callable[[bytes], str]
    has: Callable[[str], bool]
    knows_patch: bool = True
    mounts: bool = True
    lost: bool = False
    mounted: list[tuple[str, str]] = field(default_factory=list)
    """(digest, repository that it came from)."""
    _open: dict[str, bytes] = field(default_factory=dict)

    async def answer(self, request: web.BaseRequest, repository: str) -> web.Response:
        """POST .../blobs/uploads/, and PATCH, PUT, DELETE of one."""
        name = request.path.rpartition("/")[2]
        if request.method == "POST":
            return self._begin(request, repository)
        if name not in self._open or self.lost:
            return self._refused(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown")
        if request.method == "DELETE":
            del self._open[name]
            return web.Response(status=204)
        if request.method == "PATCH" and not self.knows_patch:
            return web.Response(status=405)
        async for block in request.content.iter_any():  # `read` has a limit of 1 MB
            self._open[name] += block
        if request.method == "PATCH":
            return self._accepted(repository, name)
        return self._finish(name, request.query.get("digest", ""))

    @property
    def left(self) -> int:
        """Uploads that nobody ended."""
        return len(self._open)

    def _begin(self, request: web.BaseRequest, repository: str) -> web.Response:
        mount, source = request.query.get("mount", ""), request.query.get("from", "")
        if mount and self.mounts and self.has(mount):
            self.mounted.append((mount, source))
            location = f"/v2/{repository}/blobs/{mount}"
            return web.Response(status=201, headers={"Location": location})
        name = f"upload-{len(self._open)}-{id(request)}"
        self._open[name] = b""
        return self._accepted(repository, name)

    def _accepted(self, repository: str, name: str) -> web.Response:
        headers = {
            "Location": f"/v2/{repository}/blobs/uploads/{name}?state=a%2Fb",
            "Range": f"0-{max(len(self._open[name]) - 1, 0)}",  # dockerd will not go on without
            "Docker-Upload-UUID": name,
        }
        return web.Response(status=202, headers=headers)

    def _finish(self, name: str, digest: str) -> web.Response:
        raw = self._open.pop(name)
        if digest != f"sha256:{hashlib.sha256(raw).hexdigest()}":
            return self._refused(400, "DIGEST_INVALID", "provided digest did not match")
        self.add(raw)
        return web.Response(status=201)

    def _refused(self, status: int, code: str, message: str) -> web.Response:
        document = {"errors": [{"code": code, "message": message, "detail": None}]}
        return web.json_response(document, status=status)
