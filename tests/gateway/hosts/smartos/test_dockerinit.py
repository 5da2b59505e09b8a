"""What dockerinit says of a start that failed, in dockerd's words."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.hosts.smartos.dockerinit import (
    CREATE_PREFIX,
    fatal,
    hold_start,
    message,
    start_failure,
)
from gateway.hosts.smartos.local import LocalGlobalZone
from tests.contract.test_global_zone import read_until

HOLD = """
import fcntl, os, pathlib, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
pathlib.Path(sys.argv[2]).write_text('{"customer_metadata": {"theirs": "1"}}')
os.unlink(sys.argv[1])
"""
STAMP = "2026-01-01T00:00:00.000Z "


@pytest.fixture
async def gz() -> AsyncIterator[LocalGlobalZone]:
    async with LocalGlobalZone() as zone:
        yield zone


def write(zonepath: Path, *lines: str) -> None:
    folder = zonepath / "root/var/log"
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{STAMP}{line}\n" for line in lines)
    (folder / "sdc-dockerinit.log").write_text(text)


@pytest.mark.parametrize(
    ("code", "text", "shown", "words"),
    [
        (17, "'nothing' not found in PATH", 127, 'exec: "nothing": executable file not found in $PATH'),
        (17, "'it's' not found in PATH", 127, 'exec: "it\'s": executable file not found in $PATH'),
        (25, "stat(/x/y): No such file or directory", 127, 'exec: "/x/y": stat /x/y: no such file or directory'),
        (25, "stat(/x/y): Permission denied", 126, 'exec: "/x/y": stat /x/y: permission denied'),
        (26, "stat(/etc): is a directory", 126, 'exec: "/etc": is a directory: permission denied'),
        (27, "stat(/etc/passwd): is not executable", 126, 'exec: "/etc/passwd": permission denied'),
        (3, "execve(/bin/garbage) failed: Exec format error", 126, "exec /bin/garbage: exec format error"),
        (13, "no command specified on cmdline, argc: 1", 127, 'exec: "": executable file not found in $PATH'),
        (2, "chdir(/etc/passwd) failed: Not a directory", 126, 'chdir to cwd ("/etc/passwd") set in config.json failed: not a directory'),
        (29, "UID is not a number: nobody", 128, "unable to find user nobody: no matching entries in passwd file"),
        (5, "GID is not a number: none", 128, "unable to find group none: no matching entries in group file"),
        (45, "Timed out waiting for attach", 128, "dockerinit: Timed out waiting for attach"),
    ],
)  # fmt: skip
async def test_a_failed_start_has_dockerds_code_and_words(
    gz: LocalGlobalZone, tmp_path: Path, code: int, text: str, shown: int, words: str
) -> None:
    write(tmp_path, "INFO setting up networking", f"FATAL (code: {code}): {text}")
    failed = await start_failure(gz, str(tmp_path), code)
    if words.startswith("unable to find"):  # what dockerd says before it asks its runtime
        assert failed == (shown, words)
    else:
        assert failed == (shown, f"{CREATE_PREFIX}{words}")


async def test_a_wait_is_noted_under_vmadms_lock(gz: LocalGlobalZone, tmp_path: Path) -> None:
    zonepath = tmp_path / "zones/1f1b6d3e"
    (zonepath / "config").mkdir(parents=True)
    (tmp_path / "var/run").mkdir(parents=True)
    metadata = zonepath / "config/metadata.json"
    metadata.write_text("{}")
    holder = await gz.spawn(
        [
            sys.executable,
            "-c",
            HOLD,
            f"{tmp_path}/var/run/vm.1f1b6d3e.config.lockfile",
            str(metadata),
        ],
        stdin=True,
    )
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        await read_until(holder, b"held\n")
        work = group.create_task(hold_start(gz, str(zonepath), 12345))
        await asyncio.wait([work], timeout=0.2)
        assert not work.done()
        await holder.close_input()  # it writes, and takes the file away as it lets go
        await work
    await holder.close()
    assert json.loads(metadata.read_text()) == {
        "customer_metadata": {"theirs": "1"},
        "internal_metadata": {"docker:wait_for_attach": "12345"},
    }


async def test_an_abort_is_signal_6(gz: LocalGlobalZone, tmp_path: Path) -> None:
    write(tmp_path, "FATAL (code: 1): failed to get metadata for 'x': unknown error")
    failed = await start_failure(gz, str(tmp_path), -6)
    assert failed is not None
    assert failed[0] == 128
    assert await start_failure(gz, str(tmp_path), 1) is None


async def test_a_command_may_end_with_the_same_code(gz: LocalGlobalZone, tmp_path: Path) -> None:
    assert await start_failure(gz, str(tmp_path), 17) is None
    write(tmp_path, "EXEC /bin/false")
    assert await start_failure(gz, str(tmp_path), 17) is None
    write(tmp_path, "FATAL (code: 25): stat(/x): No such file or directory")
    assert await start_failure(gz, str(tmp_path), 17) is None
    assert await start_failure(gz, str(tmp_path), 0) is None
    assert await start_failure(gz, str(tmp_path), -9) is None


@pytest.mark.parametrize("link", ["var", "var/log", "var/log/sdc-dockerinit.log"])
async def test_links_of_the_image_are_not_followed(
    gz: LocalGlobalZone, tmp_path: Path, link: str
) -> None:
    zonepath, other = tmp_path / "zone", tmp_path / "other"
    write(other, "FATAL (code: 17): 'x' not found in PATH")
    (zonepath / "root" / link).parent.mkdir(parents=True)
    (zonepath / "root" / link).symlink_to(other / "root" / link)
    assert await start_failure(gz, str(zonepath), 17) is None


async def test_only_the_end_of_a_long_log_is_read(gz: LocalGlobalZone, tmp_path: Path) -> None:
    write(tmp_path, *["ENV[0] " + "x" * 1000] * 50, "FATAL (code: 17): 'x' not found in PATH")
    failed = await start_failure(gz, str(tmp_path), 17)
    assert failed is not None
    assert failed[0] == 127


def test_lines_have_a_time_before_them() -> None:
    assert message(f"{STAMP}EXEC\r\n") == "EXEC"
    assert message("EXEC") is None
    assert fatal(f"{STAMP}FATAL (code: 17): a: b") == (17, "a: b")
    assert fatal("FATAL (code: 17): a") is None
