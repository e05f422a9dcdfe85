"""Identifiers and cursors: how positions look outside, how generated ids are made."""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from ulid import base32

from clarion.model import Position

__all__ = [
    "EVENT_ID_BYTES",
    "Randomness",
    "format_cursor",
    "new_epoch",
    "new_event_id",
    "new_subscription_id",
    "parse_cursor",
]

Randomness: TypeAlias = Callable[[int], bytes]
"""`randomness(n)` gives n random bytes; `secrets.token_bytes` outside of tests."""

_CURSOR = re.compile(r"(?:(?P<epoch>[0-9a-f]{8})-)?(?P<seq>[0-9]{1,18})\Z", re.ASCII)


EVENT_ID_BYTES = 10
"""Random bytes in an event id."""


def new_event_id(at: int, randomness: Randomness = secrets.token_bytes) -> str:
    """A ULID for the moment `at` (microseconds)."""
    return _moment(max(0, at // 1000)) + base32.encode_randomness(randomness(EVENT_ID_BYTES))


@lru_cache(maxsize=16)
def _moment(milliseconds: int) -> str:
    """The ten digits of a moment, which all ids of a batch share."""
    return base32.encode_timestamp(milliseconds.to_bytes(6, "big"))


def new_subscription_id(randomness: Randomness = secrets.token_bytes) -> str:
    """A random UUID; an id is no capability, the principal is checked beside it."""
    return str(uuid.UUID(bytes=randomness(16), version=4))


def new_epoch(randomness: Randomness = secrets.token_bytes) -> str:
    """Eight hexadecimal digits that name one life of a log."""
    return randomness(4).hex()


def format_cursor(position: Position) -> str:
    """The cursor and SSE `id:` of a position: `<epoch>-<seq>`."""
    return f"{position.epoch}-{position.seq}"


def parse_cursor(text: str, current_epoch: str) -> Position | None:
    """The position that `text` names, a bare integer meaning the current epoch; None when it is no cursor."""
    found = _CURSOR.match(text.strip())
    if found is None:
        return None
    return Position(found["epoch"] or current_epoch, int(found["seq"]))
