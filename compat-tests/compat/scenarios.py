"""A scenario: docker commands in order, whose answers must be those that dockerd gave.

Where zonegate means to answer otherwise than the recorded dockerd, the step says how and why, and that wins.
Where a zone on SmartOS cannot be what a container on Linux is, `smartos=` says what is answered there, and
docs/divergence.md why.
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from compat.answers import Recording, normal
from compat.clients import CLI
from compat.wording import NEW_WORDS, of_today, without_dot

_HINT = "\n\nRun 'docker run --help' for more information\n"


@dataclass(frozen=True)
class OnSmartOS:
    """What a step says there, where that is another answer: None = the same; `compare`: what is looked at.

    `command`: the step without the options that no zone can have, so that the rest of it is tried all the same.
    """

    exit: int | None = None
    stdout: str | None = None
    stderr: str | None = None
    compare: str | None = None
    command: str | None = None


def refused(what: str, program: str = "docker: ", hint: str = _HINT, exit: int = 125) -> OnSmartOS:
    """The server's refusal of an option: its name and the reason, as docs/divergence.md has them."""
    words = f"{program}Error response from daemon: {what}{hint}"
    return OnSmartOS(exit=exit, stdout="", stderr=words)


@dataclass(frozen=True)
class Told:
    """Something that must have happened since the scenario began: so many events of a container, by action."""

    container: str
    action: str
    times: int = 1

    def wait(self, cli: CLI, since: float, deadline_s: float = 30) -> None:
        """Until it has; AssertionError if it does not."""
        until = time.time() + deadline_s
        argv = ["docker", "events", "--since", f"{since:.6f}", "--until", f"{until:.6f}"]
        argv += ["--filter", f"container={self.container}", "--format", "{{.Action}}"]
        seen = []
        with subprocess.Popen(argv, env=cli.env, stdout=subprocess.PIPE, text=True) as events:
            assert events.stdout is not None
            for line in events.stdout:
                seen.append(line.strip())
                if sum(action.startswith(self.action) for action in seen) == self.times:
                    events.kill()
                    return
        raise AssertionError(f"{self} is not told, but {seen}")


@dataclass(frozen=True)
class Step:
    """One command.  `{registry}`, `{tmp}` are filled in, and `{began}`, `{now}`: times of the scenario and the step.

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
    smartos: OnSmartOS = OnSmartOS()
    after: Told | None = None
    """What must have happened before."""


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
    subject: Scenario,
    cli: CLI,
    names: dict[str, str],
    fill: dict[str, str],
    *,
    on_smartos: bool = False,
) -> list[dict[str, Any]]:
    """Run all steps; their normalised answers."""
    rows = []
    began = time.time()
    for item in subject.steps:
        step = item if isinstance(item, Step) else Step(item)
        if step.after is not None:
            step.after.wait(cli, began)
        command = (step.smartos.command if on_smartos else None) or step.command
        times = {"began": f"{began:.6f}", "now": f"{time.time():.6f}"}
        for word, value in (fill | times).items():
            command = command.replace(f"{{{word}}}", value)
        result = cli(command, step.stdin)
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
    on_smartos: bool = False,
) -> list[str]:
    """What is not as it should be, one line each.  `cli` is the major version of the one that was used."""
    lines = []
    for item, want, have in zip(subject.steps, expected, actual, strict=True):
        step = item if isinstance(item, Step) else Step(item)
        there = step.smartos if on_smartos else OnSmartOS()
        for part in (step.compare if there.compare is None else there.compare).split():
            wanted = getattr(there, part)
            wanted = getattr(step, part) if wanted is None else wanted
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
    actual = play(subject, cli, names, fill, on_smartos=recording.on_smartos)
    if recording.taking:
        recording.put(subject.name, actual)
        return
    expected = recording.get(subject.name)
    assert [row["command"] for row in expected] == [row["command"] for row in actual], (
        "recorded for other commands: run scripts/record"
    )
    lines = differences(
        subject,
        expected,
        actual,
        exact=recording.exact,
        cli=cli.major,
        on_smartos=recording.on_smartos,
    )
    assert not lines, "\n" + "\n".join(lines)
