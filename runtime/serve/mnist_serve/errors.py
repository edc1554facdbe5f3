"""Errors of the server, with one root."""

from collections.abc import Mapping

from mnist_runtime.errors import ArtifactError, MnistRuntimeError


class ServeError(MnistRuntimeError):
    """Root of every error that `mnist_serve` raises on purpose. Its text is one sentence for a person."""


class ListenError(ServeError, OSError):
    """The server cannot listen at the given address."""


class UnprovenModelError(ServeError, ArtifactError):
    """The model computes something else on this machine than was trained."""


class SlowReaderError(ServeError, TimeoutError):
    """The client takes too long to read its response."""


class RequestError(ServeError, ValueError):
    """A request that is refused, with the HTTP status and headers of the response."""

    def __init__(
        self, message: str, status: int = 400, *, reason: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Refuse a request; `reason`, if given, labels the metric of requests refused unread."""
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.headers = headers
