"""What the state of a container allows, and what signals, policies and waits make of it: by the CLI and by bare HTTP."""

from __future__ import annotations

import socket
import threading

import pytest
from compat.answers import Recording
from compat.clients import API, CLI, Answer
from compat.scenarios import OnSmartOS, Scenario, Step, Told, check, quiet, refused, scenario

STATE = "docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}' c1"
NO_SUCH_SIGNAL = OnSmartOS(compare="")
NO_FILES = OnSmartOS(compare="")
NO_PAUSE = refused(
    "pause is not supported on SmartOS: vmadm cannot freeze a zone", program="", hint="\n", exit=1
)
TRAPS = 'sh -c \'trap "echo hup" HUP; trap "exit 5" USR1; echo up; while :; do sleep 0.05; done\''


def http(
    request: str,
    *,
    smartos: OnSmartOS | None = None,
) -> Step:
    """A request as the CLI would not send it."""
    method, path = request.split(" ")
    command = (
        f'sh -c \'curl -s --unix-socket ${{DOCKER_HOST#unix://}} -w " %{{http_code}}\\n" '
        f'-X {method} "http://d/v1.51{path}"\''
    )
    return Step(
        command,
        smartos=smartos or OnSmartOS(),
    )


def limit(old: str, new: str) -> str:
    """What the container's own cgroup says, in either version."""
    return (
        f"docker exec c1 sh -c 'cat /sys/fs/cgroup/{old} 2>/dev/null || cat /sys/fs/cgroup/{new}'"
    )


SCENARIOS = [
    scenario(
        "start",
        "docker create --name c1 bb sleep 1000",
        http("POST /containers/c1/start"),
        http("POST /containers/c1/start"),
        "docker stop -t 0 c1",
        http("POST /containers/c1/stop"),
        http("POST /containers/c1/start"),
        http("POST /containers/nothere/start"),
    ),
    scenario(
        "a start that fails leaves its reason",
        quiet("docker run --name c1 bb nope"),
        "docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.Running}} {{.State.StartedAt}} {{.State.FinishedAt}}' c1",
        "docker inspect -f '{{.State.Error}}' c1",
        quiet("docker start c1"),
        "docker ps -a --format '{{.Names}} {{.Status}}'",
        "docker rm c1",
        quiet("docker run --name c1 bb /etc/passwd"),
        STATE,
        "docker rm c1",
        quiet("docker run --name c1 bb /etc"),
        STATE,
        "docker rm c1",
        quiet("docker run --rm --name c1 bb nope"),
        "docker ps -aq",
    ),
    scenario(
        "a failed start is forgotten by one that works",
        "docker create --name c1 bb /sh -c true",
        quiet("docker start c1"),
        STATE,
        "docker cp -q /bin/busybox c1:/sh",
        "docker start c1",
        Step("docker inspect -f '{{json .State.Error}}' c1", after=Told("c1", "die")),
    ),
    scenario(
        "pause refuses",
        "docker run -d --name c1 bb sleep 1000",
        Step("docker pause c1", smartos=NO_PAUSE),
        Step("docker start c1", smartos=OnSmartOS(exit=0, stdout="c1\n", stderr="")),
        Step("docker rm c1", compare="exit"),
        Step("docker stop -t 0 c1"),
        STATE,
        "docker start c1",
        Step("docker pause c1", smartos=NO_PAUSE),
        "docker restart -t 0 c1",
        STATE,
        Step("docker pause c1", smartos=NO_PAUSE),
        "docker kill c1",
        STATE,
        "docker start c1",
        Step("docker pause c1", smartos=NO_PAUSE),
        "docker rm -f c1",
    ),
    scenario(
        "signals by hand and the policy always",
        f"docker run -d --name c1 --restart always bb {TRAPS}",
        Step("docker kill -s HUP c1", after=Told("c1", "start")),
        STATE,
        quiet("docker exec c1 kill -USR1 1"),
        Step(STATE, after=Told("c1", "die")),
        "docker start c1",
        "docker exec c1 kill -USR1 1",
        Step("docker inspect -f '{{.RestartCount}}' c1", after=Told("c1", "start", 3)),
    ),
    scenario(
        "signals by hand and a stop signal of its own",
        f"docker run -d --name c1 --stop-signal TERM --restart always bb {TRAPS}",
        quiet("docker exec c1 true"),
        "docker kill -s USR1 c1",
        Step("docker inspect -f '{{.RestartCount}}' c1", after=Told("c1", "start", 2)),
        quiet("docker exec c1 true"),
        "docker kill c1",
        STATE,
        f"docker run -d --name c2 --stop-signal TERM --restart unless-stopped bb {TRAPS}",
        quiet("docker exec c2 true"),
        "docker kill -s USR1 c2",
        "docker wait c2",
        "docker inspect -f '{{.State.Status}} {{.RestartCount}}' c2",
        f"docker run -d --name c3 --stop-signal USR1 --restart always bb {TRAPS}",
        quiet("docker exec c3 true"),
        "docker kill -s USR1 c3",
        "docker wait c3",
        "docker inspect -f '{{.State.Status}} {{.RestartCount}}' c3",
    ),
    scenario(
        "while it waits for its restart",
        "docker run -d --name c1 --restart always bb false",
        Step("docker inspect -f '{{.State.Status}} {{.State.Running}} {{.State.Restarting}} {{.State.ExitCode}}' c1", after=Told("c1", "die", 6)),  # it waits 3.2 s
        "docker ps --format '{{.Status}}'",
        http("POST /containers/c1/start"),
        Step("docker exec c1 true"),
        Step("docker attach c1", compare="exit"),
        Step("docker rm c1", compare="exit"),
        Step("docker pause c1"),
        "docker kill c1",
        STATE.replace(" {{.RestartCount}}", ""),
        http("POST /containers/c1/stop"),
    ),
    scenario(
        "numbers of restarts",
        "docker run -d --name c1 --restart on-failure:2 bb sh -c 'exit 6'",
        Step("docker wait c1", compare="", after=Told("c1", "die", 3)),
        STATE,
        "docker update --restart on-failure:3 c1",
        STATE,
        "docker start c1",
        Step(STATE.replace(" {{.RestartCount}}", ""), after=Told("c1", "die", 5)),
        Step("docker wait c1", compare="", after=Told("c1", "die", 7)),
        STATE,
        "docker run -d --name c2 --restart on-failure bb true",
        "docker wait c2",
        "docker inspect -f '{{.State.Status}} {{.RestartCount}}' c2",
        "docker run -d --name c3 --restart always bb sleep 1000",
        "docker stop -t 0 c3",
        "docker inspect -f '{{.State.Status}} {{.RestartCount}}' c3",
    ),
    scenario(
        "a limit of restarts that is raised while it restarts",
        "docker run -d --name c1 --restart on-failure:1 bb sh -c 'sleep 0.2; exit 6'",
        "docker update --restart on-failure:2 c1",
        Step("docker wait c1", compare="", after=Told("c1", "die", 3)),
        STATE,
    ),
    scenario(
        "a restart of a container that is to be removed",
        "docker run -d --rm --name c1 bb sleep 1000",
        "docker restart -t 0 c1",
        STATE,
        "docker update --restart always c1",
        "docker kill c1",
        Step("docker ps -aq", after=Told("c1", "destroy")),
    ),
    scenario(
        "limits of a container that runs",
        "docker run -d --name c1 --pids-limit 40 bb sleep 1000",
        Step("docker update --memory 64m --memory-swap 128m --cpus 0.5 c1", compare="exit stdout"),
        Step(limit("memory/memory.limit_in_bytes", "memory.max"), smartos=NO_FILES),
        Step(limit("pids/pids.max", "pids.max"), smartos=NO_FILES),
        quiet("docker update --pids-limit 30 c1"),
        Step(limit("pids/pids.max", "pids.max"), smartos=NO_FILES),
        quiet("docker update --pids-limit 0 c1"),
        Step(limit("pids/pids.max", "pids.max"), smartos=NO_FILES),
        "docker inspect -f '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}}' c1",
        Step("docker update --memory 1m c1", compare="exit"),
        Step("docker update --memory 256m c1", compare="exit"),
        quiet("docker update nothere"),
    ),
    scenario(
        "rename",
        "docker run -d --name c1 bb sleep 1000",
        "docker create --name c2 bb",
        http("POST /containers/c1/rename?name=c2"),
        http("POST /containers/c1/rename?name=c1"),
        http("POST /containers/c1/rename?name=/c1"),
        http("POST /containers/c1/rename?name="),
        http("POST /containers/c1/rename"),
        http("POST /containers/c1/rename?name=/"),
        http("POST /containers/c1/rename?name=a"),
        http("POST /containers/c1/rename?name=_x"),
        http("POST /containers/c1/rename?name=/c3"),
        "docker inspect -f '{{.Name}}' c3",
        "docker create --name c1 bb",
        http("POST /containers/nothere/rename?name=c4"),
    ),
    scenario(
        "signals that are none",
        "docker run -d --name c1 --stop-signal TERM bb sleep 1000",
        http("POST /containers/c1/kill?signal=42", smartos=NO_SUCH_SIGNAL),
        http("POST /containers/c1/kill?signal=64", smartos=NO_SUCH_SIGNAL),
        http("POST /containers/c1/kill?signal=rtmin", smartos=NO_SUCH_SIGNAL),
        http("POST /containers/c1/kill?signal=sigcont"),
        http("POST /containers/c1/kill?signal=-1"),
        http("POST /containers/c1/kill?signal=65"),
        http("POST /containers/c1/kill?signal=SIG42"),
        STATE,
        http("POST /containers/c1/kill?signal="),
        STATE,
    ),
    scenario(
        "remove",
        http("DELETE /containers/nothere"),
        http("DELETE /containers/"),
        "docker run -d --name c1 -v /anon -v named:/n bb sleep 1000",
        http("DELETE /containers/c1?v=1&force=1"),
        "docker volume ls -q --filter name=named",
        "docker volume rm named",
        "sh -c 'mkdir -p {tmp}/bound && docker run -d --name c1 -v {tmp}/bound:/b bb sleep 1000 && rm -r {tmp}/bound'",
        http("DELETE /containers/c1?force=1"),
        "docker ps -aq",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", SCENARIOS, ids=str)
def test_states_allow_what_dockerd_allows(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(case, recording, cli, names, fill)


def run(api: API, *command: str, **host: object) -> str:
    """Id of a container that has started."""
    body = {"Image": "bb", "Cmd": list(command), "HostConfig": host}
    made = str(api.ok("POST", "/containers/create", body)["Id"])
    api.ok("POST", f"/containers/{made}/start")
    return made


def execute(api: API, container: str, *command: str) -> None:
    """Run a further process to its end."""
    made = api.ok(
        "POST", f"/containers/{container}/exec", {"Cmd": list(command), "AttachStdout": True}
    )
    api("POST", f"/exec/{made['Id']}/start", {})


def test_a_stop_without_end_waits(api: API) -> None:
    made = run(
        api,
        "sh",
        "-c",
        "trap 'until [ -e /go ]; do sleep 0.02; done; exit 3' TERM; touch /up; while :; do sleep 0.02; done",
    )
    execute(api, made, "sh", "-c", "until [ -e /up ]; do sleep 0.02; done")
    answers: list[Answer] = []
    stop = threading.Thread(
        target=lambda: answers.append(api("POST", f"/containers/{made}/stop?t=-1"))
    )
    stop.start()
    try:
        execute(api, made, "touch", "/go")
    finally:
        stop.join(30)
    assert [answer.status for answer in answers] == [204]
    assert api.ok("GET", f"/containers/{made}/json")["State"]["ExitCode"] == 3


def test_each_exit_under_a_policy_ends_a_wait_for_the_next(api: API) -> None:
    body = {
        "Image": "bb",
        "Cmd": ["sh", "-c", "sleep 0.1; exit 7"],
        "HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}},
    }
    made = api.ok("POST", "/containers/create", body)["Id"]
    first = api.stream("POST", f"/containers/{made}/wait?condition=next-exit")
    api.ok("POST", f"/containers/{made}/start")
    assert first.status == 200
    assert b'"StatusCode":7' in first.read()
    assert api.ok("POST", f"/containers/{made}/wait?condition=next-exit")["StatusCode"] == 7
    assert api.ok("POST", f"/containers/{made}/wait?condition=next-exit")["StatusCode"] == 7
    assert api.ok("POST", f"/containers/{made}/wait")["StatusCode"] == 7
    assert api.ok("GET", f"/containers/{made}/json")["RestartCount"] == 2


def test_a_restart_whose_client_leaves_is_told_once(api: API) -> None:
    made = run(
        api, "sh", "-c", "trap 'sleep 0.2; exit 0' TERM; touch /up; while :; do sleep 0.02; done"
    )
    execute(api, made, "sh", "-c", "until [ -e /up ]; do sleep 0.02; done")
    before = api.ok("GET", f"/containers/{made}/json")["State"]["StartedAt"]
    watch = f"/events?filters=%7B%22container%22%3A%5B%22{made}%22%5D%2C%22event%22%3A%5B%22restart%22%2C%22die%22%2C%22kill%22%5D%7D"
    told = api.stream("GET", watch)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(api.path))
        client.sendall(f"POST /containers/{made}/restart?t=20 HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        lines = [told.readline()]
    lines += [told.readline() for _ in range(2)]
    actions = [line.partition(b'"status":"')[2].partition(b'"')[0] for line in lines]
    assert actions == [b"kill", b"die", b"restart"]
    state = api.ok("GET", f"/containers/{made}/json")
    assert (state["State"]["Running"], state["RestartCount"]) == (True, 0)
    assert state["State"]["StartedAt"] > before
