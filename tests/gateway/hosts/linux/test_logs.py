import asyncio
import datetime
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.framing import StreamId, frame
from gateway.hosts.linux import logfiles
from gateway.hosts.linux.k8sfile import Renderer
from gateway.hosts.linux.logs import read_logs
from gateway.zones.host import LogQuery

OUT, ERR = StreamId.STDOUT, StreamId.STDERR
START_NS = 1_790_000_000 * 10**9
PIECE = 8192


def stamp(ns: int, offset: str = "+00:00") -> str:
    sign = -1 if offset[0] == "-" else 1
    zone = datetime.timezone(
        sign * datetime.timedelta(hours=int(offset[1:3]), minutes=int(offset[4:6]))
    )
    moment = datetime.datetime.fromtimestamp(ns // 10**9, zone)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09d}{offset}"


def entry(stream: StreamId, text: bytes, *, full: bool = True, ns: int = START_NS, offset="+00:00"):
    name = "stdout" if stream is OUT else "stderr"
    return f"{stamp(ns, offset)} {name} {'F' if full else 'P'} ".encode() + text + b"\n"


def conmon_writes(chunks: list[tuple[StreamId, bytes]]) -> bytes:
    """What conmon's k8s-file driver makes of these writes."""
    log = bytearray()
    for index, (stream, data) in enumerate(chunks):
        ns = START_NS + index * 1000
        for start in range(0, len(data), PIECE):
            *whole, last = data[start : start + PIECE].split(b"\n")
            for line in whole:
                log += entry(stream, line, ns=ns)
            if last:
                log += entry(stream, last, full=False, ns=ns)
    return bytes(log)


async def collected(blocks: AsyncIterator[tuple[StreamId, bytes]]) -> dict[StreamId, bytes]:
    text = {OUT: b"", ERR: b""}
    async for stream, data in blocks:
        assert data
        text[stream] += data
    return text


def read(path: Path, **query: object) -> dict[StreamId, bytes]:
    return asyncio.run(collected(read_logs(path, LogQuery(**query))))  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "ctr.log"


@pytest.fixture
def open_descriptors() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


chunks = st.lists(
    st.tuples(
        st.sampled_from([OUT, ERR]),
        st.one_of(
            st.binary(min_size=1, max_size=60),
            st.sampled_from(
                [b"\n", b"a\n", b"no newline", b"\n\n\n", b"x" * 9000, b"y" * 8192 + b"\n"]
            ),
        ),
    ),
    max_size=20,
)


@given(chunks)
def test_whatever_was_written_is_read_back_per_stream(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("logs") / "ctr.log"
    path.write_bytes(conmon_writes(written))
    text = read(path)
    for stream in (OUT, ERR):
        assert text[stream] == b"".join(data for s, data in written if s == stream)


@given(chunks, st.integers(1, 8))
def test_a_tail_is_the_end_of_the_whole(tmp_path_factory, written, count):
    path = tmp_path_factory.mktemp("logs") / "ctr.log"
    path.write_bytes(conmon_writes(written))
    whole, tail = read(path), read(path, tail=count)
    for stream in (OUT, ERR):
        assert whole[stream].endswith(tail[stream])
        before = whole[stream][: len(whole[stream]) - len(tail[stream])]
        assert before.endswith(b"\n") or not before or not tail[stream]
    # Two lines that were begun and not ended cannot be told apart by age: both are shown.
    assert lines_of(tail) == min(count, lines_of(whole)) or (count == 1 and lines_of(tail) == 2)


def lines_of(text: dict[StreamId, bytes]) -> int:
    return sum(
        data.count(b"\n") + (not data.endswith(b"\n") and bool(data)) for data in text.values()
    )


def test_tails_of_many_sizes_are_exact_over_block_borders(log, monkeypatch):
    monkeypatch.setattr(logfiles, "_BACKWARD", 100)
    log.write_bytes(b"".join(entry(OUT, b"%d" % n) for n in range(100)))
    for count in (1, 2, 3, 50, 99, 100, 101):
        expected = b"".join(b"%d\n" % n for n in range(max(0, 100 - count), 100))
        assert read(log, tail=count)[OUT] == expected
    assert read(log, tail=0) == {OUT: b"", ERR: b""}


def test_a_tail_counts_lines_of_both_streams_before_one_is_chosen(log):
    log.write_bytes(entry(OUT, b"a") + entry(OUT, b"b") + entry(ERR, b"c"))
    assert read(log, tail=2, stderr=False) == {OUT: b"b\n", ERR: b""}


def test_a_line_in_pieces_between_lines_of_the_other_stream_comes_whole_in_a_tail(log):
    log.write_bytes(
        entry(OUT, b"old")
        + entry(OUT, b"begun ", full=False)
        + entry(ERR, b"e1")
        + entry(ERR, b"e2")
        + entry(OUT, b"ended")
    )
    assert read(log, tail=1) == {OUT: b"begun ended\n", ERR: b""}


def test_the_missing_newline_at_the_end_stays_missing(log):
    log.write_bytes(entry(OUT, b"a") + entry(OUT, b"prompt> ", full=False))
    assert read(log)[OUT] == b"a\nprompt> "
    assert read(log, tail=1)[OUT] == b"prompt> "
    assert read(log, tail=2)[OUT] == b"a\nprompt> "


def test_timestamps_have_nine_digits_and_z_whatever_the_offset_of_the_log(log):
    log.write_bytes(
        entry(OUT, b"a", ns=START_NS + 7) + entry(OUT, b"b", ns=START_NS + 8, offset="+05:30")
    )
    at = stamp(START_NS)[:19]
    expected = f"{at}.000000007Z a\n{at}.000000008Z b\n".encode()
    assert read(log, timestamps=True)[OUT] == expected


HEAD_LIKE = b"2026-09-21T14:13:20.000000000+00:00 stdout F "
texts = st.one_of(
    st.binary(max_size=20).map(lambda text: text.replace(b"\n", b"")),
    st.sampled_from([b"", b"+00:00 stdout F x", HEAD_LIKE, b" stderr F ", b" stdout P ", b"\r"]),
)


@given(st.lists(texts, max_size=8), st.booleans(), st.booleans())
def test_times_are_the_same_whatever_a_text_looks_like(written, frames, tty):
    log = b"".join(entry(OUT, text, ns=START_NS + at) for at, text in enumerate(written))
    renderer = Renderer(LogQuery(timestamps=True, frames=frames), tty=tty)
    lines = [
        stamp(START_NS + at)[:29].encode() + b"Z " + text + b"\n" for at, text in enumerate(written)
    ]
    expected = b"".join(frame(OUT, line) for line in lines) if frames else b"".join(lines)
    assert b"".join(text for _, text in renderer.render(log)) == expected


@given(chunks, st.booleans(), st.data())
def test_text_and_times_are_the_same_however_the_log_s_lines_come_together(written, times, data):
    lines = [line + b"\n" for line in conmon_writes(written).split(b"\n")[:-1]]
    cut = data.draw(st.lists(st.integers(0, len(lines)), max_size=4).map(sorted))
    at_once = text_of(LogQuery(follow=True, timestamps=times, since_ns=0), [lines])
    borders = zip([0, *cut], [*cut, len(lines)], strict=True)
    parts = [lines[start:end] for start, end in borders]
    assert text_of(LogQuery(follow=True, timestamps=times), parts) == at_once


def text_of(query: LogQuery, parts: list[list[bytes]]) -> dict[StreamId, bytes]:
    """Rendered part by part."""
    renderer, text = Renderer(query), {OUT: b"", ERR: b""}
    for part in parts:
        for stream, block in renderer.render(b"".join(part)):
            text[stream] += block
    return text


def test_a_line_in_pieces_has_one_timestamp_and_one_prefix(log):
    log.write_bytes(
        entry(OUT, b"a", full=False, ns=START_NS)
        + entry(OUT, b"", ns=START_NS + 5)
        + entry(OUT, b"b")
    )
    at = stamp(START_NS)[:29].encode()
    text = read(log, timestamps=True, prefix="k=v ")[OUT]
    assert text == at + b"Z k=v a\n" + at + b"Z k=v b\n"


@pytest.mark.parametrize("offset", ["+00:00", "-08:00"])
def test_since_and_until_are_exact_to_the_nanosecond_and_include_their_bounds(log, offset):
    log.write_bytes(
        b"".join(entry(OUT, b"%d" % n, ns=START_NS + n, offset=offset) for n in range(9))
    )
    assert read(log, since_ns=START_NS + 3, until_ns=START_NS + 5)[OUT] == b"3\n4\n5\n"
    assert read(log, since_ns=START_NS + 9)[OUT] == b""
    assert read(log, until_ns=START_NS - 1)[OUT] == b""


def test_rotated_files_are_read_oldest_first(log):
    log.with_name("ctr.log.2").write_bytes(entry(OUT, b"1") + entry(OUT, b"2"))
    log.with_name("ctr.log.1").write_bytes(entry(OUT, b"3"))
    log.write_bytes(entry(OUT, b"4"))
    assert read(log)[OUT] == b"1\n2\n3\n4\n"
    assert read(log, tail=3)[OUT] == b"2\n3\n4\n"


def test_a_zone_that_never_ran_has_no_log(log):
    assert read(log) == {OUT: b"", ERR: b""}
    assert read(log, follow=True, tail=5) == {OUT: b"", ERR: b""}


def _bytes_read() -> int:
    """By this process so far, of whatever file."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_small_tail_of_a_big_log_does_not_read_all_of_it(log):
    log.write_bytes(entry(OUT, b"x" * 79) * 400_000)
    before = _bytes_read()
    assert read(log, tail=10)[OUT] == (b"x" * 79 + b"\n") * 10
    assert _bytes_read() - before < log.stat().st_size / 20


def test_a_begun_line_at_the_end_does_not_make_a_tail_read_all(log):
    log.write_bytes(entry(OUT, b"x" * 79) * 400_000 + entry(OUT, b"begun", full=False))
    before = _bytes_read()
    assert read(log, tail=2)[OUT] == b"x" * 79 + b"\nbegun"
    assert _bytes_read() - before < log.stat().st_size / 20


class Follower:
    """Collects what a follow delivers, and waits for text."""

    def __init__(self, blocks: AsyncIterator[tuple[StreamId, bytes]]) -> None:
        self.text = b""
        self._blocks = blocks
        self._grown = asyncio.Condition()

    async def run(self) -> None:
        async for _, data in self._blocks:
            async with self._grown:
                self.text += data
                self._grown.notify_all()

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(10), self._grown:
            await self._grown.wait_for(lambda: text in self.text)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def test_following_delivers_at_once_and_ends_with_the_zone(log, open_descriptors):
    log.write_bytes(entry(OUT, b"before"))
    ended = asyncio.Event()
    follower = Follower(read_logs(log, LogQuery(follow=True), ended=ended))
    async with asyncio.TaskGroup() as group:
        group.create_task(follower.run())
        await follower.until(b"before\n")
        for n in range(20):
            append(log, entry(OUT, b"line %d" % n))
            await follower.until(b"line %d\n" % n)
        append(log, entry(OUT, b"last words", full=False))
        ended.set()
    assert follower.text.endswith(b"line 19\nlast words")


async def test_following_starts_before_the_log_exists_and_goes_over_rotations(
    log, open_descriptors
):
    ended = asyncio.Event()
    follower = Follower(read_logs(log, LogQuery(follow=True), ended=ended))
    async with asyncio.TaskGroup() as group:
        group.create_task(follower.run())
        await asyncio.sleep(0)
        append(log, entry(OUT, b"one"))
        await follower.until(b"one\n")
        log.rename(log.with_name("ctr.log.1"))
        append(log.with_name("ctr.log.1"), entry(OUT, b"late"))
        append(log, entry(OUT, b"two"))
        await follower.until(b"two\n")
        log.with_name("ctr.log.1").rename(log.with_name("ctr.log.2"))
        log.rename(log.with_name("ctr.log.1"))
        append(log, entry(OUT, b"three"))
        ended.set()
    assert follower.text == b"one\nlate\ntwo\nthree\n"


async def test_following_ends_at_an_until_in_the_future(log):
    log.write_bytes(entry(OUT, b"a"))
    query = LogQuery(follow=True, until_ns=time.time_ns() + 50_000_000)
    async with asyncio.timeout(5):
        text = await collected(read_logs(log, query, ended=asyncio.Event()))
    assert text[OUT] == b"a\n"


async def test_a_follower_that_is_cancelled_leaves_no_descriptor(log, open_descriptors):
    log.write_bytes(entry(OUT, b"a") * 100_000)
    blocks = read_logs(log, LogQuery(follow=True), ended=asyncio.Event())
    await anext(blocks)
    await blocks.aclose()
    blocks = read_logs(log, LogQuery(follow=True, since_ns=START_NS + 1), ended=asyncio.Event())
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(blocks)
    await blocks.aclose()


async def test_a_line_torn_by_a_crash_is_shown_at_the_end_of_the_zone_only(log):
    log.write_bytes(entry(OUT, b"whole") + entry(OUT, b"torn apart")[:-6])
    assert (await collected(read_logs(log, LogQuery())))[OUT] == b"whole\n"
    ended = asyncio.Event()
    ended.set()
    text = await collected(read_logs(log, LogQuery(follow=True), ended=ended))
    assert text[OUT] == b"whole\ntorn \n"
