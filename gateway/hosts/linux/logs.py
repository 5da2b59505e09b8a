"""`docker logs` from conmon's files: all of it, the tail, a span of time, and on as it grows.

    logfiles.LogFiles       blocks of whole lines of the rotated files and the current one
           |
    k8sfile.Renderer        text blocks by stream

Reads that may wait for a disk, and rendering that takes long, run in threads; what a follower wakes up for is
done at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from gateway.hosts.linux.growth import watching
from gateway.hosts.linux.k8sfile import Block, Renderer
from gateway.hosts.linux.logfiles import AT_ONCE, LogFiles, Position
from gateway.zones.host import LogQuery

_STEPS = 4


class Ending(Protocol):
    """Set when nothing more will be written; an asyncio.Event is one."""

    def is_set(self) -> bool: ...
    async def wait(self) -> object: ...


async def read_logs(
    path: Path, query: LogQuery, *, ended: Ending | None = None, tty: bool = False
) -> AsyncIterator[Block]:
    """Blocks of text in the order they were written; none if there is no log yet.

    With `query.follow` goes on until `ended` is set and the file is read to its end, or `until_ns` passes;
    `ended` None = it has ended.  With `tty` all text is of stdout.
    """
    renderer = Renderer(query, tty=tty)
    with ExitStack() as stack:
        changed = asyncio.Event()
        following = query.follow and ended is not None and path.parent.is_dir()
        if following:
            # Watch before reading, so that no write falls between the two.
            stack.enter_context(watching(path, changed.set))
        files = LogFiles(path)
        stack.callback(files.close)
        first = await asyncio.to_thread(_begin, files, query.tail)
        for block in renderer.render(first):
            yield block
        stop_at = None if following else files.end()
        is_over = not following
        while not renderer.finished:
            pending = files.pending()
            if pending > AT_ONCE and not (renderer.is_plain and files.is_at_hand()):
                blocks, any_read = await asyncio.to_thread(_steps, files, renderer, stop_at)
            else:
                # A fifth of a millisecond; the way to a thread and back costs as much.
                blocks, any_read = _step(files, renderer, stop_at)
                if pending > AT_ONCE:
                    await asyncio.sleep(0)
            for block in blocks:
                yield block
            if any_read:
                continue
            if is_over or ended is None:
                break
            # What is written before the end is seen is read in the round after it.
            is_over = await _wait(changed, ended, query.until_ns)
            changed.clear()
        if not renderer.finished:
            for block in renderer.render(files.torn()):
                yield block
        for block in renderer.rest():
            yield block


def _begin(files: LogFiles, tail: int | None) -> bytes:
    with files.lock:
        return files.begin(tail)


_Step = tuple[list[Block], bool]


def _step(files: LogFiles, renderer: Renderer, stop_at: Position | None) -> _Step:
    with files.lock:
        log, size = files.read(stop_at)
    return renderer.render(log, size), size > 0


def _steps(files: LogFiles, renderer: Renderer, stop_at: Position | None) -> _Step:
    """Some in one go, in a thread."""
    blocks, any_read = _step(files, renderer, stop_at)
    for _ in range(_STEPS - 1):
        if not any_read or renderer.finished:
            break
        more, any_read = _step(files, renderer, stop_at)
        blocks += more
    return blocks, any_read


async def _wait(changed: asyncio.Event, ended: Ending, until_ns: int | None) -> bool:
    """Until the log may have grown; True if it will not grow any more (or nobody wants it)."""
    if ended.is_set():
        return True
    timeout_s = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
    if timeout_s is not None and timeout_s <= 0:
        return True
    try:
        async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
            end = group.create_task(_ending(ended, changed))
            await changed.wait()
            over = end.done()
            end.cancel()
    except TimeoutError:
        return True
    return over


async def _ending(ended: Ending, changed: asyncio.Event) -> None:
    await ended.wait()
    changed.set()
