"""GitHub's webhooks: verified first, then described; a redelivery is the same event."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any
from urllib.parse import urlencode

import pytest

from clarion.errors import InvalidEvent, MalformedJSON, Unauthenticated
from clarion.sources.inbound import InboundEvent, InboundSource, build_source, read_configuration

SECRET = "It's a Secret to Everybody"
STAR: dict[str, Any] = {
    "action": "created",
    "repository": {"full_name": "octocat/hello-world"},
    "sender": {"login": "octocat"},
}


def source(**more: Any) -> InboundSource:
    data = {"kind": "github", "name": "hub", "tenant": "acme", "secret": SECRET, **more}
    return build_source(read_configuration(data), {})


def signature(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def headers(body: bytes, event: str = "star", **more: str | None) -> dict[str, str]:
    found: dict[str, str | None] = {
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "X-Hub-Signature-256": signature(body),
        "Content-Type": "application/json",
    }
    found |= {name.replace("_", "-"): value for name, value in more.items()}
    return {name: value for name, value in found.items() if value is not None}


def receive(payload: Any, event: str = "star", **more: Any) -> InboundEvent:
    body = json.dumps(payload).encode()
    return source(**more).receive(headers(body, event), body, 0)


def test_a_signed_delivery_becomes_an_event() -> None:
    assert receive(STAR) == InboundEvent(
        tenant="acme",
        source="hub",
        topic="github.star.created",
        payload=STAR,
        event_id="72d3162e-cc78-11e3-81ab-4c9367dc0958",
        aggregate_type="repository",
        aggregate_id="octocat/hello-world",
        actor_id="octocat",
        correlation_id=None,
        subjects=(),
        occurred_at=None,
        attributes={"github_event": "star"},
    )


def test_the_signature_of_githubs_own_documentation_verifies() -> None:
    body = b"Hello, World!"
    found = {"X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}
    with pytest.raises(InvalidEvent):  # past the signature: the next thing missing is the event's name
        source().receive(found, body, 0)


@pytest.mark.parametrize(
    ("event", "payload", "topic"),
    [
        ("push", {"ref": "refs/heads/main"}, "github.push"),
        ("ping", {"zen": "Keep it logically awesome."}, "github.ping"),
        ("push", {"action": 5}, "github.push"),
        ("push", {"action": ""}, "github.push"),
        ("repository_dispatch", {"action": "on-demand-test"}, "github.repository_dispatch.on-demand-test"),
        ("repository_dispatch", {"action": "a.b c/ä"}, "github.repository_dispatch.a_b_c__"),
        ("repository_dispatch", {"action": "x" * 80}, "github.repository_dispatch." + "x" * 64),
        ("a.b", {}, "github.a_b"),
    ],
)
def test_the_topic_is_event_and_action(event: str, payload: dict[str, Any], topic: str) -> None:
    assert receive(payload, event).topic == topic


def test_a_form_encoded_delivery_is_the_same_event() -> None:
    payload = {**STAR, "note": "ä & + %20"}
    body = urlencode({"payload": json.dumps(payload, ensure_ascii=False)}).encode()
    found = headers(body, Content_Type="application/x-www-form-urlencoded; charset=utf-8")
    assert source().receive(found, body, 0) == receive(payload)


@pytest.mark.parametrize(
    "body", [b"", b"other=1", b"payload=%7B%7D&payload=%7B%7D", b"payload=%ff", b"\xff", b"a&" * 50]
)
def test_a_form_without_one_readable_payload_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidEvent) as caught:
        source().receive(headers(body, Content_Type="application/x-www-form-urlencoded"), body, 0)
    assert caught.value.rule == "form"


def test_another_content_type_is_refused() -> None:
    with pytest.raises(InvalidEvent) as caught:
        source().receive(headers(b"{}", Content_Type="text/plain"), b"{}", 0)
    assert caught.value.field == "Content-Type"


@pytest.mark.parametrize("name", ["X-GitHub-Event", "X-GitHub-Delivery"])
def test_a_missing_header_is_named_once_the_signature_is_verified(name: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        source().receive({key: value for key, value in headers(b"{}").items() if key != name}, b"{}", 0)
    assert caught.value.field == name
    with pytest.raises(Unauthenticated):
        source().receive({}, b"{}", 0)


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "sha256=",
        "sha256=zz",
        "sha256=ä",
        signature(b"{}", "wrong"),
        signature(b"{ }"),
        signature(b"{}").removeprefix("sha256="),
        signature(b"{}").replace("sha256", "sha1"),
        signature(b"{}")[:-2],
        signature(b"{}") + "00",
    ],
)
def test_a_bad_signature_gets_one_answer_without_hints(given: str | None) -> None:
    with pytest.raises(Unauthenticated) as caught:
        source().receive(headers(b"{}", X_Hub_Signature_256=given), b"{}", 0)
    assert caught.value.message == "the webhook's signature is not valid"
    assert caught.value.field is None


def test_a_tampered_body_is_refused() -> None:
    body = json.dumps(STAR).encode()
    with pytest.raises(Unauthenticated):
        source().receive(headers(body), body.replace(b"octocat", b"mallory"), 0)


def test_nothing_is_parsed_before_the_signature_is_verified() -> None:
    body = b"{not json"
    with pytest.raises(Unauthenticated):
        source().receive(headers(body, X_Hub_Signature_256=signature(b"{}")), body, 0)
    with pytest.raises(MalformedJSON):
        source().receive(headers(body), body, 0)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"1"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidEvent) as caught:
        source().receive(headers(body), body, 0)
    assert caught.value.field == "payload"


def test_header_names_are_read_in_any_case() -> None:
    body = json.dumps(STAR).encode()
    upper = {name.upper(): value for name, value in headers(body).items()}
    assert source().receive(upper, body, 0) == receive(STAR)


def test_both_secrets_are_accepted_while_one_is_rotated() -> None:
    rotating = source(secret=["new", SECRET])
    for secret in ("new", SECRET):
        found = headers(b"{}", X_Hub_Signature_256=signature(b"{}", secret))
        assert rotating.receive(found, b"{}", 0).topic == "github.star"
    with pytest.raises(Unauthenticated):
        rotating.receive(headers(b"{}", X_Hub_Signature_256=signature(b"{}", "old")), b"{}", 0)


def test_a_payload_without_a_repository_has_no_aggregate() -> None:
    event = receive({"action": "created", "sender": {"login": "octocat"}}, "sponsorship")
    assert (event.aggregate_type, event.aggregate_id, event.actor_id) == (None, None, "octocat")


def test_a_configured_template_replaces_the_default_field_by_field() -> None:
    event = receive(STAR, template={"actor_id": None, "subjects": ["github:{sender.login}"]})
    assert (event.aggregate_id, event.actor_id) == ("octocat/hello-world", None)
    assert event.subjects == ("github:octocat",)
