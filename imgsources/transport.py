"""How registries are asked: which address answers, whom to trust, what to show of the user, in which words it fails.

    docker.io           the mirrors, each in turn, then https://registry-1.docker.io
    host[:port]         https; for insecure ones https without verification, then http
    127.0.0.0/8, ::1, localhost are always insecure, as for dockerd

    GET /v2/ -> 200                                       no credentials needed
             -> 401 Basic                                 name and password with each request
             -> 401 Bearer realm, service                 a token for `repository:PATH:ACTIONS` from realm

One object for one user's request: tokens, and what was learned of servers, go with it.  Network errors are
in Go's words.
"""

from __future__ import annotations

import asyncio
import base64
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
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from dockerapi.errors import (
    APIError,
    DataLoss,
    InvalidParameter,
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
from imgsources.references import DEFAULT_REGISTRY, Reference
from imgsources.sources import TransferBroken

log = logging.getLogger(__name__)

HUB = "https://registry-1.docker.io"
PULL, PUSH = "pull", "pull,push"
"""What a token is asked for."""

_READ_BUFFER_BYTES = 256 << 10
_REMEMBERED_S = 30.0
"""Certificates and registries may be replaced: not longer."""
T = TypeVar("T")
Scope = tuple[str, ...]
"""`repository:PATH:ACTIONS`, the one that is asked for first."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks: name and password, or an identity token from an earlier login instead of a password.

    `registry_token` is shown as it is.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def is_empty(self) -> bool:
        """Nothing to show: ask anonymously."""
        return not (self.username or self.identity_token or self.registry_token)


@dataclass(frozen=True, slots=True)
class Server:
    """A registry by its possible addresses; `credentials` only where the user's are meant for it."""

    addresses: tuple[tuple[URL, bool], ...]
    """(base URL, whether its certificate is verified), the preferred first."""
    credentials: Credentials | None


@dataclass(frozen=True, slots=True)
class Endpoint:
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
class Token:
    """What a token server gave; `expires` by the monotonic clock."""

    text: str
    refresh: str
    expires: float


@dataclass(frozen=True, slots=True)
class _Answered:
    """Which address of a server answered, and how it wants to be asked, until then (monotonic seconds)."""

    base: URL
    verifies: bool | ssl.SSLContext
    challenge: Challenge | None
    until: float


Answers = dict[tuple[tuple[URL, bool], ...], _Answered]
"""What is known of servers for a while, whoever asks: the next one need not look for them."""


class Transport:
    """Requests to registries, for one user.

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
        answers: Answers | None = None,
    ) -> None:
        self._answers: Answers = {} if answers is None else answers
        self._session = session
        self._mirrors = tuple(mirrors)
        self._insecure = tuple(insecure)
        self._insecure_networks = _networks(insecure)
        self._certificates = certificates
        self.auth = None if auth is None or auth.is_empty else auth
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout_s, sock_read=stall_timeout_s
        )
        self.ping_timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout_s, sock_read=connect_timeout_s
        )
        self._endpoints: dict[Server, Endpoint] = {}
        self._tokens: dict[tuple[str, str, Scope], Token] = {}
        self._served_by: dict[str, Server] = {}
        self._connecting = asyncio.Lock()

    # Which server -----------------------------------------------------------------------------------

    async def first_answer(
        self, reference: Reference, ask: Callable[[Endpoint], Awaitable[T]]
    ) -> T:
        """What the first server that can says; the last one's error if none can."""
        servers = self.servers(reference.registry, self.auth)
        served_by = self._served_by.get(reference.full_name)
        if served_by in servers:
            servers.remove(served_by)
            servers.insert(0, served_by)
        for server in servers[:-1]:
            try:
                answer = await ask(await self.connect(server))
            except APIError as error:
                log.info("%s: trying the next registry: %s", server.addresses[0][0], error)
                continue
            self._served_by[reference.full_name] = server
            return answer
        answer = await ask(await self.connect(servers[-1]))
        self._served_by[reference.full_name] = servers[-1]
        return answer

    def servers(self, registry: str, auth: Credentials | None) -> list[Server]:
        """Those that may have what is in a registry, the preferred first; the registry itself is the last."""
        if registry != DEFAULT_REGISTRY:
            found = addresses(f"https://{registry}", is_insecure=self.is_insecure(registry))
            return [Server(found, auth)]
        # The user's credentials are the Hub's; a mirror is another party.
        mirrors = [Server(self._mirror_addresses(mirror), None) for mirror in self._mirrors]
        return [*mirrors, Server(((URL(HUB), True),), auth)]

    def _mirror_addresses(self, mirror: str) -> tuple[tuple[URL, bool], ...]:
        url = URL(mirror if "://" in mirror else f"https://{mirror}")
        if url.scheme == "http":
            return ((url, True),)
        return addresses(str(url), is_insecure=self.is_insecure(url.authority))

    def is_insecure(self, authority: str) -> bool:
        """Whether a registry need not show a certificate that we trust."""
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

    async def connect(self, server: Server) -> Endpoint:
        """The first address of a server that answers, asked only once."""
        async with self._connecting:
            if server not in self._endpoints:
                self._endpoints[server] = await self._ping_first(server)
            return self._endpoints[server]

    async def _ping_first(self, server: Server) -> Endpoint:
        known = self._answers.get(server.addresses)
        if known is not None and known.until > time.monotonic():
            return Endpoint(known.base, known.verifies, known.challenge, server.credentials)
        for base, verifies in server.addresses[:-1]:
            try:
                return await self._ping(server, base, verifies)
            except APIError as error:
                log.debug("%s does not answer: %s", base, error)
        return await self._ping(server, *server.addresses[-1])

    async def _ping(self, server: Server, base: URL, verifies: bool) -> Endpoint:
        trust = await asyncio.to_thread(self.trust, base.authority) if verifies else False
        # Only the body of a blob may take its time; who does not answer this is not there.
        request = self.send("GET", base / "v2/", trust, {}, timeout=self.ping_timeout)
        async with request as response:
            found = Endpoint(base, trust, challenge_of(response), server.credentials)
            # As dockerd: who answers is there, and may serve manifests all the same.
            if response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                until = time.monotonic() + _REMEMBERED_S
                self._answers[server.addresses] = _Answered(base, trust, found.challenge, until)
            return found

    def trust(self, authority: str) -> ssl.SSLContext:
        """Whom to believe besides the system's authorities, and how to show who we are.

        InvalidParameter in dockerd's words for a certificate without its key, and the other way round.
        """
        folder = self._certificates and self._certificates / authority
        if not folder or not folder.is_dir():
            return _system_authorities()
        context = ssl.create_default_context()
        try:
            for file in sorted(folder.glob("*.crt")):
                context.load_verify_locations(file)
            for file in _client_certificates(folder):
                context.load_cert_chain(file, file.with_suffix(".key"))
        except OSError as error:
            raise APIError(f"cannot use the certificates in {folder}: {error}") from error
        return context

    # How to ask -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def ask(
        self,
        endpoint: Endpoint,
        where: str | URL,
        reference: Reference,
        headers: Mapping[str, str],
        *,
        method: str = "GET",
        scope: Scope | None = None,
        body: Callable[[], Any] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request as the user; a token that has run out, or lacks the scope, is renewed once.

        `where` is a path, or an URL that the registry gave: another origin is not told who asks.  `body` makes
        the body, once more for each try.
        """
        scope = scope or (f"repository:{reference.path}:{PULL}",)
        url = endpoint.base.join(where) if isinstance(where, URL) else _below(endpoint.base, where)
        is_foreign = url.origin() != endpoint.base.origin()
        challenge = None if is_foreign else endpoint.challenge
        what = _request_words(method, url, scope)
        authorization = await self._authorization(endpoint, challenge, scope, what)
        for is_last in (is_foreign, True):
            sent = {**headers, "Authorization": authorization} if authorization else {**headers}
            data = body() if body else None
            async with self.send(method, url, endpoint.verifies, sent, data=data) as response:
                challenge = challenge_of(response)
                if response.status != HTTPStatus.UNAUTHORIZED or challenge is None or is_last:
                    yield response
                    return
                if challenge.scheme == "basic" and authorization:
                    raise Unauthorized(
                        (await refusal(response, None)).message, detail=f"{url} refused us"
                    )
            self._forget_token(challenge, scope)
            authorization = await self._authorization(endpoint, challenge, scope, what)

    async def _authorization(
        self,
        endpoint: Endpoint,
        challenge: Challenge | None,
        scope: Scope,
        what: str,
    ) -> str:
        """The Authorization header's value; "" where none is asked for.  Errors begin with `what`, the request."""
        if challenge is None:
            return ""
        if endpoint.credentials is not None and endpoint.credentials.registry_token:
            return f"Bearer {endpoint.credentials.registry_token}"
        if challenge.scheme == "basic":
            basic = endpoint.basic
            if not basic:
                raise APIError(f"{what}no basic auth credentials")
            return basic
        key = (
            challenge.parameters.get("realm", ""),
            challenge.parameters.get("service", ""),
            scope,
        )
        token = self._tokens.get(key)
        if token is None or token.expires < time.monotonic():
            try:
                token = await self.fetch_token(endpoint, challenge, scope)
            except APIError as error:
                raise type(error)(f"{what}{error.message}", detail=error.detail) from error
            self._tokens[key] = token
        return f"Bearer {token.text}"

    def _forget_token(self, challenge: Challenge, scope: Scope) -> None:
        parameters = challenge.parameters
        self._tokens.pop((parameters.get("realm", ""), parameters.get("service", ""), scope), None)

    async def fetch_token(
        self, endpoint: Endpoint, challenge: Challenge, scope: Scope, *, offline: bool = False
    ) -> Token:
        """A token from the challenge's realm; Unauthorized if it refuses who asks."""
        if not challenge.parameters.get("realm"):
            raise APIError("no realm specified for token auth challenge")
        realm = URL(challenge.parameters["realm"])
        if realm.scheme not in ("http", "https"):
            raise APIError(f"invalid token realm {str(realm)!r}")
        service = challenge.parameters.get("service", "")
        auth = endpoint.credentials
        if auth is not None and auth.identity_token:
            form = {
                "service": service,
                "scope": " ".join(scope),
                "grant_type": "refresh_token",
                "refresh_token": auth.identity_token,
                "client_id": "zonegate",
            }
            request = self.send("POST", realm, endpoint.verifies, {}, data=form)
        else:
            query = [("service", service)] if service else []
            query += [("scope", one) for one in scope]
            if offline:
                query += [("offline_token", "true"), ("client_id", "zonegate")]
            if auth is not None:
                query.append(("account", auth.username))
            headers = {"Authorization": endpoint.basic} if endpoint.basic else {}
            request = self.send("GET", _with_query(realm, query), endpoint.verifies, headers)
        async with request as response:
            return await _read_token(response)

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: URL,
        verifies: bool | ssl.SSLContext,
        headers: Mapping[str, str],
        *,
        data: Any = None,
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
            self._forget(url)
            words = f'{method.capitalize()} "{url}": {go_words(error, url)}'
            raise APIError(words, detail=repr(error)) from error
        # Not released but closed if the block does not read to the end: what follows is the body.
        async with response:
            yield response

    def _forget(self, url: URL) -> None:
        """Who does not answer where it did is looked for again."""
        origin = url.origin()
        for tried, known in [*self._answers.items()]:
            if known.base.origin() == origin:
                del self._answers[tried]


# Pure decisions ------------------------------------------------------------------------------------


def _client_certificates(folder: Path) -> list[Path]:
    """Those of a folder of certs.d, each with its key beside it.  InvalidParameter, OSError."""
    names = {file.name for file in folder.iterdir()}
    for name in sorted(names):
        stem, _, kind = name.rpartition(".")
        if kind == "cert" and f"{stem}.key" not in names:
            raise InvalidParameter(
                f"missing key {stem}.key for client certificate {name}. "
                "CA certificates must use the extension .crt"
            )
        if kind == "key" and f"{stem}.cert" not in names:
            raise InvalidParameter(f"missing client certificate {stem}.cert for key {name}")
    return sorted(folder.glob("*.cert"))


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


def addresses(https: str, *, is_insecure: bool) -> tuple[tuple[URL, bool], ...]:
    """(base URL, whether its certificate is verified), the preferred first.  InvalidParameter."""
    try:
        url = URL(https)
    except ValueError as error:
        raise InvalidParameter(f"invalid registry address {https}: {error}") from error
    if not is_insecure:
        return ((url, True),)
    return ((url, False), (url.with_scheme("http").with_port(url.explicit_port), False))


def _below(base: URL, path: str) -> URL:
    """A path of a server, below the one that its address may have (a mirror's)."""
    return URL(f"{str(base).rstrip('/')}/{path}", encoded=True)


def _with_query(url: URL, query: Sequence[tuple[str, str]]) -> URL:
    """As Go's url.Values.Encode puts it: by key, and escaped."""
    pairs = sorted([*url.query.items(), *query], key=lambda pair: pair[0])
    return URL(f"{url.with_query(None)}?{urlencode(pairs)}", encoded=True)


def _request_words(method: str, url: URL, scope: Scope) -> str:
    """How dockerd begins an error of getting leave for a request: not at all where it pushes."""
    if PUSH in scope[0]:
        return ""
    # It asks for a manifest by HEAD first.
    verb = "Head" if method == "GET" and "/manifests/" in url.path else method.capitalize()
    return f'{verb} "{url}": '


def challenge_of(response: aiohttp.ClientResponse) -> Challenge | None:
    """The challenge to answer; bearer where there is a choice."""
    if response.status != HTTPStatus.UNAUTHORIZED:
        return None
    offered = parse_challenges(response.headers.getall("WWW-Authenticate", []))
    known = [challenge for challenge in offered if challenge.scheme in ("bearer", "basic")]
    return min(known, key=lambda challenge: challenge.scheme != "bearer") if known else None


async def _read_token(response: aiohttp.ClientResponse) -> Token:
    if response.status != HTTPStatus.OK:
        raise await refusal(response, None)
    document = json_object(await read(response, MAX_ERROR_BYTES, "token"))
    text = document.get("token") or document.get("access_token")
    if not isinstance(text, str) or not text:
        raise APIError("authorization server did not include a token in the response")
    expires_in = document.get("expires_in")
    seconds = expires_in if isinstance(expires_in, int) and expires_in > 0 else 60
    refresh = document.get("refresh_token")
    return Token(
        text=text,
        refresh=refresh if isinstance(refresh, str) else "",
        expires=time.monotonic() + seconds * 0.9,
    )


async def read(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """The whole body; DataLoss if it is longer than `limit` bytes."""
    blocks: list[bytes] = []
    length = 0
    async for block in body(response, skip=0):
        length += len(block)
        if length > limit:
            raise DataLoss(f"{what} is larger than {limit} bytes")
        blocks.append(block)
    return b"".join(blocks)


async def body(response: aiohttp.ClientResponse, *, skip: int) -> AsyncIterator[bytes]:
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
