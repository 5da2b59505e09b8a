"""A server whose data root is on btrfs: what roots and volumes with a size answer beside dockerd, and what is left of them.

Everything else is the same on every store: `--store btrfs` runs all scenarios on this one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.answers import Recording
from compat.clients import API, CLI
from compat.daemons import Daemon, own_bridge, zonegate_program
from compat.exchanges import Exchange, ask, check, exchange, run
from compat.images import Image, archive
from compat.leftovers import settled

from tests.fakes import loopdisk

pytestmark = [
    pytest.mark.linux_only("a root's size is its dataset's quota: test_smartos.py"),
    pytest.mark.skipif(not loopdisk.has_btrfs(), reason="no btrfs in this kernel"),
]
CREATE = "POST /containers/create?name=made"
INSPECT = "GET /containers/made/json"
GONE = ask("DELETE /containers/made?force=1&v=1")
FILL = "dd if=/dev/zero of=/big bs=1M count=20 2>&1 | tail -n 1 | grep -c error; dd if=/dev/zero of=/big bs=1M count=20 2>&1 | grep -o 'Disk quota exceeded'; echo over"


def made(size: str, **options: str) -> dict[str, object]:
    """A create body."""
    return {"Image": "bb", "HostConfig": {"StorageOpt": {"size": size} | options}}


EXCHANGES = [
    exchange(
        "the driver is shown",
        ask("GET /info", show="Driver DriverStatus"),
        ask("GET /images/bb/json", show="GraphDriver.Name"),
        ask(CREATE, {"Image": "bb"}),
        ask(INSPECT, show="Driver GraphDriver"),
        GONE,
    ),
    exchange(
        "sizes that cannot be",
        ask(CREATE, made("0")),
        ask(CREATE, made("-1")),
        ask(CREATE, made("x")),
        ask(CREATE, made("")),
        ask(CREATE, made("1"), ours="500 btrfs: storage size cannot be less than SIZE",
            why="dockerd: `Failed to limit qgroup for &{{{}}}: disk quota exceeded`"),
        ask(CREATE, {"Image": "bb", "HostConfig": {"StorageOpt": {"foo": "1"}}}, ours="500 Unknown option foo",
            why="dockerd ignores it here, and refuses it on overlay2"),
        ask("DELETE /containers/made", ours="404 No such container: made"),
    ),
    exchange(
        "sizes that can",
        ask(CREATE, made("20m")),
        ask(INSPECT, show="HostConfig.StorageOpt"),
        GONE,
        ask(CREATE, {"Image": "bb", "HostConfig": {"StorageOpt": {"SIZE": "1t"}}}),
        GONE,
    ),
    exchange(
        "a root that is full",
        run(f"{FILL}; : >/dev/shm/free && echo elsewhere", {"StorageOpt": {"size": "8m"}}),
        run("dd if=/dev/zero of=/big bs=1M count=20 2>/dev/null && echo as much as there is"),
    ),
    exchange(
        "volumes with a size",
        ask("POST /volumes/create", {"Name": "small", "DriverOpts": {"size": "x"}}),
        ask("POST /volumes/create", {"Name": "small", "DriverOpts": {"size": "0"}}, show="Options"),
        ask("DELETE /volumes/small"),
        ask("POST /volumes/create", {"Name": "small", "DriverOpts": {"size": "5m", "type": "tmpfs", "device": "tmpfs"}}),
        ask("POST /volumes/create", {"Name": "small", "DriverOpts": {"size": "5m"}}, show="Options",
            ours='201 {"Options": {"size": "5m"}}', why="dockerd limits volumes on xfs and ext4 alone"),
        run("dd if=/dev/zero of=/v/big bs=1M count=20 2>&1 | grep -o 'Disk quota exceeded'", {"Binds": ["small:/v"]},
            ours="0 Disk quota exceeded", why="there, an ordinary volume is made of it"),
        ask("DELETE /volumes/small"),
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def disk(workdir: Path) -> Iterator[Path]:
    with loopdisk.btrfs(workdir / "stores", 1 << 30) as place:
        yield place


@pytest.fixture(scope="module")
def daemon(kind: str, disk: Path, images: dict[str, Image], workdir: Path) -> Iterator[Daemon]:
    """A server on it, with one image."""
    (workdir / "bb.tar").write_bytes(archive({"bb:latest": images["bb"]}))
    flags = ("--storage-driver", "btrfs", *own_bridge(kind, 2))
    server = Daemon(kind, disk / "d", f"zb{os.getpid() % 1000000}", "127.0.0.1:1", flags)
    with server.serving():
        CLI(server.url, workdir / "seed").ok(f"docker load -q -i {workdir}/bb.tar")
        yield server


@pytest.fixture(scope="module")
def cli(daemon: Daemon, workdir: Path) -> CLI:
    return CLI(daemon.url, workdir / "on-btrfs")


@pytest.fixture(scope="module")
def api(daemon: Daemon) -> API:
    return API(daemon.socket)


@pytest.mark.parametrize("subject", EXCHANGES, ids=str)
def test_answers_are_dockerds(
    subject: Exchange, recording: Recording, api: API, names: dict[str, str]
) -> None:
    check(subject, recording, api, {}, names)


def test_changes_and_commit_are_as_on_any_store(cli: CLI, recording: Recording) -> None:
    script = (
        "mkdir /d; echo x >/d/f; chmod 700 /etc; rm /bin/vi; touch /bin/sh; ln -s a /l; "
        "mknod /p p; touch /tmp/t; rm /tmp/t; chown 1:1 /home; mkdir -p /opt/a/b"
    )
    cli.ok(["run", "--name", "c1", "bb", "sh", "-c", script])
    rows = sorted(cli.ok("diff c1").splitlines())
    cli.ok("commit c1 changed:1")
    rows += cli.ok("run --rm changed:1 sh -c 'cat /d/f; stat -c %a /etc; readlink /l; ls /bin/vi || echo gone'").split()  # fmt: skip
    cli.ok("rm c1")
    cli.ok("rmi changed:1")
    if recording.taking:
        recording.put("changes", rows)
    assert rows == recording.get("changes")


def test_a_copy_into_a_full_root_says_so(cli: CLI, tmp_path: Path) -> None:
    cli.ok("create --name c1 --storage-opt size=8m bb true")
    (tmp_path / "big").write_bytes(os.urandom(10 << 20))
    refused = cli(f"cp {tmp_path}/big c1:/")
    assert refused.exit == 1
    assert "quota exceeded" in refused.stderr.lower()


def test_nothing_is_left_of_containers_images_and_volumes(
    cli: CLI, api: API, daemon: Daemon, disk: Path
) -> None:
    def ours() -> list[str]:
        # dockerd keeps halves of refused creations.
        return loopdisk.subvolumes(disk) if daemon.kind == "zonegate" else []

    before = ours()
    cli.ok("run --name c1 -v sized:/v bb sh -c 'echo 1 >/v/f; echo 2 >/f'")
    cli.ok("volume create small -o size=4m" if daemon.kind == "zonegate" else "volume create small")
    cli.ok("commit c1 changed:1")
    cli.ok("create --name c2 --storage-opt size=40m changed:1")
    cli.ok("rm c1 c2")
    cli.ok("rmi changed:1")
    cli.ok("volume rm sized small")
    assert settled(lambda: {path: 1 for path in ours() if path not in before}, 5) == {}


def test_a_killed_server_finds_its_containers_and_drops_what_was_half_made(
    cli: CLI, daemon: Daemon, disk: Path
) -> None:
    if daemon.kind == "dockerd":
        pytest.skip("dockerd was not told to keep containers alive (live-restore)")
    before = loopdisk.subvolumes(disk)
    cli.ok("run -d --name c1 --storage-opt size=30m bb sleep 1000")
    with cli.popen("run --rm bb sleep 1000") as cut:
        daemon.kill()
        cut.wait(20)
    store = daemon.data_root / "btrfs"
    (store / "zones/half").mkdir()
    (store / "zones/half/rootfs").mkdir()
    daemon.start()
    assert cli.ok("exec c1 sh -c 'echo here >/f; cat /f'") == "here"
    assert cli.ok("info -f '{{.Driver}}'") == "btrfs"
    assert not (store / "zones/half").exists()
    for name in cli.ok("ps -aq").split():
        cli.ok(f"rm -f {name}")
    assert settled(
        lambda: {path: 1 for path in loopdisk.subvolumes(disk) if path not in before}, 5
    ) == {}  # fmt: skip


def test_a_data_root_keeps_its_driver(kind: str, workdir: Path) -> None:
    if kind == "dockerd":
        pytest.skip("dockerd hides the images of the other driver")
    server = Daemon(kind, workdir / "kept", "zkept", "", ("--storage-driver", "overlay2"))
    (server.data_root / "btrfs/zones/z").mkdir(parents=True)
    try:
        with pytest.raises(
            AssertionError, match="storage driver btrfs, which overlay2 cannot show"
        ):
            server.start()
    finally:
        server.discard()


def test_doctor_says_what_a_data_root_can_have(kind: str, disk: Path) -> None:
    if kind == "dockerd":
        pytest.skip("dockerd has no doctor")
    argv = [*zonegate_program(), "doctor", "--data-root", str(disk / "new"), "-s", "btrfs"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    expected = "ok    storage driver btrfs (overlay2 can be had here, too); roots and volumes can be limited"
    assert expected in said.splitlines()
    assert not (disk / "new").exists()
