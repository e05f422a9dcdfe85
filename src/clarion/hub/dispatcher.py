"""The dispatcher: tails the log, finds who matches, asks the gate, and hands each connection its events.

One pass over a batch of committed events and one write per connection. From the gate's answer to the transport there is
no await, so that nothing can change in between. Wake-ups are hints: without one the log is asked again after
`POLL_SECONDS` (HOUSE invariant 3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from clarion.clock import Clock
from clarion.errors import StoreUnavailable
from clarion.gate import Gate, Refusal, is_personal
from clarion.hub.attachment import Addressee, Answers, Attachment, add_to
from clarion.hub.express import Express, Ride, Riders, Roster, Run
from clarion.hub.index import Group, TopicIndex, Unmatchable
from clarion.hub.recorder import Recorder
from clarion.hub.ring import Entry, Parcel
from clarion.logs import get_logger, origin
from clarion.model import Event, Outcome
from clarion.stores.protocols import Audit, EventLog, Stored, Wakeups

__all__ = ["Dispatcher"]

BATCH = 512
"""Events dispatched in one tick. Bounds how long the event loop serves nothing else."""

BATCH_BYTES = 1024 * 1024
"""Bytes of payload dispatched in one tick, likewise, and how much of a backlog is in memory."""

TICK_FRAMES = 100_000
"""Frames handed over in one tick, likewise, beyond those of one event: a tenth of a second at most."""

TICK_ENTRIES = 20_000
"""The same of those that do not leave straight away, each of which takes more."""

POLL_SECONDS = 1.0
"""The longest that a lost wake-up delays an event."""

RETRY_SECONDS = 0.5
"""How long to wait after the store failed; after anything else that long at first, doubling."""

MOST_RETRY_SECONDS = 30.0
"""The longest to wait after something failed that nobody expected."""

AUDIT_STUCK = "the audit cannot be written, so nothing is delivered"

logger = get_logger("clarion.dispatcher")


@dataclass(slots=True)
class _Tenant:
    """One tenant's index, and the seq of its last event that was dispatched, or that retention took before."""

    index: TopicIndex[Attachment]
    position: int | None = None


class Dispatcher:
    """One per process. `run` is its only task; everything else is called on the event loop and does not wait.

    `failing` says why nothing is dispatched right now; None when it is.
    """

    def __init__(
        self, log: EventLog, wakeups: Wakeups, audit: Audit, gate: Gate, recorder: Recorder, clock: Clock
    ) -> None:
        self._log = log
        self._wakeups = wakeups
        self._audit = audit
        self._gate = gate
        self._recorder = recorder
        self._express = Express(recorder)
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        self._wake = asyncio.Event()
        self._poller: asyncio.TimerHandle | None = None
        self._offset = 0
        self.failing: str | None = None

    # -- the switchboard ------------------------------------------------------------------------------------------

    def add(self, attachment: Attachment) -> None:
        add_to(self._tenant(attachment.connection.tenant).index, [attachment])

    def remove(self, attachment: Attachment) -> None:
        self._tenant(attachment.connection.tenant).index.remove(attachment)

    def changed(self, attachment: Attachment) -> None:
        self._tenant(attachment.connection.tenant).index.touch(attachment)

    @property
    def offset(self) -> int:
        """Everything up to here in the store was dispatched."""
        return self._offset

    def position(self, tenant: str) -> int | None:
        known = self._tenants.get(tenant)
        return known.position if known else None

    def _tenant(self, name: str) -> _Tenant:
        known = self._tenants.get(name)
        if known is None:
            known = self._tenants[name] = _Tenant(TopicIndex())
        return known

    # -- the loop -------------------------------------------------------------------------------------------------

    async def run(self, offset: int) -> None:
        """Dispatch everything after the store's `offset`, for ever: what fails is logged and tried again."""
        self._offset = offset
        failures = 0
        detach = self._wakeups.attach(self._wake.set)
        self._poll()
        try:
            while True:
                try:
                    await self._step()
                    self.failing = None
                    failures = 0
                except StoreUnavailable as error:
                    self.failing = error.message
                    logger.warning("dispatch_paused", reason=error.message)
                    await self._clock.sleep(RETRY_SECONDS)
                except Exception as error:
                    self.failing = f"dispatching fails with {type(error).__name__}; see the log"
                    logger.error("dispatch_failed", error=type(error).__name__, at=origin(error))
                    await self._clock.sleep(min(RETRY_SECONDS * 2.0**failures, MOST_RETRY_SECONDS))
                    failures = min(failures + 1, 16)
        finally:
            detach()
            if self._poller is not None:
                self._poller.cancel()

    def _poll(self) -> None:
        """Have the log asked again, though no wake-up came. One timer for all waits: most are cut short by an event."""
        self._wake.set()
        self._poller = asyncio.get_running_loop().call_later(POLL_SECONDS, self._poll)

    async def _step(self) -> None:
        self._wake.clear()
        batch = await self._log.tail(self._offset, limit=BATCH, max_bytes=BATCH_BYTES)
        if not batch:
            await self._find_overtaken()
            self.failing = None
            await self._wake.wait()
            return
        await self._room()
        events = [stored.event for stored in batch]
        while not self._gate.knows(events):
            await self._gate.learn(events)
        self._dispatch(batch)
        await asyncio.sleep(0)  # let transports and requests have their turn between batches

    async def _room(self) -> None:
        """Wait until the audit takes more, and say so when that is not at once."""
        if not self._audit.roomy:
            self.failing = AUDIT_STUCK
            await self._audit.room()
        self.failing = None

    # -- retention that was faster ----------------------------------------------------------------------------------

    async def _find_overtaken(self) -> None:
        """There is nothing after the last offset. If something was, retention took it: tell who would have got it."""
        if await self._log.end() <= self._offset:
            return
        for name, tenant in list(self._tenants.items()):
            floor = (await self._log.bounds(name)).floor
            if tenant.position is None or tenant.position < floor:
                self._overtaken(tenant, floor)
                tenant.position = floor

    @staticmethod
    def _overtaken(tenant: _Tenant, floor: int) -> None:
        """Events up to `floor` were never dispatched: each stream that had not read them says so."""
        for connection in {attachment.connection for attachment in tenant.index}:
            connection.overtaken(floor)

    # -- one batch: no await from here on -------------------------------------------------------------------------

    def _dispatch(self, batch: Sequence[Stored]) -> None:
        """Match the whole batch, then hand it over: what fails before that leaves nothing changed."""
        began = self._clock.monotonic()
        try:
            batch, rides, outgoing = self._match(batch)
        except BaseException:
            self._recorder.discard()
            raise
        self._offset = batch[-1].offset
        self._pass(batch)
        streams = len(outgoing)
        for ride in rides:
            self._express.send(ride)
            streams += ride.streams
        for connection, entries in outgoing.items():
            connection.deliver(entries)
        deliveries = self._recorder.commit()
        self._recorder.totals.events += len(batch)
        if streams:
            logger.info(
                "delivery_batch",
                events=len(batch),
                connections=streams,
                deliveries=deliveries,
                lag_ms=round((self._clock.now() - batch[0].event.recorded_at) / 1000, 2),
                took_ms=round((self._clock.monotonic() - began) * 1000, 2),
            )

    def _match(self, batch: Sequence[Stored]) -> tuple[Sequence[Stored], list[Ride], dict[Addressee, list[Entry]]]:
        """As much of the batch as fits one tick, and what is to be handed over of it: runs of events to those who get
        just that, straight away; entries to others."""
        matched: list[tuple[Parcel, list[Group[Attachment]]]] = []
        taken = frames = entries = 0
        personal = is_personal(batch[0].event)
        for stored in batch:
            event = stored.event
            if is_personal(event) is not personal:
                break  # who may have it depends on who asks: such events go as entries, and by themselves
            groups = self._groups(event)
            event.forget()
            for group in groups:
                roster = Roster.of(group)
                frames += roster.size
                entries += roster.size if personal else len(roster.regular) + len(roster.sharing)
            if taken and (frames > TICK_FRAMES or entries > TICK_ENTRIES):
                break
            taken += 1
            if groups:
                matched.append((Parcel(event), groups))
        rides, slower = ([], None) if personal else self._rides(matched)
        outgoing: dict[Addressee, list[Entry]] = {}
        for parcel, groups in matched:
            answers: Answers = {}
            for group in groups:
                attachments = tuple(group.targets) if slower is None else slower.get(group, ())
                self._address(parcel, attachments, answers, outgoing)
        return batch[:taken], rides, outgoing

    def _rides(
        self, matched: Sequence[tuple[Parcel, Sequence[Group[Attachment]]]]
    ) -> tuple[list[Ride], dict[Group[Attachment], Sequence[Attachment]]]:
        """The runs of what was matched, and who has to get entries instead."""
        together: dict[Group[Attachment], list[Parcel]] = {}
        for parcel, groups in matched:
            for group in groups:
                together.setdefault(group, []).append(parcel)
        crowded = _crowded(together)
        runs: dict[Run, Riders] = {}
        slower: dict[Group[Attachment], Sequence[Attachment]] = {}
        for group, parcels in together.items():
            roster = Roster.of(group)
            others = list(roster.regular)
            if roster.alone or roster.sharing:
                riders = runs.setdefault(tuple(parcels), {})
                for kind, alone in roster.alone.items():
                    riders.setdefault(kind, []).append(alone)
                for one in roster.sharing:
                    if one.connection in crowded or one.kind is None:
                        others.append(one)
                    else:
                        riders.setdefault(one.kind, []).append((one,))
            if others:
                slower[group] = others
        return [Ride(run, riders, self._gate) for run, riders in runs.items() if riders], slower

    def _groups(self, event: Event) -> list[Group[Attachment]]:
        index = self._tenant(event.tenant).index
        while True:
            try:
                return index.groups(event)
            except Unmatchable as error:
                for attachment in error.targets:
                    attachment.connection.fail(error.__cause__)

    def _pass(self, batch: Sequence[Stored]) -> None:
        """Move the tenants' positions. Seqs are dense: one that jumps tells that retention took what is between.

        Retention takes the oldest of the store, so only a tenant's first event of a batch can be beyond a jump.
        """
        for stored in batch:
            event = stored.event
            tenant = self._tenant(event.tenant)
            if tenant.position is None or event.seq > tenant.position + 1:
                self._overtaken(tenant, event.seq - 1)
            tenant.position = event.seq

    def _address(
        self,
        parcel: Parcel,
        attachments: Sequence[Attachment],
        answers: Answers,
        outgoing: dict[Addressee, list[Entry]],
    ) -> None:
        """Add the event to the entries of every connection with a subscription that may see it."""
        guarded, seq = parcel.guarded, parcel.event.seq
        for attachment in attachments:
            if seq <= attachment.since:
                continue
            connection, subscription = attachment.connection, attachment.subscription
            if guarded:
                refusal = connection.ask(parcel, subscription, answers)
                if refusal is not None:
                    if refusal is not Refusal.AUDIENCE:
                        self._recorder.note(parcel, connection.wire, Outcome.REFUSED, (subscription,))
                    continue
            entries = outgoing.get(connection)
            if entries is None:
                outgoing[connection] = [Entry(parcel, [subscription])]
            elif entries[-1].parcel is parcel:
                entries[-1].subscriptions.append(subscription)
            else:
                entries.append(Entry(parcel, [subscription]))


def _crowded(groups: Iterable[Group[Attachment]]) -> Collection[Addressee]:
    """The connections that get something by several of their subscriptions: in which order must be seen to."""
    crowded: set[Addressee] = set()
    seen: dict[Addressee, Attachment] = {}
    for group in groups:
        for one in Roster.of(group).sharing:
            if seen.setdefault(one.connection, one) is not one:
                crowded.add(one.connection)
    return crowded
