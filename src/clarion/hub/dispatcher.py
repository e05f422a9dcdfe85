"""The dispatcher: tails the log, finds who matches, asks the gate, and hands each connection its events.

One pass over a batch of committed events and one write per connection. From the gate's answer to the transport there is
no await, so that nothing can change in between. Wake-ups are hints: without one the log is asked again after
`POLL_SECONDS` (HOUSE invariant 3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from clarion.clock import Clock
from clarion.errors import StoreUnavailable
from clarion.gate import Gate, Refusal
from clarion.hub.connection import Attachment, Connection, add_to
from clarion.hub.index import TopicIndex
from clarion.hub.recorder import Recorder
from clarion.hub.ring import Entry, Parcel
from clarion.logs import get_logger
from clarion.model import Event, Outcome
from clarion.stores.protocols import Audit, EventLog, Stored, Wakeups

__all__ = ["Dispatcher"]

BATCH = 512
"""Events dispatched in one tick. Bounds how long the event loop serves nothing else."""

POLL_SECONDS = 1.0
"""The longest that a lost wake-up delays an event."""

RETRY_SECONDS = 0.5
"""How long to wait after the store failed."""

logger = get_logger("clarion.dispatcher")


@dataclass(slots=True)
class _Tenant:
    """One tenant's index, and the seq of its last dispatched event."""

    index: TopicIndex[Attachment]
    position: int | None = None


class Dispatcher:
    """One per process. `run` is its only task; everything else is called on the event loop and does not wait."""

    def __init__(
        self, log: EventLog, wakeups: Wakeups, audit: Audit, gate: Gate, recorder: Recorder, clock: Clock
    ) -> None:
        self._log = log
        self._wakeups = wakeups
        self._audit = audit
        self._gate = gate
        self._recorder = recorder
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        self._wake = asyncio.Event()
        self.failing: str | None = None

    # -- the switchboard ------------------------------------------------------------------------------------------

    def add(self, attachment: Attachment) -> None:
        add_to(self._tenant(attachment.connection.tenant).index, attachment)

    def remove(self, attachment: Attachment) -> None:
        self._tenant(attachment.connection.tenant).index.remove(attachment)

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
        """Dispatch everything after the store's `offset`, for ever."""
        detach = self._wakeups.attach(self._wake.set)
        try:
            while True:
                try:
                    offset = await self._step(offset)
                    self.failing = None
                except StoreUnavailable as error:
                    self.failing = error.message
                    logger.warning("dispatch_paused", reason=error.message)
                    await self._clock.sleep(RETRY_SECONDS)
        finally:
            detach()

    async def _step(self, offset: int) -> int:
        self._wake.clear()
        batch = await self._log.tail(offset, limit=BATCH)
        if not batch:
            await self._woken()
            return offset
        await self._audit.room()
        events = [stored.event for stored in batch]
        while not self._gate.knows(events):
            await self._gate.learn(events)
        self._dispatch(batch)
        await asyncio.sleep(0)  # let transports and requests have their turn between batches
        return batch[-1].offset

    async def _woken(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass

    # -- one batch: no await from here on -------------------------------------------------------------------------

    def _dispatch(self, batch: Sequence[Stored]) -> None:
        began = self._clock.monotonic()
        outgoing: dict[Connection, list[Entry]] = {}
        for stored in batch:
            event = stored.event
            tenant = self._tenant(event.tenant)
            tenant.position = event.seq
            attachments = tenant.index.match(event)
            if attachments:
                self._address(event, attachments, outgoing)
        for connection, entries in outgoing.items():
            connection.deliver(entries)
        deliveries = self._recorder.commit()
        self._recorder.totals.events += len(batch)
        if outgoing:
            logger.info(
                "delivery_batch",
                events=len(batch),
                connections=len(outgoing),
                deliveries=deliveries,
                lag_ms=round((self._clock.now() - batch[0].event.recorded_at) / 1000, 2),
                took_ms=round((self._clock.monotonic() - began) * 1000, 2),
            )

    def _address(
        self, event: Event, attachments: Sequence[Attachment], outgoing: dict[Connection, list[Entry]]
    ) -> None:
        """Add the event to the entries of every connection with a subscription that may see it."""
        guarded = event.audience is not None or event.expires_at is not None or bool(event.subjects)
        parcel = Parcel(event)
        for attachment in attachments:
            if event.seq <= attachment.since:
                continue
            connection, subscription = attachment.connection, attachment.subscription
            if guarded:
                refusal = self._gate.admits(event, connection.viewer.principal.subject, subscription.purpose)
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
