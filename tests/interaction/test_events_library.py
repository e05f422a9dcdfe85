"""`Events` on a user's server: the README's lines, any server, application and store, from the start to the stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import httpx2
import pytest
from fastmcp import FastMCP
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Mount

from clarion.errors import DataDirectoryOwned, InvalidEvent, InvalidInput, InvalidSchema, InvalidTopic
from clarion.events import Events, EventsLayer
from clarion.testing.clock import FakeClock
from interaction.events_more import Recorded, peer_of
from interaction.events_raw import INITIALIZE, MODERN, HttpPeer, names_of
from interaction.events_requirements import requirement
from interaction.events_subject import on_fastmcp
from interaction.events_targets import HttpTarget, both_stores, http_peer, store_url
from interaction.serving import _TLS

ROOT = Path(__file__).parents[2]
NAME = "ticket.updated"

PROMPT = 5.0
"""Seconds that a stop may take, on a machine that is busy: far less than uvicorn waits for responses, which is for
ever."""


# -- the README's example --------------------------------------------------------------------------------------------


def readme_examples() -> tuple[str, str]:
    """The library's example, and the lines that differ with FastMCP."""
    text = (ROOT / "README.md").read_text().partition("## As a library")[2]
    example, differing = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[:2]
    return example, differing


def loaded(source: str, directory: Path) -> dict[str, Any]:
    """The names that a file with `source` defines."""
    path = directory / "tickets.py"
    path.write_text(source)
    names: dict[str, Any] = {"__name__": "tickets"}
    exec(compile(source, str(path), "exec"), names)
    return names


async def follows_open_tickets(peer: HttpPeer) -> None:
    """What the README says of its example."""
    (described,) = (await peer.call("events/list"))["events"]
    assert (described["name"], described["description"]) == (NAME, "A ticket was opened or changed.")
    assert described["delivery"] == ["poll", "push"]
    assert set(described["payloadSchema"]["required"]) == {"id", "status"}
    wanted = {"arguments": {"status": "open"}}
    cursor = (await peer.poll(NAME, **wanted))["cursor"]
    async with peer.stream(NAME, **wanted) as frames:
        await frames.expect("active")
        for id, status in (("1", "open"), ("2", "closed"), ("3", "open")):
            assert await peer.tool("update_ticket", id=id, status=status) == f"{id} is {status}"
        assert await frames.data(2) == [{"id": "1", "status": "open"}, {"id": "3", "status": "open"}]
    polled = await peer.poll(NAME, cursor, **wanted)
    assert [event["data"]["id"] for event in polled["events"]] == ["1", "3"]
    assert (await peer.refused("events/poll", name=NAME, arguments={"state": "open"})).code == -32602


@pytest.mark.parametrize("target", [HttpTarget("2026"), HttpTarget("initialize", INITIALIZE)], ids=str)
@requirement("ours.lib.mcpserver")
async def test_the_readme_example_serves_events_on_mcpserver(
    target: HttpTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = loaded(readme_examples()[0], tmp_path)
    async with target.serve(example["events"], server=example["mcp"]) as peer:
        await follows_open_tickets(peer)
    assert (tmp_path / "events.db").exists()


@requirement("ours.lib.fastmcp")
async def test_the_readme_example_serves_events_on_fastmcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, differing = readme_examples()
    imports, _, server = differing.strip().partition("\n\n")
    source = source.replace("from mcp.server.mcpserver import MCPServer", imports)
    source = source.replace('mcp = MCPServer("tickets", extensions=[events.extension()])', server)
    assert "MCPServer" not in source
    example = loaded(source, tmp_path)
    async with HttpTarget("fastmcp", fastmcp=True).serve(example["events"], server=example["mcp"]) as peer:
        await follows_open_tickets(peer)


# -- servers and applications ----------------------------------------------------------------------------------------


async def works(peer: HttpPeer, events: Events) -> None:
    cursor = (await peer.poll(NAME))["cursor"]
    async with peer.stream(NAME) as frames:
        await frames.expect("active")
        await events.emit(NAME, {"n": 1})
        assert await frames.data(1) == [{"n": 1}]
    assert [event["data"] for event in (await peer.poll(NAME, cursor))["events"]] == [{"n": 1}]


def ticket_events(url: Any = None, **options: Any) -> Events:
    events = Events(url, **options)
    events.event(NAME, "A ticket changed.")
    return events


@pytest.mark.parametrize("kind", ["extensions", "attach", "low-level", "fastmcp"])
@requirement("ours.lib.mcpserver", "ours.lib.fastmcp")
async def test_events_are_given_to_any_server_of_the_sdk(kind: str) -> None:
    events = ticket_events()
    if kind == "extensions":
        server: Any = MCPServer("any", extensions=[events.extension()])
    elif kind == "fastmcp":
        server = on_fastmcp(events)
    else:
        server = MCPServer("any") if kind == "attach" else Server("any")
        events.attach(server)
    async with HttpTarget(kind, fastmcp=kind == "fastmcp").serve(events, server=server) as peer:
        capabilities = (await peer.call("server/discover"))["capabilities"]
        assert capabilities["events"] == {"listChanged": True}
        await works(peer, events)
    assert events._life is None, "the store is closed with the server's lifespan"


@requirement("ours.lib.mcpserver")
async def test_what_is_no_server_or_has_events_already_is_refused() -> None:
    events = ticket_events()
    for thing in (object(), Starlette(), "mcp", None):
        with pytest.raises(InvalidInput, match=r"no MCPServer, FastMCP or low-level Server"):
            events.attach(thing)
    for server in (MCPServer("twice"), Server("twice"), FastMCP("twice")):
        events.attach(server)
        with pytest.raises(InvalidInput, match="has Events already"):
            ticket_events().attach(server)


@requirement("ours.lib.lifespan")
async def test_the_servers_own_lifespan_is_kept() -> None:
    story: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(_server: Any) -> AsyncIterator[dict[str, Any]]:
        story.append("begun")
        yield {}
        story.append("over")

    events = ticket_events()
    server = MCPServer("own", lifespan=lifespan, extensions=[events.extension()])

    async with HttpTarget("own").serve(events, server=server) as peer:
        await works(peer, events)
        assert story == ["begun"]
    assert story == ["begun", "over"]


def starlette_app(server: MCPServer[Any]) -> Any:
    """The way of the SDK's documentation: mounted, the session manager run by the application's own lifespan."""
    inner = server.streamable_http_app()

    @contextlib.asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield

    return Starlette(routes=[Mount("/api", app=inner)], lifespan=lifespan)


def fastapi_like_app(server: MCPServer[Any]) -> Any:
    """With a middleware of the kind that wraps the response's body, and a layer inside of the mount."""
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    async def dispatch(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-app"] = "mine"
        return response

    app = starlette_app(server)
    app.router.routes[0].app = EventsLayer(app.router.routes[0].app)
    app.user_middleware.append(Middleware(BaseHTTPMiddleware, dispatch=dispatch))
    return app


@pytest.mark.parametrize(
    "make",
    [starlette_app, fastapi_like_app],
)
@requirement("ours.transports", "ours.lib.lifespan")
async def test_it_works_within_a_users_application(make: Any) -> None:
    events = ticket_events()
    app = make(MCPServer("within", extensions=[events.extension()]))
    async with asyncio.timeout(3), peer_of(app, "/api/mcp") as peer:
        await works(peer, events)
    assert events._life is None


@requirement("ours.transports")
async def test_one_events_serves_two_servers_of_one_process() -> None:
    events = ticket_events()
    first, second = (MCPServer(name, extensions=[events.extension()]) for name in ("first", "second"))
    async with (
        HttpTarget("one").serve(events, server=first) as one,
        HttpTarget("two").serve(events, server=second) as two,
        one.stream(NAME) as ours,
        two.stream(NAME) as theirs,
    ):
        await ours.expect("active")
        await theirs.expect("active")
        await events.emit(NAME, {"n": 1})
        assert await ours.data(1) == await theirs.data(1) == [{"n": 1}]


# -- life ------------------------------------------------------------------------------------------------------------


@both_stores
@requirement("ours.lib.lifespan")
async def test_the_hub_starts_at_first_use_and_leaves_no_task(store: str, tmp_path: Path) -> None:
    events = ticket_events(store_url(store, tmp_path))
    assert os.listdir(tmp_path) == []
    before = asyncio.all_tasks()
    async with http_peer(events) as peer:
        await peer.call("server/discover")
        assert await peer.tool("streams") == "0"
        assert events._life is None, "nobody has asked for events yet"
        assert os.listdir(tmp_path) == []
        await works(peer, events)
        assert events._life is not None
    assert events._life is None
    assert asyncio.all_tasks() == before


@requirement("ours.lib.lifespan")
async def test_a_server_is_served_again_after_its_end() -> None:
    events = ticket_events()
    for _ in range(2):
        async with http_peer(events) as peer:
            await works(peer, events)


@requirement("ours.lib.lifespan", "ours.lib.durable")
async def test_an_emit_before_any_request_opens_the_store_and_is_kept(tmp_path: Path) -> None:
    events = ticket_events(tmp_path / "events.db")
    async with events:
        await events.emit(NAME, {"n": 1})
        async with http_peer(events) as peer:
            cursor = (await peer.poll(NAME))["cursor"]
            await events.emit(NAME, {"n": 2})
            assert [event["data"] for event in (await peer.poll(NAME, cursor))["events"]] == [{"n": 2}]


@requirement("ours.lib.durable", "sep.order.at-least-once")
async def test_a_cursor_is_good_over_a_restart_of_a_file(tmp_path: Path) -> None:
    url = tmp_path / "events.db"
    async with http_peer(ticket_events(url)) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
    events = ticket_events(str(url))
    async with http_peer(events) as peer:
        for number in range(3):
            await events.emit(NAME, {"n": number}, event_id=str(number))
        assert (await events.emit(NAME, {"n": 2}, event_id="2")).duplicate
    async with http_peer(ticket_events(f"sqlite:{url}")) as peer:
        answer = await peer.poll(NAME, cursor)
        assert ([event["data"]["n"] for event in answer["events"]], answer["truncated"]) == ([0, 1, 2], False)
        async with peer.stream(NAME, cursor=cursor) as frames:
            assert (await frames.expect("active"))["truncated"] is False
            assert [event["n"] for event in await frames.data(3)] == [0, 1, 2]


@requirement("ours.lib.defaults", "ours.bad.cursor")
async def test_without_a_url_nothing_outlives_the_server_and_that_is_told() -> None:
    async with http_peer(ticket_events()) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
    async with http_peer(ticket_events()) as peer:
        answer = await peer.poll(NAME, cursor)
        assert (answer["events"], answer["truncated"]) == ([], True)


@requirement("ours.lib.durable")
async def test_a_file_that_is_open_already_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    holder = "import sys, asyncio\nfrom clarion.events import Events\n"
    holder += "async def main():\n    async with Events(sys.argv[1]):\n        print('open', flush=True)\n"
    holder += "        await asyncio.to_thread(sys.stdin.read)\nasyncio.run(main())\n"
    command = [sys.executable, "-c", holder, str(path)]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"open\n"
        events = ticket_events(path)
        with pytest.raises(DataDirectoryOwned, match=r"another process has .*events\.db open; give each"):
            await events.emit(NAME, {"n": 1})
        async with http_peer(events) as peer:
            refusal = await peer.refused("events/poll", name=NAME)
            assert refusal.code == -32603
    finally:
        await process.communicate(b"")
    async with events:  # now that it is free
        assert await events.emit(NAME, {"n": 1})


@requirement("ours.lib.durable")
@pytest.mark.parametrize("url", ["postgres://here", "memory:x", "sqlite:"])
async def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await ticket_events(url).emit(NAME, {"n": 1})
    assert caught.value.field == "url"


@requirement("ours.lib.durable")
async def test_a_place_that_cannot_be_written_is_refused_naming_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    events = ticket_events(tmp_path / "file" / "events.db")
    with pytest.raises(InvalidInput, match=r"events\.db cannot be used"):
        await events.emit(NAME, {"n": 1})


@requirement("ours.lib.lifespan")
async def test_events_are_emitted_from_threads_and_other_loops() -> None:
    events = ticket_events()
    async with http_peer(events) as peer, peer.stream(NAME) as frames:
        await frames.expect("active")

        def work(number: int) -> None:
            asyncio.run(events.emit(NAME, {"n": number}))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        found = await frames.data(8)
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert sorted(event["n"] for event in found) == list(range(8))
        with pytest.raises(InvalidInput):  # errors come back as well
            await asyncio.to_thread(lambda: asyncio.run(events.emit("unknown", {})))


@requirement("ours.lib.lifespan")
async def test_types_may_be_changed_and_streams_told_from_another_thread() -> None:
    events = ticket_events()
    async with http_peer(events) as peer, peer.stream(NAME) as frames:
        await frames.expect("active")
        await asyncio.to_thread(events.error, NAME, "the upstream is down")
        await frames.expect("error")
        await asyncio.to_thread(events.gap, NAME)
        assert (await frames.expect("active"))["truncated"] is True
        await asyncio.to_thread(events.event, "one.more")
        await asyncio.to_thread(events.remove, NAME)
        await frames.expect("terminated")
        assert names_of(await peer.call("events/list")) == ["one.more"]


@requirement("ours.stream.stop", "ours.lib.lifespan")
@pytest.mark.parametrize("layer", [False, True], ids=["plain", "layer"])
async def test_stopping_under_uvicorn_with_open_streams_is_prompt_and_ends_each_with_its_result(
    layer: bool, tmp_path: Path
) -> None:
    """As a user's own process runs it, and an operator stops it."""
    script = tmp_path / "served.py"
    app = "EventsLayer(mcp.streamable_http_app())" if layer else "mcp.streamable_http_app()"
    script.write_text(
        "import socket, uvicorn\n"
        "from mcp.server.mcpserver import MCPServer\n"
        "from clarion.events import Events, EventsLayer\n"
        "events = Events('events.db')\n"
        "events.event('ticket.updated')\n"
        "events.event('mail')(lambda ctx, arguments, cursor: ([], 'here'))\n"
        "mcp = MCPServer('served', extensions=[events.extension()])\n"
        "listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen()\n"
        "print(listener.getsockname()[1], flush=True)\n"
        f"uvicorn.Server(uvicorn.Config({app}, log_level='critical')).run(sockets=[listener])\n"
    )
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None, verify=_TLS) as http:
            peer = HttpPeer(http, MODERN, True, path="/mcp", repeats=False)
            async with peer.stream(NAME, "a") as one, peer.stream(NAME, "b") as two, peer.stream("mail") as checked:
                for frames in (one, two, checked):
                    await frames.expect("active")
                began = asyncio.get_running_loop().time()
                process.send_signal(signal.SIGTERM)
                for frames in (one, two, checked):
                    (last,) = await frames.rest()
                    assert last["id"] == frames.id
                    assert last["result"]["resultType"] == "complete"
                await process.wait()
                assert asyncio.get_running_loop().time() - began < PROMPT
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@requirement("ours.stream.stop")
async def test_closing_the_events_ends_streams_with_their_result_and_later_requests_open_them_again() -> None:
    events = ticket_events()
    async with http_peer(events) as peer:
        async with peer.stream(NAME) as frames:
            await frames.expect("active")
            await events.aclose()
            (last,) = await frames.rest()
            assert last["result"]["resultType"] == "complete"
        await works(peer, events)


# -- types at run time -----------------------------------------------------------------------------------------------


@requirement("sep.changed.sent", "sep.removed.not-found")
async def test_types_are_added_changed_and_removed_while_it_runs() -> None:
    events = ticket_events()
    async with http_peer(events) as peer:
        events.event("later", payload={"n": int})
        await events.emit("later", {"n": 1})
        events.change("later", description="Newer.", payload={"n": int, "by": str | None})
        await events.emit("later", {"n": 1, "by": "me"})
        assert (await peer.call("events/list"))["events"][-1]["description"] == "Newer."
        events.remove("later")
        with pytest.raises(InvalidInput, match=r"no event type 'later' is declared; known are ticket\.updated"):
            await events.emit("later", {"n": 1})
        assert (await peer.refused("events/poll", name="later")).data == {"kind": "event"}
        events.event("later", "Again.")
        assert await peer.poll("later")


@requirement("sep.removed.additive", "sep.auth.subscribe")
async def test_a_type_that_was_changed_has_the_librarys_authorize_still() -> None:
    hooks = Recorded()
    events = Events(authorize=hooks.authorize)
    events.event(NAME)
    events.change(NAME, description="Newer.")
    async with http_peer(events) as peer:
        await peer.poll(NAME)
    assert len(hooks.calls) == 1


# -- declaring -------------------------------------------------------------------------------------------------------


class TypedTicket(TypedDict):
    """A ticket changed."""

    id: str
    status: Literal["open", "closed"]
    by: NotRequired[str]


@dataclass
class DataTicket:
    """A ticket changed."""

    id: str
    status: Literal["open", "closed"]
    by: str | None = None


class ModelTicket(BaseModel):
    """A ticket changed."""

    id: str
    status: Literal["open", "closed"]
    by: str | None = None


class PlainTicket:
    """A ticket changed."""

    id: str
    status: Literal["open", "closed"]
    by: str | None


HINTS = {"id": str, "status": Literal["open", "closed"], "by": str | None}

DOCUMENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "status": {"type": "string", "enum": ["open", "closed"]},
        "by": {"type": "string"},
    },
    "required": ["id", "status"],
    "additionalProperties": False,
}

SHAPES = {
    "TypedDict": TypedTicket,
    "dataclass": DataTicket,
    "pydantic": ModelTicket,
    "mapping": HINTS,
    "JSON Schema": DOCUMENT,
}


@pytest.mark.parametrize("how", SHAPES)
@requirement("ours.lib.schemas", "sep.event.schema", "sep.error.invalid")
async def test_type_hints_and_json_schema_declare_alike(how: str) -> None:
    shape: Any = SHAPES[how]
    events = Events()
    events.event(NAME, "A ticket changed.", arguments=shape, payload=shape)
    if how not in ("mapping", "JSON Schema"):
        events.event("decorated")(shape)
    good = {"id": "1", "status": "open"}
    bad = [{"id": 1, "status": "open"}, {"id": "1"}, {"id": "1", "status": "new"}, {**good, "more": 1}]
    async with http_peer(events) as peer:
        for described in (await peer.call("events/list"))["events"]:
            payload = described["payloadSchema"]
            assert described["description"] == "A ticket changed."
            assert (payload["type"], payload["additionalProperties"]) == ("object", False)
            assert sorted(payload["required"]) == ["id", "status"]
            assert payload["properties"].keys() == {"id", "status", "by"}
        for arguments in (good, {**good, "by": "me"}):
            assert await peer.poll(NAME, arguments=arguments)
            assert await events.emit(NAME, arguments)
        for data in bad:
            refusal = await peer.refused("events/poll", name=NAME, arguments=data)
            assert refusal.code == -32602
            assert refusal.data["field"].startswith("arguments")
            with pytest.raises(InvalidEvent) as caught:
                await events.emit(NAME, data)
            assert (caught.value.field or "").startswith("data")


@requirement("ours.lib.schemas")
async def test_a_class_declares_payload_arguments_hooks_and_description() -> None:
    events = Events(clock=FakeClock())
    begun: list[Any] = []

    @events.event(NAME)
    class Ticket(PlainTicket):
        """One ticket changed."""

        class Arguments(TypedDict, total=False):
            status: Literal["open", "closed"]

        @staticmethod
        def match(ctx: Any, event: Any, arguments: Any) -> bool:
            return arguments.get("status") in (None, event.data["status"])

        @staticmethod
        async def on_subscribe(ctx: Any, arguments: Any, subscription_id: str) -> None:
            begun.append(arguments)

    assert Ticket.__name__ == "Ticket"
    async with http_peer(events) as peer:
        (described,) = (await peer.call("events/list"))["events"]
        assert described["description"] == "One ticket changed."
        assert described["inputSchema"]["properties"].keys() == {"status"}
        assert described["payloadSchema"]["properties"].keys() == {"id", "status", "by"}
        cursor = (await peer.poll(NAME, arguments={"status": "open"}))["cursor"]
        assert begun == [{"status": "open"}]
        for status in ("closed", "open"):
            await events.emit(NAME, {"id": "1", "status": status})
        (event,) = (await peer.poll(NAME, cursor, arguments={"status": "open"}))["events"]
        assert event["data"]["status"] == "open"


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"name": ""}, InvalidTopic, ""),
        ({"name": "no spaces"}, InvalidTopic, ""),
        ({"name": "a.*"}, InvalidTopic, ""),
        ({"payload": int}, InvalidSchema, "ticket.updated payload must be an object"),
        ({"arguments": list[str]}, InvalidSchema, "ticket.updated arguments must be an object"),
        ({"payload": {"n": Recorded}}, InvalidSchema, "cannot be written as JSON Schema"),
        ({"payload": {"type": "object", "properties": {"n": {"type": "complex"}}}}, InvalidSchema, "schema"),
        ({"payload": {"type": "array"}}, InvalidSchema, "object"),
        ({"delivery": ["poll", "pigeon"]}, InvalidInput, "delivery lists modes among poll, push"),
        ({"delivery": []}, InvalidInput, "at least one mode"),
        ({"delivery": ["webhook"]}, InvalidInput, "webhook delivery is not there yet"),
        ({"delivery": ["poll"], "replay": False}, InvalidInput, "leave poll out"),
        ({"interval": 0}, InvalidInput, "interval must be a positive number"),
        ({"max_streams": 0}, InvalidInput, "max_streams must be a whole number of at least 1"),
        ({"max_streams": 1.5}, InvalidInput, "max_streams must be a whole number of at least 1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
@requirement("ours.lib.schemas")
async def test_a_declaration_that_cannot_be_is_refused_where_it_stands(
    options: dict[str, Any], error: type[InvalidInput], says: str
) -> None:
    events = Events()
    with pytest.raises(error) as caught:
        events.event(**{"name": NAME, **options})
    assert says in caught.value.message
    assert len(caught.value.message) < 400
    assert not events._offer.types


@requirement("ours.lib.schemas")
async def test_a_name_is_declared_once() -> None:
    events = ticket_events()
    with pytest.raises(InvalidInput, match=r"ticket\.updated is declared already; `change` changes it"):
        events.event(NAME)
    for act in (events.remove, events.gap, lambda name: events.change(name)):
        with pytest.raises(InvalidInput, match="no event type 'unknown' is declared"):
            act("unknown")


@requirement("ours.transports")
async def test_a_request_that_comes_while_another_opens_the_store_waits_for_it(tmp_path: Path) -> None:
    events = ticket_events(tmp_path / "events.db")
    server = MCPServer("many", extensions=[events.extension()])
    app = server.streamable_http_app()
    async with peer_of(app) as peer:
        answers = await asyncio.gather(*(peer.poll(NAME) for _ in range(20)))
        assert len({answer["cursor"] for answer in answers}) == 1
    assert events._life is None
