"""A followed log as messages, and the place up to which it was sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dockerapi.framing import StreamId
from gateway.engine.log_lines import PIECE, Lines, Place
from gateway.logdrivers import Message

OUT, ERR = StreamId.STDOUT, StreamId.STDERR
START = 1_790_000_000


def stamped(index: int, text: bytes) -> bytes:
    return b"2026-09-21T14:13:20.%09dZ %b\n" % (index, text)


def test_lines_are_cut_timed_and_ended() -> None:
    lines = Lines(Place())
    assert lines.feed(OUT, stamped(1, b"one") + b"2026-09-21T14:13:20.000000002Z tw") == [
        lines_message(1, b"one")
    ]
    assert lines.feed(OUT, b"o\n") == [lines_message(2, b"two")]
    assert lines.feed(OUT, b"2026-09-21T14:13:20.000000003Z rest") == []
    assert lines.end() == [lines_message(3, b"rest")]


def lines_message(index: int, text: bytes) -> Message:
    return Message(OUT, START * 10**9 + index, text)


def test_what_a_run_began_is_not_joined_to_the_next_one() -> None:
    lines = Lines(Place())
    lines.feed(OUT, stamped(5, b"one") + b"2026-09-21T14:13:20.000000007Z half")
    assert [message.text for message in lines.end()] == [b"half"]
    assert lines.place == Place(START * 10**9 + 8, 0)


def test_a_long_line_comes_in_pieces() -> None:
    lines = Lines(Place())
    found = lines.feed(OUT, stamped(1, b"x" * (2 * PIECE + 5)))
    assert [len(message.text) for message in found] == [PIECE, PIECE, 5]
    pieces = [message.piece for message in found if message.piece]
    assert [(piece.ordinal, piece.is_last) for piece in pieces] == [
        (1, False),
        (2, False),
        (3, True),
    ]
    assert len({piece.id for piece in pieces}) == 1


@given(st.lists(st.tuples(st.sampled_from([OUT, ERR]), st.integers(0, 5)), max_size=30), st.data())
def test_from_its_place_a_log_goes_on_without_a_gap_or_a_repetition(
    writes: list[tuple[StreamId, int]], data: st.DataObject
) -> None:
    """Times may be the same for many lines, as conmon writes them."""
    now = 0
    log: list[tuple[int, StreamId, bytes]] = []
    for number, (stream, later) in enumerate(writes):
        now += later
        log.append((START * 10**9 + now, stream, stamped(now, b"%d" % number)))
    cut = data.draw(st.integers(0, len(log)))
    first = Lines(Place())
    sent = [message.text for _, stream, text in log[:cut] for message in first.feed(stream, text)]
    place = first.place
    again = Lines(place)
    for time_ns, stream, text in log:
        if time_ns >= place.since_ns:
            sent += [message.text for message in again.feed(stream, text)]
    assert sent == [b"%d" % number for number in range(len(log))]
