"""What the wire asks of whoever offers events: the library front and the server each answer it in their own way.

The wire knows JSON-RPC, cursors on the wire and streams; an `Offer` knows which event types there are, who may have
them, and where their events come from. Neither knows the other's inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any, Protocol, TypeAlias

from clarion.encoding import canonical
from clarion.errors import ClarionError, CloseReason
from clarion.hub.protocols import Framing, Sink, Viewer
from clarion.hub.ring import Parcel
from clarion.model import Principal, Subscription
from clarion.wires.mcp_events.cursors import Cursors

__all__ = [
    "Caller",
    "Detach",
    "EventType",
    "Live",
    "Mode",
    "Occurrence",
    "Offer",
    "Offered",
    "Portion",
    "StreamFraming",
    "Wanted",
    "derived_id",
    "ephemeral",
]

Detach: TypeAlias = Callable[[], None]


class Mode(StrEnum):
    """How an event type can be delivered (SEP-3415, "Delivery Modes"), as `delivery` lists it."""

    POLL = "poll"
    PUSH = "push"
    WEBHOOK = "webhook"


@dataclass(frozen=True, slots=True)
class EventType:
    """One entry of `events/list` (SEP-3415, "Listing Available Events"). The schemas are JSON Schema documents."""

    name: str
    description: str
    delivery: tuple[Mode, ...]
    input_schema: Mapping[str, Any]
    payload_schema: Mapping[str, Any]
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. `credential` names the key or token, so that revoking it ends what it opened; `client_id`
    names the client's software, and is no identity; without a principal of its own `authenticated` is False.
    `claims` are the access token's, as the author's hooks may want them."""

    principal: Principal
    client_id: str
    credential: str
    authenticated: bool
    claims: Mapping[str, Any] = field(default_factory=dict)

    @property
    def viewer(self) -> Viewer:
        return Viewer(self.principal, self.client_id, self.credential)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One subscription as a poll or a stream asks for it. `arguments` fit the type's `input_schema`; `cursor` is as
    the client sent it, None for "from now"; `max_age` in microseconds bounds what is replayed, None for no bound."""

    caller: Caller
    name: str
    arguments: Mapping[str, Any]
    cursor: str | None = None
    max_age: int | None = None

    @property
    def subscription_id(self) -> str:
        return derived_id(self.caller.principal, self.name, self.arguments)


def derived_id(principal: Principal, name: str, arguments: Mapping[str, Any], url: str = "") -> str:
    """The id of a subscription, the same for the same key over restarts; it is a name and no capability (SEP-3415,
    "Subscription identity", whose `delivery.url` is empty where nothing is called back)."""
    key = canonical([principal.tenant, principal.subject, url, name, arguments])
    return f"sub_{sha256(key).hexdigest()[:24]}"


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An event as a poll returns it; `timestamp` in microseconds, `data` JSON."""

    event_id: str
    name: str
    timestamp: int
    data: Mapping[str, Any]
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Portion:
    """The answer to one poll. `cursor` is None for a type without replay; `more`: poll again at once. What a hook
    failed on is not in it: a poll has no place to tell, so that is logged and counted where it happens."""

    occurrences: Sequence[Occurrence]
    cursor: str | None
    truncated: bool = False
    more: bool = False
    next_poll_ms: int | None = None
    """What the source itself recommends, in milliseconds; None leaves it to the wire."""


class StreamFraming(Framing, Protocol):
    """The frames of one open stream. A `cursor` is as the wire shows it, None for a type without replay."""

    cursors: Cursors | None
    """Writes the cursors of positions in the log; set by the source that the stream reads. None: no replay."""

    def active(self, cursor: str | None, *, truncated: bool) -> bytes:
        """The stream begins, or goes on after a gap (SEP-3415, "Gaps and `truncated`")."""
        ...

    def occurrence(self, parcel: Parcel, cursor: str | None) -> bytes:
        """One event, and the position after it."""
        ...

    def beat(self, cursor: str | None) -> bytes:
        """A heartbeat: everything up to `cursor` was checked."""
        ...


class Live(Protocol):
    """An open stream."""

    @property
    def close_reason(self) -> CloseReason | None: ...

    @property
    def close_error(self) -> ClarionError | None: ...

    def report(self, error: ClarionError) -> None:
        """Tell the client of a failure, as `failed` of the framing says it; the stream goes on."""
        ...

    def skip(self) -> None:
        """Tell the client of a gap at the place where the stream is; delivery goes on."""
        ...

    async def run(self) -> None:
        """Write frames until the stream is closed. Raises StoreUnavailable when the log cannot be read."""
        ...

    def close(self, reason: CloseReason, error: ClarionError | None = None) -> None:
        """End it; the first reason stays, and `run` returns soon. `error` is what `terminated` tells the client."""
        ...


class Offered(Protocol):
    """One event type, ready to be polled and streamed. Everything was checked by `Offer.open` before it is called."""

    async def poll(self, limit: int, wait: float) -> Portion:
        """Up to `limit` occurrences after the wanted cursor; waits up to `wait` seconds for the first one.

        A cursor that cannot be used is no error: the answer is `truncated` with a fresh one.
        """
        ...

    def stream(self, framing: StreamFraming, sink: Sink) -> AbstractAsyncContextManager[Live]:
        """A stream that is registered and not yet running. Raises LimitExceeded before anything was written."""
        ...


class Offer(Protocol):
    """Which event types there are, and who may have what."""

    async def listing(self, caller: Caller) -> Sequence[EventType]:
        """The event types that `caller` can see, in the order of `events/list`."""
        ...

    async def open(self, wanted: Wanted, mode: Mode) -> Offered:
        """The type `wanted` names, for this very caller, arguments and mode.

        Raises NotFound (details `kind`: "event"), Unsupported (details `feature`, `value`), InvalidInput naming the
        path of the argument, Forbidden, LimitExceeded (details `limit`, `max`): in that order, and after any of them
        nothing was set up.
        """
        ...

    def watch(self, caller: Caller, changed: Callable[[], None]) -> Detach:
        """Call `changed` on the event loop whenever what `listing` gives this caller may have changed."""
        ...


def ephemeral(wanted: Wanted, topics: Sequence[str], filter: Mapping[str, Any], purpose: str | None) -> Subscription:
    """The subscription that a poll or a stream stands for: kept nowhere, named by its derived id in the audit."""
    caller = wanted.caller
    return Subscription(
        id=wanted.subscription_id,
        tenant=caller.principal.tenant,
        subject=caller.principal.subject,
        client_id=caller.client_id,
        topics=tuple(topics),
        filter=filter,
        label=None,
        purpose=purpose,
        created_at=0,
        updated_at=0,
    )
