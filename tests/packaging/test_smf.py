"""The SMF manifest and its method: well-formed, in the order that the DTD asks for, and doing what they say.

There is no SMF here: what svccfg itself says of the manifest is not tried.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess  # noqa: TID251 - the method is a script
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gateway.settings import load

SMF = Path(__file__).resolve().parents[2] / "packaging" / "smf"
DEADLINE_S = 20.0

CHILDREN = {
    "service_bundle": ("service",),
    "service": (
        "create_default_instance",
        "single_instance",
        "restarter",
        "dependency",
        "dependent",
        "method_context",
        "exec_method",
        "property_group",
        "instance",
        "stability",
        "template",
    ),
    "dependency": ("service_fmri", "stability", "propval", "property"),
    "method_context": ("method_profile", "method_credential", "method_environment"),
    "method_environment": ("envvar",),
    "exec_method": ("method_context", "stability", "propval", "property"),
    "property_group": ("stability", "propval", "property"),
    "template": ("common_name", "description", "documentation", "pg_pattern"),
    "common_name": ("loctext",),
    "documentation": ("manpage", "doc_link"),
}
"""service_bundle.dtd.1: what an element may hold, in this order."""


@pytest.fixture(scope="module")
def service() -> ElementTree.Element:
    bundle = ElementTree.parse(SMF / "zonegate.xml").getroot()
    assert bundle.attrib == {"type": "manifest", "name": "zonegate"}
    found = bundle.find("service")
    assert found is not None
    return found


def test_the_manifest_is_well_formed() -> None:
    xmllint = shutil.which("xmllint")
    if xmllint is None:
        pytest.skip("xmllint is not installed")
    subprocess.run([xmllint, "--noout", "--nonet", str(SMF / "zonegate.xml")], check=True)


def test_elements_come_in_the_order_of_the_dtd() -> None:
    for element in ElementTree.parse(SMF / "zonegate.xml").getroot().iter():
        order = CHILDREN.get(element.tag, ())
        places = [order.index(child.tag) for child in element]
        assert places == sorted(places), element.tag


def test_the_service_has_its_name_and_is_enabled_at_every_boot(
    service: ElementTree.Element,
) -> None:
    assert service.attrib == {"name": "application/zonegate", "type": "service", "version": "1"}
    default = service.find("create_default_instance")
    assert default is not None
    assert default.get("enabled") == "true"


def test_the_process_is_the_service(service: ElementTree.Element) -> None:
    values = {item.get("name"): item.get("value") for item in service.iter("propval")}
    assert values == {"duration": "child", "ignore_error": "core,signal"}


def test_methods_lie_where_the_guide_puts_them(service: ElementTree.Element) -> None:
    methods = {item.get("name"): item.get("exec") for item in service.findall("exec_method")}
    assert methods == {
        "start": "/opt/zonegate/share/smf/zonegate start",
        "stop": "/opt/zonegate/share/smf/zonegate stop",
    }
    paths = [item.get("value") or "" for item in service.iter("service_fmri")]
    assert "file://localhost/opt/zonegate/etc/config.toml" in paths
    guide = (SMF.parents[1] / "docs" / "smartos.md").read_text()
    for place in ("/opt/zonegate/share/smf", "/opt/zonegate/etc/config.toml", "/opt/custom/smf"):
        assert place in guide


def test_the_example_configuration_is_accepted() -> None:
    settings = load(file=SMF / "config.toml", environment={}, flags={})
    assert settings.backend == "smartos"
    assert settings.smartos.subnet == "192.0.2.0/24"
    assert tomllib.loads((SMF / "config.toml").read_text())["smartos"]["zpool"] == "zones"


# -- the method ------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home whose `zonegate` says what it was called with, and stays until SIGTERM."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "config.toml").touch()
    program = tmp_path / "venv" / "bin" / "zonegate"
    program.parent.mkdir(parents=True)
    os.mkfifo(tmp_path / "called")
    program.write_text(
        "#!/bin/sh\n"
        f"trap 'echo over >{tmp_path}/over; exit 0' TERM\n"
        f"echo $$ >{tmp_path}/pid\n"
        f'echo "$@" >{tmp_path}/called\n'
        "while :; do sleep 0.1; done\n"
    )
    program.chmod(0o755)
    include = tmp_path / "smf_include.sh"
    include.write_text("SMF_EXIT_OK=0\nSMF_EXIT_ERR_CONFIG=96\n")
    return os.environ | {
        "ZONEGATE_HOME": str(tmp_path),
        "SMF_INCLUDE": str(include),
        "ZONEGATE_PIDFILE": str(tmp_path / "pid"),
    }


def _method(word: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(SMF / "zonegate"), word],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_start_becomes_the_gateway_and_stop_ends_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with subprocess.Popen(["/bin/sh", str(SMF / "zonegate"), "start"], env=environment) as started:
        try:
            called = (tmp_path / "called").read_text()
            assert int((tmp_path / "pid").read_text()) == started.pid
            assert called.split() == [
                *("serve", "--backend", "smartos"),
                *("--config", f"{tmp_path}/etc/config.toml", "--pidfile", f"{tmp_path}/pid"),
            ]
            # Its parent is this test, which has to take it in for it to be gone.
            stopping = subprocess.Popen(["/bin/sh", str(SMF / "zonegate"), "stop"], env=environment)
            assert started.wait(DEADLINE_S) == 0
            assert stopping.wait(DEADLINE_S) == 0
            assert (tmp_path / "over").exists()
        finally:
            started.kill()


def test_stop_is_content_when_nothing_runs(environment: dict[str, str], tmp_path: Path) -> None:
    assert _method("stop", environment).returncode == 0
    with subprocess.Popen(["/bin/true"]) as ended:
        ended.wait(DEADLINE_S)
    (tmp_path / "pid").write_text(f"{ended.pid}\n")
    assert _method("stop", environment).returncode == 0


def test_a_gateway_that_does_not_end_is_killed(environment: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "deaf")
    script = f"trap '' TERM; echo >{tmp_path}/deaf; exec sleep 600"
    with subprocess.Popen(["/bin/sh", "-c", script]) as stuck:
        try:
            (tmp_path / "deaf").read_text()
            (tmp_path / "pid").write_text(f"{stuck.pid}\n")
            with subprocess.Popen(
                ["/bin/sh", str(SMF / "zonegate"), "stop"],
                env=environment | {"ZONEGATE_STOP_S": "0"},
            ) as stopping:
                assert stuck.wait(DEADLINE_S) == -signal.SIGKILL
                assert stopping.wait(DEADLINE_S) == 0
        finally:
            stuck.kill()


@pytest.mark.parametrize("missing", ["etc/config.toml", "venv/bin/zonegate"])
def test_what_is_missing_puts_the_service_into_maintenance(
    environment: dict[str, str], tmp_path: Path, missing: str
) -> None:
    (tmp_path / missing).unlink()
    done = _method("start", environment)
    assert done.returncode == 96
    assert missing in done.stdout


def test_another_word_is_refused(environment: dict[str, str]) -> None:
    assert _method("restart", environment).returncode == 96
