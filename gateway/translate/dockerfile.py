"""Lines of a Dockerfile as instructions: continuations joined, comments left out, flags and words told apart.  Pure.

What an instruction means is left to others; an unknown one is an instruction as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from dockerapi.errors import InvalidParameter

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_FLAG = re.compile(r"(--\S*)(?:\s+|$)")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its name as written, `--flags`, and what stands behind them; `line` is all of it.

    `number` is that of its first line in the file, from 1.
    """

    name: str
    flags: tuple[str, ...]
    rest: str
    line: str
    number: int = 0
    has_gap: bool = False
    """A blank line stands between its continued ones."""


def instructions(text: str) -> list[Instruction]:
    """In order.  InvalidParameter("file with no instructions")."""
    found = [_instruction(*row) for row in _lines(text)]
    if not found:
        raise InvalidParameter("file with no instructions")
    return found


def _escape(lines: list[str]) -> str:
    """What `# escape=` says, which stands before everything else; a backslash if nothing does."""
    for line in lines:
        directive = _DIRECTIVE.fullmatch(line.strip())
        if directive is None:
            break
        if directive[1].lower() == "escape":
            if directive[2] not in ("\\", "`"):
                raise InvalidParameter(
                    f"invalid escape token '{directive[2]}' does not match ` or \\"
                )
            return directive[2]
    return "\\"


def _lines(text: str) -> Iterator[tuple[str, int, bool]]:
    """Logical lines; comments and blank lines also go from between continued ones."""
    lines = text.replace("\r\n", "\n").split("\n")
    mark = re.escape(_escape(lines))
    continued = re.compile(rf"(^|[^{mark}]){mark}[ \t]*$")
    joined, first, has_gap = "", 0, False
    for number, line in enumerate(lines, 1):
        trimmed = line if joined else line.lstrip()
        if not trimmed.strip() or trimmed.lstrip().startswith("#"):
            has_gap = has_gap or bool(joined and not trimmed.strip())
            continue
        first = first or number
        if continued.search(trimmed):
            joined += continued.sub(r"\1", trimmed)
            continue
        yield (joined + trimmed).strip(), first, has_gap
        joined, first, has_gap = "", 0, False
    if joined.strip():
        yield joined.strip(), first, has_gap


def _instruction(line: str, number: int, has_gap: bool) -> Instruction:
    name, *more = line.split(None, 1)
    rest = more[0] if more else ""
    flags: list[str] = []
    while found := _FLAG.match(rest):
        rest = rest[found.end() :]
        if found[1] == "--":
            break
        flags.append(found[1])
    return Instruction(name, tuple(flags), rest, line, number, has_gap)


def json_list(text: str) -> list[str] | None:
    """A JSON array of strings; None if it is none.  InvalidParameter for an array of other things."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not all(isinstance(item, str) for item in found):
        raise InvalidParameter(
            "when using JSON array syntax, arrays must be comprised of strings only"
        )
    return list(found)


def pairs(name: str, text: str) -> list[tuple[str, str]]:
    """`a=b "c d"=e`, or the old `a b c` for one pair; quotes are left in.  InvalidParameter in BuildKit's words."""
    found = words(text)
    if not found:
        raise InvalidParameter(f"{name} requires at least one argument")
    if "=" not in found[0]:
        key, *value = text.split(None, 1)
        if not value:
            raise InvalidParameter(f"{name} must have two arguments")
        return [(key, value[0])]
    split: list[tuple[str, str]] = []
    for word in found:
        key, equals, text = word.partition("=")
        if not equals:
            shown = json.dumps(word, ensure_ascii=False)
            raise InvalidParameter(
                f"Syntax error - can't find = in {shown}. Must be of the form: name=value"
            )
        split.append((key, text))
    if not all(key for key, _ in split):
        raise InvalidParameter(f"{name} names can not be blank")
    return split


def words(text: str) -> list[str]:
    """Split at blanks outside of quotes; quotes and backslashes are left in."""
    found: list[str] = []
    word, quote, place = "", "", 0
    while place < len(text):
        character = text[place]
        if character == "\\" and quote != "'":
            word += text[place : place + 2]
            place += 2
            continue
        place += 1
        if not quote and character.isspace():
            if word:
                found.append(word)
            word = ""
            continue
        if character in "'\"" and quote in ("", character):
            quote = "" if quote else character
        word += character
    return [*found, word] if word else found
