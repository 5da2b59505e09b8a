"""The fake nictagadm, dladm, ipadm and ipnat: what the real ones refuse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.globalzone import datalinks
from tests.fakes.globalzone.process import FakeGZ, start

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def gz(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGZ]:
    machine = start(tmp_path_factory.mktemp("gz"))
    yield machine
    machine.stop()


def refused(gz: FakeGZ, *argv: str, stdin: str = "", code: int = 1) -> str:
    done = gz.run(*argv, stdin=stdin)
    assert done.returncode == code, done
    return done.stderr


def done(gz: FakeGZ, *argv: str, stdin: str = "") -> str:
    found = gz.run(*argv, stdin=stdin)
    assert found.returncode == 0, found
    return found.stdout


def test_names_of_etherstubs_end_with_a_digit(gz: FakeGZ) -> None:
    for name in ("stub", "st-ub0", f"{'s' * 31}0", "external.0"):
        assert "nic tag name is invalid" in refused(gz, "nictagadm", "add", "-l", name)
    assert "no mac address specified" in refused(gz, "nictagadm", "add", "dmz")
    assert "No physical nic" in refused(gz, "nictagadm", "add", "dmz", "00:0c:29:00:00:99")
    assert "Usage" in refused(gz, "nictagadm", "forget", code=2)
    done(gz, "nictagadm", "add", "-p", "mac=0:c:29:0:0:1,mtu=9000", "dmz")
    assert "dmz,00:0c:29:00:00:01,e1000g0,normal" in done(gz, "nictagadm", "list", "-p", "-d", ",")
    assert refused(gz, "nictagadm", "exists", "-l", "dmz", "nowhere") == "nowhere\n"
    done(gz, "nictagadm", "delete", "dmz")
    assert "'dmz' does not exist" in refused(gz, "nictagadm", "delete", "dmz")


def test_what_is_on_an_etherstub_keeps_it(gz: FakeGZ) -> None:
    done(gz, "nictagadm", "add", "-l", "stub_0")
    assert "already exists" in refused(gz, "nictagadm", "add", "-l", "stub_0")
    assert "read-only" in refused(gz, "dladm", "create-vnic", "-l", "stub_0", "own0")
    assert "invalid link name" in refused(
        gz, "dladm", "create-vnic", "-t", "-l", "stub_0", "own007"
    )
    assert "invalid link name" in refused(gz, "dladm", "create-vnic", "-t", "-l", "none0", "own0")
    done(gz, "dladm", "create-vnic", "-t", "-l", "stub_0", "own0")
    assert "link busy" in refused(gz, "nictagadm", "delete", "stub_0")
    done(gz, "ipadm", "create-if", "-t", "own0")
    assert "link busy" in refused(gz, "dladm", "delete-vnic", "-t", "own0")
    done(gz, "ipadm", "delete-if", "own0")
    done(gz, "dladm", "delete-vnic", "-t", "own0")
    done(gz, "nictagadm", "delete", "stub_0")


def test_an_address_is_there_once(gz: FakeGZ) -> None:
    done(gz, "nictagadm", "add", "-l", "stub_0")
    done(gz, "dladm", "create-vnic", "-t", "-l", "stub_0", "own0")
    static = ("create-addr", "-t", "-T", "static", "-a", "172.30.0.1/24")
    assert "does not exist" in refused(gz, "ipadm", *static, "own0/v4")
    done(gz, "ipadm", "create-if", "-t", "own0")
    done(gz, "ipadm", *static, "own0/v4")
    assert "object already exists" in refused(gz, "ipadm", *static, "own0/v4")
    assert "Address already exists" in refused(gz, "ipadm", *static, "own0/v5")
    datalinks.reboot(gz.root)
    assert "own0" not in done(gz, "ipadm", "show-addr", "-p", "-o", "addrobj,addr")
    assert "stub_0" in done(gz, "nictagadm", "list"), "this outlives a reboot"
    done(gz, "nictagadm", "delete", "stub_0")


def test_a_map_rule_is_there_once_and_can_be_taken_away(gz: FakeGZ) -> None:
    rule = "map e1000g0 172.30.0.0/24 -> 0/32 portmap tcp/udp auto\n"
    done(gz, "ipnat", "-f", "-", stdin=rule)
    assert "File exists" in refused(gz, "ipnat", "-f", "-", stdin=rule)
    assert "-> 0.0.0.0/32 portmap" in done(gz, "ipnat", "-l")
    done(gz, "ipnat", "-r", "-f", "-", stdin=rule)
    assert "No such process" in refused(gz, "ipnat", "-r", "-f", "-", stdin=rule)
    assert "syntax error" in refused(gz, "ipnat", "-f", "-", stdin="map it all\n")
