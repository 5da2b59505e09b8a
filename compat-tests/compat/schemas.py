"""Answers against the Engine API's own description (`api_v1.51.json`, made by describe.py).

A fault is a line `.HostConfig.Binds: null`: where, and what is wrong there.  In `where` each element of a list is `[]`
and each key of a map `.*`, so that one line stands for all of them.  Go leaves out what is `omitempty`: only required
keys must be there; keys that the description does not know are told.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_TIMES = ("dateTime", "date-time")

Schema = dict[str, Any]


@cache
def description() -> Schema:
    """{routes: {`GET /info`: {query, responses}}, definitions}."""
    found: Schema = json.loads(Path(__file__).with_name("api_v1.51.json").read_text())
    return found


def faults(route: str, answer: Any, status: int | str = 200) -> list[str]:
    """What is not as described, each line once; `route` is `GET /info`."""
    responses = description()["routes"][route]["responses"]
    if str(status) not in responses:
        return [f"status {status} is not described"]
    schema = responses[str(status)]
    return [": a body where none is described"] if schema is None else _unique(schema, answer)


def error_faults(answer: Any) -> list[str]:
    """What is wrong with the body of a refusal."""
    return _unique({"$ref": "#/definitions/ErrorResponse"}, answer)


def _unique(schema: Schema, answer: Any) -> list[str]:
    return list(dict.fromkeys(_faults(schema, answer, "")))


@cache
def _named(name: str) -> Schema:
    return _whole(description()["definitions"][name])


def _whole(schema: Schema) -> Schema:
    """References followed, `allOf` made one."""
    if "$ref" in schema:
        return _named(schema["$ref"].rpartition("/")[2])
    if "allOf" not in schema:
        return schema
    merged = {key: value for key, value in schema.items() if key != "allOf"}
    for part in map(_whole, schema["allOf"]):
        properties = merged.get("properties", {}) | part.get("properties", {})
        required = [*merged.get("required", ()), *part.get("required", ())]
        merged = part | merged
        if properties:
            merged |= {"type": "object", "properties": properties, "required": required}
    return merged


def _faults(schema: Schema, value: Any, where: str) -> list[str]:
    schema = _whole(schema)
    kind = schema.get("type", "object" if "properties" in schema else "")
    if not kind:
        return []
    if value is None:
        return [] if schema.get("x-nullable") else [f"{where}: null"]
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return [f"{where}: {value!r:.60} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is none of {schema['enum']}"]
    if kind == "string" and schema.get("format") in _TIMES and not _TIME.fullmatch(value):
        return [f"{where}: {value!r} is no time"]
    if kind == "array":
        items = schema.get("items", {})
        return [fault for item in value for fault in _faults(items, item, f"{where}[]")]
    return _object_faults(schema, value, where) if kind == "object" else []


def _object_faults(schema: Schema, value: dict[str, Any], where: str) -> list[str]:
    known = schema.get("properties", {})
    others = schema.get("additionalProperties")
    found = [f"{where}.{key}: missing" for key in schema.get("required", ()) if key not in value]
    for key, item in value.items():
        if key in known:
            found += _faults(known[key], item, f"{where}.{key}")
        elif isinstance(others, dict):
            found += _faults(others, item, f"{where}.*")
        elif known and others is not True:
            found.append(f"{where}.{key}: not described")
    return found
