"""What a server needs of a library's events to serve them."""

from __future__ import annotations

from typing import Protocol

from clarion.wires.mcp_events.sdk import EventsBinding

__all__ = ["Attachable"]


class Attachable(Protocol):
    def binding(self, *, list_changed: bool = True) -> EventsBinding:
        """The methods for one SDK server."""
        ...

    async def aclose(self) -> None:
        """The server's lifespan is over."""
        ...
