"""Whatever is appended in whatever groups: a dict says what must come back."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from clarion.model import Draft
from clarion.stores.memory import open_memory
from clarion.stores.protocols import Appended, Backend, ConflictingEvent
from clarion.stores.sqlite import open_sqlite
from clarion.testing.contracts.examples import draft

emits = st.builds(
    lambda tenant, source, event_id, content: draft(
        event_id, tenant=tenant, source=source, payload={"content": content}
    ),
    st.sampled_from(["acme", "globex"]),
    st.sampled_from(["api", "github"]),
    st.sampled_from(["a", "b", "c"]),
    st.integers(0, 1),
)
calls = st.lists(st.lists(emits, max_size=6), max_size=8)
rounds = st.lists(calls, max_size=4)
"""Rounds one after another; the calls of a round at the same time."""


async def check(backend: Backend, wanted: list[list[list[Draft]]]) -> None:
    known: dict[tuple[str, str, str], tuple[int, bytes]] = {}
    heads = {"acme": 0, "globex": 0}
    epoch = (await backend.log.bounds("acme")).epoch
    for at_once in wanted:
        results = await asyncio.gather(*(backend.log.append(drafts) for drafts in at_once))
        answered = [(one, answer) for drafts, some in zip(at_once, results, strict=True)
                    for one, answer in zip(drafts, some, strict=True)]  # fmt: skip
        # Calls at the same time may be placed in any order: the first of an id is the one that says it is new.
        fresh = [(one, answer) for one, answer in answered if isinstance(answer, Appended) and not answer.duplicate]
        for one, answer in sorted(fresh, key=lambda pair: pair[1].seq):
            name = (one.tenant, one.source, one.event_id)
            assert name not in known
            heads[one.tenant] += 1
            assert answer.seq == heads[one.tenant]
            known[name] = (answer.seq, one.digest)
        for one, answer in answered:
            seq, digest = known[one.tenant, one.source, one.event_id]
            assert answer.seq == seq
            assert answer.epoch == epoch
            assert isinstance(answer, ConflictingEvent) == (one.digest != digest)
    for tenant, head in heads.items():
        page = await backend.log.read(tenant, 0, limit=1000)
        assert page.bounds.head == head
        assert [event.seq for event in page.events] == list(range(1, head + 1))
        stored = {(event.tenant, event.source, event.event_id): event.seq for event in page.events}
        assert stored == {name: seq for name, (seq, _) in known.items() if name[0] == tenant}
    everything = await backend.log.tail(0, limit=1000)
    assert len(everything) == len(known)
    assert [one.offset for one in everything] == sorted(one.offset for one in everything)


@given(rounds)
@settings(max_examples=100, deadline=None)
def test_appends_to_memory_are_idempotent_and_dense(wanted: list[list[list[Draft]]]) -> None:
    asyncio.run(check(open_memory(), wanted))


@given(rounds)
@settings(max_examples=25, deadline=None)
def test_appends_to_sqlite_are_idempotent_and_dense(wanted: list[list[list[Draft]]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            backend = await open_sqlite(Path(directory), synchronous="NORMAL")
            try:
                await check(backend, wanted)
            finally:
                await backend.aclose()

    asyncio.run(run())
