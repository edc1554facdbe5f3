"""Bodies of requests and responses: how large they may be, and how they may be packed.

An ASGI middleware around any application: what the application receives is unpacked, and bounded before and after.
"""

import zlib
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mnist_serve.errors import BodyTooLargeError, EncodingError, RequestError

_WBITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's window bits, which say what is around the packed data (zlib's manual, inflateInit2)."""

_WORTHWHILE = 1024
"""Bytes from which packing a response is worth its time."""


def headers_of(scope: Scope) -> Mapping[bytes, bytes]:
    """The headers by their name in lower case; of several of one name the last."""
    return dict(scope["headers"])


class BoundedBodies:
    """Bounds the body of every request, and unpacks it."""

    def __init__(self, app: ASGIApp, *, max_body: int) -> None:
        """Pass on at most `max_body` bytes."""
        self._app = app
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what says that it is too large; watch what does not say how large it is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        length, encoding = headers.get(b"content-length", b""), headers.get(b"content-encoding")
        if length and not (len(length) < 20 and int(length) <= self._max_body):
            raise _too_large(self._max_body)
        if encoding is None and (length or b"transfer-encoding" not in headers):  # no more can come than was said
            await self._app(scope, receive, send)
            return
        encodings = [value for name, value in scope["headers"] if name == b"content-encoding"]
        await self._app(scope, _Body(receive, self._max_body, _unpacker(b", ".join(encodings))).receive, send)


class _Body:
    """The body of one request as it comes."""

    def __init__(self, receive: Receive, limit: int, unpacker: "_Unpacker | None") -> None:
        self._receive = receive
        self._limit = limit
        self._unpacker = unpacker
        self._packed = self._unpacked = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        chunk = message.get("body", b"")
        self._packed += len(chunk)
        if self._packed > self._limit:
            raise _too_large(self._limit)
        if self._unpacker is None:
            return message
        is_last = not message.get("more_body", False)
        chunk = self._unpacker.unpack(chunk, self._limit - self._unpacked, is_last=is_last)
        self._unpacked += len(chunk)
        return {**message, "body": chunk}


class _Unpacker:
    """Undoes gzip or deflate, never beyond a limit."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._zlib = zlib.decompressobj(_WBITS[encoding])
        self._is_empty = True

    def unpack(self, chunk: bytes, room: int, *, is_last: bool) -> bytes:
        """Return what `chunk` holds, at most `room` bytes."""
        if self._is_empty and chunk:
            self._is_empty = False
            if self._encoding == "deflate" and not _is_zlib(chunk):
                self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)  # what some clients call deflate has no header
        try:
            unpacked = self._zlib.decompress(chunk, room + 1)
        except zlib.error as error:
            raise RequestError(f"the body is not the {self._encoding} that Content-Encoding says ({error})") from error
        if len(unpacked) > room:
            raise BodyTooLargeError("the body is too large when it is unpacked; send fewer digits at a time")
        if is_last and not self._zlib.eof:
            raise RequestError(f"the {self._encoding} of the body ends too early; send all of it")
        if self._zlib.unused_data:
            raise RequestError(f"something follows the {self._encoding} of the body; send nothing after it")
        return unpacked


def _is_zlib(data: bytes) -> bool:
    """Whether packed data begin with zlib's header (RFC 1950): method 8, and a check that divides by 31."""
    return data[0] & 0x0F == 8 and (len(data) < 2 or int.from_bytes(data[:2]) % 31 == 0)


def _unpacker(encoding: bytes) -> _Unpacker | None:
    name = (encoding or b"identity").decode("latin-1").strip().lower()
    if name == "identity":
        return None
    if name not in _WBITS:
        raise EncodingError(f"Content-Encoding is {name[:40]!r}, and gzip, deflate and identity are read here")
    return _Unpacker(name)


def _too_large(limit: int) -> BodyTooLargeError:
    sentence = f"the body is larger than {limit:,} bytes; send fewer digits at a time, or set --max-body higher"
    return BodyTooLargeError(sentence)


async def read(receive: Receive) -> bytes | None:
    """Read a whole body; None if the client has gone before it was complete."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        return bytes(message.get("body", b""))
    chunks = []
    while message["type"] == "http.request":
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)
        message = await receive()
    return None


def pack(body: bytes, accepted: bytes) -> tuple[bytes, str | None]:
    """Pack a response as its client accepts it, if it is worth it: the bytes and the encoding, None for none."""
    encoding = choose_encoding(accepted.decode("latin-1")) if accepted and len(body) >= _WORTHWHILE else None
    if encoding is None:
        return body, None
    packer = zlib.compressobj(zlib.Z_BEST_SPEED, wbits=_WBITS[encoding])
    return packer.compress(body) + packer.flush(), encoding


def choose_encoding(accepted: str) -> str | None:
    """The best of gzip and deflate for an Accept-Encoding header (RFC 9110, section 12.5.3), or None.

    >>> choose_encoding("deflate, gzip;q=0.5"), choose_encoding("*"), choose_encoding("gzip;q=0, br")
    ('deflate', 'gzip', None)
    """
    weights: dict[str, float] = {}
    for part in accepted.split(","):
        name, _, parameter = part.partition(";")
        weights[name.strip().lower()] = _weight(parameter)
    ranked = {name: weights.get(name, weights.get("*", 0.0)) for name in ("gzip", "deflate")}
    best = max(ranked, key=lambda name: ranked[name])
    return best if ranked[best] > 0 else None


def _weight(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
