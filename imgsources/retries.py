"""How often a transfer that broke off is begun again, and after which pause: dockerd's counts and words.

    failure 1       2        3        4        5
            5 s     10 s     15 s     20 s     the error

The seconds are counted down aloud: `Retrying in 5 seconds`, `Retrying in 4 seconds` ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

_STEP = 5


@dataclass(frozen=True, slots=True)
class Retries:
    """`attempts` in a row may fail; `second_s` is how long a second of the countdown takes."""

    attempts: int = 5
    second_s: float = 1.0

    async def pause(self, failures: int, tell: Callable[[str], None]) -> bool:
        """Wait after so many failures in a row; False at once if that was the last attempt."""
        if failures >= self.attempts:
            return False
        for seconds in range(failures * _STEP, 0, -1):
            tell(f"Retrying in {seconds} second{'' if seconds == 1 else 's'}")
            await asyncio.sleep(self.second_s)
        return True
