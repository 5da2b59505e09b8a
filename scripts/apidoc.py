"""docs/api.md, made from the routes, their handlers and models:  python scripts/apidoc.py [--check]

What an endpoint takes is found in the code: the query parameters that its handler reads, the body model that it decodes.
What the Engine API's description has beyond that must have a reason, or this fails: nothing is passed over in silence.
Words about an endpoint stand in the docstring of its handler, a paragraph of its own each:

    Differs: what is other than with dockerd.
    SmartOS: what is other there.
    Unread: NAME, NAME: why these parameters, or fields of the body, have no effect.

`--check` writes nothing and fails where the file is not what would be written.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from dockerapi.app import ROUTES
from dockerapi.models.base import Body
from dockerapi.routes.base import Route
from dockerapi.versions import CURRENT, MINIMUM, Version

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs/api.md"
DESCRIPTION = ROOT / "compat-tests/compat/api_v1.51.json"
_READERS = {"text", "texts", "has", "boolean", "integer"}
_PARAGRAPH = re.compile(r"^(Differs|SmartOS|Unread): (.*)", re.DOTALL)
_GROUPS = (
    ("Containers", ("/containers",)),
    ("Execs", ("/exec",)),
    ("Images", ("/images", "/distribution", "/commit", "/build", "/session", "/grpc")),
    ("Networks", ("/networks",)),
    ("Volumes", ("/volumes",)),
    ("System", ("/_ping", "/version", "/info", "/auth", "/events", "/system")),
    ("Swarm", ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs")),
    ("Plugins", ("/plugins",)),
)
_TOLD = (
    "DNSNames",
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
)
"""Fields of an endpoint that a client may send, but only the server knows."""


@dataclass(frozen=True)
class Words:
    """What a handler's docstring says."""

    differs: str
    smartos: str
    unread: dict[str, str]


@dataclass(frozen=True)
class Endpoint:
    """A route, and what was found in its code."""

    route: Route
    query: list[str]
    query_since: dict[str, Version]
    model: type[Body] | None
    words: Words

    @property
    def key(self) -> str:
        return f"{self.route.method} {self.route.path}"

    @property
    def refusal(self) -> str:
        """The reason where its handler never returns; "" of what is built."""
        returned = self.route.handle.__annotations__.get("return")
        return (self.route.handle.__doc__ or "") if returned == "NoReturn" else ""


@cache
def description() -> dict[str, Any]:
    """The Engine API's own, as compat-tests has it."""
    found: dict[str, Any] = json.loads(DESCRIPTION.read_text())
    return found


# -- what the code reads


@dataclass
class Reading:
    """Collects from a handler and all functions of the routes that it calls."""

    known: set[str]
    query: set[str]
    models: set[type[Body]]
    since: dict[str, Version]
    """Of parameters that are passed over below a version."""

    def of(self, function: types.FunctionType, seen: set[object]) -> None:
        if function in seen:
            return
        seen.add(function)
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        names = function.__globals__
        for node in ast.walk(tree):
            self._look(node, names)
            self._look_for_version(node, names)
            target = _target(node, names)
            if isinstance(target, types.FunctionType) and target.__module__.startswith(
                "dockerapi.routes"
            ):
                self.of(target, seen)
            elif isinstance(target, tuple | dict):
                # A table of parameters.
                self.query |= {text for text in _texts(target) if text in self.known}

    def _look(self, node: ast.AST, names: dict[str, Any]) -> None:
        if not isinstance(node, ast.Call):
            return
        if isinstance(node.func, ast.Attribute) and node.func.attr == "filters":
            self.query.add("filters")
        first = node.args[0] if node.args else None
        is_read = isinstance(node.func, ast.Attribute) and node.func.attr in _READERS
        for argument in node.args:
            if isinstance(argument, ast.Constant) and (
                (is_read and argument is first) or argument.value in self.known
            ):
                self.query.add(str(argument.value))
        if isinstance(first, ast.Name):
            model = names.get(first.id)
            is_body = isinstance(node.func, ast.Attribute) and node.func.attr == "body"
            if is_body and isinstance(model, type) and issubclass(model, Body):
                self.models.add(model)

    def _look_for_version(self, node: ast.AST, names: dict[str, Any]) -> None:
        """`call.text("x") if call.since(V1_41) else ""`, `call.since(V1_41) and call.boolean("x")`."""
        match node:
            case ast.IfExp(
                test=ast.Call(func=ast.Attribute(attr="since"), args=[ast.Name(id=name)])
            ):
                guarded: list[ast.AST] = [node.body]
            case ast.BoolOp(
                op=ast.And(),
                values=[
                    ast.Call(func=ast.Attribute(attr="since"), args=[ast.Name(id=name)]),
                    *rest,
                ],
            ):
                guarded = [*rest]
            case _:
                return
        inner = Reading(self.known, set(), set(), {})
        for part in guarded:
            for child in ast.walk(part):
                inner._look(child, names)
        self.since |= dict.fromkeys(inner.query, names[name])


def _target(node: ast.AST, names: dict[str, Any]) -> object:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return getattr(names.get(node.value.id), node.attr, None)
    return None


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | tuple):
        for inner in value:
            yield from _texts(inner)


def words(handle: object) -> Words:
    """Of a docstring."""
    found: dict[str, list[str]] = {"Differs": [], "SmartOS": [], "Unread": []}
    for paragraph in inspect.cleandoc(getattr(handle, "__doc__", "") or "").split("\n\n"):
        if match := _PARAGRAPH.match(" ".join(paragraph.split())):
            found[match[1]].append(match[2])
    unread: dict[str, str] = {}
    for row in found["Unread"]:
        names, _, reason = row.partition(": ")
        unread |= dict.fromkeys(names.split(", "), reason.rstrip("."))
    return Words(" ".join(found["Differs"]), " ".join(found["SmartOS"]), unread)


def endpoints() -> list[Endpoint]:
    """All routes, as the table has them."""
    rows = []
    for route in ROUTES:
        described = description()["routes"].get(f"{route.method} {route.path}", {})
        reading = Reading(set(described.get("query", ())), set(), set(), {})
        reading.of(route.handle, set())  # type: ignore[arg-type]
        model = next(iter(reading.models), None) if len(reading.models) == 1 else None
        told = words(route.handle)
        rows.append(Endpoint(route, sorted(reading.query), reading.since, model, told))
    return rows


# -- what the description has beyond


def complaints(rows: list[Endpoint]) -> list[str]:
    """Parameters and fields that are described, not read, and without a reason; endpoints without a route."""
    by_key = {row.key: row for row in rows}
    found = [f"{key}: not routed" for key in description()["routes"] if key not in by_key]
    for row in rows:
        if row.refusal:
            continue
        described = description()["routes"].get(row.key, {})
        missing = set(described.get("query", ())) - set(row.query) - row.words.unread.keys()
        found += [f"{row.key}: parameter {name} is not read" for name in sorted(missing)]
        if described.get("body") and row.model:
            fields = set(unread_fields(described["body"], row.model))
            found += [
                f"{row.key}: field {name} is not read"
                for name in sorted(fields - row.words.unread.keys())
            ]
        stale = row.words.unread.keys() & set(row.query)
        found += [f"{row.key}: {name} is read after all" for name in sorted(stale)]
    return found


def unread_fields(schema: dict[str, Any], model: type[Body], where: str = "") -> Iterator[str]:
    """Dotted names of described fields that the model does not have."""
    models = {(field.alias or name).lower(): field for name, field in model.model_fields.items()}
    for name, inner in _properties(schema).items():
        field = models.get(name.lower())  # as Go, without regard to case
        if field is None:
            if name not in _TOLD:
                yield f"{where}{name}"
            continue
        deeper = next(_models(field.annotation), None)
        if deeper is not None:
            element = _whole(inner)
            element = element.get("items") or element.get("additionalProperties") or element
            if isinstance(element, dict):
                yield from unread_fields(element, deeper, f"{where}{name}.")


def _models(annotation: object) -> Iterator[type[Body]]:
    if isinstance(annotation, type) and issubclass(annotation, Body):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _whole(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = description()["definitions"][schema["$ref"].rpartition("/")[2]]
        return _whole(found)
    return schema


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    schema = _whole(schema)
    found = dict(schema.get("properties", {}))
    for part in schema.get("allOf", ()):
        found |= _properties(part)
    return found


# -- the page


def page(rows: list[Endpoint]) -> str:
    """All of docs/api.md."""
    built = sum(not row.refusal for row in rows)
    lines = [
        "# The API, endpoint by endpoint",
        "",
        "Made by `scripts/apidoc.py` from the routes; do not edit it here.",
        "",
        f"Versions {MINIMUM} to {CURRENT}; {built} endpoints of {len(rows)} do what they say, the others are refused with a reason.",
        "*on* is where an endpoint works, for every version, as in dockerd; the number behind a parameter is the first version that",
        "reads it. Options of create, and more of what differs on SmartOS: [divergence.md](divergence.md).",
    ]
    for title, paths in _GROUPS:
        lines += [
            "",
            f"## {title}",
            "| endpoint | on | parameters | what differs |",
            "|---|---|---|---|",
        ]
        lines += [_line(row) for row in rows if row.route.path.startswith(paths)]
    lines += ["", *_bodies(rows)]
    return "\n".join(lines) + "\n"


def _line(row: Endpoint) -> str:
    query = ", ".join(
        f"`{name}`" + (f" ({row.query_since[name]})" if name in row.query_since else "")
        for name in row.query
    )
    told = [row.refusal and f"refused: {row.refusal}", row.words.differs]
    told += [
        f"`{name}` has no effect: {reason}."
        for name, reason in sorted(row.words.unread.items())
        if not name[0].isupper()
    ]
    told += [row.words.smartos and f"**SmartOS:** {row.words.smartos}"]
    cells = [f"`{row.key}`", _platforms(row), query, " ".join(filter(None, told))]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _platforms(row: Endpoint) -> str:
    if row.refusal:
        return "no"
    return "Linux" if row.words.smartos.startswith("refused") else "both"


def _bodies(rows: list[Endpoint]) -> Iterator[str]:
    yield "## Request bodies"
    yield "Fields that are read, by endpoint; what is in other fields has no effect."
    for row in rows:
        if row.model is None or row.refusal:
            continue
        names = [field.alias or name for name, field in row.model.model_fields.items()]
        yield ""
        yield f"`{row.key}`: {', '.join(names)}."
        unread = [f"{n} ({why})" for n, why in row.words.unread.items() if n[0].isupper()]
        if unread:
            yield f"Not read: {', '.join(unread)}."


def main(arguments: list[str]) -> int:
    rows = endpoints()
    wrong = complaints(rows)
    text = page(rows)
    if "--check" not in arguments:
        TARGET.write_text(text)
    elif TARGET.read_text() != text:
        wrong.append("docs/api.md is not up to date: run python scripts/apidoc.py")
    sys.stderr.writelines(f"{line}\n" for line in wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
