"""A running hub on a fake clock, and streams whose transports a test holds in its hand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from clarion.errors import StoreUnavailable
from clarion.hub.connection import Connection
from clarion.hub.hub import Hub, HubLimits
from clarion.hub.protocols import Framing, Lens, Viewer
from clarion.hub.services import ConsentRequest
from clarion.model import After, Latest, Position, Principal, Start, Subscription
from clarion.sources.emit import Emission, Emitter, Receipt
from clarion.stores.memory import open_memory
from clarion.stores.protocols import Backend
from clarion.testing.clock import FakeClock
from clarion.testing.sinks import FakeSink
from clarion.wires.pact import PactFraming

__all__ = ["Frame", "HubRig", "OpenStream", "frames_in", "opened_hub", "settle", "until"]

PATIENCE = 20.0
"""Seconds until something that must happen counts as not happening."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of the side channel: the last part of its name, its `id:` and its params."""

    name: str
    id: str | None
    params: Mapping[str, Any]

    @property
    def seq(self) -> int:
        return int(self.params["event_id"])

    @property
    def subscription(self) -> str:
        return str(self.params["subscription_id"])


def frames_in(data: bytes) -> list[Frame]:
    """The whole frames in a piece of a stream; what follows the last of them is left out."""
    found = []
    for block in data.split(b"\n\n")[:-1]:
        lines = dict(line.split(b": ", 1) for line in block.split(b"\n"))
        identity = lines.get(b"id")
        message = json.loads(lines[b"data"])
        name = lines[b"event"].decode()
        if message["method"].replace("/", ".") != name:
            raise ValueError(f"the frame's event {name} is not its method {message['method']}")
        found.append(Frame(name.rsplit("pact.", 1)[1], identity.decode() if identity else None, message["params"]))
    return found


async def settle(turns: int = 50) -> None:
    """Let everything run that can run without time passing; enough for what waits for nothing but the event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds, for what threads do; raises TimeoutError when it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not happen")
        await asyncio.sleep(0.001)


@dataclass(slots=True)
class OpenStream:
    """A stream, and what its transport was given."""

    connection: Connection
    sink: FakeSink
    task: asyncio.Task[None]

    @property
    def frames(self) -> list[Frame]:
        return frames_in(self.sink.data)

    @property
    def events(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.name == "event"]

    @property
    def seqs(self) -> list[int]:
        """The `event_id` of every event frame, in order."""
        return [frame.seq for frame in self.events]

    def of(self, name: str) -> list[Frame]:
        return [frame for frame in self.frames if frame.name == name]


@dataclass(slots=True)
class HubRig:
    """A running hub and the ways that a test acts on it; tenant acme, subject alice and client laptop by default."""

    hub: Hub
    backend: Backend
    clock: FakeClock
    emitter: Emitter
    framing: Framing = field(default_factory=PactFraming)
    direct: bool = True
    """Whether streams that are opened without a sink get one that the dispatcher may write to by itself."""

    async def emit(
        self, topic: str = "deal.won", payload: dict[str, Any] | None = None, *, tenant: str = "acme", **fields: Any
    ) -> Receipt:
        emission = Emission(topic, {} if payload is None else payload, **fields)
        return await self.emitter.emit(Principal(tenant, "publisher"), emission)

    async def emit_some(self, count: int, **fields: Any) -> list[int]:
        """`count` events in one append; answers their seqs."""
        emissions = [Emission("deal.won", {"n": number}, **fields) for number in range(count)]
        outcomes = await self.emitter.emit_many(Principal("acme", "publisher"), emissions)
        return [outcome.position.seq for outcome in outcomes if isinstance(outcome, Receipt)]

    async def subscribe(
        self,
        *topics: str,
        filter: Mapping[str, Any] | None = None,
        purpose: str | None = None,
        client: str = "laptop",
        subject: str = "alice",
        tenant: str = "acme",
    ) -> Subscription:
        wanted: Sequence[str] = topics or ("deal.*",)
        principal = Principal(tenant, subject)
        return await self.hub.subscriptions.subscribe(principal, client, wanted, filter, purpose=purpose)

    async def unsubscribe(self, subscription: Subscription) -> None:
        principal = Principal(subscription.tenant, subscription.subject)
        await self.hub.subscriptions.unsubscribe(principal, subscription.id)

    async def consent(self, subject: str, state: str, *, tenant: str = "acme", **fields: Any) -> None:
        await self.hub.consent.record(tenant, ConsentRequest(subject, state, **fields))

    async def after(self, seq: int, *, tenant: str = "acme") -> After:
        """The start after `seq` in the current epoch."""
        return After(Position((await self.hub.bounds(tenant)).epoch, seq))

    async def dispatched(self) -> None:
        """Everything that was emitted since the hub began was dispatched, and what it woke has run."""
        end = await self.backend.log.end()
        await until(lambda: self.hub.totals.events >= end)
        await settle()

    @asynccontextmanager
    async def stream(
        self,
        start: Start | None = None,
        *,
        client: str = "laptop",
        subject: str = "alice",
        tenant: str = "acme",
        sink: FakeSink | None = None,
        credential: str = "key",
        settled: bool = True,
        lens: Lens | None = None,
    ) -> AsyncIterator[OpenStream]:
        """A stream that runs until the block ends. `settled`: it had its turns, so that unless its transport is paused
        a short replay is done; else it is about to begin."""
        sink = sink or FakeSink(direct=self.direct)
        viewer = Viewer(Principal(tenant, subject), client, credential)
        async with self.hub.connect(viewer, self.framing, sink, lens=lens) as stream:
            task = asyncio.create_task(stream.run(start or Latest()))
            try:
                if settled:
                    await settle()
                yield OpenStream(stream.connection, sink, task)
            finally:
                task.cancel()
                await asyncio.wait([task])
                failure = None if task.cancelled() else task.exception()
                if failure is not None and not isinstance(failure, StoreUnavailable):
                    raise failure


@asynccontextmanager
async def opened_hub(
    backend: Backend | None = None, *, limits: HubLimits | None = None, clock: FakeClock | None = None
) -> AsyncIterator[HubRig]:
    """A hub over `backend` (an empty one in memory unless given), which is not closed at the end."""
    backend, clock = backend or open_memory(), clock or FakeClock()
    hub = Hub(backend, limits=limits, clock=clock)
    async with hub.running():
        yield HubRig(hub, backend, clock, Emitter(hub, clock=clock))
