"""The hub: the log, the gate, the dispatcher and every open stream of this process, started and stopped together.

Wires open streams with `connect`; sources append with `append`; everything else goes through the named services
(`subscriptions`, `topics`, `consent`, `deliveries`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from clarion.catalog import Catalog
from clarion.clock import Clock, SystemClock
from clarion.errors import CloseReason, Forbidden, LimitExceeded, StoreUnavailable
from clarion.gate import Gate
from clarion.hub.attachment import Answers
from clarion.hub.connection import Connection
from clarion.hub.dispatcher import Dispatcher
from clarion.hub.protocols import Failing, Framing, Lens, Sink, Viewer
from clarion.hub.reading import Reader
from clarion.hub.recorder import Recorder, Totals
from clarion.hub.ring import DEFAULT_RING_BUDGET, RING_CAPACITY, RingBudget
from clarion.hub.services import ConsentService, DeliveryService, SubscriptionService, TopicService
from clarion.hub.shared import Shared
from clarion.ids import Randomness
from clarion.logs import get_logger, origin
from clarion.model import MICROSECONDS, Bounds, Draft, Principal, Start, Subscription
from clarion.stores.protocols import (
    MAX_SUBSCRIPTIONS_PER_CLIENT,
    Appended,
    Backend,
    ConflictingEvent,
    Retention,
    SubscriptionLimits,
)

__all__ = ["HEARTBEAT_SECONDS", "Hub", "HubLimits", "Stream"]

HEARTBEAT_SECONDS = 15.0
"""Between two heartbeats of a stream (SEEDS section 0)."""

BACKGROUND = ("heartbeats", "retention", "dispatch")
"""Names of the work that goes on by itself, as `Hub.faults` and the metrics call it."""

RETENTION_SECONDS = 60.0
"""Between two looks at what retention lets go."""

RETRY_SECONDS = 1.0
"""Until background work goes on that failed in a way that nobody expected."""

CONCURRENT_REPLAYS = 4
"""Pages of replays in memory at the same time, so that returning clients do not crowd out the live ones."""

MAX_REVOKED = 10_000
"""Revoked credentials that are remembered for requests which are still coming in."""

MAX_CONNECTIONS_PER_PRINCIPAL = 10_000
"""Open streams of one principal, so that one does not take all that its tenant may have."""

logger = get_logger("clarion.hub")


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Limits per tenant unless said otherwise; each answers with LimitExceeded."""

    subscriptions: int = 100_000
    subscriptions_per_client: int = MAX_SUBSCRIPTIONS_PER_CLIENT
    connections: int = 20_000
    connections_per_principal: int = MAX_CONNECTIONS_PER_PRINCIPAL
    declared_topics: int = 1_000
    ring_capacity: int = RING_CAPACITY
    ring_budget: int = DEFAULT_RING_BUDGET
    retention_seconds: float | None = 7 * 86_400
    retention_bytes: int | None = None
    audit_retention_seconds: float = 30 * 86_400

    def of_subscriptions(self) -> SubscriptionLimits:
        return SubscriptionLimits(self.subscriptions, self.subscriptions_per_client)


@dataclass(frozen=True, slots=True)
class Stream:
    """A connection that is registered and knows its subscriptions, not yet running."""

    connection: Connection
    bounds: Bounds

    async def run(self, start: Start) -> None:
        """Replay from `start`, then deliver until closed."""
        await self.connection.run(self.bounds, start)


@dataclass(slots=True)
class _Client:
    """The open streams of one client, and how often its subscriptions changed since the first of them opened."""

    connections: list[Connection] = field(default_factory=list)
    changes: int = 0


class Hub:
    """One per process and store. Use inside of `async with hub.running()`."""

    def __init__(
        self,
        backend: Backend,
        *,
        limits: HubLimits | None = None,
        catalog: Catalog | None = None,
        clock: Clock | None = None,
        randomness: Randomness = secrets.token_bytes,
    ) -> None:
        self.limits = limits or HubLimits()
        self.clock = clock or SystemClock()
        self._backend = backend
        self._gate = Gate(backend.consents, self.clock)
        self._recorder = Recorder(backend.audit, self.clock)
        self._dispatcher = Dispatcher(
            backend.log, backend.wakeups, backend.audit, self._gate, self._recorder, self.clock
        )
        self._shared = Shared(
            log=backend.log,
            audit=backend.audit,
            gate=self._gate,
            recorder=self._recorder,
            budget=RingBudget(self.limits.ring_budget),
            pages=asyncio.Semaphore(CONCURRENT_REPLAYS),
            ring_capacity=self.limits.ring_capacity,
            clock=self.clock,
        )
        self._clients: dict[tuple[str, str, str], _Client] = {}
        self._tenants: dict[str, dict[Connection, None]] = {}
        self._streams: Counter[str] = Counter()
        self._principals: Counter[Principal] = Counter()
        self._heartbeats: OrderedDict[Connection, float] = OrderedDict()
        """When each open stream is due next, the soonest first."""
        self._opened = asyncio.Event()
        self._closing = False
        self._revoked: OrderedDict[str, None] = OrderedDict()
        self.faults: dict[str, str] = {}
        """Background work that failed unexpectedly when it last ran, and with which error; empty when all is well.
        Dispatch stays among them once its task has ended: streams may have been ended for it."""
        self._stopped: str | None = None
        """Why there is no dispatcher right now."""
        self.topics = TopicService(backend.topics, catalog or Catalog(), limit=self.limits.declared_topics)
        self.subscriptions = SubscriptionService(
            backend.subscriptions, self.topics, self, self.clock, randomness, limits=self.limits.of_subscriptions()
        )
        self.consent = ConsentService(backend.consents, self._gate, self, self.clock)
        self.deliveries = DeliveryService(backend.audit)
        self.reader = Reader(self._shared, self._dispatcher)

    # -- life -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Dispatch, beat and trim until the block ends, which closes every stream. The backend writes the audit."""
        offset = await self._backend.log.end()
        raised: BaseException | None = None
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._dispatch(offset), name="clarion-dispatch"),
                tasks.create_task(self._supervise(BACKGROUND[0], self._beat), name="clarion-heartbeats"),
                tasks.create_task(self._supervise(BACKGROUND[1], self._retain), name="clarion-retention"),
            ]
            try:
                yield
            except BaseException as error:
                raised = error  # raised again below, bare: the group would wrap it
            finally:
                self.close()
                for task in running:
                    task.cancel()
        if raised is not None:
            raise raised

    def close(self) -> None:
        """End every stream, and refuse new ones; called as soon as the server is told to stop."""
        self._closing = True
        for connection in list(self.connections()):
            connection.close(CloseReason.SERVER_STOPPING)
        self.reader.rouse()

    @property
    def closing(self) -> bool:
        """It was told to stop."""
        return self._closing

    async def _supervise(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Begin `work` again whenever it fails: none of it ends the streams or the process."""
        while True:
            try:
                await work()
            except Exception as error:
                self.faults[name] = type(error).__name__
                logger.error("background_work_failed", work=name, error=type(error).__name__, at=origin(error))
                await self.clock.sleep(RETRY_SECONDS)

    async def _dispatch(self, offset: int) -> None:
        """Keep a dispatcher, in a task of its own, so that a cancellation that strays into it ends nothing but that."""
        name = BACKGROUND[2]
        while True:
            task = asyncio.create_task(self._dispatcher.run(offset), name="clarion-dispatcher")
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.wait([task])
                raise
            try:
                task.result()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                kind = self.faults[name] = type(error).__name__
                self._stopped = f"dispatching has stopped with {kind} and begins again; see the log"
                logger.error("background_work_failed", work=name, error=kind, at=origin(error))
            if not task.cancelling():
                # A task that was cancelled ends between two batches. This one may have ended within one, which some
                # streams would miss in silence: they come back for it.
                self._recorder.commit()
                for connection in list(self.connections()):
                    connection.close(CloseReason.FAILED)
            await self.clock.sleep(RETRY_SECONDS)
            offset = max(offset, self._dispatcher.offset)
            self._stopped = None

    async def _beat(self) -> None:
        beats, clock = self._heartbeats, self.clock
        while True:
            if not beats:
                self._opened.clear()
                await self._opened.wait()
            wait = next(iter(beats.values())) - clock.monotonic()
            if wait > 0:
                await clock.sleep(wait)
            now = clock.monotonic()
            while beats and (first := next(iter(beats))) and beats[first] <= now:
                beats[first] = now + HEARTBEAT_SECONDS
                beats.move_to_end(first)
                first.heartbeat()
            self.faults.pop("heartbeats", None)

    async def _retain(self) -> None:
        while True:
            try:
                await self.trim()
                self.faults.pop("retention", None)
            except StoreUnavailable as error:
                logger.warning("retention_failed", reason=error.message)
            await self.clock.sleep(RETENTION_SECONDS)

    async def trim(self) -> int:
        """Let go of what retention does not keep, now; answers how many events went."""
        now, limits = self.clock.now(), self.limits
        keep_after = None
        if limits.retention_seconds is not None:
            keep_after = now - int(limits.retention_seconds * MICROSECONDS)
        gone = await self._backend.log.trim(Retention(keep_after, limits.retention_bytes, now))
        await self._backend.audit.trim(now - int(limits.audit_retention_seconds * MICROSECONDS))
        if gone:
            logger.info("retention", events=gone)
        return gone

    # -- the log --------------------------------------------------------------------------------------------------

    async def append(self, drafts: Sequence[Draft]) -> list[Appended | ConflictingEvent]:
        """Durable when it returns."""
        return await self._backend.log.append(drafts)

    async def bounds(self, tenant: str) -> Bounds:
        return await self._backend.log.bounds(tenant)

    async def head(self, tenant: str) -> int:
        return (await self._backend.log.bounds(tenant)).head

    # -- streams --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connect(
        self,
        viewer: Viewer,
        framing: Framing,
        sink: Sink,
        *,
        own: Sequence[Subscription] | None = None,
        lens: Lens | None = None,
    ) -> AsyncIterator[Stream]:
        """A stream of `viewer`, with the client's active subscriptions, or with subscriptions of its `own` that live
        no longer than it does, seen through `lens`; closed when the block ends.

        Raises LimitExceeded, and StoreUnavailable also while the hub is closing.
        """
        principal = viewer.principal
        if self._closing:
            raise StoreUnavailable("the server is stopping; connect again shortly")
        with self.counted(principal):
            connection = Connection(viewer, framing, sink, shared=self._shared, switchboard=self._dispatcher, lens=lens)
            siblings = self._tenants.setdefault(principal.tenant, {})
            siblings[connection] = None
            if isinstance(sink, Failing):
                sink.on_failure = connection.heartbeat  # which finds out
            try:
                self.check_credential(viewer.credential)  # from here on `end` finds it
                bounds = await self._backend.log.bounds(principal.tenant)
                if own is None:
                    await self._load(connection)
                else:
                    for subscription in own:
                        connection.attach(subscription, since=0)
                self._heartbeats[connection] = self.clock.monotonic() + HEARTBEAT_SECONDS
                self._opened.set()
                yield Stream(connection, bounds)
            finally:
                connection.close(CloseReason.CLIENT_GONE)
                if isinstance(sink, Failing):
                    sink.on_failure = None
                self._heartbeats.pop(connection, None)
                if own is None:
                    self._unload(connection)
                del siblings[connection]
                if not siblings:
                    self._tenants.pop(principal.tenant, None)

    @contextmanager
    def counted(self, principal: Principal) -> Iterator[None]:
        """An open stream of `principal` counts while the block runs, also one that is no connection.

        Raises LimitExceeded.
        """
        tenant, limits = principal.tenant, self.limits
        if self._streams[tenant] >= limits.connections:
            raise LimitExceeded(
                f"this tenant has {self._streams[tenant]} open streams, its limit; close one first",
                details={"limit": "connections", "max": limits.connections},
            )
        if self._principals[principal] >= limits.connections_per_principal:
            raise LimitExceeded(
                f"you have {self._principals[principal]} open streams, the limit of one principal; close one first",
                details={"limit": "connections_per_principal", "max": limits.connections_per_principal},
            )
        self._streams[tenant] += 1
        self._principals[principal] += 1
        try:
            yield
        finally:
            self._streams[tenant] -= 1
            self._principals[principal] -= 1
            if not self._streams[tenant]:
                del self._streams[tenant]
            if not self._principals[principal]:
                del self._principals[principal]

    async def _load(self, connection: Connection) -> None:
        """Attach the client's subscriptions as they are, also when they change while they are read."""
        key = _client_of(connection)
        client = self._clients.setdefault(key, _Client())
        client.connections.append(connection)
        while True:
            changes = client.changes
            subscriptions = await self._backend.subscriptions.of_client(*key)
            if changes == client.changes:
                break
        for subscription in subscriptions:
            connection.attach(subscription, since=0)

    def _unload(self, connection: Connection) -> None:
        client = self._clients.get(_client_of(connection))
        if client is not None and connection in client.connections:
            client.connections.remove(connection)
            if not client.connections:
                del self._clients[_client_of(connection)]

    def end(self, credential: str) -> int:
        """End what was opened with a credential, which was revoked, and refuse what is still being opened with it;
        answers how many streams."""
        self._revoked[credential] = None
        if len(self._revoked) > MAX_REVOKED:
            self._revoked.popitem(last=False)
        self.reader.rouse(credential=credential)
        ended = [connection for connection in self.connections() if connection.viewer.credential == credential]
        for connection in ended:
            connection.close(CloseReason.REVOKED)
        return len(ended)

    def check_credential(self, credential: str) -> None:
        """Raises Forbidden when it was revoked since its request came in: a body may arrive long after its key."""
        if credential in self._revoked:
            raise Forbidden("your access was revoked", details={"reason": "Access revoked"})

    def connections(self, tenant: str | None = None) -> Iterator[Connection]:
        """The open streams, of one tenant or of all."""
        if tenant is not None:
            return iter(self._tenants.get(tenant, {}))
        return (connection for siblings in self._tenants.values() for connection in siblings)

    # -- announcements of the services ----------------------------------------------------------------------------

    def subscribed(self, subscription: Subscription, *, since: int | None) -> None:
        """Open streams of its client deliver it from `since`; None: it was active, and those that have it take its new
        label. One that has it not yet is still reading its subscriptions, or was never told of it."""
        client = self._clients.get((subscription.tenant, subscription.subject, subscription.client_id))
        if client is None:
            return
        client.changes += 1
        for connection in client.connections:
            connection.attach(subscription, since or 0)

    def unsubscribed(self, subscription: Subscription) -> None:
        client = self._clients.get((subscription.tenant, subscription.subject, subscription.client_id))
        if client is None:
            return
        client.changes += 1
        for connection in client.connections:
            connection.detach(subscription.id)

    async def consent_changed(self, tenant: str, subject: str) -> None:
        """Gate anew everything of the tenant that waits and holds data of `subject`.

        Raises StoreUnavailable when the ledger cannot be read. Nothing is sent against it then either: whatever waits
        is asked about again before it is sent.
        """
        while True:
            concerned = {
                parcel
                for parcel in self._shared.budget.parcels
                if parcel.event.tenant == tenant and subject in parcel.event.subjects
            }
            events = [parcel.event for parcel in concerned]
            if self._gate.knows(events):
                break
            await self._gate.learn(events)
        if not concerned:
            return
        answers: Answers = {}
        for connection in self.connections(tenant):
            connection.regate(concerned, answers)
        self._recorder.commit()

    # -- observation ----------------------------------------------------------------------------------------------

    @property
    def recorder(self) -> Recorder:
        """Where a source outside of the log notes what it delivered."""
        return self._recorder

    @property
    def totals(self) -> Totals:
        return self._recorder.totals

    @property
    def ring_bytes(self) -> int:
        return self._shared.budget.used

    @property
    def failing(self) -> str | None:
        """Why events are not dispatched right now; None when they are."""
        return self._stopped or self._dispatcher.failing


def _client_of(connection: Connection) -> tuple[str, str, str]:
    viewer = connection.viewer
    return viewer.principal.tenant, viewer.principal.subject, viewer.client_id
