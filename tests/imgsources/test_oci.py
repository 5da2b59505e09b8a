"""Image documents: what is read, what is refused, which platform is chosen."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import APIError, DataLoss, InvalidParameter, NotFound
from imgsources.oci import (
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Platform,
    chain_uuids,
    check_config_type,
    check_layers,
    choose_platform,
    image_uuid,
    parse_config,
    parse_index,
    parse_manifest,
    parse_platform,
    sha256,
)

DIGEST = sha256(b"x")


def descriptor(media_type=OCI_LAYER, digest=DIGEST, size=1, **others):
    return {"mediaType": media_type, "digest": digest, "size": size, **others}


def manifest(**changes):
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG),
        "layers": [descriptor()],
    }
    return json.dumps({**document, **changes}).encode()


def index(*platforms):
    entries = []
    for number, platform in enumerate(platforms):
        entry = descriptor(OCI_MANIFEST, sha256(str(number).encode()))
        if platform is not None:
            names = ("os", "architecture", "variant")
            entry["platform"] = dict(zip(names, platform.split("/"), strict=False))
        entries.append(entry)
    return parse_index(
        json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    )


def test_a_manifest_is_known_by_its_bytes():
    raw = manifest()
    parsed = parse_manifest(raw)
    assert parsed.digest == sha256(raw)
    assert [layer.digest for layer in parsed.layers] == [DIGEST]
    assert parse_manifest(manifest(mediaType=None), DOCKER_MANIFEST).media_type == DOCKER_MANIFEST


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (manifest(layers={}), "layers is no list"),
        (manifest(layers=["x"]), "not a JSON object"),
        (manifest(layers=[descriptor(size=-1)]), "size -1"),
        (manifest(layers=[descriptor(size=True)]), "size True"),
        (manifest(layers=[descriptor(digest="sha256:../../x")]), "invalid checksum digest"),
        (manifest(layers=[descriptor(digest=None)]), "invalid checksum digest"),
        (manifest(schemaVersion=3), "schema version 3"),
        (b"{}", "unsupported manifest format"),
        (
            manifest(
                mediaType=DOCKER_MANIFEST,
                config=descriptor("application/vnd.cncf.helm.config.v1+json"),
            ),
            'Encountered remote "application/vnd.cncf.helm.config.v1+json"(unknown) when fetching',
        ),
        (
            manifest(
                mediaType=DOCKER_MANIFEST,
                config=descriptor("application/vnd.docker.plugin.v1+json"),
            ),
            "(plugin) when fetching",
        ),
    ],
)
def test_what_is_no_image_manifest_is_refused_with_the_reason(raw, words):
    with pytest.raises(InvalidParameter, match=r".") as caught:
        parse_manifest(raw)
    assert words in caught.value.message


def test_what_an_oci_manifest_is_of_is_looked_at_once_it_is_known():
    """dockerd describes it (`docker manifest inspect`), and does not pull it."""
    parsed = parse_manifest(manifest(config=descriptor("application/vnd.cncf.helm.config.v1+json")))
    with pytest.raises(InvalidParameter, match=r"^unsupported media type application/vnd.cncf"):
        check_config_type(parsed)
    check_config_type(parse_manifest(manifest()))


def test_schema_one_is_refused_as_dockerd_does():
    with pytest.raises(InvalidParameter) as caught:
        parse_manifest(b'{"schemaVersion": 1}', name="docker.io/library/x:latest")
    assert "schema 1 support has been removed. Suggest the author of docker.io" in str(caught.value)


def test_a_config_may_lack_all_that_does_not_matter():
    raw = b'{"rootfs": {"diff_ids": ["%s"]}}' % DIGEST.encode()
    config = parse_config(raw)
    assert config.digest == sha256(raw)
    assert (config.created, config.history, config.config) == ("", (), {})
    assert config.platform.os == "linux"


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b'{"rootfs": 1}',
        b'{"rootfs": {"diff_ids": [1]}}',
        b'{"rootfs": {"diff_ids": []}, "history": [1]}',
        b'{"rootfs": {"type": "layers"}, "config": "x"}',
    ],
)
def test_a_malformed_config_is_refused(raw):
    with pytest.raises(InvalidParameter):
        parse_config(raw)


def test_layers_and_diff_ids_must_be_as_many():
    config = parse_config(b'{"rootfs": {"type": "layers"}}')
    with pytest.raises(DataLoss, match="layers from manifest don't match image configuration"):
        check_layers(parse_manifest(manifest()), config)


@pytest.mark.parametrize(
    ("platforms", "wanted", "chosen"),
    [
        (("linux/arm64", "linux/amd64"), "linux/amd64", 1),
        (("unknown/unknown", "linux/amd64"), "linux/amd64", 1),
        (("linux/arm64/v8",), "linux/arm64", 0),
        (("linux/arm/v5", "linux/arm/v6"), "linux/arm/v7", 1),
        (("linux/386", "linux/amd64"), "linux/amd64", 1),
        (("linux/386",), "linux/amd64", 0),
        (("linux/amd64/v3", "linux/amd64"), "linux/amd64", 1),
        (("linux/amd64", "linux/amd64/v3"), "linux/amd64/v3", 1),
        ((None,), "linux/amd64", 0),
        ((None, "linux/amd64"), "linux/amd64", 1),
    ],
)
def test_the_platform_that_runs_best_is_chosen(platforms, wanted, chosen):
    entry = choose_platform(index(*platforms), parse_platform(wanted))
    assert entry.digest == sha256(str(chosen).encode())


def test_a_platform_that_is_not_there_is_named():
    with pytest.raises(NotFound) as caught:
        choose_platform(index("linux/amd64", "unknown/unknown"), Platform("linux", "arm64"))
    assert str(caught.value) == "no matching manifest for linux/arm64 in the manifest list entries"


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/x86_64", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("arm64", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("Linux/AMD64", "linux/amd64"),
        ("linux/arm64/v8", "linux/arm64"),
    ],
)
def test_platforms_are_read_in_all_their_spellings(text, platform):
    assert str(parse_platform(text)) == platform


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/", '"" is an invalid OS component of "/": OSAndVersion specifier component must match '),
        (
            " ",
            '" " is an invalid OS component of " ": OSAndVersion specifier component must match ',
        ),
        (
            "linux/am d",
            '"am d" is an invalid component of "linux/am d": platform specifier component',
        ),
        ("nintendo64", '"nintendo64": unknown operating system or architecture: invalid argument'),
        ("linux/*", '"linux/*": wildcards not yet supported: invalid argument'),
    ],
)
def test_a_platform_is_refused_in_containerds_words(text, words):
    with pytest.raises(InvalidParameter) as caught:
        parse_platform(text)
    assert caught.value.message.startswith(words)


@pytest.mark.parametrize("text", ["", "foobar", "linux/", "a/b/c/d", "linux/am d64"])
def test_what_is_no_platform_is_refused(text):
    with pytest.raises(InvalidParameter):
        parse_platform(text)


def test_a_chain_of_layers_has_the_uuids_of_its_prefixes():
    digests = [sha256(b"1"), sha256(b"2")]
    assert chain_uuids(digests) == (image_uuid(digests[:1]), image_uuid(digests))
    assert chain_uuids([]) == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "schemaVersion",
                    "config",
                    "layers",
                    "manifests",
                    "rootfs",
                    "diff_ids",
                    "digest",
                    "size",
                    "mediaType",
                    "platform",
                    "annotations",
                    "history",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
)


@given(json_values)
def test_no_document_makes_a_parser_fail_in_another_way(document):
    raw = json.dumps(document).encode()
    for parse in (parse_manifest, parse_index, parse_config):
        try:
            parse(raw)
        except APIError as error:
            assert error.status == 400  # noqa: PT017
