"""What a subscription delivers: polled or streamed, resumed where it broke, each event once (SEP-3415 Appendix A)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from clarion.client.mcp_events.cursors import CursorStore, subscription_key
from clarion.client.mcp_events.values import (
    CONNECTION_CLOSED,
    INTERNAL,
    ConnectionLost,
    EventOccurrence,
    EventsError,
    Failure,
    Gap,
    Item,
    Mode,
    Terminated,
    parse_error,
    parse_occurrence,
)
from clarion.client.mcp_events.wire import HEARTBEAT, End, Ended, Frame, Pulse, Refused, Stream, Wire
from clarion.clock import Clock
from clarion.retry import Backoff, Jitter

__all__ = ["Delivery", "Host", "Pace", "Wanted"]

MAX_SEEN = 4096
"""Event ids that a subscription remembers. Stops its memory from growing for as long as it runs."""

SAVE_SECONDS = 1.0
"""Between two writes of the cursor while events keep coming; when none waits it is written at once."""

POLL_SECONDS = 60.0
"""How long one poll may take. Stops a server that never answers from holding a subscription for ever."""

STEADY_SECONDS = 10.0
"""A stream that lasted so long worked: that it ended is the first failure again."""

DEFAULT_POLL_MS = 30_000
"""Until the next poll, when the server does not say."""

MAX_POLL_MS = 3_600_000
"""The longest wait that a server may ask for. Stops a wrong number from silencing a subscription for good."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast this client is: `floor_ms` between polls, `heartbeat` seconds until a server's own rhythm is known."""

    clock: Clock
    floor_ms: int
    heartbeat: float
    backoff: Backoff
    jitter: Jitter

    def delay(self, failures: int) -> float:
        return self.backoff.delay(failures, self.jitter)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the caller asked for. `max_age` in seconds."""

    name: str
    arguments: Mapping[str, Any]
    mode: Mode | None
    cursor: str | None
    max_age: float | None


class Host(Protocol):
    """What a subscription needs of its client."""

    @property
    def wire(self) -> Wire: ...
    @property
    def pace(self) -> Pace: ...
    @property
    def cursors(self) -> CursorStore: ...

    async def modes(self, name: str, mode: Mode | None) -> tuple[Mode, ...]:
        """Raises what ends the subscription before it began; Refused for what may pass."""
        ...

    def forget_list(self) -> None: ...


class _NoStream(Exception):
    """The server offers push, but no stream of it comes through; polling may do."""


class Delivery:
    """The items of one subscription, and where it stands. `run` is called once."""

    def __init__(self, host: Host, wanted: Wanted) -> None:
        self._host = host
        self._wanted = wanted
        self._key = subscription_key(wanted.name, wanted.arguments)
        self.cursor = wanted.cursor
        self._saved: str | None = None
        self._saved_at = 0.0
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._began = False
        self.active = asyncio.Event()

    async def run(self) -> AsyncGenerator[Item, None]:
        wanted, host = self._wanted, self._host
        failures, modes = 0, None
        while modes is None:
            try:
                modes = await host.modes(wanted.name, wanted.mode)
            except Refused as refused:  # a list that fails for now, as a stream or a poll may
                failures += 1
                again = Failure(refused.error, host.pace.delay(failures))
                yield again
                await host.pace.clock.sleep(again.retry_seconds or 0.0)
        self._saved = await host.cursors.get(self._key)
        if self.cursor is None:
            self.cursor = self._saved
        try:
            if modes[0] == "push":
                try:
                    async with aclosing(self._push(fallback="poll" in modes)) as items:
                        async for item in items:
                            yield item
                    return
                except _NoStream:
                    pass
            async with aclosing(self._poll()) as items:
                async for item in items:
                    yield item
        finally:
            await self._save()

    # Push

    async def _push(self, *, fallback: bool) -> AsyncGenerator[Item, None]:
        failures = 0
        pulse = Pulse(self._host.pace.heartbeat)
        while True:
            since = self._host.pace.clock.monotonic()
            async with self._host.wire.stream("events/stream", self._params(), pulse) as stream:
                async with aclosing(self._frames(stream)) as frames:
                    async for found in frames:
                        if isinstance(found, _Alive):
                            failures = 0
                            continue
                        yield found
                        if isinstance(found, Terminated):
                            return
                ended = await stream.next()
            if not isinstance(ended, Ended) or ended.end is End.CLOSED:
                raise ConnectionLost("the client of this subscription was closed")
            if ended.end is End.FULL:
                continue
            if ended.end is End.SILENT and not self._began and fallback:
                raise _NoStream
            failures = 1 if self._host.pace.clock.monotonic() - since >= STEADY_SECONDS else failures + 1
            if ended.end is End.GRACEFUL:
                await self._host.pace.clock.sleep(self._host.pace.delay(failures))
                continue
            error = ended.error or EventsError(CONNECTION_CLOSED, "the server fell silent")
            again = self._judge(error, failures)
            yield again
            if isinstance(again, Terminated):
                await self._end(again)
                return
            await self._host.pace.clock.sleep(again.retry_seconds or 0.0)

    async def _frames(self, stream: Stream) -> AsyncGenerator[Item | _Alive, None]:
        """What one stream brings, until it ends; `_Alive` where it proves that it works."""
        fresh = True
        while True:
            if not stream.ready:
                await self._save()
            frame = await stream.next()
            if isinstance(frame, Ended):
                return
            cursor = _cursor(frame.params)
            if frame.method == "notifications/events/active":
                # Without replay, what happened between two streams is lost; with it the server says so by `truncated`.
                missed = frame.params.get("truncated") is True if cursor else fresh and self._began
                fresh, self._began = False, True
                self.active.set()
                if missed:
                    yield Gap(cursor)
                await self._advance(cursor)
            elif frame.method == "notifications/events/event":
                yield _ALIVE
                async for item in self._event(frame):
                    yield item
            elif frame.method == HEARTBEAT:
                yield _ALIVE
                await self._advance(cursor)
            elif frame.method == "notifications/events/error":
                yield Failure(parse_error(frame.params.get("error")))
            elif frame.method == "notifications/events/terminated":
                ended = Terminated(parse_error(frame.params.get("error")))
                await self._end(ended)
                yield ended
                return

    async def _event(self, frame: Frame) -> AsyncGenerator[Item, None]:
        occurrence = parse_occurrence(frame.params)
        if occurrence is None:
            yield _MALFORMED
            return
        if self._is_new(occurrence):
            yield occurrence
        await self._advance(occurrence.cursor)

    # Poll

    async def _poll(self) -> AsyncGenerator[Item, None]:
        failures = 0
        while True:
            try:
                page = await self._host.wire.request("events/poll", self._params(), seconds=POLL_SECONDS)
            except Refused as refused:
                failures += 1
                again = self._judge(refused.error, failures)
                yield again
                if isinstance(again, Terminated):
                    await self._end(again)
                    return
                await self._host.pace.clock.sleep(again.retry_seconds or 0.0)
                continue
            failures = 0
            self.active.set()
            cursor, before = _cursor(page), self.cursor
            if page.get("truncated") is True and cursor is not None:
                yield Gap(cursor)
            for item in self._items(page.get("events"), cursor):
                yield item
            await self._advance(cursor)
            await self._save()
            # Only when this page got us further: who says so for ever must not be asked in a loop.
            if page.get("hasMore") is True and cursor is not None and cursor != before:
                continue
            await self._host.pace.clock.sleep(self._interval(page.get("nextPollMs")))

    def _items(self, events: object, cursor: str | None) -> list[Item]:
        """What one page brings that is new. Its last event has the page's cursor: after it, all before was handled."""
        items: list[Item] = []
        last: tuple[int, EventOccurrence] | None = None
        for body in events if isinstance(events, list) else ():
            occurrence = parse_occurrence(body)
            if occurrence is None:
                items.append(_MALFORMED)
            elif self._is_new(occurrence):
                last = len(items), occurrence
                items.append(occurrence)
        if last is not None and cursor is not None:
            at, occurrence = last
            items[at] = replace(occurrence, cursor=cursor)
        return items

    def _interval(self, next_ms: object) -> float:
        """Seconds until the next poll."""
        told = isinstance(next_ms, int | float) and not isinstance(next_ms, bool) and next_ms >= 0
        wanted = float(next_ms) if told and isinstance(next_ms, int | float) else DEFAULT_POLL_MS
        return max(min(wanted, MAX_POLL_MS), self._host.pace.floor_ms) / 1000

    # Both

    def _params(self) -> dict[str, Any]:
        wanted = self._wanted
        params: dict[str, Any] = {"name": wanted.name, "arguments": dict(wanted.arguments), "cursor": self.cursor}
        if wanted.max_age is not None:
            params["maxAgeMs"] = round(wanted.max_age * 1000)
        return params

    def _judge(self, error: EventsError, failures: int) -> Failure | Terminated:
        """What an error means for this subscription. Raises ConnectionLost when nothing can be sent any more."""
        if self._host.wire.lost(error):
            raise ConnectionLost(f"the connection to the server is over: {error.message}")
        if error.permanent:
            return Terminated(error)
        return Failure(error, self._host.pace.delay(failures))

    async def _end(self, terminated: Terminated) -> None:
        """The list that this subscription was made from is no longer right, and a type that is gone has no position."""
        if terminated.error.kind in ("NotFound", "Unsupported", "InvalidParams"):
            self._host.forget_list()
        if terminated.error.kind == "NotFound":
            self.cursor = None
            await self._save()

    def _is_new(self, occurrence: EventOccurrence) -> bool:
        if occurrence.event_id in self._seen:
            self._seen.move_to_end(occurrence.event_id)
            return False
        self._seen[occurrence.event_id] = None
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return True

    async def _advance(self, cursor: str | None) -> None:
        """Everything up to `cursor` was handled; None says that there is no replay, and nothing to keep."""
        self.cursor = cursor
        if self._host.pace.clock.monotonic() - self._saved_at >= SAVE_SECONDS:
            await self._save()

    async def _save(self) -> None:
        if self.cursor == self._saved:
            return
        self._saved_at = self._host.pace.clock.monotonic()
        if self.cursor is None:
            await self._host.cursors.delete(self._key)
        else:
            await self._host.cursors.put(self._key, self.cursor)
        self._saved = self.cursor


class _Alive:
    """The stream works: failures before it do not count any more."""


_ALIVE = _Alive()
_MALFORMED = Failure(EventsError(INTERNAL, "the server sent an event without a valid eventId, name, timestamp or data"))


def _cursor(params: Mapping[str, Any]) -> str | None:
    """Absent, null and anything that is no text mean the same: no replay from here."""
    found = params.get("cursor")
    return found if isinstance(found, str) else None
