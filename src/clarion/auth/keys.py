"""API keys: `clarion_<keyid>_<secret><checksum>`, found by keyid, stored as SHA-256.

The checksum lets a mistyped key, or a leaked string, be told from a key without asking the store.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from collections.abc import Callable, Collection, Iterable

from clarion.clock import Clock
from clarion.completion import complete
from clarion.errors import Forbidden, InvalidInput, NotFound, Unauthenticated
from clarion.ids import Randomness
from clarion.model import MODULES, ApiKey, Role
from clarion.stores.protocols import Keys

__all__ = ["Authenticator", "KeyService", "check_tenant", "mint", "parse", "require"]

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY_ID_LENGTH = 12
_SECRET_LENGTH = 32
_CHECKSUM_LENGTH = 6
_KEY = re.compile(
    rf"clarion_(?P<id>[0-9A-Za-z]{{{_KEY_ID_LENGTH}}})_"
    rf"(?P<secret>[0-9A-Za-z]{{{_SECRET_LENGTH}}})(?P<checksum>[0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})\Z"
)
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")

LOCAL_SUBJECT = "operator"
"""The subject of whoever may read the data directory."""

MAX_CACHED_KEYS = 10_000
"""Keys kept in memory. Revocation goes through this process, which forgets the key at once."""


def check_tenant(tenant: str) -> str:
    """A tenant's name: 1 to 63 lower-case letters, digits, `-` and `_`. Raises InvalidInput."""
    if not _TENANT.match(tenant):
        raise InvalidInput(
            f"{tenant!r} is no tenant name: 1 to 63 lower-case letters, digits, '-' or '_', beginning with a letter "
            "or digit",
            field="tenant",
            rule="pattern",
        )
    return tenant


def _text(randomness: Randomness, length: int) -> str:
    """`length` characters, uniform over the alphabet (bytes beyond its largest multiple are drawn again)."""
    fair = 256 - 256 % len(_ALPHABET)
    drawn: list[str] = []
    while len(drawn) < length:
        drawn.extend(_ALPHABET[byte % len(_ALPHABET)] for byte in randomness(length) if byte < fair)
    return "".join(drawn[:length])


def _checksum(body: str) -> str:
    value, text = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, len(_ALPHABET))
        text = _ALPHABET[digit] + text
    return text


def _sha256(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def mint(
    tenant: str, subject: str | None, role: Role, modules: Iterable[str], *, at: int, randomness: Randomness
) -> tuple[str, ApiKey]:
    """A new key, and what is stored of it. Without a subject it is a principal of its own, named by its id."""
    body = f"clarion_{_text(randomness, _KEY_ID_LENGTH)}_{_text(randomness, _SECRET_LENGTH)}"
    key = body + _checksum(body)
    key_id = body.split("_")[1]
    return key, ApiKey(key_id, tenant, subject or key_id, role, tuple(modules), _sha256(key), at)


def parse(key: str) -> str | None:
    """The keyid of something that looks like a key, its checksum included; else None."""
    found = _KEY.match(key)
    if found is None or _checksum(key[:-_CHECKSUM_LENGTH]) != found["checksum"]:
        return None
    return found["id"]


class Authenticator:
    """From a bearer token to an API key that is valid now."""

    def __init__(self, keys: Keys, operator_of: Callable[[str], str | None] | None = None) -> None:
        """`operator_of(token)`: the tenant whose operator a local bearer is (see `clarion.local`), or None."""
        self._keys = keys
        self._operator_of = operator_of
        self._cache: dict[str, ApiKey] = {}
        self._changes = 0

    async def authenticate(self, token: str) -> ApiKey:
        """Raises Unauthenticated, alike for what is malformed, unknown and revoked; StoreUnavailable."""
        key_id = parse(token)
        if key_id is None:
            tenant = self._operator_of(token) if self._operator_of else None
            if tenant is None or not _TENANT.match(tenant):
                raise Unauthenticated()
            return ApiKey("local", tenant, LOCAL_SUBJECT, Role.ADMIN, MODULES, b"", 0)
        key = self._cache.get(key_id) or await self._find(key_id)
        if key.revoked_at is not None or not hmac.compare_digest(_sha256(token), key.sha256):
            raise Unauthenticated()
        return key

    async def _find(self, key_id: str) -> ApiKey:
        while True:
            changes = self._changes
            key = await self._keys.find(key_id)
            if changes == self._changes:  # else a key was revoked while this was read: it may be old
                break
        if key is None:
            raise Unauthenticated()
        if len(self._cache) >= MAX_CACHED_KEYS:
            self._cache.clear()
        self._cache[key_id] = key
        return key

    def forget(self, key_id: str) -> None:
        """The key changed in the store."""
        self._changes += 1
        self._cache.pop(key_id, None)


class KeyService:
    """A tenant's keys."""

    def __init__(
        self,
        keys: Keys,
        authenticator: Authenticator,
        clock: Clock,
        randomness: Randomness,
        end_streams: Callable[[str], object] = lambda _key_id: None,
    ) -> None:
        """`end_streams(key_id)` closes the streams that were opened with a key which was revoked."""
        self._keys = keys
        self._authenticator = authenticator
        self._clock = clock
        self._randomness = randomness
        self._end_streams = end_streams

    async def create(
        self,
        tenant: str,
        role: str,
        *,
        subject: str | None = None,
        modules: Iterable[str] = (),
        grantable: Collection[str] = (),
    ) -> tuple[str, ApiKey]:
        """A new key, which is shown this once, and its record. Keys of one subject share its subscriptions; without
        a subject the key is a principal of its own.

        `grantable`: the modules of whoever asks, who can grant no others. Raises InvalidInput, Forbidden.
        """
        check_tenant(tenant)
        try:
            known = Role(role)
        except ValueError:
            raise InvalidInput(f"role must be one of {', '.join(Role)}", field="role", rule="enum") from None
        given = list(modules)
        if any(module not in MODULES for module in given):
            raise InvalidInput(f"module must be one of {', '.join(MODULES)}", field="modules", rule="enum")
        wanted = tuple(dict.fromkeys(given))
        if wanted and known is not Role.ADMIN:
            raise InvalidInput("modules go with the role admin", field="modules", rule="role")
        for module in wanted:
            if module not in grantable:
                raise Forbidden(f"a key can grant only modules that it has itself, and this one has not {module}")
        if subject is not None and (not subject or len(subject) > 256 or not subject.isprintable()):
            raise InvalidInput("subject must be 1 to 256 printable characters", field="subject", rule="printable")
        key, record = mint(tenant, subject, known, wanted, at=self._clock.now(), randomness=self._randomness)
        await self._keys.add(record)
        return key, record

    async def of_tenant(self, tenant: str) -> list[ApiKey]:
        return await self._keys.of_tenant(tenant)

    async def revoke(self, tenant: str, key_id: str) -> ApiKey:
        """The key is refused and its streams have ended when this returns. Raises NotFound."""
        return await complete(self._revoke(tenant, key_id))

    async def _revoke(self, tenant: str, key_id: str) -> ApiKey:
        try:
            revoked = await self._keys.revoke(tenant, key_id, self._clock.now())
        finally:  # also after an error: a commit may have happened whose success could not be told
            self._authenticator.forget(key_id)
        if revoked is None:
            raise NotFound(f"no key {key_id!r}; `clarion keys list` shows this tenant's")
        self._end_streams(key_id)
        return revoked


def require(key: ApiKey, *roles: Role) -> None:
    """Raises Forbidden unless the key has one of `roles`; an admin has all."""
    if key.role is not Role.ADMIN and key.role not in roles:
        wanted = " or ".join(dict.fromkeys([*roles, Role.ADMIN]))
        raise Forbidden(f"this needs a key with the role {wanted}; this key's role is {key.role}")
