"""Errors of the Events wire: codes per dialect, and the typed `data` that clients branch on (SEP-3415, "Error
Handling").

A client that declares the extension in its capabilities gets SEP-3415's numbers, one that does not the earlier
sketch's, which deployed clients read (FIELD, "One server, two dialects"). Everything but the numbers is the same.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from clarion.errors import ClarionError, HookFailed, StoreUnavailable, Unauthenticated, codes

__all__ = ["Dialect", "error_object"]


class Dialect(Enum):
    """Whose error numbers a client reads."""

    SEP = "sep-3415"
    SKETCH = "sketch"


_NAMES = {
    -32602: "InvalidParams",
    -32603: "InternalError",
    -32023: "NotFound",
    -32024: "Forbidden",
    -32025: "ResourceExhausted",
    -32026: "Unsupported",
    -32027: "CallbackEndpointError",
}

_MEMBERS = ("kind", "limit", "max", "feature", "value", "reason")
"""What `data` may hold beside `field` and `rule`."""

STORE_TEXT = "The event store cannot be used right now. Try again shortly."
"""Stands for what a store says of its own failure, which is the operator's to read."""


def error_object(error: ClarionError, dialect: Dialect) -> dict[str, Any]:
    """The JSON-RPC error object of `error`."""
    row = codes(error)
    data: dict[str, Any] = {name: error.details[name] for name in _MEMBERS if name in error.details}
    if error.field is not None:
        data["field"] = error.field
    if error.rule is not None:
        data["rule"] = error.rule
    if isinstance(error, Unauthenticated):
        data.setdefault("reason", "unauthenticated")
    if isinstance(error, HookFailed):
        data.setdefault("reason", "hook")
    name, text = _NAMES.get(row.sep), error.message
    if isinstance(error, StoreUnavailable) and error.__cause__ is not None:
        text = STORE_TEXT
    message = f"{name}: {text}" if name else text
    body: dict[str, Any] = {"code": row.sep if dialect is Dialect.SEP else row.sketch, "message": message}
    if data:
        body["data"] = data
    return body
