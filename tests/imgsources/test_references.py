"""References: what is understood, what is refused in which words, and the way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import InvalidParameter
from imgsources.references import Reference

HEX = "a1" * 32

components = st.from_regex(r"[a-z0-9]{1,6}(?:(?:[._]|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
paths = st.lists(components, min_size=1, max_size=3).map("/".join)
hosts = st.from_regex(
    r"(?:[a-zA-Z0-9]{1,5}\.[a-zA-Z0-9]{1,5}|localhost|\[[0-9a-f]{1,4}:[0-9a-f:]{1,4}\])(?::[0-9]{1,5})?",
    fullmatch=True,
)
tags = st.none() | st.from_regex(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,10}", fullmatch=True)
digests = st.none() | st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "familiar", "full"),
    [
        ("busybox", "busybox", "docker.io/library/busybox"),
        ("busybox:1.36", "busybox:1.36", "docker.io/library/busybox:1.36"),
        ("docker.io/busybox", "busybox", "docker.io/library/busybox"),
        ("index.docker.io/library/busybox", "busybox", "docker.io/library/busybox"),
        ("me/app", "me/app", "docker.io/me/app"),
        ("library/a/b", "library/a/b", "docker.io/library/a/b"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("localhost:5000/x:v1", "localhost:5000/x:v1", "localhost:5000/x:v1"),
        ("ghcr.io/a/b", "ghcr.io/a/b", "ghcr.io/a/b"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ("Host/x", "Host/x", "Host/x"),
        (f"x@sha256:{HEX}", f"x@sha256:{HEX}", f"docker.io/library/x@sha256:{HEX}"),
        (f"x:t@sha256:{HEX}", f"x:t@sha256:{HEX}", f"docker.io/library/x:t@sha256:{HEX}"),
        (f"x:{HEX}", f"x:{HEX}", f"docker.io/library/x:{HEX}"),
    ],
)
def test_a_name_has_a_familiar_and_a_full_form(text, familiar, full):
    reference = Reference.parse(text)
    assert str(reference) == familiar
    assert reference.full == full


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("busybox:", "invalid reference format"),
        ("busybox::x", "invalid reference format"),
        ("-x", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a/b/", "invalid reference format"),
        ("x y", "invalid reference format"),
        ("busybox\n", "invalid reference format"),
        ("büsy", "invalid reference format"),
        ("x:" + "t" * 129, "invalid reference format"),
        (f"busybox:sha256:{HEX}", "invalid reference format"),
        ("x@sha256:abc", "invalid reference format"),
        ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
        ("me/Foo:x", "invalid reference format: repository name (me/Foo) must be lowercase"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        (
            "a/" * 128 + "b",
            "invalid reference format: repository name must not be more than 255 characters",
        ),
    ],
)
def test_a_malformed_name_is_refused_in_dockers_words(text, message):
    with pytest.raises(InvalidParameter) as caught:
        Reference.parse(text)
    assert caught.value.message == message


def test_latest_is_the_default_only_where_nothing_else_is_said():
    assert Reference.parse("x").with_default_tag().tag == "latest"
    assert Reference.parse("x:1").with_default_tag().tag == "1"
    assert Reference.parse(f"x@sha256:{HEX}").with_default_tag().tag is None


@given(registry=hosts, path=paths, tag=tags, digest=digests)
def test_the_full_form_is_read_back_as_the_same_value(registry, path, tag, digest):
    reference = Reference(registry, path, tag, digest)
    assert Reference.parse(reference.full) == reference
    assert Reference.parse(str(reference)) == reference


@given(path=paths, tag=tags, digest=digests)
def test_the_hubs_names_are_read_back_from_the_full_form(path, tag, digest):
    reference = Reference.parse(f"docker.io/{path}")
    reference = Reference(reference.registry, reference.path, tag, digest)
    assert Reference.parse(reference.full) == reference


@given(st.text(max_size=40))
def test_any_text_is_either_refused_or_read_back(text):
    try:
        reference = Reference.parse(text)
    except InvalidParameter:
        return
    assert Reference.parse(reference.full) == reference
