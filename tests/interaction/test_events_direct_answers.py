"""Whoever asks gets the same answer, byte by byte, whether the SDK serves the request or the layer does."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fastmcp import FastMCP
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer

from clarion.events import Events, EventsLayer
from interaction.events_exchanges import Answer, Asked, asked_of, exchange
from interaction.events_more import ALICE, secured, secured_fastmcp
from interaction.events_requirements import requirement
from interaction.events_targets import listening
from interaction.serving import operator, serving

NAME = "ticket.updated"
ARGUMENTS = {"type": "object", "properties": {"status": {"type": "string"}}, "additionalProperties": False}

OF_FASTMCP = {
    # It leaves the check of hosts and origins to a middleware that one asks for.
    "another host": True,
    "another origin": True,
    # Of these types it is not known whether a function of the author's would be called.
    "an event that there is not": False,
    "a name that is empty": False,
    "a name that is no string": False,
    "an unknown event without the extension": False,
}
"""What FastMCP has served without the SDK, and what it has not, unlike others."""

OF_CLARION = {"right from a page of this host": False}
"""Its own guard lets no page in that is not configured."""

ASKED = asked_of(NAME, {"status": "open"}, {"status": 5})
SERVED = asked_of("deal.won", {"amount_gte": 5}, {"amount_gte": "lots"})


@dataclass(frozen=True)
class Two:
    """One server, with the layer in front and without."""

    direct: str
    plain: str
    layer: EventsLayer
    authorization: str | None = None

    async def compare(self, asked: Asked) -> Answer:
        before = self.layer.served
        ours = await exchange(self.direct, asked, self.authorization)
        was_direct = self.layer.served > before
        theirs = await exchange(self.plain, asked, self.authorization)
        assert self.layer.served == before + was_direct
        assert _comparable(ours) == _comparable(theirs)
        assert was_direct == asked.direct
        return ours


def _comparable(answer: Answer) -> tuple[str, list[tuple[str, str]], bytes]:
    """Without what is another each time, the id of a session that is opened."""
    headers = [(name, "" if name == "mcp-session-id" else value) for name, value in answer.headers]
    return answer.status, headers, _unescaped(answer.body) if answer.is_stream else answer.body


def _unescaped(frame: bytes) -> bytes:
    """A frame, whose JSON the SDK writes in ASCII where it is the one to write."""
    head, data, rest = frame.partition(b"data: ")
    message, end, rest = rest.partition(b"\r\n\r\n")
    return head + data + json.dumps(json.loads(message)).encode() + end + rest


def events_of_tickets(**options: Any) -> Events:
    events = Events(**options)
    events.event(NAME, "A ticket changed.", arguments=ARGUMENTS)
    return events


def server_of(kind: str, events: Events) -> Any:
    if kind == "secured":
        return secured(events)
    if kind == "secured-fastmcp":
        return secured_fastmcp(events)
    makes = {"mcpserver": MCPServer, "low-level": Server, "fastmcp": FastMCP}
    server = makes[kind]("any")
    events.attach(server)
    return server


@asynccontextmanager
async def two(kind: str, **options: Any) -> AsyncIterator[Two]:
    server = server_of(kind, events_of_tickets())
    app = server.http_app(**options) if isinstance(server, FastMCP) else server.streamable_http_app(**options)
    layer = EventsLayer(app)
    async with listening(layer) as direct, listening(app) as plain, app.router.lifespan_context(app):
        yield Two(direct, plain, layer, f"Bearer {ALICE}" if kind.startswith("secured") else None)


@asynccontextmanager
async def two_of_clarion(data: Path) -> AsyncIterator[Two]:
    async with serving(data) as running:
        plain = copy.copy(running.app)
        layer = running.app._mcp_app

        async def without(scope: Any, receive: Any, send: Any, _headers: Any) -> None:
            await layer.app(scope, receive, send)

        plain._mcp_app, plain._entry = without, plain._route  # type: ignore[assignment]
        async with listening(plain) as url:
            yield Two(running.url, url, layer, f"Bearer {operator()}")


@pytest.mark.parametrize("kind", ["mcpserver", "low-level", "fastmcp", "secured", "secured-fastmcp"])
@requirement("ours.transports", "ours.lib.fastmcp", "ours.lib.mcpserver")
async def test_every_request_is_answered_as_the_sdk_answers_it(kind: str) -> None:
    async with two(kind) as both:
        await compare_all(both, ASKED, OF_FASTMCP if "fastmcp" in kind else {})


@requirement("ours.transports", "ours.serve.catalog")
async def test_clarion_serve_answers_every_request_as_the_sdk_answers_it(tmp_path: Path) -> None:
    async with two_of_clarion(tmp_path) as both:
        await compare_all(both, SERVED, OF_CLARION)


async def compare_all(both: Two, all_asked: list[Asked], exceptions: dict[str, bool]) -> None:
    streams = 0
    for asked in all_asked:
        answer = await both.compare(replace(asked, direct=exceptions.get(asked.name, asked.direct)))
        streams += answer.is_stream
    assert streams >= 15, "or there is nothing that the layer serves"


@pytest.mark.parametrize("kind", ["secured", "secured-fastmcp"])
@pytest.mark.parametrize("authorization", [None, "Basic YTpi", "bearer acme/alice"])
@requirement("ours.transports")
async def test_authentication_stands_before_everything(kind: str, authorization: str | None) -> None:
    async with two(kind) as both:
        passes = authorization == "bearer acme/alice"
        both = Two(both.direct, both.plain, both.layer, authorization)
        for asked in ASKED[:2]:
            answer = await both.compare(replace(asked, direct=passes))
            assert answer.status.split()[1] == ("200" if passes else "401")


@requirement("ours.transports")
async def test_a_scope_that_is_missing_is_refused() -> None:
    server = secured(events_of_tickets())
    assert server.settings.auth is not None
    server.settings.auth.required_scopes = ["admin"]
    app = server.streamable_http_app()
    layer = EventsLayer(app)
    async with listening(layer) as direct, listening(app) as plain, app.router.lifespan_context(app):
        answer = await Two(direct, plain, layer, f"Bearer {ALICE}").compare(replace(ASKED[0], direct=False))
        assert answer.status.split()[1] == "403"


@requirement("ours.stream.json-response")
async def test_a_server_that_answers_in_json_only_is_left_to_the_sdk() -> None:
    async with two("mcpserver", json_response=True) as both:
        answer = await both.compare(replace(ASKED[0], direct=False))
        assert json.loads(answer.body)["error"]["data"]["reason"] == "json_response"


@requirement("ours.transports")
async def test_stateless_servers_answer_alike() -> None:
    async with two("mcpserver", stateless_http=True) as both:
        await compare_all(both, ASKED, {})
