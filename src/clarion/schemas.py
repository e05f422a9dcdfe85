"""JSON Schemas that tenants bring: checked before they are stored, compiled once, safe to run on every event.

Draft 2020-12. Nothing is ever fetched: a `$ref` points into its own schema. Patterns run on an engine whose time is
linear in the text. A validator's message never holds the value that it refused, only where it stood and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import jsonschema_rs

from clarion.encoding import encode
from clarion.errors import InvalidEvent, InvalidInput, InvalidSchema

__all__ = ["DIALECT", "MAX_EXPANSION", "MAX_SCHEMA_BYTES", "Schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""The one dialect that is understood."""

MAX_SCHEMA_BYTES = 64 * 1024
"""Bytes of one schema as JSON. Stops a tenant from filling the catalog that every `list_topics` answers with."""

MAX_EXPANSION = 10_000
"""Subschemas of one schema once every `$ref` is written out. Stops references that double at each step, whose
validation would take exponential time on the event loop."""

_MESSAGE_LENGTH = 200
"""Characters that are kept of a validator's message; a long `enum` would otherwise be repeated in full."""

_ALONE = (
    *("not", "if", "then", "else"),
    *("items", "contains", "unevaluatedItems"),
    *("additionalProperties", "propertyNames", "unevaluatedProperties"),
)
_LISTED = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "dependentSchemas")
_UNSUPPORTED = ("$dynamicRef", "$dynamicAnchor", "$anchor", "$vocabulary")


class Schema:
    """A JSON Schema that was checked and compiled.

    Raises InvalidSchema, its `field` naming the place, when `document` is not valid, not of this dialect, too large,
    refers outside itself, or is recursive (a recursive schema's cost has no bound that could be told beforehand).
    """

    __slots__ = ("_validator",)

    def __init__(self, document: Mapping[str, Any], *, field: str = "schema") -> None:
        _check_size(document, field)
        if document.get("$schema", DIALECT) not in (DIALECT, DIALECT + "#"):
            raise InvalidSchema(
                f"{field}.$schema is not understood; use {DIALECT} or leave it out",
                field=f"{field}.$schema",
                rule="dialect",
            )
        _check_references(document, field)
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                dict(document), offline=True, mask="the value", pattern_options=jsonschema_rs.RegexOptions()
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
        """Raises InvalidEvent for the first rule that `payload` breaks, its `field` naming the place."""
        try:
            self._validator.validate(payload)
        except jsonschema_rs.ValidationError as error:
            where = _place(field, error.instance_path)
            raise InvalidEvent(
                f"{where} does not fit the topic's schema: {_shortened(error.message)}", field=where, rule="schema"
            ) from None
        except (ValueError, TypeError) as error:
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


def _check_references(document: Mapping[str, Any], field: str) -> None:
    """Walk the schema with every reference written out, refusing what has no end or too many steps.

    Definitions that nothing refers to are not walked: they are never run. One that something refers to is.
    """
    steps = 0
    waiting: list[tuple[Any, str, frozenset[str]]] = [(document, field, frozenset({"#"}))]
    while waiting:
        schema, where, entered = waiting.pop()
        if not isinstance(schema, Mapping):
            continue
        steps += 1
        if steps > MAX_EXPANSION:
            raise InvalidSchema(
                f"{field} has more than {MAX_EXPANSION} subschemas with its references written out",
                field=field,
                rule="expansion",
            )
        _check_keywords(schema, where, root=schema is document)
        waiting.extend((child, place, entered) for child, place in _children(schema, where))
        if "$ref" in schema:
            reference = _local(schema["$ref"], where)
            if reference in entered:
                raise InvalidSchema(
                    f"{where}.$ref leads back to {reference}; recursive schemas are not supported",
                    field=f"{where}.$ref",
                    rule="recursion",
                )
            target, place = _target(document, reference, field, where)
            waiting.append((target, place, entered | {reference}))


def _check_keywords(schema: Mapping[str, Any], where: str, *, root: bool) -> None:
    for keyword in _UNSUPPORTED:
        if keyword in schema:
            raise InvalidSchema(f"{where}.{keyword} is not supported", field=f"{where}.{keyword}", rule="keyword")
    if "$id" in schema and not root:
        raise InvalidSchema(
            f"{where}.$id is not supported inside a schema, only at its top", field=f"{where}.$id", rule="keyword"
        )


def _children(schema: Mapping[str, Any], where: str) -> Iterator[tuple[Any, str]]:
    """The subschemas that validation of `schema` runs, references apart, and their places."""
    for keyword in _ALONE:
        if keyword in schema:
            yield schema[keyword], f"{where}.{keyword}"
    for keyword in _LISTED:
        if isinstance(schema.get(keyword), list):
            yield from ((child, f"{where}.{keyword}.{index}") for index, child in enumerate(schema[keyword]))
    for keyword in _NAMED:
        if isinstance(schema.get(keyword), Mapping):
            yield from ((child, f"{where}.{keyword}.{name}") for name, child in schema[keyword].items())


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
