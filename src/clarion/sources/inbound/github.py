"""GitHub's webhooks, as its documentation "Webhook events and payloads" describes them.

Signed with HMAC-SHA256 in `X-Hub-Signature-256`. The signature covers the body alone: what the headers say is as
trustworthy as the transport.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import parse_qsl

from clarion.errors import InvalidEvent
from clarion.sources.inbound.configuration import (
    EnvelopeTemplate,
    Environment,
    SourceConfiguration,
    TemplateText,
    secrets_of,
)
from clarion.sources.inbound.message import InboundMessage, payload_object, required_header, topic_under
from clarion.sources.inbound.protocol import Headers
from clarion.sources.inbound.signature import from_hex, require_signature

__all__ = ["GitHub", "GitHubConfiguration"]

_SIGNATURE = "x-hub-signature-256"
_PREFIX = "sha256="
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"


class GitHubEnvelope(EnvelopeTemplate):
    """The envelope of GitHub's payloads, unless configured otherwise, field by field."""

    aggregate_type: TemplateText | None = "repository"
    aggregate_id: TemplateText | None = "{repository.full_name}"
    actor_id: TemplateText | None = "{sender.login}"


class GitHubConfiguration(SourceConfiguration):
    """Webhooks of GitHub, with the content type `application/json` or `application/x-www-form-urlencoded`."""

    kind: Literal["github"]
    template: GitHubEnvelope = GitHubEnvelope()


class GitHub:
    """Topic `github.<event>.<action>`, or `github.<event>` without an action; event id: the delivery's GUID."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = tuple(secrets)

    @classmethod
    def of(cls, configuration: GitHubConfiguration, environment: Environment) -> GitHub:
        return cls([secret.encode() for secret in secrets_of(configuration, environment)])

    def verify(self, headers: Headers, body: bytes, now: int) -> None:
        text = headers.get(_SIGNATURE, "").strip()
        candidate = from_hex(text.removeprefix(_PREFIX)) if text.startswith(_PREFIX) else None
        require_signature(self._secrets, "sha256", body, [candidate])

    def describe(self, headers: Headers, body: bytes) -> InboundMessage:
        event = required_header(headers, "X-GitHub-Event")
        delivery = required_header(headers, "X-GitHub-Delivery")
        payload = _payload(headers, body)
        attributes = {"github_event": event}
        name = event.replace(".", "_")
        action = payload.get("action")
        if isinstance(action, str) and action:
            name += "." + action.replace(".", "_")
        if hook := headers.get("x-github-hook-id"):
            attributes["github_hook_id"] = hook
        return InboundMessage(topic_under("github", name), payload, delivery, attributes=attributes)


def _payload(headers: Headers, body: bytes) -> dict[str, Any]:
    content_type = headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    if content_type == _JSON:
        return payload_object(body)
    if content_type == _FORM:
        return payload_object(_form_field(body))
    raise InvalidEvent(
        f"set the webhook's content type to {_JSON} or {_FORM}", field="Content-Type", rule="content_type"
    )


def _form_field(body: bytes) -> str:
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=10)
    except ValueError:  # UnicodeDecodeError is one too
        raise InvalidEvent("the form cannot be read", field="payload", rule="form") from None
    found = [value for name, value in fields if name == "payload"]
    if len(found) != 1:
        raise InvalidEvent("the form must have one field named payload", field="payload", rule="form")
    return found[0]
