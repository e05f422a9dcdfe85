"""`EventsClient`: the event types of one server, and subscriptions to them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from mcp import Client

from clarion.client.errors import ServerUnreachable, UnexpectedAnswer
from clarion.client.mcp_events.connecting import advertised
from clarion.client.mcp_events.cursors import CursorStore, MemoryCursors
from clarion.client.mcp_events.delivery import Delivery, Pace, Wanted
from clarion.client.mcp_events.subscription import Subscription
from clarion.client.mcp_events.values import (
    CONNECTION_CLOSED,
    ConnectionLost,
    EventDescriptor,
    EventsError,
    Mode,
    NoCompatibleDeliveryMode,
    parse_descriptor,
)
from clarion.client.mcp_events.wire import LIST_CHANGED, Ended, Refused, Wire
from clarion.clock import Clock, SystemClock
from clarion.encoding import decode, encode
from clarion.errors import ClarionError, Forbidden, InvalidInput, LimitExceeded, NotFound, Unsupported
from clarion.retry import Backoff, Jitter

__all__ = ["EventsClient", "exception_of"]

PREFERENCE: tuple[Mode, ...] = ("push", "poll")
"""Delivery modes that this client can use, the best first. Webhook delivery goes before them once it is there."""

MAX_PAGES = 1000
"""Pages of one `events/list`. Stops a server whose list has no end."""

LIST_SECONDS = 60.0
"""How long one page may take."""

HEARTBEAT_SECONDS = 30.0
"""How often SEP-3415 wants heartbeats, until the server's own rhythm is known."""

AGREE_SECONDS = 5.0
"""How long the first list waits for the server to say that it tells of changes; a list read before could be stale."""

_ERRORS: Mapping[str, type[ClarionError]] = {
    "NotFound": NotFound,
    "Forbidden": Forbidden,
    "Unsupported": Unsupported,
    "InvalidParams": InvalidInput,
    "ResourceExhausted": LimitExceeded,
}


class EventsClient:
    """Events over an open SDK client: `async with EventsClient(client) as events`, within the client's own block.

    It works on stdio and Streamable HTTP, with 2026-07-28 and with `initialize`. Over HTTP use a client of `connect`,
    or one with `http_client()`: an SDK client with the SDK's own HTTP pool opens no more than 100 streams, and is ended
    whole by the first request that finds no server.
    """

    def __init__(
        self,
        client: Client,
        *,
        cursors: CursorStore | None = None,
        clock: Clock | None = None,
        floor_ms: int = 1000,
        heartbeat: float = HEARTBEAT_SECONDS,
        backoff: Backoff | None = None,
        jitter: Jitter = random.random,
    ) -> None:
        """`floor_ms`: the least time between two polls, whatever the server says, unless it has more to give.

        `cursors`: where subscriptions are kept over restarts, of this server and principal only; in memory otherwise.
        `heartbeat`: seconds between a server's heartbeats, until they were seen; a stream that is silent for twice as
        long is dead.
        """
        self._client = client
        self.cursors: CursorStore = cursors or MemoryCursors()
        self.pace = Pace(clock or SystemClock(), floor_ms, heartbeat, backoff or Backoff(), jitter)
        self._tasks = asyncio.TaskGroup()
        self._wire: Wire | None = None
        self._own: asyncio.Task[None] | None = None
        self._listed: tuple[EventDescriptor, ...] | None = None
        self._changes = 0
        self._agreed = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        try:
            self._wire = Wire(self._client, self._tasks, self.pace.clock)
        except BaseException:
            await self._tasks.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends every subscription and returns when the server was told."""
        if self._own is not None:
            self._own.cancel()
        if self._wire is not None:
            self._wire.close()
        await self._tasks.__aexit__(None, None, None)

    @property
    def wire(self) -> Wire:
        if self._wire is None:
            raise RuntimeError("use `async with EventsClient(client)`")
        return self._wire

    async def list(self) -> tuple[EventDescriptor, ...]:
        """Every event type of the server, over all pages; from memory until something says that it changed.

        A 2026-07-28 server that announces `listChanged` is listened to on a `subscriptions/listen` of its own, opened
        by the first call under an id of ours: the SDK's driver cannot ask for `eventsListChanged`. Without that, or
        where the server does not agree to it, the list is read again after a subscription was refused or ended as
        NotFound, InvalidParams or Unsupported.
        Raises Unsupported when the server does not offer Events, Forbidden, LimitExceeded, UnexpectedAnswer for any
        other error of the server, ServerUnreachable when no answer came, ConnectionLost when none can come any more.
        """
        try:
            return await self._list()
        except Refused as refused:
            raise self._explained(refused.error) from None

    async def _list(self) -> tuple[EventDescriptor, ...]:
        """Raises as `list`, but Refused for what may pass."""
        if self._listed is not None:
            return self._listed
        settings = advertised(self._client)
        if settings is False:
            raise Unsupported("this server does not offer events")
        listens = isinstance(settings, Mapping) and settings.get("listChanged") is True and self.wire.modern
        if listens and self._own is None:
            self._own = self._tasks.create_task(self._follow_list())
            with suppress(TimeoutError):
                async with asyncio.timeout(AGREE_SECONDS):
                    await self._agreed.wait()
        changes = self._changes
        found = await self._pages()
        if changes == self._changes:
            self._listed = found
        return found

    def subscribe(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        mode: Mode | None = None,
        cursor: str | None = None,
        max_age: float | None = None,
    ) -> Subscription:
        """What happens from now on, as values: `async for item in events.subscribe("ticket.updated")`.

        It begins at `cursor`, else at the one that the store holds for equal `name` and `arguments`, else now.
        `max_age`: replay no events older than this many seconds. `mode`: push where the server offers it, else poll.
        Raises InvalidInput for arguments that JSON cannot hold; the rest is raised by the iteration.
        """
        given = decode(encode(arguments or {}, field="arguments"))  # a copy that nobody changes, and JSON for sure
        return Subscription(Delivery(self, Wanted(name, given, mode, cursor, max_age)))

    async def modes(self, name: str, mode: Mode | None) -> tuple[Mode, ...]:
        """How `name` can be delivered, the best first.

        Raises NotFound, NoCompatibleDeliveryMode and what `list` raises, but Refused for what may pass.
        """
        known = self._listed is not None
        found = _find(await self._list(), name)
        if known and (found is None or (mode is not None and mode not in found.delivery)):
            self.forget_list()
            found = _find(await self._list(), name)
        if found is None:
            names = ", ".join(sorted(descriptor.name for descriptor in await self._list())[:10])
            raise NotFound(f"the server has no event type {name!r}" + (f"; it has {names}" if names else ""))
        usable = tuple(one for one in PREFERENCE if one in found.delivery and mode in (None, one))
        if not usable:
            offered = ", ".join(found.delivery) or "nothing"
            wanted = mode or " or ".join(PREFERENCE)
            raise NoCompatibleDeliveryMode(f"{name} is not delivered by {wanted}; the server offers {offered}")
        return usable

    def forget_list(self) -> None:
        """The next `list` asks the server."""
        self._changes += 1
        self._listed = None

    async def _pages(self) -> tuple[EventDescriptor, ...]:
        found: dict[str, EventDescriptor] = {}
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            try:
                page = await self.wire.request("events/list", {"cursor": cursor} if cursor else {},
                                               seconds=LIST_SECONDS)  # fmt: skip
            except Refused as refused:
                if refused.error.permanent or self.wire.lost(refused.error):
                    raise self._explained(refused.error) from None
                raise
            events = page.get("events")
            if not isinstance(events, _List):
                raise UnexpectedAnswer("the server's answer to events/list holds no events")
            for descriptor in map(parse_descriptor, events):
                if descriptor is not None:
                    found[descriptor.name] = descriptor
            following = page.get("nextCursor")
            if not isinstance(following, str) or following == cursor:
                break
            cursor = following
        return tuple(found.values())

    def _explained(self, error: EventsError) -> ClarionError:
        if error.kind == "MethodNotFound":
            return Unsupported("this server does not offer events")
        if self.wire.lost(error):
            return ConnectionLost(f"the connection to the server is over: {error.message}")
        if error.code == CONNECTION_CLOSED:
            return ServerUnreachable(f"the server did not list its events: {error.message}")
        return exception_of(error)

    async def _follow_list(self) -> None:
        try:
            await self._listen()
        finally:
            self._agreed.set()

    async def _listen(self) -> None:
        """Listen for `list_changed` until the server refuses; a list that may have been missed is forgotten."""
        failures = 0
        while True:
            stream = self.wire.stream("subscriptions/listen", {"notifications": {"eventsListChanged": True}})
            async with stream:
                while not isinstance(frame := await stream.next(), Ended):
                    if frame.method == "notifications/subscriptions/acknowledged":
                        agreed = frame.params.get("notifications")
                        if not isinstance(agreed, Mapping) or agreed.get("eventsListChanged") is not True:
                            return
                        failures = 0
                        self.forget_list()
                        self._agreed.set()
                    elif frame.method == LIST_CHANGED:
                        self.forget_list()
            if self.wire.closed or (frame.error is not None and frame.error.permanent):
                return
            self.forget_list()
            self._agreed.set()
            failures += 1
            await self.pace.clock.sleep(self.pace.delay(failures))


_List = list  # within the class `list` is the method


def exception_of(error: EventsError) -> ClarionError:
    """A server's error as an exception, with its message; UnexpectedAnswer for a kind that Events does not have."""
    kind = _ERRORS.get(error.kind or "", UnexpectedAnswer)
    message = f"the server answered with an error: {error.message}" if kind is UnexpectedAnswer else error.message
    return kind(message, details=dict(error.data) if isinstance(error.data, Mapping) else None)


def _find(listed: tuple[EventDescriptor, ...], name: str) -> EventDescriptor | None:
    return next((descriptor for descriptor in listed if descriptor.name == name), None)
