"""`events/poll` (SEP-3415, "Poll-Based Delivery"), and what an occurrence looks like on both modes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clarion.errors import InvalidEvent
from clarion.events import Events
from clarion.testing.clock import FakeClock
from clarion.wires.mcp_events import service
from interaction.events_raw import MODERN, Message, Peer
from interaction.events_requirements import requirement
from interaction.events_subject import ALARM, TICKET, declare
from interaction.events_targets import StdioTarget, Target, both_stores, every_target, http_peer, store_url


def data_of(portion: Message) -> list[Any]:
    return [event["data"] for event in portion["events"]]


async def drained(peer: Peer, name: str, cursor: str, **params: Any) -> tuple[list[Message], str]:
    """All polls that follow at once, and the last cursor."""
    portions = [await peer.poll(name, cursor, **params)]
    while portions[-1]["hasMore"]:
        portions.append(await peer.poll(name, portions[-1]["cursor"], **params))
    return portions, portions[-1]["cursor"]


@every_target
@requirement("sep.poll.bootstrap", "sep.poll.shape", "ours.eras", "ours.transports")
async def test_a_first_poll_gives_no_events_and_a_cursor(target: Target) -> None:
    async with target.connect() as peer:
        await peer.tool("emit", name=TICKET, data={"id": "before"})
        first = await peer.call("events/poll", name=TICKET, arguments={}, cursor=None)
        assert first.keys() - {"_meta"} == {"resultType", "events", "cursor", "truncated", "hasMore", "nextPollMs"}
        assert (first["resultType"], first["events"]) == ("complete", [])
        assert (first["truncated"], first["hasMore"]) == (False, False)
        assert isinstance(first["cursor"], str)
        assert isinstance(first["nextPollMs"], int)
        assert first["nextPollMs"] > 0


@every_target
@both_stores
@requirement(
    "sep.poll.next", "sep.order.subscription", "sep.event.fields", "sep.poll.no-event-cursor", "sep.poll.shape"
)
async def test_polls_give_what_came_since_in_order_and_once(target: Target, store: str, tmp_path: Path) -> None:
    async with target.connect(url=store_url(store, tmp_path)) as peer:
        cursor = (await peer.poll(TICKET))["cursor"]
        wanted = [{"id": str(number)} for number in range(4)]
        for data in wanted[:3]:
            await peer.tool("emit", name=TICKET, data=data)
        second = await peer.poll(TICKET, cursor)
        assert data_of(second) == wanted[:3]
        for event in second["events"]:
            assert event.keys() == {"eventId", "name", "timestamp", "data"}
            assert event["name"] == TICKET
            assert isinstance(event["eventId"], str)
            assert abs((datetime.now(UTC) - datetime.fromisoformat(event["timestamp"])).total_seconds()) < 60
        assert len({event["eventId"] for event in second["events"]}) == 3
        await peer.tool("emit", name=TICKET, data=wanted[3])
        third = await peer.poll(TICKET, second["cursor"])
        assert data_of(third) == wanted[3:]
        assert data_of(await peer.poll(TICKET, third["cursor"])) == []
        assert data_of(await peer.poll(TICKET, cursor)) == wanted  # a poll takes nothing away


@requirement("sep.poll.max-events")
async def test_max_events_caps_a_batch_and_has_more_leads_on() -> None:
    events = declare()
    async with http_peer(events) as peer:
        cursor = (await peer.poll(TICKET))["cursor"]
        for number in range(7):
            await events.emit(TICKET, {"id": str(number)})
        portions, last = await drained(peer, TICKET, cursor, maxEvents=3)
        assert [len(portion["events"]) for portion in portions] == [3, 3, 1]
        assert [data["id"] for portion in portions for data in data_of(portion)] == [str(n) for n in range(7)]
        assert await peer.poll(TICKET, last) | {"nextPollMs": 0, "_meta": 0} == {
            "resultType": "complete", "events": [], "cursor": last, "truncated": False, "hasMore": False,
            "nextPollMs": 0, "_meta": 0,
        }  # fmt: skip
        exact = await peer.poll(TICKET, cursor, maxEvents=7)
        assert (len(exact["events"]), exact["hasMore"]) == (7, False)


@pytest.mark.parametrize(
    ("wanted", "given"),
    [({}, service.DEFAULT_POLL_EVENTS), ({"maxEvents": 10**9}, service.MAX_POLL_EVENTS)],
    ids=["none", "vast"],
)
@requirement("sep.poll.default-cap")
async def test_the_servers_cap_holds_without_max_events_and_with_a_vast_one(wanted: Message, given: int) -> None:
    events = declare()
    async with http_peer(events) as peer:
        cursor = (await peer.poll(TICKET))["cursor"]
        for number in range(service.MAX_POLL_EVENTS + 1):
            await events.emit(TICKET, {"id": str(number)})
        portions, _ = await drained(peer, TICKET, cursor, **wanted)
        assert len(portions[0]["events"]) == given
        assert portions[0]["hasMore"] is True
        ids = [data["id"] for portion in portions for data in data_of(portion)]
        assert ids == [str(number) for number in range(service.MAX_POLL_EVENTS + 1)]


@requirement("sep.poll.stateless", "ours.lib.durable")
async def test_a_cursor_is_served_by_a_process_that_never_saw_it(tmp_path: Path) -> None:
    url = store_url("sqlite", tmp_path)
    target = StdioTarget("stdio", MODERN)
    async with target.connect(url=url) as peer:
        cursor = (await peer.poll(TICKET))["cursor"]
        for id in ("1", "2"):
            await peer.tool("emit", name=TICKET, data={"id": id})
    async with target.connect(url=url) as peer:
        assert data_of(await peer.poll(TICKET, cursor)) == [{"id": "1"}, {"id": "2"}]
        async with peer.stream(TICKET, cursor=cursor) as frames:
            assert (await frames.expect("active"))["truncated"] is False
            assert await frames.data(2) == [{"id": "1"}, {"id": "2"}]


# -- waiting, and how often to ask ------------------------------------------------------------------------------------


@every_target
@requirement("ours.poll.timeout")
async def test_a_long_poll_answers_when_an_event_comes_and_empty_at_its_bound(target: Target) -> None:
    async with target.connect() as peer:
        cursor = (await peer.poll(TICKET))["cursor"]
        begun = time.monotonic()
        empty = await peer.poll(TICKET, cursor, timeoutMs=150)
        assert time.monotonic() - begun >= 0.15
        assert (empty["events"], empty["cursor"]) == ([], cursor)
        waiting = asyncio.create_task(peer.poll(TICKET, cursor, timeoutMs=30_000, arguments={"status": "open"}))
        await peer.tool("emit", name=TICKET, data={"id": "1", "status": "closed"})
        await peer.tool("streams")
        assert not waiting.done()
        await peer.tool("emit", name=TICKET, data={"id": "2", "status": "open"})
        async with asyncio.timeout(5):
            assert data_of(await waiting) == [{"id": "2", "status": "open"}]


@requirement("ours.poll.timeout")
async def test_the_server_bounds_how_long_a_poll_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_WAIT_MS", 100)
    async with http_peer(declare()) as peer:
        cursor = (await peer.poll(TICKET))["cursor"]
        async with asyncio.timeout(5):
            assert data_of(await peer.poll(TICKET, cursor, timeoutMs=3_600_000)) == []


@requirement("ours.poll.timeout")
async def test_a_long_poll_for_the_first_cursor_answers_at_once() -> None:
    async with http_peer(declare()) as peer, asyncio.timeout(5):
        assert isinstance((await peer.poll(TICKET, timeoutMs=30_000))["cursor"], str)


@requirement("ours.poll.adapts")
async def test_next_poll_grows_while_quiet_and_shrinks_with_traffic() -> None:
    events = declare(clock=FakeClock())
    async with http_peer(events) as peer:
        portion = await peer.poll(TICKET)
        least = portion["nextPollMs"]
        pauses = []
        for _ in range(10):
            portion = await peer.poll(TICKET, portion["cursor"])
            pauses.append(portion["nextPollMs"])
        assert pauses == sorted(pauses)
        assert least < pauses[0] < pauses[-1]
        assert pauses[-1] == pauses[-2] == service.MAX_POLL_MS
        await events.emit(TICKET, {"id": "1"})
        assert (await peer.poll(TICKET, portion["cursor"]))["nextPollMs"] == least
        assert (await peer.poll(TICKET, arguments={"status": "open"}))["nextPollMs"] == least


# -- what a poll costs ------------------------------------------------------------------------------------------------


@requirement("ours.poll.no-read")
async def test_an_empty_poll_reads_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(lambda text: reads.append(text) if "SELECT" in text.upper() else None)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    events = declare(store_url("sqlite", tmp_path), clock=FakeClock())
    async with http_peer(events) as peer:
        await events.emit(TICKET, {"id": "0"})
        cursor = (await peer.poll(TICKET))["cursor"]
        await peer.poll(TICKET, cursor)
        reads.clear()
        for _ in range(20):
            assert data_of(await peer.poll(TICKET, cursor, maxAgeMs=60_000)) == []
        assert reads == []
        await events.emit(TICKET, {"id": "1"})
        assert data_of(await peer.poll(TICKET, cursor)) == [{"id": "1"}]
        assert reads


@requirement("ours.poll.skips", "sep.cursor.quiet")
async def test_a_poll_over_many_that_do_not_match_is_bounded_and_advances() -> None:
    events = declare()
    async with http_peer(events) as peer:
        cursor = (await peer.poll(TICKET))["cursor"]
        for number in range(9_000):
            await events.emit(TICKET, {"id": str(number), "status": "closed"})
        await events.emit(TICKET, {"id": "last", "status": "open"})
        portions, last = await drained(peer, TICKET, cursor, arguments={"status": "open"})
        assert len(portions) > 1, "one poll looked at all of them"
        assert [data_of(portion) for portion in portions[:-1]] == [[]] * (len(portions) - 1)
        assert len({portion["cursor"] for portion in portions}) == len(portions)
        assert not any(portion["truncated"] for portion in portions)
        assert data_of(portions[-1]) == [{"id": "last", "status": "open"}]
        await events.emit(ALARM, {"level": 1})
        quiet = await peer.poll(TICKET, last)
        assert quiet["events"] == []
        assert quiet["cursor"] != last


# -- occurrences ------------------------------------------------------------------------------------------------------


async def in_both_modes(peer: Peer, events: Events, **fields: Any) -> tuple[Message, Message]:
    """One event, as a poll and as a stream give it."""
    cursor = (await peer.poll(TICKET))["cursor"]
    async with peer.stream(TICKET) as frames:
        await frames.expect("active")
        await events.emit(TICKET, {"id": "1"}, **fields)
        pushed = await frames.expect("event")
    (polled,) = (await peer.poll(TICKET, cursor))["events"]
    return polled, pushed


@requirement("sep.event.upstream-id", "sep.event.fields")
async def test_an_id_the_author_gave_is_the_event_id_in_both_modes() -> None:
    events = declare()
    moment = datetime(2026, 2, 3, 4, 5, 6, 7000, tzinfo=UTC)
    async with http_peer(events) as peer:
        polled, pushed = await in_both_modes(peer, events, event_id="upstream/7", timestamp=moment)
        assert polled["eventId"] == pushed["eventId"] == "upstream/7"
        assert polled["timestamp"] == pushed["timestamp"]
        assert datetime.fromisoformat(polled["timestamp"]) == moment
        again = await events.emit(TICKET, {"id": "1"}, event_id="upstream/7", timestamp=moment)
        assert again.event_id == "upstream/7"
        assert data_of(await peer.poll(TICKET, pushed["cursor"])) == []


@requirement("sep.event.own-id")
async def test_an_id_is_made_up_only_when_none_is_given_and_is_one_for_both_modes() -> None:
    events = declare()
    async with http_peer(events) as peer:
        polled, pushed = await in_both_modes(peer, events)
        assert polled["eventId"] == pushed["eventId"]
        other, _ = await in_both_modes(peer, events)
        assert other["eventId"] != polled["eventId"]


@requirement("sep.event.schema", "sep.event.meta")
async def test_data_that_breaks_the_schema_is_refused_on_emit_and_meta_is_not_data() -> None:
    events = declare()
    async with http_peer(events) as peer:
        cursor = (await peer.poll(TICKET))["cursor"]
        for broken in ({}, {"id": 1}, {"id": "1", "other": True}):
            with pytest.raises(InvalidEvent):
                await events.emit(TICKET, broken)
        assert data_of(await peer.poll(TICKET, cursor)) == []
        polled, pushed = await in_both_modes(peer, events, meta={"example/by": [1]})
        assert polled["data"] == pushed["data"] == {"id": "1"}
        assert polled["_meta"] == {"example/by": [1]}
        assert pushed["_meta"].items() >= polled["_meta"].items()
