"""docker volume create and rm, and every prune that is there, by the stock CLI and by bare HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from compat.answers import Recording
from compat.clients import API, CLI
from compat.scenarios import OnSmartOS, Scenario, Step, check, quiet, scenario

# What zfs says that a root takes: blocks, and its own records.
PRUNED = OnSmartOS(stdout="re:Deleted Containers:\nID64\n\nTotal reclaimed space: (SIZE|\\d+B)\n")
FILES = "docker volume ls -q -f name=pv"

SCENARIOS = [
    scenario(
        "volumes are made and removed",
        "docker volume create pv1 --label a=1",
        "docker volume create pv1 --label a=2",
        "docker volume inspect -f '{{.Name}} {{.Driver}} {{.Labels}} {{.Options}} {{.Scope}}' pv1",
        "docker run --rm -v pv1:/x bb sh -c 'echo kept >/x/y'",
        "docker run --rm -v pv1:/x bb cat /x/y",
        FILES,
        "docker volume ls -q -f label=a=1",
        quiet("docker create --name pvuser -v pv1:/x bb"),
        "docker volume rm pv1",
        "docker volume rm -f pv1",
        quiet("docker rm pvuser"),
        "docker volume rm pv1 pvnope",
        "docker volume rm -f pvnope",
        FILES,
    ),
    scenario(
        "volumes that cannot be",
        "docker volume create a",
        "docker volume create 'a b'",
        "docker volume create -d nope pv2",
        "docker volume create -o x=y pv2",
        "docker volume create -o type=tmpfs pv2",
        FILES,
    ),
    scenario(
        "containers are pruned",
        quiet("docker run --name p1 -l k=v bb sh -c 'echo 12345678 >/file'"),
        quiet("docker create --name p2 -l k=w bb"),
        quiet("docker run -d --name p3 -l k=v bb sleep 100"),
        "docker container prune -f --filter label=nolabel",
        "docker container prune -f --filter until=1h",
        Step("docker container prune -f --filter label=k=v", smartos=PRUNED),
        "docker ps -a --format '{{.Names}}' --filter name=p",
        "docker container prune -f --filter label!=k=w",
        Step("docker container prune -f", smartos=PRUNED),
        "docker ps -a --format '{{.Names}}' --filter name=p",
    ),
    scenario(
        "everything is pruned",
        "docker network prune -f",
        "docker system prune -f --filter label=nolabel",
        quiet("docker create --name p1 bb"),
        quiet("docker commit p1"),
        Step(
            "docker system prune -f",
            smartos=OnSmartOS(
                stdout="re:Deleted Containers:\nID64\n\nDeleted Images:\ndeleted: sha256:ID64\n\n"
                "Total reclaimed space: (SIZE|\\d+B)\n"
            ),
        ),
        "docker ps -a -q --filter name=p1",
    ),
    scenario(
        "images are pruned",
        quiet("docker run --name pmade bb sh -c 'echo 1234567 >/file'"),
        quiet("docker commit -c 'LABEL x=y' pmade"),
        "docker image prune -f --filter label=nolabel",
        "docker image prune -f --filter label=x",
        quiet("docker commit pmade pimage:one"),
        quiet("docker tag pimage:one pimage:two"),
        "docker image prune -f",
        "docker images --format '{{.Repository}}:{{.Tag}}' pimage",
        quiet("docker rmi pimage:one pimage:two"),
        quiet("docker commit pmade pimage:one"),
        quiet("docker run --name pchild pimage:one sh -c 'echo 123 >/other'"),
        quiet("docker commit pchild pimage:child"),
        quiet("docker rmi -f pimage:one"),
        quiet("docker rm pchild"),
        "docker image prune -f",
        "docker images --format '{{.Repository}}:{{.Tag}}' pimage",
        Step("docker rmi pimage:child"),
    ),
]


@pytest.mark.parametrize("case", SCENARIOS, ids=str)
def test_the_commands_answer_as_dockerd_does(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(case, recording, cli, names, fill)


@pytest.fixture
def volumes(cli: CLI) -> Iterator[None]:
    """None of ours is left over."""
    yield
    cli("docker rm -f pvuser")
    for name in cli.ok("docker volume ls -q -f name=pv").split():
        cli.ok(f"docker volume rm {name}")


@pytest.mark.usefixtures("volumes")
def test_anonymous_volumes_are_pruned_and_named_ones_only_if_asked_for(cli: CLI, api: API) -> None:
    cli.ok("docker volume create pvnamed")
    cli.ok("docker volume create pvused")
    cli.ok("docker create --name pvuser -v pvused:/x bb")
    anonymous = cli.ok("docker volume create")
    cli.ok(f"docker run --rm -v {anonymous}:/x bb sh -c 'echo 1234567 >/x/file'")
    if tuple(map(int, api.ok("GET", "/version")["ApiVersion"].split("."))) >= (1, 42):
        found = api.ok("POST", "=/v1.42/volumes/prune")
        assert found["VolumesDeleted"] == [anonymous]
        assert found["SpaceReclaimed"] >= 8
        assert api.ok("POST", "=/v1.42/volumes/prune") == {
            "VolumesDeleted": [],
            "SpaceReclaimed": 0,
        }
    found = api.ok("POST", "=/v1.41/volumes/prune")
    assert "pvnamed" in found["VolumesDeleted"]
    assert cli.ok("docker volume ls -q -f name=pv") == "pvused"
    cli.ok("docker rm pvuser")


@pytest.mark.parametrize(
    ("noun", "filters", "words"),
    [
        ("containers", '{"x":["y"]}', "invalid filter 'x'"),
        ("containers", '{"until":["zz"]}', 'failed to parse value as time or duration: "zz"'),
        ("containers", '{"until":["1h","2h"]}', "more than one until filter specified"),
        ("images", '{"x":["y"]}', "invalid filter 'x'"),
        ("images", '{"dangling":["zz"]}', "invalid filter 'dangling=[zz]'"),
        ("volumes", '{"x":["y"]}', "invalid filter 'x'"),
    ],
)
def test_filters_that_cannot_be_meant_are_refused(
    noun: str, filters: str, words: str, api: API
) -> None:
    answer = api("POST", f"/{noun}/prune?filters={quote(filters)}")
    assert answer.status in (400, 500)
    assert words.lower() in answer.body.decode().replace('\\"', '"').lower()
