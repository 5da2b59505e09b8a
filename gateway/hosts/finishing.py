"""Blocking work in a thread that has ended before its caller goes on, or goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def finish(
    pool: ThreadPoolExecutor | None,
    work: Callable[[], T],
    *,
    on_cancel: Callable[[], None] | None = None,
) -> T:
    """The result of `work` (`pool` None: in the loop's own threads).

    A cancelled caller waits for the end of the work all the same; `on_cancel` may bring it nearer.
    """
    future = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen, and of no interest any more
        raise
