"""A client of OCI distribution registries: manifests, blobs, tags, login.

    docker.io           the mirrors, each in turn, then https://registry-1.docker.io
    host[:port]         https; for insecure ones https without verification, then http
    127.0.0.0/8, ::1, localhost are always insecure, as for dockerd

    GET /v1/search?q=&n=                                  the only thing left of the first protocol
    GET /v2/ -> 200                                       no credentials needed
             -> 401 Basic                                 name and password with each request
             -> 401 Bearer realm, service                 a token for `repository:PATH:pull` from realm

A client is made for one request of one user: it keeps tokens and what it has learned of its servers, but
nothing of it outlives the object.  Manifests and configs are verified here, by their bytes; blobs are
verified by who reads them.  Messages and statuses are dockerd's, where Go's network errors included.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import ipaddress
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from dockerapi.errors import (
    APIError,
    DataLoss,
    InvalidParameter,
    NotFound,
    PullAccessDenied,
    Unauthorized,
)
from imgsources.answers import (
    MAX_ERROR_BYTES,
    Challenge,
    go_words,
    json_object,
    parse_challenges,
    refusal,
)
from imgsources.oci import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    SCHEMA1_TYPES,
    Descriptor,
    Digest,
    Manifest,
    Platform,
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

log = logging.getLogger(__name__)

HUB = "https://registry-1.docker.io"
INDEX = "https://index.docker.io"
_HUB_NAMES = ("", "docker.io", "index.docker.io", "registry-1.docker.io")

MAX_MANIFEST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 16 << 20
_READ_BUFFER_BYTES = 256 << 10

# Schema 1 is asked for as well: a registry then sends it instead of "unknown", and we can say why not.
_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES, *SCHEMA1_TYPES))
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks: name and password, or an identity token from an earlier login instead of a password."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def is_empty(self) -> bool:
        """Nothing to show: ask anonymously."""
        return not (self.username or self.identity_token)


@dataclass(frozen=True, slots=True)
class Login:
    """What a good login answers; `identity_token` is "" where the registry gives none."""

    status: str
    identity_token: str


@dataclass(frozen=True, slots=True)
class _Server:
    """A registry by its possible addresses; `credentials` only where the user's are meant for it."""

    addresses: tuple[tuple[URL, bool], ...]
    """(base URL, whether its certificate is verified), the preferred first."""
    credentials: Credentials | None


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """An address of a server that has answered."""

    base: URL
    verifies: bool | ssl.SSLContext
    challenge: Challenge | None
    credentials: Credentials | None

    @property
    def basic(self) -> str:
        """The Authorization header for name and password; "" without."""
        auth = self.credentials
        if auth is None or not auth.username:
            return ""
        return "Basic " + base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    refresh: str
    expires: float


class RegistryClient:
    """Registries as an image source, for one user.

    `session` must have `auto_decompress=False`: layers are verified as they are stored.  `mirrors` are
    base URLs; `insecure` are host names, host:port, or networks in CIDR form.  `certificates` is a folder
    as /etc/docker/certs.d: HOST[:PORT]/{*.crt (authorities), NAME.cert with NAME.key (ours)}.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        mirrors: Sequence[str] = (),
        insecure: Sequence[str] = (),
        auth: Credentials | None = None,
        certificates: Path | None = None,
        connect_timeout_s: float = 15,
        stall_timeout_s: float = 60,
    ) -> None:
        self._session = session
        self._mirrors = tuple(mirrors)
        self._insecure = tuple(insecure)
        self._insecure_networks = _networks(insecure)
        self._certificates = certificates
        self._auth = None if auth is None or auth.is_empty else auth
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout_s, sock_read=stall_timeout_s
        )
        self._ping_timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout_s, sock_read=connect_timeout_s
        )
        self._endpoints: dict[_Server, _Endpoint] = {}
        self._tokens: dict[tuple[str, str, str], _Token] = {}
        self._served_by: dict[str, _Server] = {}
        self._connecting = asyncio.Lock()

    async def resolve(self, reference: Reference, platform: Platform | None) -> RemoteImage:
        """Manifest and config, verified.

        NotFound if there is no such manifest, or none for the platform (this machine's if None).
        """
        wanted = reference.with_default_tag()
        return await self._first_answer(
            wanted, lambda endpoint: self._resolve_at(endpoint, wanted, platform)
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

            async def begin(endpoint: _Endpoint) -> aiohttp.ClientResponse:
                request = self._get_blob(endpoint, reference, descriptor.digest, offset)
                return await stack.enter_async_context(request)

            response = await self._first_answer(reference, begin)
            yield _body(response, skip=offset if response.status == HTTPStatus.OK else 0)

    async def list_tags(self, reference: Reference) -> tuple[str, ...]:
        """Every tag of the reference's repository, as the registry orders them."""
        return await self._first_answer(
            reference, lambda endpoint: self._list_tags_at(endpoint, reference)
        )

    async def login(self, auth: Credentials, server: str = "") -> Login:
        """Check credentials with a registry ("" = the Hub; a host, or a URL as clients send).

        Unauthorized in dockerd's words if they are refused.
        """
        host = _host_of(server)
        endpoint = await self._connect(self._servers(host, auth)[-1])
        url = endpoint.base / "v2/"
        token = None
        if endpoint.challenge is not None and endpoint.challenge.scheme == "bearer":
            token = await self._fetch_token(endpoint, endpoint.challenge, "", offline=True)
        authorization = f"Bearer {token.text}" if token else endpoint.basic
        headers = {"Authorization": authorization} if authorization else {}
        async with self._send("GET", url, endpoint.verifies, headers) as response:
            if response.status == HTTPStatus.UNAUTHORIZED:
                raise Unauthorized(f'Get "{url}": unauthorized: incorrect username or password')
            if response.status != HTTPStatus.OK:
                raise await refusal(response, None)
        return Login("Login Succeeded", token.refresh if token else "")

    async def search(self, term: str, limit: int) -> list[dict[str, Any]]:
        """Rows of `docker search`: the Hub's index knows any name, HOST/NAME is asked of that registry."""
        host, slash, word = term.partition("/")
        if not slash or not ({".", ":"} & set(host) or host == "localhost"):
            host, word = "", term.removeprefix("library/")
        addresses = (
            _addresses(f"https://{host}", is_insecure=self._is_insecure(host))
            if host
            else ((URL(INDEX), True),)
        )
        query = {"q": word, "n": str(limit)}
        for base, verifies in addresses[:-1]:
            with contextlib.suppress(APIError):
                return await self._search_at(base, verifies, query)
        return await self._search_at(*addresses[-1], query)

    async def _search_at(
        self, base: URL, verifies: bool, query: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        trust = await asyncio.to_thread(self._trust, base.authority) if verifies else False
        basic = _Endpoint(base, trust, None, self._auth).basic
        headers = {"X-Docker-Token": "true"} | ({"Authorization": basic} if basic else {})
        url = (base / "v1/search").with_query(query)
        async with self._send("GET", url, trust, headers, timeout=self._ping_timeout) as response:
            if response.status != HTTPStatus.OK:
                raise APIError(f"Unexpected status code {response.status}")
            document = json_object(await _read(response, MAX_CONFIG_BYTES, "search result"))
        found = document.get("results")
        if not isinstance(found, list):
            raise APIError("error decoding registry search results")
        return [row for row in found if isinstance(row, dict)]

    # Which server -----------------------------------------------------------------------------------

    async def _first_answer(
        self, reference: Reference, ask: Callable[[_Endpoint], Awaitable[T]]
    ) -> T:
        """What the first server that can says; the last one's error if none can."""
        servers = self._servers(reference.registry, self._auth)
        served_by = self._served_by.get(reference.full_name)
        if served_by in servers:
            servers.remove(served_by)
            servers.insert(0, served_by)
        for server in servers[:-1]:
            try:
                answer = await ask(await self._connect(server))
            except APIError as error:
                log.info("%s: trying the next registry: %s", server.addresses[0][0], error)
                continue
            self._served_by[reference.full_name] = server
            return answer
        answer = await ask(await self._connect(servers[-1]))
        self._served_by[reference.full_name] = servers[-1]
        return answer

    def _servers(self, registry: str, auth: Credentials | None) -> list[_Server]:
        if registry != DEFAULT_REGISTRY:
            addresses = _addresses(f"https://{registry}", is_insecure=self._is_insecure(registry))
            return [_Server(addresses, auth)]
        # The user's credentials are the Hub's; a mirror is another party.
        mirrors = [_Server(self._mirror_addresses(mirror), None) for mirror in self._mirrors]
        return [*mirrors, _Server(((URL(HUB), True),), auth)]

    def _mirror_addresses(self, mirror: str) -> tuple[tuple[URL, bool], ...]:
        url = URL(mirror if "://" in mirror else f"https://{mirror}")
        if url.scheme == "http":
            return ((url, True),)
        return _addresses(str(url), is_insecure=self._is_insecure(url.authority))

    def _is_insecure(self, authority: str) -> bool:
        try:
            host = URL(f"http://{authority}").host or ""
        except ValueError:
            return False
        if host == "localhost" or authority in self._insecure or host in self._insecure:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or any(address in network for network in self._insecure_networks)

    async def _connect(self, server: _Server) -> _Endpoint:
        """The first address of a server that answers, asked only once."""
        async with self._connecting:
            if server not in self._endpoints:
                self._endpoints[server] = await self._ping_first(server)
            return self._endpoints[server]

    async def _ping_first(self, server: _Server) -> _Endpoint:
        for base, verifies in server.addresses[:-1]:
            try:
                return await self._ping(server, base, verifies)
            except APIError as error:
                log.debug("%s does not answer: %s", base, error)
        return await self._ping(server, *server.addresses[-1])

    async def _ping(self, server: _Server, base: URL, verifies: bool) -> _Endpoint:
        trust = await asyncio.to_thread(self._trust, base.authority) if verifies else False
        # Only the body of a blob may take its time; who does not answer this is not there.
        request = self._send("GET", base / "v2/", trust, {}, timeout=self._ping_timeout)
        async with request as response:
            if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise await refusal(response, None)
            return _Endpoint(base, trust, _challenge(response), server.credentials)

    def _trust(self, authority: str) -> ssl.SSLContext:
        """Whom to believe besides the system's authorities, and how to show who we are."""
        folder = self._certificates and self._certificates / authority
        if not folder or not folder.is_dir():
            return _system_authorities()
        context = ssl.create_default_context()
        try:
            for file in folder.glob("*.crt"):
                context.load_verify_locations(file)
            for file in folder.glob("*.cert"):
                context.load_cert_chain(file, file.with_suffix(".key"))
        except OSError as error:
            raise APIError(f"cannot use the certificates in {folder}: {error}") from error
        return context

    # What to ask ------------------------------------------------------------------------------------

    async def _resolve_at(
        self, endpoint: _Endpoint, reference: Reference, platform: Platform | None
    ) -> RemoteImage:
        target = reference.digest or reference.tag or ""
        raw, media_type = await self._get_manifest(endpoint, reference, target)
        digest = sha256(raw)
        if _is_index(raw, media_type):
            entry = choose_platform(parse_index(raw, media_type), platform)
            raw, media_type = await self._get_manifest(endpoint, reference, entry.digest)
        manifest = parse_manifest(raw, media_type, name=reference.full)
        config = parse_config(await self._get_config(endpoint, reference, manifest))
        check_layers(manifest, config)
        if platform is not None and normalize(config.platform) not in runnable(platform):
            raise NotFound(
                f"image with reference {reference} was found but its platform ({config.platform}) "
                f"does not match the specified platform ({platform})"
            )
        return RemoteImage(reference, manifest, config, digest)

    async def _get_manifest(
        self, endpoint: _Endpoint, reference: Reference, target: str
    ) -> tuple[bytes, str]:
        """(bytes, media type) of a manifest or an index, by tag or digest."""
        path = f"v2/{reference.path}/manifests/{target}"
        async with self._ask(endpoint, path, reference, {"Accept": _ACCEPT}) as response:
            if response.status != HTTPStatus.OK:
                raise await refusal(response, reference)
            raw = await _read(response, MAX_MANIFEST_BYTES, "manifest")
            claimed = response.headers.get("Docker-Content-Digest", "")
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        expected = target if ":" in target else claimed
        if expected.startswith("sha256:") and sha256(raw) != expected:
            raise DataLoss(f"manifest verification failed for digest {expected}")
        known = media_type in (*MANIFEST_TYPES, *INDEX_TYPES, *SCHEMA1_TYPES)
        return raw, media_type if known else ""

    async def _get_config(
        self, endpoint: _Endpoint, reference: Reference, manifest: Manifest
    ) -> bytes:
        digest = manifest.config.digest
        async with self._get_blob(endpoint, reference, digest, 0) as response:
            raw = await _read(response, MAX_CONFIG_BYTES, "image configuration")
        if sha256(raw) != digest:
            raise DataLoss(f"image config verification failed for digest {digest}")
        return raw

    @asynccontextmanager
    async def _get_blob(
        self, endpoint: _Endpoint, reference: Reference, digest: Digest, offset: int
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A 200 with the whole blob, or a 206 that starts at `offset`."""
        path = f"v2/{reference.path}/blobs/{digest}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._ask(endpoint, path, reference, headers) as response:
            if response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                error = await refusal(response, reference)
                if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise TransferBroken(error.message, detail=error.detail)
                raise error
            if response.status == HTTPStatus.PARTIAL_CONTENT:
                _check_range(response, offset)
            yield response

    async def _list_tags_at(self, endpoint: _Endpoint, reference: Reference) -> tuple[str, ...]:
        tags: list[str] = []
        path: str | None = f"v2/{reference.path}/tags/list"
        while path is not None:
            async with self._ask(endpoint, path, reference, {}) as response:
                if response.status != HTTPStatus.OK:
                    raise await refusal(response, reference)
                document = json_object(await _read(response, MAX_CONFIG_BYTES, "tag list"))
                following = response.links.get("next")
            found = document.get("tags") or []
            tags += [tag for tag in found if isinstance(tag, str)]
            # The link may be absolute: keep to the server that we know.
            url = following.get("url") if following else None
            path = str(URL(str(url)).relative()).lstrip("/") if url and found else None
        return tuple(tags)

    # How to ask -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _ask(
        self, endpoint: _Endpoint, path: str, reference: Reference, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET as the user; a token that has run out, or lacks the scope, is renewed once."""
        scope = f"repository:{reference.path}:pull"
        url = endpoint.base.join(URL(f"/{path}", encoded=True))
        challenge = endpoint.challenge
        authorization = await self._authorization(endpoint, challenge, scope, reference)
        for is_last in (False, True):
            sent = {**headers, "Authorization": authorization} if authorization else {**headers}
            async with self._send("GET", url, endpoint.verifies, sent) as response:
                challenge = _challenge(response)
                if response.status != HTTPStatus.UNAUTHORIZED or challenge is None or is_last:
                    yield response
                    return
                if challenge.scheme == "basic" and authorization:
                    raise Unauthorized(
                        (await refusal(response, None)).message, detail=f"{url} refused us"
                    )
            self._forget_token(challenge, scope)
            authorization = await self._authorization(endpoint, challenge, scope, reference)

    async def _authorization(
        self,
        endpoint: _Endpoint,
        challenge: Challenge | None,
        scope: str,
        reference: Reference,
    ) -> str:
        """The Authorization header's value; "" where none is asked for."""
        if challenge is None:
            return ""
        if challenge.scheme == "basic":
            basic = endpoint.basic
            if not basic:
                target = f"{reference.path}/manifests/{reference.digest or reference.tag}"
                raise APIError(f'Head "{endpoint.base}v2/{target}": no basic auth credentials')
            return basic
        key = (
            challenge.parameters.get("realm", ""),
            challenge.parameters.get("service", ""),
            scope,
        )
        token = self._tokens.get(key)
        if token is None or token.expires < time.monotonic():
            try:
                token = await self._fetch_token(endpoint, challenge, scope)
            except Unauthorized as error:
                if endpoint.credentials is not None:
                    raise
                raise PullAccessDenied(reference.familiar_name, detail=error.message) from error
            self._tokens[key] = token
        return f"Bearer {token.text}"

    def _forget_token(self, challenge: Challenge, scope: str) -> None:
        parameters = challenge.parameters
        self._tokens.pop((parameters.get("realm", ""), parameters.get("service", ""), scope), None)

    async def _fetch_token(
        self, endpoint: _Endpoint, challenge: Challenge, scope: str, *, offline: bool = False
    ) -> _Token:
        """A token from the challenge's realm; Unauthorized if it refuses who asks."""
        realm = URL(challenge.parameters.get("realm", ""))
        if realm.scheme not in ("http", "https"):
            raise APIError(f"invalid token realm {str(realm)!r}")
        form = {"service": challenge.parameters.get("service", ""), "scope": scope}
        form = {key: value for key, value in form.items() if value}
        auth = endpoint.credentials
        if auth is not None and auth.identity_token:
            form |= {"grant_type": "refresh_token", "refresh_token": auth.identity_token}
            form |= {"client_id": "zonegate"}
            request = self._send("POST", realm, endpoint.verifies, {}, data=form)
        else:
            if offline:
                form |= {"offline_token": "true", "client_id": "zonegate"}
            if auth is not None:
                form |= {"account": auth.username}
            basic = endpoint.basic
            headers = {"Authorization": basic} if basic else {}
            request = self._send("GET", realm.update_query(form), endpoint.verifies, headers)
        async with request as response:
            return await _read_token(response, endpoint)

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        url: URL,
        verifies: bool | ssl.SSLContext,
        headers: Mapping[str, str],
        *,
        data: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request.  What the network does wrong becomes an APIError with Go's words for it.

        A redirect to another origin loses the Authorization header (aiohttp sees to it).
        """
        try:
            response = await self._session.request(
                method,
                url,
                headers={"Accept-Encoding": "identity", **headers},
                data=data,
                ssl=verifies,
                timeout=timeout or self._timeout,
                read_bufsize=_READ_BUFFER_BYTES,
            )
        except (aiohttp.ClientError, OSError) as error:
            words = f'{method.capitalize()} "{url}": {go_words(error, url)}'
            raise APIError(words, detail=repr(error)) from error
        # Not released but closed if the block does not read to the end: what follows is the body.
        async with response:
            yield response


# Pure decisions -------------------------------------------------------------------------------------


def _networks(
    insecure: Sequence[str],
) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in insecure if "/" in text)
    except ValueError as error:
        raise InvalidParameter(f"invalid insecure registry: {error}") from error


@functools.cache
def _system_authorities() -> ssl.SSLContext:
    """One context for all registries without certificates of their own, made when first needed."""
    return ssl.create_default_context()


def _host_of(server: str) -> str:
    """The registry meant by a login's server address, such as https://index.docker.io/v1/."""
    host = server.partition("://")[2] or server
    host = host.partition("/")[0]
    return DEFAULT_REGISTRY if host in _HUB_NAMES else host


def _addresses(https: str, *, is_insecure: bool) -> tuple[tuple[URL, bool], ...]:
    try:
        url = URL(https)
    except ValueError as error:
        raise InvalidParameter(f"invalid registry address {https}: {error}") from error
    if not is_insecure:
        return ((url, True),)
    return ((url, False), (url.with_scheme("http").with_port(url.explicit_port), False))


def _challenge(response: aiohttp.ClientResponse) -> Challenge | None:
    """The challenge to answer; bearer where there is a choice."""
    if response.status != HTTPStatus.UNAUTHORIZED:
        return None
    offered = parse_challenges(response.headers.getall("WWW-Authenticate", []))
    known = [challenge for challenge in offered if challenge.scheme in ("bearer", "basic")]
    return min(known, key=lambda challenge: challenge.scheme != "bearer") if known else None


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


async def _read_token(response: aiohttp.ClientResponse, endpoint: _Endpoint) -> _Token:
    if response.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST):
        error = await refusal(response, None)
        reason = (
            "incorrect username or password" if endpoint.credentials else "authentication required"
        )
        raise Unauthorized(
            f'Get "{endpoint.base / "v2/"}": unauthorized: {reason}', detail=error.detail
        )
    if response.status != HTTPStatus.OK:
        raise await refusal(response, None)
    document = json_object(await _read(response, MAX_ERROR_BYTES, "token"))
    text = document.get("token") or document.get("access_token")
    if not isinstance(text, str) or not text:
        raise APIError("authorization server did not include a token in the response")
    expires_in = document.get("expires_in")
    seconds = expires_in if isinstance(expires_in, int) and expires_in > 0 else 60
    refresh = document.get("refresh_token")
    return _Token(
        text=text,
        refresh=refresh if isinstance(refresh, str) else "",
        expires=time.monotonic() + seconds * 0.9,
    )


async def _read(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """The whole body; DataLoss if it is longer than `limit` bytes."""
    blocks: list[bytes] = []
    length = 0
    async for block in _body(response, skip=0):
        length += len(block)
        if length > limit:
            raise DataLoss(f"{what} is larger than {limit} bytes")
        blocks.append(block)
    return b"".join(blocks)


async def _body(response: aiohttp.ClientResponse, *, skip: int) -> AsyncIterator[bytes]:
    """The body's bytes but the first `skip`: a server that knows no Range sends them all again."""
    try:
        async for block in response.content.iter_any():
            if skip >= len(block):
                skip -= len(block)
                continue
            yield block[skip:] if skip else block
            skip = 0
    except TimeoutError as error:
        raise TransferBroken(f"read tcp {response.url.host}: i/o timeout") from error
    except (aiohttp.ClientError, OSError) as error:
        raise TransferBroken("unexpected EOF", detail=repr(error)) from error


async def _nothing() -> AsyncIterator[bytes]:
    no_blocks: tuple[bytes, ...] = ()
    for block in no_blocks:
        yield block
