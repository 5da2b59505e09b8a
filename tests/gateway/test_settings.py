"""Defaults < TOML file < ZONEGATE_* < flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockerapi.errors import InvalidParameter
from gateway.settings import AddressPool, load


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
