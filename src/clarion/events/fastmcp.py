"""The Events methods on a FastMCP server, through its own extensions, which have a lifespan.

FastMCP serves no `subscriptions/listen` of its own; the middleware serves it for `eventsListChanged` alone. Its own
middleware edits results too, so ours goes outermost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastmcp.server.extensions import MethodBinding, ServerExtension

from clarion.events.attachable import Attachable
from clarion.wires.mcp_events.sdk import EXTENSION, EventsBinding

__all__ = ["attach_fastmcp"]


class _FastMCPExtension(ServerExtension):
    identifier = EXTENSION

    def __init__(self, events: Attachable, binding: EventsBinding) -> None:
        self._events = events
        self._binding = binding

    def settings(self) -> dict[str, Any]:
        return self._binding.settings()

    def methods(self) -> list[MethodBinding]:
        return [MethodBinding(each.method, each.params_type, each.handler) for each in self._binding.methods()]

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self._events.aclose()


def attach_fastmcp(events: Attachable, server: Any) -> None:
    """Register the extension on a `FastMCP` server that does not serve yet."""
    binding = events.binding()
    server.add_extension(_FastMCPExtension(events, binding))
    server._mcp_server.middleware.insert(0, binding.middleware)
