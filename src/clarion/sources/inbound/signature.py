"""Keyed hashes over raw bodies, compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable

from clarion.errors import Unauthenticated

__all__ = ["bad_signature", "from_base64", "from_hex", "require_signature"]


def bad_signature() -> Unauthenticated:
    """The one answer to every delivery that is not verified: it tells a forger nothing about why."""
    return Unauthenticated("the webhook's signature is not valid")


def require_signature(secrets: Iterable[bytes], digest: str, signed: bytes, candidates: Iterable[bytes | None]) -> None:
    """Raises Unauthenticated unless a candidate is the HMAC of `signed` under one of `secrets`."""
    given = [candidate for candidate in candidates if candidate]
    valid = False
    for secret in secrets:
        expected = hmac.digest(secret, signed, digest)
        for candidate in given:
            valid |= hmac.compare_digest(expected, candidate)
    if not valid:
        raise bad_signature()


def from_hex(text: str) -> bytes | None:
    """The bytes in hexadecimal `text`, in either case; None when it is not that."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def from_base64(text: str) -> bytes | None:
    """The bytes in base64 `text`, of the standard alphabet and padded; None when it is not that."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
