"""Requests that get no answer but a sentence: what came, what was wanted, what to do, and the status of HTTP for it."""

from collections.abc import Mapping
from typing import ClassVar

from mnist_runtime.errors import MnistRuntimeError


class RequestError(MnistRuntimeError, ValueError):
    """What the client sent makes no sense; the server is fine."""

    status = 400
    """Of the response."""
    headers: ClassVar[Mapping[str, str]] = {}
    """Of the response, besides those that every one has."""
    reason: str | None = None
    """For the count of requests that were turned away unread; None for those that were read."""


class NotServedError(RequestError):
    """There is no model or version of that name."""

    status = 404


class BodyTooLargeError(RequestError):
    """The body is larger than `max_body`, as it came or unpacked."""

    status = 413
    reason = "too large"


class EncodingError(RequestError):
    """The body is packed in a way that is not read here."""

    status = 415
    reason = "encoding"
    headers: ClassVar = {"accept-encoding": "gzip, deflate"}


class BusyError(RequestError):
    """As many requests are being answered as may be."""

    status = 503
    reason = "busy"
    headers: ClassVar = {"retry-after": "1"}


class StoppingError(RequestError):
    """The server is on its way out, and answers only what it had accepted before."""

    status = 503
    reason = "stopping"
    headers: ClassVar = {"retry-after": "1"}
