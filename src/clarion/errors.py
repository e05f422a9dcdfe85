"""Every error that Clarion raises, and what each becomes on each wire.

The class docstring is the default message. `ERRORS` is the one table from an error to an HTTP status, a JSON-RPC
code in both Events dialects (SEP-3415 and the earlier sketch, see FIELD "Errors") and the reason a stream closes with.
A message tells who may act what was wrong, where, and what to do; it never holds a secret, a remote response or
another tenant's existence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = [
    "ERRORS",
    "ClarionError",
    "CloseReason",
    "Conflict",
    "DataDirectoryOwned",
    "Forbidden",
    "HookFailed",
    "InvalidConsent",
    "InvalidEvent",
    "InvalidFilter",
    "InvalidInput",
    "InvalidPattern",
    "InvalidSchema",
    "InvalidTopic",
    "LimitExceeded",
    "MalformedJSON",
    "MissingParameter",
    "NotFound",
    "Overloaded",
    "PayloadTooLarge",
    "RequestTimeout",
    "SchemaTooNew",
    "StoreUnavailable",
    "Unauthenticated",
    "Unsupported",
    "WireCodes",
    "codes",
    "describe",
]


class CloseReason(Enum):
    """Why the server ended a stream; `reconnect` says whether the client should come back."""

    CLIENT_GONE = ("client_gone", True)
    SERVER_STOPPING = ("server_stopping", True)
    STORE_UNAVAILABLE = ("store_unavailable", True)
    REVOKED = ("revoked", False)
    TERMINATED = ("terminated", False)
    FAILED = ("failed", True)

    def __init__(self, label: str, reconnect: bool) -> None:
        self.label = label
        self.reconnect = reconnect


class ClarionError(Exception):
    """Something went wrong."""

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        rule: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.field = field
        self.rule = rule
        self.details = details or {}
        super().__init__(self.message)


class MalformedJSON(ClarionError):
    """The body is not valid JSON."""


class MissingParameter(ClarionError):
    """A parameter of the request is missing."""


class Unauthenticated(ClarionError):
    """Send a valid API key as `Authorization: Bearer <key>`."""


class Forbidden(ClarionError):
    """This key's role does not allow that."""


class NotFound(ClarionError):
    """Not found."""


class Conflict(ClarionError):
    """The same event id was already recorded with other content."""


class PayloadTooLarge(ClarionError):
    """The payload is too large."""


class InvalidInput(ClarionError):
    """The input breaks a rule."""


class InvalidTopic(InvalidInput):
    """The topic is not valid."""


class InvalidPattern(InvalidInput):
    """The topic pattern is not valid."""


class InvalidFilter(InvalidInput):
    """The filter is not valid."""


class InvalidSchema(InvalidInput):
    """The JSON Schema is not valid."""


class InvalidEvent(InvalidInput):
    """The event is not valid."""


class InvalidConsent(InvalidInput):
    """The consent entry is not valid."""


class LimitExceeded(ClarionError):
    """A limit of this tenant is reached."""


class StoreUnavailable(ClarionError):
    """The event store cannot take writes right now; nothing was stored. Try again shortly."""


class Overloaded(StoreUnavailable):
    """Too many large requests are being read right now; nothing of this one was stored. Try again shortly."""


class RequestTimeout(ClarionError):
    """The request's body did not arrive in time."""


class Unsupported(ClarionError):
    """This is not offered here."""


class HookFailed(ClarionError):
    """The server could not prepare an event for this subscription; it was kept back."""


class SchemaTooNew(ClarionError):
    """The database was written by a newer Clarion; upgrade this one."""


class DataDirectoryOwned(ClarionError):
    """Another process owns this data directory."""


@dataclass(frozen=True, slots=True)
class WireCodes:
    """What one error becomes: `http` status, JSON-RPC codes (`sep` SEP-3415, `sketch` the earlier design), `close`."""

    code: str
    http: int
    sep: int
    sketch: int
    close: CloseReason | None = None


_INVALID_PARAMS = -32602
_INTERNAL = -32603

ERRORS: dict[type[ClarionError], WireCodes] = {
    MalformedJSON: WireCodes("malformed_json", 400, -32700, -32700),
    MissingParameter: WireCodes("missing_parameter", 400, _INVALID_PARAMS, _INVALID_PARAMS),
    Unauthenticated: WireCodes("unauthenticated", 401, -32024, -32012, CloseReason.REVOKED),
    Forbidden: WireCodes("forbidden", 403, -32024, -32012, CloseReason.REVOKED),
    NotFound: WireCodes("not_found", 404, -32023, -32011),
    RequestTimeout: WireCodes("request_timeout", 408, _INVALID_PARAMS, _INVALID_PARAMS),
    Conflict: WireCodes("conflict", 409, _INVALID_PARAMS, _INVALID_PARAMS),
    PayloadTooLarge: WireCodes("payload_too_large", 413, _INVALID_PARAMS, _INVALID_PARAMS),
    InvalidTopic: WireCodes("invalid_topic", 422, _INVALID_PARAMS, _INVALID_PARAMS),
    InvalidPattern: WireCodes("invalid_pattern", 422, _INVALID_PARAMS, _INVALID_PARAMS),
    InvalidFilter: WireCodes("invalid_filter", 422, _INVALID_PARAMS, _INVALID_PARAMS),
    InvalidSchema: WireCodes("invalid_schema", 422, _INVALID_PARAMS, _INVALID_PARAMS),
    InvalidEvent: WireCodes("invalid_event", 422, _INVALID_PARAMS, _INVALID_PARAMS),
    InvalidConsent: WireCodes("invalid_consent", 422, _INVALID_PARAMS, _INVALID_PARAMS),
    InvalidInput: WireCodes("invalid_input", 422, _INVALID_PARAMS, _INVALID_PARAMS),
    LimitExceeded: WireCodes("limit_exceeded", 429, -32025, -32013),
    Unsupported: WireCodes("unsupported", 422, -32026, -32014),
    HookFailed: WireCodes("hook_failed", 500, _INTERNAL, _INTERNAL),
    StoreUnavailable: WireCodes("store_unavailable", 503, _INTERNAL, _INTERNAL, CloseReason.STORE_UNAVAILABLE),
    Overloaded: WireCodes("overloaded", 503, _INTERNAL, _INTERNAL, CloseReason.STORE_UNAVAILABLE),
    SchemaTooNew: WireCodes("schema_too_new", 500, _INTERNAL, _INTERNAL),
    DataDirectoryOwned: WireCodes("data_directory_owned", 500, _INTERNAL, _INTERNAL),
    ClarionError: WireCodes("internal", 500, _INTERNAL, _INTERNAL),
}


def codes(error: ClarionError) -> WireCodes:
    """The table row of `error`: its own class's, else the nearest base class's."""
    for kind in type(error).__mro__:
        if kind in ERRORS:
            return ERRORS[kind]
    return ERRORS[ClarionError]


def describe(error: ClarionError) -> dict[str, Any]:
    """The error as a JSON object: `code`, `message`, and where known `field`, `rule` and the error's own details."""
    body: dict[str, Any] = {"code": codes(error).code, "message": error.message}
    if error.field is not None:
        body["field"] = error.field
    if error.rule is not None:
        body["rule"] = error.rule
    return body | error.details
