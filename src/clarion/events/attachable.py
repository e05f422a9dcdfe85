"""What a server needs of a library's events to serve them."""

from __future__ import annotations

from typing import Protocol

from clarion.wires.mcp_events.sdk import EventsBinding

__all__ = ["Attachable"]


class Attachable(Protocol):
    def binding(self, *, list_changed: bool = True) -> EventsBinding:
        """The methods for one SDK server."""
        ...

    def calls_author(self, name: object) -> bool:
        """Whether functions of the server's author may be called for a stream of the event type `name`, also for who
        opens it."""
        ...

    async def aclose(self) -> None:
        """The server's lifespan is over."""
        ...
