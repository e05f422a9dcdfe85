"""kill -9 at random points under streams and polls of the Events wire.

What must hold afterwards, for each subscription: every acknowledged event that matches was received, in the order of
the log, without a gap; `truncated` was never true. Each frame names the position after it, and a poll is asked again
as a whole, so who resumes at its last cursor is given nothing twice.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest

from clarion.client.mcp_events import EventOccurrence, EventsClient, Failure, connect
from clarion.retry import Backoff
from clarion.testing.hubs import until
from clarion.testing.server import ServerProcess, served
from fault.events_load import (
    FOLLOWED,
    POLLED,
    TOPICS,
    Follower,
    Load,
    Poller,
    Publisher,
    Subscriber,
    Wanted,
    acknowledged_by,
)
from interaction.events_raw import INITIALIZE
from interaction.events_requirements import requirement

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("ROUNDS", "3"))
LIBRARY_ROUNDS = max(2, ROUNDS // 10)
PUBLISHERS = 2
LIBRARY = (sys.executable, str(Path(__file__).with_name("events_library_server.py")))


async def killed_again_and_again(
    load: Load, publishers: list[Publisher], readers: list[Subscriber], rounds: int, chance: random.Random
) -> None:
    """Publish and read, kill and start again, and return once each reader has what it must have."""
    async with asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(reader.run()) for reader in readers]  # type: ignore[attr-defined]
        for reader in readers:
            await reader.begun.wait()
        publishing = [tasks.create_task(publisher.run()) for publisher in publishers]
        for _ in range(rounds):
            aim = acknowledged_by(publishers) + chance.randrange(20, 300)
            await until(lambda aim=aim: acknowledged_by(publishers) >= aim)  # type: ignore[misc]
            await load.kill()
        load.stopping = True
        await asyncio.wait(publishing)
        expected = [set(reader.expected(publishers)) for reader in readers]
        assert all(expected)
        await until(lambda: all(must <= set(reader.got) for must, reader in zip(expected, readers, strict=True)))
        for task in reading:
            task.cancel()


def check_histories(publishers: list[Publisher], readers: list[Subscriber], rounds: int) -> None:
    acknowledged = sorted(seq for publisher in publishers for seq in publisher.acknowledged.values())
    assert acknowledged == list(range(1, len(acknowledged) + 1))  # nothing twice, nothing that nobody sent
    repeats = [reader.check(publishers) for reader in readers]
    print(f"{rounds} kills, {len(acknowledged)} events, {[len(one.sessions) for one in readers]} sessions")
    # A kill may come before a reader is back, so that it has no session in that life; most kills must break one.
    assert all(len(reader.sessions) > rounds // 2 for reader in readers)
    assert not any(repeats), f"came again: {repeats}"


@requirement("ours.proof.kills", "sep.order.at-least-once", "sep.order.subscription")
async def test_kills_under_streams_and_polls_leave_no_gap_and_no_repeat(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    async with served(tmp_path / "data") as server:
        load = Load(server)
        publishers = [Publisher(load, f"p{number}", TOPICS) for number in range(PUBLISHERS)]
        readers = [*(Follower(load, wanted) for wanted in FOLLOWED), *(Poller(load, wanted) for wanted in POLLED)]
        await killed_again_and_again(load, publishers, readers, ROUNDS, random.Random(seed))
        check_histories(publishers, readers, ROUNDS)
        await load.http.aclose()


class Listener(Subscriber):
    """The same through `EventsClient`, whose one subscription lives through all kills."""

    def __init__(self, load: Load, client: EventsClient, wanted: Wanted, mode: str) -> None:
        super().__init__(load, wanted)
        self._client = client
        self._mode = mode
        self.failures = 0

    async def run(self) -> None:
        self.sessions.append([])
        subscription = self._client.subscribe(self.wanted.name, self.wanted.arguments, mode=self._mode)  # type: ignore[arg-type]
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(self._watch(subscription))
            async for item in subscription:
                if isinstance(item, EventOccurrence):
                    self.sessions[-1].append(item.event_id)
                else:
                    assert isinstance(item, Failure), item
                    self.failures += 1
            watch.cancel()

    async def _watch(self, subscription: object) -> None:
        """Notice when it has begun."""
        await until(lambda: subscription.cursor is not None)  # type: ignore[attr-defined]
        self.begun.set()


LIBRARY_FOLLOWED = (Wanted("tick"), Wanted("tick", {"lane": "a"}, INITIALIZE), Wanted("tock", declared=False))
LIBRARY_POLLED = (Wanted("tick", {"lane": "b"}, options={"timeoutMs": 1_000}), Wanted("tock", era=INITIALIZE))
LISTENED = (
    (Wanted("tick"), "push"),
    (Wanted("tock", {"lane": "b"}), "push"),
    (Wanted("tick", {"lane": "a"}), "poll"),
)


@requirement("sep.order.at-least-once", "sep.reconnect", "ours.lib.durable", "sep.end.client")
async def test_a_killed_library_server_loses_nothing_and_its_clients_carry_on(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    (tmp_path / "data").mkdir()
    server = ServerProcess(tmp_path / "data", {}, LIBRARY)
    try:
        await server.start()
        load = Load(server)
        async with (
            connect(f"{server.url}/mcp") as client,
            EventsClient(client, backoff=Backoff(base=0.05, cap=0.5)) as events,
        ):
            publishers = [Publisher(load, f"p{number}", ("tick", "tock")) for number in range(PUBLISHERS)]
            listeners = [Listener(load, events, wanted, mode) for wanted, mode in LISTENED]
            raw = [
                *(Follower(load, wanted) for wanted in LIBRARY_FOLLOWED),
                *(Poller(load, wanted) for wanted in LIBRARY_POLLED),
            ]
            await killed_again_and_again(load, publishers, [*raw, *listeners], LIBRARY_ROUNDS, random.Random(seed))
            check_histories(publishers, raw, LIBRARY_ROUNDS)
            for listener in listeners:
                assert listener.got == listener.expected(publishers)
            assert sum(listener.failures for listener in listeners) >= LIBRARY_ROUNDS
            print(f"{[listener.failures for listener in listeners]} failures that EventsClient told of")
        await load.http.aclose()
    finally:
        await server.aclose()
