"""JSON in and out: one form, and the place of what is wrong."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion.encoding import decode, digest, encode, position_in
from clarion.errors import InvalidInput, MalformedJSON

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=15,
)  # fmt: skip


@given(values)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert decode(encode(value)) == value


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), values, max_size=6))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))
    assert len(digest(value)) == 16


@given(values, values)
def test_other_content_has_another_digest(one: Any, other: Any) -> None:
    if encode(one) != encode(other) and one != other:
        assert digest(one) != digest(other)


@pytest.mark.parametrize("value", [
    math.nan, math.inf, -math.inf, [1, [math.nan]], {"a": {"b": (math.inf,)}}, {"null": None, "a": [math.nan]},
])  # fmt: skip
def test_a_number_that_is_not_finite_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        encode(value, field="thing")
    assert (refused.value.field, refused.value.rule) == ("thing", "finite")


def test_null_is_no_number() -> None:
    assert encode({"a": None, "b": "null"}) == b'{"a":null,"b":"null"}'


@pytest.mark.parametrize("value", ["\ud800", {"\udc00": 1}, {1: 2}, 2**64, object(), {1, 2}, b"x", 1j])
def test_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        encode(value)


@pytest.mark.parametrize(("data", "line", "column"), [
    (b'{"topic": "deal.won" "payload"}', 1, 22),
    (b'{\n "a": 1,\n}', 2, 8), (b"", 1, 1), (b"nul", 1, 4), (b"[1,]", 1, 3),
])  # fmt: skip
def test_malformed_json_is_told_with_its_place(data: bytes, line: int, column: int) -> None:
    with pytest.raises(MalformedJSON) as refused:
        decode(data)
    position = refused.value.details["position"]
    assert (position["line"], position["column"]) == (line, column)
    assert f"line {line}, column {column}" in refused.value.message


@pytest.mark.parametrize("data", [b"\xff", b'"\xed\xa0\x80"', b'"\\ud800"', b"NaN", b"[Infinity]", b"{'a':1}", b"1 2",
                                  b"[" * 5000, b'{"a":' * 5000, b"\x00"])  # fmt: skip
def test_nasty_input_is_malformed_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(MalformedJSON):
        decode(data)


def test_the_position_of_a_byte() -> None:
    assert position_in(b"ab\ncd", 4) == {"line": 2, "column": 2, "offset": 4}


def test_what_was_decoded_is_not_searched_for_numbers_that_are_not_finite() -> None:
    assert encode([None, math.nan], finite=True) == b"[null,null]"


def test_a_digest_tells_numbers_apart_as_they_are_written() -> None:
    assert digest({"a": 1}) != digest({"a": 1.0})
    assert digest(decode(b"1.0")) == digest(decode(b"1e0"))
