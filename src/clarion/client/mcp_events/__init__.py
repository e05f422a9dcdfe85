"""A client of MCP Events (SEP-3415) over the official SDK: `connect`, `EventsClient`, what it yields and raises."""

from __future__ import annotations

from clarion.client.errors import ServerUnreachable, UnexpectedAnswer
from clarion.client.mcp_events.client import EventsClient, exception_of
from clarion.client.mcp_events.connecting import connect, http_client
from clarion.client.mcp_events.cursors import CursorStore, FileCursors, MemoryCursors
from clarion.client.mcp_events.subscription import Subscription
from clarion.client.mcp_events.values import (
    ConnectionLost,
    EventDescriptor,
    EventOccurrence,
    EventsError,
    Failure,
    Gap,
    Item,
    NoCompatibleDeliveryMode,
    Terminated,
)
from clarion.errors import ClarionError, Forbidden, InvalidInput, LimitExceeded, NotFound, Unauthenticated, Unsupported

__all__ = [
    "ClarionError",
    "ConnectionLost",
    "CursorStore",
    "EventDescriptor",
    "EventOccurrence",
    "EventsClient",
    "EventsError",
    "Failure",
    "FileCursors",
    "Forbidden",
    "Gap",
    "InvalidInput",
    "Item",
    "LimitExceeded",
    "MemoryCursors",
    "NoCompatibleDeliveryMode",
    "NotFound",
    "ServerUnreachable",
    "Subscription",
    "Terminated",
    "Unauthenticated",
    "UnexpectedAnswer",
    "Unsupported",
    "connect",
    "exception_of",
    "http_client",
]
