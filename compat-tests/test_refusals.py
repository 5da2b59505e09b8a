"""What a pull and `docker manifest inspect` say of registries that refuse: the same words as dockerd 28.5.2, row by row.

The words stand here and hold for both servers (`--daemon dockerd`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from compat.clients import API
from compat.fakeregistry import RegistryThread

from tests.fakes.registry import FakeRegistry, Fault, layer_tar

TAR = layer_tar({"a": b"a"})


def stated(code: str, message: str) -> dict[str, Any]:
    """A registry's own error; with a detail, as registries have it."""
    return {"errors": [{"code": code, "message": message, "detail": {"of": "it"}}]}


# fault of a manifest: status, body -> status and message of a pull, and of GET /distribution
OF_MANIFESTS = {
    "unauthorized": (
        (401, stated("UNAUTHORIZED", "who are you")),
        (401, "unauthorized: who are you"),
        (401, "unauthorized: who are you"),
    ),
    "denied": (
        (403, stated("DENIED", "not for you")),
        (
            404,
            "pull access denied for {x}, repository does not exist or may require 'docker login': denied: not for you",
        ),
        (403, "denied: not for you"),
    ),
    "the Hub's limit": (
        (429, stated("TOOMANYREQUESTS", "You have reached your unauthenticated pull rate limit.")),
        (429, "toomanyrequests: You have reached your unauthenticated pull rate limit."),
        (429, "toomanyrequests: You have reached your unauthenticated pull rate limit."),
    ),
    "a proxy's limit": (
        (429, {"details": "slow down"}),
        (429, "toomanyrequests: slow down"),
        (429, "toomanyrequests: slow down"),
    ),
    "no such tag": (
        (404, stated("MANIFEST_UNKNOWN", "manifest unknown")),
        (404, "manifest for {x}:v not found: manifest unknown: manifest unknown"),
        (404, "manifest unknown: manifest unknown"),
    ),
    "no such repository": (
        (404, stated("NAME_UNKNOWN", "gone")),
        (404, "repository {x} not found: name unknown: gone"),
        (404, "name unknown: gone"),
    ),
    "a code of its own": (
        (400, stated("WEIRD", "odd")),
        (500, "unknown: odd"),
        (500, "unknown: odd"),
    ),
    "a bad day": (
        (500, stated("UNKNOWN", "boom")),
        (500, "received unexpected HTTP status: 500 Internal Server Error"),
        (500, "received unexpected HTTP status: 500 Internal Server Error"),
    ),
    "nobody behind it": (
        (502, b"bad gateway"),
        (500, "received unexpected HTTP status: 502 Bad Gateway"),
        (500, "received unexpected HTTP status: 502 Bad Gateway"),
    ),
}

# fault of a blob -> how the pull ends, in-band
OF_CONFIGS = {
    "denied": (
        (403, stated("DENIED", "no blob for you")),
        "error pulling image configuration: download failed after attempts=1: denied: no blob for you",
    ),
    "missing": (
        (404, stated("BLOB_UNKNOWN", "blob unknown to registry")),
        "error pulling image configuration: download failed after attempts=1: unknown blob",
    ),
}


@pytest.fixture(scope="module")
def refusing() -> Iterator[FakeRegistry]:
    """One that has `x:v`, and refuses what a test wants it to."""
    with RegistryThread() as registry:
        yield registry


def last(body: bytes) -> dict[str, Any]:
    """The last line of a stream."""
    found: dict[str, Any] = json.loads(body.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", OF_MANIFESTS)
def test_a_manifest_that_is_refused(api: API, refusing: FakeRegistry, case: str) -> None:
    (status, body), *expected = OF_MANIFESTS[case]
    refusing.faults[:] = [Fault("/manifests/", times=99, status=status, body=body)]
    name = f"{refusing.host}/x"
    for path, (code, words) in zip(
        (f"POST /images/create?fromImage={name}&tag=v", f"GET /distribution/{name}:v/json"),
        expected,
        strict=True,
    ):
        answer = api(*path.split(" "))
        assert (answer.status, json.loads(answer.body)["message"]) == (code, words.format(x=name))


@pytest.mark.parametrize("case", OF_CONFIGS)
def test_a_config_that_is_refused_ends_a_pull_that_has_begun(
    api: API, refusing: FakeRegistry, case: str
) -> None:
    (status, body), words = OF_CONFIGS[case]
    refusing.faults.clear()
    image = refusing.add_image("refused", "v", [TAR])
    refusing.faults[:] = [Fault(image.id, times=99, status=status, body=body)]
    answer = api("POST", f"/images/create?fromImage={refusing.host}/refused&tag=v")
    assert answer.status == 200
    assert json.loads(answer.body.splitlines()[0])["status"] == "Pulling from refused"
    assert last(answer.body)["error"] == words
    found = api.ok("GET", f"/distribution/{refusing.host}/refused:v/json")
    assert found["Descriptor"]["digest"] == image.digest
    assert not found["Platforms"]


def test_images_for_other_systems_are_refused_once_their_pull_has_begun(
    api: API, refusing: FakeRegistry
) -> None:
    refusing.faults.clear()
    refusing.add_image("windows", "v", [TAR], os="windows")
    answer = api("POST", f"/images/create?fromImage={refusing.host}/windows&tag=v")
    assert answer.status == 200
    assert last(answer.body)["error"] == (
        'image operating system "windows" cannot be used on this platform: operating system is not supported'
    )


def test_a_config_that_says_another_tar_of_a_layer_that_is_here_is_refused(
    api: API, refusing: FakeRegistry
) -> None:
    refusing.faults.clear()
    tar = layer_tar({"b": b"b"})
    refusing.add_image("true", "v", [tar])
    refusing.add_image(
        "false", "v", [tar], rootfs={"type": "layers", "diff_ids": ["sha256:" + "2" * 64]}
    )
    path = f"/images/create?fromImage={refusing.host}/"
    assert "Downloaded newer image" in last(api("POST", f"{path}true&tag=v").body)["status"]
    told = last(api("POST", f"{path}false&tag=v").body)["error"]
    assert told == "layers from manifest don't match image configuration"
    assert api("DELETE", f"/images/{refusing.host}/true:v").status == 200


def test_who_has_no_credentials_is_told_of_the_request(api: API) -> None:
    with RegistryThread(basic=("ann", "pw")) as registry:
        registry.add_image("x", "v", [TAR])
        words = f'Head "http://{registry.host}/v2/x/manifests/v": no basic auth credentials'
        for method, path in (
            ("POST", f"/images/create?fromImage={registry.host}/x&tag=v"),
            ("GET", f"/distribution/{registry.host}/x:v/json"),
        ):
            answer = api(method, path)
            assert (answer.status, json.loads(answer.body)["message"]) == (500, words)
