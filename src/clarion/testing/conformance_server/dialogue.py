"""Tools that talk with the client while they run: log, progress, and the requests that a session's server may make."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from mcp.server.mcpserver import Context
from mcp_types import ElicitRequestedSchema, SamplingMessage, TextContent

from clarion.testing.conformance_server.sessions import wants_log

__all__ = ["PROMPTS", "TOOLS"]

STEP_SECONDS = 0.05
"""The pause that the suite wants between two notifications, so that they are seen to arrive one by one."""

PERSON: ElicitRequestedSchema = {
    "type": "object",
    "properties": {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    },
    "required": ["username", "email"],
}

DEFAULTS: ElicitRequestedSchema = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    },
}


def _titled(**titles: str) -> list[dict[str, str]]:
    return [{"const": value, "title": title} for value, title in titles.items()]


ENUMS: ElicitRequestedSchema = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {
            "type": "string",
            "oneOf": _titled(value1="First Option", value2="Second Option", value3="Third Option"),
        },
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {
            "type": "array",
            "items": {"anyOf": _titled(value1="First Choice", value2="Second Choice", value3="Third Choice")},
        },
    },
}


async def _log(ctx: Context, text: str) -> None:
    if wants_log(ctx, "info"):
        await ctx.info(text)


async def test_tool_with_logging(ctx: Context) -> str:
    """Logs three lines while it runs."""
    await _log(ctx, "Tool execution started")
    await asyncio.sleep(STEP_SECONDS)
    await _log(ctx, "Tool processing data")
    await asyncio.sleep(STEP_SECONDS)
    await _log(ctx, "Tool execution completed")
    return "Tool with logging executed successfully"


async def test_logging_tool(ctx: Context) -> str:
    """Logs a line, for who asked for the log."""
    await _log(ctx, "Logged for who asked for it")
    return "Done."


async def test_tool_with_progress(ctx: Context) -> str:
    """Reports progress three times, to who gave a token."""
    await ctx.report_progress(0, 100)
    await asyncio.sleep(STEP_SECONDS)
    await ctx.report_progress(50, 100)
    await asyncio.sleep(STEP_SECONDS)
    await ctx.report_progress(100, 100)
    return "Tool with progress executed successfully"


async def test_sampling(prompt: str, ctx: Context) -> str:
    """Asks the client's model."""
    answer = await ctx.session.create_message(
        [SamplingMessage(role="user", content=TextContent(text=prompt))],
        max_tokens=100,
        related_request_id=ctx.request_id,
    )
    return f"LLM response: {answer.content.text if isinstance(answer.content, TextContent) else answer.content}"


async def _elicit(ctx: Context, message: str, schema: ElicitRequestedSchema) -> str:
    answer = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return f"action={answer.action}, content={json.dumps(answer.content)}"


async def test_elicitation(message: str, ctx: Context) -> str:
    """Asks the user for a name and an address."""
    return f"User response: {await _elicit(ctx, message, PERSON)}"


async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Asks the user with a default for every primitive type."""
    return f"Elicitation completed: {await _elicit(ctx, 'Please review these values', DEFAULTS)}"


async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Asks the user with every form of enumeration."""
    return f"Elicitation completed: {await _elicit(ctx, 'Please choose', ENUMS)}"


TOOLS: tuple[Callable[..., Any], ...] = (
    test_tool_with_logging,
    test_logging_tool,
    test_tool_with_progress,
    test_sampling,
    test_elicitation,
    test_elicitation_sep1034_defaults,
    test_elicitation_sep1330_enums,
)

PROMPTS: tuple[Callable[..., Any], ...] = ()
