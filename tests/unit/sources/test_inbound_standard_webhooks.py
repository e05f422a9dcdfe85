"""Standard Webhooks: id, time and body are signed together; secrets rotate; a retry is the same event."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from clarion.errors import InvalidEvent, InvalidInput, InvalidTopic, MalformedJSON, Unauthenticated
from clarion.model import MICROSECONDS, parse_time
from clarion.sources.inbound import InboundEvent, InboundSource, build_source, read_configuration

KEY = b"twenty-four bytes of key"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
SENT = 1_700_000_000
NOW = SENT * MICROSECONDS
PAID: dict[str, Any] = {"type": "invoice.paid", "timestamp": "2023-11-14T22:13:20Z", "data": {"id": "in_1", "by": "u1"}}


def source(**more: Any) -> InboundSource:
    data = {"kind": "standard-webhooks", "name": "billing", "tenant": "acme", "secret": SECRET, **more}
    return build_source(read_configuration(data), {})


def signature(body: bytes, *, key: bytes = KEY, message_id: str = "msg_1", sent: int = SENT) -> str:
    signed = f"{message_id}.{sent}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def headers(body: bytes, *, sent: int = SENT, **more: str | None) -> dict[str, str]:
    found: dict[str, str | None] = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(sent),
        "webhook-signature": signature(body, sent=sent),
    }
    found |= {name.replace("_", "-"): value for name, value in more.items()}
    return {name: value for name, value in found.items() if value is not None}


def receive(content: Any, **more: Any) -> InboundEvent:
    body = json.dumps(content).encode()
    return source(**more).receive(headers(body), body, NOW)


def test_a_signed_delivery_becomes_an_event_under_the_sources_name() -> None:
    event = receive(PAID)
    assert (event.tenant, event.source, event.topic) == ("acme", "billing", "billing.invoice.paid")
    assert (event.event_id, event.payload) == ("msg_1", PAID)
    assert event.occurred_at == parse_time("2023-11-14T22:13:20Z")


def test_the_topic_prefix_and_the_payload_can_be_configured() -> None:
    event = receive(PAID, topic_prefix="custom.pay", payload="data", template={"actor_id": "{by}"})
    assert (event.topic, event.payload, event.actor_id) == ("custom.pay.invoice.paid", PAID["data"], "u1")


def test_characters_that_no_topic_holds_are_replaced() -> None:
    assert receive({"type": "in/voice..päid"}).topic == "billing.in_voice._.p_id"


def test_a_retry_is_the_same_event() -> None:
    body = json.dumps({"type": "a"}).encode()
    first = source().receive(headers(body), body, NOW)
    again = source().receive(headers(body, sent=SENT + 60), body, NOW + 60 * MICROSECONDS)
    assert first == again
    assert first.occurred_at is None


@pytest.mark.parametrize("offset", [-300, 0, 300])
def test_a_time_within_five_minutes_passes(offset: int) -> None:
    body = b'{"type": "a"}'
    assert source().receive(headers(body), body, NOW + offset * MICROSECONDS).topic == "billing.a"


@pytest.mark.parametrize("offset", [-301, 301, 86_400])
def test_a_stale_or_future_time_is_refused(offset: int) -> None:
    body = b'{"type": "a"}'
    with pytest.raises(Unauthenticated):
        source().receive(headers(body), body, NOW + offset * MICROSECONDS)


@pytest.mark.parametrize(
    "more",
    [
        {"webhook_id": None},
        {"webhook_id": "msg_2"},
        {"webhook_timestamp": None},
        {"webhook_timestamp": str(SENT + 1)},
        {"webhook_timestamp": "now"},
        {"webhook_timestamp": f"-{SENT}"},
        {"webhook_timestamp": "9" * 40},
        {"webhook_signature": None},
        {"webhook_signature": ""},
        {"webhook_signature": "v1,"},
        {"webhook_signature": "v1,!!!!"},
        {"webhook_signature": "v1,ä"},
        {"webhook_signature": signature(b"{}").replace("v1,", "v2,")},
        {"webhook_signature": signature(b"{}").removeprefix("v1,")},
        {"webhook_signature": signature(b"{}", key=b"wrong")},
        {"webhook_signature": signature(b"{ }")},
    ],
)
def test_a_bad_signature_gets_one_answer_without_hints(more: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        source().receive(headers(b"{}", **more), b"{}", NOW)
    assert caught.value.message == "the webhook's signature is not valid"


def test_one_good_signature_of_several_is_enough() -> None:
    body = b'{"type": "a"}'
    several = f"v1a,AAAA {signature(body, key=b'old')} {signature(body)}"
    assert source().receive(headers(body, webhook_signature=several), body, NOW).topic == "billing.a"


def test_both_secrets_are_accepted_while_one_is_rotated() -> None:
    body = b'{"type": "a"}'
    rotating = source(secret=["whsec_" + base64.b64encode(b"new").decode(), base64.b64encode(KEY).decode()])
    for key in (b"new", KEY):
        found = headers(body, webhook_signature=signature(body, key=key))
        assert rotating.receive(found, body, NOW).topic == "billing.a"


def test_nothing_is_parsed_before_the_signature_is_verified() -> None:
    with pytest.raises(Unauthenticated):
        source().receive(headers(b"{", webhook_signature=signature(b"{}")), b"{", NOW)
    with pytest.raises(MalformedJSON):
        source().receive(headers(b"{"), b"{", NOW)


@pytest.mark.parametrize("payload", [{}, {"type": 5}, {"type": ""}, {"type": None}])
def test_a_missing_type_is_named(payload: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent) as caught:
        receive(payload)
    assert caught.value.field == "type"


def test_data_must_be_an_object_where_it_is_the_payload() -> None:
    with pytest.raises(InvalidEvent) as caught:
        receive({"type": "a", "data": [1]}, payload="data")
    assert caught.value.field == "data"


def test_a_type_of_too_many_segments_is_an_invalid_topic() -> None:
    with pytest.raises(InvalidTopic):
        receive({"type": ".".join("a" * 16)})


@pytest.mark.parametrize("timestamp", ["yesterday", 5, None, ""])
def test_a_time_that_cannot_be_read_is_left_out(timestamp: Any) -> None:
    assert receive({"type": "a", "timestamp": timestamp}).occurred_at is None


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64", "plain!"])
def test_a_secret_that_is_not_base64_is_refused_without_repeating_it(secret: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        source(secret=secret)
    assert "base64" in caught.value.message
    assert secret.removeprefix("whsec_") == "" or secret.removeprefix("whsec_") not in caught.value.message
