"""`clarion listen`: a live view of what is pushed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from clarion.cli.emitting import read_object
from clarion.cli.target import Address, Target, find_server
from clarion.cli.terminal import console, note, printable, warning
from clarion.client import EventFrame, Frame, LagFrame, OpenFrame, Reconnecting
from clarion.client.push import PushClient
from clarion.encoding import encode
from clarion.errors import ClarionError

__all__ = ["JsonView", "ReadableView", "Request", "describe_payload", "listen"]

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


def listen(target: Target, request: Request, *, as_json: bool) -> None:
    """Listen until SIGINT or SIGTERM, which is a good end."""
    wanted = None if request.filter is None else read_object(request.filter, "--filter")
    address = find_server(target)
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # what goes wrong is told once, by us
    view = JsonView() if as_json else ReadableView()
    asyncio.run(_until_signal(_listen(address, request, wanted, view)))


async def _until_signal(work: Any) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _listen(address: Address, request: Request, wanted: dict[str, Any] | None, view: View) -> None:
    client_id = request.client_id or f"cli-{secrets.token_hex(4)}"
    async with PushClient(address.url, address.key, client_id=client_id) as client:
        subscription = await client.subscribe(request.topics, wanted, label="clarion listen", purpose=request.purpose)
        try:
            await _show(client.stream(request.start), request, view)
        finally:
            if request.client_id is None:
                with contextlib.suppress(ClarionError, TimeoutError):
                    async with asyncio.timeout(FAREWELL_SECONDS):
                        await client.unsubscribe(subscription["subscription_id"])


async def _show(stream: AsyncIterator[Frame | Reconnecting], request: Request, view: View) -> None:
    """A slow terminal holds this up, and with it the stream: the server then drops the oldest and says so."""
    cursor, connected = "", False
    try:
        async for item in stream:
            if isinstance(item, Reconnecting):
                warning(f"{item.reason}; trying again in {item.delay:.1f} s")
                continue
            cursor = item.id or cursor
            _remark(item, request, again=connected)
            connected = True
            view.show(item)
    finally:
        if request.client_id is not None and cursor:
            note(f"the subscription stays; go on with --client-id {request.client_id} --from {cursor}")


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
