"""Webhooks that are signed as the Standard Webhooks specification says, symmetric signatures (`v1`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from clarion.errors import InvalidEvent, InvalidInput
from clarion.model import MICROSECONDS, parse_time
from clarion.sources.inbound.configuration import Environment, SourceConfiguration, TopicText, secrets_of
from clarion.sources.inbound.message import InboundMessage, payload_object, topic_under
from clarion.sources.inbound.protocol import Headers
from clarion.sources.inbound.signature import bad_signature, from_base64, require_signature

__all__ = ["TOLERANCE", "StandardWebhooks", "StandardWebhooksConfiguration"]

TOLERANCE = 5 * 60 * MICROSECONDS
"""How far a delivery's signed time may be from now, either way. Bounds how long a captured delivery can be replayed."""

_SECRET = "whsec_"
_VERSION = "v1,"
_SECONDS = re.compile(r"[0-9]{1,12}\Z", re.ASCII)


class StandardWebhooksConfiguration(SourceConfiguration):
    """Secrets are base64, with or without `whsec_` before them."""

    kind: Literal["standard-webhooks"]
    topic_prefix: TopicText | None = Field(
        default=None, description="What the topic begins with, before the payload's type; the source's name if not set."
    )
    payload: Literal["body", "data"] = Field(
        default="body", description="Whether an event's payload is the whole body or only its data."
    )


class StandardWebhooks:
    """Topic: the body's `type` under a prefix; event id: `webhook-id`, which the signature covers."""

    def __init__(self, secrets: Sequence[bytes], *, prefix: str, payload: Literal["body", "data"] = "body") -> None:
        self._secrets = tuple(secrets)
        self._prefix = prefix
        self._payload = payload

    @classmethod
    def of(cls, configuration: StandardWebhooksConfiguration, environment: Environment) -> StandardWebhooks:
        secrets = [_key(secret, configuration.name) for secret in secrets_of(configuration, environment)]
        prefix = configuration.topic_prefix or configuration.name
        return cls(secrets, prefix=prefix, payload=configuration.payload)

    def verify(self, headers: Headers, body: bytes, now: int) -> None:
        message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not message_id or _SECONDS.match(timestamp) is None:
            raise bad_signature()
        signatures = headers.get("webhook-signature", "").split(" ")
        signed = f"{message_id}.{timestamp}.".encode("latin-1", "replace") + body
        candidates = [from_base64(text.removeprefix(_VERSION)) for text in signatures if text.startswith(_VERSION)]
        require_signature(self._secrets, "sha256", signed, candidates)
        if abs(now - int(timestamp) * MICROSECONDS) > TOLERANCE:
            raise bad_signature()

    def describe(self, headers: Headers, body: bytes) -> InboundMessage:
        content = payload_object(body)
        kind = content.get("type")
        if not isinstance(kind, str) or not kind:
            raise InvalidEvent("the body needs a type, such as invoice.paid", field="type", rule="required")
        payload = content if self._payload == "body" else content.get("data")
        if not isinstance(payload, dict):
            raise InvalidEvent("data must be a JSON object", field="data", rule="object")
        topic = topic_under(self._prefix, kind)
        return InboundMessage(topic, payload, headers["webhook-id"], _time(content), {"webhook_type": kind})


def _time(content: dict[str, Any]) -> int | None:
    """The body's own time, if any. `webhook-timestamp` is another for each attempt, so it is no event's time."""
    text = content.get("timestamp")
    try:
        return parse_time(text) if isinstance(text, str) else None
    except (ValueError, OverflowError):
        return None


def _key(secret: str, source: str) -> bytes:
    key = from_base64(secret.removeprefix(_SECRET))
    if not key:
        raise InvalidInput(
            f"inbound source {source}: a secret must be base64, as in {_SECRET}...", field="secret", rule="base64"
        )
    return key
