"""Records of zoneadmd's logs as text: both formats, any bytes, lines over records."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.framing import StreamId
from gateway.hosts.smartos.stdiolog import Record, Renderer, last_lines, parse, parse_all, stamp
from gateway.zones.host import LogQuery

OUT, ERR = StreamId.STDOUT, StreamId.STDERR
# 2014-10-24T20:12:11Z
SECOND_NS = 1414181531 * 10**9
OLD = b'{"log":"msg\\n","stream":"stdout","time":"2014-10-24T20:12:11.%sZ"}'
NEW = (
    b'{ "time": "2014-10-24T20:12:11.101973000Z", "v": 0, "hostname": "gz", "name": "zoneadmd",'
    b'"pid": 7, "level": 30, "msg":"%s", "stream":"%s" }'
)


@pytest.mark.parametrize(
    ("fraction", "ns"),
    [(b"101973117", 101973117), (b"5123000", 5123000), (b"0", 0), (b"000000001", 1)],
)
def test_the_old_writer_leaves_zeros_of_the_nanoseconds_out(fraction: bytes, ns: int) -> None:
    assert parse(OLD % fraction) == Record(SECOND_NS + ns, OUT, b"msg\n")


def test_the_new_format_says_the_same() -> None:
    assert parse(NEW % (b"a\\tb\\n", b"stderr")) == Record(SECOND_NS + 101973000, ERR, b"a\tb\n")


@pytest.mark.parametrize("why", [b"open", b"close", b"open-rotate", b"close-rotate"])
def test_records_of_the_log_itself_are_no_output(why: bytes) -> None:
    assert parse(NEW % (why, b"logfile")) is None
    assert parse_all(NEW % (why, b"logfile") + b"\n") == []


def test_a_console_is_standard_output() -> None:
    assert parse(NEW % (b"login: ", b"console")) == Record(SECOND_NS + 101973000, OUT, b"login: ")


def test_escaped_bytes_are_the_bytes_that_were_written() -> None:
    record = parse(NEW % (b"\\u00c3\\u00bc\\u0000\\u007f\\u00ff", b"stdout"))
    assert record is not None
    assert record.text == "ü".encode() + b"\x00\x7f\xff"


def test_characters_beyond_bytes_are_utf_8() -> None:
    record = parse(NEW % (b"\\u20ac\\u00e4", b"stdout"))
    assert record is not None
    assert record.text == "€".encode() + b"\xe4"


def test_bytes_that_were_not_escaped_pass() -> None:
    record = parse(NEW % ("größer €".encode(), b"stdout"))
    assert record is not None
    assert record.text.decode() == "größer €"


@pytest.mark.parametrize(
    "line", [b"torn {", b'{"log": 3}', b"[]", b'{"time":"x","log":"a","stream":"stdout"}']
)
def test_what_is_no_record_is_shown(line: bytes) -> None:
    assert parse(line) == Record(0, OUT, line + b"\n")
    assert parse(b" ") is None


def written(record: Record) -> bytes:
    """As the new writer does."""
    text = json.dumps(record.text.decode("latin-1"))[1:-1]
    name = "stdout" if record.stream is OUT else "stderr"
    time = stamp(record.time_ns).decode()
    return f'{{ "time": "{time}", "msg":"{text}", "stream":"{name}" }}'.encode()


records = st.builds(
    Record,
    st.integers(0, 4 * 10**18),
    st.sampled_from([OUT, ERR]),
    st.binary(min_size=1, max_size=8) | st.sampled_from([b"a\n", b"b\nc", b"\n\n", b"d"]),
)


@given(st.lists(records))
def test_what_is_written_is_read(wanted: list[Record]) -> None:
    assert parse_all(b"\n".join(map(written, wanted)) + b"\n") == wanted


@given(st.lists(records))
def test_text_without_marks_is_the_output_itself(found: list[Record]) -> None:
    blocks = Renderer(LogQuery()).render(found)
    for stream in (OUT, ERR):
        shown = b"".join(text for s, text in blocks if s is stream)
        assert shown == b"".join(r.text for r in found if r.stream is stream)


@given(st.lists(records))
def test_every_line_has_one_time_and_one_prefix(found: list[Record]) -> None:
    blocks = Renderer(LogQuery(timestamps=True, prefix="x=1 ")).render(found)
    for stream in (OUT, ERR):
        text = b"".join(r.text for r in found if r.stream is stream)
        shown = b"".join(text for s, text in blocks if s is stream)
        *whole, rest = text.split(b"\n")
        lines = len(whole) + bool(rest)
        assert shown.count(b"Z x=1 ") >= lines
        assert len(shown) == len(text) + lines * len(stamp(0) + b" x=1 ")


def test_a_line_has_the_time_at_which_it_began() -> None:
    renderer = Renderer(LogQuery(timestamps=True))
    pieces = [Record(1, OUT, b"be"), Record(2, ERR, b"other\n"), Record(3, OUT, b"gun\nnext")]
    blocks = [block for piece in pieces for block in renderer.render([piece])]
    assert blocks == [
        (OUT, stamp(1) + b" be"),
        (ERR, stamp(2) + b" other\n"),
        (OUT, b"gun\n" + stamp(3) + b" next"),
    ]


def test_a_span_of_time_has_whole_lines() -> None:
    found = [Record(n, OUT, text) for n, text in enumerate([b"a", b"a\n", b"b\n", b"c\n", b"d\n"])]
    assert Renderer(LogQuery(since_ns=1)).render(found) == [(OUT, b"b\nc\nd\n")]
    renderer = Renderer(LogQuery(since_ns=2, until_ns=3))
    assert renderer.render(found) == [(OUT, b"b\nc\n")]
    assert renderer.finished


def test_the_choice_of_streams_is_kept() -> None:
    found = [Record(1, OUT, b"a\n"), Record(2, ERR, b"b\n"), Record(3, OUT, b"c\n")]
    assert Renderer(LogQuery(stdout=False)).render(found) == [(ERR, b"b\n")]
    assert Renderer(LogQuery(), tty=True).render(found) == [(OUT, b"a\nb\nc\n")]


@given(st.lists(records, max_size=12), st.integers(0, 6))
def test_the_last_lines_are_the_last_to_end(found: list[Record], count: int) -> None:
    tail = last_lines(found, count, whole=True)
    assert tail is not None
    lines: list[tuple[StreamId, bytes]] = []
    begun: dict[StreamId, bytes] = {}
    order: dict[StreamId, None] = {}
    for record in found:
        text = begun.pop(record.stream, b"") + record.text
        if b"\n" in record.text or record.stream not in order:
            order.pop(record.stream, None)
            order[record.stream] = None
        *whole, rest = text.split(b"\n")
        lines += [(record.stream, line + b"\n") for line in whole]
        if rest:
            begun[record.stream] = rest
    open_ones = len(begun)
    wanted = max(count - open_ones, 0)
    expected = lines[-wanted:] if wanted else []
    for stream in (OUT, ERR):
        shown = b"".join(r.text for r in tail if r.stream is stream)
        ended = b"".join(text for s, text in expected if s is stream)
        if count >= open_ones:
            assert shown == ended + begun.get(stream, b"")


def test_lines_whose_beginning_is_not_there_must_be_looked_for() -> None:
    found = [Record(1, OUT, b"end\n"), Record(2, OUT, b"whole\n")]
    assert last_lines(found, 1, whole=False) == [Record(2, OUT, b"whole\n")]
    assert last_lines(found, 2, whole=False) is None
    assert last_lines(found, 2, whole=True) == found
    assert last_lines(found, 9, whole=True) == found
