"""pull, images, tag, rmi, load, history, image inspect, version and info by the stock CLI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.answers import Recording
from compat.clients import API, CLI
from compat.scenarios import Scenario, Step, check, quiet, scenario

DAEMON = "Error response from daemon: "
IMAGES = "docker images --format '{{.Repository}}:{{.Tag}} {{.ID}}'"

SCENARIOS = [
    scenario(
        "pull",
        Step("docker pull {registry}/fresh", sort=True),
        "docker pull {registry}/fresh",
        "docker pull -q {registry}/fresh:latest",
        "docker run --rm {registry}/fresh ls /fresh",
        "docker images --digests --format '{{.Repository}} {{.Tag}} {{.Digest}}' {registry}/fresh",
        Step("docker rmi {registry}/fresh", compare="exit stderr"),
        Step(
            "docker rmi {registry}/fresh",
        ),
    ),
    scenario(
        "pull by tag and digest",
        Step("docker pull {registry}/bb:v1", sort=True),
        "docker image inspect -f '{{json .RepoTags}} {{json .RepoDigests}}' {registry}/bb:v1",
        Step("docker rmi {registry}/bb:v1"),
    ),
    scenario(
        "pull what is not there",
        "docker pull {registry}/nothere",
        "docker pull {registry}/bb:nothere",
        Step(
            "docker pull {registry}/bb@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            compare="exit",
        ),
        Step("docker pull UPPER", compare="exit"),
        Step(
            "docker pull 127.0.0.1:1/x",
        ),
    ),
    scenario(
        "pull of a foreign image",
        Step("docker pull {registry}/foreign", sort=True),
        "docker image inspect -f '{{.Architecture}}' {registry}/foreign",
        quiet("docker rmi {registry}/foreign"),
    ),
    scenario(
        "tags",
        "docker tag bb mine:one",
        "docker tag bb registry.example.org:5000/team/mine",
        "docker tag mine:one mine:two",
        "docker images --format '{{.Repository}}:{{.Tag}}' mine",
        "docker images --format '{{.Repository}}' 'registry.example.org:5000/*/*'",
        "docker rmi mine:one",
        "docker rmi mine:two registry.example.org:5000/team/mine",
        Step(
            "docker tag nothere x",
        ),
        Step("docker tag bb UPPER", compare="exit"),
        Step("docker tag bb sha256:abc", compare="exit"),
        Step(
            "docker tag bb x@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            compare="exit",
        ),
    ),
    scenario(
        "rmi",
        Step(
            "docker rmi nothere",
        ),
        "docker tag bb used:one",
        "docker create --name c1 used:one",
        "docker rmi used:one",
        quiet("docker pull {registry}/fresh"),
        "docker create --name c2 {registry}/fresh",
        "docker rmi {registry}/fresh",
        "docker ps -a --filter name=c2 --format '{{.Image}}'",
        "docker rmi -f {registry}/fresh",
        "docker ps -a --filter name=c2 --format '{{.Image}}'",
        "docker inspect -f '{{.Config.Image}}' c2",
        "docker start -a c2",
    ),
    scenario(
        "images",
        "docker tag bb listed:one",
        "docker tag white listed:two",
        Step("docker images --format '{{.Repository}}:{{.Tag}}' listed", sort=True),
        "docker images -q --no-trunc listed:one",
        "docker images --filter reference=listed:t* --format '{{.Tag}}'",
        "docker images --filter dangling=true -q",
        Step("docker images --filter dangling=zz", compare="exit"),
        Step("docker images --filter rubbish=1", compare="exit"),
        Step("docker images --filter label=maker=zonegate --format '{{.Repository}}'"),
        "docker images --filter label=nothere --format '{{.Repository}}'",
        "docker images --digests --format '{{.Repository}} {{.Digest}}' listed:one",
        "docker rmi listed:one listed:two",
    ),
    scenario("the table of images", Step("docker images rich")),
    scenario(
        "history and inspect",
        "docker history --format '{{.CreatedBy}}|{{.Comment}}' white",
        "docker history -q bb",
        "docker image inspect -f '{{.Os}} {{.Architecture}} {{.Author}} {{json .Config.Cmd}} {{json .Config.Entrypoint}} {{json .Config.Env}} {{json .Config.Labels}} {{.Config.User}} {{.Config.WorkingDir}} {{json .Config.Volumes}} {{json .Config.ExposedPorts}} {{len .RootFS.Layers}} {{.RootFS.Type}} {{.Created}}' rich",
        Step(
            "docker image inspect nothere",
        ),
        Step(
            "docker history nothere",
        ),
    ),
    scenario(
        "load",
        Step("docker load -i {tmp}/images.tar", sort=True),
        Step("docker load -q -i {tmp}/images.tar", sort=True),
        Step("docker load -i {tmp}/rubbish.tar", compare="exit"),
        Step("docker load", stdin="not a tar at all", compare="exit"),
    ),
    scenario(
        "ids name images",
        quiet(
            "docker run --rm sha256:0000000000000000000000000000000000000000000000000000000000000000 true"
        ),
        Step("docker image inspect -f '{{.Id}}' bb"),
    ),
    scenario(
        "version and info",
        "docker version --format '{{.Server.Os}} {{.Server.Experimental}}'",
        "docker info --format '{{.OSType}} {{.Swarm.LocalNodeState}} {{.ExperimentalBuild}} {{.MemoryLimit}} {{.PidsLimit}}'",
        Step("docker login -u a -p b {registry}", compare="exit"),
    ),
    scenario(
        "networks and volumes are listed",
        Step("docker network ls --format '{{.Name}} {{.Driver}} {{.Scope}}'", sort=True),
        "docker network inspect -f '{{.Name}} {{.Driver}}' bridge",
        Step("docker network inspect nothere", compare="exit"),
        "docker volume ls -q --filter name=nothere",
        Step("docker volume inspect nothere", compare="exit"),
    ),
    scenario("swarm is refused", Step("docker node ls"), Step("docker service ls")),
]


@pytest.fixture(autouse=True)
def _images_are_restored(api: API, cli: CLI, baseline: Path, tmp_path: Path) -> Iterator[None]:
    (tmp_path / "images.tar").write_bytes(baseline.read_bytes())
    (tmp_path / "rubbish.tar").write_bytes(b"rubbish" * 1000)
    before = _tags(api)
    yield
    for row in api.ok("GET", "/containers/json?all=1"):
        api("DELETE", f"/containers/{row['Id']}?force=1&v=1")
    for tag in _tags(api) - before:
        api("DELETE", f"/images/{tag}?force=1")
    if before - _tags(api):
        cli.ok(f"docker load -q -i {baseline}")


def _tags(api: API) -> set[str]:
    return {tag for row in api.ok("GET", "/images/json") for tag in row["RepoTags"] or []}


@pytest.mark.parametrize("case", SCENARIOS, ids=str)
def test_the_commands_answer_as_dockerd_does(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(case, recording, cli, names, fill)
