"""internal_metadata: the keys of a docker zone and those of any other give back what they were made of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.zones.metadata import DockerMetadata, Runtime, decode, encode

texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=10)
lists = st.lists(texts, max_size=3).map(tuple)
ports = st.lists(st.integers(1, 65535), max_size=3).map(tuple)
metadata = st.builds(
    DockerMetadata,
    id=st.text("0123456789abcdef", min_size=64, max_size=64),
    docker=st.booleans(),
    image_name=texts,
    image_id=texts,
    cmd=lists,
    entrypoint=lists,
    env=lists,
    workdir=texts,
    user=texts,
    tty=st.booleans(),
    open_stdin=st.booleans(),
    attach_stdin=st.booleans(),
    attach_stdout=st.booleans(),
    attach_stderr=st.booleans(),
    restart_policy=st.sampled_from(["", "always", "unless-stopped", "on-failure", "on-failure:3"]),
    log_driver=st.sampled_from(["json-file", "none"]),
    log_config=st.dictionaries(texts, texts, max_size=2),
    extra_hosts=lists,
    dns_search=lists,
    volumes_from=lists,
    publish_all_ports=st.booleans(),
    tcp_unpublished_ports=ports,
    udp_unpublished_ports=ports,
    runtime=st.builds(Runtime, stop_signal=texts, stdin_once=st.booleans()),
    create=st.dictionaries(texts, texts, max_size=2),
)


@given(metadata)
def test_what_was_written_is_read(value: DockerMetadata) -> None:
    flat = encode(value)
    assert decode(flat) == value
    assert all(isinstance(found, str | int | bool) for found in flat.values())


@given(metadata)
def test_a_zone_without_docker_has_no_key_that_dockerinit_or_vmadmd_would_read(
    value: DockerMetadata,
) -> None:
    flat = encode(value)
    assert any(key.startswith("docker:") for key in flat) is value.docker
    assert ("zonegate:id" in flat) is not value.docker


def test_lists_are_written_as_admins_write_them() -> None:
    flat = encode(DockerMetadata(id="ab" * 32, cmd=("/bin/sleep", "300")))
    assert flat["docker:cmd"] == '["/bin/sleep", "300"]'
