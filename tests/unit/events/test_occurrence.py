"""The author's event, to the wires' and back."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from clarion import model
from clarion.errors import InvalidInput
from clarion.events.occurrence import Context, Event
from clarion.model import Principal
from clarion.wires.mcp_events.protocol import Caller, Wanted

NOW = 1_800_000_000_000_000


def checked(event: Event) -> model.Event:
    return event.checked("acme", "mail.received", NOW)


def test_an_event_comes_back_as_it_was_given() -> None:
    at = datetime(2026, 5, 1, 12, 30, 0, 250, UTC)
    event = Event({"n": 1}, "mail.received", "e1", at, {"trace": "t"})
    carried = checked(event)
    assert (carried.tenant, carried.seq, carried.topic, carried.source) == ("acme", 0, "mail.received", "check")
    assert carried.recorded_at == NOW
    assert Event.of(carried) == event


def test_a_time_without_an_offset_is_utc_and_none_is_now() -> None:
    naive = datetime(2026, 5, 1, 12)
    assert (
        checked(Event({}, timestamp=naive)).occurred_at
        == checked(Event({}, timestamp=naive.replace(tzinfo=UTC))).occurred_at
    )
    east = datetime(2026, 5, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    assert checked(Event({}, timestamp=east)).occurred_at == checked(Event({}, timestamp=naive)).occurred_at
    assert checked(Event({})).occurred_at == NOW


def test_a_derived_id_is_the_same_for_the_same_event_whenever_it_is_seen() -> None:
    at = datetime(2026, 5, 1, tzinfo=UTC)
    first = Event({"a": 1, "b": 2}, timestamp=at).checked("acme", "mail.received", NOW)
    later = Event({"b": 2, "a": 1}, name="mail.received", timestamp=at).checked("acme", "mail.received", NOW + 5)
    assert first.event_id == later.event_id


@pytest.mark.parametrize(
    "other",
    [
        Event({"a": 2}),
        Event({"a": 1}, timestamp=datetime(2026, 1, 1, tzinfo=UTC)),
        Event({"a": 1}, cursor="7"),
    ],
)
def test_a_derived_id_tells_other_events_apart(other: Event) -> None:
    assert checked(other).event_id != checked(Event({"a": 1})).event_id


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"data": []}, "data"),
        ({"data": {"x": object()}}, "data"),
        ({"data": {"x": float("nan")}}, "data"),
        ({"data": {}, "meta": {"x": object()}}, "meta"),
        ({"data": {}, "name": "other"}, "name"),
        ({"data": {}, "event_id": ""}, "event_id"),
        ({"data": {}, "event_id": 7}, "event_id"),
        ({"data": {}, "event_id": "x" * 257}, "event_id"),
        ({"data": {}, "event_id": "\ud800"}, "event_id"),
        ({"data": {}, "timestamp": "today"}, "timestamp"),
        ({"data": {}, "timestamp": datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))}, "timestamp"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked(Event(**fields))
    assert caught.value.field == field


def test_what_a_hook_changes_is_its_own() -> None:
    carried = checked(Event({"list": [1]}, meta={"list": [1]}))
    seen = Event.of(carried)
    seen.data["list"].append(2)
    seen.meta["list"].append(2)
    assert Event.of(carried).data == {"list": [1]}
    assert Event.of(carried).meta == {"list": [1]}


def test_a_context_is_its_holders_own() -> None:
    claims, arguments = {"scopes": ["a"]}, {"from": ["x"]}
    caller = Caller(Principal("acme", "alice"), "laptop", "key", True, claims)
    wanted = Wanted(caller, "mail.received", arguments)
    context = Context.of(wanted)
    claims["scopes"].append("b")
    arguments["from"].append("y")
    assert (context.claims, context.arguments) == ({"scopes": ["a"]}, {"from": ["x"]})
    context.copy().arguments["from"].append("z")
    assert context.arguments == {"from": ["x"]}
    assert context.subscription_id.startswith("sub_")


def test_an_anonymous_context_names_the_tenant_alone() -> None:
    caller = Caller(Principal("acme", "alice"), "laptop", "key", True, {"sub": "alice"})
    context = Context.of(Wanted(caller, "mail.received", {"from": "x"})).anonymous()
    assert "alice" not in repr(context)
    assert context.principal.tenant == "acme"
    assert context.arguments == {"from": "x"}
