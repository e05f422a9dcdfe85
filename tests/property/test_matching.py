"""The matcher, the filters and the index against naive oracles that share no code with them."""

from __future__ import annotations

import fnmatch
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clarion.encoding import encode
from clarion.errors import InvalidFilter, InvalidPattern
from clarion.filters import compile_filter
from clarion.hub.index import TopicIndex
from clarion.model import Event
from clarion.topics import Pattern, check_topic, glob, mqtt

segments = st.text("ab-", min_size=1, max_size=2)
topics = st.lists(segments, min_size=1, max_size=4).map(".".join)
globs = st.lists(st.sampled_from(["a", "b", "-", ".", "*", "?", "[ab]", "[!a]", "[!b.]", "[a-"]), max_size=7).map(
    "".join
)
slashes = st.lists(st.one_of(segments, st.sampled_from(["+", "#", ""])), max_size=5).map("/".join)


def naive_mqtt(pattern: list[str], topic: list[str]) -> bool:
    if not pattern:
        return not topic
    if pattern[0] == "#":
        return True
    return bool(topic) and pattern[0] in ("+", topic[0]) and naive_mqtt(pattern[1:], topic[1:])


def valid_mqtt(pattern: str) -> bool:
    parts = pattern.split("/")
    return all(parts) and "#" not in parts[:-1]


def compiled(language: Any, text: str) -> Pattern | None:
    try:
        pattern: Pattern = language(text)
    except InvalidPattern:
        return None
    return pattern


@settings(max_examples=300)
@given(globs, topics)
def test_globs_match_as_fnmatch_does_and_only_hopeless_ones_are_refused(text: str, topic: str) -> None:
    check_topic(topic)
    pattern = compiled(glob, text)
    expected = fnmatch.fnmatchcase(topic, text)
    assert (pattern is not None and pattern.matches(topic)) == expected
    if expected and pattern is not None:
        assert topic.startswith(pattern.prefix)
        assert topic.endswith(pattern.suffix)


@settings(max_examples=300)
@given(slashes, topics)
def test_slash_patterns_match_as_the_recursive_reading_does(text: str, topic: str) -> None:
    pattern = compiled(mqtt, text)
    assert (pattern is not None) == valid_mqtt(text)
    if pattern is not None:
        expected = naive_mqtt(text.split("/"), topic.split("."))
        assert pattern.matches(topic) == expected
        if expected:
            assert topic.startswith(pattern.prefix)
            assert topic.endswith(pattern.suffix)


@given(topics)
def test_a_topic_is_the_pattern_of_itself_in_both_languages(topic: str) -> None:
    assert glob(topic).matches(topic)
    assert mqtt(topic.replace(".", "/")).matches(topic)


NAMES = ["x", "y", "a.b", "owner", "owner_id", "actor", "actor_id", "new_stage", "stage_to", "correlation_id", "opt_in"]
SUFFIXES = ["", "_gte", "_lte", "_gt", "_lt", "_not", "_in", "_nin", "_prefix", "_contains", "_exists"]
NAMED = {"stage_to": ["new_stage"], "owner": ["owner", "owner_id"], "actor": ["actor", "actor_id"]}

scalars = st.sampled_from([None, True, False, 0, 1, 1.0, -0.0, 2, 1.5, "", "a", "ab", "1"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("b"), inner), max_leaves=3
)
payloads = st.dictionaries(st.sampled_from([*NAMES, "a"]), values, max_size=5)
envelopes = st.fixed_dictionaries(
    {"actor_id": st.sampled_from([None, "a", "1"]), "correlation_id": st.sampled_from([None, "ab"])}
)
filters = st.dictionaries(
    st.builds(str.__add__, st.sampled_from(NAMES), st.sampled_from(SUFFIXES)),
    st.one_of(values, st.lists(scalars)),
    max_size=3,
)


def typed(value: Any) -> str:
    """A spelling that equal JSON values share and no others do."""
    if isinstance(value, list):
        return "[" + ",".join(map(typed, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{typed(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(float(value) + 0.0)
    return json.dumps(value)


def number(value: Any) -> bool:
    return type(value) in (int, float)


def naive_lookup(name: str, payload: dict[str, Any], envelope: dict[str, Any]) -> tuple[bool, Any]:
    names = NAMED.get(name, [name])
    for each in names:
        if each in payload:
            return True, payload[each]
        if each == "a.b" and isinstance(payload.get("a"), dict) and "b" in payload["a"]:
            return True, payload["a"]["b"]
    for each in names:
        if envelope.get(each) is not None:
            return True, envelope[each]
    return False, None


def naive_clause(key: str, operand: Any, payload: dict[str, Any], envelope: dict[str, Any]) -> bool:
    stem, _, last = key.rpartition("_")
    found, value = naive_lookup(stem, payload, envelope)
    if stem:
        if last == "not":
            return not found or typed(value) != typed(operand)
        if last == "in" and isinstance(operand, list):
            return found and typed(value) in map(typed, operand)
        if last == "nin" and isinstance(operand, list):
            return not found or typed(value) not in map(typed, operand)
        if last == "exists" and isinstance(operand, bool):
            return found == operand
        if last == "prefix" and isinstance(operand, str):
            return isinstance(value, str) and value[: len(operand)] == operand
        if last == "contains" and isinstance(operand, str):
            return isinstance(value, str) and value.find(operand) >= 0
        if last in ("gte", "lte", "gt", "lt"):
            if not number(operand):
                raise ValueError(key)
            if not number(value):
                return False
            return (
                (value > operand and last[0] == "g")
                or (value < operand and last[0] == "l")
                or (value == operand and last[-1] == "e")
            )
    found, value = naive_lookup(key, payload, envelope)
    if isinstance(operand, list):
        return found and typed(value) in map(typed, operand)
    return found and typed(value) == typed(operand)


def naive_filter(filter: dict[str, Any], payload: dict[str, Any], envelope: dict[str, Any]) -> bool | None:
    """None for a filter that is refused."""
    try:
        answers = [naive_clause(key, operand, payload, envelope) for key, operand in filter.items()]
    except ValueError:  # of any clause, also behind one that does not hold
        return None
    return all(answers)


def event(topic: str, payload: dict[str, Any], envelope: dict[str, Any]) -> Event:
    return Event("t", 1, "e", "app", topic, "crm", encode(payload), 0, 0, **envelope)


@settings(max_examples=400)
@given(filters, payloads, envelopes)
def test_filters_decide_as_the_naive_interpreter_does(
    filter: dict[str, Any], payload: dict[str, Any], envelope: dict[str, Any]
) -> None:
    try:
        got: bool | None = compile_filter(filter).matches(event("a", payload, envelope))
    except InvalidFilter:
        got = None
    assert got == naive_filter(filter, payload, envelope)


patterns = st.one_of(
    globs.map(lambda text: compiled(glob, text)), slashes.map(lambda text: compiled(mqtt, text)), topics.map(glob)
).filter(lambda pattern: pattern is not None)
equalities = st.dictionaries(st.sampled_from(NAMES[:-1]), st.one_of(scalars, st.lists(scalars, max_size=3)), max_size=2)
wanted_filters = st.one_of(equalities, filters).filter(lambda filter: naive_filter(filter, {}, {}) is not None)


class IndexAgainstBruteForce(RuleBasedStateMachine):
    """Random subscribing, unsubscribing and matching: the index answers what asking everyone would."""

    def __init__(self) -> None:
        super().__init__()
        self.index: TopicIndex[int] = TopicIndex()
        self.wishes: dict[int, tuple[list[Pattern], dict[str, Any]]] = {}

    @rule(added=st.lists(st.tuples(st.integers(0, 30), st.lists(patterns, max_size=3), wanted_filters), max_size=12))
    def subscribe(self, added: list[tuple[int, list[Pattern], dict[str, Any]]]) -> None:
        for target, wanted, filter in added:
            self.index.add(target, wanted, compile_filter(filter))
            self.wishes[target] = (wanted, filter)

    @rule(removed=st.lists(st.integers(0, 30), max_size=8))
    def unsubscribe(self, removed: list[int]) -> None:
        for target in removed:
            self.index.remove(target)
            self.wishes.pop(target, None)

    @rule(topic=topics, payload=payloads, envelope=envelopes)
    def match(self, topic: str, payload: dict[str, Any], envelope: dict[str, Any]) -> None:
        expected = [
            target
            for target, (wanted, filter) in self.wishes.items()
            if any(pattern.matches(topic) for pattern in wanted) and naive_filter(filter, payload, envelope)
        ]
        assert sorted(self.index.match(event(topic, payload, envelope))) == sorted(expected)

    @invariant()
    def holds_each_target_once(self) -> None:
        assert len(self.index) == len(self.wishes)


IndexAgainstBruteForce.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestIndexAgainstBruteForce = IndexAgainstBruteForce.TestCase
