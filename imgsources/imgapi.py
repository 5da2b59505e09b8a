"""A client of IMGAPI servers, such as https://images.smartos.org: images of whole zones and machines.

    images.smartos.org/base-64-lts:15.4.0     GET /images?name=base-64-lts&version=15.4.0&state=active
    images.smartos.org/base-64-lts            the newest of that name
    96bcddda-beb7-11e5-af20-a3fb54c8ae29      GET /images/UUID, each server in turn

Only manifests are fetched: the platform's own imgadm imports the image's file (`datasets.PlatformImages`).
A manifest becomes a `RemoteImage` with a config made up of it, so that docker can list and inspect it; its
one layer stands for the dataset.  Errors have dockerd's words where it has some.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import ssl
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from dockerapi.errors import APIError, DataLoss, InvalidParameter, NotFound, NotSupported
from imgsources.answers import MAX_ERROR_BYTES, go_words, json_object
from imgsources.oci import (
    Descriptor,
    Digest,
    Manifest,
    Platform,
    fits,
    normalize,
    parse_config,
    sha256,
)
from imgsources.references import DEFAULT_TAG, Reference
from imgsources.sources import RemoteImage

Document = Mapping[str, Any]

MEDIA_TYPE = "application/vnd.smartos.image.v2"
TYPES = ("zone-dataset", "lx-dataset", "zvol")
"""What imgadm imports and zones are made of.  `docker` comes from registries, `lxd` imgadm refuses."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_MAX_ANSWER_BYTES = 32 << 20
_SEARCH_LIMIT = 100


def is_uuid(text: str) -> bool:
    """Whether a client names an image as imgadm does."""
    return _UUID.fullmatch(text) is not None


class ImageServers:
    """The image servers of the settings, in their order.  `urls` may have a path and a ?channel=."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        urls: Sequence[str],
        *,
        connect_timeout_s: float = 15,
        stall_timeout_s: float = 60,
    ) -> None:
        self._session = session
        self._urls = {URL(url).authority: URL(url) for url in urls}
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout_s, sock_read=stall_timeout_s
        )

    def serve(self, reference: Reference) -> bool:
        """Whether a reference is an image server's and not a registry's."""
        return reference.registry in self._urls

    async def resolve(self, reference: Reference, platform: Platform | None) -> RemoteImage:
        """The image of a name and version.  NotFound; NotSupported for an image that no zone is made of."""
        if reference.digest is not None:
            raise InvalidParameter(
                f"{reference}: an image server knows names, versions and UUIDs, no digests"
            )
        url = self._urls[reference.registry]
        if is_uuid(reference.path):
            return self._checked(await self._get(url, reference.path), url, platform)
        found = await self._named(reference)
        if reference.tag not in (None, DEFAULT_TAG):
            found = [manifest for manifest in found if manifest.get("version") == reference.tag]
        if not found:
            raise NotFound(f"manifest for {reference} not found: manifest unknown")
        usable = [manifest for manifest in found if manifest.get("type") in TYPES]
        newest = max(usable or found, key=lambda m: str(m.get("published_at") or ""))
        return self._checked(newest, url, platform)

    async def resolve_uuid(self, uuid: str, platform: Platform | None) -> RemoteImage:
        """The image of a UUID on the first server that has it; NotFound."""
        failed: APIError | None = None
        for url in self._urls.values():
            try:
                manifest = await self._get(url, uuid)
            except NotFound:
                continue
            except APIError as error:
                failed = error
                continue
            return self._checked(manifest, url, platform)
        raise failed or NotFound(f"manifest for {uuid} not found: no image server has it")

    async def list_tags(self, reference: Reference) -> tuple[str, ...]:
        """Every version of a name, oldest first; NotFound if there is none."""
        found = [m for m in await self._named(reference) if m.get("type") in TYPES]
        found.sort(key=lambda manifest: str(manifest.get("published_at") or ""))
        versions = dict.fromkeys(str(manifest.get("version")) for manifest in found)
        if not versions:
            raise NotFound(f"repository {reference.familiar_name} not found: name unknown")
        return tuple(version for version in versions if _TAG.fullmatch(version))

    async def search(self, term: str, limit: int = _SEARCH_LIMIT) -> list[dict[str, Any]]:
        """Rows of `docker search`, one a name.  `term` may begin with a server's name and a slash."""
        first, slash, rest = term.partition("/")
        chosen = [self._urls[first]] if slash and first in self._urls else [*self._urls.values()]
        word = rest if slash and first in self._urls else term
        rows: dict[str, dict[str, Any]] = {}
        for url in chosen:
            for manifest in await self._list(url, name=f"~{word}" if word else ""):
                name = str(manifest.get("name"))
                if manifest.get("type") in TYPES and word.lower() in name.lower():
                    row = search_row(manifest, f"{url.authority}/{name}")
                    rows.setdefault(row["name"], row)
        return list(rows.values())[:limit]

    def names(self, term: str) -> bool:
        """Whether a search's term begins with one of the servers' names."""
        first, slash, _ = term.partition("/")
        return bool(slash) and first in self._urls

    def _checked(self, manifest: Document, url: URL, platform: Platform | None) -> RemoteImage:
        kind = manifest.get("type")
        if kind not in TYPES:
            raise NotSupported(
                f"image {manifest.get('uuid')} is of type {kind}: zones are made of {', '.join(TYPES)}"
            )
        remote = remote_image(manifest, url)
        if platform is not None and not fits(normalize(platform), remote.config.platform):
            raise NotFound(
                f"image with reference {remote.reference or manifest['uuid']} was found but its platform "
                f"({remote.config.platform}) does not match the specified platform ({platform})"
            )
        return remote

    async def _named(self, reference: Reference) -> list[Document]:
        return await self._list(self._urls[reference.registry], name=reference.path)

    async def _list(self, url: URL, *, name: str) -> list[Document]:
        query = {"state": "active", **({"name": name} if name else {})}
        found = await self._ask(url, "images", query)
        if not isinstance(found, list):
            raise DataLoss(f"{url}: the list of images is no list")
        return [
            manifest for manifest in found if isinstance(manifest, dict) and _is_whole(manifest)
        ]

    async def _get(self, url: URL, uuid: str) -> Document:
        found = await self._ask(url, f"images/{uuid}", {})
        if not isinstance(found, dict) or not _is_whole(found) or found["uuid"] != uuid:
            raise DataLoss(f"{url}: the manifest of image {uuid} is damaged")
        return found

    async def _ask(self, url: URL, path: str, query: Mapping[str, str]) -> Any:
        """The JSON of an answer; NotFound, or the error in Go's words."""
        target = url.joinpath(path).with_query({**url.query, **query})
        try:
            async with self._session.get(
                target,
                ssl=_authorities() if url.scheme == "https" else True,
                timeout=self._timeout,
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            ) as response:
                if response.status != HTTPStatus.OK:
                    raise await _refusal(response)
                return await _json(response)
        except (aiohttp.ClientError, OSError) as error:
            raise APIError(f'Get "{target}": {go_words(error, target)}') from error


async def _refusal(response: aiohttp.ClientResponse) -> APIError:
    """What an answer of IMGAPI's says, {code, message}, when it is none of success."""
    raw = await response.content.read(MAX_ERROR_BYTES)
    stated = json_object(raw)
    code, message = str(stated.get("code") or "").lower(), str(stated.get("message") or "")
    words = ": ".join(filter(None, (code, message)))
    detail = f"GET {response.url}: {response.status} {raw[:500]!r}"
    if response.status == HTTPStatus.NOT_FOUND:
        return NotFound(words or "not found", detail=detail)
    return APIError(words or f"received unexpected HTTP status: {response.status}", detail=detail)


def remote_image(manifest: Document, url: URL) -> RemoteImage:
    """An IMGAPI manifest as an image.  The same manifest gives the same image ID everywhere."""
    uuid = str(manifest["uuid"])
    dataset = sha256(f"imgapi {uuid}".encode())
    config = parse_config(_config(manifest, dataset))
    files = manifest.get("files") or [{}]
    size = files[0].get("size")
    layer = Descriptor(MEDIA_TYPE, dataset, size if isinstance(size, int) else 0)
    raw = json.dumps(manifest, sort_keys=True).encode()
    return RemoteImage(
        reference=_reference(manifest, url),
        manifest=Manifest(
            MEDIA_TYPE,
            sha256(raw),
            Descriptor(MEDIA_TYPE, config.digest, len(config.raw)),
            (layer,),
        ),
        config=config,
        digest=None,
        imgapi=dict(manifest),
        server=str(url),
    )


def search_row(manifest: Document, name: str) -> dict[str, Any]:
    """A row of `docker search`.  Stars and officials are the Hub's."""
    return {
        "star_count": 0,
        "is_official": False,
        "name": name,
        "is_automated": False,
        "description": str(manifest.get("description") or ""),
    }


def _config(manifest: Document, dataset: Digest) -> bytes:
    created = str(manifest.get("published_at") or "")
    history = {
        "created": created,
        "created_by": f"imgadm import {manifest['uuid']}",
        "comment": str(manifest.get("homepage") or ""),
    }
    document = {
        "architecture": "amd64",
        "os": str(manifest.get("os") or "smartos"),
        "created": created,
        "comment": str(manifest.get("description") or ""),
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [dataset]},
        "history": [history],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _reference(manifest: Document, url: URL) -> Reference | None:
    """NAME:VERSION; None where docker has no such names."""
    with contextlib.suppress(InvalidParameter):
        text = f"{url.authority}/{manifest['name']}:{manifest['version']}"
        return Reference.parse(text)
    return None


def _is_whole(manifest: Mapping[str, Any]) -> bool:
    texts = all(isinstance(manifest.get(key), str) for key in ("uuid", "name", "version", "type"))
    return texts and is_uuid(manifest["uuid"])


async def _json(response: aiohttp.ClientResponse) -> Any:
    blocks, length = [], 0
    async for block in response.content.iter_any():
        length += len(block)
        if length > _MAX_ANSWER_BYTES:
            raise DataLoss(f"{response.url}: the answer is larger than {_MAX_ANSWER_BYTES} bytes")
        blocks.append(block)
    try:
        return json.loads(b"".join(blocks))
    except ValueError as error:
        raise DataLoss(f"{response.url}: the answer is not JSON") from error


@functools.cache
def _authorities() -> ssl.SSLContext:
    """The system's, read when a server needs them."""
    return ssl.create_default_context()
