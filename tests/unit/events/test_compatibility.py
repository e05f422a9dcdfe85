"""Which changes of a schema only add, and which break whoever relies on the old one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from clarion.events.compatibility import breaks_arguments, breaks_payload

TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}


def of(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"type": "object", "properties": properties}
    return {**document, "required": list(required)} if required else document


def listed(items: Any) -> dict[str, Any]:
    return of(all={"type": "array", "items": items})


both = pytest.mark.parametrize("breaks", [breaks_arguments, breaks_payload])

ADDITIONS = {
    "nothing": (of(a=TEXT), of(a=TEXT)),
    "an optional member": (of(a=TEXT), of(a=TEXT, b=TEXT)),
    "an optional member within": (of(a=of(b=TEXT)), of(a=of(b=TEXT, c=TEXT))),
    "an optional member of items": (listed(of(a=TEXT)), listed(of(a=TEXT, b=TEXT))),
    "a wider enum": (of(a={"enum": ["x"]}), of(a={"enum": ["x", "y"]})),
    "no enum any more": (of(a={"enum": ["x"]}), of(a={})),
    "a wider bound": (of(a={"maximum": 5}), of(a={"maximum": 6})),
    "no bound any more": (of(a={"minLength": 5}), of(a={})),
    "another type beside": (of(a=TEXT), of(a={"type": ["string", "null"]})),
    "a number for an integer": (of(a=WHOLE), of(a=NUMBER)),
    "no pattern any more": (of(a={"pattern": "^x"}), of(a={})),
    "what describes": ({**of(a=TEXT), "title": "A"}, {**of(a={**TEXT, "description": "more"}), "title": "B"}),
    "no schema and none": ({}, {}),
    "anything and anything": ({"type": "object"}, {"type": "object"}),
}

BREAKS = {
    "a member that goes": (of(a=TEXT, b=TEXT), of(a=TEXT)),
    "a member that is renamed": (of(a=TEXT), of(b=TEXT)),
    "a member that is retyped": (of(a=TEXT), of(a=WHOLE)),
    "a member that was anything": (of(a={}), of(a=TEXT)),
    "one type fewer": (of(a={"type": ["string", "null"]}), of(a=TEXT)),
    "an integer for a number": (of(a=NUMBER), of(a=WHOLE)),
    "an enum that loses a value": (of(a={"enum": ["x", "y"]}), of(a={"enum": ["x"]})),
    "an enum where there was none": (of(a=TEXT), of(a={**TEXT, "enum": ["x"]})),
    "a bound that is tightened": (of(a={"maximum": 5}), of(a={"maximum": 4})),
    "a bound that is new": (of(a={}), of(a={"minLength": 1})),
    "a lower bound that is tightened": (of(a={"minimum": 1}), of(a={"minimum": 2})),
    "a pattern that is new": (of(a=TEXT), of(a={**TEXT, "pattern": "^x"})),
    "alternatives that change": (of(a={"anyOf": [TEXT]}), of(a={"anyOf": [TEXT, WHOLE]})),
    "a reference that changes": (of(a={"$ref": "#/$defs/x"}), of(a={"$ref": "#/$defs/y"})),
    "within": (of(a=of(b=TEXT)), of(a=of())),
    "within items": (listed(of(a=TEXT)), listed(of())),
    "items that are retyped": (listed(TEXT), listed(WHOLE)),
    "a member that nothing fits any more": (of(a=TEXT), of(a=False)),
}


@both
@pytest.mark.parametrize("change", ADDITIONS)
def test_what_only_adds_breaks_nobody(change: str, breaks: Callable[..., bool]) -> None:
    assert breaks(*ADDITIONS[change]) is False


@both
@pytest.mark.parametrize("change", BREAKS)
def test_what_takes_away_breaks(change: str, breaks: Callable[..., bool]) -> None:
    assert breaks(*BREAKS[change]) is True


def test_a_member_that_is_required_now_breaks_who_asks_and_not_who_reads() -> None:
    change = of(a=TEXT), of(("a",), a=TEXT)
    assert breaks_arguments(*change) is True
    assert breaks_payload(*change) is False


def test_a_member_that_is_required_no_longer_breaks_who_reads_and_not_who_asks() -> None:
    change = of(("a",), a=TEXT), of(a=TEXT)
    assert breaks_arguments(*change) is False
    assert breaks_payload(*change) is True


def test_members_that_are_not_named_may_be_refused_to_who_reads_and_not_to_who_asks() -> None:
    change = of(a=TEXT), {**of(a=TEXT), "additionalProperties": False}
    assert breaks_arguments(*change) is True
    assert breaks_payload(*change) is False
    assert breaks_arguments(*reversed(change)) is False


@both
@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_alternatives_that_stay_are_no_change(keyword: str, breaks: Callable[..., bool]) -> None:
    document = of(a={keyword: [TEXT, {"type": "null"}]})
    assert breaks(document, document) is False
    assert breaks(document, of(a={keyword: [WHOLE]})) is True
