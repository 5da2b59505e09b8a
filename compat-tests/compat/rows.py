"""Requests of one line each: status and message, against what dockerd said.

`ours` is what zonegate answers where it means to answer otherwise than the recorded dockerd, and `why` the reason:
(status, message), None = not compared; a message that starts with `re:` is a regular expression.  `smartos` is what is
answered there, where that differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from compat.answers import Recording, normal
from compat.clients import API

BAD_JSON = r"re:invalid JSON: .*"
NOT_RUNNING = (409, "container ID64 is not running")
ZERO = "0" * 64
Instead = tuple[int | None, str | None]


@dataclass(frozen=True)
class Row:
    """One request.  `{running}`... in the path become ids."""

    name: str
    method: str
    path: str
    body: Any = None
    headers: dict[str, str] | None = None
    smartos: tuple[int, str] | None = None
    ours: Instead | None = None
    why: str = ""

    def __post_init__(self) -> None:
        assert (self.ours is None) == (not self.why), f"{self.name}: `ours` and `why` go together"

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def row(
    name: str,
    request: str,
    body: Any = None,
    *,
    smartos: tuple[int, str] | None = None,
    ours: Instead | None = None,
    why: str = "",
    **headers: str,
) -> Row:
    """`request` is `METHOD /path`; headers by name with `_` for `-`."""
    method, path = request.split(" ", 1)
    return Row(
        name,
        method,
        path,
        body,
        {key.replace("_", "-"): value for key, value in headers.items()},
        smartos,
        ours,
        why,
    )


def create(
    name: str,
    body: dict[str, Any],
    *,
    query: str = "",
    ours: Instead | None = None,
    why: str = "",
) -> Row:
    """A create with busybox and something in it."""
    return row(
        f"create: {name}",
        f"POST /containers/create{query}",
        {"Image": "bb", "Cmd": ["true"]} | body,
        ours=ours,
        why=why,
    )


def host(
    name: str,
    config: dict[str, Any],
    *,
    query: str = "",
    ours: Instead | None = None,
    why: str = "",
) -> Row:
    """A create with something in its HostConfig."""
    return create(name, {"HostConfig": config}, query=query, ours=ours, why=why)


def mount(
    name: str,
    config: dict[str, Any],
    *,
    ours: Instead | None = None,
    why: str = "",
) -> Row:
    """A create with one entry of Mounts."""
    return host(f"mount {name}", {"Mounts": [config]}, ours=ours, why=why)


@contextmanager
def states(api: API, *, on_smartos: bool) -> Iterator[dict[str, str]]:
    """A container in each state; {word: id}.  Where nothing can be paused, `paused` runs."""
    body = {
        "Image": "bb",
        "Labels": {"keep": ""},
        "Cmd": ["sleep", "100000"],
        "HostConfig": {"NetworkMode": "none"},
    }
    ids = {}
    for name in ("created", "stopped", "running", "paused"):
        command = {"Cmd": ["sh", "-c", "echo said; exit 3"]} if name == "stopped" else {}
        ids[name] = api.ok("POST", f"/containers/create?name={name}", body | command)["Id"]
        if name != "created":
            api.ok("POST", f"/containers/{name}/start")
    api.ok("POST", "/containers/stopped/wait")
    pausing = api("POST", "/containers/paused/pause")
    assert pausing.status == (501 if on_smartos else 204), pausing.body
    ids["exec"] = api.ok(
        "POST", "/containers/running/exec", {"Cmd": ["true"], "AttachStdout": True}
    )["Id"]
    api("POST", f"/exec/{ids['exec']}/start", {})
    ids["running12"] = ids["running"][:12]
    try:
        yield ids
    finally:
        for name in ("created", "stopped", "running", "paused"):
            api("DELETE", f"/containers/{ids[name]}?force=1&v=1")


def check(
    case: Row, recording: Recording, api: API, states: dict[str, str], names: dict[str, str]
) -> None:
    """Ask; record the answer, or compare it."""
    path = case.path
    for word, value in states.items():
        path = path.replace("{" + word + "}", value)
    answer = api(case.method, path, case.body, case.headers, timeout_s=20)
    actual = {
        "status": answer.status,
        "message": normal(answer.message, names) if answer.status >= 400 else "",
    }
    if recording.taking:
        recording.put(case.name, actual)
        return
    expected = dict(recording.get(case.name))
    compared = {"status", "message"}
    instead = recording.expected(None, smartos=case.smartos, ours=case.ours)
    if instead is not None:
        status, message = instead
        expected["status"] = status or expected["status"]
        if message is None:
            compared.discard("message")
            if status is None:  # refused or accepted for reasons of our own: but always an answer
                assert answer.status < 500 or answer.status == 501, answer.body
                return
        elif message or status is not None:
            expected["message"] = message
    if expected["message"].startswith("re:") and re.fullmatch(
        expected["message"][3:], actual["message"], re.DOTALL
    ):
        compared.discard("message")
    is_, should = ({key: row[key] for key in sorted(compared)} for row in (actual, expected))
    assert is_ == should, f"is {is_}, should be {should}  [{case.why}]"
