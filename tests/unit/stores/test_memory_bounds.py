"""The memory backend lets go of the oldest, since nobody trims a library user's memory."""

import pytest

from clarion.model import Counters
from clarion.stores import memory
from clarion.stores.memory import open_memory
from clarion.stores.protocols import Appended
from clarion.testing.contracts.examples import delivery, draft, drafts


async def test_beyond_its_room_the_log_lets_the_oldest_go_and_moves_floors() -> None:
    backend = open_memory(max_events=3)
    await backend.log.append([draft("x", tenant="globex"), *drafts(2)])
    assert (await backend.log.bounds("globex")).floor == 0
    await backend.log.append(drafts(2, first=3))
    bounds = await backend.log.bounds("acme")
    assert (bounds.floor, bounds.head) == (1, 4)
    assert (await backend.log.bounds("globex")).floor == 1
    page = await backend.log.read("acme", 0, limit=9)
    assert ([event.seq for event in page.events], page.bounds) == ([2, 3, 4], bounds)
    again = await backend.log.append([draft("e1", payload={"n": 1}), draft("e4", payload={"n": 4})])
    assert again == [Appended(bounds.epoch, 5, False), Appended(bounds.epoch, 4, True)]


async def test_one_append_of_more_than_the_room_keeps_its_newest() -> None:
    backend = open_memory(max_events=160)
    await backend.log.append(drafts(1000))
    assert (await backend.log.bounds("acme")).floor == 850  # a sixteenth of the room is free again
    assert [one.event.seq for one in await backend.log.tail(0, limit=2)] == [851, 852]


async def test_the_audit_keeps_its_newest_records_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_RECORDS", 5)
    backend = open_memory()
    for seq in range(1, 10):
        backend.audit.record([delivery(seq, "s1", "s2")])
    assert {row.seq for row in await backend.audit.rows("acme", limit=99)} == {5, 6, 7, 8, 9}
    assert await backend.audit.totals("acme") == Counters(18, 0, 0, 9)
    assert await backend.audit.trim(8) == 3
    for seq in range(10, 20):
        backend.audit.record([delivery(seq, "s1")])
    assert len(await backend.audit.rows("acme", limit=99)) == 5
