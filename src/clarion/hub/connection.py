"""One open stream: replay -> live -> (lagging) -> closed.

The routine that hands replay over to live is `_replay`, for every wire: it reads the log up to where the dispatcher
stands and joins it without an await in between, so that no event is missed and none comes twice (HOUSE invariant 5).
When the transport refuses more, events wait in the ring; a full ring drops its oldest and says so by one lag frame
per subscription and flurry, before the survivors (SEEDS section 0).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from clarion.clock import Clock
from clarion.errors import CloseReason
from clarion.filters import compile_filter
from clarion.gate import Gate, Refusal
from clarion.hub.index import TopicIndex
from clarion.hub.protocols import Framing, Opening, Sink, Viewer
from clarion.hub.recorder import Recorder
from clarion.hub.ring import Entry, Parcel, Ring, RingBudget
from clarion.logs import get_logger
from clarion.model import Bounds, Event, Outcome, Position, Start, Subscription, Truncation
from clarion.stores.protocols import EventLog
from clarion.topics import glob

__all__ = ["Attachment", "Connection", "Phase", "Shared"]

WRITE_CHUNK = 64 * 1024
"""Bytes of frames that are joined into one write: a burst leaves in few writes, and the water mark is still asked
between them, so that the transport never holds more than this above it."""

REPLAY_PAGE = 256
"""Events a replay reads at a time."""

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
    gate: Gate
    recorder: Recorder
    clock: Clock
    budget: RingBudget
    replays: asyncio.Semaphore
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
        "_epoch",
        "_framing",
        "_gap",
        "_handed",
        "_passed",
        "_replay_index",
        "_ring",
        "_shared",
        "_sink",
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
        self._sink = sink
        self._shared = shared
        self._switchboard = switchboard
        self._ring = Ring(shared.budget, shared.ring_capacity)
        self._gap: _Gap | None = None
        self._attachments: dict[str, Attachment] = {}
        self._replay_index: TopicIndex[Attachment] | None = None
        self._work = asyncio.Event()
        self._waiting: asyncio.Timeout | None = None
        self._closed = False
        self._epoch = ""
        self._handed = 0
        self._passed = 0

    # -- what the hub calls ---------------------------------------------------------------------------------------

    @property
    def tenant(self) -> str:
        return self.viewer.principal.tenant

    @property
    def wire(self) -> str:
        return self._framing.name

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

    async def run(self, bounds: Bounds, start: Start) -> None:
        """Open, replay, then stay until closed. Raises StoreUnavailable when the log cannot be read."""
        self._epoch = bounds.epoch
        self._passed, truncated = bounds.resolve(start)
        self._handed = self._passed
        while self._sink.paused and not self._closed:
            await self._writable()
        self._announce(truncated)
        await self._replay()
        while not self._closed:
            await self._work.wait()
            self._work.clear()
            await self._drain()

    def heartbeat(self) -> None:
        """Say how far this stream is, unless something waits before it."""
        if self._closed or not self._epoch or self._ring or self._gap or self._sink.paused:
            return
        seq = max(self._passed, self._handed)
        if self.phase is not Phase.REPLAY:
            seq = max(seq, self._switchboard.position(self.tenant) or 0)
        self._hand(self._framing.heartbeat(Position(self._epoch, seq)))

    # -- live -----------------------------------------------------------------------------------------------------

    def deliver(self, entries: list[Entry]) -> None:
        """Hand over what the dispatcher admitted in this very tick, or keep in the ring what the transport refuses."""
        sent = 0 if self._ring or self._gap else self._send(entries)
        if sent == len(entries) or self._closed:
            return
        self.phase = Phase.LAGGING
        for entry in entries[sent:]:
            for dropped in self._ring.push(entry):
                self._drop(dropped)
        self._work.set()

    def regate(self) -> None:
        """Ask the gate again about all that waits; what it refuses now leaves the ring."""
        refused = []
        for entry in self._ring:
            admitted = self._admitted(entry.parcel, entry.subscriptions)
            if admitted:
                entry.subscriptions[:] = admitted
            else:
                refused.append(entry)
        self._ring.discard(refused)

    def waiting_events(self) -> list[Event]:
        return [entry.parcel.event for entry in self._ring]

    async def _drain(self) -> None:
        """Empty the ring as the transport takes it: first what was lost, then the survivors."""
        while (self._ring or self._gap) and not self._closed:
            await self._writable()
            if self._closed or self._sink.paused:
                continue
            if not self._shared.gate.knows(self.waiting_events()):
                await self._shared.gate.learn(self.waiting_events())
                continue
            self.regate()
            lost = self._lag_frames()
            while lost or (self._ring and not self._sink.paused):
                chunk: list[Entry] = []
                size = 0
                while self._ring and size < WRITE_CHUNK:
                    chunk.append(self._ring.pop())
                    size += _weight(chunk[-1])
                self._write(chunk, lost)
                lost = b""
            self._shared.recorder.commit()
        if not self._closed:
            self.phase = Phase.LIVE

    def _lag_frames(self) -> bytes:
        """What tells of the gap, which ends with it: to be written together with the first survivors, so that the ring
        has room again and what is dropped next is another flurry."""
        gap, self._gap = self._gap, None
        if gap is None:
            return b""
        last = Position(self._epoch, gap.after)
        frames = [
            self._framing.lagged(subscription_id, count, self._ring.capacity, last)
            for subscription_id, count in gap.dropped.items()
            if subscription_id in self._attachments
        ]
        return b"".join(frames)

    def _drop(self, entry: Entry) -> None:
        if self._gap is None:
            self._gap = _Gap(after=self._handed)
        for subscription in entry.subscriptions:
            self._gap.dropped[subscription.id] = self._gap.dropped.get(subscription.id, 0) + 1
        self._shared.recorder.note(entry.parcel, self.wire, Outcome.DROPPED, entry.subscriptions)

    # -- replay ---------------------------------------------------------------------------------------------------

    async def _replay(self) -> None:
        log, tenant = self._shared.log, self.tenant
        while not self._closed:
            async with self._shared.replays:
                page = await log.read(tenant, self._passed, limit=REPLAY_PAGE)
            if page.bounds.floor > self._passed:
                if self._sink.paused:
                    await self._writable()
                    continue
                self._passed = self._handed = page.bounds.floor
                self._announce(Truncation.RETENTION)
            if page.events:
                await self._replay_page(page.events)
            # No await from here: whatever the dispatcher has dispatched by now, it was read above, or is read next.
            dispatched = self._switchboard.position(tenant)
            if len(page.events) < REPLAY_PAGE and (dispatched is None or dispatched <= self._passed):
                break
        if not self._closed:
            self._go_live()

    def _go_live(self) -> None:
        self.phase = Phase.LIVE
        self._replay_index = None
        for attachment in self._attachments.values():
            attachment.since = max(attachment.since, self._passed)
            self._switchboard.add(attachment)

    async def _replay_page(self, events: Sequence[Event]) -> None:
        """Deliver a page at the pace of the transport; nothing waits in the ring meanwhile."""
        gate, matches, at = self._shared.gate, self._matching(events), 0
        while at < len(matches) and not self._closed:
            if self._sink.paused:
                await self._writable()
                continue
            if not gate.knows(event for event, _ in matches[at:]):
                await gate.learn(event for event, _ in matches[at:])
                continue
            chunk: list[Entry] = []
            size = 0
            while at < len(matches) and size < WRITE_CHUNK:
                event, matched = matches[at]
                at += 1
                parcel = Parcel(event)
                if admitted := self._admitted(parcel, matched):
                    chunk.append(Entry(parcel, admitted))
                    size += _weight(chunk[-1])
            self._write(chunk)
            self._shared.recorder.commit()
        if not self._closed:
            self._passed = events[-1].seq

    def _matching(self, events: Sequence[Event]) -> list[tuple[Event, list[Subscription]]]:
        index = self._replay_index
        if index is None:
            index = self._replay_index = TopicIndex()
            for attachment in self._attachments.values():
                add_to(index, attachment)
        found = ((event, [a.subscription for a in index.match(event) if event.seq > a.since]) for event in events)
        return [(event, matched) for event, matched in found if matched]

    async def _writable(self) -> None:
        """Return when the transport takes more, is gone, or the stream was closed."""
        try:
            async with asyncio.timeout(None) as self._waiting:
                await self._sink.writable()
        except TimeoutError:
            pass
        finally:
            self._waiting = None

    # -- sending --------------------------------------------------------------------------------------------------

    def _announce(self, truncated: Truncation | None) -> None:
        position = Position(self._epoch, self._passed)
        self._hand(self._framing.opened(Opening(self.viewer.client_id, self.subscriptions, position, truncated)))

    def _admitted(self, parcel: Parcel, subscriptions: Iterable[Subscription]) -> list[Subscription]:
        """Those that are still attached, as they are now, and that the gate admits; refusals are noted."""
        gate, subject = self._shared.gate, self.viewer.principal.subject
        admitted, refused = [], []
        for subscription in subscriptions:
            attachment = self._attachments.get(subscription.id)
            if attachment is None or parcel.event.seq <= attachment.since:
                continue  # unsubscribed; or since then subscribed anew, from a later event on
            refusal = gate.admits(parcel.event, subject, attachment.subscription.purpose)
            if refusal is None:
                admitted.append(attachment.subscription)
            elif refusal is not Refusal.AUDIENCE:  # that one was never meant for this subscriber
                refused.append(attachment.subscription)
        if refused:
            self._shared.recorder.note(parcel, self.wire, Outcome.REFUSED, refused)
        return admitted

    def _send(self, entries: Sequence[Entry]) -> int:
        """Write entries, joined into few writes, until the transport pauses; answers how many it took."""
        sent = 0
        while sent < len(entries) and not self._closed and not self._sink.paused:
            first, size = sent, 0
            while sent < len(entries) and size < WRITE_CHUNK:
                size += _weight(entries[sent])
                sent += 1
            self._write(entries[first:sent])
        return sent

    def _write(self, entries: Sequence[Entry], before: bytes = b"") -> None:
        """Hand all frames of `entries`, and what goes before them, to the transport in one write."""
        if not entries and not before:
            return
        framing, epoch, recorder = self._framing, self._epoch, self._shared.recorder
        frames = [framing.event(parcel, those, parcel.position(epoch)) for parcel, those in entries]
        if not self._hand(b"".join((before, *frames))) or not entries:
            return
        for parcel, subscriptions in entries:
            recorder.note(parcel, framing.name, Outcome.DELIVERED, subscriptions)
        self._handed = entries[-1].parcel.event.seq

    def _hand(self, data: bytes) -> bool:
        """Hand `data` to the transport. One that fails ends this stream, and harms nobody else's."""
        try:
            self._sink.write(data)
        except Exception as error:
            logger.warning("transport_failed", error=type(error).__name__)
            self.close(CloseReason.CLIENT_GONE)
            return False
        return True


def _weight(entry: Entry) -> int:
    """About how many bytes an entry's frames take: one frame for each of its subscriptions."""
    return entry.parcel.size * len(entry.subscriptions)


def add_to(index: TopicIndex[Attachment], attachment: Attachment) -> None:
    """Put an attachment into an index under its subscription's patterns and filter."""
    subscription = attachment.subscription
    # What was accepted at subscribe stays accepted: the schema that declared a key may have gone since.
    compiled = compile_filter(subscription.filter, lambda _key: True)
    index.add(attachment, [glob(pattern) for pattern in subscription.topics], compiled)
