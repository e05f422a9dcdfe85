"""`clarion.retry`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion.model import MICROSECONDS
from clarion.retry import MAX_RETRY_AFTER, Backoff, retry_after

NOON = 1_780_000_000 * MICROSECONDS  # 2026-05-28T20:26:40Z


def test_delays_double_up_to_the_cap():
    backoff = Backoff(base=1.0, cap=10.0)

    assert [backoff.delay(attempt, lambda: 0.999999) for attempt in range(1, 7)] == pytest.approx(
        [1, 2, 4, 8, 10, 10], rel=1e-5
    )


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_zero_and_never_above_the_cap(attempt: int, drawn: float):
    assert 0.25 <= Backoff(base=0.5, cap=30.0).delay(attempt, lambda: drawn) <= 30.0


def test_two_clients_with_other_luck_wait_otherwise():
    assert Backoff().delay(3, lambda: 0.1) != Backoff().delay(3, lambda: 0.9)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("-1", 0.0),
        ("1.5", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("²", 0.0),
        ("999999999", MAX_RETRY_AFTER),
        ("Thu, 28 May 2026 20:26:50 GMT", 10.0),
        ("Thu, 28 May 2026 20:26:50 -0000", 10.0),
        ("Thu, 28 May 2026 20:00:00 GMT", 0.0),
        ("Thu, 28 May 2099 20:00:00 GMT", MAX_RETRY_AFTER),
        ("Thu, 99 May 2026 20:00:00 GMT", 0.0),
    ],
)
def test_retry_after_reads_both_forms_and_ignores_what_is_neither(header: str | None, seconds: float):
    assert retry_after(header, NOON) == pytest.approx(seconds)
