"""What passes through the server: every request is admitted or turned away, timed, counted and logged."""

import time
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mnist_serve.errors import BusyError, RequestError, StoppingError
from mnist_serve.log import Log
from mnist_serve.metrics import Metrics

_GONE = 499
"""Of a client that left before it was answered, as nginx logs it; nobody receives it."""

_READ_ONLY = frozenset(["GET", "HEAD", "OPTIONS"])
"""Methods that cost next to nothing, among them the probes: never turned away."""


class Gate:
    """How many requests are inside, and whether more may enter."""

    def __init__(self, max_concurrency: int) -> None:
        self._max_concurrency = max_concurrency
        self.in_flight = 0
        self.is_stopping = False

    def enter(self) -> None:
        """Let a request in, which must `leave`.

        Raises:
            StoppingError: the server is stopping.
            BusyError: there are as many as may be.
        """
        if self.is_stopping:
            raise StoppingError("the server is stopping; send this to another one")
        if self.in_flight >= self._max_concurrency:
            raise BusyError(f"{self._max_concurrency:,} requests are being answered, the most at a time; try again")
        self.in_flight += 1

    def leave(self) -> None:
        """A request has been answered."""
        self.in_flight -= 1


class Traffic:
    """The outermost ASGI middleware."""

    def __init__(
        self, app: ASGIApp, *, gate: Gate, metrics: Metrics, log: Log | None, routes: Sequence[BaseRoute]
    ) -> None:
        """Watch `app`, which has these routes; of those that lead to one endpoint the first gives its name."""
        self._app = app
        self._gate = gate
        self._metrics = metrics
        self._log = log if log and log.tells_requests else None
        self._routes = [route for route in routes if isinstance(route, Route)]
        self._names: dict[Any, str] = {route.endpoint: route.path for route in reversed(self._routes)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and account for it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status, body = _GONE, _Body(receive)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._gate.is_stopping:
                    message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        try:
            await self._pass_on(scope, body.receive, watched)
        except RequestError as error:
            if status != _GONE:
                raise
            if error.reason:
                self._metrics.rejected(error.reason)
            await _refuse(error, scope, body, watched)
        except Exception:
            status = 500
            raise
        finally:
            self._account(scope, status, time.perf_counter() - started)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in _READ_ONLY:
            await self._app(scope, receive, send)
            return
        self._gate.enter()
        try:
            await self._app(scope, receive, send)
        finally:
            self._gate.leave()

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        status = scope.get("state", {}).get("refused", status)  # by its connection, whose answer it was
        self._metrics.answered(self._names.get(scope.get("endpoint")) or self._match(scope), status, seconds)
        if self._log:
            client = scope.get("client")
            self._log.request(client[0] if client else "-", scope["method"], scope["path"], status, seconds)

    def _match(self, scope: Scope) -> str:
        """The name of the route to which a request would have come that the router never saw."""
        matching = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
        return next((self._names[route.endpoint] for route in matching), "other")


class _Body:
    """The body of one request, and whether more of it is to come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._has_more = True
        self.is_asked_for = False
        """Whether a client that waits for 100 Continue has been told to send it."""

    async def receive(self) -> Message:
        self.is_asked_for = True
        message = await self._receive()
        self._has_more = message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Take the rest: the system resets a connection that closes with something unread, and its answer is lost."""
        while self._has_more:
            await self.receive()


async def _refuse(error: RequestError, scope: Scope, body: _Body, send: Send) -> None:
    """Say in the protocol's way what is wrong, before the rest of the request has come."""
    headers = dict(error.headers)
    if not body.is_asked_for and any(name == b"expect" for name, _ in scope["headers"]):
        headers["connection"] = "close"  # whether the body comes is the client's choice (RFC 9110, section 10.1.1)
    response = JSONResponse({"error": str(error)}, error.status, headers)
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    await body.drain()
    await send({"type": "http.response.body"})
