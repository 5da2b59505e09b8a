"""A case on the wire: what a function does by bare HTTP, and its answer, which must be dockerd's.

Where zonegate means to answer otherwise than the recorded dockerd the case says how (`ours`) and why; where a zone on
SmartOS cannot be what a container is, `smartos` is the answer there, or `linux_only` the reason for none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from compat.answers import Recording, normal
from compat.clients import API, Hijack, frames

SAME = object()
"""No other answer than the one that was recorded."""
_PATIENCE_S = 20.0
SHARED = "shared-by-cases"


@dataclass(frozen=True)
class Case:
    """One case: `play` talks to the server, and tells what it saw as a JSON value."""

    name: str
    play: Callable[[Wire], Any]
    why: str = ""
    smartos: Any = SAME
    linux_only: str = ""
    ours: Any = SAME

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


class Cases(list[Case]):
    """`@cases()` above a function makes it a case of its name."""

    def __call__(self, **options: Any) -> Callable[[Callable[[Wire], Any]], None]:
        def add(play: Callable[[Wire], Any]) -> None:
            self.append(Case(play.__name__.replace("_", " "), play, **options))

        return add


def check(case: Case, recording: Recording, api: API, names: dict[str, str]) -> None:
    """Play it; record the answer, or compare it."""
    if recording.on_smartos and case.linux_only:
        pytest.skip(f"not on SmartOS: {case.linux_only}")
    actual = json.loads(normal(json.dumps(case.play(Wire(api))), names))
    if recording.taking:
        recording.put(case.name, actual)
        return
    expected = recording.expected(
        recording.get(case.name), smartos=case.smartos, ours=case.ours, same=SAME
    )
    assert actual == expected, f"is {actual}\nshould be {expected}\n{case.why}"


class Wire:
    """Containers and execs of one case; containers are removed by the `_clean` of conftest.py."""

    def __init__(self, api: API) -> None:
        self.api = api

    def create(self, command: str | list[str], **options: Any) -> str:
        """A container without network; its id.  Text is for a shell."""
        words = command if isinstance(command, list) else ["sh", "-c", command]
        host = {"NetworkMode": "none"} | options.pop("HostConfig", {})
        body = {"Image": "bb", "Cmd": words, "HostConfig": host}
        return str(self.api.ok("POST", "/containers/create", body | options)["Id"])

    def start(self, ident: str) -> None:
        self.api.ok("POST", f"/containers/{ident}/start")

    def running(self, command: str | list[str] = "sleep 1000", **options: Any) -> str:
        ident = self.create(command, **options)
        self.start(ident)
        return ident

    def shared(self) -> str:
        """A container that sleeps, for all cases that leave it as it is; the module removes `SHARED` when it ends."""
        answer = self.api("GET", f"/containers/{SHARED}/json")
        if answer.status == 200:
            return str(answer.json()["Id"])
        body = {
            "Image": "bb",
            "Cmd": ["sleep", "100000"],
            "Labels": {"keep": ""},
            "HostConfig": {"NetworkMode": "none"},
        }
        ident = str(self.api.ok("POST", f"/containers/create?name={SHARED}", body)["Id"])
        self.start(ident)
        return ident

    def kill(self, ident: str) -> None:
        """Over when this returns."""
        self.api.ok("POST", f"/containers/{ident}/kill")
        self.api.ok("POST", f"/containers/{ident}/wait")

    def inspect(self, ident: str) -> Any:
        return self.api.ok("GET", f"/containers/{ident}/json")

    def attach(self, ident: str, query: str = "stream=1&stdout=1&stderr=1") -> Hijack:
        return self.api.hijack(f"/containers/{ident}/attach?{query}")

    def exec_create(self, ident: str, command: str | list[str], **options: Any) -> str:
        words = command if isinstance(command, list) else ["sh", "-c", command]
        body = {"Cmd": words, "AttachStdout": True, "AttachStderr": True}
        return str(self.api.ok("POST", f"/containers/{ident}/exec", body | options)["Id"])

    def exec_start(self, made: str, **body: Any) -> Hijack:
        return self.api.hijack(f"/exec/{made}/start", body)

    def exec_inspect(self, made: str) -> Any:
        """Without what is another at each run."""
        answer = self.api("GET", f"/exec/{made}/json")
        if answer.status != 200:
            return [answer.status, answer.message]
        return {key: value for key, value in answer.json().items() if key != "Pid"}

    def ran(self, ident: str, command: str | list[str], **options: Any) -> Any:
        """An exec from its creation to its end: what it said, its exit code."""
        made = self.exec_create(ident, command, **options)
        with self.exec_start(made, Tty=bool(options.get("Tty"))) as attached:
            text = attached.rest() if options.get("Tty") else said(attached)
        code = self.exec_inspect(made)["ExitCode"]
        return [text.decode() if isinstance(text, bytes) else text, code]

    def until_logged(self, ident: str, text: bytes) -> None:
        """Of both streams, without their frames."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            body = self.api("GET", f"/containers/{ident}/logs?stdout=1&stderr=1").body
            if text in body:
                return
            assert time.monotonic() < end, body
            time.sleep(0.02)

    def events(self, ident: str, until: str, count: int = 1) -> list[Any]:
        """Those of a container: [action, its own attributes]; up to the `count`-th of the name `until`."""
        only = quote(json.dumps({"container": [ident]}))
        follow = self.api.stream("GET", f"/events?since={int(time.time()) - 60}&filters={only}")
        rows: list[Any] = []
        while [row[0] for row in rows].count(until) < count:
            rows += _rows(follow.read1())
        return rows


def _rows(lines: bytes) -> list[Any]:
    told = [json.loads(line) for line in lines.splitlines() if line.strip()]
    own = ("execID", "exitCode")
    return [
        [row["Action"], {k: v for k, v in row["Actor"]["Attributes"].items() if k in own}]
        for row in told
    ]


def text(data: bytes) -> str:
    """Bytes as JSON can have them."""
    return data.decode("latin-1")


def said(attached: Hijack) -> dict[str, str]:
    """What comes in frames, to the end, by stream."""
    return {str(stream): text(data) for stream, data in frames(attached.rest()).items()}


def answered(attached: Hijack) -> list[Any]:
    """Status, media type and body of a refusal that ends the connection."""
    media = [line for line in attached.head.split("\r\n") if line.startswith("Content-Type")]
    return [attached.status, media, text(attached.rest())]
