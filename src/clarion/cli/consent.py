"""`clarion consent`."""

from __future__ import annotations

from typing import Annotated

import typer

from clarion.cli.help import Command, help_unless_called, one_of
from clarion.cli.options import AsJson, Data, Tenant, Url
from clarion.cli.target import call, pick_target
from clarion.cli.terminal import note
from clarion.model import ConsentState

__all__ = ["consent"]

consent = typer.Typer(
    help="Consent of the people whose data events hold.",
    short_help="Record, show and check people's consent.",
    invoke_without_command=True,
)
consent.callback()(help_unless_called)

_Subject = Annotated[str, typer.Argument(metavar="SUBJECT", help="The person, as events name them in `subjects`.")]


@consent.command(
    "set",
    cls=Command,
    short_help="Record a grant, a withdrawal or a suppression.",
    epilog="\b\nExample:\n  clarion consent set ada@example.com withdrawn --purpose marketing",
)
def set_(
    subject: _Subject,
    state: Annotated[
        str,
        typer.Argument(
            metavar="STATE",
            callback=one_of(ConsentState),
            help="granted, withdrawn, pending, suppressed or released.",
        ),
    ],
    purpose: Annotated[
        str | None, typer.Option(metavar="PURPOSE", help="Such as marketing; without it, every purpose.")
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Why; of a suppression: bounce, complaint, stop, admin or legal."),
    ] = None,
    actor: Annotated[str | None, typer.Option(metavar="WHO", help="Who recorded it.")] = None,
    proof: Annotated[str | None, typer.Option(metavar="TEXT", help="Where the proof is.")] = None,
    expires_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="ISO 8601 time until which a grant holds.")
    ] = None,
    data: Data = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """Append a line to the ledger. When this returns, nothing is pushed against it any more."""
    given = {
        "subject": subject,
        "state": state,
        "purpose": purpose,
        "reason": reason,
        "actor": actor,
        "proof": proof,
        "expires_at": expires_at,
    }
    entry = call(pick_target(data, url, tenant), lambda api: api.record_consent(given))
    scope = f"for {entry['purpose']}" if entry["purpose"] else "for every purpose"
    note(f"{entry['subject']}: {entry['state']} {scope}, ledger line {entry['seq']}")


@consent.command(
    cls=Command,
    short_help="Show a person's lines of the ledger.",
    epilog="\b\nExample:\n  clarion consent show ada@example.com",
)
def show(subject: _Subject, as_json: AsJson = False, data: Data = None, url: Url = None, tenant: Tenant = None) -> None:
    """Show a person's lines of the ledger, newest first."""
    from clarion.cli.listings import show_consent

    show_consent(subject, call(pick_target(data, url, tenant), lambda api: api.consent_history(subject)),
                 as_json=as_json)  # fmt: skip


@consent.command(
    cls=Command,
    short_help="Ask whether a person's data may be used.",
    epilog="\b\nExample:\n  clarion consent check ada@example.com --purpose marketing && echo yes",
)
def check(
    subject: _Subject,
    purpose: Annotated[
        str | None, typer.Option(metavar="PURPOSE", help="What for; without it, any use that needs no grant.")
    ] = None,
    as_json: AsJson = False,
    data: Data = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """Ask whether a person's data may be used: exit code 0 when it may, 1 when not."""
    from clarion.cli.listings import show_decision

    decision = call(pick_target(data, url, tenant), lambda api: api.check_consent(subject, purpose))
    show_decision(decision, as_json=as_json)
    raise typer.Exit(0 if decision["allowed"] else 1)
