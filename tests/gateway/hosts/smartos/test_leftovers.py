"""What an earlier gateway left running is known again, and nothing else is touched."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from gateway.hosts.smartos.leftovers import (
    attached,
    creations,
    end_hung,
    is_same,
    orphans,
    processes,
    seconds,
    until_made,
)
from gateway.hosts.smartos.local import LocalGlobalZone

OURS = "0e8ea7f5-3bd0-4b52-a1d7-5b3f3a6d5c01"
OTHER = "0e8ea7f5-3bd0-4b52-a1d7-5b3f3a6d5c02"


@pytest.mark.parametrize(
    ("shown", "argv", "same"),
    [
        ("/usr/sbin/zlogin -Q -I 0ab", ["zlogin", "-Q", "-I", "0ab"], True),
        ("zlogin -Q -I 0ab", ["/usr/sbin/zlogin", "-Q", "-I", "0ab"], True),
        ("/usr/node/bin/node --abort /usr/sbin/vmadm events -j", ["vmadm", "events", "-j"], True),
        ("sh -c trap  '' HUP; while", ["sh", "-c", "trap '' HUP; while :; do done"], True),
        ("zlogin -Q -I 0ac", ["zlogin", "-Q", "-I", "0ab"], False),
        ("/usr/sbin/zlogin -Q -I 0ab extra", ["zlogin", "-Q", "-I", "0ab"], False),
        ("less zlogin", ["cat", "file"], False),
        ("", ["cat"], False),
    ],
)
def test_a_program_is_known_again_by_what_ps_shows(shown: str, argv: list[str], same: bool) -> None:
    assert is_same(shown, argv) is same


def test_only_attached_zlogins_of_our_zones_are_meant() -> None:
    listing = f"""
      1 /sbin/init
     12 zlogin -Q -E -I {OURS}
     13 /usr/sbin/zlogin -Q -E -I -N {OURS}
     14 zlogin -Q -E -I {OTHER}
     15 zlogin -Q {OURS} sh -c sleep 600
     16 zlogin -I {OURS}
     17 zlogin -C {OURS}
     18 grep zlogin -Q -E -I {OURS[:8]}
     19 /usr/bin/python3 -ISs /fakes/bin/zlogin -Q -E -I {OURS}
    """
    assert attached(processes(listing.strip("\n ")), {OURS}) == [12, 13, 19]


def test_times_of_ps_are_read() -> None:
    assert [seconds(text) for text in ("00:07", "03:10", "1:00:00", "2-01:00:01")] == [
        7, 190, 3600, 2 * 86400 + 3601,
    ]  # fmt: skip


def test_only_a_vmadm_that_nobody_waits_for_is_meant() -> None:
    listing = f"""
     10  1 20:00 /usr/node/bin/node --abort_on_uncaught_exception /usr/sbin/vmadm stop {OURS} -t 30
     11  1 00:05 vmadm update {OURS}
     12 99 50:00 vmadm update {OURS}
     13  1 50:00 vmadm update {OTHER}
     14  1 50:00 vmadm get {OURS}
     15  1 50:00 less vmadm
    """
    found = orphans(listing, {OURS}, 600)
    assert [(one.pid, one.age_s, one.left_s) for one in found] == [(10, 1200, -570), (11, 5, 595)]


def test_only_creations_that_nobody_waits_for_are_meant() -> None:
    listing = f"""
      1  0 /sbin/init
     10  1 /usr/node/bin/node --abort_on_uncaught_exception /usr/sbin/vmadm create
     11 16 vmadm create -f /tmp/x.json
     12  1 vmadm get {OURS}
     13  1 /usr/node/bin/node /usr/sbin/imgadm create {OURS}
     14  1 less vmadm
     15 17 vmadm create
     16  2 /usr/lib/ssh/sshd
     17  2 zonegate serve
    """
    assert creations(listing) == {10, 11}


def status(pid: int) -> list[str]:
    """State and parent, "Z" and nobody for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except FileNotFoundError:
        return ["Z", ""]


@pytest.mark.root
async def test_a_vmadm_that_hangs_is_ended_in_its_time(tmp_path: Path) -> None:
    """An orphan as a killed gateway leaves it: its parent has ended, and nobody reads what it says."""
    program = tmp_path / "vmadm"
    program.write_text("#!/bin/sh\nexec 1>&- 2>&-\nwhile :; do sleep 1; done\n")
    program.chmod(0o755)
    async with asyncio.timeout(30), LocalGlobalZone() as gz:
        said = await gz.run(
            ["sh", "-c", f"{program} start {OURS} >/dev/null 2>&1 & echo $!"], timeout_s=10
        )
        pid = int(said)
        if status(pid)[1] != "1":
            os.kill(pid, signal.SIGKILL)
            pytest.skip("orphans have another parent than init here")
        await end_hung(gz, lambda: {OTHER}, 0)
        assert status(pid)[0] != "Z"
        await end_hung(gz, lambda: {OURS}, 0)
        assert status(pid)[0] == "Z"


@pytest.mark.root
async def test_a_creation_of_an_earlier_life_is_waited_for(tmp_path: Path) -> None:
    program = tmp_path / "vmadm"
    program.write_text("#!/bin/sh\nwhile :; do sleep 1; done\n")
    program.chmod(0o755)
    async with asyncio.timeout(30), LocalGlobalZone() as gz, asyncio.TaskGroup() as group:
        said = await gz.run(
            ["sh", "-c", f"{program} create >/dev/null 2>&1 & echo $!"], timeout_s=10
        )
        try:
            await until_made(gz, limit_s=0)
            if status(int(said))[1] != "1":
                pytest.skip("orphans have another parent than init here")
            waiting = group.create_task(until_made(gz))
            await asyncio.wait([waiting], timeout=0.1)
            assert not waiting.done()
        finally:
            os.kill(int(said), signal.SIGKILL)
        await waiting
