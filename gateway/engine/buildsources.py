"""What COPY and ADD name: files of the context, of another stage or image, or behind a URL; archives that ADD takes apart.

Each becomes a `Source` of a `Tree`; the trees' files go with the step's stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

from dockerapi.errors import APIError, InvalidParameter, NotFound
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate
from gateway.engine import buildcopy
from gateway.engine.buildcontext import Tree, has_wildcards, single_file
from gateway.engine.buildcopy import Source
from gateway.engine.buildworkshop import Workshop
from gateway.engine.progress import bar
from gateway.engine.remotes import fetch
from gateway.zones.host import Host
from gateway.zones.spec import ZoneUUID
from imgsources.catalog import Image
from imgsources.commits import write_layer

_URLS = ("http://", "https://")


class Sources:
    """The files of one step; `found` fills up as the words are looked at."""

    def __init__(
        self,
        workshop: Workshop,
        context: Tree,
        image_of: Callable[[str], Awaitable[Image]],
        stack: contextlib.AsyncExitStack,
    ) -> None:
        self.found: list[Source] = []
        self._workshop = workshop
        self._context = context
        self._image_of = image_of
        self._stack = stack

    async def add(
        self, name: str, pattern: str, stage: str, target: str
    ) -> AsyncGenerator[JSONObject, None]:
        """What one word of an instruction means; messages of a download.  InvalidParameter in dockerd's words."""
        if name == "ADD" and pattern.startswith(_URLS):
            async for message in self._downloaded(pattern, target):
                yield message
            return
        tree = self._context
        if stage:
            tree, pattern = await self._tree_of(stage, pattern)
        try:
            found = await asyncio.to_thread(buildcopy.find, tree, pattern, is_context=not stage)
        except InvalidParameter as error:
            raise InvalidParameter(f"{name} failed: {error.message}") from error
        if name == "ADD":
            found = [await self._unpacked(source) for source in found]
        self.found += found

    async def _unpacked(self, source: Source) -> Source:
        """ADD takes an archive apart."""
        if source.is_folder or not await asyncio.to_thread(source.tree.is_archive, source.key):
            return source
        path = self._spooled()
        await write_layer(source.tree.file_blocks(source.key), path)
        try:
            tree = await asyncio.to_thread(Tree, path)
        except InvalidParameter:
            return source  # it only began like one
        self._stack.callback(tree.close)
        return Source(tree, "", source.name, is_folder=True, unpacked=True)

    async def _downloaded(self, url: str, target: str) -> AsyncGenerator[JSONObject, None]:
        path = self._spooled()
        try:
            fetched = await fetch(url, path)
        except APIError as error:
            raise InvalidParameter(f"ADD failed: {error.message}") from error
        name = fetched.name
        if not name:
            if target.endswith("/"):
                raise InvalidParameter(f"ADD failed: cannot determine filename from url: {url}")
            name = posixpath.basename(target)
        detail = {"current": fetched.size, "total": fetched.size}
        yield {
            "status": "Downloading",
            "progressDetail": detail,
            "progress": bar(fetched.size, fetched.size),
        }
        yield {"stream": "\n"}
        await asyncio.to_thread(single_file, path, name, mode=0o600, mtime_s=fetched.mtime_s)
        tree = await asyncio.to_thread(Tree, path)
        self._stack.callback(tree.close)
        self.found.append(Source(tree, name, name, is_folder=False))

    def _spooled(self) -> Path:
        return Path(self._stack.enter_context(self._workshop.temporary()).name)

    async def _tree_of(self, stage: str, pattern: str) -> tuple[Tree, str]:
        """Files of another image, by way of a container of it that never runs; and their pattern in that tree."""
        image = await self._image_of(stage)
        path = posixpath.normpath("/" + pattern)
        above = path
        while has_wildcards(above):
            above = posixpath.dirname(above)
        other = await self._workshop.containers.create(
            ContainerCreate.model_validate({"Image": image.id, "Cmd": ["none"]}),
            name=None,
            platform=None,
        )
        container = str(other["Id"])
        try:
            uuid = self._workshop.uuid(container)
            spool = self._spooled()
            name = await _read(self._workshop.host, uuid, above, spool)
        finally:
            await self._workshop.discard(container)
        tree = await asyncio.to_thread(Tree, spool)
        self._stack.callback(tree.close)
        rest = path[len(above) :].lstrip("/")
        return tree, posixpath.join(name, rest) if rest else name


async def _read(host: Host, uuid: ZoneUUID, path: str, spool: Path) -> str:
    """A path of a container as a tar in `spool`, links at its end followed; its name in there.  InvalidParameter."""
    target = path
    for _ in range(40):
        try:
            found, blocks = await host.files.read(uuid, target)
        except NotFound as error:
            raise InvalidParameter(
                f"COPY failed: stat {path.lstrip('/')}: file does not exist"
            ) from error
        async with contextlib.aclosing(blocks):
            if found.link_target:
                target = posixpath.normpath(
                    posixpath.join(posixpath.dirname(target), found.link_target)
                )
                continue
            await write_layer(blocks, spool)
            return found.name.strip("/")
    raise InvalidParameter(
        f"COPY failed: stat {path.lstrip('/')}: too many levels of symbolic links"
    )


async def text(workshop: Workshop, uuid: ZoneUUID, path: str) -> str | None:
    """A small file of a container; None if there is none."""
    with workshop.temporary() as file:
        try:
            name = await _read(workshop.host, uuid, path, Path(file.name))
        except InvalidParameter:
            return None
        tree = await asyncio.to_thread(Tree, Path(file.name))
        with contextlib.closing(tree):
            return tree.text(name)
