"""Prometheus metrics, in a registry of their own, so that an application that embeds this one keeps its own."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_LATENCIES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384)


@dataclass
class _Answers:
    """Answers on one route."""

    statuses: dict[int, int]
    """Number of answers per status."""
    latencies: list[int]
    """Number of answers per interval between `_LATENCIES`."""
    seconds: float = 0.0
    """Sum of all latencies."""


class Metrics(Collector):
    """The metrics of one server."""

    def __init__(self, in_flight: Callable[[], int]) -> None:
        """Start at zero; `in_flight` is called for each scrape."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._answers: dict[str, _Answers] = {}
        self._registry.register(self)
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
        answers = self._answers.get(route)
        if answers is None:
            answers = self._answers[route] = _Answers({}, [0] * (len(_LATENCIES) + 1))
        answers.statuses[status] = answers.statuses.get(status, 0) + 1
        answers.latencies[bisect_left(_LATENCIES, seconds)] += 1
        answers.seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """Yield the counts of all requests; counters of prometheus-client would take five times longer to increase."""
        requests = CounterMetricFamily(
            "mnist_serve_requests", "Requests answered, by route and status.", labels=["route", "status"]
        )
        durations = HistogramMetricFamily(
            "mnist_serve_request_duration_seconds",
            "Seconds from a request's headers to the last byte of its response.",
            labels=["route"],
        )
        bounds = [*map(str, _LATENCIES), "+Inf"]
        for route, answers in self._answers.items():
            for status, count in answers.statuses.items():
                requests.add_metric([route, str(status)], count)
            buckets = list(zip(bounds, accumulate(answers.latencies), strict=True))
            durations.add_metric([route], buckets, answers.seconds)
        yield from (requests, durations)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"mnist_serve_{name}", documentation, labels, registry=self._registry)
