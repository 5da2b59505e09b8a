"""Push: the kept blobs of an image's layers, its config and a manifest, into a repository of a registry.

    HEAD blobs/DIGEST            there already                               Layer already exists
    POST uploads/?mount&from     the registry has it in another repository   Mounted from
    POST uploads/                202 with a place to send it to
    PATCH place, PUT ?digest=    as one stream, then named                   Pushing* -> Pushed
    PUT place?digest=            at once: small blobs, and registries that know no PATCH
    PUT manifests/TAG            when everything it names is there

Layers go at the same time, some at once.  A transfer that breaks off is begun anew, a few times.  The blobs are
those that were pulled, so an image that goes on to another registry keeps its digests there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from yarl import URL

from dockerapi.errors import APIError, NotFound, Unauthorized
from imgsources.answers import refusal
from imgsources.blobs import KeptBlob, LayerBlobs
from imgsources.catalog import Image
from imgsources.oci import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    sha256,
)
from imgsources.references import Reference
from imgsources.retries import Retries
from imgsources.saving import kept_layers
from imgsources.slots import Slots
from imgsources.transfers import PullEvent, short
from imgsources.transport import PULL, PUSH, Endpoint, Transport

_BLOCK = 1 << 20
_WHOLE_BYTES = 1 << 20
"""Blobs up to this are sent in one request."""
UPLOADS_AT_ONCE = 5
_RETRIES = Retries()
_NO_PATCH = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)


@dataclass(frozen=True, slots=True)
class Pushed:
    """A manifest that the registry has now; `size` in bytes."""

    reference: Reference
    digest: Digest
    size: int


class _Broken(APIError):
    """An upload that may go better when it is tried again."""


class Pusher:
    """Pushes of one user's request.  `group` owns the uploads while somebody follows them."""

    def __init__(
        self,
        transport: Transport,
        blobs: LayerBlobs,
        group: asyncio.TaskGroup,
        *,
        slots: Slots | None = None,
        retries: Retries = _RETRIES,
    ) -> None:
        self._transport = transport
        self._blobs = blobs
        self._group = group
        self._slots = slots or Slots(UPLOADS_AT_ONCE)
        """Of all pushes together."""
        self._retries = retries

    async def push(
        self, image: Image, reference: Reference, sources: Sequence[str] = ()
    ) -> AsyncGenerator[PullEvent | Pushed, None]:
        """What the layers go through, topmost first, and the manifest at the end.

        `sources`: paths of other repositories of the registry that may have the layers.  NotSupported where blobs are
        missing; Unauthorized, APIError in the registry's words.
        """
        kept = [await self._packed(layer) for layer in kept_layers(image, self._blobs)]
        transport = self._transport
        # Never a mirror: they take nothing.
        endpoint = await transport.connect(
            transport.servers(reference.registry, transport.auth)[-1]
        )
        upload = _Upload(transport, endpoint, reference, tuple(sources), self._retries)
        layers = [
            _Layer(short(diff_id), blob)
            for diff_id, blob in zip(image.config.diff_ids, kept, strict=True)
        ]
        for layer in reversed(layers):
            yield PullEvent("Preparing", layer.id)
        news: asyncio.Queue[PullEvent | None] = asyncio.Queue()
        sending = _send_all(upload, layers, image, news, self._slots)
        async with aclosing(self._followed(sending, news)) as events:
            async for event in events:
                yield event
        raw, media_type = manifest(image, kept)
        await upload.manifest(raw, media_type)
        yield Pushed(reference, sha256(raw), len(raw))

    async def _packed(self, blob: KeptBlob) -> KeptBlob:
        """No registry takes a plain tar: compressed now, if nobody had the time for it yet."""
        packed = await asyncio.to_thread(self._blobs.pack, blob.layer)
        if packed is None:
            raise NotFound(f"layer {blob.layer} was removed while it was pushed")
        return packed

    async def _followed(
        self, work: Coroutine[Any, Any, None], news: asyncio.Queue[PullEvent | None]
    ) -> AsyncGenerator[PullEvent, None]:
        """What is told while the work goes on; its error at the end.  It ends with the one who listens."""
        failures: list[Exception] = []

        async def run() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 - handed on
                failures.append(error)
            finally:
                news.put_nowait(None)

        task = self._group.create_task(run())
        try:
            while (event := await news.get()) is not None:
                yield event
            if failures:
                raise failures[0]
        finally:
            task.cancel()
            await asyncio.wait([task])


@dataclass(frozen=True, slots=True)
class _Layer:
    id: str
    blob: KeptBlob


async def _send_all(
    upload: _Upload,
    layers: Sequence[_Layer],
    image: Image,
    news: asyncio.Queue[PullEvent | None],
    slots: Slots,
) -> None:
    """Every blob once, some at a time, and the config; the error of the first that fails."""
    distinct = {layer.blob.digest: layer for layer in reversed(layers)}

    async def send(layer: _Layer) -> None:
        if slots.are_taken:
            news.put_nowait(PullEvent("Waiting", layer.id))
        async with slots:
            status = await upload.layer(
                layer.blob,
                _told(layer, news),
                lambda text: news.put_nowait(PullEvent(text, layer.id)),
            )
        for same in layers:
            if same.blob.digest == layer.blob.digest:
                news.put_nowait(PullEvent(status, same.id))

    try:
        async with asyncio.TaskGroup() as group:
            for layer in distinct.values():
                group.create_task(send(layer))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    await upload.content(
        image.id,
        image.config.raw,
        lambda text: news.put_nowait(PullEvent(text, short(image.id))),
    )


def _told(layer: _Layer, news: asyncio.Queue[PullEvent | None]) -> Callable[[int, int], None]:
    last_s = 0.0

    def progress(sent: int, total: int) -> None:
        nonlocal last_s
        now_s = asyncio.get_running_loop().time()
        if now_s - last_s >= 0.1 or sent == total:
            last_s = now_s
            news.put_nowait(PullEvent("Pushing", layer.id, sent, total))

    return progress


def manifest(image: Image, kept: Sequence[KeptBlob]) -> tuple[bytes, str]:
    """(manifest, media type) as dockerd writes it, to the byte; an OCI one where a layer is zstd, which Docker's have no name for."""
    is_docker = all(blob.compression == "gzip" for blob in kept)
    config_type, media_type = (
        (DOCKER_CONFIG, DOCKER_MANIFEST) if is_docker else (OCI_CONFIG, OCI_MANIFEST)
    )
    config = Descriptor(config_type, image.id, len(image.config.raw))
    layers = [
        Descriptor(
            f"{DOCKER_LAYER}.gzip" if is_docker else f"{OCI_LAYER}+{blob.compression}",
            blob.digest,
            blob.size,
        )
        for blob in kept
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _descriptor(config),
        "layers": [_descriptor(layer) for layer in layers],
    }
    return json.dumps(document, indent=3).encode(), media_type


def _descriptor(descriptor: Descriptor) -> Mapping[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "size": descriptor.size,
        "digest": descriptor.digest,
    }


class _Upload:
    """One repository of a registry, as a place to put blobs and manifests."""

    def __init__(
        self,
        transport: Transport,
        endpoint: Endpoint,
        reference: Reference,
        sources: tuple[str, ...],
        retries: Retries,
    ) -> None:
        self._retries = retries
        self._transport = transport
        self._endpoint = endpoint
        self._reference = reference
        self._sources = sources
        self._path = f"v2/{reference.path}"
        self._scope = (f"repository:{reference.path}:{PUSH}",)

    async def layer(
        self, blob: KeptBlob, progress: Callable[[int, int], None], tell: Callable[[str], None]
    ) -> str:
        """Have a blob there; how, in dockerd's words.  `tell` is told of pauses."""
        if await self._has(blob.digest):
            return "Layer already exists"
        for source in self._sources:
            if await self._mount(blob.digest, source):
                return f"Mounted from {source}"
        await self._retried(lambda: self._send(blob, progress), tell)
        return "Pushed"

    async def content(self, digest: Digest, raw: bytes, tell: Callable[[str], None]) -> None:
        """A small blob that is in memory."""
        if not await self._has(digest):
            await self._retried(lambda: self._put_whole(digest, lambda: raw, len(raw)), tell)

    async def manifest(self, raw: bytes, media_type: str) -> None:
        """The manifest under the reference's tag."""
        where = f"{self._path}/manifests/{self._reference.tag}"
        headers = {"Content-Type": media_type}
        async with self._ask("PUT", where, headers, lambda: raw) as response:
            if response.status not in (HTTPStatus.CREATED, HTTPStatus.OK, HTTPStatus.ACCEPTED):
                raise await self._refused(response)

    async def _retried(self, send: Callable[[], Any], tell: Callable[[str], None]) -> None:
        failures = 0
        while True:
            try:
                await send()
            except APIError as error:
                failures += 1
                # What has a kind of its own is the registry's last word; the rest is the network's.
                is_final = type(error) not in (APIError, _Broken)
                if is_final or not await self._retries.pause(failures, tell):
                    raise
            else:
                return

    async def _has(self, digest: Digest) -> bool:
        async with self._ask("HEAD", f"{self._path}/blobs/{digest}") as response:
            if response.status == HTTPStatus.OK:
                return True
            if response.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                return False  # HEAD may need rights that POST does not; that one says what is wrong
            if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise await self._refused(response)
            return False

    async def _mount(self, digest: Digest, source: str) -> bool:
        """Whether the registry took it from another repository of its own."""
        scope = (*self._scope, f"repository:{source}:{PULL}")
        where = URL(f"/{self._path}/blobs/uploads/").with_query({"mount": digest, "from": source})
        async with self._ask("POST", where, scope=scope) as response:
            if response.status == HTTPStatus.ACCEPTED:
                await self._cancel(response.headers.get("Location", ""))
            return bool(response.status == HTTPStatus.CREATED)

    async def _cancel(self, location: str) -> None:
        """An upload that was begun in place of a mount; what the registry says to it is of no interest."""
        if location:
            async with self._ask("DELETE", URL(location, encoded=True)):
                pass

    async def _send(self, blob: KeptBlob, progress: Callable[[int, int], None]) -> None:
        total = blob.size

        def body() -> AsyncIterator[bytes]:
            return _blocks(blob, lambda sent: progress(sent, total))

        if total <= _WHOLE_BYTES:
            await self._put_whole(blob.digest, body, total)
            return
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(total)}
        async with self._ask("PATCH", await self._begin(), headers, body) as response:
            status, location = response.status, response.headers.get("Location", "")
            if status not in _NO_PATCH and status != HTTPStatus.ACCEPTED:
                raise await self._refused(response)
        if status in _NO_PATCH or not location:
            await self._put_whole(blob.digest, body, total)
            return
        await self._finish(URL(location, encoded=True), blob.digest, {"Content-Length": "0"}, None)

    async def _put_whole(self, digest: Digest, body: Callable[[], Any], size: int) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        await self._finish(await self._begin(), digest, headers, body)

    async def _begin(self) -> URL:
        async with self._ask("POST", f"{self._path}/blobs/uploads/") as response:
            location = response.headers.get("Location", "")
            if response.status != HTTPStatus.ACCEPTED or not location:
                raise await self._refused(response)
        return URL(location, encoded=True)

    async def _finish(
        self, place: URL, digest: Digest, headers: Mapping[str, str], body: Callable[[], Any] | None
    ) -> None:
        url = place.update_query({"digest": digest})
        async with self._ask("PUT", url, headers, body) as response:
            if response.status not in (HTTPStatus.CREATED, HTTPStatus.OK, HTTPStatus.NO_CONTENT):
                raise await self._refused(response)

    async def _refused(self, response: Any) -> APIError:
        error = await refusal(response, None)
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return _Broken(error.message, detail=error.detail)
        if "blob upload unknown" in error.message:
            # The registry has forgotten it: another node of it, or a restart.
            return _Broken(error.message, detail=error.detail)
        if isinstance(error, Unauthorized) and not error.message:
            return Unauthorized("unauthorized: authentication required", detail=error.detail)
        return error

    def _ask(
        self,
        method: str,
        where: str | URL,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Any] | None = None,
        scope: tuple[str, ...] | None = None,
    ) -> Any:
        return self._transport.ask(
            self._endpoint,
            where,
            self._reference,
            headers or {},
            method=method,
            scope=scope or self._scope,
            body=body,
        )


async def _blocks(blob: KeptBlob, progress: Callable[[int], None]) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(blob.path.open, "rb", 0)
    try:
        sent = 0
        while block := await asyncio.to_thread(file.read, _BLOCK):
            yield block
            sent += len(block)
            progress(sent)
    finally:
        file.close()
