"""A clock that only moves when a test says so."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

from clarion.model import MICROSECONDS

__all__ = ["FakeClock"]

START = 1_800_000_000 * MICROSECONDS
"""Where the wall clock begins: a moment in January 2027, so that nothing depends on today."""

SETTLING = 20
"""Turns of the event loop that whoever was woken gets before time moves on."""


class FakeClock:
    """A `clarion.clock.Clock`. `advance` moves both clocks and wakes sleepers in order; `jump` the wall clock alone."""

    def __init__(self, now: int = START) -> None:
        self._wall = now
        self._monotonic = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def now(self) -> int:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    @property
    def sleepers(self) -> int:
        """How many tasks wait for this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was advanced by `seconds`; at once when that is not positive."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._numbers), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Each sleeper wakes at its own moment, and has its turns before time goes on."""
        until = self._monotonic + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            at, _, woken = heapq.heappop(self._sleepers)
            self._move(at)
            if not woken.done():
                woken.set_result(None)
                await self._settle()
        self._move(until)
        await self._settle()

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back when negative, as an administrator or NTP does."""
        self._wall += round(seconds * MICROSECONDS)

    def _move(self, to: float) -> None:
        self._wall += round((to - self._monotonic) * MICROSECONDS)
        self._monotonic = to

    @staticmethod
    async def _settle() -> None:
        for _ in range(SETTLING):
            await asyncio.sleep(0)
