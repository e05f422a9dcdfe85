"""Options that several commands take, described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = ["AsJson", "Data", "Tenant", "Url"]

Data: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Data directory on this machine. [CLARION_DATA; default: ./clarion-data]",
        show_default=False,
    ),
]  # fmt: skip
Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="A server elsewhere, with its key in CLARION_KEY. [CLARION_URL]",
        show_default=False,
    ),
]  # fmt: skip
Tenant: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--tenant", metavar="T", show_default=False,
        help="Tenant within a data directory; elsewhere the key decides. [default: default]",
    ),
]  # fmt: skip
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
