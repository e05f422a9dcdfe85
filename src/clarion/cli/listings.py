"""Listings as tables for people, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from clarion.cli.terminal import note, print_table, printable
from clarion.encoding import encode

__all__ = ["show_consent", "show_decision", "show_keys", "show_settings", "show_topics"]

Row = Mapping[str, Any]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def show_topics(topics: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        _print_json(topics)
        return
    rows = []
    for topic in topics:
        examples = topic["filter_examples"]
        example = encode(examples[0]).decode() if examples else ""
        rows.append((topic["topic"], topic["category"], topic["description"], example))
    print_table(("TOPIC", "CATEGORY", "MEANING", "A FILTER"), rows, wide=2)


def show_keys(keys: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        _print_json(keys)
    elif not keys:
        note("no keys yet; `clarion keys create --role subscriber` makes one")
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
        _print_json(entries)
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
        _print_json(decision)
    else:
        verdict = "allowed" if decision["allowed"] else "not allowed"
        print(printable(f"{verdict}: {decision['reason']}" if decision["reason"] else verdict))


def show_settings() -> None:
    from clarion.settings import Settings

    prefix = Settings.model_config.get("env_prefix", "")
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "none" if default in (None, (), {}) else str(default)
        rows.append((name, shown, f"{prefix}{name.upper()}", field.description or ""))
    print_table(("SETTING", "DEFAULT", "ENVIRONMENT", "MEANING"), rows, wide=3)


def _moment(text: str | None) -> str:
    """A time of the API to the second."""
    return "-" if text is None else text.partition(".")[0].removesuffix("Z").replace("T", " ") + "Z"
