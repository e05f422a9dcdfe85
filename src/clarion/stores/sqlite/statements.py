"""The SQL of this package: named queries from `queries/*.sql`, and statements over many rows at once."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import chain
from typing import Any

__all__ = ["ManyRows", "queries"]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)

_MOST_ROWS = 512
"""Rows of one statement: 512 of the widest table are 11,776 parameters, and SQLite takes 32,766 by default."""


@cache
def queries(file: str) -> Mapping[str, str]:
    """The statements of `queries/<file>.sql`, each under its `-- name:` line."""
    text = resources.files(__package__).joinpath("queries", f"{file}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


class ManyRows:
    """A statement with a `{rows}` of VALUES, executed for any number of rows in a few steps.

    Every step of a statement gives up the interpreter's lock, and getting it back from a busy event loop takes up to
    the switch interval (5 ms); so one statement of 512 rows is much faster under load than 512 of one. Row counts are
    split into powers of two, to keep the prepared statements few.
    """

    def __init__(self, template: str, columns: int) -> None:
        self._template = template
        self._row = f"({','.join('?' * columns)})"
        self._texts: dict[int, str] = {}

    def execute(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> int:
        """Execute for all `rows`; answers how many rows changed."""
        return sum(cursor.rowcount for cursor in self._steps(connection, rows))

    def fetch(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """The answers for all `rows`."""
        return [found for cursor in self._steps(connection, rows) for found in cursor.fetchall()]

    def _steps(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> list[sqlite3.Cursor]:
        cursors = []
        done = 0
        while done < len(rows):
            size = min(_MOST_ROWS, 1 << ((len(rows) - done).bit_length() - 1))
            parameters = list(chain.from_iterable(rows[done : done + size]))
            cursors.append(connection.execute(self._text(size), parameters))
            done += size
        return cursors

    def _text(self, size: int) -> str:
        text = self._texts.get(size)
        if text is None:
            text = self._texts[size] = self._template.replace("{rows}", ",".join([self._row] * size))
        return text
