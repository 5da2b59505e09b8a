"""The kernel's counters, from files as kernels write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.hosts.linux import counters
from gateway.hosts.linux.cgroups import Cgroups
from gateway.zones.host import InterfaceCounters

DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    1438      17    1    2    0     0          0         0       42       3    4    5    0     0       0          0
"""


def files(folder: Path, **content: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_interfaces_are_counted_but_the_loopback() -> None:
    assert counters.interfaces(DEV) == {"eth0": InterfaceCounters(1438, 17, 1, 2, 42, 3, 4, 5)}


def test_v1_trees_give_nanoseconds_and_bytes(tmp_path: Path) -> None:
    files(tmp_path / "cpu/z", cpuacct__usage="5000\n", cpuacct__stat="user 2\nsystem 3\n",
          cpuacct__usage_percpu="2000 3000 \n",
          cpu__stat="nr_periods 4\nnr_throttled 1\nthrottled_time 9\n")  # fmt: skip
    files(tmp_path / "memory/z", memory__usage_in_bytes="4096\n", memory__limit_in_bytes="8192\n",
          memory__max_usage_in_bytes="5000\n", memory__failcnt="2\n",
          memory__stat="cache 1\ninactive_file 2\n")  # fmt: skip
    files(tmp_path / "pids/z", pids__current="3\n", pids__max="max\n")
    trees = {"cpu": "cpu", "cpuacct": "cpu", "memory": "memory", "pids": "pids"}
    found = counters.sample(
        Cgroups("v1", {name: tmp_path / tree for name, tree in trees.items()}, None),
        "/z",
        1,
        network=False,
    )
    assert (found.cpu_total_ns, found.cpu_user_ns) == (5000, 20_000_000)
    assert found.per_cpu_ns == (2000, 3000)
    assert (found.periods, found.throttled_periods, found.throttled_ns) == (4, 1, 9)
    assert (found.memory_usage, found.memory_limit, found.memory_failures) == (4096, 8192, 2)
    assert found.memory["inactive_file"] == 2
    assert (found.pids, found.pids_limit) == (3, None)
    assert found.networks is None
    assert found.online_cpus >= 1


def test_v2_trees_give_the_same(tmp_path: Path) -> None:
    files(tmp_path / "z", cpu__stat="usage_usec 5\nuser_usec 2\nsystem_usec 3\n",
          memory__current="4096\n", memory__max="max\n", memory__stat="anon 7\n",
          pids__current="1\n", pids__max="10\n",
          io__stat="8:0 rbytes=4096 wbytes=1 rios=2 wios=3\n")  # fmt: skip
    found = counters.sample(Cgroups("v2", {}, tmp_path), "/z", 1, network=False)
    assert (found.cpu_total_ns, found.cpu_system_ns) == (5000, 3000)
    assert found.memory_usage == 4096
    assert found.memory_limit is not None
    assert found.memory_limit > 1 << 20  # no limit is the machine's memory
    assert found.pids_limit == 10
    read, written = found.blocks["io_service_bytes_recursive"]
    assert (read.major, read.op, read.value, written.value) == (8, "read", 4096, 1)


def test_a_zone_that_has_gone_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        counters.sample(Cgroups("v2", {}, tmp_path), "/z", 1, network=False)
