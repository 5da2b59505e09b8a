import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockerapi.errors import NotSupported
from gateway.hosts.command import Child, Spawner
from gateway.hosts.linux.cgroups import Cgroups

HYBRID = """\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory
34 31 0:31 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
35 31 0:32 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
NONE = "31 23 0:28 / /proc rw,relatime - proc proc rw\n"


def test_the_layout_is_read_from_the_mounts():
    hybrid = Cgroups.detect(HYBRID)
    assert hybrid.layout == "hybrid"
    assert hybrid.version == "1"
    assert [str(path) for path in hybrid.folders("/zonegate/x")] == [
        "/sys/fs/cgroup/cpu/zonegate/x",
        "/sys/fs/cgroup/memory/zonegate/x",
        "/sys/fs/cgroup/systemd/zonegate/x",
        "/sys/fs/cgroup/unified/zonegate/x",
    ]
    assert Cgroups.detect("\n".join(HYBRID.splitlines()[:3])).layout == "v1"
    v2 = Cgroups.detect(V2)
    assert (v2.layout, v2.version) == ("v2", "2")
    with pytest.raises(NotSupported):
        Cgroups.detect(NONE)


@pytest.mark.parametrize(
    ("parent", "expected"), [("", "/zonegate/z"), ("mine", "/mine/z"), ("/a/b/", "/a/b/z")]
)
def test_a_zone_lies_under_its_parent(parent, expected):
    assert Cgroups.detect(V2).path("z", parent) == expected


def test_what_is_read_of_v2_files(tmp_path):
    cgroups = Cgroups("v2", {}, tmp_path)
    zone = tmp_path / "zonegate/z"
    (zone / "below").mkdir(parents=True)
    (zone / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    (zone / "cgroup.procs").write_text("12\n13\n")
    (zone / "below/cgroup.procs").write_text("14\n")
    assert cgroups.is_frozen("/zonegate/z")
    assert cgroups.pids("/zonegate/z") == [12, 13, 14]
    assert cgroups.pids("/zonegate/none") == []


def test_parents_on_v2_pass_their_controllers_on(tmp_path):
    cgroups = Cgroups("v2", {}, tmp_path)
    (tmp_path / "parent").mkdir()
    for folder in (tmp_path, tmp_path / "parent"):
        (folder / "cgroup.controllers").write_text("memory pids\n")
        (folder / "cgroup.subtree_control").write_text("memory\n")
    cgroups.prepare("/parent/z")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+pidsy\n"
    assert (tmp_path / "parent/cgroup.subtree_control").read_text() == "+pidsy\n"
    assert not (tmp_path / "parent/z").exists()


class Zone:
    """A process in a cgroup of its own, made by hand."""

    def __init__(self, cgroups: Cgroups, path: str, child: Child) -> None:
        self.cgroups, self.path, self.child = cgroups, path, child


@pytest.fixture
async def zone() -> AsyncIterator[Zone]:
    cgroups = Cgroups.detect()
    path = f"/zonegate-test-{os.getpid()}/zone"
    spawner = Spawner()
    child = await spawner.spawn(["/bin/sleep", "60"])
    cgroups.prepare(path)
    for folder in cgroups.folders(path):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            for below in (folder.parent, folder):
                if (below / name).exists():
                    (below / name).write_text((below.parent / name).read_text())
        (folder / "cgroup.procs").write_text(str(child.pid))
    yield Zone(cgroups, path, child)
    await cgroups.thaw(path)
    child.kill()
    await child.wait()
    await cgroups.remove(path)
    await cgroups.remove(str(Path(path).parent))
    spawner.close()


@pytest.mark.root
async def test_a_frozen_zone_takes_its_kill_when_it_is_thawed(zone):
    await zone.cgroups.freeze(zone.path)
    assert zone.cgroups.is_frozen(zone.path)
    assert zone.cgroups.pids(zone.path) == [zone.child.pid]
    zone.cgroups.kill(zone.path)
    await zone.cgroups.thaw(zone.path)
    async with asyncio.timeout(5):
        assert await zone.child.wait() == -signal.SIGKILL


@pytest.mark.root
async def test_removing_takes_the_zones_own_cgroups_along_and_waits_for_the_last_process(zone):
    for folder in zone.cgroups.folders(zone.path):
        (folder / "own/deeper").mkdir(parents=True)
    async with asyncio.TaskGroup() as group:
        removal = group.create_task(zone.cgroups.remove(zone.path))
        await asyncio.sleep(0)
        assert not removal.done()
        zone.cgroups.kill(zone.path)
        await zone.child.wait()
    assert removal.result()
    assert not any(folder.exists() for folder in zone.cgroups.folders(zone.path))
    assert await zone.cgroups.remove(zone.path)


@pytest.mark.root
async def test_removing_gives_up_on_a_cgroup_in_use(zone):
    assert not await zone.cgroups.remove(zone.path, timeout_s=0.01)
    assert zone.child.pid in zone.cgroups.pids(zone.path)


@pytest.mark.root
async def test_what_is_gone_is_thawed_and_removed_without_complaint():
    cgroups = Cgroups.detect()
    await cgroups.thaw("/zonegate-test/none")
    assert await cgroups.remove("/zonegate-test/none")
    with pytest.raises(FileNotFoundError):
        await cgroups.freeze("/zonegate-test/none")


def test_the_limits_have_the_names_of_info():
    limits = Cgroups.detect().limits()
    assert {"MemoryLimit", "SwapLimit", "PidsLimit", "CpuCfsQuota", "CPUShares", "CPUSet"} <= set(
        limits
    )
    assert all(isinstance(value, bool) for value in limits.values())


@pytest.mark.parametrize(
    ("parent", "path"),
    [
        ("", "/zonegate/n"),
        ("/", "/zonegate/n"),
        ("/foo/", "/foo/n"),
        ("a/b", "/a/b/n"),
        ("../x", "/x/n"),
        ("/a/../../../b", "/b/n"),
    ],
)
def test_no_parent_leads_out_of_the_tree(parent: str, path: str) -> None:
    assert Cgroups("v1", {}, None).path("n", parent) == path
