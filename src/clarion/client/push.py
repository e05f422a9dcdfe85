"""A client that is pushed to: the tools through the official MCP SDK, the frames from the side channel."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import TextContent

from clarion.client.errors import ToolRefused, UnexpectedAnswer, error_of_answer
from clarion.client.frames import Frame
from clarion.client.http import open_http, server_url, unreachable
from clarion.client.stream import HEARTBEAT_SECONDS, PushStream, Reconnecting
from clarion.clock import Clock
from clarion.errors import ClarionError, Forbidden
from clarion.retry import Backoff, Jitter

__all__ = ["PushClient", "ToolResult"]

MCP_PATH = "/mcp"

logger = logging.getLogger(__name__)


class ToolResult(dict[str, Any]):
    """A tool's structured result; `notes` is what the server said beside it, such as a topic that nobody declares."""

    def __init__(self, found: Mapping[str, Any], notes: tuple[str, ...] = ()) -> None:
        super().__init__(found)
        self.notes = notes


class PushClient:
    """One client of one server: `async with PushClient(url, key, client_id=...) as client`.

    Tool calls raise ToolRefused with the server's advice, Unauthenticated, Forbidden, ServerUnreachable.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        client_id: str,
        transport: httpx2.AsyncBaseTransport | None = None,
        heartbeat: float = HEARTBEAT_SECONDS,
        backoff: Backoff | None = None,
        jitter: Jitter = random.random,
        clock: Clock | None = None,
    ) -> None:
        """`client_id`: a stable name, to which the subscriptions belong; the rest as for PushStream and ApiClient."""
        self._url = server_url(url)
        self._client_id = client_id
        self._http = open_http(self._url, key, transport)
        self._http.event_hooks["response"] = [self._remember_refusal]
        self._refusal: ClarionError | None = None
        self._stream = PushStream(
            self._http, client_id, heartbeat=heartbeat, backoff=backoff, jitter=jitter, clock=clock
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    def stream(self, cursor: str | None = None) -> AsyncGenerator[Frame | Reconnecting, None]:
        """What is pushed to this client, for ever; see PushStream."""
        return self._stream.frames(cursor)

    async def subscribe(
        self,
        topics: Sequence[str],
        filter: Mapping[str, Any] | None = None,
        *,
        label: str | None = None,
        purpose: str | None = None,
    ) -> ToolResult:
        """Subscribe this client; the same topics and filter give the same subscription again.

        Raises TypeError when `topics` is a single text: each of its letters would be a pattern.
        """
        if isinstance(topics, str):
            raise TypeError(f"topics must be a list of patterns, such as [{topics!r}]")
        wanted = {
            "topic": list(topics),
            "client_id": self._client_id,
            "filter": None if filter is None else dict(filter),
            "client_label": label,
            "consent_purpose": purpose,
        }
        return await self._call("subscribe", {name: value for name, value in wanted.items() if value is not None})

    async def unsubscribe(self, subscription_id: str) -> ToolResult:
        return await self._call("unsubscribe", {"subscription_id": subscription_id})

    async def list_subscriptions(self, *, include_deleted: bool = False) -> list[dict[str, Any]]:
        """This client's subscriptions with their counters."""
        arguments = {"client_id": self._client_id, "include_deleted": include_deleted}
        found: list[dict[str, Any]] = (await self._call("list_subscriptions", arguments))["subscriptions"]
        return found

    async def list_topics(self, category: str | None = None) -> list[dict[str, Any]]:
        arguments = {} if category is None else {"category": category}
        found: list[dict[str, Any]] = (await self._call("list_topics", arguments))["topics"]
        return found

    async def _remember_refusal(self, answer: httpx2.Response) -> None:
        """The SDK tells of any HTTP error alike; this keeps what the server really said."""
        if answer.status_code in (401, 403) and answer.request.url.path.endswith(MCP_PATH):
            error = error_of_answer(answer.status_code, await answer.aread())
            if isinstance(error, Forbidden):
                error = Forbidden("this key may not use the tools; it needs the role subscriber")
            self._refusal = error

    async def _call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """One tool call on a session of its own: the server keeps none, and a restart between calls breaks nothing."""
        self._refusal = None
        url = str(self._url.join(self._url.path.rstrip("/") + MCP_PATH))
        try:
            async with Client(streamable_http_client(url, http_client=self._http), cache=None) as session:
                result = await session.call_tool(tool, arguments)
        except* (MCPError, httpx2.TransportError) as group:
            raise self._explained(group) from None
        texts = [block.text for block in result.content if isinstance(block, TextContent)]
        if result.is_error:
            raise ToolRefused(" ".join(texts).removeprefix(f"Error executing tool {tool}: "))
        if not isinstance(result.structured_content, dict):
            raise UnexpectedAnswer(f"the tool {tool} answered without a structured result")
        return ToolResult(result.structured_content, tuple(texts[1:]))  # the first repeats the structured result

    def _explained(self, group: BaseExceptionGroup[Exception]) -> ClarionError:
        if self._refusal is not None:
            return self._refusal
        error = _first(group)
        if isinstance(error, httpx2.TransportError):
            return unreachable(self._url, error)
        return UnexpectedAnswer(f"{self._url} does not answer like an MCP server: {error}; check the URL")


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
