"""`clarion listen --mcp`: a live view of one event type of any MCP server that speaks Events (SEP-3415)."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from clarion.cli.emitting import read_object
from clarion.cli.exits import UsageProblem
from clarion.cli.listening import BACKOFF, JsonView, ReadableView, View, until_signal
from clarion.cli.terminal import note, warning
from clarion.client import EventFrame
from clarion.client.mcp_events import (
    CursorStore,
    EventOccurrence,
    EventsClient,
    Failure,
    Forbidden,
    Gap,
    Item,
    LimitExceeded,
    MemoryCursors,
    ServerUnreachable,
    Subscription,
    Terminated,
    Unauthenticated,
    UnexpectedAnswer,
    connect,
    exception_of,
)
from clarion.client.mcp_events.values import CONNECTION_CLOSED
from clarion.encoding import encode

__all__ = ["McpRequest", "listen_mcp", "pick_request"]


_KEYS = "for a Clarion server: `clarion keys create`, on its machine"
_PLACES = ("--data", "--url", "--tenant")
"""Options that say where a Clarion server is."""


@dataclass(frozen=True, slots=True)
class McpRequest:
    """What to listen to, as given on the command line; `bearer` from the environment."""

    url: str
    bearer: str | None
    name: str
    arguments: Mapping[str, Any]
    mode: Literal["poll", "push"] | None
    cursor: str | None


def pick_request(
    url: str,
    names: Sequence[str],
    arguments: str | None,
    mode: str | None,
    cursor: str | None,
    others: Mapping[str, object],
    environment: Mapping[str, str] = os.environ,
) -> McpRequest:
    """`others`: options that mean nothing to any MCP server, by name. Raises UsageProblem, InvalidInput."""
    given = [name for name, value in others.items() if value is not None]
    places = [name for name in given if name in _PLACES]
    if places:
        raise UsageProblem(f"{', '.join(places)} cannot go with --mcp, whose URL alone says where to listen")
    if given:
        raise UsageProblem(f"{', '.join(given)} cannot go with --mcp; --arguments holds what that server understands")
    if not names:
        raise UsageProblem("--mcp needs the NAME of one of that server's event types, such as ticket.updated")
    if len(names) > 1:
        raise UsageProblem("--mcp listens to one event type; give one NAME")
    wanted = {} if arguments is None else read_object(arguments, "--arguments")
    bearer = environment.get("CLARION_KEY", "").strip() or None
    return McpRequest(url, bearer, names[0], wanted, cast(Literal["poll", "push"] | None, mode), cursor)


def listen_mcp(request: McpRequest, *, as_json: bool) -> None:
    """Listen until SIGINT or SIGTERM, which is a good end. Raises the server's refusals and ServerUnreachable."""
    for name in ("mcp", "client"):  # the SDK's loggers: what goes wrong is told once, by us
        logging.getLogger(name).setLevel(logging.CRITICAL)
    asyncio.run(until_signal(_Listener(request, JsonView() if as_json else ReadableView()).run()))


class _Listener:
    """One subscription, over every connection that it takes."""

    def __init__(self, request: McpRequest, view: View) -> None:
        self._request = request
        self._view = view
        self._cursors: CursorStore = MemoryCursors()
        self._start = request.cursor
        self._connected = False
        self._ended = False
        self._failures = 0

    async def run(self) -> None:
        """Ends by an error only: of the first connection any, later one that trying again does not change."""
        while True:
            try:
                async with (
                    connect(self._request.url, self._request.bearer) as client,
                    EventsClient(client, cursors=self._cursors, backoff=BACKOFF) as events,
                ):
                    await self._listen(events)
            except (Unauthenticated, Forbidden) as error:
                raise Forbidden(self._refusal(error)) from None
            except (ServerUnreachable, UnexpectedAnswer, LimitExceeded) as error:
                if self._ended or not self._connected:
                    raise
                self._failures += 1
                delay = BACKOFF.delay(self._failures, random.random)
                warning(f"{error.message}; trying again in {delay:.1f} s")
                await asyncio.sleep(delay)

    async def _listen(self, events: EventsClient) -> None:
        request = self._request
        subscription = events.subscribe(request.name, request.arguments, mode=request.mode, cursor=self._start)
        waiting = asyncio.create_task(self._wait(subscription))
        try:
            async with subscription:
                async for item in subscription:
                    self._start = None  # from here on the store knows where this stands
                    if subscription.active.is_set():
                        self._opened()
                    self._show(item)
        finally:
            waiting.cancel()
            await asyncio.wait((waiting,))

    async def _wait(self, subscription: Subscription) -> None:
        await subscription.active.wait()
        self._opened()

    def _opened(self) -> None:
        if self._connected:
            return
        self._connected = True
        request = self._request
        wanted = f" with {encode(request.arguments).decode()}" if request.arguments else ""
        note(f"listening to {request.name}{wanted} on {request.url}; Ctrl-C ends")

    def _refusal(self, error: Unauthenticated | Forbidden) -> str:
        """What a refusal below JSON-RPC means here; the server's own words for any other."""
        status = error.details.get("httpStatus")
        if status not in (401, 403):
            return error.message
        if self._request.bearer is None:
            return f"this server wants a bearer; put it into CLARION_KEY ({_KEYS})"
        if status == 401:
            return f"the server refused the bearer in CLARION_KEY ({_KEYS})"
        return "this key's role may not listen: the server refused the bearer in CLARION_KEY with HTTP 403"

    def _show(self, item: Item) -> None:
        if isinstance(item, EventOccurrence):
            self._failures = 0
            self._view.show(_frame(item))
        elif isinstance(item, Gap):
            warning("some events are missing here: the server no longer has them, or cannot send them again")
        elif isinstance(item, Failure):
            warning(_described(item))
        elif isinstance(item, Terminated):
            self._ended = True
            raise exception_of(item.error)


def _described(failure: Failure) -> str:
    if failure.retry_seconds is None:
        return failure.message
    whose = "" if failure.code == CONNECTION_CLOSED else "the server answered with an error: "
    return f"{whose}{failure.message}; trying again in {failure.retry_seconds:.1f} s"


def _frame(event: EventOccurrence) -> EventFrame:
    """The event as the views of `listen` know one."""
    params = {"topic": event.name, "occurred_at": event.timestamp, "payload": event.data}
    return EventFrame("notifications/events/event", params, event.cursor or "", encode(_as_sent(event)).decode())


def _as_sent(event: EventOccurrence) -> dict[str, Any]:
    found = asdict(event)
    body = {"eventId": found.pop("event_id"), **found}
    meta = body.pop("meta")
    return {**body, "_meta": meta} if meta else body
