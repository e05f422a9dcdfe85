"""The filter grammar of subscriptions, compiled.

A filter is a JSON object whose clauses must all hold. A clause's key is a field and perhaps a suffix of `OPERATORS`;
the field may be one of `ALIASES`, and is looked for in the payload first, then in the envelope (`ENVELOPE`). A missing
or wrong-typed value fits no clause but `_not` and `_nin`, which it always fits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter, ge, gt, le, lt
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from clarion.encoding import canonical, decode, encode
from clarion.errors import InvalidFilter, InvalidInput
from clarion.model import Event

__all__ = [
    "ALIASES",
    "EMPTY",
    "ENVELOPE",
    "MAX_CLAUSES",
    "MAX_FILTER_BYTES",
    "MAX_KEY_LENGTH",
    "MAX_OPERANDS",
    "MISSING",
    "OPERATORS",
    "Clause",
    "Filter",
    "Operator",
    "compile_filter",
    "finder",
    "scalar_key",
]

MAX_CLAUSES = 32
"""Clauses of a filter. Stops filters that make each event expensive."""

MAX_FILTER_BYTES = 8192
"""Bytes of a filter as canonical JSON. Stops filters that fill the memory, where every active one stays."""

MAX_OPERANDS = 256
"""Entries of an IN or NOT IN list. Stops the index growing by a long list per subscription."""

MAX_KEY_LENGTH = 256
"""Characters of a key. Stops long keys, which are split and walked on events."""

_CACHED_FILTERS = 1024  # bounds what one-time filters leave behind; live ones are held by their users


class Operator(StrEnum):
    """What a clause asks of the value; the enum's value is how documentation writes it."""

    EQUAL = "="
    IN = "in"
    NOT = "!="
    NOT_IN = "not in"
    GREATER_OR_EQUAL = ">="
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    LESS = "<"
    PREFIX = "begins with"
    CONTAINS = "contains"
    EXISTS = "exists"


OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "_contains": Operator.CONTAINS,
        "_exists": Operator.EXISTS,
        "_prefix": Operator.PREFIX,
        "_gte": Operator.GREATER_OR_EQUAL,
        "_lte": Operator.LESS_OR_EQUAL,
        "_nin": Operator.NOT_IN,
        "_not": Operator.NOT,
        "_gt": Operator.GREATER,
        "_lt": Operator.LESS,
        "_in": Operator.IN,
    }
)
"""Suffix to operator, the longest first. A key without one means EQUAL, or IN when its operand is a list."""

ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "account_id": ("account_id",),
        "deal_id": ("deal_id",),
        "stage_to": ("new_stage",),
        "stage_from": ("old_stage",),
        "health_band_to": ("new_band",),
        "owner": ("owner", "owner_id"),
        "actor": ("actor", "actor_id"),
        "actor_id": ("actor_id",),
        "status": ("status",),
    }
)
"""Friendly field to the names that are tried in turn; any other field is its own name."""

ENVELOPE: Final = frozenset(
    {
        "event_id",
        "topic",
        "category",
        "source",
        "aggregate_type",
        "aggregate_id",
        "actor_id",
        "correlation_id",
        "causation_id",
        "origin",
        "priority",
        "key",
    }
)
"""Envelope fields that a filter may ask for when the payload has no such key; one that is None is missing."""


class _Missing:
    """What a lookup answers when there is nothing, as JSON null is something."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()

Find: TypeAlias = Callable[[Mapping[str, Any], Event], Any]
"""The value a field has in (the payload, its event), or MISSING."""

_Holds: TypeAlias = Callable[[Any], bool]
_Test: TypeAlias = Callable[[Mapping[str, Any], Event], bool]

_COMPARISONS: Mapping[Operator, Callable[[Any, Any], bool]] = {
    Operator.GREATER_OR_EQUAL: ge,
    Operator.LESS_OR_EQUAL: le,
    Operator.GREATER: gt,
    Operator.LESS: lt,
}


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition. `key` is as written; `paths` are the names tried in turn; a list operand is a tuple for IN.

    `scalars`, for an EQUAL or IN whose operands are no arrays or objects, are the `scalar_key`s one of which the value
    must have: what an index can look up. None for every other clause.
    """

    key: str
    operator: Operator
    paths: tuple[str, ...]
    operand: Any
    scalars: frozenset[Hashable] | None = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled filter; two are equal when their `canonical` JSON is, whatever the order of their keys."""

    canonical: bytes
    clauses: tuple[Clause, ...] = field(compare=False)
    _tests: tuple[_Test, ...] = field(compare=False, repr=False)

    def matches(self, event: Event) -> bool:
        """Whether every clause holds for `event`."""
        payload = event.payload
        for test in self._tests:  # noqa: SIM110 (a generator would double the cost)
            if not test(payload, event):
                return False
        return True


def _never(key: str) -> bool:
    return False


def compile_filter(filter: Mapping[str, Any], declared: Callable[[str], bool] = _never) -> Filter:
    """`filter` compiled. Raises InvalidFilter, its `field` naming the clause, for what breaks a limit or cannot fire.

    `declared(key)` says whether a schema of the subscribed topics declares `key` as written: then `load_gt: "high"` is
    equality on the field `load_gt`, not a comparison that lacks its number.
    """
    if not isinstance(filter, Mapping):
        raise InvalidFilter("filter must be a JSON object of clauses", field="filter", rule="object")
    if not filter:
        return EMPTY
    if len(filter) > MAX_CLAUSES:
        raise InvalidFilter(f"filter has more than {MAX_CLAUSES} clauses; ask less", field="filter", rule="clauses")
    for key, operand in filter.items():
        _check_writable(key, operand)
    text = canonical(dict(filter))
    if len(text) > MAX_FILTER_BYTES:
        raise InvalidFilter(f"filter is larger than {MAX_FILTER_BYTES} bytes of JSON", field="filter", rule="bytes")
    compiled = _compiled(text)
    for clause in compiled.clauses:
        _check_meaning(clause, declared)
    return compiled


@lru_cache(maxsize=512)
def finder(paths: tuple[str, ...]) -> Find:
    """How to look `paths` up: each in turn in the payload, then each in turn in the envelope."""
    if len(paths) == 1 and "." not in paths[0] and paths[0] not in ENVELOPE:
        name = paths[0]
        return lambda payload, event: payload.get(name, MISSING)
    steps = [_in_payload(path) for path in paths] + [_in_envelope(path) for path in paths if path in ENVELOPE]

    def find(payload: Mapping[str, Any], event: Event) -> Any:
        for step in steps:
            value = step(payload, event)
            if value is not MISSING:
                return value
        return MISSING

    return find


def scalar_key(value: Any) -> Hashable:
    """A key that two JSON scalars share when they are equal: 1 and 1.0, not 1 and true. MISSING for all else."""
    kind = type(value)
    if kind is str or kind is int or kind is float or value is None:
        key: Hashable = value
        return key
    if kind is bool:
        return (value,)  # apart from 1 and 0, which True and False equal and hash like
    return MISSING


def _check_writable(key: Any, operand: Any) -> None:
    if not isinstance(key, str):
        raise InvalidFilter(f"filter keys must be strings, not {key!r}", field="filter", rule="key")
    if len(key) > MAX_KEY_LENGTH:
        start = key[:32]
        message = f"filter key {start!r}... is longer than {MAX_KEY_LENGTH} characters; name a field of the event"
        raise InvalidFilter(message, field=f"filter.{start}", rule="key_length")
    name = key.encode(errors="backslashreplace").decode()  # a lone surrogate must not break the error's own JSON
    try:
        encode({key: operand}, field=f"filter.{name}")
    except InvalidInput as error:
        raise InvalidFilter(error.message, field=error.field, rule=error.rule) from None


def _check_meaning(clause: Clause, declared: Callable[[str], bool]) -> None:
    key, operand = clause.key, clause.operand
    if clause.operator in (Operator.IN, Operator.NOT_IN) and len(operand) > MAX_OPERANDS:
        message = f"filter.{key} lists {len(operand)} values; list at most {MAX_OPERANDS}, or subscribe several times"
        raise InvalidFilter(message, field=f"filter.{key}", rule="operands")
    _, suffix = _split(key)
    meant = OPERATORS.get(suffix)
    if meant in _COMPARISONS and clause.operator is not meant and not declared(key):
        message = (
            f"filter.{key} compares numbers ({meant}), so give a number such as 100000, not {_kind(operand)}; "
            f"{suffix} has no other meaning unless the topic's schema declares a field {key!r}"
        )
        raise InvalidFilter(message, field=f"filter.{key}", rule="comparison")


@lru_cache(maxsize=_CACHED_FILTERS)
def _compiled(text: bytes) -> Filter:
    """The filter that is `text` in canonical JSON."""
    clauses = tuple(_clause(key, operand) for key, operand in decode(text).items())
    return Filter(text, clauses, tuple(map(_test, clauses)))


def _clause(key: str, operand: Any) -> Clause:
    base, suffix = _split(key)
    operator = OPERATORS.get(suffix)
    if operator is None or not _fits(operator, operand):
        base, operator = key, Operator.IN if isinstance(operand, list) else Operator.EQUAL
    scalars: frozenset[Hashable] | None = None
    if operator in (Operator.IN, Operator.NOT_IN):
        operand = tuple(operand)
    if operator in (Operator.IN, Operator.EQUAL):
        keys = frozenset(map(scalar_key, operand if operator is Operator.IN else (operand,)))
        scalars = None if MISSING in keys else keys
    return Clause(key, operator, ALIASES.get(base, (base,)), operand, scalars)


def _split(key: str) -> tuple[str, str]:
    """`key` as base and suffix; the suffix is empty when there is none with a base before it."""
    for suffix in OPERATORS:
        if key.endswith(suffix) and len(key) > len(suffix):
            return key[: -len(suffix)], suffix
    return key, ""


def _fits(operator: Operator, operand: Any) -> bool:
    """Whether `operand` has the type that `operator`'s suffix needs to be read as one."""
    if operator is Operator.NOT:
        return True
    if operator is Operator.EXISTS:
        return isinstance(operand, bool)
    if operator in (Operator.IN, Operator.NOT_IN):
        return isinstance(operand, list)
    if operator in (Operator.PREFIX, Operator.CONTAINS):
        return isinstance(operand, str)
    return _is_number(operand)


def _test(clause: Clause) -> _Test:
    find, negated = finder(clause.paths), False
    match clause.operator:
        case Operator.EXISTS:
            wanted = clause.operand
            return lambda payload, event: (find(payload, event) is not MISSING) is wanted
        case Operator.EQUAL | Operator.NOT:
            holds, negated = _equal_to(clause.operand), clause.operator is Operator.NOT
        case Operator.IN | Operator.NOT_IN:
            holds, negated = _one_of(clause.operand), clause.operator is Operator.NOT_IN
        case Operator.PREFIX:
            holds = _begins_with(clause.operand)
        case Operator.CONTAINS:
            holds = _contains(clause.operand)
        case _:
            holds = _compares(_COMPARISONS[clause.operator], clause.operand)
    if negated:
        return lambda payload, event: not holds(find(payload, event))
    return lambda payload, event: holds(find(payload, event))


def _equal_to(operand: Any) -> _Holds:
    if isinstance(operand, str):
        return lambda value: bool(value == operand)  # a string equals nothing but a string
    key = scalar_key(operand)
    if key is not MISSING:
        return lambda value: scalar_key(value) == key
    return lambda value: _same(value, operand)


def _one_of(operands: tuple[Any, ...]) -> _Holds:
    keys = frozenset(map(scalar_key, operands)) - {MISSING}
    others = tuple(operand for operand in operands if scalar_key(operand) is MISSING)
    if not others:
        return lambda value: scalar_key(value) in keys
    return lambda value: scalar_key(value) in keys or any(_same(value, other) for other in others)


def _begins_with(operand: str) -> _Holds:
    return lambda value: isinstance(value, str) and value.startswith(operand)


def _contains(operand: str) -> _Holds:
    return lambda value: isinstance(value, str) and operand in value


def _compares(comparison: Callable[[Any, Any], bool], operand: float) -> _Holds:
    return lambda value: _is_number(value) and comparison(value, operand)


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal all the way down; a bool equals no number."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    key = scalar_key(one)
    return key is not MISSING and key == scalar_key(other)


def _in_payload(path: str) -> Find:
    """`path` as it stands, else, when it has dots, walked through objects."""
    first, *rest = path.split(".")
    if not rest:
        return lambda payload, event: payload.get(path, MISSING)

    def find(payload: Mapping[str, Any], event: Event) -> Any:
        value = payload.get(path, MISSING)
        if value is not MISSING:
            return value
        value = payload.get(first, MISSING)
        for name in rest:
            if not isinstance(value, dict):
                return MISSING
            value = value.get(name, MISSING)
        return value

    return find


def _in_envelope(name: str) -> Find:
    read = attrgetter(name)

    def find(payload: Mapping[str, Any], event: Event) -> Any:
        value = read(event)
        return MISSING if value is None else value

    return find


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", dict: "an object", int: "a number", float: "a number"}
    return names.get(type(value), "a list")


EMPTY: Final = Filter(b"{}", (), ())
"""The filter without clauses: it matches every event."""
