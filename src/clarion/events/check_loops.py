"""The loop that asks one upstream for all streams of the same subscription, at its interval, while one is open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from clarion.clock import Clock
from clarion.errors import CloseReason, HookFailed
from clarion.events.occurrence import CursorExpired, UpstreamCursor
from clarion.events.upstream import Batch, Place, Upstream
from clarion.logs import get_logger, origin
from clarion.model import Principal
from clarion.retry import Backoff, Jitter

__all__ = ["LoopKey", "Member", "SharedLoop"]

LoopKey: TypeAlias = tuple[Principal, bool, str, bytes]
"""Whose upstream, whether that is the tenant's, the event type, and its canonical arguments."""

logger = get_logger("clarion.checks")


class Member(Protocol):
    """A stream in a loop. Nothing of it waits or raises."""

    @property
    def upstream(self) -> Upstream: ...

    def take(self, batch: Batch) -> None:
        """The next batch; it begins where the last one ended."""
        ...

    def report(self, error: HookFailed) -> None:
        """The upstream cannot be asked now; it is tried again."""
        ...

    def close(self, reason: CloseReason) -> None: ...


class SharedLoop:
    """Asks one upstream at its interval, and hands each answer to all of its streams."""

    def __init__(self, begin: Place | None, seconds: float, clock: Clock, jitter: Jitter) -> None:
        self.cursor: UpstreamCursor | None = None if begin is None else begin.cursor
        """What was handed out reaches this far; None until the upstream said where it stands."""
        self.rounds = 0
        """How many checks were begun."""
        self._seconds = seconds
        self._clock = clock
        self._jitter = jitter
        self._members: dict[Member, None] = {}
        self._failure: HookFailed | None = None

    @property
    def members(self) -> Mapping[Member, None]:
        return self._members

    def add(self, stream: Member) -> None:
        self._members[stream] = None
        if self._failure is not None:
            stream.report(self._failure)

    def remove(self, stream: Member) -> None:
        self._members.pop(stream, None)

    async def run(self) -> None:
        """Until it is cancelled, which its last stream does that leaves."""
        try:
            failures, pause = 0, 0.0 if self.cursor is None else self._seconds
            while True:
                await self._clock.sleep(pause)
                try:
                    batch = await self._next()
                except HookFailed as error:
                    failures += 1
                    self._fail(error)
                    pause = Backoff(cap=max(self._seconds, 30.0)).delay(failures, self._jitter)
                    continue
                failures, self._failure, self.cursor = 0, None, batch.end
                for stream in list(self._members):
                    stream.take(batch)
                pause = 0.0 if batch.more else self._seconds
        except Exception as error:
            logger.error("check_loop_failed", error=type(error).__name__, at=origin(error))
            for stream in list(self._members):
                stream.close(CloseReason.FAILED)

    async def _next(self) -> Batch:
        self.rounds += 1
        round, cursor, upstream = self.rounds, self.cursor, next(reversed(self._members)).upstream
        if cursor is None:
            end = await upstream.present()
            return Batch(Place(end), end, round=round)
        try:
            return await upstream.ask(Place(cursor), round)
        except CursorExpired:
            return Batch(Place(cursor), await upstream.present(), gap=True, round=round)

    def _fail(self, error: HookFailed) -> None:
        """Tell the streams, once until it is over."""
        if self._failure is None:
            self._failure = error
            for stream in list(self._members):
                stream.report(error)
