"""`zonegate spec`: the specs that an admin wrote by hand come out again; what comes on top is on a list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway import cli
from gateway.preview import payload as preview
from gateway.settings import Settings, SmartOSSettings
from gateway.translate.run_arguments import parse
from tests.fakes.globalzone.properties import check_create
from tests.fakes.imgapi import FakeImageServer, manifest

ROOT = Path(__file__).parents[2]
HANDWRITTEN = Path(__file__).parent / "payloads" / "handwritten"
NETWORK = """
[smartos]
nic_tag = "admin"
subnet = "10.110.110.0/24"
gateway = "10.110.110.1"
range = "10.110.110.{first}-10.110.110.250"
{more}
"""
DOCKER = (
    'backend = "smartos"\ndns = ["10.10.1.7", "8.8.8.8"]\n'
    + NETWORK.format(first=146, more='interface = "net0"')
    + """
[zone_defaults]
kernel_version = "3.13.0"
max_physical_memory = 256
max_locked_memory = 256
max_swap = 1024
max_lwps = 2000
cpu_cap = 1000
cpu_shares = 1000
zfs_io_priority = 1000
tmpfs = 1024
quota = 7
"""
)
ZONE = 'backend = "smartos"\ndns = ["8.8.8.8", "208.67.220.220"]\n' + NETWORK
MEMORY = '\n[zone_defaults]\nmax_physical_memory = 512\nquota = 10\nkernel_version = "3.16.0"\n'
CASES: dict[str, tuple[str, list[str]]] = {
    "docker-zone": (
        DOCKER,
        ["--image-config", "{folder}/config.json", "--image-uuid", "0be24e0e-04e4-6110-9ea4-dd6264d65cb0",
         "--name", "busybox", "busybox", "/bin/sleep", "300"],
    ),
    "docker-zone by flags": (
        'backend = "smartos"\n'
        + NETWORK.format(first=146, more='interface = "net0"')
        + '[zone_defaults]\nkernel_version = "3.13.0"\n',
        ["--image-config", "{folder}/config.json", "--image-uuid", "0be24e0e-04e4-6110-9ea4-dd6264d65cb0",
         "--name", "busybox", "--dns", "10.10.1.7", "--dns", "8.8.8.8", "-m", "256m", "--memory-swap", "1g",
         "--cpus", "10", "--cpu-shares", "1000", "--blkio-weight", "1000", "--pids-limit", "2000",
         "--storage-opt", "size=7g", "--tmpfs", "/tmp:size=1g", "busybox", "/bin/sleep", "300"],
    ),
    "joyent-zone": (
        ZONE.format(first=142, more="") + MEMORY,
        ["--image-type", "zone-dataset", "--image-uuid", "96bcddda-beb7-11e5-af20-a3fb54c8ae29",
         "--name", "smartosz01", "--hostname", "smartosz01", "images.smartos.org/base-64-lts:15.4.0"],
    ),
    "lx-zone": (
        ZONE.format(first=145, more="") + MEMORY,
        ["--image-type", "lx-dataset", "--image-uuid", "1adf7176-8679-11e5-9ff7-3beedf8060b9",
         "--name", "debianz01", "--hostname", "debianz01", "images.smartos.org/debian-7"],
    ),
}  # fmt: skip


def printed(
    settings: str, arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    """What `zonegate spec` prints with these settings in a file."""
    (folder / "settings.toml").write_text(f'data_root = "{folder}/data"\n{settings}')
    (folder / "config.json").write_text('{"os": "linux", "config": {"Cmd": ["sh"]}}')
    words = [word.replace("{folder}", str(folder)) for word in arguments]
    with pytest.raises(SystemExit) as caught:
        cli.main(["spec", "--config", str(folder / "settings.toml"), *words])
    out, err = capsys.readouterr()
    assert (caught.value.code, err) == (0, "")
    payload: dict[str, Any] = json.loads(out)
    assert check_create(payload) == []
    return payload


@pytest.fixture
def described() -> frozenset[str]:
    """The keys that docs/zone-spec.md says come on top."""
    text = (ROOT / "docs" / "zone-spec.md").read_text()
    section = text.partition("These come on top")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return frozenset(key for cell in cells for key in re.findall(r"`([^`]+)`", cell))


def extra(own: Mapping[str, Any], hand: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Keys of `own` that `hand` has not; a value that is another is an error."""
    for key, value in own.items():
        name = f"{path}{key}"
        match value, hand.get(key):
            case dict(), dict() | None:
                yield from extra(value, hand.get(key) or {}, f"{name}.")
            case [dict(), *_], [dict(), *_] as items:
                assert len(value) == len(items)
                for one, other in zip(value, items, strict=True):
                    yield from extra(one, other, f"{name}.*.")
            case _:
                if key in hand:
                    assert hand[key] == value, name
                else:
                    yield name


def missing(own: Any, hand: Any) -> bool:
    """Whether `hand` has a key that `own` has not."""
    match hand:
        case dict():
            return any(key not in own or missing(own[key], value) for key, value in hand.items())
        case [dict(), *_]:
            return any(missing(one, other) for one, other in zip(own, hand, strict=True))
    return False


@pytest.mark.parametrize("name", CASES)
def test_a_spec_written_by_hand_comes_out_again(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], described: frozenset[str]
) -> None:
    hand = json.loads((HANDWRITTEN / f"{name.partition(' ')[0]}.json").read_text())
    own = printed(*CASES[name], tmp_path, capsys)
    assert not missing(own, hand)
    assert set(extra(own, hand)) <= described


def test_the_list_of_what_comes_on_top_has_nothing_that_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], described: frozenset[str]
) -> None:
    found: set[str] = set()
    for name, case in CASES.items():
        hand = json.loads((HANDWRITTEN / f"{name.partition(' ')[0]}.json").read_text())
        found |= set(extra(printed(*case, tmp_path, capsys), hand))
    assert found == described


def test_a_manifest_of_an_image_says_what_the_zone_will_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, brand in (("zone-dataset", "joyent"), ("lx-dataset", "lx"), ("zvol", "bhyve")):
        own = manifest("some", "1.0", type=kind, image_size=10240)
        for form in (own, {"manifest": own, "zpool": "zones"}):
            (tmp_path / "manifest.json").write_text(json.dumps(form))
            shown = printed(
                ZONE.format(first=2, more=""),
                ["--image-manifest", "{folder}/manifest.json", "some"],
                tmp_path,
                capsys,
            )
            assert shown["brand"] == brand
            assert own["uuid"] in (
                shown.get("image_uuid"),
                shown.get("disks", [{}])[0].get("image_uuid"),
            )


async def test_an_image_server_is_asked_for_an_image_that_is_not_here(tmp_path: Path) -> None:
    async with FakeImageServer.serve() as server:
        image = server.add("base-64-lts", "15.4.0")
        settings = Settings(
            backend="smartos",
            data_root=tmp_path,
            smartos=SmartOSSettings(image_servers=(server.url,)),
        )
        for name in (f"{server.authority}/base-64-lts:15.4.0", image["uuid"]):
            request = parse(["--network", "none", name], read_file=str, environment={})
            shown = await preview(settings, request, image_config=None, image_uuid=None, uuid=None)
            assert (shown["brand"], shown["image_uuid"]) == ("joyent", image["uuid"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image-type", "tape", "x"], "tape is none of docker"),
        (["--image-type", "zvol", "x"], "needs --image-uuid"),
        (["--image-manifest", "{folder}/config.json", "x"], "a manifest of an image of type"),
        (["--image-type", "zvol", "--image-uuid", "X", "x"], "is not a UUID"),
        (["--image-config", "{folder}/config.json", "x"], "set smartos.subnet"),
    ],
)
def test_what_cannot_be_shown_says_why(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"os": "linux", "config": {"Cmd": ["sh"]}}')
    given = [word.replace("{folder}", str(tmp_path)) for word in arguments]
    with pytest.raises(SystemExit) as caught:
        cli.main(["spec", "--backend", "smartos", "--data-root", str(tmp_path / "data"), *given])
    assert caught.value.code == 1
    assert words in capsys.readouterr().err


def test_the_next_address_is_the_one_that_a_gateway_would_lease(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "data" / "networks"
    state.mkdir(parents=True)
    own = "ab" * 32
    (state / "networks.json").write_text(json.dumps({"predefined": {"bridge": {"id": own}}}))
    leases = {own: {"next": "10.110.110.144", "leases": {"10.110.110.144": "x"}}}
    (state / "leases.json").write_text(json.dumps(leases))
    shown = printed(*CASES["joyent-zone"], tmp_path, capsys)
    assert shown["nics"][0]["ip"] == "10.110.110.145"
    assert shown["nics"][0]["network_uuid"] == "abababab-abab-abab-abab-abababababab"
