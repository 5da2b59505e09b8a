"""docker commit by the stock CLI: layers, configs, histories, refusals; and what becomes of parents and children."""

from __future__ import annotations

import contextlib
from shlex import quote

import docker
import pytest
from compat.answers import Recording
from compat.clients import API, CLI
from compat.daemons import Daemon
from compat.scenarios import Scenario, Step, check, quiet, scenario

GO_CONNECTIONS = "Debian builds with an older go-connections, which has a capital"
DAEMON = "Error response from daemon: "
LIST = "docker images -a --format '{{.Repository}}:{{.Tag}} {{.Size}}' -f reference=made*"
CONFIG = (
    "docker image inspect -f '{{.Author}}|{{.Comment}}|{{.Config.User}}|{{json .Config.Env}}|{{json .Config.Cmd}}|"
    "{{json .Config.Entrypoint}}|{{json .Config.Labels}}|{{json .Config.ExposedPorts}}|{{json .Config.Volumes}}|"
    "{{json .Config.WorkingDir}}|{{json .Config.OnBuild}}|{{json .Config.Healthcheck}}|{{len .RootFS.Layers}}' "
)
HISTORY = "docker history --format '{{.CreatedBy}}|{{.Size}}|{{.Comment}}' "
CONTENT = (
    "echo new >/added; echo more >>/etc/group; rm /etc/passwd; rm -rf /home; mkdir /home; echo one >/home/only; "
    "rm -rf /var; echo file >/var; chmod 4755 /added; ln /added /linked; ln -s /added /pointing; mkdir -p /deep/er; "
    "mkfifo /pipe; chown 7:8 /etc/group"
)
LOOK = (
    "cat /added /home/only /var; ls /home /deep; ls /etc; tail -n 1 /etc/group; "
    "stat -c '%n %F %a %u:%g %h' /added /linked /pointing /pipe /etc/group /var; stat -c '%n %F %a %u:%g' /home /deep/er"
)


def change(text: str, **more: object) -> Step:
    """A commit with a change that is refused."""
    return Step(f"docker commit -c {text} cmt", **more)  # type: ignore[arg-type]


SCENARIOS = [
    scenario(
        "a container as an image",
        quiet(f"docker run --name cmt bb sh -c {quote(CONTENT)}"),
        quiet("docker commit cmt made:one"),
        f"docker run --rm made:one sh -c {quote(LOOK)}",
        LIST,
        CONFIG + "made:one",
        "docker image inspect -f '{{.Parent}} {{.RepoTags}} {{.RepoDigests}} {{.Architecture}} {{.Os}}' made:one",
        Step(HISTORY + "made:one", compare="exit"),
        Step("docker diff cmt", sort=True),
        Step("docker rmi made:one", compare="exit stderr"),
        "docker run --rm bb ls /home",
    ),
    scenario(
        "author and message and changes",
        quiet(
            "docker run --name cmt -e A=1 -l own=yes --expose 90 -v /kept -w /tmp -u alice bb sh -c 'echo x >/kept/y || true'"
        ),
        quiet(
            "docker commit -a 'Some Body <some@body>' -m 'what was done' -c 'ENV B=2 C=$A-$NOT' -c 'LABEL \"more than\"=one' "
            "-c 'EXPOSE 80 90/udp' -c 'CMD [\"echo\",\"changed\"]' -c 'WORKDIR sub' -c 'VOLUME /data' -c 'USER root' "
            "-c 'ONBUILD RUN true' cmt made:two"
        ),
        CONFIG + "made:two",
        HISTORY + "made:two",
        "docker run --rm made:two",
        "docker run --rm made:two sh -c 'pwd; id -un; echo $A $B $C; ls /kept'",
        Step("docker rmi made:two", compare="exit stderr"),
    ),
    scenario(
        "entrypoints and commands",
        quiet("docker create --name cmt bb echo hello"),
        quiet('docker commit -c \'ENTRYPOINT ["echo","first"]\' cmt made:entry'),
        CONFIG + "made:entry",
        "docker run --rm made:entry second",
        quiet("docker commit -c 'CMD echo $HOME' cmt made:shell"),
        CONFIG + "made:shell",
        quiet("docker commit -c 'CMD []' -c 'ENTRYPOINT []' cmt made:none"),
        CONFIG + "made:none",
        quiet(
            "docker commit -c 'HEALTHCHECK --interval=5s --retries=3 CMD test -e /x' cmt made:health"
        ),
        CONFIG + "made:health",
        quiet("docker commit -c 'CMD [\"a\"]' -c 'ENTRYPOINT [\"echo\"]' cmt made:both"),
        "docker run --rm made:both",
        quiet("docker commit -c 'entrypoint [\"echo\"]' -c 'cmd b' cmt made:last"),
        CONFIG + "made:last",
        Step(
            "docker rmi made:health made:entry made:shell made:none made:both made:last",
            compare="exit stderr",
        ),
    ),
    scenario(
        "nothing changed",
        quiet("docker create --name cmt bb true"),
        quiet("docker commit -m empty cmt made:empty"),
        CONFIG + "made:empty",
        HISTORY + "made:empty",
        "docker run --rm made:empty echo it runs",
        Step("docker rmi made:empty", compare="exit stderr"),
    ),
    scenario(
        "a running container",
        quiet("docker run -d --name cmt bb sh -c 'echo before >/f; sleep 100'"),
        quiet("docker exec cmt sh -c 'while ! test -s /f; do :; done'"),
        quiet("docker commit cmt made:run"),
        "docker inspect -f '{{.State.Status}}' cmt",
        quiet("docker commit --pause=false cmt made:run2"),
        "docker run --rm made:run cat /f",
        Step("docker rmi made:run made:run2", compare="exit stderr"),
    ),
    scenario(
        "refusals",
        quiet("docker create --name cmt bb true"),
        Step(
            "docker commit cmt UPPER",
            compare="exit stderr",
        ),
        "docker commit nobody",
        "docker commit cmt a:b@c",
        Step(
            "docker commit -c 'FROM x' cmt",
        ),
        change("'ENV'"),
        change("'ENV A'"),
        change("'ENV A=b C'"),
        change("'ENV =b'"),
        change("'LABEL a'"),
        change("'EXPOSE x'", stderr=DAEMON + "invalid containerPort: x\n", why=GO_CONNECTIONS),
        change("'EXPOSE 80/foo'", stderr=DAEMON + "invalid proto: foo\n", why=GO_CONNECTIONS),
        change("'USER'"),
        change("'VOLUME []'"),
        change("'ONBUILD FROM x'"),
        change("'ONBUILD ONBUILD RUN x'"),
        change("'HEALTHCHECK CMD'"),
        change("'HEALTHCHECK --interval=5 CMD x'"),
        change("'HEALTHCHECK --interval=1us CMD x'"),
        change("'HEALTHCHECK FOO'"),
        change("'ENV Q=${'"),
        change("''"),
        "docker images -q -f dangling=true",
    ),
    scenario(
        "parents and children",
        quiet("docker run --name cmt bb touch /one"),
        quiet("docker commit cmt made:parent"),
        quiet("docker run --name cmt2 made:parent touch /two"),
        quiet("docker commit -m second cmt2 made:child"),
        HISTORY + "made:child",
        Step("docker history -q made:child"),
        Step("docker rmi made:parent", compare="exit stderr"),
        quiet("docker rm cmt2"),
        Step("docker rmi made:parent"),
        LIST,
        "docker images -f reference=made",
        "docker images -q -f dangling=true",
        "docker run --rm made:child ls /one /two",
        Step("docker rmi made:child"),
        "docker images -a -q -f dangling=true",
        "docker run --rm bb ls /one",
    ),
    scenario(
        "a container whose image is gone",
        quiet("docker create --name cmt bb true"),
        quiet("docker commit cmt made:lost"),
        quiet("docker create --name cmt2 made:lost touch /x"),
        quiet("docker rmi -f made:lost"),
        Step("docker commit cmt2", compare="exit stdout"),
    ),
]


@pytest.mark.parametrize("case", SCENARIOS, ids=str)
def test_the_commands_answer_as_dockerd_does(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(case, recording, cli, names, fill)


def test_an_image_cannot_go_while_it_has_children(cli: CLI) -> None:
    cli.ok("docker run --name cmt bb touch /one")
    parent = cli.ok("docker commit cmt made:parent").strip()
    cli.ok("docker run --name cmt2 made:parent touch /two")
    cli.ok("docker commit cmt2 made:child")
    cli.ok("docker rm cmt2")
    for force in ("", "-f "):
        refused = cli(f"docker rmi {force}{parent}")
        short = parent.removeprefix("sha256:")[:12]
        assert (
            refused.stderr.strip()
            == f"{DAEMON}conflict: unable to delete {short} (cannot be forced) - image has dependent child images"
        )
    cli.ok("docker rmi made:child made:parent")


def test_the_body_is_the_new_config_and_the_container_fills_it_up(cli: CLI, api: API) -> None:
    cli.ok("docker create --name cmt -e A=1 -e B=2 -l l=1 bb sh")
    made = api.ok(
        "POST", "/commit?container=cmt", {"Env": ["B=3"], "Labels": {"m": "2"}, "User": "alice"}
    )
    config = api.ok("GET", f"/images/{made['Id']}/json")["Config"]
    assert config["Env"] == ["B=3", "A=1", "PATH=/bin"]
    assert config["Labels"] == {"l": "1", "m": "2"}
    assert (config["User"], config["Cmd"]) == ("alice", ["sh"])
    cli.ok(f"docker rmi {made['Id']}")


def test_the_sdk_commits(daemon: Daemon) -> None:
    with contextlib.closing(docker.DockerClient(base_url=daemon.url)) as client:
        container = client.containers.create("bb", "sh", name="cmt")
        image = container.commit(
            "made", "sdk", message="why", author="me", changes=["ENV A=1", "CMD echo $A"], conf={}
        )
        assert image.tags == ["made:sdk"]
        assert (image.attrs["Author"], image.attrs["Comment"]) == ("me", "why")
        assert client.containers.run("made:sdk", remove=True) == b"1\n"
        assert container.commit().tags == []
        client.images.remove("made:sdk")
        client.images.prune()


@pytest.mark.linux_only("there is no freezer")
def test_a_paused_container_stays_paused(cli: CLI) -> None:
    cli.ok("docker run -d --name cmt bb sleep 100")
    cli.ok("docker pause cmt")
    cli.ok("docker commit cmt made:paused")
    assert cli.ok("docker inspect -f '{{.State.Status}}' cmt") == "paused"
    cli.ok("docker unpause cmt")
    cli.ok("docker rmi made:paused")
