"""What makes two subscriptions the same one."""

from __future__ import annotations

from clarion.encoding import digest
from clarion.model import Subscription

__all__ = ["identity_of"]


def identity_of(wanted: Subscription) -> bytes:
    """16 bytes over tenant, subject, client, the set of topics and the filter, whatever order they were given in."""
    topics = sorted(set(wanted.topics))
    return digest([wanted.tenant, wanted.subject, wanted.client_id, topics, dict(wanted.filter)])
