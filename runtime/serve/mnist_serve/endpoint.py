"""The endpoint that answers inference requests."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from mnist_runtime.cpus import usable_cpus
from mnist_runtime.errors import DigitError
from mnist_serve.batching import Batcher
from mnist_serve.errors import RequestError
from mnist_serve.model import ServedModel
from mnist_serve.protocol import INPUT, InferResponse, parse, render

T = TypeVar("T")

_LARGE = 2**17
"""Size in bytes of a body above which a thread does all work, so that the event loop stays free."""
_LONG = 0.1
"""Seconds that a result takes until its client is watched, because watching costs a fifth of a request."""


class InferEndpoint:
    """`POST .../infer` as an ASGI application, without Starlette's request and response objects on the hot path."""

    def __init__(self, model: ServedModel, batcher: Batcher) -> None:
        self._model = model
        self._batcher = batcher
        self._threads = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="mnist-serve")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self._model.check(**scope["path_params"])
        json_length = dict(scope["headers"]).get(b"inference-header-content-length")
        try:
            response = await self._infer(receive, json_length)
        except DigitError as error:
            raise RequestError(f"{INPUT}: {error}") from error
        headers = [(b"content-length", b"%d" % len(response.body))]
        if response.json_length is None:
            headers.append((b"content-type", b"application/json"))
        else:
            headers.append((b"content-type", b"application/octet-stream"))
            headers.append((b"inference-header-content-length", b"%d" % response.json_length))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _infer(self, receive: Receive, json_length: bytes | None) -> InferResponse:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        body = message["body"]
        if len(body) > _LARGE:
            work = asyncio.get_running_loop().run_in_executor(self._threads, self._infer_alone, body, json_length)
            return await unless_disconnected(receive, work)
        request = parse(body, json_length, self._model.datatype)
        outputs = self._batcher.join(request.digits)
        if isinstance(outputs, asyncio.Future):
            outputs = await unless_disconnected(receive, outputs)
        return render(request, outputs, self._model.name)

    def _infer_alone(self, body: bytes, json_length: bytes | None) -> InferResponse:
        request = parse(body, json_length, self._model.datatype)
        return render(request, self._batcher.compute(request.digits), self._model.name)


async def unless_disconnected(receive: Receive, result: "asyncio.Future[T]") -> T:
    """Return a result, or cancel it if it takes long and the client disconnects meanwhile.

    Raises:
        ClientDisconnect: the client has disconnected.
    """
    disconnecting: list[asyncio.Future[Any]] = []

    def watch() -> None:
        disconnecting.append(asyncio.ensure_future(receive()))  # after the body, the next message is the disconnect
        disconnecting[0].add_done_callback(lambda _: result.cancel())

    watching = asyncio.get_running_loop().call_later(_LONG, watch)
    try:
        return await result
    except asyncio.CancelledError:
        if disconnecting and disconnecting[0].done() and not disconnecting[0].cancelled():
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()
        for each in disconnecting:
            each.cancel()
