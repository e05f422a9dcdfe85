"""What a verified webhook says, and the reading that providers share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clarion.encoding import decode
from clarion.errors import InvalidEvent
from clarion.topics import MAX_SEGMENT_LENGTH, check_topic

__all__ = ["InboundMessage", "payload_object", "required_header", "segment", "topic_under"]

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """One delivery, described by its provider.

    A delivery that is sent again gives an equal message, so that it is recognised as the same event: nothing here may
    depend on the attempt. `occurred_at` is in microseconds.
    """

    topic: str
    payload: Mapping[str, Any]
    event_id: str
    occurred_at: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


def payload_object(body: bytes | str) -> dict[str, Any]:
    """The JSON object in `body`. Raises MalformedJSON, or InvalidEvent for JSON of another type."""
    value = decode(body)
    if not isinstance(value, dict):
        raise InvalidEvent("the body must be a JSON object", field="payload", rule="object")
    return value


def required_header(headers: Mapping[str, str], name: str) -> str:
    """The header's value without surrounding blanks. Raises InvalidEvent naming it when it is absent or empty."""
    value = headers.get(name.lower(), "").strip()
    if not value:
        raise InvalidEvent(f"the header {name} is missing", field=name, rule="required")
    return value


def segment(text: str) -> str:
    """`text` as one topic segment: what a topic cannot hold becomes `_`, and what is too long is cut."""
    return _FORBIDDEN.sub("_", text)[:MAX_SEGMENT_LENGTH] or "_"


def topic_under(prefix: str, name: str) -> str:
    """The topic for a dotted event name under `prefix`. Raises InvalidTopic when it has too many segments."""
    return check_topic(".".join([prefix, *map(segment, name.split("."))]))
