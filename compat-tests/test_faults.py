"""Registries that break, stall, lie or refuse, and clients that send rubbish: a clear answer, and nothing left behind."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.clients import API, CLI
from compat.daemons import Daemon
from compat.fakeregistry import RegistryThread
from compat.images import busybox_layer

from tests.fakes.registry import RATE_LIMIT, FakeRegistry, Fault, layer_tar


@pytest.fixture
def faulty(kind: str) -> Iterator[FakeRegistry]:
    """A registry with library/x: two layers."""
    with RegistryThread() as registry:
        # A layer of its own each time: one that is still here would not be fetched.
        big = layer_tar({"big": secrets.token_bytes(256) * 8000})
        registry.add_image("x", "latest", [busybox_layer(), big])
        yield registry


def datasets(daemon: Daemon) -> set[str]:
    """What stands below the data root, two levels deep."""
    return {
        str(path.relative_to(daemon.data_root))
        for depth in ("*", "*/*")
        for path in daemon.data_root.glob(depth)
    }


def pull(cli: CLI, registry: FakeRegistry) -> tuple[int, str]:
    result = cli(f"pull {registry.host}/x")
    return result.exit, result.stderr


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("/manifests/", status=429, body=RATE_LIMIT, times=99), "toomanyrequests"),
        (Fault("/manifests/", status=500, times=99), ""),
        (
            Fault(
                "/manifests/",
                status=404,
                body={"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]},
                times=99,
            ),
            "manifest unknown",
        ),
        (Fault("/blobs/", flip=True, times=99), ""),
        (Fault("/blobs/", truncate_after=1000, times=99), ""),
        (
            Fault(
                "/blobs/",
                status=404,
                body={"errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown to registry"}]},
                times=99,
            ),
            "",
        ),
        (Fault("/blobs/", status=500, times=99), ""),
    ],
    ids=[
        "rate-limit",
        "server-error",
        "unknown",
        "wrong-bytes",
        "truncated",
        "lost-blob",
        "blob-error",
    ],
)
def test_a_pull_that_fails_says_why_and_leaves_nothing(
    cli: CLI, api: API, daemon: Daemon, faulty: FakeRegistry, fault: Fault, words: str, kind: str
) -> None:
    before = datasets(daemon)
    faulty.faults.append(fault)
    code, text = pull(cli, faulty)
    assert code == 1
    assert words in text
    assert text.strip()
    assert "Traceback" not in text
    assert api("GET", f"/images/{faulty.host}/x/json").status == 404
    if kind == "zonegate":
        left = {
            row for row in datasets(daemon) - before if "partial" not in row and row != "downloads"
        }
        assert not left
    faulty.faults.clear()
    assert pull(cli, faulty)[0] == 0
    assert cli.ok(f"run --rm {faulty.host}/x sh -c 'wc -c < /big'") == "2048000"
    cli.ok(f"rmi {faulty.host}/x")


def test_a_broken_connection_is_resumed(cli: CLI, faulty: FakeRegistry) -> None:
    faulty.faults.append(Fault("/blobs/", break_after=300_000, times=1))
    assert pull(cli, faulty)[0] == 0
    cli.ok(f"rmi {faulty.host}/x")


def test_a_pull_can_be_cut_and_done_again(cli: CLI, api: API, faulty: FakeRegistry) -> None:
    faulty.faults.append(Fault("/blobs/", stall_after=1000, times=99))
    stream = api.stream("POST", f"/images/create?fromImage={faulty.host}/x&tag=latest")
    assert b"Pulling from" in stream.readline()
    api.close()
    faulty.faults.clear()
    with RegistryThread() as other:
        other.add_image("x", "latest", [busybox_layer()])
        assert pull(cli, other)[0] == 0
        cli.ok(f"rmi {other.host}/x")


def test_a_lying_manifest_digest_is_found(cli: CLI, faulty: FakeRegistry) -> None:
    with_digest = f"{faulty.host}/x@sha256:{'0' * 64}"
    assert cli(f"pull {with_digest}").exit == 1


def test_credentials_are_wanted_and_used(cli: CLI, kind: str, tmp_path: Path) -> None:
    with RegistryThread(basic=("me", "secret")) as registry:
        registry.add_image("x", "latest", [busybox_layer()])
        assert cli(f"pull {registry.host}/x").exit == 1
        wrong = cli(f"login -u me --password-stdin {registry.host}", stdin="wrong")
        assert wrong.exit == 1
        assert "nauthorized" in wrong.stderr + wrong.stdout
        right = cli(f"login -u me --password-stdin {registry.host}", stdin="secret")
        assert right.exit == 0, right
        assert cli(f"pull {registry.host}/x").exit == 0
        cli.ok(f"rmi {registry.host}/x")
        cli.ok(f"logout {registry.host}")


def test_a_lone_image_of_another_platform_is_pulled_with_a_warning(
    cli: CLI, faulty: FakeRegistry
) -> None:
    done = cli(f"pull --platform linux/arm64 {faulty.host}/x")
    assert done.exit == 0, done
    assert (
        f"WARNING: image with reference {faulty.host}/x:latest was found but its platform "
        "(linux/amd64) does not match the specified platform (linux/arm64)"
    ) in done.stdout
    cli.ok(f"rmi {faulty.host}/x")


def test_layers_that_are_shared_come_once(cli: CLI, kind: str) -> None:
    with RegistryThread() as registry:
        base = busybox_layer()
        first = registry.add_image("a", "latest", [base, layer_tar({"one": b"1"})])
        registry.add_image("b", "latest", [base, layer_tar({"two": b"2"})])
        cli.ok(f"pull {registry.host}/a")
        out = cli.ok(f"pull {registry.host}/b")
        if kind == "zonegate":  # dockerd has it already, from the baseline
            assert "Already exists" in out
        assert (
            len([row for row in registry.requests(first.layer_digests[0]) if row.method == "GET"])
            <= 1
        )
        cli.ok(f"rmi {registry.host}/a {registry.host}/b")


@pytest.mark.parametrize(
    "data",
    [
        b"rubbish\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: " + b"b" * 300_000 + b"\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: x\r\n\r\n{}",
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /containers/json HTTP/1.1\r\nHost: d\r\nBad Header\r\n\r\n",
        b"POST /containers/x/attach?stream=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=[
        "rubbish",
        "no-target",
        "version",
        "no-host",
        "tls",
        "long-line",
        "long-header",
        "length",
        "two-lengths",
        "chunk",
        "header",
        "negative-length",
    ],
)
def test_malformed_requests_are_refused_and_the_server_lives(api: API, data: bytes) -> None:
    try:
        got = api.raw(data, timeout_s=1, half_close=True)
    except (BrokenPipeError, ConnectionResetError):
        got = b""
    assert got == b"" or got.startswith(b"HTTP/1.")
    assert b" 500 " not in got.split(b"\r\n", 1)[0]
    assert b"Traceback" not in got
    assert api("GET", "=/_ping").body == b"OK"


def test_a_load_of_a_broken_archive_leaves_nothing(
    api: API, daemon: Daemon, baseline: Path, kind: str
) -> None:
    before = datasets(daemon)
    images = {row["Id"] for row in api.ok("GET", "/images/json?all=1")}
    data = bytearray(baseline.read_bytes())
    for name, body in {
        "cut": bytes(data[: len(data) // 2]),
        "empty": b"",
        "text": b"no tar" * 1000,
    }.items():
        answer = api("POST", "/images/load", body, {"Content-Type": "application/x-tar"})
        text = answer.body.decode(errors="replace")
        assert answer.status >= 400 or "error" in text, (name, answer.status, text)
        assert "Traceback" not in text
    assert {row["Id"] for row in api.ok("GET", "/images/json?all=1")} == images
    if kind == "zonegate":
        assert datasets(daemon) == before


def test_a_hostile_archive_stays_in_its_place(api: API, tmp_path: Path) -> None:
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]},
        }
    ).encode()
    manifest = json.dumps(
        [{"Config": "c.json", "RepoTags": ["hostile:1"], "Layers": ["../../../../etc/passwd"]}]
    ).encode()
    for layer in ("../../../../etc/passwd", "/etc/passwd"):
        body = layer_tar(
            {
                "c.json": config,
                "manifest.json": manifest.replace(b"../../../../etc/passwd", layer.encode()),
            }
        )
        answer = api("POST", "/images/load", body, {"Content-Type": "application/x-tar"})
        assert answer.status >= 400 or b"error" in answer.body
        assert b"root:" not in answer.body
    assert api("GET", "/images/hostile:1/json").status == 404
