"""`clarion import`: a file of any size, a batch at a time."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from clarion.cli.exits import FAILED, OK
from clarion.cli.target import Target, call
from clarion.cli.terminal import console, emphasis, printable, warning
from clarion.client.api import ApiClient
from clarion.client.errors import ServerUnreachable
from clarion.errors import ClarionError, InvalidInput, StoreUnavailable
from clarion.retry import Backoff, Jitter, retry_after

__all__ = ["Batch", "LineReader", "Summary", "import_file", "send_batch"]

BATCH_LINES = 1000
BATCH_BYTES = 8 * 1024 * 1024
"""Bytes of a batch, unless one line alone has more. A quarter of what the server takes."""

MAX_LINE_BYTES = 1024 * 1024
"""Bytes of a line, far beyond any valid event. Stops a file without line ends from filling the memory."""

ATTEMPTS = 8
"""How often a batch is offered to a server that takes no writes: half a minute in all."""

BACKOFF = Backoff(base=0.5, cap=10.0)

T = TypeVar("T")
Sleep = Callable[[float], Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """A line that was not recorded: its number in the file, from 1, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines with their numbers; `failures` are those that are not worth sending; `consumed` bytes of the file."""

    lines: Sequence[bytes]
    numbers: Sequence[int]
    failures: Sequence[Failure]
    consumed: int


@dataclass(slots=True)
class Summary:
    """What has become of the lines so far."""

    accepted: int = 0
    duplicates: int = 0
    failures: list[Failure] = field(default_factory=list)


class LineReader:
    """Batches of a file of lines. Blank lines are skipped, as the API skips them, but counted."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = 0

    def batch(self) -> Batch | None:
        """The next lines; None at the end of the file. Blocks on the file."""
        lines: list[bytes] = []
        numbers: list[int] = []
        failures: list[Failure] = []
        consumed = size = 0
        while len(lines) < BATCH_LINES and size < BATCH_BYTES and consumed < 4 * BATCH_BYTES:
            line = self._file.readline(MAX_LINE_BYTES + 1)
            if not line:
                break
            self._number += 1
            consumed += len(line)
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                consumed += self._skip_line()
                failures.append(Failure(self._number, f"the line is longer than {MAX_LINE_BYTES} bytes"))
            elif line.strip():
                lines.append(line.rstrip(b"\r\n"))
                numbers.append(self._number)
                size += len(line)
        if consumed == 0:
            return None
        return Batch(lines, numbers, failures, consumed)

    def _skip_line(self) -> int:
        skipped = 0
        while part := self._file.readline(MAX_LINE_BYTES):
            skipped += len(part)
            if part.endswith(b"\n"):
                break
        return skipped


async def send_batch(
    api: ApiClient,
    batch: Batch,
    summary: Summary,
    *,
    sleep: Sleep = asyncio.sleep,
    jitter: Jitter = random.random,
) -> None:
    """Offer the batch until every line was taken or refused for good; adds to `summary`.

    Lines that met a store without writes (503) are offered again. Raises StoreUnavailable when that does not end, and
    whatever else ends the whole request.
    """
    summary.failures += batch.failures
    waiting = list(zip(batch.numbers, batch.lines, strict=True))
    attempt = 0
    while waiting:
        advised = 0.0
        try:
            answer = await api.emit_lines([line for _, line in waiting])
            waiting = _sort(answer["results"], waiting, summary)
        except StoreUnavailable as error:
            advised = retry_after(error.details.get("retry_after"), 0)
        if not waiting:
            return
        attempt += 1
        if attempt == ATTEMPTS:
            raise StoreUnavailable()
        await sleep(max(BACKOFF.delay(attempt, jitter), advised))


def _sort(
    results: Sequence[dict[str, Any]], waiting: Sequence[tuple[int, bytes]], summary: Summary
) -> list[tuple[int, bytes]]:
    """Count the results; answers the lines to offer again."""
    again: list[tuple[int, bytes]] = []
    for (number, line), result in zip(waiting, results, strict=True):
        status = result["status"]
        if status == 503:
            again.append((number, line))
        elif status >= 400:
            summary.failures.append(Failure(number, _reason(result["error"])))
        elif result["duplicate"]:
            summary.duplicates += 1
        else:
            summary.accepted += 1
    return again


def _reason(error: dict[str, Any]) -> str:
    """The server's words; of a JSON error only the column, since it counts lines from the batch's first."""
    position = error.get("position")
    if error.get("code") == "malformed_json" and isinstance(position, dict):
        return f"not valid JSON at column {position.get('column')}"
    return str(error.get("message"))


def import_file(target: Target, path: Path) -> int:
    """Import and tell the result on stderr; answers the exit code. Raises InvalidInput, and what the API raises."""
    summary = Summary()
    with _opened(path) as file:
        total = _size(file)
        try:
            call(target, lambda api: _import(api, file, total, summary), recorded=lambda _: summary.accepted > 0)
        except ClarionError as error:
            _tell(summary)
            done = summary.accepted + summary.duplicates + len(summary.failures)
            if isinstance(error, ServerUnreachable):
                warning("the lines after those may or may not be recorded; with event_ids, importing again is harmless")
            elif done:
                warning("nothing after those lines was recorded; with event_ids, importing all again is harmless")
            raise
    _tell(summary)
    return FAILED if summary.failures else OK


def _opened(path: Path) -> AbstractContextManager[BinaryIO]:
    if str(path) == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return closing(path.open("rb"))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", field="file", rule="readable") from None


def _size(file: BinaryIO) -> int | None:
    """The file's size; None for what has none, such as a pipe."""
    found = os.fstat(file.fileno())
    return found.st_size if found.st_size else None


async def _import(api: ApiClient, file: BinaryIO, total: int | None, summary: Summary) -> None:
    reader = LineReader(file)
    screen = console(stderr=True)
    columns = (
        TextColumn("importing"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[events]} events"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("", total=total, events=0)
        while (batch := await _in_thread(reader.batch)) is not None:
            failed = len(summary.failures)
            try:
                await send_batch(api, batch, summary)
            finally:
                for failure in summary.failures[failed:]:
                    _tell_failure(failure, progress)
            progress.update(task, advance=batch.consumed, events=summary.accepted + summary.duplicates)


async def _in_thread(work: Callable[[], T]) -> T:
    """As asyncio.to_thread, but in a thread that a Ctrl-C leaves behind: stdin may never answer."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():
            set_it(outcome)

    def run() -> None:
        try:
            outcome: Any = work()
        except BaseException as error:
            loop.call_soon_threadsafe(settle, future.set_exception, error)
        else:
            loop.call_soon_threadsafe(settle, future.set_result, outcome)

    threading.Thread(target=run, name="import-reader", daemon=True).start()
    return await future


def _tell_failure(failure: Failure, progress: Progress) -> None:
    line = f"line {failure.line}: {printable(failure.reason)}"
    if progress.disable:
        print(line, file=sys.stderr)
    else:
        progress.console.print(line, style="red")


def _tell(summary: Summary) -> None:
    style = "1;31" if summary.failures else "1"
    counts = f"{summary.accepted} accepted, {summary.duplicates} duplicates, {len(summary.failures)} failed"
    print(emphasis(counts, style, sys.stderr), file=sys.stderr)
