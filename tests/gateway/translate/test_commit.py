"""Config of a committed image: the request's, the container's, and the document around it."""

from __future__ import annotations

import json
from typing import Any

from dockerapi.models.containers import ContainerCreate
from gateway.translate.commit import Committed, config_blob, image_config, requested
from imgsources.oci import Digest, parse_config

CONTAINER: dict[str, Any] = {
    "Hostname": "c0ffee",
    "User": "web",
    "Env": ["A=1", "PATH=/bin"],
    "Cmd": ["run", "it"],
    "Entrypoint": ["/entry"],
    "Labels": {"a": "1"},
    "WorkingDir": "/srv",
    "Volumes": {"/data": {}},
    "ExposedPorts": {"80/tcp": {}},
    "StopTimeout": 0,
    "Healthcheck": {"Test": ["CMD", "x"], "Retries": 2},
}
PARENT = {
    "architecture": "arm64",
    "variant": "v8",
    "os": "linux",
    "os.version": "7",
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]},
    "history": [{"created_by": "base"}],
    "config": {"Cmd": ["sh"]},
}
MADE = Committed("f" * 64, CONTAINER, "2026-01-02T03:04:05Z", "28.5.2", "me", "why")


def asked(**body: Any) -> Any:
    return requested(ContainerCreate.model_validate(body))


def test_a_request_without_a_config_takes_the_containers() -> None:
    assert asked() is None
    assert asked(HostConfig={}) is None
    assert image_config(None, CONTAINER, []) == CONTAINER


def test_what_the_request_leaves_open_comes_from_the_container() -> None:
    config = image_config(
        asked(
            Env=["A=2", "B=3"],
            Labels={"a": "2", "b": "3"},
            ExposedPorts={"90/tcp": {}},
            Volumes={"/more": {}},
            Healthcheck={"Interval": 10**9},
        ),
        CONTAINER,
        [],
    )
    assert config["Env"] == ["A=2", "B=3", "PATH=/bin"]
    assert config["Labels"] == {"a": "2", "b": "3"}
    assert set(config["ExposedPorts"]) == {"80/tcp", "90/tcp"}
    assert set(config["Volumes"]) == {"/data", "/more"}
    assert config["Healthcheck"] == {"Test": ["CMD", "x"], "Retries": 2, "Interval": 10**9}
    assert (config["User"], config["WorkingDir"]) == ("web", "/srv")
    assert (config["Cmd"], config["Entrypoint"]) == (["run", "it"], ["/entry"])
    assert config["Hostname"] == ""


def test_a_new_entrypoint_does_not_get_the_old_command() -> None:
    config = image_config(asked(Entrypoint=["/other"]), CONTAINER, [])
    assert (config["Cmd"], config["Entrypoint"]) == (None, ["/other"])
    config = image_config(asked(Cmd=["other"]), CONTAINER, [])
    assert (config["Cmd"], config["Entrypoint"]) == (["other"], ["/entry"])


def test_the_document_stands_on_its_parents() -> None:
    diff_id = Digest("sha256:" + "2" * 64)
    config = parse_config(config_blob(PARENT, MADE, {"Cmd": ["new"]}, diff_id))
    assert config.diff_ids == ("sha256:" + "1" * 64, diff_id)
    assert str(config.platform) == "linux/arm64/v8"
    assert config.config == {"Cmd": ["new"]}
    assert (config.author, config.created) == ("me", MADE.created)
    assert config.history == (
        {"created_by": "base"},
        {"created": MADE.created, "author": "me", "created_by": "run it", "comment": "why"},
    )
    document = json.loads(config.raw)
    assert document["os.version"] == "7"
    assert document["container"] == "f" * 64
    assert document["container_config"] == CONTAINER


def test_without_a_layer_the_history_says_so() -> None:
    config = parse_config(config_blob(PARENT, MADE, {}, None))
    assert len(config.diff_ids) == 1
    assert config.history[-1]["empty_layer"] is True
