"""What all streams of a process share, and what each of them uses to wait and to tell of drops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field
from enum import Enum

from clarion.clock import Clock
from clarion.errors import CloseReason
from clarion.gate import Gate
from clarion.hub.attachment import Kinds
from clarion.hub.outlet import Outlet, TransportFailed
from clarion.hub.recorder import Recorder
from clarion.hub.ring import Entry, RingBudget
from clarion.logs import get_logger, origin
from clarion.stores.protocols import Audit, EventLog

__all__ = ["Flurry", "Interruptible", "Phase", "Shared", "Signal", "failure"]

logger = get_logger("clarion.connection")


class Phase(Enum):
    REPLAY = "replay"
    LIVE = "live"
    LAGGING = "lagging"
    CLOSED = "closed"


@dataclass(slots=True)
class Shared:
    """What all connections of a process share."""

    log: EventLog
    audit: Audit
    gate: Gate
    recorder: Recorder
    budget: RingBudget
    pages: asyncio.Semaphore
    """Held from reading a page until it is let go: how many of them there are at a time."""
    ring_capacity: int
    clock: Clock
    kinds: Kinds = field(default_factory=Kinds)


class Signal:
    """As `asyncio.Event`, for one who waits: a stream has one, and there are many streams."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> None:
        if self._is_set:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Interruptible:
    """Waits for one thing at a time, until it is interrupted for good."""

    __slots__ = ("_ended", "_waiting")

    def __init__(self) -> None:
        self._ended = False
        self._waiting: asyncio.Timeout | None = None

    def interrupt(self) -> None:
        self._ended = True
        if self._waiting is not None:
            self._waiting.reschedule(0)

    async def wait(self, condition: Callable[[], Awaitable[None]]) -> None:
        """Return when `condition` does, or when this is interrupted."""
        if self._ended:
            return
        try:
            async with asyncio.timeout(None) as self._waiting:
                await condition()
        except TimeoutError:
            if not self._ended:
                raise
        finally:
            self._waiting = None


@dataclass(slots=True)
class Flurry:
    """A flurry of drops: how many per subscription, and the last seq that was handed over before it."""

    after: int
    dropped: dict[str, int] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        for subscription in entry.subscriptions:
            self.dropped[subscription.id] = self.dropped.get(subscription.id, 0) + 1

    def frames(self, outlet: Outlet, capacity: int, attached: Container[str]) -> bytes:
        """What tells of it, a frame for each subscription that is still attached."""
        return b"".join(
            outlet.lag_frame(subscription_id, count, capacity, self.after)
            for subscription_id, count in self.dropped.items()
            if subscription_id in attached
        )


def failure(wire: str, error: BaseException | None) -> CloseReason:
    """Log what went wrong in one stream; answers what it ends with."""
    if isinstance(error, TransportFailed):
        if not isinstance(error.__cause__, ConnectionResetError):  # as every client does that leaves
            logger.warning("transport_failed", error=str(error))
        return CloseReason.CLIENT_GONE
    logger.error("stream_failed", wire=wire, error=type(error).__name__, at=origin(error))
    return CloseReason.FAILED
