"""Work that goes on to its end when whoever asked for it goes away.

A write and the announcement of it belong together: what is stored and never announced is missing from open streams,
and storing it again changes nothing, so nothing announces it then either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from clarion.logs import get_logger

__all__ = ["complete"]

T = TypeVar("T")

_running: set[asyncio.Task[Any]] = set()
"""The event loop holds tasks weakly: without this, one that nobody awaits could vanish half done."""

logger = get_logger("clarion.completion")


async def complete(work: Coroutine[Any, Any, T]) -> T:
    """What `work` answers or raises. A caller that is cancelled meanwhile leaves at once, and `work` runs to its end;
    an error of it is logged then, for nobody is left to be told."""
    task = asyncio.create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_report)
        raise


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("failed_after_its_caller_left", error=type(error).__name__)
