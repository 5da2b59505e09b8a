"""attach: who gets what, from when to when; keys, half-closes, replays; over bare HTTP and over websockets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from compat.answers import Recording
from compat.clients import API, frames
from compat.wire import SHARED, Case, Cases, Wire, answered, check, said, text
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, unix_connect

OPEN = {"OpenStdin": True, "AttachStdin": True}
ONCE = OPEN | {"StdinOnce": True}
TTY = OPEN | {"Tty": True}
ALL = "stream=1&stdin=1&stdout=1&stderr=1"
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}

cases = Cases()


@pytest.fixture(scope="module", autouse=True)
def _shared(daemon: Any) -> Iterator[None]:
    """What the cases share goes with them."""
    yield
    API(daemon.socket)("DELETE", f"/containers/{SHARED}?force=1&v=1")


@cases()
def before_the_start(wire: Wire) -> Any:
    ident = wire.create("echo out; echo err >&2; exit 3")
    with wire.attach(ident) as attached:
        wire.start(ident)
        return [attached.status, said(attached), wire.inspect(ident)["State"]["ExitCode"]]


@cases()
def of_a_stopped_one_waits_for_the_next_start(wire: Wire) -> Any:
    ident = wire.running("echo run >> /runs; cat /runs")
    wire.api.ok("POST", f"/containers/{ident}/wait")
    with wire.attach(ident) as attached:
        wire.start(ident)
        return said(attached)


@cases()
def of_nobody(wire: Wire) -> Any:
    with wire.attach("nothere") as attached:
        return answered(attached)


@cases(linux_only="no freezer")
def of_a_paused_one(wire: Wire) -> Any:
    ident = wire.running()
    wire.api.ok("POST", f"/containers/{ident}/pause")
    with wire.attach(ident) as attached:
        return answered(attached)


@cases()
def of_nothing_ends_at_once(wire: Wire) -> Any:
    ident = wire.shared()
    answers = []
    for query in ("", "stdout=1", "stream=1", "stream=1&stdin=1"):
        with wire.attach(ident, query) as attached:
            answers.append([attached.status, said(attached)])
        if query == "stream=1":
            break
    return answers


@cases()
def with_the_log_alone(wire: Wire) -> Any:
    ident = wire.running("echo one; echo two >&2; sleep 1000")
    wire.until_logged(ident, b"one\n")
    wire.until_logged(ident, b"two\n")
    answers = []
    for query in ("logs=1&stdout=1&stderr=1", "logs=1&stdout=1", "logs=1&stderr=1"):
        with wire.attach(ident, query) as attached:
            answers.append(said(attached))
    return answers


@cases()
def with_the_log_of_a_stopped_one(wire: Wire) -> Any:
    ident = wire.running("echo one; echo two >&2")
    wire.api.ok("POST", f"/containers/{ident}/wait")
    with wire.attach(ident, "logs=1&stdout=1&stderr=1") as attached:
        return said(attached)


@cases()
def with_the_log_and_on(wire: Wire) -> Any:
    ident = wire.running("echo one; read x; echo $x", **OPEN)
    wire.until_logged(ident, b"one\n")
    with wire.attach(ident, f"{ALL}&logs=1") as attached:
        attached.send(b"two\n")
        return said(attached)


@cases(
    ours={"1": "Error attaching: configured logging driver does not support reading\n"},
    why="dockerd answers nothing, and keeps the connection open",
)
def with_the_log_of_none(wire: Wire) -> Any:
    ident = wire.running("echo one; sleep 1000", HostConfig={"LogConfig": {"Type": "none"}})
    with wire.attach(ident, "logs=1&stream=1&stdout=1") as attached:
        attached.socket.settimeout(3)
        with contextlib.suppress(TimeoutError):
            return said(attached)
        return "open"


@cases()
def input_is_not_taken_where_it_is_not_open(wire: Wire) -> Any:
    ident = wire.create("cat; echo over")
    with wire.attach(ident, ALL) as attached:
        attached.send(b"unwanted\n")
        attached.close_input()
        wire.start(ident)
        return said(attached)


@cases()
def the_end_of_input_ends_the_attach_where_it_stays_open(wire: Wire) -> Any:
    ident = wire.running("while read x; do echo got $x; done", **OPEN)
    with wire.attach(ident, ALL) as attached:
        attached.send(b"one\n")
        attached.until(b"got one\n")
        attached.close_input()
        first = text(attached.rest())
    with wire.attach(ident, ALL) as attached:
        attached.send(b"two\n")
        attached.until(b"got two\n")
    return [first, wire.inspect(ident)["State"]["Running"]]


@cases()
def the_end_of_input_is_one_for_the_process_where_it_is_opened_once(wire: Wire) -> Any:
    ident = wire.running("cat; echo after; echo err >&2; exit 4", **ONCE)
    with wire.attach(ident) as watching, wire.attach(ident, ALL) as attached:
        attached.send(b"in\n")
        attached.close_input()
        both = [said(attached), said(watching)]
    return [*both, wire.inspect(ident)["State"]["ExitCode"]]


@cases()
def who_leaves_ends_the_input_where_it_is_opened_once(wire: Wire) -> Any:
    ident = wire.running("cat; exit 4", **ONCE)
    with wire.attach(ident, ALL) as attached:
        attached.send(b"in\n")
        attached.until(b"in\n")
    return wire.api.ok("POST", f"/containers/{ident}/wait")["StatusCode"]


@cases()
def the_keys_detach_from_a_terminal(wire: Wire) -> Any:
    ident = wire.running("cat", **TTY)
    with wire.attach(ident, ALL) as attached:
        attached.send(b"\x10")
        attached.send(b"x\n")  # the keys have only begun: what was held back goes on
        attached.until(b"\x10x\r\n")  # after the terminal's own ^Px
        _typed(attached, b"\x10\x11")
        left = text(attached.rest())[-8:]
    with wire.attach(ident, ALL) as attached:
        attached.send(b"back\n")
        attached.until(b"back\r\n")
    return [left, wire.events(ident, "detach"), wire.inspect(ident)["State"]["Running"]]


def _typed(attached: Any, keys: bytes) -> None:
    """One by one, each read for itself, as dockerd wants to see them."""
    for key in keys:
        select.select([attached.socket], [], [], 0.2)
        attached.send(bytes((key,)))


@cases()
def keys_of_ones_own(wire: Wire) -> Any:
    ident = wire.running("cat", **TTY)
    with wire.attach(ident, f"{ALL}&detachKeys=ctrl-a,b") as attached:
        attached.send(b"\x10\x11x\n")
        attached.until(b"x\r\n")
        _typed(attached, b"\x01b")
        attached.rest()
    return wire.inspect(ident)["State"]["Running"]


@cases()
def keys_are_data_without_a_terminal(wire: Wire) -> Any:
    ident = wire.running("head -c 3 | od -c", **ONCE)
    with wire.attach(ident, ALL) as attached:
        attached.send(b"\x10\x11z")
        return said(attached)


@cases()
def keys_that_are_none(wire: Wire) -> Any:
    ident = wire.shared()
    answers = []
    for keys in ("rubbish", "ctrl-", "ctrl-aa", "a,", "ctrl-%C3%A4"):
        with wire.attach(ident, f"stream=1&stdout=1&detachKeys={keys}") as attached:
            answers.append(answered(attached))
    return answers


@cases()
def keys_of_every_kind(wire: Wire) -> Any:
    ident = wire.shared()
    answers = []
    for keys in ("DEL", "ctrl-%40", "ctrl-%5B,ctrl-%5C", "ctrl-%5D,x", "ctrl-%5E", "ctrl-_", "Z"):
        with wire.attach(ident, f"stdout=1&detachKeys={keys}") as attached:
            answers.append(attached.status)
    return answers


@cases()
def an_exit_ends_it_though_the_policy_starts_again(wire: Wire) -> Any:
    policy = {"RestartPolicy": {"Name": "always"}}
    ident = wire.create("echo run", HostConfig=policy)
    with wire.attach(ident) as attached:
        wire.start(ident)
        return sorted(set(said(attached)["1"].split()))


@cases()
def a_kill_ends_it(wire: Wire) -> Any:
    ident = wire.running("echo up; sleep 1000", **OPEN)
    wire.until_logged(ident, b"up\n")
    with wire.attach(ident, ALL) as attached:
        wire.kill(ident)
        return said(attached)


@cases()
def a_websocket_that_is_none(wire: Wire) -> Any:
    ident = wire.create("true")
    asked: list[tuple[str, dict[str, str]]] = [
        (ident, {}),
        (ident, HANDSHAKE | {"Sec-WebSocket-Version": "12"}),
        (ident, {key: HANDSHAKE[key] for key in HANDSHAKE if not key.endswith("Key")}),
        (f"{ident}!detachKeys=rubbish", HANDSHAKE),
        ("nothere", HANDSHAKE),
    ]
    answers = []
    for named, headers in asked:
        name, _, more = named.partition("!")
        answer = wire.api("GET", f"/containers/{name}/attach/ws?stream=1&{more}", headers=headers)
        answers.append([answer.status, answer.message])
    return answers


def _websocket(wire: Wire, ident: str, query: str) -> ClientConnection:
    uri = f"ws://docker/v1.41/containers/{ident}/attach/ws?{query}"
    return unix_connect(wire.api.path, uri, compression=None, proxy=None)


@cases()
def over_a_websocket(wire: Wire) -> Any:
    ident = wire.create("read x; echo got $x; read y; echo and $y >&2", **OPEN)
    with _websocket(wire, ident, "stream=1") as client:
        wire.start(ident)
        client.send("text\n")
        first = client.recv(20)
        client.send(b"bytes\n")
        return [[type(m).__name__, m.decode()] for m in (first, client.recv(20))]  # type: ignore[union-attr]


@cases()
def over_a_websocket_with_the_log(wire: Wire) -> Any:
    ident = wire.running("echo one; echo two >&2; read x; echo $x", **OPEN)
    wire.until_logged(ident, b"one\n")
    wire.until_logged(ident, b"two\n")
    with _websocket(wire, ident, "stream=1&logs=1") as client:
        received = b""
        while received.count(b"\n") < 2:
            received += client.recv(20)  # type: ignore[operator]
        client.send(b"three\n")
        return ["".join(sorted(text(received))), text(client.recv(20))]  # type: ignore[arg-type]


@pytest.mark.parametrize("case", cases, ids=str)
def test_attach_answers_as_dockerd_does(
    case: Case, recording: Recording, api: API, names: dict[str, str]
) -> None:
    check(case, recording, api, names)


# -- what dockerd does not do so, or what cannot be recorded ------------------------------------------


def test_the_end_of_a_process_is_the_close_of_its_websocket(api: API) -> None:
    wire = Wire(api)
    ident = wire.create("echo bye")
    with _websocket(wire, ident, "stream=1") as client:
        wire.start(ident)
        assert client.recv(20) == b"bye\n"
        with pytest.raises(ConnectionClosed) as ended:
            client.recv(20)
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1000


def test_from_1_42_a_websocket_has_the_streams_that_its_query_names(api: API) -> None:
    wire = Wire(api)
    ident = wire.create("echo out; echo err >&2")
    uri = f"ws://docker/v1.42/containers/{ident}/attach/ws?stream=1&stderr=1"
    with unix_connect(api.path, uri, compression=None, proxy=None) as client:
        wire.start(ident)
        assert list(client) == [b"err\n"]


def test_an_unknown_container_refuses_the_websocket_by_json(api: API) -> None:
    with pytest.raises(InvalidStatus) as refused:
        _websocket(Wire(api), "nothere", "stream=1")
    response = refused.value.response
    assert response.status_code == 404
    assert json.loads(response.body or b"")["message"] == "No such container: nothere"


def test_docker_py_attaches_by_websocket(api: API) -> None:
    """It knows websockets over TCP only."""
    wire = Wire(api)
    ident = wire.create("read x; echo got $x", **OPEN)
    with _relay(api.path) as port:
        client = docker.APIClient(f"tcp://127.0.0.1:{port}", version="1.44")
        attached = client.attach_socket(
            ident, params={"stdin": 1, "stdout": 1, "stream": 1}, ws=True
        )
        wire.start(ident)
        attached.send("from docker-py\n")
        assert attached.recv() == b"got from docker-py\n"
        attached.close()
        client.close()


@contextlib.contextmanager
def _relay(path: str) -> Iterator[int]:
    """A TCP port that leads to a unix socket."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near = stack.enter_context(listener.accept()[0])
                    far = stack.enter_context(socket.socket(socket.AF_UNIX))
                    far.connect(path)
                    for pair in ((near, far), (far, near)):
                        threading.Thread(target=_copy, args=pair, daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_who_attaches_with_the_log_while_it_is_written_gets_each_byte_once(
    api: API, kind: str
) -> None:
    if kind == "dockerd":
        pytest.skip("dockerd shows some of it twice")
    wire = Wire(api)
    script = (
        "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo $i; [ $((i%50)) != 0 ] || sleep 0.01; done"
    )
    ident = wire.create(script)
    expected = "".join(f"{number}\n" for number in range(1, 4001)).encode()
    with contextlib.ExitStack() as stack:
        query = "logs=1&stream=1&stdout=1"
        attached = [stack.enter_context(wire.attach(ident, query))]
        wire.start(ident)
        attached += [stack.enter_context(wire.attach(ident, query)) for _ in range(5)]
        for one in attached:
            assert frames(one.rest()) == {1: expected}


def test_fifty_attaches_at_once_each_get_everything(api: API) -> None:
    wire = Wire(api)
    ident = wire.create("for i in $(seq 20); do seq 1000; sleep 0.01; done; echo err >&2")
    expected = {1: b"".join(b"%d\n" % n for n in range(1, 1001)) * 20, 2: b"err\n"}
    with contextlib.ExitStack() as stack:
        attached = [stack.enter_context(wire.attach(ident)) for _ in range(50)]
        wire.start(ident)
        for one in attached:
            assert frames(one.rest()) == expected


def test_a_slow_reader_gets_every_byte_and_costs_no_memory(api: API, daemon: Any) -> None:
    """8 MB through a reader that stands still at first; the server keeps little of it."""
    wire = Wire(api)
    size = 8 << 20
    log = {"LogConfig": {"Type": "none"}}
    ident = wire.create(f"yes 0123456789abcde | head -c {size}; exit 5", HostConfig=log)
    with wire.attach(ident) as attached:
        before = daemon.memory()
        wire.start(ident)
        select.select([attached.socket], [], [], 20)
        assert wire.inspect(ident)["State"]["Running"]  # it is held back
        grown = daemon.memory() - before
        data = frames(attached.rest())[1]
    assert data == b"0123456789abcde\n" * (size // 16)
    assert grown < 4 << 20


@pytest.mark.parametrize("tty", [False, True])
def test_binary_data_goes_through_unchanged_in_both_directions(api: API, tty: bool) -> None:
    wire = Wire(api)
    data = os.urandom(1 << 20)
    if tty:  # a terminal that does nothing to its bytes; the keys that detach are no keys of a terminal's program
        data = data.replace(b"\x10\x11", b"\x10\x12")
    raw = "stty raw -echo;" if tty else ""
    ident = wire.create(f"{raw} echo ready; head -c {len(data)}", **ONCE, Tty=tty)
    with wire.attach(ident, ALL) as attached:
        wire.start(ident)
        received = attached.until(b"ready\n")
        sender = threading.Thread(target=attached.send, args=(data,), daemon=True)
        sender.start()
        received += attached.rest()
        sender.join(20)
    received = (received if tty else frames(received)[1]).removeprefix(b"ready\n")
    assert hashlib.sha256(received).hexdigest() == hashlib.sha256(data).hexdigest()
