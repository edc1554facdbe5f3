"""What Prometheus is told: a registry of its own, so that an application that embeds this one keeps its own too."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_LATENCIES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384)


class Metrics:
    """Counters of one server."""

    content_type = CONTENT_TYPE_LATEST
    """Of what `text` returns."""

    def __init__(self, in_flight: Callable[[], int]) -> None:
        """Start at nothing; `in_flight` is asked whenever the metrics are."""
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "mnist_serve_requests", "Requests answered, by route and status.", ["route", "status"], registry=registry
        )
        self._answered: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._latency = Histogram(
            "mnist_serve_request_duration_seconds",
            "From a request's headers to the last byte of its answer.",
            ["route"],
            buckets=_LATENCIES,
            registry=registry,
        )
        self._batches = Histogram(
            "mnist_serve_batch_digits", "Digits of one run of the model.", buckets=_BATCHES, registry=registry
        )
        Gauge(
            "mnist_serve_requests_in_flight",
            "Requests being answered, besides GET and HEAD.",
            registry=registry,
        ).set_function(in_flight)
        self._rejected = Counter(
            "mnist_serve_requests_rejected",
            "Requests turned away before they were looked at, by reason.",
            ["reason"],
            registry=registry,
        )
        self._reloads = Counter(
            "mnist_serve_reloads", "Newly published models, swapped in or refused.", ["outcome"], registry=registry
        )
        self._model = Info("mnist_serve_model", "The model that is served.", registry=registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        known = self._answered.get((route, status))
        if known is None:
            known = self._answered[route, status] = self._requests.labels(route, status), self._latency.labels(route)
        requests, latency = known
        requests.inc()
        latency.observe(seconds)

    def ran(self, digits: int) -> None:
        """Count one run of the model."""
        self._batches.observe(digits)

    def rejected(self, reason: str) -> None:
        """Count a request that was turned away."""
        self._rejected.labels(reason).inc()

    def reloaded(self, outcome: str) -> None:
        """Count a new model: "swapped" or "refused"."""
        self._reloads.labels(outcome).inc()

    def serving(self, name: str, digests: Sequence[str]) -> None:
        """Tell which model is served from now on."""
        self._model.info({"name": name, "sha256": " ".join(digests)})

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)
