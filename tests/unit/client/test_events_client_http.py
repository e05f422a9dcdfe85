"""`EventsClient` over HTTP that is not what it should be: garbage, broken connections, refusals below JSON-RPC."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from clarion.client.mcp_events import (
    ConnectionLost,
    EventOccurrence,
    EventsClient,
    Failure,
    InvalidInput,
    Item,
    LimitExceeded,
    ServerUnreachable,
    Terminated,
    UnexpectedAnswer,
    http_client,
)
from clarion.retry import Backoff

URL = "http://127.0.0.1/mcp"
EVENT = {"eventId": "e1", "name": "a.b", "timestamp": "2026-01-01T00:00:00Z", "data": {}, "cursor": "c1"}
LISTED = {"events": [{"name": "a.b", "delivery": ["push", "poll"]}]}
DISCOVERED = {
    "supportedVersions": ["2026-07-28"], "resultType": "complete", "ttlMs": 0, "cacheScope": "private",
    "capabilities": {"extensions": {"io.modelcontextprotocol/events": {}}},
}  # fmt: skip

Answer = Callable[[httpx2.Request, Any], httpx2.Response]


@pytest.fixture(autouse=True)
def silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def result(identity: object, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.Response(200, json={"jsonrpc": "2.0", "id": identity, "result": body})


def note(method: str, identity: object, params: dict[str, Any]) -> bytes:
    meta = {"io.modelcontextprotocol/subscriptionId": identity}
    body = {"jsonrpc": "2.0", "method": f"notifications/events/{method}", "params": {**params, "_meta": meta}}
    return f"data: {json.dumps(body)}\n\n".encode()


def streaming(*chunks: bytes, end: Exception | None = None) -> httpx2.Response:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        if end is not None:
            raise end
        await asyncio.Event().wait()

    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body())


@asynccontextmanager
async def served(*streams: Answer, lists: tuple[Answer, ...] = ()) -> AsyncIterator[EventsClient]:
    """A client of a server whose successive `events/stream` requests are answered so, the last again and again.

    `lists`: answers to the first `events/list` requests; the others are answered well.
    """
    left, bad = list(streams), list(lists)

    def answer(request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        if body["method"] == "server/discover":
            return result(body["id"], DISCOVERED)
        if body["method"] == "events/list":
            return bad.pop(0)(request, body["id"]) if bad else result(body["id"], LISTED)
        return (left.pop(0) if len(left) > 1 else left[0])(request, body["id"])

    async with (
        http_client(transport=httpx2.MockTransport(answer)) as http,
        Client(streamable_http_client(URL, http_client=http), mode="auto", cache=None) as client,
        EventsClient(client, backoff=Backoff(0.01, 0.01)) as events,
    ):
        yield events


def good(_request: httpx2.Request, identity: object) -> httpx2.Response:
    return streaming(note("active", identity, {"cursor": "c0"}), note("event", identity, EVENT))


def broken(_request: httpx2.Request, _identity: object) -> httpx2.Response:
    raise httpx2.ConnectError("refused")


def with_status(status: int, **options: Any) -> Answer:
    return lambda _request, _identity: httpx2.Response(status, **options)


def of(*chunks: bytes, end: Exception | None = None) -> Answer:
    return lambda _request, _identity: streaming(*chunks, end=end)


async def until(events: EventsClient, kind: type[Item]) -> list[Item]:
    found: list[Item] = []
    async with asyncio.timeout(10), events.subscribe("a.b", mode="push") as subscription:
        async for item in subscription:
            found.append(item)
            if isinstance(item, kind):
                break
    return found


@pytest.mark.parametrize(
    "first",
    [
        broken,
        of(b"data: {not json\n\n"),
        of(b'data: {"jsonrpc": "2.0", "method": 5}\n\n'),
        of(b"data: \xff\xfe\n\n"),
        of(end=httpx2.ReadError("reset")),
        with_status(500),
        with_status(502, text="<html>bad gateway</html>"),
        with_status(503, json={"error": "busy"}),
    ],
    ids=["refused", "no-json", "no-rpc", "no-utf8", "reset", "500", "502", "503"],
)
async def test_whatever_breaks_a_stream_it_is_opened_again(first: Answer) -> None:
    async with served(first, first, good) as events:
        found = await until(events, EventOccurrence)
    assert [type(item) for item in found] == [Failure, Failure, EventOccurrence]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_of_the_bearer_is_an_end(status: int) -> None:
    async with served(with_status(status, text="who are you?")) as events:
        (ended,) = await until(events, Terminated)
    assert isinstance(ended, Terminated)
    assert (ended.error.kind, ended.error.data) == ("Forbidden", {"httpStatus": status})


def refused(code: int, message: str) -> Answer:
    error = {"code": code, "message": message}
    return lambda _request, identity: httpx2.Response(200, json={"jsonrpc": "2.0", "id": identity, "error": error})


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (refused(-32603, "busy"), UnexpectedAnswer, "the server answered with an error: busy"),
        (refused(-32025, "too many"), LimitExceeded, "too many"),
        (with_status(418, text="tea"), UnexpectedAnswer, "the server answered with an error: HTTP 418"),
        (with_status(500), ServerUnreachable, r"the server failed \(HTTP 500\); see its log"),
        (with_status(503, json={"error": "busy"}), ServerUnreachable, r"the server failed \(HTTP 503\)"),
        (broken, ServerUnreachable, "the server is not there"),
    ],
)
async def test_a_list_that_fails_for_now_is_no_lost_connection(
    answer: Answer, kind: type[Exception], said: str
) -> None:
    async with served(good, lists=(answer,)) as events:
        with pytest.raises(kind, match=said) as raised:
            await events.list()
        assert not isinstance(raised.value, ConnectionLost)
        assert [descriptor.name for descriptor in await events.list()] == ["a.b"]


async def test_a_subscription_outlives_a_list_that_fails_for_now() -> None:
    async with served(good, lists=(refused(-32603, "busy"), broken)) as events:
        found = await until(events, EventOccurrence)
    assert [item.message for item in found if isinstance(item, Failure)] == ["busy", "the server is not there"]
    assert isinstance(found[-1], EventOccurrence)


async def test_a_stream_whose_connection_breaks_says_so() -> None:
    async with served(of(end=httpx2.ReadError("reset")), good) as events:
        first, *_ = await until(events, EventOccurrence)
    assert isinstance(first, Failure)
    assert first.message == "the connection broke"


async def test_a_subscription_is_active_when_its_stream_is_and_not_before() -> None:
    async with served(broken, good) as events, events.subscribe("a.b", mode="push") as subscription:
        assert isinstance(await anext(subscription), Failure)
        assert not subscription.active.is_set()
        assert isinstance(await anext(subscription), EventOccurrence)
        assert subscription.active.is_set()


async def test_frames_of_nobodys_stream_reach_no_subscription() -> None:
    def mixed(_request: httpx2.Request, identity: object) -> httpx2.Response:
        others = [note("event", other, {**EVENT, "eventId": "x"}) for other in ("events-0", 1, True, None, [])]
        return streaming(*others, note("active", identity, {"cursor": "c0"}), note("event", identity, EVENT))

    async with served(mixed) as events:
        (found,) = await until(events, EventOccurrence)
    assert isinstance(found, EventOccurrence)
    assert found.event_id == "e1"


def test_a_bearer_that_no_header_can_hold_is_refused() -> None:
    with pytest.raises(InvalidInput, match="bearer"):
        http_client("a\nb")
