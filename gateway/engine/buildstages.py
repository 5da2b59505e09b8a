"""The stages of one build: where each begins, what its instructions are handed to, which image comes out.

    FROM -> image (here, or pulled)    each instruction -> buildsteps.py -> one more image    last stage -> the result

An image stands after every step, so that the next build finds it again: that is the cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence

from dockerapi.engine import BuildQuery
from dockerapi.errors import APIError, InvalidParameter, NotFound
from dockerapi.models.base import JSONObject
from gateway.engine.buildcontext import Tree
from gateway.engine.buildsteps import Steps
from gateway.engine.buildworkshop import Workshop
from gateway.translate import buildfile
from gateway.translate.buildargs import BuildArguments
from gateway.translate.buildfile import BuildFile, Stage
from gateway.translate.dockerfile import Instruction
from gateway.translate.words import expanded
from imgsources.catalog import Image
from imgsources.oci import fits, parse_platform
from imgsources.references import Reference


class Build:
    """One build.  `image` is there once `run` has ended well."""

    def __init__(
        self,
        workshop: Workshop,
        query: BuildQuery,
        file: BuildFile,
        arguments: BuildArguments,
        tree: Tree,
    ) -> None:
        self.query = query
        self.arguments = arguments
        self._workshop = workshop
        self._file = file
        self._tree = tree
        self._images: list[Image | None] = []
        self._names: dict[str, int] = {}
        self._containers: list[str] = []
        self._step = 0
        self._base: Image | None = None

    @property
    def image(self) -> Image:
        """What was built.  APIError if nothing was."""
        last = self._images[-1] if self._images else None
        if last is None:
            raise APIError("No image was generated. Is your Dockerfile empty?")
        return last

    async def run(self) -> AsyncGenerator[JSONObject, None]:
        """Messages of every step; the containers of its RUNs go as the client asked."""
        is_done = False
        if warnings := self._file.warnings:
            text = "\n".join(warnings)
            yield {"stream": f"\x1b[91m{text}\n\x1b[0m"}
        try:
            for instruction in self._file.arguments:
                for message in self._announced(instruction):
                    yield message
            for stage in self._file.stages:
                async with contextlib.aclosing(self._stage(stage)) as messages:
                    async for message in messages:
                        yield message
            is_done = True
            _ = self.image
        finally:
            wanted = self.query.remove if is_done else self.query.force_remove
            if wanted:
                for container in self._containers:
                    await self._workshop.discard(container)

    def _announced(self, instruction: Instruction) -> list[JSONObject]:
        self._step += 1
        text = f"Step {self._step}/{self._file.length} : {instruction.line}"
        return [{"stream": text}, {"stream": "\n"}]

    async def _stage(self, stage: Stage) -> AsyncGenerator[JSONObject, None]:
        for message in self._announced(stage.origin):
            yield message
        async with contextlib.aclosing(self._begin(stage)) as messages:
            async for message in messages:
                yield message
        base = self._base
        steps = Steps(
            self._workshop,
            self.query,
            self.arguments,
            base,
            context=self._tree,
            image_of=self._image_of,
            containers=self._containers,
        )
        triggers = self._triggers(base)
        if triggers:
            steps.config["OnBuild"] = None
            plural = "" if len(triggers) == 1 else "s"
            yield {"stream": f"# Executing {len(triggers)} build trigger{plural}"}
            yield {"stream": "\n"}
        for instruction in triggers:
            async with contextlib.aclosing(steps.run(instruction)) as messages:
                async for message in messages:
                    yield message
        yield _standing(steps.image)
        for instruction in stage.steps:
            for message in self._announced(instruction):
                yield message
            async with contextlib.aclosing(steps.run(instruction)) as messages:
                async for message in messages:
                    yield message
            yield _standing(steps.image)
        if stage.name:
            self._names[stage.name] = len(self._images)
        self._images.append(steps.image)
        if steps.image is not None:
            yield {"aux": {"ID": steps.image.id}}

    async def _begin(self, stage: Stage) -> AsyncGenerator[JSONObject, None]:
        """Messages of a pull, if it takes one; `_base` is then set."""
        self.arguments.stage()
        name = expanded(stage.base, self.arguments.metas)
        if not name:
            raise InvalidParameter(f"base name ({stage.base}) should not be blank")
        platform = buildfile.flags(stage.origin).get("platform", "") or self.query.platform
        platform = expanded(platform, self.arguments.metas)
        if name.lower() in self._names:
            self._base = self._images[self._names[name.lower()]]
            return
        if name == "scratch":
            self._base = None
            return
        async with contextlib.aclosing(self._fetched(name, platform)) as messages:
            async for message in messages:
                yield message
        self._base = self._workshop.catalog.get(name)

    async def _fetched(self, name: str, platform: str) -> AsyncGenerator[JSONObject, None]:
        """Pulled if it is not here, is of another platform, or the client wants it anew."""
        try:
            found = self._workshop.catalog.get(name)
        except NotFound:
            is_here = False
        else:
            is_here = not platform or fits(parse_platform(platform), found.config.platform)
            # What has no name anywhere cannot be had anew.
            if found.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:")):
                return
        if is_here and not self.query.pull:
            return
        reference = Reference.parse(name).with_default_tag()
        registry = reference.full_name.partition("/")[0]
        login = self.query.logins.get("" if registry == "docker.io" else registry)
        messages = await self._workshop.images.pull(
            reference.familiar_name,
            tag=str(reference.digest or reference.tag),
            platform=platform,
            auth=login,
        )
        async for message in messages:
            yield message

    def _triggers(self, base: Image | None) -> Sequence[Instruction]:
        texts = base.config.config.get("OnBuild") if base is not None else None
        return buildfile.onbuild_triggers(texts or ())

    async def _image_of(self, name: str) -> Image:
        """What COPY --from means: a stage before this one by name or number, else an image.  InvalidParameter."""
        number = self._names.get(name.lower())
        if number is None and name.isdigit():
            number = int(name)
            if number == len(self._images):
                raise InvalidParameter(
                    f"invalid from flag value {name}: refers to current build stage"
                )
            if number > len(self._images):
                raise InvalidParameter(f"invalid from flag value {name}: index out of bounds")
        if number is not None:
            image = self._images[number]
            if image is None:
                raise InvalidParameter(f"invalid from flag value {name}: the stage has no image")
            return image
        try:
            async with contextlib.aclosing(self._fetched(name, "")) as messages:
                async for _ in messages:
                    pass
            return self._workshop.catalog.get(name)
        except APIError as error:
            raise InvalidParameter(f"invalid from flag value {name}: {error.message}") from error


def _standing(image: Image | None) -> JSONObject:
    return {"stream": f" ---> {image.id[7:19] if image else ''}\n"}
