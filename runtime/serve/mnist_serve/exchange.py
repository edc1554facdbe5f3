"""One request and its response: ASGI's `receive` and `send` with limits on sizes and times."""

import asyncio
import contextlib
import zlib
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope, Send

from mnist_serve.deadline import finish_in
from mnist_serve.errors import RequestError, SlowReaderError

_PIECE = 2**16
"""Bytes of a response that a client must read per timeout."""

_ENCODINGS = (b"gzip", b"x-gzip", b"deflate")
_GZIP_OR_ZLIB, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
"""zlib's window bits, which select the container of the compressed data (zlib's manual, inflateInit2)."""


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
    """Set of the requests being answered, which admits new ones."""

    def __init__(self, max_concurrency: int) -> None:
        self._max_concurrency = max_concurrency
        self._exchanges: dict[Exchange, None] = {}
        """Requests being answered, the oldest first."""
        self.is_stopping = False

    @property
    def in_flight(self) -> int:
        """Number of requests being answered."""
        return len(self._exchanges)

    def enter(self, exchange: "Exchange") -> None:
        """Admit a request; at the limit, the oldest request whose body is still on its way makes room.

        Raises:
            RequestError: the server is stopping, or at its limit.
        """
        if self.is_stopping:
            raise _unavailable("the server is stopping; send this request to another server", "stopping")
        if len(self._exchanges) >= self._max_concurrency:
            limit = f"the server is at its limit of {self._max_concurrency:,} concurrent requests"
            awaited = next((each for each in self._exchanges if each.is_awaited), None)
            if not awaited:
                raise _unavailable(f"{limit}; try again", "busy")
            self.leave(awaited)
            awaited.give_up(_unavailable(f"{limit}, and this body was still on its way; try again", "busy"))
        self._exchanges[exchange] = None

    def leave(self, exchange: "Exchange") -> None:
        """End a request, unless it has made room for another."""
        self._exchanges.pop(exchange, None)


class Exchange:
    """The body and the response of one request."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits, gate: Gate) -> None:
        self._receive = receive
        self._send = send
        self._limits = limits
        self._gate = gate
        self._deadline = asyncio.get_running_loop().time() + limits.timeout
        self.headers: dict[bytes, bytes] = {}
        """Headers by name, repeated ones joined."""
        for name, value in scope["headers"]:
            self.headers[name] = b"%b, %b" % (self.headers[name], value) if name in self.headers else value
        self._has_more = True
        self._is_requested = False
        self._timer: asyncio.Timeout | None = None
        """Timer of the part of the body that the application waits for."""
        self._error: RequestError | None = None
        """Error that `receive` raises instead of returning the body."""
        self.status: int | None = None
        """Status of the response, once it has begun."""

    def check(self) -> None:
        """Check the headers that describe the body.

        Raises:
            RequestError: Content-Length exceeds the limit, or Content-Encoding is unknown.
        """
        length = self.headers.get(b"content-length", b"0")
        if len(length) >= 20 or int(length) > self._limits.max_body:
            raise self._too_large()
        encoding = self._encoding
        if encoding not in (b"identity", *_ENCODINGS):
            sentence = f"Content-Encoding is {encoding[:40].decode('latin-1')!r}; send gzip, deflate or identity"
            raise RequestError(sentence, 415, reason="encoding", headers={"accept-encoding": "gzip, deflate"})

    async def receive(self) -> Message:
        """Return the whole body, decompressed, as one ASGI message; then wait for the client to disconnect.

        Raises:
            RequestError: the body is too slow, too large, or cannot be decompressed.
        """
        self._is_requested = True
        if not self._has_more:
            return await self._receive()
        parts, size = [], 0
        while self._has_more:
            message = await self._next()
            if message["type"] != "http.request":
                return message
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._limits.max_body:
                raise self._too_large()
        body, encoding = b"".join(parts), self._encoding
        if encoding in _ENCODINGS:
            body = await asyncio.to_thread(_decompress, body, encoding.decode(), self._limits.max_body)
        return {"type": "http.request", "body": body, "more_body": False}

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
        for end in range(_PIECE, len(body), _PIECE):
            piece = {"type": "http.response.body", "body": body[end - _PIECE : end], "more_body": True}
            await self._send_in_time(piece)
            message = {**message, "body": body[end : end + _PIECE]}
        await self._send_in_time(message)

    async def refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole response, while the rest of the request may still be on its way."""
        if b"expect" in self.headers and not self._is_requested:
            headers = [*headers, (b"connection", b"close")]  # the client may send no body (RFC 9110, section 10.1.1)
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": True})
        with contextlib.suppress(RequestError):
            while self._has_more:  # closing with unread data would reset the connection and lose the response
                await self._next()
        await self.send({"type": "http.response.body"})

    @property
    def is_awaited(self) -> bool:
        """True while the application waits for a part of the body."""
        return self._timer is not None and not self._timer.expired()

    def give_up(self, error: RequestError) -> None:
        """Raise `error` where the application waits for the body."""
        if self._timer:
            self._error = error
            self._timer.reschedule(0)

    @property
    def _encoding(self) -> bytes:
        return self.headers.get(b"content-encoding", b"identity").strip().lower()

    async def _next(self) -> Message:
        try:
            message = await finish_in(self._start_timer, self._receive(), self._late)
        finally:
            self._timer = None
        self._has_more = message.get("more_body", False)
        return message

    def _start_timer(self) -> asyncio.Timeout:
        self._timer = asyncio.timeout_at(self._deadline)
        return self._timer

    async def _send_in_time(self, message: Message) -> None:
        await finish_in(lambda: asyncio.timeout(self._limits.timeout), self._send(message), self._unread)

    def _late(self) -> RequestError:
        return self._error or too_slow(self._limits.timeout)

    def _unread(self) -> SlowReaderError:
        return SlowReaderError(f"the client did not read its response for {self._limits.timeout:g} seconds")

    def _too_large(self) -> RequestError:
        limit = f"{self._limits.max_body:,} bytes"
        sentence = f"the body is larger than {limit}; send fewer digits per request, or raise --max-body"
        return RequestError(sentence, 413, reason="too large")


def _unavailable(sentence: str, reason: str) -> RequestError:
    return RequestError(sentence, 503, reason=reason, headers={"retry-after": "1"})


def too_slow(timeout: float) -> RequestError:
    """Return the error for a request that did not arrive in time."""
    sentence = f"the request did not arrive within {timeout:g} seconds; send it faster, or send less"
    return RequestError(sentence, 408, headers={"connection": "close"})


def _decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompress gzip or deflate to at most `limit` bytes."""
    is_raw = encoding == "deflate" and body and not _has_zlib_header(body)  # some clients leave zlib's header out
    decompressor = zlib.decompressobj(_RAW if is_raw else _GZIP_OR_ZLIB)
    try:
        data = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(f"the body is not {encoding}, as Content-Encoding claims ({error})") from error
    if len(data) > limit:
        sentence = "the body is too large once decompressed; send fewer digits per request"
        raise RequestError(sentence, 413, reason="too large")
    if not decompressor.eof:
        raise RequestError(f"the {encoding} body ends too early; send all of it")
    if decompressor.unused_data:
        raise RequestError(f"the {encoding} body is followed by more bytes; send nothing after it")
    return data


def _has_zlib_header(data: bytes) -> bool:
    """Return True if data begins with zlib's header (RFC 1950): method 8, and a check divisible by 31."""
    return data[0] & 0x0F == 8 and (len(data) < 2 or int.from_bytes(data[:2]) % 31 == 0)
