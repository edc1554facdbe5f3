"""The body of a request: its size limit, its deadline and its Content-Encoding."""

import asyncio
import contextlib
import zlib
from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from mnist_serve.deadline import finish_in
from mnist_serve.errors import RequestError

_ENCODINGS = ("gzip", "x-gzip", "deflate")
_GZIP_OR_ZLIB, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
"""zlib's window bits, which tell the container of the compressed data (zlib's manual, inflateInit2)."""


class Body:
    """The body of one request, as an ASGI `receive` that bounds, decompresses and times out."""

    def __init__(self, receive: Receive, max_body: int, timeout: float) -> None:
        self._receive = receive
        self._max_body = max_body
        self._timeout = timeout
        self._deadline = asyncio.get_running_loop().time() + timeout
        self._size = 0
        self._decompressor: _Decompressor | None = None
        self._has_more = True
        self._timer: asyncio.Timeout | None = None
        """Timer of the part that is being waited for."""
        self._error: RequestError | None = None
        """Error that the application gets instead of the body."""
        self.is_requested = False
        """True once a client that waits for 100 Continue has been told to send the body."""

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Check the headers that describe the body.

        Raises:
            RequestError: Content-Length exceeds the limit, or Content-Encoding is unknown.
        """
        encodings = []
        for name, value in headers:
            if name == b"content-length" and not (len(value) < 20 and int(value) <= self._max_body):
                raise self._too_large()
            if name == b"content-encoding":
                encodings.append(value.decode("latin-1").strip().lower())
        encoding = ", ".join(encodings) or "identity"
        if encoding in _ENCODINGS:
            self._decompressor = _Decompressor(encoding, self._max_body)
        elif encoding != "identity":
            sentence = f"Content-Encoding is {encoding[:40]!r}; send gzip, deflate or identity"
            raise RequestError(sentence, 415, reason="encoding", headers={"accept-encoding": "gzip, deflate"})

    async def receive(self) -> Message:
        """Return the next ASGI message.

        Raises:
            RequestError: the body is too slow, too large, or cannot be decompressed.
        """
        self.is_requested = True
        if not self._has_more:
            return await self._receive()  # waits for the client to disconnect
        message = await self._next()
        chunk = message.get("body", b"")
        self._size += len(chunk)
        if self._size > self._max_body:
            raise self._too_large()
        if self._decompressor is None or message["type"] != "http.request":
            return message
        return {**message, "body": self._decompressor.decompress(chunk, is_last=not self._has_more)}

    @property
    def is_awaited(self) -> bool:
        """True while the application waits for a part of the body."""
        return self._timer is not None and not self._timer.expired()

    def give_up(self, error: RequestError) -> None:
        """Raise `error` where the application waits for the body."""
        if self._timer:
            self._error = error
            self._timer.reschedule(0)

    async def drain(self) -> None:
        """Discard the rest: closing a connection with unread data resets it, and the client loses its response."""
        with contextlib.suppress(RequestError):
            while self._has_more:
                await self._next()

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

    def _late(self) -> RequestError:
        return self._error or too_slow(self._timeout)

    def _too_large(self) -> RequestError:
        sentence = (
            f"the body is larger than {self._max_body:,} bytes; send fewer digits per request, or raise --max-body"
        )
        return RequestError(sentence, 413, reason="too large")


class _Decompressor:
    """Decompression of gzip or deflate, never beyond a limit."""

    def __init__(self, encoding: str, limit: int) -> None:
        self._encoding = encoding
        self._room = limit
        self._zlib = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._is_empty = True

    def decompress(self, chunk: bytes, *, is_last: bool) -> bytes:
        if self._is_empty and chunk:
            self._is_empty = False
            if self._encoding == "deflate" and not _has_zlib_header(chunk):
                self._zlib = zlib.decompressobj(_RAW)  # some clients send deflate without zlib's header
        try:
            data = self._zlib.decompress(chunk, self._room + 1)
        except zlib.error as error:
            raise RequestError(f"the body is not {self._encoding}, as Content-Encoding claims ({error})") from error
        self._room -= len(data)
        if self._room < 0:
            sentence = "the body is too large once decompressed; send fewer digits per request"
            raise RequestError(sentence, 413, reason="too large")
        if is_last and not self._zlib.eof:
            raise RequestError(f"the {self._encoding} body ends too early; send all of it")
        if self._zlib.unused_data:
            raise RequestError(f"the {self._encoding} body is followed by more bytes; send nothing after it")
        return data


async def read(receive: Receive) -> bytes:
    """Return a whole body.

    Raises:
        ClientDisconnect: the client has left before the body was complete.
    """
    chunks = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


def too_slow(timeout: float) -> RequestError:
    """Return the error for a request that did not arrive in time."""
    sentence = f"the request did not arrive within {timeout:g} seconds; send it faster, or send less"
    return RequestError(sentence, 408, headers={"connection": "close"})


def _has_zlib_header(data: bytes) -> bool:
    """Return True if data begins with zlib's header (RFC 1950): method 8, and a check divisible by 31."""
    return data[0] & 0x0F == 8 and (len(data) < 2 or int.from_bytes(data[:2]) % 31 == 0)
