"""What every EventLog must do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clarion.errors import StoreUnavailable
from clarion.model import Event
from clarion.stores.protocols import Appended, ConflictingEvent, EventLog, Retention
from clarion.testing.contracts.examples import FULL, Opening, at_most, draft, drafts, fields_of, sized, subscription

__all__ = ["EventLogContract"]


class EventLogContract:
    """Order, idempotency, bounds, retention, epochs, tenants."""

    def open(self) -> Opening:
        """A fresh, empty backend, closed on leaving."""
        raise NotImplementedError

    # append

    async def test_seq_is_dense_per_tenant_and_answers_stand_in_order(self) -> None:
        async with self.open() as backend:
            mixed = [draft("e1"), draft("e1", tenant="globex"), draft("e2"), draft("e2", tenant="globex"), draft("e3")]
            answers = await backend.log.append(mixed)
            assert [_appended(one).seq for one in answers] == [1, 1, 2, 2, 3]
            assert not any(_appended(one).duplicate for one in answers)
            assert [_appended(one).seq for one in await backend.log.append([draft("e4")])] == [4]

    async def test_an_empty_append_answers_nothing(self) -> None:
        async with self.open() as backend:
            assert await backend.log.append([]) == []
            assert await backend.log.end() == 0

    async def test_a_repeated_event_answers_its_first_position(self) -> None:
        async with self.open() as backend:
            first = _appended((await backend.log.append(drafts(3)))[1])
            again = await backend.log.append([draft("e2", payload={"n": 2}, recorded_at=9), draft("e9")])
            assert again == [Appended(first.epoch, 2, True), Appended(first.epoch, 4, False)]
            assert (await backend.log.bounds("acme")).head == 4
            assert (await _all(backend.log))[1].recorded_at == 1_000_000

    async def test_a_repeat_inside_one_call_is_one_event(self) -> None:
        async with self.open() as backend:
            answers = await backend.log.append([draft("a"), draft("a"), draft("b"), draft("a")])
            epoch = (await backend.log.bounds("acme")).epoch
            assert answers == [
                Appended(epoch, 1, False),
                Appended(epoch, 1, True),
                Appended(epoch, 2, False),
                Appended(epoch, 1, True),
            ]
            assert [event.event_id for event in await _all(backend.log)] == ["a", "b"]

    async def test_other_content_under_a_taken_id_is_a_conflict_and_stores_nothing(self) -> None:
        async with self.open() as backend:
            await backend.log.append(drafts(2))
            other = draft("e1", payload={"n": "other"})
            answers = await backend.log.append([other, draft("new"), draft("new", payload={"n": 0})])
            epoch = (await backend.log.bounds("acme")).epoch
            assert answers == [ConflictingEvent(epoch, 1), Appended(epoch, 3, False), ConflictingEvent(epoch, 3)]
            assert [event.payload for event in await _all(backend.log)] == [{"n": 1}, {"n": 2}, {"n": 1}]

    async def test_the_same_id_of_another_source_or_tenant_is_another_event(self) -> None:
        async with self.open() as backend:
            answers = await backend.log.append(
                [draft("x"), draft("x", source="github"), draft("x", tenant="globex", payload={"n": 2})]
            )
            assert [_appended(one).seq for one in answers] == [1, 2, 1]
            assert not any(_appended(one).duplicate for one in answers)

    async def test_many_repeats_among_many_new_events_keep_their_places(self) -> None:
        async with self.open() as backend:
            await backend.log.append(drafts(300))
            answers = await backend.log.append(drafts(600, first=200))
            assert [(_appended(one).seq, _appended(one).duplicate) for one in answers] == [
                (number, number <= 300) for number in range(200, 800)
            ]
            assert [event.seq for event in await _all(backend.log)] == list(range(1, 800))

    async def test_every_field_comes_back_as_it_was_given(self) -> None:
        async with self.open() as backend:
            await backend.log.append([FULL, draft("bare"), draft("nobody", audience=())])
            for events in (await _all(backend.log), [one.event for one in await backend.log.tail(0, limit=9)]):
                assert fields_of(events[0]) == fields_of(Event.of(FULL, 1))
                assert events[0].payload["deep"] == {"list": [1, 2.5, None, True]}
                assert fields_of(events[1]) == fields_of(Event.of(draft("bare"), 2))
                assert events[1].audience is None
                assert events[2].audience == ()

    async def test_concurrent_appends_get_each_a_place_of_their_own(self) -> None:
        async with self.open() as backend:
            calls = [backend.log.append(drafts(5, first=5 * number)) for number in range(40)]
            answers = await asyncio.gather(*calls)
            for one in answers:
                seqs = [_appended(each).seq for each in one]
                assert seqs == sorted(seqs)
            assert sorted(_appended(each).seq for one in answers for each in one) == list(range(1, 201))
            events = await _all(backend.log)
            assert [event.seq for event in events] == list(range(1, 201))
            placed = {event.event_id: event.seq for event in events}
            for number, one in enumerate(answers):
                assert [placed[f"e{5 * number + index}"] for index in range(5)] == [_appended(each).seq for each in one]

    async def test_concurrent_repeats_of_one_event_are_one_event(self) -> None:
        async with self.open() as backend:
            answers = await asyncio.gather(*(backend.log.append([draft("same")]) for _ in range(20)))
            assert {_appended(one[0]).seq for one in answers} == {1}
            assert [_appended(one[0]).duplicate for one in answers].count(False) == 1

    async def test_a_closed_log_refuses_appends(self) -> None:
        async with self.open() as backend:
            await backend.aclose()
            with pytest.raises(StoreUnavailable):
                await backend.log.append([draft("late")])

    # bounds and read

    async def test_bounds_of_an_unknown_tenant_are_zero(self) -> None:
        async with self.open() as backend:
            await backend.log.append(drafts(1, tenant="globex"))
            bounds = await backend.log.bounds("acme")
            assert (bounds.start, bounds.floor, bounds.head) == (0, 0, 0)
            assert bounds.epoch == (await backend.log.bounds("globex")).epoch
            page = await backend.log.read("acme", 0, limit=10)
            assert (list(page.events), page.bounds) == ([], bounds)

    async def test_the_epoch_is_eight_hexadecimal_digits_and_differs_between_logs(self) -> None:
        async with self.open() as one, self.open() as other:
            epochs = [(await each.log.bounds("acme")).epoch for each in (one, other)]
            assert all(len(epoch) == 8 and int(epoch, 16) >= 0 for epoch in epochs)
            assert epochs[0] != epochs[1]

    async def test_read_is_bounded_by_after_upto_and_limit(self) -> None:
        async with self.open() as backend:
            await backend.log.append(drafts(10))
            log = backend.log
            assert await _seqs(log, 0, limit=3) == [1, 2, 3]
            assert await _seqs(log, 4, limit=100) == [5, 6, 7, 8, 9, 10]
            assert await _seqs(log, 4, upto=7, limit=100) == [5, 6, 7]
            assert await _seqs(log, 4, upto=7, limit=2) == [5, 6]
            assert await _seqs(log, 7, upto=7, limit=9) == []
            assert await _seqs(log, 8, upto=3, limit=9) == []
            assert await _seqs(log, 0, upto=99, limit=99) == list(range(1, 11))
            assert await _seqs(log, 10, limit=9) == []
            assert await _seqs(log, 11, limit=9) == []
            assert (await log.read("acme", 4, upto=7, limit=1)).bounds == await log.bounds("acme")

    async def test_read_and_tail_end_before_the_payloads_exceed_the_bytes_and_never_before_the_first(self) -> None:
        async with self.open() as backend:
            log = backend.log
            sizes = (500, 300, 300, 5000, 100, 100)
            await log.append([draft(f"e{at}", payload_json=sized(size)) for at, size in enumerate(sizes)])
            for most, wanted in ((800, [1, 2]), (799, [1]), (1100, [1, 2, 3]), (1, [1]), (10**9, [1, 2, 3, 4, 5, 6])):
                assert await _seqs(log, 0, limit=99, max_bytes=most) == wanted
                assert [one.event.seq for one in await log.tail(0, limit=99, max_bytes=most)] == wanted
            assert await _seqs(log, 3, limit=99, max_bytes=800) == [4]
            assert await _seqs(log, 4, limit=99, max_bytes=800) == [5, 6]
            assert await _seqs(log, 4, limit=1, max_bytes=800) == [5]
            assert await _seqs(log, 1, upto=2, limit=99, max_bytes=800) == [2]
            page = await log.read("acme", 6, limit=99, max_bytes=800)
            assert (list(page.events), page.bounds.head) == ([], 6)
            assert list(await log.tail(await log.end(), limit=99, max_bytes=800)) == []

    async def test_read_and_bounds_see_one_tenant_only(self) -> None:
        async with self.open() as backend:
            both = [draft(f"e{n}", tenant=tenant) for n in range(6) for tenant in ("acme", "globex")]
            await backend.log.append(both[:9])
            assert {event.tenant for event in (await backend.log.read("acme", 0, limit=99)).events} == {"acme"}
            assert await _seqs(backend.log, 0, limit=99, tenant="globex") == [1, 2, 3, 4]
            assert (await backend.log.bounds("acme")).head == 5

    # tail and end

    async def test_tail_holds_all_tenants_in_the_order_of_the_store(self) -> None:
        async with self.open() as backend:
            for number in range(4):
                await backend.log.append([draft(f"e{number}", tenant="acme" if number % 2 else "globex")])
            stored = await backend.log.tail(0, limit=10)
            assert [one.event.event_id for one in stored] == ["e0", "e1", "e2", "e3"]
            offsets = [one.offset for one in stored]
            assert offsets == sorted(set(offsets))
            assert offsets[0] > 0
            assert offsets[-1] == await backend.log.end()
            assert [one.offset for one in await backend.log.tail(offsets[1], limit=1)] == [offsets[2]]
            assert list(await backend.log.tail(offsets[-1], limit=10)) == []

    async def test_nothing_appears_behind_a_position_that_was_read(self) -> None:
        async with self.open() as backend:
            done = asyncio.Event()
            wanted = 40 * 6

            async def emit(writer: int) -> None:
                for number in range(6):
                    await backend.log.append([draft(f"w{writer}-{number}"), draft("again")])

            async def follow_store() -> list[str]:
                seen: list[str] = []
                offset = 0
                while not done.is_set() or offset < await backend.log.end():
                    for one in await backend.log.tail(offset, limit=7):
                        offset = one.offset
                        seen.append(one.event.event_id)
                    await asyncio.sleep(0)
                return seen

            async def follow_tenant() -> list[int]:
                seqs: list[int] = []
                while not done.is_set() or len(seqs) < (await backend.log.bounds("acme")).head:
                    page = await backend.log.read("acme", seqs[-1] if seqs else 0, limit=7)
                    assert not page.events or page.events[-1].seq <= page.bounds.head
                    seqs.extend(event.seq for event in page.events)
                    await asyncio.sleep(0)
                return seqs

            async with asyncio.TaskGroup() as group:
                store, tenant = group.create_task(follow_store()), group.create_task(follow_tenant())
                await asyncio.gather(*(emit(writer) for writer in range(40)))
                done.set()
            assert len(store.result()) == len(set(store.result())) == wanted + 1
            assert tenant.result() == list(range(1, wanted + 2))

    # trim

    async def test_trim_by_age_moves_the_floor_and_never_the_head(self) -> None:
        async with self.open() as backend:
            await backend.log.append([draft(f"e{n}", recorded_at=n) for n in range(1, 11)])
            assert await backend.log.trim(Retention(keep_after=5)) == 4
            bounds = await backend.log.bounds("acme")
            assert (bounds.start, bounds.floor, bounds.head) == (0, 4, 10)
            page = await backend.log.read("acme", 0, limit=99)
            assert [event.seq for event in page.events] == [5, 6, 7, 8, 9, 10]
            assert page.bounds == bounds
            assert [one.event.seq for one in await backend.log.tail(0, limit=2)] == [5, 6]
            assert await backend.log.trim(Retention(keep_after=5)) == 0
            assert await backend.log.trim(Retention()) == 0

    async def test_a_trimmed_log_goes_on_where_it_was(self) -> None:
        async with self.open() as backend:
            await backend.log.append([*drafts(3), draft("x", tenant="globex")])
            end = await backend.log.end()
            assert await backend.log.trim(Retention(max_bytes=0)) == 4
            bounds = await backend.log.bounds("acme")
            assert (bounds.floor, bounds.head) == (3, 3)
            assert await backend.log.end() == end
            assert list(await backend.log.tail(0, limit=9)) == []
            assert [_appended(one).seq for one in await backend.log.append([draft("e4"), draft("e1")])] == [4, 5]
            stored = await backend.log.tail(end, limit=9)
            assert [one.event.event_id for one in stored] == ["e4", "e1"]
            assert stored[0].offset > end

    async def test_trim_keeps_everything_below_the_size(self) -> None:
        async with self.open() as backend:
            await backend.log.append(drafts(5))
            assert await backend.log.trim(Retention(max_bytes=10**9)) == 0
            assert await _seqs(backend.log, 0, limit=9) == [1, 2, 3, 4, 5]

    async def test_trim_takes_the_oldest_of_all_tenants_and_moves_each_floor(self) -> None:
        async with self.open() as backend:
            rows = [("acme", 1), ("globex", 2), ("acme", 3), ("globex", 8), ("acme", 9)]
            await backend.log.append([draft(f"e{at}", tenant=tenant, recorded_at=at) for tenant, at in rows])
            assert await backend.log.trim(Retention(keep_after=8)) == 3
            assert [(await backend.log.bounds(tenant)).floor for tenant in ("acme", "globex")] == [2, 1]

    async def test_trim_never_takes_what_retention_keeps_when_the_clock_went_back(self) -> None:
        async with self.open() as backend:
            await backend.log.append([draft(f"e{n}", recorded_at=at) for n, at in enumerate((1, 9, 2, 9))])
            assert await backend.log.trim(Retention(keep_after=5)) == 1
            assert await _seqs(backend.log, 0, limit=9) == [2, 3, 4]

    async def test_events_of_a_clock_that_ran_ahead_keep_nothing_behind_them_alive(self) -> None:
        async with self.open() as backend:
            moments = (1, 900, 2, 800, 900, 4, 700, 8, 600)
            await backend.log.append([draft(f"e{n}", recorded_at=at) for n, at in enumerate(moments)])
            assert await backend.log.trim(Retention(keep_after=3, now=10)) == 3
            assert await backend.log.trim(Retention(keep_after=5, now=3)) == 0  # nothing that could be believed
            assert await backend.log.trim(Retention(keep_after=5, now=10)) == 3
            assert await _seqs(backend.log, 0, limit=9) == [7, 8, 9]
            assert await backend.log.trim(Retention(keep_after=9, now=10)) == 2  # 700 is as old as 8; 600 is the newest
            assert await backend.log.trim(Retention(keep_after=9, now=10)) == 0
            assert await backend.log.trim(Retention(keep_after=601, now=10_000)) == 1

    async def test_trim_by_size_keeps_the_newest_that_fit(self) -> None:
        async with self.open() as backend:
            await backend.log.append(
                drafts(40, attributes={"note": "x" * 4000}, payload_json=b'{"x":"%s"}' % (b"x" * 6000))
            )
            gone = await backend.log.trim(Retention(max_bytes=120_000))
            assert 20 <= gone <= 36
            assert await _seqs(backend.log, 0, limit=99) == list(range(gone + 1, 41))
            assert await backend.log.trim(Retention(max_bytes=120_000)) == 0

    async def test_what_is_no_event_does_not_count_for_retention_by_size(self) -> None:
        async with self.open() as backend:
            await backend.log.append(drafts(10))
            calls = (
                backend.subscriptions.put(
                    subscription(f"s{n}", tenant="evil", client_id=f"c{n}", filter={"x": "y" * 7000}),
                    limits=at_most(300),
                )
                for n in range(300)
            )
            await asyncio.gather(*calls)
            assert await backend.log.trim(Retention(max_bytes=1_000_000)) == 0
            assert await _seqs(backend.log, 0, limit=99) == list(range(1, 11))

    async def test_trim_of_thousands_takes_them_all_while_appends_go_on(self) -> None:
        async with self.open() as backend:
            await backend.log.append(drafts(2500, recorded_at=1))

            async def emit() -> None:
                for number in range(10):
                    await backend.log.append([draft(f"new{number}", recorded_at=9)])

            trimmed, _ = await asyncio.gather(backend.log.trim(Retention(keep_after=5)), emit())
            assert trimmed == 2500
            assert await _seqs(backend.log, 0, limit=99) == list(range(2501, 2511))

    # epochs

    async def test_a_new_epoch_begins_at_every_head_and_keeps_seq_going(self) -> None:
        async with self.open() as backend:
            await backend.log.append([*drafts(3), draft("x", tenant="globex")])
            old = await backend.log.bounds("acme")
            epoch = await backend.log.renew_epoch()
            assert epoch != old.epoch
            bounds = await backend.log.bounds("acme")
            assert (bounds.epoch, bounds.start, bounds.floor, bounds.head) == (epoch, 3, 0, 3)
            assert (await backend.log.bounds("globex")).start == 1
            assert (await backend.log.bounds("nobody")).start == 0
            assert await backend.log.append([draft("e4"), draft("n", tenant="initech")]) == [
                Appended(epoch, 4, False),
                Appended(epoch, 1, False),
            ]
            page = await backend.log.read("acme", 3, limit=9)
            assert ([event.seq for event in page.events], page.bounds.start) == ([4], 3)
            assert (await backend.log.bounds("initech")).start == 0


def _appended(answer: Appended | ConflictingEvent) -> Appended:
    assert isinstance(answer, Appended)
    return answer


async def _all(log: EventLog) -> list[Event]:
    return list((await log.read("acme", 0, limit=10_000)).events)


async def _seqs(log: EventLog, after: int, *, tenant: str = "acme", **bounds: Any) -> list[int]:
    return [event.seq for event in (await log.read(tenant, after, **bounds)).events]
