"""Health checks by the stock CLI: states, log, timeouts, events, what an image adds, what a restart makes of it."""

from __future__ import annotations

import pytest
from compat.answers import Recording
from compat.clients import CLI
from compat.scenarios import OnSmartOS, Scenario, Step, Told, check, quiet, refused, scenario

HEALTH = "docker inspect -f '{{.State.Health.Status}} {{.State.Health.FailingStreak}} {{len .State.Health.Log}}' c1"
LAST = (
    "docker inspect -f '{{with index .State.Health.Log 0}}{{.ExitCode}} {{json .Output}}{{end}}' c1"
)
STATUS = "docker ps -a --format '{{.Names}} {{.Status}}'"
NO_PAUSE = refused(
    "pause is not supported on SmartOS: vmadm cannot freeze a zone", program="", hint="\n", exit=1
)


def after(action: str, times: int, command: str, **options: str) -> Step:
    """A step once c1 has been told of so often."""
    return Step(command, after=Told("c1", action, times), **options)  # type: ignore[arg-type]


SCENARIOS = [
    scenario(
        "healthy, unhealthy, healthy again",
        "docker run -d --name c1 --health-cmd 'echo seen; test ! -e /bad' --health-interval 500ms --health-retries 2 bb sleep 1000",
        "docker inspect -f '{{json .State.Health}}' c1",
        STATUS,
        after("health_status: healthy", 1, HEALTH, compare="exit"),
        LAST,
        STATUS,
        "docker exec c1 touch /bad",
        after("health_status: unhealthy", 1, STATUS),
        "docker inspect -f '{{.State.Health.Status}}' c1",
        "docker exec c1 rm /bad",
        after("health_status: healthy", 2, STATUS),
    ),
    scenario(
        "the last five results are kept",
        "docker run -d --name c1 --health-cmd 'exit 3' --health-interval 60ms --health-retries 100 bb sleep 1000",
        after("exec_die", 7, "docker inspect -f '{{.State.Health.Status}} {{len .State.Health.Log}}' c1"),
        LAST,
    ),
    scenario(
        "a probe that takes too long",
        "docker run -d --name c1 --health-cmd 'exec sleep 30' --health-interval 50ms --health-timeout 300ms --health-retries 2 bb sleep 1000",
        after("health_status: unhealthy", 1, LAST),
        # It has ended, or nobody could tell of it.
        after("exec_die", 2, STATUS),
    ),
    scenario(
        "a probe that cannot be started",
        "docker create --name c0 bb",
        "docker commit -c 'HEALTHCHECK --interval=100ms --retries=1 CMD [\"nope\"]' c0 cannot:probe",
        "docker run -d --name c1 cannot:probe sleep 1000",
        after("health_status: unhealthy", 1, LAST),
        "docker rm -f c0 c1",
        quiet("docker rmi cannot:probe"),
    ),
    scenario(
        "what a probe writes is cut",
        "docker run -d --name c1 --health-cmd 'yes | head -c 9000; echo end >&2' --health-interval 100ms bb sleep 1000",
        after("health_status: healthy", 1, "docker inspect -f '{{len (index .State.Health.Log 0).Output}}' c1"),
    ),
    scenario(
        "events of a probe",
        "docker run -d --name c1 -l a=b -l probed=yes --health-cmd true --health-interval 300ms bb sleep 1000",
        after(
            "health_status",
            1,
            "sh -c \"docker events --since 30s --filter label=probed=yes --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.a}} {{.Actor.Attributes.image}} {{.Actor.Attributes.exitCode}}' | head -6\"",
        ),
    ),
    scenario(
        "filters by health",
        "docker run -d --name good --health-cmd true --health-interval 50ms bb sleep 1000",
        "docker run -d --name bad --health-cmd false --health-interval 50ms --health-retries 1 bb sleep 1000",
        "docker run -d --name young --health-cmd true --health-interval 1h bb sleep 1000",
        "docker run -d --name plain bb sleep 1000",
        "docker create --name made --health-cmd true bb",
        "docker run -d --name off --no-healthcheck bb sleep 1000",
        Step("docker ps -a --filter health=healthy --format '{{.Names}}'", after=Told("good", "health_status: healthy")),
        Step("docker ps -a --filter health=unhealthy --format '{{.Names}}'", after=Told("bad", "health_status: unhealthy")),
        "docker ps -a --filter health=starting --format '{{.Names}}'",
        "docker ps -a --filter health=none --format '{{.Names}}'",
        "docker ps -a --filter health=none --filter health=starting --format '{{.Names}}'",
        Step("docker ps --filter health=rubbish", compare="exit"),
        "docker inspect -f '{{json .State.Health}} {{json .Config.Healthcheck}}' made",
        "docker inspect -f '{{json .State.Health}} {{json .Config.Healthcheck}}' off",
    ),
    scenario(
        "a stop, a start, a restart begin anew",
        "docker run -d --name c1 --health-cmd true --health-interval 400ms bb sleep 1000",
        after("health_status: healthy", 1, "docker stop -t 0 c1"),
        "docker inspect -f '{{.State.Health.Status}} {{.State.Health.FailingStreak}}' c1",
        STATUS,
        "docker start c1",
        "docker inspect -f '{{.State.Health.Status}} {{.State.Health.FailingStreak}}' c1",
        after("health_status: healthy", 2, STATUS),
        "docker restart -t 0 c1",
        "docker inspect -f '{{.State.Health.Status}} {{.State.Health.FailingStreak}}' c1",
        STATUS,
    ),
    scenario(
        "a paused container is not probed",
        "docker run -d --name c1 --health-cmd true --health-interval 200ms bb sleep 1000",
        Step("docker pause c1", after=Told("c1", "health_status: healthy"), smartos=NO_PAUSE),
        Step("docker inspect -f '{{.State.Health.Status}}' c1", smartos=OnSmartOS(stdout="healthy\n")),
        Step(STATUS, smartos=OnSmartOS(stdout="c1 Up TIME (healthy)\n")),
        Step("docker unpause c1", smartos=OnSmartOS(compare="")),
        Step(STATUS, after=Told("c1", "exec_die", 3)),
    ),
    scenario(
        "what the image says and what the client says",
        "docker create --name c0 bb",
        "docker commit -c 'HEALTHCHECK --interval=80ms --retries=4 CMD test -e /bin/sh' c0 checked:image",
        "docker run -d --name c1 checked:image sleep 1000",
        after("health_status: healthy", 1, "docker inspect -f '{{json .Config.Healthcheck}}' c1"),
        STATUS,
        "docker rm -f c1",
        "docker create --name c2 --health-retries 7 checked:image",
        "docker inspect -f '{{json .Config.Healthcheck}}' c2",
        "docker create --name c3 --health-cmd 'exit 0' checked:image",
        "docker inspect -f '{{json .Config.Healthcheck}}' c3",
        "docker run -d --name c4 --no-healthcheck checked:image sleep 1000",
        "docker inspect -f '{{json .Config.Healthcheck}} {{json .State.Health}}' c4",
        "docker rm -f c0 c2 c3 c4",
        quiet("docker rmi checked:image"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", SCENARIOS, ids=str)
def test_health_is_told_as_dockerd_does(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(case, recording, cli, names, fill)
