"""What every endpoint shares: who is calling, JSON in and out, errors as documented bodies."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from types import coroutine
from typing import Any, TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from clarion.auth.keys import Authenticator, require
from clarion.encoding import decode, encode
from clarion.errors import (
    ClarionError,
    InvalidInput,
    PayloadTooLarge,
    RequestTimeout,
    StoreUnavailable,
    Unauthenticated,
    codes,
    describe,
)
from clarion.model import ApiKey, Role, parse_time

__all__ = [
    "BODY_SECONDS",
    "MAX_BODY_BYTES",
    "Endpoint",
    "bearer",
    "check_query",
    "crash_response",
    "endpoint",
    "error_response",
    "header",
    "json_response",
    "read_body",
    "read_object",
    "receive_body",
    "respond",
    "take",
    "time_field",
]

MAX_BODY_BYTES = 1024 * 1024
"""Bytes of a request body. Stops one request from filling the memory."""

BODY_SECONDS = 30.0
"""What a request may take to send its body, and a second more for each `SLOWEST_BODY` bytes that came. Stops senders
who never finish from holding connections."""

SLOWEST_BODY = 64 * 1024

RETRY_AFTER_SECONDS = 1
"""What a 503 advises: the cause (a lock, a full disk) may be gone soon, and retrying is cheap."""

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        encode(body, field="response", finite=True),
        status,
        {"cache-control": "no-store", **(headers or {})},
        media_type="application/json",
    )


async def respond(send: Send, status: int, body: bytes) -> None:
    """As `json_response` with what is JSON already, to `send` itself: without a request's object around it.

    uvicorn writes a head at once and the body after it, and a write to a socket takes longer than all else in here. So
    a response of uvicorn's that begins as usual is given to it in one piece, as if its head had been sent.
    """
    headers = (
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(body)),
        (b"content-type", b"application/json"),
    )
    cycle: Any = getattr(send, "__self__", None)
    known = type(cycle) is RequestResponseCycle and vars(cycle).keys() >= _OF_CYCLE and status in STATUS_LINE
    if known and cycle.keep_alive and not cycle.response_started and not cycle.access_log:
        lines = [b"%b: %b\r\n" % pair for pair in (*cycle.default_headers, *headers)]
        body = b"".join((STATUS_LINE[status], *lines, b"\r\n", body))
        cycle.response_started = True
        cycle.waiting_for_100_continue = cycle.chunked_encoding = False
        cycle.expected_content_length = len(body)
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


_OF_CYCLE = frozenset((
    "access_log", "chunked_encoding", "default_headers", "expected_content_length", "keep_alive", "response_started",
    "waiting_for_100_continue",
))  # fmt: skip
"""What `respond` knows of uvicorn's response; one that has not all of it is sent as ASGI says."""


def error_response(error: ClarionError) -> Response:
    """The error's row of the table as a response: `{"error": {code, message, field?, rule?, ...}}`."""
    status = codes(error).http
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, RequestTimeout):
        headers["connection"] = "close"  # the rest of the body may still come
    if isinstance(error, StoreUnavailable):
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    return json_response({"error": describe(error)}, status, headers)


def crash_response() -> Response:
    """The answer to a request that failed in a way that nobody expected: the log holds it, the answer does not."""
    return json_response({"error": {"code": "internal", "message": "Something went wrong on the server."}}, 500)


def header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> str:
    """The first of raw request headers with a name, in lower case as ASGI has them; empty when there is none."""
    for name, value in headers:
        if name == wanted:
            return value.decode("latin-1")
    return ""


def bearer(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The bearer token of raw request headers. Raises Unauthenticated."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer" and token.strip():
                return token.strip()
    raise Unauthenticated()


def endpoint(
    authenticator: Authenticator, roles: Iterable[Role], serve: Callable[[Request, ApiKey], Awaitable[Response]]
) -> Endpoint:
    """An endpoint for callers whose key has one of `roles`; what it raises becomes the documented answer."""
    allowed = tuple(roles)

    async def guarded(request: Request) -> Response:
        try:
            key = await authenticator.authenticate(bearer(request.headers.raw))
            require(key, *allowed)
            return await serve(request, key)
        except ClarionError as error:
            return error_response(error)
        except ClientDisconnect:
            return Response(status_code=499)

    return guarded


def check_query(request: Request, *known: str) -> None:
    """Raises InvalidInput for a query parameter that is none of `known`: ignored, it would look like an answer."""
    for name in request.query_params:
        if name not in known:
            allowed = f"known are {', '.join(known)}" if known else "there are none"
            raise InvalidInput(f"unknown query parameter {name!r}; {allowed}", field=name, rule="unknown")


async def read_body(
    request: Request, limit: int = MAX_BODY_BYTES, *, arrived: Callable[[int], None] | None = None
) -> bytes:
    """As `receive_body`, of a request that Starlette serves."""
    return await receive_body(request.headers.raw, request.receive, limit, arrived=arrived)


async def receive_body(
    headers: Iterable[tuple[bytes, bytes]],
    receive: Receive,
    limit: int = MAX_BODY_BYTES,
    *,
    arrived: Callable[[int], None] | None = None,
) -> bytes:
    """The whole body of a raw request. `arrived` is told the bytes of each part and may refuse by raising.

    Raises PayloadTooLarge before reading more than `limit` bytes, RequestTimeout when the sender is too slow,
    ClientDisconnect when it went away.
    """
    declared = header(headers, b"content-length")
    if re.fullmatch("[0-9]{1,18}", declared) and int(declared) > limit:
        raise _too_large(limit)
    begun = receive().__await__()
    try:
        waited_for = next(begun)
    except StopIteration as done:  # all of a small body is there already, and nothing has to be waited for
        message = done.value
        if message["type"] == "http.request" and not message.get("more_body", False):
            return _part(message, 0, limit, arrived)
        coming: Awaitable[Message] = _given(message)
    else:
        coming = _rest(begun, waited_for)
    body = bytearray()
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS
    try:
        async with asyncio.timeout_at(deadline) as waiting:
            while True:
                message = await coming
                body += _part(message, len(body), limit, arrived)
                if not message.get("more_body", False):
                    return bytes(body)
                waiting.reschedule(deadline + len(body) / SLOWEST_BODY)
                coming = receive()
    except TimeoutError:
        raise RequestTimeout() from None


def _part(message: Message, before: int, limit: int, arrived: Callable[[int], None] | None) -> bytes:
    """The bytes that a message brings, of which there were `before` already."""
    if message["type"] == "http.disconnect":
        raise ClientDisconnect()
    part: bytes = message.get("body", b"")
    if before + len(part) > limit:
        raise _too_large(limit)
    if arrived is not None:
        arrived(len(part))
    return part


async def _given(message: Message) -> Message:
    return message


@coroutine
def _rest(begun: Generator[Any, Any, Message], waited_for: Any) -> Generator[Any, Any, Message]:
    """Carry on what was begun until it waited for something. An event loop sends nothing into what waits for it, and
    what some servers answer is an iterator that could not take it."""
    try:
        while True:
            try:
                yield waited_for
            except BaseException as error:
                if not hasattr(begun, "throw"):
                    raise
                waited_for = begun.throw(error)
            else:
                waited_for = next(begun)
    except StopIteration as done:
        message: Message = done.value
        return message


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the request body is larger than {limit} bytes; send less at a time",
        details={"limit": "body_bytes", "max": limit},
    )


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises MalformedJSON with the position, InvalidInput."""
    body = decode(await read_body(request))
    if not isinstance(body, dict):
        raise InvalidInput("the body must be a JSON object", field="body", rule="object")
    return body


def take(body: Mapping[str, Any], fields: Mapping[str, type | tuple[type, ...]], *required: str) -> dict[str, Any]:
    """The known fields of a body, those that are null left out.

    Raises InvalidInput for an unknown field, a missing required one, or one of another JSON type.
    """
    taken: dict[str, Any] = {}
    for name, value in body.items():
        kinds = fields.get(name)
        if kinds is None:
            raise InvalidInput(
                f"unknown field {name!r}; known are {', '.join(fields)}", field=str(name), rule="unknown"
            )
        if value is None:
            continue
        kind = type(value)  # JSON's own types, none derived from them: true is no integer
        if kind is not kinds and kind not in _kinds(kinds):
            wanted = " or ".join(_JSON_NAMES[kind] for kind in _kinds(kinds))
            raise InvalidInput(f"{name} must be a JSON {wanted}", field=name, rule="type")
        taken[name] = value
    for name in required:
        if name not in taken:
            raise InvalidInput(f"{name} is required", field=name, rule="required")
    return taken


_JSON_NAMES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    dict: "object",
    list: "array",
}


def _kinds(kinds: type | tuple[type, ...]) -> tuple[type, ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)


def time_field(body: dict[str, Any], name: str) -> None:
    """Turn an ISO 8601 field of `body` into microseconds, in place. Raises InvalidInput."""
    if name in body:
        try:
            body[name] = parse_time(body[name])
        except (ValueError, OverflowError):
            raise InvalidInput(
                f"{name} must be an ISO 8601 time such as 2026-06-12T10:00:00Z", field=name, rule="iso8601"
            ) from None
