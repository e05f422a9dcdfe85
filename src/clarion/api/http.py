"""What every endpoint shares: who is calling, JSON in and out, errors as documented bodies."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

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
    "endpoint",
    "error_response",
    "json_response",
    "read_body",
    "read_object",
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
    """The whole body. `arrived` is told the bytes of each part and may refuse by raising.

    Raises PayloadTooLarge before reading more than `limit` bytes, RequestTimeout when the sender is too slow.
    """
    declared = request.headers.get("content-length", "")
    if re.fullmatch("[0-9]{1,18}", declared) and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS
    try:
        async with asyncio.timeout_at(deadline) as waiting:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
                if arrived is not None:
                    arrived(len(chunk))
                waiting.reschedule(deadline + len(body) / SLOWEST_BODY)
    except TimeoutError:
        raise RequestTimeout() from None
    return bytes(body)


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
