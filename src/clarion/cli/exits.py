"""Exit codes, so that a script can tell what to do about a failure."""

from __future__ import annotations

import typer

from clarion.client.errors import ServerUnreachable
from clarion.errors import ClarionError, DataDirectoryOwned, Forbidden, StoreUnavailable, Unauthenticated, codes

__all__ = ["FAILED", "INTERRUPTED", "INVALID", "OK", "REFUSED", "UNAVAILABLE", "USAGE", "UsageProblem", "exit_code"]

OK = 0
FAILED = 1
"""It did not work, or the answer is no."""
USAGE = 2
"""The command line is wrong."""
REFUSED = 3
"""The key is not known or its role does not allow it (401, 403)."""
INVALID = 4
"""The server does not take the input (any other 4xx)."""
UNAVAILABLE = 5
"""Later may do: no server, no writes right now (503), a data directory that another process owns."""
INTERRUPTED = 130
"""Ended by Ctrl-C, as shells say it."""


class UsageProblem(typer.TyperException):
    """Options that are each right, but not together or not here."""

    exit_code = USAGE


def exit_code(error: ClarionError) -> int:
    """The exit code that tells of `error`."""
    if isinstance(error, Unauthenticated | Forbidden):
        return REFUSED
    if isinstance(error, ServerUnreachable | StoreUnavailable | DataDirectoryOwned):
        return UNAVAILABLE
    return INVALID if 400 <= codes(error).http < 500 else FAILED
