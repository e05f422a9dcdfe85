"""Streams over an upstream: one loop asks it for all who want the same, and each stream goes at its reader's pace.

A stream with a cursor first catches up by checks of its own, then joins the loop. The seam is safe since it joins
before its last check: whatever the loop saw until then that check sees as well. What the loop brings again is told by
its event id. A reader that is too slow for the loop leaves it and catches up again: it loses nothing, and nothing waits
for it in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from clarion.clock import Clock
from clarion.errors import ClarionError, CloseReason, Forbidden, HookFailed
from clarion.events.check_loops import LoopKey, SharedLoop
from clarion.events.check_outlet import CheckOutlet, Closed
from clarion.events.check_turns import Turns
from clarion.events.occurrence import CursorExpired
from clarion.events.upstream import EVENTS_AT_ONCE, Batch, Item, Place, Reader, Upstream
from clarion.hub.outlet import TransportFailed
from clarion.hub.protocols import Sink
from clarion.hub.recorder import Recorder
from clarion.logs import get_logger, origin
from clarion.model import Outcome, Principal
from clarion.retry import Backoff, Jitter
from clarion.wires.mcp_events.protocol import StreamFraming

__all__ = ["QUEUE_EVENTS", "SEAM_IDS", "WIRE", "CheckStream"]

QUEUE_EVENTS = 256
"""Events that wait for one stream, beyond the batch that it is at. Stops stalled readers from filling the memory."""

SEAM_IDS = 1024
"""Event ids that a stream remembers while it joins its loop. Stops a loop that is far behind from filling the memory;
of more than that within one interval some may come twice, which the client tells by their ids."""

WIRE = "mcp_events"
"""The wire's name in audit rows."""

logger = get_logger("clarion.checks")


class Switchboard(Protocol):
    """What a stream needs of all that there is."""

    @property
    def recorder(self) -> Recorder: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def jitter(self) -> Jitter: ...

    @property
    def turns(self) -> Turns: ...

    def join(self, stream: CheckStream, key: LoopKey, begin: Place | None) -> SharedLoop: ...

    def leave(self, stream: CheckStream, key: LoopKey) -> None: ...


class CheckStream:
    """A `clarion.wires.mcp_events.protocol.Live` over an upstream."""

    __slots__ = (
        "_catching_up",
        "_floor",
        "_idle",
        "_key",
        "_lagging",
        "_loop",
        "_outlet",
        "_place",
        "_queue",
        "_seam",
        "_seen",
        "_switchboard",
        "_until",
        "_waiting",
        "_wake",
        "close_error",
        "close_reason",
        "reader",
    )

    def __init__(
        self, switchboard: Switchboard, key: LoopKey, reader: Reader, framing: StreamFraming, sink: Sink
    ) -> None:
        self.reader = reader
        self.close_reason: CloseReason | None = None
        self.close_error: ClarionError | None = None
        """What `terminated` tells the client, if there is something to tell."""
        self._switchboard = switchboard
        self._key = key
        self._outlet = CheckOutlet(reader, framing, sink)
        self._place: Place | None = None
        """Everything up to here was handed over, or was none of this stream's. What the client is told may lie before
        it: a cursor that the upstream itself gave."""
        self._floor: int | None = None
        self._loop: SharedLoop | None = None
        self._queue: deque[Batch] = deque()
        self._waiting = 0
        self._catching_up = self._lagging = self._idle = False
        self._seen: dict[str, None] | None = None
        self._seam = 0
        self._wake = asyncio.Event()
        self._until: asyncio.Timeout | None = None

    # -- what others call: nothing of it waits --------------------------------------------------------------------

    def close(self, reason: CloseReason, error: ClarionError | None = None) -> None:
        """See `Live.close`."""
        if self.close_reason is not None:
            return
        self.close_reason, self.close_error, self._outlet.closed = reason, error, True
        self.leave()
        if self._until is not None:
            self._until.reschedule(0)

    @property
    def upstream(self) -> Upstream:
        return self.reader.upstream

    @property
    def _principal(self) -> Principal:
        return Principal(self.reader.subscription.tenant, self.reader.subscription.subject)

    def leave(self) -> None:
        """Be in no loop any more."""
        if self._loop is not None:
            self._loop = None
            self._switchboard.leave(self, self._key)
        self._queue.clear()
        self._waiting = 0

    def take(self, batch: Batch) -> None:
        """The loop's next batch. When too much waits already, the stream goes its own way."""
        if self._idle and not batch.items and not batch.gap and not self._queue:
            self._reached(batch)
            return
        if self._queue and self._waiting + len(batch.items) > QUEUE_EVENTS:
            self._lagging = True
            self.leave()
        else:
            self._queue.append(batch)
            self._waiting += len(batch.items)
        self._wake.set()

    def report(self, error: ClarionError) -> None:
        """See `Live.report`. When the transport takes nothing now, it is said later."""
        self._say(lambda: self._outlet.report(error))

    def skip(self) -> None:
        """See `Live.skip`."""
        self._say(self._outlet.skip)

    def heartbeat(self) -> None:
        """Say how far this stream is, unless it has not begun, or its transport takes nothing."""
        self._say(self._outlet.beat)

    def _say(self, saying: Callable[[], bool]) -> None:
        try:
            if not saying():
                self._wake.set()
        except Exception as error:
            self._fail(error)

    # -- the stream -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """See `Live.run`."""
        try:
            try:
                async with asyncio.timeout(None) as self._until:
                    await self._run()
            finally:
                self._until = None
        except Closed:
            pass
        except TimeoutError as error:
            if self.close_reason is None:
                self._fail(error)
        except Exception as error:
            self._fail(error)
        finally:
            self.leave()

    async def _run(self) -> None:
        self._place, self._outlet.gap = self.reader.start()
        self._outlet.wire = self._place
        self._floor = self.reader.floor(self._switchboard.clock.now())
        await self._outlet.writable()
        while True:
            if self._place is None:
                await self._begin_at_present()
            else:
                await self._catch_up(self._place)
            await self._live()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, TransportFailed):
            logger.warning("transport_failed", error=str(error))
            self.close(CloseReason.CLIENT_GONE)
        else:
            logger.error("stream_failed", wire=WIRE, error=type(error).__name__, at=origin(error))
            self.close(CloseReason.FAILED)

    async def _begin_at_present(self) -> None:
        """Join the loop where it stands; a new one first asks the upstream where that is."""
        loop = self._join(None)
        cursor = loop.cursor if loop.cursor is not None else (await self._first_batch()).end
        self._place = self._outlet.wire = Place(cursor)
        if self._outlet.active_due:
            await self._outlet.activate()
        else:
            self.heartbeat()  # it began while the upstream could not be asked, without a cursor

    def _join(self, begin: Place | None) -> SharedLoop:
        self._lagging = False
        self._loop = loop = self._switchboard.join(self, self._key, begin)
        return loop

    async def _first_batch(self) -> Batch:
        """What a loop hands out once it knows where its upstream stands."""
        while not self._queue:
            await self._outlet.notices()
            await self._woken()
        return self._pop()

    async def _catch_up(self, place: Place) -> None:
        """Check by itself until nothing is left, and join the loop without a gap."""
        turns, name, principal = self._switchboard.turns, self.upstream.type.name, self._principal
        failures, joined, slow = 0, False, False
        self._seen, self._catching_up = None, True
        if turns.busy(name, principal) and not self._outlet.gap:
            await self._outlet.activate()  # it may take a while
        while True:
            try:
                async with turns.catch_up(name, principal):
                    batch = await self.upstream.ask(place)
            except CursorExpired:
                self._expired()
                await self._begin_at_present()
                return
            except HookFailed as error:
                failures += 1
                if failures == 1:
                    await self._outlet.failed(error)
                await self._switchboard.clock.sleep(Backoff().delay(failures, self._switchboard.jitter))
                continue
            failures = 0
            if slow or self._outlet.paused:
                batch = batch.cut(QUEUE_EVENTS)
            whole = await self._deliver(batch)
            slow = not whole
            place = self._place or place
            if self._lagging:
                joined, self._lagging = False, False
            if not whole or (batch.items and batch.end != batch.start.cursor):
                await self._outlet.writable()
                continue
            await self._outlet.notices()
            if joined and self._loop is not None:
                self._seam = self._loop.rounds
                break
            if await self._joined_at(place):
                break
            joined = True
        self._floor, self._catching_up = None, False
        await self._outlet.activate()

    async def _joined_at(self, place: Place) -> bool:
        """Join the loop; answers whether that is at this very place, so that nothing lies between."""
        self._seen = None
        loop = self._join(place)
        begin = loop.cursor if loop.cursor is not None else (await self._first_batch()).end
        if begin == place.cursor:
            return True
        self._seen = {}
        await self._foresee(Place(begin))
        return False

    async def _foresee(self, place: Place) -> None:
        """Note what the loop brings from `place` on and this stream has passed, or is about to get by itself: cursors
        do not tell which of two lies before the other. What cannot be foreseen may come twice."""
        seen, turns = self._seen, self._switchboard.turns
        with suppress(CursorExpired, HookFailed):
            while seen is not None and len(seen) < SEAM_IDS:
                async with turns.catch_up(self.upstream.type.name, self._principal):
                    batch = await self.upstream.ask(place)
                seen.update((item.event_id, None) for item in batch.items if item.event_id is not None)
                if not batch.items or batch.end == place.cursor:
                    return
                place = Place(batch.end)

    def _expired(self) -> None:
        """What came after this stream's place is lost; it goes on at the present."""
        self.leave()
        self._place = self._outlet.wire = self._seen = None
        self._outlet.lost()
        self._floor, self._catching_up = None, False

    async def _live(self) -> None:
        """Hand over what the loop gives, until the reader is too slow for it."""
        while not self._lagging:
            await self._outlet.notices()
            await self._outlet.activate()
            if self._queue:
                batch = self._pop()
                if batch.gap:
                    self._seen = None
                    self._outlet.lost()
                    self._reached(batch)
                    await self._outlet.activate()
                elif await self._deliver(batch):
                    self._reached(batch)
            elif not self._lagging:
                self._idle = True
                try:
                    await self._woken()
                finally:
                    self._idle = False
        self._lagging = False

    def _reached(self, batch: Batch) -> None:
        """All of a batch of the loop was dealt with. At the seam the loop may be behind this stream, which stays where
        it is then; the seam lies behind once the loop, asked after this stream had caught up, brings what is new."""
        asked_since = batch.round > self._seam
        if self._seen is not None:
            if self._came_before(batch.items[-1]) if batch.items else not asked_since:
                return
            if asked_since:
                self._seen = None
        self._place = self._outlet.wire = Place(batch.end)

    def _pop(self) -> Batch:
        batch = self._queue.popleft()
        self._waiting -= len(batch.items)
        return batch

    async def _deliver(self, batch: Batch) -> bool:
        """Hand a batch over; answers whether all of it was, or it has to be asked for again at the stream's place."""
        count = len(batch.items)
        for index, item in enumerate(batch.items):
            if self._outlet.paused and count - index > QUEUE_EVENTS and self._loop is None:
                return False  # too much to be kept for this reader alone
            await self._outlet.writable()
            if (index + 1) % EVENTS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if self._lagging:
                return False
            if self._came_before(item):
                continue
            safe = batch.safe(index)
            wire = self._outlet.wire if safe is None else Place(safe)
            if not self._too_old(item):
                await self._show(item, wire)
            self._place, self._outlet.wire = batch.after(index), wire
        if count < batch.count:
            return False
        if self._catching_up:
            self._place = self._outlet.wire = Place(batch.end)
        return True

    def _came_before(self, item: Item) -> bool:
        """Whether the loop brings it again. While the stream still catches up, it is noted in case the loop will."""
        seen, event_id = self._seen, item.event_id
        if seen is None:
            return False
        if not self._catching_up:
            return event_id is None or event_id in seen
        if event_id is not None:
            seen[event_id] = None
            if len(seen) > SEAM_IDS:
                del seen[next(iter(seen))]
        return False

    def _too_old(self, item: Item) -> bool:
        """Whether it is beyond what the client wants replayed, which is a gap then."""
        if self._floor is None or item.parcel is None or item.parcel.event.occurred_at >= self._floor:
            return False
        self._outlet.lost()
        return True

    async def _show(self, item: Item, wire: Place | None) -> None:
        if item.parcel is None:
            if item.failure is not None:
                await self._outlet.failed(item.failure)
            return
        try:
            parcel = await self.reader.view(item.parcel)
        except HookFailed as error:
            await self._outlet.failed(error)
            return
        except Forbidden as error:
            self.close(CloseReason.REVOKED, error)
            raise Closed from None
        if parcel is None:
            return
        recorder = self._switchboard.recorder
        await self._outlet.event(parcel, wire)
        recorder.note(parcel, WIRE, Outcome.DELIVERED, (self.reader.subscription,))
        recorder.commit()

    async def _woken(self) -> None:
        await self._wake.wait()
        self._wake.clear()
        if self.close_reason is not None:
            raise Closed
