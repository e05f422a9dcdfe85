"""Every operator and alias of the filter grammar with a match and a non-match, the lookup, and every refusal."""

from __future__ import annotations

from typing import Any

import pytest

from clarion.encoding import encode
from clarion.errors import InvalidFilter, describe
from clarion.filters import (
    ALIASES,
    EMPTY,
    ENVELOPE,
    MAX_CLAUSES,
    MAX_FILTER_BYTES,
    MAX_KEY_LENGTH,
    MAX_OPERANDS,
    OPERATORS,
    Operator,
    compile_filter,
)
from clarion.model import Event


def event(payload: dict[str, Any], **envelope: Any) -> Event:
    return Event("t", 1, "e1", "app", "deal.won", "crm", encode(payload), 0, 0, **envelope)


def fits(filter: dict[str, Any], payload: dict[str, Any], **envelope: Any) -> bool:
    return compile_filter(filter).matches(event(payload, **envelope))


OPERATOR_TABLE: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("", {"x": "a"}, {"x": "a"}, {"x": "b"}),
    ("[]", {"x": ["a", 2]}, {"x": 2}, {"x": "b"}),
    ("_gte", {"x_gte": 5}, {"x": 5}, {"x": 4.9}),
    ("_lte", {"x_lte": 5}, {"x": 5.0}, {"x": 6}),
    ("_gt", {"x_gt": 5}, {"x": 5.1}, {"x": 5}),
    ("_lt", {"x_lt": 5}, {"x": -1}, {"x": 5}),
    ("_not", {"x_not": "system"}, {"x": "rep"}, {"x": "system"}),
    ("_in", {"x_in": ["p1", "p2"]}, {"x": "p2"}, {"x": "p3"}),
    ("_nin", {"x_nin": ["p1", "p2"]}, {"x": "p3"}, {"x": "p1"}),
    ("_prefix", {"x_prefix": "dean@"}, {"x": "dean@a.example"}, {"x": "xdean@"}),
    ("_contains", {"x_contains": "Acme"}, {"x": "The Acme Co"}, {"x": "acme"}),
    ("_exists", {"x_exists": True}, {"x": None}, {"y": 1}),
]


@pytest.mark.parametrize(("suffix", "filter", "good", "bad"), OPERATOR_TABLE)
def test_each_operator_matches_and_does_not_match(
    suffix: str, filter: dict[str, Any], good: dict[str, Any], bad: dict[str, Any]
) -> None:
    assert fits(filter, good)
    assert not fits(filter, bad)


def test_every_operator_is_in_the_table_above_and_reads_as_itself() -> None:
    assert {suffix for suffix, *_ in OPERATOR_TABLE} - {"", "[]"} == set(OPERATORS)
    for suffix, filter, _, _ in OPERATOR_TABLE[2:]:
        assert compile_filter(filter).clauses[0].operator is OPERATORS[suffix]


@pytest.mark.parametrize(
    ("alias", "names"),
    [
        ("account_id", ["account_id"]),
        ("deal_id", ["deal_id"]),
        ("stage_to", ["new_stage"]),
        ("stage_from", ["old_stage"]),
        ("health_band_to", ["new_band"]),
        ("owner", ["owner", "owner_id"]),
        ("actor", ["actor", "actor_id"]),
        ("actor_id", ["actor_id"]),
        ("status", ["status"]),
    ],
)
def test_each_alias_finds_its_payload_fields(alias: str, names: list[str]) -> None:
    assert ALIASES[alias] == tuple(names)
    for name in names:
        assert fits({alias: "v"}, {name: "v"})
        assert not fits({alias: "v"}, {name: "other"})
    assert not fits({alias: "v"}, {"unrelated": "v"})


def test_all_aliases_are_tested() -> None:
    assert len(ALIASES) == 9


def test_an_alias_takes_operators_and_its_first_present_name() -> None:
    assert fits({"stage_to_in": ["Won"]}, {"new_stage": "Won"})
    assert not fits({"stage_to": "Won"}, {"stage_to": "Won"})
    assert not fits({"owner": "b"}, {"owner": "a", "owner_id": "b"})
    assert fits({"owner_not": "b"}, {"owner": "a", "owner_id": "b"})


@pytest.mark.parametrize(
    ("filter", "good", "bad"),
    [
        ({"opt_in": True}, {"opt_in": True}, {"opt": True}),
        ({"opt_in": "yes"}, {"opt_in": "yes"}, {"opt": "yes"}),
        ({"x_exists": "true"}, {"x_exists": "true"}, {"x": "true"}),
        ({"x_prefix": 5}, {"x_prefix": 5}, {"x": "5"}),
        ({"x_contains": ["a"]}, {"x_contains": "a"}, {"x": "a"}),
        ({"_in": ["a"]}, {"_in": "a"}, {"": "a"}),
        ({"_gte": "a"}, {"_gte": "a"}, {"": 5}),
        ({"_not": 1}, {"_not": 1}, {"_not": 2}),
    ],
)
def test_a_suffix_without_its_operand_or_base_is_part_of_the_field(
    filter: dict[str, Any], good: dict[str, Any], bad: dict[str, Any]
) -> None:
    assert fits(filter, good)
    assert not fits(filter, bad)


def test_all_clauses_must_hold() -> None:
    filter = {"account_id": "acme", "amount_gte": 100_000}
    assert fits(filter, {"account_id": "acme", "amount": 150_000})
    assert not fits(filter, {"account_id": "acme", "amount": 50_000})
    assert not fits(filter, {"account_id": "other", "amount": 150_000})


@pytest.mark.parametrize(
    ("operand", "equal", "unequal"),
    [
        (1, [1, 1.0], [True, "1", 2, None, [1]]),
        (True, [True], [1, 1.0, "true", False]),
        (False, [False], [0, None, ""]),
        (0, [0, 0.0, -0.0], [False, None]),
        (None, [None], [0, "", False]),
        ("1", ["1"], [1]),
        ({"a": [1, {"b": True}]}, [{"a": [1.0, {"b": True}]}], [{"a": [1, {"b": 1}]}, {"a": [1]}, {}, [], None]),
        (9007199254740993, [9007199254740993], [9007199254740992, 9007199254740992.0]),
    ],
)
def test_equality_is_jsons_and_tells_booleans_from_numbers(operand: Any, equal: list[Any], unequal: list[Any]) -> None:
    for value in equal:
        assert fits({"x": operand}, {"x": value})
        assert fits({"x": [operand]}, {"x": value})
        assert not fits({"x_not": operand}, {"x": value})
        assert not fits({"x_nin": [operand]}, {"x": value})
    for value in unequal:
        assert not fits({"x": operand}, {"x": value})
        assert not fits({"x": [operand]}, {"x": value})
        assert fits({"x_not": operand}, {"x": value})
        assert fits({"x_nin": [operand]}, {"x": value})


def test_not_takes_a_list_as_one_value() -> None:
    assert not fits({"tags_not": ["a", 1]}, {"tags": ["a", 1.0]})
    assert fits({"tags_not": ["a", 1]}, {"tags": ["a", True]})
    assert fits({"tags_not": ["a"]}, {"tags": "a"})


def test_a_list_of_lists_is_in_a_choice_of_lists() -> None:
    assert fits({"x": [["a"], "b"]}, {"x": ["a"]})
    assert not fits({"x": [["a"], "b"]}, {"x": "a"})


@pytest.mark.parametrize("clause", ["x_not", "x_nin"])
def test_a_missing_or_wrong_typed_value_fits_only_negations(clause: str) -> None:
    assert fits({clause: ["a"]}, {})
    assert fits({clause: ["a"]}, {"x": {"deep": 1}})


@pytest.mark.parametrize(
    "filter",
    [
        {"x": "a"},
        {"x": None},
        {"x": ["a"]},
        {"x_gte": 0},
        {"x_lt": 9},
        {"x_in": ["a"]},
        {"x_in": []},
        {"x_prefix": ""},
        {"x_contains": ""},
        {"x_exists": True},
    ],
)
def test_a_missing_value_fits_no_other_clause(filter: dict[str, Any]) -> None:
    assert not fits(filter, {"y": "a"})


@pytest.mark.parametrize(
    ("filter", "value"),
    [
        ({"x_gte": 0}, True),
        ({"x_gte": 0}, "5"),
        ({"x_lt": 9}, None),
        ({"x_gt": 0}, [5]),
        ({"x_prefix": "a"}, ["a"]),
        ({"x_contains": "a"}, ["a"]),
        ({"x_contains": "1"}, 1),
    ],
)
def test_a_wrong_typed_value_does_not_match(filter: dict[str, Any], value: Any) -> None:
    assert not fits(filter, {"x": value})


def test_exists_false_asks_for_absence_and_null_is_present() -> None:
    assert fits({"x_exists": False}, {})
    assert not fits({"x_exists": False}, {"x": None})
    assert fits({"x": None}, {"x": None})


def test_the_envelope_answers_when_the_payload_has_no_such_key() -> None:
    assert fits({"correlation_id_exists": True}, {}, correlation_id="c1")
    assert not fits({"correlation_id_exists": True}, {})
    assert fits({"actor_id": "u1"}, {}, actor_id="u1")
    assert fits({"actor": "u1"}, {}, actor_id="u1")
    assert not fits({"actor_id": "u1"}, {"actor_id": "u2"}, actor_id="u1")
    assert not fits({"actor_id": "u1"}, {"actor_id": None}, actor_id="u1")
    assert fits({"topic_prefix": "deal."}, {})


def test_every_envelope_name_is_a_field_of_the_event_and_no_other_is_reachable() -> None:
    full = dict.fromkeys(["aggregate_type", "aggregate_id", "actor_id", "correlation_id", "causation_id"], "v")
    full |= {"origin": "v", "key": "v"}
    assert len(ENVELOPE) == 12
    for name in ENVELOPE:
        assert fits({f"{name}_exists": True}, {}, **full)
    for name in ("tenant", "subjects", "audience", "seq", "payload", "attributes"):
        assert not fits({f"{name}_exists": True}, {}, **full)


def test_a_dotted_field_is_looked_up_literally_then_walked() -> None:
    filter = {"repository.full_name": "a/b"}
    assert fits(filter, {"repository": {"full_name": "a/b"}})
    assert fits(filter, {"repository.full_name": "a/b", "repository": {"full_name": "x"}})
    assert not fits(filter, {"repository.full_name": "x", "repository": {"full_name": "a/b"}})
    assert not fits(filter, {"repository": "a/b"})
    assert not fits(filter, {"repository": [{"full_name": "a/b"}]})
    assert fits({"a.b.c_gte": 1}, {"a": {"b": {"c": 2}}})


def test_a_comparison_without_a_number_is_refused_with_the_clause_and_what_to_give() -> None:
    for operand in ("100", True, None, [1], {"a": 1}):
        with pytest.raises(InvalidFilter, match="give a number") as caught:
            compile_filter({"amount_gte": operand})
        assert (caught.value.field, caught.value.rule) == ("filter.amount_gte", "comparison")


def test_a_declared_field_that_ends_like_a_comparison_is_equality() -> None:
    asked: list[str] = []

    def declared(key: str) -> bool:
        asked.append(key)
        return key == "load_gt"

    assert compile_filter({"load_gt": "high"}, declared).matches(event({"load_gt": "high"}))
    assert asked == ["load_gt"]
    with pytest.raises(InvalidFilter):  # also when the same filter was accepted for declared topics before
        compile_filter({"load_gt": "high"})
    assert compile_filter({"load_gt": 5}, declared).matches(event({"load": 6}))


@pytest.mark.parametrize(
    ("filter", "field", "rule"),
    [
        ({f"k{i}": 1 for i in range(MAX_CLAUSES + 1)}, "filter", "clauses"),
        ({"x": "a" * MAX_FILTER_BYTES}, "filter", "bytes"),
        ({"x_in": list(range(MAX_OPERANDS + 1))}, "filter.x_in", "operands"),
        ({"x_nin": list(range(MAX_OPERANDS + 1))}, "filter.x_nin", "operands"),
        ({"x": list(range(MAX_OPERANDS + 1))}, "filter.x", "operands"),
        ({"k" * (MAX_KEY_LENGTH + 1): 1}, "filter." + "k" * 32, "key_length"),
        ({"x_gte": float("nan")}, "filter.x_gte", "finite"),
        ({"x": [1, float("inf")]}, "filter.x", "finite"),
        ({"x": object()}, "filter.x", "json"),
        ({"x": 2**70}, "filter.x", "json"),
        ({"x": "\ud800"}, "filter.x", "json"),
        ({"\ud800": 1}, "filter.\\ud800", "json"),
        ({1: 2}, "filter", "key"),
        ([], "filter", "object"),
        ("a", "filter", "object"),
    ],
)
def test_what_breaks_a_limit_is_refused_by_its_rule(filter: Any, field: str, rule: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        compile_filter(filter)
    assert (caught.value.field, caught.value.rule) == (field, rule)
    assert len(caught.value.message) < 300
    encode(describe(caught.value))


def test_what_stands_at_a_limit_is_accepted() -> None:
    compile_filter({f"k{i}": 1 for i in range(MAX_CLAUSES)})
    compile_filter({"x_in": list(range(MAX_OPERANDS)), "k" * MAX_KEY_LENGTH: 1})
    compile_filter({"x": "a" * (MAX_FILTER_BYTES - len('{"x":""}'))})


def test_a_deep_operand_compares_without_exhausting_the_stack() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    assert not fits({"x_not": deep}, {"x": deep})
    assert fits({"x_not": deep}, {"x": [deep]})


def test_identity_is_the_canonical_json() -> None:
    one = compile_filter({"b": 1, "a": {"d": 1, "c": 2}})
    assert one.canonical == b'{"a":{"c":2,"d":1},"b":1}'
    assert one == compile_filter({"a": {"c": 2, "d": 1}, "b": 1})
    assert hash(one) == hash(compile_filter({"a": {"c": 2, "d": 1}, "b": 1}))
    assert one != compile_filter({"a": {"c": 2, "d": 1}, "b": 2})


def test_a_filter_does_not_follow_changes_of_what_it_was_made_from() -> None:
    given = {"x": ["a"]}
    compiled = compile_filter(given)
    given["x"].append("b")
    assert not compiled.matches(event({"x": "b"}))


def test_the_empty_filter_matches_everything() -> None:
    assert compile_filter({}) is EMPTY
    assert EMPTY.matches(event({}))
    assert (EMPTY.canonical, EMPTY.clauses) == (b"{}", ())


def test_clauses_tell_what_they_ask_and_what_an_index_can_look_up() -> None:
    clauses = {
        clause.key: clause for clause in compile_filter({"owner": "a", "x": [1, True], "y": [[1]], "z_gt": 1}).clauses
    }
    assert (clauses["owner"].operator, clauses["owner"].paths) == (Operator.EQUAL, ("owner", "owner_id"))
    assert clauses["owner"].scalars == {"a"}
    assert (clauses["x"].operator, clauses["x"].operand) == (Operator.IN, (1, True))
    assert clauses["x"].scalars == {1, (True,)}
    assert clauses["y"].scalars is None
    assert (clauses["z_gt"].operator, clauses["z_gt"].paths, clauses["z_gt"].scalars) == (
        Operator.GREATER,
        ("z",),
        None,
    )
