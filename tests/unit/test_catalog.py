"""The catalog: ten categories, the most specific declaration speaks, tenants' schemas are enforced."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest

from clarion.catalog import (
    BUILT_IN,
    CATEGORIES,
    MAX_DESCRIPTION,
    MAX_FILTER_EXAMPLES,
    Catalog,
    Declared,
)
from clarion.errors import InvalidEvent, InvalidFilter, InvalidInput, InvalidSchema, InvalidTopic
from clarion.filters import ENVELOPE, compile_filter
from clarion.model import TopicDeclaration
from clarion.topics import check_topic

ORDER_SCHEMA = {
    "type": "object",
    "properties": {
        "total": {"type": "number"},
        "load_gt": {"type": "string"},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"sku": {"type": "string"}}}},
    },
    "required": ["total"],
}


def ids(declaration: TopicDeclaration) -> str:
    return declaration.pattern


def declare(pattern: str, **wanted: Any) -> TopicDeclaration:
    return Catalog().check_declaration(
        pattern,
        wanted.get("category"),
        wanted.get("description", "An order."),
        wanted.get("schema"),
        wanted.get("filter_examples", ()),
    )


class TestBuiltIn:
    def test_every_category_lists_its_own_topics_and_only_those(self) -> None:
        catalog = Catalog()
        listed = []
        for category in CATEGORIES:
            found = catalog.listing(category)
            assert found
            assert {declaration.category for declaration in found} == {category}
            listed += found
        assert listed == catalog.listing()
        assert len(listed) == len(BUILT_IN)

    def test_there_are_ten_categories(self) -> None:
        expected = "crm marketing service ai workflow integration mcp consent platform custom"
        assert " ".join(CATEGORIES) == expected

    def test_an_unknown_category_is_an_error_that_lists_the_ten(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            Catalog().listing("sales")
        assert caught.value.field == "category"
        assert all(category in caught.value.message for category in CATEGORIES)

    def test_no_name_is_declared_twice(self) -> None:
        patterns = [declaration.pattern for declaration in BUILT_IN]
        assert len(patterns) == len(set(patterns))

    @pytest.mark.parametrize(
        "pattern",
        [
            *("deal.won", "deal.lost", "deal.created", "deal.stage_changed"),
            *("account.health_changed", "account.health_at_risk", "ticket.*"),
            *("workflow.run.started", "workflow.run.completed", "workflow.run.failed"),
            *("git.commit", "git.*", "file.added", "file.modified", "file.deleted", "file.*", "github.*", "custom.*"),
        ],
    )
    def test_the_promised_topics_are_there(self, pattern: str) -> None:
        assert pattern in {declaration.pattern for declaration in Catalog().listing()}

    @pytest.mark.parametrize("declaration", BUILT_IN, ids=ids)
    def test_names_descriptions_and_schemas_are_usable(self, declaration: TopicDeclaration) -> None:
        check_topic(declaration.pattern.replace("*", "x"))
        assert declaration.description.endswith(".")
        assert len(declaration.description) <= MAX_DESCRIPTION
        jsonschema_rs.Draft202012Validator(dict(declaration.schema), offline=True)
        assert "required" not in declaration.schema
        assert "additionalProperties" not in declaration.schema
        for described in declaration.schema["properties"].values():
            assert {"type", "description"} <= described.keys()

    @pytest.mark.parametrize("declaration", BUILT_IN, ids=ids)
    def test_filter_examples_are_valid_and_ask_for_declared_properties(self, declaration: TopicDeclaration) -> None:
        assert declaration.filter_examples
        for example in declaration.filter_examples:
            for clause in compile_filter(example).clauses:
                assert any(is_declared(declaration.schema, path) for path in clause.paths), clause.key


def is_declared(schema: Any, path: str) -> bool:
    assert path not in ENVELOPE or path in schema["properties"]
    for name in path.split("."):
        schema = schema.get("properties", {}).get(name)
        if schema is None:
            return False
    return True


class TestFind:
    def test_an_exact_name_is_before_its_family(self) -> None:
        catalog = Catalog()
        assert catalog.find("git.commit").pattern == "git.commit"  # type: ignore[union-attr]
        assert catalog.find("git.tag").pattern == "git.*"  # type: ignore[union-attr]

    def test_the_longest_family_speaks(self) -> None:
        found = Catalog().find("github.pull_request.opened")
        assert found is not None
        assert found.pattern == "github.pull_request.*"

    def test_a_longer_family_of_the_tenant_is_before_a_built_in_one(self) -> None:
        declared = Declared([declare("custom.order.*", category="crm")])
        assert Catalog().category_of("custom.order.paid", declared) == "crm"
        assert Catalog().category_of("custom.other", declared) == "custom"

    def test_a_built_in_name_is_before_a_family_of_the_tenant(self) -> None:
        declared = Declared([declare("deal.*", category="platform")])
        assert Catalog().category_of("deal.won", declared) == "crm"
        assert Catalog().category_of("deal.split", declared) == "platform"

    def test_a_family_is_not_its_own_prefix(self) -> None:
        assert Catalog().find("custom") is None
        assert Catalog().find("github") is None

    @pytest.mark.parametrize("topic", ["orders.paid", "dealing.won", "x"])
    def test_what_nothing_declares_is_custom(self, topic: str) -> None:
        assert Catalog().find(topic) is None
        assert Catalog().category_of(topic) == "custom"

    def test_a_tenants_declarations_are_listed_with_the_built_in_ones(self) -> None:
        declared = Declared([declare("orders.*", category="crm")])
        assert "orders.*" in {found.pattern for found in Catalog().listing("crm", declared)}
        assert "orders.*" in {found.pattern for found in Catalog().listing(None, declared)}
        assert "orders.*" not in {found.pattern for found in Catalog().listing("ai", declared)}


class TestDeclaredKeys:
    @pytest.mark.parametrize(
        ("pattern", "known"),
        [
            *(("orders.paid", True), ("orders.*", True), ("orders.a.*", True), ("ord*", True), ("*", True)),
            *(("*.paid", True), ("[op]rders.*", True)),
            *(("orders", False), ("ordersx.*", False), ("tickets.*", False), ("deal.won", False)),
        ],
    )
    def test_a_familys_keys_count_when_a_topic_of_it_could_match(self, pattern: str, known: bool) -> None:
        declared = Declared([declare("orders.*", schema=ORDER_SCHEMA)])
        keys = Catalog().declared_keys([pattern], declared)
        assert keys("load_gt") is known
        assert not keys("no_such_key")

    @pytest.mark.parametrize(("pattern", "known"), [("deal.*", True), ("*.won", True), ("deal.lost", False)])
    def test_an_exact_topics_keys_count_when_it_matches(self, pattern: str, known: bool) -> None:
        catalog = Catalog([TopicDeclaration("deal.won", "crm", "Won.", {"properties": {"size_gt": {}}})])
        assert catalog.declared_keys([pattern])("size_gt") is known

    def test_one_pattern_of_several_is_enough(self) -> None:
        declared = Declared([declare("orders.*", schema=ORDER_SCHEMA)])
        assert Catalog().declared_keys(["deal.won", "orders.paid"], declared)("load_gt")

    def test_a_literal_pattern_has_only_the_keys_of_what_speaks_for_it(self) -> None:
        declared = Declared([declare("deal.*", schema=ORDER_SCHEMA)])
        keys = Catalog().declared_keys(["deal.won"], declared)
        assert keys("amount")
        assert not keys("load_gt")

    def test_a_declared_key_makes_a_comparison_suffix_plain_equality(self) -> None:
        declared = Declared([declare("orders.*", schema=ORDER_SCHEMA)])
        keys = Catalog().declared_keys(["orders.paid"], declared)
        compile_filter({"load_gt": "high"}, declared=keys)
        with pytest.raises(InvalidFilter):
            compile_filter({"load_gt": "high"}, declared=Catalog().declared_keys(["deal.won"], declared))


class TestValidatePayload:
    declared = Declared([declare("orders.*", schema=ORDER_SCHEMA), declare("orders.raw")])

    def test_a_payload_that_fits_passes(self) -> None:
        Catalog().validate_payload("orders.paid", {"total": 5, "more": True}, self.declared)

    @pytest.mark.parametrize(
        ("payload", "field"),
        [
            ({"total": "five-secret"}, "payload.total"),
            ({}, "payload"),
            ({"total": 1, "lines": [{"sku": "a"}, {"sku": 7}]}, "payload.lines.1.sku"),
        ],
    )
    def test_a_payload_that_breaks_the_schema_is_refused_at_its_place(
        self, payload: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidEvent) as caught:
            Catalog().validate_payload("orders.paid", payload, self.declared)
        assert (caught.value.field, caught.value.rule) == (field, "schema")
        assert field in caught.value.message

    def test_the_refusal_does_not_repeat_the_value(self) -> None:
        with pytest.raises(InvalidEvent) as caught:
            Catalog().validate_payload("orders.paid", {"total": "secret" * 1000}, self.declared)
        assert "secret" not in caught.value.message
        assert len(caught.value.message) < 400

    def test_a_more_specific_declaration_without_a_schema_frees_its_topic(self) -> None:
        Catalog().validate_payload("orders.raw", {"total": "five"}, self.declared)

    def test_a_built_in_schema_enforces_nothing(self) -> None:
        Catalog().validate_payload("deal.won", {"amount": "much"}, self.declared)

    def test_a_tenants_family_does_not_reach_a_built_in_topic(self) -> None:
        declared = Declared([declare("deal.*", schema=ORDER_SCHEMA)])
        Catalog().validate_payload("deal.won", {}, declared)
        with pytest.raises(InvalidEvent):
            Catalog().validate_payload("deal.split", {}, declared)

    def test_another_tenants_declarations_do_not_count(self) -> None:
        Catalog().validate_payload("orders.paid", {}, Declared())


class TestCheckDeclaration:
    def test_what_holds_becomes_a_declaration(self) -> None:
        found = Catalog().check_declaration("orders.*", "crm", " An order. ", ORDER_SCHEMA, [{"total_gte": 100}])
        assert found == TopicDeclaration("orders.*", "crm", "An order.", ORDER_SCHEMA, ({"total_gte": 100},))

    def test_the_category_is_custom_unless_given(self) -> None:
        assert declare("orders.paid").category == "custom"

    @pytest.mark.parametrize("pattern", ["deal.won", "git.*", "custom.*"])
    def test_a_built_in_name_is_refused(self, pattern: str) -> None:
        with pytest.raises(InvalidTopic, match="built-in") as caught:
            declare(pattern)
        assert caught.value.field == "topic"

    @pytest.mark.parametrize(
        "pattern",
        ["", "*", ".*", "a..b", "orders*", "orders.*.paid", "a b", "ä", "a" * 65, ".".join("a" * 16) + ".*", "a.*\n"],
    )
    def test_what_is_neither_topic_nor_family_is_refused(self, pattern: str) -> None:
        with pytest.raises(InvalidTopic) as caught:
            declare(pattern)
        assert caught.value.field == "topic"

    def test_an_unknown_category_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="crm, marketing") as caught:
            declare("orders.paid", category="sales")
        assert caught.value.field == "category"

    @pytest.mark.parametrize("description", ["", "  ", "x" * (MAX_DESCRIPTION + 1)])
    def test_a_description_is_needed_and_bounded(self, description: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            declare("orders.paid", description=description)
        assert caught.value.field == "description"

    def test_a_longest_description_passes(self) -> None:
        assert len(declare("orders.paid", description="x" * MAX_DESCRIPTION).description) == MAX_DESCRIPTION

    def test_an_invalid_schema_is_refused(self) -> None:
        with pytest.raises(InvalidSchema) as caught:
            declare("orders.paid", schema={"properties": {"total": {"type": "numbr"}}})
        assert caught.value.field == "schema.properties.total.type"

    def test_an_invalid_filter_example_is_named(self) -> None:
        with pytest.raises(InvalidFilter) as caught:
            declare("orders.paid", filter_examples=[{"total": 5}, {"total_gte": "much"}])
        assert caught.value.field == "filter_examples.1.total_gte"

    def test_an_example_may_use_a_key_that_its_own_schema_declares_whole(self) -> None:
        declare("orders.paid", schema=ORDER_SCHEMA, filter_examples=[{"load_gt": "high"}])

    def test_examples_are_bounded(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            declare("orders.paid", filter_examples=[{"total": 1}] * (MAX_FILTER_EXAMPLES + 1))
        assert caught.value.field == "filter_examples"
