"""`clarion keys`."""

from __future__ import annotations

from typing import Annotated

import typer

from clarion.cli.options import AsJson, Data, Tenant, Url
from clarion.cli.target import call, pick_target
from clarion.cli.terminal import note

__all__ = ["keys"]

keys = typer.Typer(help="API keys: what agents, publishers and administrators show as their bearer.",
                   no_args_is_help=True)  # fmt: skip


@keys.command(epilog="\b\nExample:\n  export CLARION_KEY=$(clarion keys create --role subscriber --subject claude)")
def create(
    role: Annotated[str, typer.Option(help="publisher (emits), subscriber (subscribes and reads) or admin (both).")],
    subject: Annotated[
        str | None, typer.Option(help="Who holds it; keys of one subject share their subscriptions.")
    ] = None,
    module: Annotated[
        list[str] | None, typer.Option(help="Part of the API beside the role: admin opens /v1/admin; repeat.")
    ] = None,
    data: Data = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """Make a key and print it, alone, on stdout. It is stored as a hash only and cannot be shown again."""
    target = pick_target(data, url, tenant)
    made = call(target, lambda api: api.create_key(role, subject=subject, modules=module or ()))
    print(made["key"])
    whose = f"tenant {target.tenant}, " if target.address is None else ""
    note(f"{whose}subject {made['subject']}, role {made['role']}, id {made['key_id']}; keep it, it is shown only now")
    note("an MCP client sends it as `Authorization: Bearer <key>`; this command line reads it from CLARION_KEY")


@keys.command("list", epilog="\b\nExample:\n  clarion keys list")
def list_(as_json: AsJson = False, data: Data = None, url: Url = None, tenant: Tenant = None) -> None:
    """List the tenant's keys by id; the keys themselves are stored nowhere."""
    from clarion.cli.listings import show_keys

    show_keys(call(pick_target(data, url, tenant), lambda api: api.keys()), as_json=as_json)


@keys.command(epilog="\b\nExample:\n  clarion keys revoke 6TQ6rQixgVHU")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id that `clarion keys list` shows.")],
    data: Data = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """Refuse a key from now on, and end the streams that it opened."""
    revoked = call(pick_target(data, url, tenant), lambda api: api.revoke_key(key_id))
    note(f"revoked {revoked['key_id']} ({revoked['subject']}, {revoked['role']})")
