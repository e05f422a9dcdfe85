"""Leases: a subscription that is polled has no end of its own, so it is taken to live as long as it is asked for.

What the author sets up for a subscription (`on_subscribe`) and takes down (`on_unsubscribe`) is called once for each
(principal, name, arguments), however many polls and streams share it (SEP-3415, "Unsubscribe timing by mode").
Nothing of it is kept over a restart.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from clarion.clock import Clock
from clarion.encoding import canonical
from clarion.errors import ClarionError, HookFailed, LimitExceeded
from clarion.events.hooks import HOOK_SECONDS, Hook, HookRunner, Hooks
from clarion.events.occurrence import Context
from clarion.logs import get_logger
from clarion.model import Principal

__all__ = ["LEASE_SECONDS", "Lease", "LeaseLimits", "Leases"]

LEASE_SECONDS = 300.0
"""Seconds that a polled subscription lives without a poll: many times the longest recommended pause."""

UNSUBSCRIBES_AT_ONCE = 16
"""How many `on_unsubscribe` run at a time. Stops the end of many leases from flooding an upstream."""

STOPPING_SECONDS = 2 * HOOK_SECONDS
"""Seconds that a shutdown waits for the last `on_unsubscribe`. Stops hooks that hang from keeping the process."""

logger = get_logger("clarion.leases")

Key: TypeAlias = tuple[Principal, str, bytes]


@dataclass(frozen=True, slots=True)
class LeaseLimits:
    """How many leases there may be. Stops callers who vary their arguments from filling the memory, and from setting
    up things upstream without end; each principal's own limit stops one from taking everybody's."""

    total: int = 10_000
    per_principal: int = 1_000


@dataclass(slots=True, eq=False)
class Lease:
    """One subscription that lives. Made and ended by `Leases`."""

    context: Context
    hooks: Hooks
    key: Key
    expires_at: float | None = None
    """When the polls' share in it ends, on the monotonic clock; None when nobody polls it."""
    streams: int = 0
    ready: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done when `on_subscribe` is; holds its error."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False

    @property
    def wanted(self) -> bool:
        return self.streams > 0 or self.expires_at is not None


class Leases:
    """All leases of a library. Use them within `running`."""

    def __init__(self, runner: HookRunner, clock: Clock, *, limits: LeaseLimits | None = None) -> None:
        self._runner = runner
        self._clock = clock
        self._limits = limits or LeaseLimits()
        self._leases: dict[Key, Lease] = {}
        self._polled: dict[Key, Lease] = {}
        """Those that polls hold, by the time of the last one."""
        self._owned: Counter[Principal] = Counter()
        self._tasks: asyncio.TaskGroup | None = None
        self._open = False
        self._working: set[asyncio.Task[None]] = set()
        self._unsubscribes = asyncio.Semaphore(UNSUBSCRIBES_AT_ONCE)

    def __len__(self) -> int:
        return len(self._leases)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Leases]:
        """Leases expire while the block runs; at its end all are ended, each with its `on_unsubscribe`."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            expiry = tasks.create_task(self._expire())
            self._open = True
            try:
                yield self
            finally:
                self._open = False
                expiry.cancel()
                await self._end_all(tasks)

    async def polled(self, context: Context, hooks: Hooks) -> Lease:
        """The lease of a subscription that is being polled, begun or renewed; `on_subscribe` was called for it.

        Raises LimitExceeded before that, and its error (HookFailed, or the Clarion error that the author raised) when
        it failed: no lease stays then.
        """
        lease = await self._join(context, hooks)
        self._renew(lease)
        await asyncio.shield(lease.ready)
        if not lease.ending:
            self._renew(lease)
        return lease

    @asynccontextmanager
    async def streamed(self, context: Context, hooks: Hooks) -> AsyncIterator[Lease]:
        """The lease of a subscription whose stream is open while the block runs. Raises as `polled` does."""
        lease = await self._join(context, hooks)
        lease.streams += 1
        try:
            await asyncio.shield(lease.ready)
            yield lease
        finally:
            lease.streams -= 1
            self._end_unless_wanted(lease)

    def retire(self, name: str) -> None:
        """The event type `name` is gone: let polls' shares in its subscriptions end now. Streams end by themselves."""
        for lease in [lease for lease in self._polled.values() if lease.context.name == name]:
            self._lapse(lease)

    # -- beginning ------------------------------------------------------------------------------------------------

    async def _join(self, context: Context, hooks: Hooks) -> Lease:
        key = (context.principal, context.name, canonical(context.arguments))
        while True:
            lease = self._leases.get(key)
            if lease is None:
                return self._begin(key, context, hooks)
            if not lease.ending:
                return lease
            await lease.ended.wait()  # what was set up before must be gone before it is set up again

    def _begin(self, key: Key, context: Context, hooks: Hooks) -> Lease:
        if not self._open:
            raise _stopping()
        lease = Lease(context, hooks, key)
        limit = self._limit_reached(context.principal)
        if limit is not None and hooks.lifecycle:
            raise LimitExceeded(
                f"{limit} subscriptions are open, and no more are allowed. Let some of them lapse or close some",
                details={"limit": "subscriptions", "max": limit},
            )
        if limit is None:
            self._leases[key] = lease
            self._owned[context.principal] += 1
        if hooks.on_subscribe is None:
            lease.ready.set_result(None)
        else:
            self._spawn(self._subscribe(lease))
        return lease  # beyond the limit it only remembers nothing, since there is nothing to undo

    def _limit_reached(self, principal: Principal) -> int | None:
        if len(self._leases) >= self._limits.total:
            return self._limits.total
        return self._limits.per_principal if self._owned[principal] >= self._limits.per_principal else None

    async def _subscribe(self, lease: Lease) -> None:
        """Runs to its end whoever asked for it, so that it is known what there is to undo."""
        hooks, context = lease.hooks, lease.context.copy()
        if hooks.on_subscribe is None:
            return
        arguments = (context, context.arguments, context.subscription_id)
        try:
            await self._runner.call(
                context.name, Hook.ON_SUBSCRIBE, hooks.on_subscribe, *arguments, passes=ClarionError
            )
        except ClarionError as error:
            self._remove(lease)
            lease.ready.set_exception(error)
            lease.ready.exception()  # whoever asked may be gone
        except asyncio.CancelledError:
            self._remove(lease)
            lease.ready.set_exception(_stopping())
            lease.ready.exception()
            raise
        else:
            lease.ready.set_result(None)
            self._end_unless_wanted(lease)

    # -- ending ---------------------------------------------------------------------------------------------------

    def _renew(self, lease: Lease) -> None:
        if self._leases.get(lease.key) is lease:
            lease.expires_at = self._clock.monotonic() + LEASE_SECONDS
            self._polled.pop(lease.key, None)
            self._polled[lease.key] = lease

    async def _expire(self) -> None:
        """Let those lapse that were not polled in time. None can be due sooner than a whole lease from now, or the
        one that was polled longest ago."""
        while True:
            now = self._clock.monotonic()
            oldest = next(iter(self._polled.values()), None)
            due = now + LEASE_SECONDS if oldest is None or oldest.expires_at is None else oldest.expires_at
            if oldest is not None and due <= now:
                self._lapse(oldest)
            else:
                await self._clock.sleep(due - now)

    def _lapse(self, lease: Lease) -> None:
        self._polled.pop(lease.key, None)
        lease.expires_at = None
        self._end_unless_wanted(lease)

    def _end_unless_wanted(self, lease: Lease) -> None:
        if self._leases.get(lease.key) is not lease or lease.ending or lease.wanted or not lease.ready.done():
            return
        lease.ending = True
        if lease.hooks.on_unsubscribe is None:
            self._remove(lease)
        else:
            self._spawn(self._unsubscribe(lease))

    async def _unsubscribe(self, lease: Lease) -> None:
        hooks, context = lease.hooks, lease.context.copy()
        if hooks.on_unsubscribe is None:
            return
        arguments = (context, context.arguments, context.subscription_id)
        try:
            async with self._unsubscribes:
                await self._runner.call(context.name, Hook.ON_UNSUBSCRIBE, hooks.on_unsubscribe, *arguments)
        except HookFailed:
            pass  # logged and counted; there is nothing else to be done about it
        finally:
            self._remove(lease)

    def _remove(self, lease: Lease) -> None:
        if self._leases.get(lease.key) is lease:
            del self._leases[lease.key]
            self._polled.pop(lease.key, None)
            principal = lease.context.principal
            self._owned[principal] -= 1
            if not self._owned[principal]:
                del self._owned[principal]
        lease.ending = True
        lease.ended.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        tasks = self._tasks
        if tasks is None:
            work.close()
            return
        task = tasks.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _end_all(self, tasks: asyncio.TaskGroup) -> None:
        """End what is left, within a bounded time."""
        closing = tasks.create_task(self._clock.sleep(STOPPING_SECONDS))
        try:
            while self._leases and not closing.done():
                for lease in list(self._leases.values()):
                    lease.streams = 0
                    self._lapse(lease)
                if self._working:
                    await asyncio.wait((closing, *self._working), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            self._tasks = None
            if self._leases:
                logger.warning("leases_left", count=len(self._leases))
            for task in self._working:
                task.cancel()


def _stopping() -> ClarionError:
    return ClarionError("The server is stopping; try again shortly.")
