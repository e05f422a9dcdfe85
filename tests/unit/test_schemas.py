"""Schemas that tenants bring: what is refused, where, and that none of them can stall the event loop."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from clarion.errors import InvalidEvent, InvalidSchema
from clarion.schemas import DIALECT, MAX_PATTERNS, MAX_SCHEMA_BYTES, Schema


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


def alternatives() -> dict[str, Any]:
    """Under 4 KB: 9,500 alternatives for each item."""
    return {
        "$defs": {
            "a": {"anyOf": [{"const": number} for number in range(95)]},
            "b": {"anyOf": [{"$ref": "#/$defs/a"}] * 100},
        },
        "properties": {"a": {"items": {"anyOf": [{"$ref": "#/$defs/b"}, {}]}}},
    }


THRASHING = "[01]*1[01]{%d}2"
BITS = "".join(random.Random(1).choices("01", k=200_000))


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        (alternatives(), {"a": [-1] * 60_000}),
        ({"properties": {"a": {"anyOf": [{"pattern": THRASHING % n} for n in range(200, 210)]}}}, {"a": BITS}),
        ({"properties": {"a": {"pattern": THRASHING % 200}}}, {"a": BITS}),
        ({"patternProperties": {THRASHING % 200: {}}}, {BITS[i : i + 50]: 1 for i in range(0, 200_000, 50)}),
        ({"propertyNames": {"pattern": THRASHING % 200}}, {BITS[i : i + 50]: 1 for i in range(0, 200_000, 50)}),
        ({"additionalProperties": {"enum": [n + 0.5 for n in range(2_000)]}}, {str(n): 0.1 for n in range(2_000)}),
        ({"properties": {"a": {"allOf": [{"uniqueItems": True}] * 100}}}, {"a": list(range(40_000))}),
        ({"properties": {"a": {"items": {"allOf": [{"uniqueItems": True}] * 100}}}}, {"a": [list(range(15))] * 500}),
        ({"properties": {"a": {"contains": alternatives()["$defs"]["a"]}}}, {"a": [-1] * 100_000}),
        ({"properties": {"a": {"items": {"multipleOf": 0.01}}}}, {"a": [1e300] * 40_000}),
        ({"properties": {"a": {"items": {"minimum": 0.5}}}}, {"a": [5e-324] * 30_000}),
        ({"properties": {"a": {"prefixItems": [{"pattern": THRASHING % 200}]}}}, {"a": [BITS]}),
        ({"properties": {"a": {"dependentSchemas": {"b": {"properties": {"c": {"pattern": THRASHING % 200}}}}}}},
         {"a": {"b": 1, "c": BITS}}),
    ],
)  # fmt: skip
def test_schema_and_payload_that_are_too_much_work_together_are_refused_at_once(
    schema: dict[str, Any], payload: dict[str, Any]
) -> None:
    compiled = Schema(schema)
    started = time.perf_counter()
    with pytest.raises(InvalidEvent) as caught:
        compiled.validate(payload)
    assert (caught.value.field, caught.value.rule) == ("payload", "cost")
    assert time.perf_counter() - started < 1  # run, they would take from a second to minutes


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        ({"properties": {"a": {"items": {"type": "integer", "minimum": 0}}}}, {"a": [5] * 100_000}),
        ({"properties": {"a": {"items": {"properties": {f"f{n}": {"type": "integer"} for n in range(20)}}}}},
         {"a": [{f"f{n}": n for n in range(20)}] * 1_000}),
        ({"properties": {"a": {"type": "string"}, "b": {"pattern": "^[A-Za-z0-9_-]{1,64}$"}}},
         {"a": "x" * 240_000, "b": "id-1"}),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": list(range(40_000))}),
        ({"properties": {"a": {"items": {"pattern": "^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$"}}}},
         {"a": ["01234567-89ab-cdef-0123-456789abcdef"] * 1_000}),
        ({"properties": {"a": {"pattern": "^.{1,100}$"}}}, {"a": "x" * 100}),
        (alternatives(), {"a": [-1] * 2}),
    ],
)  # fmt: skip
def test_what_ordinary_schemas_ask_of_large_payloads_is_not_too_much(
    schema: dict[str, Any], payload: dict[str, Any]
) -> None:
    Schema(schema).validate(payload)


def test_a_large_payload_that_fits_no_alternative_is_refused_without_collecting_all_errors() -> None:
    schema = Schema({"properties": {"a": {"anyOf": [{"items": {"type": kind}} for kind in ("string", "null") * 10]}}})
    started = time.perf_counter()
    with pytest.raises(InvalidEvent) as caught:
        schema.validate({"a": [1] * 50_000})
    assert (caught.value.field, caught.value.rule) == ("payload", "schema")
    assert time.perf_counter() - started < 1  # the errors take 5 s
    with pytest.raises(InvalidEvent) as caught:
        schema.validate({"a": [1] * 5})
    assert caught.value.field == "payload.a"


def test_nested_unevaluated_keywords_which_double_the_work_at_each_step_are_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(14):
        schema = {"anyOf": [schema, {"type": "string"}], "unevaluatedProperties": {"type": "integer"}}
    with pytest.raises(InvalidSchema) as caught:
        Schema(schema)
    assert caught.value.rule == "expansion"


def test_more_patterns_or_larger_ones_than_allowed_are_refused() -> None:
    def patterns(count: int) -> dict[str, Any]:
        return {"properties": {f"f{n}": {"pattern": f"^{n}$"} for n in range(count)}}

    Schema(patterns(MAX_PATTERNS))
    with pytest.raises(InvalidSchema) as caught:
        Schema(patterns(MAX_PATTERNS + 1))
    assert caught.value.rule == "patterns"
    with pytest.raises(InvalidSchema) as caught:
        Schema({"properties": {"a": {"pattern": "[01]{20000}"}}})
    assert (caught.value.field, caught.value.rule) == ("schema.properties.a.pattern", "schema")
