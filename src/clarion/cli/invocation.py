"""The command as it was typed, so that a hint can be copied and works."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["invoked"]


def invoked(arguments: Sequence[str] | None = None, interpreter: Sequence[str] | None = None) -> str:
    """How this process was called, quoted for a shell: `clarion`, `.venv/bin/clarion` or `python -m clarion`.

    A command that the shell found on the PATH is told by its name alone.
    """
    program = (sys.argv if arguments is None else arguments)[0]
    if Path(program).name == "__main__.py":
        python = (sys.orig_argv if interpreter is None else interpreter)[0]
        return f"{shlex.quote(python)} -m clarion"
    name = Path(program).name
    if "/" not in program or shutil.which(name) == program:
        return shlex.quote(name)
    return shlex.quote(program)
