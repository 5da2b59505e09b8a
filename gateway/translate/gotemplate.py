"""The part of Go's text/template that log tags and the like are written in: fields, functions, pipes.  Pure.

    {{.Name}}   {{index (split .ImageName ":") 0 | upper}}   {{with .X}}..{{end}}  {{if .X}}..{{else}}..{{end}}   {{- .ID -}}

Functions are those of Go and of docker's templates that work on texts.  What is wrong with a template is told in
Go's words; `range`, `template`, `block` and variables are not understood.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote_plus

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<number>[+-]?\d+)|(?P<field>(?:\.\w+)+)|(?P<dot>\.)"""
    r"""|(?P<name>\w+)|(?P<sign>[()|]))"""
)
_ACTION = re.compile(r"\{\{(?:-\s)?(.*?)(?:\s-)?\}\}", re.DOTALL)


class TemplateError(ValueError):
    """A template that cannot be followed; the message is Go's, without its `template: NAME:`."""


@dataclass(frozen=True, slots=True)
class _Token:
    """An operand: kind text, number, field, dot, name or sign."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class _Pipe:
    """Calls, each handing its value on to the next; a call is a function or a value, and arguments."""

    calls: tuple[tuple[_Token | _Pipe, ...], ...]


@dataclass(frozen=True, slots=True)
class _Node:
    """`kind`: text, value, if, with.  `no`: what else is shown."""

    kind: str
    value: str | _Pipe
    yes: tuple[_Node, ...] = ()
    no: tuple[_Node, ...] = ()


class Template:
    """A parsed template."""

    def __init__(self, text: str, *, of: str) -> None:
        """`of`: Go's name of the type that the fields are of, for error texts.  TemplateError."""
        self._of = of
        parts = _Parts(_split(text))
        self._nodes = parts.nodes(())
        if parts.left:
            raise TemplateError(f"1: unexpected {{{{{parts.left[0][1]}}}}}")

    def check(self, fields: Mapping[str, object]) -> None:
        """TemplateError for a field that there is not; what functions make of values is not looked at."""
        for name in self._fields(self._nodes):
            _Evaluation(fields, self._of).of(_Pipe(((_Token("field", name),),)))

    def _fields(self, nodes: Sequence[_Node]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node.value, _Pipe):
                yield from _names(node.value)
            # Inside of `with` fields are another thing's.
            if node.kind == "if":
                yield from self._fields((*node.yes, *node.no))

    def render(self, fields: Mapping[str, object]) -> str:
        """TemplateError for a field that is not there."""
        return "".join(_shown(piece) for piece in self._render(self._nodes, fields, fields))

    def _render(
        self, nodes: Sequence[_Node], dot: object, root: Mapping[str, object]
    ) -> list[object]:
        shown: list[object] = []
        for node in nodes:
            if isinstance(node.value, str):
                shown.append(node.value)
                continue
            value = _Evaluation(dot, self._of).of(node.value)
            if node.kind == "value":
                shown.append(value)
            elif value:
                shown += self._render(node.yes, value if node.kind == "with" else dot, root)
            else:
                shown += self._render(node.no, dot, root)
        return shown


def _names(pipe: _Pipe) -> Iterator[str]:
    for operand in (operand for call in pipe.calls for operand in call):
        if isinstance(operand, _Pipe):
            yield from _names(operand)
        elif operand.kind == "field":
            yield operand.text


def _split(text: str) -> list[tuple[str, str]]:
    """(text | action, its words), white space taken away where `{{-` and `-}}` say so."""
    found: list[tuple[str, str]] = []
    at = 0
    trims = False
    for match in _ACTION.finditer(text):
        before = text[at : match.start()]
        before = before.lstrip() if trims else before
        if re.match(r"\{\{-\s", match[0]):
            before = before.rstrip()
        found += [("text", before), ("action", match[1].strip())]
        at, trims = match.end(), bool(re.search(r"\s-\}\}$", match[0]))
    rest = text[at:].lstrip() if trims else text[at:]
    if "{{" in rest:
        raise TemplateError("1: unclosed action")
    return [*found, ("text", rest)]


class _Parts:
    """Actions in order, made into nodes."""

    def __init__(self, parts: list[tuple[str, str]]) -> None:
        self.left = parts

    def nodes(self, until: tuple[str, ...]) -> tuple[_Node, ...]:
        found: list[_Node] = []
        while self.left and not (self.left[0][0] == "action" and self.left[0][1] in until):
            kind, text = self.left.pop(0)
            if kind == "text":
                found.append(_Node("text", text))
            elif text.startswith("/*"):
                continue
            elif text in ("end", "else"):
                raise TemplateError(f"1: unexpected {{{{{text}}}}}")
            else:
                found.append(self._action(text))
        return tuple(found)

    def _action(self, text: str) -> _Node:
        word, _, rest = text.partition(" ")
        if word in ("range", "template", "block", "define", "break", "continue") or "$" in text:
            raise TemplateError(f"1: {word} is not understood here")
        if word not in ("if", "with"):
            return _Node("value", _parsed(text))
        yes = self.nodes(("end", "else"))
        no: tuple[_Node, ...] = ()
        if self._take() == "else":
            no = self.nodes(("end",))
            self._take()
        return _Node(word, _parsed(rest), yes, no)

    def _take(self) -> str:
        if not self.left:
            raise TemplateError("1: unexpected EOF")
        return self.left.pop(0)[1]


# --- expressions: a pipe is a list of calls, a call a list of operands


def _parsed(text: str) -> _Pipe:
    tokens: list[_Token] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise TemplateError(f"1: unexpected {text[at:].strip()[:1]!r} in operand")
        kind = str(match.lastgroup)
        tokens.append(_Token(kind, match[kind]))
        at = match.end()
    pipe = _pipe(tokens)
    if tokens:
        raise TemplateError("1: unexpected right paren")
    return pipe


_CLOSING = _Token("sign", ")")


def _pipe(tokens: list[_Token]) -> _Pipe:
    """Takes its tokens away, up to a closing parenthesis."""
    calls: list[list[_Token | _Pipe]] = [[]]
    while tokens and tokens[0] != _CLOSING:
        token = tokens.pop(0)
        if token == _Token("sign", "|"):
            calls.append([])
        elif token.kind == "sign":
            calls[-1].append(_pipe(tokens))
            if not tokens:
                raise TemplateError("1: unclosed left paren")
            tokens.pop(0)
        else:
            if token.kind == "name" and token.text not in (*_FUNCTIONS, *_WORDS):
                raise TemplateError(f'1: function "{token.text}" not defined')
            calls[-1].append(token)
    if not all(calls):
        raise TemplateError("1: missing value for command")
    return _Pipe(tuple(map(tuple, calls)))


_WORDS: Mapping[str, object] = {"true": True, "false": False, "nil": None}


class _Evaluation:
    """Values of pipes.  `of`: the name of the type that fields are of."""

    def __init__(self, dot: object, of: str) -> None:
        self._dot = dot
        self._of = of

    def of(self, pipe: _Pipe) -> object:
        """TemplateError."""
        piped: tuple[object, ...] = ()
        for call in pipe.calls:
            piped = (self._call(call, piped),)
        return piped[0]

    def _call(self, call: tuple[_Token | _Pipe, ...], piped: tuple[object, ...]) -> object:
        first, *rest = call
        if isinstance(first, _Token) and first.kind == "name" and first.text in _FUNCTIONS:
            arguments = [self._value(operand) for operand in rest]
            try:
                return _FUNCTIONS[first.text](*arguments, *piped)
            except (TypeError, ValueError, LookupError, AttributeError) as error:
                raise TemplateError(f"1: error calling {first.text}: {error}") from error
        if rest or piped:
            raise TemplateError("1: can't give argument to non-function")
        return self._value(first)

    def _value(self, operand: _Token | _Pipe) -> object:
        if isinstance(operand, _Pipe):
            return self.of(operand)
        match operand.kind:
            case "text":
                is_raw = operand.text[0] == "`"
                return operand.text[1:-1] if is_raw else json.loads(operand.text)
            case "number":
                return int(operand.text)
            case "dot":
                return self._dot
            case "field":
                return self._field(operand.text)
        if operand.text in _WORDS:
            return _WORDS[operand.text]
        return self._call((operand,), ())

    def _field(self, text: str) -> object:
        value = self._dot
        for name in text.split(".")[1:]:
            if not isinstance(value, Mapping) or name not in value:
                raise TemplateError(
                    f"1:2: executing at <{text}>: can't evaluate field {name} in type {self._of}"
                )
            value = value[name]
        return value


def _shown(value: object) -> str:
    """As fmt.Print."""
    match value:
        case None:
            return "<no value>"
        case bool():
            return str(value).lower()
        case Mapping():
            return (
                f"map[{' '.join(f'{key}:{_shown(inner)}' for key, inner in sorted(value.items()))}]"
            )
        case list() | tuple():
            return f"[{' '.join(map(_shown, value))}]"
    return str(value)


def _index(value: object, *keys: object) -> object:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key, "")
        elif isinstance(value, Sequence) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise ValueError(f"index out of range: {key}")
            value = value[key]
        else:
            raise TypeError("can't index item")
    return value


def _slice(value: str, start: int = 0, end: int | None = None) -> str:
    if not 0 <= start <= (len(value) if end is None else end) <= len(value):
        raise ValueError(f"index out of range: {start if end is None else end}")
    return value[start:end]


def _printf(pattern: str, *values: object) -> str:
    values_left = list(values)

    def one(match: re.Match[str]) -> str:
        if match[0].endswith("%"):
            return "%"
        if not values_left:
            return f"%!{match[2]}(MISSING)"
        value = values_left.pop(0)
        if match[2] == "d":
            return f"%{match[1]}d" % value
        text = json.dumps(value) if match[2] == "q" else _shown(value)
        return f"%{match[1]}s" % text

    return re.sub(r"%([-+ 0#]*\d*(?:\.\d+)?)([svqd%])", one, pattern)


def _truncate(text: str, size: int) -> str:
    return text[:size]


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _title(text: str) -> str:
    return re.sub(r"\b\w", lambda match: match[0].upper(), text)


_FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "index": _index,
    "slice": _slice,
    "len": len,
    "print": lambda *values: "".join(map(_shown, values)),
    "println": lambda *values: " ".join(map(_shown, values)) + "\n",
    "printf": _printf,
    "html": lambda value: html.escape(_shown(value)),
    "urlquery": lambda value: quote_plus(_shown(value)),
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "not": lambda value: not value,
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, other: first != other,
    # docker's own
    "json": lambda value: json.dumps(value, separators=(",", ":")),
    "split": lambda text, separator: text.split(separator),
    "join": lambda values, separator: separator.join(values),
    "title": _title,
    "lower": str.lower,
    "upper": str.upper,
    "pad": _pad,
    "truncate": _truncate,
}
