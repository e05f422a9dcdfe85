"""The push side channel (SEEDS section 0; seeds/0).

Frames are JSON-RPC notifications inside SSE; on the wire `event_id` and `cursor` are the integer seq and `id:` is
`<epoch>-<seq>`. Beyond the seed, the opening and the heartbeat carry `id:` as well: what they say is "everything up to
here is done", so a client that only knows Last-Event-ID resumes there instead of missing what came in between; and
`subscription.open` adds `truncated` and, when it is so, `truncated_reason`. Guarantee: at least once within retention
for a client that resumes; a reader that stalls loses its oldest events beyond the ring and is told which to ask for
again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from clarion.encoding import encode
from clarion.errors import ClarionError, CloseReason, InvalidInput, MissingParameter
from clarion.hub.hub import Hub
from clarion.hub.protocols import Opening, Overflow, Viewer
from clarion.hub.ring import Parcel
from clarion.hub.services import check_name
from clarion.ids import parse_cursor
from clarion.model import After, Bounds, Counters, Earliest, Latest, Position, Principal, Start, Subscription, isoformat
from clarion.wires.sse import Receive, Scope, Send, frame, serve

__all__ = ["PUSH_PATH", "WIRE", "PactFraming", "describe_subscription", "push_endpoint", "start_of"]

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
PushEndpoint: TypeAlias = Callable[[Scope, Receive, Send, Principal, str, Headers], Awaitable[None]]
"""Called with the principal, the name of its credential, and headers to add to the response."""

WIRE = "pact"
PUSH_PATH = "/mcp/push/sse"

_EVENT_LINE = b"event: notifications.pact.event\n"
_PREFIX = b'data: {"jsonrpc":"2.0","method":"notifications/pact/event","params":{"subscription_id":"'
_END = b"}}\n\n"


def _notification(name: str, params: dict[str, Any], event_id: str | None = None) -> bytes:
    method = f"notifications/pact/{name}"
    body = encode({"jsonrpc": "2.0", "method": method, "params": params})
    return frame(method.replace("/", "."), body, event_id)


def describe_subscription(subscription: Subscription, counters: Counters | None = None) -> dict[str, Any]:
    """A subscription as its own client sees it; with `counters`, also what it received."""
    described: dict[str, Any] = {
        "subscription_id": subscription.id,
        "client_id": subscription.client_id,
        "client_label": subscription.label,
        "topic_patterns": list(subscription.topics),
        "filter": dict(subscription.filter),
        "consent_purpose": subscription.purpose,
        "status": "active" if subscription.active else "deleted",
        "created_at": isoformat(subscription.created_at),
    }
    if counters is not None:
        last = counters.last_delivered_at
        described["events_delivered"] = counters.delivered
        described["events_dropped"] = counters.dropped
        described["last_delivered_at"] = None if last is None else isoformat(last)
    return described


class PactFraming:
    """Frames of the side channel. Everything after the subscription's id is shared by all connections."""

    name = kind = WIRE
    overflow = Overflow.DROP_OLDEST

    def opened(self, opening: Opening) -> bytes:
        params = {
            "client_id": opening.client_id,
            "subscriptions": [describe_subscription(subscription) for subscription in opening.subscriptions],
            "cursor": opening.position.seq,
            "truncated": opening.truncated is not None,
        }
        if opening.truncated is not None:
            params["truncated_reason"] = opening.truncated.value
        return _notification("subscription.open", params, str(opening.position))

    def event(self, parcel: Parcel, subscriptions: Sequence[Subscription], position: Position) -> bytes:
        head, body = self.halves(parcel, position)
        if len(subscriptions) == 1:
            return b"".join((head, subscriptions[0].id.encode(), body))
        pieces: list[bytes] = []
        for one in subscriptions[:-1]:
            pieces += (_EVENT_LINE, _PREFIX, one.id.encode(), body)
        pieces += (head, subscriptions[-1].id.encode(), body)
        return b"".join(pieces)

    def mark(self, subscription: Subscription) -> bytes:
        return subscription.id.encode()

    def halves(self, parcel: Parcel, position: Position) -> tuple[bytes, bytes]:
        bodies = parcel.bodies
        head = bodies.get(name := WIRE + position.epoch)
        if head is None:
            # Streams that were opened before a new epoch began name the old one, so the line belongs to its epoch.
            head = bodies[name] = b"%bid: %b\n%b" % (_EVENT_LINE, str(position).encode(), _PREFIX)
        body = bodies.get(WIRE)
        if body is None:
            body = bodies[WIRE] = self._body(parcel)
        return head, body

    @staticmethod
    def _body(parcel: Parcel) -> bytes:
        event = parcel.event
        envelope = encode(
            {
                "event_id": event.seq,
                "topic": event.topic,
                "category": event.category,
                "aggregate_type": event.aggregate_type,
                "aggregate_id": event.aggregate_id,
                "actor_id": event.actor_id,
                "correlation_id": event.correlation_id,
                "occurred_at": isoformat(event.occurred_at),
            }
        )
        return b"".join((b'",', envelope[1:-1], b',"payload":', event.payload_json, _END))

    def lagged(self, subscription_id: str, dropped: int, capacity: int, last: Position) -> bytes:
        params = {
            "subscription_id": subscription_id,
            "dropped_count": dropped,
            "buffer_capacity": capacity,
            "last_event_id": last.seq,
            "detail": (
                f"This stream was read too slowly: {dropped} matching events did not fit the buffer of {capacity}. "
                f"Reconnect with cursor={last} to receive them; a narrower filter keeps the stream smaller."
            ),
        }
        return _notification("subscription.lag", params)

    def heartbeat(self, position: Position) -> bytes:
        return _notification("heartbeat", {"cursor": position.seq}, str(position))

    def failed(self, error: ClarionError) -> bytes:
        """The side channel has no word for it; the audit has."""
        return b""

    def closed(self, reason: CloseReason, error: ClarionError | None) -> bytes:
        """The end of the response says it all."""
        return b""


def start_of(cursor: str | None, last_event_id: str | None, bounds: Bounds) -> Start:
    """Where a stream begins: Last-Event-ID, which a reconnecting client sends by itself, before `?cursor=`.

    `earliest` and `latest` are cursors too. Raises InvalidInput for anything else that is no cursor.
    """
    text, field = (last_event_id, "Last-Event-ID") if last_event_id is not None else (cursor, "cursor")
    if text is None or text == "latest":
        return Latest()
    if text == "earliest":
        return Earliest()
    position = parse_cursor(text, bounds.epoch)
    if position is None:
        raise InvalidInput(
            f"{field} {text[:64]!r} is no cursor; use the id of a frame, an integer event_id, earliest or latest",
            field=field,
            rule="cursor",
        )
    return After(position)


def push_endpoint(hub: Hub) -> PushEndpoint:
    """`GET /mcp/push/sse?client_id=...[&cursor=...]`, raw ASGI, for a caller that is known already."""
    framing = PactFraming()

    async def endpoint(
        scope: Scope, receive: Receive, send: Send, principal: Principal, credential: str, headers: Headers
    ) -> None:
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        for name in query:
            if name not in ("client_id", "cursor"):  # a misspelt cursor would start at the head, and say nothing
                raise InvalidInput(
                    f"unknown query parameter {name!r}; known are client_id and cursor", field=name, rule="unknown"
                )
        client_id = query.get("client_id", [""])[0]
        if not client_id:
            raise MissingParameter("add ?client_id=, the client_id that subscribe was called with", field="client_id")
        check_name(client_id, "client_id")
        cursor = query.get("cursor", [None])[0]
        last_event_id = next(
            (value.decode("latin-1") for name, value in scope["headers"] if name == b"last-event-id"), None
        )
        viewer = Viewer(principal, client_id, credential)
        await serve(
            receive,
            send,
            lambda sink: hub.connect(viewer, framing, sink),
            lambda bounds: start_of(cursor, last_event_id, bounds),
            headers,
        )

    return endpoint
