"""A server for the official MCP conformance suite: the tools, prompts and resources that its scenarios call for.

`python -m clarion.testing.conformance_server [--host 127.0.0.1] [--port 0]` serves both eras of the protocol on `/mcp`
and prints its URL. It is ordinary use of the official SDK and of this library, for tests alone: no command of Clarion
starts it. Events are beside what the suite knows of, to prove that they are in nobody's way; what they do themselves is
graded on `clarion.testing.fixture`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from mcp.server.caching import CacheHint
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.prompts import Prompt

from clarion import __version__
from clarion.events import Events, EventsLayer
from clarion.testing.conformance_server import content, dialogue, input_required, sessions

__all__ = ["app", "build"]

CACHED = CacheHint(ttl_ms=60_000, scope="public")
"""The lists never change by themselves, and are the same for everybody."""

ASGI: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]


def build() -> MCPServer:
    """The server with all that the suite asks for."""
    events = Events()
    events.event("conformance.checked", "A check of the suite is through", payload={"check": str})
    server = MCPServer(
        "clarion-conformance",
        title="Clarion under the conformance suite",
        version=__version__,
        tools=[content.json_schema_tool()],
        cache_hints={"tools/list": CACHED, "prompts/list": CACHED, "resources/list": CACHED},
        extensions=[events.extension()],
        log_level="ERROR",
    )
    for module in (content, dialogue, input_required):
        for tool in module.TOOLS:
            server.add_tool(tool, structured_output=False)
        for prompt in module.PROMPTS:
            server.add_prompt(Prompt.from_function(prompt))
    content.add_resources(server)
    sessions.serve_sessions(server)
    return server


def app(server: MCPServer, *, host: str) -> ASGI:
    """The application with `/mcp` alone, which answers to the local machine's names when `host` is one of them."""
    return EventsLayer(server.streamable_http_app(host=host))
