"""The Engine API's own description, cut to what answers are checked against:

    python -m compat.describe v1.51.yaml > compat-tests/compat/api_v1.51.json      (needs PyYAML)

Kept are paths, parameters and the shapes of answers and request bodies; texts and examples are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_KEYS = {"$ref", "type", "format", "items", "properties", "required", "enum", "allOf"}
_KEYS |= {"additionalProperties", "x-nullable"}
_MESSAGES = {
    "POST /images/create": "CreateImageInfo",
    "POST /images/load": "BuildInfo",
    "POST /images/{name}/push": "PushImageInfo",
    "POST /build": "BuildInfo",
}
"""Streams of messages whose shape the paths do not name, the definitions do."""
_NEVER_MADE = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs")
"""Of these only errors are answered: there is no swarm."""

Schema = dict[str, Any]


def shape(value: Any, *, names: bool = False) -> Any:
    """A schema without its texts; `names`: the keys are names of properties."""
    if isinstance(value, list):
        return [shape(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        str(key): shape(item, names=key == "properties" and not names)
        for key, item in value.items()
        if names or key in _KEYS
    }


def route(path: str, method: str, operation: Schema) -> Schema:
    """{query, body: schema or null, responses: {status: schema or null}}."""
    name = f"{method.upper()} {path}"
    answers: Schema = {}
    for status, answer in operation["responses"].items():
        if int(status) < 400 and not path.startswith(_NEVER_MADE):
            answers[str(status)] = shape(answer["schema"]) if "schema" in answer else None
    if name in _MESSAGES:
        answers["200"] = {"$ref": f"#/definitions/{_MESSAGES[name]}"}
    rows = operation.get("parameters", ())
    query = [row["name"] for row in rows if row.get("in") == "query"]
    bodies = [shape(row["schema"]) for row in rows if row.get("in") == "body"]
    if path.startswith(_NEVER_MADE):
        bodies = []
    return {"query": query, "body": bodies[0] if bodies else None, "responses": answers}


def references(value: Any) -> set[str]:
    """Names of definitions that a shape needs at once."""
    if isinstance(value, list):
        return set().union(*map(references, value), set())
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"].rpartition("/")[2]} if isinstance(value.get("$ref"), str) else set()
    return own.union(*map(references, value.values()), set())


def described(text: Schema) -> Schema:
    """{routes, definitions}, only the definitions that some route needs."""
    routes = {
        f"{method.upper()} {path}": route(path, method, operation)
        for path, operations in text["paths"].items()
        for method, operation in operations.items()
    }
    definitions: Schema = {}
    wanted = references(routes) | {"ErrorResponse"}
    while wanted:
        name = wanted.pop()
        definitions[name] = shape(text["definitions"][name])
        wanted |= references(definitions[name]) - definitions.keys()
    return {"routes": routes, "definitions": dict(sorted(definitions.items()))}


if __name__ == "__main__":
    import yaml

    text = yaml.safe_load(Path(sys.argv[1]).read_text())
    print(json.dumps(described(text), indent=1))
