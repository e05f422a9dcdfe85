"""The port that each kind of inbound webhook implements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from clarion.sources.inbound.message import InboundMessage

__all__ = ["Headers", "Provider"]

Headers: TypeAlias = Mapping[str, str]
"""Request headers under lower-case names."""


class Provider(Protocol):
    """One way to sign a webhook and to lay out its body."""

    def verify(self, headers: Headers, body: bytes, now: int) -> None:
        """Raises Unauthenticated, always with the same message, unless `body` is signed with one of the secrets.

        `now` is in microseconds, for schemes that sign a time. Nothing of the body is parsed.
        """
        ...

    def describe(self, headers: Headers, body: bytes) -> InboundMessage:
        """What a verified delivery says.

        Raises MalformedJSON, InvalidTopic, or InvalidEvent naming the header or the place in the body.
        """
        ...
