"""Event types over an upstream with a cursor of its own: polled directly, streamed from one shared loop.

A poll asks the upstream itself, and keeps nothing. Streams of the same subscription share one loop (`check_streams`),
so that the upstream is asked once for all of them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from typing import TypeAlias

from clarion.clock import Clock
from clarion.encoding import canonical
from clarion.errors import ClarionError, CloseReason, HookFailed, LimitExceeded
from clarion.events.check_loops import LoopKey, SharedLoop
from clarion.events.check_streams import WIRE, CheckStream
from clarion.events.check_turns import CATCH_UPS, TURN_SECONDS, Turns
from clarion.events.hooks import HookRunner
from clarion.events.occurrence import Context, CursorExpired
from clarion.events.upstream import EVENTS_AT_ONCE, Batch, CheckType, Place, Reader, Upstream
from clarion.hub.protocols import Lens, Sink
from clarion.hub.recorder import Recorder
from clarion.hub.ring import Parcel
from clarion.model import Outcome, Principal, Subscription
from clarion.retry import Jitter
from clarion.wires.mcp_events.cursors import Cursors
from clarion.wires.mcp_events.log import MAX_WAITING_POLLS
from clarion.wires.mcp_events.protocol import Live, Occurrence, Portion, StreamFraming, Wanted

__all__ = ["CATCH_UPS", "HEARTBEAT_SECONDS", "LOOPS_PER_PRINCIPAL", "CheckSource", "Checks", "Counted"]

HEARTBEAT_SECONDS = 15.0
"""Seconds between two heartbeats of a stream: half of what SEP-3415 asks for ("Heartbeat")."""

LOOPS_PER_PRINCIPAL = 100
"""Subscriptions of one principal that have a loop at an upstream, however many streams share each. Stops a caller who
varies the arguments from making the server ask upstreams without end."""

Counted: TypeAlias = Callable[[Principal], AbstractContextManager[None]]
"""See `clarion.hub.hub.Hub.counted`."""


class Checks:
    """What all check sources of a library share. Streams need it `running`; polls do not. `counted` holds their streams
    to the limits that all open streams have together."""

    def __init__(
        self,
        runner: HookRunner,
        recorder: Recorder,
        clock: Clock,
        *,
        jitter: Jitter = random.random,
        counted: Counted | None = None,
    ) -> None:
        self.runner = runner
        self.recorder = recorder
        self.clock = clock
        self.jitter = jitter
        self._loops: dict[LoopKey, tuple[SharedLoop, asyncio.Task[None]]] = {}
        self._streams: dict[CheckStream, None] = {}
        self.turns = Turns(clock)
        self._counted: Counted = counted or (lambda principal: nullcontext())
        self._wanted: dict[Principal, Counter[LoopKey]] = {}
        """How many open streams of each principal want each loop."""
        self._polls: set[asyncio.Timeout] = set()
        self._polling: Counter[Principal] = Counter()
        self._tasks: asyncio.TaskGroup | None = None
        self._closing = False

    @property
    def loops(self) -> int:
        """How many upstreams are being asked for streams."""
        return len(self._loops)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Checks]:
        """Streams live while the block runs; those that are left at its end are closed."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            heart = tasks.create_task(self._beat())
            try:
                yield self
            finally:
                self._tasks = None
                heart.cancel()
                self.close()
                for _, task in self._loops.values():
                    task.cancel()
                self._loops.clear()

    def close(self) -> None:
        """End every stream and answer every poll with what it has, and refuse new streams; called as soon as the
        server is told to stop."""
        self._closing = True
        polls, self._polls = self._polls, set()
        for until in polls:
            until.reschedule(0)
        for stream in list(self._streams):
            stream.close(CloseReason.SERVER_STOPPING)

    def source(
        self, type: CheckType, wanted: Wanted, subscription: Subscription, lens: Lens | None = None
    ) -> CheckSource:
        """What `wanted` asks of an event type; `subscription` is its name in audit rows."""
        upstream = Upstream(type, Context.of(wanted), self.runner, self.clock)
        cursors = Cursors("", wanted.caller.principal.tenant, wanted.name)
        reader = Reader(upstream, subscription, cursors, lens, wanted.cursor, wanted.max_age)
        return CheckSource(self, wanted, reader)

    @asynccontextmanager
    async def open(self, stream: CheckStream, principal: Principal, key: LoopKey) -> AsyncIterator[CheckStream]:
        """The stream gets heartbeats while the block runs, and is in no loop after it. Raises LimitExceeded."""
        if self._tasks is None or self._closing:
            raise _stopping()
        with self._wanting(principal, key), self._counted(principal):
            self._streams[stream] = None
            try:
                yield stream
            finally:
                del self._streams[stream]
                stream.leave()

    @contextmanager
    def _wanting(self, principal: Principal, key: LoopKey) -> Iterator[None]:
        """Hold a principal to its number of loops."""
        wanted = self._wanted.get(principal, Counter())
        if key not in wanted and len(wanted) >= LOOPS_PER_PRINCIPAL:
            raise LimitExceeded(
                f"you have streams of {len(wanted)} different subscriptions whose source is asked for them, the limit "
                "of one principal; close one first",
                details={"limit": "subscriptions", "max": LOOPS_PER_PRINCIPAL},
            )
        wanted = self._wanted.setdefault(principal, wanted)
        wanted[key] += 1
        try:
            yield
        finally:
            wanted[key] -= 1
            if not wanted[key]:
                del wanted[key]
            if not wanted:
                self._wanted.pop(principal, None)

    @asynccontextmanager
    async def polling(self, principal: Principal) -> AsyncIterator[tuple[asyncio.Timeout, bool]]:
        """A poll, which `close` ends by a TimeoutError; and whether it may wait for events."""
        self._polling[principal] += 1
        may_wait = not self._closing and self._polling[principal] <= MAX_WAITING_POLLS
        try:
            async with asyncio.timeout(None) as until:
                self._polls.add(until)
                try:
                    yield until, may_wait
                finally:
                    self._polls.discard(until)
        finally:
            self._polling[principal] -= 1
            if not self._polling[principal]:
                del self._polling[principal]

    def join(self, stream: CheckStream, key: LoopKey, begin: Place | None) -> SharedLoop:
        """The loop of `key`, which hands its batches to `stream` from now on; a new one begins after `begin`."""
        known = self._loops.get(key)
        if known is not None:
            loop = known[0]
        else:
            loop = SharedLoop(begin, stream.upstream.type.seconds, self.clock, self.jitter)
        loop.add(stream)
        if known is None and self._tasks is not None:
            self._loops[key] = loop, self._tasks.create_task(loop.run())
        return loop

    def leave(self, stream: CheckStream, key: LoopKey) -> None:
        """`stream` gets no more batches; a loop ends with its last stream."""
        known = self._loops.get(key)
        if known is None:
            return
        loop, task = known
        loop.remove(stream)
        if not loop.members:
            del self._loops[key]
            task.cancel()

    async def _beat(self) -> None:
        while True:
            await self.clock.sleep(HEARTBEAT_SECONDS)
            for stream in list(self._streams):
                stream.heartbeat()


@dataclass(slots=True)
class _Taken:
    """What a poll has found so far, and where that ends."""

    place: Place
    occurrences: list[Occurrence] = field(default_factory=list)
    given: list[Parcel] = field(default_factory=list)
    """The same as `occurrences`, for the audit."""
    truncated: bool = False
    more: bool = False


class CheckSource:
    """A `clarion.wires.mcp_events.protocol.Offered` over an upstream."""

    __slots__ = ("_checks", "_reader", "_wanted")

    def __init__(self, checks: Checks, wanted: Wanted, reader: Reader) -> None:
        self._checks = checks
        self._wanted = wanted
        self._reader = reader

    async def poll(self, limit: int, wait: float) -> Portion:
        """See `Offered.poll`. Raises HookFailed when the upstream cannot be asked, Forbidden when access is gone,
        LimitExceeded when too many of the principal's polls ask it, ClarionError when it is ended without a place.
        """
        place, truncated = self._reader.start()
        taken, until = None if place is None else _Taken(place), None
        try:
            async with self._checks.polling(self._principal) as (until, may_wait):
                if taken is None or not await self._look(taken, limit, wait if may_wait else 0):
                    return await self._present(truncated or taken is not None)
        except TimeoutError:
            if until is None or not until.expired():
                raise
            if taken is None:
                raise _stopping() from None
        return self._portion(taken)

    async def _look(self, taken: _Taken, limit: int, wait: float) -> bool:
        """Ask until there is something or `wait` is over; False when the upstream let go of the place."""
        reader, clock = self._reader, self._checks.clock
        deadline, floor = clock.monotonic() + wait, reader.floor(clock.now())
        patience, asked = TURN_SECONDS, False
        while True:
            try:
                async with self._turn(patience):
                    batch = await reader.upstream.ask(taken.place)
            except CursorExpired:
                return False
            except LimitExceeded:
                if asked:
                    return True
                raise
            await self._take(taken, batch, limit, floor)
            left = deadline - clock.monotonic()
            if taken.occurrences or taken.more or left <= 0:
                return True
            await clock.sleep(min(reader.upstream.type.seconds, left))
            patience, asked = deadline - clock.monotonic(), True

    @asynccontextmanager
    async def stream(self, framing: StreamFraming, sink: Sink) -> AsyncIterator[Live]:
        """See `Offered.stream`."""
        key = self._key()
        stream = CheckStream(self._checks, key, self._reader, framing, sink)
        async with self._checks.open(stream, self._principal, key):
            yield stream

    @property
    def _principal(self) -> Principal:
        return self._wanted.caller.principal

    def _turn(self, seconds: float) -> AbstractAsyncContextManager[None]:
        return self._checks.turns.poll(self._wanted.name, self._principal, seconds)

    def _key(self) -> LoopKey:
        principal, check = self._principal, self._reader.upstream.type
        whose = Principal(principal.tenant, "") if check.shared else principal
        return whose, check.shared, self._wanted.name, canonical(self._wanted.arguments)

    async def _present(self, truncated: bool) -> Portion:
        async with self._turn(TURN_SECONDS):
            cursor = await self._reader.upstream.present()
        return Portion((), self._reader.write(Place(cursor)), truncated, next_poll_ms=self._next_poll_ms())

    async def _take(self, taken: _Taken, batch: Batch, limit: int, floor: int | None) -> None:
        """Of `batch` what still fits and is to be seen, up to the place where it no longer fits."""
        for index, item in enumerate(batch.items):
            if len(taken.occurrences) >= limit:
                taken.more = True
                break
            if (index + 1) % EVENTS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if item.parcel is not None:
                if floor is not None and item.parcel.event.occurred_at < floor:
                    taken.truncated = True
                else:
                    shown = await self._shown(item.parcel)
                    if shown is not None:
                        taken.given.append(shown)
                        taken.occurrences.append(_occurrence(shown))
            taken.place = batch.after(index)
        else:
            taken.place, taken.more = Place(batch.end), batch.more

    async def _shown(self, parcel: Parcel) -> Parcel | None:
        try:
            return await self._reader.view(parcel)
        except HookFailed:
            return None  # logged and counted; a poll has no word for it

    def _portion(self, taken: _Taken) -> Portion:
        recorder = self._checks.recorder
        for parcel in taken.given:
            recorder.note(parcel, WIRE, Outcome.DELIVERED, (self._reader.subscription,))
        recorder.commit()
        cursor = self._reader.write(taken.place)
        return Portion(taken.occurrences, cursor, taken.truncated, taken.more, self._next_poll_ms())

    def _next_poll_ms(self) -> int | None:
        interval = self._reader.upstream.type.interval
        return None if interval is None else max(1, round(interval * 1000))


def _occurrence(parcel: Parcel) -> Occurrence:
    event = parcel.event
    return Occurrence(event.event_id, event.topic, event.occurred_at, event.payload, event.attributes.get("meta", {}))


def _stopping() -> ClarionError:
    return ClarionError("The server is stopping; try again shortly.")
