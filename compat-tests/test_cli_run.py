"""`docker run` and `create` by the stock CLI: output, exit codes, options, complaints."""

from __future__ import annotations

import pytest
from compat.answers import Recording
from compat.clients import CLI
from compat.scenarios import OnSmartOS, Scenario, Step, check, quiet, refused, scenario


def lx(option: str, reason: str) -> OnSmartOS:
    """An lx zone cannot have this."""
    return refused(f"{option} is not supported for a container of brand lx on SmartOS: {reason}")


def discarded(option: str, reason: str) -> str:
    """The warning that an lx zone goes without this."""
    return f"WARNING: {option} is discarded for a container of brand lx on SmartOS: {reason}\n"


NO_CAPABILITIES = "a zone has the rights of its brand, no Linux capabilities"
NO_NETWORK = lx("NetworkMode", "each zone has a network stack of its own")
NO_READ_ONLY_ROOT = lx("ReadonlyRootfs", "vmadm makes no zone whose root is read-only")
NO_DEVICES = lx("Devices", "a zone sees the devices of its brand")
NO_PIDS = lx("PidMode", "each zone has processes of its own")
NO_FILES_OF_CGROUPS = OnSmartOS(
    exit=1, stdout="", stderr="re:cat: can't open '/sys/fs/cgroup/.*': No such file or directory\n"
)

SCENARIOS = [
    scenario(
        "output goes to its own stream", Step("docker run --rm bb sh -c 'echo out; echo err >&2'")
    ),
    scenario(
        "the exit code is passed on",
        "docker run --rm bb sh -c 'exit 7'",
        "docker run --rm failing",
        "docker run --rm bb true",
        "docker run --rm bb false",
    ),
    scenario(
        "death by a signal is 128 and the number",
        "docker run --rm bb sh -c 'kill -9 $$'",
        "docker run --rm bb sh -c 'kill -15 $$; sleep 1; exit 3'",
    ),
    scenario(
        "a missing command is 127",
        Step("docker run --rm bb nope"),
        "docker ps -aq",
    ),
    scenario(
        "a command that cannot be executed is 126",
        Step("docker run --rm bb /etc/passwd"),
        "docker ps -aq",
    ),
    scenario(
        "a missing command leaves a created container with its error",
        Step("docker run --name c1 bb nope"),
        "docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.Running}} {{.State.StartedAt}} {{.State.FinishedAt}}' c1",
        quiet("docker start c1"),
        "docker rm c1",
    ),
    scenario(
        "a daemon error is 125",
        Step("docker run --rm --memory 1000 bb true", compare="exit stdout"),
        Step("docker run --rm --name a bb true", compare="exit stdout"),
        quiet("docker run --rm -v relative/path:/x bb true"),
    ),
    scenario(
        "stdin is passed and its end is seen",
        Step("docker run --rm -i bb cat", stdin="one\ntwo\n"),
        Step("docker run --rm -i bb wc -c", stdin="x" * 100000),
        Step("docker run --rm -i bb sh -c 'cat; echo after'", stdin=""),
    ),
    scenario("without -i stdin is empty", Step("docker run --rm bb cat", stdin="lost\n")),
    scenario(
        "the environment is the image's with ours over it",
        "docker run --rm -e A=1 -e 'B=two words' -e FLAVOUR=sweet --entrypoint /bin/sh rich -c 'echo $A:$B:$FLAVOUR:$PATH'",
        "docker run --rm -e FLAVOUR= --entrypoint /bin/sh rich -c 'echo [$FLAVOUR]'",
    ),
    scenario(
        "entrypoint, command, user and directory come from the image",
        "docker run --rm rich",
        "docker run --rm rich other words",
        "docker run --rm -u 0 -w /tmp rich x",
        "docker run --rm --entrypoint id rich",
        "docker run --rm --entrypoint '' bb echo plain",
    ),
    scenario(
        "users are resolved in the container",
        "docker run --rm -u alice bb id",
        "docker run --rm -u 1001 bb id -u",
        "docker run --rm -u nobody:staff bb id",
        Step(
            "docker run --rm -u 1234:4321 bb id",
            smartos=OnSmartOS(stdout="uid=1234(1234) gid=4321(4321) groups=4321(4321)\n"),
        ),
        Step(
            "docker run --rm --group-add extra --group-add 77 -u alice bb id -G",
            stdout="1002 50 77 2000\n",
            why="a group that is asked for and the user's own is had once",
            smartos=lx("GroupAdd", "dockerinit takes the groups of /etc/group alone"),
        ),
        Step(
            "docker run --rm -u ghost bb id",
        ),
        Step(
            "docker run --rm -u 0:ghosts bb id",
        ),
    ),
    scenario(
        "the working directory is made if missing",
        "docker run --rm -w /made/here bb pwd",
        Step("docker run --rm -w not/absolute bb pwd", compare="exit"),
    ),
    scenario(
        "host name, hosts and resolver",
        Step(
            "docker run --rm --hostname box --domainname example.org bb hostname -f",
            smartos=OnSmartOS(stdout="box\n"),
        ),
        "docker run --rm --hostname box bb hostname",
        Step(
            "docker run --rm --hostname box --add-host peer:8.1.2.3 bb sh -c 'grep -c box /etc/hosts; grep peer /etc/hosts; grep ^127.0.0.1 /etc/hosts'",
        ),
        Step(
            "docker run --rm --dns 9.9.9.9 --dns-search example.org --dns-option ndots:2 bb sh -c 'grep -v ^# /etc/resolv.conf'",
            stdout="re:\n*nameserver 9.9.9.9\nsearch example.org\noptions ndots:2\n",
            why="there are no blank lines between what dockerd writes and its comments",
            smartos=OnSmartOS(
                stdout="search example.org local\nnameserver 9.9.9.9\n",
                stderr=discarded("DnsOptions", "vmadm writes no options into /etc/resolv.conf"),
            ),
        ),
        "docker run --rm --network none bb sh -c 'ls /sys/class/net; cat /etc/hostname | wc -c'",
    ),
    scenario(
        "memory, pids, cpu are limits",
        Step(
            "docker run --rm --pids-limit 20 bb sh -c 'cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max'",
            smartos=NO_FILES_OF_CGROUPS,
        ),
        Step(
            "docker run --rm --memory 64m bb sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max'",
            smartos=NO_FILES_OF_CGROUPS,
        ),
        Step(
            "docker run --rm --cpus 0.5 bb sh -c 'cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/cpu.max'",
            smartos=NO_FILES_OF_CGROUPS,
        ),
        Step(
            "docker run --rm --ulimit nofile=100:200 bb sh -c 'ulimit -Sn; ulimit -Hn'",
            smartos=OnSmartOS(
                stdout="re:(?!100\n200).*\n", stderr=discarded("Ulimits", "dockerinit sets none")
            ),
        ),
    ),
    scenario(
        "running out of memory is 137",
        'docker run --name c1 --memory 16m --memory-swap 16m bb sh -c \'tail -c 100m /dev/zero | sh -c "sleep 1"; x=$(head -c 60000000 /dev/zero | tr "\\0" x); echo $x | wc -c\'',
        Step(
            "docker inspect -f '{{.State.ExitCode}} {{.State.OOMKilled}}' c1",
            smartos=OnSmartOS(stdout="137 false\n"),
        ),
    ),
    scenario(
        "a read-only root cannot be written",
        Step(
            "docker run --rm --read-only bb sh -c 'echo x > /f; echo $?'", smartos=NO_READ_ONLY_ROOT
        ),
        Step(
            "docker run --rm --read-only --tmpfs /t bb sh -c 'echo x > /t/f && cat /t/f'",
            smartos=NO_READ_ONLY_ROOT,
        ),
    ),
    scenario(
        "capabilities",
        "docker run --rm bb grep Cap /proc/self/status",
        Step(
            "docker run --rm --cap-drop ALL bb grep CapEff /proc/self/status",
            smartos=lx("CapDrop", NO_CAPABILITIES),
        ),
        Step(
            "docker run --rm --cap-drop ALL --cap-add NET_BIND_SERVICE --cap-add CHOWN bb grep CapEff /proc/self/status",
            smartos=lx("CapDrop", NO_CAPABILITIES),
        ),
        Step(
            "docker run --rm --cap-drop NET_RAW bb grep CapEff /proc/self/status",
            smartos=lx("CapDrop", NO_CAPABILITIES),
        ),
        "docker run --rm -u 1001 bb grep CapEff /proc/self/status",
        Step("docker run --rm --cap-add RUBBISH bb true", compare="exit"),
    ),
    scenario(
        "no new privileges and seccomp",
        Step(
            "docker run --rm --security-opt no-new-privileges bb grep NoNewPrivs /proc/self/status",
            smartos=lx("no-new-privileges", "there is no such flag for a zone's processes"),
        ),
        "docker run --rm bb grep -E 'NoNewPrivs|^Seccomp:' /proc/self/status",
        Step(
            "docker run --rm --security-opt seccomp=unconfined bb grep ^Seccomp: /proc/self/status",
            smartos=OnSmartOS(compare="exit"),
        ),
        Step("docker run --rm --security-opt rubbish bb true", compare="exit"),
    ),
    scenario(
        "tmpfs and shm",
        Step(
            'docker run --rm --tmpfs /t:size=1m,mode=700 bb sh -c \'stat -c %a /t; df -k /t | tail -1 | sed "s/  */ /g" | cut -d" " -f2\'',
            smartos=refused(
                "a tmpfs on /t is not supported on SmartOS: a zone has one on /tmp or none"
            ),
        ),
        Step(
            'docker run --rm --shm-size 2m bb sh -c \'df -k /dev/shm | tail -1 | sed "s/  */ /g" | cut -d" " -f2\'',
            smartos=OnSmartOS(
                compare="exit stderr",
                stderr=discarded("ShmSize", "max_swap alone limits /dev/shm"),
            ),
        ),
        Step(
            'docker run --rm bb sh -c \'df -k /dev/shm | tail -1 | sed "s/  */ /g" | cut -d" " -f2\'',
            smartos=OnSmartOS(compare="exit stderr"),
        ),
        Step("docker run --rm --tmpfs / bb true", compare="exit"),
    ),
    scenario(
        "binds",
        "docker run --rm -v {tmp}/made:/m bb sh -c 'echo hello > /m/f; cat /m/f'",
        "docker run --rm -v {tmp}/made:/m:ro bb sh -c 'cat /m/f; echo x > /m/g; echo $?'",
        Step(
            "docker run --rm --mount type=bind,src={tmp}/nothere,dst=/m bb true",
        ),
        "docker run --rm -v {tmp}/made/f:/onefile bb cat /onefile",
    ),
    scenario(
        "volumes are filled from the image",
        "docker run --rm --entrypoint cat rich /srv/data/seed",
        "docker run --name c1 -v v1:/srv/data --entrypoint sh rich -c 'cat /srv/data/seed'",
        "docker inspect -f '{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.Driver}} {{.RW}}{{end}}' c1",
        "docker rm c1",
        "docker run --rm -u 0 -v v1:/x bb sh -c 'cat /x/seed; echo more > /x/more'",
        "docker run --rm -v v1:/x:ro bb ls /x",
    ),
    scenario(
        "whiteouts hide what lower layers had",
        "docker run --rm white sh -c 'ls /d /o; ls /top 2>&1'",
    ),
    scenario(
        "names",
        "docker run -d --name same bb sleep 100",
        Step(
            "docker run --name same bb true",
        ),
        Step("docker run --name x bb true", compare="exit"),
        Step("docker create --name 'bad name' bb", compare="exit"),
        "docker create --name /slash bb",
        "docker inspect -f '{{.Name}}' slash",
    ),
    scenario(
        "a name is free again after rm",
        "docker run --name again bb true",
        "docker rm again",
        "docker run --name again --rm bb true",
        "docker run --name again --rm bb true",
    ),
    scenario(
        "unknown images",
        Step("docker run --rm --pull never nothere true"),
        Step("docker run --rm {registry}/nothere true"),
        Step("docker run --rm UPPER true", compare="exit"),
        Step("docker create --pull never nothere:sometag"),
    ),
    scenario(
        "images are pulled when missing",
        Step(
            "docker run --rm {registry}/fresh sh -c 'wc -c /fresh/one /fresh/two'",
            compare="exit stdout",
        ),
        "docker rmi {registry}/fresh",
    ),
    scenario(
        "no command",
        Step(
            "docker run --rm nocmd",
            compare="exit stdout stderr",
        ),
    ),
    scenario(
        "detached runs print the id",
        "docker run -d --name c1 bb sleep 100",
        "docker ps --format '{{.Names}} {{.Image}} {{.Command}} {{.State}}'",
        quiet("docker rm -f c1"),
        "docker ps -aq",
    ),
    scenario(
        "--rm removes when detached too",
        "docker run -d --rm --name c1 bb true",
        Step("docker wait c1", compare=""),
        Step("docker run --rm bb sleep 0.5"),
        "docker ps -aq --filter name=c1",
    ),
    scenario(
        "--cidfile and labels",
        "docker run --cidfile {tmp}/cid --label a=b --label c -d --name c1 bb sleep 100",
        "docker ps --filter label=a=b --filter label=c --format '{{.Names}} {{.Label \"a\"}}'",
        "docker inspect -f '{{json .Config.Labels}}' c1",
        "docker create --name c2 -l tier=mine rich",
        "docker inspect -f '{{json .Config.Labels}}' c2",
    ),
    scenario(
        "--init reaps",
        Step(
            "docker run --rm --init bb sh -c 'cat /proc/1/comm'",
            smartos=OnSmartOS(
                stdout="re:(sh|cat)\n",
                stderr=discarded("Init", "the command itself is the zone's first process"),
            ),
        ),
    ),
    scenario(
        "namespaces of the host",
        Step(
            "docker run --rm --network host bb sh -c 'test -d /sys/class/net/lo && echo lo'",
            smartos=NO_NETWORK,
        ),
        Step("docker run --rm --pid host bb sh -c 'test $$ -gt 50 && echo host'", smartos=NO_PIDS),
        "docker run --rm bb sh -c 'echo $$'",
        Step(
            "docker run --rm --uts host bb true",
            smartos=lx("UTSMode", "each zone has a host name of its own"),
        ),
        Step(
            "docker run --rm --ipc host bb true",
            smartos=lx("IpcMode", "each zone has shared memory of its own"),
        ),
    ),
    scenario(
        "namespaces of another container",
        "docker run -d --name c1 --hostname first bb sleep 100",
        Step("docker run --rm --network container:c1 bb hostname", smartos=NO_NETWORK),
        Step(
            'docker run --rm --pid container:c1 bb sh -c \'cat /proc/1/cmdline | tr "\\0" " "\'',
            smartos=NO_PIDS,
        ),
        Step("docker run --rm --network container:nothere bb true", compare="exit"),
    ),
    scenario(
        "a missing network fails at start",
        "docker create --name c1 --network nothere bb true",
        Step(
            "docker start c1",
        ),
        "docker inspect -f '{{.State.Status}}' c1",
    ),
    scenario(
        "masked and read-only paths",
        Step(
            "docker run --rm --name c1 bb sh -c 'cat /proc/kcore | wc -c; cat /proc/keys | wc -c; echo 1 > /proc/sys/kernel/panic; echo $?'",
            compare="exit stdout",
        ),
        "docker create --name c2 bb",
        "docker inspect -f '{{ge (len .HostConfig.MaskedPaths) 8}} {{ge (len .HostConfig.ReadonlyPaths) 5}}' c2",
    ),
    scenario(
        "sysctls",
        Step(
            "docker run --rm --sysctl net.ipv4.ip_unprivileged_port_start=81 bb cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
            smartos=lx("Sysctls", "there is no Linux kernel to set them in"),
        ),
        Step("docker run --rm --sysctl kernel.nothere=1 bb true", compare="exit"),
    ),
    scenario(
        "large and binary output",
        Step(
            "docker run --rm bb sh -c 'head -c 3000000 /dev/zero | tr \"\\0\" x | wc -c; yes line | head -20000 | md5sum'"
        ),
        Step("docker run --rm bb sh -c 'yes 0123456789 | head -c 2000000'", compare="exit stdout"),
    ),
    scenario(
        "a platform that is not there",
        Step("docker create --platform linux/s390x --pull never bb", compare="exit"),
    ),
    scenario(
        "options that contradict",
        Step("docker run --rm --restart always bb true", compare="exit"),
        Step("docker create --restart sometimes bb true", compare="exit"),
        Step("docker create --restart no:3 bb true", compare="exit"),
        Step("docker create --restart on-failure:-1 bb true", compare="exit"),
        Step("docker run -d --rm -p 99999:80 bb true", compare="exit"),
        Step("docker create -p x:80 bb true", compare="exit"),
    ),
    scenario(
        "devices",
        Step(
            "docker run --rm --device /dev/full bb sh -c 'test -c /dev/full && echo there'",
            smartos=NO_DEVICES,
        ),
        Step(
            "docker run --rm --device /dev/zero:/dev/nought:r bb sh -c 'head -c 4 /dev/nought | od -An -tx1'",
            smartos=NO_DEVICES,
        ),
        Step("docker run --rm --device /dev/nothere bb true", compare="exit", smartos=NO_DEVICES),
    ),
    scenario(
        "privileged sees devices",
        Step(
            "docker run --rm --privileged bb sh -c 'test -c /dev/loop-control -o -c /dev/fuse -o -c /dev/kmsg && echo devices'",
            smartos=lx("Privileged", NO_CAPABILITIES),
        ),
    ),
    scenario(
        "attach to chosen streams",
        Step("docker run --rm -a stderr bb sh -c 'echo out; echo err >&2'"),
        Step("docker run --rm -a stdout bb sh -c 'echo out; echo err >&2'"),
    ),
    scenario(
        "stop signals and timeouts are kept",
        "docker create --name c1 --stop-signal SIGINT --stop-timeout 3 bb",
        "docker inspect -f '{{.Config.StopSignal}} {{.Config.StopTimeout}}' c1",
        "docker create --name c2 rich",
        "docker inspect -f '{{.Config.StopSignal}} {{.Config.StopTimeout}}' c2",
    ),
    scenario("many short runs in a row", *["docker run --rm bb echo again"] * 5),
    scenario(
        "env files and quoting",
        "docker run --rm -e 'Q=a\"b $c' bb sh -c 'echo \"$Q\"'",
        "docker run --rm bb printf '%s|' 'a b' '' '*' 'ü'",
    ),
    scenario(
        "volumes from another container",
        "docker run --name c1 -v /vol bb sh -c 'echo shared > /vol/f'",
        "docker run --rm --volumes-from c1 bb cat /vol/f",
        "docker run --rm --volumes-from c1:ro bb sh -c 'echo x > /vol/g; echo $?'",
        Step("docker create --volumes-from nothere bb", compare="exit"),
    ),
    scenario(
        "the process sees a fresh kernel view",
        'docker run --rm bb sh -c \'ls /dev | sort | grep -v ^core$ | tr "\\n" " "\'',
        'docker run --rm bb sh -c \'ls -ld /proc/1/root >/dev/null && cat /proc/mounts | cut -d" " -f2 | sort -u | grep -E "^/(dev|proc|sys)$"\'',
        Step(
            'docker run --rm bb sh -c \'ls / | sort | tr "\\n" " "; ls -a /.dockerenv\'',
            smartos=OnSmartOS(stdout="bin dev etc home native proc root sys tmp var /.dockerenv\n"),
        ),
    ),
]


@pytest.mark.parametrize("case", SCENARIOS, ids=str)
def test_run_answers_as_dockerd_does(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(case, recording, cli, names, fill)
