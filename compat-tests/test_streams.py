"""attach, exec, logs, wait and events on the wire: heads, frames, half-closes, and when they come; case by case in test_attach.py, test_exec.py."""

from __future__ import annotations

import calendar
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from compat.clients import API, frames

SLEEP = {"Image": "bb", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}


def create(api: API, command: str | list[str], **options: Any) -> str:
    """A container without network; its id."""
    words = command if isinstance(command, list) else ["sh", "-c", command]
    host = {"NetworkMode": "none"} | options.pop("HostConfig", {})
    body = {"Image": "bb", "Cmd": words, "HostConfig": host}
    return str(api.ok("POST", "/containers/create", body | options)["Id"])


def start(api: API, ident: str) -> None:
    api.ok("POST", f"/containers/{ident}/start")


def running(api: API, command: str | list[str], **options: Any) -> str:
    ident = create(api, command, **options)
    start(api, ident)
    return ident


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Started; join it, then look into the list."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    return thread, results


def test_attach_before_start_gets_everything(api: API) -> None:
    ident = create(api, "echo out; echo err >&2")
    with api.hijack(f"/containers/{ident}/attach?stream=1&stdout=1&stderr=1") as attached:
        assert attached.status == 101
        assert "Upgrade: tcp" in attached.head
        start(api, ident)
        assert frames(attached.rest()) == {1: b"out\n", 2: b"err\n"}


@pytest.mark.parametrize(
    ("version", "tty", "media"),
    [
        ("/v1.41", False, "application/vnd.docker.raw-stream"),
        ("/v1.42", False, "application/vnd.docker.multiplexed-stream"),
        ("/v1.42", True, "application/vnd.docker.raw-stream"),
    ],
)
def test_the_media_type_tells_how_to_read(api: API, version: str, tty: bool, media: str) -> None:
    ident = create(api, "echo x", Tty=tty)
    with api.hijack(f"/containers/{ident}/attach?stream=1&stdout=1", version=version) as attached:
        assert f"Content-Type: {media}" in attached.head
        start(api, ident)
        attached.rest()


def test_attach_without_upgrade_is_a_plain_200(api: API) -> None:
    ident = create(api, "echo x")
    thread, got = in_thread(
        lambda: api.raw(
            f"POST /v1.41/containers/{ident}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode()
        )
    )
    end = time.monotonic() + 5
    while not got and time.monotonic() < end:
        start(api, ident)
        thread.join(0.3)
    head, body = got[0].split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"chunked" not in head.lower()
    assert frames(body) in ({1: b"x\n"}, {})


def test_a_large_output_is_whole(api: API) -> None:
    size = 24 << 20
    ident = create(api, f"yes 0123456789abcde | head -c {size}")
    with api.hijack(f"/containers/{ident}/attach?stream=1&stdout=1&stderr=1") as attached:
        start(api, ident)
        data = frames(attached.rest())[1]
    assert len(data) == size
    assert data == b"0123456789abcde\n" * (size // 16)


def test_stdin_goes_in_and_its_end_is_seen_while_output_flows(api: API) -> None:
    ident = create(api, "wc -c; echo after", OpenStdin=True, StdinOnce=True, AttachStdin=True)
    with api.hijack(f"/containers/{ident}/attach?stream=1&stdin=1&stdout=1") as attached:
        start(api, ident)
        attached.send(b"x" * 3_000_000)
        attached.close_input()
        assert frames(attached.rest()) == {1: b"3000000\nafter\n"}


def test_bytes_right_behind_the_request_are_not_lost(api: API, kind: str) -> None:
    if kind == "dockerd":
        pytest.skip("dockerd drops what it read ahead of the upgrade")
    ident = create(api, "head -n 1", OpenStdin=True, StdinOnce=True, AttachStdin=True)
    start(api, ident)
    got = api.raw(
        f"POST /v1.41/containers/{ident}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\n"
        f"Upgrade: tcp\r\nContent-Length: 0\r\n\r\nearly\n".encode(),
    )
    assert frames(got.split(b"\r\n\r\n", 1)[1]) == {1: b"early\n"}


def test_the_end_of_the_process_ends_the_stream_though_stdin_is_open(api: API) -> None:
    ident = create(api, "exit 5", OpenStdin=True, StdinOnce=True, AttachStdin=True)
    with api.hijack(f"/containers/{ident}/attach?stream=1&stdin=1&stdout=1") as attached:
        start(api, ident)
        assert attached.rest() == b""


def _until_logged(api: API, ident: str, text: bytes) -> None:
    follow = api.stream("GET", f"/containers/{ident}/logs?stdout=1&stderr=1&follow=1")
    seen = b""
    while text not in seen:
        block = follow.read1()
        assert block, seen
        seen += block
    follow.close()


def test_a_terminal_is_raw_and_has_a_size(api: API) -> None:
    ident = create(
        api,
        "read x; until stty size 2>&1 | grep '33 99'; do sleep 0.01; done; echo done",
        Tty=True,
        OpenStdin=True,
        StdinOnce=True,
        AttachStdin=True,
    )
    with api.hijack(f"/containers/{ident}/attach?stream=1&stdin=1&stdout=1") as attached:
        start(api, ident)
        api.ok("POST", f"/containers/{ident}/resize?h=33&w=99")
        attached.send(b"go\n")
        assert attached.rest().endswith(b"33 99\r\ndone\r\n")


# exec ----------------------------------------------------------------------------------------------


def exec_create(api: API, ident: str, command: str | list[str], **options: Any) -> str:
    words = command if isinstance(command, list) else ["sh", "-c", command]
    body = {"Cmd": words, "AttachStdout": True, "AttachStderr": True}
    return str(api.ok("POST", f"/containers/{ident}/exec", body | options)["Id"])


def test_exec_frames_and_exit_code(api: API) -> None:
    ident = running(api, "sleep 1000")
    made = exec_create(api, ident, "echo out; echo err >&2; exit 7")
    before = api.ok("GET", f"/exec/{made}/json")
    assert (before["Running"], before["ExitCode"]) == (False, None)
    with api.hijack(f"/exec/{made}/start", {"Detach": False, "Tty": False}) as attached:
        assert frames(attached.rest()) == {1: b"out\n", 2: b"err\n"}
    after = api.ok("GET", f"/exec/{made}/json")
    assert (after["Running"], after["ExitCode"], after["ContainerID"]) == (False, 7, ident)
    assert after["ProcessConfig"]["entrypoint"] == "sh"


def test_exec_stdin_ends_while_output_flows(api: API) -> None:
    ident = running(api, "sleep 1000")
    made = exec_create(api, ident, "wc -c; echo after", AttachStdin=True)
    with api.hijack(f"/exec/{made}/start", {}) as attached:
        attached.send(b"y" * 1_000_000)
        attached.close_input()
        assert frames(attached.rest()) == {1: b"1000000\nafter\n"}


def test_the_body_of_exec_start_is_not_stdin(api: API) -> None:
    ident = running(api, "sleep 1000")
    made = exec_create(api, ident, "cat", AttachStdin=True)
    with api.hijack(f"/exec/{made}/start", {"Detach": False, "Tty": False}) as attached:
        attached.send(b"mine")
        attached.close_input()
        assert frames(attached.rest()) == {1: b"mine"}


def test_exec_on_a_terminal(api: API) -> None:
    ident = running(api, "sleep 1000")
    made = exec_create(api, ident, "read x; stty size; tty", Tty=True, AttachStdin=True)
    with api.hijack(f"/exec/{made}/start", {"Tty": True}) as attached:
        api.ok("POST", f"/exec/{made}/resize?h=21&w=87")
        attached.send(b"\n")
        assert b"21 87\r\n/dev/pts/" in attached.rest()


def test_execs_side_by_side(api: API) -> None:
    ident = running(api, "sleep 1000")

    def one(number: int) -> tuple[int, dict[int, bytes], int]:
        made = exec_create(api, ident, f"echo {number}; exit {number}")
        with api.hijack(f"/exec/{made}/start", {}) as attached:
            output = frames(attached.rest())
        return number, output, api.ok("GET", f"/exec/{made}/json")["ExitCode"]

    with ThreadPoolExecutor(12) as pool:
        for number, output, code in pool.map(one, range(12)):
            assert output == {1: f"{number}\n".encode()}
            assert code == number


def test_execs_end_with_their_container(api: API) -> None:
    ident = running(api, "sleep 1000")
    made = exec_create(api, ident, "sleep 1000")
    with api.hijack(f"/exec/{made}/start", {}) as attached:
        api.ok("POST", f"/containers/{ident}/kill")
        attached.rest()
    api.ok("DELETE", f"/containers/{ident}?force=1")
    assert api("GET", f"/exec/{made}/json").status == 404


# wait ----------------------------------------------------------------------------------------------


def test_the_head_of_wait_comes_before_the_exit(api: API) -> None:
    ident = create(api, "exit 6")
    waiting = api.stream("POST", f"/containers/{ident}/wait?condition=next-exit")
    assert waiting.status == 200  # and the container has not even started
    start(api, ident)
    assert json.loads(waiting.read())["StatusCode"] == 6


def test_next_exit_is_not_the_last_one(api: API) -> None:
    ident = running(api, "read x; exit 2", OpenStdin=True)
    api.ok("POST", f"/containers/{ident}/kill")
    assert api.ok("POST", f"/containers/{ident}/wait")["StatusCode"] == 137
    waiting = api.stream("POST", f"/containers/{ident}/wait?condition=next-exit")
    start(api, ident)
    with api.hijack(f"/containers/{ident}/attach?stream=1&stdin=1") as attached:
        attached.send(b"\n")
        assert json.loads(waiting.read())["StatusCode"] == 2


def test_the_exit_code_outlives_an_automatic_removal(api: API) -> None:
    ident = create(api, "exit 9", HostConfig={"AutoRemove": True})
    waiting = api.stream("POST", f"/containers/{ident}/wait?condition=removed")
    start(api, ident)
    assert json.loads(waiting.read())["StatusCode"] == 9
    assert api("GET", f"/containers/{ident}/json").status == 404


def test_removal_by_hand_ends_a_wait_for_it(api: API) -> None:
    ident = running(api, "sleep 1000")
    waiting = api.stream("POST", f"/containers/{ident}/wait?condition=removed")
    api.ok("DELETE", f"/containers/{ident}?force=1")
    assert json.loads(waiting.read())["StatusCode"] == 137


def test_a_stop_goes_on_when_its_client_is_gone(api: API) -> None:
    ident = running(api, "trap 'sleep 0.5; exit 4' TERM; echo up; while :; do sleep 0.05; done")
    _until_logged(api, ident, b"up\n")
    waiting = api.stream("POST", f"/containers/{ident}/wait")
    api.raw(
        f"POST /v1.41/containers/{ident}/stop?t=10 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode(),
        timeout_s=0.1,
    )
    assert json.loads(waiting.read())["StatusCode"] == 4


# logs ----------------------------------------------------------------------------------------------


def test_following_a_silent_container_answers_at_once_and_ends_with_it(api: API) -> None:
    ident = running(api, "sleep 1000")
    follow = api.stream("GET", f"/containers/{ident}/logs?stdout=1&follow=1")
    assert follow.status == 200
    api.ok("POST", f"/containers/{ident}/kill")
    assert follow.read() == b""


def test_following_shows_lines_as_they_come(api: API) -> None:
    ident = running(api, "while read x; do echo got $x; done", OpenStdin=True)
    follow = api.stream("GET", f"/containers/{ident}/logs?stdout=1&follow=1")
    with api.hijack(f"/containers/{ident}/attach?stream=1&stdin=1") as attached:
        for word in (b"one", b"two"):
            attached.send(word + b"\n")
            assert frames(follow.read1()) == {1: b"got " + word + b"\n"}


def test_timestamps_have_nine_digits_and_select_lines(api: API) -> None:
    ident = create(api, "echo one; sleep 0.05; echo two; sleep 0.05; echo three")
    waiting = api.stream("POST", f"/containers/{ident}/wait?condition=next-exit")
    start(api, ident)
    waiting.read()
    text = frames(api("GET", f"/containers/{ident}/logs?stdout=1&timestamps=1").body)[1].decode()
    stamps = [line.split(" ")[0] for line in text.splitlines()]
    assert all(
        len(stamp) == len("2026-01-01T00:00:00.000000000Z") and stamp.endswith("Z")
        for stamp in stamps
    )
    seconds = [_unix(stamp) for stamp in stamps]
    logs = f"/containers/{ident}/logs?stdout=1"
    assert frames(api("GET", f"{logs}&since={seconds[1]}").body)[1] == b"two\nthree\n"
    assert frames(api("GET", f"{logs}&until={seconds[1]}").body)[1] == b"one\ntwo\n"
    assert frames(api("GET", f"{logs}&tail=1").body)[1] == b"three\n"
    assert frames(api("GET", f"{logs}&since={seconds[1]}&tail=1").body)[1] == b"three\n"
    assert api("GET", f"{logs}&tail=0").body == b""


def _unix(stamp: str) -> str:
    whole = calendar.timegm(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))
    return f"{whole}.{stamp[20:29]}"


def test_logs_of_a_terminal_are_raw(api: API) -> None:
    ident = create(api, "echo one", Tty=True)
    waiting = api.stream("POST", f"/containers/{ident}/wait?condition=next-exit")
    start(api, ident)
    waiting.read()
    assert api("GET", f"/containers/{ident}/logs?stdout=1").body == b"one\r\n"


def test_each_stream_can_be_read_alone(api: API) -> None:
    ident = create(api, "echo out; echo err >&2; head -c 40000 /dev/zero | tr '\\0' z")
    waiting = api.stream("POST", f"/containers/{ident}/wait?condition=next-exit")
    start(api, ident)
    waiting.read()
    assert frames(api("GET", f"/containers/{ident}/logs?stderr=1").body) == {2: b"err\n"}
    assert frames(api("GET", f"/containers/{ident}/logs?stdout=1").body) == {
        1: b"out\n" + b"z" * 40000
    }


# events --------------------------------------------------------------------------------------------


def events(api: API, query: str) -> list[dict[str, Any]]:
    """Past events."""
    body = api("GET", f"/events?{query}").body
    return [json.loads(line) for line in body.splitlines() if line.strip()]


def test_events_of_a_life(api: API) -> None:
    ident = create(api, "exit 3", Labels={"who": "me"}, HostConfig={"NetworkMode": "bridge"})
    with api.hijack(f"/containers/{ident}/attach?stream=1&stdout=1") as attached:
        waiting = api.stream("POST", f"/containers/{ident}/wait?condition=next-exit")
        start(api, ident)
        attached.rest()
        waiting.read()
    api.ok("DELETE", f"/containers/{ident}")
    only = quote(json.dumps({"container": [ident]}))
    rows = events(api, f"since={int(time.time()) - 20}&until={int(time.time()) + 1}&filters={only}")
    assert [row["Action"] for row in rows] == ["create", "attach", "start", "die", "destroy"]
    die = rows[3]
    assert die["Actor"]["ID"] == die["id"] == ident
    assert die["status"] == "die"
    assert die["from"] == "bb"
    assert die["scope"] == "local"
    assert die["Type"] == "container"
    assert die["timeNano"] // 10**9 == die["time"]
    assert (
        die["Actor"]["Attributes"].items() >= {"exitCode": "3", "image": "bb", "who": "me"}.items()
    )


def test_networks_take_part_in_the_events(api: API) -> None:
    ident = create(api, "true", HostConfig={"NetworkMode": "bridge"})
    waiting = api.stream("POST", f"/containers/{ident}/wait?condition=next-exit")
    start(api, ident)
    waiting.read()
    api.ok("DELETE", f"/containers/{ident}")
    only = quote(json.dumps({"type": ["network"]}))
    rows = [
        row["Action"]
        for row in events(
            api, f"since={int(time.time()) - 20}&until={int(time.time()) + 1}&filters={only}"
        )
        if row["Actor"]["Attributes"].get("container") == ident
    ]
    assert rows == ["connect", "disconnect"]


def test_events_are_followed_from_the_first_moment(api: API) -> None:
    only = quote(
        json.dumps({"event": ["kill", "die", "exec_create", "exec_start", "exec_die", "rename"]})
    )
    follow = api.stream("GET", f"/events?filters={only}")
    assert follow.status == 200
    ident = running(api, "sleep 1000")
    made = exec_create(api, ident, "exit 4")
    with api.hijack(f"/exec/{made}/start", {}) as attached:
        attached.rest()
    rows = []
    while not rows or rows[-1]["Action"] != "exec_die":
        rows += [json.loads(line) for line in follow.read1().splitlines() if line.strip()]
    assert [row["Action"] for row in rows] == [
        "exec_create: sh -c exit 4",
        "exec_start: sh -c exit 4",
        "exec_die",
    ]
    assert rows[-1]["Actor"]["Attributes"]["execID"] == made
    assert rows[-1]["Actor"]["Attributes"]["exitCode"] == "4"
    api.ok("POST", f"/containers/{ident}/rename?name=renamed")
    api.ok("POST", f"/containers/{ident}/kill?signal=KILL")
    rows = []
    while not rows or rows[-1]["Action"] != "die":
        rows += [json.loads(line) for line in follow.read1().splitlines() if line.strip()]
    follow.close()
    assert [row["Action"] for row in rows] == ["rename", "kill", "die"]
    assert rows[0]["Actor"]["Attributes"]["oldName"].startswith("/")
    assert rows[1]["Actor"]["Attributes"]["signal"] == "9"


def test_an_end_in_the_future_ends_the_stream(api: API) -> None:
    assert (
        events(
            api, f"until={time.time() + 1:.3f}&filters=" + quote(json.dumps({"label": ["nobody"]}))
        )
        == []
    )
