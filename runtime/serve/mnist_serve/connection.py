"""uvicorn's HTTP/1.1 connection, with the bounds that ASGI cannot set because no request exists yet.

- A limit on the size of a head and a deadline for it (https://github.com/encode/uvicorn/issues/157).
- The body of a request with `Upgrade: h2c`, which uvicorn loses (https://github.com/encode/uvicorn/issues/2722).
- JSON errors, in order and in the log, for what cannot be parsed; a bound on what is read behind pipelined requests.

Remove each part once uvicorn does the same. pyproject.toml caps uvicorn at the versions that the tests have seen.
"""

# ruff: noqa: D102  # callbacks of asyncio and httptools

import asyncio
import math
from collections.abc import Callable, Iterable, Sized
from itertools import chain
from typing import Any

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mnist_serve.errors import RequestError
from mnist_serve.exchange import too_slow

MAX_HEAD = 2**16
"""Largest size in bytes of a request's line and headers, or of the framing of a chunk of its body."""

_PARTS, _PART = 1024, 64
"""Number of parts in which any body may come, and least mean size in bytes of the parts of a body that has more."""


class Connection(HttpToolsProtocol):
    """A connection that refuses large and slow heads, and everything that cannot be parsed."""

    def __init__(self, *args: Any, timeout: float, refusal: Callable[[RequestError], ASGIApp], **kwargs: Any) -> None:
        """Give each head `timeout` seconds; `refusal` returns the application that answers with an error."""
        super().__init__(*args, **kwargs)
        self._timeout = timeout
        self._refusal = refusal
        self._application, self.app = self.app, self._run
        self._deadline = self.loop.time() + timeout
        self._abort_at = math.inf
        self._unparsed = 0
        """Bytes received since the parser last completed a head or a part of a body."""
        self._is_in_head = False
        self._room = 0
        """Allowance in bytes: the body adds its size, and each of its parts takes `_PART`."""
        self._unfinished: RequestResponseCycle | None = None
        """The request whose body is not complete."""
        self._error: RequestError | None = None
        """The error that ended parsing; further bytes are ignored."""
        self._broken: object = None
        """The scope of the request whose body could not be parsed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.flow = _FlowControl(transport, self.pipeline)

    def data_received(self, data: bytes) -> None:
        if self._error:
            return
        self._unparsed += len(data)
        try:
            self._parse(data)
        except HttpParserError as error:
            if isinstance(error.__context__, RequestError):  # raised in one of the callbacks below
                self._refuse(error.__context__)
            else:
                reason = "invalid URL" if isinstance(error, HttpParserCallbackError) else str(error).lower()
                self._refuse(RequestError(f"the request is not HTTP/1.1 ({reason})"))
        else:
            if self._unparsed > MAX_HEAD:
                self._refuse(_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()  # not on any data, because empty lines may precede a request
        self._deadline = self.loop.time() + self._timeout
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise RequestError("CONNECT is for proxies, and this server is none; the protocol begins at /v2")
            return  # `_parse` begins again
        size = len(self.url) + sum(map(len, chain.from_iterable(self.headers))) + 4 * len(self.headers)
        if size > MAX_HEAD:
            raise _too_large()
        if self.parser.get_http_version() == "1.1" and [name for name, _ in self.headers].count(b"host") != 1:
            raise RequestError("a request of HTTP/1.1 must have one Host header; send the server's name in it")
        super().on_headers_complete()
        self._room = _PARTS * _PART
        self.headers = []  # trailers land here, and may be ignored (RFC 9110, section 6.5.1)
        self._unparsed, self._is_in_head, self._unfinished = 0, False, self.cycle

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._unparsed = 0
        self._room += len(body) - _PART
        if self._room < 0:
            raise RequestError(f"the body comes in pieces of less than {_PART} bytes; send it in larger ones")

    def on_message_complete(self) -> None:
        if self._unfinished:
            super().on_message_complete()
            self._unparsed, self._unfinished, self._deadline = 0, None, math.inf

    def check(self, now: float) -> None:
        """Close the connection if its client is past the deadline, or if it is closing and the client does not read."""
        if self.transport.is_closing():
            self._abort_at = min(self._abort_at, now + self._timeout)
            if now >= self._abort_at:
                self.transport.abort()
        elif self.cycle and not self.cycle.response_complete:  # meanwhile the application sets the deadlines
            self._deadline = max(self._deadline, now + self._timeout)
        elif now >= self._deadline:
            if self._is_in_head:
                self._refuse(too_slow(self._timeout))
            else:  # nothing has come, or a body goes on after its response
                self.transport.close()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, whose `receive` raises the error if its body cannot be parsed."""

        async def receive_or_raise() -> Message:
            message = await receive() if self._broken is not scope else {}
            if self._error and self._broken is scope:
                raise self._error
            return message

        app = self._refusal(self._error) if self._error and self._broken is scope else self._application
        await app(scope, receive_or_raise, send)

    def _parse(self, data: bytes) -> None:
        """Parse, and ignore upgrades, as a server may (RFC 9110, section 7.8).

        The parser stops after a head with `Upgrade`, which `curl --http2` and Java's client send; the head is parsed
        again without that header.
        """
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
            except HttpParserUpgrade as stop:
                rest = memoryview(rest)[stop.args[0] :]
                lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, b"1.1")]
                lines += [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
                self._restart(b"\r\n".join([*lines, b"", b""]))
            else:
                return

    def _restart(self, head: bytes) -> None:
        """Parse a head with a new parser."""
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
        self.parser.feed_data(head)

    def _refuse(self, error: RequestError) -> None:
        """Answer with an error, after the responses to earlier requests, and close."""
        self._error = error
        if self.transport.is_closing():
            return
        if not self._unfinished:  # answer a request in the place of the one that cannot be parsed
            self.app = self._refusal(error)
            self._restart(b"GET / HTTP/1.0\r\n\r\n")
        elif self._unfinished.response_complete:
            self.transport.close()
        else:  # `_run` raises the error
            self._broken, self._unfinished.keep_alive = self._unfinished.scope, False
            self._unfinished.message_event.set()


class _FlowControl(FlowControl):
    """uvicorn's flow control, except that reading stays paused while pipelined requests are pending."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


async def check_deadlines(connections: Iterable[Any], interval: float) -> None:
    """Check each connection every `interval` seconds, for ever.

    A late round is skipped, because the process was stalled, and data that clients have sent may be unread.
    """
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        await asyncio.sleep(interval)
        if loop.time() - started < 2 * interval:
            for connection in list(connections):
                connection.check(loop.time())


def _too_large() -> RequestError:
    return RequestError(f"the headers are larger than {MAX_HEAD:,} bytes; send fewer or shorter ones", 431)
