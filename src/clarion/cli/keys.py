"""`clarion keys`."""

from __future__ import annotations

from typing import Annotated

import typer

from clarion.cli.help import Command, help_unless_called, one_of
from clarion.cli.options import AsJson, Data, Tenant, Url
from clarion.cli.target import call, pick_target
from clarion.cli.terminal import note
from clarion.model import MODULES, Role

__all__ = ["keys"]

keys = typer.Typer(
    help="API keys: what agents, publishers and administrators show as their bearer.",
    short_help="Make, list and revoke API keys.",
    invoke_without_command=True,
)
keys.callback()(help_unless_called)

_EXAMPLE = """\b
Example:
  export CLARION_KEY=$(clarion keys create --role subscriber --subject claude)
  clarion listen 'deal.*' --url http://127.0.0.1:8787"""


@keys.command(cls=Command, short_help="Make a key, and print it alone on stdout.", epilog=_EXAMPLE)
def create(
    role: Annotated[
        str,
        typer.Option(
            metavar="ROLE",
            callback=one_of(Role),
            help="publisher (emits), subscriber (subscribes and reads) or admin (both).",
        ),
    ],
    subject: Annotated[
        str | None, typer.Option(metavar="WHO", help="Who holds it; keys of one subject share their subscriptions.")
    ] = None,
    module: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            callback=one_of(MODULES),
            help="Part of the API beside the role: admin opens /v1/admin; repeat.",
        ),
    ] = None,
    data: Data = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """Make a key and print it, alone, on stdout. It is stored as a hash only and cannot be shown again.

    This command line uses a key, from CLARION_KEY, with --url only: on a directory of this machine it needs none.
    """
    target = pick_target(data, url, tenant)
    made = call(target, lambda api: api.create_key(role, subject=subject, modules=module or ()))
    print(made["key"])
    whose = f"tenant {target.tenant}, " if target.address is None else ""
    note(f"{whose}subject {made['subject']}, role {made['role']}, id {made['key_id']}")
    note("keep it, it is shown only now; an MCP client sends it as")
    note("`Authorization: Bearer <key>`, and this command line, for a server that")
    note("--url names, takes it from CLARION_KEY")


@keys.command(
    "list",
    cls=Command,
    short_help="List the tenant's keys, without the keys themselves.",
    epilog="\b\nExample:\n  clarion keys list",
)
def list_(as_json: AsJson = False, data: Data = None, url: Url = None, tenant: Tenant = None) -> None:
    """List the tenant's keys by id; the keys themselves are stored nowhere."""
    from clarion.cli.listings import show_keys

    show_keys(call(pick_target(data, url, tenant), lambda api: api.keys()), as_json=as_json)


@keys.command(
    cls=Command,
    short_help="Refuse a key from now on, and end its streams.",
    epilog="\b\nExample:\n  clarion keys revoke 6TQ6rQixgVHU",
)
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id that `clarion keys list` shows.")],
    data: Data = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """Refuse a key from now on, and end the streams that it opened."""
    revoked = call(pick_target(data, url, tenant), lambda api: api.revoke_key(key_id))
    note(f"revoked {revoked['key_id']} ({revoked['subject']}, {revoked['role']})")
