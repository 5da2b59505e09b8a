"""Where a request ends, however it is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.connection import BodyExtent, PingAnswer, body_extent, never_a_head


def taken(extent: BodyExtent, pieces: list[bytes]) -> int:
    """Bytes counted as body."""
    total = 0
    for piece in pieces:
        if extent.ended or extent.broken:
            break
        total += extent.take(piece)
    return total


def cut(data: bytes, at: list[int]) -> list[bytes]:
    points = sorted({min(point, len(data)) for point in at})
    edges = [0, *points, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


cuts = st.lists(st.integers(0, 300), max_size=20)


@given(st.binary(max_size=100), st.binary(max_size=50), cuts)
def test_a_body_of_known_length_ends_there(body, rest, at):
    extent = BodyExtent(len(body))
    assert taken(extent, cut(body + rest, at)) == len(body)
    assert extent.ended


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.binary(max_size=50), cuts)
def test_a_chunked_body_ends_after_its_trailer(chunks, rest, at):
    body = b"".join(b"%x;e=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    body += b"0\r\nTrailer: x\r\n\r\n"
    extent = BodyExtent(None)
    assert taken(extent, cut(body + rest, at)) == len(body)
    assert extent.ended
    assert not extent.broken


@given(st.binary(max_size=200), cuts)
def test_any_bytes_end_break_or_need_more(data, at):
    extent = BodyExtent(None)
    assert taken(extent, cut(data, at)) <= len(data)


@pytest.mark.parametrize("line", [b"zz\r\n", b"-1\r\n", b"\r\n", b"1 1\r\n", b"0x1\r\n", b"_1\r\n"])
def test_what_is_no_chunk_size_breaks_the_body(line):
    extent = BodyExtent(None)
    extent.take(line)
    assert extent.broken


def test_the_head_tells_the_extent():
    assert body_extent(b"get / http/1.1\r\nhost: x\r\n\r\n").ended
    assert not body_extent(b"post / http/1.1\r\ncontent-length: 3\r\n\r\n").ended
    assert not body_extent(b"post / http/1.1\r\ntransfer-encoding: chunked\r\n\r\n").ended


@given(st.integers(1, 60))
def test_a_beginning_of_a_request_may_become_one(size):
    head = b"POST /v1.51/containers/x/attach?stdin=1 HTTP/1.1\r\nHost: x\r\n"
    assert not never_a_head(head[:size])


def test_the_ping_answers_are_whole():
    ping = PingAnswer({"Api-Version": "1.51"})
    assert ping.bytes_for(b"GET").endswith(b"GMT\r\nContent-Length: 2\r\n\r\nOK")
    assert ping.bytes_for(b"HEAD").endswith(b"GMT\r\nContent-Length: 0\r\n\r\n")
