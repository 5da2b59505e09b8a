"""What programs do through the docker SDK for Python."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import pytest
from compat.daemons import Daemon
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

# The SDK leaves the sockets of its streams to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def client(daemon: Daemon) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(base_url=daemon.url, version="auto", timeout=40)
    yield made
    made.close()
    gc.collect()


def test_ping_version_and_info(client: docker.DockerClient, platform: object) -> None:
    assert client.ping()
    version = client.version()
    assert version["Os"] == "linux"
    assert version["ApiVersion"] == client.api._version
    info = client.info()
    assert info["OSType"] == "linux"
    assert (
        info["Containers"]
        == info["ContainersRunning"] + info["ContainersPaused"] + info["ContainersStopped"]
    )
    assert info["ID"]
    assert bool(info["SecurityOptions"]) == (platform is None)
    assert info["Swarm"]["LocalNodeState"] == "inactive"


def test_run_returns_the_output(client: docker.DockerClient) -> None:
    assert client.containers.run("bb", "echo hello", remove=True) == b"hello\n"
    assert client.containers.run(
        "bb", ["sh", "-c", "echo out; echo err >&2"], stderr=True, remove=True
    ) in (b"out\nerr\n", b"err\nout\n")


def test_a_failing_run_raises_with_the_code(client: docker.DockerClient) -> None:
    with pytest.raises(ContainerError) as failed:
        client.containers.run("bb", "sh -c 'echo bad >&2; exit 4'", remove=True)
    assert failed.value.exit_status == 4
    assert failed.value.stderr == b"bad\n"


def test_a_followed_log_comes_line_by_line(client: docker.DockerClient) -> None:
    container = client.containers.run("bb", ["sh", "-c", "echo 1; echo 2; echo 3"], detach=True)
    container.wait()
    assert list(container.logs(stream=True)) == [b"1\n", b"2\n", b"3\n"]
    container.remove()


def test_a_detached_container_lives(client: docker.DockerClient, platform: object) -> None:
    container = client.containers.run(
        "bb", "sleep 1000", detach=True, name="sdk", labels={"a": "b"}, environment={"X": "y"}
    )
    container.reload()
    assert container.status == "running"
    assert container.name == "sdk"
    assert container.labels["a"] == "b"
    assert client.containers.get("sdk").id == container.id
    assert [row.id for row in client.containers.list(filters={"label": "a=b"})] == [container.id]
    code, output = container.exec_run("sh -c 'echo $X'")
    assert (code, output) == (0, b"y\n")
    code, streams = container.exec_run(["sh", "-c", "echo o; echo e >&2; exit 3"], demux=True)
    assert (code, streams) == (3, (b"o\n", b"e\n"))
    if platform is None:
        container.pause()
        container.reload()
        assert container.status == "paused"
        container.unpause()
    else:
        with pytest.raises(APIError, match="vmadm cannot freeze a zone"):
            container.pause()
    container.rename("sdk2")
    container.restart(timeout=0)
    container.stop(timeout=0)
    container.reload()
    assert container.status == "exited"
    assert container.wait()["StatusCode"] == 137
    container.remove()
    with pytest.raises(NotFound):
        client.containers.get("sdk2")


def test_logs_and_attach(client: docker.DockerClient) -> None:
    container = client.containers.create("bb", "sh -c 'for i in 1 2 3; do echo $i; done'")
    stream = container.attach(stream=True, stdout=True)
    container.start()
    assert b"".join(stream) == b"1\n2\n3\n"
    container.wait()
    assert container.logs() == b"1\n2\n3\n"
    assert container.logs(tail=1) == b"3\n"
    assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n"


def test_the_output_of_many_execs_is_whole(client: docker.DockerClient) -> None:
    # The SDK reads the head through a buffer and goes on below it: what comes in one piece with the
    # head is lost to it, so output may only be sent once the head was taken.
    container = client.containers.run("bb", "sleep 1000", detach=True)
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(
                lambda _: container.exec_run(
                    ["sh", "-c", "echo o; echo e >&2; exit 3"], demux=True
                ),
                range(80),
            )
        )
    assert [tuple(result) for result in results] == [(3, (b"o\n", b"e\n"))] * 80


def test_an_exec_socket(client: docker.DockerClient) -> None:
    container = client.containers.run("bb", "sleep 1000", detach=True)
    _, socket = container.exec_run("cat", stdin=True, socket=True)
    socket._sock.sendall(b"through\n")
    data = socket.read(8 + 8)
    assert data[8:] == b"through\n"
    socket.close()


def test_images(client: docker.DockerClient, registry: str) -> None:
    image = client.images.pull(f"{registry}/fresh", tag="latest")
    assert f"{registry}/fresh:latest" in image.tags
    assert client.images.get(image.id).id == image.id
    assert image.labels == {"only": "in the registry"}
    assert image.tag("tagged", "here")
    assert "tagged:here" in client.images.get("tagged:here").tags
    assert image.history()
    client.images.remove("tagged:here")
    client.images.remove(f"{registry}/fresh:latest")
    with pytest.raises(ImageNotFound):
        client.images.get(f"{registry}/fresh:latest")


def test_pulling_by_digest_and_streams_of_progress(
    client: docker.DockerClient, registry: str
) -> None:
    client.images.pull(f"{registry}/fresh", tag="latest")
    digest = client.images.get(f"{registry}/fresh").attrs["RepoDigests"][0]
    client.images.remove(f"{registry}/fresh:latest")
    rows = list(client.api.pull(digest, stream=True, decode=True))
    assert any("Pull complete" in row.get("status", "") for row in rows)
    assert rows[-1]["status"].startswith("Status: Downloaded newer image")
    assert client.images.get(digest).attrs["RepoDigests"] == [digest]
    client.images.remove(digest)


def test_load_gives_the_images(client: docker.DockerClient, baseline: Path) -> None:
    with baseline.open("rb") as archive:
        loaded = client.images.load(archive)
    assert {"bb:latest", "rich:latest"} <= {tag for image in loaded for tag in image.tags}


def test_errors_have_their_kind_and_text(client: docker.DockerClient) -> None:
    with pytest.raises(ImageNotFound, match="No such image: nothere:latest"):
        client.images.get("nothere")
    with pytest.raises(NotFound, match="No such container: nothere"):
        client.containers.get("nothere")
    with pytest.raises(APIError, match="Invalid container name"):
        client.containers.create("bb", name="a b")


NOT_IN_A_ZONE = {
    "cap_add": ["NET_ADMIN"],
    "cap_drop": ["CHOWN"],
    "read_only": True,
    "sysctls": {"net.core.somaxconn": "99"},
    "group_add": ["5"],
    "security_opt": ["no-new-privileges"],
}


@pytest.mark.parametrize("option", NOT_IN_A_ZONE)
def test_what_no_zone_can_have_is_refused(
    client: docker.DockerClient, platform: object, option: str
) -> None:
    if platform is None:
        client.containers.create("bb", "true", **{option: NOT_IN_A_ZONE[option]})
        return
    with pytest.raises(APIError, match="not supported for a container of brand lx on SmartOS"):
        client.containers.create("bb", "true", **{option: NOT_IN_A_ZONE[option]})


def test_what_was_asked_for_is_echoed(client: docker.DockerClient, platform: object) -> None:
    beyond = NOT_IN_A_ZONE if platform is None else {}
    container = client.containers.create(
        "bb",
        ["a", "b"],
        entrypoint=["/bin/e"],
        environment=["A=1", "B"],
        hostname="h",
        user="1:2",
        working_dir="/w",
        tty=True,
        stdin_open=True,
        labels={"ü": "ö"},
        volumes={"/tmp": {"bind": "/m", "mode": "ro"}},
        ports={"80/tcp": ("127.0.0.1", 18080)},
        mem_limit="64m",
        nano_cpus=500_000_000,
        pids_limit=10,
        dns=["1.1.1.1"],
        extra_hosts={"x": "1.2.3.4"},
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
        tmpfs={"/tmp": "size=1m"},
        shm_size="1m",
        stop_signal="SIGINT",
        **beyond,
    )
    config, host = container.attrs["Config"], container.attrs["HostConfig"]
    assert config["Cmd"] == ["a", "b"]
    assert config["Entrypoint"] == ["/bin/e"]
    assert config["Env"][:2] == ["A=1", "B"]
    assert (
        config["Hostname"],
        config["User"],
        config["WorkingDir"],
        config["Tty"],
        config["OpenStdin"],
    ) == ("h", "1:2", "/w", True, True)
    assert config["Labels"] == {"ü": "ö"}
    assert config["Image"] == "bb"
    assert config["StopSignal"] == "SIGINT"
    assert host["Binds"] == ["/tmp:/m:ro"]
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18080"}]}
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"], host["ShmSize"]) == (
        64 << 20,
        500_000_000,
        10,
        1 << 20,
    )
    assert (host["Dns"], host["ExtraHosts"], host["Tmpfs"]) == (
        ["1.1.1.1"],
        ["x:1.2.3.4"],
        {"/tmp": "size=1m"},
    )
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    if beyond:
        assert (host["CapAdd"], host["CapDrop"]) in (
            (["NET_ADMIN"], ["CHOWN"]),
            (["CAP_NET_ADMIN"], ["CAP_CHOWN"]),
        )
        assert host["ReadonlyRootfs"]
        assert host["Sysctls"] == {"net.core.somaxconn": "99"}
        assert host["GroupAdd"] == ["5"]
        assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (container.attrs["Path"], container.attrs["Args"]) == ("/bin/e", ["a", "b"])
    assert container.attrs["State"]["Status"] == "created"
    assert container.attrs["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert container.attrs["Mounts"][0]["Source"] == "/tmp"
    assert container.attrs["Mounts"][0]["RW"] is False
