"""Every wire that pushes, behind one shape: what must hold on all of them is written once, over `WIRES`.

A new wire joins by one entry in `WIRES`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from interaction.push import EVENT, OPEN, PushStream, push_stream
from interaction.serving import Running, call, connect


class Pushed(NamedTuple):
    """One event as a client received it."""

    seq: int
    topic: str
    payload: Any


@dataclass(frozen=True)
class Interest:
    """What a client asks for, in the words of no wire."""

    topics: Sequence[str]
    filter: Mapping[str, Any] = field(default_factory=dict)
    purpose: str | None = None


class OpenWire(Protocol):
    """One client's open stream. It reads nothing until it is asked to."""

    async def until(self, topic: str) -> list[Pushed]:
        """Everything pushed before the first event on `topic`, which is read as well."""
        ...


class WireUnderTest(Protocol):
    name: str

    def open(
        self,
        running: Running,
        bearer: str,
        client_id: str,
        interests: Sequence[Interest],
        *,
        after: int | None = None,
        receive_buffer: int | None = None,
    ) -> AbstractAsyncContextManager[OpenWire]:
        """A stream of `interests`, established when the block begins; `after`: resume after this seq."""
        ...


class _SideChannelStream:
    def __init__(self, stream: PushStream) -> None:
        self._stream = stream

    async def until(self, topic: str) -> list[Pushed]:
        frames = await self._stream.until(topic)
        events = [frame.params for frame in frames[:-1] if frame.event == EVENT]
        return [Pushed(event["event_id"], event["topic"], event["payload"]) for event in events]


class SideChannel:
    name = "pact"

    @asynccontextmanager
    async def open(
        self,
        running: Running,
        bearer: str,
        client_id: str,
        interests: Sequence[Interest],
        *,
        after: int | None = None,
        receive_buffer: int | None = None,
    ) -> AsyncIterator[_SideChannelStream]:
        async with connect(running, bearer) as session:
            for interest in interests:
                wanted: dict[str, Any] = {"topic": list(interest.topics), "client_id": client_id}
                if interest.filter:
                    wanted["filter"] = dict(interest.filter)
                if interest.purpose is not None:
                    wanted["consent_purpose"] = interest.purpose
                await call(session, "subscribe", **wanted)
        opened = push_stream(running, bearer, client_id, cursor=after, receive_buffer=receive_buffer)
        async with opened as stream:
            await stream.expect(OPEN)
            yield _SideChannelStream(stream)


WIRES: Sequence[WireUnderTest] = (SideChannel(),)
