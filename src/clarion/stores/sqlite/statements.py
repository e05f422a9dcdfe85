"""The SQL of this package: named queries from `queries/*.sql`, and statements over many rows at once."""

from __future__ import annotations

import re
import sqlite3
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import chain
from typing import Any

__all__ = ["MOST_ROWS", "ManyRows", "queries"]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)

MOST_ROWS = 512
"""Rows of one statement: 512 of the widest table are 11,776 parameters, and SQLite takes 32,766 by default."""

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, MOST_ROWS)


@cache
def queries(file: str) -> Mapping[str, str]:
    """The statements of `queries/<file>.sql`, each under its `-- name:` line."""
    text = resources.files(__package__).joinpath("queries", f"{file}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


class ManyRows:
    """A statement with a `{rows}` of VALUES, executed for any number of rows in a few steps.

    Every step of a statement gives up the interpreter's lock, and getting it back from a busy event loop takes up to
    the switch interval (5 ms) and sometimes longer; so one statement of 512 rows is much faster under load than 512 of
    one. To keep the prepared statements few, there are some sizes only, and the rest of a size is rows of NULLs:
    the template must pass over a row whose first column is NULL.
    """

    def __init__(self, template: str, columns: int) -> None:
        self._template = template
        self._columns = columns
        self._row = f"({','.join('?' * columns)})"
        self._texts: dict[int, str] = {}

    def execute(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Execute for all `rows`: in one step, and so atomically, when they are at most MOST_ROWS."""
        for start in range(0, len(rows), MOST_ROWS):
            self._step(connection, rows[start : start + MOST_ROWS])

    def fetch(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """The answers for all `rows`."""
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(rows), MOST_ROWS):
            found.extend(self._step(connection, rows[start : start + MOST_ROWS]).fetchall())
        return found

    def _step(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> sqlite3.Cursor:
        parameters = list(chain.from_iterable(rows))
        size = _SIZES[bisect_left(_SIZES, len(rows))]
        parameters.extend([None] * (self._columns * size - len(parameters)))
        text = self._texts.get(size)
        if text is None:
            text = self._texts[size] = self._template.replace("{rows}", ",".join([self._row] * size))
        return connection.execute(text, parameters)
