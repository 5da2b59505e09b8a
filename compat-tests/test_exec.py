"""exec from its creation to its end: streams, errors and where they are told, users, inspect, events, over bare HTTP."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compat.answers import Recording
from compat.clients import API, frames
from compat.wire import SHARED, Case, Cases, Wire, check, said, text

OCI = "OCI runtime exec failed: exec failed: unable to start container process: "

cases = Cases()


@pytest.fixture(scope="module", autouse=True)
def _shared(daemon: Any) -> Iterator[None]:
    """What the cases share goes with them."""
    yield
    API(daemon.socket)("DELETE", f"/containers/{SHARED}?force=1&v=1")


def _started(wire: Wire, made: str, **body: Any) -> list[Any]:
    """An exec start without upgrade: what is refused before the streams is status and message."""
    answer = wire.api("POST", f"/exec/{made}/start", body)
    return [answer.status, answer.message]


@cases()
def the_head_of_its_streams(wire: Wire) -> Any:
    made = wire.exec_create(wire.shared(), "true")
    with wire.exec_start(made) as attached:
        attached.rest()
    lines = [line.partition(": ") for line in attached.head.split("\r\n")[1:]]
    shown = {name: value for name, _, value in lines}
    return [attached.head.split("\r\n")[0], sorted(shown), shown["Content-Type"]]


@cases()
def without_upgrade_it_is_200(wire: Wire) -> Any:
    made = wire.exec_create(wire.shared(), "echo x")
    answer = wire.api("POST", f"/exec/{made}/start", {})
    return [answer.status, answer.headers["Content-Type"], text(answer.body)]


@cases()
def an_unknown_command(wire: Wire) -> Any:
    return wire.ran(wire.shared(), ["nope"])


@cases()
def a_command_that_cannot_be_executed(wire: Wire) -> Any:
    return wire.ran(wire.shared(), ["/etc/passwd"])


@cases()
def a_command_that_is_a_directory(wire: Wire) -> Any:
    return wire.ran(wire.shared(), ["/tmp"])


@cases()
def an_unknown_command_detached(wire: Wire) -> Any:
    made = wire.exec_create(wire.shared(), ["nope"])
    return [_started(wire, made, Detach=True), wire.exec_inspect(made)["ExitCode"]]


@cases()
def a_second_start(wire: Wire) -> Any:
    made = wire.exec_create(wire.shared(), "read x", AttachStdin=True)
    answers: list[Any] = []
    with wire.exec_start(made) as attached:
        select.select([attached.socket], [], [], 0.1)
        answers.append(_started(wire, made, Detach=True))
        with wire.exec_start(made) as again:
            answers.append(said(again))
        attached.close_input()
        attached.rest()
    answers.append(_started(wire, made, Detach=True))
    with wire.exec_start(made) as again:
        return [*answers, said(again)]


@cases()
def of_a_container_that_has_stopped(wire: Wire) -> Any:
    ident = wire.running()
    made = wire.exec_create(ident, "true")
    wire.kill(ident)
    return _started(wire, made)


@cases(linux_only="no freezer")
def of_a_paused_container(wire: Wire) -> Any:
    ident = wire.running()
    made = wire.exec_create(ident, "true")
    wire.api.ok("POST", f"/containers/{ident}/pause")
    resized = wire.api("POST", f"/exec/{made}/resize?h=10&w=20")
    return [_started(wire, made), [resized.status, resized.message]]


@cases()
def detached_it_answers_at_once_and_with_nothing(wire: Wire) -> Any:
    ident = wire.shared()
    made = wire.exec_create(ident, "echo unseen; read x < /dev/null; sleep 1000", AttachStdin=True)
    answer = wire.api("POST", f"/exec/{made}/start", {"Detach": True})
    shown = wire.exec_inspect(made)
    return [answer.status, text(answer.body), shown["Running"], shown["ExitCode"]]


@cases()
def with_no_streams_it_goes_on_alone(wire: Wire) -> Any:
    ident = wire.shared()
    made = wire.exec_create(ident, "sleep 1000", AttachStdout=False, AttachStderr=False)
    with wire.exec_start(made) as attached:
        return [attached.status, said(attached), wire.exec_inspect(made)["Running"]]


@cases()
def each_stream_alone(wire: Wire) -> Any:
    ident = wire.shared()
    script = "echo out; echo err >&2"
    return [
        wire.ran(ident, script, AttachStderr=False),
        wire.ran(ident, script, AttachStdout=False),
        wire.ran(ident, script),
    ]


@cases()
def the_end_of_input_is_one_for_the_process(wire: Wire) -> Any:
    made = wire.exec_create(wire.shared(), "cat; echo after; exit 6", AttachStdin=True)
    with wire.exec_start(made) as attached:
        attached.send(b"in\n")
        attached.close_input()
        return [said(attached), wire.exec_inspect(made)["ExitCode"]]


@cases()
def the_environment_is_added_to(wire: Wire) -> Any:
    ident = wire.running(Env=["A=1", "B=2"])
    return wire.ran(ident, "echo $A$B$C", Env=["B=3", "C=4"])


@cases()
def the_folder_is_the_containers_or_its_own(wire: Wire) -> Any:
    ident = wire.running(WorkingDir="/etc")
    return [wire.ran(ident, ["pwd"]), wire.ran(ident, ["pwd"], WorkingDir="/tmp/")]


@cases()
def a_folder_that_is_not_there(wire: Wire) -> Any:
    return wire.ran(wire.shared(), ["pwd"], WorkingDir="/nowhere")


@cases()
def a_folder_that_is_relative(wire: Wire) -> Any:
    return wire.ran(wire.shared(), ["pwd"], WorkingDir="tmp")


@cases()
def a_user_of_the_containers_own_files(wire: Wire) -> Any:
    ident = wire.running("echo known:x:1234:4321::/: >> /etc/passwd; touch /ready; sleep 1000")
    wire.ran(ident, "until [ -e /ready ]; do sleep 0.02; done")
    return [wire.ran(ident, "id -u; id -g", User=name) for name in ("known", "root", "0:0")]


@cases(linux_only="su there takes the group of the user")
def a_user_by_number_needs_no_files(wire: Wire) -> Any:
    ident = wire.running("rm /etc/passwd /etc/group; touch /ready; sleep 1000")
    wire.ran(ident, "until [ -e /ready ]; do sleep 0.02; done")
    users = ("4711", "4711:4712", ":10", "0")
    return [wire.ran(ident, "id -u; id -g", User=name) for name in users]


_USERS = ("nobodyhere", "root:nogroup", "4711:nogroup", ":nogroup", "99999999999", "a:b:c")


@cases(smartos=[[user, 201, ""] for user in _USERS])
def a_user_or_group_that_is_not_there(wire: Wire) -> Any:
    ident = wire.running("sed -i /nogroup/d /etc/group; touch /ready; sleep 1000")
    wire.ran(ident, "until [ -e /ready ]; do sleep 0.02; done")
    return [[user, *_asked(wire, ident, user)] for user in _USERS]


def _asked(wire: Wire, ident: str, user: str) -> list[Any]:
    """Status and message of the creation of an exec."""
    body = {"Cmd": ["true"], "User": user, "AttachStdout": True}
    answer = wire.api("POST", f"/containers/{ident}/exec", body)
    return [answer.status, answer.message if answer.status != 201 else ""]


@cases(linux_only="looked up at the start there")
def a_user_that_is_gone_at_the_start(wire: Wire) -> Any:
    ident = wire.running("echo gone:x:1234:4321::/: >> /etc/passwd; touch /ready; sleep 1000")
    wire.ran(ident, "until [ -e /ready ]; do sleep 0.02; done")
    made = [wire.exec_create(ident, "true", User="gone", AttachStdin=False) for _ in range(2)]
    wire.ran(ident, "sed -i /gone/d /etc/passwd")
    with wire.exec_start(made[0]) as attached:
        return [said(attached), _started(wire, made[1], Detach=True)]


@cases(
    linux_only="no --group-add",
)
def added_groups_are_the_containers_users(wire: Wire) -> Any:
    ident = wire.running(HostConfig={"GroupAdd": ["1234"]})
    return [
        wire.ran(ident, "echo $(id -G)"),
        wire.ran(ident, "echo $(id -u) $(id -G)", User="1000"),
    ]


@cases(linux_only="ulimits are the platform's")
def ulimits_are_the_containers(wire: Wire) -> Any:
    limit = {"Name": "nofile", "Soft": 1234, "Hard": 2345}
    return wire.ran(wire.running(HostConfig={"Ulimits": [limit]}), "ulimit -n; ulimit -Hn")


@cases(linux_only="no read-only root")
def on_a_read_only_root(wire: Wire) -> Any:
    return wire.ran(wire.running(HostConfig={"ReadonlyRootfs": True}), "echo works; touch /x")


_SIZES = {
    "": 'invalid resize height "": invalid syntax',
    "h=1": 'invalid resize width "": invalid syntax',
    "w=1": 'invalid resize height "": invalid syntax',
    "h=&w=2": 'invalid resize height "": invalid syntax',
    "h=x&w=2": 'invalid resize height "x": invalid syntax',
    "h=1.5&w=1": 'invalid resize height "1.5": invalid syntax',
    "h=-1&w=2": 'invalid resize height "-1": invalid syntax',
    "h=2&w=4294967296": 'invalid resize width "4294967296": value out of range',
}


@cases()
def a_resize_needs_two_numbers(wire: Wire) -> Any:
    ident = wire.running(Tty=True)
    made = wire.exec_create(ident, "sleep 1000", Tty=True)
    wire.api("POST", f"/exec/{made}/start", {"Detach": True, "Tty": True})
    answers = []
    for path in (f"/exec/{made}", f"/containers/{ident}"):
        for query in _SIZES:
            answer = wire.api("POST", f"{path}/resize?{query}")
            answers.append([answer.status, answer.message])
    return answers


@cases()
def a_resize_needs_what_runs(wire: Wire) -> Any:
    ident = wire.running(Tty=True)
    made = wire.exec_create(ident, "true", Tty=True)
    wire.kill(ident)
    paths = (f"/exec/{made}", f"/containers/{ident}")
    answers = [wire.api("POST", f"{path}/resize?h=1&w=1") for path in paths]
    return [[answer.status, answer.message] for answer in answers]


@cases()
def a_resize_may_come_right_behind_the_start(wire: Wire) -> Any:
    script = "until stty size | grep '21 87'; do sleep 0.01; done"
    made = wire.exec_create(wire.shared(), script, Tty=True)
    with wire.exec_start(made, Tty=True) as attached:
        answer = wire.api("POST", f"/exec/{made}/resize?h=21&w=87")
        return [answer.status, text(attached.rest()).endswith("21 87\r\n")]


@cases()
def a_resize_without_a_terminal_is_nothing(wire: Wire) -> Any:
    made = wire.exec_create(wire.shared(), "read x", AttachStdin=True)
    with wire.exec_start(made) as attached:
        answer = wire.api("POST", f"/exec/{made}/resize?h=21&w=87")
        attached.close_input()
        return [answer.status, said(attached)]


@cases()
def inspect_before_while_and_after(wire: Wire) -> Any:
    ident = wire.shared()
    made = wire.exec_create(
        ident, ["sh", "-c", "echo up; read x; exit 9"], AttachStdin=True, User="0"
    )
    shown = [wire.exec_inspect(made)]
    with wire.exec_start(made) as attached:
        attached.until(b"up\n")
        shown.append(wire.exec_inspect(made))
        has_pid = wire.api.ok("GET", f"/exec/{made}/json")["Pid"] > 0
        attached.close_input()
        attached.rest()
    return [*shown, has_pid, wire.exec_inspect(made)]


@cases()
def the_container_names_those_that_have_not_ended(wire: Wire) -> Any:
    ident = wire.running()
    shown = [wire.inspect(ident)["ExecIDs"]]
    made = wire.exec_create(ident, "read x", AttachStdin=True)
    shown.append(wire.inspect(ident)["ExecIDs"] == [made])
    with wire.exec_start(made) as attached:
        shown.append(wire.inspect(ident)["ExecIDs"] == [made])
        attached.close_input()
        attached.rest()
    shown.append(wire.inspect(ident)["ExecIDs"])
    wire.exec_create(ident, "true")
    wire.kill(ident)
    return [*shown, wire.inspect(ident)["ExecIDs"]]


@cases()
def it_can_be_inspected_until_the_container_is_gone(wire: Wire) -> Any:
    ident = wire.running()
    made = wire.exec_create(ident, "exit 7")
    with wire.exec_start(made) as attached:
        attached.rest()
    wire.kill(ident)
    after = wire.exec_inspect(made)["ExitCode"]
    wire.api.ok("DELETE", f"/containers/{ident}")
    return [after, wire.exec_inspect(made), _started(wire, made)[0]]


@cases()
def what_is_told_of_it(wire: Wire) -> Any:
    ident = wire.running()
    made = [wire.exec_create(ident, command) for command in (["sh", "-c", "exit 4"], ["true"])]
    for one in made:
        with wire.exec_start(one) as attached:
            attached.rest()
    rows = wire.events(ident, "exec_die", count=2)
    words = {made[0]: "first", made[1]: "second"}
    for row in rows:
        if "execID" in row[1]:
            row[1]["execID"] = words[row[1]["execID"]]
    return rows


@cases()
def frames_go_by_the_body_of_start(wire: Wire) -> Any:
    ident = wire.shared()
    made = wire.exec_create(ident, "echo a terminal", Tty=True)
    with wire.exec_start(made, Tty=False) as attached:
        framed = said(attached)
    made = wire.exec_create(ident, "echo none")
    with wire.exec_start(made, Tty=True) as attached:
        return [framed, text(attached.rest())]


@cases(
    ours=[["", True], ["", True]],
    why="dockerd makes an error of the keys, and believes that the process has ended",
)
def the_keys_detach_from_its_terminal(wire: Wire) -> Any:
    ident = wire.shared()
    answers = []
    for keys, typed in (("", b"\x10\x11"), ("ctrl-a,b", b"\x01b")):
        more = {"AttachStdin": True, "Tty": True, "DetachKeys": keys}
        made = wire.exec_create(ident, "cat", **more)
        with wire.exec_start(made, Tty=True) as attached:
            attached.send(b"x\n")
            attached.until(b"x\r\nx\r\n")
            for key in typed:
                select.select([attached.socket], [], [], 0.2)
                attached.send(bytes((key,)))
            answers.append([text(attached.rest()), wire.exec_inspect(made)["Running"]])
    return answers


@cases()
def keys_are_data_without_a_terminal(wire: Wire) -> Any:
    made = wire.exec_create(wire.shared(), "head -c 3 | od -c", AttachStdin=True, DetachKeys="z")
    with wire.exec_start(made) as attached:
        attached.send(b"\x10\x11z")
        return said(attached)


@cases()
def keys_that_are_none(wire: Wire) -> Any:
    body = {"Cmd": ["true"], "DetachKeys": "rubbish"}
    answer = wire.api("POST", f"/containers/{wire.shared()}/exec", body)
    return [answer.status, answer.message]


@cases()
def a_signal_is_128_and_its_number(wire: Wire) -> Any:
    return wire.ran(wire.shared(), "kill -9 $$")


@cases()
def a_command_that_is_no_list(wire: Wire) -> Any:
    answer = wire.api("POST", f"/containers/{wire.shared()}/exec", {"Cmd": "true"})
    return [answer.status, answer.message]


@pytest.mark.parametrize("case", cases, ids=str)
def test_exec_answers_as_dockerd_does(
    case: Case, recording: Recording, api: API, names: dict[str, str]
) -> None:
    check(case, recording, api, names)


# -- what cannot be recorded ---------------------------------------------------------------------


@pytest.mark.linux_only("the privileges of a zone hold for all of its processes")
def test_a_privileged_exec_has_every_capability_that_there_is(api: API, kind: str) -> None:
    if kind == "dockerd":
        pytest.skip("it cannot give more than it has here")
    wire = Wire(api)
    ident = wire.running(HostConfig={"CapDrop": ["ALL"]})
    command = ["grep", "CapEff", "/proc/self/status"]
    [[plain, _], [full, _]] = [
        wire.ran(ident, command),
        wire.ran(ident, command, Privileged=True),
    ]
    ours = Path("/proc/self/status").read_text().split("CapBnd:")[1].split()[0]
    assert plain == {"1": f"CapEff:\t{0:016x}\n"}
    assert full == {"1": f"CapEff:\t{ours}\n"}


def test_the_size_of_a_console_is_that_of_start_or_create(api: API) -> None:
    wire = Wire(API(api.path, "/v1.44"))
    ident = wire.shared()
    shown = []
    # crun sets the size beside the program that it has let go: who asks at once may see none.
    command = "until stty size 2>/dev/null | grep ' '; do :; done"
    for created, started in (([31, 91], None), ([31, 91], [32, 92]), (None, [33, 93])):
        made = wire.exec_create(ident, command, Tty=True, ConsoleSize=created)
        with wire.exec_start(made, Tty=True, ConsoleSize=started) as attached:
            shown.append(text(attached.rest()))
    assert shown == ["31 91\r\n", "32 92\r\n", "33 93\r\n"]


def test_an_exec_outlives_its_client(api: API) -> None:
    wire = Wire(api)
    ident = wire.running()
    made = wire.exec_create(ident, "echo up; read x; touch /done; exit 5", AttachStdin=True)
    with wire.exec_start(made) as attached:
        attached.until(b"up\n")
    wire.events(ident, "exec_die")
    assert wire.exec_inspect(made)["ExitCode"] == 5
    assert wire.ran(ident, "ls /done") == [{"1": "/done\n"}, 0]


def test_detaching_is_told(api: API, kind: str) -> None:
    if kind == "dockerd":
        pytest.skip("it makes an error of the keys")
    wire = Wire(api)
    ident = wire.running()
    made = wire.exec_create(ident, "cat", AttachStdin=True, Tty=True)
    with wire.exec_start(made, Tty=True) as attached:
        attached.send(b"\x10\x11")
        attached.rest()
    assert wire.events(ident, "exec_detach")[-1] == ["exec_detach", {"execID": made}]


def test_a_terminal_s_media_type_and_another_s(api: API) -> None:
    wire = Wire(API(api.path, "/v1.42"))
    ident = wire.shared()
    shown = []
    for tty in (False, True):
        made = wire.exec_create(ident, "true", Tty=tty)
        with wire.exec_start(made, Tty=tty) as attached:
            attached.rest()
        shown.append([line for line in attached.head.split("\r\n") if "vnd.docker" in line])
    assert shown == [
        ["Content-Type: application/vnd.docker.multiplexed-stream"],
        ["Content-Type: application/vnd.docker.raw-stream"],
    ]


def test_a_slow_reader_of_an_exec_gets_every_byte(api: API, daemon: Any) -> None:
    wire = Wire(api)
    size = 16 << 20
    made = wire.exec_create(wire.shared(), f"yes 0123456789abcde | head -c {size}")
    with wire.exec_start(made) as attached:
        before = daemon.memory()
        select.select([attached.socket], [], [], 20)
        assert wire.exec_inspect(made)["Running"]  # it is held back
        assert daemon.memory() - before < 8 << 20
        data = frames(attached.rest())[1]
    assert data == b"0123456789abcde\n" * (size // 16)
    assert wire.exec_inspect(made)["ExitCode"] == 0
