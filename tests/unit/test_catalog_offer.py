"""The generated `inputSchema`: the filter grammar takes what it admits, and it admits what a topic's examples show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from clarion.catalog import BUILT_IN, Catalog, Declared, fields_of
from clarion.catalog_offer import PURPOSE, input_schema
from clarion.encoding import encode
from clarion.errors import ClarionError, InvalidEvent
from clarion.filters import OPERATORS, Operator, compile_filter
from clarion.model import TopicDeclaration
from clarion.schemas import Schema

SAMPLES: Mapping[str, list[Any]] = {
    "string": ["a", ""],
    "number": [1.5, 0, -7],
    "integer": [3],
    "boolean": [True, False],
}


def values(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Values of each kind that `schema` admits, as it says itself."""
    for alternative in schema.get("anyOf", ()):
        yield from values(alternative)
    kind = schema.get("type")
    if kind == "array":
        (*each,) = values(schema["items"])
        yield each
        yield each[:1]
    elif kind is not None:
        yield from SAMPLES[kind]


def each_argument(declaration: TopicDeclaration) -> Iterator[tuple[str, Any]]:
    for key, schema in input_schema(declaration)["properties"].items():
        if key != PURPOSE:
            for value in values(schema):
                yield key, value


def declared(pattern: str = "orders.placed", **properties: Any) -> TopicDeclaration:
    schema = {"type": "object", "properties": properties}
    return Catalog().check_declaration(pattern, None, "An order.", schema, ())


every_topic = pytest.mark.parametrize("declaration", BUILT_IN, ids=lambda declaration: declaration.pattern)


@every_topic
def test_each_argument_that_the_schema_names_is_a_filter(declaration: TopicDeclaration) -> None:
    known = Catalog().declared_keys([declaration.pattern])
    schema = Schema(input_schema(declaration), field="inputSchema")
    arguments = list(each_argument(declaration))
    assert len(arguments) >= len(fields_of(declaration))
    for key, value in arguments:
        schema.validate({key: value}, field="arguments")
        compiled = compile_filter({key: value}, known)
        assert len(compiled.clauses) == 1


@every_topic
def test_the_schema_is_json_schema_with_a_purpose_and_admits_the_topics_own_examples(
    declaration: TopicDeclaration,
) -> None:
    document = input_schema(declaration)
    assert document["type"] == "object"
    assert PURPOSE in document["properties"]
    assert len(encode(document)) < 64 * 1024
    schema = Schema(document, field="inputSchema")
    for example in declaration.filter_examples:
        schema.validate(dict(example), field="arguments")
    schema.validate({}, field="arguments")
    schema.validate({"a_field_that_is_not_declared": 1}, field="arguments")


LISTS = (Operator.IN, Operator.NOT_IN)
"""Operators that `inputSchema` leaves out: a list after the bare name says the same as the first."""


@pytest.mark.parametrize("suffix", [suffix for suffix, operator in OPERATORS.items() if operator not in LISTS])
def test_each_operator_means_what_its_suffix_says(suffix: str) -> None:
    declaration = declared(total={"type": "number"}, name={"type": "string"})
    known = Catalog().declared_keys(["orders.placed"], Declared([declaration]))
    properties = input_schema(declaration)["properties"]
    keys = [key for key in (f"total{suffix}", f"name{suffix}") if key in properties]
    assert keys
    for key in keys:
        for value in values(properties[key]):
            (clause,) = compile_filter({key: value}, known).clauses
            assert clause.operator is OPERATORS[suffix]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"total": "much"}, "arguments.total"),
        ({"total_gte": "much"}, "arguments.total_gte"),
        ({"total_exists": 1}, "arguments.total_exists"),
        ({"name": {"nested": 1}}, "arguments.name"),
        ({"name_prefix": 7}, "arguments.name_prefix"),
        ({PURPOSE: 7}, f"arguments.{PURPOSE}"),
    ],
    ids=str,
)
def test_arguments_of_another_type_are_refused_by_path(arguments: dict[str, Any], field: str) -> None:
    schema = Schema(input_schema(declared(total={"type": "number"}, name={"type": "string"})), field="inputSchema")
    with pytest.raises(InvalidEvent) as caught:
        schema.validate(arguments, field="arguments")
    assert caught.value.field == field


def test_a_field_without_one_scalar_type_can_be_asked_for_by_its_presence() -> None:
    declaration = declared(lines={"type": "array"}, either={"type": ["string", "null"]}, anything={})
    assert input_schema(declaration)["properties"].keys() == {
        "lines_exists",
        "either_exists",
        "anything_exists",
        PURPOSE,
    }


def test_a_family_can_be_narrowed_to_some_of_its_topics() -> None:
    properties = input_schema(declared("orders.*"))["properties"]
    assert {"topic", "topic_prefix"} <= properties.keys()
    assert "topic" not in input_schema(declared("orders.placed"))["properties"]


@pytest.mark.parametrize("order", [("load", "load_gt"), ("load_gt", "load")])
def test_a_field_whose_name_looks_like_a_comparison_can_be_asked_for_either_way(order: tuple[str, str]) -> None:
    kinds = {"load": {"type": "number"}, "load_gt": {"type": "string"}}
    declaration = declared(**{name: kinds[name] for name in order})
    schema = Schema(input_schema(declaration), field="inputSchema")
    known = Catalog().declared_keys(["orders.placed"], Declared([declaration]))
    for value, operator in (("heavy", Operator.EQUAL), (5, Operator.GREATER)):
        schema.validate({"load_gt": value}, field="arguments")
        (clause,) = compile_filter({"load_gt": value}, known).clauses
        assert clause.operator is operator


def test_a_schema_that_says_nothing_offers_the_purpose_alone() -> None:
    document = input_schema(Catalog().check_declaration("orders.placed", None, "An order.", None, ()))
    assert document["properties"].keys() == {PURPOSE}
    with pytest.raises(ClarionError):
        Schema(document, field="inputSchema").validate({PURPOSE: ["a"]}, field="arguments")
