"""An MCP server that does what its caller tells it to: every fault that a client of Events must live with.

The arguments of a subscription hold its script: `{"run": id, "turns": [[step, ...], ...]}`, a turn for each request of
that run; the last turn is repeated. `heard` and `released` tell what the server was asked, and what it let go.
`python -m interaction.events_peer stdio|PORT [--place extension|top|none] [--stateful]`
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict
from typing import Any

import mcp_types as types
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from pydantic import ConfigDict

EXTENSION = "io.modelcontextprotocol/events"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"


class Params(types.RequestParams):
    model_config = ConfigDict(extra="allow")


class Note(types.Notification[dict[str, Any], str]):
    pass


class Peer(Extension):
    identifier = EXTENSION

    def __init__(self) -> None:
        self.heard: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.released: dict[str, int] = defaultdict(int)
        self.names = {"both": ["push", "poll", "webhook"], "push.only": ["push"], "poll.only": ["poll"],
                      "hook.only": ["webhook"]}  # fmt: skip
        self.changed = asyncio.Event()
        self.lists = 0
        self.listening = 0

    def settings(self) -> dict[str, Any]:
        return {"listChanged": True}

    def methods(self) -> list[MethodBinding]:
        return [
            MethodBinding("events/list", Params, self.list),
            MethodBinding("events/poll", Params, self.poll),
            MethodBinding("events/stream", Params, self.stream),
        ]

    async def list(self, _ctx: Any, params: Params) -> dict[str, Any]:
        """A page for each type."""
        self.lists += 1
        names = sorted(self.names)
        at = int((params.model_extra or {}).get("cursor") or 0)
        page = {"name": names[at], "description": f"about {names[at]}", "delivery": self.names[names[at]],
                "inputSchema": {"type": "object"}, "payloadSchema": {"type": "object"}}  # fmt: skip
        more = {"nextCursor": str(at + 1)} if at + 1 < len(names) else {}
        return {"resultType": "complete", "events": [page], **more}

    def turn(self, params: Params) -> tuple[str, Any]:
        asked = dict(params.model_extra or {})
        if asked["name"] not in self.names:
            raise MCPError(-32023, "NotFound", {"kind": "event"})
        arguments = asked.pop("arguments", {})
        run, turns = arguments.get("run"), arguments.get("turns")
        if not isinstance(run, str):
            raise MCPError(-32602, "InvalidParams: /run is required", {"path": "/run"})
        self.heard[run].append(asked)
        return run, turns[min(len(self.heard[run]), len(turns)) - 1]

    async def poll(self, _ctx: Any, params: Params) -> dict[str, Any]:
        _, turn = self.turn(params)
        if "error" in turn:
            raise MCPError(*turn["error"])
        return {"resultType": "complete", **turn}

    async def stream(self, ctx: Any, params: Params) -> dict[str, Any]:
        run, turn = self.turn(params)
        try:
            for step in turn:
                await self.step(ctx, step)
        except asyncio.CancelledError:
            self.released[run] += 1
            raise
        return {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: ctx.request_id}}

    async def step(self, ctx: Any, step: dict[str, Any]) -> None:
        if "note" in step:
            for number in range(step.get("times", 1)):
                text = {"eventId": f"many-{number}", "cursor": f"m{number}"} if "times" in step else {}
                await self.notify(ctx, f"notifications/events/{step['note']}", {**step.get("params", {}), **text})
        if "error" in step:
            raise MCPError(*step["error"])
        if "sleep" in step:
            await asyncio.sleep(step["sleep"])
        if "beat" in step:
            while True:
                await self.notify(ctx, "notifications/events/heartbeat", {"cursor": "h"})
                await asyncio.sleep(step["beat"])
        if "exit" in step:
            os._exit(1)
        if "wait" in step:
            await asyncio.Event().wait()

    async def notify(self, ctx: Any, method: str, params: dict[str, Any]) -> None:
        note = Note(method=method, params={**params, "_meta": {SUBSCRIPTION_ID: ctx.request_id}})
        await ctx.session.send_notification(note, related_request_id=ctx.request_id)

    async def listen(self, ctx: Any, params: types.SubscriptionsListenRequestParams) -> dict[str, Any]:
        self.listening += 1
        agreed = {"eventsListChanged": (params.notifications.model_extra or {}).get("eventsListChanged", False)}
        await self.notify(ctx, "notifications/subscriptions/acknowledged", {"notifications": agreed})
        while True:
            await self.changed.wait()
            self.changed.clear()
            await self.notify(ctx, "notifications/events/list_changed", {})


def build(place: str) -> tuple[MCPServer, Peer]:
    peer = Peer()

    async def advertise(ctx: Any, call_next: Any) -> Any:
        result = await call_next(ctx)
        if ctx.method not in ("initialize", "server/discover"):
            return result
        found = result if isinstance(result, dict) else result.model_dump(by_alias=True, mode="json", exclude_none=True)
        extensions = found["capabilities"].get("extensions", {})
        if place != "extension":
            extensions.pop(EXTENSION, None)
        if place == "top":
            found["capabilities"]["events"] = {"listChanged": True}
        return found

    mcp = MCPServer("peer", extensions=[peer], middleware=[advertise], log_level="CRITICAL")
    mcp._lowlevel_server.add_request_handler(
        "subscriptions/listen", types.SubscriptionsListenRequestParams, peer.listen
    )

    @mcp.tool()
    def state(run: str) -> dict[str, Any]:
        return {"heard": peer.heard[run], "released": peer.released[run], "lists": peer.lists,
                "listening": peer.listening}  # fmt: skip

    @mcp.tool()
    def add(name: str) -> str:
        peer.names[name] = ["poll"]
        peer.changed.set()
        return name

    return mcp, peer


def main() -> None:
    where, *options = sys.argv[1:]
    place = options[options.index("--place") + 1] if "--place" in options else "extension"
    mcp, _ = build(place)
    if where == "stdio":
        mcp.run("stdio")
        return
    import uvicorn

    app = mcp.streamable_http_app(stateless_http="--stateful" not in options)
    uvicorn.run(app, host="127.0.0.1", port=int(where), log_level="critical")


if __name__ == "__main__":
    main()
