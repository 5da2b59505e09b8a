"""`zonegate doctor --backend smartos`, in a global zone and over SSH."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.doctor import examine
from gateway.hosts.checkup import Finding
from gateway.settings import Settings
from tests.fakes import sshd
from tests.fakes.globalzone.process import FakeGZ

pytestmark = pytest.mark.root


@pytest.fixture
def gz(fake: FakeGZ, monkeypatch: pytest.MonkeyPatch) -> FakeGZ:
    for name in ("PATH", "ZONEGATE_FAKE_GZ"):
        monkeypatch.setenv(name, fake.environment[name])
    fake.clear_faults()
    return fake


def with_smartos(settings: Settings, **more: object) -> Settings:
    return settings.model_copy(update={"smartos": settings.smartos.model_copy(update=more)})


def said(findings: list[Finding], text: str) -> Finding:
    matching = [finding for finding in findings if text in finding.text]
    assert len(matching) == 1, findings
    return matching[0]


def fatal(findings: list[Finding]) -> list[str]:
    return [finding.text for finding in findings if finding.fatal and not finding.ok]


async def test_a_machine_that_has_everything_is_fit(gz: FakeGZ) -> None:
    findings = await examine(gz.settings())
    assert fatal(findings) == []
    assert said(findings, "programs:").ok
    assert said(findings, "GiB available").ok
    assert said(findings, "zones, 0 of them of this instance").ok
    assert said(findings, "default network").ok
    assert "SmartOS" in said(findings, "global zone local").text
    assert said(findings, "imgadm ").ok


async def test_the_same_is_found_over_ssh(gz: FakeGZ, tmp_path: Path) -> None:
    server = sshd.start(
        tmp_path / "sshd", {k: gz.environment[k] for k in ("PATH", "ZONEGATE_FAKE_GZ")}
    )
    try:
        settings = with_smartos(
            gz.settings(),
            host=server.url,
            identity_file=server.identity_file,
            known_hosts=server.known_hosts,
        )
        findings = await examine(settings)
    finally:
        server.stop()
    assert fatal(findings) == []
    assert said(findings, f"global zone {server.url}").ok
    assert said(findings, "asyncssh").ok


async def test_a_missing_nic_tag_and_pool_are_fatal(gz: FakeGZ) -> None:
    findings = await examine(with_smartos(gz.settings(), nic_tag="external", zpool="tank"))
    assert any("no nic tag external (there are: admin)" in text for text in fatal(findings))
    assert any(text.startswith("pool tank:") for text in fatal(findings))


async def test_a_gateway_outside_of_its_subnet_is_noted(gz: FakeGZ) -> None:
    findings = await examine(with_smartos(gz.settings(), gateway="192.0.2.1"))
    assert not said(findings, "gateway 192.0.2.1 is not in").ok
    assert fatal(findings) == []


async def test_without_a_subnet_there_is_no_default_network(gz: FakeGZ) -> None:
    findings = await examine(with_smartos(gz.settings(), subnet="", gateway=""))
    assert not said(findings, "no [smartos] subnet").ok
    assert fatal(findings) == []


async def test_a_machine_that_is_no_smartos_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    settings = Settings(backend="smartos", data_root=tmp_path / "data")
    assert any("no SmartOS machine" in text for text in fatal(await examine(settings)))


async def test_a_machine_that_cannot_be_reached_is_told_so(gz: FakeGZ) -> None:
    settings = with_smartos(gz.settings(), host="ssh://root@127.0.0.1:1")
    findings = await examine(settings)
    assert any("cannot reach the global zone" in text for text in fatal(findings))


async def test_a_tool_that_fails_is_told_in_its_words(gz: FakeGZ) -> None:
    gz.fault("vmadm", "lookup", stderr="vminfod is not responding", code=1)
    findings = await examine(gz.settings())
    assert any("vminfod is not responding" in text for text in fatal(findings))
