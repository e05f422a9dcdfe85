"""`clarion.client.frames`: what the server writes is read back typed; what is no frame is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion.client import EventFrame, Frame, HeartbeatFrame, LagFrame, MalformedFrame, OpenFrame, parse_frame
from clarion.hub.protocols import Opening
from clarion.hub.ring import Parcel
from clarion.model import Event, Position, Subscription, Truncation
from clarion.wires.pact import PactFraming

POSITION = Position("0123abcd", 7)
SUBSCRIPTION = Subscription("s-1", "t", "me", "c-1", ("deal.*",), {}, None, None, 0, 0)


def data_of(written: bytes) -> str:
    return next(line[6:] for line in written.decode().splitlines() if line.startswith("data: "))


def notification(method: str, params: object) -> str:
    return json.dumps({"jsonrpc": "2.0", "method": f"notifications/pact/{method}", "params": params})


def test_an_opening_tells_cursor_subscriptions_and_truncation():
    opening = Opening("c-1", (SUBSCRIPTION,), POSITION, Truncation.RETENTION)

    frame = parse_frame(data_of(PactFraming().opened(opening)), "0123abcd-7")

    assert isinstance(frame, OpenFrame)
    assert (frame.cursor, frame.truncated, frame.id) == (7, True, "0123abcd-7")
    assert frame.truncated_reason == "retention"
    assert [found["subscription_id"] for found in frame.subscriptions] == ["s-1"]


def test_an_event_has_its_ten_params_typed():
    event = Event("t", 7, "e-1", "api", "deal.won", "crm", b'{"amount":1}', 0, 1_500_000, actor_id="ada")

    frame = parse_frame(data_of(PactFraming().event(Parcel(event), [SUBSCRIPTION], POSITION)), "0123abcd-7")

    assert isinstance(frame, EventFrame)
    assert (frame.event_id, frame.topic, frame.subscription_id) == (7, "deal.won", "s-1")
    assert (frame.payload, frame.occurred_at) == ({"amount": 1}, "1970-01-01T00:00:01.500000Z")
    assert frame.params["actor_id"] == "ada"
    assert len(frame.params) == 10


def test_a_lag_tells_how_many_were_dropped_and_where_to_resume():
    frame = parse_frame(data_of(PactFraming().lagged("s-1", 17, 100, POSITION)), "")

    assert isinstance(frame, LagFrame)
    assert (frame.subscription_id, frame.dropped_count, frame.last_event_id) == ("s-1", 17, 7)


def test_a_heartbeat_tells_the_cursor():
    frame = parse_frame(data_of(PactFraming().heartbeat(POSITION)), "0123abcd-7")

    assert isinstance(frame, HeartbeatFrame)
    assert frame.cursor == 7


def test_an_unknown_notification_is_a_plain_frame():
    frame = parse_frame(notification("news", {"a": 1}), "x")

    assert type(frame) is Frame
    assert frame.params == {"a": 1}


@pytest.mark.parametrize(
    "data",
    [
        "",
        "nonsense",
        "[]",
        "1",
        '{"method": "notifications/pact/event", "params": {}}',
        '{"jsonrpc": "2.0", "id": 1, "method": "ping"}',
        '{"jsonrpc": "2.0", "id": 1, "result": {}}',
        '{"jsonrpc": "2.0", "method": 3}',
        notification("heartbeat", []),
        notification("heartbeat", {}),
        notification("heartbeat", {"cursor": True}),
        notification("heartbeat", {"cursor": "7"}),
        notification("event", {"subscription_id": "s"}),
        notification("subscription.lag", {"subscription_id": "s", "dropped_count": None, "last_event_id": 1}),
    ],
)
def test_what_is_no_frame_is_refused(data: str):
    with pytest.raises(MalformedFrame):
        parse_frame(data, "")


@given(
    st.text()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(json.dumps)
)
def test_no_input_does_anything_else_than_parse_or_refuse(data: str):
    try:
        frame = parse_frame(data, "")
    except MalformedFrame:
        return
    assert frame.raw == data
