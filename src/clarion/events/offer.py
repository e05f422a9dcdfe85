"""What a library offers on the Events wire: its declared types, each with its author's hooks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from clarion.errors import CloseReason, Forbidden, InvalidEvent, LimitExceeded, NotFound, Unsupported
from clarion.events.declared import ANYTHING, Declared
from clarion.events.hooks import Hook, HookLens, HookRunner, Misfit, authorized, reauthorize
from clarion.events.occurrence import Context
from clarion.events.runtime import Runtime
from clarion.events.upstream import CheckType
from clarion.hub.protocols import Lens, Sink
from clarion.model import Event, Principal
from clarion.wires.mcp_events.protocol import (
    Caller,
    Detach,
    EventType,
    Live,
    Mode,
    Offered,
    Portion,
    StreamFraming,
    Wanted,
    ephemeral,
)

__all__ = ["RELEASE_SECONDS", "LibraryOffer", "no_such_event"]

RELEASE_SECONDS = 0.25
"""How long a stream beyond its type's limit waits for another one's end: who closes a stream and opens the next may be
read before the close is. Stops a limit from refusing what it allows."""


def no_such_event(name: str) -> NotFound:
    """There is no such event type, or no more."""
    return NotFound(f"there is no event type {name[:64]!r}; events/list names them", details={"kind": "event"})


class LibraryOffer:
    """A `clarion.wires.mcp_events.protocol.Offer` over declared types, which may change at any time."""

    def __init__(self, runtime: Callable[[], Awaitable[Runtime]], runner: HookRunner) -> None:
        self.types: dict[str, Declared] = {}
        self._runtime = runtime
        self._runner = runner
        self._watchers: dict[object, Callable[[], None]] = {}
        self.streams: Counter[tuple[Principal, str]] = Counter()
        self._left: set[asyncio.Event] = set()

    # -- the types --------------------------------------------------------------------------------------------------

    def put(self, declared: Declared) -> None:
        self.types[declared.name] = declared
        self._announce()

    def drop(self, name: str) -> None:
        del self.types[name]
        self._announce()

    def watch(self, caller: Caller, changed: Callable[[], None]) -> Detach:
        token = object()
        self._watchers[token] = changed
        return lambda: self._watchers.pop(token, None) and None

    def _announce(self) -> None:
        for changed in list(self._watchers.values()):
            changed()

    # -- open streams -----------------------------------------------------------------------------------------------

    async def room(self, key: tuple[Principal, str], most: int) -> bool:
        """Whether a stream more may be opened, at once or within a moment."""
        left = asyncio.Event()
        self._left.add(left)
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                while self.streams[key] >= most:
                    left.clear()
                    await left.wait()
        except TimeoutError:
            return False
        finally:
            self._left.discard(left)
        return True

    def leave(self, key: tuple[Principal, str]) -> None:
        """A stream has ended."""
        self.streams[key] -= 1
        if not self.streams[key]:
            del self.streams[key]
        for left in self._left:
            left.set()

    # -- what the wire asks -----------------------------------------------------------------------------------------

    async def listing(self, caller: Caller) -> Sequence[EventType]:
        return [declared.descriptor for declared in self.types.values()]

    async def open(self, wanted: Wanted, mode: Mode) -> Offered:
        declared = self.types.get(wanted.name)
        if declared is None:
            raise no_such_event(wanted.name)
        if mode not in declared.descriptor.delivery:
            offered = ", ".join(each.value for each in declared.descriptor.delivery)
            raise Unsupported(
                f"{wanted.name} is not delivered by {mode.value}; it offers {offered}",
                details={"feature": "deliveryMode", "value": mode.value},
            )
        declared.check_arguments(wanted.arguments)
        context = Context.of(wanted)
        await authorized(self._runner, declared.hooks, context)
        return LibraryOffered(self, declared, context, wanted, await self._runtime(), self._runner)


@dataclass(frozen=True, slots=True)
class LibraryOffered:
    """One subscription, whose author may know of it by a lease."""

    offer: LibraryOffer
    declared: Declared
    context: Context
    wanted: Wanted
    runtime: Runtime
    runner: HookRunner

    def _source(self) -> Offered:
        declared, runtime, wanted = self.declared, self.runtime, self.wanted
        lens: Lens | None = HookLens(self.runner, declared.hooks, self.context) if declared.hooks.per_event else None
        unchecked = declared.hooks.transform is not None or declared.check is not None
        if unchecked and declared.descriptor.payload_schema != ANYTHING:
            lens = _SchemaLens(lens, declared, self.runner)
        subscription = ephemeral(wanted, [declared.name], {}, None)
        if declared.check is None:
            return runtime.log.offered(wanted, subscription, lens, replay=declared.replay)
        kind = CheckType(declared.name, declared.check, declared.interval, declared.shared)
        return runtime.checks.source(kind, wanted, subscription, lens)

    async def poll(self, limit: int, wait: float) -> Portion:
        await self.runtime.leases.polled(self.context, self.declared.hooks)
        portion = await self._source().poll(limit, wait)
        self._check_offered()
        return portion

    @asynccontextmanager
    async def stream(self, framing: StreamFraming, sink: Sink) -> AsyncIterator[Live]:
        """Raises LimitExceeded before the author is told of it."""
        async with (
            self._counted(),
            self._source().stream(framing, sink) as live,
            self.runtime.leases.streamed(self.context, self.declared.hooks),
        ):
            self._check_offered()
            if self.declared.hooks.authorize is None:  # most streams need no task for it
                yield live
                return
            async with asyncio.TaskGroup() as tasks:
                asking = tasks.create_task(self._reauthorize(live))
                try:
                    yield live
                finally:
                    asking.cancel()

    def _check_offered(self) -> None:
        """The type may have been removed while hooks were asked, or a poll waited. Raises NotFound."""
        if self.declared.name not in self.offer.types:
            raise no_such_event(self.declared.name)

    async def _reauthorize(self, live: Live) -> None:
        def revoke(error: Forbidden) -> None:
            live.close(CloseReason.REVOKED, error)

        await reauthorize(self.runner, self.declared.hooks, self.context, self.runtime.hub.clock, revoke)

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        offer, key, most = self.offer, (self.context.principal, self.declared.name), self.declared.max_streams
        if most is not None and not await offer.room(key, most):
            raise LimitExceeded(
                f"you have {most} open streams of {self.declared.name}, its limit; close one first",
                details={"limit": "streams", "max": most},
            )
        offer.streams[key] += 1
        try:
            yield
        finally:
            offer.leave(key)


@dataclass(frozen=True, slots=True)
class _SchemaLens:
    """Holds to the payload's schema what no `emit` has checked: what a transform made, and what a check gave."""

    lens: Lens | None
    declared: Declared
    runner: HookRunner

    async def view(self, event: Event) -> Event | None:
        """See `Lens.view`. What breaks the schema is the failure of the hook that gave it."""
        shown = event if self.lens is None else await self.lens.view(event)
        if shown is None or (shown is event and self.declared.check is None):
            return shown
        try:
            self.declared.check_payload(shown.payload)
        except InvalidEvent as error:
            checked = shown is event
            hook = Hook.CHECK if checked else Hook.TRANSFORM
            function = self.declared.check if checked else self.declared.hooks.transform
            misfit = Misfit(f"{hook.value}'s {error.field or 'data'} does not fit payloadSchema")
            raise self.runner.failed(self.declared.name, hook, function, misfit, kept_back=True) from None
        return shown
