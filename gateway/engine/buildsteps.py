"""One instruction of a build after the other: each leaves an image that the next stands on.

ENV, CMD, ...  -> the Config alone changes: no container is made
RUN            -> a container runs; its changes are a layer
COPY, ADD      -> a container takes the files, and never runs; FROM scratch they are the layer themselves
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import posixpath
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from dockerapi.engine import AttachQuery, BuildQuery
from dockerapi.errors import APIError, InvalidParameter
from dockerapi.framing import Stdio, StreamId
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate
from gateway.engine import buildcopy
from gateway.engine.buildcontext import Entry, Tree, archive
from gateway.engine.buildcopy import Place
from gateway.engine.buildsources import Sources, text
from gateway.engine.buildworkshop import Workshop
from gateway.engine.system import VERSION
from gateway.translate import buildfile, buildsteps, changes, commit
from gateway.translate.buildargs import BuildArguments
from gateway.translate.dockerfile import Instruction
from gateway.translate.status import go_time
from gateway.translate.words import expanded
from imgsources.catalog import Image
from imgsources.commits import Commit, LayerFile, write_layer
from imgsources.oci import default_platform

_NO_ENTRYPOINT = [""]


class BuildFailed(APIError):
    """A RUN ended with another code than 0; clients read the code from the last line."""

    def __init__(self, command: Sequence[str], code: int) -> None:
        super().__init__(f"The command '{' '.join(command)}' returned a non-zero code: {code}")
        self.code = code


class Steps:
    """One stage: its image and its Config so far."""

    def __init__(
        self,
        workshop: Workshop,
        query: BuildQuery,
        arguments: BuildArguments,
        base: Image | None,
        *,
        context: Tree,
        image_of: Callable[[str], Awaitable[Image]],
        containers: list[str],
    ) -> None:
        self.image = base
        self.config: JSONObject = dict(base.config.config) if base else {}
        self._workshop = workshop
        self._query = query
        self._arguments = arguments
        self._context = context
        self._image_of = image_of
        self._containers = containers
        self._author = str(json.loads(base.config.raw).get("author") or "") if base else ""
        self._sets_cmd = False
        self._may_be_cached = query.use_cache
        if base is None:
            path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            self.config["Env"] = [path]

    async def run(self, instruction: Instruction) -> AsyncGenerator[JSONObject, None]:
        """Messages of one step, without those before and after it."""
        name = instruction.name.lower()
        match name:
            case "run":
                messages = self._run(instruction)
            case "copy" | "add":
                messages = self._copy(instruction)
            case "workdir":
                messages = self._workdir(instruction)
            case _:
                messages = self._configured(self._comment(instruction))
        async with contextlib.aclosing(messages):
            async for message in messages:
                yield message

    # -- the Config alone

    def _comment(self, instruction: Instruction) -> str:
        """Lay it over the Config; the words of the history."""
        match instruction.name.lower():
            case "maintainer":
                self._author = instruction.rest
                return f"MAINTAINER {self._author}"
            case "arg":
                return self._declare(instruction)
            case "shell":
                buildsteps.set_shell(self.config, instruction)
                return f"SHELL [{' '.join(self.config['Shell'])}]"
        before = json.loads(json.dumps(self.config))
        self._sets_cmd = changes.apply(
            self.config, instruction, self._scope(), sets_cmd=self._sets_cmd
        )
        return buildsteps.comment(before, self.config, instruction)

    def _declare(self, instruction: Instruction) -> str:
        told: list[str] = []
        for name, default in buildfile.arguments(instruction):
            value = self._arguments.declare(name, default, self._scope())
            told.append(name if value is None else f"{name}={value}")
        return f"ARG {' '.join(told)}"

    def _env(self) -> dict[str, str]:
        return changes.environment(self.config)

    def _scope(self) -> dict[str, str]:
        return self._arguments.scope(self._env())

    async def _configured(self, comment: str) -> AsyncGenerator[JSONObject, None]:
        command = buildsteps.nop(self.config, comment)
        if cached := self._cached(command):
            yield self._take(cached)
            return
        self.image = await self._commit(command, None)

    # -- the cache

    def _cached(self, command: Sequence[str]) -> Image | None:
        """The image that this very step made of this very image before; the first miss ends the looking."""
        if not self._may_be_cached:
            return None
        parent = self.image.id if self.image else None
        wanted = buildsteps.comparable({**self.config, "Cmd": list(command)})
        for image in reversed(self._workshop.catalog.images()):
            if (
                image.parent != parent
                or image.imgapi
                or b'"container_config"' not in image.config.raw
            ):
                continue
            made_by = json.loads(image.config.raw).get("container_config") or {}
            if buildsteps.comparable(made_by) == wanted and self._may_use(image):
                return image
        self._may_be_cached = False
        return None

    def _may_use(self, image: Image) -> bool:
        """`--cache-from`: only what leads to one of these."""
        if not self._query.cache_from:
            return True
        catalog = self._workshop.catalog
        for name in self._query.cache_from:
            with contextlib.suppress(APIError):
                found = catalog.get(name)
                if image.id in {found.id, *(each.id for each in catalog.ancestors(found))}:
                    return True
        return False

    def _take(self, cached: Image) -> JSONObject:
        self.image = cached
        return {"stream": " ---> Using cache\n"}

    # -- RUN

    async def _run(self, instruction: Instruction) -> AsyncGenerator[JSONObject, None]:
        for flag in buildfile.flags(instruction):
            raise InvalidParameter(buildfile.BUILDKIT.format(flag))
        argv = buildsteps.command(self.config, instruction)
        command = [*self._arguments.for_history(self._env()), *argv]
        if cached := self._cached(command):
            yield self._take(cached)
            return
        if self.image is None:
            raise InvalidParameter(
                f'exec: "{argv[0]}": stat {argv[0]}: no such file or directory: unknown'
            )
        container, warnings = await self._created(self.image, argv)
        self._containers.append(container)
        for warning in warnings:
            yield {"stream": f" ---> [Warning] {warning}\n"}
        yield {"stream": f" ---> Running in {container[:12]}\n"}
        async with contextlib.aclosing(self._ran(container, argv)) as messages:
            async for message in messages:
                yield message
        async with self._layer_of(container) as layer:
            image = await self._commit(command, layer, container)
        if self._query.remove:
            await self._workshop.discard(container)
            self._containers.remove(container)
            yield {"stream": f" ---> Removed intermediate container {container[:12]}\n"}
        self.image = image

    async def _created(self, image: Image, argv: Sequence[str]) -> tuple[str, list[str]]:
        """Full id of a container of the image as it stands, and what its host has to say of it."""
        body = ContainerCreate.model_validate(
            {
                "Image": image.id,
                "Cmd": list(argv),
                "Entrypoint": _NO_ENTRYPOINT,
                "Env": self._arguments.for_run(self._env()),
                "Healthcheck": {"Test": ["NONE"]},
                "AttachStdout": True,
                "AttachStderr": True,
                "HostConfig": {"LogConfig": {"Type": "none"}, **self._query.host_config},
            }
        )
        made = await self._workshop.containers.create(body, name=None, platform=None)
        return str(made["Id"]), list(made["Warnings"])

    async def _ran(self, container: str, argv: Sequence[str]) -> AsyncGenerator[JSONObject, None]:
        """Output until it has ended.  BuildFailed; a client that hangs up takes the container with it."""
        containers = self._workshop.containers
        stdio = await containers.attach(
            container, AttachQuery(stdout=True, stderr=True, stream=True)
        )
        is_over = False
        try:
            ended = await containers.wait(container, "next-exit")
            await containers.start(container)
            async for message in _shown(stdio):
                yield message
            code = int((await ended)["StatusCode"])
            is_over = True
        except APIError:
            is_over = True  # it could not be started, and says why
            raise
        finally:
            await stdio.close()
            if not is_over:
                await self._workshop.discard(container)
        if code:
            raise BuildFailed(argv, code)

    # -- COPY, ADD, WORKDIR

    async def _workdir(self, instruction: Instruction) -> AsyncGenerator[JSONObject, None]:
        changes.apply(self.config, instruction, self._scope())
        path = str(self.config["WorkingDir"])
        command = [*buildsteps.shell(self.config), f"#(nop) WORKDIR {path}"]
        if cached := self._cached(command):
            yield self._take(cached)
            return

        def entries(at: Place) -> list[Entry]:
            return [
                Entry("/".join(at.missing[: depth + 1]), None) for depth in range(len(at.missing))
            ]

        self.image = await self._written(command, path, entries, (0, 0))

    async def _copy(self, instruction: Instruction) -> AsyncGenerator[JSONObject, None]:
        name = instruction.name.upper()
        flags = buildfile.flags(instruction)
        for flag in flags:
            if flag not in ("from", "chown"):
                raise InvalidParameter(buildfile.BUILDKIT.format(flag))
        *patterns, target = [
            expanded(word, self._scope()) for word in buildfile.sources_and_target(instruction)
        ]
        async with contextlib.AsyncExitStack() as stack:
            looking = Sources(self._workshop, self._context, self._image_of, stack)
            for pattern in patterns:
                async for message in looking.add(name, pattern, flags.get("from", ""), target):
                    yield message
            sources = looking.found
            if not sources:
                raise InvalidParameter(f"{name} failed: no source files were specified")
            if len(sources) > 1 and not target.endswith("/"):
                raise InvalidParameter(
                    f"When using {name} with more than one source file, the destination must be a "
                    "directory and end with a /"
                )
            told = await asyncio.to_thread(buildcopy.told, sources)
            chown = expanded(flags.get("chown", ""), self._scope())
            owned = f"--chown={chown} " if chown else ""
            comment = f"#(nop) {name} {owned}{told} in {target} "
            command = [*buildsteps.shell(self.config), comment]
            if cached := self._cached(command):
                yield self._take(cached)
                return
            workdir = str(self.config.get("WorkingDir") or "/")
            path = posixpath.normpath(posixpath.join("/", workdir, target))

            def entries(at: Place) -> list[Entry]:
                return buildcopy.laid_out(sources, target, at)

            owner = await self._owner(chown)
            self.image = await self._written(command, path, entries, owner)

    async def _owner(self, chown: str) -> tuple[int, int]:
        if not chown:
            return 0, 0
        names = [part for part in chown.split(":") if part]
        if all(name.isdigit() for name in names) or self.image is None:
            return buildsteps.owner(chown, None, None)
        async with self._container(self.image) as container:
            uuid = self._workshop.uuid(container)
            passwd, group = [
                await text(self._workshop, uuid, f"/etc/{name}") for name in ("passwd", "group")
            ]
        return buildsteps.owner(chown, passwd, group)

    async def _written(
        self,
        command: Sequence[str],
        path: str,
        entries: Callable[[Place], list[Entry]],
        owner: tuple[int, int],
    ) -> Image:
        """The image with these files below `path`."""
        if self.image is None:
            at = Place("/", tuple(part for part in path.split("/") if part))
            with self._workshop.temporary() as file:
                blocks = archive(entries(at), owner)
                layer = await write_layer(blocks, Path(file.name))
                return await self._commit(command, layer)
        async with self._container(self.image) as container:
            uuid = self._workshop.uuid(container)
            files = self._workshop.host.files
            at = await buildcopy.place(files, uuid, path)
            laid = entries(at)
            if laid:
                async with contextlib.aclosing(archive(laid, owner)) as blocks:
                    await files.write(
                        uuid,
                        at.folder,
                        blocks,
                        no_overwrite_dir_non_dir=False,
                        copy_uid_gid=False,
                    )
            async with self._layer_of(container) as layer:
                return await self._commit(command, layer)

    @contextlib.asynccontextmanager
    async def _container(self, image: Image) -> AsyncIterator[str]:
        """One that never runs, gone after the block."""
        container, _ = await self._created(image, ["none"])
        try:
            yield container
        finally:
            await self._workshop.discard(container)

    @contextlib.asynccontextmanager
    async def _layer_of(self, container: str) -> AsyncIterator[LayerFile]:
        blocks = await self._workshop.host.files.layer(self._workshop.uuid(container))
        with self._workshop.temporary() as file:
            async with contextlib.aclosing(blocks):
                layer = await write_layer(blocks, Path(file.name))
            yield layer

    # -- the image

    async def _commit(
        self, command: Sequence[str], layer: LayerFile | None, container: str = ""
    ) -> Image:
        """One more image: the Config as it is now, and a layer if there is something in it."""
        kept = None if layer is None or layer.is_empty else layer
        parent = self.image.id if self.image else ""
        made = commit.Committed(
            container_id=container,
            config=commit.tidy({**self.config, "Cmd": list(command), "Image": parent}),
            created=go_time(time.time_ns()),
            version=VERSION,
            author=self._author,
        )
        below = json.loads(self.image.config.raw) if self.image else _scratch()
        config = commit.tidy({**self.config, "Image": parent})
        blob = commit.config_blob(below, made, config, kept.digest if kept else None)
        built = Commit(self.image, blob, kept)
        return await self._workshop.puller.add(built.image, built, ())


def _scratch() -> JSONObject:
    platform = default_platform()
    return {"architecture": platform.architecture, "os": platform.os, "variant": platform.variant}


async def _shown(stdio: Stdio) -> AsyncGenerator[JSONObject, None]:
    """Output as it comes; what went to stderr is red, as dockerd has it."""
    decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in StreamId}
    async for stream, chunk in stdio.output():
        text = decoders[stream].decode(chunk)
        if text and stream is StreamId.STDERR:
            yield {"stream": f"\x1b[91m{text}\x1b[0m"}
        elif text:
            yield {"stream": text}
