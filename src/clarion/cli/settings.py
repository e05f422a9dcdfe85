"""`clarion settings`: what the server would run with, and where each value comes from."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

from clarion.cli.target import pick_data
from clarion.cli.terminal import columns, emphasis, print_json, printable
from clarion.settings import CONFIG_FILE, PREFIX, Settings, read_settings

__all__ = ["show_settings"]


def show_settings(data: Path | None, *, as_json: bool) -> None:
    """Print every setting in effect. Raises InvalidInput for one that is wrong."""
    directory = pick_data(data)
    read = read_settings(directory)
    origins = dict(read.origins)
    if data is not None:
        origins["data"] = "--data"
    elif os.environ.get("CLARION_DATA"):
        origins["data"] = "CLARION_DATA"
    rows = [
        {
            "setting": name,
            "value": _public(name, getattr(read.settings, name)),
            "from": origins.get(name, "default"),
            "variable": f"{PREFIX}{name.upper()}",
            "meaning": field.description or "",
        }
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print(f"{emphasis(row['setting'], '1', sys.stdout)} = {printable(_shown(row['value']))}  ({row['from']})")
        for line in textwrap.wrap(row["meaning"], columns() - 4, break_on_hyphens=False, break_long_words=False):
            print(f"    {line}")
    print()
    for line in textwrap.wrap(
        f"A variable is {PREFIX} and the name in capitals, such as {PREFIX}RETENTION_DAYS=30; it beats "
        f"{directory.absolute() / CONFIG_FILE}, and an option of `clarion serve` beats both. Lists in variables are "
        "texts with commas between them, or JSON.",
        columns(),
        break_on_hyphens=False,
        break_long_words=False,
    ):
        print(line)


def _public(name: str, value: Any) -> Any:
    """The value as it may be shown: of inbound sources the names, since the rest holds secrets."""
    if name == "inbound":
        return sorted(value)
    if isinstance(value, Path):
        return str(value.absolute())
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, list) else str(value)
