"""One open stream: replay -> live -> (lagging) -> closed.

The routine that hands replay over to live is `_replay`, for every wire: it reads the log up to where the dispatcher
stands and joins it without an await in between, so that no event is missed and none comes twice (HOUSE invariant 5).
When the transport refuses more, events wait in the ring; what a full one means is the framing's rule (invariant 4).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection

from clarion.errors import ClarionError, CloseReason, Forbidden, HookFailed, StoreUnavailable
from clarion.gate import Refusal
from clarion.hub.attachment import Answers, Attachment, Matcher, Switchboard, asked
from clarion.hub.outlet import Outlet
from clarion.hub.protocols import Framing, Lens, Opening, Overflow, Sink, Viewer
from clarion.hub.ring import Entry, Parcel, Ring
from clarion.hub.shared import Flurry, Interruptible, Phase, Shared, Signal, failure
from clarion.hub.views import VIEW_BATCH, Views
from clarion.model import Bounds, Outcome, Position, Start, Subscription, Truncation
from clarion.stores.protocols import Page

__all__ = ["Connection", "Phase", "Shared"]

REPLAY_PAGE = 32
"""Events a replay reads at a time: the event loop serves nothing else while they are matched and written."""

REPLAY_BYTES = 256 * 1024
"""Bytes of payload it reads at a time. What a stalled reader did not take is read again, so a page is not much more
than a transport takes at once."""

MAX_NOTICES = 16
"""Frames about failures that wait for a transport; the oldest go first. Stops failing hooks from filling the memory."""


class Connection:
    """One stream of one viewer. Created, run and closed by the hub; written to by the dispatcher."""

    __slots__ = (
        "_attachments", "_closed", "_floors", "_framing", "_gap", "_matcher", "_notices", "_outlet", "_passed",
        "_ring", "_shared", "_skipped", "_switchboard", "_told", "_views", "_waits", "_work", "close_error",
        "close_reason", "phase", "viewer", "wire",
    )  # fmt: skip

    def __init__(
        self,
        viewer: Viewer,
        framing: Framing,
        sink: Sink,
        *,
        shared: Shared,
        switchboard: Switchboard,
        lens: Lens | None = None,
    ) -> None:
        self.viewer = viewer
        self.phase = Phase.REPLAY
        self.close_reason: CloseReason | None = None
        self.close_error: ClarionError | None = None
        self._framing = framing
        self.wire = framing.name
        self._outlet = Outlet(framing, sink, shared.recorder)
        self._shared = shared
        self._switchboard = switchboard
        self._ring = Ring(shared.budget, shared.ring_capacity, on_drop=self._overflow)
        self._gap: Flurry | None = None
        self._views = None if lens is None else Views(lens, shared.clock, self._hook_failed)
        self._notices: deque[bytes] | None = None  # made when it is needed, as an idle stream needs none
        self._skipped = False
        self._floors: list[int] = []
        self._attachments: dict[str, Attachment] = {}
        self._matcher: Matcher | None = None
        self._work = Signal()
        self._waits = Interruptible()
        self._closed = False
        self._passed = 0
        self._told = 0  # up to here the dispatcher noted what the gate refused

    # -- what the hub calls ---------------------------------------------------------------------------------------

    @property
    def tenant(self) -> str:
        return self.viewer.principal.tenant

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
            self._lay_line()
            return
        attachment = Attachment(self, subscription, since)
        self._attachments[subscription.id] = attachment
        self._matcher = None
        if self.phase is not Phase.REPLAY and not self._closed:
            self._switchboard.add(attachment)
        self._lay_line()

    def detach(self, subscription_id: str) -> None:
        """Deliver nothing more of this subscription, what waits in the ring included."""
        attachment = self._attachments.pop(subscription_id, None)
        if attachment is None:
            return
        self._outlet.direct(attachment, None, self._shared.kinds, alone=False)
        self._matcher = None
        if self.phase is not Phase.REPLAY:
            self._switchboard.remove(attachment)
        self._lay_line()
        for entry in self._ring:
            entry.subscriptions[:] = [one for one in entry.subscriptions if one.id != subscription_id]
        self._ring.discard([entry for entry in self._ring if not entry.subscriptions])
        if self._gap is not None:
            self._gap.dropped.pop(subscription_id, None)

    def close(self, reason: CloseReason, error: ClarionError | None = None) -> None:
        """End the stream; the first reason stays. What waits in the ring stays in the log for the next one."""
        if self._closed:
            return
        self._closed = True
        self.close_reason, self.close_error = reason, error
        if self.phase is not Phase.REPLAY:
            for attachment in self._attachments.values():
                self._switchboard.remove(attachment)
        self._enter(Phase.CLOSED)
        self._ring.clear()
        self._work.set()
        self._waits.interrupt()  # whoever waits for a transport that stalls must hear of it

    def fail(self, error: BaseException | None) -> None:
        """End the stream for something that went wrong in it: nobody else's suffers."""
        self.close(failure(self.wire, error))

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
            await self._waits.wait(self._outlet.writable)
        if not self._closed:
            self._announce(passed, truncated)
        while not self._closed:
            await self._replay()
            while self._is_live:
                await self._work.wait()
                self._work.clear()
                await self._drain()

    def report(self, error: ClarionError) -> None:
        """Tell the client of something that failed, as soon as the transport takes it; the stream goes on."""
        self._notify(self._framing.failed(error))

    def skip(self) -> None:
        """Events that were never emitted are missing here: tell it as a gap, after all that waits."""
        self._skipped = True
        self._stir()

    def heartbeat(self) -> None:
        """Say how far this stream is, unless a gap is to be told before it."""
        outlet = self._outlet
        if self._closed or not outlet.epoch or self._gap or self._floors:
            return
        try:
            if not outlet.paused:
                outlet.heartbeat(self._reached())
        except Exception as error:
            self.fail(error)

    def _reached(self) -> int:
        """Everything up to this seq was handed over, or was none of this stream's."""
        if self._ring:
            return self._oldest - 1
        seq = max(self._passed, self._outlet.handed)
        return seq if self.phase is Phase.REPLAY else max(seq, self._switchboard.position(self.tenant) or 0)

    # -- live -----------------------------------------------------------------------------------------------------

    def deliver(self, entries: list[Entry]) -> None:
        """Hand over what the dispatcher admitted in this very tick, or keep in the ring what the transport refuses."""
        if not self._is_live:
            return  # closed, or it fell behind just now and reads them from the log
        sent = 0
        if self.phase is Phase.LIVE and self._views is None:  # it owes nothing
            try:
                sent = self._outlet.send(entries)
                if sent == len(entries):
                    if any(attachment.line is None for attachment in self._attachments.values()):
                        self._lay_line()  # it may have one only now: some show theirs once they were written to
                    return
            except Exception as error:
                self.fail(error)
                return
        self._enter(Phase.LAGGING)
        for entry in entries[sent:]:
            self._ring.push(entry)
            if self.phase is not Phase.LAGGING:
                break  # it fell behind: the log has the rest
        self._work.set()

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._lay_line()

    def _lay_line(self) -> None:
        """Let the dispatcher write to the transport by itself while nothing stands between them, and only then."""
        line = self._outlet.line if self.phase is Phase.LIVE and self._views is None else None
        alone = len(self._attachments) == 1
        for attachment in self._attachments.values():
            if self._outlet.direct(attachment, line, self._shared.kinds, alone=alone):
                self._switchboard.changed(attachment)

    @property
    def _is_live(self) -> bool:
        return self.phase is Phase.LIVE or self.phase is Phase.LAGGING

    @property
    def _owes(self) -> bool:
        """Something waits that must go before what comes now."""
        return bool(self._ring or self._gap or self._floors or self._notices or self._skipped)

    def _notify(self, frames: bytes) -> None:
        if frames:
            if self._notices is None:
                self._notices = deque(maxlen=MAX_NOTICES)
            self._notices.append(frames)
            self._stir()

    def _stir(self) -> None:
        """Have what waits looked at; a replay looks by itself."""
        if self.phase is Phase.LIVE:
            self._enter(Phase.LAGGING)
        self._work.set()

    def overtaken(self, floor: int) -> None:
        """Retention let go of events up to `floor` before they were dispatched: tell it, after all that waits."""
        if self._closed or self.phase is Phase.REPLAY or floor <= self._passed:
            return  # a replay finds out by itself; and what it had passed already is not lost
        if not self._owes:
            try:
                if not self._outlet.paused:
                    self._announce(floor, Truncation.RETENTION)
                    return
            except Exception as error:
                self.fail(error)
                return
        self._floors.append(floor)
        self._enter(Phase.LAGGING)
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
        while self._is_live and self._owes:
            if self._outlet.paused:
                await self._waits.wait(self._outlet.writable)
                continue
            await self._waits.wait(shared.audit.room)
            if self._views is not None:
                await self._look(list(self._ring))
            waiting = self._next_waiting()
            if not shared.gate.knows(entry.parcel.event for entry in waiting):
                await shared.gate.learn([entry.parcel.event for entry in waiting])
                continue
            # No await from here: what the gate says now holds when it is written.
            if not self._is_live or self._outlet.paused:
                if self._views is not None:
                    self._views.forget()
                continue
            try:
                self._send_waiting(waiting)
            finally:
                shared.recorder.commit()
        if self._is_live:
            self._enter(Phase.LIVE)

    def _next_waiting(self) -> list[Entry]:
        """What waits before the next floor and, where there is a lens, was looked at."""
        waiting = list(self._ring) if self._views is None else self._views.ready(self._ring)
        if not self._floors:
            return waiting
        return [entry for entry in waiting if entry.parcel.event.seq <= self._floors[0]]

    def _send_waiting(self, waiting: list[Entry]) -> None:
        # What tells of a gap ends it, and goes with the first survivors: what is dropped next is another flurry.
        gap, self._gap = self._gap, None
        lost = b"" if gap is None else gap.frames(self._outlet, self._ring.capacity, self._attachments)
        before = lost + self._noticed()
        if waiting:
            sent = self._outlet.send(waiting, before, self._admit)
            for _ in range(sent):
                self._ring.pop()
        elif before:
            self._outlet.say(before)
        if self._views is not None:
            self._views.forget()
        if self._floors and not self._outlet.paused and (not self._ring or self._oldest > self._floors[0]):
            self._announce(self._floors.pop(0), Truncation.RETENTION)
        if self._skipped and not (self._ring or self._floors or self._outlet.paused):
            self._skipped = False
            self._announce(self._reached(), Truncation.UPSTREAM)

    @property
    def _oldest(self) -> int:
        return next(iter(self._ring)).parcel.event.seq

    def _noticed(self) -> bytes:
        noticed, self._notices = self._notices, None
        return b"".join(noticed or ())

    def _overflow(self, entry: Entry) -> None:
        """`entry` did not fit, and is gone from the ring: what comes of it is the wire's own rule."""
        match self._framing.overflow:
            case Overflow.DROP_OLDEST:
                if self._gap is None:
                    self._gap = Flurry(after=self._outlet.handed)
                self._gap.add(entry)
                self._shared.recorder.note(entry.parcel, self.wire, Outcome.DROPPED, entry.subscriptions)
            case Overflow.CATCH_UP:
                self._fall_behind(entry.parcel.event.seq - 1)

    def _fall_behind(self, passed: int) -> None:
        """Leave the dispatcher, and go on from the log after `passed`: nothing of it waits in memory."""
        if not self._is_live:
            return
        for attachment in self._attachments.values():
            self._switchboard.remove(attachment)
        self._enter(Phase.REPLAY)
        self._passed = passed
        self._told = max(passed, self._switchboard.position(self.tenant) or 0)
        self._ring.clear()
        self._floors.clear()  # the log tells what it has lost by itself
        self._work.set()

    # -- an author's hooks ------------------------------------------------------------------------------------------

    async def _look(self, entries: list[Entry]) -> None:
        """Ask the lens about what is sent next. It may take its time, and is not waited for once the stream ends."""
        views = self._views
        if views is None:
            return
        try:
            await self._waits.wait(lambda: views.prepare(entries))
        except Forbidden as error:
            self.close(CloseReason.REVOKED, error)

    def _hook_failed(self, entry: Entry, error: HookFailed) -> None:
        self._shared.recorder.note(entry.parcel, self.wire, Outcome.DROPPED, entry.subscriptions)
        self._shared.recorder.commit()
        if self.phase is not Phase.CLOSED:
            self._notify(self._framing.failed(error))

    # -- replay ---------------------------------------------------------------------------------------------------

    async def _replay(self) -> None:
        """Deliver from the log at the pace of the transport, up to where the dispatcher stands, and join it there.
        Nothing waits in memory meanwhile: what the transport did not take is read again."""
        while not self._closed:
            await asyncio.sleep(0)  # a reader that takes everything leaves others their turn
            if self._outlet.paused:
                await self._waits.wait(self._outlet.writable)
                continue
            await self._waits.wait(self._shared.audit.room)
            head = await self._replay_page()
            # No await from here: whatever the dispatcher has dispatched by now, it was read above, or is read next.
            if self._passed >= max(head, self._switchboard.position(self.tenant) or 0):
                break
        if not self._closed:
            self._go_live()

    def _go_live(self) -> None:
        self._matcher = None
        for attachment in self._attachments.values():
            attachment.since = max(attachment.since, self._passed)
            self._switchboard.add(attachment)
        self._enter(Phase.LIVE)
        if self._owes:
            self._stir()

    async def _replay_page(self) -> int:
        """Deliver of the next page what the transport takes; answers the log's head. Holds the page no longer."""
        async with self._shared.pages:
            page = await self._shared.log.read(
                self.tenant,
                self._passed,
                limit=REPLAY_PAGE if self._views is None else VIEW_BATCH,
                max_bytes=REPLAY_BYTES,
            )
            if self._matcher is None:
                self._matcher = Matcher(self._attachments.values())
            matches = self._matcher.matching(page.events)
            if self._views is None:
                return await self._hand_page(page, matches)
        # Hooks may take their time: nobody else's page waits for them.
        self._views.forget()
        await self._look(matches)
        try:
            return await self._hand_page(page, matches)
        finally:
            self._views.forget()

    async def _hand_page(self, page: Page, matches: list[Entry]) -> int:
        gate = self._shared.gate
        while not gate.knows(entry.parcel.event for entry in matches):
            await gate.learn([entry.parcel.event for entry in matches])
        if self._closed or self._outlet.paused:
            return page.bounds.head
        if page.bounds.floor > self._passed:
            self._passed = page.bounds.floor
            self._announce(self._passed, Truncation.RETENTION)
        if self._notices:
            self._outlet.say(self._noticed())
        try:
            ready = matches if self._views is None else self._views.ready(matches)
            sent = self._outlet.send(ready, admit=self._admit)
        finally:
            self._shared.recorder.commit()
        if sent < len(matches):
            self._passed = matches[sent].parcel.event.seq - 1
        elif page.events:
            self._passed = page.events[-1].seq
        return page.bounds.head

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
            refusal = self.ask(parcel, current, answers)
            if refusal is None:
                admitted.append(current)
            elif refusal is not Refusal.AUDIENCE and parcel.event.seq > self._told:
                refused.append(current)  # the other was never meant for this subscriber, or was noted before
        if refused:
            self._shared.recorder.note(parcel, self.wire, Outcome.REFUSED, refused)
        if not admitted:
            return None
        shown = parcel if self._views is None or answers is not None else self._views.of(entry)
        return None if shown is None else Entry(shown, admitted)

    def ask(self, parcel: Parcel, subscription: Subscription, answers: Answers | None = None) -> Refusal | None:
        """What the gate says of the event for a subscription of this viewer."""
        return asked(self._shared.gate, parcel, self.viewer.principal.subject, subscription, answers)
