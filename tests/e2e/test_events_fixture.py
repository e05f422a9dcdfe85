"""The fixture for black-box suites, graded as such a suite would: from outside, by all four kinds of client."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import pytest
from fixture_peer import (
    EXTENSION,
    LEGACY,
    MODERN,
    PEERS,
    PREFIX,
    SUBSCRIPTION_ID,
    Body,
    Fixture,
    Peer,
    Refused,
    Session,
    connected,
    fixture_server,
)

from interaction.events_requirements import requirement

pytestmark = pytest.mark.e2e

CONTROLS = [
    "events_conformance_yield_error",
    "events_conformance_yield_gap",
    "events_conformance_terminate",
    "events_conformance_quota",
]
PROMPT = 0.5
"""Seconds within which a control must be seen on an open stream."""

peers = pytest.mark.parametrize("peer", PEERS, ids=str)


def by_all_peers(check: Callable[[Fixture, Peer], Awaitable[None]]) -> Callable[[Fixture], Awaitable[None]]:
    """One test of all kinds of client at the same time, since each waits for what happens once a second."""

    async def by(peer: Peer, fixture: Fixture) -> None:
        try:
            await check(fixture, peer)
        except Exception as error:
            error.add_note(f"Seen by {peer}")
            raise

    async def test(fixture: Fixture) -> None:
        async with asyncio.TaskGroup() as tasks:
            for peer in PEERS:
                tasks.create_task(by(peer, fixture))

    return test


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fixture]:
    """The server, for all tests that terminate nothing."""
    with fixture_server(tmp_path_factory.mktemp("fixture") / "server.log") as started:
        yield started


async def catalog(session: Session) -> list[Body]:
    """All pages of `events/list`, of which there must be some."""
    page = await session.call("events/list")
    found, pages = page["events"], 1
    while "nextCursor" in page:
        page = await session.call("events/list", cursor=page["nextCursor"])
        assert page["events"]
        found, pages = found + page["events"], pages + 1
    assert pages >= 2
    return found


def numbers(occurrences: list[Body]) -> list[int]:
    return [occurrence["data"]["number"] for occurrence in occurrences]


def consecutive(found: list[int]) -> bool:
    return len(found) > 1 and found == list(range(found[0], found[0] + len(found)))


async def refusal(call: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value


async def stream_refusal(session: Session, name: str, **params: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        async with session.stream(name, **params):
            pass
    return refused.value


# -- what is there ---


@peers
async def test_the_capability_is_advertised_in_both_places(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session:
        capabilities = session.introduction["capabilities"]
        assert capabilities["events"] == capabilities["extensions"][EXTENSION] == {"listChanged": True}


@requirement("ours.fixture")
@peers
async def test_the_catalog_has_pages_and_what_suites_need(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session:
        types = await catalog(session)
        refused = await refusal(session.call("events/list", cursor="no page"))
    assert refused.code == -32602
    assert len({each["name"] for each in types}) == len(types)
    for each in types:
        assert each["name"]
        assert each["description"]
        assert each["delivery"]
        assert set(each["delivery"]) <= {"poll", "push"}
        for schema in (each["inputSchema"], each["payloadSchema"]):
            assert schema["type"] == "object"
            jsonschema_rs.meta.validate(schema)
    pushed = [each["name"] for each in types if "push" in each["delivery"]]
    assert len(pushed) >= 3
    assert pushed[0] == types[0]["name"] == "chat.message"
    assert types[0]["inputSchema"]["properties"]["channel"]["type"] == "string"
    assert "required" not in types[0]["inputSchema"]
    assert [each["name"] for each in types if "poll" not in each["delivery"]] == ["presence.changed", "deploy.started"]
    assert all("webhook" not in each["delivery"] for each in types)


@requirement("ours.fixture")
@peers
async def test_the_controls_are_on_the_first_page_of_tools(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session:
        tools = {tool["name"]: tool for tool in (await session.call("tools/list"))["tools"]}
        names = [each["name"] for each in await catalog(session)]
        for control in CONTROLS[:3]:
            assert tools[control]["inputSchema"]["properties"]["name"]["enum"] == names
            assert tools[control]["inputSchema"]["required"] == ["name"]
            with pytest.raises(AssertionError, match=r"'nobody'; there are chat\.message, build\.finished"):
                await session.tool(control, name="nobody")
        assert json.loads(await session.tool("events_conformance_quota")) == {"name": "deploy.started", "max": 2}


# -- polls ---


@by_all_peers
async def test_polls_begin_now_and_then_give_every_event_in_order(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session:
        first = await session.call("events/poll", name="chat.message", arguments={})
        assert first["events"] == []
        assert (first["truncated"], first["hasMore"]) == (False, False)
        found = await session.happened("chat.message", first["cursor"], 3)
        schema = (await catalog(session))[0]["payloadSchema"]
        again = await session.poll("chat.message", first["cursor"])
    assert consecutive(numbers(found))
    assert again["events"][: len(found)] == found  # a poll is answered the same way whoever asked before
    assert isinstance(again["nextPollMs"], int)
    assert len({each["eventId"] for each in found}) == len(found)
    for each in found:
        assert each["name"] == "chat.message"
        assert datetime.fromisoformat(each["timestamp"]).tzinfo is not None
        jsonschema_rs.validate(schema, each["data"])


@by_all_peers
async def test_a_filter_gives_what_fits_and_moves_the_cursor_past_the_rest(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session:
        begin = (await session.poll("chat.message", None))["cursor"]
        await session.happened("chat.message", begin, 3)
        some = await session.poll("chat.message", begin, arguments={"channel": "general"})
        none = await session.poll("chat.message", begin, arguments={"channel": "nobody's"})
    assert {each["data"]["channel"] for each in some["events"]} == {"general"}
    assert none["events"] == []
    assert none["cursor"] != begin


@by_all_peers
async def test_a_batch_is_as_large_as_was_asked_for_and_says_that_there_is_more(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session:
        begin = (await session.poll("alert.fired", None, maxEvents=1))["cursor"]
        await session.happened("alert.fired", begin, 3)
        one = await session.poll("alert.fired", begin, maxEvents=1)
        rest = await session.poll("alert.fired", one["cursor"])
    assert one["hasMore"] is True
    assert len(one["events"]) == 1
    assert consecutive(numbers(one["events"] + rest["events"]))
    assert rest["hasMore"] is False


@by_all_peers
async def test_a_cursor_that_is_none_of_ours_is_answered_with_a_fresh_one(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session:
        other = (await session.poll("alert.fired", None))["cursor"]
        for foreign in ("garbage", "", "0", other, other[:-1], "ü" * 5000):
            answer = await session.poll("chat.message", foreign)
            assert (answer["truncated"], answer["events"]) == (True, []), foreign
            fresh = await session.poll("chat.message", answer["cursor"])
            assert fresh["truncated"] is False
            async with session.stream("chat.message", cursor=foreign) as stream:
                active = stream.seen[0]["params"]
                assert active["truncated"] is True
                assert isinstance(active["cursor"], str)


@by_all_peers
async def test_the_age_bounds_what_is_replayed(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session:
        begin = (await session.poll("chat.message", None))["cursor"]
        await session.happened("chat.message", begin, 2)
        young = await session.poll("chat.message", begin, maxAgeMs=1)
        old = await session.poll("chat.message", begin, maxAgeMs=300_000)
        now = await session.poll("chat.message", None, maxAgeMs=300_000)
        async with session.stream("chat.message", cursor=begin, maxAgeMs=1) as stream:
            assert stream.seen[0]["params"]["truncated"] is True
    assert young["truncated"] is True
    assert young["cursor"] != begin
    assert len(young["events"]) < 2
    assert old["truncated"] is False
    assert len(old["events"]) >= 2
    assert (now["truncated"], now["events"]) == (False, [])


# -- errors ---


@peers
async def test_what_cannot_be_had_is_refused_with_its_number_and_data(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session:
        for unknown in (await refusal(session.poll("nobody", None)), await stream_refusal(session, "nobody")):
            assert (unknown.code, unknown.data) == (peer.code("NotFound"), {"kind": "event"})
        for missing in (
            await refusal(session.call("events/poll", arguments={}, cursor=None)),
            await refusal(session.call("events/stream", arguments={}, cursor=None)),
        ):
            assert missing.code == -32602
        for arguments in ({"channel": 12345}, {"chanel": "general"}, {"channel": None}, []):
            bad = await refusal(session.poll("chat.message", None, arguments=arguments))
            streamed = await stream_refusal(session, "chat.message", arguments=arguments)
            assert bad.code == streamed.code == -32602
            assert "arguments" in bad.message
        polled = await refusal(session.poll("presence.changed", None))
        assert (polled.code, polled.data) == (
            peer.code("Unsupported"),
            {"feature": "deliveryMode", "value": "poll"},
        )
        pushed = await stream_refusal(session, "report.ready")
        assert (pushed.code, pushed.data["value"]) == (peer.code("Unsupported"), "push")


# -- streams ---


@by_all_peers
async def test_every_frame_names_the_stream_and_every_event_its_position(fixture: Fixture, peer: Peer) -> None:
    async with (
        connected(fixture.url, peer) as session,
        session.stream("chat.message", "a stream") as first,
        session.stream("presence.changed", 4242) as second,
    ):
        found = [await first.next("event") for _ in range(2)]
        await second.next("event")
        assert first.seen[0]["params"]["truncated"] is False
        for stream in (first, second):
            assert {message["method"] for message in stream.seen} == {PREFIX + "active", PREFIX + "event"}
            assert {message["params"]["_meta"][SUBSCRIPTION_ID] for message in stream.seen} == {stream.request_id}
    assert consecutive(numbers(found))
    assert len({each["cursor"] for each in found}) == 2


@by_all_peers
async def test_a_stream_goes_on_after_its_cursor_without_gap_or_duplicate(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session:
        found: list[Body] = []
        cursor = None
        for _ in range(3):
            async with session.stream("chat.message", cursor=cursor) as stream:
                if cursor is not None:
                    assert stream.seen[0]["params"] | {"_meta": None} == {
                        "cursor": cursor, "truncated": False, "_meta": None,
                    }  # fmt: skip
                found += [await stream.next("event") for _ in range(2)]
                cursor = found[-1]["cursor"]
            await session.happened("chat.message", cursor, 1)
        rest = await session.poll("chat.message", cursor)  # one cursor serves both modes
    assert consecutive(numbers([*found, *rest["events"]]))


@peers
async def test_an_error_is_told_and_the_stream_goes_on(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session, session.stream("chat.message") as stream:
        before = await stream.next("event")
        await session.tool("events_conformance_yield_error", name="chat.message")
        told = await stream.next("error", PROMPT)
        after = await stream.next("event")
    assert isinstance(told["error"]["code"], int)
    assert told["error"]["message"]
    assert consecutive(numbers([before, after]))


@peers
@pytest.mark.parametrize("name", ["chat.message", "presence.changed"])
async def test_a_gap_is_a_new_active_and_the_next_event_follows(fixture: Fixture, peer: Peer, name: str) -> None:
    async with connected(fixture.url, peer) as session, session.stream(name) as stream:
        before = await stream.next("event")
        for _ in range(3):
            await session.tool("events_conformance_yield_gap", name=name)
            told = await stream.next("active", PROMPT)
            assert told["truncated"] is True
        after = await stream.next("event")
    assert consecutive(numbers([before, after]))


async def test_heartbeats_are_data_that_moves_the_cursor(fixture: Fixture) -> None:
    async def watch(session: Session, **params: Any) -> None:
        async with session.stream("chat.message", **params) as stream:
            begin = stream.seen[0]["params"]["cursor"]
            beat = await stream.next("heartbeat", 31)
            assert beat["cursor"] != begin
            assert (await session.poll("chat.message", beat["cursor"]))["truncated"] is False
            with suppress(TimeoutError):  # whoever keeps connections alive by comments does so about now
                await stream.message(2)
                await stream.message(2)
            assert stream.comments == []

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        for peer in PEERS:
            session = await stack.enter_async_context(connected(fixture.url, peer))
            tasks.create_task(watch(session))
            tasks.create_task(watch(session, arguments={"channel": "nobody's"}))


@peers
async def test_the_cap_counts_open_streams_alone(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session:
        quota = json.loads(await session.tool("events_conformance_quota"))
        name, most = quota["name"], quota["max"]
        for _ in range(10):  # each round begins with a slot that was let go of just now
            async with AsyncExitStack() as stack:
                for _ in range(most):
                    await stack.enter_async_context(session.stream(name))
                refused = await stream_refusal(session, name)
                assert refused.code == peer.code("ResourceExhausted")
                assert refused.data == {"limit": "streams", "max": most}
        async with session.stream(name) as stream:
            await stream.next("event")


@peers
async def test_other_types_take_many_streams_at_a_time(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session, AsyncExitStack() as stack:
        cursor = (await session.poll("chat.message", None))["cursor"]
        streams = [await stack.enter_async_context(session.stream("chat.message", cursor=cursor)) for _ in range(50)]
        heard = await asyncio.gather(*(stream.next("event") for stream in streams))
    assert len({each["eventId"] for each in heard}) == 1


@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.era == LEGACY], ids=str)
async def test_a_session_cancels_a_stream_by_its_id(fixture: Fixture, peer: Peer) -> None:
    async with connected(fixture.url, peer) as session, session.stream("deploy.started", "to cancel") as stream:
        await session.post("notifications/cancelled", None, requestId="to cancel", reason="enough")
        with suppress(StopAsyncIteration):
            await stream.ended()
        async with session.stream("deploy.started"), session.stream("deploy.started"):
            pass


# -- ends ---


async def test_a_terminated_type_tells_its_streams_ends_them_and_stays_ended(tmp_path: Path) -> None:
    names = ["build.finished", "alert.fired", "presence.changed", "deploy.started"]
    with fixture_server(tmp_path / "server.log") as fixture:
        for peer, name in zip(PEERS, names, strict=True):
            async with connected(fixture.url, peer) as session:
                async with session.stream(name) as stream, session.stream("chat.message") as other:
                    await session.tool("events_conformance_terminate", name=name)
                    last = await stream.ended()
                    await other.next("event")
                assert set(last) == {"jsonrpc", "id", "result"}
                assert last["id"] == stream.request_id
                assert set(last["result"]) <= {"resultType", "_meta"}
                told = stream.seen[-2]
                assert told["method"] == PREFIX + "terminated"
                assert told["params"]["_meta"] == {SUBSCRIPTION_ID: stream.request_id}
                assert told["params"]["error"]["code"] == peer.code("NotFound")
                assert told["params"]["error"]["data"] == {"kind": "event"}
                assert (await stream_refusal(session, name)).code == peer.code("NotFound")
                with pytest.raises(AssertionError, match=f"{name} was terminated"):
                    await session.tool("events_conformance_terminate", name=name)
                assert name not in {each["name"] for each in (await session.call("events/list"))["events"]}


@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.era == MODERN], ids=str)
async def test_listeners_learn_that_the_catalog_has_changed(tmp_path: Path, peer: Peer) -> None:
    with fixture_server(tmp_path / "server.log") as fixture:
        async with connected(fixture.url, peer) as session:
            body = session._body("subscriptions/listen", {"notifications": {"eventsListChanged": True}}, "listening")
            headers = session._headers("subscriptions/listen", {})
            async with session.http.stream("POST", session.url, json=body, headers=headers) as response:
                data = (line.removeprefix("data: ") async for line in response.aiter_lines() if line[:5] == "data:")
                acknowledged = json.loads(await anext(data))["params"]
                assert acknowledged["notifications"]["eventsListChanged"] is True
                await session.tool("events_conformance_terminate", name="build.finished")
                changed = json.loads(await anext(data))
    assert changed["method"] == "notifications/events/list_changed"
    assert changed["params"]["_meta"][SUBSCRIPTION_ID] == "listening"


async def test_a_stop_ends_open_streams_with_their_result(tmp_path: Path) -> None:
    with fixture_server(tmp_path / "server.log") as fixture:
        async with AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(connected(fixture.url, peer)) for peer in PEERS]
            streams = [await stack.enter_async_context(session.stream("chat.message")) for session in sessions]
            fixture.process.send_signal(signal.SIGTERM)
            results = await asyncio.gather(*(stream.ended() for stream in streams))
            assert await asyncio.to_thread(fixture.process.wait, 10) in (0, -signal.SIGTERM)
            for stream, result in zip(streams, results, strict=True):
                assert result["id"] == stream.request_id
                assert "result" in result


# -- the token ---


async def test_with_a_token_nobody_else_is_served(tmp_path: Path) -> None:
    with fixture_server(tmp_path / "server.log", "--token", "open-sesame") as fixture:
        for token in (None, "open", "open-sesame-"):
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            async with httpx2.AsyncClient(headers=headers) as http:
                answers = [
                    await http.post(fixture.url, json={"jsonrpc": "2.0", "id": 1, "method": "server/discover"}),
                    await http.get(fixture.url),
                    await http.delete(fixture.url),
                ]
            assert {answer.status_code for answer in answers} == {401}, token
        for peer in PEERS:
            async with connected(fixture.url, peer, "open-sesame") as session:
                await catalog(session)
                async with session.stream("deploy.started"), session.stream("deploy.started") as stream:
                    await stream.next("event")
                    assert (await stream_refusal(session, "deploy.started")).code == peer.code("ResourceExhausted")
