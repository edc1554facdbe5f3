"""Prometheus metrics, in a registry of their own, so that an application that embeds this one keeps its own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

_LATENCIES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384)


class Metrics:
    """The metrics of one server."""

    def __init__(self, in_flight: Callable[[], int]) -> None:
        """Start at zero; `in_flight` is called for each scrape."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = self._counter("requests", "Requests answered, by route and status.", "route", "status")
        self._latency = Histogram(
            "mnist_serve_request_duration_seconds",
            "Seconds from a request's headers to the last byte of its response.",
            ["route"],
            buckets=_LATENCIES,
            registry=self._registry,
        )
        self._answered: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self.batch_digits = Histogram(
            "mnist_serve_batch_digits", "Digits per run of the model.", buckets=_BATCHES, registry=self._registry
        )
        pending = Gauge(
            "mnist_serve_requests_in_flight", "Requests being answered, except GET and HEAD.", registry=self._registry
        )
        pending.set_function(in_flight)
        self.rejected = self._counter("requests_rejected", "Requests refused unread, by reason.", "reason")
        self.reloads = self._counter("reloads", "Newly published models, swapped in or refused.", "outcome")
        self.dropped = self._counter("log_lines_dropped", "Log lines dropped because standard error stalled.")
        self.model = Info("mnist_serve_model", "The model that is served.", registry=self._registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        known = self._answered.get((route, status))
        if known is None:  # labels() takes longer than a lookup
            known = self._answered[route, status] = self._requests.labels(route, status), self._latency.labels(route)
        requests, latency = known
        requests.inc()
        latency.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"mnist_serve_{name}", documentation, labels, registry=self._registry)
