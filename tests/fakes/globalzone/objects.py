"""Machine objects as `vmadm lookup` filters them and `vmadm events` tells their changes.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Vm = dict[str, Any]


def changes(old: Any, new: Any, path: tuple[str | int, ...] = ()) -> list[dict[str, Any]]:
    """From one object to the next, in vminfod's words: path, prettyPath, action, oldValue, newValue.

    Lists of objects (nics, disks) change as a whole under the index of the element.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[dict[str, Any]] = []
        for key in [*old, *(key for key in new if key not in old)]:
            found += _pair(old, new, key, (*path, key))
        return found
    if isinstance(old, list) and isinstance(new, list):
        before, after = dict(enumerate(old)), dict(enumerate(new))
        found = []
        for index in sorted({*before, *after}):
            found += _pair(before, after, index, (*path, index))
        return found
    return [] if old == new else [_change(path, "changed", old, new)]


def _pair(
    old: Mapping[Any, Any], new: Mapping[Any, Any], key: Any, path: tuple[str | int, ...]
) -> list[dict[str, Any]]:
    if key not in new:
        return [_change(path, "removed", old[key], None)]
    if key not in old:
        return [_change(path, "added", None, new[key])]
    return changes(old[key], new[key], path)


def _change(path: tuple[str | int, ...], action: str, old: Any, new: Any) -> dict[str, Any]:
    return {
        "path": list(path),
        "prettyPath": ".".join(map(str, path)),
        "action": action,
        "oldValue": old,
        "newValue": new,
    }


def values(vm: Mapping[str, Any], key: str) -> list[Any]:
    """What a filter's key names: `state`, `tags.x`, `nics.0.ip`, `nics.*.ip`; several for a `*`."""
    return list(_values(vm, key.split(".")))


def _values(value: Any, parts: Sequence[str]) -> Iterator[Any]:
    if not parts:
        yield value
    elif isinstance(value, list):
        if parts[0] == "*":
            for item in value:
                yield from _values(item, parts[1:])
        elif parts[0].isdigit() and int(parts[0]) < len(value):
            yield from _values(value[int(parts[0])], parts[1:])
    elif isinstance(value, dict):
        # Keys of tags and metadata may hold dots themselves.
        whole = ".".join(parts)
        if whole in value:
            yield value[whole]
        elif parts[0] in value:
            yield from _values(value[parts[0]], parts[1:])


def matches(vm: Mapping[str, Any], filters: Mapping[str, str]) -> bool:
    """All of `key=value` and `key=~regex` hold."""
    return all(_matches(vm, key, wanted) for key, wanted in filters.items())


def _matches(vm: Mapping[str, Any], key: str, wanted: str) -> bool:
    texts = [_text(value) for value in values(vm, key) if value is not None]
    if wanted.startswith("~"):
        return any(re.search(wanted[1:], text) for text in texts)
    if wanted in ("", "-"):  # what is not set is shown as a dash
        return not texts or "" in texts
    return wanted in texts


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
