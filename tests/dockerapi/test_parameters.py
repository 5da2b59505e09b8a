"""Query, header and body texts as Go reads them."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import APIError, InvalidParameter
from dockerapi.models.containers import ContainerCreate
from dockerapi.routes import parameters
from dockerapi.routes.bodies import check_content_type, decode, parse

SECOND = 10**9


@pytest.mark.parametrize("text", ["", "0", "no", "false", "False", "none", " NONE "])
def test_these_are_false(text):
    assert parameters.boolean(text) is False


@pytest.mark.parametrize("text", ["1", "true", "yes", "x", "-1"])
def test_all_else_is_true(text):
    assert parameters.boolean(text) is True


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_are_read(number):
    assert parameters.integer(str(number)) == number


@pytest.mark.parametrize("text", ["x", "1_0", "1.5", " 1", "٣", ""])
def test_what_is_no_integer_is_refused_in_gos_words(text):
    with pytest.raises(APIError, match="invalid syntax"):
        parameters.integer(text)


@pytest.mark.parametrize("text", [str(2**63), "9" * 5000])
def test_huge_integers_are_out_of_range(text):
    with pytest.raises(APIError, match="value out of range"):
        parameters.integer(text)


@pytest.mark.parametrize(
    ("text", "lines"), [("all", None), ("", None), ("xx", None), ("-1", None), ("0", 0), ("12", 12)]
)
def test_tails(text, lines):
    assert parameters.tail(text) == lines


@given(st.integers(0, 10**10), st.integers(0, SECOND - 1))
def test_unix_times_keep_their_nanoseconds(seconds, nanoseconds):
    assert parameters.timestamp_ns(f"{seconds}.{nanoseconds:09d}") == seconds * SECOND + nanoseconds
    assert parameters.timestamp_ns(str(seconds)) == seconds * SECOND


@given(
    st.integers(86400 * 10**6, 7 * 10**15),
    st.integers(0, 999),
    st.integers(-14 * 60, 14 * 60),
)
def test_rfc3339_times_keep_their_nanoseconds(microseconds, extra_ns, minutes_east):
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    zone = timezone(timedelta(minutes=minutes_east))
    moment = (epoch + timedelta(microseconds=microseconds)).astimezone(zone)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + f"{extra_ns:03d}" + moment.strftime("%z")
    text = f"{text[:-2]}:{text[-2:]}"
    assert parameters.timestamp_ns(text) == microseconds * 1000 + extra_ns


@pytest.mark.parametrize(
    ("text", "back"),
    [("10m", 600.0), ("1h30m", 5400.0), ("1.5s", 1.5), ("250ms", 0.25), ("-2s", -2.0), ("0", None)],
)
def test_durations_count_back_from_now(text, back):
    now = 1_000_000 * SECOND
    found = parameters.timestamp_ns(text, now_ns=now)
    assert found == (0 if back is None else now - round(back * SECOND))


@pytest.mark.parametrize("text", ["10m", "yesterday", "1.2.3", "2024-13-01T00:00:00Z", "0x10"])
def test_other_times_are_refused(text):
    with pytest.raises(APIError):
        parameters.timestamp_ns(text)


@given(st.text(max_size=30))
def test_any_time_is_read_or_refused(text):
    try:
        parameters.timestamp_ns(text, now_ns=0)
    except APIError:
        return


auths = st.fixed_dictionaries({"username": st.text(min_size=1), "password": st.text()})


@given(auths, st.booleans(), st.booleans())
def test_credentials_are_read_padded_or_not_in_either_alphabet(auth, padded, url):
    encode = base64.urlsafe_b64encode if url else base64.b64encode
    header = encode(json.dumps(auth).encode()).decode()
    found = parameters.registry_auth(header if padded else header.rstrip("="))
    assert found is not None
    assert (found.username, found.password) == (auth["username"], auth["password"])


@given(st.text(max_size=40))
def test_garbage_is_no_credentials(header):
    parameters.registry_auth(header)


@pytest.mark.parametrize("header", [None, "", "e30", "e30=", "!!!", "bnVsbA==", "W10="])
def test_these_are_no_credentials(header):
    assert parameters.registry_auth(header) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{invalid", "invalid character 'i' looking for beginning of object key string"),
        ('{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        ('{"a":[1 2]}', "invalid character '2' after array element"),
        ('{"a":tru]}', "invalid character ']' in literal true (expecting 'e')"),
        ('{"a":NaN}', "invalid character 'N' looking for beginning of value"),
        ('{"a":"\n"}', "invalid character '\\n' in string literal"),
        ('{"a":"\\x"}', "invalid character 'x' in string escape code"),
        ('{"a":"x', "unexpected EOF"),
        ("{", "unexpected EOF"),
        ("[" * 100_000, "exceeded max depth"),
    ],
)
def test_broken_json_is_refused_in_gos_words(text, complaint):
    with pytest.raises(InvalidParameter) as caught:
        parse(text)
    assert caught.value.message == f"invalid JSON: {complaint}"


@given(st.binary(max_size=60))
def test_any_body_is_read_or_refused(data):
    try:
        decode(data, ContainerCreate)
    except InvalidParameter:
        return


@given(st.recursive(st.none() | st.booleans() | st.text() | st.integers(), st.lists, max_leaves=9))
def test_json_is_parsed_as_it_was_meant(value):
    assert parse(f"\n {json.dumps(value)} \t") == value


def test_keys_match_in_any_case_and_null_is_not_given():
    body = decode(b'{"IMAGE":"x","cmd":"ls","Volumes":null,"Unknown":1}', ContainerCreate)
    assert body.image == "x"
    assert body.cmd == ["ls"]
    assert body.volumes is None


def test_a_wrong_type_names_the_field():
    with pytest.raises(
        InvalidParameter,
        match=r"unmarshal string .* CreateRequest\.HostConfig\.Memory of type int64",
    ):
        decode(b'{"HostConfig":{"Memory":"x"}}', ContainerCreate)


def test_content_types():
    check_content_type(None, has_body=False)
    check_content_type("Application/JSON; charset=utf-8", has_body=True)
    with pytest.raises(
        InvalidParameter, match=r"malformed Content-Type header \(\): mime: no media"
    ):
        check_content_type(None, has_body=True)
    with pytest.raises(InvalidParameter, match="unsupported Content-Type header"):
        check_content_type("text/plain", has_body=False)
