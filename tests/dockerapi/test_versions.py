"""Negotiation and the shims of answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import InvalidParameter, PageNotFound
from dockerapi.models.containers import ContainerCreate
from dockerapi.models.execs import ExecStart
from dockerapi.routes.shims import create_from, exec_start_from
from dockerapi.versions import (
    CURRENT,
    MINIMUM,
    Version,
    image_for,
    image_row_for,
    info_for,
    inspect_for,
    negotiate,
)

versions = st.builds(Version, st.integers(0, 99), st.integers(0, 999))


@given(versions)
def test_a_version_survives_its_text(version):
    assert Version.parse(str(version)) == version


def test_versions_compare_by_number():
    assert Version.parse("1.9") < Version.parse("1.41")
    assert Version.parse("1") == Version(1, 0)


@given(st.integers(MINIMUM.minor, CURRENT.minor), st.from_regex(r"/[a-z/]{0,20}", fullmatch=True))
def test_the_prefix_is_taken_off(minor, rest):
    assert negotiate(f"/v1.{minor}{rest}") == (Version(1, minor), rest)


@given(st.text(max_size=20))
def test_any_path_is_negotiated_or_refused(text):
    try:
        version, _ = negotiate(f"/v{text}")
    except (InvalidParameter, PageNotFound):
        return
    assert MINIMUM <= version <= CURRENT


@pytest.mark.parametrize("path", ["/volumes", "/version", "/vabc/x", "/v1.51"])
def test_other_paths_are_left_alone(path):
    assert negotiate(path) == (CURRENT, path)


@pytest.mark.parametrize("path", ["/v1/x", "/v1.23/x", "/v1.52/x", "/v2.0/x"])
def test_versions_out_of_range_are_refused(path):
    with pytest.raises(InvalidParameter, match="client version"):
        negotiate(path)


def test_older_inspects_have_the_short_id_among_aliases():
    answer = {
        "Id": "0123456789abcdef",
        "Config": {"Hostname": "h"},
        "HostConfig": {"Annotations": {"a": "b"}},
        "ImageManifestDescriptor": {},
        "NetworkSettings": {"Networks": {"mine": {"Aliases": None}, "bridge": {"Aliases": None}}},
    }
    old = inspect_for(Version(1, 42), answer)
    assert old["NetworkSettings"]["Networks"]["mine"]["Aliases"] == ["0123456789ab", "h"]
    assert old["NetworkSettings"]["Networks"]["bridge"]["Aliases"] is None
    assert "Annotations" in old["HostConfig"]
    assert "ImageManifestDescriptor" not in old
    assert answer["NetworkSettings"]["Networks"]["mine"]["Aliases"] is None
    assert "Annotations" in answer["HostConfig"]
    assert inspect_for(CURRENT, answer) is answer


def test_older_images_and_info_have_what_they_had():
    row = {"Size": 3, "RepoTags": [], "RepoDigests": [], "Descriptor": {}}
    assert image_row_for(CURRENT, row) == row
    assert image_row_for(Version(1, 42), row) == {
        "Size": 3,
        "VirtualSize": 3,
        "Containers": -1,
        "RepoTags": ["<none>:<none>"],
        "RepoDigests": ["<none>@<none>"],
    }
    image = image_for(Version(1, 44), {"Config": {"Env": ["A=b"]}})
    assert image["Config"]["Hostname"] == ""
    assert image["Config"]["Env"] == ["A=b"]
    assert "Container" not in image
    info = info_for(Version(1, 43), {"RuncCommit": {"ID": "a"}, "Containerd": {}})
    assert info["RuncCommit"] == {"ID": "a", "Expected": "a"}
    assert "Containerd" not in info
    assert info["BridgeNfIptables"] is False
    assert info["RegistryConfig"]["AllowNondistributableArtifactsCIDRs"] is None


def test_info_of_the_oldest_version_has_bare_names_of_security_options():
    told = {"SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin"]}
    runtimes = {"crun": {"path": "crun", "status": {"a": "b"}}}
    info = info_for(Version(1, 24), told | {"Runtimes": runtimes})
    assert info["SecurityOptions"] == ["apparmor", "seccomp"]
    assert info["Runtimes"] == {"crun": {"path": "crun"}}
    assert info_for(Version(1, 48), told)["SecurityOptions"] == told["SecurityOptions"]
    assert "Expected" in info_for(Version(1, 48), {"RuncCommit": {"ID": "a"}})["RuncCommit"]
    assert "Expected" not in info_for(Version(1, 49), {"RuncCommit": {"ID": "a"}})["RuncCommit"]


def test_older_creates_lose_what_their_version_had_not():
    body = ContainerCreate.model_validate(
        {
            "Image": "x",
            "Healthcheck": {"StartInterval": 5},
            "HostConfig": {
                "Annotations": {"a": "b"},
                "PidsLimit": 5,
                "KernelMemory": 7,
                "Mounts": [{"Type": "bind", "BindOptions": {"CreateMountpoint": True}}],
            },
            "NetworkingConfig": {"EndpointsConfig": {"n": {"MacAddress": "02:00:00:00:00:01"}}},
        }
    )
    old, new = create_from(Version(1, 39), body), create_from(CURRENT, body)
    assert old.host_config.annotations is None
    assert old.host_config.pids_limit is None
    assert old.host_config.ipc_mode == "shareable"
    assert old.host_config.cgroupns_mode == "host"
    assert old.host_config.kernel_memory == 7
    assert old.host_config.mounts[0].bind_options.create_mountpoint is False
    assert old.healthcheck.start_interval == 0
    assert old.networking_config.endpoints_config["n"].mac_address == ""
    assert new.host_config.annotations == {"a": "b"}
    assert new.host_config.kernel_memory == 0
    assert new.host_config.mounts[0].bind_options.create_mountpoint is True
    assert new.healthcheck.start_interval == 5


def test_several_endpoints_came_with_1_44():
    body = ContainerCreate.model_validate(
        {"NetworkingConfig": {"EndpointsConfig": {"b": {}, "a": None}}}
    )
    assert create_from(Version(1, 44), body)
    with pytest.raises(InvalidParameter, match="network endpoints: a, b"):
        create_from(Version(1, 43), body)


def test_the_console_size_needs_a_console_and_1_42():
    body = ExecStart(tty=True, console_size=[3, 4])
    assert exec_start_from(CURRENT, body).console_size == [3, 4]
    assert exec_start_from(Version(1, 41), body).console_size is None
    assert exec_start_from(CURRENT, body.model_copy(update={"tty": False})).console_size is None


def test_read_only_binds_did_not_reach_below_them_before_1_44():
    mounts = [
        {"Type": "bind", "Source": "/a", "Target": "/a", "ReadOnly": True},
        {"Type": "bind", "Source": "/b", "Target": "/b"},
    ]
    body = ContainerCreate.model_validate({"Image": "x", "HostConfig": {"Mounts": mounts}})
    old, new = (create_from(v, body).host_config.mounts for v in (Version(1, 43), Version(1, 44)))
    assert old[0].bind_options.read_only_non_recursive
    assert old[1].bind_options is None
    assert new[0].bind_options is None
