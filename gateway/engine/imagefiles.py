"""What `docker save`, `load` and `import` do: images into archives and out of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dockerapi.engine import ImportQuery
from dockerapi.errors import APIError, InvalidParameter, NoSuchImage, NotFound
from dockerapi.models.base import JSONObject
from gateway.engine import image_shapes
from gateway.engine.progress import message
from gateway.engine.remotes import fetch
from gateway.engine.system import VERSION
from gateway.translate.changes import changed
from gateway.translate.status import go_time
from imgsources import pages
from imgsources.archives import open_archive
from imgsources.catalog import Catalog, Image
from imgsources.commits import Imported, read_layer
from imgsources.oci import Digest, Platform, default_platform, fits, normalize, parse_platform
from imgsources.puller import LoadEvent, Puller
from imgsources.references import Reference
from imgsources.saving import Saved, saved
from imgsources.transfers import PullEvent

_BLOCK = 1 << 20
_SYSTEM = "linux"
_ID = re.compile(r"sha256:[0-9a-f]+|[0-9a-f]{64}")

Emit = Callable[[Image, str, str, str], None]
"""(image, action, actor, name): tells of an event."""


class ImageFiles:
    """Archives of one host's images.  `spool`: folder of uploads."""

    def __init__(self, catalog: Catalog, puller: Puller, *, spool: Path, emit: Emit) -> None:
        self._catalog = catalog
        self._puller = puller
        self._spool = spool
        self._emit = emit

    # --- save

    async def save(self, names: Sequence[str], *, platform: str) -> AsyncGenerator[bytes, None]:
        """A tar of these images, each once.  NotFound, NotSupported, InvalidParameter."""
        wanted = parse_platform(platform) if platform else None
        found: dict[str, tuple[Image, list[Reference]]] = {}
        for name in names:
            for image, reference in self._meant(name):
                if wanted is not None and not fits(wanted, normalize(image.config.platform)):
                    raise APIError(f"no suitable export target found for platform {wanted}")
                held = found.setdefault(image.id, (image, []))[1]
                if reference is not None and reference not in held:
                    held.append(reference)
        images = [
            Saved(image, tuple(references), image_shapes.created_ns(image))
            for image, references in found.values()
        ]
        archive = saved(images, self._puller.blobs)
        for one in images:
            self._emit(one.image, "save", one.image.id, one.image.id)
        return archive

    def _meant(self, name: str) -> list[tuple[Image, Reference | None]]:
        """Images by their tags; by a bare name all tags of that repository, by an id the image without a tag."""
        if _ID.fullmatch(name):
            return [(self._catalog.get(name), None)]
        try:
            reference = Reference.parse(name)
        except InvalidParameter as error:
            raise APIError(error.message) from error  # to dockerd a fault of its own
        is_bare = reference.tag is None and reference.digest is None
        if not is_bare:
            try:
                image = self._catalog.get(name)
            except NoSuchImage as error:
                raise NotFound("reference does not exist") from error
            return [(image, None if reference.digest else reference)]
        tags = [(i, tag) for i in self._catalog.images() for tag in i.references]
        tags = [(i, tag) for i, tag in tags if tag.full_name == reference.full_name]
        try:
            return [*tags] or [(self._catalog.get(name), None)]
        except NoSuchImage as error:
            raise NoSuchImage(name) from error

    # --- load

    async def load(
        self, archive: AsyncIterator[bytes], *, quiet: bool, platform: str
    ) -> AsyncGenerator[JSONObject, None]:
        """`Loaded image: x:tag` lines, and progress unless `quiet`.  The upload is read when the messages are."""
        return self._load(archive, parse_platform(platform) if platform else None, quiet=quiet)

    async def _load(
        self, archive: AsyncIterator[bytes], platform: Platform | None, *, quiet: bool
    ) -> AsyncGenerator[JSONObject, None]:
        async with (
            _spooled(archive, self._spool, "load-") as path,
            open_archive(path, platform=platform) as opened,
        ):
            holders = {
                reference: self._holder(reference)
                for image in opened.images
                for reference in opened.references(image)
            }
            events = await self._puller.load(opened)
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, LoadEvent):
                        for text in _loaded(event, holders):
                            yield {"stream": text}
                        self._emit(event.image, "load", event.image.id, event.image.id)
                    elif not quiet and event.status == "Extracting":
                        yield message(replace(event, status="Loading layer"))

    def _holder(self, reference: Reference) -> Image | None:
        try:
            return self._catalog.get(str(reference))
        except NoSuchImage:
            return None

    # --- import

    async def import_image(
        self, query: ImportQuery, body: AsyncIterator[bytes]
    ) -> AsyncGenerator[JSONObject, None]:
        """An image of one layer, which is the archive in the body or at an URL.  What is wrong with the query is an error at once."""
        if not query.source:
            raise APIError('Get "http:": http: no Host in request URL')  # as dockerd has it
        platform = parse_platform(query.platform) if query.platform else default_platform()
        if platform.os != _SYSTEM:
            raise InvalidParameter("operating system is not supported")
        reference = tagged(query.repo, query.tag)
        config = changed({}, query.changes)
        return self._import(query, body, reference, platform, config)

    async def _import(
        self,
        query: ImportQuery,
        body: AsyncIterator[bytes],
        reference: Reference | None,
        platform: Platform,
        config: JSONObject,
    ) -> AsyncGenerator[JSONObject, None]:
        with tempfile.NamedTemporaryFile(dir=self._spool, prefix="load-") as file:
            path = Path(file.name)
            if query.source == "-":
                await _spool(body, path)
            else:
                url = query.source if "://" in query.source else f"http://{query.source}"
                fetched = await fetch(url, path)
                yield {"status": f"Downloading from {url}"}
                yield message(
                    PullEvent("Importing", current=fetched.size, total=fetched.size or None)
                )
            layer = await asyncio.to_thread(read_layer, path)
            document = _imported(query, platform, config, layer.diff_id)
            made = Imported(document, layer)
            image = await self._puller.add(made.image, made, (reference,) if reference else ())
        if reference is not None:
            self._emit(image, "tag", image.id, str(reference))
        self._emit(image, "import", image.id, image.id)
        yield {"status": image.id}


def _imported(
    query: ImportQuery, platform: Platform, config: Mapping[str, Any], diff_id: Digest
) -> bytes:
    created = go_time(time.time_ns())
    comment = query.message or f"Imported from {query.source}"
    document = {
        "architecture": platform.architecture,
        **({"variant": platform.variant} if platform.variant else {}),
        "comment": comment,
        "config": config,
        "created": created,
        "docker_version": VERSION,
        "history": [{"created": created, "comment": comment}],
        "os": platform.os,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def tagged(repo: str, tag: str) -> Reference | None:
    """The tag that a made image gets; None = none.  InvalidParameter."""
    if not repo:
        return None
    reference = Reference.parse(repo)
    if reference.digest is not None:
        raise InvalidParameter("cannot import digest reference")
    if tag:
        try:
            reference = reference.with_tag(tag)
        except InvalidParameter as error:
            raise InvalidParameter("invalid tag format") from error
    if reference.familiar_name == "sha256":
        raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
    return reference.with_default_tag()


def check_platform(image: Image, name: str, wanted: Platform | None) -> None:
    """NotFound if an image is not of the platform that is asked for."""
    own = normalize(image.config.platform)
    if wanted is not None and not fits(wanted, own):
        raise NotFound(
            f"image with reference {name} was found but its platform ({own}) does not match the specified "
            f"platform ({wanted})"
        )


@contextlib.asynccontextmanager
async def _spooled(archive: AsyncIterator[bytes], folder: Path, prefix: str) -> AsyncIterator[Path]:
    """The upload as a file, gone with the block."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=prefix) as file:
        path = Path(file.name)
        with pages.kept():
            await _spool(archive, path)
        yield path


async def _spool(blocks: AsyncIterator[bytes], path: Path) -> None:
    """All of an upload into a file, a part written while the next one comes.  APIError where the disk is full."""
    out = await asyncio.to_thread(path.open, "wb", 0)
    loop = asyncio.get_running_loop()
    writing: asyncio.Future[None] = loop.create_future()
    writing.set_result(None)
    try:
        pending: list[bytes] = []
        size = 0
        async for block in blocks:
            pending.append(block)
            size += len(block)
            if size >= _BLOCK:
                await asyncio.shield(writing)
                writing = loop.run_in_executor(None, out.writelines, pending)
                pending, size = [], 0
        await asyncio.shield(writing)
        await asyncio.to_thread(out.writelines, pending)
    except OSError as error:
        raise APIError(f"cannot keep the upload in {path.parent}: {error.strerror}") from error
    finally:
        # The thread has the file: it must not be closed under it.
        while not writing.done():
            await asyncio.wait([writing])
        if not writing.cancelled():
            writing.exception()
        out.close()


def _loaded(event: LoadEvent, holders: dict[Reference, Image | None]) -> list[str]:
    """The lines that `docker load` prints for one image."""
    lines: list[str] = []
    for reference in event.references:
        holder = holders.get(reference)
        if holder is not None and holder.id != event.image.id:
            lines.append(
                f"The image {reference} already exists, renaming the old one with ID {holder.id} "
                "to empty string\n"
            )
        lines.append(f"Loaded image: {reference}\n")
    return lines or [f"Loaded image ID: {event.image.id}\n"]
