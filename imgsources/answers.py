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
    NotFound,
    PullAccessDenied,
    TooManyRequests,
    Unauthorized,
)
from imgsources.references import Reference

MAX_ERROR_BYTES = 64 << 10

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
    """The error that an answer other than success stands for."""
    try:
        raw = await response.content.read(MAX_ERROR_BYTES)
    except (aiohttp.ClientError, OSError):
        raw = b""
    code, message = _first_error(json_object(raw))
    words = f"{code.lower().replace('_', ' ')}: {message}" if code else message
    detail = f"{response.method} {response.url}: {response.status} {raw[:500]!r}"
    return refused(response.status, code, words, reference, detail)


def refused(
    status: int, code: str, words: str, reference: Reference | None, detail: str
) -> APIError:
    """The error for a status and a code; `words` are the registry's, `reference` what was asked for."""
    suffix = f": {words}" if words else ""
    match status:
        case 429:
            return TooManyRequests(words or "toomanyrequests: Too Many Requests", detail=detail)
        case 403 if code not in ("DENIED", "UNAUTHORIZED", ""):
            return Forbidden(words, detail=detail)
        case 401 | 403 if reference is not None:
            return PullAccessDenied(reference.familiar_name, detail=detail)
        case 401 | 403:
            return Unauthorized(words or "unauthorized: authentication required", detail=detail)
        case 404 if reference is not None and code == "NAME_UNKNOWN":
            return NotFound(
                f"repository {reference.familiar_name} not found{suffix}", detail=detail
            )
        case 404 if reference is not None and code in ("MANIFEST_UNKNOWN", "NOT_FOUND", ""):
            return NotFound(f"manifest for {reference} not found{suffix}", detail=detail)
        case 404:
            return NotFound(words or "not found", detail=detail)
    phrase = f"{status} {_phrase(status)}".strip()
    return APIError(words or f"received unexpected HTTP status: {phrase}", detail=detail)


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


def _first_error(document: Mapping[str, Any]) -> tuple[str, str]:
    """(code, message) of a registry's error body; empty where it has another form."""
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else document
    if not isinstance(first, dict):
        return "", str(first)
    message = first.get("message") or first.get("details") or first.get("detail") or ""
    return str(first.get("code") or "").upper(), message if isinstance(message, str) else ""
