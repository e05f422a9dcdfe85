"""The control plane of the side channel: four MCP tools (SEEDS section 0).

Results are compact JSON, for the model reads them as text; what a model should know beside a result is a second text
block, since the result's keys are fixed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast
from urllib.parse import quote

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools.base import Tool
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clarion.catalog import CATEGORIES, fields_of
from clarion.encoding import encode
from clarion.errors import ClarionError
from clarion.filters import OPERATORS
from clarion.hub.hub import Hub
from clarion.model import Counters, Principal, Subscription, TopicDeclaration
from clarion.wires.pact.channel import PUSH_PATH, describe_subscription

__all__ = ["push_tools"]

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
    fields: dict[str, str] = Field(description="Payload fields that a filter can use, and their JSON types.")
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


_PROBLEMS = {
    "missing": "is required",
    "list_type": 'must be a list, such as ["deal.won"]',
    "dict_type": 'must be an object, such as {"amount_gte": 100000}',
    "string_type": "must be a string",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}
"""What is said instead of the validator's own words."""


class _StrictTool(Tool):
    """A tool that says in our own words what is wrong, whether with its arguments or with what they ask for."""

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:
        try:
            self.fn_metadata.validate_arguments(arguments)
        except ValidationError as error:
            problems = [self._problem(dict(found)) for found in error.errors(include_url=False, include_input=False)]
            raise ToolError("; ".join(problems)) from None
        try:
            return await super().run(arguments, context, convert_result)
        except UnexpectedToolError as error:
            if isinstance(error.__cause__, ClarionError):  # ours say what to do; the SDK would hide it as a crash
                raise ToolError(error.__cause__.message) from None
            raise

    def _problem(self, found: dict[str, Any]) -> str:
        place = ".".join(map(str, found["loc"]))
        if found["type"] == "extra_forbidden":
            return f"{place}: there is no such argument; known are {', '.join(self.parameters['properties'])}"
        return f"{place}: {_PROBLEMS.get(found['type'], found['msg'])}"


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
    tool = _StrictTool.from_function(
        function,
        title=title,
        description=inspect.cleandoc(function.__doc__ or ""),
        annotations=annotations,
        structured_output=True,
    )
    arguments = tool.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"
    arguments.model_rebuild(force=True)
    tool.parameters = arguments.model_json_schema(by_alias=True)
    return tool


def _answer(result: BaseModel, *notes: str) -> CallToolResult:
    """The result as compact JSON, and each note as a text block of its own."""
    body = result.model_dump(mode="json")
    texts = [encode(body, field="result").decode(), *notes]
    return CallToolResult(content=[TextContent(type="text", text=text) for text in texts], structured_content=body)


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
    ) -> Annotated[CallToolResult, SubscribeResult]:
        """Have events pushed to this client the moment they happen, instead of polling for them.

        Matching events arrive as notifications/pact/event on the push stream (see push_endpoint_hint in the result).
        Safe to call again on every start: the same client_id, topics and filter give the same subscription.
        """
        principal = self._caller()
        subscription = await self._hub.subscriptions.subscribe(
            principal, client_id, topic, filter, label=client_label, purpose=consent_purpose
        )
        counters = await self._counters(subscription)
        hint = (
            f"Open GET {PUSH_PATH}?client_id={quote(subscription.client_id, safe='')} as a server-sent events stream "
            "with the same Authorization header, and keep it open. To resume after a break, send the last frame's id "
            "as Last-Event-ID or ?cursor=."
        )
        result = SubscribeResult(
            subscription_id=subscription.id,
            client_id=subscription.client_id,
            topic_patterns=list(subscription.topics),
            filter=dict(subscription.filter),
            events_delivered=counters.delivered,
            push_endpoint=PUSH_PATH,
            push_endpoint_hint=hint,
        )
        unknown = await self._hub.topics.unknown(principal.tenant, subscription.topics)
        return _answer(result, *(_unknown_note(pattern, nearest) for pattern, nearest in unknown.items()))

    async def unsubscribe(
        self,
        subscription_id: Annotated[
            str, Field(description="The subscription_id from subscribe or list_subscriptions.", min_length=1)
        ],
    ) -> Annotated[CallToolResult, UnsubscribeResult]:
        """Stop pushing events for one subscription. Its history stays; subscribing again brings it back."""
        subscription = await self._hub.subscriptions.unsubscribe(self._caller(), subscription_id)
        delivered = (await self._counters(subscription)).delivered
        return _answer(UnsubscribeResult(subscription_id=subscription.id, status="deleted", events_delivered=delivered))

    async def list_subscriptions(
        self,
        client_id: ClientIdArgument,
        include_deleted: Annotated[bool, Field(description="Also list subscriptions that were ended.")] = False,
    ) -> Annotated[CallToolResult, ListSubscriptionsResult]:
        """See what this client is subscribed to and how many events each subscription has received."""
        principal = self._caller()
        rows = await self._hub.subscriptions.of_client(principal, client_id, include_deleted=include_deleted)
        counters = await self._hub.deliveries.counters(principal.tenant, [row.id for row in rows])
        described = [SubscriptionRow.model_validate(describe_subscription(row, counters[row.id])) for row in rows]
        return _answer(ListSubscriptionsResult(client_id=client_id, subscriptions=described))

    async def list_topics(
        self,
        category: Annotated[
            str | None, Field(description=f"Only this category: one of {', '.join(CATEGORIES)}. Leave out for all.")
        ] = None,
    ) -> Annotated[CallToolResult, ListTopicsResult]:
        """See which events are known, what their payloads hold, and example filters. Call this before subscribe.

        Known topics are a shared vocabulary: which of them happen depends on what this tenant's applications emit.
        """
        found = await self._hub.topics.listing(self._caller().tenant, category)
        return _answer(
            ListTopicsResult(
                categories=list(CATEGORIES),
                filter_suffixes={suffix: operator.value for suffix, operator in OPERATORS.items()},
                topics=[_topic_row(declaration) for declaration in found],
            )
        )

    async def _counters(self, subscription: Subscription) -> Counters:
        found = await self._hub.deliveries.counters(subscription.tenant, [subscription.id])
        return found[subscription.id]


def _unknown_note(pattern: str, nearest: str | None) -> str:
    guess = f" Did you mean {nearest}?" if nearest else ""
    return (
        f"Note: no known topic matches {pattern}.{guess} The subscription stands, and receives events if something "
        "emits them on such a topic; list_topics shows the known ones."
    )


def _topic_row(declaration: TopicDeclaration) -> TopicRow:
    return TopicRow(
        topic=declaration.pattern,
        category=cast("Category", declaration.category),
        description=declaration.description,
        fields=fields_of(declaration),
        filter_examples=[dict(example) for example in declaration.filter_examples],
    )
