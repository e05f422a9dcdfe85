"""The push side channel and its four tools (SEEDS section 0; seeds/0).

Frames are JSON-RPC notifications inside SSE; on the wire `event_id` and `cursor` are the integer seq and `id:` is
`<epoch>-<seq>`. Beyond the seed, the opening and the heartbeat carry `id:` as well: what they say is "everything up to
here is done", so a client that only knows Last-Event-ID resumes there instead of missing what came in between; and
`subscription.open` adds `truncated`. Guarantee: at least once within retention for a client that resumes; a reader that
stalls loses its oldest events beyond the ring and is told which to ask for again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, quote

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools.base import Tool
from mcp_types import ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clarion.catalog import CATEGORIES
from clarion.encoding import encode
from clarion.errors import ClarionError, InvalidInput, MissingParameter
from clarion.filters import OPERATORS
from clarion.hub.hub import Hub
from clarion.hub.protocols import Opening, Viewer
from clarion.hub.ring import Parcel
from clarion.hub.services import check_name
from clarion.ids import parse_cursor
from clarion.model import After, Bounds, Counters, Earliest, Latest, Position, Principal, Start, Subscription, isoformat
from clarion.wires.sse import Receive, Scope, Send, frame, serve

__all__ = ["PUSH_PATH", "WIRE", "PactFraming", "describe_subscription", "push_endpoint", "push_tools", "start_of"]

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

    name = WIRE

    def opened(self, opening: Opening) -> bytes:
        params = {
            "client_id": opening.client_id,
            "subscriptions": [describe_subscription(subscription) for subscription in opening.subscriptions],
            "cursor": opening.position.seq,
            "truncated": opening.truncated,
        }
        return _notification("subscription.open", params, str(opening.position))

    def event(self, parcel: Parcel, subscriptions: Sequence[Subscription], position: Position) -> bytes:
        bodies = parcel.bodies
        head = bodies.get(name := WIRE + position.epoch)
        if head is None:
            # Streams that were opened before a new epoch began name the old one, so the line belongs to its epoch.
            head = bodies[name] = b"%bid: %b\n%b" % (_EVENT_LINE, str(position).encode(), _PREFIX)
        body = bodies.get(WIRE)
        if body is None:
            body = bodies[WIRE] = self._body(parcel)
        if len(subscriptions) == 1:
            return b"".join((head, subscriptions[0].id.encode(), body))
        pieces: list[bytes] = []
        for one in subscriptions[:-1]:
            pieces += (_EVENT_LINE, _PREFIX, one.id.encode(), body)
        pieces += (head, subscriptions[-1].id.encode(), body)
        return b"".join(pieces)

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
            f"{field} is no cursor; use the id of a frame, an integer event_id, earliest or latest",
            field=field,
            rule="cursor",
        )
    return After(position)


def push_endpoint(hub: Hub) -> Callable[[Scope, Receive, Send, Principal, str], Awaitable[None]]:
    """`GET /mcp/push/sse?client_id=...[&cursor=...]` as a raw ASGI callable for a caller that is known already."""
    framing = PactFraming()

    async def endpoint(scope: Scope, receive: Receive, send: Send, principal: Principal, credential: str) -> None:
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
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
        )

    return endpoint


# -- the tools --------------------------------------------------------------------------------------------------------

Category = Literal[
    "crm", "marketing", "service", "ai", "workflow", "integration", "mcp", "consent", "platform", "custom"
]

TopicsArgument = Annotated[
    list[str],
    Field(
        description=(
            "Topic patterns; an event is pushed when it matches at least one. `*` stands for any text, dots included: "
            'e.g. ["deal.won"], ["deal.*", "github.pull_request.*"]. Call list_topics to see which topics exist.'
        ),
        min_length=1,
    ),
]
ClientIdArgument = Annotated[
    str,
    Field(
        description=(
            "A stable name for this client that you choose and use again after a restart, e.g. "
            '"claude-desktop-work-laptop". Subscriptions belong to it, and the push stream is opened with it.'
        ),
        min_length=1,
    ),
]
FilterArgument = Annotated[
    dict[str, Any] | None,
    Field(
        description=(
            "Only push events whose payload fits; all keys must hold. `field: value` is equality, `field: [..]` one "
            "of, and a suffix compares: _gte _lte _gt _lt (numbers), _not, _in, _nin (lists), _prefix, _contains "
            '(text), _exists (true or false). Dots reach into objects. E.g. {"account_id": "acc_1", '
            '"amount_gte": 100000}. list_topics shows examples for each topic.'
        )
    ),
]
LabelArgument = Annotated[
    str | None, Field(description="A name for people, shown to administrators. Changing it keeps the subscription.")
]
PurposeArgument = Annotated[
    str | None,
    Field(
        description=(
            "The purpose you process personal data for, e.g. marketing, transactional, analytics, profiling. With it, "
            "events about a person are pushed only if that person granted consent for this purpose."
        )
    ),
]


class SubscribeResult(BaseModel):
    """The subscription, new or found again."""

    subscription_id: str = Field(description="Pass this to unsubscribe.")
    client_id: str
    topic_patterns: list[str]
    filter: dict[str, Any]
    events_delivered: int = Field(description="Events pushed for this subscription so far.")
    push_endpoint: str = Field(description="Path of the SSE stream that carries the events.")
    push_endpoint_hint: str = Field(description="How to open it.")


class SubscriptionRow(BaseModel):
    """One subscription of this client."""

    model_config = ConfigDict(extra="forbid")

    subscription_id: str
    client_id: str
    client_label: str | None
    topic_patterns: list[str]
    filter: dict[str, Any]
    consent_purpose: str | None
    status: Literal["active", "deleted"]
    created_at: str
    events_delivered: int
    events_dropped: int = Field(description="Events that this client read too slowly to receive.")
    last_delivered_at: str | None


class ListSubscriptionsResult(BaseModel):
    client_id: str
    subscriptions: list[SubscriptionRow]


class UnsubscribeResult(BaseModel):
    subscription_id: str
    status: Literal["deleted"]
    events_delivered: int = Field(description="Events that had been pushed; subscribing again continues the count.")


class TopicRow(BaseModel):
    topic: str = Field(description="A topic, or a family of topics when it ends in .*")
    category: Category
    description: str
    payload_schema: dict[str, Any] = Field(description="JSON Schema of the payload's fields, as far as declared.")
    filter_examples: list[dict[str, Any]] = Field(description="Filters to pass to subscribe.")


class ListTopicsResult(BaseModel):
    categories: list[str]
    filter_suffixes: dict[str, str] = Field(description="Suffix of a filter key and what it does.")
    topics: list[TopicRow]


def push_tools(hub: Hub, caller: Callable[[], Principal]) -> list[Tool]:
    """subscribe, unsubscribe, list_subscriptions, list_topics; `caller` tells whose call is being served."""
    tools = _PushTools(hub, caller)
    return [
        _tool(tools.subscribe, "Subscribe to pushed events", idempotent=True),
        _tool(tools.unsubscribe, "Stop pushing a subscription", idempotent=True, destructive=True),
        _tool(tools.list_subscriptions, "List this client's subscriptions", read_only=True, idempotent=True),
        _tool(tools.list_topics, "List event topics", read_only=True, idempotent=True),
    ]


class _StrictTool(Tool):
    """A tool that says in its own words which argument is wrong; the SDK would show the validator's."""

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:
        try:
            self.fn_metadata.validate_arguments(arguments)
        except ValidationError as error:
            problems = [self._problem(dict(found)) for found in error.errors(include_url=False, include_input=False)]
            raise ToolError("; ".join(problems)) from None
        return await super().run(arguments, context, convert_result)

    def _problem(self, found: dict[str, Any]) -> str:
        place = ".".join(map(str, found["loc"]))
        if found["type"] == "extra_forbidden":
            return f"{place}: there is no such argument; known are {', '.join(self.parameters['properties'])}"
        return f"{place}: {found['msg']}"


def _tool(
    function: Callable[..., Any],
    title: str,
    *,
    read_only: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
) -> Tool:
    """A tool that refuses unknown arguments, which would otherwise be dropped without a word."""
    annotations = ToolAnnotations(
        title=title,
        read_only_hint=read_only,
        destructive_hint=destructive,
        idempotent_hint=idempotent,
        open_world_hint=False,
    )
    tool = _StrictTool.from_function(function, title=title, annotations=annotations, structured_output=True)
    arguments = tool.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"
    arguments.model_rebuild(force=True)
    tool.parameters = arguments.model_json_schema(by_alias=True)
    return tool


class _PushTools:
    """The tools' functions. Their docstrings are what the model reads."""

    def __init__(self, hub: Hub, caller: Callable[[], Principal]) -> None:
        self._hub = hub
        self._caller = caller

    async def subscribe(
        self,
        topic: TopicsArgument,
        client_id: ClientIdArgument,
        filter: FilterArgument = None,
        client_label: LabelArgument = None,
        consent_purpose: PurposeArgument = None,
    ) -> SubscribeResult:
        """Have events pushed to this client the moment they happen, instead of polling for them.

        Matching events arrive as notifications/pact/event on the push stream (see push_endpoint_hint in the result).
        Safe to call again on every start: the same client_id, topics and filter give the same subscription.
        """
        try:
            subscription = await self._hub.subscriptions.subscribe(
                self._caller(), client_id, topic, filter, label=client_label, purpose=consent_purpose
            )
            counters = await self._counters(subscription)
        except ClarionError as error:
            raise ToolError(error.message) from None
        return SubscribeResult(
            subscription_id=subscription.id,
            client_id=subscription.client_id,
            topic_patterns=list(subscription.topics),
            filter=dict(subscription.filter),
            events_delivered=counters.delivered,
            push_endpoint=PUSH_PATH,
            push_endpoint_hint=(
                f"Open GET {PUSH_PATH}?client_id={quote(subscription.client_id, safe='')} as a server-sent events "
                "stream with the same Authorization header, and keep it open. To resume after a break, send the last "
                "frame's id as Last-Event-ID or ?cursor=."
            ),
        )

    async def unsubscribe(
        self,
        subscription_id: Annotated[
            str, Field(description="The subscription_id from subscribe or list_subscriptions.", min_length=1)
        ],
    ) -> UnsubscribeResult:
        """Stop pushing events for one subscription. Its history stays; subscribing again brings it back."""
        try:
            subscription = await self._hub.subscriptions.unsubscribe(self._caller(), subscription_id)
            counters = await self._counters(subscription)
        except ClarionError as error:
            raise ToolError(error.message) from None
        return UnsubscribeResult(subscription_id=subscription.id, status="deleted", events_delivered=counters.delivered)

    async def list_subscriptions(
        self,
        client_id: ClientIdArgument,
        include_deleted: Annotated[bool, Field(description="Also list subscriptions that were ended.")] = False,
    ) -> ListSubscriptionsResult:
        """See what this client is subscribed to and how many events each subscription has received."""
        try:
            principal = self._caller()
            rows = await self._hub.subscriptions.of_client(principal, client_id, include_deleted=include_deleted)
            counters = await self._hub.deliveries.counters(principal.tenant, [row.id for row in rows])
        except ClarionError as error:
            raise ToolError(error.message) from None
        return ListSubscriptionsResult(
            client_id=client_id,
            subscriptions=[
                SubscriptionRow.model_validate(describe_subscription(row, counters[row.id])) for row in rows
            ],
        )

    async def list_topics(
        self,
        category: Annotated[
            str | None, Field(description=f"Only this category: one of {', '.join(CATEGORIES)}. Leave out for all.")
        ] = None,
    ) -> ListTopicsResult:
        """See which events exist, what their payloads hold, and example filters. Call this before subscribe."""
        try:
            found = await self._hub.topics.listing(self._caller().tenant, category)
        except ClarionError as error:
            raise ToolError(error.message) from None
        return ListTopicsResult(
            categories=list(CATEGORIES),
            filter_suffixes={suffix: operator.value for suffix, operator in OPERATORS.items()},
            topics=[
                TopicRow.model_validate(
                    {
                        "topic": row.pattern,
                        "category": row.category,
                        "description": row.description,
                        "payload_schema": dict(row.schema),
                        "filter_examples": [dict(example) for example in row.filter_examples],
                    }
                )
                for row in found
            ],
        )

    async def _counters(self, subscription: Subscription) -> Counters:
        found = await self._hub.deliveries.counters(subscription.tenant, [subscription.id])
        return found[subscription.id]
