"""What `docker push` and `docker manifest inspect` do: images here and what registries have of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

from dockerapi.errors import InvalidParameter, NotFound
from dockerapi.models.base import JSONObject
from dockerapi.models.system import AuthConfig
from gateway.engine.imagefiles import Emit, check_platform
from gateway.engine.progress import message
from imgsources.blobs import LayerBlobs
from imgsources.catalog import Catalog, Image
from imgsources.oci import Platform, parse_platform
from imgsources.pusher import UPLOADS_AT_ONCE, Pushed, Pusher
from imgsources.references import Reference
from imgsources.registry import RegistryClient
from imgsources.slots import Slots


class Distribution:
    """Images of one host on their way to registries.  `group` owns the uploads."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: LayerBlobs,
        registry: Callable[[AuthConfig | None], RegistryClient],
        *,
        group: asyncio.TaskGroup,
        emit: Emit,
        max_concurrent_uploads: int = UPLOADS_AT_ONCE,
    ) -> None:
        self.uploads = Slots(max_concurrent_uploads)
        """Of all pushes together."""
        self._group = group
        self._catalog = catalog
        self._blobs = blobs
        self._registry = registry
        self._emit = emit

    async def push(
        self, name: str, *, tag: str, platform: str, auth: AuthConfig | None
    ) -> AsyncIterator[JSONObject]:
        """Progress messages; all that can go wrong but a malformed name and another platform comes in-band, as in dockerd."""
        reference = Reference.parse(name)
        if reference.digest is not None:
            raise InvalidParameter("cannot push a digest reference")
        if tag:
            try:
                reference = reference.with_tag(tag)
            except InvalidParameter as error:
                raise InvalidParameter("invalid tag format") from error
        if wanted := parse_platform(platform) if platform else None:
            check_platform(self._catalog.get(str(reference)), name, wanted)
        return self._push(reference, self._registry(auth))

    async def _push(
        self, reference: Reference, client: RegistryClient
    ) -> AsyncGenerator[JSONObject, None]:
        yield {"status": f"The push refers to repository [{reference.full_name}]"}
        pusher = Pusher(client.transport, self._blobs, self._group, slots=self.uploads)
        for image, tag in self._meant(reference):
            events = pusher.push(image, tag, _elsewhere(image, tag))
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, Pushed):
                        await self._record(image, event)
                        for line in _summary(event):
                            yield line
                    else:
                        yield message(event)

    def _meant(self, reference: Reference) -> Sequence[tuple[Image, Reference]]:
        """The image with that tag, or every one of the repository."""
        found = [
            (image, tag)
            for image in self._catalog.images()
            for tag in image.references
            if tag.full_name == reference.full_name
        ]
        if not found:
            raise NotFound(
                f"An image does not exist locally with the tag: {reference.familiar_name}"
            )
        if reference.tag is None:
            return sorted(found, key=lambda pair: str(pair[1]))
        meant = [(image, tag) for image, tag in found if tag == reference]
        if not meant:
            raise NotFound(f"tag does not exist: {reference}")
        return meant

    async def _record(self, image: Image, pushed: Pushed) -> None:
        """From now on it is known under that digest, too."""
        name = pushed.reference.with_digest(pushed.digest)
        with contextlib.suppress(NotFound):  # it was removed meanwhile
            await asyncio.to_thread(self._catalog.add_digest, image.id, name)
        self._emit(image, "push", str(pushed.reference), pushed.reference.familiar_name)

    async def inspect(self, name: str, *, auth: AuthConfig | None) -> JSONObject:
        """{Descriptor, Platforms} of an image as its registry has it."""
        reference = Reference.parse(name).with_default_tag()
        found = await self._registry(auth).describe(reference)
        return {
            "Descriptor": {
                "mediaType": found.descriptor.media_type,
                "digest": found.descriptor.digest,
                "size": found.descriptor.size,
            },
            "Platforms": [_platform(platform) for platform in found.platforms],
        }


def _elsewhere(image: Image, reference: Reference) -> list[str]:
    """Other repositories of the same registry that this image was in: they may have its layers."""
    known = [*image.references, *(Reference.parse(text) for text in image.repo_digests)]
    paths = {
        other.path: None
        for other in known
        if other.registry == reference.registry
        and other.path != reference.path
        and any(digest.startswith(f"{other.familiar_name}@") for digest in image.repo_digests)
    }
    return list(paths)


def _summary(pushed: Pushed) -> list[JSONObject]:
    tag = pushed.reference.tag
    aux = {"Tag": tag, "Digest": pushed.digest, "Size": pushed.size}
    return [
        {"status": f"{tag}: digest: {pushed.digest} size: {pushed.size}"},
        {"progressDetail": {}, "aux": aux},
    ]


def _platform(platform: Platform) -> JSONObject:
    shown = {"architecture": platform.architecture, "os": platform.os}
    return shown | ({"variant": platform.variant} if platform.variant else {})
