"""The topic index: who matches, exactly once, at what cost, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from clarion.encoding import encode
from clarion.filters import EMPTY, Filter, compile_filter
from clarion.hub.index import MAX_CACHED_TOPICS, TopicIndex
from clarion.model import Event
from clarion.topics import Pattern, glob, mqtt


def event(topic: str = "deal.won", payload: dict[str, Any] | None = None, **envelope: Any) -> Event:
    return Event("t", 1, "e1", "app", topic, "crm", encode(payload or {}), 0, 0, **envelope)


def index_of(wishes: dict[str, tuple[list[Pattern], dict[str, Any]]]) -> TopicIndex[str]:
    index: TopicIndex[str] = TopicIndex()
    for target, (patterns, filter) in wishes.items():
        index.add(target, patterns, compile_filter(filter))
    return index


def containers(value: Any) -> Iterator[Any]:
    """Every collection below an index's own attributes."""
    if isinstance(value, dict | list | set | tuple):
        yield value
        return
    names = vars(value) if hasattr(value, "__dict__") else value.__slots__
    for name in names:
        yield from containers(getattr(value, name))


def left_over(index: TopicIndex[Any]) -> int:
    """How many entries the index holds, those of its topic cache too."""
    return sum(map(len, containers(index)))


class CountingFilter:
    """A filter that counts how often it is asked, to tell a lookup from a scan."""

    def __init__(self, real: Filter) -> None:
        self.canonical, self.clauses, self.asked, self._real = real.canonical, real.clauses, 0, real

    def matches(self, event: Event) -> bool:
        self.asked += 1
        return self._real.matches(event)


def counting(filter: dict[str, Any]) -> Any:
    return CountingFilter(compile_filter(filter))


def test_patterns_of_every_shape_find_their_targets() -> None:
    index = index_of(
        {
            "literal": ([glob("deal.won")], {}),
            "prefix": ([glob("deal.*")], {}),
            "suffix": ([glob("*.won")], {}),
            "both": ([glob("de*on")], {}),
            "inside": ([glob("*al.w*")], {}),
            "all": ([glob("*")], {}),
            "slashes": ([mqtt("deal/+")], {}),
            "slash literal": ([mqtt("deal/won")], {}),
            "subtree": ([mqtt("deal/won/#")], {}),
            "other": ([glob("deal.lost"), glob("deals.*"), mqtt("deal")], {}),
            "none": ([], {}),
        }
    )
    assert set(index.match(event())) == {
        *("literal", "prefix", "suffix", "both", "inside", "all", "slashes", "slash literal", "subtree")
    }
    assert len(index) == 11


def test_a_topic_shorter_than_some_literal_ends_is_found_once_and_only_by_its_own() -> None:
    index = index_of(
        {
            "overlapping": ([glob("ab*b")], {}),
            "prefix": ([glob("ab*")], {}),
            "suffix": ([glob("*ab")], {}),
            "longer prefix": ([glob("abc*")], {}),
            "longer suffix": ([glob("*zab")], {}),
        }
    )
    assert sorted(index.match(event("ab"))) == ["prefix", "suffix"]
    assert sorted(index.match(event("abb"))) == ["overlapping", "prefix"]


def test_a_target_comes_once_however_many_of_its_patterns_match() -> None:
    patterns = [glob("deal.*"), glob("*.won"), glob("deal.won"), glob("deal.won"), mqtt("deal/won")]
    index = index_of({"a": (patterns, {"x": 1}), "b": (patterns, {}), "c": (patterns[::-1], {})})
    assert sorted(index.match(event(payload={"x": 1}))) == ["a", "b", "c"]


def test_the_filter_is_asked_once_for_all_who_share_it_and_the_patterns() -> None:
    index: TopicIndex[int] = TopicIndex()
    filter = counting({"x_gte": 1})
    for target in range(1000):
        index.add(target, [glob("deal.*"), glob("*")], filter)
    assert sorted(index.match(event(payload={"x": 1}))) == list(range(1000))
    assert filter.asked == 1


@pytest.mark.parametrize(
    "clause", ["account", "nested.account", "owner", "correlation_id", "account_in"], ids=lambda clause: clause
)
def test_only_equality_clauses_that_hold_are_asked(clause: str) -> None:
    index: TopicIndex[int] = TopicIndex()
    filters = [counting({"kind": "x", clause: [f"a{i}"] if clause.endswith("_in") else f"a{i}"}) for i in range(500)]
    for target, filter in enumerate(filters):
        index.add(target, [glob("deal.*")], filter)
    payload = {"kind": "x", "account": "a7", "nested": {"account": "a7"}, "owner_id": "a7"}
    assert index.match(event(payload=payload, correlation_id="a7")) == [7]
    assert sum(filter.asked for filter in filters) <= 2  # the first may have been shelved by `kind`


def test_many_odd_fields_do_not_cost_an_event_without_them() -> None:
    index: TopicIndex[int] = TopicIndex()
    filters = [counting({f"a.odd_{i}" if i % 2 else f"odd_{i}": 1}) for i in range(500)]
    for target, filter in enumerate(filters):
        index.add(target, [glob("deal.*")], filter)
    reached = index._reach.of({"a": {"odd_7": 1, "x": 2}, "odd_8": 1, "b": 1})
    assert set(reached) == {("a.odd_7",), ("odd_8",)}
    assert sorted(index.match(event(payload={"a": {"odd_7": 1}, "odd_8": 1}))) == [7, 8]
    assert sum(filter.asked for filter in filters) == 2


@pytest.mark.parametrize("crowd", [0, 20], ids=["few paths", "many paths"])
def test_typed_values_aliases_dots_and_the_envelope_are_told_apart(crowd: int) -> None:
    wishes: dict[str, tuple[list[Pattern], dict[str, Any]]] = {
        f"odd {i}": ([glob("*")], {f"odd_{i}": 1}) for i in range(crowd)
    }
    wishes |= {
        name: ([glob("*")], filter)
        for name, filter in {
            "one": {"n": 1},
            "true": {"n": True},
            "one or true": {"n": [1.0, True]},
            "zero": {"n": 0},
            "text": {"n": "1"},
            "null": {"n": None},
            "nothing": {"n": []},
            "owner": {"owner": "o"},
            "owner_id": {"owner_id": "o"},
            "actor": {"actor": "u"},
            "dotted": {"a.b": 1},
        }.items()
    }
    index = index_of(wishes)

    def matched(payload: dict[str, Any], **envelope: Any) -> set[str]:
        found = index.match(event(payload=payload, **envelope))
        assert len(found) == len(set(found))
        return set(found)

    assert matched({"n": 1}) == matched({"n": 1.0}) == {"one", "one or true"}
    assert matched({"n": True}) == {"true", "one or true"}
    assert matched({"n": -0.0}) == {"zero"}
    assert matched({"n": False}) == set()
    assert matched({"n": "1"}) == {"text"}
    assert matched({"n": None}) == {"null"}
    assert matched({"n": [1]}) == matched({"n": {"1": 1}}) == matched({}) == set()
    assert matched({"owner": "o", "owner_id": "o"}) == {"owner", "owner_id"}
    assert matched({"owner": "x", "owner_id": "o"}) == {"owner_id"}
    assert matched({"owner_id": "o"}) == {"owner", "owner_id"}
    assert matched({}, actor_id="u") == {"actor"}
    assert matched({"actor_id": "x"}, actor_id="u") == set()
    assert matched({"a": {"b": 1}}) == matched({"a.b": 1}) == {"dotted"}
    assert matched({"a.b": 2, "a": {"b": 1}}) == matched({"a": 1}) == set()


def test_subscribing_and_unsubscribing_take_effect_on_topics_seen_before() -> None:
    index: TopicIndex[str] = TopicIndex()
    for pattern in (glob("deal.won"), glob("deal.*"), glob("*")):
        assert index.match(event()) == []
        index.add("a", [pattern], EMPTY)
        assert index.match(event()) == ["a"]
        index.remove("a")
    assert index.match(event()) == []


def test_adding_a_target_again_replaces_what_it_matched() -> None:
    index = index_of({"a": ([glob("deal.*")], {})})
    index.add("a", [glob("file.*")], EMPTY)
    assert index.match(event()) == []
    assert index.match(event("file.x")) == ["a"]
    assert len(index) == 1


def test_removing_an_unknown_target_changes_nothing() -> None:
    index = index_of({"a": ([glob("*")], {})})
    index.remove("b")
    assert index.match(event()) == ["a"]


def test_removing_one_of_several_equal_subscriptions_keeps_the_others() -> None:
    index = index_of({"a": ([glob("*")], {"x": 1}), "b": ([glob("*")], {"x": 1})})
    index.remove("a")
    assert index.match(event(payload={"x": 1})) == ["b"]


def test_nothing_is_left_when_all_are_removed() -> None:
    index: TopicIndex[int] = TopicIndex()
    empty = left_over(index)
    assert empty == 0
    patterns = [glob("deal.*"), glob("*.won"), glob("deal.won"), mqtt("deal/won"), glob("*al*"), mqtt("deal/+")]
    filters: list[dict[str, Any]] = [
        {},
        {"x": [1, 2], "y": 3},
        {"x": []},
        {"a.b": 1},
        {"a.b.c": 1},
        {"a": 1},
        {"owner": "o"},
        {"actor": "o"},
        {"x_gt": 1},
    ]
    for target in range(200):
        chosen = [patterns[target % 6], patterns[target * 7 % 6]]
        index.add(target, chosen, compile_filter(filters[target % 9] | {"z": target % 3}))
        index.match(event(f"deal.t{target}"))
    assert left_over(index) > 200
    for target in range(200):
        index.remove(target)
    assert len(index) == 0
    assert left_over(index) == 0


def test_the_topic_cache_is_bounded_and_keeps_what_was_used_last() -> None:
    index = index_of({"a": ([glob("deal.*")], {})})
    for number in range(MAX_CACHED_TOPICS):
        index.match(event(f"deal.t{number}"))
    index.match(event("deal.t0"))
    index.match(event("deal.new"))
    cache = index._patterns._cache
    assert len(cache) == MAX_CACHED_TOPICS
    assert "deal.t0" in cache
    assert "deal.t1" not in cache


def test_a_new_literal_topic_leaves_the_other_cached_topics_alone() -> None:
    index = index_of({"a": ([glob("deal.*")], {})})
    index.match(event("deal.x"))
    index.match(event("deal.y"))
    index.add("b", [glob("deal.x")], EMPTY)
    assert list(index._patterns._cache) == ["deal.y"]
    assert sorted(index.match(event("deal.x"))) == ["a", "b"]
