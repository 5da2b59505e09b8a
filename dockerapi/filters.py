"""`filters=` of the query in its two encodings.  No I/O.

{"label": ["a", "b=c"]}            docker-py
{"label": {"a": true, "b=c": true}}  CLI, compose; a false value still counts as set
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from dockerapi.errors import InvalidParameter


class Filters:
    """Values by key; immutable.  An absent key has no values."""

    def __init__(self, values: Mapping[str, Sequence[str]] | None = None) -> None:
        self._values = {key: tuple(found) for key, found in (values or {}).items()}

    @classmethod
    def parse(cls, text: str | None) -> Filters:
        """InvalidParameter("invalid filter") for anything but the two encodings; "" is none."""
        if not text:
            return cls()
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InvalidParameter("invalid filter", detail=str(error)) from error
        if data is None:
            return cls()
        if not isinstance(data, dict):
            raise InvalidParameter("invalid filter")
        values: dict[str, list[str]] = {}
        for key, found in data.items():
            if not isinstance(found, (list, dict)) or not all(isinstance(v, str) for v in found):
                raise InvalidParameter("invalid filter")
            values[key] = list(found)
        return cls(values)

    def accept(self, *known: str) -> None:
        """InvalidParameter(`invalid filter 'x'`) where a key is not among `known`."""
        for key in self._values:
            if key not in known:
                raise InvalidParameter(f"invalid filter '{key}'")

    def get(self, key: str) -> tuple[str, ...]:
        """Its values, in the order sent."""
        return self._values.get(key, ())

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __bool__(self) -> bool:
        return bool(self._values)

    def boolean(self, key: str) -> bool | None:
        """None if absent; InvalidParameter(`invalid filter 'dangling=[zz]'`) if not a boolean."""
        values = self.get(key)
        if not values:
            return None
        words = {"1": True, "true": True, "0": False, "false": False}
        found = {words.get(value.lower()) for value in values}
        if len(found) != 1 or None in found:
            raise InvalidParameter(f"invalid filter '{key}=[{' '.join(values)}]'")
        return found.pop()

    def match_labels(self, labels: Mapping[str, str], key: str = "label") -> bool:
        """Every `k` is there and every `k=v` equals."""
        for wanted in self.get(key):
            name, equals, value = wanted.partition("=")
            if name not in labels or (equals and labels[name] != value):
                return False
        return True
