"""What a compose file may say of services, networks and volumes, all of it: the containers made are those that dockerd makes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compat.answers import Recording, normal
from compat.clients import API, CLI
from compat.compose import plug_in

FILE = Path(__file__).with_name("application") / "fields.yaml"
OWN = {"Id", "Created", "Image", "State", "GraphDriver", "Zone", "LogPath", "HostsPath", "HostnamePath", "ResolvConfPath", "Runtime", "SandboxID", "SandboxKey",
    "IPPrefixLen", "EndpointID", "MaskedPaths", "ReadonlyPaths", "CreatedAt", "Mountpoint", "com.docker.compose.image", "Containers", "ExecIDs"}  # fmt: skip
"""What is the server's or the run's own."""


def kept(value: Any) -> Any:
    """Without what is the server's own, nor where it keeps volumes; lists in an order of their own."""
    if isinstance(value, dict):
        shown = {key: kept(inner) for key, inner in sorted(value.items()) if key not in OWN}
        return shown | ({"Source": ""} if value.get("Type") in ("volume", "image") else {})
    if isinstance(value, list):
        return sorted(map(kept, value), key=lambda row: json.dumps(row, sort_keys=True))
    return value


@pytest.fixture
def compose(cli: CLI, tmp_path: Path) -> Iterator[str]:
    """The command, with the files that the application takes; nothing of it is left."""
    plug_in(cli)
    net = f"10.245.{os.getpid() % 251}"
    (tmp_path / "fields.yaml").write_text(FILE.read_text().replace("NET.", f"{net}."))
    (tmp_path / "whole.conf").write_text("whole\n")
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "here").mkdir()
    command = f"docker compose --progress quiet -f {tmp_path}/fields.yaml"
    yield command
    cli(f"{command} down -v -t 0")


@pytest.mark.linux_only("most of what it says is refused for a zone: test_every_field")
def test_every_field_of_a_file_reaches_the_containers(
    compose: str,
    cli: CLI,
    api: API,
    recording: Recording,
    names: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(cli.env, "ENVY", "green")
    cli.ok(f"{compose} up -d")
    first = cli.ok(f"{compose} ps -aq").split()
    cli.ok(f"{compose} up -d")
    assert sorted(cli.ok(f"{compose} ps -aq").split()) == sorted(first)
    seen: dict[str, Any] = {}
    for id in first:
        row = api.ok("GET", f"/containers/{id}/json")
        seen[row["Name"]] = row
    del seen["/fields-hosted-1"]["Config"]["Hostname"]  # the machine's
    for name in ("fields_default", "fields_one", "two-of-fields"):
        seen[f"network {name}"] = api.ok("GET", f"/networks/{name}")
    for name in ("fields_named", "opted-of-fields"):
        seen[f"volume {name}"] = api.ok("GET", f"/volumes/{name}")
    words = names | {f"10.245.{os.getpid() % 251}": "NET"}
    files = "id; cat /etc/inline.conf /whole /run/secrets/fromfile /run/secrets/envy; stat -c '%A %s %n' /etc/inline.conf /run/secrets/envy; grep ' /t ' /proc/mounts | cut -d' ' -f2-3; grep -c ' /here ' /proc/mounts"
    seen["files"] = cli.ok([*compose.split(), "exec", "-T", "files", "sh", "-c", files])
    answer = {
        name: kept(json.loads(normal(json.dumps(row), words))) for name, row in sorted(seen.items())
    }
    if recording.taking:
        recording.put("every field", answer)
        return
    expected = recording.get("every field")
    assert sorted(answer) == sorted(expected)
    for name, row in answer.items():
        assert json.dumps(row, indent=1).split("\n") == json.dumps(expected[name], indent=1).split(
            "\n"
        ), name
