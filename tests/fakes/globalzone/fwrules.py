"""The rule language of fwadm: parsing with its limits, its normal form, and which machines a rule is about.

    FROM targets TO targets ALLOW|BLOCK protocol ports-or-types [PRIORITY n]
    targets    any | all vms | TARGET | ( TARGET OR TARGET ... )     at most 24 a side
    TARGET     vm UUID | ip ADDRESS | subnet CIDR | tag KEY | tag KEY = VALUE     quoted where not a word
    ports      PORT n | PORT all | ( PORT n AND PORT n ... ) | PORTS n, n - m ...     at most 8

Of the errors only the texts that people see most are kept word by word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from tests.fakes.globalzone.call import Failed

MAX_TARGETS, MAX_PORTS = 24, 8
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TOKEN = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([(),=])|([^\s(),="]+))')
_KINDS = ("wildcard", "ip", "subnet", "tag", "vm")


@dataclass(frozen=True, slots=True)
class Target:
    """`kind` of `_KINDS`; `value` "any" or "vmall" of a wildcard, KEY or (KEY, VALUE) of a tag."""

    kind: str
    value: str
    tag_value: str | None = None

    def text(self) -> str:
        """In normal form."""
        if self.kind == "wildcard":
            return "all vms" if self.value == "vmall" else "any"
        if self.kind == "tag" and self.tag_value is not None:
            return f"tag {_quoted(self.value)} = {_quoted(self.tag_value)}"
        return f"{self.kind} {_quoted(self.value) if self.kind == 'tag' else self.value}"

    def means(self, vm: Mapping[str, Any]) -> bool:
        """Whether it names this machine."""
        if self.kind == "wildcard":
            return self.value == "vmall"
        if self.kind == "vm":
            return self.value == vm["uuid"]
        tags = vm.get("tags", {})
        if self.kind != "tag" or self.value not in tags:
            return False
        return self.tag_value is None or _js(tags[self.value]) == self.tag_value


def _order(target: Target) -> tuple[int, str, bool, str]:
    """As fwadm sorts them; a tag without a value before those with one."""
    value = target.tag_value
    return _KINDS.index(target.kind), target.value, value is not None, value or ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A rule: `ports` are numbers as text, "all", "a-b", or of icmp "type" and "type:code"."""

    sources: tuple[Target, ...]
    targets: tuple[Target, ...]
    action: str
    protocol: str
    ports: tuple[str, ...]
    priority: int = 0

    def text(self) -> str:
        """As fwadm writes it: targets sorted by kind, ports by number."""
        sides = f"FROM {_side(self.sources)} TO {_side(self.targets)}"
        tail = f" PRIORITY {self.priority}" if self.priority else ""
        return f"{sides} {self.action.upper()} {self.protocol} {self._ports()}{tail}"

    def _ports(self) -> str:
        if any("-" in port for port in self.ports):
            return "PORTS " + ", ".join(port.replace("-", " - ") for port in self.ports)
        word = "TYPE" if self.protocol.startswith("icmp") else "PORT"
        parts = [f"{word} {port.replace(':', ' CODE ')}" for port in self.ports]
        return parts[0] if len(parts) == 1 else f"({' AND '.join(parts)})"

    def concerns(self, vm: Mapping[str, Any], owner: str | None) -> bool:
        """Whether it names the machine on either side, and its owner is the rule's (None = global)."""
        if owner is not None and vm.get("owner_uuid") != owner:
            return False
        return any(target.means(vm) for target in (*self.sources, *self.targets))

    def lets_in(
        self,
        vm: Mapping[str, Any],
        source: IPv4Address,
        protocol: str,
        port: int,
        vms: Sequence[Mapping[str, Any]],
    ) -> bool:
        """Whether a packet from that address to that port (or icmp type) of the machine passes by this rule."""
        if self.action != "allow" or self.protocol != protocol:
            return False
        fits = any(_covers(known, port) for known in self.ports)
        return (
            fits
            and any(target.means(vm) for target in self.targets)
            and any(_is_from(target, source, vms) for target in self.sources)
        )


def _covers(known: str, port: int) -> bool:
    first, _, last = known.partition(":")[0].partition("-")
    return known == "all" or int(first) <= port <= int(last or first)


def _is_from(target: Target, source: IPv4Address, vms: Sequence[Mapping[str, Any]]) -> bool:
    if target.kind == "wildcard" and target.value == "any":
        return True
    if target.kind == "ip":
        return ip_address(target.value) == source
    if target.kind == "subnet":
        return source in ip_network(target.value)
    return any(
        nic.get("ip") == str(source) for vm in vms if target.means(vm) for nic in vm.get("nics", [])
    )


def parse(text: str) -> Parsed:
    """Failed in fwadm's words."""
    parsed = _Parser(text).rule()
    named = {target.kind for target in (*parsed.sources, *parsed.targets)}
    vmall = any(target.value == "vmall" for target in (*parsed.sources, *parsed.targets))
    if not vmall and not named & {"tag", "vm"}:
        raise Failed("rule does not affect VMs")
    return parsed


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._at = 0

    def rule(self) -> Parsed:
        self._word("FROM")
        sources = self._side()
        self._word("TO")
        targets = self._side()
        action = self._one_of("ALLOW", "BLOCK").lower()
        protocol = self._one_of("TCP", "UDP", "ICMP", "ICMP6").lower()
        ports = self._types() if protocol.startswith("icmp") else self._numbers()
        if len(ports) > MAX_PORTS:
            what = "types" if protocol.startswith("icmp") else "ports"
            raise Failed(f"maximum of {MAX_PORTS} {what} allowed")
        priority = 0
        if self._peek().upper() == "PRIORITY":
            self._next()
            text = self._next()
            if not text.isdigit() or int(text) > 100:
                raise Failed(f'Priority level "{text}" is invalid')
            priority = int(text)
        if self._at < len(self._tokens):
            raise self._error("'EOF'")
        return Parsed(sources, targets, action, protocol, ports, priority)

    def _side(self) -> tuple[Target, ...]:
        grouped = self._peek() == "("
        if grouped:
            self._next()
        found = [self._target(grouped=False)]
        while grouped and found[0].kind != "wildcard" and self._peek().upper() == "OR":
            self._next()
            found.append(self._target(grouped=True))
        if grouped:
            self._word(")")
        if len(found) > MAX_TARGETS:
            raise Failed(f"maximum of {MAX_TARGETS} targets allowed per side")
        return tuple(sorted(set(found), key=_order))

    def _target(self, *, grouped: bool) -> Target:
        # The grammar knows its words in small and in capital letters only.
        word = self._peek()
        known = (
            ["ip", "subnet", "vm", "tag"]
            if grouped
            else ["all", "any", "ip", "subnet", "vm", "tag"]
        )
        kind = word.lower()
        if word not in (kind, kind.upper()) or kind not in known:
            raise self._error(
                ", ".join(f"'{one}'" for one in (["("] if not grouped else []) + known)
            )
        self._next()
        if kind == "any":
            return Target("wildcard", "any")
        if kind == "all":
            self._word("VMS")
            return Target("wildcard", "vmall")
        value = self._tag_word() if kind == "tag" else self._next()
        return getattr(self, f"_{kind}")(value)  # type: ignore[no-any-return]

    def _ip(self, value: str) -> Target:
        try:
            ip_address(value)
        except ValueError:
            raise Failed(f'IPv4 address "{value}" is invalid') from None
        return Target("ip", value)

    def _subnet(self, value: str) -> Target:
        try:
            ip_network(value, strict=True)
        except ValueError:
            raise Failed(f'Subnet "{value}" is invalid (bits set to right of mask)') from None
        return Target("subnet", value)

    def _vm(self, value: str) -> Target:
        if not UUID.fullmatch(value):
            raise Failed(f'UUID "{value}" is invalid')
        return Target("vm", value)

    def _tag(self, key: str) -> Target:
        if self._peek() != "=":
            return Target("tag", key)
        self._next()
        return Target("tag", key, self._tag_word())

    def _tag_word(self) -> str:
        """A plain word, or anything in quotes."""
        if self._at < len(self._tokens):
            place, token = self._tokens[self._at]
            if self._text[place:].lstrip()[0] != '"' and not re.fullmatch(r"[-a-zA-Z0-9_]+", token):
                end = re.match(r"[-a-zA-Z0-9_]*", token)
                rest = token[end.end() :] if end else token
                raise Failed(f"Error at character {place}: '{rest}', found: unexpected text")
        return self._next()

    def _numbers(self) -> tuple[str, ...]:
        if self._peek().upper() == "PORTS":
            self._next()
            return self._ranges()
        return self._listed("PORT", _port)

    def _types(self) -> tuple[str, ...]:
        return self._listed("TYPE", _icmp)

    def _listed(self, word: str, check: Any) -> tuple[str, ...]:
        grouped = self._peek() == "("
        if grouped:
            self._next()
        found = [self._single(word, check)]
        while grouped and self._peek().upper() == "AND":
            if found[0] == "all":
                raise self._error("')'")
            self._next()
            found.append(self._single(word, check))
        if grouped:
            self._word(")")
        return tuple(
            sorted(
                dict.fromkeys(found), key=lambda p: (p == "all", *map(int, re.findall(r"\d+", p)))
            )
        )

    def _single(self, word: str, check: Any) -> str:
        self._word(word)
        value = self._next()
        if value.lower() == "all":
            return "all"
        check(value)
        if word == "TYPE" and self._peek().upper() == "CODE":
            self._next()
            code = self._next()
            _icmp(code, "code")
            return f"{int(value)}:{int(code)}"
        return str(int(value))

    def _ranges(self) -> tuple[str, ...]:
        found: list[str] = []
        while True:
            text = self._next()
            while self._peek() == "-" or (text.endswith("-") and self._peek().isdigit()):
                text += self._next()
                if self._peek().isdigit() and text.endswith("-"):
                    text += self._next()
            first, dash, last = text.partition("-")
            _port(first)
            if dash:
                _port(last)
                if int(last) < int(first):
                    raise Failed(
                        f"The end of the range ({last}) cannot be less than the start ({first})"
                    )
            found.append(text)
            if self._peek() != ",":
                return tuple(found)
            self._next()

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise self._error("'WORD'")
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _word(self, word: str) -> None:
        if self._peek() not in (word, word.lower()):
            raise self._error(f"'{word}'")
        self._at += 1

    def _one_of(self, *words: str) -> str:
        if self._peek() not in {form for word in words for form in (word, word.lower())}:
            raise self._error(", ".join(f"'{word}'" for word in words))
        return self._next()

    def _error(self, expected: str) -> Failed:
        if self._at < len(self._tokens):
            place, token = self._tokens[self._at]
            found = "word" if re.fullmatch(r"[-\w]+", token) and not token.isupper() else token
            return Failed(
                f"Error at character {place}: '{token}', expected: {expected}, found: {found}"
            )
        return Failed(f"Error at character {len(self._text)}: '', expected: {expected}, found: EOF")


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise Failed(f"Error at character {at}: '{text[at:].strip()}', found: unexpected text")
        quoted, sign, word = match.groups()
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else sign or word
        yield at, value
        at = match.end()


def _port(text: str) -> None:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise Failed(f'Port number "{text}" is invalid')


def _icmp(text: str, what: str = "type") -> None:
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > 255:
        raise Failed(f'ICMP {what} "{text}" is invalid')


def _side(targets: Sequence[Target]) -> str:
    texts = [target.text() for target in targets]
    return texts[0] if len(texts) == 1 else f"({' OR '.join(texts)})"


def _quoted(text: str) -> str:
    if re.search(r"[^-a-zA-Z0-9_]", text):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return text


def _js(value: object) -> str:
    """A tag's value as JavaScript makes it the key of an object."""
    return str(value).lower() if isinstance(value, bool) else str(value)
