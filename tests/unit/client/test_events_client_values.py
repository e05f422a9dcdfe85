"""`clarion.client.mcp_events.values`: what a server says, valid or not."""

from __future__ import annotations

from typing import Any

import pytest

from clarion.client.mcp_events import EventDescriptor, EventOccurrence, EventsError, UnexpectedAnswer, exception_of
from clarion.client.mcp_events.values import parse_descriptor, parse_error, parse_occurrence
from clarion.errors import ClarionError, Forbidden, InvalidInput, LimitExceeded, NotFound, Unsupported, codes
from interaction.events_requirements import requirement

VALID: dict[str, Any] = {"eventId": "e", "name": "a.b", "timestamp": "2026-01-01T00:00:00Z", "data": {"n": 1}}


def test_an_occurrence_keeps_everything_but_the_streams_id() -> None:
    meta = {"x": 1, "io.modelcontextprotocol/subscriptionId": "events-1"}
    assert parse_occurrence({**VALID, "cursor": "c", "_meta": meta, "later": True}) == EventOccurrence(
        "e", "a.b", "2026-01-01T00:00:00Z", {"n": 1}, "c", {"x": 1}
    )


@requirement("sep.cursor.missing-ok")
def test_an_absent_cursor_is_a_null_cursor() -> None:
    assert parse_occurrence(VALID) == parse_occurrence({**VALID, "cursor": None})


@pytest.mark.parametrize("change", [{"eventId": 5}, {"eventId": ""}, {"name": None}, {"timestamp": 1}, {"data": [1]}])
def test_an_occurrence_with_a_wrong_member_is_none(change: dict[str, Any]) -> None:
    assert parse_occurrence({**VALID, **change}) is None


@pytest.mark.parametrize("missing", sorted(VALID))
def test_an_occurrence_without_a_required_member_is_none(missing: str) -> None:
    assert parse_occurrence({name: value for name, value in VALID.items() if name != missing}) is None


def test_a_descriptor_needs_a_name_alone() -> None:
    assert parse_descriptor({"name": "a", "delivery": ["poll", 5], "inputSchema": []}) == EventDescriptor(
        "a", "", ("poll",)
    )
    assert parse_descriptor({"delivery": ["poll"]}) is None
    assert parse_descriptor("a") is None


@pytest.mark.parametrize(
    "body", [None, [], {}, {"code": True, "message": ""}, {"code": 1}, {"code": "1", "message": "x"}]
)
def test_an_error_that_is_none_is_an_internal_error(body: object) -> None:
    assert parse_error(body).code == -32603


@pytest.mark.parametrize(
    ("sep", "sketch", "kind", "permanent", "exception"),
    [
        (-32023, -32011, "NotFound", True, NotFound),
        (-32024, -32012, "Forbidden", True, Forbidden),
        (-32025, -32013, "ResourceExhausted", False, LimitExceeded),
        (-32026, -32014, "Unsupported", True, Unsupported),
        (-32602, -32602, "InvalidParams", True, InvalidInput),
    ],
)
def test_both_dialects_of_numbers_mean_the_same(
    sep: int, sketch: int, kind: str, permanent: bool, exception: type[ClarionError]
) -> None:
    for code in (sep, sketch):
        error = EventsError(code, "so it is", {"reason": "r"})
        assert (error.kind, error.permanent) == (kind, permanent)
        raised = exception_of(error)
        assert (type(raised), raised.message, raised.details) == (exception, "so it is", {"reason": "r"})
    assert (codes(exception()).sep, codes(exception()).sketch) == (sep, sketch)


def test_an_error_that_events_does_not_have_is_told_as_the_servers() -> None:
    raised = exception_of(EventsError(-32603, "busy"))
    assert isinstance(raised, UnexpectedAnswer)
    assert raised.message == "the server answered with an error: busy"


def test_an_unknown_number_is_no_reason_to_give_up() -> None:
    assert (EventsError(-32000, "x").kind, EventsError(-32603, "x").permanent) == (None, False)
