"""What every Wakeups must do."""

from __future__ import annotations

import asyncio

from clarion.testing.contracts.examples import Opening, draft

__all__ = ["WakeupsContract"]


class WakeupsContract:
    """Hints after appends, until detached."""

    def open(self) -> Opening:
        raise NotImplementedError

    async def test_a_hint_comes_after_an_append_and_finds_the_event_in_the_log(self) -> None:
        async with self.open() as backend:
            hinted = asyncio.Event()
            ends: list[int] = []
            loop = asyncio.get_running_loop()

            def hint() -> None:
                assert asyncio.get_running_loop() is loop
                hinted.set()

            backend.wakeups.attach(hint)
            await backend.log.append([draft("e1")])
            await asyncio.wait_for(hinted.wait(), 5)
            ends.extend(one.offset for one in await backend.log.tail(0, limit=9))
            assert ends == [await backend.log.end()]

    async def test_every_attached_hint_is_called_and_a_detached_one_no_more(self) -> None:
        async with self.open() as backend:
            calls: list[str] = []
            last = asyncio.Event()
            detach = backend.wakeups.attach(lambda: calls.append("one"))
            backend.wakeups.attach(lambda: calls.append("two"))
            backend.wakeups.attach(last.set)
            await backend.log.append([draft("e1")])
            await asyncio.wait_for(last.wait(), 5)
            assert sorted(calls) == ["one", "two"]
            detach()
            detach()
            last.clear()
            await backend.log.append([draft("e2")])
            await asyncio.wait_for(last.wait(), 5)
            assert sorted(calls) == ["one", "two", "two"]
