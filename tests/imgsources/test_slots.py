"""Slots for transfers: their order, and their number while they are in use."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from imgsources.slots import Slots


class Guests:
    """Tasks that take a slot each and hold it until they are told to go."""

    def __init__(self, slots: Slots, count: int, group: asyncio.TaskGroup) -> None:
        self.inside: list[int] = []
        self.doors = [asyncio.Event() for _ in range(count)]
        self.tasks = [group.create_task(self._visit(slots, n)) for n in range(count)]

    async def _visit(self, slots: Slots, number: int) -> None:
        async with slots:
            self.inside.append(number)
            await self.doors[number].wait()
            self.inside.remove(number)

    async def after(self, *leaving: int) -> list[int]:
        """Who is inside when these have gone and nobody moves any more."""
        for number in leaving:
            self.doors[number].set()
        for _ in range(10):
            await asyncio.sleep(0)
        return self.inside


async def test_who_comes_first_is_served_first() -> None:
    slots = Slots(2)
    async with asyncio.TaskGroup() as group:
        guests = Guests(slots, 5, group)
        assert await guests.after() == [0, 1]
        assert slots.are_taken
        assert await guests.after(1) == [0, 2]
        assert await guests.after(0, 2) == [3, 4]
        await guests.after(3, 4)
    assert not slots.are_taken


async def test_the_number_may_grow_and_shrink() -> None:
    slots = Slots(1)
    async with asyncio.TaskGroup() as group:
        guests = Guests(slots, 5, group)
        assert await guests.after() == [0]
        slots.resize(3)
        assert await guests.after() == [0, 1, 2]
        slots.resize(1)
        assert await guests.after(0) == [1, 2], "who is inside stays"
        assert await guests.after(1, 2) == [3]
        assert await guests.after(3) == [4]
        await guests.after(4)


async def test_who_is_cancelled_while_it_waits_takes_no_slot() -> None:
    slots = Slots(1)
    async with asyncio.TaskGroup() as group:
        guests = Guests(slots, 3, group)
        assert await guests.after() == [0]
        guests.doors[0].set()
        await asyncio.sleep(0)
        guests.tasks[1].cancel()  # perhaps just when its turn has come
        assert await guests.after() == [2]
        await guests.after(2)
    with suppress(asyncio.CancelledError):
        await guests.tasks[1]
    assert not slots.are_taken
