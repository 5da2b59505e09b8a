"""What registries and the network answer when they do not give what was asked for.

Challenges (WWW-Authenticate), error bodies ({"errors": [{code, message}]}), failures to connect: each
becomes a value or an error in the words of dockerd, whose network errors are Go's.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from dockerapi.errors import (
    APIError,
    Forbidden,
    InvalidParameter,
    NotFound,
    PullAccessDenied,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from imgsources.references import Reference

MAX_ERROR_BYTES = 64 << 10

_JSON = re.compile(r"application/(json|[\w.]+\+json)\b")
_MANY, _UNKNOWN = "TOOMANYREQUESTS", "UNKNOWN"
_CODES: Mapping[str, type[APIError]] = {
    _UNKNOWN: APIError,
    "UNSUPPORTED": InvalidParameter,
    "UNAUTHORIZED": Unauthorized,
    "DENIED": Forbidden,
    "UNAVAILABLE": Unavailable,
    _MANY: TooManyRequests,
    "DIGEST_INVALID": InvalidParameter,
    "SIZE_INVALID": InvalidParameter,
    "NAME_INVALID": InvalidParameter,
    "TAG_INVALID": InvalidParameter,
    "NAME_UNKNOWN": NotFound,
    "MANIFEST_UNKNOWN": NotFound,
    "MANIFEST_INVALID": InvalidParameter,
    "MANIFEST_UNVERIFIED": InvalidParameter,
    "MANIFEST_BLOB_UNKNOWN": InvalidParameter,
    "BLOB_UNKNOWN": NotFound,
    "BLOB_UPLOAD_UNKNOWN": NotFound,
    "BLOB_UPLOAD_INVALID": NotFound,
    "RANGE_INVALID": InvalidParameter,
    "PAGINATION_NUMBER_INVALID": InvalidParameter,
}
"""The kinds of errors that the distribution specification has codes for; any other code counts as unknown."""
_MESSAGES = {
    "UNAUTHORIZED": "authentication required",
    "DENIED": "requested access to the resource is denied",
    "NAME_UNKNOWN": "repository name not known to registry",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "BLOB_UNKNOWN": "blob unknown to registry",
    _MANY: "too many requests",
}
_BY_STATUS = {401: "UNAUTHORIZED", 403: "DENIED", 429: _MANY}
_CHALLENGED = {"invalid_token": "UNAUTHORIZED", "insufficient_scope": "DENIED"}
"""RFC 6750: what is wrong with the token that we showed."""
_PARAMETER = re.compile(
    r'(?:(?P<scheme>[A-Za-z]+)\s+)?(?P<key>[A-Za-z_]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,"]+))'
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """How a registry wants to be asked: `scheme` in lower case (basic, bearer) and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Sequence[str]) -> tuple[Challenge, ...]:
    """The challenges of WWW-Authenticate headers, in order; what has no parameters is left out."""
    challenges: list[Challenge] = []
    for header in headers:
        parameters: dict[str, str] | None = None
        for match in _PARAMETER.finditer(header):
            if match["scheme"]:
                parameters = {}
                challenges.append(Challenge(match["scheme"].lower(), parameters))
            if parameters is not None:
                quoted = match["quoted"]
                value = match["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters[match["key"].lower()] = value
    return tuple(challenges)


def go_words(error: Exception, url: URL) -> str:
    """What Go's net/http says for this; clients and their users know these words."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"dial tcp: lookup {url.host}: no such host"
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or str(error)
            return f"tls: failed to verify certificate: x509: {reason}"
        case aiohttp.ClientConnectorSSLError():
            if getattr(error.os_error, "reason", "") in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
                return "http: server gave HTTP response to HTTPS client"
            return f"tls: {getattr(error.os_error, 'reason', None) or error.os_error}"
        case aiohttp.ConnectionTimeoutError():
            return f"dial tcp {url.host}:{url.port}: i/o timeout"
        case TimeoutError():
            return "net/http: timeout awaiting response headers"
        case aiohttp.ClientConnectorError():
            return f"dial tcp {url.host}:{url.port}: connect: {_system_words(error.os_error)}"
        case aiohttp.ServerDisconnectedError():
            return "EOF"
        case aiohttp.TooManyRedirects():
            return "stopped after 10 redirects"
        case OSError():
            return _system_words(error)
    return str(error) or type(error).__name__


def _system_words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) or error.errno is None:
        # Several addresses were tried and each failed in its own way; the text lists them.
        return "connection refused" if "refused" in str(error).lower() else str(error)
    return os.strerror(error.errno).lower()


async def refusal(response: aiohttp.ClientResponse, reference: Reference | None) -> APIError:
    """The error that an answer other than success stands for; `reference` is what was to be pulled."""
    try:
        raw = await response.content.read(MAX_ERROR_BYTES)
    except (aiohttp.ClientError, OSError):
        raw = b""
    detail = f"{response.method} {response.url}: {response.status} {raw[:500]!r}"
    challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
    stated = stated_error(
        response.status, response.headers.get("Content-Type", ""), raw, challenges
    )
    if isinstance(stated, str):
        return APIError(stated, detail=detail)
    return refused(*stated, reference, detail)


def stated_error(
    status: int, content_type: str, raw: bytes, challenges: Sequence[Challenge]
) -> tuple[str, str] | str:
    """(code, message) of an answer in the registries' protocol, or the whole message where it states none.

    What is not JSON is the message as it is, under the code that the status stands for.
    """
    if not 400 <= status < 500:
        return f"received unexpected HTTP status: {status} {_phrase(status)}".strip()
    for challenge in challenges:
        if code := _CHALLENGED.get(challenge.parameters.get("error", "")):
            return code, challenge.parameters.get("error_description", "") or _MESSAGES[code]
    if not _JSON.match(content_type):
        return _BY_STATUS.get(status, _UNKNOWN), raw.decode(errors="replace")
    document = json_object(raw)
    if isinstance(details := document.get("details"), str) and details:
        return _BY_STATUS.get(status, _UNKNOWN), details
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    if isinstance(first, dict):
        code = str(first.get("code") or "").upper()
        message = first.get("message")
        known = code if code in _CODES else _UNKNOWN
        return known, message if isinstance(message, str) and message else _MESSAGES.get(known, "")
    if status == HTTPStatus.UNAUTHORIZED:
        return "UNAUTHORIZED", _MESSAGES["UNAUTHORIZED"]
    text = json.dumps(raw.decode(errors="replace"))
    return (
        f"error parsing HTTP {status} response body: no error details found in HTTP response body: "
        f"{text}"
    )


def refused(code: str, message: str, reference: Reference | None, detail: str) -> APIError:
    """The error for what a registry stated, of the kind that its code stands for."""
    words = f"{code.lower().replace('_', ' ') if code != _MANY else 'toomanyrequests'}: {message}"
    if reference is not None:
        match code:
            case "DENIED":
                return PullAccessDenied(reference.familiar_name, words=words, detail=detail)
            case "MANIFEST_UNKNOWN":
                return NotFound(f"manifest for {reference} not found: {words}", detail=detail)
            case "NAME_UNKNOWN":
                name = reference.familiar_name
                return NotFound(f"repository {name} not found: {words}", detail=detail)
    return _CODES.get(code, APIError)(words, detail=detail)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def json_object(raw: bytes) -> dict[str, Any]:
    """The object in these bytes; {} if there is none."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
