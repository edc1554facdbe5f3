"""Pictures that clients send: finding them in a body, and threads to decode them."""

import re
from base64 import b64decode
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from mnist_serve.errors import RequestError

T = TypeVar("T")

_WANTED = (
    "send the bytes of one image file (curl --data-binary @digit.png), a form with one (curl -F file=@digit.png), or a "
    "data URL in base64"
)
_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE)
_DATA_URL = re.compile(rb"data:[^,]{0,200};base64,", re.IGNORECASE)  # RFC 2397
_PARTS = 100  # fields of a form that are searched


def picture_in(body: bytes, content_type: str) -> bytes:
    """Return the image file in a body: the body itself, the first file of a form, or the content of a data URL.

    Raises:
        RequestError: the body is something else.
    """
    if content_type.lower().startswith("multipart/form-data"):
        return _file_in_form(body, content_type)
    if url := _DATA_URL.match(body):
        return _decoded(body[url.end() :])
    if body.startswith(b"\x93NUMPY") or (body and body[:32].isascii() and body[:32].decode().isprintable()):
        raise RequestError(f"the body is no image file; {_WANTED}", 422)
    return body


def _file_in_form(body: bytes, content_type: str) -> bytes:
    """Return the first file of a form (RFC 7578)."""
    named = _BOUNDARY.search(content_type)
    boundary = (named[1] or named[2]).encode("latin-1") if named else b""
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary, _PARTS + 2) if boundary else []
    for part in parts[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        if b"filename" in head.lower():
            return content
    raise RequestError(f"the form has no file among its first {_PARTS} fields; {_WANTED}", 422)


def _decoded(base64: bytes) -> bytes:
    try:
        return b64decode(base64.translate(None, b" \t\r\n"), validate=True)
    except ValueError as error:
        raise RequestError(f"the data URL holds no base64 ({error}); {_WANTED}", 422) from error


class DaemonThreads(Executor):
    """Executor whose threads do not hold up the end of the process, because a decoder cannot be interrupted."""

    def __init__(self, count: int) -> None:
        """Start up to `count` threads, one per call of `submit`."""
        self._missing = count
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Call a function in one of the threads, unless its future is cancelled first."""
        future: Future[T] = Future()
        self._work.put((future, partial(function, *args, **kwargs)))
        if self._missing:
            self._missing -= 1
            Thread(target=self._run, name="mnist-serve pictures", daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            future, call = self._work.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001  # every error goes to the future's owner
                    future.set_exception(error)
            del future, call
