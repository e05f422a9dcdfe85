"""What a schema costs to run on a payload, counted before it is run.

Compiling a schema adds up, for each place that a payload can have (a path of keys and indexes, or any of them), what
the validator spends on a value there: a tree of `Place`. `cost_of` walks a payload along that tree and stops at a
limit. The unit is about 10 ns; the constants here were measured, and rounded up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clarion.encoding import encode

__all__ = ["Place", "TooDear", "cost_of"]

_SUBSCHEMA = 1
"""Of a subschema, and again for each of its keywords."""

_VISIT = 15
_LOOK = 40
"""Of this count itself: at a value, and at one whose items or members are looked at."""

_COMPARED = 4
"""For each byte of an `enum` or `const`."""

_BOUND = 30
_COMPARISON = 110
"""Of a comparison with a small integer as a bound, and with any other number, which may be done exactly."""

_EXACT = 1_400
_REMAINDER = 150
_FRACTION = 2_500
"""Of a comparison, a remainder, and a remainder, where a number is so large or small that these are taken with
integers of up to 2,000 bits."""

_SMALL = 1 << 31
_NEAR = (1e-9, 1e16)
"""Numbers that need no such integers."""

_UNIQUE = 1_500
"""For each KiB that `uniqueItems` compares by its hash."""

_PAIRED = 10
"""How much dearer it is for few items, which are compared in pairs."""

_FEW = 32

_HASHED = 40
"""For each KiB of a string that is looked up in an `enum`."""

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

_ANNOTATIONS = frozenset({
    "$comment", "$defs", "$id", "$schema", "contentEncoding", "contentMediaType", "contentSchema", "default",
    "definitions", "deprecated", "description", "examples", "format", "readOnly", "title", "writeOnly",
})  # fmt: skip


class TooDear(Exception):
    """The count passed its limit."""


@dataclass(slots=True)
class Place:
    """What the validator spends on one value at a place, all subschemas that apply there together."""

    work: int = 0
    """Units for any value."""
    text: int = 0
    """For each KiB of a string."""
    content: int = 0
    """For each KiB of an array as JSON."""
    numbers: int = 0
    """How many comparisons are made with a number; a remainder is two."""
    member: int = 0
    """For each member of an object, its value apart."""
    names: int = 0
    """For each KiB of an object's keys."""
    named: dict[str, Place] = field(default_factory=dict)
    indexed: dict[int, Place] = field(default_factory=dict)
    members: Place | None = None
    items: Place | None = None
    keys: Place | None = None
    flat: bool = True
    """Whether `work` is all there is, for every value."""

    def named_member(self, name: str) -> Place:
        self.flat = False
        return self.named.setdefault(name, Place())

    def item_at(self, index: int) -> Place:
        self.flat = False
        return self.indexed.setdefault(index, Place())

    def any_member(self) -> Place:
        self.flat = False
        self.members = self.members or Place()
        return self.members

    def any_item(self) -> Place:
        self.flat = False
        self.items = self.items or Place()
        return self.items

    def any_key(self) -> Place:
        self.flat = False
        self.keys = self.keys or Place()
        return self.keys

    def charge(self, schema: Any, times: int, pattern_cost: Callable[[Any], int]) -> None:
        """Add the keywords of `schema`, those of its subschemas apart, run `times` over.

        `pattern_cost` is what a regular expression costs, in units for each KiB of text.
        """
        self.work += _SUBSCHEMA * times
        if not isinstance(schema, Mapping):
            return
        self.work += sum(keyword not in _ANNOTATIONS for keyword in schema) * times
        for keyword in ("enum", "const"):
            if keyword in schema:
                work, numbers = _compared(schema[keyword])
                self.work += work * times
                self.numbers += numbers * times
                self.text += _HASHED * times
        for keyword in ("required", "dependentRequired"):
            if keyword in schema:
                self.work += len(encode(schema[keyword], finite=True)) * times
        for keyword in _BOUNDS:
            if keyword in schema:
                bound = schema[keyword]
                small = isinstance(bound, int) and -_SMALL < bound < _SMALL
                self.work += (_BOUND if small else _number(bound)) * times
                self.numbers += (not small) * times
        if "multipleOf" in schema:
            divisor = schema["multipleOf"]
            self.work += (_FRACTION if _extreme(divisor) else _REMAINDER) * times
            self.numbers += 2 * times
        if schema.get("uniqueItems"):
            self.content += _UNIQUE * times
        if "pattern" in schema:
            self.text += pattern_cost(schema["pattern"]) * times
        named = schema.get("patternProperties")
        if isinstance(named, Mapping):  # asked again by additionalProperties
            self.member += 2 * _SUBSCHEMA * len(named) * times
            self.names += 2 * sum(map(pattern_cost, named)) * times
        self.flat = self.flat and not (self.text or self.content or self.numbers or self.names)


def _compared(value: Any) -> tuple[int, int]:
    """Units of comparing any value with this one, or with these of an `enum`; how many of them are numbers."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return _COMPARED, 0  # looked up by hash
    numbers = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int | float)]
    return _COMPARED * len(encode(value, finite=True)) + sum(map(_number, numbers)), len(numbers)


def _number(value: Any) -> int:
    return _EXACT if _extreme(value) else _COMPARISON


def _extreme(value: Any) -> bool:
    return isinstance(value, int | float) and value != 0 and not _NEAR[0] < abs(value) < _NEAR[1]


def cost_of(place: Place, value: Any, limit: int) -> int:
    """Units that validating `value` takes. Raises TooDear once they are more than `limit`.

    Counting takes about as long as it says that validation would, at the most.
    """
    spent = 0
    waiting: list[tuple[Place, Any]] = [(place, value)]
    while waiting:
        place, value = waiting.pop()
        spent += place.work + _VISIT
        if isinstance(value, str):
            if place.text:
                spent += place.text * _bytes(value) >> 10
        elif isinstance(value, dict):
            spent += _LOOK + _of_object(place, value, waiting)
        elif isinstance(value, list | tuple):
            spent += _LOOK + _of_array(place, value, waiting)
        elif place.numbers and _extreme(value):
            spent += place.numbers * _EXACT
        if spent > limit:
            raise TooDear
    return spent


def _of_object(place: Place, value: dict[str, Any], waiting: list[tuple[Place, Any]]) -> int:
    spent = place.member * len(value)
    if place.names:
        spent += place.names * sum(map(_bytes, value)) >> 10
    if place.keys is not None:
        spent += _of_all(place.keys, value, len(value), waiting)
    if len(place.named) < len(value):
        found = [(inner, value[name]) for name, inner in place.named.items() if name in value]
        spent += _SUBSCHEMA * len(place.named)
    else:
        found = [(place.named[name], item) for name, item in value.items() if name in place.named]
        spent += _SUBSCHEMA * len(value)
    for inner, item in found:
        if inner.flat:
            spent += _VISIT // 2 + inner.work
        else:
            waiting.append((inner, item))
    if place.members is not None:
        spent += _of_all(place.members, value.values(), len(value), waiting)
    return spent


def _of_array(place: Place, value: list[Any] | tuple[Any, ...], waiting: list[tuple[Place, Any]]) -> int:
    spent = 0
    if place.content:
        spent += place.content * len(encode(value, finite=True)) * (_PAIRED if len(value) <= _FEW else 1) >> 10
    waiting += [(inner, value[index]) for index, inner in place.indexed.items() if index < len(value)]
    if place.items is not None:
        spent += _of_all(place.items, value, len(value), waiting)
    return spent


def _of_all(place: Place, values: Any, count: int, waiting: list[tuple[Place, Any]]) -> int:
    if place.flat:
        return place.work * count
    waiting += [(place, value) for value in values]
    return 0


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)
