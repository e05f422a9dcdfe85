"""One open stream: replay -> live -> (lagging) -> closed.

The routine that hands replay over to live is `_replay`, for every wire: it reads the log up to where the dispatcher
stands and joins it without an await in between, so that no event is missed and none comes twice (HOUSE invariant 5).
When the transport refuses more, events wait in the ring; a full ring drops its oldest and says so by one lag frame
per subscription and flurry, before the survivors (SEEDS section 0). What goes wrong in one stream ends that stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

from clarion.errors import CloseReason, StoreUnavailable
from clarion.filters import compile_filter
from clarion.gate import Gate, Refusal
from clarion.hub.index import TopicIndex
from clarion.hub.outlet import Outlet, TransportFailed
from clarion.hub.protocols import Framing, Opening, Overflow, Sink, Viewer
from clarion.hub.recorder import Recorder
from clarion.hub.ring import Entry, Parcel, Ring, RingBudget
from clarion.logs import get_logger, origin
from clarion.model import Bounds, Event, Outcome, Position, Start, Subscription, Truncation
from clarion.stores.protocols import Audit, EventLog
from clarion.topics import glob

__all__ = ["Answers", "Attachment", "Connection", "Phase", "Shared"]

REPLAY_PAGE = 256
"""Events a replay reads at a time."""

REPLAY_BYTES = 256 * 1024
"""Bytes of payload it reads at a time. What a stalled reader did not take is read again, so a page is not much more
than a transport takes at once."""

Answers: TypeAlias = dict[tuple[Parcel, str, str | None], Refusal | None]
"""What the gate said of (event, principal's subject, purpose) in this very tick: many streams ask the same."""

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


class Attachment:
    """A subscription on a connection, as the dispatcher's index knows it. `since`: later events are its own."""

    __slots__ = ("connection", "since", "subscription")

    def __init__(self, connection: Connection, subscription: Subscription, since: int) -> None:
        self.connection = connection
        self.subscription = subscription
        self.since = since


class Switchboard(Protocol):
    """What a connection needs of the dispatcher: to join and leave its index, and to know where it stands."""

    def add(self, attachment: Attachment) -> None: ...

    def remove(self, attachment: Attachment) -> None: ...

    def position(self, tenant: str) -> int | None:
        """The seq of the tenant's last event that was dispatched; None when none was since the start."""
        ...


@dataclass(slots=True)
class _Gap:
    """A flurry of drops: how many per subscription, and the last seq that was handed over before it."""

    after: int
    dropped: dict[str, int] = field(default_factory=dict)


class Connection:
    """One stream of one viewer. Created, run and closed by the hub; written to by the dispatcher."""

    __slots__ = (
        "_attachments",
        "_closed",
        "_floors",
        "_framing",
        "_gap",
        "_outlet",
        "_passed",
        "_replay_index",
        "_ring",
        "_shared",
        "_switchboard",
        "_waiting",
        "_work",
        "close_reason",
        "phase",
        "viewer",
    )

    def __init__(
        self, viewer: Viewer, framing: Framing, sink: Sink, *, shared: Shared, switchboard: Switchboard
    ) -> None:
        self.viewer = viewer
        self.phase = Phase.REPLAY
        self.close_reason: CloseReason | None = None
        self._framing = framing
        self._outlet = Outlet(framing, sink, shared.recorder)
        self._shared = shared
        self._switchboard = switchboard
        self._ring = Ring(shared.budget, shared.ring_capacity, on_drop=self._overflow)
        self._gap: _Gap | None = None
        self._floors: list[int] = []
        self._attachments: dict[str, Attachment] = {}
        self._replay_index: TopicIndex[Attachment] | None = None
        self._work = asyncio.Event()
        self._waiting: asyncio.Timeout | None = None
        self._closed = False
        self._passed = 0

    # -- what the hub calls ---------------------------------------------------------------------------------------

    @property
    def tenant(self) -> str:
        return self.viewer.principal.tenant

    @property
    def wire(self) -> str:
        return self._outlet.wire

    @property
    def waiting(self) -> int:
        """How many events wait in the ring."""
        return len(self._ring)

    @property
    def subscriptions(self) -> list[Subscription]:
        return [attachment.subscription for attachment in self._attachments.values()]

    def has(self, subscription_id: str) -> bool:
        return subscription_id in self._attachments

    def attach(self, subscription: Subscription, since: int) -> None:
        """Deliver what matches `subscription` after `since`; an attached one takes its new label and purpose."""
        known = self._attachments.get(subscription.id)
        if known is not None:
            known.subscription = subscription
            return
        attachment = Attachment(self, subscription, since)
        self._attachments[subscription.id] = attachment
        self._replay_index = None
        if self.phase is not Phase.REPLAY and not self._closed:
            self._switchboard.add(attachment)

    def detach(self, subscription_id: str) -> None:
        """Deliver nothing more of this subscription, what waits in the ring included."""
        attachment = self._attachments.pop(subscription_id, None)
        if attachment is None:
            return
        self._replay_index = None
        if self.phase is not Phase.REPLAY:
            self._switchboard.remove(attachment)
        for entry in self._ring:
            entry.subscriptions[:] = [one for one in entry.subscriptions if one.id != subscription_id]
        self._ring.discard([entry for entry in self._ring if not entry.subscriptions])
        if self._gap is not None:
            self._gap.dropped.pop(subscription_id, None)

    def close(self, reason: CloseReason) -> None:
        """End the stream; the first reason stays. What waits in the ring stays in the log for the next one."""
        if self._closed:
            return
        self._closed = True
        self.close_reason = reason
        if self.phase is not Phase.REPLAY:
            for attachment in self._attachments.values():
                self._switchboard.remove(attachment)
        self.phase = Phase.CLOSED
        self._ring.clear()
        self._work.set()
        if self._waiting is not None:
            self._waiting.reschedule(0)  # whoever waits for a transport that stalls must hear of it

    def fail(self, error: BaseException | None) -> None:
        """End the stream for something that went wrong in it: nobody else's suffers."""
        if isinstance(error, TransportFailed):
            logger.warning("transport_failed", error=str(error))
            self.close(CloseReason.CLIENT_GONE)
        else:
            logger.error("stream_failed", wire=self.wire, error=type(error).__name__, at=origin(error))
            self.close(CloseReason.FAILED)

    async def run(self, bounds: Bounds, start: Start) -> None:
        """Open, replay, then stay until closed. Raises StoreUnavailable when the log cannot be read."""
        try:
            await self._run(bounds, start)
        except StoreUnavailable:
            raise
        except Exception as error:
            self.fail(error)

    async def _run(self, bounds: Bounds, start: Start) -> None:
        passed, truncated = bounds.resolve(start)
        self._outlet.epoch = bounds.epoch
        self._outlet.handed = self._passed = passed
        while not self._closed and self._outlet.paused:
            await self._wait(self._outlet.writable)
        if self._closed:
            return
        self._announce(passed, truncated)
        await self._replay()
        while not self._closed:
            await self._work.wait()
            self._work.clear()
            await self._drain()

    def heartbeat(self) -> None:
        """Say how far this stream is, unless something waits before it."""
        outlet = self._outlet
        if self._closed or not outlet.epoch or self._ring or self._gap or self._floors:
            return
        try:
            if not outlet.paused:
                outlet.heartbeat(self._reached())
        except Exception as error:
            self.fail(error)

    def _reached(self) -> int:
        """Everything up to this seq was handed over, or was none of this stream's."""
        seq = max(self._passed, self._outlet.handed)
        return seq if self.phase is Phase.REPLAY else max(seq, self._switchboard.position(self.tenant) or 0)

    # -- live -----------------------------------------------------------------------------------------------------

    def deliver(self, entries: list[Entry]) -> None:
        """Hand over what the dispatcher admitted in this very tick, or keep in the ring what the transport refuses."""
        if self._closed:
            return
        try:
            sent = 0 if self._ring or self._gap or self._floors else self._outlet.send(entries)
        except Exception as error:
            self.fail(error)
            return
        if sent == len(entries):
            return
        self.phase = Phase.LAGGING
        for entry in entries[sent:]:
            self._ring.push(entry)
        self._work.set()

    def overtaken(self, floor: int) -> None:
        """Retention let go of events up to `floor` before they were dispatched: tell it, after all that waits."""
        if self._closed or self.phase is Phase.REPLAY or floor <= self._passed:
            return  # a replay finds out by itself; and what it had passed already is not lost
        if not (self._ring or self._gap or self._floors):
            try:
                if not self._outlet.paused:
                    self._announce(floor, Truncation.RETENTION)
                    return
            except Exception as error:
                self.fail(error)
                return
        self._floors.append(floor)
        self.phase = Phase.LAGGING
        self._work.set()

    def regate(self, concerned: Collection[Parcel], answers: Answers) -> None:
        """Ask the gate again about what waits of `concerned`; what it refuses now leaves the ring."""
        refused = []
        for entry in self._ring:
            if entry.parcel in concerned:
                left = self._admit(entry, answers)
                if left is None:
                    refused.append(entry)
                else:
                    entry.subscriptions[:] = left.subscriptions
        self._ring.discard(refused)

    async def _drain(self) -> None:
        """Empty the ring as the transport takes it: first what was lost, then the survivors."""
        shared = self._shared
        while not self._closed and (self._ring or self._gap or self._floors):
            if self._outlet.paused:
                await self._wait(self._outlet.writable)
                continue
            await self._wait(shared.audit.room)
            waiting = self._next_waiting()
            if not shared.gate.knows(entry.parcel.event for entry in waiting):
                await shared.gate.learn([entry.parcel.event for entry in waiting])
                continue
            # No await from here: what the gate says now holds when it is written.
            if self._closed or self._outlet.paused:
                continue
            try:
                self._send_waiting(waiting)
            finally:
                shared.recorder.commit()
        if not self._closed:
            self.phase = Phase.LIVE

    def _next_waiting(self) -> list[Entry]:
        """What waits before the next floor."""
        if not self._floors:
            return list(self._ring)
        return [entry for entry in self._ring if entry.parcel.event.seq <= self._floors[0]]

    def _send_waiting(self, waiting: list[Entry]) -> None:
        lost = self._lag_frames()
        if waiting:
            sent = self._outlet.send(waiting, lost, self._admit)
            for _ in range(sent):
                self._ring.pop()
        elif lost:
            self._outlet.say(lost)
        if self._floors and not self._next_waiting() and not self._outlet.paused:
            self._announce(self._floors.pop(0), Truncation.RETENTION)

    def _lag_frames(self) -> bytes:
        """What tells of the gap, which ends with it: to be written together with the first survivors, so that the ring
        has room again and what is dropped next is another flurry."""
        gap, self._gap = self._gap, None
        if gap is None:
            return b""
        frames = [
            self._outlet.lag_frame(subscription_id, count, self._ring.capacity, gap.after)
            for subscription_id, count in gap.dropped.items()
            if subscription_id in self._attachments
        ]
        return b"".join(frames)

    def _overflow(self, entry: Entry) -> None:
        """`entry` did not fit, and is gone from the ring: what comes of it is the wire's own rule."""
        match self._framing.overflow:
            case Overflow.DROP_OLDEST:
                if self._gap is None:
                    self._gap = _Gap(after=self._outlet.handed)
                for subscription in entry.subscriptions:
                    self._gap.dropped[subscription.id] = self._gap.dropped.get(subscription.id, 0) + 1
                self._shared.recorder.note(entry.parcel, self.wire, Outcome.DROPPED, entry.subscriptions)

    # -- replay ---------------------------------------------------------------------------------------------------

    async def _replay(self) -> None:
        """Deliver from the log at the pace of the transport, up to where the dispatcher stands, and join it there.
        Nothing waits in memory meanwhile: what the transport did not take is read again."""
        while not self._closed:
            await asyncio.sleep(0)  # a reader that takes everything leaves others their turn
            if self._outlet.paused:
                await self._wait(self._outlet.writable)
                continue
            await self._wait(self._shared.audit.room)
            async with self._shared.pages:
                head = await self._replay_page()
            # No await from here: whatever the dispatcher has dispatched by now, it was read above, or is read next.
            if self._passed >= max(head, self._switchboard.position(self.tenant) or 0):
                break
        if not self._closed:
            self._go_live()

    def _go_live(self) -> None:
        self.phase = Phase.LIVE
        self._replay_index = None
        for attachment in self._attachments.values():
            attachment.since = max(attachment.since, self._passed)
            self._switchboard.add(attachment)

    async def _replay_page(self) -> int:
        """Deliver of the next page what the transport takes; answers the log's head. Holds the page no longer."""
        gate = self._shared.gate
        page = await self._shared.log.read(self.tenant, self._passed, limit=REPLAY_PAGE, max_bytes=REPLAY_BYTES)
        matches = self._matching(page.events)
        while not gate.knows(entry.parcel.event for entry in matches):
            await gate.learn([entry.parcel.event for entry in matches])
        if self._closed or self._outlet.paused:
            return page.bounds.head
        if page.bounds.floor > self._passed:
            self._passed = page.bounds.floor
            self._announce(self._passed, Truncation.RETENTION)
        try:
            sent = self._outlet.send(matches, admit=self._admit)
        finally:
            self._shared.recorder.commit()
        if sent < len(matches):
            self._passed = matches[sent].parcel.event.seq - 1
        elif page.events:
            self._passed = page.events[-1].seq
        return page.bounds.head

    def _matching(self, events: Sequence[Event]) -> list[Entry]:
        index = self._replay_index
        if index is None:
            index = self._replay_index = TopicIndex()
            for attachment in self._attachments.values():
                add_to(index, attachment)
        found = []
        for event in events:
            matched = [one.subscription for one in index.match(event) if event.seq > one.since]
            event.forget()
            if matched:
                found.append(Entry(Parcel(event), matched))
        return found

    async def _wait(self, condition: Callable[[], Awaitable[None]]) -> None:
        """Return when `condition` does, or when the stream was closed."""
        if self._closed:
            return
        try:
            async with asyncio.timeout(None) as self._waiting:
                await condition()
        except TimeoutError:
            if not self._closed:
                raise
        finally:
            self._waiting = None

    # -- both -----------------------------------------------------------------------------------------------------

    def _announce(self, seq: int, truncated: Truncation | None) -> None:
        position = Position(self._outlet.epoch, seq)
        self._outlet.opened(Opening(self.viewer.client_id, self.subscriptions, position, truncated))

    def _admit(self, entry: Entry, answers: Answers | None = None) -> Entry | None:
        """The subscriptions of it that are still attached, as they are now, and that the gate admits; refusals are
        noted."""
        parcel = entry.parcel
        admitted, refused = [], []
        for subscription in entry.subscriptions:
            attachment = self._attachments.get(subscription.id)
            if attachment is None or parcel.event.seq <= attachment.since:
                continue  # unsubscribed; or since then subscribed anew, from a later event on
            current = attachment.subscription
            refusal = self.ask(parcel, current.purpose, answers)
            if refusal is None:
                admitted.append(current)
            elif refusal is not Refusal.AUDIENCE:  # that one was never meant for this subscriber
                refused.append(current)
        if refused:
            self._shared.recorder.note(parcel, self.wire, Outcome.REFUSED, refused)
        return Entry(parcel, admitted) if admitted else None

    def ask(self, parcel: Parcel, purpose: str | None, answers: Answers | None = None) -> Refusal | None:
        """What the gate says of the event for a subscription of this viewer with `purpose`."""
        subject = self.viewer.principal.subject
        if answers is None:
            return self._shared.gate.admits(parcel.event, subject, purpose)
        key = (parcel, subject, purpose)
        if key not in answers:
            answers[key] = self._shared.gate.admits(parcel.event, subject, purpose)
        return answers[key]


def add_to(index: TopicIndex[Attachment], attachment: Attachment) -> None:
    """Put an attachment into an index under its subscription's patterns and filter."""
    subscription = attachment.subscription
    # What was accepted at subscribe stays accepted: the schema that declared a key may have gone since.
    compiled = compile_filter(subscription.filter, lambda _key: True)
    index.add(attachment, [glob(pattern) for pattern in subscription.topics], compiled)
