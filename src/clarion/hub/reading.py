"""Reads the log for one subscription that holds no stream: what polls are answered from.

The same patterns, filter, gate, lens and audit as on a stream. A reader that is at the head costs no read of the
store, and one that waits is woken by the dispatcher, for what it matches alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from clarion.errors import Forbidden, HookFailed
from clarion.filters import Filter, compile_filter
from clarion.gate import Refusal
from clarion.hub.attachment import Answers, Attachment, Switchboard, asked
from clarion.hub.protocols import Lens, Viewer
from clarion.hub.ring import Entry, Parcel
from clarion.hub.shared import Shared
from clarion.model import Bounds, Event, Outcome, Subscription
from clarion.topics import Pattern, glob

__all__ = ["Extract", "Reader", "Waiter"]

PAGE = 256
"""Events that are read at a time."""

PAGE_BYTES = 256 * 1024
"""Bytes of payload that are read at a time."""

MAX_SCANNED = 4_096
"""Events that one call looks at. Stops a filter that matches little from reading the whole log in one request; the
answer says that there is more."""

STRETCH = 64
"""Events that are looked at before everything else gets a turn."""

MAX_SECONDS = 1.0
"""How long one call may take before it answers with what it has. Stops slow hooks from holding up a request."""

MAX_EXTRACT_BYTES = 1024 * 1024
"""Bytes of payload in one answer, beside the first event."""


@dataclass(frozen=True, slots=True)
class Extract:
    """What a subscription is shown of the log up to `position` (a seq). `floor`: events up to this seq were no longer
    there, if that is later than where reading began. `more`: there is more to read at once."""

    shown: Sequence[Event]
    position: int
    floor: int
    more: bool


@dataclass(slots=True)
class _Interest:
    """A subscription, ready to be asked."""

    subscription: Subscription
    patterns: Sequence[Pattern]
    filter: Filter

    @classmethod
    def of(cls, subscription: Subscription) -> _Interest:
        filter = compile_filter(subscription.filter, lambda _key: True)
        return cls(subscription, [glob(text) for text in subscription.topics], filter)

    def matches(self, event: Event) -> bool:
        return any(pattern.matches(event.topic) for pattern in self.patterns) and self.filter.matches(event)


class Waiter:
    """A reader at the head, as the dispatcher knows it: an addressee that takes nothing, and is woken instead."""

    def __init__(self, viewer: Viewer, wire: str, subscription: Subscription, after: int) -> None:
        self.after = after
        self.viewer = viewer
        self.wire = wire
        self.subscription = subscription
        self.revoked = False
        self.woken = asyncio.Event()

    @property
    def tenant(self) -> str:
        return self.subscription.tenant

    def deliver(self, entries: list[Entry]) -> None:
        self.woken.set()

    def overtaken(self, floor: int) -> None:
        if floor > self.after:
            self.woken.set()

    def fail(self, error: BaseException | None) -> None:
        self.woken.set()

    def ask(self, parcel: Parcel, subscription: Subscription, answers: Answers | None = None) -> Refusal | None:
        return None  # asked when it is read


class Reader:
    """One per hub."""

    def __init__(self, shared: Shared, switchboard: Switchboard) -> None:
        self._shared = shared
        self._switchboard = switchboard
        self._waiters: dict[Waiter, None] = {}

    async def read(
        self, viewer: Viewer, wire: str, subscription: Subscription, lens: Lens | None, *, after: int, limit: int
    ) -> Extract:
        """Up to `limit` events after the seq `after` that the subscription is to have, oldest first.

        Raises Forbidden when the lens says that access is gone, StoreUnavailable.
        """
        shared, tenant = self._shared, subscription.tenant
        interest = _Interest.of(subscription)
        kept: list[tuple[Event, Event]] = []
        position, floor, size, scanned = after, 0, 0, 0
        head, until = (await shared.log.bounds(tenant)).head, shared.clock.monotonic() + MAX_SECONDS
        full = False
        try:
            while position < head and not full and scanned < MAX_SCANNED:
                await shared.audit.room()
                async with shared.pages:
                    page = await shared.log.read(tenant, position, limit=PAGE, max_bytes=PAGE_BYTES)
                    found = [event for event in page.events if interest.matches(event)]
                    for event in page.events:
                        event.forget()
                head = page.bounds.head
                floor = max(floor, page.bounds.floor)
                position = max(position, page.bounds.floor)
                scanned += len(page.events)
                end = page.events[-1].seq if page.events else head
                for number, event in enumerate(found):
                    if number % STRETCH == STRETCH - 1:
                        await asyncio.sleep(0)  # hooks that answer at once leave others their turn
                    seen = await self._look(viewer, wire, subscription, lens, event)
                    if seen is not None:
                        kept.append((event, seen))
                        size += len(seen.payload_json)
                    position = event.seq
                    full = len(kept) >= limit or size >= MAX_EXTRACT_BYTES or shared.clock.monotonic() >= until
                    if full:
                        break
                else:
                    position = max(position, end)
            while not shared.gate.knows(event for event, _ in kept):
                await shared.gate.learn([event for event, _ in kept])
            # No await from here: what the gate says now holds when it is handed over.
            shown = [seen for event, seen in kept if self._admits(viewer, wire, subscription, event)]
        finally:
            shared.recorder.commit()
        return Extract(shown, position, floor, more=position < head)

    async def _look(
        self, viewer: Viewer, wire: str, subscription: Subscription, lens: Lens | None, event: Event
    ) -> Event | None:
        """What would be shown of the event: the gate is asked before the hooks, so that what nobody may see counts
        neither against the limit nor for them."""
        shared = self._shared
        while not shared.gate.knows([event]):
            await shared.gate.learn([event])
        if asked(shared.gate, Parcel(event), viewer.principal.subject, subscription) is not None:
            self._admits(viewer, wire, subscription, event)
            return None
        if lens is None:
            return event
        try:
            return await lens.view(event)
        except HookFailed:
            shared.recorder.note(Parcel(event), wire, Outcome.DROPPED, (subscription,))
            return None

    def _admits(self, viewer: Viewer, wire: str, subscription: Subscription, event: Event) -> bool:
        """What the gate says, noted."""
        parcel = Parcel(event)
        refusal = asked(self._shared.gate, parcel, viewer.principal.subject, subscription)
        if refusal is None:
            self._shared.recorder.note(parcel, wire, Outcome.DELIVERED, (subscription,))
        elif refusal is not Refusal.AUDIENCE:
            self._shared.recorder.note(parcel, wire, Outcome.REFUSED, (subscription,))
        return refusal is None

    async def await_match(
        self, viewer: Viewer, wire: str, subscription: Subscription, *, after: int, seconds: float
    ) -> tuple[bool, int]:
        """Wait until something that the subscription matches came after the seq `after`, which was read up to.

        Answers whether to read on, which may also be for another reason, and up to which seq nothing has come. Only
        what matches wakes it. Raises Forbidden when the viewer's credential is revoked meanwhile.
        """
        waiter = Waiter(viewer, wire, subscription, after)
        attachment = Attachment(waiter, subscription, after)
        self._waiters[waiter] = None
        self._switchboard.add(attachment)
        try:
            # No await since then: what was dispatched before is known to be read, or is read again.
            if self._passed(subscription.tenant) > after:
                return True, after
            await self._woken(waiter, seconds)
            if waiter.revoked:
                raise Forbidden("your access was revoked", details={"reason": "Access revoked"})
            if waiter.woken.is_set():
                return True, after
            return False, max(after, self._passed(subscription.tenant))
        finally:
            self._switchboard.remove(attachment)
            del self._waiters[waiter]

    def _passed(self, tenant: str) -> int:
        return self._switchboard.position(tenant) or 0

    async def _woken(self, waiter: Waiter, seconds: float) -> None:
        over = asyncio.ensure_future(self._shared.clock.sleep(seconds))
        woken = asyncio.ensure_future(waiter.woken.wait())
        try:
            await asyncio.wait([over, woken], return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            woken.cancel()

    def rouse(self, *, credential: str | None = None, topic: str | None = None) -> None:
        """Wake those who wait: all, those with a credential, which was revoked, or those of a topic, which is gone."""
        for waiter in list(self._waiters):
            if credential is not None and waiter.viewer.credential != credential:
                continue
            if topic is not None and topic not in waiter.subscription.topics:
                continue
            waiter.revoked = waiter.revoked or credential is not None
            waiter.woken.set()

    async def since(self, tenant: str, moment: int, bounds: Bounds, after: int) -> int:
        """The seq after which every event was recorded at `moment` (microseconds) or later; at least `after`."""
        low, high = after, bounds.head
        while low < high:
            middle = (low + high) // 2
            page = await self._shared.log.read(tenant, middle, limit=1)
            if page.events and page.events[0].recorded_at < moment:
                low = page.events[0].seq
            else:
                high = middle
        return low
