"""What an author does wrong is said at once, where it stands, and in words that say what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from clarion.errors import InvalidEvent, InvalidInput
from clarion.events import Events
from interaction.events_targets import http_peer

NAME = "ticket.updated"


def ticket_events() -> Events:
    events = Events()
    events.event(NAME, "A ticket changed.")
    return events


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": [1]}, "data must be an object"),
        ({"data": None}, "data must be an object"),
        ({"timestamp": datetime(2026, 1, 1)}, "timestamp must be a datetime with a time zone"),
        ({"timestamp": "2026-01-01T00:00:00Z"}, "timestamp must be a datetime with a time zone"),
        ({"expires_at": datetime(2026, 1, 1)}, "expires_at must be a datetime with a time zone"),
        ({"timestamp": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))}, "years 1 to 9999"),
    ],
    ids=str,
)
async def test_what_cannot_be_emitted_is_refused_in_the_words_of_emit(options: dict[str, Any], says: str) -> None:
    async with ticket_events() as events:
        with pytest.raises(InvalidEvent, match=says) as caught:
            await events.emit(NAME, **{"data": {}, **options})
        assert caught.value.field == next(iter(options))
        assert (await events.emit(NAME, {}, timestamp=datetime(2026, 1, 1, tzinfo=UTC))).event_id


async def test_a_server_with_one_tenant_has_no_other() -> None:
    async with ticket_events() as events:
        says = "this server has one tenant, 'default'"
        with pytest.raises(InvalidInput, match=says):
            await events.emit(NAME, {}, tenant="acme")
        for act in (events.gap, lambda name, tenant: events.error(name, "x", tenant=tenant)):
            with pytest.raises(InvalidInput, match=says):
                act(NAME, tenant="acme")
        assert (await events.emit(NAME, {}, tenant="default")).event_id


@pytest.mark.parametrize("tenant", ["", " ", "a\nb", "x" * 257, 7])
async def test_a_tenant_is_a_printable_name(tenant: Any) -> None:
    events = Events(tenant=lambda identity: tenant)
    events.event(NAME)
    with pytest.raises(InvalidInput) as caught:
        await events.emit(NAME, {}, tenant=tenant)
    assert caught.value.field == "tenant"
    async with http_peer(events) as peer:
        assert (await peer.refused("events/poll", name=NAME)).code == peer.codes["Forbidden"]
    with pytest.raises(InvalidInput):
        Events(tenant=tenant)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "5", True])
def test_the_time_of_a_hook_is_a_positive_number(seconds: Any) -> None:
    with pytest.raises(InvalidInput, match="hook_seconds must be a positive number"):
        Events(hook_seconds=seconds)


def test_an_authorize_for_all_types_is_looked_at_when_it_is_given() -> None:
    with pytest.raises(InvalidInput, match=r"authorize takes \(principal, event, arguments\)"):
        Events(authorize=lambda principal: True)


def test_a_decorator_without_its_name_is_answered_with_how_it_is_written() -> None:
    events = Events()
    with pytest.raises(InvalidInput, match=r'@events\.event\("ticket\.updated"\)'):

        @events.event  # type: ignore[arg-type]
        class Ticket:
            id: str


async def test_a_class_that_is_refused_leaves_no_type_without_its_hooks() -> None:
    events = Events()
    with pytest.raises(InvalidInput, match="did you mean 'authorize'"):

        @events.event(NAME)
        class Ticket:
            id: str

            @staticmethod
            def authorise(principal: Any, event: Any, arguments: Any) -> bool:
                return False

    with pytest.raises(InvalidInput, match="no event type"):
        await events.emit(NAME, {"id": "1"})


async def test_the_options_of_a_check_make_no_type_that_could_be_emitted_to() -> None:
    events = Events()
    decorate = events.event(NAME, interval=5)
    with pytest.raises(InvalidInput, match="no event type"):
        await events.emit(NAME, {})
    decorate(lambda ctx, arguments, cursor: ([], "here"))
    with pytest.raises(InvalidInput, match="has a check function"):
        await events.emit(NAME, {})


async def test_what_does_not_fit_the_payload_is_named_in_the_log_by_hook_and_member(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = Events()
    events.event(NAME, payload={"id": str}, transform=lambda ctx, event, arguments: {"id": 7})
    async with http_peer(events) as peer, peer.stream(NAME) as frames:
        await frames.expect("active")
        await events.emit(NAME, {"id": "swordfish"})
        error = (await frames.expect("error"))["error"]
    assert "it was kept back" in error["message"]
    assert error["data"] == {"reason": "transform"}
    assert "transform's data.id does not fit payloadSchema" in caplog.text
    assert "test_events_slips.py" in caplog.text
    assert "swordfish" not in caplog.text


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([], "check answers (events, cursor), not list"),
        (([], "c", 1), "check answers (events, cursor), not a tuple of 3"),
        (({"a": 1}, "c"), "its events were dict, no list"),
        (([], 1.5), "a cursor is text or a whole number, not float"),
    ],
    ids=str,
)
async def test_what_a_check_answers_wrongly_is_said_in_the_log(
    answer: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    events = Events()
    events.event(NAME)(lambda ctx, arguments, cursor: answer)
    async with http_peer(events) as peer:
        error = await peer.refused("events/poll", name=NAME)
    assert "nothing is lost, it tries again" in error.text
    assert error.data == {"reason": "check"}
    assert reason in caplog.text


def test_the_errors_that_a_user_meets_are_exported() -> None:
    import clarion.events

    for name in clarion.events.__all__:
        assert getattr(clarion.events, name) is not None
    assert {"Conflict", "InvalidEvent", "PayloadTooLarge", "StoreUnavailable"} <= set(clarion.events.__all__)
