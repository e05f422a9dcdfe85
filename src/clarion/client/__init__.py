"""Talk to a Clarion server: subscribe and receive what is pushed (`PushClient`), or use its HTTP API (`ApiClient`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clarion.client.api import ApiClient
from clarion.client.errors import MalformedFrame, ServerUnreachable, ToolRefused, UnexpectedAnswer
from clarion.client.frames import EventFrame, Frame, HeartbeatFrame, LagFrame, OpenFrame, parse_frame
from clarion.client.stream import PushStream, Reconnecting

if TYPE_CHECKING:
    from clarion.client.push import PushClient

__all__ = [
    "ApiClient",
    "EventFrame",
    "Frame",
    "HeartbeatFrame",
    "LagFrame",
    "MalformedFrame",
    "OpenFrame",
    "PushClient",
    "PushStream",
    "Reconnecting",
    "ServerUnreachable",
    "ToolRefused",
    "UnexpectedAnswer",
    "parse_frame",
]


def __getattr__(name: str) -> object:
    """`PushClient`, when it is first asked for: the MCP SDK takes longer to import than all the rest."""
    if name == "PushClient":
        from clarion.client.push import PushClient

        return PushClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
