"""Frames of the push stream: JSON-RPC notifications, checked once and then typed (SEEDS section 0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from clarion.client.errors import MalformedFrame
from clarion.encoding import decode
from clarion.errors import MalformedJSON

__all__ = ["EventFrame", "Frame", "HeartbeatFrame", "LagFrame", "OpenFrame", "parse_frame"]

PREFIX = "notifications/pact/"


@dataclass(frozen=True, slots=True)
class Frame:
    """One notification; of this class itself when its method is one that this client does not know.

    `id` is the cursor to resume after this frame with, empty before the first; `raw` is the JSON as it came.
    """

    method: str
    params: Mapping[str, Any]
    id: str
    raw: str = field(repr=False)

    required: ClassVar[Mapping[str, type]] = {}


class OpenFrame(Frame):
    """The first frame of every connection."""

    __slots__ = ()
    required: ClassVar[Mapping[str, type]] = {"subscriptions": list, "cursor": int}

    @property
    def cursor(self) -> int:
        """The seq that the stream begins after."""
        return int(self.params["cursor"])

    @property
    def subscriptions(self) -> Sequence[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = self.params["subscriptions"]
        return found

    @property
    def truncated(self) -> bool:
        """Events between the cursor that was asked for and this stream's beginning are no longer to be had."""
        return bool(self.params.get("truncated", False))

    @property
    def truncated_reason(self) -> str | None:
        """Why: `retention` (no longer kept), `epoch` (the cursor is another log's) or `ahead` (it lies past the newest
        event); None when the server does not say, or nothing is truncated."""
        found = self.params.get("truncated_reason")
        return found if isinstance(found, str) else None


class EventFrame(Frame):
    """One event, for one subscription."""

    __slots__ = ()
    required: ClassVar[Mapping[str, type]] = {
        "subscription_id": str,
        "event_id": int,
        "topic": str,
        "occurred_at": str,
        "payload": dict,
    }

    @property
    def subscription_id(self) -> str:
        return str(self.params["subscription_id"])

    @property
    def event_id(self) -> int:
        """The event's seq, which is a cursor as well."""
        return int(self.params["event_id"])

    @property
    def topic(self) -> str:
        return str(self.params["topic"])

    @property
    def occurred_at(self) -> str:
        """ISO 8601, UTC."""
        return str(self.params["occurred_at"])

    @property
    def payload(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.params["payload"]
        return found


class LagFrame(Frame):
    """Events were dropped because this stream was read too slowly; resuming at `last_event_id` brings them back."""

    __slots__ = ()
    required: ClassVar[Mapping[str, type]] = {"subscription_id": str, "dropped_count": int, "last_event_id": int}

    @property
    def subscription_id(self) -> str:
        return str(self.params["subscription_id"])

    @property
    def dropped_count(self) -> int:
        return int(self.params["dropped_count"])

    @property
    def last_event_id(self) -> int:
        return int(self.params["last_event_id"])


class HeartbeatFrame(Frame):
    """The stream lives, and everything up to `cursor` has been sent."""

    __slots__ = ()
    required: ClassVar[Mapping[str, type]] = {"cursor": int}

    @property
    def cursor(self) -> int:
        return int(self.params["cursor"])


_KINDS: dict[str, type[Frame]] = {
    f"{PREFIX}subscription.open": OpenFrame,
    f"{PREFIX}event": EventFrame,
    f"{PREFIX}subscription.lag": LagFrame,
    f"{PREFIX}heartbeat": HeartbeatFrame,
}


def parse_frame(data: str, cursor: str) -> Frame:
    """The frame in the `data:` of an SSE event, whose last `id:` is `cursor`. Raises MalformedFrame."""
    try:
        body = decode(data)
    except MalformedJSON as error:
        raise MalformedFrame(f"a frame is {error.message}") from None
    if not isinstance(body, dict) or body.get("jsonrpc") != "2.0":
        raise MalformedFrame("a frame is no JSON-RPC 2.0 message")
    method, params = body.get("method"), body.get("params", {})
    if not isinstance(method, str) or "id" in body or not isinstance(params, dict):
        raise MalformedFrame("a frame is no JSON-RPC notification")
    kind = _KINDS.get(method, Frame)
    for name, wanted in kind.required.items():
        if not isinstance(params.get(name), wanted) or isinstance(params[name], bool):
            raise MalformedFrame(f"a {method} frame has no valid {name}")
    return kind(method, params, cursor, data)
