"""Tools, prompts and resources that answer with each kind of content. Texts and names are the suite's."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Callable
from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp_types import (
    AudioContent,
    CallToolResult,
    Completion,
    CompletionArgument,
    CompletionContext,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    PromptReference,
    ResourceTemplateReference,
    TextContent,
    TextResourceContents,
)
from pydantic import Field

__all__ = ["PROMPTS", "TOOLS", "add_resources", "json_schema_tool"]

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC")
"""One red pixel."""

JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
"""The schema that must come back from `tools/list` keyword by keyword; the suite compares it with its own."""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _wav() -> bytes:
    """A hundredth of a second of silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(160))
    return file.getvalue()


def _image() -> ImageContent:
    return ImageContent(data=_base64(PNG), mime_type="image/png")


def _embedded(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


# -- tools ---


def test_simple_text() -> str:
    """Answers with text."""
    return "This is a simple text response for testing."


def test_image_content() -> ImageContent:
    """Answers with an image."""
    return _image()


def test_audio_content() -> AudioContent:
    """Answers with sound."""
    return AudioContent(data=_base64(_wav()), mime_type="audio/wav")


def test_embedded_resource() -> EmbeddedResource:
    """Answers with a resource inside of the result."""
    return _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")


def test_multiple_content_types() -> list[ContentBlock | str]:
    """Answers with text, an image and a resource."""
    mixed = _embedded("test://mixed-content-resource", "application/json", json.dumps({"test": "data", "value": 123}))
    return ["Multiple content types test:", _image(), mixed]


def test_error_handling() -> CallToolResult:
    """Always fails, in the suite's words alone; the SDK puts its own before those of an exception."""
    text = TextContent(text="This tool intentionally returns an error for testing")
    return CallToolResult(content=[text], is_error=True)


def test_headers(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Takes an argument that clients repeat in a header."""
    return f"Region: {region}"


def json_schema_2020_12_tool(**arguments: Any) -> str:
    """Tool with JSON Schema 2020-12 features"""
    return json.dumps(arguments)


def json_schema_tool() -> Tool:
    """The tool whose schema no signature can say."""
    tool = Tool.from_function(json_schema_2020_12_tool, structured_output=False)
    return tool.model_copy(update={"parameters": JSON_SCHEMA})


async def test_trigger_tool_change(ctx: Context) -> str:
    """Tells listening clients that the tools may have changed."""
    await ctx.notify_tools_changed()
    return "Told."


async def test_trigger_prompt_change(ctx: Context) -> str:
    """Tells listening clients that the prompts may have changed."""
    await ctx.notify_prompts_changed()
    return "Told."


# -- prompts ---


def test_simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


def test_prompt_with_arguments(
    arg1: Annotated[str, Field(description="First test argument")],
    arg2: Annotated[str, Field(description="Second test argument")],
) -> str:
    """A prompt that repeats its arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


def test_prompt_with_embedded_resource(
    resourceUri: Annotated[str, Field(description="URI of the resource to embed")],
) -> list[UserMessage]:
    """A prompt that holds a resource."""
    resource = _embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]


def test_prompt_with_image() -> list[UserMessage]:
    """A prompt that holds an image."""
    return [UserMessage(_image()), UserMessage("Please analyze the image above.")]


TOOLS: tuple[Callable[..., Any], ...] = (
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_error_handling,
    test_headers,
    test_trigger_tool_change,
    test_trigger_prompt_change,
)

PROMPTS: tuple[Callable[..., Any], ...] = (
    test_simple_prompt,
    test_prompt_with_arguments,
    test_prompt_with_embedded_resource,
    test_prompt_with_image,
)


# -- resources ---


def _template_data(id: str) -> str:
    """Data of the id in the URI."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


async def _complete(
    ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: CompletionContext | None
) -> Completion:
    words = [word for word in ("paris", "park", "party") if word.startswith(argument.value)]
    return Completion(values=words, total=len(words), has_more=False)


def add_resources(server: MCPServer) -> None:
    """Give the server its resources, their template, and completion of arguments."""
    text = "This is the content of the static text resource."
    server.resource("test://static-text", name="static-text", description="A text that stays", mime_type="text/plain")(
        lambda: text
    )
    server.resource(
        "test://static-binary", name="static-binary", description="An image that stays", mime_type="image/png"
    )(lambda: PNG)
    server.resource(
        "test://watched-resource", name="watched-resource", description="May be subscribed to", mime_type="text/plain"
    )(lambda: "Nothing changes this.")
    server.resource("test://template/{id}/data", name="template", mime_type="application/json")(_template_data)
    server.completion()(_complete)  # type: ignore[no-untyped-call]
