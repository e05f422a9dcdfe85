"""One process owns a data directory, and tells the commands of the same user how to reach it.

The owner holds a lock and leaves `endpoint.json` (mode 0600) with its URL and a secret of this run. Who can read the
file is the operator: a bearer made from the secret and a tenant's name is an admin of that tenant, so the tenant still
comes from the credential alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from clarion.errors import DataDirectoryOwned, InvalidInput

__all__ = ["LOCAL_PREFIX", "DataDirectory", "LocalEndpoint", "local_bearer", "local_tenant"]

LOCAL_PREFIX = "clarion-local"


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """Where the owner of a data directory answers, and the secret that makes its operator's bearers."""

    url: str
    secret: str


def local_bearer(secret: str, tenant: str) -> str:
    """The operator's bearer for one tenant."""
    proof = hmac.new(secret.encode(), tenant.encode(), hashlib.sha256).hexdigest()
    return f"{LOCAL_PREFIX}.{tenant}.{proof}"


def local_tenant(secret: str, bearer: str) -> str | None:
    """The tenant that an operator's bearer names; None when it is none of this secret's."""
    prefix, _, rest = bearer.partition(".")
    tenant, _, _ = rest.partition(".")
    if prefix != LOCAL_PREFIX or not hmac.compare_digest(local_bearer(secret, tenant).encode(), bearer.encode()):
        return None
    return tenant


class DataDirectory:
    """The directory with the databases, the lock and the owner's endpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._endpoint = path / "endpoint.json"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Own the directory, which is created (mode 0700) when missing, until the block ends.

        Raises DataDirectoryOwned while another process does, InvalidInput when it cannot be used.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = FileLock(self.path / "lock", mode=0o600)
            lock.acquire(timeout=0)
        except Timeout:
            raise DataDirectoryOwned(
                f"another process owns {self.path}; stop it, or use another directory with --data"
            ) from None
        except OSError as error:
            raise InvalidInput(
                f"the data directory {self.path} cannot be used: {error.strerror}", field="data", rule="writable"
            ) from None
        self._endpoint.unlink(missing_ok=True)  # of an owner that was killed
        try:
            yield
        finally:
            self._endpoint.unlink(missing_ok=True)
            lock.release()

    def announce(self, url: str) -> LocalEndpoint:
        """Leave word of where the owner answers; answers it with its new secret."""
        endpoint = LocalEndpoint(url, secrets.token_urlsafe(32))
        draft = self._endpoint.with_suffix(".new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"url": endpoint.url, "secret": endpoint.secret}, file)
        draft.replace(self._endpoint)
        return endpoint

    def endpoint(self) -> LocalEndpoint | None:
        """What the owner left; None when there is none, or its owner is gone without having cleaned up."""
        try:
            found = json.loads(self._endpoint.read_text())
            left = LocalEndpoint(str(found["url"]), str(found["secret"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        try:
            with self.owned():
                return None
        except DataDirectoryOwned:
            return left
