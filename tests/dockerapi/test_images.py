"""/images and /distribution: what is refused before the engine is asked, by version."""

import json
from urllib.parse import quote

import pytest

AMD64 = quote(json.dumps({"os": "linux", "architecture": "amd64"}))
ARM64 = quote(json.dumps({"os": "linux", "architecture": "arm64"}))


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        (
            "GET",
            f"/v1.49/images/x/json?manifests=1&platform={AMD64}",
            400,
            "conflicting options: manifests and platform options cannot both be set",
        ),
        (
            "DELETE",
            f"/v1.50/images/x?platforms={AMD64}&platforms={ARM64}",
            400,
            "multiple platforms are not supported",
        ),
        (
            "DELETE",
            f"/v1.50/images/x?platforms={ARM64}",
            404,
            "image with reference x was found but its platform (linux/amd64) does not match the specified platform (linux/arm64)",
        ),
        (
            "GET",
            f"/v1.48/images/x/get?platform={AMD64}&platform={ARM64}",
            400,
            "multiple platform parameters are not supported",
        ),
        (
            "POST",
            "/v1.46/images/x/push?platform=rubbish",
            400,
            "failed to parse platform: invalid character 'r' looking for beginning of value",
        ),
    ],
)
async def test_what_cannot_be_asked_of_images(world, method, path, status, message):
    answer = await world.ask(method, path)
    assert (answer.status, answer.message) == (status, message)


async def test_one_platform_may_be_named_when_it_is_the_images(world):
    answer = await world.ask("DELETE", f"/v1.50/images/x?platforms={AMD64}")
    assert answer.json == [{"Untagged": "x"}]


async def test_older_clients_know_no_platforms(world):
    answer = await world.ask("DELETE", f"/v1.49/images/x?platforms={ARM64}")
    assert answer.status == 200
    answer = await world.ask("GET", f"/v1.48/images/x/json?manifests=1&platform={ARM64}")
    assert answer.status == 200


async def test_a_platform_that_is_no_json_is_refused(world):
    answer = await world.ask("POST", "/v1.46/images/x/push?platform=arm64", X_Registry_Auth="e30=")
    assert answer.status == 400
    assert answer.message.startswith("failed to parse platform")


async def test_a_route_of_a_later_version_is_no_page(world):
    answer = await world.ask("GET", "/v1.51/images/x/attestations")
    assert (answer.status, answer.message) == (404, "page not found")
