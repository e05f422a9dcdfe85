"""`clarion listen`: a live view of what is pushed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
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
from clarion.clock import Clock, SystemClock
from clarion.encoding import encode
from clarion.errors import ClarionError, InvalidInput, Unauthenticated
from clarion.ids import parse_cursor
from clarion.model import MICROSECONDS, Truncation
from clarion.retry import Backoff

__all__ = ["JsonView", "Listener", "ReadableView", "Request", "View", "describe_payload", "listen", "until_signal"]

FAREWELL_SECONDS = 3.0
"""How long ending the subscription may hold up the end of the command."""

BACKOFF = Backoff(base=0.5, cap=5.0)
"""Between attempts to connect again: somebody waits for it, and sees every attempt."""

_TRUNCATED: dict[str, str] = {
    Truncation.RETENTION: "older events than these are no longer kept: some that were asked for are gone",
    Truncation.EPOCH: "the log is another one than the cursor's; starting at its beginning",
    Truncation.AHEAD: "the cursor lies past the newest event; starting after that one",
}
_TRUNCATED_SOMEHOW = "some of the events that were asked for are not in the log"

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

    def __init__(self, clock: Clock | None = None) -> None:
        """`clock` tells today from other days, whose times are shown with their date."""
        self._clock = clock or SystemClock()
        self._console = console()
        self._topic_width = TOPIC_COLUMNS[0]

    def show(self, frame: Frame) -> None:
        if not isinstance(frame, EventFrame):
            return
        from rich.text import Text

        self._topic_width = min(max(self._topic_width, len(frame.topic)), TOPIC_COLUMNS[1])
        line = Text.assemble(
            (_local_time(frame.occurred_at, _here(self._clock)), "dim"),
            "  ",
            (frame.topic.ljust(self._topic_width), "bold cyan"),
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


def _here(clock: Clock) -> datetime:
    """Now, in this machine's zone."""
    return datetime.fromtimestamp(clock.now() / MICROSECONDS).astimezone()


def _local_time(text: str, now: datetime) -> str:
    """The event's time on this machine's clock, to the second."""
    try:
        at = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        return "--:--:--"
    return at.strftime("%H:%M:%S" if at.date() == now.date() else "%Y-%m-%d %H:%M:%S")


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
    """Listen until SIGINT or SIGTERM, which is a good end. Raises InvalidInput."""
    _check_start(request.start)
    wanted = None if request.filter is None else read_object(request.filter, "--filter")
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # what goes wrong is told once, by us
    view = JsonView() if as_json else ReadableView()
    listener = Listener(target, find_server(target), request, wanted, view)
    asyncio.run(until_signal(listener.run()))


def _check_start(start: str | None) -> None:
    if start not in (None, "earliest", "latest") and parse_cursor(start or "", "0" * 8) is None:
        raise InvalidInput(
            f"--from {start!r} is no cursor; give one as `emit` prints it, an event's number, earliest or latest",
            field="from", rule="cursor",
        )  # fmt: skip


async def until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends, or SIGINT or SIGTERM ends it. Raises what it raises."""
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
        return PushClient(self._address.url, self._address.key, client_id=self._client_id, backoff=BACKOFF)

    async def _listen(self, client: PushClient) -> None:
        """A slow terminal holds this up, and with it the stream: the server then drops the oldest and says so."""
        subscription = await client.subscribe(
            self._request.topics, self._wanted, label="clarion listen", purpose=self._request.purpose
        )
        self._subscription_id = subscription["subscription_id"]
        if not self._connected:
            for remark in subscription.notes:
                warning(remark.removeprefix("Note: "))
        async with aclosing(client.stream(self._cursor or self._request.start)) as stream:
            async for item in stream:
                if isinstance(item, Reconnecting):
                    await self._check_owner(item)
                    continue
                self._cursor = item.id or self._cursor
                if isinstance(item, OpenFrame):
                    self._opened(item)
                elif isinstance(item, LagFrame):
                    warning(
                        f"{item.dropped_count} events were dropped, this terminal read too slowly; "
                        f"--from {item.last_event_id} shows them"
                    )
                self._view.show(item)

    def _opened(self, frame: OpenFrame) -> None:
        if frame.truncated:
            warning(_TRUNCATED.get(frame.truncated_reason or "", _TRUNCATED_SOMEHOW))
        if self._connected:
            note("connected again")
            return
        self._connected = True
        wanted = "" if self._wanted is None else f" where {encode(self._wanted).decode()}"
        note(f"listening to {', '.join(self._request.topics)}{wanted}")
        whose = f", tenant {self._target.tenant}" if self._target.address is None else ""
        note(f"on {self._address.url}{whose}; times are {_here(SystemClock()):%Z}; Ctrl-C ends")

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
