"""Defaults < TOML file < ZONEGATE_* < flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockerapi.errors import InvalidParameter
from gateway.settings import AddressPool, load, unknown_names


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('bip = "10.1.0.1/16"\nlog-level = "warn"\ngroup = "staff"\n')
    settings = load(
        file=file,
        environment={"ZONEGATE_LOG_LEVEL": "error", "ZONEGATE_GROUP": "wheel", "HOME": "/root"},
        flags={"group": "docker", "name": None},
    )
    assert (settings.bip, settings.log_level, settings.group) == ("10.1.0.1/16", "error", "docker")
    assert settings.name == "zonegate"


def test_lists_in_the_environment_are_separated_by_commas_or_blanks() -> None:
    settings = load(
        file=None,
        environment={
            "ZONEGATE_HOSTS": "unix:///a.sock,tcp://127.0.0.1:1",
            "ZONEGATE_DEFAULT_ADDRESS_POOLS": "base=10.9.0.0/16,size=24 base=10.8.0.0/16,size=26",
        },
        flags={},
    )
    assert settings.hosts == ("unix:///a.sock", "tcp://127.0.0.1:1")
    assert settings.default_address_pools == (
        AddressPool(base="10.9.0.0/16", size=24),
        AddressPool(base="10.8.0.0/16", size=26),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('bipp = "x"\n', "bipp: Extra inputs are not permitted"),
        ('name = "Not A Name"\n', "name: String should match pattern"),
        ("name = \n", "config.toml: Invalid value"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(InvalidParameter, match=message):
        load(file=file, environment={}, flags={})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"cannot read .*nowhere\.toml: No such file"):
        load(file=tmp_path / "nowhere.toml", environment={}, flags={})


def test_the_default_bridge_is_called_after_the_instance() -> None:
    assert load(file=None, environment={}, flags={"name": "blue"}).bridge_name == "blue0"
    assert load(file=None, environment={}, flags={"bridge": "none"}).bridge_name == ""
    assert load(file=None, environment={}, flags={"bridge": "br7"}).bridge_name == "br7"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"labels": ["gold"]}, "labels.0: bad attribute format: gold"),
        ({"dns": ["resolver"]}, "dns.0: 'resolver' does not appear to be"),
        ({"registry_mirrors": ["ftp://x"]}, 'unsupported scheme "ftp" in "ftp://x"'),
        ({"registry_mirrors": ["http://x/?y"]}, "invalid mirror"),
        ({"insecure_registries": ["http://x"]}, "should not contain '://'"),
        ({"insecure_registries": ["10.0.0.0/99"]}, "10.0.0.0/99"),
        ({"insecure_registries": ["##"]}, 'insecure registry ## is not valid: invalid host "##"'),
        ({"bridge": "a-name-that-is-too-long"}, 'bridge: "a-name-that-is-too-long" is no name'),
    ],
)
def test_a_value_that_would_do_nothing_is_refused(
    flags: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid settings: ") as refused:
        load(file=None, environment={}, flags=flags)
    assert message in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    "pool", ["x", "base=10.0.0.300/24,size=26", "base=10.0.0.0/24,size=16", "base=10.0.0.0/8"]
)
def test_a_wrong_address_pool_is_named_on_one_line(pool: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^invalid default address pool {pool}: .+$"):
        AddressPool.parse(pool)


@pytest.mark.parametrize(
    "name", ["registry", "r.example:5000", "10.0.0.1", "[::1]:5000", "::1", "a_b"]
)
def test_insecure_registries_are_hosts_with_or_without_a_port(name: str) -> None:
    settings = load(file=None, environment={}, flags={"insecure_registries": [name]})
    assert settings.insecure_registries == (name,)


def test_misspelt_variables_are_found() -> None:
    environment = {
        "ZONEGATE_LABEL": "a=b",
        "ZONEGATE_LABELS": "a=b",
        "ZONEGATE_SMARTOS_NIC": "x",
        "ZONEGATE_SMARTOS_NIC_TAG": "x",
        "ZONEGATE_ZONE_DEFAULTS": "{}",
        "ZONEGATE_HOME": "/opt/zonegate",
        "HOME": "/root",
    }
    assert unknown_names(environment) == [
        "ZONEGATE_LABEL",
        "ZONEGATE_SMARTOS_NIC",
        "ZONEGATE_ZONE_DEFAULTS",
    ]


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidParameter, match=r"config\.toml: "):
        load(file=file, environment={}, flags={})


def test_relative_folders_are_those_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(file=None, environment={"ZONEGATE_DATA_ROOT": "data"}, flags={"pidfile": "pid"})
    assert settings.data_root == tmp_path / "data"
    assert settings.pidfile == tmp_path / "pid"
