"""`EventsClient` against a scripted server in its own process: stdio and HTTP, 2026-07-28 and `initialize`."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from clarion.client.mcp_events import (
    ClarionError,
    ConnectionLost,
    EventOccurrence,
    EventsClient,
    Failure,
    Forbidden,
    Gap,
    InvalidInput,
    Item,
    MemoryCursors,
    NoCompatibleDeliveryMode,
    NotFound,
    ServerUnreachable,
    Subscription,
    Terminated,
    Unauthenticated,
    UnexpectedAnswer,
    Unsupported,
    connect,
    http_client,
)
from clarion.client.mcp_events.wire import MAX_PENDING
from clarion.encoding import encode
from clarion.retry import Backoff
from interaction.events_requirements import requirement
from interaction.events_scripts import ENVIRONMENT, PATIENCE, PEER, WAIT, active, error, event, peer

SOON = Backoff(base=0.01, cap=0.05)

STREAMS = 105
"""More than the 100 connections of the SDK's own HTTP pool."""


@dataclass(frozen=True)
class Way:
    """One way to the scripted server."""

    transport: str
    mode: str
    port: int

    @property
    def server(self) -> str | StdioServerParameters:
        if self.transport == "stdio":
            arguments = [*PEER, "stdio", "--place", "top"]
            return StdioServerParameters(command=sys.executable, args=arguments, env=ENVIRONMENT)
        return f"http://127.0.0.1:{self.port}/mcp"

    @asynccontextmanager
    async def opened(self, **options: Any) -> AsyncIterator[tuple[Client, EventsClient]]:
        async with (
            connect(self.server, mode=self.mode) as client,
            EventsClient(client, **{"backoff": SOON, **options}) as events,
        ):
            yield client, events


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with peer(0, "--place", "top") as (found, _):
        yield found


@pytest.fixture(params=["stdio-auto", "stdio-legacy", "http-auto", "http-legacy"])
def way(request: pytest.FixtureRequest, port: int) -> Way:
    transport, mode = request.param.split("-")
    return Way(transport, mode, port)


@pytest.fixture(params=["stdio-auto", "http-auto", "http-legacy"])
def carried(request: pytest.FixtureRequest, port: int) -> Way:
    """Where the transport matters, but on stdio not the era: the frames are the same there, and a process is dear."""
    transport, mode = request.param.split("-")
    return Way(transport, mode, port)


@pytest.fixture(params=["auto", "legacy"])
def http(request: pytest.FixtureRequest, port: int) -> Way:
    """Both eras over HTTP alone, where what the server says matters and not how it gets here."""
    return Way("http", request.param, port)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def ids(items: list[Item]) -> list[str]:
    return [item.event_id for item in items if isinstance(item, EventOccurrence)]


async def take(subscription: Subscription, enough: Callable[[list[Item]], bool]) -> list[Item]:
    """What comes until it is enough, or the subscription ends."""
    found: list[Item] = []
    async with asyncio.timeout(PATIENCE):
        async for item in subscription:
            found.append(item)
            if enough(found):
                break
    return found


async def state(client: Client, run: str) -> dict[str, Any]:
    found = (await client.call_tool("state", {"run": run})).structured_content
    assert isinstance(found, dict)
    return found


async def state_when(client: Client, run: str, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The server's state once it fits: nothing tells this process when the other one has noticed."""
    async with asyncio.timeout(PATIENCE):
        while not fits(found := await state(client, run)):
            pass
    return found


async def test_the_list_holds_the_types_of_every_page(carried: Way) -> None:
    async with carried.opened() as (client, events):
        listed = {descriptor.name: descriptor for descriptor in await events.list()}
        assert set(listed) >= {"both", "hook.only", "poll.only", "push.only"}
        assert listed["both"].delivery == ("push", "poll", "webhook")
        assert listed["both"].description == "about both"
        before = (await state(client, "-"))["lists"]
        await events.list()
        assert (await state(client, "-"))["lists"] == before


@requirement("sep.kill-switch", "sep.auth.action")
async def test_a_stream_yields_events_in_order_and_leaving_it_releases_the_server(way: Way, run: str) -> None:
    turns = [[active("c0"), *(event(number) for number in range(1, 301)), WAIT]]
    async with way.opened() as (client, events):
        async with events.subscribe("both", {"run": run, "turns": turns}) as subscription:
            found = await take(subscription, lambda items: len(items) == 300)
        assert ids(found) == [f"e{number}" for number in range(1, 301)]
        assert found[0] == EventOccurrence("e1", "both", "2026-01-01T00:00:00Z", {"n": 1}, "c1", {})
        assert subscription.cursor == "c299"  # the last one counts as handled when another is asked for
        await state_when(client, run, lambda now: now["released"] == 1)


async def test_leaving_an_async_for_without_closing_it_releases_the_server(carried: Way, run: str) -> None:
    async with carried.opened() as (client, events):
        async for _ in events.subscribe("both", {"run": run, "turns": [[active("c0"), event(1), WAIT]]}):
            break
        await state_when(client, run, lambda now: now["released"] == 1)


@requirement("sep.many.client")
async def test_leaving_the_client_releases_its_streams(carried: Way, run: str) -> None:
    async with connect(carried.server, mode=carried.mode) as client:
        async with EventsClient(client) as events:
            subscription = events.subscribe("both", {"run": run, "turns": [[active("c0"), event(1), WAIT]]})
            await anext(subscription)
        await state_when(client, run, lambda now: now["released"] == 1)
        for over in (subscription, events.subscribe("both", {"run": run})):
            with pytest.raises(ConnectionLost, match="was closed"):
                await anext(over)


@requirement("sep.order.dedupe")
async def test_a_stream_that_the_server_ends_goes_on_after_the_last_event_without_duplicates(
    http: Way, run: str
) -> None:
    turns = [[active("c0"), event(1), event(2)], [active("c2"), event(2), event(3), WAIT]]
    async with http.opened() as (client, events):
        found = await take(events.subscribe("both", {"run": run, "turns": turns}), lambda items: len(items) == 3)
        heard = (await state(client, run))["heard"]
    assert ids(found) == ["e1", "e2", "e3"]
    assert [request.get("cursor") for request in heard] == [None, "c2"]


@requirement("sep.beat.dead")
async def test_a_silent_stream_is_dead_and_resumed_after_the_last_event(http: Way, run: str) -> None:
    turns = [[active("c0"), event(1), WAIT], [active("c1"), event(2), WAIT]]
    async with http.opened(heartbeat=0.5) as (client, events):
        subscription = events.subscribe("both", {"run": run, "turns": turns})
        found = await take(subscription, lambda items: len(ids(items)) == 2)
        heard = (await state_when(client, run, lambda now: now["released"] >= 1))["heard"]
    assert ids(found) == ["e1", "e2"]
    assert isinstance(found[1], Failure)
    assert found[1].message == "the server fell silent"
    assert found[1].retry_seconds is not None
    assert heard[1]["cursor"] == "c1"


@requirement("sep.gap.persisted")
async def test_heartbeats_move_the_kept_cursor_of_a_quiet_stream(http: Way, run: str) -> None:
    cursors = MemoryCursors()
    turns = [[active("c0"), event(1), {"beat": 0.05}]]
    async with http.opened(cursors=cursors) as (client, events):
        subscription = events.subscribe("both", {"run": run, "turns": turns})
        await anext(subscription)
        waiting = asyncio.create_task(anext(subscription))
        async with asyncio.timeout(PATIENCE):
            while list(cursors._cursors.values()) != ["h"]:
                await state(client, run)
        assert subscription.cursor == "h"
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait((waiting,))


@requirement("ours.client.store")
async def test_a_heartbeat_never_overtakes_an_event_that_was_not_handled(carried: Way, run: str) -> None:
    cursors = MemoryCursors()
    turns = [[active("c0"), event(1), event(2), {"beat": 0.01}]]
    async with (
        carried.opened(cursors=cursors) as (client, events),
        events.subscribe("both", {"run": run, "turns": turns}) as subscription,
    ):
        assert ids([await anext(subscription), await anext(subscription)]) == ["e1", "e2"]
        for _ in range(5):
            await state(client, run)  # heartbeats come in between
        assert subscription.cursor == "c1"
    assert list(cursors._cursors.values()) == ["c1"]


@requirement("sep.beat.no-timeout")
async def test_the_session_timeout_does_not_end_a_stream(http: Way, run: str) -> None:
    turns = [[active("c0"), {"sleep": 0.9}, event(1), WAIT]]
    async with (
        http_client() as pool,
        Client(
            streamable_http_client(str(http.server), http_client=pool), mode=http.mode, read_timeout_seconds=0.5
        ) as client,
        EventsClient(client) as events,
    ):
        subscription = events.subscribe("both", {"run": run, "turns": turns})
        assert ids(await take(subscription, lambda items: True)) == ["e1"]
        assert len((await state(client, run))["heard"]) == 1


@requirement("sep.cursor.client-null", "sep.gap.ignored")
async def test_without_replay_nothing_is_kept_and_a_reconnection_is_a_gap(http: Way, run: str) -> None:
    cursors = MemoryCursors()
    turns = [[active(None), event(1, cursor=False)], [active(None), event(2, cursor=False), WAIT]]
    async with http.opened(cursors=cursors) as (client, events):
        found = await take(events.subscribe("both", {"run": run, "turns": turns}), lambda items: len(items) == 3)
        heard = (await state(client, run))["heard"]
    assert [found[0], found[2]] == [item for item in found if isinstance(item, EventOccurrence)]
    assert found[1] == Gap(None)
    assert [request.get("cursor") for request in heard] == [None, None]
    assert cursors._cursors == {}


@requirement("sep.gap.surfaced", "sep.gap.no-reconnect")
async def test_a_truncated_opening_is_a_gap_and_an_error_leaves_the_stream_open(http: Way, run: str) -> None:
    turns = [[active("c5", True), event(6), active("c9", True), error("error", -32603, {"reason": "503"}), event(10),
              WAIT]]  # fmt: skip
    async with http.opened() as (client, events):
        subscription = events.subscribe("both", {"run": run, "turns": turns}, cursor="old", max_age=300)
        found = await take(subscription, lambda items: len(items) == 5)
        heard = (await state(client, run))["heard"]
    assert [found[0], found[2]] == [Gap("c5"), Gap("c9")]
    assert ids(found) == ["e6", "e10"]
    assert isinstance(found[3], Failure)
    assert (found[3].code, found[3].message, found[3].data) == (-32603, "so it is", {"reason": "503"})
    assert found[3].retry_seconds is None
    assert heard == [{"name": "both", "cursor": "old", "maxAgeMs": 300_000}]


@requirement("sep.term.client", "sep.error.client")
@pytest.mark.parametrize(("code", "kind"), [(-32024, "Forbidden"), (-32012, "Forbidden"), (-32026, "Unsupported")])
async def test_a_terminated_stream_ends_the_iteration(http: Way, run: str, code: int, kind: str) -> None:
    turns = [[active("c0"), event(1), error("terminated", code, {"reason": "gone"})]]
    async with http.opened() as (_, events):
        found = await take(events.subscribe("both", {"run": run, "turns": turns}), lambda items: False)
    assert ids(found) == ["e1"]
    assert isinstance(found[-1], Terminated)
    assert (found[-1].error.code, found[-1].error.kind, found[-1].error.data) == (code, kind, {"reason": "gone"})


@pytest.mark.parametrize("code", [-32024, -32012])
async def test_a_refused_stream_is_terminated_and_not_tried_again(http: Way, run: str, code: int) -> None:
    async with http.opened() as (client, events):
        turns = [[{"error": [code, "no", None]}]]
        found = await take(events.subscribe("both", {"run": run, "turns": turns}), lambda items: False)
        assert [type(item) for item in found] == [Terminated]
        assert len((await state(client, run))["heard"]) == 1


async def test_a_refused_argument_is_terminated_with_the_servers_reason(http: Way) -> None:
    async with http.opened() as (_, events):
        (found,) = await take(events.subscribe("both", {"run": 5}), lambda items: False)
    assert isinstance(found, Terminated)
    assert (found.error.kind, found.error.data) == ("InvalidParams", {"path": "/run"})


@pytest.mark.parametrize("code", [-32025, -32013, -32603])
async def test_a_stream_refused_for_now_is_tried_again(http: Way, run: str, code: int) -> None:
    turns: list[Any] = [[{"error": [code, "later", {"limit": "streams"}]}], [active("c0"), event(1), WAIT]]
    async with http.opened() as (_, events):
        found = await take(events.subscribe("both", {"run": run, "turns": turns}), lambda items: len(items) == 2)
    assert isinstance(found[0], Failure)
    assert found[0].code == code
    assert ids(found) == ["e1"]


@requirement("sep.list.no-mode", "sep.sdk.mode-choice")
async def test_what_cannot_be_delivered_is_refused_before_anything_is_sent(http: Way) -> None:
    async with http.opened() as (_, events):
        with pytest.raises(NotFound, match=r"no event type 'nothing\.here'; it has both, hook\.only"):
            await anext(events.subscribe("nothing.here"))
        with pytest.raises(NoCompatibleDeliveryMode, match=r"hook\.only is not delivered by push or poll; .* webhook"):
            await anext(events.subscribe("hook.only"))
        with pytest.raises(NoCompatibleDeliveryMode, match=r"push\.only is not delivered by poll"):
            await anext(events.subscribe("push.only", mode="poll"))


async def test_an_event_that_is_none_is_a_failure_and_the_stream_goes_on(http: Way, run: str) -> None:
    bad: list[Any] = [{"note": "event", "params": {"eventId": 5, "name": "both"}}, {"note": "unheard.of"}]
    turns = [[active("c0"), *bad, error("error", True, {}), event(1), WAIT]]
    async with http.opened() as (_, events):
        found = await take(events.subscribe("both", {"run": run, "turns": turns}), lambda items: len(items) == 3)
    assert [type(item) for item in found] == [Failure, Failure, EventOccurrence]


@requirement("sep.policy")
async def test_a_slow_reader_gets_every_event_once_and_memory_stays_bounded(carried: Way, run: str) -> None:
    params = {"name": "both", "timestamp": "2026-01-01T00:00:00Z", "data": {}}
    turns = [[active("c0"), {"note": "event", "times": MAX_PENDING + 200, "params": params}, WAIT],
             [active("m"), event(1), WAIT]]  # fmt: skip
    async with (
        carried.opened() as (client, events),
        events.subscribe("both", {"run": run, "turns": turns}) as subscription,
    ):
        found = await take(subscription, lambda items: True)
        # Nothing is read until the stream was given up, which is what keeps the memory bounded.
        await state_when(client, run, lambda now: now["released"] == 1)
        while ids(found)[-1] != "e1":
            found.append(await anext(subscription))
        heard = (await state(client, run))["heard"]
    *many, _ = ids(found)
    assert MAX_PENDING <= len(many) <= MAX_PENDING + 1
    assert many == [f"many-{number}" for number in range(len(many))]
    assert heard[1]["cursor"] == f"m{len(many) - 1}"


@requirement("sep.changed.relist")
async def test_a_changed_list_is_read_again(port: int) -> None:
    for transport in ("stdio", "http"):
        async with Way(transport, "auto", port).opened() as (client, events):
            await events.list()
            await client.call_tool("add", {"name": f"new.{transport}"})
            async with asyncio.timeout(PATIENCE):
                while f"new.{transport}" not in [descriptor.name for descriptor in await events.list()]:
                    await state(client, "-")
            assert (await state(client, "-"))["listening"] >= 1


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_server_that_is_killed_and_comes_back_ends_no_stream(mode: str, run: str) -> None:
    turns = [[active("c0"), event(1), {"sleep": 0.5}, event(2), WAIT]]
    with peer(0, "--place", "top") as (port, first):
        async with Way("http", mode, port).opened() as (client, events):
            subscription = events.subscribe("both", {"run": run, "turns": turns})
            found = [await anext(subscription)]
            first.kill()
            first.wait()
            found += [await anext(subscription), await anext(subscription)]
            assert isinstance(found[-1], Failure)
            assert found[-1].message == "the server is not there"
            with peer(port, "--place", "top"):
                found += await take(subscription, lambda items: isinstance(items[-1], EventOccurrence))
                assert (await state(client, run))["heard"] == [{"name": "both", "cursor": "c1"}]
    assert ids(found) == ["e1", "e2"]


async def test_a_lost_session_is_said_and_not_tried_for_ever(run: str) -> None:
    turns = [[active("c0"), event(1), WAIT]]
    with peer(0, "--place", "top", "--stateful") as (port, first):
        async with Way("http", "legacy", port).opened() as (_, events):
            subscription = events.subscribe("both", {"run": run, "turns": turns})
            await anext(subscription)
            first.kill()
            first.wait()
            with peer(port, "--place", "top", "--stateful"), pytest.raises(ConnectionLost):
                await take(subscription, lambda items: False)
            assert subscription.cursor == "c1"


async def test_a_command_that_ends_is_a_lost_connection(port: int, run: str) -> None:
    turns = [[active("c0"), event(1), {"exit": True}]]
    async with Way("stdio", "auto", port).opened() as (_, events):
        subscription = events.subscribe("both", {"run": run, "turns": turns})
        with pytest.raises(ConnectionLost):
            await take(subscription, lambda items: False)


@requirement("ours.client.streams")
async def test_more_than_a_hundred_streams_leave_room_for_a_call(port: int, run: str) -> None:
    async with Way("http", "auto", port).opened() as (client, events):
        arguments = {"run": run, "turns": [[active("c0"), event(1), WAIT]]}
        subscriptions = [events.subscribe("both", arguments) for _ in range(STREAMS)]
        async with asyncio.timeout(PATIENCE):
            found = await asyncio.gather(*(anext(subscription) for subscription in subscriptions))
            assert ids(list(found)) == ["e1"] * STREAMS
            assert len((await state(client, run))["heard"]) == STREAMS


async def test_polls_follow_the_cursor(http: Way, run: str) -> None:
    one, two, three = ({**event(number)["params"], "cursor": None} for number in (1, 2, 3))
    turns = [
        {"events": [], "cursor": "p0", "truncated": False, "hasMore": False, "nextPollMs": 10},
        {"events": [one, two], "cursor": "p2", "truncated": True, "hasMore": True, "nextPollMs": 9_000_000},
        {"events": [two, three], "cursor": "p3", "truncated": False, "hasMore": False, "nextPollMs": 9_000_000},
    ]
    async with http.opened(floor_ms=50) as (client, events):
        subscription = events.subscribe("both", {"run": run, "turns": turns}, mode="poll")
        found = await take(subscription, lambda items: len(items) == 4)
        heard = (await state(client, run))["heard"]
    assert found[0] == Gap("p2")
    assert ids(found) == ["e1", "e2", "e3"]
    assert [request.get("cursor") for request in heard] == [None, "p0", "p2"]


@requirement("sep.caps.silent")
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_server_without_events_is_asked_for_none(mode: str) -> None:
    arguments = [*PEER, "stdio", "--place", "none"]
    async with connect(
        StdioServerParameters(command=sys.executable, args=arguments, env=ENVIRONMENT), mode=mode
    ) as client:
        async with EventsClient(client) as events:
            with pytest.raises(Unsupported, match="does not offer events"):
                await events.list()
        assert (await state(client, "-"))["lists"] == 0


@requirement("ours.client.dialects")
async def test_a_client_that_the_user_opened_works_too(way: Way, run: str) -> None:
    """The SDK keeps no top-level capability of it, so the server is asked."""
    server = way.server
    transport = streamable_http_client(server) if isinstance(server, str) else stdio_client(server)
    async with Client(transport, mode=way.mode) as client, EventsClient(client) as events:
        subscription = events.subscribe("both", {"run": run, "turns": [[active("c0"), event(1), WAIT]]})
        assert ids(await take(subscription, lambda items: True)) == ["e1"]


async def test_a_client_that_cannot_be_opened_says_why() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/mcp"
        with pytest.raises(ServerUnreachable, match="the server is not there"):
            async with connect(url):
                pass
    with pytest.raises(ServerUnreachable, match="cannot start nothing-like-that"):
        async with connect(StdioServerParameters(command="nothing-like-that")):
            pass
    with pytest.raises(ServerUnreachable, match=r"^cannot start nothing-like-that -m 'my server'"):
        async with connect(StdioServerParameters(command="nothing-like-that", args=["-m", "my server"])):
            pass
    with pytest.raises(InvalidInput, match="no URL of an MCP server"):
        async with connect("tickets"):
            pass


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    """One HTTP request with `status`, whatever it asks for."""
    await reader.readuntil(b"\r\n\r\n")
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (400, UnexpectedAnswer, "^the server answered with an error: busy$"),
        (401, Unauthenticated, "bearer|Bearer"),
        (403, Forbidden, "HTTP 403"),
        (404, UnexpectedAnswer, "check the URL"),
        (405, UnexpectedAnswer, "HTTP 405; check the URL"),
        (500, UnexpectedAnswer, r"^the server failed \(HTTP 500\); see its log$"),
        (502, ServerUnreachable, r"^the server failed \(HTTP 502\); see its log$"),
    ],
)
async def test_a_refused_connection_tells_a_key_a_failure_and_a_wrong_url_apart(
    status: int, kind: type[ClarionError], said: str
) -> None:
    error = {"code": -32603, "message": "busy"}
    body = encode({"jsonrpc": "2.0", "id": None, "error": error} if status == 400 else {"error": "no"})
    async with await asyncio.start_server(
        lambda reader, writer: answered(reader, writer, status, body), "127.0.0.1", 0
    ) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(kind, match=said) as raised:
            async with connect(f"http://127.0.0.1:{port}/mcp"):
                pass
    assert type(raised.value) is kind


async def test_an_error_in_the_block_comes_out_as_it_was_raised(http: Way) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with http.opened():
            raise KeyError("mine")
