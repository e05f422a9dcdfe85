"""Notices that the server around a library is being stopped, so that open streams do not hold it up.

uvicorn waits for open responses before it ends the application's lifespan, so whoever closes streams with the lifespan
is waited for, for ever. What it knows earlier is that it should exit; and it can be found, since it handles the
process's signals while it runs. Other servers cancel what is open, or close it by the lifespan.
"""

from __future__ import annotations

import asyncio
import signal

__all__ = ["GLANCE_SECONDS", "stopped"]

GLANCE_SECONDS = 0.25
"""Seconds between two looks at whether the server should exit: what it adds to a stop at most."""


async def stopped(ending: asyncio.Event) -> None:
    """Return when `ending` is set, or the uvicorn server that handles this process's signals should exit."""
    waiting = asyncio.ensure_future(ending.wait())
    try:
        while not waiting.done():
            server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
            if getattr(server, "should_exit", False) is True:
                return
            await asyncio.wait([waiting], timeout=GLANCE_SECONDS)
    finally:
        waiting.cancel()
