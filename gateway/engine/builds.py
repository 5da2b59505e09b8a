"""What `docker build` does without BuildKit: a context and a Dockerfile come in, an image and its tags go out.

context -> spool -> Tree      Dockerfile -> stages      buildsteps.py: step by step -> image      tags, events
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import aiofiles

from dockerapi.engine import BuildQuery
from dockerapi.errors import APIError, InvalidParameter, NotSupported
from dockerapi.models.base import JSONObject
from gateway.engine.buildcontext import Tree, single_file
from gateway.engine.buildstages import Build
from gateway.engine.buildsteps import BuildFailed
from gateway.engine.buildworkshop import Workshop
from gateway.engine.events import Bus
from gateway.engine.remotes import fetch
from gateway.translate import buildfile
from gateway.translate.buildargs import BuildArguments
from imgsources.catalog import Catalog, Image
from imgsources.oci import parse_platform
from imgsources.references import Reference

_GIT = re.compile(r"\.git(#|$)")


class Builds:
    """Builds images on one host."""

    def __init__(self, workshop: Workshop, catalog: Catalog, bus: Bus) -> None:
        self._workshop = workshop
        self._catalog = catalog
        self._bus = bus

    async def build(
        self, query: BuildQuery, context: AsyncIterator[bytes]
    ) -> AsyncIterator[JSONObject]:
        """Progress messages.  What is wrong with query, context or Dockerfile is an error at once."""
        tags = [_tag(name) for name in query.tags]
        if query.squash:
            raise InvalidParameter("squash is only supported with experimental mode")
        if query.platform:
            parse_platform(query.platform)
        stack = contextlib.AsyncExitStack()
        async with stack:
            tree = await self._tree(query, context, stack)
            name, text = await asyncio.to_thread(_dockerfile, tree, query)
            file = buildfile.parse(text, name=name, target=query.target, labels=query.labels)
            metas = [entry for line in file.arguments for entry in buildfile.arguments(line)]
            arguments = BuildArguments(query.arguments, metas)
            return self._built(
                Build(self._workshop, query, file, arguments, tree), tags, stack.pop_all()
            )

    async def prune(self) -> JSONObject:
        """There is no cache beside the images; it is told of all the same."""
        self._bus.emit("builder", "prune", "", {"reclaimed": "0"})
        return {"CachesDeleted": None, "SpaceReclaimed": 0}

    async def _built(
        self, build: Build, tags: list[Reference], stack: contextlib.AsyncExitStack
    ) -> AsyncGenerator[JSONObject, None]:
        held: list[JSONObject] = []  # what a quiet build says only if it fails
        async with stack, contextlib.aclosing(build.run()) as messages:
            try:
                async for message in messages:
                    if not build.query.quiet:
                        yield message
                    elif "stream" in message:
                        held.append(message)
            except APIError as error:
                for message in held:
                    yield message
                if not isinstance(error, BuildFailed):
                    raise
                detail = {"code": error.code, "message": error.message}
                yield {"errorDetail": detail, "error": error.message}
                return
            for tag in tags:
                await self._name(build.image, tag)
            for line in _ending(build, tags):
                yield {"stream": f"{line}\n"}

    async def _name(self, image: Image, tag: Reference) -> None:
        await asyncio.to_thread(self._catalog.tag, image.id, tag, now_ns=time.time_ns())
        labels = image.config.config.get("Labels") or {}
        self._bus.emit("image", "tag", image.id, {**labels, "name": str(tag)})

    async def _tree(
        self, query: BuildQuery, context: AsyncIterator[bytes], stack: contextlib.AsyncExitStack
    ) -> Tree:
        """The context, in a file that goes with the stack."""
        path = Path(stack.enter_context(self._workshop.temporary()).name)
        if query.remote:
            await self._fetch(query, path)
        else:
            async with aiofiles.open(path, "wb") as out:
                async for block in context:
                    await out.write(block)
        tree = await asyncio.to_thread(Tree, path)
        stack.callback(tree.close)
        return tree

    async def _fetch(self, query: BuildQuery, path: Path) -> None:
        """A tar, or a text that is the Dockerfile."""
        if not query.remote.startswith(("http://", "https://")) or _GIT.search(query.remote):
            raise NotSupported(
                f"building from {query.remote} is not supported by zonegate: only http(s) URLs of archives "
                "and Dockerfiles are, clone a repository and build from there"
            )
        try:
            fetched = await fetch(query.remote, path)
        except APIError as error:
            raise InvalidParameter(
                f"failed to download remote context {query.remote}: {error.message}"
            ) from error
        if fetched.is_text:
            await asyncio.to_thread(single_file, path, query.dockerfile or "Dockerfile")


def _dockerfile(tree: Tree, query: BuildQuery) -> tuple[str, str]:
    """Its name and text; the lower-case name is tried where none was given."""
    name = query.dockerfile or "Dockerfile"
    text = tree.text(name)
    if text is None and not query.dockerfile:
        text = tree.text("dockerfile")
    if text is None:
        raise APIError(f"Cannot locate specified Dockerfile: {name}")
    tree.forget(_ignored(tree, name))
    return name, text


def _ignored(tree: Tree, name: str) -> list[str]:
    """Dockerfile and .dockerignore go where .dockerignore says so: the client has left out the rest."""
    patterns = (tree.text(".dockerignore") or "").splitlines()
    listed = {line.strip().removeprefix("./").removeprefix("/") for line in patterns}
    return [each for each in (name, ".dockerignore") if each in listed]


def _tag(name: str) -> Reference:
    reference = Reference.parse(name)
    if reference.digest is not None:
        raise InvalidParameter("build tag cannot contain a digest")
    return reference.with_default_tag()


def _ending(build: Build, tags: Sequence[Reference]) -> list[str]:
    """What is said last; of a quiet build nothing but the id."""
    if build.query.quiet:
        return [build.image.id]
    unused = build.arguments.unused
    warning = f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed"
    return [
        *([warning] if unused else []),
        f"Successfully built {build.image.id[7:19]}",
        *(f"Successfully tagged {tag}" for tag in tags),
    ]
