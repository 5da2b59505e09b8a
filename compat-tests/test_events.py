"""Events by the stock CLI and bare HTTP: types, actions, attributes, order, filters, times."""

from __future__ import annotations

import json
import time

import pytest
from compat.answers import Recording
from compat.clients import API, CLI
from compat.scenarios import OnSmartOS, Scenario, Step, Told, check, quiet, scenario

EVENTS = "docker events --since {began} --until {now} "
SHORT = EVENTS + "--format '{{.Type}} {{.Action}}' "
NAMED = EVENTS + "--format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}}' "
NO_FREEZER = OnSmartOS(compare="")
THERE = "there is no freezer there"


def seen(filters: str, command: str = NAMED) -> str:
    """The step that shows what these filters let through."""
    return command + " ".join(f"--filter '{word}'" for word in filters.split())


SCENARIOS = [
    scenario(
        "order of a run, and every attribute",
        "docker run --name c1 -l a=b -v evv:/v bb true",
        "docker rm c1",
        "docker volume rm evv",
        EVENTS
        + "--format '{{.Type}} {{.Action}} {{.Scope}} {{.Actor.ID}} {{with .Actor.Attributes}}{{.name}} {{.image}} {{.a}} {{.exitCode}} {{.container}} {{.type}} {{.driver}} {{.destination}} {{index . \"read/write\"}} {{.propagation}}{{end}}'",
    ),
    scenario(
        "fields of an event",
        "docker create --name c1 -l b=c -l a=b bb true",
        "docker volume create evv",
        "docker volume rm evv",
        "sh -c \"docker events --since {began} --until {now} --format '{{json .}}' | sed 's/\\\"time.*//'\"",
    ),
    scenario(
        "what is done to a container",
        "docker run -d --name c1 bb sleep 1000",
        "docker rename c1 c2",
        "docker update --restart no c2",
        quiet("docker top c2 -o pid"),
        "docker cp c2:/etc/passwd {tmp}/passwd",
        "docker cp {tmp}/passwd c2:/tmp/p",
        quiet("docker export -o {tmp}/tar c2"),
        "docker exec c2 true",
        "docker exec c2 sh -c 'exit 4'",
        "docker stop -t 0 c2",
        "docker start c2",
        "docker restart -t 0 c2",
        "docker kill -s CONT c2",
        "docker kill c2",
        "docker rm c2",
        EVENTS
        + "--filter type=container --format '{{.Action}}|{{with .Actor.Attributes}}{{.name}} {{.image}} {{.oldName}} {{.signal}} {{.exitCode}} {{.execID}}{{end}}'",
    ),
    scenario(
        "pause and commit",
        "docker run -d --name c1 bb sleep 1000",
        Step("docker pause c1", smartos=NO_FREEZER),
        Step("docker unpause c1", smartos=NO_FREEZER),
        "docker commit --pause=false -m said c1 ev:commit",
        "docker rmi ev:commit",
        Step(
            EVENTS
            + "--filter event=pause --filter event=unpause --filter event=commit --format '{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.comment}} {{.Actor.Attributes.imageRef}} {{.Actor.Attributes.imageID}}'",
            smartos=OnSmartOS(stdout="commit c1 said ev:commit sha256:ID64\n"),
        ),
    ),
    scenario(
        "a container started again by its policy",
        "docker run -d --name c1 --restart on-failure:2 bb sh -c 'exit 3'",
        Step(SHORT + "--filter container=c1", after=Told("c1", "die", 3)),
        "docker inspect -f '{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}' c1",
    ),
    scenario(
        "a stop while it waits for its restart",
        "docker run -d --name c1 --restart always bb sh -c 'exit 3'",
        Step("docker stop c1", after=Told("c1", "die", 3)),
        "docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' c1",
        seen("container=c1 event=stop event=kill", SHORT),
        "docker stop c1",
        "docker start c1",
        Step("docker kill c1", after=Told("c1", "die", 6)),
        "docker inspect -f '{{.State.Status}}' c1",
        "docker start c1",
        Step("docker start c1", after=Told("c1", "die", 9)),
        Step("docker exec c1 true", compare="exit"),
        "docker rm -f c1",
        seen("container=c1 event=stop event=kill event=destroy", SHORT),
    ),
    scenario(
        "out of memory",
        Step("docker run --name c1 -m 16m --memory-swap 16m bb tail /dev/zero", compare="exit", smartos=NO_FREEZER),
        Step("docker inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' c1", smartos=NO_FREEZER),
        Step("docker run -d --name c2 -m 16m --memory-swap 16m bb sh -c 'tail /dev/zero; sleep 1000'", smartos=OnSmartOS(compare="", command="docker run -d --name c2 bb sleep 1000")),
        Step("docker inspect -f '{{.State.Status}}' c2", after=Told("c2", "start")),
        Step("docker rm -f c2", smartos=NO_FREEZER),
        Step(seen("container=c1 event=oom event=die"), smartos=NO_FREEZER),
    ),
    scenario(
        "filters",
        "docker create --name web-1 -l tier=front -l x=y bb true",
        "docker create --name web-2 -l tier=back rich",
        "docker create --name other -v evv:/v bb",
        "docker rm web-1",
        "docker rm web-2",
        "docker start -a other",
        "docker rm other",
        "docker volume rm evv",
        seen("container=web-1"),
        seen("container=web-"),
        seen("container=/web-2"),
        seen("container=nothere"),
        seen("label=tier"),
        seen("label=tier=back"),
        seen("label=tier=front label=x=y"),
        seen("label=tier=front label=x=z"),
        seen("image=bb event=create"),
        seen("image=bb:latest"),
        seen("image=rich image=bb event=destroy type=container"),
        seen("type=volume"),
        seen("type=network type=volume"),
        seen("volume=evv"),
        seen("volume=ev"),
        seen("network=bridge"),
        seen("network=bri event=connect"),
        seen("event=create event=die type=container"),
        seen("event=cre"),
        seen("scope=local event=die"),
        seen("scope=swarm"),
        seen("daemon=nothere"),
        seen("plugin=nothere"),
        seen("type=rubbish"),
        seen("rubbish=x event=start"),
        seen("container=other network=bridge"),
        seen("type=container volume=evv"),
    ),
    scenario(
        "filters of actions that go on behind a colon",
        "docker run -d --name c1 bb sleep 1000",
        "docker exec c1 true",
        "docker exec c1 sh -c 'exit 1'",
        seen("event=exec_create", SHORT),
        seen("event=exec_create event=exec_d", SHORT),
        seen("event=exec_d", SHORT),
        EVENTS + "--filter 'event=exec_start: sh -c exit 1' --format '{{.Action}}'",
    ),
    scenario(
        "times",
        "docker create --name timed bb true",
        "docker events --since 1h --until {now} --filter container=timed --filter event=create --format '{{.Action}}'",
        "docker events --since 2020-01-02T03:04:05Z --until {now} --filter container=timed --filter event=create --format '{{.Action}}'",
        "docker events --since 2020-01-02T03:04:05.123456789 --until 2021-01-01 --format '{{.Action}}'",
        "docker events --since {now} --until {now} --format '{{.Action}}'",
        "docker events --until {now} --filter container=timed --format '{{.Action}}'",
        "docker events --since 100 --until 50",
        "docker events --since 100.000000005 --until 50.5",
        Step("docker events --since rubbish", compare="exit"),
        Step("docker events --until rubbish", compare="exit"),
    ),
    scenario(
        "images",
        "docker tag bb ev:one",
        "docker tag ev:one ev:two",
        "docker rmi ev:one ev:two",
        "docker create --name c1 bb",
        "docker commit c1 ev:made",
        quiet("docker rmi ev:made"),
        "docker pull -q {registry}/fresh",
        quiet("docker rmi {registry}/fresh"),
        EVENTS + "--filter type=image --format '{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}'",
    ),
    scenario(
        "prune",
        "docker create --name c1 bb",
        Step("docker container prune -f", compare="exit"),
        Step("docker volume prune -f", compare="exit"),
        Step("docker network prune -f", compare="exit"),
        Step("docker image prune -f", compare="exit"),
        Step("docker builder prune -f", compare="exit"),
        # What others left goes, too: the prunes alone are looked at.
        Step(EVENTS + "--filter event=prune --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{if .Actor.Attributes.reclaimed}}reclaimed{{end}}'"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", SCENARIOS, ids=str)
def test_events_are_told_as_dockerd_does(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(case, recording, cli, names, fill)


def test_the_head_of_the_answer_comes_before_any_event(api: API) -> None:
    answer = api.stream("GET", "/events")
    assert answer.status == 200
    assert answer.getheader("Content-Type", "").startswith("application/json")
    made = api.ok("POST", "/containers/create", {"Image": "bb"})["Id"]
    event = json.loads(answer.readline())
    assert (event["Action"], event["id"], event["from"]) == ("create", made, "bb")


def test_events_are_followed_until_the_moment_that_was_asked_for(api: API) -> None:
    until = time.time() + 0.3
    assert (
        api("GET", f"/events?until={until:.9f}&filters=%7B%22event%22%3A%5B%22none%22%5D%7D").body
        == b""
    )
    assert time.time() >= until


def test_a_resize_tells_the_size(api: API) -> None:
    began = time.time()
    body = {"Image": "bb", "Cmd": ["sleep", "100"], "Tty": True, "OpenStdin": True}
    made = api.ok("POST", "/containers/create", body)["Id"]
    api.ok("POST", f"/containers/{made}/start")
    api.ok("POST", f"/containers/{made}/resize?h=11&w=22")
    lines = api(
        "GET",
        f"/events?since={began:.9f}&until={time.time():.9f}&filters=%7B%22event%22%3A%5B%22resize%22%5D%7D",
    ).body.splitlines()
    attributes = [json.loads(line)["Actor"]["Attributes"] for line in lines]
    assert [(row["height"], row["width"]) for row in attributes] == [("11", "22")]
