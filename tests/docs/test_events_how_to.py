"""The examples of the README and the how-to pages about events, pasted into files, do what the pages say."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from clarion.client.mcp_events import EventOccurrence, EventsClient, Subscription, Terminated, connect
from clarion.events import Events, Forbidden
from clarion.testing.server import served
from docs.official import EventsListener
from docs.pages import DOCS, section
from interaction.events_requirements import requirement

CLIENT_PAGE = "how-to/events-client.md"
README = DOCS.parent / "README.md"
PATIENCE = 30.0
ENVIRONMENT = {**os.environ, "FASTMCP_SHOW_SERVER_BANNER": "false", "FASTMCP_CHECK_FOR_UPDATES": "off"}


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.+?)^```", text, re.M | re.S)


def example(page: str) -> str:
    """The whole file that a how-to shows."""
    (code,) = blocks(section(page, "An example"))
    return code


def readme_example(library: str) -> str:
    """The README's file; with FastMCP two of its lines are the other block's."""
    code, other = blocks(section("../README.md", "As a library"))
    if library == "mcp":
        return code
    importing, making = other.strip().split("\n\n")
    lines = {"from mcp.server.mcpserver import MCPServer": importing}
    lines['mcp = MCPServer("tickets", extensions=[events.extension()])'] = making
    changed = "\n".join(lines.get(line, line) for line in code.splitlines())
    assert sum(line in lines for line in code.splitlines()) == 2
    return changed


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@asynccontextmanager
async def running(
    *arguments: str, directory: Path, port: int, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process that listens on `port` when the block begins; what it says on stderr stays its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=directory, env={**ENVIRONMENT, **environment},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                assert process.returncode is None, "the server ended"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def official(library: str, transport: str, directory: Path) -> AsyncIterator[tuple[Client, EventsListener]]:
    """The official client of the README's server."""
    (directory / "tickets.py").write_text(readme_example(library))
    listener = EventsListener()
    async with AsyncExitStack() as stack:
        if transport == "stdio":
            log = stack.enter_context((directory / "log").open("w"))
            command = StdioServerParameters(command=sys.executable, args=["tickets.py"], cwd=directory, env=ENVIRONMENT)
            server: Any = stdio_client(command, errlog=log)
        else:
            port = free_port()
            run = f"import tickets; tickets.mcp.run('streamable-http', port={port})"
            await stack.enter_async_context(running("-c", run, directory=directory, port=port))
            http = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False, timeout=PATIENCE))
            server = streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)
        yield await stack.enter_async_context(Client(server, extensions=[listener])), listener


@requirement("ours.lib.mcpserver", "ours.lib.fastmcp", "ours.lib.durable")
@pytest.mark.e2e
@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("library", ["mcp", "fastmcp"])
async def test_the_readme_example_is_listed_polled_and_streamed_by_the_official_client(
    library: str, transport: str, tmp_path: Path
) -> None:
    async with official(library, transport, tmp_path) as (client, listener):
        (offered,) = (await listener.request(client, "events/list", {}))["events"]
        assert (offered["name"], sorted(offered["delivery"])) == ("ticket.updated", ["poll", "push"])
        wanted = {"name": "ticket.updated", "arguments": {"status": "open"}}
        before = await listener.request(client, "events/poll", wanted)
        assert before["events"] == []
        async with listener.stream(client, wanted) as active:
            assert active["truncated"] is False
            for number, status in (("1", "closed"), ("2", "open")):
                await client.call_tool("update_ticket", {"id": number, "status": status})
            pushed = await listener.next()
        polled = await listener.request(client, "events/poll", {**wanted, "cursor": before["cursor"]})
        assert pushed["data"] == {"id": "2", "status": "open"}
        assert [event["eventId"] for event in polled["events"]] == [pushed["eventId"]]
    if transport == "http":
        return
    async with official(library, transport, tmp_path) as (client, listener):
        again = await listener.request(client, "events/poll", {**wanted, "cursor": before["cursor"]})
        assert [event["eventId"] for event in again["events"]] == [pushed["eventId"]], "it was kept over a restart"


@asynccontextmanager
async def orders(directory: Path) -> AsyncIterator[tuple[str, asyncio.subprocess.Process, httpx2.AsyncClient]]:
    (directory / "orders.py").write_text(example("how-to/events-library.md"))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with (
        running("orders.py", directory=directory, port=port, PORT=str(port)) as server,
        httpx2.AsyncClient(base_url=url, trust_env=False) as app,
    ):
        yield url, server, app


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)


@requirement("ours.proof.how-to")
@pytest.mark.e2e
async def test_the_library_example_gives_each_caller_what_the_hooks_let_through(tmp_path: Path) -> None:
    order = {"order": "7", "region": "eu", "state": "paid", "card": "4000123412341234"}
    async with (
        orders(tmp_path) as (url, _, app),
        connect(f"{url}/mcp", "token-of-grace") as client,
        EventsClient(client) as events,
    ):
        async with events.subscribe("order.changed", {"region": "us"}) as refused:
            ended = await anext(refused)
            assert isinstance(ended, Terminated)
            assert ended.error.kind == "Forbidden"

        async def watched() -> bool:
            return bool((await app.get("/watched")).json() == ["eu"])

        async with events.subscribe("order.changed", {"region": "eu"}) as items:
            waiting = asyncio.ensure_future(anext(items))
            await until(watched)
            await app.post("/orders", json={**order, "region": "us", "order": "6"})
            first = (await app.post("/orders", json=order)).json()
            assert first == {"event_id": "7-paid", "duplicate": False}
            assert (await app.post("/orders", json=order)).json()["duplicate"] is True
            assert (await app.post("/orders", json={**order, "card": "other"})).status_code == 409
            assert (await app.post("/orders", json={**order, "state": "lost"})).status_code == 422
            event = await asyncio.wait_for(waiting, PATIENCE)
            assert isinstance(event, EventOccurrence)
            assert (event.event_id, event.data["card"]) == ("7-paid", "1234")

        async def nobody() -> bool:
            return bool((await app.get("/watched")).json() == [])

        await until(nobody)


@requirement("ours.stream.stop")
@pytest.mark.e2e
async def test_the_library_example_stops_at_once_under_an_open_stream(tmp_path: Path) -> None:
    listener = EventsListener()
    headers = {"authorization": "Bearer token-of-ada"}
    async with orders(tmp_path) as (url, server, _):
        http = httpx2.AsyncClient(trust_env=False, timeout=PATIENCE, headers=headers)
        async with (
            http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http), extensions=[listener]) as client,
        ):
            stream = listener.request(client, "events/stream", {"name": "order.changed", "arguments": {"region": "us"}})
            open_stream = asyncio.create_task(stream)
            await asyncio.wait_for(listener.active.get(), PATIENCE)
            server.send_signal(signal.SIGTERM)
            result = await asyncio.wait_for(open_stream, 5)
            assert result["resultType"] == "complete"
            await asyncio.wait_for(server.wait(), 5)


@requirement("ours.proof.how-to", "ours.check.poll")
@pytest.mark.e2e
async def test_the_check_example_is_polled_and_streamed_from_its_own_cursor(tmp_path: Path) -> None:
    page = "how-to/events-check.md"
    (tmp_path / "deploys.py").write_text(example(page))
    (command,) = re.findall(r"^    (echo .+)$", section(page, "An example"), re.M)

    async def deploy() -> None:
        shell = await asyncio.create_subprocess_exec("bash", "-c", command, cwd=tmp_path)
        assert await shell.wait() == 0

    parameters = StdioServerParameters(command=sys.executable, args=["deploys.py"], cwd=tmp_path, env=ENVIRONMENT)
    async with connect(parameters) as client:
        for mode in ("push", "poll"):
            await deploy()  # before anybody asks: it is nobody's
            async with (
                EventsClient(client) as events,
                events.subscribe("deploy.finished", {"service": "web"}, mode=mode) as items,
            ):
                waiting = asyncio.ensure_future(anext(items))

                async def begun(items: Subscription = items) -> bool:
                    return items.cursor is not None

                await until(begun)
                command = re.sub('"id": "[^"]+"', f'"id": "{mode}"', command)
                await deploy()
                event = await asyncio.wait_for(waiting, PATIENCE)
                assert isinstance(event, EventOccurrence)
                assert (event.event_id, event.data) == (mode, {"service": "web", "version": "1.4"})
                assert event.timestamp.startswith("2026-11-21T10:30:00")


@requirement("ours.proof.how-to")
@pytest.mark.e2e
async def test_the_client_example_follows_the_readme_server_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    (tmp_path / "tickets.py").write_text(readme_example("mcp"))
    (tmp_path / "agent.py").write_text(example(CLIENT_PAGE))
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    run = f"import tickets; tickets.mcp.run('streamable-http', port={port})"

    @asynccontextmanager
    async def agent() -> AsyncIterator[Callable[[str], Any]]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-u", "agent.py", cwd=tmp_path, env={**ENVIRONMENT, "MCP_URL": url},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        output = process.stdout

        async def says(beginning: str) -> str:
            async with asyncio.timeout(PATIENCE):
                while not (line := (await output.readline()).decode()).startswith(beginning):
                    assert line, "the agent ended"
            return line

        try:
            yield says
        finally:
            process.kill()
            await process.communicate()

    async with running("-c", run, directory=tmp_path, port=port), connect(url) as client:

        async def update(number: str) -> None:
            await client.call_tool("update_ticket", {"id": number, "status": "open"})

        async with agent() as says:
            assert "ticket.updated" in await says("offered")

            async def subscribed() -> bool:
                return (tmp_path / "agent.cursors").exists()

            await until(subscribed)
            await update("1")
            assert "'id': '1'" in await says("event")
        await update("2")
        async with agent() as says:
            while "'id': '2'" not in (line := await says("event")):
                assert "'id': '1'" in line  # at least once: it may not have been counted as handled


@requirement("ours.serve.catalog", "ours.serve.arguments")
@pytest.mark.e2e
async def test_clarion_serve_speaks_events_as_the_reference_says(tmp_path: Path) -> None:
    """Types, families, arguments, audit names, and the end of a revoked key's stream."""
    async with served(tmp_path / "data") as server, server.http("default") as operator:
        key = (await operator.post("/v1/keys", json={"role": "subscriber", "subject": "ada"})).json()

        async def emit(topic: str, payload: dict[str, Any]) -> None:
            assert (await operator.post("/v1/events", json={"topic": topic, "payload": payload})).status_code == 201

        async with connect(f"{server.url}/mcp", key["key"]) as client, EventsClient(client) as events:
            offered = {each.name: each for each in await events.list()}
            assert offered["deal.won"].delivery == ("poll", "push")
            assert {"amount_gte", "consent_purpose"} <= offered["deal.won"].input_schema["properties"].keys()
            assert "topic" in offered["github.*"].input_schema["properties"]
            assert "clarion/category" in offered["deal.won"].meta
            async with events.subscribe("github.*", {"topic": "github.push"}) as items:
                waiting = asyncio.ensure_future(anext(items))

                async def begun() -> bool:
                    return items.cursor is not None

                await until(begun)
                await emit("github.ping", {"zen": "no"})
                await emit("github.push", {"ref": "main"})
                event = await asyncio.wait_for(waiting, PATIENCE)
                assert isinstance(event, EventOccurrence)
                assert (event.name, event.meta["clarion/topic"]) == ("github.*", "github.push")
                (row,) = (await operator.get("/v1/admin/mcp/outbound/deliveries")).json()["deliveries"]
                assert (row["wire"], row["topic"]) == ("mcp_events", "github.push")
                waiting = asyncio.ensure_future(anext(items))
                await operator.delete(f"/v1/keys/{key['key_id']}")
                ended = await asyncio.wait_for(waiting, PATIENCE)
                assert isinstance(ended, Terminated)
                assert ended.error.kind == "Forbidden"


@requirement("ours.client.listen")
@pytest.mark.e2e
async def test_the_listen_command_of_the_reference_shows_the_deal_that_matches(tmp_path: Path) -> None:
    (line,) = re.findall(r"^    clarion (listen --mcp .+)$", (DOCS / "reference/events.md").read_text(), re.M)
    async with served(tmp_path / "data") as server, server.http("default") as operator:
        key = (await operator.post("/v1/keys", json={"role": "subscriber", "subject": "ada"})).json()["key"]
        command = shlex.split(line.replace("http://127.0.0.1:8787", server.url))
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "clarion"), *command, env={**ENVIRONMENT, "CLARION_KEY": key},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await server.until(operator, lambda metrics: metrics['clarion_streams{phase="live"}'] == 1)
            for amount in (50_000, 150_000):
                await operator.post("/v1/events", json={"topic": "deal.won", "payload": {"amount": amount}})
            assert process.stdout is not None
            shown = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
            assert b"deal.won" in shown
            assert b"150000" in shown
        finally:
            process.kill()
            await process.communicate()


@pytest.mark.e2e
async def test_the_listen_command_of_the_readme_shows_the_ticket_that_matches(tmp_path: Path) -> None:
    command = r"clarion (listen --mcp http://127\.0\.0\.1:8000/mcp [^`\n]+)"
    line, again = (re.findall(command, text)[0] for text in (README.read_text(), (DOCS / CLIENT_PAGE).read_text()))
    assert line == again
    (tmp_path / "tickets.py").write_text(readme_example("mcp"))
    port = free_port()
    run = f"import tickets; tickets.mcp.run('streamable-http', port={port})"
    url = f"http://127.0.0.1:{port}/mcp"
    async with running("-c", run, directory=tmp_path, port=port), connect(url) as client:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "clarion"), *shlex.split(line.replace("http://127.0.0.1:8000/mcp", url)),
            env=ENVIRONMENT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            shown = asyncio.ensure_future(process.stdout.readline())

            async def told() -> bool:
                """Tickets change until one is shown: nothing tells from outside that it listens."""
                for status in ("closed", "open"):
                    await client.call_tool("update_ticket", {"id": "1", "status": status})
                await asyncio.sleep(0.2)
                return shown.done()

            await until(told)
            assert b"ticket.updated" in shown.result()
            assert b"open" in shown.result()
        finally:
            process.kill()
            await process.communicate()


async def test_the_small_pieces_of_the_library_page_run() -> None:
    page = (DOCS / "how-to/events-library.md").read_text()
    small = [code for code in blocks(page) if code != example("how-to/events-library.md")]
    assert len(small) == 4
    async with Events(tenant=lambda _caller: "acme") as events:
        events.event("order.changed", payload={"order": str, "region": str, "state": str, "card": str})
        for code in small:
            scope: dict[str, Any] = {"events": events, "Forbidden": Forbidden}
            exec(compile(f"async def piece():\n{textwrap.indent(code, '    ')}", "events-library.md", "exec"), scope)
            await scope["piece"]()


def test_the_shell_lines_of_the_check_page_are_json() -> None:
    (line,) = re.findall(r"^    echo '(.+)' >> deploys\.ndjson$", (DOCS / "how-to/events-check.md").read_text(), re.M)
    assert json.loads(line).keys() == {"id", "at", "service", "version"}
