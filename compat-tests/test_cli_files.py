"""cp, diff, export, top, stats and update by the stock CLI."""

from __future__ import annotations

import pytest
from compat.answers import Recording
from compat.clients import CLI
from compat.scenarios import OnSmartOS, Scenario, Step, check, quiet, scenario

MAKE = "mkdir -p {tmp}/dir/sub && echo one >{tmp}/dir/one && ln -s one {tmp}/dir/link && echo f >{tmp}/file"
TREE = "mkdir -p /a.b/c.d; echo hi >/a.b/f; ln -s f /a.b/l; ln /a.b/f /a.b/h; ln -s /a.b /way; echo x >/file"
UP = f"docker run -d --name c1 bb sh -c '{TREE}; sleep 1000'"
READY = "docker exec c1 sh -c 'until [ -e /file ]; do :; done'"
DAEMON = "Error response from daemon: "


def files(*steps: Step | str) -> tuple[Step | str, ...]:
    """With a tree on either side."""
    return (Step(f"sh -c '{MAKE}'", compare="exit"), quiet(UP), quiet(READY), *steps)


SCENARIOS = [
    scenario(
        "a file into a container",
        *files(
            "docker cp {tmp}/file c1:/",
            "docker cp {tmp}/file c1:/newname",
            "docker cp {tmp}/file c1:/nodir/x",
            "docker cp {tmp}/file c1:/a.b",
            "docker cp {tmp}/file c1:/way/",
            "docker cp {tmp}/file c1:/nodir/",
            "docker cp {tmp}/nope c1:/",
            "docker exec c1 sh -c 'find /file /newname /a.b | sort; cat /newname'",
        ),
    ),
    scenario(
        "a folder into a container",
        *files(
            "docker cp {tmp}/dir c1:/",
            "docker cp {tmp}/dir c1:/fresh",
            "docker cp {tmp}/dir c1:/fresh",
            "docker cp {tmp}/dir/. c1:/a.b",
            "docker cp {tmp}/dir c1:/file",
            "docker cp {tmp}/dir c1:/a.b/f",
            "docker exec c1 sh -c 'find /dir /fresh /a.b | sort; ls -l /fresh/link | cut -c1-10'",
        ),
    ),
    scenario(
        "a file out of a container",
        *files(
            "docker cp c1:/a.b/f {tmp}/out",
            "docker cp c1:/a.b/f {tmp}/dir",
            "docker cp c1:/a.b/l {tmp}/linked",
            "docker cp -L c1:/a.b/l {tmp}/followed",
            "docker cp c1:/nope {tmp}/x",
            Step(
                "docker cp c1:/file/ {tmp}/x",
            ),
            "docker cp c1:/a.b/f {tmp}/nodir/x",
            Step(
                "sh -c 'cd {tmp} && ls -R dir out linked followed; readlink linked; cat followed'",
            ),
        ),
    ),
    scenario(
        "a folder out of a container",
        *files(
            "docker cp c1:/a.b {tmp}/first",
            "docker cp c1:/a.b/. {tmp}/second",
            "docker cp c1:/a.b {tmp}/dir",
            "docker cp c1:/way {tmp}/way",
            "docker cp -L c1:/way {tmp}/through",
            "docker cp c1:/a.b {tmp}/file",
            "sh -c 'cd {tmp} && find first second dir way through | sort'",
        ),
    ),
    scenario(
        "a tar on the standard streams",
        *files(
            "sh -c 'docker cp c1:/a.b - | tar t | sort'",
            "sh -c 'docker cp c1:/a.b/. - | tar t | sort'",
            "sh -c 'docker cp c1:/way/f - | tar t'",
            "sh -c 'tar c -C {tmp} file | docker cp - c1:/a.b'",
            "sh -c 'tar cz -C {tmp} dir | docker cp - c1:/a.b'",
            "sh -c 'tar c -C {tmp} file | docker cp - c1:/file'",
            "docker exec c1 sh -c 'find /a.b | sort; cat /a.b/file'",
        ),
    ),
    scenario(
        "copies into containers that do not run",
        Step(f"sh -c '{MAKE}'", compare="exit"),
        quiet("docker create --name c1 bb cat /tmp/file"),
        "docker cp {tmp}/file c1:/tmp",
        "docker start -a c1",
        "sh -c 'docker cp c1:/tmp - | tar t'",
        "docker cp {tmp}/dir c1:/tmp/file",
        "docker cp nothere:/x {tmp}",
        "docker cp {tmp}/file nothere:/x",
    ),
    scenario(
        "read-only places",
        Step(f"sh -c '{MAKE}'", compare="exit"),
        Step(
            "docker create --name c1 --read-only -v fixed:/v:ro bb true",
            compare="exit",
            smartos=OnSmartOS(exit=1),
        ),
        Step("docker cp {tmp}/file c1:/v/", smartos=OnSmartOS(compare="exit")),
        Step("docker cp {tmp}/file c1:/", smartos=OnSmartOS(compare="exit")),
    ),
    scenario(
        "what a container changed",
        quiet(
            "docker run --name c1 bb sh -c 'rm -r /home; mkdir -p /new/a; echo x >/new/a/b; echo y >>/etc/group'"
        ),
        Step("docker diff c1", sort=True),
        quiet("docker create --name c2 bb true"),
        "docker diff c2",
        "docker diff nothere",
    ),
    scenario(
        "an export",
        quiet("docker run --name c1 bb sh -c 'mkdir -p /new; echo x >/new/b; chmod 4755 /new/b'"),
        "sh -c 'docker export c1 | tar tv new/b bin/busybox | cut -c1-10'",
        "docker export -o {tmp}/all.tar c1",
        "sh -c 'tar t -f {tmp}/all.tar | grep -c ^new/'",
        "docker export -o {tmp}/x.tar nothere",
    ),
    scenario(
        "processes",
        quiet("docker run -d --name c1 bb sleep 1000"),
        Step("sh -c 'docker top c1 | tail -n +2 | wc -l'", smartos=OnSmartOS(stdout="2\n")),
        "sh -c 'docker top c1 | head -1 | tr -s \" \"'",
        Step(
            "docker top c1 -o comm",
            smartos=OnSmartOS(stderr="re:.*Couldn't find PID field in ps output\n"),
        ),
        quiet("docker stop -t 0 c1"),
        Step(
            "docker top c1",
        ),
    ),
    scenario(
        "figures",
        quiet("docker run -d --name c1 bb sleep 1000"),
        "docker stats --no-stream --format '{{.Name}}' c1",
        quiet("docker stop -t 0 c1"),
        Step(
            "docker stats --no-stream --format '{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.NetIO}} {{.PIDs}}' c1"
        ),
        "docker stats --no-stream nothere",
    ),
    scenario(
        "other limits",
        quiet("docker run -d --name c1 bb sleep 1000"),
        "docker update --memory 64m --memory-swap 512m c1",
        "docker update --memory 128m c1",
        Step("docker update --memory 1g c1", smartos=OnSmartOS()),
        Step("docker update --pids-limit 30 --cpu-shares 300 --cpus 0.5 c1"),
        Step(
            "docker update --cpu-shares 1 c1", smartos=OnSmartOS(exit=0, stdout="c1\n", stderr="")
        ),
        "docker update --cpu-quota 1000 c1",
        "docker inspect -f '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.PidsLimit}} {{.HostConfig.NanoCpus}}' c1",
        Step("docker update --memory 1m --memory-swap 1m c1", compare="exit"),
        "docker update --memory 64m nothere",
        Step(
            "docker run --rm --cpu-shares 1 bb true",
            smartos=OnSmartOS(exit=0, stdout="", stderr=""),
        ),
    ),
    scenario(
        "another restart policy",
        quiet("docker run -d --name c1 bb sleep 1000"),
        "docker update --restart on-failure:3 c1",
        "docker inspect -f '{{json .HostConfig.RestartPolicy}}' c1",
        Step("docker update --restart sometimes c1", compare="exit"),
        quiet("docker run -d --rm --name c2 bb sleep 1000"),
        "docker update --restart always c2",
    ),
]


@pytest.mark.parametrize("case", SCENARIOS, ids=str)
def test_the_commands_answer_as_dockerd_does(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(case, recording, cli, names, fill)
