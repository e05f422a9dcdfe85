"""`clarion listen`: a live view of what is pushed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import sys
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from clarion.cli.emitting import read_object
from clarion.cli.target import Address, Target, find_owner, find_server
from clarion.cli.terminal import console, note, printable, warning
from clarion.client import EventFrame, Frame, LagFrame, OpenFrame, Reconnecting
from clarion.client.push import PushClient
from clarion.encoding import encode
from clarion.errors import ClarionError, Unauthenticated

__all__ = ["JsonView", "Listener", "ReadableView", "Request", "describe_payload", "listen"]

FAREWELL_SECONDS = 3.0
"""How long ending the subscription may hold up the end of the command."""

TOPIC_COLUMNS = (16, 32)
"""The least and the most columns for topics; in between, the longest seen so far."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to listen to, as given on the command line."""

    topics: tuple[str, ...]
    filter: str | None
    start: str | None
    purpose: str | None
    client_id: str | None


class View(Protocol):
    def show(self, frame: Frame) -> None: ...


class JsonView:
    """Every frame as it came, one a line."""

    def show(self, frame: Frame) -> None:
        print(frame.raw, flush=True)


class ReadableView:
    """An event a line, or two where the payload does not fit."""

    def __init__(self) -> None:
        self._console = console()
        self._topic_width = TOPIC_COLUMNS[0]

    def show(self, frame: Frame) -> None:
        if not isinstance(frame, EventFrame):
            return
        from rich.text import Text

        self._topic_width = min(max(self._topic_width, len(frame.topic)), TOPIC_COLUMNS[1])
        line = Text.assemble(
            (_local_time(frame.occurred_at), "dim"), "  ", (frame.topic.ljust(self._topic_width), "bold cyan")
        )
        who = _who(frame)
        if who:
            line.append("  ").append(who, "green")
        payload = describe_payload(frame)
        if not self._console.is_terminal or line.cell_len + 2 + len(payload) <= self._console.width:
            line.append("  ").append(payload)
        else:
            line.append("\n")
            rest = Text(" " * 10 + payload)
            rest.truncate(self._console.width, overflow="ellipsis")
            line.append_text(rest)
        line.rstrip()
        self._console.print(line, soft_wrap=True)


def _local_time(text: str) -> str:
    """The event's time on this machine's clock, to the second."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return "--:--:--"


def _who(frame: EventFrame) -> str:
    kind, name, actor = (frame.params.get(part) for part in ("aggregate_type", "aggregate_id", "actor_id"))
    thing = "/".join(str(part) for part in (kind, name) if part is not None)
    return printable(" ".join(part for part in (thing, f"by {actor}" if actor is not None else "") if part))


def describe_payload(frame: EventFrame) -> str:
    """The payload as `key=value` pairs, values as JSON, text without quotes where it is one plain word."""
    return printable(" ".join(f"{key}={_value(value)}" for key, value in frame.payload.items()))


def _value(value: Any) -> str:
    if isinstance(value, str) and value and not any(character in ' "=\\' or character.isspace() for character in value):
        return value
    return encode(value).decode()


class _Moved(Exception):
    """Another server owns the directory now: a restarted one, with a new secret and perhaps another port."""

    def __init__(self, address: Address) -> None:
        super().__init__(address.url)
        self.address = address


def listen(target: Target, request: Request, *, as_json: bool) -> None:
    """Listen until SIGINT or SIGTERM, which is a good end."""
    wanted = None if request.filter is None else read_object(request.filter, "--filter")
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # what goes wrong is told once, by us
    view = JsonView() if as_json else ReadableView()
    listener = Listener(target, find_server(target), request, wanted, view)
    asyncio.run(_until_signal(listener.run()))


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


class Listener:
    """One subscription and its stream, over every restart of the server."""

    def __init__(
        self, target: Target, address: Address, request: Request, wanted: dict[str, Any] | None, view: View
    ) -> None:
        self._target = target
        self._address = address
        self._request = request
        self._wanted = wanted
        self._view = view
        self._client_id = request.client_id or f"cli-{secrets.token_hex(4)}"
        self._cursor: str | None = None
        self._connected = False
        self._subscription_id: str | None = None

    async def run(self) -> None:
        """Never returns by itself. Raises the server's errors."""
        try:
            while True:
                try:
                    async with self._client() as client:
                        await self._listen(client)
                except _Moved as moved:
                    self._address = moved.address
                except Unauthenticated:
                    moved_to = await asyncio.to_thread(find_owner, self._target)
                    if moved_to is None or moved_to == self._address:
                        raise
                    self._address = moved_to
        finally:
            await self._leave()

    def _client(self) -> PushClient:
        return PushClient(self._address.url, self._address.key, client_id=self._client_id)

    async def _listen(self, client: PushClient) -> None:
        """A slow terminal holds this up, and with it the stream: the server then drops the oldest and says so."""
        subscription = await client.subscribe(
            self._request.topics, self._wanted, label="clarion listen", purpose=self._request.purpose
        )
        self._subscription_id = subscription["subscription_id"]
        async with aclosing(client.stream(self._cursor or self._request.start)) as stream:
            async for item in stream:
                if isinstance(item, Reconnecting):
                    await self._check_owner(item)
                    continue
                self._cursor = item.id or self._cursor
                _remark(item, self._request, again=self._connected)
                self._connected = True
                self._view.show(item)

    async def _check_owner(self, broken: Reconnecting) -> None:
        owner = await asyncio.to_thread(find_owner, self._target)
        if owner is not None and owner != self._address:
            raise _Moved(owner)
        warning(f"{broken.reason}; trying again in {broken.delay:.1f} s")

    async def _leave(self) -> None:
        """End a subscription that nobody can come back to; tell how to come back to the other."""
        if self._request.client_id is not None:
            if self._cursor:
                note(f"the subscription stays; go on with --client-id {self._client_id} --from {self._cursor}")
        elif self._subscription_id is not None:
            with contextlib.suppress(ClarionError, TimeoutError):
                async with asyncio.timeout(FAREWELL_SECONDS), self._client() as client:
                    await client.unsubscribe(self._subscription_id)


def _remark(frame: Frame, request: Request, *, again: bool) -> None:
    """What a person must know beside the events."""
    if isinstance(frame, OpenFrame):
        if frame.truncated:
            warning("older events than these are no longer kept: some that were asked for are gone")
        note("connected again" if again else f"listening to {', '.join(request.topics)}; Ctrl-C ends")
    elif isinstance(frame, LagFrame):
        warning(
            f"{frame.dropped_count} events were dropped, this terminal read too slowly; "
            f"--from {frame.last_event_id} shows them"
        )
    sys.stderr.flush()
