"""What `clarion serve` offers on the Events wire: the tenant's catalog, a topic or a family of topics an event type.

`arguments` are the filter grammar, beside `consent_purpose`; what `inputSchema` lists is what the topic's schema
declares, and any other field of an event may be asked for as well, as everywhere in Clarion.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clarion.catalog import fields_of
from clarion.errors import InvalidEvent, InvalidFilter, InvalidInput, NotFound, Unsupported
from clarion.filters import OPERATORS, Operator, compile_filter
from clarion.hub.hub import Hub
from clarion.hub.services import check_name
from clarion.model import TopicDeclaration
from clarion.schemas import Schema
from clarion.wires.mcp_events.log import LogSource
from clarion.wires.mcp_events.protocol import Caller, Detach, EventType, Mode, Offered, Wanted, ephemeral

__all__ = ["PURPOSE", "CatalogOffer", "input_schema"]

PURPOSE = "consent_purpose"
"""The argument that is no filter: what personal data is processed for (SEEDS section 0, "Consent")."""

MAX_SCHEMAS = 1_024
"""Compiled schemas that are kept. Stops tenants with many topics from filling the memory with them."""

DELIVERY = (Mode.POLL, Mode.PUSH)

_FAMILY = ".*"
_SUFFIXES = {operator: suffix for suffix, operator in OPERATORS.items()}
_OF_NUMBERS = (Operator.GREATER_OR_EQUAL, Operator.LESS_OR_EQUAL, Operator.GREATER, Operator.LESS)
_OF_TEXT = (Operator.PREFIX, Operator.CONTAINS)
_SCALARS = ("string", "number", "integer", "boolean")


class CatalogOffer:
    """A `clarion.wires.mcp_events.protocol.Offer` over the catalog of each caller's tenant."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._log = LogSource(hub)
        self._schemas: OrderedDict[tuple[str, str], tuple[TopicDeclaration, Schema]] = OrderedDict()

    async def listing(self, caller: Caller) -> Sequence[EventType]:
        found = await self._hub.topics.listing(caller.principal.tenant, None)
        return [_event_type(declaration) for declaration in found]

    async def open(self, wanted: Wanted, mode: Mode) -> Offered:
        tenant = wanted.caller.principal.tenant
        declaration = await self._hub.topics.named(tenant, wanted.name)
        if declaration is None:
            raise NotFound(
                f"there is no event type {wanted.name[:64]!r}; events/list names them", details={"kind": "event"}
            )
        if mode not in DELIVERY:
            raise Unsupported(
                f"{wanted.name} is not delivered by {mode.value}; it offers poll and push",
                details={"feature": "deliveryMode", "value": mode.value},
            )
        filter = dict(wanted.arguments)
        purpose = filter.pop(PURPOSE, None)
        if purpose is not None:
            check_name(purpose, f"arguments.{PURPOSE}")
        await self._check(tenant, declaration, wanted.arguments, filter)
        subscription = ephemeral(wanted, [declaration.pattern], filter, purpose)
        return self._log.offered(wanted, subscription)

    async def _check(
        self, tenant: str, declaration: TopicDeclaration, arguments: Mapping[str, Any], filter: Mapping[str, Any]
    ) -> None:
        """Raises InvalidInput naming the path of the argument that breaks the schema or the grammar."""
        try:
            self._schema(tenant, declaration).validate(arguments, field="arguments")
            compile_filter(filter, await self._hub.topics.declared_keys(tenant, [declaration.pattern]))
        except InvalidEvent as error:
            message = error.message.replace("the topic's schema", "the event's inputSchema")
            raise InvalidInput(message, field=error.field, rule=error.rule) from None
        except InvalidFilter as error:
            path = (error.field or "filter").replace("filter", "arguments", 1)
            message = error.message.replace("filter", "arguments", 1)
            raise InvalidInput(message, field=path, rule=error.rule) from None

    def _schema(self, tenant: str, declaration: TopicDeclaration) -> Schema:
        """What the arguments must fit, compiled once for as long as the declaration stands."""
        key = (tenant, declaration.pattern)
        known = self._schemas.get(key)
        if known is None or known[0] is not declaration:
            known = self._schemas[key] = (declaration, Schema(input_schema(declaration), field="inputSchema"))
            if len(self._schemas) > MAX_SCHEMAS:
                self._schemas.popitem(last=False)
        self._schemas.move_to_end(key)
        return known[1]

    def watch(self, caller: Caller, changed: Callable[[], None]) -> Detach:
        return self._hub.topics.watch(caller.principal.tenant, changed)


def _event_type(declaration: TopicDeclaration) -> EventType:
    meta: dict[str, Any] = {"clarion/category": declaration.category}
    if declaration.filter_examples:
        meta["clarion/argumentExamples"] = [dict(example) for example in declaration.filter_examples]
    return EventType(
        name=declaration.pattern,
        description=declaration.description,
        delivery=DELIVERY,
        input_schema=input_schema(declaration),
        payload_schema={"type": "object", **declaration.schema},
        meta=meta,
    )


def input_schema(declaration: TopicDeclaration) -> dict[str, Any]:
    """The arguments of a topic's subscriptions: what can be asked of each field that its schema declares."""
    properties: dict[str, Any] = {}
    fields = [*fields_of(declaration).items()]
    if declaration.pattern.endswith(_FAMILY):
        fields.append(("topic", "string"))
    for name, kind in fields:
        for key, schema in _clauses(name, kind).items():  # `load` and `load_gt` may both be fields: either may be meant
            properties[key] = {"anyOf": [properties[key], schema]} if key in properties else schema
    properties[PURPOSE] = {
        "type": "string",
        "description": (
            "The purpose personal data is processed for. With it, events about a person come only if that person "
            "granted consent for this purpose."
        ),
    }
    return {
        "type": "object",
        "description": (
            "All must hold. A field equals its value, or one of a list; a suffix compares. Other fields of the event "
            "can be asked for in the same way."
        ),
        "properties": properties,
    }


def _clauses(name: str, kind: str) -> dict[str, Any]:
    """The arguments that ask about one field."""
    if kind not in _SCALARS:
        return {name + _SUFFIXES[Operator.EXISTS]: {"type": "boolean"}}
    value: dict[str, Any] = {"type": kind}
    values: dict[str, Any] = {"type": "array", "items": value}
    clauses: dict[str, Any] = {name: {"anyOf": [value, values]}, name + _SUFFIXES[Operator.NOT]: value}
    operators = _OF_NUMBERS if kind in ("number", "integer") else _OF_TEXT if kind == "string" else ()
    for operator in operators:
        clauses[name + _SUFFIXES[operator]] = {"type": "number"} if operator in _OF_NUMBERS else value
    clauses[name + _SUFFIXES[Operator.EXISTS]] = {"type": "boolean"}
    return clauses
