"""Polls and streams from the log: what every emitted event type is served by (SEP-3415, "Cursor Lifecycle")."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from clarion.errors import ClarionError, CloseReason
from clarion.hub.connection import Connection
from clarion.hub.hub import Hub, Stream
from clarion.hub.protocols import Lens, Sink
from clarion.model import At, Bounds, Event, Latest, Principal, Start, Subscription, Truncation
from clarion.wires.mcp_events.cursors import Cursors
from clarion.wires.mcp_events.framing import WIRE, meta_of
from clarion.wires.mcp_events.protocol import Live, Occurrence, Portion, StreamFraming, Wanted

__all__ = ["MAX_WAITING_POLLS", "LogSource"]

MAX_WAITING_POLLS = 1_000
"""Polls of one principal that wait at a time; further ones are answered at once."""


class LogSource:
    """One per hub."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._waiting: Counter[Principal] = Counter()

    def offered(
        self, wanted: Wanted, subscription: Subscription, lens: Lens | None = None, *, replay: bool = True
    ) -> LogOffered:
        """`subscription` of the log as the answer to what is wanted, seen through `lens`. Without `replay` there are no
        cursors: a stream begins now, and a poll can give nothing."""
        return LogOffered(self, wanted, subscription, lens, replay)

    async def start(self, wanted: Wanted, bounds: Bounds) -> At:
        """Where reading begins, and whether that is later than what was asked for."""
        if wanted.cursor is None:
            return At(bounds.head)
        seq, truncated = self.cursors(wanted, bounds).resolve(wanted.cursor, bounds)
        if wanted.max_age is not None and seq < bounds.head:
            moment = self.hub.clock.now() - wanted.max_age
            later = await self.hub.reader.since(wanted.caller.principal.tenant, moment, bounds, seq)
            if later > seq:
                return At(later, truncated or Truncation.AGE)
        return At(seq, truncated)

    @staticmethod
    def cursors(wanted: Wanted, bounds: Bounds) -> Cursors:
        return Cursors(bounds.epoch, wanted.caller.principal.tenant, wanted.name)


@dataclass(frozen=True, slots=True)
class LogOffered:
    """One subscription of the log, to be polled or streamed."""

    source: LogSource
    wanted: Wanted
    subscription: Subscription
    lens: Lens | None
    replay: bool

    async def poll(self, limit: int, wait: float) -> Portion:
        hub, wanted = self.source.hub, self.wanted
        tenant = wanted.caller.principal.tenant
        bounds = await hub.bounds(tenant)
        cursors = self.source.cursors(wanted, bounds)
        begin = await self.source.start(wanted, bounds)
        if not self.replay:
            return Portion((), None)
        position, truncated = begin.seq, begin.truncated is not None
        if wanted.cursor is None:
            return Portion((), cursors.of(bounds.at(position)))
        clock = hub.clock
        until = clock.monotonic() + wait
        while True:
            extract = await hub.reader.read(
                wanted.caller.viewer, WIRE, self.subscription, self.lens, after=position, limit=limit
            )
            truncated = truncated or extract.floor > position
            position = extract.position
            left = until - clock.monotonic()
            if extract.shown or extract.more or truncated or left <= 0 or hub.closing:
                break
            woken, position = await self._wait(position, left)
            if not woken or hub.closing:
                break
        hub.check_credential(wanted.caller.credential)
        occurrences = [self._occurrence(event) for event in extract.shown]
        return Portion(occurrences, cursors.of(bounds.at(position)), truncated, extract.more)

    async def _wait(self, position: int, seconds: float) -> tuple[bool, int]:
        waiting, viewer = self.source._waiting, self.wanted.caller.viewer
        principal = viewer.principal
        if waiting[principal] >= MAX_WAITING_POLLS:
            return False, position
        waiting[principal] += 1
        try:
            return await self.source.hub.reader.await_match(
                viewer, WIRE, self.subscription, after=position, seconds=seconds
            )
        finally:
            waiting[principal] -= 1
            if not waiting[principal]:
                del waiting[principal]

    def _occurrence(self, event: Event) -> Occurrence:
        meta = meta_of(event, self.wanted.name)
        return Occurrence(event.event_id, self.wanted.name, event.occurred_at, event.payload, meta)

    @asynccontextmanager
    async def stream(self, framing: StreamFraming, sink: Sink) -> AsyncIterator[Live]:
        viewer = self.wanted.caller.viewer
        async with self.source.hub.connect(viewer, framing, sink, own=[self.subscription], lens=self.lens) as stream:
            start: Start = Latest()
            if self.replay:
                framing.cursors = self.source.cursors(self.wanted, stream.bounds)
                start = await self.source.start(self.wanted, stream.bounds)
            yield _LogStream(stream, start)


@dataclass(frozen=True, slots=True)
class _LogStream:
    """A connection of the hub, with where it begins."""

    stream: Stream
    start: Start

    @property
    def _connection(self) -> Connection:
        return self.stream.connection

    @property
    def close_reason(self) -> CloseReason | None:
        return self._connection.close_reason

    @property
    def close_error(self) -> ClarionError | None:
        return self._connection.close_error

    async def run(self) -> None:
        await self.stream.run(self.start)

    def close(self, reason: CloseReason, error: ClarionError | None = None) -> None:
        self._connection.close(reason, error)

    def report(self, error: ClarionError) -> None:
        self._connection.report(error)

    def skip(self) -> None:
        self._connection.skip()
