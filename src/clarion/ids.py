"""Identifiers and cursors: how positions look outside, how generated ids are made."""

from __future__ import annotations

import os
import re
import secrets
import uuid
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from ulid import base32

from clarion.model import Position

__all__ = [
    "EventIds",
    "Randomness",
    "format_cursor",
    "new_epoch",
    "new_subscription_id",
    "parse_cursor",
]

Randomness: TypeAlias = Callable[[int], bytes]
"""`randomness(n)` gives n random bytes; `secrets.token_bytes` outside of tests."""

_CURSOR = re.compile(r"(?:(?P<epoch>[0-9a-f]{8})-)?(?P<seq>[0-9]{1,18})\Z", re.ASCII)


EVENT_ID_BYTES = 10
"""Random bytes in an event id."""

DIGITS = 8
"""Digits that five bytes make."""

_ALPHABET = base32.ENCODE.encode().ljust(256)


DRAWN_IDS = 256
"""Event ids whose randomness `EventIds` draws at once."""


class EventIds:
    """Makes ULIDs from randomness that is drawn and written out for many at once.

    A draw is a system call that gives the interpreter's lock away, which a busy writer is slow to give back, and
    writing out one by itself takes 1.4 us. A process that was forked draws anew: its ids are not its parent's.
    """

    __slots__ = ("__weakref__", "_ends", "_randomness")

    def __init__(self, randomness: Randomness = secrets.token_bytes) -> None:
        self._randomness = randomness
        self._ends: list[str] = []
        _makers.add(self)

    def forget(self) -> None:
        """Use nothing of what was drawn so far."""
        self._ends = []

    def __call__(self, at: int) -> str:
        """A ULID for the moment `at` (microseconds)."""
        ends = self._ends
        if not ends:
            digits = _digits(self._randomness(EVENT_ID_BYTES * DRAWN_IDS))
            size = 2 * DIGITS
            ends = self._ends = [digits[start : start + size] for start in range(0, len(digits), size)]
            ends.reverse()  # they are taken from the end
        return _moment(at // 1000 if at > 0 else 0) + ends.pop()


_makers: weakref.WeakSet[EventIds] = weakref.WeakSet()


def _forget_drawn() -> None:
    for maker in list(_makers):
        maker.forget()


if hasattr(os, "register_at_fork"):  # where there is a fork
    os.register_at_fork(after_in_child=_forget_drawn)


def _digits(data: bytes) -> str:
    """`data`, a multiple of five bytes, in the digits of ULIDs, eight for five bytes.

    Arithmetic on one long integer spreads all of them at once: the 40 bits of each five bytes into two halves, those
    into halves again, and so on until a byte holds each five bits.
    """
    count = len(data) // 5
    spread = bytearray(DIGITS * count)
    for place in range(5):
        spread[3 + place :: DIGITS] = data[place::5]
    bits = int.from_bytes(spread, "big")
    for low, shift in ((0x00000000000FFFFF, 12), (0x000003FF000003FF, 6), (0x001F001F001F001F, 3)):
        lower = bits & int.from_bytes(low.to_bytes(DIGITS, "big") * count, "big")
        bits = (bits ^ lower) << shift | lower
    return bits.to_bytes(DIGITS * count, "big").translate(_ALPHABET).decode("ascii")


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
