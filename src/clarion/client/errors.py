"""What can go wrong on this side of the connection, and a server's answer turned back into the error that it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clarion.encoding import decode
from clarion.errors import (
    ERRORS,
    ClarionError,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    MalformedJSON,
    NotFound,
    PayloadTooLarge,
    StoreUnavailable,
    Unauthenticated,
)

__all__ = ["MalformedFrame", "ServerUnreachable", "ToolRefused", "UnexpectedAnswer", "error_from", "error_of_answer"]


class ServerUnreachable(ClarionError):
    """The server cannot be reached."""


class UnexpectedAnswer(ClarionError):
    """The server's answer is not one that Clarion gives."""


class MalformedFrame(ClarionError):
    """The push stream holds something that is no frame."""


class ToolRefused(InvalidInput):
    """The tool call was refused."""


_BY_CODE: dict[str, type[ClarionError]] = {row.code: kind for kind, row in ERRORS.items()}
_BY_STATUS: dict[int, type[ClarionError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    413: PayloadTooLarge,
    429: LimitExceeded,
    503: StoreUnavailable,
}


def error_from(described: Mapping[str, Any]) -> ClarionError:
    """The error that a server described as `{code, message, field?, rule?, ...}`."""
    details = {name: value for name, value in described.items() if name not in ("code", "message", "field", "rule")}
    kind = _BY_CODE.get(str(described.get("code")), ClarionError)
    return kind(
        _text(described.get("message")), field=_text(described.get("field")), rule=_text(described.get("rule")),
        details=details,
    )  # fmt: skip


def error_of_answer(status: int, body: bytes) -> ClarionError:
    """The error of an answer with a status of 400 or more; by its status alone when the body is not Clarion's."""
    try:
        described = decode(body)["error"]
        if isinstance(described, dict) and described.get("code") in _BY_CODE:
            return error_from(described)
        message = _text(described.get("message")) if isinstance(described, dict) else None
    except (MalformedJSON, KeyError, TypeError, IndexError):
        message = None
    kind = _BY_STATUS.get(status)
    if kind is not None:
        return kind(message)
    return UnexpectedAnswer(message or f"the server answered with HTTP status {status}")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
