"""The configurable HMAC provider."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from clarion.errors import InvalidEvent, MalformedJSON, Unauthenticated
from clarion.sources.inbound import InboundEvent, InboundSource, build_source, read_configuration

SECRET = "shared"


def source(**more: Any) -> InboundSource:
    data = {
        **{"kind": "hmac", "name": "shop", "tenant": "acme", "secret": SECRET},
        **{"header": "X-Shop-Signature", "topic": "orders.changed"},
        **more,
    }
    return build_source(read_configuration(data), {})


def mac(body: bytes, digest: str = "sha256", secret: str = SECRET) -> bytes:
    return hmac.new(secret.encode(), body, getattr(hashlib, digest)).digest()


def receive(payload: Any, extra: dict[str, str] | None = None, **more: Any) -> InboundEvent:
    body = json.dumps(payload).encode()
    return source(**more).receive({"x-shop-signature": mac(body).hex()} | (extra or {}), body, 0)


@pytest.mark.parametrize("digest", ["sha256", "sha512", "sha1"])
@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("prefix", ["", "sig="])
def test_digest_encoding_and_prefix_are_as_configured(digest: str, encoding: str, prefix: str) -> None:
    body = b'{"a": 1}'
    text = mac(body, digest).hex() if encoding == "hex" else base64.b64encode(mac(body, digest)).decode()
    configured = source(digest=digest, encoding=encoding, prefix=prefix)
    assert configured.receive({"X-Shop-Signature": prefix + text}, body, 0).payload == {"a": 1}
    with pytest.raises(Unauthenticated):
        configured.receive({"X-Shop-Signature": "other" + text}, body, 0)


def test_hexadecimal_is_read_in_either_case() -> None:
    assert source().receive({"x-shop-signature": mac(b"{}").hex().upper()}, b"{}", 0).topic == "orders.changed"


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "zz",
        "ä",
        mac(b"{}", "sha1").hex(),
        mac(b"{ }").hex(),
        mac(b"{}", secret="wrong").hex(),
        "sha256=" + "0" * 64,
    ],
)
def test_a_bad_signature_gets_one_answer_without_hints(given: str | None) -> None:
    with pytest.raises(Unauthenticated) as caught:
        source().receive({} if given is None else {"x-shop-signature": given}, b"{}", 0)
    assert caught.value.message == "the webhook's signature is not valid"


def test_nothing_is_parsed_before_the_signature_is_verified() -> None:
    with pytest.raises(Unauthenticated):
        source().receive({"x-shop-signature": mac(b"{}").hex()}, b"{", 0)
    with pytest.raises(MalformedJSON):
        source().receive({"x-shop-signature": mac(b"{").hex()}, b"{", 0)


def test_the_topic_may_come_from_the_payload() -> None:
    payload = {"event": {"name": "order.paid"}}
    assert receive(payload, topic=None, topic_field="event.name").topic == "shop.order.paid"
    found = receive(payload, topic=None, topic_field="event.name", topic_prefix="custom.shop")
    assert found.topic == "custom.shop.order.paid"


@pytest.mark.parametrize("payload", [{}, {"event": 1}, {"event": {"name": ""}}, {"event": {"name": ["a"]}}])
def test_a_topic_field_that_is_missing_is_named(payload: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent) as caught:
        receive(payload, topic=None, topic_field="event.name")
    assert caught.value.field == "payload.event.name"


def test_the_event_id_may_come_from_a_header() -> None:
    assert receive({}, {"X-Shop-Id": "77"}, event_id_header="x-shop-id").event_id == "77"
    with pytest.raises(InvalidEvent) as caught:
        receive({}, event_id_header="X-Shop-Id")
    assert caught.value.field == "X-Shop-Id"


def test_the_event_id_may_come_from_the_payload() -> None:
    assert receive({"order": {"id": 12}}, event_id_field="order.id").event_id == "12"
    with pytest.raises(InvalidEvent) as caught:
        receive({"order": {"id": True}}, event_id_field="order.id")
    assert caught.value.field == "payload.order.id"


def test_without_an_id_equal_bodies_are_one_event() -> None:
    assert receive({"a": 1}).event_id == receive({"a": 1}).event_id
    assert receive({"a": 1}).event_id != receive({"a": 2}).event_id
