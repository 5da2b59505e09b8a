"""The server under test, its images, and the clients; one server for the whole session.

`--daemon dockerd` runs the same tests against dockerd, in a network namespace of the test process's own, so that the
machine's firewall stays as it is.  `--record` keeps its answers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat import rows
from compat.answers import Recording
from compat.clients import API, CLI
from compat.daemons import WITNESSED, Daemon, own_bridge, start_registry
from compat.debian import NoMirror, debian
from compat.images import Image, Registry, archive, catalogue
from compat.ownnetwork import own_network
from compat.smartos import SmartOS

from tests.fakes import loopdisk

NEEDED = {
    "zonegate": ["docker", "docker-registry", "conmon", "busybox"],
    "dockerd": ["docker", "docker-registry", "dockerd", "busybox"],
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--daemon", choices=["zonegate", "dockerd"], default="zonegate")
    parser.addoption("--backend", choices=["linux", "smartos", "smartos-ssh"], default="linux")
    parser.addoption("--store", choices=["overlay2", "btrfs"], default="overlay2")
    parser.addoption("--record", action="store_true", help="keep the answers of --daemon dockerd")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    on_smartos = config.getoption("--backend") != "linux"
    if not on_smartos:
        ours = Path(__file__).with_name("test_smartos.py")
        alone = [item for item in items if item.path == ours]
        config.hook.pytest_deselected(items=alone)
        items[:] = [item for item in items if item not in alone]
    for item in items:
        if "compat-tests" not in str(item.path):
            continue
        item.add_marker(pytest.mark.root)
        only = item.get_closest_marker("linux_only")
        if on_smartos and only is not None:
            item.add_marker(pytest.mark.skip(reason=f"not on SmartOS: {only.args[0]}"))


@pytest.fixture(scope="session")
def kind(request: pytest.FixtureRequest) -> str:
    """Which server is tested."""
    kind = str(request.config.getoption("--daemon"))
    for program in NEEDED[kind]:
        assert shutil.which(program), (
            f"{program} is missing: scripts/test installs what the tests need"
        )
    if kind == "dockerd":
        own_network()
    return kind


@pytest.fixture(scope="session")
def platform(request: pytest.FixtureRequest, workdir: Path) -> Iterator[SmartOS | None]:
    """The machine that the zones run on; None if it is this one."""
    backend = request.config.getoption("--backend")
    if backend == "linux":
        yield None
        return
    machine = SmartOS(workdir, over_ssh=backend == "smartos-ssh")
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="session")
def workdir() -> Iterator[Path]:
    """A short path: a unix socket's has 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="zgc-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def images() -> dict[str, Image]:
    """The images by short name."""
    return {image.name: image for image in catalogue()}


@pytest.fixture(scope="session")
def registry(kind: str, workdir: Path, images: dict[str, Image]) -> Iterator[str]:
    """`127.0.0.1:PORT` of a registry that has all images."""
    process, address = start_registry(workdir / "registry")
    try:
        client = Registry(address)
        for image in images.values():
            client.push(image)
        client.push(images["bb"], "v1")
        yield address
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def debian_image() -> Iterator[Image]:
    """A Debian with servers on it; its trees are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="zgc-debian-", dir="/var/tmp"))
    try:
        yield debian(folder)
    except NoMirror as error:
        pytest.skip(f"Debian's packages are not to be had here: {error}")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def baseline(workdir: Path, images: dict[str, Image]) -> Path:
    """An archive of the images that are always there."""
    path = workdir / "images.tar"
    path.write_bytes(
        archive(
            {
                f"{name}:latest": image
                for name, image in images.items()
                if name not in ("foreign", "fresh")
            }
        )
    )
    return path


@pytest.fixture(scope="session")
def store(request: pytest.FixtureRequest, workdir: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The server's folder, and its flags for that: on a disk of its own if it is to be btrfs."""
    if request.config.getoption("--store") == "overlay2":
        yield workdir / "d", ()
        return
    with loopdisk.btrfs(workdir / "b", 8 << 30) as place:
        yield place / "d", ("--storage-driver", "btrfs")


@pytest.fixture(scope="session")
def daemon(
    kind: str,
    workdir: Path,
    registry: str,
    baseline: Path,
    platform: SmartOS | None,
    store: tuple[Path, tuple[str, ...]],
) -> Iterator[Daemon]:
    """The server, with the baseline images loaded."""
    root, flags = store
    server = Daemon(
        kind,
        root,
        f"zc{os.getpid() % 1000000}",
        registry,
        () if platform else (*own_bridge(kind, 0), *flags),
        platform,
    )
    with server.serving():
        CLI(server.url, workdir / "seed").ok(f"docker load -q -i {baseline}")
        yield server


@pytest.fixture(scope="session")
def cli(daemon: Daemon, workdir: Path) -> CLI:
    """The stock docker CLI."""
    return CLI(daemon.url, workdir / "config")


@pytest.fixture(scope="session")
def api(daemon: Daemon) -> API:
    """Bare HTTP."""
    return API(daemon.socket)


@pytest.fixture(scope="module")
def states(daemon: Daemon, registry: str, platform: SmartOS | None) -> Iterator[dict[str, str]]:
    """Containers in each state, by name: what rows of requests put into their paths."""
    with rows.states(API(daemon.socket), on_smartos=platform is not None) as found:
        yield found


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no container is left but those labelled `keep`; and the server has not ended."""
    if "daemon" not in request.fixturenames:
        yield
        return
    clients = request.getfixturevalue("api")
    yield
    clients.close()
    server: Daemon = request.getfixturevalue("daemon")
    api = API(server.socket)
    kept = {
        row["Id"]
        for row in api.ok(
            "GET", "/containers/json?all=1&filters=%7B%22label%22%3A%5B%22keep%22%5D%7D"
        )
    }
    for row in api.ok("GET", "/containers/json?all=1"):
        if row["Id"] not in kept:
            api("DELETE", f"/containers/{row['Id']}?force=1&v=1")
    assert server.process is None or server.process.poll() is None, server.tail()


@pytest.fixture(autouse=True)
def _as_described() -> Iterator[None]:
    """Every JSON answer that a server gave in this test is as the API's description has it."""
    yield
    faults = [line for traffic in list(WITNESSED.values()) for line in traffic.faults()]
    assert not faults, "\n" + "\n".join(faults[:40])


@pytest.fixture(scope="session")
def recorder(request: pytest.FixtureRequest, kind: str) -> str:
    """The version of the dockerd that is recorded, `28.5.2`; empty if nothing is."""
    if not request.config.getoption("--record"):
        return ""
    assert kind == "dockerd", "--record goes with --daemon dockerd"
    shown = subprocess.run(["dockerd", "--version"], capture_output=True, check=True, text=True)
    found = re.search(r"version (\d+\.\d+\.\d+)", shown.stdout)
    assert found, shown.stdout
    return found[1]


@pytest.fixture
def recording(request: pytest.FixtureRequest, recorder: str) -> Recording:
    """The recorded answers of this test's module."""
    name = request.path.stem.removeprefix("test_")
    return Recording(
        name,
        taking=recorder,
        exact=request.config.getoption("--daemon") == "dockerd",
        on_smartos=request.config.getoption("--backend") != "linux",
    )


@pytest.fixture
def names(daemon: Daemon, registry: str, tmp_path: Path, workdir: Path) -> dict[str, str]:
    """What to write instead of this run's own names."""
    return {
        registry: "REGISTRY",
        str(tmp_path): "TMP",
        str(daemon.root): "ROOT",
        str(workdir): "WORK",
        daemon.name: "NAME",
    }


@pytest.fixture
def fill(registry: str, tmp_path: Path) -> dict[str, str]:
    """What to fill into commands."""
    return {"registry": registry, "tmp": str(tmp_path)}
