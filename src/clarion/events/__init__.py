"""Events for any Python MCP server (SEP-3415): declare event types, emit, and let clients poll and stream them."""

from clarion.errors import (
    ClarionError,
    Conflict,
    DataDirectoryOwned,
    Forbidden,
    InvalidEvent,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PayloadTooLarge,
    StoreUnavailable,
    Unsupported,
)
from clarion.events.identity import Identity
from clarion.events.library import Events
from clarion.events.occurrence import Context, CursorExpired, Event, EventResult
from clarion.wires.mcp_events.layer import EventsLayer

__all__ = [
    "ClarionError",
    "Conflict",
    "Context",
    "CursorExpired",
    "DataDirectoryOwned",
    "Event",
    "EventResult",
    "Events",
    "EventsLayer",
    "Forbidden",
    "Identity",
    "InvalidEvent",
    "InvalidInput",
    "LimitExceeded",
    "NotFound",
    "PayloadTooLarge",
    "StoreUnavailable",
    "Unsupported",
]
