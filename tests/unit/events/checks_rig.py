"""An upstream that keeps its history in a list, and check streams whose transports a test holds in its hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from clarion.errors import ClarionError, CloseReason
from clarion.events.checks import Checks, CheckSource, Counted
from clarion.events.hooks import HookLens, HookRunner, Hooks
from clarion.events.occurrence import Context, CursorExpired, Event
from clarion.events.upstream import CheckType
from clarion.hub.protocols import Opening, Overflow
from clarion.hub.recorder import Recorder
from clarion.hub.ring import Parcel
from clarion.model import Position, Principal, Subscription
from clarion.stores.memory import open_memory
from clarion.stores.protocols import Backend
from clarion.testing.clock import FakeClock
from clarion.testing.hubs import settle
from clarion.testing.sinks import FakeSink
from clarion.wires.mcp_events.cursors import Cursors
from clarion.wires.mcp_events.protocol import Caller, Live, Wanted, ephemeral

NAME = "mail.received"
INTERVAL = 5.0


class Upstream:
    """A history of numbers from 1; the cursor is how many there were. `own`: each event has a cursor of its own.

    `fail` is raised by every check; `held` keeps async checks waiting; `floor` is what retention let go of.
    """

    def __init__(self, *, page: int = 1_000_000, own: bool = False) -> None:
        self.history: list[int] = []
        self.page = page
        self.own = own
        self.floor = 0
        self.calls: list[str | None] = []
        self.contexts: list[Context] = []
        self.fail: Exception | None = None
        self.held: asyncio.Event | None = None
        self.running = 0
        self.most = 0

    def add(self, count: int) -> None:
        self.history += range(len(self.history) + 1, len(self.history) + count + 1)

    async def check(self, ctx: Context, arguments: Mapping[str, Any], cursor: str | None) -> tuple[list[Event], str]:
        self.calls.append(cursor)
        self.contexts.append(ctx)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.held is not None:
                await self.held.wait()
        finally:
            self.running -= 1
        if self.fail is not None:
            raise self.fail
        if cursor is None:
            return [], str(len(self.history))
        begin = int(cursor)
        if begin < self.floor:
            raise CursorExpired
        found = self.history[begin : begin + self.page]
        events = [Event({"n": n}, event_id=f"e{n}", cursor=str(n) if self.own else None) for n in found]
        return events, str(begin + len(found))


class LineFraming:
    """Frames as lines of JSON, in place of the wire's."""

    name = "mcp_events"
    overflow = Overflow.CATCH_UP
    cursors: Cursors | None = None

    def active(self, cursor: str | None, *, truncated: bool) -> bytes:
        return self._line("active", cursor=cursor, truncated=truncated)

    def occurrence(self, parcel: Parcel, cursor: str | None) -> bytes:
        event = parcel.event
        return self._line("event", id=event.event_id, data=event.payload, cursor=cursor)

    def beat(self, cursor: str | None) -> bytes:
        return self._line("heartbeat", cursor=cursor)

    def failed(self, error: ClarionError) -> bytes:
        return self._line("error", error=type(error).__name__, details=error.details)

    def closed(self, reason: CloseReason, error: ClarionError | None) -> bytes:
        return b""

    def opened(self, opening: Opening) -> bytes:
        return b""

    def event(self, parcel: Parcel, subscriptions: Any, position: Position) -> bytes:
        return b""

    def lagged(self, subscription_id: str, dropped: int, capacity: int, last: Position) -> bytes:
        return b""

    def heartbeat(self, position: Position) -> bytes:
        return b""

    @staticmethod
    def _line(kind: str, **fields: Any) -> bytes:
        return json.dumps({"kind": kind, **fields}).encode() + b"\n"


@dataclass(slots=True)
class OpenCheck:
    live: Live
    sink: FakeSink
    task: asyncio.Task[None]

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.sink.data.splitlines()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["kind"] == kind]

    @property
    def kinds(self) -> list[str]:
        return [frame["kind"] for frame in self.frames]

    @property
    def numbers(self) -> list[int]:
        return [frame["data"]["n"] for frame in self.of("event")]


@dataclass(slots=True)
class Rig:
    checks: Checks
    clock: FakeClock
    backend: Backend
    cursors: Cursors = field(default_factory=lambda: Cursors("", "acme", NAME))

    def wanted(self, *, subject: str = "alice", tenant: str = "acme", arguments: Any = None, **fields: Any) -> Wanted:
        caller = Caller(Principal(tenant, subject), "laptop", "key", True, {"scope": "mail"})
        return Wanted(caller, NAME, {} if arguments is None else arguments, **fields)

    def source(
        self, check: Callable[..., Any] | Upstream, *, hooks: Hooks | None = None, shared: bool = False,
        interval: float | None = INTERVAL, **wanted: Any
    ) -> CheckSource:  # fmt: skip
        function = check.check if isinstance(check, Upstream) else check
        asked = self.wanted(**wanted)
        lens = None if hooks is None else HookLens(self.checks.runner, hooks, Context.of(asked))
        type = CheckType(NAME, function, interval, shared)
        return self.checks.source(type, asked, self.subscription(asked), lens)

    @staticmethod
    def subscription(wanted: Wanted) -> Subscription:
        return ephemeral(wanted, (NAME,), {}, None)

    def at(self, text: str) -> str:
        """The wire's cursor of an upstream's."""
        return self.cursors.wrap(json.dumps(text))

    def place(self, cursor: str | None) -> Any:
        """What a cursor of the wire says of the upstream."""
        assert cursor is not None
        text = self.cursors.unwrap(cursor)
        assert text is not None
        return json.loads(text)

    @asynccontextmanager
    async def stream(self, source: CheckSource, sink: FakeSink | None = None) -> AsyncIterator[OpenCheck]:
        sink = sink or FakeSink()
        async with source.stream(LineFraming(), sink) as live:
            task = asyncio.create_task(live.run())
            try:
                await settle()
                yield OpenCheck(live, sink, task)
            finally:
                live.close(CloseReason.CLIENT_GONE)
                await task


@asynccontextmanager
async def rigged(counted: Counted | None = None) -> AsyncIterator[Rig]:
    clock, backend = FakeClock(), open_memory()
    checks = Checks(HookRunner(clock), Recorder(backend.audit, clock), clock, jitter=lambda: 0.0, counted=counted)
    async with checks.running():
        yield Rig(checks, clock, backend)
