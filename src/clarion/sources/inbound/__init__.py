"""Inbound webhooks: another service's signed delivery becomes one event.

The raw body is verified before anything in it is parsed. One module a provider; `source` ties a provider to its
tenant and its template. Nothing here emits: `InboundSource.receive` answers what to emit.
"""

from clarion.sources.inbound.message import InboundMessage
from clarion.sources.inbound.protocol import Headers, Provider
from clarion.sources.inbound.signature import bad_signature
from clarion.sources.inbound.source import (
    InboundConfiguration,
    InboundEvent,
    InboundSource,
    build_provider,
    build_source,
    read_configuration,
    read_sources,
)

__all__ = [
    "Headers",
    "InboundConfiguration",
    "InboundEvent",
    "InboundMessage",
    "InboundSource",
    "Provider",
    "bad_signature",
    "build_provider",
    "build_source",
    "read_configuration",
    "read_sources",
]
