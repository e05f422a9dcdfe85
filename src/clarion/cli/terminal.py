"""What a person sees: results on stdout, everything about them on stderr, colours on terminals only.

Rich takes longer to import than a small command takes to run, so only tables and live views load it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "columns",
    "console",
    "emphasis",
    "error_line",
    "note",
    "print_json",
    "print_table",
    "printable",
    "warning",
]

_UNWRAPPED = 100_000
"""Columns of output that no terminal shows: a table in a file or pipe is never cut."""


def _coloured(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def emphasis(text: str, style: str, stream: TextIO) -> str:
    """`text` in an ANSI style such as `1;31`, when `stream` shows colours."""
    return f"\x1b[{style}m{text}\x1b[0m" if _coloured(stream) else text


def error_line(message: str) -> None:
    print(emphasis("error:", "1;31", sys.stderr), _folded(message, "error: "), file=sys.stderr)


def warning(message: str) -> None:
    print(emphasis("!", "1;33", sys.stderr), _folded(message, "! "), file=sys.stderr, flush=True)


def note(message: str) -> None:
    """Something about the result, or what to do next."""
    print(emphasis(_folded(message), "2", sys.stderr), file=sys.stderr, flush=True)


def _folded(message: str, head: str = "") -> str:
    """One line, or on a terminal as many as its width needs, broken between words; `head` stands before the first."""
    text = printable(message)
    if not sys.stderr.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(head + text, width, break_long_words=False, break_on_hyphens=False)[len(head) :]


def printable(text: str) -> str:
    """`text` without what would move the cursor or recolour the terminal: events come from others."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def columns() -> int:
    """How wide a line on stdout may be: a terminal's width, and without limit in a file or pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNWRAPPED


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def console(*, stderr: bool = False) -> Console:
    """A Rich console that wraps and colours for terminals only."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        no_color=None if _coloured(stream) else True,
        width=None if stream.isatty() else _UNWRAPPED,
    )


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, wide: int | None = None) -> None:
    """A table on stdout; `wide` is the column that takes what room there is."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", ratio=1 if number == wide else None)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    screen = console()
    with screen.capture() as captured:
        screen.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())
