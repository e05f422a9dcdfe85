"""What an author declares of an event type, from type hints or JSON Schema (SEP-3415, "Listing Available Events")."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from clarion.errors import InvalidEvent, InvalidInput, InvalidSchema, InvalidTopic
from clarion.events.hooks import Hook, Hooks
from clarion.events.shapes import ANYTHING, Shape, document_of, expected_types, has_members
from clarion.events.signatures import HOOKS, check_callable, hooks_of_class, signature_of
from clarion.schemas import Schema
from clarion.topics import check_topic
from clarion.wires.mcp_events.protocol import EventType, Mode

__all__ = ["ANYTHING", "HOOKS", "Declared", "Shape", "declare", "document_of", "is_positive"]


@dataclass(frozen=True, slots=True)
class Declared:
    """One event type of the library. `check`: its function, for a type with an upstream of its own; `interval` in
    seconds and `shared` are that one's. `max_streams`: open streams of it that one principal may have."""

    descriptor: EventType
    hooks: Hooks
    arguments: Schema = field(repr=False)
    payload: Schema = field(repr=False)
    check: Callable[..., Any] | None = None
    interval: float | None = None
    shared: bool = False
    replay: bool = True
    max_streams: int | None = None

    @property
    def name(self) -> str:
        return self.descriptor.name

    def changed(self, options: Mapping[str, Any], hooks: Mapping[str, Callable[..., Any] | None]) -> Declared:
        """The same type with other options of `declare`; its check function stays."""
        own = self.descriptor
        kept: dict[str, Any] = {
            "description": own.description, "arguments": own.input_schema, "payload": own.payload_schema,
            "delivery": own.delivery, "replay": self.replay, "interval": self.interval, "shared": self.shared,
            "max_streams": self.max_streams, "meta": own.meta,
        }  # fmt: skip
        those = {name: getattr(self.hooks, name) for name in HOOKS}
        return declare(self.name, check=self.check, hooks={**those, **hooks}, **{**kept, **options})

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Raises InvalidInput naming the path of the argument that does not fit."""
        try:
            self.arguments.validate(arguments, field="arguments")
        except InvalidEvent as error:
            message = _said(error, self.descriptor.input_schema, "arguments", "inputSchema")
            raise InvalidInput(message, field=error.field, rule=error.rule) from None

    def check_payload(self, data: Mapping[str, Any]) -> None:
        """Raises InvalidEvent naming the path of what does not fit."""
        try:
            self.payload.validate(data, field="data")
        except InvalidEvent as error:
            message = _said(error, self.descriptor.payload_schema, "data", "payloadSchema")
            raise InvalidEvent(message, field=error.field, rule=error.rule) from None


def _said(error: InvalidEvent, document: Mapping[str, Any], root: str, schema: str) -> str:
    """The message of a payload that does not fit, in this wire's terms."""
    where = error.field or root
    types = expected_types(document, where.removeprefix(root).removeprefix(".")) if error.rule == "schema" else None
    if types is not None:
        return f"{where} does not fit the event's {schema}: must be {types}"
    return error.message.replace("the topic's schema", f"the event's {schema}")


def declare(
    name: str,
    target: Any = None,
    *,
    description: str | None = None,
    arguments: Shape = None,
    payload: Shape = None,
    delivery: Sequence[str] | None = None,
    replay: bool = True,
    interval: float | None = None,
    shared: bool = False,
    max_streams: int | None = None,
    meta: Mapping[str, Any] | None = None,
    check: Callable[..., Any] | None = None,
    hooks: Mapping[str, Callable[..., Any] | None] | None = None,
) -> Declared:
    """The event type `name`, with what `target`, a class or a check function, says of it.

    A class gives the payload by its annotations, the arguments by those of its inner class `Arguments`, and hooks by
    its static methods, `check` included. A function with a parameter `cursor` is the check function; the type of its
    parameter `arguments` may give the arguments. Any other function is never called: its parameters are the arguments,
    what it says it returns the payload. A docstring is the description. What is said beside `target` wins over it.
    Raises InvalidTopic, InvalidSchema, InvalidInput.
    """
    _check_name(name)
    _check_numbers(name, interval, max_streams)
    found = dict(hooks or {})
    if inspect.isclass(target):
        payload = target if payload is None and has_members(target) else payload
        arguments = getattr(target, "Arguments", None) if arguments is None else arguments
        own = hooks_of_class(name, target)
        check = own.pop(Hook.CHECK)
        found = {**own, **{hook: function for hook, function in found.items() if function is not None}}
    elif target is not None:
        check, hinted_arguments, hinted_payload = signature_of(name, target)
        arguments = hinted_arguments if arguments is None else arguments
        payload = hinted_payload if payload is None else payload
    for hook, function in {**found, Hook.CHECK.value: check}.items():
        if function is not None:
            check_callable(name, hook, function)
    if check is None and (interval is not None or shared):
        option = "shared" if interval is None else "interval"
        raise InvalidInput(
            f"{name}: {option} is a check function's, and this type is emitted to; leave it out",
            field=option,
            rule="check",
        )
    if description is None:
        description = inspect.cleandoc(_doc_of(target) or "")
    input_schema = document_of(arguments, f"{name} arguments")
    payload_schema = document_of(payload, f"{name} payload")
    descriptor = EventType(
        name=name,
        description=description,
        delivery=_delivery(name, delivery, replay=replay or check is not None),
        input_schema=input_schema,
        payload_schema=payload_schema,
        meta=dict(meta or {}),
    )
    return Declared(
        descriptor=descriptor,
        hooks=Hooks(**found),
        arguments=_compiled(name, input_schema, "arguments"),
        payload=_compiled(name, payload_schema, "payload"),
        check=check,
        interval=interval,
        shared=shared,
        replay=replay,
        max_streams=max_streams,
    )


def _compiled(name: str, document: Mapping[str, Any], field: str) -> Schema:
    try:
        return Schema(document, field=field)
    except InvalidSchema as error:
        raise InvalidSchema(f"{name}: {error.message}", field=error.field, rule=error.rule) from None


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        _unnamed()
    try:
        check_topic(name)
    except InvalidTopic as error:
        message = error.message.removeprefix("topic ")
        raise InvalidTopic(f"the event type name {message}", field="name", rule=error.rule) from None


def _unnamed() -> NoReturn:
    raise InvalidInput(
        'an event type has a name, which comes first, as text: @events.event("ticket.updated")',
        field="name",
        rule="type",
    )


def _doc_of(target: Any) -> str | None:
    """The docstring that the author wrote; dataclasses and models without one have the library's."""
    if inspect.isclass(target):
        doc = target.__dict__.get("__doc__")
        generated = dataclasses.is_dataclass(target) and isinstance(doc, str) and doc.startswith(f"{target.__name__}(")
        return None if generated else doc
    return inspect.getdoc(target) if target is not None else None


def _check_numbers(name: str, interval: float | None, max_streams: int | None) -> None:
    if interval is not None and not is_positive(interval):
        raise InvalidInput(f"{name}: interval must be a positive number of seconds", field="interval", rule="minimum")
    if max_streams is not None and not (isinstance(max_streams, int) and _is_number(max_streams) and max_streams > 0):
        raise InvalidInput(
            f"{name}: max_streams must be a whole number of at least 1; for none leave push out of delivery",
            field="max_streams",
            rule="minimum",
        )


def is_positive(value: object) -> bool:
    """Whether it is a number above zero, and finite: a time in seconds."""
    return isinstance(value, int | float) and _is_number(value) and 0 < value < math.inf


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _delivery(name: str, wanted: Iterable[str] | None, *, replay: bool) -> tuple[Mode, ...]:
    if wanted is None:
        return (Mode.POLL, Mode.PUSH) if replay else (Mode.PUSH,)
    if isinstance(wanted, str):
        raise InvalidInput(
            f'{name}: delivery is a list of modes: give a list, ["{wanted[:16]}"]', field="delivery", rule="type"
        )
    try:
        modes = tuple(dict.fromkeys(Mode(each) for each in wanted))
    except ValueError:
        known = ", ".join(each.value for each in (Mode.POLL, Mode.PUSH))
        raise InvalidInput(f"{name}: delivery lists modes among {known}", field="delivery", rule="enum") from None
    if not modes:
        raise InvalidInput(f"{name}: delivery must name at least one mode", field="delivery", rule="empty")
    if Mode.POLL in modes and not replay:
        raise InvalidInput(
            f"{name}: without replay there is no cursor, and a poll could never give an event; leave poll out",
            field="delivery",
            rule="replay",
        )
    if Mode.WEBHOOK in modes:
        raise InvalidInput(f"{name}: webhook delivery is not there yet", field="delivery", rule="webhook")
    return modes
