"""The Events methods on a FastMCP server, through its own extensions, which have a lifespan.

FastMCP serves no `subscriptions/listen` of its own; the middleware serves it for `eventsListChanged` alone. Its own
middleware edits results too, so ours goes outermost.

FastMCP's `get_context()` and what is injected work in an author's functions only where the SDK serves the request, so
it serves the streams of every event type that has any.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastmcp.server.extensions import MethodBinding, ServerExtension
from fastmcp.server.low_level import FastMCPServerMiddleware
from fastmcp.server.middleware.dereference import DereferenceRefsMiddleware

from clarion.events.attachable import Attachable
from clarion.wires.mcp_events.direct import is_traced
from clarion.wires.mcp_events.sdk import EXTENSION, STREAM, EventsBinding

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

    def is_idle(middleware: object) -> bool:
        """Its own middleware calls the author's, and makes spans; of the author's it adds one by itself, which edits
        the listing of tools."""
        authors = [each for each in server.middleware if type(each) is not DereferenceRefsMiddleware]
        return type(middleware) is FastMCPServerMiddleware and not authors and not is_traced()

    binding.is_idle, binding.needs_context = is_idle, events.calls_author
    binding.handler = server._mcp_server.get_request_handler(STREAM).handler
