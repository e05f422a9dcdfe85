"""What clients with a session (`initialize`) may ask for beside the rest: a log level, and updates of resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import EmptyResult, LoggingLevel, SetLevelRequestParams, SubscribeRequestParams, UnsubscribeRequestParams

__all__ = ["serve_sessions", "wants_log"]

LEVELS: tuple[LoggingLevel, ...] = get_args(LoggingLevel)
"""From the least severe up."""

SESSION = "mcp-session-id"

_level_of: dict[str, LoggingLevel] = {}
"""The level that each session asked for. Not bounded: the process lives as long as one run of the suite."""


def _session(request: Any) -> str:
    headers: Mapping[str, str] = getattr(request, "headers", {})
    return headers.get(SESSION, "")


def wants_log(ctx: Context, level: LoggingLevel) -> bool:
    """Whether the session of this call takes lines of the level; all of them until it said otherwise."""
    least = _level_of.get(_session(ctx.request_context.request), LEVELS[0])
    return LEVELS.index(level) >= LEVELS.index(least)


async def _set_level(ctx: ServerRequestContext, params: SetLevelRequestParams) -> EmptyResult:
    _level_of[_session(ctx.request)] = params.level
    return EmptyResult()


async def _subscribe(ctx: ServerRequestContext, params: SubscribeRequestParams) -> EmptyResult:
    return EmptyResult()  # no resource of this server ever changes, so that there is nothing to remember


async def _unsubscribe(ctx: ServerRequestContext, params: UnsubscribeRequestParams) -> EmptyResult:
    return EmptyResult()


def serve_sessions(server: MCPServer) -> None:
    """Answer the methods of sessions, which `MCPServer` leaves to the server below it."""
    below = server._lowlevel_server
    below.add_request_handler("logging/setLevel", SetLevelRequestParams, _set_level)
    below.add_request_handler("resources/subscribe", SubscribeRequestParams, _subscribe)
    below.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, _unsubscribe)
