"""`EventsClient` against the real library over HTTP: what the scripted peer of the other file cannot show."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer

from clarion.client import mcp_events
from clarion.client.mcp_events import EventOccurrence, EventsClient, MemoryCursors, Terminated, connect
from clarion.events import Events, EventsLayer
from docs.pages import section
from interaction.events_requirements import requirement
from interaction.events_targets import listening

NAME = "ticket.updated"


@asynccontextmanager
async def served(events: Events) -> AsyncIterator[str]:
    server = MCPServer("tickets", extensions=[events.extension()], log_level="WARNING")
    app = server.streamable_http_app()
    async with listening(EventsLayer(app)) as url, app.router.lifespan_context(app):
        yield f"{url}/mcp"


def tickets() -> Events:
    events = Events()
    events.event(NAME, "A ticket changed", arguments={"status": str | None}, match=_matches)
    return events


def _matches(ctx: Any, event: Any, arguments: Any) -> bool:
    return arguments.get("status") in (None, event.data["status"])


class Cursors(MemoryCursors):
    """Tells when a position is known for the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.known = asyncio.Event()

    async def put(self, key: str, cursor: str) -> None:
        await super().put(key, cursor)
        self.known.set()


async def up_to(subscription: Any, last: int) -> list[int]:
    """The numbers that come until `last` does."""
    found: list[int] = []
    async for item in subscription:
        if isinstance(item, EventOccurrence):
            found.append(item.data["n"])
            if found[-1] == last:
                break
    return found


@pytest.mark.parametrize("era", ["auto", "legacy"])
@pytest.mark.parametrize("mode", ["push", "poll"])
async def test_what_is_emitted_comes_in_order_and_a_kept_cursor_brings_what_was_missed(era: Any, mode: Any) -> None:
    events, cursors = tickets(), Cursors()
    async with served(events) as url, asyncio.timeout(30):
        async with connect(url, mode=era) as client, EventsClient(client, cursors=cursors, floor_ms=1) as library:
            reading = asyncio.create_task(up_to(library.subscribe(NAME, {"status": "open"}, mode=mode), 2))
            await cursors.known.wait()  # the position begins with the first answer
            for n in range(3):
                await events.emit(NAME, {"n": n, "status": "open"})
                await events.emit(NAME, {"n": n, "status": "closed"})
            assert await reading == [0, 1, 2]
        for n in range(3, 6):  # while nobody is connected
            await events.emit(NAME, {"n": n, "status": "open"})
        async with connect(url, mode=era) as client, EventsClient(client, cursors=cursors, floor_ms=1) as library:
            found = await up_to(library.subscribe(NAME, {"status": "open"}, mode=mode), 5)
            # What was not asked past comes again: the last event of a stream, all of a poll's.
            assert found == list(range(found[0], 6))
            assert found[0] <= 2


@requirement("sep.caps.declares")
async def test_it_declares_the_extension_and_so_gets_the_numbers_of_the_sep() -> None:
    async with served(tickets()) as url, connect(url) as client, EventsClient(client) as library:
        items = [item async for item in library.subscribe(NAME, {"status": 3}, mode="push")]
        (ended,) = items
        assert isinstance(ended, Terminated)
        assert ended.error.kind == "InvalidParams"
        events = [item async for item in library.subscribe(NAME, {"status": "open", "no": 1}, mode="poll")]
        assert [type(item) for item in events] == [Terminated]


async def test_a_type_that_is_removed_ends_the_iteration_with_the_number_of_the_sep() -> None:
    events = tickets()

    async def greet(ctx: Any, arguments: Any, subscription_id: str) -> None:
        await events.emit("greeted", {"n": 1})

    events.event("greeted", "Somebody subscribed", on_subscribe=greet)
    async with served(events) as url, connect(url) as client, EventsClient(client) as library, asyncio.timeout(20):
        items = []
        async for item in library.subscribe("greeted", mode="push"):
            items.append(item)
            if isinstance(item, EventOccurrence):
                events.remove("greeted")
        assert [type(item) for item in items] == [EventOccurrence, Terminated]
        assert (items[-1].error.kind, items[-1].error.code) == ("NotFound", -32023)


async def test_the_last_event_of_a_polled_page_has_the_cursor_to_go_on_from() -> None:
    events = tickets()
    async with served(events) as url, connect(url) as client, asyncio.timeout(30):
        async with (
            EventsClient(client, floor_ms=1) as library,
            library.subscribe(NAME, mode="poll") as subscription,
        ):
            reading = asyncio.create_task(anext(subscription))
            await subscription.active.wait()
            await events.emit(NAME, {"n": 1, "status": "open"})
            first = await reading
        assert isinstance(first, EventOccurrence)
        assert first.cursor is not None
        await events.emit(NAME, {"n": 2, "status": "open"})
        async with EventsClient(client, floor_ms=1) as library:
            assert await up_to(library.subscribe(NAME, mode="poll", cursor=first.cursor), 2) == [2]


async def test_the_agent_of_the_page_says_in_one_line_that_nobody_answers(tmp_path: Path) -> None:
    page = section("how-to/events-client.md", "An example")
    code = page.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "agent.py").write_text(code)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/mcp"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "agent.py", cwd=tmp_path, env={**os.environ, "MCP_URL": url}, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(30):
            _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode() == f"not connected: no MCP server answers at {url}: the server is not there\n"


def test_the_page_names_every_exception_and_each_is_exported() -> None:
    rows = [row for row in section("how-to/events-client.md", "What is raised").splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([A-Z]\w+)`", row.split("|")[1])}
    assert named | {"ClarionError"} == {
        name
        for name in mcp_events.__all__
        if isinstance(found := getattr(mcp_events, name), type) and issubclass(found, Exception)
    }
