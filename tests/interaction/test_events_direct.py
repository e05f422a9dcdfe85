"""Streams that the layer serves without the SDK: when it does, and that nobody misses anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import FastMCP
from fastmcp.server.dependencies import get_context
from fastmcp.server.middleware import Middleware as FastMCPMiddleware
from mcp.server import _streamable_http_modern
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from opentelemetry.trace import NoOpTracerProvider
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount

from clarion.errors import Forbidden
from clarion.events import Events, EventsLayer
from clarion.hub.hub import HubLimits
from clarion.testing.hubs import until
from clarion.wires.mcp_events import direct
from interaction.events_exchanges import NAME, RIGHT, Call, application, exchange, fronted, of_tickets
from interaction.events_more import ALICE, BOB, EVE, Recorded, _another, secured, serve_peer, tenant_of
from interaction.events_raw import SUBSCRIPTION_ID, HttpPeer
from interaction.events_requirements import requirement
from interaction.events_targets import listening
from interaction.serving import SMALL_BUFFER, operator, serving


async def follows(peer: HttpPeer, events: Events, number: int = 1) -> None:
    async with peer.stream(NAME) as frames:
        await frames.expect("active")
        await events.emit(NAME, {"n": number})
        assert await frames.data(1) == [{"n": number}]


# -- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [MCPServer, Server, FastMCP])
@pytest.mark.parametrize("stateless", [False, True])
@requirement("ours.lib.mcpserver", "ours.lib.fastmcp", "ours.transports")
async def test_a_stream_on_any_server_is_served_without_the_sdk(make: Any, stateless: bool) -> None:
    events, server = of_tickets(), make("any")
    events.attach(server)
    async with fronted(application(server, stateless_http=stateless)) as (layer, peer):
        await follows(peer, events)
        assert layer.served == 1
        await peer.poll(NAME)
        await peer.call("events/list")
        assert layer.served == 1, "nothing else is"


@requirement("ours.serve.catalog")
async def test_a_stream_of_clarion_serve_is_served_without_the_sdk(tmp_path: Path) -> None:
    async with serving(tmp_path) as running, running.http() as http:
        async with serve_peer(http, operator()).stream("deal.won") as frames:
            await frames.expect("active")
            await running.emit("deal.won", {"amount": 1})
            assert (await frames.expect("event"))["data"] == {"amount": 1}
        assert running.app._mcp_app.served == 1
        async with serve_peer(http, "clarion_wrong").stream("deal.won") as frames:
            assert frames.status == 401
        assert running.app._mcp_app.served == 1


@pytest.mark.parametrize("where", ["constructor", "appended", "low-level", "fastmcp"])
@requirement("ours.transports")
async def test_a_servers_middleware_sees_every_stream(where: str) -> None:
    seen: list[str] = []

    async def watch(ctx: Any, call_next: Any) -> Any:
        seen.append(ctx.method)
        return await call_next(ctx)

    class Watching(FastMCPMiddleware):
        async def on_request(self, context: Any, call_next: Any) -> Any:
            seen.append(context.method)
            return await call_next(context)

    events = of_tickets()
    makes: dict[str, Any] = {"low-level": Server, "fastmcp": FastMCP}
    server = makes.get(where, MCPServer)("any", **({"middleware": [watch]} if where == "constructor" else {}))
    events.attach(server)
    async with fronted(application(server)) as (layer, peer):
        if where == "fastmcp":
            server.add_middleware(Watching())
        elif where != "constructor":
            server.middleware.append(watch)
        await follows(peer, events)
        assert (seen, layer.served) == (["events/stream"], 0)


@pytest.mark.parametrize("make", [MCPServer, FastMCP])
@requirement("ours.transports")
async def test_streams_are_traced_where_there_is_a_tracer(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tracing(NoOpTracerProvider):
        pass

    events, server = of_tickets(), make("any")
    events.attach(server)
    async with fronted(application(server)) as (layer, peer):
        monkeypatch.setattr(direct, "get_tracer_provider", Tracing)
        await follows(peer, events)
        assert layer.served == 0
        monkeypatch.undo()
        await follows(peer, events)
        assert layer.served == 1
        async with peer.stream(NAME, _meta={"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}) as frames:
            await frames.expect("active")
        assert layer.served == 1, "it comes with a trace of its own"


@requirement("ours.transports")
async def test_a_handler_of_somebody_elses_is_left_alone() -> None:
    events, server = of_tickets(), Server("any")
    events.attach(server)
    entry = server.get_request_handler("events/stream")
    assert entry is not None
    calls: list[Any] = []

    async def wrapped(ctx: Any, params: Any) -> Any:
        calls.append(ctx.method)
        return await entry.handler(ctx, params)

    server.add_request_handler("events/stream", entry.params_type, wrapped)
    async with fronted(application(server)) as (layer, peer):
        await follows(peer, events)
        assert (calls, layer.served) == (["events/stream"], 0)


@requirement("ours.lib.fastmcp")
async def test_an_authors_functions_find_fastmcps_context() -> None:
    names: list[str] = []

    def authorize(_principal: Any, _event: str, _arguments: Any) -> bool:
        names.append(get_context().fastmcp.name)
        return True

    events, server = of_tickets(authorize=authorize), FastMCP("mine")
    events.attach(server)
    async with fronted(application(server)) as (layer, peer):
        await follows(peer, events)
        assert layer.served == 0
        assert set(names) == {"mine"}


class Marking(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-app"] = "mine"
        return response


@pytest.mark.parametrize("kind", [Marking, GZipMiddleware])
@requirement("ours.transports")
async def test_a_middleware_that_touches_responses_touches_those_of_streams(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The list is the SDK's for all its streams, and such a middleware adds to it in place.
    monkeypatch.setattr(_streamable_http_modern, "_SSE_HEADERS", list(_streamable_http_modern._SSE_HEADERS))
    events, server = of_tickets(), MCPServer("any")
    events.attach(server)
    app = application(server)
    app.user_middleware.insert(0, Middleware(kind))
    async with fronted(app) as (layer, peer):
        peer.headers["accept-encoding"] = "gzip"
        async with peer._response(peer.message("events/stream", {"name": NAME}, 1)) as response:
            expected = {"x-app": "mine"} if kind is Marking else {}
            assert expected.items() <= dict(response.headers).items()
        assert layer.served == 0


@pytest.mark.parametrize("way", ["direct", "sdk"])
@requirement("ours.transports")
async def test_what_a_middleware_outside_adds_to_one_response_is_not_in_the_next(way: str) -> None:
    events, server = of_tickets(), MCPServer("any")
    events.attach(server)

    async def idle(ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx)

    if way == "sdk":
        server.middleware.append(idle)
    app = application(server)
    layer = EventsLayer(app)
    number = iter(range(10))

    async def marked(scope: Any, receive: Any, send: Any) -> None:
        async def mark(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-mark", str(next(number)).encode()))
            await send(message)

        await layer(scope, receive, mark)

    async with listening(marked) as url, app.router.lifespan_context(app):
        answers = [await exchange(url, RIGHT) for _ in range(3)]
    marks = [[value for name, value in answer.headers if name == "x-mark"] for answer in answers]
    assert marks == [["0"], ["1"], ["2"]]
    assert layer.served == (3 if way == "direct" else 0)


@requirement("ours.transports", "ours.lib.lifespan")
async def test_a_mounted_application_is_found() -> None:
    events, server = of_tickets(), MCPServer("any")
    events.attach(server)
    app = application(server)
    async with fronted(app, outside=Starlette(routes=[Mount("/api", app=app)])) as (layer, peer):
        peer._path = "/api/mcp"
        await follows(peer, events)
        assert layer.served == 1


@requirement("ours.transports")
async def test_two_layers_are_no_worse_than_one() -> None:
    events, server = of_tickets(), MCPServer("any")
    events.attach(server)
    app = application(server)
    within = EventsLayer(app)
    async with fronted(app, outside=within) as (layer, peer):
        await follows(peer, events)
        assert (within.served, layer.served) == (1, 0)


# -- who -------------------------------------------------------------------------------------------------------------


@requirement("sep.auth.subscribe", "ours.lib.tenants")
async def test_each_stream_has_the_principal_and_the_tenant_of_its_token() -> None:
    hooks = Recorded()
    found: list[str] = []

    def authorize(principal: Any, event: Any, arguments: Any) -> Any:
        token = get_access_token()
        assert token is not None
        found.append(token.token)
        return hooks.authorize(principal, event, arguments)

    events = Events(tenant=tenant_of)
    events.event(NAME, authorize=authorize)
    async with fronted(application(secured(events)), bearer=ALICE) as (layer, alice):
        bob, eve = _another(alice, BOB), _another(alice, EVE)
        async with alice.stream(NAME) as hers, bob.stream(NAME) as his, eve.stream(NAME) as theirs:
            for frames in (hers, his, theirs):
                await frames.expect("active")
            assert layer.served == 3
            assert [(who.tenant, who.subject) for who, _, _ in hooks.calls] == [
                ("acme", "alice"), ("acme", "bob"), ("globex", "eve"),
            ]  # fmt: skip
            await events.emit(NAME, {"n": 1}, tenant="globex")
            await events.emit(NAME, {"n": 2}, tenant="acme")
            await events.emit(NAME, {"n": 3}, tenant="acme", audience=["bob"])
            assert await his.data(2) == [{"n": 2}, {"n": 3}]
            assert await hers.data(1) == [{"n": 2}]
            assert await theirs.data(1) == [{"n": 1}]
        assert set(found) == {ALICE, BOB, EVE}, "also where it is asked again, at delivery"


@requirement("ours.lib.tenants")
async def test_who_has_no_tenant_is_refused_once() -> None:
    asked: list[Any] = []

    def nowhere(identity: Any) -> str:
        asked.append(identity)
        raise Forbidden("no tenant is known for you here")

    events = Events(tenant=nowhere)
    events.event(NAME)
    async with fronted(application(secured(events)), bearer=ALICE) as (layer, peer):
        refused = await peer.refused("events/stream", name=NAME)
        assert (refused.code, len(asked), layer.served) == (peer.codes["Forbidden"], 1, 1)


# -- hooks -----------------------------------------------------------------------------------------------------------


@requirement("sep.sdk.stream-hooks", "sep.auth.subscribe")
async def test_hooks_run_once_for_a_stream_also_when_they_refuse_it() -> None:
    hooks = Recorded()
    told: list[str] = []

    async def on_subscribe(ctx: Any, arguments: Any, subscription_id: str) -> None:
        told.append(subscription_id)
        if len(told) == 2:
            raise Forbidden("not twice")
        await hooks.on_subscribe(ctx, arguments, subscription_id)

    events = of_tickets(authorize=hooks.authorize, on_subscribe=on_subscribe, on_unsubscribe=hooks.on_unsubscribe)
    server = MCPServer("any", extensions=[events.extension()])
    async with fronted(application(server)) as (layer, peer):
        async with peer.stream(NAME) as frames:
            await frames.expect("active")
            assert (len(hooks.calls), len(told)) == (1, 1)
        await until(lambda: not hooks.live)
        reply = await peer.ask("events/stream", {"name": NAME})
        assert reply.content_type == "application/json"
        assert reply.refusal.code == peer.codes["Forbidden"]
        assert (len(hooks.calls), len(told)) == (2, 2)
        hooks.allowed = lambda *_: False
        assert (await peer.refused("events/stream", name=NAME)).code == peer.codes["Forbidden"]
        assert (len(hooks.calls), len(told), layer.served) == (3, 2, 3)


@requirement("sep.sdk.stream-hooks")
async def test_who_hangs_up_while_a_hook_is_asked_leaves_nothing() -> None:
    asked, over = asyncio.Event(), asyncio.Event()

    async def authorize(*_: Any) -> bool:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            over.set()
        return True

    events = of_tickets(authorize=authorize)
    server = MCPServer("any", extensions=[events.extension()])
    async with fronted(application(server)) as (layer, peer):
        reader, writer = await asyncio.open_connection(peer.http.base_url.host, peer.http.base_url.port)
        writer.write(RIGHT.encoded(f"127.0.0.1:{peer.http.base_url.port}", None))
        async with asyncio.timeout(2):
            await asked.wait()
            writer.close()
            await over.wait()
        assert (await reader.read(), layer.served, events._service.open_streams) == (b"", 1, 0)


@pytest.mark.parametrize("allowed", [True, False])
@requirement("ours.transports")
async def test_a_response_that_is_long_in_coming_is_kept_alive(allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SILENCE_SECONDS", 0.01)
    answered = asyncio.Event()

    async def authorize(*_: Any) -> bool:
        await answered.wait()
        return allowed

    events = of_tickets(authorize=authorize)
    server = MCPServer("any", extensions=[events.extension()])
    async with fronted(application(server)) as (layer, peer), peer.stream(NAME) as frames:
        assert (frames.status, frames.content_type) == (200, "text/event-stream")
        while len(frames.comments) < 2:
            await frames._more()
            frames.comments += [b":"] * frames._buffer.count(b": ping\r\n\r\n")
            frames._buffer = b""
        answered.set()
        if allowed:
            await frames.expect("active")
            await events.emit(NAME, {"n": 1})
            await frames.expect("event")
        else:
            (error,) = await frames.rest()
            assert error["error"]["code"] == peer.codes["Forbidden"]
        assert layer.served == 1


# -- the end ---------------------------------------------------------------------------------------------------------


@requirement("sep.cancel.http")
async def test_a_client_that_hangs_up_is_let_go_at_once() -> None:
    hooks = Recorded()
    events = of_tickets(on_subscribe=hooks.on_subscribe, on_unsubscribe=hooks.on_unsubscribe)
    server = MCPServer("any", extensions=[events.extension()])
    async with fronted(application(server)) as (_, peer):
        await follows(peer, events)
        await until(lambda: not events._service.open_streams)
        before = asyncio.all_tasks()
        async with peer.stream(NAME) as frames:
            await frames.expect("active")
            loop = asyncio.get_running_loop()
            began = loop.time()
        await until(lambda: not events._service.open_streams and not hooks.live)
        assert loop.time() - began < 0.5
        await until(lambda: not {each for each in asyncio.all_tasks() - before if not each.done()})


@requirement("ours.stream.stop", "ours.lib.lifespan")
async def test_a_server_that_stops_ends_its_streams_with_their_results() -> None:
    events = of_tickets()
    server = MCPServer("any", version="1.2", extensions=[events.extension()])
    async with fronted(application(server)) as (layer, peer), peer.stream(NAME, id="mine") as frames:
        await frames.expect("active")
        await events.aclose()
        (last,) = await frames.rest()
        assert last["id"] == "mine"
        assert last["result"]["resultType"] == "complete"
        meta = last["result"]["_meta"]
        assert meta[SUBSCRIPTION_ID] == "mine"
        assert meta["io.modelcontextprotocol/serverInfo"] == {"name": "any", "version": "1.2"}
        assert layer.served == 1


@requirement("ours.bad.store")
async def test_what_nobody_expected_tells_the_client_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    events = of_tickets()
    server = MCPServer("any", extensions=[events.extension()])

    async def broken(*_: Any) -> Any:
        raise RuntimeError("the secret of the house")

    async with fronted(application(server)) as (layer, peer):
        monkeypatch.setattr(events._service, "open", broken)
        refused = await peer.refused("events/stream", name=NAME)
        assert (refused.code, refused.text) == (-32603, "Internal server error")
        assert layer.served == 1


@pytest.mark.parametrize("way", ["direct", "sdk"])
@requirement("ours.stream.catch-up", "ours.stream.stop")
async def test_a_reader_that_stalls_gets_everything_and_does_not_hold_up_a_stop(way: str) -> None:
    events = Events(limits=HubLimits(ring_capacity=5))
    events.event(NAME, "A ticket changed.")
    server = MCPServer("any", extensions=[events.extension()])

    async def idle(ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx)

    if way == "sdk":
        server.middleware.append(idle)
    async with (
        fronted(application(server), send_buffer=SMALL_BUFFER) as (layer, peer),
        peer.stream(NAME) as frames,
        peer.stream(NAME) as stalled,
    ):
        await frames.expect("active")
        await stalled.expect("active")
        for n in range(200):
            await events.emit(NAME, {"n": n, "filler": "x" * 8_000})
        assert [data["n"] for data in await frames.data(200)] == list(range(200))
        assert layer.served == (2 if way == "direct" else 0)
        async with asyncio.timeout(5):
            await events.aclose()
            await until(lambda: not events._service.open_streams)
            (last,) = await frames.rest()
        assert last["result"]["resultType"] == "complete"


# -- any ASGI server -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def called() -> AsyncIterator[tuple[Events, EventsLayer, Call]]:
    events = of_tickets()
    app = application(MCPServer("any", extensions=[events.extension()]))
    layer = EventsLayer(app)
    async with asyncio.timeout(10), app.router.lifespan_context(app):
        call = Call(layer)
        await call.until_active()
        assert layer.served == 1
        yield events, layer, call


@requirement("ours.transports")
async def test_a_stream_that_the_server_ends_is_over_though_receive_says_nothing() -> None:
    async with called() as (events, _, call):
        assert events.terminate(NAME, Forbidden("enough")) == 1
        await call.task
        last = None
        while not call.sent.empty():
            last = call.sent.get_nowait()
        assert last is not None
        assert last["more_body"] is False
        assert b'"result"' in last["body"]


@requirement("ours.transports", "sep.cancel.http")
async def test_a_stream_ends_when_receive_says_that_its_client_is_gone() -> None:
    async with called() as (events, _, call):
        call.incoming.put_nowait({"type": "http.disconnect"})
        await call.task
        assert not events._service.open_streams


@requirement("ours.transports")
async def test_a_stream_ends_with_the_task_of_its_request() -> None:
    async with called() as (events, _, call):
        call.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.task
        assert not events._service.open_streams


@requirement("ours.transports", "ours.stream.isolated")
async def test_a_stream_whose_transport_fails_ends_and_says_nothing() -> None:
    async with called() as (events, _, call):
        call.broken = True
        await events.emit(NAME, {"n": 1})
        await call.task
        assert not events._service.open_streams
