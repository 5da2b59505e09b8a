"""Mounts as the container sees them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.clients import API, CLI, frames
from compat.daemons import Daemon
from compat.leftovers import new, settled, snapshot


def output(api: API, script: str, host: dict[str, object]) -> str:
    """What `script` prints in a container with this HostConfig."""
    body = {"Image": "bb", "Cmd": ["sh", "-c", script], "HostConfig": host}
    name = api.ok("POST", "/containers/create", body)["Id"]
    api.ok("POST", f"/containers/{name}/start")
    api.ok("POST", f"/containers/{name}/wait")
    return b"".join(
        frames(api("GET", f"/containers/{name}/logs?stdout=1&stderr=1").body).values()
    ).decode()


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """A folder with another mount below it."""
    (tmp_path / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "below", tmp_path / "below"], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path / "below"], check=True)


def test_a_file_is_mounted_read_only(cli: CLI, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    assert cli.ok(f"run --rm -v {tmp_path}/file:/m:ro bb cat /m") == "content"
    refused = cli(["run", "--rm", "-v", f"{tmp_path}/file:/m:ro", "bb", "sh", "-c", "echo > /m"])
    assert "Read-only file system" in refused.stderr


NO_PROPAGATION = pytest.mark.linux_only("loopback mounts have no propagation: refused with 501")


@pytest.mark.parametrize(
    ("alone", "seen"),
    [
        pytest.param(
            True,
            "1",
            marks=pytest.mark.linux_only("a loopback mount shows what is below: refused with 501"),
        ),
        (False, "2"),
    ],
)
def test_a_bind_takes_what_is_below_it_or_not(
    api: API, nested: Path, alone: bool, seen: str
) -> None:
    mount = {"Type": "bind", "Source": str(nested), "Target": "/m"}
    options = {"BindOptions": {"NonRecursive": alone}}
    script = "grep -c ' /m' /proc/self/mountinfo"
    assert output(api, script, {"Mounts": [mount | options]}).strip() == seen


def test_what_the_sources_mount_forbids_is_forbidden_inside(api: API, tmp_path: Path) -> None:
    """crun 1.8 would bind it without."""
    options = "ro,nosuid,nodev,noexec"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "strict", tmp_path], check=True)
    try:
        found = output(api, "grep ' /m ' /proc/mounts", {"Binds": [f"{tmp_path}:/m"]})
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert set(options.split(",")) <= set(found.split()[3].split(","))


def test_what_programs_look_for_is_there(api: API) -> None:
    said = output(api, "readlink /etc/mtab; ls /.dockerenv; df / | tail -1 | cut -d' ' -f1", {})
    assert said.split() == ["/proc/mounts", "/.dockerenv", "overlay"]


@pytest.mark.linux_only(
    "what is mounted below a loopback mount stays writable: forcing it is refused with 501"
)
@pytest.mark.parametrize(
    ("version", "options", "said"),
    [
        ("/v1.51", {}, "no no"),
        ("/v1.51", {"ReadOnlyForceRecursive": True}, "no no"),
        ("/v1.51", {"ReadOnlyNonRecursive": True}, "no yes"),
        ("/v1.43", {}, "no yes"),
    ],
)
def test_a_bind_is_read_only_to_its_depths_from_1_44_on(
    api: API, nested: Path, version: str, options: dict[str, bool], said: str
) -> None:
    mount = {"Type": "bind", "Source": str(nested), "Target": "/m", "ReadOnly": True}
    script = "for at in /m /m/below; do touch $at/new 2>/dev/null && echo yes || echo no; done"
    wanted = API(api.path, version)
    assert (
        output(wanted, script, {"Mounts": [mount | {"BindOptions": options}]}).split()
        == said.split()
    )


@NO_PROPAGATION
@pytest.mark.parametrize(
    ("word", "wanted"),
    [("rslave", "shared or slave"), ("rshared", "shared"), ("slave", "shared or slave")],
)
def test_mounts_are_passed_on_only_from_where_they_can_be(
    cli: CLI, nested: Path, word: str, wanted: str
) -> None:
    below = nested / "below"
    subprocess.run(["mount", "--make-private", below], check=True)
    refused = cli(f"run --rm -v {below}:/m:{word} bb true")
    assert f"path {below} is mounted on {below} but it is not a {wanted} mount" in refused.stderr
    assert refused.exit == 125


@NO_PROPAGATION
def test_a_mount_made_later_is_seen_inside(cli: CLI, nested: Path) -> None:
    below = nested / "below"
    subprocess.run(["mount", "--make-shared", below], check=True)
    name = cli.ok(f"run -d -v {below}:/m:rslave bb sleep 1000")
    (below / "later").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "later", below / "later"], check=True)
    try:
        assert cli.ok(f"exec {name} grep -c /m/later /proc/self/mountinfo") == "1"
    finally:
        subprocess.run(["umount", below / "later"], check=True)


@NO_PROPAGATION
def test_a_mount_made_inside_is_seen_on_the_host(cli: CLI, nested: Path) -> None:
    below = nested / "below"
    subprocess.run(["mount", "--make-shared", below], check=True)
    make = "mkdir /m/inner && mount -t tmpfs inner /m/inner"
    cli.ok(
        [
            "run",
            "--rm",
            "--cap-add",
            "SYS_ADMIN",
            "-v",
            f"{below}:/m:rshared",
            "bb",
            "sh",
            "-c",
            make,
        ]
    )
    assert f" {below}/inner " in Path("/proc/self/mountinfo").read_text()
    subprocess.run(["umount", below / "inner"], check=True)


@pytest.mark.linux_only("no zone joins another's IPC namespace: refused with 501")
def test_memory_is_shared_by_who_may_join(cli: CLI, daemon: Daemon) -> None:
    before = snapshot(daemon)
    cli.ok("run -d --name owner --ipc shareable --shm-size 1m bb sleep 1000")
    cli.ok("run --rm --ipc container:owner bb sh -c 'echo said > /dev/shm/file'")
    assert cli.ok("exec owner cat /dev/shm/file") == "said"
    cli.ok("run -d --name other bb sleep 1000")
    refused = cli("run --rm --ipc container:other bb true")
    assert (
        "non-shareable IPC (hint: use IpcMode:shareable for the donor container)" in refused.stderr
    )
    cli.ok("restart -t 0 owner")
    assert cli.ok("exec owner ls /dev/shm") == ""
    cli.ok("rm -f owner other")
    assert settled(lambda: new(before, snapshot(daemon)), 2) == {}
