"""An OCI registry in this process, with faults on demand.

    async with FakeRegistry.serve() as registry:
        image = registry.add_image("library/x", "latest", [layer_tar({"etc/motd": b"hi"})])
        registry.faults.append(Fault("/blobs/", stall_after=1000))
        ... pull f"{registry.host}/library/x"
        registry.log           every request: path, status, range, authorization, bytes sent

With `bearer=` tokens are wanted and given out at /token, as the Hub does; with `basic=` name and password.
With `redirects=True` blobs are served by a second server ("storage") on another port; with `tls=` (an
SSLContext) the registry speaks https.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import ssl
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import zstandard
from aiohttp import web

from tests.fakes.uploads import Uploads

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
Compression = Literal["", "gzip", "zstd"]
FileContent = bytes | str | tarfile.TarInfo
"""A file's bytes, the target of a symlink, or a ready header (without data)."""


def sha256(raw: bytes) -> str:
    """`sha256:..` of these bytes."""
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def layer_tar(files: Mapping[str, FileContent]) -> bytes:
    """A layer's tar: names ending in / are folders."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode = 0o755 if name.endswith("/") else 0o644
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            data = content if info.isreg() and isinstance(content, bytes) else b""
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def compress(raw: bytes, compression: Compression) -> bytes:
    """As a registry stores it; the same bytes for the same input."""
    match compression:
        case "gzip":
            return gzip.compress(raw, compresslevel=1, mtime=0)
        case "zstd":
            return zstandard.ZstdCompressor().compress(raw)
    return raw


def image_config(
    layers: Sequence[bytes],
    *,
    architecture: str = "amd64",
    os: str = "linux",
    config: Mapping[str, Any] | None = None,
    **others: Any,
) -> bytes:
    """A config blob for these uncompressed layer tars; `others` are further top-level keys."""
    document = {
        "architecture": architecture,
        "os": os,
        "created": "2026-01-02T03:04:05Z",
        "config": dict(config or {"Cmd": ["sh"]}),
        "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
        "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
        **others,
    }
    return json.dumps(document).encode()


@dataclass(frozen=True)
class FakeImage:
    """What was added: the bytes and digests that a client should see."""

    manifest: bytes
    manifest_type: str
    config: bytes
    tars: tuple[bytes, ...]
    blobs: tuple[bytes, ...]

    @property
    def id(self) -> str:
        """The image ID."""
        return sha256(self.config)

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return sha256(self.manifest)

    @property
    def layer_digests(self) -> tuple[str, ...]:
        """Of the layers as stored."""
        return tuple(sha256(blob) for blob in self.blobs)


@dataclass
class Fault:
    """What goes wrong with requests whose path contains `match`, for the next `times` of them.

    Byte counts are of the body sent by this answer.  `status` with `body` answers instead;
    `flip` sends wrong bytes; `truncate_after` ends early but cleanly (chunked); `break_after` cuts the
    connection; `stall_after` sends nothing more until the client goes; `digest` is a wrong
    Docker-Content-Digest; `ignores_range` answers 200 with everything.
    """

    match: str
    times: int = 1
    status: int = 0
    body: Mapping[str, Any] | bytes = b""
    break_after: int | None = None
    stall_after: int | None = None
    truncate_after: int | None = None
    flip: bool = False
    digest: str = ""
    ignores_range: bool = False
    location: str = ""


RATE_LIMIT = {
    "errors": [
        {
            "code": "TOOMANYREQUESTS",
            "message": "You have reached your unauthenticated pull rate limit. "
            "https://www.docker.com/increase-rate-limit",
        }
    ]
}


@dataclass
class Request:
    """One request as the registry saw it; `sent` counts body bytes."""

    method: str
    path: str
    query: Mapping[str, str]
    authorization: str
    range: str
    on_storage: bool
    status: int = 0
    sent: int = 0


@dataclass
class FakeRegistry:
    """The registry; use `serve`."""

    basic: tuple[str, str] | None = None
    bearer: bool = False
    users: Mapping[str, str] = field(default_factory=dict)
    """Names and passwords that the token server knows; others are refused."""
    private: set[str] = field(default_factory=set)
    """Repositories that only known users get a token for."""
    token_seconds: int = 300
    redirects: bool = False
    tls: ssl.SSLContext | None = None
    page_size: int = 1000
    port: int = 0
    """Of 127.0.0.1; 0 = a free one."""
    faults: list[Fault] = field(default_factory=list)
    log: list[Request] = field(default_factory=list)
    host: str = ""
    storage: str = ""
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an answer has stalled."""
    readers: set[str] = field(default_factory=set)
    """Repositories that may be read by anybody and written by nobody."""
    _blobs: dict[str, bytes] = field(default_factory=dict)
    _manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    _tokens: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @asynccontextmanager
    async def serve(cls, **options: Any) -> AsyncIterator[FakeRegistry]:
        """A registry on a free port of 127.0.0.1: `host` says which."""
        registry = cls(**options)
        async with AsyncExitStack() as stack:
            registry.host = await _listen(stack, registry._answer, registry.tls, registry.port)
            registry.storage = await _listen(stack, registry._answer_storage)
            try:
                yield registry
            finally:
                registry._closing.set()

    def __post_init__(self) -> None:
        self.uploads = Uploads(self.add_blob, self._blobs.__contains__)

    def manifest(self, repository: str, name: str) -> bytes:
        """A manifest by tag or digest."""
        return self._manifests[repository, name][1]

    def take_over(self, other: FakeRegistry) -> None:
        """Have what another one had, as after a restart."""
        self._blobs.update(other._blobs)
        self._manifests.update(other._manifests)

    # What is in it ----------------------------------------------------------------------------------

    def add_blob(self, raw: bytes) -> str:
        """Store a blob and give its digest."""
        self._blobs[sha256(raw)] = raw
        return sha256(raw)

    def remove_blob(self, digest: str) -> None:
        """Lose a blob."""
        del self._blobs[digest]

    def add_manifest(self, repository: str, tag: str, media_type: str, raw: bytes) -> str:
        """Store any document as a manifest, under its digest and (if not "") a tag."""
        for name in filter(None, (tag, sha256(raw))):
            self._manifests[repository, name] = (media_type, raw)
        return sha256(raw)

    def add_image(
        self,
        repository: str,
        tag: str,
        tars: Sequence[bytes],
        *,
        compression: Compression = "gzip",
        docker_types: bool = False,
        **config: Any,
    ) -> FakeImage:
        """An image of these uncompressed layer tars, base first; `config` as in `image_config`."""
        raw_config = image_config(tars, **config)
        blobs = tuple(compress(tar, compression) for tar in tars)
        manifest_type = f"{OCI}manifest.v1+json"
        config_type, layer_type = f"{OCI}config.v1+json", f"{OCI}layer.v1.tar"
        layer_type += f"+{compression}" if compression else ""
        if docker_types:
            manifest_type = f"{DOCKER}distribution.manifest.v2+json"
            config_type = f"{DOCKER}container.image.v1+json"
            layer_type = f"{DOCKER}image.rootfs.diff.tar"
            layer_type += f".{compression}" if compression else ""
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": manifest_type,
                "config": _descriptor(config_type, raw_config),
                "layers": [_descriptor(layer_type, blob) for blob in blobs],
            }
        ).encode()
        for raw in (raw_config, *blobs):
            self.add_blob(raw)
        self.add_manifest(repository, tag, manifest_type, manifest)
        return FakeImage(manifest, manifest_type, raw_config, tuple(tars), blobs)

    def add_index(
        self,
        repository: str,
        tag: str,
        images: Mapping[str, FakeImage],
        *,
        docker_types: bool = False,
    ) -> str:
        """An index of images by platform (`linux/arm64/v8`), with an attestation as BuildKit adds it."""
        media_type = f"{OCI}index.v1+json"
        if docker_types:
            media_type = f"{DOCKER}distribution.manifest.list.v2+json"
        entries = []
        for text, image in images.items():
            os, architecture, *variant = text.split("/")
            platform = {"os": os, "architecture": architecture}
            if variant:
                platform["variant"] = variant[0]
            entry = _descriptor(image.manifest_type, image.manifest)
            entries.append({**entry, "platform": platform})
            self.add_manifest(repository, "", image.manifest_type, image.manifest)
        unknown = {"os": "unknown", "architecture": "unknown"}
        attestation = _descriptor(f"{OCI}manifest.v1+json", b"{}")
        entries.insert(0, {**attestation, "platform": unknown})
        document = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
        return self.add_manifest(repository, tag, media_type, json.dumps(document).encode())

    def requests(self, part: str) -> list[Request]:
        """Those of the log whose path contains `part`."""
        return [request for request in self.log if part in request.path]

    # How it answers ---------------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        entry = self._note(request, on_storage=False)
        fault = self._fault(request.path)
        response: web.StreamResponse
        if fault.status:
            response = await self._fail(request, fault)
        elif refusal := self._refuse(request):
            response = refusal
        elif request.path == "/token":
            response = await self._give_token(request)
        elif request.path == "/v2/":
            response = web.json_response({})
        else:
            response = await self._serve_content(request, fault, entry)
        entry.status = response.status
        return response

    async def _answer_storage(self, request: web.BaseRequest) -> web.StreamResponse:
        entry = self._note(request, on_storage=True)
        raw = self._blobs[request.path.rpartition("/")[2]]
        response = await self._send(request, raw, {}, self._fault(request.path), entry)
        entry.status = response.status
        return response

    async def _serve_content(
        self, request: web.BaseRequest, fault: Fault, entry: Request
    ) -> web.StreamResponse:
        if "/blobs/uploads/" in request.path:
            repository = request.path.removeprefix("/v2/").partition("/blobs/")[0]
            return await self.uploads.answer(request, repository)
        repository, kind, name = request.path.removeprefix("/v2/").rsplit("/", 2)
        if kind == "manifests" and request.method == "PUT":
            return await self._take_manifest(request, repository, name)
        if kind == "tags":
            return self._list_tags(request, repository)
        if kind == "manifests":
            media_type, raw = self._manifests.get((repository, name), ("", b""))
            if not media_type:
                return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            headers = {
                "Content-Type": media_type,
                "Docker-Content-Digest": fault.digest or sha256(raw),
            }
            return await self._send(request, raw, headers, fault, entry)
        if name not in self._blobs:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if self.redirects:
            location = f"http://{self.storage}/blobs/{name}"
            return web.Response(status=307, headers={"Location": location})
        return await self._send(request, self._blobs[name], {}, fault, entry)

    async def _take_manifest(
        self, request: web.BaseRequest, repository: str, tag: str
    ) -> web.Response:
        raw = await request.read()
        document = json.loads(raw)
        for part in (document["config"], *document["layers"]):
            if part["digest"] not in self._blobs:
                return _error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
        self.add_manifest(repository, tag, request.headers["Content-Type"], raw)
        return web.Response(status=201)

    async def _send(
        self,
        request: web.BaseRequest,
        raw: bytes,
        headers: Mapping[str, str],
        fault: Fault,
        entry: Request,
    ) -> web.StreamResponse:
        """The bytes, or the part asked for, as far as the fault lets them."""
        response = web.StreamResponse(headers=dict(headers))
        start = 0
        if entry.range and not fault.ignores_range:
            start = int(entry.range.removeprefix("bytes=").removesuffix("-"))
            if start >= len(raw):
                return web.Response(status=416)
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{len(raw) - 1}/{len(raw)}"
        body = raw[start:]
        if fault.flip:
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault.truncate_after is None:
            response.content_length = len(body)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        limits = (fault.break_after, fault.stall_after, fault.truncate_after)
        end = min((limit for limit in limits if limit is not None), default=len(body))
        for offset in range(0, min(end, len(body)), 1 << 18):
            block = body[offset : min(offset + (1 << 18), end)]
            entry.sent += len(block)
            await response.write(block)
        if fault.break_after is not None and request.transport is not None:
            request.transport.close()
        elif fault.stall_after is not None:
            self.stalled.set()
            await self._closing.wait()
        return response

    async def _fail(self, request: web.BaseRequest, fault: Fault) -> web.Response:
        async for _ in request.content.iter_any():  # `read` has a limit of 1 MB
            pass
        headers = {"Location": fault.location} if fault.location else {}
        if isinstance(fault.body, bytes):
            return web.Response(status=fault.status, body=fault.body, headers=headers)
        return web.json_response(fault.body, status=fault.status, headers=headers)

    def _list_tags(self, request: web.BaseRequest, repository: str) -> web.Response:
        tags = sorted(tag for held, tag in self._manifests if held == repository and ":" not in tag)
        if not tags:
            return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
        last = request.query.get("last", "")
        rest = [tag for tag in tags if tag > last]
        page = rest[: self.page_size]
        headers = {}
        if len(rest) > len(page):
            target = f"/v2/{repository}/tags/list?last={page[-1]}&n={self.page_size}"
            headers["Link"] = f'<{target}>; rel="next"'
        return web.json_response({"name": repository, "tags": page}, headers=headers)

    def _refuse(self, request: web.BaseRequest) -> web.Response | None:
        """A 401 with its challenge where credentials lack."""
        if request.path == "/token":
            return None
        authorization = request.headers.get("Authorization", "")
        if self.basic is not None and authorization != _basic(*self.basic):
            challenge = 'Basic realm="Registry Realm"'
            return _error(401, "UNAUTHORIZED", "authentication required", challenge)
        if not self.bearer:
            return None
        repository = request.path.removeprefix("/v2/").rsplit("/", 2)[0]
        if "/blobs/uploads" in request.path:
            repository = request.path.removeprefix("/v2/").partition("/blobs/")[0]
        user, scopes = self._tokens.get(authorization.removeprefix("Bearer "), ("", ()))
        action = "pull" if request.method in ("GET", "HEAD") else "push"
        wanted = f"repository:{repository}:{action}" if repository else ""
        covers = [one for one in scopes if _covers(one, repository, action)]
        is_known = authorization.startswith("Bearer ") and (
            authorization.removeprefix("Bearer ") in self._tokens
        )
        may = self._may(user, repository) and (
            action == "pull" or self._may_write(user, repository)
        )
        if is_known and (not wanted or (covers and may)):
            return None
        challenge = f'Bearer realm="http://{self.host}/token",service="registry.test"'
        if wanted:
            challenge += f',scope="{wanted}"'
        if is_known:
            challenge += ',error="insufficient_scope"'
        return _error(401, "UNAUTHORIZED", "authentication required", challenge)

    def _may(self, user: str, repository: str) -> bool:
        return bool(user) or repository not in self.private

    def _may_write(self, user: str, repository: str) -> bool:
        return bool(user) and repository not in self.readers

    async def _give_token(self, request: web.BaseRequest) -> web.Response:
        form: Mapping[str, Any] = request.query
        user = ""
        if request.method == "POST":
            form = await request.post()
            user = str(form["refresh_token"]).removeprefix("refresh-")
            if user not in self.users or form["grant_type"] != "refresh_token":
                return web.json_response({"details": "invalid refresh token"}, status=401)
        elif authorization := request.headers.get("Authorization", ""):
            known = {_basic(name, password): name for name, password in self.users.items()}
            if authorization not in known:
                return web.json_response({"details": "incorrect username or password"}, status=401)
            user = known[authorization]
        token = f"token-{len(self._tokens)}"
        asked = request.query.getall("scope", []) if request.method == "GET" else [form["scope"]]
        self._tokens[token] = (user, tuple(" ".join(map(str, asked)).split()))
        answer: dict[str, Any] = {"token": token, "expires_in": self.token_seconds}
        if form.get("offline_token") == "true" and user:
            answer["refresh_token"] = f"refresh-{user}"
        return web.json_response(answer)

    def revoke_tokens(self) -> None:
        """Every token given out so far is refused from now on."""
        self._tokens = {f"revoked-{key}": value for key, value in self._tokens.items()}

    def _note(self, request: web.BaseRequest, *, on_storage: bool) -> Request:
        entry = Request(
            method=request.method,
            path=request.path,
            query=dict(request.query),
            authorization=request.headers.get("Authorization", ""),
            range=request.headers.get("Range", ""),
            on_storage=on_storage,
        )
        self.log.append(entry)
        return entry

    def _fault(self, path: str) -> Fault:
        for fault in self.faults:
            if fault.match in path and fault.times > 0:
                fault.times -= 1
                return fault
        return Fault("")


def _covers(scope: str, repository: str, action: str) -> bool:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return (kind, name) == ("repository", repository) and action in actions.split(",")


async def _listen(
    stack: AsyncExitStack, answer: Any, tls: ssl.SSLContext | None = None, port: int = 0
) -> str:
    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls, reuse_address=True)
    await site.start()
    host, port = runner.addresses[0][:2]
    return f"{host}:{port}"


def _descriptor(media_type: str, raw: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(raw), "size": len(raw)}


def _error(status: int, code: str, message: str, challenge: str = "") -> web.Response:
    headers = {"WWW-Authenticate": challenge} if challenge else {}
    document = {"errors": [{"code": code, "message": message, "detail": None}]}
    return web.json_response(document, status=status, headers=headers)


def _basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
