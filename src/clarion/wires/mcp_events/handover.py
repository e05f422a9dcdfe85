"""What an `EventsLayer` in front of the SDK's application, and our part behind it, tell each other of one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from clarion.wires.sse import Message, Receive, Send

__all__ = ["SCOPE_KEY", "Handover", "Serve", "handover_of"]

SCOPE_KEY = "clarion.events.handover"
"""Where the layer leaves a request's handover in the ASGI scope."""

Serve: TypeAlias = Callable[[Receive, Send], Awaitable[None]]
"""Answers one request, whose body was read already."""

_ACTIVE = b'"notifications/events/active"'


class Handover:
    """One request's `send`, seen by the layer: it tells when the SDK has begun a stream with our first frame, and when
    the request is over. Until a stream claims it, it only passes on.

    `door` is the one that may hand the request back to the layer, to serve it by itself: `taken` does so. `headers` are
    added to the response."""

    __slots__ = ("begun", "claimed", "door", "encoded", "headers", "on_over", "over", "raw", "taken")

    def __init__(self, send: Send, door: object = None, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.raw = send
        self.door = door
        self.headers = headers
        self.taken: Serve | None = None
        self.claimed = False
        self.begun: asyncio.Event | None = None
        self.encoded = False
        """The response is not written as it is sent, as behind a middleware that compresses: nobody else may write."""
        self.over = False
        self.on_over: Callable[[], None] | None = None
        """Called when the request is over while its stream is still open."""

    def claim(self) -> asyncio.Event:
        """A stream of the SDK is going to write to `raw`; answers what is set once the response has begun."""
        self.claimed = True
        self.begun = asyncio.Event()
        return self.begun

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), *self.headers]
            self.encoded = any(name.lower() == b"content-encoding" for name, _ in headers)
            # The SDK's streams share one list, to which middleware further out would add in place, for all that follow.
            message = {**message, "headers": headers}
        elif self.begun is not None and not self.encoded:
            body = message.get("body", b"")
            if self.begun.is_set() and body.startswith(b":"):
                return  # the SDK's keep-alive comment, whose silence is not ours: this stream has heartbeats
            await self.raw(message)
            if _ACTIVE in body:
                self.begun.set()
            return
        await self.raw(message)
        if self.begun is not None and self.encoded:
            self.begun.set()

    def end(self) -> None:
        """The request is over."""
        self.over = True
        if self.on_over is not None:
            self.on_over()


def handover_of(scope: Mapping[str, Any]) -> Handover | None:
    """The handover of a request, where there is a layer in front."""
    handover = scope.get(SCOPE_KEY)
    return handover if isinstance(handover, Handover) else None
