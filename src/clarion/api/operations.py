"""`/healthz` (the process runs), `/readyz` (it can take and deliver events) and `/metrics` (Prometheus)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from clarion.api.http import error_response, json_response
from clarion.api.inbound import InboundEndpoint
from clarion.errors import Forbidden, StoreUnavailable
from clarion.hub.hub import BACKGROUND, Hub
from clarion.hub.shared import Phase

__all__ = ["OperationsEndpoints"]


class _HubCollector(Collector):
    """The hub's counts at the moment of the scrape: nothing is counted twice on the hot path."""

    def __init__(self, hub: Hub, inbound: InboundEndpoint) -> None:
        self._hub = hub
        self._inbound = inbound

    def collect(self) -> Iterator[Metric]:
        totals = self._hub.totals
        yield _counter("clarion_events_dispatched", "Events read from the log and matched", totals.events)
        yield _counter("clarion_deliveries", "Events handed to transports, per subscription", totals.delivered)
        yield _counter("clarion_deliveries_dropped", "Events that did not fit a slow stream's ring", totals.dropped)
        yield _counter("clarion_deliveries_refused", "Events that the gate refused", totals.refused)
        streams = GaugeMetricFamily("clarion_streams", "Open streams by phase", labels=["phase"])
        counts = dict.fromkeys(Phase, 0)
        waiting = 0
        for connection in self._hub.connections():
            counts[connection.phase] += 1
            waiting += connection.waiting
        for phase in (Phase.REPLAY, Phase.LIVE, Phase.LAGGING):
            streams.add_metric([phase.value], counts[phase])
        yield streams
        refused = CounterMetricFamily(
            "clarion_inbound_refused", "Inbound webhooks that were refused", labels=["source", "reason"]
        )
        for (source, reason), count in self._inbound.refused.items():
            refused.add_metric([source, reason], count)
        yield refused
        faults = GaugeMetricFamily(
            "clarion_background_failed", "1 for background work that has failed since the start", labels=["work"]
        )
        for work in BACKGROUND:
            faults.add_metric([work], int(work in self._hub.faults))
        yield faults
        yield _gauge("clarion_ring_events", "Events waiting in rings", waiting)
        yield _gauge("clarion_ring_bytes", "Bytes of distinct events that rings hold", self._hub.ring_bytes)
        yield _gauge("clarion_dispatch_failing", "1 while the store keeps events from being dispatched",
                     int(self._hub.failing is not None))  # fmt: skip


def _counter(name: str, text: str, value: float) -> Metric:
    family = CounterMetricFamily(name, text)
    family.add_metric([], value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _is_local(request: Request) -> bool:
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False


class OperationsEndpoints:
    def __init__(self, hub: Hub, inbound: InboundEndpoint, *, metrics_public: bool) -> None:
        self._hub = hub
        self._public = metrics_public
        self._registry = CollectorRegistry()
        self._registry.register(_HubCollector(hub, inbound))

    async def healthz(self, _request: Request) -> Response:
        return json_response({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        try:
            await self._hub.bounds("readyz")
        except StoreUnavailable as error:
            return json_response({"status": "unavailable", "reason": error.message}, 503)
        if self._hub.failing is not None:
            return json_response({"status": "unavailable", "reason": self._hub.failing}, 503)
        return json_response({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """Volumes of all tenants together, so only for the machine itself, unless the settings say otherwise."""
        if not self._public and not _is_local(request):
            return error_response(Forbidden("metrics are for this machine; an operator can set metrics_public"))
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
