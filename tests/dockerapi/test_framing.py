"""Frames, JSON, filters: codecs without a connection."""

from __future__ import annotations

import contextlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi import framing
from dockerapi.errors import InvalidParameter
from dockerapi.filters import Filters
from dockerapi.framing import FrameParser, StreamId, dumps, frame, frame_header

frames = st.lists(st.tuples(st.sampled_from(StreamId), st.binary(max_size=300)), max_size=8)


@given(frames, st.lists(st.integers(0, 2000), max_size=30))
def test_frames_survive_being_cut_anywhere(sent, cuts):
    data = b"".join(frame(stream, payload) for stream, payload in sent)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parser = FrameParser()
    got = [
        found for start, end in itertools.pairwise(edges) for found in parser.feed(data[start:end])
    ]
    assert got == sent
    assert parser.incomplete == 0


@given(st.sampled_from(StreamId), st.binary(max_size=50))
def test_a_frame_is_header_and_payload(stream, payload):
    assert frame(stream, payload) == frame_header(stream, len(payload)) + payload


@given(st.sampled_from(StreamId), st.binary(max_size=200).map(lambda b: b.replace(b"a", b"\n")))
def test_a_followed_log_has_a_frame_for_each_line(stream, text):
    found = list(FrameParser().feed(framing.frame_each_line(stream, text)))
    assert [payload for _, payload in found] == [
        line + end for line, end in _lines(text) if line + end
    ]
    assert {kind for kind, _ in found} <= {stream}


def _lines(text):
    *lines, rest = text.split(b"\n")
    return [*((line, b"\n") for line in lines), (rest, b"")]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(values)
def test_json_survives(value):
    assert json.loads(dumps(value)) == value


def test_json_is_the_same_without_the_fast_library(monkeypatch):
    value = {"a": [1, "é\u2028<&>", None, True], "b": {"n": 2**40, "x": 1.5}}
    fast = dumps(value)
    monkeypatch.setattr(framing, "orjson", None)
    assert dumps(value) == fast


def test_a_lone_surrogate_does_not_break_an_answer():
    assert json.loads(dumps({"a": "x\udc80"})) == {"a": "x?"}


mapping = st.dictionaries(
    st.text(max_size=8), st.lists(st.text(max_size=8), unique=True), max_size=4
)


@given(mapping)
def test_filters_have_two_encodings_of_one_meaning(values):
    as_lists = Filters.parse(json.dumps(values))
    as_maps = Filters.parse(json.dumps({k: dict.fromkeys(v, False) for k, v in values.items()}))
    assert {key: list(as_lists.get(key)) for key in as_lists} == values
    assert {key: list(as_maps.get(key)) for key in as_maps} == values


@given(st.text(max_size=30))
def test_any_filter_is_read_or_refused(text):
    with contextlib.suppress(InvalidParameter):
        Filters.parse(text)


@pytest.mark.parametrize("text", ['"x"', "[]", '{"a":"b"}', '{"a":[1]}', "{"])
def test_other_filters_are_refused(text):
    with pytest.raises(InvalidParameter, match=r"^invalid filter"):
        Filters.parse(text)
