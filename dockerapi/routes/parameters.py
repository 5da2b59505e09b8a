"""Query parameters and headers as Go reads them.  Pure functions from text to values."""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from dockerapi.errors import APIError, InvalidParameter
from dockerapi.models.system import AuthConfig

SECOND_NS = 1_000_000_000
_UNIX = re.compile(r"([+-]?\d{1,18})(?:\.(\d+))?")
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?)?(Z|[+-]\d\d:\d\d)?"
)
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": SECOND_NS,
    "m": 60 * SECOND_NS,
    "h": 3600 * SECOND_NS,
}


def quoted(text: str) -> str:
    """Go's %q, near enough."""
    return json.dumps(text, ensure_ascii=False)


def boolean(text: str) -> bool:
    """All is true but "", 0, no, false and none."""
    return text.strip().lower() not in {"", "0", "no", "false", "none"}


def integer(text: str, reader: str = "Atoi") -> int:
    """As strconv.Atoi or ParseInt; APIError in its words: to dockerd that is a fault of its own (500)."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise APIError(f"strconv.{reader}: parsing {quoted(text)}: invalid syntax")
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise APIError(f"strconv.{reader}: parsing {quoted(text)}: value out of range")
    return int(text)


def optional_integer(text: str) -> int | None:
    """None for ""."""
    return integer(text) if text else None


def terminal_size(name: str, text: str) -> int:
    """`h` or `w` of resize, an unsigned 32 bit number; `name` is height or width."""
    if not re.fullmatch(r"-?[0-9]+", text):
        raise InvalidParameter(f"invalid resize {name} {quoted(text)}: invalid syntax")
    if len(text) > 10 or not 0 <= int(text) < 2**32:
        raise InvalidParameter(f"invalid resize {name} {quoted(text)}: value out of range")
    return int(text)


def tail(text: str) -> int | None:
    """Lines from the end; None (all) for "all", garbage and negative numbers."""
    if not re.fullmatch(r"[+]?[0-9]{1,18}", text):
        return None
    return int(text)


def timestamp_ns(text: str, *, now_ns: int | None = None) -> int | None:
    """`since` and `until`: unix seconds with a fraction, or RFC 3339; None for "".

    With `now_ns` also a Go duration, counted back from it.  APIError for all else, as dockerd has it.
    """
    if not text:
        return None
    if found := _UNIX.fullmatch(text):
        return _unix_ns(found[1], found[2] or "")
    if found := _RFC3339.fullmatch(text):
        return _rfc3339_ns(text, found)
    if now_ns is not None and (back := duration_ns(text)) is not None:
        return now_ns - back
    seconds, dot, fraction = text.partition(".")
    wrong = fraction if dot and seconds.isdecimal() else text
    raise APIError(f"strconv.ParseInt: parsing {quoted(wrong)}: invalid syntax")


def _unix_ns(seconds: str, fraction: str) -> int:
    nanoseconds = int(fraction[:9].ljust(9, "0"))
    # As Go: the fraction is added to the seconds, whatever their sign.
    return int(seconds) * SECOND_NS + nanoseconds


def _rfc3339_ns(text: str, found: re.Match[str]) -> int:
    day, minutes, seconds, fraction, zone, day_zone = found.groups()
    zone = (zone or day_zone or "Z").replace("Z", "+00:00")
    try:
        moment = datetime.fromisoformat(f"{day}T{minutes or '00:00'}:{seconds or '00'}{zone}")
    except ValueError as error:
        raise APIError(f"strconv.ParseInt: parsing {quoted(text)}: invalid syntax") from error
    return int(moment.timestamp()) * SECOND_NS + int((fraction or "").ljust(9, "0"))


def duration_ns(text: str) -> int | None:
    """`1h30m`, `-1.5s`; None if it is no Go duration."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total, at = 0.0, 0
    for found in _DURATION.finditer(rest):
        if found.start() != at:
            return None
        total += float(found[1]) * _UNIT_NS[found[2]]
        at = found.end()
    if at != len(rest) or not rest or total > 2**63:
        return None
    return sign * round(total)


def registry_logins(header: str | None) -> dict[str, AuthConfig]:
    """X-Registry-Config: credentials by registry, "" for Docker Hub's.  Garbage is none, as in dockerd."""
    value = _decoded(header)
    found: dict[str, AuthConfig] = {}
    for name, entry in value.items() if isinstance(value, dict) else ():
        host = name.removeprefix("https://").removeprefix("http://").partition("/")[0]
        try:
            auth = AuthConfig.model_validate(entry)
        except ValidationError:
            continue
        found["" if host == "index.docker.io" else host] = auth
    return found


def registry_auth(header: str | None) -> AuthConfig | None:
    """X-Registry-Auth: base64url JSON, padded or not.  Garbage is no credentials, as in dockerd."""
    try:
        auth = AuthConfig.model_validate(_decoded(header))
    except ValidationError:
        return None
    return auth if auth != AuthConfig() else None


def _decoded(header: str | None) -> Any:
    """base64url JSON, padded or not; None for what is none."""
    text = (header or "").strip().rstrip("=").replace("+", "-").replace("/", "_")
    try:
        return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
