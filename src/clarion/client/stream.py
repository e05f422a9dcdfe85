"""The push stream, kept alive: it resumes by itself where it broke, and ends only when the server says that it must."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import httpx2

from clarion.client.errors import UnexpectedAnswer, error_of_answer
from clarion.client.frames import Frame, OpenFrame, parse_frame
from clarion.client.http import describe_break
from clarion.clock import Clock, SystemClock
from clarion.errors import ClarionError
from clarion.retry import Backoff, Jitter, retry_after

__all__ = ["HEARTBEAT_SECONDS", "MAX_FRAME_BYTES", "PUSH_PATH", "PushStream", "Reconnecting"]

PUSH_PATH = "/mcp/push/sse"

HEARTBEAT_SECONDS = 15.0
"""How often a server that has nothing else to send proves that it lives."""

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Bytes of one frame. Stops an endless line from filling the memory; the opening lists all subscriptions."""

CONNECT_SECONDS = 10.0
"""How long a connection may take to be made."""

_PERMANENT = frozenset((400, 401, 403, 404, 405, 421, 422))
"""Answers that trying again does not change."""


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The stream broke; it is opened again after `delay` seconds, at `cursor` (None: no frame came yet)."""

    attempt: int
    delay: float
    reason: str
    cursor: str | None


class _Broken(Exception):
    """The connection ended, and another may do better; the server asked for `wait` seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


class PushStream:
    """`async for` frames of one client, at least once each and in order; `Reconnecting` values stand in the gaps.

    Raises Unauthenticated or Forbidden when the key is refused, the server's own error for a request that cannot
    succeed (a cursor that is none), MalformedFrame and UnexpectedAnswer. Anything else is tried again for ever.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        client_id: str,
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        backoff: Backoff | None = None,
        jitter: Jitter = random.random,
        clock: Clock | None = None,
    ) -> None:
        """`http`: has the server's base URL and the bearer. `heartbeat`: seconds between the server's heartbeats."""
        self._http = http
        self._client_id = client_id
        # Twice the heartbeat without a byte is a dead connection, whatever the kernel believes.
        self._timeout = httpx2.Timeout(2 * heartbeat, connect=CONNECT_SECONDS, pool=None)
        self._backoff = backoff or Backoff()
        self._jitter = jitter
        self._clock = clock or SystemClock()

    async def frames(self, cursor: str | None = None) -> AsyncGenerator[Frame | Reconnecting, None]:
        """From `cursor` on: a frame's id, an event_id, `earliest`, or None for what comes from now on."""
        last: str | None = None
        failures = 0
        while True:
            try:
                async with aclosing(self._connection(cursor, last)) as frames:
                    async for frame in frames:
                        if isinstance(frame, OpenFrame):
                            failures = 0
                        last = frame.id or last
                        yield frame
                broken = _Broken("the server ended the stream")
            except _Broken as error:
                broken = error
            failures += 1
            delay = max(self._backoff.delay(failures, self._jitter), broken.wait)
            yield Reconnecting(failures, delay, broken.reason, last)
            await self._clock.sleep(delay)

    async def _connection(self, cursor: str | None, last: str | None) -> AsyncGenerator[Frame, None]:
        """The frames of one connection. `last`, once there is one, beats `cursor`."""
        params = {"client_id": self._client_id}
        headers = {"accept": "text/event-stream", "cache-control": "no-store"}
        if last is not None:
            headers["last-event-id"] = last
        elif cursor is not None:
            params["cursor"] = cursor
        try:
            async with self._http.stream(
                "GET", PUSH_PATH, params=params, headers=headers, timeout=self._timeout
            ) as answer:
                await self._check(answer)
                async for sse in httpx2.EventSource(answer, max_event_size=MAX_FRAME_BYTES):
                    if sse.data:
                        yield parse_frame(sse.data, sse.id or last or "")
        except httpx2.SSEError as error:
            raise UnexpectedAnswer(f"the push stream is not valid: {error}") from None
        except httpx2.ReadTimeout:
            raise _Broken("the server fell silent") from None
        except httpx2.TransportError as error:
            raise _Broken(describe_break(error)) from None

    async def _check(self, answer: httpx2.Response) -> None:
        status = answer.status_code
        if status == 200:
            return
        if 300 <= status < 400:
            raise UnexpectedAnswer("the server redirects the push stream; use the URL that it redirects to")
        error: ClarionError = error_of_answer(status, await answer.aread())
        if status in _PERMANENT:
            raise error
        raise _Broken(error.message, retry_after(answer.headers.get("retry-after"), self._clock.now()))
