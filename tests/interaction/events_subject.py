"""The server under test, of a few event types, with tools by which a test emits and acts on them from outside.

`python -m interaction.events_subject` serves it on stdio; `--nursery SOCKET` serves it on stdio again and again, each
time in a new process, forked from one that has read the modules already; `--http FD [--layer]` on a listening socket.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context as ToolContext
from mcp.server.mcpserver import MCPServer

from clarion.clock import Clock
from clarion.errors import Forbidden
from clarion.events import Context, Event, Events, EventsLayer

__all__ = ["ALARM", "ARGUMENTS", "PAYLOAD", "REPORT", "TICKET", "declare", "on_fastmcp", "on_mcpserver"]

TICKET, ALARM, REPORT = "ticket.updated", "alarm.raised", "report.ready"
"""A type with everything, one without replay, one without push."""

ARGUMENTS: dict[str, Any] = {
    "type": "object",
    "properties": {"status": {"type": "string", "enum": ["open", "closed"]}},
    "additionalProperties": False,
}
PAYLOAD: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "status": {"type": "string"}},
    "required": ["id"],
    "additionalProperties": False,
}


def has_status(_ctx: Context, event: Event, arguments: dict[str, Any]) -> bool:
    return "status" not in arguments or event.data.get("status") == arguments["status"]


def declare(url: str | None = None, *, clock: Clock | None = None, **options: Any) -> Events:
    events = Events(url, clock=clock, **options)
    events.event(TICKET, "A ticket changed.", arguments=ARGUMENTS, payload=PAYLOAD, match=has_status)
    events.event(ALARM, "An alarm.", payload={"level": int}, replay=False)
    events.event(REPORT, "A report.", delivery=["poll"], meta={"example/owner": "reports"})
    return events


def _change_input(events: Events) -> None:
    events.change(TICKET, description="A ticket changed.", arguments={**ARGUMENTS, "required": ["status"]},
                  payload=PAYLOAD, match=has_status)  # fmt: skip


def _tools(server: Any, events: Events) -> None:
    """The tools, by the decorator that `MCPServer` and `FastMCP` have in common."""
    acts: dict[str, Callable[[str], Any]] = {
        "add": lambda name: events.event(name, "Added."),
        "remove": events.remove,
        "change": lambda _name: _change_input(events),
        "error": lambda name: events.error(name, "the upstream is down", reason="upstream"),
        "gap": events.gap,
        "terminate": lambda name: events.terminate(name, Forbidden("enough", details={"reason": "enough"})),
    }

    @server.tool()
    async def emit(name: str, data: dict[str, Any], event_id: str | None = None) -> str:
        return (await events.emit(name, data, event_id=event_id)).event_id

    @server.tool()
    def act(what: str, name: str) -> str:
        return str(acts[what](name))

    @server.tool()
    def streams() -> str:
        return str(events._service.open_streams)


def on_mcpserver(events: Events) -> MCPServer:
    server = MCPServer("subject", extensions=[events.extension()], log_level="CRITICAL")
    _tools(server, events)

    @server.tool()
    async def tools_changed(ctx: ToolContext) -> str:
        await ctx.notify_tools_changed()
        return "told"

    return server


def on_fastmcp(events: Events) -> Any:
    from fastmcp import FastMCP

    server = FastMCP("subject")
    _tools(server, events)
    events.attach(server)
    return server


def _serve(url: str | None) -> None:
    on_mcpserver(declare(url)).run("stdio")


def _serve_http(listener: int, *, layer: bool) -> None:
    app: Any = on_mcpserver(declare()).streamable_http_app()
    uvicorn.run(EventsLayer(app) if layer else app, fd=listener, log_level="critical", ws="none")


def _nursery(path: str) -> None:
    """Each connection begins with a line of JSON, the store's URL; what follows is the stdio of a process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork():
                connection.close()
                continue
            listener.close()
            line = b""
            while not line.endswith(b"\n"):
                line += connection.recv(1)
            os.dup2(connection.fileno(), 0)
            os.dup2(connection.fileno(), 1)
            connection.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _serve(json.loads(line))
            os._exit(0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--nursery", path]:
            _nursery(path)
        case ["--http", listener, *options]:
            _serve_http(int(listener), layer="--layer" in options)
        case _:
            _serve(None)
