"""Ids and cursors."""

import gc
import os
import random
import subprocess
import sys
import uuid
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from clarion.ids import DRAWN_IDS, EventIds, format_cursor, new_epoch, new_subscription_id, parse_cursor
from clarion.model import Position


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**18 - 1))
def test_a_cursor_is_read_as_it_is_written(epoch: int, seq: int) -> None:
    position = Position(f"{epoch:08x}", seq)
    assert parse_cursor(format_cursor(position), "ffffffff") == position
    assert format_cursor(position) == str(position)


def test_a_bare_integer_means_the_current_epoch() -> None:
    assert parse_cursor(" 12 ", "0000000a") == Position("0000000a", 12)


@pytest.mark.parametrize("text", [
    "", " ", "-1", "+1", "1.5", "1e3", "0x10", "earliest", "0000000a", "0000000a-", "-5", "0000000A-5", "0000000a-5-6",
    "0000000g-5", "000000a-5", "0000000a--5", "1" * 19, "٣", "5\x00", "1 2", "null", "5;", "'5'",
    "\ud800", "9" * 100_000,
])  # fmt: skip
def test_what_is_no_cursor_is_none(text: str) -> None:
    assert parse_cursor(text, "0000000a") is None


@given(st.text())
def test_no_text_breaks_the_reading_of_cursors(text: str) -> None:
    position = parse_cursor(text, "0000000a")
    assert position is None or 0 <= position.seq < 10**18


@given(st.integers(0, 2**47 * 1000), st.binary(min_size=10, max_size=10))
def test_an_event_id_is_the_ulid_of_its_moment_and_randomness(at: int, drawn: bytes) -> None:
    made = EventIds(lambda count: drawn * (count // 10))(at)
    assert made == str(ULID((at // 1000).to_bytes(6, "big") + drawn))


def test_event_ids_sort_by_time_and_a_clock_before_1970_is_none() -> None:
    ids = EventIds(random.Random(1).randbytes)
    made = [ids(at * 1_000_000) for at in range(100)]
    assert made == sorted(made)
    assert len({ids(5) for _ in range(1000)}) == 1000
    assert EventIds(bytes)(-5) == "0" * 26


def test_event_ids_are_drawn_for_many_at_once_and_each_draw_is_used_once() -> None:
    chance = random.Random(3).randbytes
    draws: list[bytes] = []

    def drawing(count: int) -> bytes:
        draws.append(chance(count))
        return draws[-1]

    ids = EventIds(drawing)
    made = [ids(at * 1_000) for at in range(DRAWN_IDS + 1)]
    assert len(draws) == 2  # the second one for the last id
    used = [draws[0][start : start + 10] for start in range(0, len(draws[0]), 10)] + [draws[1][:10]]
    assert made == [str(ULID(at.to_bytes(6, "big") + drawn)) for at, drawn in enumerate(used)]


def test_subscription_ids_and_epochs_have_their_form() -> None:
    chance = random.Random(2).randbytes
    assert uuid.UUID(new_subscription_id(chance)).version == 4
    assert parse_cursor(f"{new_epoch(chance)}-1", "0") is not None


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="there is no fork here")
def test_a_forked_process_makes_other_ids_than_its_parent() -> None:
    """In a process of its own: this one may have threads, which do not go well with a fork."""
    program = """
import os
from clarion.ids import EventIds
ids = EventIds()
ids(5)
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, ids(5).encode())
    os._exit(0)
mine = ids(5)
os.wait()
print(mine, os.read(reader, 99).decode())
"""
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert [len(one) for one in made] == [26, 26]
    assert made[0] != made[1]


def test_a_maker_of_ids_is_not_kept_alive() -> None:
    ids = EventIds()
    gone = weakref.ref(ids)
    del ids
    gc.collect()
    assert gone() is None
