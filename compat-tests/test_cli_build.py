"""docker build by the classic builder: what it prints, what the images are, what it refuses.

A case is a Dockerfile and a query; the lines that the server sends are compared with dockerd's.  What a step leaves out
here, because it makes no container, is left out on both sides.
"""

from __future__ import annotations

import http.client
import http.server
import io
import json
import re
import socket
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import docker
import pytest
from compat.answers import Recording, normal
from compat.clients import API, CLI
from compat.daemons import Daemon

FILES: dict[str, bytes] = {
    "a.txt": b"a\n",
    "sub/b": b"b\n",
    "sub/deep/c": b"c\n",
    "run.sh": b"#!/bin/sh\necho ran\n",
}


@dataclass(frozen=True)
class Case:
    """One build; `then` are arguments of `docker run` whose output is compared as well."""

    name: str
    dockerfile: str
    query: dict[str, str] = field(default_factory=dict)
    then: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def case(name: str, dockerfile: str, /, *then: str, **query: str) -> Case:
    """`FROM bb` is what the file begins with, unless it has a FROM of its own."""
    text = dockerfile if "FROM" in dockerfile or not dockerfile else f"FROM bb\n{dockerfile}"
    return Case(name, text, query, then)


CASES = [
    case("an empty file", ""),
    case("comments alone", "# FROM nothing\n"),
    case("no stage", "RUN true # FROM"),
    case("FROM without a name", "FROM\n"),
    case("a stage name that is none", "FROM bb AS 1st\n"),
    case("an unknown instruction", "BOGUS x"),
    case("an unknown flag", "RUN --bogus=1 x", ),
    case("a flag of BuildKit", "RUN --mount=type=bind true"),
    case("COPY without a target", "COPY a.txt"),
    case("ENV without a value", "ENV A"),
    case("an unknown target", "", target="zz"),
    case("a missing target", "FROM bb AS one\n", target="zz", ),
    case("a Dockerfile that is not there", "RUN true", dockerfile="nope"),
    case("an unknown platform", "RUN true", platform="foo"),
    case("squash", "RUN true", squash="1"),
    case("arguments that are no JSON", "RUN true", buildargs="zz"),
    case("an unknown version", "RUN true", version="3"),
    case("a command that fails", "RUN echo err >&2; exit 3"),
    case("a command that is not there", "RUN nosuch"),
    case("a source that is not there", "COPY nope /x"),
    case("a source outside", "COPY ../x /x"),
    case("no source fits", "COPY *.zz /x/"),
    case("several sources and no directory", "COPY a.txt run.sh /x"),
    case("an unknown owner", "COPY --chown=nouser a.txt /x"),
    case("a stage that is this one", "COPY --from=0 /x /y"),
    case("a stage that is not there", "COPY --from=7 /x /y"),
    case("a base that is nothing", "FROM $NOTHING\n"),
    case("a variable that must be set", "ENV A=${B?is missing}"),
    case("nothing from scratch", "FROM scratch\n"),
    case(
        "instructions of the Config",
        'MAINTAINER me\nENV A=1 B="x y"\nENV C $A-more\nLABEL "a b"=c d=$A\nEXPOSE 80 90/udp\nUSER 5\nVOLUME /v\n'
        'STOPSIGNAL SIGINT\nONBUILD RUN true\nSHELL ["/bin/sh","-ec"]\nWORKDIR /w\nWORKDIR sub\n'
        'ENTRYPOINT ["echo"]\nCMD ["a","b"]',
        "$IMAGE",
    ),
    case("CMD and ENTRYPOINT by the shell", "CMD echo cmd\nENTRYPOINT echo $0 $@", "$IMAGE more"),
    case("continued lines", "RUN echo a \\\n  # in between\n  && echo b \\\n\n  && echo c"),
    case("another escape", "# escape=`\nFROM bb\nRUN echo a `\n && echo b"),
    case("RUN by argv", 'RUN ["/bin/sh","-c","echo $0 $HOSTNAME_IS_NOT","x"]'),
    case("RUN as a user in a directory", "WORKDIR /somewhere\nUSER alice\nRUN id -un; pwd"),
    case("an entrypoint does not meet RUN", 'ENTRYPOINT ["false"]\nRUN echo ran'),
    case(
        "arguments",
        "ARG BASE=bb\nFROM $BASE\nARG BASE\nARG ONE=1 TWO=2\nARG GIVEN\nENV TWO=env\nRUN echo $BASE $ONE $TWO $GIVEN $OTHER",
        buildargs='{"GIVEN":"given","OTHER":"x","ONE":"uno"}',
    ),
    case("a proxy needs no ARG", "RUN echo $HTTP_PROXY", buildargs='{"HTTP_PROXY":"p"}'),
    case("COPY of files", "COPY a.txt run.sh /d/\nCOPY a.txt /e\nCOPY a.txt d2/\nRUN find /d /e /d2; cat /e"),
    case("COPY of directories", "COPY sub /s\nCOPY sub/ /t/\nCOPY . /all\nRUN find /s /t /all | sort"),
    case("COPY by patterns", "COPY *.txt su[a-b]/* /p/\nRUN find /p | sort"),
    case("COPY through links of the image", "RUN mkdir /real && ln -s real /link\nCOPY a.txt /link/\nRUN ls -l /real /link | wc -l"),
    case("COPY onto what is there", "RUN mkdir -p /o/sub && echo old >/o/a.txt\nCOPY a.txt /o\nRUN cat /o/a.txt; ls /o"),
    case("owners of copies", "COPY --chown=7 a.txt /x/y/\nCOPY --chown=alice:staff sub /z\nRUN stat -c '%n %u:%g' /x /x/y /x/y/a.txt /z /z/b"),
    case("WORKDIR and relative targets", "WORKDIR /w\nCOPY a.txt .\nCOPY a.txt ./b\nWORKDIR deeper\nCOPY a.txt ../c\nRUN find /w | sort"),
    case(
        "stages",
        "FROM bb AS one\nRUN mkdir /made && echo 1 >/made/f && ln -s f /made/l\nFROM bb AS two\nRUN echo 2 >/g\n"
        "FROM bb\nCOPY --from=one /made /from-one\nCOPY --from=1 /g /from-two\nCOPY --from=rich /srv/data/seed /\n"
        "COPY --from=one /made/l /followed\nCOPY --from=one /made/* /globbed/\nRUN cat /from-one/f /from-two /seed /followed; ls /globbed",
    ),
    case("a stage on a stage", "FROM bb AS base\nRUN echo 1 >/one\nFROM base\nRUN cat /one"),
    case("the target ends the build", "FROM bb AS one\nRUN echo first\nFROM bb\nRUN exit 1", target="one"),
    case("from scratch", "FROM scratch\nCOPY --from=bb / /\nRUN echo ran", "$IMAGE cat /etc/group"),
    case("labels of the client", "RUN true", labels='{"b":"2 x","a":"it\'s"}'),
    case("quiet", "RUN echo said", q="1"),
    case("quiet and failing", "RUN echo said; exit 4", q="1"),
    case("another file", "RUN true", dockerfile="other/Dockerfile"),
]  # fmt: skip
LIMITS = case("limits", "RUN df -k /dev/shm | tail -n 1 | awk '{print $2}'", shmsize="1048576")


def context(dockerfile: str, more: dict[str, bytes] | None = None) -> bytes:
    """A tar as the CLI sends it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        other = b"FROM bb\nRUN echo the other file\n"
        for name, data in {
            "Dockerfile": dockerfile.encode(),
            "other/Dockerfile": other,
            **FILES,
            **(more or {}),
        }.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755 if name.endswith(".sh") else 0o644
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def build(daemon: Daemon, body: bytes, query: dict[str, str]) -> tuple[int, list[Any]]:
    """Status, and the messages (or the one error)."""
    connection = http.client.HTTPConnection("localhost", timeout=50)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(daemon.socket)
    connection.request(
        "POST", f"/build?{urlencode(query)}", body, {"Content-Type": "application/x-tar"}
    )
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, [json.loads(line) for line in text.splitlines() if line.strip()]


_LEFT_OUT = re.compile(r"^ ---> (Running in|Removed intermediate)|^Removing intermediate")


def shown(messages: list[Any], names: dict[str, str]) -> list[str]:
    """What a client sees, ids and hashes as words; output of a step is one line, however it was cut."""
    lines: list[str] = []
    for message in messages:
        text = message.get("stream")
        if text is None:
            lines.append(normal(json.dumps(message, sort_keys=True), names))
        elif _LEFT_OUT.match(text):
            continue
        elif lines and lines[-1].startswith(">") and not re.match(r"Step | --->|Success|\[W", text):
            # What is written in pieces comes in pieces, each red by itself.
            lines[-1] = (lines[-1] + text).replace("\x1b[0m\x1b[91m", "")
        else:
            lines.append(f">{text}")
    found = [normal(line, names).rstrip("\n") for line in lines]
    return [
        re.sub(r"(?<=---> )[0-9a-f]{12}|(?<=built )[0-9a-f]{12}", "ID12", line) for line in found
    ]


@pytest.fixture
def tag(cli: CLI) -> Iterator[str]:
    """A name for what is built; all that hangs on it is gone afterwards."""
    yield "built:case"
    cli("image rm -f built:case")
    cli("image prune -f")


@pytest.mark.parametrize("subject", CASES, ids=str)
def test_builds_as_dockerd(
    subject: Case, daemon: Daemon, cli: CLI, recording: Recording, names: dict[str, str], tag: str
) -> None:
    status, messages = build(daemon, context(subject.dockerfile), {"t": tag, **subject.query})
    # What a proxy of the environment adds is no part of it; dockerd's start errors name its runtime.
    actual: dict[str, Any] = {"status": status, "lines": shown(messages, names)}
    if status == 200 and "errorDetail" not in messages[-1]:
        config = json.loads(cli.ok(f"image inspect -f '{{{{json .Config}}}}' {tag}"))
        actual["config"] = {key: config.get(key) for key in CONFIG}
        history = cli.ok(f"history --no-trunc --format '{{{{.CreatedBy}}}}' {tag}")
        actual["history"] = [
            re.sub(r":[0-9a-f]{64}|ID64", ":HASH", line) for line in history.splitlines()
        ]
        actual["then"] = [cli.ok(f"run --rm {run.replace('$IMAGE', tag)}") for run in subject.then]
    if recording.taking:
        recording.put(subject.name, actual)
        return
    assert actual == recording.get(subject.name)


@pytest.mark.linux_only("max_swap alone limits /dev/shm")
def test_limits_hold_for_the_containers_of_a_build(
    daemon: Daemon, cli: CLI, recording: Recording, names: dict[str, str], tag: str
) -> None:
    test_builds_as_dockerd(LIMITS, daemon, cli, recording, names, tag)


def test_what_a_zone_cannot_have_is_told(daemon: Daemon, platform: object, tag: str) -> None:
    _, messages = build(daemon, context(LIMITS.dockerfile), {"t": tag, **LIMITS.query})
    warned = [m["stream"] for m in messages if "[Warning]" in m.get("stream", "")]
    assert bool(warned) is (platform is not None)


CONFIG = (
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
)


def ids(messages: list[Any]) -> list[str]:
    """Of the stages."""
    return [message["aux"]["ID"] for message in messages if "aux" in message]


def test_a_step_that_was_built_before_is_not_built_again(daemon: Daemon, tag: str) -> None:
    text = "FROM bb\nENV A=1\nRUN date +%N\nCOPY a.txt /\nRUN date +%N >/b\n"
    _, first = build(daemon, context(text), {"t": tag})
    _, again = build(daemon, context(text), {"t": tag})
    assert ids(first) == ids(again)
    assert sum(m.get("stream") == " ---> Using cache\n" for m in again) == 4
    _, changed = build(daemon, context(text, {"a.txt": b"other\n"}), {"t": tag})
    assert sum(m.get("stream") == " ---> Using cache\n" for m in changed) == 2
    assert ids(changed) != ids(first)
    _, anew = build(daemon, context(text), {"t": tag, "nocache": "1"})
    assert not [m for m in anew if m.get("stream") == " ---> Using cache\n"]


def test_an_argument_makes_another_step(daemon: Daemon, tag: str) -> None:
    text = "FROM bb\nARG A\nRUN echo $A\n"
    built = [
        ids(build(daemon, context(text), {"t": tag, "buildargs": json.dumps({"A": value})})[1])
        for value in ("1", "2", "1")
    ]
    assert built[0] == built[2] != built[1]


def test_triggers_of_the_base_run_first(daemon: Daemon, cli: CLI, tag: str) -> None:
    build(
        daemon, context("FROM bb\nONBUILD COPY a.txt /t\nONBUILD RUN cat /t\n"), {"t": "built:on"}
    )
    _, messages = build(daemon, context("FROM built:on\nRUN echo then\n"), {"t": tag})
    text = "".join(m.get("stream", "") for m in messages)
    assert "# Executing 2 build triggers\n" in text
    assert text.index("a\n") < text.index("then\n")
    assert cli.ok(f"image inspect -f '{{{{json .Config.OnBuild}}}}' {tag}") == "null"
    cli.ok(f"rmi -f built:on {tag}")


def test_an_archive_is_unpacked_by_add_alone(daemon: Daemon, tag: str) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        info = tarfile.TarInfo("in/side")
        info.size, info.uid = 2, 42
        tar.addfile(info, io.BytesIO(b"x\n"))
    text = "FROM bb\nADD t.tgz /added/\nCOPY t.tgz /copied/\nRUN find /added /copied | sort; stat -c %u /added/in/side\n"
    _, messages = build(daemon, context(text, {"t.tgz": inner.getvalue()}), {"t": tag})
    text = "".join(m.get("stream", "") for m in messages)
    assert "/added\n/added/in\n/added/in/side\n/copied\n/copied/t.tgz\n42\n" in text


def test_a_url_is_fetched(daemon: Daemon, registry: str, tag: str) -> None:
    if daemon.kind == "dockerd":
        pytest.skip("its registry is asked through another network namespace")
    text = f"FROM bb\nADD http://{registry}/v2/_catalog /c/\nADD http://{registry}/v2/ /d\nRUN stat -c '%n %a' /c/_catalog /d\n"
    _, messages = build(daemon, context(text), {"t": tag})
    assert "/c/_catalog 600\n/d 600\n" in "".join(m.get("stream", "") for m in messages)


@pytest.mark.parametrize("form", ["tar", "text"])
def test_a_context_may_come_by_url(daemon: Daemon, tag: str, tmp_path: Path, form: str) -> None:
    if daemon.kind == "dockerd":
        pytest.skip("this server answers in another network namespace")
    text = "FROM bb\nRUN echo by url\n"
    body = context(text) if form == "tar" else text.encode()
    media = "application/x-tar" if form == "tar" else "text/plain"

    class Once(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", media)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Once) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/context"
        _, messages = build(daemon, b"", {"t": tag, "remote": url})
        thread.join(10)
    assert "by url\n" in "".join(m.get("stream", "") for m in messages)


def test_a_client_that_hangs_up_ends_the_build(daemon: Daemon, api: API, cli: CLI) -> None:
    body = context("FROM bb\nRUN echo begun; sleep 1000\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(daemon.socket)
        head = f"POST /build?nocache=1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        seen = b""
        while b'"begun' not in seen:
            seen += client.recv(65536)
        container = re.findall(rb"Running in ([0-9a-f]{12})", seen)[-1].decode()
    cli(f"wait {container}")
    answer = cli(f"inspect -f '{{{{.State.Running}}}}' {container}")
    assert answer.exit or answer.stdout.strip() == "false"


def test_buildkit_is_refused(daemon: Daemon, api: API) -> None:
    if daemon.kind == "dockerd":
        pytest.skip("it has BuildKit")
    status, (answer,) = build(daemon, context("FROM bb\n"), {"version": "2"})
    assert status == 501
    assert "DOCKER_BUILDKIT=0" in answer["message"]
    assert api("POST", "/build/cancel").status == 400
    assert api("POST", "/build/cancel?id=x").status == 501


def test_the_cli_and_the_sdk_build(daemon: Daemon, cli: CLI, tmp_path: Path, tag: str) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM bb\nCOPY kept /\nRUN test -e /kept && test ! -e /left\n"
    )
    (tmp_path / "kept").touch()
    (tmp_path / "left").touch()
    (tmp_path / ".dockerignore").write_text("left\n.dockerignore\n")
    cli.env["DOCKER_BUILDKIT"] = "0"
    try:
        done = cli(["build", "-t", tag, "--label", "a=b", str(tmp_path)])
    finally:
        del cli.env["DOCKER_BUILDKIT"]
    assert done.exit == 0, done
    assert "Successfully tagged built:case\n" in done.stdout
    client = docker.DockerClient(daemon.url)
    _, log = client.images.build(path=str(tmp_path), tag="built:sdk", rm=True)
    assert any("Successfully built" in line.get("stream", "") for line in log)
    with pytest.raises(docker.errors.BuildError, match="returned a non-zero code: 9"):
        client.images.build(fileobj=io.BytesIO(b"FROM bb\nRUN exit 9\n"), rm=True, forcerm=True)
    client.images.remove("built:sdk", force=True)
    client.close()
