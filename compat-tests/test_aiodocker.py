"""aiodocker's own test suite, from its sdist, against this server: whatever passes with dockerd must pass here.

Its images are served as Docker Hub's by a registry on loopback (`--registry-mirror`).  Left out are its swarm tests: they
run a dockerd in a privileged container, which needs more rights than a test machine may have.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.answers import Recording
from compat.daemons import Daemon, own_bridge, start_registry
from compat.images import Image, Registry, busybox_layer, layer
from compat.smartos import SmartOS

pytestmark = [pytest.mark.timeout(900)]

VERSION = "0.27.0"
SWARM = ("configs", "nodes", "secrets", "services", "swarm")
PYTHON = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["python3"]}
# Without them the suite looks for the published ports of its registries on the bridge, and for an image of its own.
ENVIRONMENT = {
    "TESTCONTAINERS_CONNECTION_MODE": "docker_host",
    "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1",
    "TESTCONTAINERS_RYUK_DISABLED": "true",
    "TC_HOST": "127.0.0.1",
}


@pytest.fixture(scope="session")
def suite(workdir: Path) -> Iterator[Path]:
    """The unpacked sdist, with an environment of its own in `venv`."""
    folder = workdir / "aiodocker"
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wanted = ["--no-deps", "--no-binary", ":all:", f"aiodocker=={VERSION}"]
    subprocess.run([*pip, "download", "-d", folder, *wanted], check=True)
    with tarfile.open(folder / f"aiodocker-{VERSION}.tar.gz") as sdist:
        sdist.extractall(folder, filter="data")
    source = folder / f"aiodocker-{VERSION}"
    venv.create(source / "venv", with_pip=True)
    python = source / "venv/bin/python"
    subprocess.run([python, *pip[1:], "install", f"{source}[test]"], check=True)
    yield source
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def hub(kind: str, workdir: Path, debian_image: Image) -> Iterator[str]:
    """Address of a registry that has what the suite pulls."""
    process, address = start_registry(workdir / "hub")
    try:
        client = Registry(address)
        link = layer([("usr/local/bin/python", "-> /usr/bin/python3")])
        layers = [*debian_image.layers, link]
        for tag in ("3.13-alpine", "latest"):
            client.push(Image("python", layers, PYTHON), tag, "library/python")
        other = [*layers, layer([("etc/newer", b"")])]
        client.push(Image("python", other, PYTHON), "3.14-alpine", "library/python")
        client.push(registry_image(), "2", "library/registry")
        client.push(Image("hello-world", [busybox_layer("hello")]), "latest", "library/hello-world")
        yield address
    finally:
        process.terminate()
        process.wait(10)


def registry_image() -> Image:
    """The machine's docker-registry as Docker Hub's `registry:2`."""
    program = shutil.which("docker-registry")
    assert program
    shown = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = sorted(set(re.findall(r"(/\S+) \(0x", shown)))
    config = (
        b"version: 0.1\nhttp: {addr: ':5000'}\n"
        b"storage: {filesystem: {rootdirectory: /var/lib/registry}}\n"
    )
    files: list[tuple[str, object]] = [
        ("bin/registry", (Path(program).read_bytes(), 0o755)),
        ("etc/docker/registry/config.yml", config),
        *((path.lstrip("/"), (Path(path).read_bytes(), 0o755)) for path in libraries),
    ]
    return Image(
        "registry",
        [busybox_layer(), layer(files)],
        {
            "Env": ["PATH=/bin"],
            "Entrypoint": ["registry"],
            "Cmd": ["serve", "/etc/docker/registry/config.yml"],
            "ExposedPorts": {"5000/tcp": {}},
            "Volumes": {"/var/lib/registry": {}},
        },
    )


@pytest.fixture(scope="module")
def mirrored(kind: str, workdir: Path, hub: str, platform: SmartOS | None) -> Iterator[Daemon]:
    """A server that takes `hub` for Docker Hub."""
    own = () if platform else own_bridge(kind, 3)
    server = Daemon(
        kind,
        workdir / "m",
        f"zm{os.getpid() % 1000000}",
        hub,
        extra=("--registry-mirror", f"http://{hub}", *own),
        platform=platform,
    )
    try:
        yield server.start()
    finally:
        try:
            server.stop()
        finally:
            server.discard()


def passed(suite: Path, server: Daemon, config: Path, *more: str) -> dict[str, str]:
    """PASSED, FAILED, ... by test."""
    ignored = [f"--ignore=tests/test_{name}.py" for name in SWARM]
    command = [
        suite / "venv/bin/python",
        "-m",
        "pytest",
        "-q",
        "-rA",
        "--tb=short",
        "-o",
        "addopts=",
    ]
    environment = (
        os.environ | ENVIRONMENT | {"DOCKER_HOST": server.url, "DOCKER_CONFIG": str(config)}
    )
    done = subprocess.run(
        [*command, "-p", "no:sugar", *ignored, *more, "tests"],
        cwd=suite,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-20000:])
    rows = re.findall(
        r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (tests/\S+)", done.stdout, re.MULTILINE
    )
    return {test: word for word, test in rows}


# The first two are made while there still is a network around: dockerd is tested in one of its own.
@pytest.mark.usefixtures("debian_image")
def test_all_that_passes_with_dockerd_passes_here(
    suite: Path,
    mirrored: Daemon,
    recording: Recording,
    platform: SmartOS | None,
    tmp_path: Path,
) -> None:
    found = passed(suite, mirrored, tmp_path)
    good = sorted(test for test, word in found.items() if word in ("PASSED", "XPASS", "XFAIL"))
    if recording.taking:
        recording.put("passed", good)
        return
    wanted: list[str] = recording.get("passed")
    if platform is not None:
        wanted.remove("tests/test_containers.py::test_pause_unpause")  # vmadm cannot freeze a zone
    lacking = sorted(set(wanted) - set(good))
    if lacking:
        # Some of its tests fail of what an earlier one left to Python's collector: those are run by themselves.
        alone = passed(
            suite, mirrored, tmp_path, "--last-failed", "--last-failed-no-failures", "none"
        )
        lacking = [test for test in lacking if alone.get(test) not in ("PASSED", "XPASS", "XFAIL")]
    assert not lacking, f"{len(wanted) - len(lacking)} of {len(wanted)}"
