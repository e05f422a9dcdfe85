"""Who calls a library's server, as far as the SDK knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mcp.server.auth.middleware.auth_context import get_access_token

from clarion.errors import ClarionError, Forbidden, InvalidInput
from clarion.events.functions import qualified_name
from clarion.hub.services import check_name
from clarion.logs import get_logger, origin
from clarion.model import Principal
from clarion.wires.mcp_events.protocol import Caller
from clarion.wires.mcp_events.sdk import Context

__all__ = ["ANONYMOUS", "LOCAL", "Identity", "TenantOf", "identify"]

LOCAL = "local"
"""The principal on stdio: whoever started the server."""

ANONYMOUS = "anonymous"
"""The principal of everyone on HTTP where the server asks nobody who they are."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller: `subject` is the token's, or its client's where it names nobody; None without a token."""

    subject: str | None
    client_id: str | None = None
    scopes: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict)


TenantOf: TypeAlias = Callable[[Identity], str]
"""The tenant of a caller, 1 to 256 printable characters. Raises Forbidden for one that has none; whatever else it
raises or answers means that as well."""

logger = get_logger("clarion.events")


def identify(ctx: Context, tenant: str | TenantOf) -> Caller:
    """The caller of a request. Raises Forbidden when `tenant` knows no tenant for it."""
    token = get_access_token()
    if token is None:
        identity = Identity(None)
    else:
        identity = Identity(
            token.subject or token.client_id, token.client_id, tuple(token.scopes), dict(token.claims or {})
        )
    name = tenant if isinstance(tenant, str) else _tenant_of(identity, tenant)
    subject = identity.subject or (LOCAL if ctx.request is None else ANONYMOUS)
    return Caller(
        principal=Principal(name, subject),
        client_id=identity.client_id or "mcp",
        credential=subject,
        authenticated=identity.subject is not None or ctx.request is None,
        claims=identity.claims,
    )


def _tenant_of(identity: Identity, tenant: TenantOf) -> str:
    """What the author's function says. Raises Forbidden, also when it cannot tell, such as of a token without the
    claim it looks for."""
    try:
        name = tenant(identity)
    except ClarionError:
        raise
    except Exception as error:
        logger.warning("tenant_unknown", error=type(error).__name__, at=origin(error))
        raise _unknown() from None
    try:
        return check_name(name, "tenant")
    except InvalidInput as error:
        if name:
            logger.warning("tenant_unknown", reason=error.message, function=qualified_name(tenant))
        raise _unknown() from None


def _unknown() -> Forbidden:
    return Forbidden("no tenant is known for you here")
