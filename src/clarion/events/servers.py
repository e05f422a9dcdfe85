"""Puts the Events methods on an author's server: `MCPServer` of the official SDK, or `FastMCP`.

The SDK applies an extension without telling it which server it is for, and gives it neither a middleware nor a
lifespan. Both are needed: the top-level capability is added by a middleware, and the store is closed with the server.
So the extension looks at who asks for its methods, which is the server's own `_apply_extension`; where that should
change, it says so in the log, and `events.attach(server)` does the same in the open.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from mcp.server.extension import MethodBinding
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer

from clarion.errors import InvalidInput
from clarion.events.attachable import Attachable
from clarion.logs import get_logger
from clarion.wires.mcp_events.sdk import EventsBinding, EventsExtension

__all__ = ["attach", "extension"]

logger = get_logger("clarion.events")


class _LibraryExtension(EventsExtension):
    def __init__(self, events: Attachable) -> None:
        super().__init__(events.binding())
        self._events = events

    def methods(self) -> list[MethodBinding]:
        server = sys._getframe(1).f_locals.get("self")
        if isinstance(server, MCPServer):
            _adopt(self._events, self.binding, server._lowlevel_server, outermost=False)
        else:
            logger.warning(
                "server_unknown",
                reason="the SDK does not tell which server this extension is for: call events.attach(server)",
            )
        return super().methods()


def extension(events: Attachable) -> EventsExtension:
    """For `MCPServer(extensions=[...])`."""
    return _LibraryExtension(events)


def attach(events: Attachable, server: Any) -> None:
    """Raises InvalidInput for something that is no server of a kind that is known, or that has Events already."""
    if isinstance(server, MCPServer):
        with _once():
            server._apply_extension(extension(events))
        return
    if isinstance(server, Server):
        with _once():
            if server.get_request_handler("events/list") is not None:
                raise ValueError
        binding = events.binding()
        for method in binding.methods():
            server.add_request_handler(method.method, method.params_type, method.handler)
        _adopt(events, binding, server, outermost=False)
        return
    if type(server).__module__.partition(".")[0] == "fastmcp":
        from clarion.events.fastmcp import attach_fastmcp

        with _once():
            attach_fastmcp(events, server)
        return
    raise InvalidInput(
        f"{type(server).__name__} is no MCPServer, FastMCP or low-level Server", field="server", rule="kind"
    )


@contextmanager
def _once() -> Iterator[None]:
    """Servers refuse a second extension of the same name by ValueError."""
    try:
        yield
    except ValueError:
        raise InvalidInput(
            "the server has Events already; declare all event types on one `Events`", field="server", rule="taken"
        ) from None


def _adopt(events: Attachable, binding: EventsBinding, server: Server[Any], *, outermost: bool) -> None:
    """Add the middleware, and close the events with the server's lifespan."""
    if outermost:
        server.middleware.insert(0, binding.middleware)
    else:
        server.middleware.append(binding.middleware)
    lifespan = server.lifespan

    @asynccontextmanager
    async def with_events(of: Server[Any]) -> AsyncIterator[Any]:
        try:
            async with lifespan(of) as state:
                yield state
        finally:
            await events.aclose()

    server.lifespan = with_events
