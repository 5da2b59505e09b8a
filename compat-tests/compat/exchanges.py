"""An exchange: requests in order, and whole runs of a container, each with an answer of one line, as dockerd gave it.

    ask("POST /volumes/create", {...}, show="Name Options")      ->  201 {"Name": ..., "Options": ...}
    run("cat /v/file", {"Binds": [...]})                         ->  0 what it printed | create 400 WORDS | start 500 WORDS

Where zonegate means to answer otherwise than the recorded dockerd, `ours` says how, and `why` says why; `smartos` is
what a zone on SmartOS does.
The API has every option; the docker CLI at hand may be too old for some.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compat.answers import Recording, normal
from compat.clients import API, Answer, frames


@dataclass(frozen=True)
class Step:
    """`{NAME}` in paths, bodies and scripts are filled in.  Text that starts with `re:` is a regular expression.

    `show`: keys of the answer that are compared, with dots for those inside.
    """

    request: str
    body: Mapping[str, Any] | None = None
    show: str = ""
    script: str = ""
    smartos: str | None = None
    why: str = ""
    ours: str | None = None


@dataclass(frozen=True)
class Exchange:
    """A named list of steps.  What it makes is named in it, and removed by its own last steps."""

    name: str
    steps: tuple[Step, ...] = field(default=())

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def exchange(name: str, *steps: Step) -> Exchange:
    """`Exchange` without the tuple's brackets."""
    return Exchange(name, steps)


def ask(
    request: str,
    body: Mapping[str, Any] | None = None,
    *,
    show: str = "",
    smartos: str | None = None,
    why: str = "",
    ours: str | None = None,
) -> Step:
    """One request: `METHOD /path`, `=/v1.51/...` with its own version."""
    return Step(request, body, show, "", smartos, why, ours)


def run(
    script: str,
    host: Mapping[str, Any] | None = None,
    *,
    image: str = "bb",
    version: str = "",
    smartos: str | None = None,
    why: str = "",
    ours: str | None = None,
    **config: Any,
) -> Step:
    """A container whose `sh -c SCRIPT` is awaited, and which goes then with its anonymous volumes."""
    body = {"Image": image, "Entrypoint": ["sh", "-c", script], "HostConfig": dict(host or {})}
    return Step(f"RUN {version}", body | config, "", script, smartos, why, ours)


def check(
    subject: Exchange,
    recording: Recording,
    api: API,
    fill: Mapping[str, str],
    names: dict[str, str],
) -> None:
    """Play it; record the answers, or compare them with the recorded ones."""
    actual = [
        [step.script or step.request, normal(_answer(step, api, fill), names)]
        for step in subject.steps
    ]
    if recording.taking:
        recording.put(subject.name, actual)
        return
    recorded = recording.get(subject.name)
    assert [row[0] for row in recorded] == [row[0] for row in actual], "recorded for other requests"
    lines = []
    for step, (_, expected), (asked, answer) in zip(subject.steps, recorded, actual, strict=True):
        wanted = recording.expected(expected, smartos=step.smartos, ours=step.ours)
        if not _same(wanted, answer):
            why = f"  [{step.why}]" if step.why else ""
            lines.append(f"{asked}\n  should be {wanted}\n  is        {answer}{why}")
    assert not lines, "\n" + "\n".join(lines)


def _same(wanted: str, answer: str) -> bool:
    if wanted.startswith("re:"):
        return re.fullmatch(wanted[3:], answer, re.DOTALL) is not None
    return wanted == answer


def _filled(value: Any, fill: Mapping[str, str]) -> Any:
    text = json.dumps(value)
    for word, found in fill.items():
        text = text.replace(f"{{{word}}}", found)
    return json.loads(text)


def _answer(step: Step, api: API, fill: Mapping[str, str]) -> str:
    request, body = _filled(step.request, fill), _filled(step.body, fill)
    method, _, path = request.partition(" ")
    if method == "RUN":
        return _run(api, body, path)
    answer = api(method, path, body)
    return f"{answer.status} {_shown(answer, step.show)}".strip()


def _shown(answer: Answer, show: str) -> str:
    if answer.status >= 400:
        return answer.message
    if not show:
        return ""
    found = answer.json()
    return json.dumps({key: _at(found, key.split(".")) for key in show.split()}, sort_keys=True)


def _at(value: Any, keys: Sequence[str]) -> Any:
    """What is at a dotted key; of a list every element's."""
    if not keys:
        return value
    if isinstance(value, list):
        return [_at(inner, keys) for inner in value]
    return _at(value.get(keys[0]), keys[1:]) if isinstance(value, dict) else None


def _run(api: API, body: Mapping[str, Any], version: str) -> str:
    before = f"={version}" if version else ""
    made = api("POST", f"{before}/containers/create", dict(body))
    if made.status != 201:
        return f"create {made.status} {made.message}"
    name = made.json()["Id"]
    try:
        started = api("POST", f"/containers/{name}/start")
        if started.status != 204:
            return f"start {started.status} {started.message}"
        code = api.ok("POST", f"/containers/{name}/wait")["StatusCode"]
        said = frames(api("GET", f"/containers/{name}/logs?stdout=1&stderr=1").body)
        text = b"".join(said.values()).decode(errors="replace")
        return f"{code} {text.strip()}".strip()
    finally:
        api("DELETE", f"/containers/{name}?force=1&v=1")
