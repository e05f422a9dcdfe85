"""What the pages hold, for the tests that run it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from clarion.testing.server import ServerProcess

__all__ = ["DOCS", "pasted", "section", "table"]

DOCS = Path(__file__).parents[2] / "docs"


def section(page: str, title: str) -> str:
    """The text under a heading of docs/, up to the next heading of its level."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^\1 |\Z)", (DOCS / page).read_text(), re.M | re.S)
    if found is None:
        raise LookupError(f"{page} has no section {title!r}")
    return found[2]


def table(text: str) -> list[list[str]]:
    """The cells of every table row in `text`, its heads included."""
    rows = re.findall(r"^\| (.+) \|$", text, re.M)
    return [[cell.strip() for cell in row.split(" | ")] for row in rows]


def indented(text: str) -> str:
    """The indented blocks of `text` as one script."""
    return "\n".join(re.findall(r"^    (.+)$", text, re.M))


async def pasted(text: str, server: ServerProcess, **environment: str) -> str:
    """What a shell prints for the indented blocks of `text`, pasted beside a running server; fails when a line does."""
    script = indented(text).replace("http://127.0.0.1:8787", server.url)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", script,
        env={**os.environ, "PATH": path, "CLARION_DATA": str(server.directory), "NO_PROXY": "*", **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, complaints = await shell.communicate()
    if shell.returncode:
        raise RuntimeError(complaints.decode())
    return output.decode()
