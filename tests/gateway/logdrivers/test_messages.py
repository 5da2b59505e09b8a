"""What one message is in bytes, for each driver."""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.framing import StreamId
from gateway.logdrivers import Message, Piece, Source, fluentd, gelf, journald, syslog

TIME_NS = 1_790_000_000_123_456_789
SOURCE = Source(
    driver="syslog",
    options={},
    container_id="ab" * 32,
    name="/web",
    image_id="sha256:00",
    image_name="busybox",
    command="sh -c true",
    created_ns=TIME_NS,
    hostname="box",
    tag="t/web",
    attributes={"a": "b"},
)
OUT = Message(StreamId.STDOUT, TIME_NS, b"text")
ERR = Message(StreamId.STDERR, TIME_NS, b"text")


def lines(message: bytes) -> bytes:
    return message + b"\n"


def test_the_newer_syslog_format_has_the_tag_as_name_and_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    encode = syslog.Encoder(SOURCE, 3, "rfc5424micro", lines)
    stamp = encode(OUT).split(b" ")[1]
    assert stamp.startswith(b"2026-09-21T")
    assert stamp[19:26] == b".123456"
    assert encode(OUT).split(b" ")[2:] == [b"box", b"t/web", b"%d" % os.getpid(), b"t/web", b"-", b"text\n"]  # fmt: skip


def test_severity_is_the_streams_and_facility_the_clients() -> None:
    assert syslog.Encoder(SOURCE, 3, "", lines)(OUT).startswith(b"<30>")
    assert syslog.Encoder(SOURCE, 19, "", lines)(ERR).startswith(b"<155>")


@given(st.binary(max_size=200_000))
def test_chunks_make_the_message_again(data: bytes) -> None:
    chunks = gelf.chunks(data)
    if len(data) <= 1420:
        assert chunks == [data]
        return
    if not chunks:
        assert len(data) > 128 * 1408
        return
    assert {chunk[:2] for chunk in chunks} == {b"\x1e\x0f"}
    assert len({chunk[2:10] for chunk in chunks}) == 1
    assert [chunk[10] for chunk in chunks] == list(range(len(chunks)))
    assert {chunk[11] for chunk in chunks} == {len(chunks)}
    assert max(map(len, chunks)) <= 1420
    assert b"".join(chunk[12:] for chunk in chunks) == data


@pytest.mark.parametrize(("kind", "window"), [("gzip", 31), ("zlib", 15)])
def test_compressed_messages_are_what_they_say(kind: str, window: int) -> None:
    data = gelf.Encoder(SOURCE)(OUT)
    assert zlib.decompress(gelf.compressed(data, kind, 1), window) == data
    assert gelf.compressed(data, "none", 1) == data
    body = json.loads(data)
    assert (body["timestamp"], body["_container_name"], body["_a"]) == (1790000000.123, "web", "b")


def test_a_record_of_fluentd_tells_of_pieces() -> None:
    piece = replace(OUT, piece=Piece("id", 2, is_last=True))
    assert fluentd.record(SOURCE, piece) == {
        "container_id": "ab" * 32,
        "container_name": "/web",
        "source": "stdout",
        "log": b"text",
        "a": "b",
        "partial_message": "true",
        "partial_id": "id",
        "partial_ordinal": "2",
        "partial_last": "true",
    }


def test_a_field_of_the_journal_with_a_newline_has_its_length() -> None:
    assert journald.field("MESSAGE", b"one") == b"MESSAGE=one\n"
    assert journald.field("MESSAGE", b"a\nb") == b"MESSAGE\n" + struct.pack("<Q", 3) + b"a\nb\n"


def test_names_of_labels_are_made_the_journals() -> None:
    assert [journald.field_name(key) for key in ("com.x-y", "_a", "été", "___")] == [
        "COM_X_Y",
        "A",
        "T_",
        "",
    ]
    assert b"A=b\n" in journald.entry(SOURCE, OUT)
