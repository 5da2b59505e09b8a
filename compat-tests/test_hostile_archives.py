"""Archives that mean to get out, by every way that an archive comes in: load, import, docker cp, and a build's context.

Each is refused with a reason, or does something inside; what lies outside stays as it is.  That trees are right
then is tests/gateway/hosts/test_untar.py's, which has the same archives, and more.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compat.clients import API, CLI
from compat.daemons import Daemon
from compat.images import Image, archive, busybox_layer

Entry = tuple[str, bytes, str | bytes]
"""Name, type, and what is in it or where it leads; OUT is a folder of the machine."""
FILE, DIR, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
UP = "../" * 40
HOSTILE: dict[str, list[Entry]] = {
    "absolute": [("OUT/x", FILE, b"x")],
    "parent": [(f"{UP}OUT/x", FILE, b"x")],
    "parent within": [(f"a/b/{UP}OUT/x", FILE, b"x")],
    "through a link": [("l", LINK, "OUT"), ("l/x", FILE, b"x")],
    "through a relative link": [("l", LINK, f"{UP}OUT"), ("l/x", FILE, b"x")],
    "through two links": [("a", LINK, "OUT"), ("b", LINK, "a"), ("b/x", FILE, b"x")],
    "through a link to the root": [("l", LINK, "/"), ("l/OUT/x", FILE, b"x")],
    "through proc": [("l", LINK, "/proc/1/root"), ("l/OUT/x", FILE, b"x")],
    "over a link": [("l", LINK, "OUT/secret"), ("l", FILE, b"x")],
    "a folder over a link": [("l", LINK, "OUT"), ("l/", DIR, b""), ("l/x", FILE, b"x")],
    "a folder that becomes a link": [("d/", DIR, b""), ("d", LINK, "OUT"), ("d/x", FILE, b"x")],
    "a hard link out": [("h", HARD, "OUT/secret"), ("h", FILE, b"x")],
    "a hard link up": [("h", HARD, f"{UP}OUT/secret")],
    "a hard link to a link": [("l", LINK, "OUT/secret"), ("h", HARD, "l"), ("h", FILE, b"x")],
    "a hard link through a link": [("l", LINK, "OUT"), ("h", HARD, "l/secret")],
    "a link below": [("below/x", FILE, b"x")],
    "a hard link to a link below": [("h", HARD, "below"), ("h/x", FILE, b"x")],
    "a whiteout through a link below": [("below/.wh.secret", FILE, b"")],
    "an opaque link below": [("below/.wh..wh..opq", FILE, b"")],
    "a whiteout up": [(f"{UP}OUT/.wh.secret", FILE, b"")],
    "a whiteout of the parent": [("d/.wh...", FILE, b"")],
    "a whiteout through a link": [("l", LINK, "OUT"), ("l/.wh.secret", FILE, b"")],
    "an opaque link": [("l", LINK, "OUT"), ("l/.wh..wh..opq", FILE, b"")],
    "the root as a link": [(".", LINK, "OUT"), ("x", FILE, b"x")],
    "a folder's mode through a link": [("l", LINK, "OUT"), ("l/", DIR, b"")],
}
WAYS = {"load": 1, "import": 3, "cp": 1, "build": 5}
"""And which part of the archives goes that way: a build unpacks as a copy does, and takes its time."""


def written(entries: list[Entry], outside: Path) -> bytes:
    """The archive; links lead to `outside`, names too."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name.replace("OUT", str(outside).lstrip("/")))
            if name.startswith("OUT"):
                info.name = name.replace("OUT", str(outside))
            info.type, info.mode, info.mtime = kind, 0o777, 1
            if isinstance(content, str):
                absolute = content.startswith("OUT")
                info.linkname = content.replace(
                    "OUT", str(outside) if absolute else str(outside)[1:]
                )
            elif kind == FILE:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def seen(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """All that could be changed of what lies there."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, status.st_nlink, data)
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir(mode=0o755)
    (folder / "secret").write_text("secret\n")
    return folder


@pytest.fixture
def base(cli: CLI, tmp_path: Path, outside: Path) -> Iterator[str]:
    """An image with a link out, and a container of it that only was made."""
    below = written([("below", LINK, "OUT")], outside)
    path = tmp_path / "base.tar"
    path.write_bytes(archive({"hbase:latest": Image("hbase", [busybox_layer("hbase"), below])}))
    cli.ok(f"load -q -i {path}")
    cli.ok("create --name hcp hbase")
    yield "hbase"
    cli.ok("rm -f hcp")
    cli.ok("rmi -f hbase")


def sender(way: str, api: API, outside: Path) -> Callable[[bytes], tuple[int, str]]:
    """How an archive goes in that way: (status, what was told last)."""

    def send(tar: bytes) -> tuple[int, str]:
        below = written([("below", LINK, "OUT")], outside)
        image = Image("hload", [busybox_layer("hbase"), below, tar])
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as out:
            for name, content in (("Dockerfile", b"FROM hbase\nADD a.tar /\n"), ("a.tar", tar)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
        method, path, body = {
            "load": ("POST", "/images/load?quiet=1", archive({"hload:latest": image})),
            "import": ("POST", "/images/create?fromSrc=-&repo=hload&tag=latest", tar),
            "cp": ("PUT", "/containers/hcp/archive?path=/", tar),
            "build": ("POST", "/build?t=hload&rm=1&forcerm=1", context.getvalue()),
        }[way]
        answer = api(method, path, body=body, headers={"Content-Type": "application/x-tar"})
        lines = [json.loads(line) for line in answer.body.splitlines() if line.strip()]
        told = lines[-1] if lines else {}
        return answer.status, str(told.get("error") or told.get("message") or "")

    return send


@pytest.mark.parametrize("way", WAYS)
def test_no_archive_gets_out(
    api: API, cli: CLI, daemon: Daemon, base: str, outside: Path, way: str
) -> None:
    send = sender(way, api, outside)
    before = seen(outside)
    leftovers = set(daemon.data_root.rglob(".partial*"))
    outcomes = {}
    # The programs that play a global zone take five times as long, and unpack in the same way.
    step = WAYS[way] * (5 if daemon.platform else 1)
    for case, entries in [*HOSTILE.items()][::step]:
        status, told = send(written(entries, outside))
        outcomes[case] = (status, told)
        assert seen(outside) == before, (case, status, told)
        assert status < 500 or told, (case, status)
        assert str(daemon.data_root) not in told, (case, told)
        if way != "cp":
            api("DELETE", "/images/hload?force=1")
    refused = {case for case, (status, told) in outcomes.items() if status >= 400 or told}
    # A copy goes by the container's own root, where links lead to other places in it.
    assert way != "load" or {"through a link", "a hard link up"} & outcomes.keys() <= refused
    assert set(daemon.data_root.rglob(".partial*")) == leftovers
    assert cli.ok(f"run --rm {base} echo alive") == "alive"
