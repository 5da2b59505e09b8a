"""A Dockerfile as the stages of a build: which instructions there are, and which stages are wanted.  Pure.

ARG* before the first FROM -> for the names of base images alone
FROM image [AS name]       -> a stage, with all that follows it
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dockerapi.errors import InvalidParameter
from gateway.translate import changes
from gateway.translate.dockerfile import Instruction, instructions, json_list, pairs, words

_STAGE_NAME = re.compile(r"[a-z][a-z0-9._-]*")
_GAP = "[WARNING]: Empty continuation line found in:"
_GAPS_END = "[WARNING]: Empty continuation lines will become errors in a future release."
_OTHERS = frozenset({"add", "arg", "copy", "from", "maintainer", "run", "shell"})
_FLAGS = {
    "from": ("platform",),
    "run": ("mount", "network", "security"),
    "copy": ("from", "chown", "chmod", "link", "parents", "exclude"),
    "add": ("chown", "chmod", "link", "checksum", "keep-git-dir", "exclude"),
}
BUILDKIT = (
    "the --{} option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/ to learn how "
    "to build images with BuildKit enabled"
)


@dataclass(frozen=True, slots=True)
class Stage:
    """From one FROM to the next.  `base` is not expanded yet; `name` "" = it has only its number."""

    base: str
    name: str
    origin: Instruction
    steps: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class BuildFile:
    """A Dockerfile, or the part of it that leads to the target."""

    arguments: tuple[Instruction, ...]
    stages: tuple[Stage, ...]

    @property
    def warnings(self) -> list[str]:
        """What the parser has to say of it."""
        every = [*self.arguments, *(step for stage in self.stages for step in stage.steps)]
        gaps = [f"{_GAP} {instruction.line}" for instruction in every if instruction.has_gap]
        return [*gaps, _GAPS_END] if gaps else []

    @property
    def length(self) -> int:
        """How many steps a client is told of."""
        return len(self.arguments) + sum(1 + len(stage.steps) for stage in self.stages)


def parse(text: str, *, name: str, target: str = "", labels: Mapping[str, str]) -> BuildFile:
    """InvalidParameter in the words of dockerd's classic builder.

    `name` is the file's.  Stages after `target` (a name or a number, "" = the last) are left out; `labels`
    become one more step of the last stage.
    """
    if not text:
        raise InvalidParameter(f"the Dockerfile ({name}) cannot be empty")
    try:
        found = instructions(text)
    except InvalidParameter as error:
        raise InvalidParameter(f"failed to parse Dockerfile: {error.message}") from error
    for instruction in found:
        _check(instruction)
    first = next((i for i, found_ in enumerate(found) if _is(found_, "from")), len(found))
    before = found[:first]
    if first == len(found) or any(not _is(instruction, "arg") for instruction in before):
        raise InvalidParameter("no build stage in current context")
    stages = _up_to(target, _stages(found[first:]))
    if labels:
        stages = (*stages[:-1], _labelled(stages[-1], labels))
    return BuildFile(tuple(before), stages)


def onbuild_triggers(texts: Sequence[str]) -> tuple[Instruction, ...]:
    """The ONBUILD instructions of a base image, to be run first.  InvalidParameter."""
    found = tuple(instruction for text in texts for instruction in instructions(text))
    for instruction in found:
        _check(instruction)
        if instruction.name.lower() in ("onbuild", "from", "maintainer"):
            raise InvalidParameter(
                f"{instruction.name.upper()} isn't allowed as an ONBUILD trigger"
            )
    return found


def flags(instruction: Instruction) -> dict[str, str]:
    """Those of FROM, RUN, COPY, ADD by name.  InvalidParameter for one that is not of it or that BuildKit alone has."""
    found: dict[str, str] = {}
    for flag in instruction.flags:
        name, equals, value = flag.removeprefix("--").partition("=")
        if name not in _FLAGS.get(instruction.name.lower(), ()):
            raise InvalidParameter(f"unknown flag: --{name}")
        if name in found:
            raise InvalidParameter(f"duplicate flag specified: {name}")
        if not equals and name not in ("link", "parents", "keep-git-dir"):
            raise InvalidParameter(f"missing a value on flag: {name}")
        found[name] = value
    return found


def arguments(instruction: Instruction) -> list[tuple[str, str | None]]:
    """Of ARG: names, with their defaults as written.  InvalidParameter."""
    if not instruction.rest:
        raise InvalidParameter("ARG requires at least one argument")
    if "=" not in instruction.rest:
        return [(name, None) for name in instruction.rest.split()]
    found: list[tuple[str, str | None]] = []
    for word in words(instruction.rest):
        name, equals, value = word.partition("=")
        if not name:
            raise InvalidParameter("ARG names can not be blank")
        found.append((name, value if equals else None))
    return found


def _is(instruction: Instruction, name: str) -> bool:
    return instruction.name.lower() == name


def _check(instruction: Instruction) -> None:
    """What can be known before anything is built; the line is named as dockerd does."""
    name = instruction.name.lower()
    if name not in _OTHERS and not changes.is_known(instruction):
        raise _at(instruction, f"unknown instruction: {instruction.name}")
    if name in ("env", "label"):
        try:
            pairs(instruction.name.upper(), instruction.rest)
        except InvalidParameter as error:
            raise InvalidParameter(f"failed to parse Dockerfile: {error.message}") from error
    try:
        _check_arguments(name, instruction)
    except InvalidParameter as error:
        raise _at(instruction, error.message) from error


def _check_arguments(name: str, instruction: Instruction) -> None:
    given = instruction.rest.split()
    if name in _FLAGS:
        flags(instruction)
    if name == "from" and not (len(given) == 1 or (len(given) == 3 and given[1].lower() == "as")):
        raise InvalidParameter("FROM requires either one or three arguments")
    if name == "arg":
        arguments(instruction)
    if name in ("copy", "add") and len(sources_and_target(instruction)) < 2:
        raise InvalidParameter(
            f"{name.upper()} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
        )
    if name == "maintainer" and not given:
        raise InvalidParameter("MAINTAINER requires exactly one argument")
    if name == "shell" and not json_list(instruction.rest):
        raise InvalidParameter("SHELL requires the arguments to be in JSON form")
    if name == "run" and not instruction.rest:
        raise InvalidParameter("RUN requires at least one argument")
    if name in ("user", "workdir", "stopsignal") and not given:
        raise InvalidParameter(f"{name.upper()} requires exactly one argument")
    if name in ("expose", "volume", "onbuild", "healthcheck") and not given:
        raise InvalidParameter(f"{name.upper()} requires at least one argument")


def sources_and_target(instruction: Instruction) -> list[str]:
    """Of COPY and ADD, as written: the last one is the destination."""
    listed = json_list(instruction.rest)
    return instruction.rest.split() if listed is None else listed


def _at(instruction: Instruction, message: str) -> InvalidParameter:
    return InvalidParameter(f"dockerfile parse error on line {instruction.number}: {message}")


def _stages(found: Sequence[Instruction]) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    for instruction in found:
        if _is(instruction, "from"):
            base, *alias = instruction.rest.split()
            name = alias[1].lower() if alias else ""
            if name and not _STAGE_NAME.fullmatch(name):
                raise _at(
                    instruction,
                    f'invalid name for build stage: "{alias[1]}", name can\'t start with a number or '
                    "contain symbols",
                )
            stages.append(Stage(base, name, instruction, ()))
        else:
            last = stages[-1]
            stages[-1] = replace(last, steps=(*last.steps, instruction))
    return tuple(stages)


def _up_to(target: str, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    if not target:
        return stages
    for number, stage in enumerate(stages):
        if stage.name == target.lower() or target == str(number):
            return stages[: number + 1]
    raise InvalidParameter(f'target stage "{target}" could not be found')


def _labelled(stage: Stage, labels: Mapping[str, str]) -> Stage:
    """`--label`: a LABEL each at the end, in the order of the names."""
    added = [
        Instruction(
            "LABEL", (), f"{_quoted(key)}={_quoted(labels[key])}", f"LABEL {key}={labels[key]}"
        )
        for key in sorted(labels)
    ]
    return replace(stage, steps=(*stage.steps, *added))


def _quoted(text: str) -> str:
    """So that no character of a label means anything to the parser."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
