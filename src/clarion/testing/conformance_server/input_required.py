"""Tools and a prompt that ask the client first (2026-07-28): the result names what is missing, the call is repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    ClientCapabilities,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    MissingRequiredClientCapabilityErrorData,
    SamplingCapability,
    SamplingMessage,
    TextContent,
)

__all__ = ["PROMPTS", "TOOLS"]


def _form(message: str, field: str, type: str = "string") -> ElicitRequest:
    schema = {"type": "object", "properties": {field: {"type": type}}, "required": [field]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sampling(text: str, max_tokens: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


def _answer(ctx: Context, key: str) -> Any:
    return (ctx.input_responses or {}).get(key)


def _filled(ctx: Context, key: str, field: str) -> Any:
    """The field that the user filled in; None when the form did not come back, or not so."""
    answer = _answer(ctx, key)
    if isinstance(answer, ElicitResult) and answer.action == "accept":
        return (answer.content or {}).get(field)
    return None


def _sampled(ctx: Context, key: str) -> str | None:
    answer = _answer(ctx, key)
    if isinstance(answer, CreateMessageResult) and isinstance(answer.content, TextContent):
        return answer.content.text
    return None


def _roots(ctx: Context, key: str) -> str | None:
    answer = _answer(ctx, key)
    return ", ".join(str(root.uri) for root in answer.roots) if isinstance(answer, ListRootsResult) else None


async def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Greets the user, whose name it asks for."""
    name = _filled(ctx, "user_name", "name")
    if name is None:
        return InputRequiredResult(input_requests={"user_name": _form("What is your name?", "name")})
    return f"Hello, {name}!"


async def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
    """Repeats what the client's model answers."""
    text = _sampled(ctx, "capital_question")
    if text is None:
        return InputRequiredResult(
            input_requests={"capital_question": _sampling("What is the capital of France?", max_tokens=100)}
        )
    return text


async def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
    """Names the client's roots."""
    roots = _roots(ctx, "client_roots")
    if roots is None:
        return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})
    return f"Roots: {roots}"


async def _confirmed(ctx: Context, state: str) -> str | InputRequiredResult:
    """The SDK seals the state and refuses one that was changed before this is called."""
    if ctx.request_state == state and _filled(ctx, "confirm", "ok"):
        return "state-ok"
    return InputRequiredResult(
        input_requests={"confirm": _form("Please confirm", "ok", "boolean")}, request_state=state
    )


async def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    """Confirms, by an answer that comes back with its state."""
    return await _confirmed(ctx, "waiting for the confirmation")


async def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
    """Confirms, unless the state was tampered with."""
    return await _confirmed(ctx, "waiting for a state that nobody changed")


async def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
    """Asks the user, the client's model and the client at once."""
    name, greeting, roots = _filled(ctx, "user_name", "name"), _sampled(ctx, "greeting"), _roots(ctx, "client_roots")
    if name is None or greeting is None or roots is None:
        return InputRequiredResult(
            input_requests={
                "user_name": _form("What is your name?", "name"),
                "greeting": _sampling("Generate a greeting", max_tokens=50),
                "client_roots": ListRootsRequest(),
            },
            request_state="three answers are open",
        )
    return f"{greeting} ({name}, {roots})"


async def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
    """Asks twice, and keeps the first answer in the state."""
    state: dict[str, str] = json.loads(ctx.request_state or "{}")
    name, color = state.get("name") or _filled(ctx, "step1", "name"), _filled(ctx, "step2", "color")
    if name is None:
        return InputRequiredResult(
            input_requests={"step1": _form("Step 1: What is your name?", "name")}, request_state=json.dumps({})
        )
    if color is None:
        return InputRequiredResult(
            input_requests={"step2": _form("Step 2: What is your favorite color?", "color")},
            request_state=json.dumps({"name": name}),
        )
    return f"{name} likes {color}"


async def test_input_required_result_capabilities(ctx: Context) -> str | InputRequiredResult:
    """Asks for no more than the client says that it can."""
    can = ctx.client_capabilities or ClientCapabilities()
    wanted: dict[str, InputRequest] = {}
    if can.elicitation is not None and _answer(ctx, "form") is None:
        wanted["form"] = _form("What is your name?", "name")
    if can.sampling is not None and _answer(ctx, "model") is None:
        wanted["model"] = _sampling("Generate a greeting", max_tokens=50)
    if can.roots is not None and _answer(ctx, "roots") is None:
        wanted["roots"] = ListRootsRequest()
    return InputRequiredResult(input_requests=wanted) if wanted else "Nothing is open."


async def test_streaming_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Asks in its result, and never by a request on the response's stream."""
    return await test_input_required_result_elicitation(ctx)


async def test_missing_capability(ctx: Context) -> str:
    """Needs a client with sampling."""
    needed = ClientCapabilities(sampling=SamplingCapability())
    if not ctx.session.check_client_capability(needed):
        data = MissingRequiredClientCapabilityErrorData(required_capabilities=needed)
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "This tool needs a client that declares the capability sampling",
            data.model_dump(by_alias=True, mode="json", exclude_none=True),
        )
    return "The client can sample."


async def test_input_required_result_prompt(ctx: Context) -> str | InputRequiredResult:
    """A prompt that asks the user for its context first."""
    context = _filled(ctx, "user_context", "context")
    if context is None:
        return InputRequiredResult(
            input_requests={"user_context": _form("What context should the prompt use?", "context")}
        )
    return f"The context is: {context}"


TOOLS: tuple[Callable[..., Any], ...] = (
    test_input_required_result_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_request_state,
    test_input_required_result_tampered_state,
    test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round,
    test_input_required_result_capabilities,
    test_streaming_elicitation,
    test_missing_capability,
)

PROMPTS: tuple[Callable[..., Any], ...] = (test_input_required_result_prompt,)
