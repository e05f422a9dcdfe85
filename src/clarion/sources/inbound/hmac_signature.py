"""Webhooks of any service that puts an HMAC of the raw body into a header: what and where is configured."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from clarion.errors import InvalidEvent
from clarion.sources.inbound.configuration import (
    Environment,
    HeaderName,
    PathText,
    SourceConfiguration,
    TopicText,
    secrets_of,
)
from clarion.sources.inbound.message import InboundMessage, payload_object, required_header, topic_under
from clarion.sources.inbound.protocol import Headers
from clarion.sources.inbound.signature import from_base64, from_hex, require_signature
from clarion.sources.inbound.template import check_path, value_at

__all__ = ["HMACConfiguration", "HMACSigned"]


class HMACConfiguration(SourceConfiguration):
    """Say where the signature is and how it is written; where the topic comes from; and what identifies an event.

    Without `event_id_header` and `event_id_field`, deliveries with equal bodies are one event.
    """

    kind: Literal["hmac"]
    header: HeaderName = Field(description="The header that holds the signature.")
    digest: Literal["sha256", "sha512", "sha1"] = Field(
        default="sha256", description="Choose sha1 only for a service that offers nothing else."
    )
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = Field(default="", description="What stands before the signature in its header, such as sha256=.")
    topic: TopicText | None = Field(default=None, description="The topic of every event.")
    topic_field: PathText | None = Field(default=None, description="Path of the payload field that names the event.")
    topic_prefix: TopicText | None = Field(
        default=None, description="What the topic begins with before that field's value; the source's name if not set."
    )
    event_id_header: HeaderName | None = None
    event_id_field: PathText | None = None

    @model_validator(mode="after")
    def _choices(self) -> HMACConfiguration:
        if (self.topic is None) == (self.topic_field is None):
            raise ValueError("give either topic or topic_field")
        if self.topic is not None and self.topic_prefix is not None:
            raise ValueError("topic_prefix goes with topic_field; with topic, write the whole topic there")
        if self.event_id_header is not None and self.event_id_field is not None:
            raise ValueError("give event_id_header or event_id_field, not both")
        return self


class HMACSigned:
    """A provider as its configuration says."""

    def __init__(self, configuration: HMACConfiguration, secrets: Sequence[bytes]) -> None:
        self._configuration = configuration
        self._secrets = tuple(secrets)
        self._decode = from_hex if configuration.encoding == "hex" else from_base64

    @classmethod
    def of(cls, configuration: HMACConfiguration, environment: Environment) -> HMACSigned:
        return cls(configuration, [secret.encode() for secret in secrets_of(configuration, environment)])

    def verify(self, headers: Headers, body: bytes, now: int) -> None:
        configuration = self._configuration
        text = headers.get(configuration.header.lower(), "").strip()
        matches = text.startswith(configuration.prefix)
        candidate = self._decode(text.removeprefix(configuration.prefix)) if matches else None
        require_signature(self._secrets, configuration.digest, body, [candidate])

    def describe(self, headers: Headers, body: bytes) -> InboundMessage:
        payload = payload_object(body)
        return InboundMessage(self._topic(payload), payload, self._event_id(headers, payload, body))

    def _topic(self, payload: dict[str, Any]) -> str:
        configuration = self._configuration
        if configuration.topic_field is None:
            return configuration.topic or configuration.name
        name = _text_at(payload, configuration.topic_field)
        return topic_under(configuration.topic_prefix or configuration.name, name)

    def _event_id(self, headers: Headers, payload: dict[str, Any], body: bytes) -> str:
        configuration = self._configuration
        if configuration.event_id_header is not None:
            return required_header(headers, configuration.event_id_header)
        if configuration.event_id_field is not None:
            return _text_at(payload, configuration.event_id_field)
        return hashlib.sha256(body).hexdigest()


def _text_at(payload: dict[str, Any], path: str) -> str:
    value = value_at(payload, check_path(path))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise InvalidEvent(f"the payload needs a text or a number at {path}", field=f"payload.{path}", rule="required")
    return value
