"""JSON as Clarion stores and sends it: one library, one canonical form.

The pure layer's only third-party import (see ARCHITECTURE.md): everything that touches JSON goes through here, so that
the bytes that were stored are the bytes that are sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b as _blake2b
from typing import Any

import orjson

from clarion.errors import InvalidInput, MalformedJSON

__all__ = ["canonical", "decode", "digest", "encode", "position_in"]


def encode(value: Any, *, field: str = "payload", finite: bool = False) -> bytes:
    """`value` as compact JSON. `finite`: it is known to hold no other numbers, as what `decode` gave does, and is not
    searched for them, which takes milliseconds for a large one.

    Raises InvalidInput naming `field` when JSON cannot hold it: a number that is not finite, a lone surrogate, a key
    that is no string, nesting deeper than the encoder's limit, or a type that is not JSON's.
    """
    try:
        data = orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise InvalidInput(f"{field} cannot be written as JSON: {error}", field=field, rule="json") from None
    if not finite and b"null" in data and _has_non_finite(value):
        raise InvalidInput(f"{field} holds a number that is not finite; JSON has none", field=field, rule="finite")
    return data


def canonical(value: Any) -> bytes:
    """`value` as compact JSON with sorted keys: equal content gives equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: Any) -> bytes:
    """16 bytes that tell content from other content, independent of key order.

    Numbers count as they are written: 1 and 1.0 are other content, 1.0 and 1e0 are the same.
    """
    return _blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def decode(data: bytes | str) -> Any:
    """The JSON value in `data`. Raises MalformedJSON with `line`, `column` (from 1) and `offset` (from 0)."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if isinstance(data, bytes):
            _check_utf8(data)
        line, column = error.lineno, error.colno
        raise MalformedJSON(
            f"not valid JSON at line {line}, column {column}: {error.msg.split(':')[0]}",
            details={"position": {"line": line, "column": column, "offset": error.pos}},
        ) from None


def _check_utf8(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        position = position_in(data, error.start)
        raise MalformedJSON(
            f"not valid UTF-8 at line {position['line']}, column {position['column']}; JSON is UTF-8",
            details={"position": position},
        ) from None


def position_in(data: bytes, offset: int) -> dict[str, int]:
    """The `line` and `column` (from 1) of a byte `offset` in `data`."""
    before = data[:offset]
    return {
        "line": before.count(b"\n") + 1,
        "column": offset - (before.rfind(b"\n") + 1) + 1,
        "offset": offset,
    }


def _has_non_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(_has_non_finite(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_has_non_finite(item) for item in value)
    return False
