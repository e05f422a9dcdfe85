"""Cursors of the Events wire: opaque to clients, bound to tenant, event type and epoch (SEP-3415, "Cursor Lifecycle").

A cursor is checked and never believed: one of another type, tenant or epoch, or one that somebody made up, reads as
None, which the wire answers with `truncated` and a fresh cursor. It is no capability either; what it could reach, its
caller may have anyway.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from hashlib import blake2b

from clarion.errors import InvalidInput
from clarion.model import Bounds, Position, Truncation

__all__ = ["MAX_CURSOR_LENGTH", "MAX_UPSTREAM_CURSOR_LENGTH", "Cursors"]

MAX_CURSOR_LENGTH = 4096
"""Characters of a cursor that is looked at. Stops a request from carrying megabytes to be hashed."""

MAX_UPSTREAM_CURSOR_LENGTH = 2048
"""Characters of an upstream's own cursor, so that with everything around it it stays below the limit."""

UPSTREAM_EPOCH = "upstream"
"""Stands where the log's epoch stands, in the cursors of upstreams."""

_LOG = re.compile(r"(?P<epoch>[0-9a-f]{8})\.(?P<seq>[0-9]{1,18})\.(?P<proof>[0-9a-f]{16})\Z", re.ASCII)
_UPSTREAM = re.compile(r"u(?P<text>[A-Za-z0-9_-]*)\.(?P<proof>[0-9a-f]{16})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursors:
    """Writes and reads the cursors of one event type of one tenant, in one epoch of its log."""

    epoch: str
    tenant: str
    name: str

    def of(self, position: Position) -> str:
        """The cursor of a position in the log."""
        mark = self._mark(position.epoch)
        return f"{mark}.{position.seq}.{self._proof(position.epoch, str(position.seq))}"

    def resolve(self, cursor: str, bounds: Bounds) -> tuple[int, Truncation | None]:
        """The seq to read after, and why that is not what `cursor` says, if it is not.

        One of an earlier epoch goes on where this epoch began, as far as that is retained; anything else that is no
        cursor of this type goes on at the head.
        """
        found = _LOG.match(cursor) if len(cursor) <= MAX_CURSOR_LENGTH else None
        if found is None:
            return bounds.head, Truncation.AHEAD
        if found["epoch"] != self._mark(bounds.epoch):
            return max(bounds.start, bounds.floor), Truncation.EPOCH
        if found["proof"] != self._proof(bounds.epoch, found["seq"]):
            return bounds.head, Truncation.AHEAD
        seq = int(found["seq"])
        if seq > bounds.head:
            return bounds.head, Truncation.AHEAD
        return max(seq, bounds.floor), Truncation.RETENTION if seq < bounds.floor else None

    def wrap(self, upstream: str) -> str:
        """The cursor around an upstream's own, which outlives this log: a source that keeps its own history can be
        polled on after a restart of a server that keeps none. Raises InvalidInput when that is too long to carry."""
        if len(upstream) > MAX_UPSTREAM_CURSOR_LENGTH:
            raise InvalidInput(
                f"the upstream's cursor has {len(upstream)} characters; at most {MAX_UPSTREAM_CURSOR_LENGTH} are "
                "carried. Keep the long one and hand out a key to it",
                field="cursor",
                rule="length",
            )
        text = urlsafe_b64encode(upstream.encode()).decode().rstrip("=")
        return f"u{text}.{self._proof(UPSTREAM_EPOCH, text)}"

    def unwrap(self, cursor: str) -> str | None:
        """The upstream's own cursor; None for anything that `wrap` has not given for this type and tenant."""
        found = _UPSTREAM.match(cursor) if len(cursor) <= MAX_CURSOR_LENGTH else None
        if found is None or found["proof"] != self._proof(UPSTREAM_EPOCH, found["text"]):
            return None
        text = found["text"]
        try:
            return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        except (Base64Error, UnicodeDecodeError):
            return None

    @staticmethod
    def _mark(epoch: str) -> str:
        """Tells epochs apart without naming them."""
        return blake2b(epoch.encode(), digest_size=4, person=b"clarion-epoch").hexdigest()

    def _proof(self, epoch: str, content: str) -> str:
        """What only this epoch, tenant and type give."""
        subject = "\0".join((self.tenant, self.name, content)).encode()
        return blake2b(subject, digest_size=8, key=epoch.encode(), person=b"clarion-cursor").hexdigest()
