"""Turns at an upstream: who asks it by himself waits until few enough others do, and for his own before all others'.

A stream that catches up takes a place among its principal's, then among its tenant's, then among all of the event
type's. Each of them is first come, first served, and what waits in the next one is no more than the share in the last:
so a principal whose upstream hangs holds its share, and its other streams wait, not other people's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from clarion.clock import Clock
from clarion.errors import LimitExceeded
from clarion.events.hooks import HOOK_SECONDS
from clarion.model import Principal

__all__ = [
    "CATCH_UPS",
    "CATCH_UPS_PER_PRINCIPAL",
    "CATCH_UPS_PER_TENANT",
    "POLLS_IN_LINE",
    "POLLS_PER_PRINCIPAL",
    "TURN_SECONDS",
    "Turns",
]

CATCH_UPS = 32
"""Streams of one event type that ask its upstream by themselves at a time. Stops many that come back at once from
flooding it, and from delaying those that are up to date."""

CATCH_UPS_PER_TENANT = 8
"""Those of one tenant among them. Stops a tenant whose upstream hangs from holding up the others."""

CATCH_UPS_PER_PRINCIPAL = 4
"""Those of one principal among them. Stops it from holding up the rest of its tenant."""

POLLS_PER_PRINCIPAL = 8
"""Polls of one principal that ask the upstream of one event type at a time; more wait for their turn. Stops a caller
from turning many requests into as many calls of the upstream."""

POLLS_IN_LINE = 1_000
"""Polls of one principal that wait for their turn at one event type. Stops a caller from filling the memory."""

TURN_SECONDS = 2 * HOOK_SECONDS
"""Seconds that a poll waits for its turn. Stops an upstream that hangs from holding requests without end."""


@dataclass(slots=True)
class _Places:
    semaphore: asyncio.Semaphore
    users: int = 0
    """Who holds one of the places, or waits for it."""


class Turns:
    """The turns at all upstreams of a library. Kept in memory only while somebody has one or waits for it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._places: dict[Hashable, _Places] = {}

    def __len__(self) -> int:
        return len(self._places)

    def busy(self, name: str, principal: Principal) -> bool:
        """Whether `catch_up` has to wait now."""
        keys = (("catch-up", name), ("catch-up", name, principal.tenant), ("catch-up", name, principal))
        return any(key in self._places and self._places[key].semaphore.locked() for key in keys)

    @asynccontextmanager
    async def catch_up(self, name: str, principal: Principal) -> AsyncIterator[None]:
        """Held by a stream of the event type `name` while it asks the upstream by itself."""
        async with (
            self._place(("catch-up", name, principal), CATCH_UPS_PER_PRINCIPAL),
            self._place(("catch-up", name, principal.tenant), CATCH_UPS_PER_TENANT),
            self._place(("catch-up", name), CATCH_UPS),
        ):
            yield

    @asynccontextmanager
    async def poll(self, name: str, principal: Principal, seconds: float = TURN_SECONDS) -> AsyncIterator[None]:
        """Held by a poll of the event type `name` while it asks the upstream.

        Raises LimitExceeded when it is not its turn within `seconds`, or too many wait already.
        """
        key = ("poll", name, principal)
        known = self._places.get(key)
        in_line = -1 if known is None or not known.semaphore.locked() else known.users - POLLS_PER_PRINCIPAL
        if in_line >= (POLLS_IN_LINE if seconds > 0 else 0):
            raise _too_many(name)
        async with self._place(key, POLLS_PER_PRINCIPAL, name, seconds):
            yield

    @asynccontextmanager
    async def _place(
        self, key: Hashable, most: int, name: str = "", seconds: float | None = None
    ) -> AsyncIterator[None]:
        places = self._places.get(key)
        if places is None:
            places = self._places[key] = _Places(asyncio.Semaphore(most))
        places.users += 1
        try:
            if seconds is None or not places.semaphore.locked():
                await places.semaphore.acquire()
            elif not await self._within(seconds, places.semaphore):
                raise _too_many(name)
            try:
                yield
            finally:
                places.semaphore.release()
        finally:
            places.users -= 1
            if not places.users:
                del self._places[key]

    async def _within(self, seconds: float, semaphore: asyncio.Semaphore) -> bool:
        """Acquire it; False when that takes longer."""
        try:
            async with asyncio.timeout(None) as until:
                timer = asyncio.ensure_future(self._expire(seconds, until))
                try:
                    await semaphore.acquire()
                finally:
                    timer.cancel()
        except TimeoutError:
            return False
        return True

    async def _expire(self, seconds: float, until: asyncio.Timeout) -> None:
        await self._clock.sleep(seconds)
        until.reschedule(0)


def _too_many(name: str) -> LimitExceeded:
    return LimitExceeded(
        f"{POLLS_PER_PRINCIPAL} of your polls of {name[:64]} are being answered, and no more are at a time; "
        "poll again shortly, or open a stream",
        details={"limit": "polls", "max": POLLS_PER_PRINCIPAL},
    )
