"""`clarion emit`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from clarion.cli.target import Target, call
from clarion.cli.terminal import note
from clarion.encoding import decode
from clarion.errors import InvalidInput, MalformedJSON, PayloadTooLarge

__all__ = ["emit", "read_object"]

MAX_STDIN_BYTES = 1024 * 1024
"""Bytes read from stdin for one event; more would be refused by any server."""


def emit(target: Target, topic: str, payload: str, envelope: Mapping[str, Any]) -> None:
    """Emit one event and print its position."""
    event = {"topic": topic, "payload": read_object(_text(payload), "the payload")}
    event |= {name: value for name, value in envelope.items() if value is not None}
    receipt = call(target, lambda api: api.emit(event), recorded=lambda made: not made["duplicate"])
    print(receipt["position"])
    if receipt["duplicate"]:
        note(f"event {receipt['event_id']} was recorded before; nothing new was emitted")


def _text(payload: str) -> str | bytes:
    if payload != "-":
        return payload
    found = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(found) > MAX_STDIN_BYTES:
        raise PayloadTooLarge(f"stdin holds more than {MAX_STDIN_BYTES} bytes; that is no single event's payload")
    return found


def read_object(text: str | bytes, name: str) -> dict[str, Any]:
    """The JSON object in an argument. Raises InvalidInput that says where it is wrong."""
    try:
        found = decode(text)
    except MalformedJSON as error:
        raise InvalidInput(f"""{name} is {error.message}; write it like '{{"amount": 150000}}', quoted""") from None
    if not isinstance(found, dict):
        raise InvalidInput(f"""{name} must be a JSON object, such as '{{"amount": 150000}}'""")
    return found
