"""Words of a Dockerfile: quotes taken off, `$NAME` and `${NAME:-word}` filled in.  Pure.

BuildKit's rules, which are a small part of the shell's: quotes may stand anywhere in a word, inside of double
quotes a backslash escapes only quote, dollar and itself.  `${NAME#pattern}` and its kin are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from dockerapi.errors import InvalidParameter

_SPECIAL = frozenset("@*#?-$!0")


def expanded(word: str, env: Mapping[str, str]) -> str:
    """The word as its instruction sees it.  InvalidParameter(`failed to process "X": ...`)."""
    try:
        return _Scanner(word, env).until("")
    except ValueError as error:
        raise InvalidParameter(
            f"failed to process {json.dumps(word, ensure_ascii=False)}: {error}"
        ) from error


class _Scanner:
    """A place in a word.  ValueError with BuildKit's words."""

    def __init__(self, text: str, env: Mapping[str, str]) -> None:
        self._text = text
        self._env = env
        self._at = 0

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        character = self._peek()
        self._at += 1
        return character

    def until(self, stop: str) -> str:
        """Up to the character `stop`, which is read as well; "" = to the end."""
        found = ""
        while character := self._next():
            if stop and character == stop:
                return found
            match character:
                case "'":
                    found += self._single_quoted()
                case '"':
                    found += self._double_quoted()
                case "$":
                    found += self._dollar()
                case "\\":
                    found += self._next()
                case _:
                    found += character
        if stop:
            raise ValueError("syntax error: missing '}'")
        return found

    def _single_quoted(self) -> str:
        found = ""
        while character := self._next():
            if character == "'":
                return found
            found += character
        raise ValueError("unexpected end of statement while looking for matching single-quote")

    def _double_quoted(self) -> str:
        found = ""
        while character := self._next():
            match character:
                case '"':
                    return found
                case "$":
                    found += self._dollar()
                case "\\":
                    escaped = self._next()
                    found += escaped if escaped and escaped in '"$\\' else f"\\{escaped}"
                case _:
                    found += character
        raise ValueError("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        if self._peek() != "{":
            name = self._name()
            return self._env.get(name, "") if name else "$"
        self._next()
        match self._peek():
            case "":
                raise ValueError("syntax error: missing '}'")
            case "{" | "}" | ":":
                raise ValueError("syntax error: bad substitution")
        name = self._name()
        modifier = self._next()
        if modifier == "}":
            return self._env.get(name, "")
        if modifier == "":
            raise ValueError("syntax error: missing '}'")
        counts_empty = modifier == ":"
        if counts_empty:
            modifier += self._next()
        if modifier[-1] not in "-+?":
            raise ValueError(f"unsupported modifier ({modifier}) in substitution")
        return self._modified(name, modifier, self.until("}"))

    def _modified(self, name: str, modifier: str, word: str) -> str:
        value = self._env.get(name)
        is_there = value is not None and not (modifier[0] == ":" and value == "")
        match modifier[-1]:
            case "-":
                return value or "" if is_there else word
            case "+":
                return word if is_there else ""
            case _:
                if is_there:
                    return value or ""
                state = "unset" if value is None else "empty"
                raise ValueError(f"{name}: {word or f'is not allowed to be {state}'}")

    def _name(self) -> str:
        first = self._peek()
        if first.isdigit():
            return self._while(str.isdigit)
        if first and first in _SPECIAL:
            return self._next()
        return self._while(lambda character: character.isalnum() or character == "_")

    def _while(self, holds: Callable[[str], bool]) -> str:
        found = ""
        while self._peek() and holds(self._peek()):
            found += self._next()
        return found
