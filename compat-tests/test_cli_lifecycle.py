"""start, stop, kill, restart, wait, rename, rm, ps, logs, exec and inspect by the stock CLI."""

from __future__ import annotations

import pytest
from compat.answers import Recording
from compat.clients import CLI
from compat.scenarios import OnSmartOS, Scenario, Step, check, quiet, refused, scenario

UP = "docker run -d --name c1 bb sleep 1000"
STATE = "docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.Running}} {{.State.Paused}} {{.RestartCount}}' c1"
DAEMON = "Error response from daemon: "
NO_PAUSE = refused(
    "pause is not supported on SmartOS: vmadm cannot freeze a zone", program="", hint="\n", exit=1
)
NOT_PAUSED = OnSmartOS(
    exit=1, stdout="", stderr="re:Error response from daemon: .* is not paused\n"
)
NO_GROUPS = refused(
    "GroupAdd is not supported for a container of brand lx on SmartOS: "
    "dockerinit takes the groups of /etc/group alone"
)
NO_READ_ONLY_ROOT = refused(
    "ReadonlyRootfs is not supported for a container of brand lx on SmartOS: "
    "vmadm makes no zone whose root is read-only"
)
GONE = OnSmartOS(exit=1, compare="exit")

SCENARIOS = [
    scenario(
        "start, stop, start",
        UP,
        "docker start c1",
        "docker stop -t 0 c1",
        STATE,
        "docker stop c1",
        "docker start c1",
        STATE,
        "docker kill c1",
        STATE,
    ),
    scenario(
        "create then start attached",
        "docker create --name c1 bb sh -c 'echo hi; exit 4'",
        "docker start -a c1",
        "docker start -a c1",
        "docker logs c1",
    ),
    scenario(
        "start with stdin",
        "docker create -i --name c1 bb cat",
        Step("docker start -ai c1", stdin="typed\n"),
        STATE,
    ),
    scenario(
        "stop sends the signal of the image",
        "docker run -d --name c1 trap",
        Step("docker exec c1 true"),
        "docker stop -t 5 c1",
        STATE,
        "docker logs c1",
    ),
    scenario(
        "kill sends any signal",
        "docker run -d --name c1 trap",
        Step("docker exec c1 true"),
        "docker kill -s CONT c1",
        STATE,
        "docker kill -s TERM c1",
        "docker wait c1",
        STATE,
        Step(
            "docker kill c1",
        ),
    ),
    scenario(
        "bad signals",
        UP,
        Step(
            "docker kill -s SIG42 c1",
        ),
        Step("docker kill -s 0 c1", compare="exit"),
        Step(
            "docker kill -s RUBBISH c1",
        ),
        STATE,
    ),
    scenario(
        "restart",
        UP,
        "docker restart -t 0 c1",
        STATE,
        "docker stop -t 0 c1",
        "docker restart c1",
        STATE,
        Step("docker restart nothere", compare="exit"),
    ),
    scenario(
        "wait gives exit codes",
        "docker run -d --name c1 bb sh -c 'exit 9'",
        "docker wait c1",
        "docker wait c1",
        "docker run -d --name c2 bb sh -c 'exit 2'",
        "docker wait c2 c1",
        Step("docker wait nothere", compare="exit stderr"),
    ),
    scenario(
        "rename",
        "docker run -d --name was bb sleep 1000",
        "docker rename was is",
        "docker inspect -f '{{.Name}}' is",
        Step(
            "docker inspect was",
        ),
        "docker run -d --name other bb sleep 100",
        "docker rename is other",
        Step("docker rename is is", compare="exit"),
        Step("docker rename is 'not good'", compare="exit"),
        "docker rename is was",
        "docker ps --format '{{.Names}}'",
    ),
    scenario(
        "rm",
        UP,
        Step(
            "docker rm c1",
        ),
        "docker rm -f c1",
        Step(
            "docker rm c1",
        ),
        "docker create --name c2 bb",
        "docker create --name c3 bb",
        "docker rm c2 c3",
        "docker ps -aq",
        quiet("docker rm -f nothere"),
    ),
    scenario(
        "rm -v takes anonymous volumes only",
        "docker run --name c1 -v /anon -v keepit:/named bb sh -c 'echo 1 > /named/f'",
        "docker rm -v c1",
        "docker volume ls -q --filter name=keepit",
        "docker run --rm -v keepit:/n bb cat /n/f",
    ),
    scenario(
        "pause and unpause",
        UP,
        Step("docker pause c1", smartos=NO_PAUSE),
        Step(STATE, smartos=OnSmartOS(stdout="running 0 true false 0\n")),
        Step("docker ps --format '{{.Status}}'", smartos=OnSmartOS(stdout="Up TIME\n")),
        Step("docker pause c1", smartos=NO_PAUSE),
        Step(
            "docker exec c1 true",
            smartos=OnSmartOS(exit=0, stderr=""),
        ),
        Step("docker start c1", compare="exit", smartos=OnSmartOS(exit=0)),
        Step("docker unpause c1", smartos=NOT_PAUSED),
        Step("docker unpause c1", smartos=NOT_PAUSED),
        STATE,
        Step("docker pause c1", smartos=NO_PAUSE),
        "docker rm -f c1",
    ),
    scenario(
        "restart on failure counts",
        "docker run -d --name c1 --restart on-failure:2 bb sh -c 'exit 6'",
        Step("docker wait c1", compare=""),
        Step("docker run --rm bb sleep 1.5"),
        "docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}' c1",
    ),
    scenario(
        "restart always comes back until stopped",
        "docker run -d --name c1 --restart always bb sleep 1000",
        "docker kill c1",
        STATE,
        Step("docker run -d --name c2 --restart always bb sh -c 'echo run; sleep 0.3; exit 1'"),
        Step("docker run --rm bb sleep 1.5"),
        Step("docker inspect -f '{{ge .RestartCount 1}}' c2"),
        "docker stop -t 0 c2",
        Step("docker run --rm bb sleep 0.7"),
        "docker inspect -f '{{.State.Running}}' c2",
    ),
    scenario(
        "ps formats and filters",
        "docker create --name made bb true",
        "docker run --name gone -l k=v bb sh -c 'exit 5'",
        "docker run -d --name up -l k=w -p 127.0.0.1::80 --expose 90 bb sleep 1000",
        "docker ps --format '{{.Names}}|{{.Image}}|{{.Command}}|{{.Status}}|{{.Ports}}|{{.Labels}}|{{.Mounts}}|{{.Networks}}'",
        "docker ps -a --format '{{.Names}} {{.Status}}'",
        "docker ps -aq --filter exited=5",
        "docker ps -a --filter status=created --format '{{.Names}}'",
        "docker ps -a --filter status=exited --filter status=running --format '{{.Names}}'",
        "docker ps -a --filter label=k --format '{{.Names}}'",
        "docker ps -a --filter label=k=v --format '{{.Names}}'",
        "docker ps -a --filter name=^/u --format '{{.Names}}'",
        "docker ps -a --filter name=^m --format '{{.Names}}'",
        "docker ps -a --filter ancestor=bb --format '{{.Names}}'",
        "docker ps -a --filter ancestor=rich --format '{{.Names}}'",
        "docker ps -l --format '{{.Names}}'",
        "docker ps -n 2 --format '{{.Names}}'",
        "docker ps -a --filter before=up --format '{{.Names}}'",
        "docker ps -a --filter since=made --format '{{.Names}}'",
        "docker ps --filter expose=90 --format '{{.Names}}'",
        "docker ps --filter publish=80 --format '{{.Names}}'",
        "docker ps --filter network=bridge --format '{{.Names}}'",
        "docker ps -a --filter health=none --format '{{.Names}}'",
        "docker ps --filter status=rubbish",
        Step(
            "docker ps --filter rubbish=1",
        ),
        Step("docker ps -a --filter since=nothere", compare="exit"),
        "docker ps -a --no-trunc --format '{{.ID}} {{.Command}}'",
    ),
    scenario(
        "the table of ps",
        "docker run -d --name up bb sleep 1000",
        "docker ps",
        "docker stop -t 0 up",
        "docker ps",
        "docker ps -a",
    ),
    scenario(
        "names and id prefixes",
        "docker run -d --name zz1 bb sleep 1000",
        "docker inspect -f '{{.Name}}' /zz1",
        Step("docker inspect -f '{{.Name}}' zz", compare="exit"),
        "docker stop -t 0 /zz1",
    ),
    scenario(
        "logs",
        "docker run --name c1 bb sh -c 'echo bad >&2; sleep 0.2; for i in 1 2 3 4 5; do echo line $i; done; printf partial'",
        "docker logs c1",
        "docker logs -n 2 c1",
        "docker logs --tail 0 c1",
        "docker logs --tail all c1",
        "docker logs -t c1",
        "docker logs --since 1h c1",
        "docker logs --until 1h c1",
        "docker logs --since 2099-01-01T00:00:00Z c1",
        "docker logs -f c1",
        Step(
            "docker logs nothere",
        ),
    ),
    scenario(
        "logs with details",
        "docker run --name c1 --log-opt labels=a --log-opt env=E -l a=b -e E=f bb echo x",
        "docker logs --details c1",
    ),
    scenario(
        "logs of a driver that keeps none",
        "docker run --name c1 --log-driver none bb echo shown",
        Step(
            "docker logs c1",
        ),
    ),
    scenario(
        "unknown log options",
        Step("docker run --name c1 --log-opt rubbish=1 bb true", compare="exit"),
        "docker ps -aq",
        Step("docker run --name c1 --log-driver rubbish bb true", compare="exit"),
        "docker ps -aq",
    ),
    scenario(
        "a long line is one line",
        "docker run --name c1 bb sh -c 'head -c 50000 /dev/zero | tr \"\\0\" y; echo; echo next'",
        "docker logs c1",
        "docker logs -n 1 c1",
    ),
    scenario(
        "exec",
        UP,
        "docker exec c1 echo inside",
        "docker exec c1 sh -c 'echo o; echo e >&2; exit 8'",
        Step("docker exec -i c1 cat", stdin="through\n"),
        "docker exec -e A=b -w /tmp -u 1001:1002 c1 sh -c 'echo $A $(pwd) $(id -u):$(id -g)'",
        "docker exec -u alice c1 id",
        "docker exec -d c1 touch /made",
        "docker exec c1 ls /made",
        Step(
            "docker exec c1 nope",
            compare="exit",
        ),
        Step("docker exec c1 /etc/passwd", compare="exit"),
        Step(
            "docker exec -u ghost c1 true",
            smartos=OnSmartOS(
                exit=126,
                stdout="unable to find user ghost: no matching entries in passwd file\n",
                stderr="",
            ),
        ),
        Step(
            "docker exec nothere true",
        ),
        "docker inspect -f '{{.ExecIDs}}' c1",
        Step(
            "docker exec --privileged c1 sh -c 'grep CapEff /proc/self/status | wc -l'",
            smartos=OnSmartOS(
                exit=126,
                stdout="privileged exec is not supported on SmartOS: "
                "the privileges of a zone hold for all of its processes\n",
                stderr="",
            ),
        ),
        "docker exec c1 grep CapEff /proc/self/status",
    ),
    scenario(
        "exec in a stopped container",
        "docker create --name c1 bb true",
        Step(
            "docker exec c1 true",
        ),
        Step(
            "docker exec -d c1 true",
        ),
    ),
    scenario(
        "exec keeps the groups of the container",
        Step("docker run -d --name c1 --group-add 77 -u alice bb sleep 1000", smartos=NO_GROUPS),
        Step("docker exec c1 id -G", smartos=GONE),
        Step("docker exec -u 0 c1 id -u", smartos=GONE),
    ),
    scenario(
        "exec on a read-only root",
        Step("docker run -d --name c1 --read-only bb sleep 1000", smartos=NO_READ_ONLY_ROOT),
        Step("docker exec c1 sh -c 'echo x > /f; echo $?'", smartos=GONE),
    ),
    scenario(
        "inspect",
        Step(
            "docker create --name c1 -e A=b -v /data -p 8080:80 --memory 64m --restart on-failure:3 --network bridge --cap-add CAP_NET_ADMIN --dns 1.2.3.4 --tmpfs /t:size=1m --ulimit nofile=10:20 -w /tmp/ bb echo a b",
            smartos=OnSmartOS(
                command="docker create --name c1 -e A=b -v /data -p 8080:80 --memory 64m --restart on-failure:3 --network bridge --dns 1.2.3.4 --tmpfs /tmp:size=1m --ulimit nofile=10:20 -w /tmp/ bb echo a b",
                stderr="WARNING: Ulimits is discarded for a container of brand lx on SmartOS: dockerinit sets none\n",
            ),
        ),
        "docker inspect -f '{{json .Config.Env}} {{json .Config.Cmd}} {{json .Config.Entrypoint}} {{.Config.WorkingDir}} {{.Config.Image}} {{json .Config.Volumes}} {{json .Config.ExposedPorts}} {{.Path}} {{json .Args}}' c1",
        Step(
            "docker inspect -f '{{json .HostConfig.PortBindings}} {{.HostConfig.Memory}} {{json .HostConfig.RestartPolicy}} {{.HostConfig.NetworkMode}} {{json .HostConfig.CapAdd}} {{json .HostConfig.Dns}} {{json .HostConfig.Tmpfs}} {{json .HostConfig.Ulimits}} {{.HostConfig.ShmSize}} {{.HostConfig.LogConfig.Type}} {{.HostConfig.IpcMode}} {{.HostConfig.AutoRemove}} {{.HostConfig.Privileged}} {{json .HostConfig.Binds}}' c1",
            smartos=OnSmartOS(
                stdout='{"80/tcp":[{"HostIp":"","HostPort":"8080"}]} 67108864 {"MaximumRetryCount":3,"Name":"on-failure"} bridge null ["1.2.3.4"] {"/tmp":"size=1m"} [{"Hard":20,"Name":"nofile","Soft":10}] 67108864 json-file private false false null\n'
            ),
        ),
        "docker inspect -f '{{json .State}}' c1",
        "docker inspect -f '{{json .NetworkSettings.Ports}} {{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}' c1",
        Step(
            "docker inspect -f '{{.Driver}} {{.Platform}} {{.GraphDriver.Name}} {{len .Mounts}}' c1",
            smartos=OnSmartOS(stdout="zfs linux zfs 1\n"),
        ),
        Step("docker inspect -s -f '{{.SizeRw}}' c1", smartos=OnSmartOS(stdout="re:\\d+\n")),
        "docker container inspect -f '{{.Name}}' c1",
    ),
    scenario(
        "update and top and stats are there or refused", Step("docker top nothere", compare="exit")
    ),
    scenario(
        "ports",
        "docker run -d --name c1 -p 127.0.0.1::80 -p 53/udp --expose 99 bb sleep 1000",
        Step("docker port c1", sort=True),
        "docker port c1 80",
        "docker inspect -f '{{json .NetworkSettings.Ports}}' c1",
        "docker stop -t 0 c1",
        "docker port c1",
        "docker inspect -f '{{json .NetworkSettings.Ports}}' c1",
    ),
    scenario(
        "a port can be had once",
        "docker run -d --name c1 -p 127.0.0.1:28080:80 bb sleep 1000",
        Step(
            "docker run -d --name c2 -p 127.0.0.1:28080:80 bb sleep 1000",
        ),
        "docker inspect -f '{{.State.Status}}' c2",
        quiet("docker rm -f c1"),
        quiet("docker start c2"),
        "docker inspect -f '{{.State.Status}} {{.State.Error}}' c2",
    ),
    scenario(
        "events of a run",
        "docker run --name seen -l a=b bb true",
        "docker rm seen",
        Step(
            "docker events --since 30s --until=-2s --filter container=seen --filter event=create --filter event=start --filter event=die --filter event=destroy --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}} {{.Actor.Attributes.a}} {{.Actor.Attributes.image}}'"
        ),
    ),
]


@pytest.mark.parametrize("case", SCENARIOS, ids=str)
def test_the_commands_answer_as_dockerd_does(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(case, recording, cli, names, fill)
