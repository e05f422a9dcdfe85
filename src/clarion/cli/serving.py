"""`clarion serve`."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

from clarion import __version__
from clarion.cli.target import DEFAULT_DATA, PATIENCE_SECONDS, POLL_SECONDS
from clarion.cli.terminal import emphasis
from clarion.errors import DataDirectoryOwned
from clarion.local import DataDirectory
from clarion.logs import get_logger
from clarion.server import run
from clarion.settings import Settings, load_settings

__all__ = ["serve"]


def serve(
    data: Path,
    *,
    host: str | None,
    port: int | None,
    log_level: str | None,
    log_format: str | None,
    restored: bool = False,
) -> None:
    """Serve until a signal. Waits a moment for a short command that owns the directory right now."""
    settings = load_settings(data, host=host, port=port, log_level=log_level, log_format=log_format)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return run(settings, lambda url: _banner(settings, url), restored=restored)
        except DataDirectoryOwned:
            owner = DataDirectory(data).endpoint()
            if owner is not None:
                raise DataDirectoryOwned(
                    f"a server owns {data} already, at {owner.url}; stop it, or use another directory with --data"
                ) from None
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def _banner(settings: Settings, url: str) -> None:
    if settings.log_format == "json":
        get_logger("clarion.server").info("listening", url=url, data=str(settings.data), version=__version__)
        return
    where = "" if settings.data == DEFAULT_DATA else f" --data {shlex.quote(str(settings.data))}"
    lines = (
        f"{emphasis('Clarion', '1', sys.stderr)} {__version__} is listening on {emphasis(url, '1;36', sys.stderr)}",
        f"  data   {settings.data.absolute()}",
        "  next   in other terminals:",
        f"           clarion listen 'deal.*'{where}",
        f"""           clarion emit deal.won '{{"amount": 150000}}'{where}""",
        f"  agent  its key:  clarion keys create --role subscriber{where}",
        f"         its MCP:  {url}/mcp",
        "  stop   Ctrl-C",
    )
    print(*lines, sep="\n", file=sys.stderr, flush=True)
