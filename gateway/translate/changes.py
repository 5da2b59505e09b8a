"""`docker commit --change`: Dockerfile instructions laid over a container's Config, in dockerd's words.  Pure.

Only what changes a configuration and no files: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL
USER VOLUME WORKDIR.
"""

from __future__ import annotations

import copy
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dockerapi.errors import InvalidParameter
from dockerapi.models.base import JSONObject
from gateway.translate.dockerfile import Instruction, instructions, json_list, pairs
from gateway.translate.ports import parse_port, parse_range
from gateway.translate.signals import signal_name
from gateway.translate.words import expanded

Scope = Mapping[str, str]
SHELL = ("/bin/sh", "-c")
_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_MINIMUM_NS = 10**6
_DURATIONS = ("interval", "timeout", "start-period", "start-interval")


def changed(config: Mapping[str, Any], changes: Sequence[str]) -> JSONObject:
    """The Config as these instructions make it; `config` stays as it is."""
    result = copy.deepcopy(dict(config))
    if not changes:
        return result
    found = instructions("\n".join(changes))
    for instruction in found:
        if not is_known(instruction):
            raise InvalidParameter(f"{instruction.name} is not a valid change command")
    sets_cmd = False
    for instruction in found:
        sets_cmd = apply(result, instruction, environment(result), sets_cmd=sets_cmd)
    return result


def is_known(instruction: Instruction) -> bool:
    """Whether it is one that `apply` takes."""
    return instruction.name.lower() in _APPLY


def apply(
    config: JSONObject, instruction: Instruction, env: Scope, *, sets_cmd: bool = False
) -> bool:
    """Lay one instruction over a Config, which changes; `env` is what its words may name.

    ENTRYPOINT takes the command away that was meant for another one, unless a CMD came before it: `sets_cmd`
    of all those before, and the result is that of the next.
    """
    name = instruction.name.lower()
    _APPLY[name](config, instruction, env)
    sets_cmd = sets_cmd or (name == "cmd" and bool(config["Cmd"]))
    if name == "entrypoint" and not sets_cmd:
        config["Cmd"] = None
    return sets_cmd


def environment(config: Mapping[str, Any]) -> dict[str, str]:
    """Env by name; of several the first counts."""
    found: dict[str, str] = {}
    for entry in config.get("Env") or []:
        name, _, value = entry.partition("=")
        found.setdefault(name, value)
    return found


def _cmd(config: JSONObject, instruction: Instruction, env: Scope) -> None:
    _flags(instruction)
    argv = json_list(instruction.rest)
    config["Cmd"] = _by_shell(config, instruction.rest) if argv is None else argv


def _entrypoint(config: JSONObject, instruction: Instruction, env: Scope) -> None:
    _flags(instruction)
    argv = json_list(instruction.rest)
    if argv is None:
        argv = _by_shell(config, instruction.rest) if instruction.rest else None
    # An empty one is none: the container's own comes back.
    config["Entrypoint"] = argv or None


def _by_shell(config: JSONObject, text: str) -> list[str]:
    return [*(config.get("Shell") or SHELL), *([text] if text else [])]


def _env(config: JSONObject, instruction: Instruction, env: Scope) -> None:
    entries: list[str] = list(config.get("Env") or [])
    for name, value in _expanded_pairs(instruction, env):
        place = next((i for i, e in enumerate(entries) if e.partition("=")[0] == name), None)
        if place is None:
            entries.append(f"{name}={value}")
        else:
            entries[place] = f"{name}={value}"
    config["Env"] = entries


def _label(config: JSONObject, instruction: Instruction, env: Scope) -> None:
    config["Labels"] = {
        **(config.get("Labels") or {}),
        **dict(_expanded_pairs(instruction, env)),
    }


def _expanded_pairs(instruction: Instruction, env: Scope) -> list[tuple[str, str]]:
    _flags(instruction)
    found = pairs(instruction.name.upper(), instruction.rest)
    return [(expanded(key, env), expanded(value, env)) for key, value in found]


def _expose(config: JSONObject, instruction: Instruction, env: Scope) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in _arguments(instruction):
        for text in expanded(word, env).split():
            ports |= {str(port): {} for port in _exposed(text)}
    config["ExposedPorts"] = ports


def _exposed(text: str) -> list[object]:
    """Every port of `[[ip:]host:]port[-port][/proto]`: only the container's are kept, as go-connections has it."""
    numbers, slash, protocol = text.partition("/")
    *where, own = numbers.split(":")
    if not own:
        raise InvalidParameter(f"no port specified: {text}<empty>")
    try:
        parse_range(own)
    except ValueError as error:
        raise InvalidParameter(f"invalid containerPort: {own}") from error
    if where and where[-1]:
        try:
            parse_range(where[-1])
        except ValueError as error:
            raise InvalidParameter(f"invalid hostPort: {where[-1]}") from error
    return list(parse_port(f"{own}{slash}{protocol}"))


def _volume(config: JSONObject, instruction: Instruction, env: Scope) -> None:
    listed = json_list(instruction.rest)
    names = _arguments(instruction) if listed is None else listed
    if not names:
        raise InvalidParameter("VOLUME requires at least one argument")
    _flags(instruction)
    volumes = dict(config.get("Volumes") or {})
    for name in names:
        if not name.strip():
            raise InvalidParameter("VOLUME specified can not be an empty string")
        volumes[expanded(name.strip(), env)] = {}
    config["Volumes"] = volumes


def _user(config: JSONObject, instruction: Instruction, env: Scope) -> None:
    config["User"] = _one_word(instruction, env)


def _workdir(config: JSONObject, instruction: Instruction, env: Scope) -> None:
    path = _one_word(instruction, env)
    if not path:
        raise InvalidParameter("cannot normalize nothing")
    if not path.startswith("/"):
        path = posixpath.normpath(posixpath.join("/", config.get("WorkingDir") or "", path))
    config["WorkingDir"] = path


def _stopsignal(config: JSONObject, instruction: Instruction, env: Scope) -> None:
    text = _one_word(instruction, env)
    signal_name(text)
    config["StopSignal"] = text


def _one_word(instruction: Instruction, env: Scope) -> str:
    _flags(instruction)
    if not instruction.rest:
        raise InvalidParameter(f"{instruction.name.upper()} requires exactly one argument")
    return expanded(instruction.rest, env)


def _arguments(instruction: Instruction) -> list[str]:
    _flags(instruction)
    if not instruction.rest:
        raise InvalidParameter(f"{instruction.name.upper()} requires at least one argument")
    return instruction.rest.split()


def _onbuild(config: JSONObject, instruction: Instruction, env: Scope) -> None:
    _flags(instruction)
    trigger = _arguments(instruction)[0].upper()
    if trigger == "ONBUILD":
        raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise InvalidParameter(f"{trigger} isn't allowed as an ONBUILD trigger")
    expression = re.sub(r"(?i)^\s*ONBUILD\s*", "", instruction.line)
    config["OnBuild"] = [*(config.get("OnBuild") or []), expression]


def _healthcheck(config: JSONObject, instruction: Instruction, env: Scope) -> None:
    kind, *more = instruction.rest.split(None, 1)[:2] or [""]
    rest = more[0] if more else ""
    if not kind:
        raise InvalidParameter("HEALTHCHECK requires at least one argument")
    if kind.upper() == "NONE":
        if rest:
            raise InvalidParameter("HEALTHCHECK NONE takes no arguments")
        _flags(instruction)
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    flags = _flags(instruction, *_DURATIONS, "retries")
    if kind.upper() != "CMD":
        raise InvalidParameter(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    argv = json_list(rest)
    test = ["CMD-SHELL", rest] if argv is None else ["CMD", *argv]
    if len(test) < 2 or not rest:
        raise InvalidParameter("Missing command after HEALTHCHECK CMD")
    health: JSONObject = {"Test": test}
    for name in _DURATIONS:
        if duration := _interval(name, flags.get(name, "")):
            health["".join(part.capitalize() for part in name.split("-"))] = duration
    if retries := _retries(flags.get("retries", "")):
        health["Retries"] = retries
    config["Healthcheck"] = health


def _interval(name: str, text: str) -> int:
    if not text:
        return 0
    duration = go_duration(text)
    if duration and duration < _MINIMUM_NS:
        raise InvalidParameter(f'Interval "{name}" cannot be less than 1ms')
    return duration


def _retries(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?\d+", text):
        raise InvalidParameter(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    if int(text) < 1:
        raise InvalidParameter(f"--retries must be at least 1 (not {int(text)})")
    return int(text)


def go_duration(text: str) -> int:
    """Nanoseconds of `1h2m3.5s`.  InvalidParameter in the words of Go's time.ParseDuration."""
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return 0
    total, place = 0.0, 0
    while place < len(body):
        number = re.match(r"\d+\.?\d*|\.\d+", body[place:])
        if number is None:
            raise InvalidParameter(f'time: invalid duration "{text}"')
        place += number.end()
        unit = re.match(r"[^\d.]*", body[place:])
        name = unit[0] if unit else ""
        if not name:
            raise InvalidParameter(f'time: missing unit in duration "{text}"')
        if name not in _UNITS:
            raise InvalidParameter(f'time: unknown unit "{name}" in duration "{text}"')
        total += float(number[0]) * _UNITS[name]
        place += len(name)
    if not body:
        raise InvalidParameter(f'time: invalid duration "{text}"')
    return -int(total) if text.startswith("-") else int(total)


def _flags(instruction: Instruction, *known: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for flag in instruction.flags:
        name, equals, value = flag.removeprefix("--").partition("=")
        if name not in known:
            raise InvalidParameter(f"unknown flag: --{name}")
        if name in found:
            raise InvalidParameter(f"duplicate flag specified: {name}")
        if not equals:
            raise InvalidParameter(f"missing a value on flag: {name}")
        found[name] = value
    return found


_APPLY: dict[str, Callable[[JSONObject, Instruction, Scope], None]] = {
    "cmd": _cmd,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "healthcheck": _healthcheck,
    "label": _label,
    "onbuild": _onbuild,
    "stopsignal": _stopsignal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}
