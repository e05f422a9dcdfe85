"""Talk to a Clarion server: subscribe and receive what is pushed (`PushClient`), or use its HTTP API (`ApiClient`)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clarion.client.api import ApiClient
    from clarion.client.errors import MalformedFrame, ServerUnreachable, ToolRefused, UnexpectedAnswer
    from clarion.client.frames import EventFrame, Frame, HeartbeatFrame, LagFrame, OpenFrame, parse_frame
    from clarion.client.push import PushClient, ToolResult
    from clarion.client.stream import PushStream, Reconnecting

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
    "ToolResult",
    "UnexpectedAnswer",
    "parse_frame",
]


_MODULES = {
    "ApiClient": "api",
    "EventFrame": "frames",
    "Frame": "frames",
    "HeartbeatFrame": "frames",
    "LagFrame": "frames",
    "MalformedFrame": "errors",
    "OpenFrame": "frames",
    "PushClient": "push",
    "PushStream": "stream",
    "Reconnecting": "stream",
    "ServerUnreachable": "errors",
    "ToolRefused": "errors",
    "ToolResult": "push",
    "UnexpectedAnswer": "errors",
    "parse_frame": "frames",
}


def __getattr__(name: str) -> object:
    """Each name from its module when it is first asked for: the MCP SDK alone takes half a second to import."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
