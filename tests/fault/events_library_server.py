"""An author's server with the library on a file, in a process of its own: `events_library_server.py --data DIRECTORY`.

It says where it is, keeps its port over restarts, and takes events, all in the ways of `clarion serve`.
"""

import argparse
import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.requests import Request
from starlette.responses import JSONResponse

from clarion.events import Context, Event, Events, EventsLayer

ARGUMENTS = {"type": "object", "properties": {"lane": {"type": "string"}}}


def in_lane(_ctx: Context, event: Event, arguments: dict[str, Any]) -> bool:
    return arguments.get("lane") in (None, event.data["lane"])


async def hang(*_asked: Any) -> bool:
    await asyncio.Event().wait()
    return True


def block(ctx: Context, arguments: dict[str, Any], cursor: str | None) -> tuple[list[Event], str]:
    time.sleep(3600)
    return [], "late"


def build(directory: Path) -> MCPServer:
    events = Events(directory / "events.db", hook_seconds=2.0)
    events.event("stuck.check")(block)
    events.event("stuck.match", arguments=ARGUMENTS, match=hang)
    events.event("stuck.transform", arguments=ARGUMENTS, transform=hang)
    events.event("stuck.authorize", arguments=ARGUMENTS, authorize=hang)
    events.event("stuck.end", arguments=ARGUMENTS, on_unsubscribe=hang)
    events.event("tick", "A tick.", arguments=ARGUMENTS, match=in_lane)
    events.event("tock", "A tock.", arguments=ARGUMENTS, match=in_lane)
    server = MCPServer("library", extensions=[events.extension()], log_level="CRITICAL")

    @server.custom_route("/v1/events", methods=["POST"])
    async def post(request: Request) -> JSONResponse:
        results = []
        for event in await request.json():
            receipt = await events.emit(event["topic"], event["payload"], event_id=event["event_id"])
            results.append({"event_id": receipt.event_id, "seq": receipt.position.seq})
        return JSONResponse({"results": results})

    @server.custom_route("/healthz", methods=["GET"])
    async def health(_request: Request) -> JSONResponse:
        return JSONResponse({})

    return server


def listener_on(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(256)
    return listener


async def main(directory: Path) -> None:
    kept = directory / "port"
    listener = listener_on(int(kept.read_text()) if kept.exists() else 0)
    port = listener.getsockname()[1]
    kept.write_text(str(port))
    app = EventsLayer(build(directory).streamable_http_app(stateless_http=True))
    found = directory / "endpoint.tmp"
    found.write_text(json.dumps({"url": f"http://127.0.0.1:{port}", "secret": "none"}))
    found.rename(directory / "endpoint.json")
    await uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).serve(sockets=[listener])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--port", type=int)
    asyncio.run(main(parser.parse_args().data))
