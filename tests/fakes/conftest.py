"""A fake global zone with one image of busybox, and words to speak to its vmadm with."""

from __future__ import annotations

import io
import json
import subprocess  # noqa: TID251 - the programs are processes
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import busybox_tar
from tests.fakes.globalzone.process import BIN, FakeGZ, start

IMAGE = "00000000-0000-0000-0000-0000000000bb"
DEADLINE_S = 20.0


class Vmadm:
    """`fake` is the global zone; `events` what `vmadm events` said so far."""

    def __init__(self, fake: FakeGZ) -> None:
        self.fake = fake

    def __call__(self, *arguments: str, stdin: Any = "") -> str:
        """Standard output of a command that must succeed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *arguments: str, stdin: Any = "") -> subprocess.CompletedProcess[str]:
        """A command, whatever comes of it."""
        text = stdin if isinstance(stdin, str) else json.dumps(stdin)
        return self.fake.run("vmadm", *arguments, stdin=text)

    def fails(self, *arguments: str, stdin: Any = "", code: int = 1) -> str:
        """What a command that must fail says."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == code, done.stderr
        return done.stderr

    def create(self, *command: str, metadata: dict[str, Any] | None = None, **more: Any) -> str:
        """The uuid of a new docker zone."""
        payload = docker_payload(*command, metadata=metadata) | more
        done = self.run("create", stdin=payload)
        assert done.returncode == 0, done.stderr
        return done.stderr.split()[-1]

    def get(self, uuid: str) -> dict[str, Any]:
        """`vmadm get`."""
        vm: dict[str, Any] = json.loads(self("get", uuid))
        return vm

    def wait(self, uuid: str, state: str = "stopped") -> dict[str, Any]:
        """Its object once it is in a state: told by the events, which come with the object."""
        with self.events(uuid) as events:
            for event in events:
                vm = event.get("vm") or event.get("vms", {}).get(uuid)
                if vm is not None and vm["state"] == state:
                    return dict(vm)
        raise AssertionError(f"{uuid} is never {state}")

    def events(self, *arguments: str) -> Events:
        """`vmadm events -j -r`; end it as a context."""
        return Events(self.fake, *arguments)


class Events:
    """Lines of `vmadm events -j -r` as they come."""

    def __init__(self, fake: FakeGZ, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [str(BIN / "vmadm"), "events", "-j", "-r", *arguments],
            env=fake.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._deadline = time.monotonic() + DEADLINE_S

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        while time.monotonic() < self._deadline:
            yield json.loads(self._process.stdout.readline())

    def until(self, kind: str, uuid: str = "") -> list[dict[str, Any]]:
        """All up to the first of a kind."""
        found = []
        for event in self:
            found.append(event)
            if event["type"] == kind and (not uuid or event["uuid"] == uuid):
                return found
        raise AssertionError(f"no {kind}")


def docker_payload(*command: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """Of an lx docker zone that runs a command."""
    return {
        "brand": "lx",
        "docker": True,
        "kernel_version": "4.10",
        "image_uuid": IMAGE,
        "autoboot": False,
        "alias": "x",
        "internal_metadata": {"docker:cmd": json.dumps(command), **(metadata or {})},
    }


def seed(fake: FakeGZ, uuid: str = IMAGE, kind: str = "docker") -> None:
    """An image of busybox that imgadm knows of."""
    assert fake.run("zfs", "create", f"zones/{uuid}").returncode == 0
    root = fake.root / "zones" / uuid / "root"
    root.mkdir()
    with tarfile.open(fileobj=io.BytesIO(busybox_tar())) as tar:
        tar.extractall(root, filter="fully_trusted")
    assert fake.run("zfs", "snapshot", f"zones/{uuid}@final").returncode == 0
    manifest = {"manifest": {"v": 2, "uuid": uuid, "type": kind}, "zpool": "zones"}
    (fake.root / "var/imgadm/images" / f"zones-{uuid}.json").write_text(json.dumps(manifest))


def assert_gone(fake: FakeGZ) -> None:
    """No mount, cgroup, interface of it."""
    name = (fake.root / ".linux/name").read_text()
    assert str(fake.root) not in Path("/proc/self/mountinfo").read_text()
    assert not Path(f"/sys/class/net/{name}0").exists()
    assert not any(Path("/sys/fs/cgroup").glob(f"*/{name}"))


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGZ]:
    fake = start(tmp_path_factory.mktemp("gz"), restart_scale="0.2")
    try:
        seed(fake)
        yield fake
    finally:
        fake.stop()
    assert_gone(fake)


@pytest.fixture
def vmadm(_running: FakeGZ) -> Iterator[Vmadm]:
    """Of a global zone that all tests of a session share; each begins and ends without machines."""
    vmadm = Vmadm(_running)
    yield vmadm
    _running.clear_faults()
    for uuid in vmadm("lookup").split():
        vmadm("delete", uuid)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[FakeGZ]:
    """A global zone of one's own."""
    fake = start(tmp_path / "gz")
    try:
        seed(fake)
        yield fake
    finally:
        fake.stop()
    assert_gone(fake)
