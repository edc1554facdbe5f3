"""Everything around a request: admission, limits, compression, errors, metrics and the log."""

import asyncio
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mnist_serve.bodies import Body
from mnist_serve.deadline import finish_in
from mnist_serve.errors import RequestError, SlowReaderError
from mnist_serve.log import log_request
from mnist_serve.metrics import Metrics

_DISCONNECTED = 499
"""Status in log and metrics for a client that left before its response began, as in nginx; nobody receives it."""

_READ_ONLY = frozenset(["GET", "HEAD", "OPTIONS"])
"""Methods that cost next to nothing, probes among them: never refused."""

_PIECE = 2**16
"""Bytes of a response that a client must read within the timeout."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one client may cost."""

    max_body: int = 2**24
    """Largest request body in bytes, compressed or not: 16 MiB."""
    max_concurrency: int = 256
    """Largest number of requests answered at the same time; more get 503. GET, HEAD and OPTIONS do not count."""
    timeout: float = 20.0
    """Seconds that a client may take to send a body, or to read 64 KiB of the response."""


class Gate:
    """The requests that are being answered, and whether more may enter."""

    def __init__(self, max_concurrency: int) -> None:
        self._max_concurrency = max_concurrency
        self._bodies: dict[Body, None] = {}
        """Body of each request that is being answered, the oldest first."""
        self.is_stopping = False

    @property
    def in_flight(self) -> int:
        """Number of requests that are being answered."""
        return len(self._bodies)

    def enter(self, body: Body) -> None:
        """Admit a request; at the limit, the oldest request whose body is still on its way makes room.

        Raises:
            RequestError: the server is stopping, or at its limit.
        """
        if self.is_stopping:
            raise _unavailable("the server is stopping; send this request to another server", "stopping")
        if len(self._bodies) >= self._max_concurrency:
            limit = f"the server is at its limit of {self._max_concurrency:,} concurrent requests"
            awaited = next((each for each in self._bodies if each.is_awaited), None)
            if not awaited:
                raise _unavailable(f"{limit}; try again", "busy")
            self.leave(awaited)
            awaited.give_up(_unavailable(f"{limit}, and this body was still on its way; try again", "busy"))
        self._bodies[body] = None

    def leave(self, body: Body) -> None:
        """End a request, unless it has made room for another."""
        self._bodies.pop(body, None)


class Application:
    """An ASGI application with every request limited, timed, counted and logged."""

    def __init__(self, app: ASGIApp, routes: Sequence[Route], limits: Limits, gate: Gate, metrics: Metrics) -> None:
        """Wrap `app`, which has these `routes`."""
        self.routes = list(routes)
        self.gate = gate
        self.metrics = metrics
        self._limits = limits
        self._app = app
        self._compressed = GZipMiddleware(app, minimum_size=1024, compresslevel=1)
        self._labels: dict[Any, str] = {route.endpoint: route.path for route in reversed(self.routes)}
        """Label of the metrics per endpoint: the path of its first route."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            await self._answer(None, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def refusal(self, error: RequestError) -> ASGIApp:
        """Return an ASGI application that answers with `error`, in place of a request that cannot be parsed."""

        async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(error, {**scope, "method": "-", "path": "-"}, receive, send)

        return refuse

    async def _answer(self, refusal: RequestError | None, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = dict(scope["headers"])
        scope["app"] = self  # with an app, Starlette's router raises its errors instead of answering them
        body = Body(receive, self._limits.max_body, self._limits.timeout)
        response = _Response(send, self._limits.timeout, self.gate)
        try:
            if refusal:
                raise refusal  # noqa: TRY301  # to be answered below, as every error
            body.check(scope["headers"])
            app = self._compressed if b"accept-encoding" in headers else self._app  # compression costs others an eighth
            if scope["method"] in _READ_ONLY:
                await app(scope, body.receive, response.send)
            else:
                self.gate.enter(body)
                try:
                    await app(scope, body.receive, response.send)
                finally:
                    self.gate.leave(body)
        except ClientDisconnect:
            pass
        except Exception as error:
            _free(error)
            if response.status != _DISCONNECTED:
                raise
            await _refuse(error, scope, body, response, expects=b"expect" in headers)
            if not isinstance(error, RequestError | HTTPException):
                raise
            if isinstance(error, RequestError) and error.reason:
                self.metrics.rejected.labels(error.reason).inc()
        finally:
            label = self._labels.get(scope.get("endpoint")) or self._match(scope)
            seconds = time.perf_counter() - started
            self.metrics.answered(label, response.status, seconds)
            client = scope.get("client")
            log_request(client[0] if client else "-", scope["method"], scope["path"], response.status, seconds)

    def _match(self, scope: Scope) -> str:
        """Return the label of the route that a request would have reached, had it not been refused before."""
        matching = (route for route in self.routes if route.matches(scope)[0] is not Match.NONE)
        return next((self._labels[route.endpoint] for route in matching), "other")


class _Response:
    """The response to one request, as an ASGI `send` that times out and remembers the status."""

    def __init__(self, send: Send, timeout: float, gate: Gate) -> None:
        self._send = send
        self._timeout = timeout
        self._start_timer = partial(asyncio.timeout, timeout)
        self._gate = gate
        self.status = _DISCONNECTED

    async def send(self, message: Message) -> None:
        """Send a message, a large body piece by piece.

        Raises:
            SlowReaderError: the client does not read.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._gate.is_stopping:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        body = message.get("body", b"")
        for start in range(_PIECE, len(body), _PIECE):
            piece = {"type": "http.response.body", "body": body[start - _PIECE : start], "more_body": True}
            await finish_in(self._start_timer, self._send(piece), self._too_slow)
            message = {**message, "body": body[start : start + _PIECE]}
        await finish_in(self._start_timer, self._send(message), self._too_slow)

    def _too_slow(self) -> SlowReaderError:
        return SlowReaderError(f"the client did not read its response for {self._timeout:g} seconds")


def _unavailable(sentence: str, reason: str) -> RequestError:
    return RequestError(sentence, 503, reason=reason, headers={"retry-after": "1"})


async def _refuse(error: Exception, scope: Scope, body: Body, response: _Response, *, expects: bool) -> None:
    """Answer with an error, while the rest of the request may still be on its way."""
    rendered = _render(error, scope)
    if expects and not body.is_requested:
        rendered.headers["connection"] = "close"  # the client may leave its body out (RFC 9110, section 10.1.1)
    start = {"type": "http.response.start", "status": rendered.status_code, "headers": rendered.raw_headers}
    await response.send(start)
    await response.send({"type": "http.response.body", "body": rendered.body, "more_body": True})
    await body.drain()
    await response.send({"type": "http.response.body"})


def _free(error: BaseException | None) -> None:
    """Free what the frames of an error hold, such as a body and its numbers, before the client reads the response."""
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _render(error: Exception, scope: Scope) -> JSONResponse:
    """Return `{"error": ...}` with the status and headers of an error."""
    if isinstance(error, RequestError):
        return JSONResponse({"error": str(error)}, error.status, error.headers)
    if not isinstance(error, HTTPException):
        return JSONResponse({"error": "the server failed at this request; its log says why"}, 500)
    path, methods = scope["path"][:80], sorted((error.headers or {}).get("Allow", "").split(", "))
    sentences = {
        404: f"there is nothing at {path}; the protocol begins at /v2, and no path ends in a slash",
        405: f"{path} does not accept {scope['method']}; use {' or '.join(methods)}",
    }
    sentence = sentences.get(error.status_code, error.detail)
    return JSONResponse({"error": sentence}, error.status_code, error.headers)
