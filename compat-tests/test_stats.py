"""stats, top and diff over bare HTTP: what is in each sample, when streams end, how processes are chosen."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from compat.answers import Recording
from compat.clients import API
from compat.wire import Case, Cases, Wire, check

cases = Cases()
EIGHT = ["rx_bytes", "rx_dropped", "rx_errors", "rx_packets", "tx_bytes", "tx_dropped", "tx_errors", "tx_packets"]  # fmt: skip
NEVER = "0001-01-01T00:00:00Z"
ZERO_CPU = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


def _stats(wire: Wire, ident: str, query: str) -> Any:
    answer = wire.api("GET", f"/containers/{ident}/stats?{query}")
    if answer.status != 200:
        return [answer.status, answer.message]
    return [json.loads(line) for line in answer.body.splitlines()]


def _top(wire: Wire, ident: str, query: str = "") -> Any:
    answer = wire.api("GET", f"/containers/{ident}/top{query}")
    return answer.json() if answer.status == 200 else [answer.status, answer.message]


def _sleeping(wire: Wire) -> str:
    """A container whose first process is that already: for a moment after the start it is the runtime's."""
    ident = wire.running(["sleep", "1000"])
    end = time.monotonic() + 20
    while not any(row[-1] == "sleep 1000" for row in _top(wire, ident)["Processes"]):
        assert time.monotonic() < end
    return ident


@cases()
def one_sample_has_the_one_before(wire: Wire) -> Any:
    found = _stats(wire, wire.running("while :; do :; done"), "stream=0")
    (sample,) = found
    now, before = sample["cpu_stats"], sample["precpu_stats"]
    return [
        sample["preread"] != NEVER,
        sample["read"] > sample["preread"],
        before["cpu_usage"]["total_usage"] > 0,
        now["cpu_usage"]["total_usage"] > before["cpu_usage"]["total_usage"],
        now["system_cpu_usage"] > before["system_cpu_usage"],
        now["online_cpus"] > 0,
        sample["name"][0],
        len(sample["id"]),
    ]


@cases()
def one_shot_is_one_reading(wire: Wire) -> Any:
    (sample,) = _stats(wire, wire.running(), "stream=0&one-shot=1")
    return [
        sample["preread"],
        sample["precpu_stats"]["cpu_usage"]["total_usage"],
        sample["read"] != NEVER,
    ]


@cases(
    ours=["application/json", "TIME", True, True],
    why="dockerd names no type of a stream; the description of the API does",
)
def a_stream_fills_it_from_the_second_on(wire: Wire) -> Any:
    ident = wire.running()
    with wire.api.stream("GET", f"/containers/{ident}/stats") as follow:
        first, second = (json.loads(follow.readline()) for _ in range(2))
        media = follow.headers["Content-Type"]
    return [
        media,
        first["preread"],
        second["preread"] == first["read"],
        second["read"] > first["read"],
    ]


@cases()
def of_a_container_that_is_stopped(wire: Wire) -> Any:
    ident = wire.running("true")
    wire.api.ok("POST", f"/containers/{ident}/wait")
    (sample,) = _stats(wire, ident, "stream=0")
    return {key: value for key, value in sample.items() if key not in ("id", "name")}


@cases()
def of_a_container_that_never_ran(wire: Wire) -> Any:
    (sample,) = _stats(wire, wire.create("true"), "stream=0&one-shot=1")
    return [sample["read"], sample["cpu_stats"] == ZERO_CPU, "networks" in sample]


@cases()
def of_no_container(wire: Wire) -> Any:
    return [_stats(wire, "nothere", "stream=0"), _top(wire, "nothere")]


@cases()
def a_removal_ends_the_stream(wire: Wire) -> Any:
    ident = wire.running()
    follow = wire.api.stream("GET", f"/containers/{ident}/stats")
    follow.readline()
    removed = threading.Thread(
        target=lambda: wire.api("DELETE", f"/containers/{ident}?force=1"), daemon=True
    )
    removed.start()
    rest = follow.read()
    removed.join(20)
    return len(rest.splitlines()) < 15


@cases()
def each_interface_has_eight_counts(wire: Wire) -> Any:
    host = {"NetworkMode": "bridge"}
    ident = wire.running("ping -c 3 -i 0.1 127.0.0.1 >/dev/null; sleep 1000", HostConfig=host)
    (sample,) = _stats(wire, ident, "stream=0&one-shot=1")
    return {name: sorted(counts) for name, counts in sample["networks"].items()}


@cases()
def without_a_network_there_is_no_such_key(wire: Wire) -> Any:
    (sample,) = _stats(wire, wire.running(), "stream=0&one-shot=1")
    return "networks" in sample


@cases(linux_only="a nic that is added to a running zone works from its next start")
def of_two_networks(wire: Wire) -> Any:
    made = wire.api.ok("POST", "/networks/create", {"Name": "stats-two"})["Id"]
    try:
        ident = wire.running(HostConfig={"NetworkMode": "bridge"})
        wire.api.ok("POST", f"/networks/{made}/connect", {"Container": ident})
        (sample,) = _stats(wire, ident, "stream=0&one-shot=1")
        wire.api("DELETE", f"/containers/{ident}?force=1")
    finally:
        wire.api("DELETE", f"/networks/{made}")
    return sorted(sample["networks"])


@cases(linux_only="max_physical_memory is what vmadm rounds to, and files of cgroups are not there")
def a_limit_shows(wire: Wire) -> Any:
    ident = wire.running(HostConfig={"Memory": 64 << 20, "PidsLimit": 50})
    (sample,) = _stats(wire, ident, "stream=0&one-shot=1")
    return [
        sample["memory_stats"]["limit"],
        sample["pids_stats"]["limit"],
        sample["pids_stats"]["current"],
    ]


@cases(
    smartos=[
        ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"],
        ["zsched", "sleep 1000"],
    ]
)
def the_columns_of_ps_ef(wire: Wire) -> Any:
    found = _top(wire, _sleeping(wire))
    return [found["Titles"], [row[-1] for row in found["Processes"]]]


@cases(linux_only="`aux` chooses processes of all zones for illumos's ps: it is refused")
def the_columns_of_ps_aux(wire: Wire) -> Any:
    found = _top(wire, _sleeping(wire), "?ps_args=aux")
    return [found["Titles"], [[len(row), row[-1]] for row in found["Processes"]]]


@cases(linux_only="options of illumos's ps are its own")
def the_columns_that_are_asked_for(wire: Wire) -> Any:
    ident = _sleeping(wire)
    chosen = _top(wire, ident, "?ps_args=-eo%20pid,comm")
    wrong = _top(wire, ident, "?ps_args=--nope")
    return [chosen["Titles"], [row[1] for row in chosen["Processes"]], wrong[0]]


@cases()
def processes_of_what_is_stopped(wire: Wire) -> Any:
    return _top(wire, wire.create("true"))


@cases(linux_only="no freezer")
def processes_of_what_is_paused(wire: Wire) -> Any:
    ident = _sleeping(wire)
    wire.api.ok("POST", f"/containers/{ident}/pause")
    found = _top(wire, ident)
    return [row[-1] for row in found["Processes"]]


@cases()
def nothing_changed(wire: Wire) -> Any:
    return wire.api("GET", f"/containers/{wire.create('true')}/changes").json()


@cases()
def kinds_of_changes(wire: Wire) -> Any:
    ident = wire.running(
        "rm -r /home; mkdir /new; echo x >/new/f; echo y >>/etc/group; chmod 700 /tmp"
    )
    wire.api.ok("POST", f"/containers/{ident}/wait")
    found = wire.api.ok("GET", f"/containers/{ident}/changes")
    return sorted([row["Path"], row["Kind"]] for row in found)


@pytest.mark.parametrize("case", cases, ids=str)
def test_samples_are_as_dockerd_s(
    case: Case, recording: Recording, api: API, names: dict[str, str]
) -> None:
    check(case, recording, api, names)
