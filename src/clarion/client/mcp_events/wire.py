"""The one place that knows the official SDK's client from inside (mcp 2.3).

Three things that Events needs have no public way there: a request under an id of our own, a request that no session
timeout ends, and notifications in the order in which they came. The public `NotificationBinding` keeps a queue per
method, starts every notification in a task of its own and drops the oldest of 256: a heartbeat could overtake the event
before it, and its cursor would skip that event. So the frames are taken where the SDK's own `subscriptions/listen`
takes its own, at the dispatcher's intercept: synchronously, in order, and nothing is dropped before our own bound.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import count
from types import TracebackType
from typing import Any, Protocol, Self

from mcp import Client
from mcp.client.session import ClientSession
from mcp.shared.exceptions import MCPError
from mcp_types import REQUEST_TIMEOUT
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from clarion.client.mcp_events.connecting import Observed
from clarion.client.mcp_events.values import CONNECTION_CLOSED, STREAM_PREFIX, SUBSCRIPTION_ID, EventsError
from clarion.clock import Clock
from clarion.errors import Unsupported

__all__ = ["HEARTBEAT", "LIST_CHANGED", "End", "Ended", "Frame", "Pulse", "Refused", "Stream", "Wire"]

HEARTBEAT = "notifications/events/heartbeat"
LIST_CHANGED = "notifications/events/list_changed"

MAX_PENDING = 1024
"""Frames that wait for a reader who is slower than the server. Stops a slow one from filling the memory: the stream
ends when it is full, what was taken is handed over, and the rest is asked for again from there."""

LEARNED_GAPS = 8
"""Gaps between heartbeats that are remembered; the longest of them counts."""

MIN_HEARTBEAT_SECONDS = 1.0
"""The least interval that is believed. Stops heartbeats that come in a burst from looking like a rhythm."""

_BROKEN_STREAM = "SSE stream ended"
"""How the SDK begins to tell that the connection of a stream broke."""

_ids = count(1)


@dataclass(frozen=True, slots=True)
class Frame:
    """One notification of a stream."""

    method: str
    params: Mapping[str, Any]


class End(Enum):
    """Why a stream ended."""

    GRACEFUL = "graceful"
    ERROR = "error"
    SILENT = "silent"
    FULL = "full"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Ended:
    """After the last frame; `error` with End.ERROR."""

    end: End
    error: EventsError | None = None


class Refused(Exception):
    """The server answered with an error, or no answer came."""

    def __init__(self, error: EventsError) -> None:
        super().__init__(error.message)
        self.error = error


class Pulse:
    """How often a server sends heartbeats: as asked for at first, then as seen."""

    def __init__(self, seconds: float) -> None:
        self._default = seconds
        self._gaps: deque[float] = deque(maxlen=LEARNED_GAPS)

    @property
    def patience(self) -> float:
        """Seconds of silence after which a stream is dead: twice the interval."""
        if len(self._gaps) < 2:
            return 2 * self._default
        return 2 * max(*self._gaps, min(self._default, MIN_HEARTBEAT_SECONDS))

    def learn(self, gap: float) -> None:
        """`gap`: seconds between two heartbeats with nothing between them."""
        self._gaps.append(gap)


class _Listener(Protocol):
    def feed(self, method: str, params: Mapping[str, Any]) -> None: ...


class _Router:
    """Takes the notifications of open streams out of a session's; the rest goes where it went before."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.streams: dict[str, _Listener] = {}

    def __call__(self, method: str, params: Mapping[str, Any] | None) -> bool:
        if self.streams and params is not None:
            meta = params.get("_meta")
            given = meta.get(SUBSCRIPTION_ID) if isinstance(meta, Mapping) else None
            stream = self.streams.get(given) if isinstance(given, str) else None
            if stream is not None:
                stream.feed(method, params)
                return True
        return bool(self._inner is not None and self._inner(method, params))


def _router(session: ClientSession) -> _Router:
    """The session's router, put in place when it has none. Raises Unsupported for an SDK that is made otherwise."""
    dispatcher: Any = getattr(session, "_dispatcher", None)
    if not hasattr(dispatcher, "_on_notify_intercept") or not hasattr(session, "_stamp"):
        raise Unsupported("this version of the MCP SDK keeps its notifications elsewhere; use mcp 2.3")
    found = dispatcher._on_notify_intercept
    if not isinstance(found, _Router):
        found = dispatcher._on_notify_intercept = _Router(found)
    return found


class Wire:
    """Requests and streams of one open SDK client. Streams live in `tasks`, which must outlive them."""

    def __init__(self, client: Client, tasks: asyncio.TaskGroup, clock: Clock) -> None:
        self._session = client.session
        self._router = _router(self._session)
        self._tasks = tasks
        self._clock = clock
        self._open: set[Stream] = set()
        self._over = False
        self._end = client.server.end if isinstance(client.server, Observed) else None

    @property
    def modern(self) -> bool:
        """2026-07-28 or later: there is no session that could be lost, and there is `subscriptions/listen`."""
        return self._session.protocol_version in MODERN_PROTOCOL_VERSIONS

    @property
    def closed(self) -> bool:
        """No request can be sent any more."""
        return bool(getattr(self._session._dispatcher, "_closed", False))

    def lost(self, error: EventsError) -> bool:
        """`error` came because the connection is over for good, or the session that it was."""
        return self.closed or (error.kind == "InvalidRequest" and not self.modern)

    def close(self) -> None:
        """End every stream that is open; none is opened any more."""
        self._over = True
        for stream in tuple(self._open):
            stream.close()

    async def request(self, method: str, params: Mapping[str, Any], *, seconds: float | None) -> Mapping[str, Any]:
        """The result of one request, which is cancelled after `seconds` (None: never). Raises Refused."""
        return await self._send(method, params, {} if seconds is None else {"timeout": seconds})

    def stream(self, method: str, params: Mapping[str, Any], pulse: Pulse | None = None) -> Stream:
        """A request whose notifications are read with `async with`; without `pulse` its silence means nothing."""
        return Stream(self, method, params, pulse)

    async def _send(self, method: str, params: Mapping[str, Any], options: dict[str, Any]) -> Mapping[str, Any]:
        data: dict[str, Any] = {"method": method, "params": dict(params)}
        opts: Any = options
        self._session._stamp(data, opts)
        try:
            return await self._session._dispatcher.send_raw_request(method, data["params"], opts)
        except MCPError as error:
            raise Refused(_met(method, EventsError(error.error.code, error.error.message, error.error.data))) from None
        except (TimeoutError, OSError, RuntimeError) as error:
            raise Refused(EventsError(CONNECTION_CLOSED, f"the request could not be sent: {error}")) from None


def _met(method: str, error: EventsError) -> EventsError:
    """The server's error as it is; one that the SDK made in its place in words for people."""
    if error.code == CONNECTION_CLOSED and error.message.startswith(_BROKEN_STREAM):
        return EventsError(CONNECTION_CLOSED, "the connection broke")
    if error.code == REQUEST_TIMEOUT and error.message == f"Request {method!r} timed out":
        return EventsError(CONNECTION_CLOSED, "the server does not answer")
    return error


class Stream:
    """One long request. `next` gives its frames in order and then, each time again, how it ended."""

    def __init__(self, wire: Wire, method: str, params: Mapping[str, Any], pulse: Pulse | None) -> None:
        self._wire = wire
        self._method = method
        self._params = params
        self._pulse = pulse
        self._id = f"{STREAM_PREFIX}{next(_ids)}"
        self._frames: deque[Frame] = deque()
        self._wake = asyncio.Event()
        self._end: Ended | None = None
        self._running: list[asyncio.Task[None]] = []
        self._heard = 0.0
        self._beating = False

    async def __aenter__(self) -> Self:
        wire = self._wire
        if wire._over:
            self._end = Ended(End.CLOSED)
            return self
        self._heard = wire._clock.monotonic()
        wire._router.streams[self._id] = self
        wire._open.add(self)
        self._running.append(wire._tasks.create_task(self._request()))
        if self._pulse is not None:
            self._running.append(wire._tasks.create_task(self._watch(self._pulse)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Returns when the server was told: by the aborted request on HTTP, by `notifications/cancelled` elsewhere."""
        self.close()
        if self._running:
            await asyncio.wait(self._running)

    def close(self) -> None:
        """End it without waiting; what was not read is dropped."""
        self._settle(Ended(End.CLOSED))
        self._frames.clear()

    @property
    def ready(self) -> bool:
        """`next` has something to give at once."""
        return bool(self._frames) or self._end is not None

    async def next(self) -> Frame | Ended:
        while not self._frames:
            if self._end is not None:
                return self._end
            self._wake.clear()
            await self._wake.wait()
        return self._frames.popleft()

    def feed(self, method: str, params: Mapping[str, Any]) -> None:
        """Called for each notification, as it comes; it must neither wait nor raise."""
        if self._end is not None:
            return
        self._hear(method == HEARTBEAT)
        frame = Frame(method, params)
        if method == HEARTBEAT and self._frames and self._frames[-1].method == HEARTBEAT:
            self._frames[-1] = frame  # the newer one says it all: heartbeats never fill the queue
        elif len(self._frames) >= MAX_PENDING:
            self._settle(Ended(End.FULL))
        else:
            self._frames.append(frame)
            self._wake.set()

    def _hear(self, beat: bool) -> None:
        now = self._wire._clock.monotonic()
        if beat and self._beating and self._pulse is not None:
            self._pulse.learn(now - self._heard)
        self._beating = beat
        self._heard = now

    async def _request(self) -> None:
        try:
            await self._wire._send(self._method, self._params, {"request_id": self._id})
        except Refused as refused:
            self._settle(Ended(End.ERROR, refused.error))
        except Exception as error:  # a task that fails would end its group, and with it every other subscription
            self._settle(Ended(End.ERROR, EventsError(CONNECTION_CLOSED, f"the stream broke: {type(error).__name__}")))
        else:
            self._settle(Ended(End.GRACEFUL))
        finally:
            self._settle(Ended(End.CLOSED))
            if self._wire._end is not None:
                await self._wire._end(self._id)

    async def _watch(self, pulse: Pulse) -> None:
        clock = self._wire._clock
        while self._end is None:
            left = self._heard + pulse.patience - clock.monotonic()
            if left <= 0:
                self._settle(Ended(End.SILENT))
                return
            await clock.sleep(left)

    def _settle(self, ended: Ended) -> None:
        """The stream ended so; the first reason stands. What still runs of it is cancelled."""
        if self._end is not None:
            return
        self._end = ended
        self._wire._router.streams.pop(self._id, None)
        self._wire._open.discard(self)
        self._wake.set()
        for task in self._running:
            if task is not asyncio.current_task():
                task.cancel()
