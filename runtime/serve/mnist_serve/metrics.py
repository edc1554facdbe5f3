"""Prometheus metrics, in a registry of their own, so that an application that embeds this one keeps its own."""

from collections.abc import Callable
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

_LATENCIES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384)


class Metrics:
    """The metrics of one server."""

    def __init__(self, in_flight: Callable[[], int]) -> None:
        """Start at zero; `in_flight` is called for each scrape."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        ours: dict[str, Any] = {"namespace": "mnist_serve", "registry": self._registry}
        requests = Counter("requests", "Requests answered, by route and status.", ["route", "status"], **ours)
        durations = Histogram(
            "request_duration_seconds",
            "Seconds from a request's headers to the last byte of its response.",
            ["route"],
            buckets=_LATENCIES,
            **ours,
        )
        self._requests = cache(requests.labels)  # a lookup by labels takes longer than counting
        self._durations = cache(durations.labels)
        Gauge("requests_in_flight", "Requests being answered, except GET and HEAD.", **ours).set_function(in_flight)
        self.batch_digits = Histogram("batch_digits", "Digits per run of the model.", buckets=_BATCHES, **ours)
        self.rejected = Counter("requests_rejected", "Requests refused unread, by reason.", ["reason"], **ours)
        self.reloads = Counter("reloads", "Newly published models, swapped in or refused.", ["outcome"], **ours)
        self.dropped = Counter("log_lines_dropped", "Log lines dropped because standard error stalled.", **ours)
        self.model = Info("model", "The model that is served.", **ours)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests(route, status).inc()
        self._durations(route).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)
