"""The commands as Typer sees them: options and help here, the work in the modules that each one loads when it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from clarion.catalog_topics import CATEGORIES
from clarion.cli.consent import consent
from clarion.cli.exits import UsageProblem
from clarion.cli.help import Command, help_unless_called, one_of
from clarion.cli.keys import keys
from clarion.cli.options import AsJson, Data, Tenant, Url
from clarion.cli.target import call, pick_data, pick_target

__all__ = ["app"]

_EXIT_CODES = """\b
Exit codes:
  0  done
  1  failed, or the answer is no
  2  wrong command line
  3  refused: the key, or its role
  4  invalid input
  5  unavailable: no server, no writes right now, or a directory in use"""

_LOG_LEVELS = ("debug", "info", "warning", "error")
_LOG_FORMATS = ("text", "json")
_MODES = ("poll", "push")

app = typer.Typer(
    name="clarion",
    epilog=_EXIT_CODES,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(keys, name="keys")
app.add_typer(consent, name="consent")


class _Misused(UsageProblem):
    """A UsageProblem that knows its command, whose help it then points to."""

    def __init__(self, message: str, context: typer.Context) -> None:
        super().__init__(message)
        self.ctx = context


@contextmanager
def _of(context: typer.Context) -> Iterator[None]:
    """What is wrong with the options in the block is wrong with this command."""
    try:
        yield
    except UsageProblem as problem:
        raise _Misused(problem.format_message(), context) from None


def _version(wanted: bool) -> None:
    if wanted:
        from clarion import __version__

        print(f"clarion {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Push for the Model Context Protocol: emit events, and have them pushed to the agents that subscribed."""
    help_unless_called(context)


@app.command(
    cls=Command,
    short_help="Run the server, until Ctrl-C or SIGTERM.",
    epilog="\b\nExample:\n  clarion serve --port 8787 --data ./clarion-data",
)
def serve(
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
    ] = None,
    port: Annotated[int | None, typer.Option(metavar="PORT", help="Port; 0 takes a free one.  [default: 8787]")] = None,
    data: Data = None,
    log_level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL", callback=one_of(_LOG_LEVELS), help="debug, info, warning or error.  [default: info]"
        ),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT", callback=one_of(_LOG_FORMATS), help="text, or json for machines.  [default: text]"
        ),
    ] = None,
    restored: Annotated[
        bool, typer.Option("--restored", help="Once, after putting back a backup: older positions become invalid.")
    ] = False,
) -> None:
    """Run the server on a data directory until Ctrl-C or SIGTERM.

    More settings: `clarion settings`; they come from CLARION_* variables or from clarion.toml in the directory.
    """
    from clarion.cli.serving import serve as run

    run(pick_data(data), host=host, port=port, log_level=log_level, log_format=log_format, restored=restored)


@app.command(
    cls=Command,
    short_help="Record one event durably, to be pushed to subscribers.",
    epilog="""\b\nExample:\n  clarion emit deal.won '{"deal_id": "d1", "amount": 150000}' --actor ada""",
)
def emit(
    topic: Annotated[
        str, typer.Argument(metavar="TOPIC", help="Such as deal.won; `clarion topics` lists the known ones.")
    ],
    payload: Annotated[str, typer.Argument(metavar="[JSON|-]", help="A JSON object; - reads stdin.")] = "{}",
    event_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Your own id: emitting the same event again is then harmless.")
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option(metavar="PERSON", help="Person whose data it holds, for consent; repeat.")
    ] = None,
    aggregate_type: Annotated[
        str | None, typer.Option(metavar="KIND", help="Kind of thing it is about, such as deal.")
    ] = None,
    aggregate_id: Annotated[str | None, typer.Option(metavar="ID", help="Which thing it is about.")] = None,
    actor: Annotated[str | None, typer.Option(metavar="WHO", help="Who caused it.")] = None,
    correlation_id: Annotated[str | None, typer.Option(metavar="ID", help="What it belongs together with.")] = None,
    occurred_at: Annotated[str | None, typer.Option(metavar="TIME", help="ISO 8601; now unless given.")] = None,
    expires_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="ISO 8601; after it nobody needs the event.")
    ] = None,
    data: Data = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """Record one event durably, to be pushed to whoever subscribed. Prints its position."""
    from clarion.cli.emitting import emit as run

    envelope = {
        "event_id": event_id,
        "subjects": subject or None,
        "aggregate_type": aggregate_type,
        "aggregate_id": aggregate_id,
        "actor_id": actor,
        "correlation_id": correlation_id,
        "occurred_at": occurred_at,
        "expires_at": expires_at,
    }
    run(pick_target(data, url, tenant), topic, payload, envelope)


@app.command(
    cls=Command,
    short_help="Subscribe, and show events as they are pushed.",
    epilog="""\b\nExamples:
  clarion listen 'deal.*' --filter '{"amount_gte": 100000}' --from earliest
  clarion listen --mcp https://example.com/mcp ticket.updated \\
    --arguments '{"severity": "high"}'""",
)
def listen(
    context: typer.Context,
    topic: Annotated[
        list[str] | None,
        typer.Argument(metavar="TOPIC...", help="Patterns; quote the * for the shell. With --mcp: NAME."),
    ] = None,
    filter: Annotated[str | None, typer.Option(metavar="JSON", help="Only events whose payload fits.")] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CURSOR",
            help="Begin after this cursor, as emit or --json shows it. Without --mcp also after an event's number, or "
            "at earliest.",
        ),
    ] = None,
    purpose: Annotated[
        str | None,
        typer.Option(metavar="PURPOSE", help="Only events about people who granted consent for this purpose."),
    ] = None,
    client_id: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Keep the subscription under this name; without it, it ends with the command."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every frame as JSON, one a line.")] = False,
    mcp: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Any MCP server with Events, and the NAME of one of its event types; CLARION_KEY, if set, is the "
            "bearer.",
        ),
    ] = None,
    arguments: Annotated[
        str | None, typer.Option(metavar="JSON", help="With --mcp: the subscription's arguments.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="MODE", callback=one_of(_MODES), help="With --mcp: poll or push.  [default: push if offered]"
        ),
    ] = None,
    data: Data = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """Subscribe, and show events as they are pushed, until Ctrl-C."""
    with _of(context):
        if mcp is not None:
            from clarion.cli.mcp_listening import listen_mcp, pick_request

            others = {"--filter": filter, "--purpose": purpose, "--client-id": client_id, "--data": data, "--url": url,
                      "--tenant": tenant}  # fmt: skip
            listen_mcp(pick_request(mcp, topic or (), arguments, mode, start, others), as_json=as_json)
            return
        if arguments is not None or mode is not None:
            raise UsageProblem("--arguments and --mode go with --mcp")
        if not topic:
            raise UsageProblem("listen needs a TOPIC, such as 'deal.*'")
        from clarion.cli.listening import Request
        from clarion.cli.listening import listen as run

        run(pick_target(data, url, tenant), Request(tuple(topic), filter, start, purpose, client_id), as_json=as_json)


@app.command(
    cls=Command,
    short_help="List the known topics, or show one with its fields.",
    epilog="\b\nExample:\n  clarion topics --category crm\n  clarion topics deal.won",
)
def topics(
    topic: Annotated[
        str | None, typer.Argument(metavar="[TOPIC]", help="A topic, or a pattern such as 'deal.*': shows its fields.")
    ] = None,
    category: Annotated[
        str | None,
        typer.Option(metavar="CATEGORY", callback=one_of(CATEGORIES), help=f"One of {', '.join(CATEGORIES)}."),
    ] = None,
    as_json: AsJson = False,
    data: Data = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """List the known topics, a line each; of one topic show what its events hold and filters to try."""
    from clarion.cli.topics import show_topics

    show_topics(call(pick_target(data, url, tenant), lambda api: api.topics(category)), topic, as_json=as_json)


@app.command(
    "import",
    cls=Command,
    short_help="Emit every line of a file of JSON lines.",
    epilog="\b\nExample:\n  clarion import events.ndjson",
)
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.ndjson|-", help="One event a line; - reads stdin.")],
    data: Data = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """Emit every line of a file: {"topic": ..., "payload": {...}, "event_id": ...}.

    Valid lines are recorded whatever becomes of the others, which are listed; lines with an event_id can be imported
    again without harm.
    """
    from clarion.cli.importing import import_file

    raise typer.Exit(import_file(pick_target(data, url, tenant), file))


@app.command(
    cls=Command,
    short_help="Show the settings of the server, and where each comes from.",
    epilog="\b\nExample:\n  CLARION_RETENTION_DAYS=30 clarion settings",
)
def settings(data: Data = None, as_json: AsJson = False) -> None:
    """Show the settings that `clarion serve` would run with, and where each comes from."""
    from clarion.cli.settings import show_settings

    show_settings(data, as_json=as_json)
