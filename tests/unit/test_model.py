"""Times and bounds: what resolves to where, and what is told to be truncated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion.encoding import encode
from clarion.model import After, Bounds, Earliest, Event, Latest, Position, Start, Truncation, isoformat, parse_time
from clarion.testing.contracts.examples import draft

BOUNDS = Bounds("0000000a", start=10, floor=20, head=50)


@pytest.mark.parametrize(("start", "seq", "truncated"), [
    (Latest(), 50, None),
    (Earliest(), 20, None),
    (After(Position("0000000a", 20)), 20, None),
    (After(Position("0000000a", 19)), 20, Truncation.RETENTION),
    (After(Position("0000000a", 0)), 20, Truncation.RETENTION),
    (After(Position("0000000a", 35)), 35, None),
    (After(Position("0000000a", 50)), 50, None),
    (After(Position("0000000a", 51)), 50, Truncation.AHEAD),
    (After(Position("0000000b", 35)), 20, Truncation.EPOCH),
    (After(Position("0000000b", 10**17)), 20, Truncation.EPOCH),
])  # fmt: skip
def test_a_start_resolves_to_where_reading_goes_on(start: Start, seq: int, truncated: Truncation | None) -> None:
    assert BOUNDS.resolve(start) == (seq, truncated)


def test_another_epochs_position_continues_at_this_epochs_beginning() -> None:
    assert Bounds("0000000a", start=30, floor=5, head=50).resolve(After(Position("0000000b", 2))) == (
        30,
        Truncation.EPOCH,
    )


def test_an_empty_log_has_one_place() -> None:
    empty = Bounds("0000000a", 0, 0, 0)
    for start in (Latest(), Earliest(), After(Position("0000000a", 0))):
        assert empty.resolve(start) == (0, None)


@given(st.integers(0, 60), st.booleans())
def test_no_start_reads_before_the_floor_or_past_the_head(seq: int, same_epoch: bool) -> None:
    after, truncated = BOUNDS.resolve(After(Position("0000000a" if same_epoch else "ffffffff", seq)))
    assert BOUNDS.floor <= after <= BOUNDS.head
    assert truncated or after == seq


@given(st.datetimes(timezones=st.just(__import__("datetime").UTC)))
def test_times_are_read_as_they_are_written(moment: object) -> None:
    text = moment.isoformat()  # type: ignore[attr-defined]
    assert isoformat(parse_time(text)).replace("Z", "+00:00") == text


@pytest.mark.parametrize(("text", "at"), [
    ("1970-01-01", 0), ("1970-01-01T00:00:01Z", 1_000_000), ("1970-01-01T01:00:00+01:00", 0),
    ("1970-01-01T00:00:00.000001", 1), ("1969-12-31T23:59:59Z", -1_000_000),
])  # fmt: skip
def test_a_time_without_an_offset_is_utc(text: str, at: int) -> None:
    assert parse_time(text) == at


@pytest.mark.parametrize("text", [
    "", "now", "12", "2026-13-01", "2026-02-30", "0001-01-01T00:00:00+00:01", "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-00:01", "2026-06-12T10:00:00+25:00", "10000-01-01",
])  # fmt: skip
def test_what_could_not_be_written_again_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)


def test_a_payload_is_decoded_once_and_shared() -> None:
    event = Event.of(draft("e1", payload_json=encode({"a": 1})), 7)
    assert event.payload == {"a": 1}
    assert event.payload is event.payload
    assert (event.seq, event.event_id) == (7, "e1")
