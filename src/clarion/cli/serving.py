"""`clarion serve`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from clarion import __version__
from clarion.cli.invocation import invoked
from clarion.cli.target import PATIENCE_SECONDS, POLL_SECONDS, reachable, with_data
from clarion.cli.terminal import emphasis, warning
from clarion.errors import DataDirectoryOwned
from clarion.local import DataDirectory
from clarion.logs import configure, get_logger
from clarion.server import run
from clarion.settings import Settings, load_settings, unknown_variables

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
    _warn_of_variables(settings)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return run(settings, lambda url: _banner(settings, url), restored=restored)
        except DataDirectoryOwned:
            owner = DataDirectory(data).endpoint()
            if owner is not None:
                raise DataDirectoryOwned(
                    f"a server owns {data.absolute()} already, at {owner.url}; stop it, or use another directory "
                    "with --data"
                ) from None
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def _warn_of_variables(settings: Settings) -> None:
    """A variable with a typing error would otherwise be a setting that is silently not made."""
    for name, meant in unknown_variables(settings).items():
        if settings.log_format == "json":
            configure(settings.log_level, settings.log_format)
            get_logger("clarion.server").warning("unknown_variable", variable=name, meant=meant)
        else:
            advice = f"did you mean {meant}?" if meant else f"`{invoked()} settings` lists them"
            warning(f"{name} is no setting and is not used; {advice}")


def _exposure(settings: Settings) -> list[str]:
    """What to know when others can reach the server: two lines at most."""
    if settings.host in ("127.0.0.1", "::1", "localhost"):
        return []
    names = ", ".join(settings.allowed_hosts) or "any name; CLARION_ALLOWED_HOSTS limits them"
    return [f"  open   to other machines, as {names}", "         without encryption: put a proxy with TLS before it"]


def _banner(settings: Settings, url: str) -> None:
    if settings.log_format == "json":
        get_logger("clarion.server").info("listening", url=url, data=str(settings.data), version=__version__)
        return
    command, where, url = invoked(), with_data(settings.data), reachable(url)
    lines = (
        f"{emphasis('Clarion', '1', sys.stderr)} {__version__} is listening on {emphasis(url, '1;36', sys.stderr)}",
        f"  data   {settings.data.absolute()}",
        *_exposure(settings),
        "  next   in other terminals:",
        f"           {command} listen 'deal.*'{where}",
        f"""           {command} emit deal.won '{{"amount": 150000}}'{where}""",
        f"  agent  its key:  {command} keys create --role subscriber{where}",
        f"         its MCP:  {url}/mcp",
        "  stop   Ctrl-C",
    )
    print(*lines, sep="\n", file=sys.stderr, flush=True)
