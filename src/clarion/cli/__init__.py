"""The command line. Every command but `serve` speaks to the HTTP API, over the network or within this process.

Exit codes: 0 done; 1 failed, or the answer is no; 2 the command line is wrong; 3 refused (the key, or its role);
4 the input is not valid; 5 unavailable (no server, no writes right now, or the directory is another process's).
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from clarion.cli.exits import FAILED, INTERRUPTED, exit_code
from clarion.cli.invocation import invoked
from clarion.cli.terminal import error_line, note
from clarion.errors import ClarionError, Unauthenticated

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command that the arguments name, and exit with its code."""
    try:
        code = _run()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone, as in `clarion topics | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    sys.exit(code)


def _run() -> int:
    from clarion.cli.app import app

    try:
        answer = app(prog_name="clarion", standalone_mode=False)
    except typer.TyperException as error:
        error_line(error.format_message())
        where = getattr(getattr(error, "ctx", None), "command_path", "clarion")
        note(f"`{invoked()}{where.removeprefix('clarion')} --help` shows how it is written")
        return error.exit_code
    except ClarionError as error:
        return _failed(error)
    except BaseExceptionGroup as group:
        found, others = group.split(ClarionError)
        if found is None or others is not None:
            raise
        return _failed(_first(found))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return answer if isinstance(answer, int) else 0


def _first(error: BaseException) -> ClarionError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, ClarionError):
        raise error
    return error


def _failed(error: ClarionError) -> int:
    if isinstance(error, Unauthenticated):
        error_line("the server does not know this key, or it was revoked")
        note("CLARION_KEY must hold a key of that server; on its machine")
        note(f"`{invoked()} keys create` makes one")
    else:
        error_line(error.message)
    return exit_code(error)
