"""Notifications of one `events/stream`, as bytes of JSON-RPC messages (SEP-3415, "Push-Based Delivery").

Everything of an event but the subscription's id is shared by all streams of its type. Each message is one line of
JSON; a `Dress` puts around it what the transport wants: an SSE frame without `id:` on HTTP, a line on stdio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from clarion.encoding import decode, encode
from clarion.errors import ClarionError, CloseReason, Forbidden
from clarion.hub.protocols import Opening, Overflow
from clarion.hub.ring import Parcel
from clarion.model import Event, Position, Subscription, isoformat
from clarion.wires.mcp_events.cursors import Cursors
from clarion.wires.mcp_events.errors import Dialect, error_object

__all__ = ["META_ATTRIBUTE", "SUBSCRIPTION_ID", "WIRE", "Dress", "EventsFraming", "as_line", "as_sse", "meta_of"]

WIRE = "mcp_events"
"""The wire's name in audit rows and metrics."""

SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
"""The key in `_meta` that names the stream's request."""

META_ATTRIBUTE = "meta"
"""The attribute of an event that holds what its emitter wants in `_meta`."""

TOPIC_META = "clarion/topic"
"""The key in `_meta` that names the concrete topic, where the event type is a family of topics."""

Dress: TypeAlias = Callable[[bytes], bytes]
"""Puts around a JSON-RPC message what its transport wants."""


def as_sse(message: bytes) -> bytes:
    """A server-sent event, which has no `id:` on this wire."""
    return b"".join((b"event: message\r\ndata: ", message, b"\r\n\r\n"))


def as_line(message: bytes) -> bytes:
    """A line of newline-delimited JSON."""
    return message + b"\n"


def meta_of(event: Event, name: str) -> Mapping[str, Any]:
    """What `_meta` of an occurrence holds beside the stream's id."""
    given = event.attributes.get(META_ATTRIBUTE) if event.attributes else None
    meta: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    if event.topic != name:
        meta[TOPIC_META] = event.topic
    return meta


class EventsFraming:
    """The frames of one stream of one event type; `request_id` is the JSON-RPC id of its request."""

    name = WIRE
    overflow = Overflow.CATCH_UP

    def __init__(self, request_id: str | int, name: str, dialect: Dialect, dress: Dress) -> None:
        self.cursors: Cursors | None = None
        self._type = name
        self._dialect = dialect
        self._dress = dress
        self._id = bytes(memoryview(encode(request_id)))  # a copy: what the encoder gives keeps the room it had
        self._epoch: str | None = None
        self._key = ""
        opening, closing = dress(b"\0").split(b"\0")
        self._opening = opening
        self._after = b"}}}" + closing

    @property
    def kind(self) -> str:
        """Streams of one type that were opened before and after it began to be replayed differ."""
        return f"{WIRE}\0{self._type}\0{self._dress.__name__}\0{'' if self.cursors is None else 'replay'}\0"

    # -- what the hub asks ------------------------------------------------------------------------------------------

    def opened(self, opening: Opening) -> bytes:
        truncated = opening.truncated is not None and self.cursors is not None  # without replay there is no position
        return self.active(self._cursor(opening.position), truncated=truncated)

    def event(self, parcel: Parcel, subscriptions: Sequence[Subscription], position: Position) -> bytes:
        before, after = self.halves(parcel, position)
        return b"".join((before, self._id, after))

    def mark(self, subscription: Subscription) -> bytes:
        return self._id

    def halves(self, parcel: Parcel, position: Position) -> tuple[bytes, bytes]:
        if position.epoch != self._epoch:
            self._key, self._epoch = self.kind + position.epoch, position.epoch
        before = parcel.bodies.get(self._key)
        if before is None:
            before = parcel.bodies[self._key] = self._shared(parcel.event, self._cursor(position))
        return before, self._after

    def lagged(self, subscription_id: str, dropped: int, capacity: int, last: Position) -> bytes:
        return b""  # a stream of this wire catches up instead

    def heartbeat(self, position: Position) -> bytes:
        return self.beat(self._cursor(position))

    def failed(self, error: ClarionError) -> bytes:
        return self._notification("error", {"error": error_object(error, self._dialect)})

    def closed(self, reason: CloseReason, error: ClarionError | None) -> bytes:
        if reason is CloseReason.REVOKED and error is None:
            error = Forbidden("your access was revoked", details={"reason": "Access revoked"})
        if error is None:
            return b""
        if reason not in (CloseReason.REVOKED, CloseReason.TERMINATED):
            return self.failed(error)  # the client comes back with its cursor
        return self._notification("terminated", {"error": error_object(error, self._dialect)})

    # -- what sources outside of the log ask ------------------------------------------------------------------------

    def active(self, cursor: str | None, *, truncated: bool) -> bytes:
        return self._notification("active", {"cursor": cursor, "truncated": truncated})

    def occurrence(self, parcel: Parcel, cursor: str | None) -> bytes:
        return b"".join((self._shared(parcel.event, cursor), self._id, self._after))

    def beat(self, cursor: str | None) -> bytes:
        return self._notification("heartbeat", {"cursor": cursor})

    def _cursor(self, position: Position) -> str | None:
        return None if self.cursors is None else self.cursors.of(position)

    # -- bytes ------------------------------------------------------------------------------------------------------

    def _notification(self, method: str, params: dict[str, Any]) -> bytes:
        params = {**params, "_meta": {SUBSCRIPTION_ID: decode(self._id)}}
        return self._dress(
            encode({"jsonrpc": "2.0", "method": f"notifications/events/{method}", "params": params}, field="error")
        )

    def _shared(self, event: Event, cursor: str | None) -> bytes:
        """The frame of an event up to where the stream's id goes."""
        head = encode(
            {
                "eventId": event.event_id,
                "name": self._type,
                "timestamp": isoformat(event.occurred_at),
                "cursor": cursor,
            }
        )
        meta = encode({**meta_of(event, self._type), SUBSCRIPTION_ID: None}, field="_meta")
        return b"".join(
            (
                self._opening,
                b'{"jsonrpc":"2.0","method":"notifications/events/event","params":',
                head[:-1],
                b',"data":',
                event.payload_json,
                b',"_meta":',
                meta[: -len(b"null}")],
            )
        )
