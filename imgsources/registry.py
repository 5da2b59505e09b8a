"""A client of OCI distribution registries: manifests, blobs, tags, login.

    GET /v2/PATH/manifests/TAG|DIGEST      image, index; GET .../blobs/DIGEST      layers, configs
    GET /v2/PATH/tags/list                 in pages
    GET /v1/search?q=&n=                   the only thing left of the first protocol

How servers are found and asked is `imgsources.transport`'s.  Manifests and configs are verified here, by their
bytes; blobs are verified by who reads them.  Messages and statuses are dockerd's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from dockerapi.errors import APIError, DataLoss, InvalidParameter, NotFound
from imgsources.answers import json_object, refusal
from imgsources.oci import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    SCHEMA1_TYPES,
    Descriptor,
    Digest,
    ImageConfig,
    Manifest,
    Platform,
    check_config_type,
    check_layers,
    choose_platform,
    normalize,
    parse_config,
    parse_index,
    parse_manifest,
    runnable,
    sha256,
)
from imgsources.references import DEFAULT_REGISTRY, Reference
from imgsources.sources import RemoteImage, TransferBroken
from imgsources.transport import Credentials, Endpoint, Transport, addresses, body, read

log = logging.getLogger(__name__)

INDEX = "https://index.docker.io"
_HUB_NAMES = ("", "docker.io", "index.docker.io", "registry-1.docker.io")

_CONFIG_ATTEMPTS = 6
_CONFIG_PAUSE_S = 0.05
MAX_MANIFEST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 16 << 20

# Schema 1 is asked for as well: a registry then sends it instead of "unknown", and we can say why not.
_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES, *SCHEMA1_TYPES))


@dataclass(frozen=True, slots=True)
class Login:
    """What a good login answers; `identity_token` is "" where the registry gives none."""

    status: str
    identity_token: str


@dataclass(frozen=True, slots=True)
class Described:
    """What a name leads to in a registry: a manifest or an index, and the platforms that it is for."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...]


class RegistryClient:
    """Registries as an image source, for one user; `options` are the transport's.

    `known` gives the config of an image that is here already: it need not be fetched.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        known: Callable[[Digest], ImageConfig | None] = lambda _: None,
        **options: Any,
    ) -> None:
        self.transport = Transport(session, **options)
        self._known = known

    async def resolve(
        self,
        reference: Reference,
        platform: Platform | None,
        *,
        found: Callable[[], None] = lambda: None,
    ) -> RemoteImage:
        """Manifest and config, verified; `found` is called when what the name leads to is there.

        NotFound if there is no such manifest, or none for the platform (this machine's if None).
        """
        wanted = reference.with_default_tag()
        return await self.transport.first_answer(
            wanted, lambda endpoint: self._resolve_at(endpoint, wanted, platform, found)
        )

    @asynccontextmanager
    async def open_blob(
        self, image: RemoteImage, descriptor: Descriptor, *, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The blob's bytes from `offset` on, unverified.

        TransferBroken, here or while reading, means that it is worth to try again.
        """
        reference = image.reference
        if reference is None:
            raise InvalidParameter("an image without a name is in no registry")
        if descriptor.size and offset >= descriptor.size:
            yield _nothing()
            return
        async with contextlib.AsyncExitStack() as stack:

            async def begin(endpoint: Endpoint) -> aiohttp.ClientResponse:
                request = self._get_blob(endpoint, reference, descriptor.digest, offset)
                return await stack.enter_async_context(request)

            response = await self.transport.first_answer(reference, begin)
            yield body(response, skip=offset if response.status == HTTPStatus.OK else 0)

    async def describe(self, reference: Reference) -> Described:
        """What a name leads to in its registry, without its layers.  NotFound, Unauthorized, ..."""
        wanted = reference.with_default_tag()
        return await self.transport.first_answer(
            wanted, lambda endpoint: self._describe_at(endpoint, wanted)
        )

    async def list_tags(self, reference: Reference) -> tuple[str, ...]:
        """Every tag of the reference's repository, as the registry orders them."""
        return await self.transport.first_answer(
            reference, lambda endpoint: self._list_tags_at(endpoint, reference)
        )

    async def login(self, auth: Credentials, server: str = "") -> Login:
        """Check credentials with a registry ("" = the Hub; a host, or a URL as clients send).

        In dockerd's words if they are refused: Unauthorized by who gives tokens, APIError by the registry itself.
        """
        host = _host_of(server)
        endpoint = await self.transport.connect(self.transport.servers(host, auth)[-1])
        url = endpoint.base / "v2/"
        token = None
        if endpoint.challenge is not None and endpoint.challenge.scheme == "bearer":
            try:
                token = await self.transport.fetch_token(
                    endpoint, endpoint.challenge, (), offline=True
                )
            except APIError as error:
                raise type(error)(f'Get "{url}": {error.message}', detail=error.detail) from error
        authorization = f"Bearer {token.text}" if token else endpoint.basic
        headers = {"Authorization": authorization} if authorization else {}
        async with self.transport.send("GET", url, endpoint.verifies, headers) as response:
            if response.status != HTTPStatus.OK:
                words = f"{response.status} {HTTPStatus(response.status).phrase}"
                raise APIError(f"login attempt to {url} failed with status: {words}")
        return Login("Login Succeeded", token.refresh if token else "")

    async def search(self, term: str, limit: int) -> list[dict[str, Any]]:
        """Rows of `docker search`: the Hub's index knows any name, HOST/NAME is asked of that registry."""
        host, slash, word = term.partition("/")
        if not slash or not ({".", ":"} & set(host) or host == "localhost"):
            host, word = "", term.removeprefix("library/")
        tried = (
            addresses(f"https://{host}", is_insecure=self.transport.is_insecure(host))
            if host
            else ((URL(INDEX), True),)
        )
        query = {"q": word, "n": str(limit)}
        for base, verifies in tried[:-1]:
            with contextlib.suppress(APIError):
                return await self._search_at(base, verifies, query)
        return await self._search_at(*tried[-1], query)

    async def _search_at(
        self, base: URL, verifies: bool, query: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        trust = await asyncio.to_thread(self.transport.trust, base.authority) if verifies else False
        basic = Endpoint(base, trust, None, self.transport.auth).basic
        headers = {"X-Docker-Token": "true"} | ({"Authorization": basic} if basic else {})
        url = (base / "v1/search").with_query(query)
        async with self.transport.send(
            "GET", url, trust, headers, timeout=self.transport.ping_timeout
        ) as response:
            if response.status != HTTPStatus.OK:
                raise APIError(f"Unexpected status code {response.status}")
            document = json_object(await read(response, MAX_CONFIG_BYTES, "search result"))
        found = document.get("results")
        if not isinstance(found, list):
            raise APIError("error decoding registry search results")
        return [row for row in found if isinstance(row, dict)]

    # What to ask ------------------------------------------------------------------------------------

    async def _resolve_at(
        self,
        endpoint: Endpoint,
        reference: Reference,
        platform: Platform | None,
        found: Callable[[], None],
    ) -> RemoteImage:
        target = reference.digest or reference.tag or ""
        raw, media_type = await self._get_manifest(endpoint, reference, target)
        digest = sha256(raw)
        is_index = _is_index(raw, media_type)
        if is_index:
            index = parse_index(raw, media_type)
            found()
            entry = choose_platform(index, platform)
            raw, media_type = await self._get_manifest(endpoint, reference, entry.digest)
        manifest = parse_manifest(raw, media_type, name=reference.full)
        found()
        check_config_type(manifest)
        config = self._known(manifest.config.digest)
        if config is None:
            config = parse_config(await self._tried_config(endpoint, reference, manifest))
        if config.platform.os.lower() != "linux":
            raise InvalidParameter(
                f'image operating system "{config.platform.os}" cannot be used on this platform: '
                "operating system is not supported"
            )
        check_layers(manifest, config)
        # A lone image is what it is: whoever wants another platform is told, as dockerd does.
        is_other = platform is not None and normalize(config.platform) not in runnable(platform)
        if is_index and is_other:
            raise NotFound(
                f"image with reference {reference} was found but its platform ({config.platform}) "
                f"does not match the specified platform ({platform})"
            )
        return RemoteImage(reference, manifest, config, digest)

    async def _describe_at(self, endpoint: Endpoint, reference: Reference) -> Described:
        raw, media_type = await self._get_manifest(
            endpoint, reference, reference.digest or reference.tag or "", own_words=False
        )
        if _is_index(raw, media_type):
            index = parse_index(raw, media_type)
            descriptor = Descriptor(index.media_type, index.digest, len(raw))
            found = [entry.platform for entry in index.manifests if entry.platform is not None]
            return Described(descriptor, tuple(found))
        manifest = parse_manifest(raw, media_type, name=reference.full)
        descriptor = Descriptor(manifest.media_type, manifest.digest, len(raw))
        try:
            config = parse_config(await self._get_config(endpoint, reference, manifest))
        except APIError as error:
            # As dockerd: what a name leads to is known without its config, and may be no image.
            log.info("config of %s: %s", reference, error)
            return Described(descriptor, ())
        return Described(descriptor, (config.platform,) if config.platform.architecture else ())

    async def _get_manifest(
        self, endpoint: Endpoint, reference: Reference, target: str, *, own_words: bool = True
    ) -> tuple[bytes, str]:
        """(bytes, media type) of a manifest or an index, by tag or digest.

        Without `own_words` a refusal is in the registry's words alone.
        """
        path = f"v2/{reference.path}/manifests/{target}"
        async with self._asked_twice(endpoint, path, reference) as response:
            if response.status != HTTPStatus.OK:
                raise await refusal(response, reference if own_words else None)
            raw = await read(response, MAX_MANIFEST_BYTES, "manifest")
            claimed = response.headers.get("Docker-Content-Digest", "")
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        expected = target if ":" in target else claimed
        if expected.startswith("sha256:") and sha256(raw) != expected:
            raise DataLoss(f"manifest verification failed for digest {expected}")
        known = media_type in (*MANIFEST_TYPES, *INDEX_TYPES, *SCHEMA1_TYPES)
        return raw, media_type if known else ""

    @asynccontextmanager
    async def _asked_twice(
        self, endpoint: Endpoint, path: str, reference: Reference
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Also of dockerd's two requests, HEAD and GET, only the second must go well."""
        for is_last in (False, True):
            asked = self.transport.ask(endpoint, path, reference, {"Accept": _ACCEPT})
            async with asked as response:
                if is_last or response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    yield response
                    return

    async def _tried_config(
        self, endpoint: Endpoint, reference: Reference, manifest: Manifest
    ) -> bytes:
        """The config, asked for again where it breaks off; errors say that a pull failed of it."""
        for attempt in range(1, _CONFIG_ATTEMPTS + 1):
            try:
                return await self._get_config(endpoint, reference, manifest)
            except TransferBroken as error:
                if attempt == _CONFIG_ATTEMPTS:
                    raise _config_lost(
                        f"download failed after attempts={attempt}", error
                    ) from error
                await asyncio.sleep(_CONFIG_PAUSE_S * 2**attempt)
            except DataLoss as error:
                raise DataLoss(_config_lost("", error).message) from error
            except APIError as error:
                raise _config_lost(f"download failed after attempts={attempt}", error) from error
        raise AssertionError

    async def _get_config(
        self, endpoint: Endpoint, reference: Reference, manifest: Manifest
    ) -> bytes:
        digest = manifest.config.digest
        async with self._get_blob(endpoint, reference, digest, 0, own_words=False) as response:
            raw = await read(response, MAX_CONFIG_BYTES, "image configuration")
        if sha256(raw) != digest:
            raise DataLoss(f"image config verification failed for digest {digest}")
        return raw

    @asynccontextmanager
    async def _get_blob(
        self,
        endpoint: Endpoint,
        reference: Reference,
        digest: Digest,
        offset: int,
        *,
        own_words: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A 200 with the whole blob, or a 206 that starts at `offset`."""
        path = f"v2/{reference.path}/blobs/{digest}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self.transport.ask(endpoint, path, reference, headers) as response:
            if response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                error = await refusal(response, reference if own_words else None)
                if response.status == HTTPStatus.NOT_FOUND:
                    raise NotFound("unknown blob", detail=error.detail)
                # What has no kind of its own may go better the next time: dockerd's rule.
                raise (
                    TransferBroken(error.message, detail=error.detail)
                    if type(error) is APIError
                    else error
                )
            if response.status == HTTPStatus.PARTIAL_CONTENT:
                _check_range(response, offset)
            yield response

    async def _list_tags_at(self, endpoint: Endpoint, reference: Reference) -> tuple[str, ...]:
        tags: list[str] = []
        path: str | None = f"v2/{reference.path}/tags/list"
        while path is not None:
            async with self.transport.ask(endpoint, path, reference, {}) as response:
                if response.status != HTTPStatus.OK:
                    raise await refusal(response, reference)
                document = json_object(await read(response, MAX_CONFIG_BYTES, "tag list"))
                following = response.links.get("next")
            found = document.get("tags") or []
            tags += [tag for tag in found if isinstance(tag, str)]
            # The link may be absolute: keep to the server that we know.
            url = following.get("url") if following else None
            path = str(URL(str(url)).relative()).lstrip("/") if url and found else None
        return tuple(tags)


# Pure decisions -------------------------------------------------------------------------------------


def _config_lost(how: str, error: APIError) -> APIError:
    words = ": ".join(filter(None, ("error pulling image configuration", how, error.message)))
    return APIError(words, detail=error.detail)


def _host_of(server: str) -> str:
    """The registry meant by a login's server address, such as https://index.docker.io/v1/."""
    host = server.partition("://")[2] or server
    host = host.partition("/")[0]
    return DEFAULT_REGISTRY if host in _HUB_NAMES else host


def _is_index(raw: bytes, media_type: str) -> bool:
    if media_type:
        return media_type in INDEX_TYPES
    document = json_object(raw)
    return document.get("mediaType") in INDEX_TYPES or "manifests" in document


def _check_range(response: aiohttp.ClientResponse, offset: int) -> None:
    stated = response.headers.get("Content-Range", "")
    if not stated.startswith(f"bytes {offset}-"):
        raise DataLoss(
            f"registry sent another part of the blob than asked for: {stated!r} from {offset}"
        )


async def _nothing() -> AsyncIterator[bytes]:
    no_blocks: tuple[bytes, ...] = ()
    for block in no_blocks:
        yield block
