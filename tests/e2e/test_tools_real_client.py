"""The official SDK's client against a real `clarion serve`, in both eras, across a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from interaction.process import Served, served
from interaction.push import EVENT, OPEN, parse_frame
from interaction.requirements import requirement
from interaction.serving import MODES, call, new_key

pytestmark = pytest.mark.e2e


@asynccontextmanager
async def session_with(server: Served, bearer: str, mode: str) -> AsyncIterator[Client]:
    async with (
        server.http(bearer) as client,
        Client(streamable_http_client(f"{server.url}/mcp", http_client=client), mode=mode) as session,  # type: ignore[arg-type]
    ):
        assert session.protocol_version == MODES[mode]
        yield session


async def _frames(response: httpx2.Response, count: int) -> list[tuple[str, int]]:
    """Event name and position of the first `count` frames."""
    unread = b""
    async for data in response.aiter_raw():
        unread += data
        if unread.count(b"\n\n") >= count:
            break
    frames = [parse_frame(block) for block in unread.split(b"\n\n")[:count]]
    return [(frame.event, frame.params.get("event_id", frame.params.get("cursor"))) for frame in frames]


@requirement("row-1", "tools-both-eras", "restart")
@pytest.mark.parametrize("mode", MODES)
async def test_a_subscription_pushes_before_and_after_a_restart_of_the_server(tmp_path: Path, mode: str) -> None:
    data = tmp_path / "data"
    wanted = {"topic": ["deal.*"], "client_id": "agent", "filter": {"amount_gte": 100_000}}
    path = "/mcp/push/sse?client_id=agent"
    with served(data) as server:
        bearer = await new_key(server.http(server.operator()), "subscriber", subject="agent")
        async with session_with(server, bearer, mode) as session:
            tools = {tool.name for tool in (await session.list_tools()).tools}
            first = await call(session, "subscribe", **wanted)
        async with server.http(bearer) as client, client.stream("GET", path) as response:
            async with server.http(server.operator()) as admin:
                for amount in (50_000, 150_000):
                    await admin.post("/v1/events", json={"topic": "deal.won", "payload": {"amount": amount}})
            assert (await _frames(response, 2))[1] == (EVENT, 2)
        assert server.stop() == 0
    with served(data) as server:
        async with server.http(server.operator()) as admin:
            for amount in (1, 200_000):
                await admin.post("/v1/events", json={"topic": "deal.won", "payload": {"amount": amount}})
        async with server.http(bearer) as client, client.stream("GET", f"{path}&cursor=2") as response:
            assert await _frames(response, 2) == [(OPEN, 2), (EVENT, 4)]
        async with session_with(server, bearer, mode) as session:
            again = await call(session, "subscribe", **wanted)
            ended = await call(session, "unsubscribe", subscription_id=first["subscription_id"])
    assert tools == {"subscribe", "unsubscribe", "list_subscriptions", "list_topics"}
    assert again == {**first, "events_delivered": 2}
    assert ended["status"] == "deleted"
