"""Answers against the Engine API's own description, of which `api_v1.51.json` is what these routes need.

Go's nil shows as null wherever a list, a map or a pointer may be, so null goes with every type; what is `omitempty` there
may be missing, so only required keys must be there.  Keys that the description does not know are told.
"""

from __future__ import annotations

import json
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

Schema = dict[str, Any]


@cache
def _description() -> Schema:
    found: Schema = json.loads(Path(__file__).with_name("api_v1.51.json").read_text())
    return found


def faults(route: str, answer: Any) -> list[str]:
    """What is not as described, one line each; `route` is `GET /info`."""
    return _faults(_description()["routes"][route], answer, "")


def _whole(schema: Schema) -> Schema:
    """References followed, `allOf` made one."""
    if "$ref" in schema:
        return _whole(_description()["definitions"][schema["$ref"].rpartition("/")[2]])
    merged = {key: value for key, value in schema.items() if key != "allOf"}
    for part in map(_whole, schema.get("allOf", ())):
        properties = merged.get("properties", {}) | part.get("properties", {})
        required = [*merged.get("required", ()), *part.get("required", ())]
        merged = part | merged
        if properties:
            merged |= {"type": "object", "properties": properties, "required": required}
    return merged


def _faults(schema: Schema, value: Any, where: str) -> list[str]:
    schema = _whole(schema)
    kind = schema.get("type", "object" if "properties" in schema else "")
    if value is None or not kind:
        return []
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return [f"{where}: {value!r:.60} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is none of {schema['enum']}"]
    if kind == "array":
        return [
            fault
            for number, item in enumerate(value)
            for fault in _faults(schema["items"], item, f"{where}[{number}]")
        ]
    return _object_faults(schema, value, where) if kind == "object" else []


def _object_faults(schema: Schema, value: dict[str, Any], where: str) -> list[str]:
    known = schema.get("properties", {})
    found = [f"{where}.{key}: missing" for key in schema.get("required", ()) if key not in value]
    for key, item in value.items():
        inner = known.get(key, schema.get("additionalProperties"))
        if inner is not None:
            found += _faults(inner, item, f"{where}.{key}")
        elif known:
            found.append(f"{where}.{key}: not described")
    return found
