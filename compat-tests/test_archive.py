"""archive over bare HTTP: what is told of a path, what a tar is called, links, places that are read-only, owners, events."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from compat.answers import Recording
from compat.clients import API
from compat.daemons import Daemon
from compat.wire import Case, Cases, Wire, check

cases = Cases()
TREE = (
    "mkdir -p /t/d/sub; echo hi >/t/f; chmod 4755 /t/f; ln -s f /t/rel; ln -s /t/d /t/abs; ln -s /nope /t/dangling; "
    "mkfifo /t/pipe; mkdir -m 1777 /t/sticky; echo x >/t/d/x; ln /t/d/x /t/d/y"
)
NO_PATH = "28.5 names no path of the machine"


def _made(wire: Wire) -> str:
    """A container that has the tree, and has ended."""
    ident = wire.running(TREE)
    wire.api.ok("POST", f"/containers/{ident}/wait")
    return ident


def _stat(wire: Wire, ident: str, path: str) -> Any:
    answer = wire.api("HEAD", f"/containers/{ident}/archive?path={quote(path)}")
    if answer.status != 200:
        return [answer.status]
    found = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
    size = found["size"] if not found["mode"] & 1 << 31 else "of a folder"
    return [found["name"], size, found["mode"], found["linkTarget"], found["mtime"][-1]]


def _get(wire: Wire, ident: str, path: str) -> Any:
    answer = wire.api("GET", f"/containers/{ident}/archive?path={quote(path)}")
    if answer.status != 200:
        return [answer.status, answer.message]
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        return sorted([row.name, row.type.decode(), row.linkname] for row in tar)


def _tar(*rows: tuple[str, bytes | None], owner: int = 0) -> bytes:
    """Files of these names and contents; None is a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in rows:
            info = tarfile.TarInfo(name)
            info.uid = info.gid = owner
            info.mode = 0o755 if data is None else 0o640
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    return out.getvalue()


def _put(wire: Wire, ident: str, path: str, body: bytes, more: str = "") -> Any:
    answer = wire.api(
        "PUT",
        f"/containers/{ident}/archive?path={quote(path)}{more}",
        body,
        {"Content-Type": "application/x-tar"},
    )
    return [answer.status, answer.message if answer.status >= 400 else ""]


def _owner(wire: Wire, ident: str, path: str) -> Any:
    answer = wire.api("GET", f"/containers/{ident}/archive?path={quote(path)}")
    if answer.status != 200:
        return answer.status
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        row = tar.next()
    assert row is not None
    return [row.uid, row.gid, oct(row.mode & 0o7777)]


@cases()
def what_is_told_of_a_path(wire: Wire) -> Any:
    ident = _made(wire)
    paths = ("/t", "/t/", "/t/.", "t/f", "/t/d/../f", "/t/rel", "/t/abs", "/t/abs/", "/t/dangling", "/t/sticky", "/t/pipe", "/nope", "/t/nope/x")  # fmt: skip
    return {path: _stat(wire, ident, path) for path in paths}


@cases(
    smartos=[
        [404, "Could not find the file /nope in container ID64"],
        [404, "Could not find the file /t/nope/ in container ID64"],
        [400, "bad parameter: pathcannot be empty"],
        [500, "lstat /t/f/: not a directory"],
    ],
)
def paths_that_are_none(wire: Wire) -> Any:
    ident = _made(wire)
    return [_get(wire, ident, path) for path in ("/nope", "/t/nope/", "", "/t/f/")]


@cases()
def what_a_tar_is_called(wire: Wire) -> Any:
    ident = _made(wire)
    paths = ("/t/d", "/t/d/", "/t/d/.", "/t/f", "/t/rel", "/t/abs", "/t/abs/.", "t/sticky")
    return {path: _get(wire, ident, path) for path in paths}


@cases()
def links_stay_inside(wire: Wire) -> Any:
    ident = wire.running("mkdir /t; ln -s ../../../../../../etc /t/up")
    wire.api.ok("POST", f"/containers/{ident}/wait")
    names = [row[0] for row in _get(wire, ident, "/t/up/")]
    put = _put(wire, ident, "/t/up/", _tar(("through", b"x")))
    return ["up/passwd" in names or "etc/passwd" in names, put, _get(wire, ident, "/etc/through"), not Path("/etc/through").exists()]  # fmt: skip


@cases()
def an_archive_onto_a_file(wire: Wire) -> Any:
    ident = _made(wire)
    body = _tar(("x", b"x"))
    return [_put(wire, ident, path, body) for path in ("/t/f", "/nope", "/t/rel", "")]


@cases()
def an_empty_body_is_nothing(wire: Wire) -> Any:
    ident = _made(wire)
    return [_put(wire, ident, "/t", b""), _put(wire, ident, "/t", bytes(1024))]


@cases()
def a_folder_for_a_file_and_the_other_way(wire: Wire) -> Any:
    ident = _made(wire)
    answers = []
    for more in ("&noOverwriteDirNonDir=1", ""):
        answers.append(_put(wire, ident, "/t", _tar(("d", b"now a file")), more))
        answers.append(_put(wire, ident, "/t", _tar(("f", None)), more))
    return [*answers, _get(wire, ident, "/t/d"), _get(wire, ident, "/t/f")]


@cases()
def into_volumes_of_one_that_never_ran(wire: Wire) -> Any:
    ident = wire.create("cat /v/one", HostConfig={"Binds": ["archive-v:/v"]})
    put = _put(wire, ident, "/v", _tar(("one", b"kept\n")))
    wire.start(ident)
    wire.api.ok("POST", f"/containers/{ident}/wait")
    body = wire.api("GET", f"/containers/{ident}/logs?stdout=1").body[8:]
    again = _get(wire, ident, "/v/.")
    wire.api("DELETE", f"/containers/{ident}")
    wire.api("DELETE", "/volumes/archive-v")
    return [put, body.decode(), again]


@cases(
    linux_only="vmadm makes no zone whose root is read-only",
)
def places_that_are_read_only(wire: Wire) -> Any:
    binds = {"Binds": ["archive-ro:/ro:ro", "archive-rw:/rw"], "ReadonlyRootfs": True}
    ident = wire.create("true", HostConfig=binds)
    body = _tar(("f", b"x"))
    answers = [_put(wire, ident, path, body) for path in ("/tmp", "/ro", "/rw")]
    shown = _get(wire, ident, "/rw/f")
    wire.api("DELETE", f"/containers/{ident}")
    for name in ("archive-ro", "archive-rw"):
        wire.api("DELETE", f"/volumes/{name}")
    return [*answers, shown]


@cases(
    linux_only="a zone has a tmpfs on /tmp or none, and no root that is read-only",
)
def below_a_tmpfs(wire: Wire) -> Any:
    """Copies know nothing of what is mounted in the container: they go to and come from the root below it."""
    temporary = [
        {"Type": "tmpfs", "Target": "/m"},
        {"Type": "tmpfs", "Target": "/ro", "ReadOnly": True},
    ]
    answers = []
    for readonly in (True, False):
        host = {"Tmpfs": {"/t": ""}, "Mounts": temporary, "ReadonlyRootfs": readonly}
        ident = wire.create("touch /t/own /m/own; ls /t /m; sleep 1000", HostConfig=host)
        for state in ("created", "running", "stopped"):
            if state == "running":
                wire.start(ident)
            elif state == "stopped":
                wire.api.ok("POST", f"/containers/{ident}/stop?t=0")
            body = _tar((state, b"x"))
            answers.append(
                [state, *(_put(wire, ident, path, body) for path in ("/t", "/m", "/ro"))]
            )
        answers.append([_get(wire, ident, path) for path in ("/t", "/m", "/ro")])
    return answers


NO_USER = [400, "unable to find user nobody-here: no matching entries in passwd file"]


@cases()
def owners(wire: Wire) -> Any:
    found = {}
    for user in ("", "7777:8888", ":7777", "7777:", "nobody-here", "root"):
        ident = wire.create("true", User=user)
        put = _put(wire, ident, "/tmp", _tar(("mine", b"x"), owner=55), "&copyUIDGID=1")
        _put(wire, ident, "/tmp", _tar(("theirs", b"x"), owner=55))
        names = ("mine", "theirs")
        found[user] = [put, *(_owner(wire, ident, f"/tmp/{name}") for name in names)]
    return found


@cases()
def modes_and_kinds_are_kept(wire: Wire) -> Any:
    ident = _made(wire)
    answer = wire.api("GET", f"/containers/{ident}/archive?path=/t")
    other = wire.create("true")
    put = _put(wire, other, "/tmp", answer.body)
    paths = ("/tmp/t/f", "/tmp/t/sticky", "/tmp/t/pipe", "/tmp/t/rel", "/tmp/t/d/y")
    return [put, {path: _stat(wire, other, path) for path in paths}]


@cases()
def events_of_copies(wire: Wire) -> Any:
    ident = _made(wire)
    since = time.time()
    _get(wire, ident, "/t/f")
    _put(wire, ident, "/t", _tar(("n", b"x")))
    wire.api("HEAD", f"/containers/{ident}/archive?path=/t")
    only = quote(json.dumps({"container": [ident]}))
    told = wire.api("GET", f"/events?since={since:.9f}&until={time.time() + 0.2:.9f}&filters={only}").body  # fmt: skip
    actions = [json.loads(line)["Action"] for line in told.splitlines()]
    return [action for action in actions if action != "die"]  # dockerd's may come after the wait


@cases()
def an_export_is_a_plain_tar(wire: Wire) -> Any:
    ident = _made(wire)
    answer = wire.api("GET", f"/containers/{ident}/export")
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        names = {row.name for row in tar}
    return [answer.status, answer.headers["Content-Type"], sorted(n for n in names if n.startswith("t/"))]  # fmt: skip


@pytest.mark.parametrize("case", cases, ids=str)
def test_archives_are_as_dockerd_s(
    case: Case, recording: Recording, api: API, names: dict[str, str]
) -> None:
    check(case, recording, api, names)


def test_a_copy_leaves_no_mount(api: API, daemon: Daemon) -> None:
    wire = Wire(api)
    ident = _made(wire)
    before = _mounts(daemon)
    for _ in range(5):
        _get(wire, ident, "/t")
        _put(wire, ident, "/t", _tar(("n", b"x")))
    assert _mounts(daemon) <= before  # those of the container that has ended may go meanwhile


def _mounts(daemon: Daemon) -> set[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return {line for line in lines if f" {daemon.root}/" in line}
