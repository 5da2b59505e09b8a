"""A scenario: docker commands in order, whose answers must be those that dockerd gave.

dockerd 20.10 is what was recorded.  Where 28.5 answers differently, the step says how and why, and that wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from compat.answers import Recording, normal
from compat.clients import CLI
from compat.wording import NEW_WORDS, of_today, without_dot


@dataclass(frozen=True)
class Step:
    """One command.  `{registry}`, `{tmp}` are filled in.

    `compare` names what is looked at; `stdout`, `stderr`, `exit` replace what is recorded, and then `why` says why;
    text in them that starts with `re:` is a regular expression for the whole answer.
    """

    command: str
    stdin: str = ""
    compare: str = "exit stdout stderr"
    stdout: str | None = None
    stderr: str | None = None
    exit: int | None = None
    why: str = ""
    sort: bool = False
    """The order of lines means nothing."""


@dataclass(frozen=True)
class Scenario:
    """A named list of commands; a bare string is a step whose whole answer is compared."""

    name: str
    steps: tuple[Step | str, ...]
    timeout_s: float = 50

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def scenario(name: str, *steps: Step | str) -> Scenario:
    """`Scenario` without the tuple's brackets."""
    return Scenario(name, steps)


def quiet(command: str) -> Step:
    """A step that must merely end with the same exit code."""
    return Step(command, compare="exit")


def play(
    subject: Scenario, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> list[dict[str, Any]]:
    """Run all steps; their normalised answers."""
    rows = []
    for item in subject.steps:
        step = item if isinstance(item, Step) else Step(item)
        result = cli(
            step.command.replace("{registry}", fill["registry"]).replace("{tmp}", fill["tmp"]),
            step.stdin,
        )
        out, err = (
            of_today(normal(text, names), cli.major) for text in (result.stdout, result.stderr)
        )
        if step.sort:
            out = "\n".join(sorted(out.split("\n")))
        rows.append({"command": step.command, "exit": result.exit, "stdout": out, "stderr": err})
    return rows


def differences(
    subject: Scenario,
    expected: list[dict[str, Any]],
    actual: list[dict[str, Any]],
    *,
    exact: bool,
    cli: int,
) -> list[str]:
    """What is not as it should be, one line each.  `cli` is the major version of the one that was used."""
    lines = []
    for item, want, have in zip(subject.steps, expected, actual, strict=True):
        step = item if isinstance(item, Step) else Step(item)
        for part in step.compare.split():
            wanted = getattr(step, part)
            wanted = want[part] if wanted is None or exact else wanted
            if isinstance(wanted, str) and cli < NEW_WORDS:
                wanted = without_dot(wanted)
            if isinstance(wanted, str) and wanted.startswith("re:"):
                same = re.fullmatch(wanted[3:], have[part], re.DOTALL) is not None
            else:
                same = wanted == have[part]
            if not same:
                why = f"  [{step.why}]" if step.why else ""
                lines.append(
                    f"$ {step.command}\n  {part} should be {wanted!r}\n  {part} is        {have[part]!r}{why}"
                )
    return lines


def check(
    subject: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    """Play it; record the answers, or compare them with the recorded ones."""
    actual = play(subject, cli, names, fill)
    if recording.taking:
        recording.put(subject.name, actual)
        return
    expected = recording.get(subject.name)
    assert [row["command"] for row in expected] == [row["command"] for row in actual], (
        "recorded for other commands: run scripts/record"
    )
    lines = differences(subject, expected, actual, exact=recording.exact, cli=cli.major)
    assert not lines, "\n" + "\n".join(lines)
