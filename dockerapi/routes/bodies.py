"""Request bodies: JSON with the errors of Go's decoder.  Pure functions on bytes."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from dockerapi.errors import InvalidParameter
from dockerapi.models.base import Body

B = TypeVar("B", bound=Body)
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+\s*(;.*)?", re.DOTALL)
_BLANK = " \t\r\n"
_GO_NAMES = {
    "AuthConfig": "registry.AuthConfig",
    "ContainerCreate": "container.CreateRequest",
    "ContainerUpdate": "container.UpdateConfig",
    "ExecCreate": "container.ExecOptions",
    "ExecStart": "container.ExecStartOptions",
    "NetworkConnect": "network.ConnectOptions",
    "NetworkCreate": "network.CreateRequest",
    "NetworkDisconnect": "network.DisconnectOptions",
    "VolumeCreate": "volume.CreateOptions",
}
"""dockerd's types, which stand in what a client is told of a wrong body."""


def check_content_type(content_type: str | None, *, has_body: bool) -> None:
    """Without a body there need be none; else it is application/json."""
    if content_type is None and not has_body:
        return
    text = content_type or ""
    if not _MEDIA_TYPE.fullmatch(text.strip()):
        reason = "no media type" if not text.strip() else "expected slash after first token"
        raise InvalidParameter(f"malformed Content-Type header ({text}): mime: {reason}")
    if text.partition(";")[0].strip().lower() != "application/json":
        raise InvalidParameter(
            f"unsupported Content-Type header ({text}): must be 'application/json'"
        )


def decode(data: bytes, model: type[B]) -> B:
    """A model from JSON; InvalidParameter(`invalid JSON: ...`)."""
    text = data.decode("utf-8", "replace")
    if not text.strip(_BLANK):
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    value = parse(text)
    if value is None:  # Go leaves the struct as it was
        return model()
    if not isinstance(value, dict):
        raise InvalidParameter(
            f"invalid JSON: json: cannot unmarshal {_kind(value)} into Go value of type {_GO_NAMES[model.__name__]}"
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidParameter(f"invalid JSON: {_mismatch(error, model)}") from error


def parse(text: str) -> Any:
    """One JSON value and nothing behind it."""
    try:
        start = len(text) - len(text.lstrip(_BLANK))
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise InvalidParameter(f"invalid JSON: {_complaint(error)}") from error
    except RecursionError as error:
        raise InvalidParameter("invalid JSON: exceeded max depth") from error
    except ValueError as error:  # an integer of thousands of digits
        raise InvalidParameter("invalid JSON: json: cannot unmarshal number") from error
    if text[end:].strip(_BLANK):
        raise InvalidParameter("unexpected content after JSON")
    return value


def _no_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError("Expecting value", name, 0)


_DECODER = json.JSONDecoder(parse_constant=_no_constant)

# Python's complaint -> what Go says after "invalid character 'x' ".
_GO_WORDS = {
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Illegal trailing comma before end of array": "looking for beginning of value",
    "Expecting value": "looking for beginning of value",
    "Expecting ':' delimiter": "after object key",
    "Invalid control character at": "in string literal",
    "Invalid \\escape": "in string escape code",
    "Invalid \\uXXXX escape": "in \\u hexadecimal character escape",
}


def _complaint(error: json.JSONDecodeError) -> str:
    text, at = error.doc, error.pos
    if error.msg.startswith("Invalid \\escape"):
        at += 1
    while at < len(text) and text[at] in _BLANK and not error.msg.startswith("Invalid control"):
        at += 1
    if at >= len(text) or error.msg.startswith("Unterminated string"):
        return "unexpected EOF"
    if error.msg == "Expecting value" and (literal := _broken_literal(text, at)):
        return literal
    words = next((go for python, go in _GO_WORDS.items() if error.msg.startswith(python)), None)
    if words is None:  # "Expecting ',' delimiter"
        words = "after object key:value pair" if _in_object(text[:at]) else "after array element"
    return f"invalid character {_character(text[at])} {words}"


def _broken_literal(text: str, at: int) -> str | None:
    """`tru]`, `nul`: Go tells which letter it missed."""
    for literal in ("true", "false", "null"):
        if text[at] != literal[0]:
            continue
        same = 0
        while same < len(literal) and text[at + same : at + same + 1] == literal[same]:
            same += 1
        if at + same >= len(text):
            return "unexpected EOF"
        if same < len(literal):
            return (
                f"invalid character {_character(text[at + same])} in literal {literal} "
                f"(expecting '{literal[same]}')"
            )
    return None


def _in_object(before: str) -> bool:
    """Whether the innermost bracket left open is a brace; strings are skipped."""
    opened = []
    for bracket in re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', before, re.DOTALL):
        if bracket in "[{":
            opened.append(bracket)
        elif bracket in "]}" and opened:
            opened.pop()
    return bool(opened) and opened[-1] == "{"


def _character(character: str) -> str:
    special = {
        "'": r"'\''",
        '"': "'\"'",
        "\n": r"'\n'",
        "\r": r"'\r'",
        "\t": r"'\t'",
        "\\": r"'\\'",
    }
    if character in special:
        return special[character]
    return f"'{character}'" if character.isprintable() else rf"'\x{ord(character):02x}'"


def _kind(value: Any) -> str:
    """Go's name of a JSON value's type."""
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


_GO_TYPES = {
    "int": "int64",
    "string": "string",
    "bool": "bool",
    "list": "[]string",
    "dict": "map[string]string",
    "model": "struct",
    "float": "float64",
}


def _mismatch(error: ValidationError, model: type[Body]) -> str:
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
    go_type = _GO_TYPES.get(first["type"].partition("_")[0], "value")
    return (
        f"json: cannot unmarshal {_kind(first['input'])} into Go struct field "
        f"{_GO_NAMES[model.__name__].partition('.')[2]}.{path} of type {go_type}"
    )
