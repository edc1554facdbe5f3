"""Everything around a request: admission, limits, compression, errors, metrics and the log."""

import time
import traceback
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mnist_serve.errors import RequestError
from mnist_serve.exchange import Exchange, Gate, Limits
from mnist_serve.log import log_request
from mnist_serve.metrics import Metrics

_DISCONNECTED = 499
"""Status in log and metrics for a client that left before its response began, as in nginx; nobody receives it."""

_READ_ONLY = frozenset(["GET", "HEAD", "OPTIONS"])
"""Methods that are never refused, because they cost next to nothing; health probes use them."""


class Application:
    """ASGI application that limits, times, counts and logs every request."""

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
        scope["app"] = self  # with an app, Starlette's router raises its errors instead of answering them
        exchange = Exchange(scope, receive, send, self._limits, self.gate)
        try:
            if refusal:
                raise refusal  # noqa: TRY301  # to be answered below, as every error
            exchange.check()
            if scope["method"] not in _READ_ONLY:
                self.gate.enter(exchange)
            # The middleware would cost other requests an eighth of their time.
            app = self._compressed if b"accept-encoding" in exchange.headers else self._app
            await app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass
        except Exception as error:
            self.gate.leave(exchange)
            _free(error)
            if exchange.status:
                raise
            response = _render(error, scope)
            await exchange.refuse(response.status_code, response.raw_headers, bytes(response.body))
            if not isinstance(error, RequestError | HTTPException):
                raise
            if isinstance(error, RequestError) and error.reason:
                self.metrics.rejected.labels(error.reason).inc()
        finally:
            self.gate.leave(exchange)
            label = self._labels.get(scope.get("endpoint")) or self._match(scope)
            status, seconds = exchange.status or _DISCONNECTED, time.perf_counter() - started
            self.metrics.answered(label, status, seconds)
            client = scope.get("client")
            log_request(client[0] if client else "-", scope["method"], scope["path"], status, seconds)

    def _match(self, scope: Scope) -> str:
        """Return the label of the route that a request, refused before routing, would have reached."""
        matching = (route for route in self.routes if route.matches(scope)[0] is not Match.NONE)
        return next((self._labels[route.endpoint] for route in matching), "other")


def _free(error: BaseException | None) -> None:
    """Free the variables of an error's frames, such as bodies, before the client reads the response."""
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
