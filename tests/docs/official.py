"""The official SDK's client as a client of Events, with nothing of Clarion's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from mcp import Client
from mcp.client.extension import ClientExtension, NotificationBinding
from mcp_types import Request, RequestParams, Result
from pydantic import BaseModel, ConfigDict

__all__ = ["EventsListener"]

PATIENCE = 30.0


class _Params(RequestParams):
    model_config = ConfigDict(extra="allow")


class _Seen(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Answer(Result):
    model_config = ConfigDict(extra="allow")


class EventsListener(ClientExtension):
    """Give it to `Client(extensions=[...])`. `active` and `events` hold the params of what came."""

    identifier = "io.modelcontextprotocol/events"

    def __init__(self) -> None:
        self.active: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def notifications(self) -> list[NotificationBinding[Any]]:
        def into(queue: asyncio.Queue[dict[str, Any]], method: str) -> NotificationBinding[Any]:
            async def put(params: _Seen) -> None:
                queue.put_nowait(params.model_dump())

            return NotificationBinding(method=f"notifications/events/{method}", params_type=_Seen, handler=put)

        return [into(self.active, "active"), into(self.events, "event")]

    async def request(self, client: Client, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        request = Request[Any, str](method=method, params=_Params(**params))
        answer = await client.session.send_request(request, _Answer, request_read_timeout_seconds=PATIENCE)
        return answer.model_dump(by_alias=True)

    @asynccontextmanager
    async def stream(self, client: Client, params: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Open while the block runs; gives the params of the first `active`."""
        opened = asyncio.create_task(self.request(client, "events/stream", params))
        active = asyncio.create_task(self.active.get())
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.wait([opened, active], return_when=asyncio.FIRST_COMPLETED)
                if opened.done():
                    raise RuntimeError(f"the stream ended: {opened.result()}")
            yield active.result()
        finally:
            opened.cancel()
            active.cancel()

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            return await self.events.get()
