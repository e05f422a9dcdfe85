"""Where a subscription begins (SEP-3415, "Cursor Lifecycle"): cursors, ages, gaps, and types without replay."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from clarion.errors import InvalidInput
from clarion.events import Event, Events
from clarion.hub.hub import HubLimits
from clarion.stores.memory import open_memory
from clarion.testing.clock import FakeClock
from interaction.events_more import ALICE, EVE, peers, tenant_of
from interaction.events_raw import HttpPeer, Peer
from interaction.events_requirements import requirement
from interaction.events_subject import TICKET
from interaction.events_targets import Target, both_modes, both_stores, every_target, http_peer, store_url

NAME = "number"
ENDS = count(1)
"""Numbers the events behind which a stream is read no further."""


def numbers(url: str | None = None, **options: Any) -> Events:
    events = Events(url, **options)
    events.event(NAME)
    return events


async def emit(events: Events, *values: Any, **fields: Any) -> None:
    for value in values:
        await events.emit(NAME, {"n": value}, **fields)


class Beginning:
    """What came when a subscription began: the cursor it was given, whether it was truncated, and the events."""

    def __init__(self, cursor: str | None, truncated: bool, given: list[Any]) -> None:
        self.cursor = cursor
        self.truncated = truncated
        self.given = given


async def begin(
    peer: Peer, mode: str, cursor: str | None, last: Callable[[], Awaitable[str]], name: str = NAME, **params: Any
) -> Beginning:
    """Begin at `cursor`. By poll: everything that comes at once. By stream: up to the event that `last` emits."""
    if mode == "poll":
        portion = first = await peer.poll(name, cursor, **params)
        given = [event["data"]["n"] for event in first["events"]]
        while portion["hasMore"]:
            portion = await peer.poll(name, portion["cursor"], **params)
            given += [event["data"]["n"] for event in portion["events"]]
        return Beginning(portion["cursor"], first["truncated"], [n for n in given if not is_end(n)])
    async with peer.stream(name, cursor=cursor, **params) as frames:
        opening = await frames.expect("active")
        end, given = await last(), [(await frames.expect("event"))["data"]["n"]]
        while given[-1] != end:
            given.append((await frames.expect("event"))["data"]["n"])
        return Beginning(opening["cursor"], opening["truncated"], [n for n in given if not is_end(n)])


def is_end(n: Any) -> bool:
    return isinstance(n, str) and n.startswith("end ")


def ender(events: Events, **fields: Any) -> Callable[[], Awaitable[str]]:
    """Emits an event that there has not been, and answers its number."""

    async def emitted() -> str:
        end = f"end {next(ENDS)}"
        await emit(events, end, **fields)
        return end

    return emitted


# -- from now ---------------------------------------------------------------------------------------------------------


@every_target
@both_modes
@requirement("sep.cursor.now", "sep.cursor.absent")
async def test_null_and_absent_start_from_now_however_full_the_log_is(target: Target, mode: str) -> None:
    async with target.connect() as peer:
        for id in ("1", "2", "3"):
            await peer.tool("emit", name=TICKET, data={"id": id})
        for params in ({"cursor": None}, {}):
            if mode == "poll":
                first = await peer.call("events/poll", name=TICKET, **params)
                assert (first["events"], first["truncated"], first["hasMore"]) == ([], False, False)
                await peer.tool("emit", name=TICKET, data={"id": "new"})
                second = await peer.poll(TICKET, first["cursor"])
                assert [event["data"] for event in second["events"]] == [{"id": "new"}]
            else:
                async with peer.stream(TICKET, **params) as frames:
                    assert (await frames.expect("active"))["truncated"] is False
                    await peer.tool("emit", name=TICKET, data={"id": "new"})
                    assert await frames.data(1) == [{"id": "new"}]


@both_modes
@requirement("sep.age.null")
async def test_max_age_is_nothing_beside_a_null_cursor(mode: str) -> None:
    events = numbers(clock=FakeClock())
    async with http_peer(events) as peer:
        await emit(events, 1, 2)
        for age in (0, 1, 3_600_000):
            beginning = await begin(peer, mode, None, ender(events), maxAgeMs=age)
            assert (beginning.given, beginning.truncated) == ([], False)
            assert beginning.cursor is not None


# -- types without replay, and types with it --------------------------------------------------------------------------


@requirement("sep.cursor.no-replay", "sep.cursor.never", "sep.gap.no-replay", "sep.age.null")
async def test_a_type_without_replay_says_null_everywhere_and_is_never_truncated() -> None:
    clock = FakeClock()
    events = numbers(clock=clock)
    events.event("alarm", replay=False)
    async with http_peer(events) as peer:
        elsewhere = (await peer.poll(NAME))["cursor"]
        await events.emit("alarm", {"n": "before"})
        for params in ({}, {"cursor": None}, {"cursor": elsewhere}, {"cursor": "made up", "maxAgeMs": 60_000}):
            async with peer.stream("alarm", **params) as frames:
                opening = await frames.expect("active")
                assert (opening["cursor"], opening["truncated"]) == (None, False)
                await events.emit("alarm", {"n": 1})
                event = await frames.expect("event")
                assert (event["data"], event["cursor"]) == ({"n": 1}, None)
                events.gap("alarm")
                again = await frames.expect("active")
                assert (again["cursor"], again["truncated"]) == (None, False)
                await clock.advance(30)
                assert (await frames.expect("heartbeat"))["cursor"] is None
        # A poll could give nothing, ever: it is refused, and cannot be declared either.
        for cursor in (None, elsewhere, "made up"):
            assert (await peer.refused("events/poll", name="alarm", cursor=cursor)).data["value"] == "poll"
    with pytest.raises(InvalidInput):
        events.event("other", replay=False, delivery=["poll", "push"])


@requirement("sep.cursor.always")
async def test_a_type_with_replay_always_gives_a_cursor() -> None:
    clock = FakeClock()
    events = numbers(clock=clock)
    async with http_peer(events) as peer:
        cursors = [(await peer.poll(NAME))["cursor"], (await peer.poll(NAME, "made up"))["cursor"]]
        async with peer.stream(NAME) as frames:
            cursors.append((await frames.expect("active"))["cursor"])
            await emit(events, 1)
            cursors.append((await frames.expect("event"))["cursor"])
            await clock.advance(30)
            cursors.append((await frames.expect("heartbeat"))["cursor"])
        cursors.append((await peer.poll(NAME, cursors[0]))["cursor"])
        assert all(isinstance(cursor, str) and cursor for cursor in cursors)


# -- maxAgeMs ---------------------------------------------------------------------------------------------------------


AGES = {
    "age later than cursor": ("start", 60_000, ["young"], True),
    "age leaves nothing": ("start", 5_000, [], True),
    "age before cursor": ("start", 2_000_000, ["old", "older", "young"], False),
    "age skips nothing": ("middle", 60_000, ["young"], False),
    "no age": ("middle", None, ["young"], False),
}


@pytest.mark.parametrize("case", AGES)
@both_modes
@requirement("sep.age.later", "sep.age.truncated")
async def test_replay_starts_at_the_later_of_cursor_and_age_and_says_if_that_skipped(case: str, mode: str) -> None:
    place, age, given, truncated = AGES[case]
    clock = FakeClock()
    events = numbers(clock=clock)
    async with http_peer(events) as peer:
        cursors = {"start": (await peer.poll(NAME))["cursor"]}
        await emit(events, "old", "older")
        cursors["middle"] = (await peer.poll(NAME))["cursor"]
        await clock.advance(1_000)
        await emit(events, "young")
        await clock.advance(10)
        began = await begin(peer, mode, cursors[place], ender(events), maxAgeMs=age)
        assert (began.given, began.truncated) == (given, truncated)


class Counted:
    """How many events the store has read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, log: type[Any]) -> None:
        self.events = 0
        read = log.read

        async def counted(*arguments: Any, **options: Any) -> Any:
            page = await read(*arguments, **options)
            self.events += len(page.events)
            return page

        monkeypatch.setattr(log, "read", counted)


@both_modes
@requirement("sep.age.seek")
async def test_max_age_reads_no_more_than_it_returns(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    counted = Counted(monkeypatch, type(open_memory().log))
    events = numbers(clock=clock)
    async with http_peer(events) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
        await emit(events, *range(5_000))
        await clock.advance(1_000)
        await emit(events, "young")
        counted.events = 0
        began = await begin(peer, mode, cursor, ender(events), maxAgeMs=60_000)
        assert (began.given, began.truncated) == (["young"], True)
        assert 0 < counted.events < 50  # the place is found by halves


@both_modes
@requirement("sep.age.discard")
async def test_what_a_check_returns_beyond_max_age_is_left_out(mode: str) -> None:
    clock = FakeClock()
    upstream = [("old", 500), ("young", 10)]

    async def check(_ctx: Any, _arguments: Any, cursor: Any) -> tuple[list[Event], int]:
        now = datetime.fromtimestamp(clock.now() / 1e6, UTC)
        if cursor is None:
            return [], 0
        found = [Event({"n": n}, event_id=n, timestamp=now - timedelta(seconds=age)) for n, age in upstream[cursor:]]
        return found, len(upstream)

    events = Events(clock=clock)
    events.event(NAME, interval=1)(check)

    async def last() -> str:
        end = f"end {next(ENDS)}"
        upstream.append((end, 0))
        await clock.advance(2)
        return end

    async with http_peer(events) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
        began = await begin(peer, mode, cursor, last, maxAgeMs=60_000)
        assert (began.given, began.truncated) == (["young"], True)
        del upstream[2:]
        began = await begin(peer, mode, cursor, last, maxAgeMs=600_000)
        assert (began.given, began.truncated) == (["old", "young"], False)


# -- gaps -------------------------------------------------------------------------------------------------------------


@both_modes
@both_stores
@requirement("sep.age.ceiling", "sep.gap.recovers")
async def test_a_cursor_below_retention_is_truncated_with_one_that_works(mode: str, store: str, tmp_path: Path) -> None:
    clock = FakeClock()
    events = numbers(store_url(store, tmp_path), clock=clock, limits=HubLimits(retention_seconds=2_000))
    async with http_peer(events) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
        await emit(events, "gone")
        await clock.advance(1_900)
        await emit(events, "kept")
        async with asyncio.timeout(10):
            while not (await peer.poll(NAME, cursor))["truncated"]:
                await clock.advance(30)
        began = await begin(peer, mode, cursor, ender(events))
        assert (began.given, began.truncated) == (["kept"], True)
        await emit(events, "new")
        after = await begin(peer, mode, began.cursor, ender(events))
        assert after.truncated is False
        assert after.given[-1] == "new"


@asynccontextmanager
async def other_type(events: Events, peer: HttpPeer, _directory: Path) -> AsyncIterator[str]:
    events.event("other")
    yield (await peer.poll("other"))["cursor"]


@asynccontextmanager
async def other_epoch(events: Events, peer: HttpPeer, _directory: Path) -> AsyncIterator[str]:
    cursor = (await peer.poll(NAME))["cursor"]
    await events.aclose()  # what was in memory is gone, and with it its epoch
    await emit(events, "new epoch")
    yield cursor


@asynccontextmanager
async def made_up(_events: Events, _peer: HttpPeer, _directory: Path) -> AsyncIterator[str]:
    yield "0123abcd.1.0123456789abcdef"


@asynccontextmanager
async def empty(_events: Events, _peer: HttpPeer, _directory: Path) -> AsyncIterator[str]:
    yield ""


@asynccontextmanager
async def strange(_events: Events, _peer: HttpPeer, _directory: Path) -> AsyncIterator[str]:
    yield "\0 ☃ 😀 ' OR 1"


@asynccontextmanager
async def altered(_events: Events, peer: HttpPeer, _directory: Path) -> AsyncIterator[str]:
    cursor = (await peer.poll(NAME))["cursor"]
    yield cursor[:-1] + ("0" if cursor[-1] != "0" else "1")


@asynccontextmanager
async def too_long(_events: Events, _peer: HttpPeer, _directory: Path) -> AsyncIterator[str]:
    yield "9" * 1_000_000


@asynccontextmanager
async def ahead(events: Events, peer: HttpPeer, directory: Path) -> AsyncIterator[str]:
    """The log was put back to where it had been: an older copy of its files."""
    kept = directory / "kept"
    await events.aclose()
    shutil.copytree(directory / "log", kept)
    await emit(events, *range(5))
    cursor = (await peer.poll(NAME))["cursor"]
    await events.aclose()
    shutil.rmtree(directory / "log")
    shutil.copytree(kept, directory / "log")
    yield cursor


ELSEWHERE = (other_type, other_epoch, made_up, empty, strange, altered, too_long, ahead)


@pytest.mark.parametrize("elsewhere", ELSEWHERE, ids=lambda each: each.__name__)
@both_modes
@requirement("ours.bad.cursor", "sep.gap.recovers")
async def test_a_cursor_of_elsewhere_is_truncated_and_never_an_error(elsewhere: Any, mode: str, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    events = numbers(store_url("sqlite", tmp_path / "log") if elsewhere is ahead else None)
    async with http_peer(events) as peer:
        await emit(events, "before")
        async with elsewhere(events, peer, tmp_path) as cursor:
            began = await begin(peer, mode, cursor, ender(events))
            assert began.truncated is True
            assert set(began.given) <= {"before", "new epoch"}
            assert began.cursor not in (None, cursor)
            await emit(events, "after")
            after = await begin(peer, mode, began.cursor, ender(events))
            assert after.truncated is False
            assert after.given[-1] == "after"


@both_modes
@requirement("ours.bad.cursor-tenant", "ours.bad.cursor")
async def test_another_tenants_cursor_gives_none_of_its_events(mode: str) -> None:
    events = numbers(tenant=tenant_of)
    async with peers(events, ALICE, EVE) as (alice, eve):
        foreign = (await eve.poll(NAME))["cursor"]
        await emit(events, "theirs", "theirs too", tenant="globex")
        later = (await eve.poll(NAME))["cursor"]
        await emit(events, "ours", tenant="acme")
        for cursor in (foreign, later):
            began = await begin(alice, mode, cursor, ender(events, tenant="acme"))
            assert began.truncated is True
            assert began.given == []
            await emit(events, "more of theirs", tenant="globex")
            await emit(events, "next", tenant="acme")
            after = await begin(alice, mode, began.cursor, ender(events, tenant="acme"))
            assert set(after.given) <= {"next"}
        assert (await begin(eve, "poll", foreign, ender(events))).given[:2] == ["theirs", "theirs too"]
