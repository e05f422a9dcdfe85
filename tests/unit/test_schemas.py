"""Schemas that tenants bring: what is refused, where, and that none of them can stall the event loop."""

from __future__ import annotations

from typing import Any

import pytest

from clarion.errors import InvalidEvent, InvalidSchema
from clarion.schemas import DIALECT, MAX_SCHEMA_BYTES, Schema


def doubling(steps: int) -> dict[str, Any]:
    """A schema whose validation takes 2 ** steps steps."""
    twice = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(steps)}
    return {"$defs": {**twice, f"a{steps}": {"type": "object"}}, "$ref": "#/$defs/a0"}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "field", "rule"),
    [
        ({"type": "objekt"}, "schema.type", "schema"),
        ({"properties": {"a": {"minimum": "1"}}}, "schema.properties.a.minimum", "schema"),
        ({"properties": {"a": {"pattern": "("}}}, "schema.properties.a.pattern", "schema"),
        ({"patternProperties": {"(": {}}}, "schema.patternProperties.(", "schema"),
        ({"properties": {"a": {"pattern": "(?=a)"}}}, "schema.properties.a.pattern", "schema"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "schema.$schema", "dialect"),
        ({"$ref": "https://example.com/order.json"}, "schema.$ref", "reference"),
        ({"items": {"$ref": "file:///etc/passwd"}}, "schema.items.$ref", "reference"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "http://a/b"}}}, "schema.$defs.a.$ref", "reference"),
        ({"$ref": "#/$defs/a%20b", "$defs": {"a b": {"$ref": "http://a/b"}}}, "schema.$defs.a b.$ref", "reference"),
        ({"$ref": "#/$defs/none"}, "schema.$ref", "reference"),
        ({"$ref": "#name"}, "schema.$ref", "reference"),
        ({"$ref": 5}, "schema.$ref", "reference"),
        ({"$ref": "#"}, "schema.$ref", "recursion"),
        ({"properties": {"child": {"$ref": "#"}}}, "schema.properties.child.$ref", "recursion"),
        ({"$dynamicRef": "#a"}, "schema.$dynamicRef", "keyword"),
        ({"properties": {"a": {"$id": "https://example.com/a"}}}, "schema.properties.a.$id", "keyword"),
        (doubling(40), "schema", "expansion"),
        ({"description": "x" * MAX_SCHEMA_BYTES}, "schema", "size"),
        ({"default": float("nan")}, "schema", "json"),
        ({"default": {1}}, "schema", "json"),
        (nested(5_000), "schema", "json"),
    ],
)
def test_an_unusable_schema_is_refused_at_its_place(schema: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(InvalidSchema) as caught:
        Schema(schema)
    assert (caught.value.field, caught.value.rule) == (field, rule)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$schema": DIALECT, "$id": "https://example.com/order.json", "type": "object"},
        {"$defs": {"a/b": {"type": "object"}}, "$ref": "#/$defs/a~1b"},
        {"$defs": {"id": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/id"}, "b": {"$ref": "#/$defs/id"}}},
        {"properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}}},
        {"enum": [{"$ref": "http://example.com"}]},
        {"$ref": "#/allOf/0", "allOf": [{"type": "object"}]},
        doubling(8),
    ],
)
def test_a_usable_schema_compiles(schema: dict[str, Any]) -> None:
    Schema(schema)


def test_references_are_followed_when_validating() -> None:
    schema = Schema({"$defs": {"id": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/id"}}})
    schema.validate({"a": "x"})
    with pytest.raises(InvalidEvent) as caught:
        schema.validate({"a": 1})
    assert caught.value.field == "payload.a"


def test_a_value_that_is_not_jsons_is_refused() -> None:
    with pytest.raises(InvalidEvent):
        Schema({"properties": {"a": {"type": "string"}}}).validate({"a": {1, 2}})


def test_a_long_message_is_cut() -> None:
    with pytest.raises(InvalidEvent) as caught:
        Schema({"properties": {"a": {"enum": ["x" * 5000, "y"]}}}).validate({"a": "z"})
    assert len(caught.value.message) < 400
