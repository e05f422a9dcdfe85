"""How streams that the layer serves end, come to nothing or go wrong, and what else is to be seen of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.routing import Mount

from clarion.errors import Forbidden
from clarion.events import Events, EventsLayer
from clarion.wires.mcp_events import direct
from interaction.events_exchanges import NAME, Call, application, fronted, of_tickets
from interaction.events_more import recorded_logs, serve_peer
from interaction.events_raw import HttpPeer
from interaction.events_requirements import requirement
from interaction.serving import operator, serving

GONE = {"type": "http.disconnect"}


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[Events, EventsLayer]]:
    events = of_tickets(**options)
    app = application(MCPServer("any", extensions=[events.extension()]))
    async with asyncio.timeout(10), app.router.lifespan_context(app):
        yield events, EventsLayer(app)


def errors_of_the_loop() -> list[dict[str, Any]]:
    """Fills with what nobody has caught."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: found.append(context))
    return found


@pytest.mark.parametrize("how", ["terminated", "refused"])
@requirement("ours.transports", "ours.stream.stop")
async def test_a_stream_that_the_server_ends_is_no_error_where_receive_tells_it_too(how: str) -> None:
    found = errors_of_the_loop()
    async with running(authorize=lambda *_: how == "terminated") as (events, layer):
        call = Call(layer, tells=True)
        if how == "terminated":
            await call.until_active()
            events.terminate(NAME, Forbidden("enough"))
        await call.task
        await asyncio.sleep(0)  # what is on its way in the loop has its turn
        assert (layer.served, found) == (1, [])


@requirement("sep.cancel.http", "ours.lib.lifespan")
async def test_a_client_that_is_gone_before_anything_is_done_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SILENCE_SECONDS", 0.01)
    async with running() as (events, layer):
        first = Call(layer)
        await first.until_active()
        first.incoming.put_nowait(GONE)
        await first.task
        before = asyncio.all_tasks()
        call = Call(layer, GONE)
        await call.task
        await asyncio.sleep(0.05)  # for a response that is too long in coming would be begun
        assert (layer.served, call.sent.empty()) == (2, True)
        assert not asyncio.all_tasks() - before - {call.task}
        assert not events._service.open_streams


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), TimeoutError(), RuntimeError("no more")], ids=repr)
@requirement("sep.cancel.http")
async def test_a_stream_whose_receive_fails_is_over(error: Exception) -> None:
    async with running() as (events, layer):
        call = Call(layer)
        await call.until_active()
        call.incoming.put_nowait(error)
        with pytest.raises(type(error)):
            await call.task
        assert not events._service.open_streams
        while not call.sent.empty():
            call.sent.get_nowait()
        await events.emit(NAME, {"n": 1})
        assert call.sent.empty()


@pytest.mark.parametrize("error", [RuntimeError("the secret of the house"), ConnectionResetError("of the house")])
@requirement("ours.bad.store")
async def test_what_nobody_expected_is_logged_by_its_kind_alone(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> Any:
        raise error

    caplog.set_level("INFO", logger="clarion")
    events = of_tickets()
    server = MCPServer("any", extensions=[events.extension()])
    async with fronted(application(server)) as (_, peer):
        monkeypatch.setattr(events._service, "open", broken)
        assert (await peer.refused("events/stream", name=NAME)).code == -32603
    lines = [line for line in recorded_logs(caplog.records) if "stream_" in line]
    assert len(lines) == 1
    assert f"error={type(error).__name__}" in lines[0]
    assert ("test_events_direct_ends.py" in lines[0]) == isinstance(error, RuntimeError), "where it was raised"
    assert not any("of the house" in line for line in recorded_logs(caplog.records))


@pytest.mark.parametrize("way", ["direct", "wrapped", "sdk"])
@requirement("ours.bad.revoked")
async def test_a_key_that_is_revoked_while_its_stream_is_opened_ends_it_as_any_other(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server, server.http() as http:
        layer = server.app._mcp_app
        if way == "sdk":
            monkeypatch.setattr(layer, "_door", lambda _scope: None)
        elif way == "wrapped":  # as a middleware further out does, which hides the server's transport
            server.app._mcp_app = Wrapping(layer)  # type: ignore[assignment]
        key = await server.key("subscriber")
        log = server.app.hub._backend.log
        bounds = log.bounds
        asked, revoked = asyncio.Event(), asyncio.Event()

        async def bounds_when_revoked(tenant: str) -> Any:
            asked.set()
            await revoked.wait()
            return await bounds(tenant)

        monkeypatch.setattr(log, "bounds", bounds_when_revoked)
        opening = asyncio.create_task(_frames(serve_peer(http, key)))
        await asked.wait()
        monkeypatch.setattr(log, "bounds", bounds)
        async with server.http(operator()) as operators:
            assert (await operators.delete("/v1/keys/" + key.split("_")[1])).status_code == 200
        revoked.set()
        status, (told, result) = await opening
        assert (status, layer.served) == (200, 0 if way == "sdk" else 1)
        assert told["method"] == "notifications/events/terminated"
        assert told["params"]["error"]["data"]["reason"] == "Access revoked"
        assert result["result"]["resultType"] == "complete"


class Wrapping:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any, *more: Any) -> None:
        async def wrapped(message: Any) -> None:
            await send(message)

        await self.app(scope, receive, wrapped, *more)


async def _frames(peer: HttpPeer) -> tuple[int, list[Any]]:
    async with peer.stream("deal.won") as frames:
        assert frames.content_type == "text/event-stream"
        return frames.status, await frames.rest()


class Meter:
    """Counts what answers are made of, as metering and access logs do, in nobody's list of middleware."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.seen: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def see(message: Any) -> None:
            self.seen.append(message["type"])
            await send(message)

        await self.app(scope, receive, see)


@pytest.mark.parametrize("first", ["plain", "metered"])
@requirement("ours.transports")
async def test_of_two_ways_to_one_server_each_has_what_stands_on_it(first: str) -> None:
    events = of_tickets()
    app = application(MCPServer("any", extensions=[events.extension()]))
    meter = Meter(app)
    ways = {"plain": Mount("/plain", app=app), "metered": Mount("/metered", app=meter)}
    outside = Starlette(routes=[ways.pop(first), *ways.values()])
    async with fronted(app, outside=outside) as (layer, peer):
        for way, served in (("plain", 1), ("metered", 1), ("plain", 2)):
            peer._path = f"/{way}/mcp"
            async with peer.stream(NAME) as frames:
                await frames.expect("active")
            assert layer.served == served
    assert meter.seen[:2] == ["http.response.start", "http.response.body"]
