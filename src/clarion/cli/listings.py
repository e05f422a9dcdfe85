"""Listings as tables for people, or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clarion.cli.invocation import invoked
from clarion.cli.terminal import note, print_json, print_table, printable

__all__ = ["show_consent", "show_decision", "show_keys"]

Row = Mapping[str, Any]


def show_keys(keys: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        print_json(keys)
    elif not keys:
        note(f"no keys yet; `{invoked()} keys create --role subscriber` makes one")
    else:
        rows = [
            (
                key["key_id"],
                key["subject"],
                key["role"],
                ",".join(key["modules"]) or "-",
                _moment(key["created_at"]),
                "active" if key["revoked_at"] is None else f"revoked {_moment(key['revoked_at'])}",
            )
            for key in keys
        ]
        print_table(("ID", "SUBJECT", "ROLE", "MODULES", "CREATED", "STATE"), rows)


def show_consent(subject: str, entries: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        print_json(entries)
    elif not entries:
        note(f"nothing is recorded of {subject}")
    else:
        rows = [
            (
                str(entry["seq"]),
                _moment(entry["recorded_at"]),
                entry["state"],
                entry["purpose"] or "every",
                entry["reason"] or "-",
                entry["actor"] or "-",
                _moment(entry["expires_at"]),
            )
            for entry in entries
        ]
        print_table(("LINE", "RECORDED", "STATE", "PURPOSE", "REASON", "ACTOR", "EXPIRES"), rows)


def show_decision(decision: Row, *, as_json: bool) -> None:
    if as_json:
        print_json(decision)
    else:
        verdict = "allowed" if decision["allowed"] else "not allowed"
        print(printable(f"{verdict}: {decision['reason']}" if decision["reason"] else verdict))


def _moment(text: str | None) -> str:
    """A time of the API to the second."""
    return "-" if text is None else text.partition(".")[0].removesuffix("Z").replace("T", " ") + "Z"
