"""The endpoint that answers inference requests."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from mnist_runtime.classifier import Outputs
from mnist_runtime.cpus import usable_cpus
from mnist_runtime.errors import DigitError
from mnist_serve.batching import Batcher
from mnist_serve.bodies import headers_of, pack, read
from mnist_serve.errors import RequestError
from mnist_serve.model import ServedModel
from mnist_serve.protocol import INPUT, InferRequest, parse, render

_LARGE = 2**17
"""Bytes of a body from which reading, computing and writing are left to a thread: the event loop goes on meanwhile."""

_JSON, _BINARY = b"application/json", b"application/octet-stream"


class InferEndpoint:
    """`POST .../infer`, as an ASGI application: no request and response objects on the hot path."""

    def __init__(self, model: ServedModel, batcher: Batcher) -> None:
        self._model = model
        self._batcher = batcher
        self._threads = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="mnist-serve")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path_params"]
        self._model.check(path["model"], path.get("version"))
        headers = headers_of(scope)
        json_length = headers.get(b"inference-header-content-length")
        accepted = headers.get(b"accept-encoding", b"")
        try:
            answer = await self._answer(receive, json_length, accepted)
        except DigitError as error:
            raise RequestError(f"{INPUT}: {error}") from error
        if answer is None:
            return
        await send({"type": "http.response.start", "status": 200, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, receive: Receive, json_length: bytes | None, accepted: bytes) -> "_Answer | None":
        """Read, compute and write; None if the client has gone."""
        self._batcher.expect()
        try:
            body = await read(receive)
            if body is None:
                return None
            is_large = len(body) > _LARGE
            request = None if is_large else parse(body, json_length, self._model.datatype)
        finally:
            self._batcher.arrived()
        if request is None:
            whole = partial(self._answer_at_once, body, json_length, accepted)
            answering = asyncio.get_running_loop().run_in_executor(self._threads, whole)
            return None if await _has_gone(receive, before=answering) else await answering
        computing = self._batcher.join(request.digits)
        if self._batcher.is_waiting and await _has_gone(receive, before=computing):
            return None
        return self._write(request, await computing, accepted)

    def _answer_at_once(self, body: bytes, json_length: bytes | None, accepted: bytes) -> "_Answer":
        request = parse(body, json_length, self._model.datatype)
        return self._write(request, self._batcher.compute(request.digits), accepted)

    def _write(self, request: InferRequest, scores: Outputs, accepted: bytes) -> "_Answer":
        response = render(request, scores, self._model.name)
        body, encoding = pack(response.body, accepted)
        length = response.json_length
        headers = [
            (b"content-type", _JSON if length is None else _BINARY),
            (b"content-length", b"%d" % len(body)),
        ]
        if length is not None:
            headers.append((b"inference-header-content-length", b"%d" % length))
        if encoding:
            headers.append((b"content-encoding", encoding.encode()))
        return _Answer(headers, body)


class Shortcut:
    """An ASGI middleware that leads the one path that has to be fast past the router; it goes nowhere else."""

    def __init__(self, app: ASGIApp, *, path: str, path_params: Mapping[str, str], endpoint: InferEndpoint) -> None:
        self._app = app
        self._path = path
        self._found = {"endpoint": endpoint, "path_params": path_params}
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a POST of that very path; leave everything else, and the path below a mount, to the router."""
        if scope["type"] == "http" and scope["path"] == self._path and scope["method"] == "POST":
            scope.update(self._found)
            await self._endpoint(scope, receive, send)
        else:
            await self._app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Answer:
    headers: list[tuple[bytes, bytes]]
    body: bytes


async def _has_gone(receive: Receive, *, before: asyncio.Future[Any]) -> bool:
    """Wait for a result; if the client leaves first, cancel it and return True."""
    leaving = asyncio.ensure_future(receive())  # the body has been read: what comes now is that the client has left
    both: list[asyncio.Future[Any]] = [before, leaving]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    return not before.done() and before.cancel()
