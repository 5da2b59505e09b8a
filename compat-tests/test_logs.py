"""docker logs with every option, and log drivers that send elsewhere, over bare HTTP."""

from __future__ import annotations

import json
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from compat.answers import Recording
from compat.clients import API, CLI, frames
from compat.wire import Case, Cases, Wire, check, text

cases = Cases()
THREE = "echo one; echo two >&2; echo three"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")
FAILED = "failed to create task for container: "


def _ended(wire: Wire, command: str, **options: Any) -> str:
    ident = wire.create(command, **options)
    wire.start(ident)
    wire.api.ok("POST", f"/containers/{ident}/wait")
    return ident


def _logs(wire: Wire, ident: str, query: str = "stdout=1&stderr=1") -> Any:
    answer = wire.api("GET", f"/containers/{ident}/logs?{query}")
    if answer.status != 200:
        return [answer.status, answer.message]
    return {str(stream): text(data) for stream, data in frames(answer.body).items()}


def _each_frame(data: bytes) -> list[list[Any]]:
    found = []
    while data:
        size = int.from_bytes(data[4:8], "big")
        found.append([data[0], text(data[8 : 8 + size])])
        data = data[8 + size :]
    return found


@cases()
def neither_stream(wire: Wire) -> Any:
    ident = _ended(wire, "true")
    return [_logs(wire, ident, query) for query in ("", "stdout=0&stderr=0", "follow=1")]


@cases()
def one_stream_or_both(wire: Wire) -> Any:
    ident = _ended(wire, THREE)
    return [_logs(wire, ident, query) for query in ("stdout=1", "stderr=1", "stdout=1&stderr=1")]


@cases()
def a_frame_is_a_line(wire: Wire) -> Any:
    ident = _ended(wire, "echo one; echo two; printf rest")
    plain = wire.api("GET", f"/containers/{ident}/logs?stdout=1").body
    followed = wire.api("GET", f"/containers/{ident}/logs?stdout=1&follow=1").body
    return [_each_frame(plain), _each_frame(followed)]


@cases()
def tails(wire: Wire) -> Any:
    ident = _ended(wire, "for i in 1 2 3 4 5; do echo $i; done; printf rest")
    wanted = ("0", "1", "2", "6", "7", "100", "all", "", "-1", "xx")
    return {tail: _logs(wire, ident, f"stdout=1&tail={tail}") for tail in wanted}


@cases()
def a_tail_counts_lines_of_both_streams(wire: Wire) -> Any:
    ident = _ended(wire, "echo 1; sleep 0.1; echo 2 >&2; sleep 0.1; echo 3; sleep 0.1; echo 4 >&2")
    return [_logs(wire, ident, f"{query}&tail=2") for query in ("stdout=1&stderr=1", "stdout=1")]


@cases()
def timestamps_have_nine_digits_and_end_in_z(wire: Wire) -> Any:
    ident = _ended(wire, "echo one; echo; echo three")
    lines = _logs(wire, ident, "stdout=1&timestamps=1")["1"].split("\n")[:-1]
    return [[bool(STAMP.match(line)), STAMP.sub("", line)] for line in lines]


@cases()
def spans_of_time(wire: Wire) -> Any:
    ident = _ended(wire, "echo one; sleep 0.2; echo two; sleep 0.2; echo three")
    lines = _logs(wire, ident, "stdout=1&timestamps=1")["1"].split("\n")[:-1]
    stamps = [line.split(" ")[0] for line in lines]
    unix = [
        f"{int(time.mktime(time.strptime(s[:19], '%Y-%m-%dT%H:%M:%S'))) - time.timezone}{s[19:29]}"
        for s in stamps
    ]
    shown = {
        "since the second": f"since={unix[1]}",
        "until the second": f"until={unix[1]}",
        "between": f"since={unix[1]}&until={unix[1]}",
        "since and tail": f"since={unix[1]}&tail=1",
        "until nothing": "until=0",
        "since nothing": "since=0",
        "since tomorrow": f"since={int(time.time()) + 86400}",
        "until yesterday": f"until={int(time.time()) - 86400}",
    }
    return {name: _logs(wire, ident, f"stdout=1&{query}") for name, query in shown.items()}


@cases()
def a_time_that_is_none(wire: Wire) -> Any:
    ident = _ended(wire, "echo x")
    return [_logs(wire, ident, f"stdout=1&{query}") for query in ("since=yesterday", "until=1.2.3")]


@cases()
def long_lines_are_joined(wire: Wire) -> Any:
    ident = _ended(wire, "head -c 50000 /dev/zero | tr '\\0' x; echo; echo next")
    body = _logs(wire, ident, "stdout=1")["1"]
    with_times = _logs(wire, ident, "stdout=1&timestamps=1")["1"]
    lines = body.split("\n")
    return [[len(line) for line in lines], lines[1], len(STAMP.findall(with_times)) <= 5]


@cases()
def a_terminal_s_are_raw(wire: Wire) -> Any:
    ident = _ended(wire, "echo one; echo two >&2", Tty=True)
    return text(wire.api("GET", f"/containers/{ident}/logs?stdout=1").body)


@cases()
def details(wire: Wire) -> Any:
    ident = _ended(
        wire,
        "echo x",
        Labels={"a": "1 2", "b": "no"},
        Env=["E=f=g"],
        HostConfig={"LogConfig": {"Type": "json-file", "Config": {"labels": "a,c", "env": "E"}}},
    )
    return [_logs(wire, ident, "stdout=1&details=1"), _logs(wire, ident, "stdout=1&details=0")]


@cases()
def of_a_container_that_never_ran(wire: Wire) -> Any:
    ident = wire.create("echo x")
    return [_logs(wire, ident), _logs(wire, ident, "stdout=1&follow=1")]


@cases()
def kept_over_a_restart(wire: Wire) -> Any:
    ident = _ended(wire, "echo x")
    wire.start(ident)
    wire.api.ok("POST", f"/containers/{ident}/wait")
    return _logs(wire, ident)


@cases()
def no_log_is_kept(wire: Wire) -> Any:
    ident = _ended(wire, "echo x", HostConfig={"LogConfig": {"Type": "none"}})
    return [_logs(wire, ident), _logs(wire, ident, "stdout=1&follow=1")]


@cases()
def of_the_driver_local(wire: Wire) -> Any:
    config = {"Type": "local", "Config": {"max-size": "2m", "max-file": "3"}}
    ident = _ended(wire, THREE, HostConfig={"LogConfig": config})
    return [_logs(wire, ident), wire.inspect(ident)["LogPath"]]


@cases()
def a_follower_sees_the_end(wire: Wire) -> Any:
    ident = wire.running("echo one; sleep 0.3; echo two")
    return _logs(wire, ident, "stdout=1&follow=1")


@cases()
def a_follower_after_the_last_lines(wire: Wire) -> Any:
    ident = wire.running("echo one; echo two; read x; echo three", OpenStdin=True, StdinOnce=True)
    wire.until_logged(ident, b"two")
    follow = wire.api.stream("GET", f"/containers/{ident}/logs?stdout=1&follow=1&tail=1")
    first = follow.read1()
    with wire.api.hijack(f"/containers/{ident}/attach?stream=1&stdin=1") as attached:
        attached.send(b"\n")
        attached.close_input()
        rest = follow.read()
    return [_each_frame(first), _each_frame(rest)]


def _start(wire: Wire, driver: str, options: dict[str, str]) -> Any:
    config = {"LogConfig": {"Type": driver, "Config": options}, "NetworkMode": "none"}
    body = {"Image": "bb", "Cmd": ["true"], "HostConfig": config}
    made = wire.api("POST", "/containers/create", body)
    if made.status != 201:
        return ["create", made.status, made.message]
    ident = made.json()["Id"]
    started = wire.api("POST", f"/containers/{ident}/start")
    if started.status == 204:
        wire.api.ok("POST", f"/containers/{ident}/wait")
        return ["started"]
    state = wire.inspect(ident)["State"]
    return [
        "start",
        started.status,
        started.message,
        state["Status"],
        state["Error"],
        state["ExitCode"],
    ]


UDP = {"syslog-address": "udp://127.0.0.1:9"}
GELF = {"gelf-address": "udp://127.0.0.1:9"}
REFUSED: dict[str, tuple[str, dict[str, str]]] = {
    "json-file, unknown": ("json-file", {"zz": "1"}),
    "json-file, mode": ("json-file", {"mode": "zz"}),
    "json-file, buffer without its mode": ("json-file", {"max-buffer-size": "1m"}),
    "json-file, buffer": ("json-file", {"mode": "non-blocking", "max-buffer-size": "zz"}),
    "json-file, cache-disabled": ("json-file", {"cache-disabled": "zz"}),
    "json-file, all is well": ("json-file", {"max-size": "1k", "max-file": "2", "compress": "true", "mode": "non-blocking"}),
    "local, unknown": ("local", {"labels": "a"}),
    "none takes all": ("none", {"zz": "1", "mode": "zz"}),
    "unknown driver": ("nope", {}),
    "syslog, unknown": ("syslog", {"x": "1"}),
    "syslog, no address": ("syslog", {"syslog-address": "foo"}),
    "syslog, no such scheme": ("syslog", {"syslog-address": "http://1.2.3.4"}),
    "syslog, facility": ("syslog", UDP | {"syslog-facility": "zz"}),
    "syslog, format": ("syslog", UDP | {"syslog-format": "zz"}),
    "syslog, cache": ("syslog", UDP | {"cache-zz": "1"}),
    "syslog, nobody listens to datagrams": ("syslog", UDP),
    "gelf without an address": ("gelf", {}),
    "gelf, no address": ("gelf", {"gelf-address": "foo"}),
    "gelf without a port": ("gelf", {"gelf-address": "udp://127.0.0.1"}),
    "gelf by a file": ("gelf", {"gelf-address": "unix:///x"}),
    "gelf, compression": ("gelf", GELF | {"gelf-compression-type": "zz"}),
    "gelf, level": ("gelf", GELF | {"gelf-compression-level": "zz"}),
    "gelf, compression of tcp": ("gelf", {"gelf-address": "tcp://127.0.0.1:9", "gelf-compression-type": "none"}),
    "gelf, reconnect of udp": ("gelf", GELF | {"gelf-tcp-max-reconnect": "3"}),
    "gelf, unknown": ("gelf", GELF | {"zz": "1"}),
    "fluentd, unknown": ("fluentd", {"zz": "1"}),
    "fluentd, port": ("fluentd", {"fluentd-address": "127.0.0.1:xx"}),
    "fluentd, async": ("fluentd", {"fluentd-async": "zz"}),
    "fluentd, retries": ("fluentd", {"fluentd-max-retries": "-1"}),
    "fluentd, wait": ("fluentd", {"fluentd-retry-wait": "zz"}),
    "fluentd, limit": ("fluentd", {"fluentd-buffer-limit": "zz"}),
    "fluentd, async nobody there": ("fluentd", {"fluentd-address": "127.0.0.1:9", "fluentd-async": "true"}),
    "journald, unknown": ("journald", {"zz": "1"}),
}  # fmt: skip


@cases()
def options_that_are_refused(wire: Wire) -> Any:
    return {name: _start(wire, *case) for name, case in REFUSED.items()}


LATE = {
    "size": ("json-file", {"max-size": "zz"}),
    "no size": ("json-file", {"max-size": "0"}),
    "count": ("json-file", {"max-size": "1k", "max-file": "0"}),
    "number": ("json-file", {"max-file": "zz"}),
    "compress": ("json-file", {"compress": "true"}),
    "field": ("json-file", {"tag": "{{.Nope}}"}),
    "template": ("json-file", {"tag": "{{.ID"}),
    "function": ("json-file", {"tag": "{{nope .ID}}"}),
    "expression": ("json-file", {"labels-regex": "("}),
    "local size": ("local", {"max-size": "zz"}),
    "local compress": ("local", {"max-file": "1"}),
}


@cases(
    ours={
        "size": ["create", 400, "invalid size: 'zz'"],
        "no size": ["create", 400, "max-size must be a positive number"],
        "count": ["create", 400, "max-file cannot be less than 1"],
        "number": ["create", 400, 'strconv.Atoi: parsing "zz": invalid syntax'],
        "compress": ["create", 400, "compress cannot be true when max-file is less than 2 or max-size is not set"],
        "field": ["create", 400, 'template: log-tag:1:2: executing "log-tag" at <.Nope>: can\'t evaluate field Nope in type *logger.Info'],
        "template": ["create", 400, "template: log-tag:1: unclosed action"],
        "function": ["create", 400, 'template: log-tag:1: function "nope" not defined'],
        "expression": ["create", 400, "error parsing regexp: missing closing ): `(`"],
        "local size": ["create", 400, "invalid value for max-size: zz: invalid size: 'zz'"],
        "local compress": ["create", 400, "compression cannot be enabled when max file count is 1"],
    },
    why="dockerd finds these when the container starts, zonegate at create; the words are the same",
)  # fmt: skip
def options_that_dockerd_finds_later(wire: Wire) -> Any:
    return {name: _start(wire, *case) for name, case in LATE.items()}


def _unreachable(driver: str, words: str) -> list[Any]:
    message = f"{FAILED}failed to initialize logging driver: {words}"
    return [driver, "start", 500, message, "created", message, 128]


NOBODY = "dial tcp 127.0.0.1:9: connect: connection refused"


@cases()
def nobody_is_there(wire: Wire) -> Any:
    return [
        [driver, *_start(wire, driver, {f"{driver}-address": "tcp://127.0.0.1:9"})]
        for driver in ("syslog", "gelf", "fluentd")
    ]


@pytest.mark.parametrize("case", cases, ids=str)
def test_logs_answer_as_dockerd_s_do(
    case: Case, recording: Recording, api: API, names: dict[str, str]
) -> None:
    check(case, recording, api, names)


def test_a_follower_up_to_a_time_ends_then(api: API, kind: str) -> None:
    if kind == "dockerd":
        pytest.skip("dockerd sees that the time is over when the next line comes")
    wire = Wire(api)
    ident = wire.running("echo one; sleep 1000")
    wire.until_logged(ident, b"one")
    assert _logs(wire, ident, f"stdout=1&follow=1&until={time.time() + 0.5:.9f}") == {"1": "one\n"}


# --- far ends: none of dockerd's answers, but what arrives

# dockerd has a network namespace of the test process's own, which has this loopback too.


@contextmanager
def listening(
    kind: socket.SocketKind,
) -> Iterator[tuple[int, Callable[[Callable[[bytes], bool]], bytes]]]:
    """A far end: its port, and what it gets until that is enough.  The kernel keeps what is not read yet."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_INET, kind))
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        if kind is socket.SOCK_STREAM:
            server.listen()
        connected: list[socket.socket] = []

        def until(test: Callable[[bytes], bool]) -> bytes:
            if kind is socket.SOCK_STREAM and not connected:
                connected.append(stack.enter_context(server.accept()[0]))
                connected[0].settimeout(20)
            sock = connected[0] if connected else server
            got = b""
            while not test(got):
                got += sock.recv(65536)
            return got

        yield server.getsockname()[1], until


def run(api: API, driver: str, options: dict[str, str], command: str, **more: Any) -> str:
    """Ended, and its id."""
    wire = Wire(api)
    config = {"LogConfig": {"Type": driver, "Config": options}}
    return _ended(wire, command, HostConfig=config, **more)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("", rb"<30>\w{3} [ \d]\d \d\d:\d\d:\d\d me/\w{12}\[\d+\]: out\n"),
        ("rfc3164", rb"<30>\w{3} [ \d]\d \d\d:\d\d:\d\d \S+ me/\w{12}\[\d+\]: out\n"),
        ("rfc5424", rb"<30>1 [-\d]{10}T[:\d]{8}(?:Z|[-+:\d]{6}) \S+ (me/\w{12}) \d+ \1 - out\n"),
        ("rfc5424micro", rb"<30>1 [-\d]{10}T[:\d]{8}\.\d{6}(?:Z|[-+:\d]{6}) \S+ (me/\w{12}) \d+ \1 - out\n"),
    ],
)  # fmt: skip
def test_syslog_gets_each_line_in_its_format(api: API, form: str, pattern: bytes) -> None:
    with listening(socket.SOCK_DGRAM) as (port, until):
        options = {
            "syslog-address": f"udp://127.0.0.1:{port}",
            "syslog-format": form,
            "tag": "me/{{.ID}}",
        }
        run(api, "syslog", options, "echo out; echo err >&2")
        got = until(lambda data: data.count(b"\n") == 2)
    assert re.search(pattern, got), got
    assert b"<27>" in got


def test_what_is_sent_by_tcp_is_whole_and_can_be_read_here_too(api: API, kind: str) -> None:
    lines = "for i in $(seq 2000); do echo line $i; done; printf end"
    with listening(socket.SOCK_STREAM) as (port, until):
        options = {"syslog-address": f"tcp://127.0.0.1:{port}", "syslog-facility": "local3"}
        ident = run(api, "syslog", options, lines)
        got = until(lambda data: data.endswith(b": end\n"))
    said = [line.rpartition(b": ")[2] for line in got.splitlines()]
    assert said == [b"line %d" % n for n in range(1, 2001)] + [b"end"]
    assert got.startswith(b"<158>")
    if kind == "dockerd":
        return  # it shows nothing of its copy once the container has ended
    kept = frames(api("GET", f"/containers/{ident}/logs?stdout=1").body)[1]
    assert kept.startswith(b"line 1\nline 2\n")
    assert kept.rstrip().endswith(b"end")


def test_gelf_tells_whose_line_it_is(api: API) -> None:
    with listening(socket.SOCK_DGRAM) as (port, until):
        options = {"gelf-address": f"udp://127.0.0.1:{port}", "labels": "a", "env": "E"}
        ident = run(api, "gelf", options, "echo out", Labels={"a": "b", "c": "d"}, Env=["E=f"])
        body = json.loads(zlib.decompress(until(bool), 31))
    shown = api.ok("GET", f"/containers/{ident}/json")
    wanted = {
        "version": "1.1", "short_message": "out", "level": 6, "_container_id": ident, "_container_name": shown["Name"][1:],
        "_image_name": "bb", "_command": "sh -c echo out", "_tag": ident[:12], "_a": "b", "_E": "f",
    }  # fmt: skip
    assert {key: body.get(key) for key in wanted} == wanted
    assert "_c" not in body
    assert abs(body["timestamp"] - time.time()) < 120


def test_fluentd_gets_records_and_pieces_of_long_lines(api: API) -> None:
    msgpack = pytest.importorskip("msgpack")
    with listening(socket.SOCK_STREAM) as (port, until):
        options = {"fluentd-address": f"127.0.0.1:{port}", "tag": "docker.{{.Name}}"}
        run(api, "fluentd", options, "echo out; head -c 20000 /dev/zero | tr '\\0' x; echo")

        def records(data: bytes) -> list[Any]:
            unpacker = msgpack.Unpacker(raw=False)
            unpacker.feed(data)
            return list(unpacker)

        found = records(until(lambda data: sum(len(r[2]["log"]) for r in records(data)) >= 20003))
    assert [len(record[2]["log"]) for record in found] == [3, 16384, 3616]
    tag, moment, first, _ = found[0][:4] if len(found[0]) == 4 else [*found[0], None]
    assert tag.startswith("docker.")
    assert abs(moment - time.time()) < 120
    assert first["source"] == "stdout"
    assert first["container_name"].startswith("/")
    assert [record[2].get("partial_last") for record in found] == [None, "false", "true"]


def test_no_copy_is_kept_where_the_client_wants_none(api: API) -> None:
    with listening(socket.SOCK_DGRAM) as (port, until):
        options = {"gelf-address": f"udp://127.0.0.1:{port}", "cache-disabled": "true"}
        ident = run(api, "gelf", options, "echo out")
        until(bool)
    answer = api("GET", f"/containers/{ident}/logs?stdout=1")
    assert (answer.status, answer.message) == (
        501,
        "configured logging driver does not support reading",
    )


def test_a_removed_container_s_last_words_arrive(cli: CLI) -> None:
    with listening(socket.SOCK_STREAM) as (port, until):
        cli.ok(
            ["run", "--rm", "--network", "none", "--log-driver", "syslog", "--log-opt", f"syslog-address=tcp://127.0.0.1:{port}", "bb", "sh", "-c", "seq 5000; printf last"]
        )  # fmt: skip
        got = until(lambda data: data.endswith(b": last\n"))
    assert got.count(b"\n") == 5001


def test_a_far_end_that_comes_late_gets_everything(api: API, kind: str) -> None:
    if kind == "dockerd":
        pytest.skip("dockerd drops what it cannot send")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    pytest.importorskip("msgpack")
    options = {"fluentd-address": f"127.0.0.1:{port}", "fluentd-async": "true"}
    run(api, "fluentd", options, "echo early")
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(20)
        client, _ = server.accept()
        client.settimeout(20)
        assert b"early" in client.recv(65536)
        client.close()


def test_info_names_the_drivers(api: API) -> None:
    found = api.ok("GET", "/info")["Plugins"]["Log"]
    assert {"fluentd", "gelf", "json-file", "local", "syslog"} <= set(found)
    assert ("journald" in found) or not Path("/run/systemd/journal/socket").exists()
