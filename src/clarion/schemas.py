"""JSON Schemas that tenants bring: checked before they are stored, compiled once, safe to run on every event.

Draft 2020-12. Nothing is ever fetched: a `$ref` points into its own schema. A validator's message never holds the
value that it refused, only where it stood and why.

Validation runs on the event loop and holds the interpreter's lock, so its cost, which is the schema's times the
payload's, is counted first: compiling a schema adds up, for each place in a payload, what is spent on a value there
(`schema_cost`); `validate` walks the payload along these places and stops at the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import jsonschema_rs

from clarion.encoding import encode
from clarion.errors import InvalidEvent, InvalidInput, InvalidSchema
from clarion.schema_cost import Place, TooDear, cost_of

__all__ = [
    "BUDGET",
    "DIALECT",
    "MAX_EXPANSION",
    "MAX_PATTERNS",
    "MAX_PATTERN_SIZE",
    "MAX_SCHEMA_BYTES",
    "Schema",
]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""The one dialect that is understood."""

MAX_SCHEMA_BYTES = 64 * 1024
"""Bytes of one schema as JSON. Stops a tenant from filling the catalog that every `list_topics` answers with."""

MAX_EXPANSION = 10_000
"""Subschemas of one schema once every `$ref` is written out. Stops references that double at each step, whose
validation would take exponential time on the event loop. Below `unevaluated*` each counts `_UNEVALUATED` times."""

BUDGET = 4_000_000
"""Units of about 10 ns that checking one payload may cost, as `schema_cost` counts it. Stops a schema of 4 KB and an
event of 200 KB that together hold the event loop for minutes. The worst that a search found just below it: 80 ms for
bounds against 1e300 and for the names of members, 42 ms for most else, and 50 ms for the count itself in nested arrays.
Ordinary schemas are overcounted tenfold."""

MAX_PATTERNS = 16
"""Different regular expressions of one schema. Bounds what compiling them takes: 3 ms each at the worst."""

MAX_PATTERN_SIZE = 128 * 1024
"""Bytes of one compiled regular expression. The engine is linear in the text, but each byte of text can cost a step
for every state of the pattern: 10 us at this size. Admits `.{1,100}`."""

_UNEVALUATED = 3
"""How often a subschema runs under `unevaluatedProperties` or `unevaluatedItems`: once for itself, and again to learn
what it evaluated. Nested ones multiply (measured: 2.5)."""

_ERROR_COST = 1_000
"""How much dearer it can be to collect the errors of all alternatives than to find that none fits."""

_UNIT = 15
"""Nanoseconds of a unit, where patterns are concerned."""

_LEAST_PATTERN = 256
"""Where the search for a pattern's size starts."""

_MESSAGE_LENGTH = 200
"""Characters that are kept of a validator's message; a long `enum` would otherwise be repeated in full."""

_ALONE: dict[str, Callable[[Place], Place]] = {
    "not": lambda place: place,
    "if": lambda place: place,
    "then": lambda place: place,
    "else": lambda place: place,
    "items": Place.any_item,
    "contains": Place.any_item,
    "unevaluatedItems": Place.any_item,
    "additionalProperties": Place.any_member,
    "unevaluatedProperties": Place.any_member,
    "propertyNames": Place.any_key,
}
"""Keywords that hold one subschema, and to which place it applies."""

_NAMED: dict[str, Callable[[Place, str], Place]] = {
    "properties": Place.named_member,
    "patternProperties": lambda place, _: place.any_member(),
    "dependentSchemas": lambda place, _: place,
}
"""Keywords that hold subschemas by name."""

_UNSUPPORTED = ("$dynamicRef", "$dynamicAnchor", "$anchor", "$vocabulary")


@dataclass(frozen=True, slots=True)
class _Step:
    """One subschema of the walk over a schema: it runs `times` on a value at `place`."""

    schema: Any
    where: str
    place: Place
    times: int
    entered: frozenset[str]
    """The references that led here."""

    @property
    def inner_times(self) -> int:
        again = "unevaluatedProperties" in self.schema or "unevaluatedItems" in self.schema
        return self.times * _UNEVALUATED if again else self.times


class _Patterns:
    """What the regular expressions of one schema cost."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._costs: dict[str, int] = {}

    def cost(self, pattern: Any) -> int:
        """Units for each KiB of text. Raises InvalidSchema when there are too many patterns, or one is too large."""
        if not isinstance(pattern, str):
            return 0  # the compiler refuses it
        if pattern not in self._costs:
            if len(self._costs) == MAX_PATTERNS:
                raise InvalidSchema(
                    f"{self._field} has more than {MAX_PATTERNS} regular expressions",
                    field=self._field,
                    rule="patterns",
                )
            self._costs[pattern] = _pattern_cost(_pattern_size(pattern))
        return self._costs[pattern]


def _pattern_size(pattern: str) -> int:
    """The least power of two that the engine takes as a limit of the pattern's compiled size; at most the largest
    that is allowed, with which an invalid or larger pattern is refused later, in its place."""
    size = _LEAST_PATTERN
    while size < MAX_PATTERN_SIZE:
        options = jsonschema_rs.RegexOptions(size_limit=size)
        try:
            jsonschema_rs.Draft202012Validator({"pattern": pattern}, offline=True, pattern_options=options)
        except (jsonschema_rs.ValidationError, ValueError):
            size *= 2
        else:
            break
    return size


def _pattern_cost(size: int) -> int:
    """Units for each KiB of text at the worst, where each byte leads to a state that was not met before: measured as
    at most 0.4 ns for each byte of size in small patterns, less in larger ones."""
    nanoseconds = min(0.4 * size, 800 + 0.075 * size)
    return round(1024 * nanoseconds / _UNIT)


class Schema:
    """A JSON Schema that was checked and compiled.

    Raises InvalidSchema, its `field` naming the place, when `document` is not valid, not of this dialect, too large,
    refers outside itself, or is recursive (a recursive schema's cost has no bound that could be told beforehand).
    """

    __slots__ = ("_alternatives", "_places", "_validator")

    def __init__(self, document: Mapping[str, Any], *, field: str = "schema") -> None:
        _check_size(document, field)
        if document.get("$schema", DIALECT) not in (DIALECT, DIALECT + "#"):
            raise InvalidSchema(
                f"{field}.$schema is not understood; use {DIALECT} or leave it out",
                field=f"{field}.$schema",
                rule="dialect",
            )
        self._places, self._alternatives = _measured(document, field)
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                dict(document),
                offline=True,
                mask="the value",
                pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_SIZE),
            )
        except jsonschema_rs.ValidationError as error:
            where = _place(field, error.instance_path)
            raise InvalidSchema(
                f"{where} is not valid JSON Schema: {_shortened(error.message)}", field=where, rule="schema"
            ) from None
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidSchema(
                f"{field} is not a usable JSON Schema: {_shortened(str(error))}", field=field, rule="schema"
            ) from None

    def validate(self, payload: Mapping[str, Any], *, field: str = "payload") -> None:
        """Raises InvalidEvent for the first rule that `payload` breaks, its `field` naming the place.

        The rule is "cost" when schema and payload together are too much work, whether or not they fit. A payload that
        is refused after much work is told so without the place.
        """
        try:
            cost = cost_of(self._places, payload, BUDGET)
            if self._validator.is_valid(payload):
                return
            if self._alternatives and cost * _ERROR_COST > BUDGET:
                raise InvalidEvent(
                    f"{field} does not fit the topic's schema; it is too large to tell where",
                    field=field,
                    rule="schema",
                )
            self._validator.validate(payload)
        except TooDear:
            raise InvalidEvent(
                f"{field} is too much work to check against the topic's schema; send less in one event, or simplify "
                "the schema: fewer alternatives and patterns for each element of an array or object",
                field=field,
                rule="cost",
            ) from None
        except jsonschema_rs.ValidationError as error:
            where = _place(field, error.instance_path)
            raise InvalidEvent(
                f"{where} does not fit the topic's schema: {_shortened(error.message)}", field=where, rule="schema"
            ) from None
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidEvent(
                f"{field} cannot be checked against the topic's schema: {_shortened(str(error))}",
                field=field,
                rule="schema",
            ) from None


def _check_size(document: Mapping[str, Any], field: str) -> None:
    try:
        size = len(encode(document, field=field))
    except InvalidInput as error:
        raise InvalidSchema(error.message, field=field, rule="json") from None
    if size > MAX_SCHEMA_BYTES:
        raise InvalidSchema(
            f"{field} is {size} bytes; at most {MAX_SCHEMA_BYTES} are allowed", field=field, rule="size"
        )


def _measured(document: Mapping[str, Any], field: str) -> tuple[Place, bool]:
    """Walk the schema with every reference written out, refusing what has no end or too many steps.

    Gives what each place costs, and whether there are alternatives, whose errors would all be collected.

    Definitions that nothing refers to are not walked: they are never run. One that something refers to is.
    """
    steps, alternatives = 0, False
    patterns = _Patterns(field)
    root = Place()
    waiting: list[_Step] = [_Step(document, field, root, 1, frozenset({"#"}))]
    while waiting:
        step = waiting.pop()
        schema, where = step.schema, step.where
        steps += step.times
        if steps > MAX_EXPANSION:
            raise InvalidSchema(
                f"{field} has more than {MAX_EXPANSION} subschemas with its references written out",
                field=field,
                rule="expansion",
            )
        step.place.charge(schema, step.times, patterns.cost)
        if not isinstance(schema, Mapping):
            continue
        _check_keywords(schema, where, root=schema is document)
        alternatives = alternatives or "anyOf" in schema or "oneOf" in schema
        waiting.extend(_children(step))
        if "$ref" in schema:
            reference = _local(schema["$ref"], where)
            if reference in step.entered:
                raise InvalidSchema(
                    f"{where}.$ref leads back to {reference}; recursive schemas are not supported",
                    field=f"{where}.$ref",
                    rule="recursion",
                )
            target, found = _target(document, reference, field, where)
            waiting.append(_Step(target, found, step.place, step.inner_times, step.entered | {reference}))
    return root, alternatives


def _check_keywords(schema: Mapping[str, Any], where: str, *, root: bool) -> None:
    for keyword in _UNSUPPORTED:
        if keyword in schema:
            raise InvalidSchema(f"{where}.{keyword} is not supported", field=f"{where}.{keyword}", rule="keyword")
    if "$id" in schema and not root:
        raise InvalidSchema(
            f"{where}.$id is not supported inside a schema, only at its top", field=f"{where}.$id", rule="keyword"
        )


def _children(step: _Step) -> Iterator[_Step]:
    """The subschemas that validation of a step's schema runs, references apart."""
    schema, where, place = step.schema, step.where, step.place

    def inner(child: Any, name: str, at: Place) -> _Step:
        return _Step(child, f"{where}.{name}", at, step.inner_times, step.entered)

    for keyword, at in _ALONE.items():
        if keyword in schema:
            yield inner(schema[keyword], keyword, at(place))
    for keyword in ("allOf", "anyOf", "oneOf", "prefixItems"):
        if isinstance(schema.get(keyword), list):
            for index, child in enumerate(schema[keyword]):
                at_index = place.item_at(index) if keyword == "prefixItems" else place
                yield inner(child, f"{keyword}.{index}", at_index)
    for keyword, of in _NAMED.items():
        if isinstance(schema.get(keyword), Mapping):
            for name, child in schema[keyword].items():
                yield inner(child, f"{keyword}.{name}", of(place, name))


def _local(reference: Any, where: str) -> str:
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        return reference
    raise InvalidSchema(
        f"{where}.$ref must point into this schema, such as #/$defs/name; nothing is fetched",
        field=f"{where}.$ref",
        rule="reference",
    )


def _target(document: Mapping[str, Any], reference: str, field: str, where: str) -> tuple[Any, str]:
    """What a local reference points to, and its place."""
    found: Any = document
    names = [unquote(token).replace("~1", "/").replace("~0", "~") for token in reference.split("/")[1:]]
    for name in names:
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise InvalidSchema(
                f"{where}.$ref points to {_shortened(reference)}, which is not there",
                field=f"{where}.$ref",
                rule="reference",
            )
    return found, ".".join([field, *names])


def _place(field: str, path: list[str | int]) -> str:
    return ".".join([field, *map(str, path)])


def _shortened(message: str) -> str:
    line = message.splitlines()[0] if message else "unknown reason"
    return line if len(line) <= _MESSAGE_LENGTH else line[: _MESSAGE_LENGTH - 1] + "…"
